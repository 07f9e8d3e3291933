"""The shipped miniature loads everywhere and is what the README says."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from lfpc_jax import agent
from lfpc_jax.data.tokenizer import Tokenizer
from lfpc_jax.models import decoder, parameters, policy, published

TINY = agent.ASSETS / "tiny_qwen"


@pytest.fixture(scope="module")
def loaded():
  return published.load(TINY, dtype=jnp.float32)


def test_miniature_has_one_to_four_million_parameters(loaded):
  config, params = loaded
  number = sum(x.size for x in jax.tree.leaves(params))
  assert number == parameters.count(config)
  assert 1_000_000 <= number <= 4_000_000


def test_transformers_loads_the_miniature_with_the_same_logits(loaded):
  config, params = loaded
  model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
    TINY, dtype=torch.float32
  ).eval()
  ids = Tokenizer.load(TINY).encode("What digit is on the red sign?")
  with torch.no_grad():
    expected = model(input_ids=torch.tensor([ids])).logits[0].numpy()
  tokens = jnp.asarray(ids)[None, None]
  x = policy.embed(
    config, params, tokens, -jnp.ones_like(tokens), jnp.zeros((1, 1, 1, 128))
  )
  place = jnp.repeat(jnp.arange(len(ids))[:, None], 3, axis=1)[None, None]
  slots = jnp.arange(1, len(ids))[None, None] - 1
  prefix = decoder.prefill(
    config, params, x[:, 0, :1], place[:, 0, :1], jnp.array([1])
  )
  hidden, _ = decoder.extend(
    config, params, x[:, :, 1:], place[:, :, 1:], slots, prefix
  )
  logits = policy.logits(config, params, hidden)[0, 0]
  np.testing.assert_allclose(logits, expected[1:], rtol=1e-4, atol=1e-4)


def test_model_file_says_how_it_was_made():
  made = json.loads((TINY / "pretraining.json").read_text())
  assert made["dialogue_phases"]
