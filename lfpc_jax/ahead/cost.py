"""Operations and memory traffic of the programs, by formula.

A compiler's own count takes a loop's body once. Here, a matrix product of
[n, k] and [k, m] is 2 n k m operations, and nothing else counts.
"""

from __future__ import annotations

import dataclasses

from lfpc_jax.models import parameters
from lfpc_jax.models.config import PolicyConfig
from lfpc_jax.rollout.types import EpisodeConfig


@dataclasses.dataclass(frozen=True)
class Work:
  """What a step at most has to do, over all devices.

  Attributes:
    flops: operations.
    reads: bytes that all devices together read from HBM, a lower bound:
      weights and caches, no activations.
  """

  flops: float
  reads: float


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes of a step.

  Attributes:
    prompts: P.
    prefix: slots S of a prompt.
    view: visual tokens N of the largest global view.
    replicas: how often the weights are on the devices in a rollout: the
      devices over the parts of a weight.
    slices: micro-batches of the update.
    rollout_slices: slices of each prompt's rollouts in the update.
    waves: slices of the prompts in the rollout.
  """

  prompts: int
  prefix: int
  view: int
  replicas: int
  slices: int = 1
  rollout_slices: int = 1
  waves: int = 1


def decoder_flops(config: PolicyConfig, tokens: float, keys: float) -> float:
  """Of `tokens` through all layers, each reading `keys` others."""
  text = config.text
  heads = text.heads * text.head_dim
  mixing = 2 * heads + 2 * text.kv_heads * text.head_dim
  layer = text.width * (mixing + 3 * text.mlp_width)
  return text.depth * tokens * (2 * layer + 4 * keys * heads)


def tower_flops(config: PolicyConfig, images: float, tokens: float) -> float:
  """Of images of `tokens` visual tokens through tower and merger."""
  vision = config.vision
  unit = vision.merge_size**2
  patches, full = tokens * unit, len(vision.full_attention_blocks)
  layer = vision.width * (4 * vision.width + 3 * vision.mlp_width)
  local = min(vision.window**2 * unit, patches)
  keys = full * patches + (vision.depth - full) * local
  blocks = patches * (2 * vision.depth * layer + 4 * keys * vision.width)
  wide = unit * vision.width
  merger = 2 * tokens * wide * (wide + config.text.width)
  embed = 2 * patches * vision.patch_dim * vision.width
  return images * (blocks + merger + embed)


def head_flops(config: PolicyConfig, tokens: float) -> float:
  """Of `tokens` through the output head."""
  return 2.0 * tokens * config.text.width * config.text.vocab_size


def _bytes(config: PolicyConfig) -> int:
  return 2 if config.dtype == "bfloat16" else 4


def _cache(config: PolicyConfig, tokens: float) -> float:
  """Bytes of keys and values."""
  text = config.text
  width = text.kv_heads * text.head_dim
  return 2.0 * text.depth * tokens * width * _bytes(config)


def encode(config: PolicyConfig, sizes: Sizes) -> Work:
  """The global views."""
  return Work(tower_flops(config, sizes.prompts, sizes.view), 0.0)


def prefill(config: PolicyConfig, sizes: Sizes) -> Work:
  """The global views and the prompts."""
  flops = tower_flops(config, sizes.prompts, sizes.view)
  flops += decoder_flops(config, sizes.prompts * sizes.prefix, sizes.prefix / 2)
  return Work(flops, parameters.count(config) * _bytes(config) * sizes.replicas)


def rollout(
  config: PolicyConfig,
  episodes: EpisodeConfig,
  sizes: Sizes,
  encodes: bool = False,
) -> Work:
  """Prefill, and decoding of every response to its last slot."""
  group, slots = episodes.group, episodes.slots
  rows = sizes.prompts * group
  flops = decoder_flops(config, sizes.prompts * sizes.prefix, sizes.prefix / 2)
  flops += decoder_flops(config, rows * slots, sizes.prefix + slots / 2)
  flops += head_flops(config, rows * slots)
  crops = rows * episodes.max_crops
  flops += tower_flops(config, crops, episodes.crop_max_tokens)
  if encodes:
    flops += tower_flops(config, sizes.prompts, sizes.view)
  weights = parameters.count(config) * _bytes(config) * sizes.replicas
  # Each step reads a prompt's prefix once for its group, and its suffixes.
  caches = _cache(config, sizes.prompts * sizes.prefix + rows * slots / 2)
  return Work(flops, slots * (sizes.waves * weights + caches))


def update(
  config: PolicyConfig, episodes: EpisodeConfig, sizes: Sizes, frozen: bool
) -> Work:
  """Forward and backward of one pass over the rollouts.

  Args:
    config: the policy.
    episodes: the limits of its episodes.
    sizes: of the step.
    frozen: whether the tower is not trained, and views come encoded.
  """
  group, slots = episodes.group, episodes.slots
  rows = sizes.prompts * group
  # The backward pass costs twice the forward one, which remat repeats; what
  # 'products' repeats, attention alone, is left out.
  passes = 4 if config.remat == "layer" else 3
  prompts = sizes.prompts * sizes.prefix
  flops = passes * decoder_flops(config, prompts, sizes.prefix / 2)
  if sizes.rollout_slices > 1:  # for the keys, and again for their gradient
    flops += decoder_flops(config, prompts, sizes.prefix / 2)
  flops += passes * decoder_flops(
    config, rows * slots, sizes.prefix + slots / 2
  )
  flops += 4 * head_flops(config, rows * episodes.most_written)
  tower = tower_flops(
    config, rows * episodes.max_crops, episodes.crop_max_tokens
  )
  if not frozen:
    views = tower_flops(config, sizes.prompts, sizes.view)
    tower += views
    if sizes.rollout_slices > 1:
      flops += views
  flops += tower * (1 if frozen else passes)
  weights = parameters.count(config) * _bytes(config) * sizes.replicas
  return Work(flops, weights * passes * sizes.slices * sizes.rollout_slices)
