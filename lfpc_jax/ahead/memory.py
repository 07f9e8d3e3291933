"""Bytes that a rollout and an update need of one device, by formula.

Compiling says it exactly, and takes minutes; this leads to what is worth
compiling. Arguments are exact but for padding. What a program makes by itself
is the sum of what must be there at its fullest moment, the working space of
the layers scaled by what the TPU compiler was seen to take for the same
formula. The four constants are fitted to the lines of tests/ahead/
test_memory.py, all of the 7b; experiments/pods/README.md has them, too.
"""

from __future__ import annotations

from lfpc_jax.ahead.layouts import Layout, Step, parts, share

_WIDE = 4  # bytes of a float32
# Rounding up of arrays to tiles, the program's code, and what is small.
_REST = 0.25 * 2**30
# Two are there by the formula: the sum, and a micro-batch's. The TPU compiler
# was seen to keep as many again around the loops over slices.
_GRADIENTS = 4
# Hidden states of a block of the tower that are there while crops are cut out,
# encoded and embedded, beside those of `_tower`; seen, too, with XLA's own
# attention.
_CROPS = 16
# A margin on what is counted of a wave where a kernel serves the attention.
# From 64 waves to 32 the compiled rollout grows by 2.50 GiB, where 1.73 are
# counted; all that no wave changes is 4.23 GiB, and counted as 4.17. So a wave
# is too small, by 1.44, and which of its arrays, no line tells. Those of XLA's
# attention need no margin; they were compiled before the caches' keys had
# their slots last.
_WAVE = 1.5
# Each layer's input is there twice in the loop over slices of rollouts. With
# one rollout more in a slice the compiled updates grow by 0.89 GiB with XLA's
# own attention and by 1.16 with a kernel; one copy, of 0.38 GiB, made it 0.59
# and 0.50.
_SAVED = 2


def state(step: Step, layout: Layout) -> dict[str, float]:
  """Parameters and moments; what training keeps for good."""
  trained = share(step, layout, "trained")
  return {
    "parameters": share(step, layout, "all"),
    "moments": 2 * share(step, layout, "trained", step.moment),
    "reference": step.copies * trained,
  }


def _batch(step: Step, layout: Layout) -> float:
  """Pictures, and views where they come encoded."""
  one = step.pixels + step.prefix * 20
  if step.encodes:
    one += step.view * step.policy.text.width * step.itemsize
  return step.prompts / parts(step, layout, "prompt") * one


def _trajectories(step: Step, layout: Layout) -> float:
  """Five arrays of each slot of each rollout, positions of three axes."""
  rows = step.prompts * step.episodes.group / parts(step, layout, "prompt")
  return rows * step.episodes.slots * 28


def keys(step: Step, layout: Layout, tokens: float) -> float:
  """Keys and values of so many tokens, in all layers."""
  text = step.policy.text
  heads = text.kv_heads / parts(step, layout, "kv_heads")
  return 2 * text.depth * tokens * heads * text.head_dim * step.itemsize


def _layer(step: Step, layout: Layout, tokens: float, scores: float) -> float:
  """What one layer of the decoder works on.

  Args:
    step: of training.
    layout: of its arrays.
    tokens: that it runs, on one device.
    scores: of one query head, on one device: queries x keys.
  """
  text = step.policy.text
  tensor = parts(step, layout, "heads")
  heads = (2 * text.heads + 2 * text.kv_heads) * text.head_dim / tensor
  hidden = 2 * text.width + heads + 2 * text.mlp_width / tensor
  return (
    tokens * hidden * step.itemsize + scores * text.heads / tensor * 2 * _WIDE
  )


def _tower(step: Step, layout: Layout, images: float, tokens: int) -> float:
  """What one block of the tower works on, and the patches."""
  vision = step.policy.vision
  heads = parts(step, layout, "vision_heads")
  patches = images * tokens * vision.merge_size**2
  hidden = 2 * vision.width + 5 * vision.width / heads
  hidden += 2 * vision.mlp_width / parts(step, layout, "vision_mlp")
  scores = _chunk(step, patches) * patches * vision.heads / heads * 2 * _WIDE
  return patches * (hidden * step.itemsize + vision.patch_dim * _WIDE) + scores


def _chunk(step: Step, queries: float, cached: bool = False) -> float:
  """Queries whose scores exist at one time: none where a kernel has them.

  Args:
    step: of training.
    queries: of one head.
    cached: whether they continue a cache, which no kernel serves.
  """
  if step.fused and not cached:
    return 0.0
  return min(step.policy.attention_chunk or queries, queries)


def _tower_saved(step: Step, images: float, tokens: int) -> float:
  """What the tower keeps for its gradient, where `remat` is 'layer'."""
  vision = step.policy.vision
  patches = images * tokens * vision.merge_size**2
  return vision.depth * patches * vision.width * step.itemsize


