"""The miniature's sizes and its parameters before any training."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from lfpc_jax.data.tokenizer import Tokenizer
from lfpc_jax.models import parameters
from lfpc_jax.models.config import PolicyConfig, TextConfig, VisionConfig
from lfpc_jax.models.parameters import Params
from lfpc_jax.pretraining.pool import COLOURS


def tiny_config(tokenizer: Tokenizer) -> PolicyConfig:
  """About 1.8 million parameters in Qwen2.5-VL's architecture.

  rope_theta is 10: at the published million, a grid of 4 to 18 cells would
  hardly turn the slow frequencies that encode row and column.
  """
  return PolicyConfig(
    vision=VisionConfig(
      depth=4, width=96, mlp_width=256, heads=3, full_attention_blocks=(2,)
    ),
    text=TextConfig(
      vocab_size=tokenizer.vocab_size,
      width=128,
      mlp_width=384,
      depth=4,
      heads=4,
      kv_heads=2,
      rope_theta=10.0,
      mrope_section=(4, 6, 6),
      max_positions=4096,
    ),
    tie_word_embeddings=True,
    image_token_id=tokenizer.special.image_pad,
    remat="none",
  )


def word_ids(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
  """Token ids of the colour words (after a space) and of the ten digits."""
  words = [tokenizer.encode(" " + colour) for colour in COLOURS]
  digits = [tokenizer.encode(str(digit)) for digit in range(10)]
  return [i for (i,) in words], [i for (i,) in digits]


def _number_embeddings(numbers: np.ndarray, width: int) -> np.ndarray:
  """Unit vectors in which near numbers are alike, for coordinates."""
  periods = np.geomspace(10, 1500, width // 4)
  angles = 2 * np.pi * numbers[:, None] / periods
  waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
  out = np.zeros((len(numbers), width))
  out[:, : waves.shape[1]] = waves
  return out / np.linalg.norm(out, axis=1, keepdims=True)


def initial_parameters(
  config: PolicyConfig, tokenizer: Tokenizer, seed: int
) -> Params:
  """Random parameters with three aids for a very small model.

  Embeddings are unit vectors, those of the numbers from 10 on are smooth;
  keys start like queries and outputs like transposed values ("mimetic"), so
  that attention starts as matching; all other kernels scale with 1 / sqrt of
  their inputs.
  """
  params = parameters.initialise(config, seed)
  rng = np.random.default_rng(seed)

  def rescale(path, x):
    name = jax.tree_util.keystr(path)
    if "kernel" not in name:
      return x
    stacked = "layers" in name or "blocks" in name or "patch_embed" in name
    shape = x.shape[1:] if stacked else x.shape
    inputs = shape[0]
    if "'o'" in name or "'proj'" in name:
      inputs = shape[0] * shape[1]
    return x / 0.02 * (inputs**-0.5)

  params = jax.tree_util.tree_map_with_path(rescale, params)
  width = config.text.width
  table = rng.normal(size=(config.text.vocab_size, width)) * width**-0.5
  numbers = np.arange(10, 1000)
  rows = [tokenizer.encode(str(n)) for n in numbers]
  table[[i for (i,) in rows]] += _number_embeddings(numbers, width)
  params["embedding"] = jnp.asarray(table, jnp.float32)
  layers = params["layers"]
  group = config.text.heads // config.text.kv_heads
  keys = jnp.repeat(layers["k"]["kernel"], group, axis=2)
  layers["q"]["kernel"] = 0.7 * keys + 0.5 * layers["q"]["kernel"]
  values = jnp.repeat(layers["v"]["kernel"], group, axis=2) / group
  layers["o"]["kernel"] = 0.5 * jnp.moveaxis(values, 1, 3) + (
    0.3 * layers["o"]["kernel"]
  )
  params["vision"]["patch_embed"]["kernel"] *= 0.5  # two equal frames
  return params
