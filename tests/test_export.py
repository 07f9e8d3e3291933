"""The export command: a trained run becomes a directory of published files."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from lfpc_jax import agent, checkpoints
from lfpc_jax import config as config_lib
from lfpc_jax.models import lora, published
from tests.models import batches, oracle

ROOT = pathlib.Path(__file__).parents[1]
CHANGES = ("policy.lora.rank=2", "policy.lora.alpha=6", "gap.tokens=16")


def _export(*flags):
  """Exit status, standard output and error of the command."""
  done = subprocess.run(
    [sys.executable, "-m", "lfpc_jax.export", "--compile_cache=off", *flags],
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run's directory with trained adapters, its agent and parameters."""
  directory = tmp_path_factory.mktemp("run")
  config = config_lib.freeze(
    config_lib.load_config(f"{ROOT}/configs/tiny.py:stage1", CHANGES)
  )
  made = agent.make_agent(config, 16)
  params = agent.load_params(made, "")
  rng = np.random.default_rng(0)
  params[lora.PART] = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.1, x.shape), x.dtype),
    params[lora.PART],
  )
  config_lib.write_config(config, directory)
  content = {"config": json.loads(config_lib.config_json(config))}
  with checkpoints.Checkpointer(directory / checkpoints.SUBFOLDER) as saver:
    saver.save(3, {"params": params, "step": jnp.int32(3)}, content)
  return directory, made, params


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
  output = tmp_path_factory.mktemp("out") / "new" / "model"
  flags = f"--config={run[0]}/config.json", f"--checkpoint={run[0]}"
  return output, _export(*flags, f"--output={output}")


def _sequence(tokenizer, seed):
  """Text around an image, with the real ids of the image's tokens."""
  found = oracle.sequence([list(range(300, 310)), (3, 2), [400, 401]], seed)
  special = tokenizer.special
  tokens = found.tokens.copy()
  for ours, real in (
    (oracle.IMAGE, special.image_pad),
    (51, special.vision_start),
    (52, special.vision_end),
  ):
    tokens[found.tokens == ours] = real
  return dataclasses.replace(found, tokens=tokens)


def test_transformers_loads_what_is_written_with_the_same_logits(run, exported):
  _, made, params = run
  output, (status, says, error) = exported
  assert status == 0, error
  base = {name: part for name, part in params.items() if name != lora.PART}
  number = sum(x.size for x in jax.tree.leaves(base))
  assert f"{output}: {number:,} parameters in float32, adapters merged" in says
  model, report = (
    transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
      output,
      dtype=torch.float32,
      attn_implementation="eager",
      output_loading_info=True,
    )
  )
  assert not any(report.values())
  prefix, suffix = (_sequence(made.tokenizer, seed) for seed in (0, 1))
  expected = oracle.logits(model.eval(), prefix + suffix)[len(prefix) :]
  batch = batches.build(model, [prefix], [[suffix]])
  scores = batches.logits(made.policy, params, batch)[0, 0, : len(suffix)]
  assert oracle.relative_error(scores, expected) < 1e-4
  plain = batches.logits(made.policy, base, batch)[0, 0, : len(suffix)]
  assert oracle.relative_error(plain, expected) > 1e-2  # they do something
  tokenizer = transformers.AutoTokenizer.from_pretrained(output)
  assert tokenizer.encode("What digit?") == made.tokenizer.encode("What digit?")


def test_a_directory_in_use_is_left_alone(run, exported):
  output, _ = exported
  before = {p.name: p.stat().st_mtime_ns for p in output.iterdir()}
  flags = f"--config={run[0]}/config.json", f"--checkpoint={run[0]}"
  status, _, error = _export(*flags, f"--output={output}")
  assert status == 1
  assert error == f"error: {output} exists and is not empty: choose another\n"
  assert {p.name: p.stat().st_mtime_ns for p in output.iterdir()} == before


def test_files_may_be_half_as_large(run, tmp_path):
  status, says, error = _export(
    "--config=configs/tiny.py:stage1",
    f"--output={tmp_path}/m",
    "--dtype=bfloat16",
  )
  assert (status, "in bfloat16\n" in says) == (0, True), error
  _, loaded = published.load(tmp_path / "m")
  source = published.load(agent.find_model("tiny_qwen"))[1]
  for x, y in zip(jax.tree.leaves(loaded), jax.tree.leaves(source)):
    np.testing.assert_array_equal(x, y.astype(jnp.bfloat16))


@pytest.mark.parametrize(
  "flags, says",
  [
    ((), "no directory for the model: add --output="),
    (("--checkpoint={run}", "--output={new}"), "policy.lora="),
    (("--checkpoint={new}/none", "--output={new}"), "no checkpoint at"),
    (("--output={new}", "--dtype=float16"), "dtype"),
    (("--output={new}", "--config.policy.path=none"), "policy.path='none'"),
  ],
)
def test_an_error_is_one_line_and_leaves_nothing(run, tmp_path, flags, says):
  names = {"run": run[0], "new": tmp_path / "m"}
  flags = [flag.format(**names) for flag in flags]
  status, _, error = _export("--config=configs/tiny.py:stage1", *flags)
  assert status == 1 and says in error
  assert error.startswith("error: ") and error.count("\n") == 1
  assert list(tmp_path.iterdir()) == []