def encode(step: Step, layout: Layout) -> dict[str, float]:
  """Of the encoder of the views, by kind; nothing where the tower learns."""
  if not step.encodes:
    return {}
  kept = state(step, layout)
  images = step.prompts / parts(step, layout, "view")
  width = step.policy.text.width * step.itemsize
  visual, each = images * step.view * width, images / layout.waves
  # A wave's before they are in order; and all, if several waves have to be
  # joined prompt by prompt.
  work = each * step.view * width + (layout.waves > 1 and each > 1) * visual
  return {
    "arguments": kept["parameters"] + images * (step.pixels + step.prefix * 20),
    "results": visual,
    "work": work + _tower(step, layout, each, step.view),
    "held": kept["moments"] + kept["reference"],
    "rest": _REST,
  }


def rollout(step: Step, layout: Layout) -> dict[str, float]:
  """Of the rollout, by kind; 'held' is what training keeps beside it."""
  text, group = step.policy.text, step.episodes.group
  kept = state(step, layout)
  prompts = step.prompts / layout.waves / parts(step, layout, "prompt")
  rows, slots = prompts * group, step.episodes.slots
  weights = share(step, layout, "decoder", step.itemsize, rollout=True)
  if layout.gathered:
    weights += share(step, layout, "vision", rollout=True)
  logits = rows * text.vocab_size / parts(step, layout, "vocab") * _WIDE
  chunk = _chunk(step, step.prefix)
  crops = step.episodes.crop_max_tokens
  seen = step.prefix + slots
  moments = [
    2 * logits + _layer(step, layout, rows, rows * seen),
    _layer(step, layout, prompts * step.prefix, prompts * chunk * step.prefix),
    _layer(
      step,
      layout,
      rows * step.observation,
      rows * _chunk(step, step.observation, True) * slots
      + prompts * _chunk(step, group * step.observation, True) * step.prefix,
    )
    + rows * crops * text.width * step.itemsize,
    _tower(step, layout, rows, crops),
  ]
  vision = step.policy.vision
  cropping = _CROPS * rows * crops * vision.merge_size**2 * vision.width
  more = _WAVE if step.fused else 1.0
  caches = keys(step, layout, prompts * step.prefix + rows * slots)
  return {
    "arguments": kept["parameters"] + _batch(step, layout),
    "weights": weights,
    "caches": more * caches,
    "trajectories": _trajectories(step, layout),
    "work": more * max(moments),
    "crops": more * cropping * step.itemsize,
    "held": kept["moments"] + kept["reference"],
    "rest": _REST,
  }


def update(step: Step, layout: Layout) -> dict[str, float]:
  """Of the update, by kind."""
  text = step.policy.text
  kept = state(step, layout)
  prompts = step.prompts / layout.micro_batches / parts(step, layout, "prompt")
  rows = prompts * step.episodes.group / layout.rollout_slices
  tokens = rows * step.episodes.slots
  sliced = layout.rollout_slices > 1
  gradient = share(step, layout, "trained")
  caches = keys(step, layout, prompts * step.prefix)
  # Of the keys of a prompt that its slices share: the gradients' sum, float32,
  # and that of one slice.
  caches *= 1 + sliced * (1 + _WIDE / step.itemsize)
  saved = text.depth * text.width * step.itemsize
  if step.policy.remat != "layer":  # 'products' keeps no more than 'none'
    saved += text.depth * _layer(step, layout, 1, 0)
  saved *= (
    max(_SAVED * tokens, prompts * step.prefix)
    if sliced
    else (tokens + prompts * step.prefix)
  )
  if not step.encodes:
    crops = rows * step.episodes.max_crops
    saved += _tower_saved(step, crops, step.episodes.crop_max_tokens)
    saved += _tower_saved(step, prompts, step.view)
  return {
    "arguments": sum(kept.values())
    + _batch(step, layout)
    + _trajectories(step, layout),
    "gradients": _GRADIENTS * gradient,
    "caches": caches,
    "activations": saved,
    "work": _update_work(step, layout, prompts, rows),
    "rest": _REST,
  }


def _update_work(step: Step, layout: Layout, prompts: float, rows: float):
  """The fullest of: the head, a layer of the suffix, the tower."""
  text, crops = step.policy.text, step.episodes.crop_max_tokens
  slots, group = step.episodes.slots, rows / prompts
  tokens = rows * slots
  features = rows * step.episodes.max_crops * crops
  features *= text.width * step.itemsize
  tensor = Layout(tensor=layout.tensor)
  one = share(step, tensor, "layers", step.itemsize) / text.depth
  chunk = _chunk(step, slots)
  scores = prompts * _chunk(step, group * slots) * step.prefix
  scores += rows * chunk * slots
  layer = 2 * _layer(step, layout, tokens, scores) + 3 * one
  if step.fused:  # a prompt's keys before those of each of its rollouts
    layer += 4 * keys(step, layout, rows * (step.prefix + slots)) / text.depth
  read = rows * step.episodes.most_written
  limit = step.policy.logit_chunk or read
  logits = min(limit, read) * text.vocab_size * _WIDE
  hidden = tokens * text.width * _WIDE
  return features + max(
    3 * logits + 3 * hidden, layer, _tower(step, layout, rows, crops)
  )
