"""The error that bfloat16 compute brings, measured and bounded."""

import dataclasses

import jax
import numpy as np
import pytest
import torch

from tests.models import batches, oracle


def _rms(error, reference) -> float:
  error = np.asarray(error, np.float64) - reference
  return float(np.sqrt(np.mean(error**2) / np.mean(reference**2)))


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
  config = oracle.config(
    dict(width=64, mlp_width=96, depth=4, mrope_section=(2, 3, 3)),
    dict(depth=4, full_attention_blocks=(1, 3)),
  )
  params = oracle.random_params(config, 11)
  model = oracle.load(config, params, tmp_path_factory.mktemp("model") / "m")
  text = list(range(1, 30))
  prefix = oracle.sequence([text, (6, 5), text[:7]], 1)
  suffix = oracle.sequence([text[:9], (3, 4), text], 2)
  batch = batches.build(model, [prefix], [[suffix]])
  start, length = len(prefix), len(suffix)
  reference = oracle.logits(model, prefix + suffix)[start:]
  for parameter in model.parameters():  # but not the rotary frequencies
    parameter.data = parameter.data.to(torch.bfloat16).float()
  stored = oracle.logits(model, prefix + suffix)[start:]
  half = model.to(torch.bfloat16)
  with torch.no_grad():
    given = oracle.inputs(prefix + suffix)
    given["pixel_values"] = given["pixel_values"].to(torch.bfloat16)
    theirs = half(**given).logits[0, start:].float().numpy()
  errors = _rms(theirs, reference)
  return config, params, batch, length, stored, reference, errors


def _ours(setup, **fields):
  config, params, batch, length, *_ = setup
  dtype = fields.pop("params", "float32")
  params = jax.tree.map(lambda x: x.astype(dtype), params)
  config = dataclasses.replace(config, **fields)
  scores = batches.logits(config, params, batch)
  assert scores.dtype == np.float32
  return scores[0, 0, :length]


@pytest.mark.slow
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_bfloat16_compute_is_no_worse_than_transformers(setup, stored):
  reference, theirs = setup[-2:]
  ours = _rms(_ours(setup, dtype="bfloat16", params=stored), reference)
  print(f"logits, rms relative: {ours:.4f}, transformers {theirs:.4f}")
  assert 1e-4 < ours < 0.05  # the lower bound: bfloat16 was really used
  assert ours < 1.25 * theirs


def test_float32_compute_is_exact_to_rounding(setup):
  assert _rms(_ours(setup), setup[-2]) < 1e-5


def test_parameters_stored_in_bfloat16_are_not_rounded_again(setup):
  stored = setup[-3]
  assert _rms(_ours(setup, params="bfloat16"), stored) < 1e-5
