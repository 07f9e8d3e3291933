"""The least time of a step by formula: compute, memory, network.

Compute and memory as `cost` counts them, the network by what fully-sharded
data parallelism and tensor parallelism have to move. Each alone; the slowest
binds.
"""

from __future__ import annotations

from lfpc_jax.ahead import cost
from lfpc_jax.ahead.chips import Chip
from lfpc_jax.ahead.layouts import Layout, Step, parts, share


def of_step(step: Step, layout: Layout, chip: Chip) -> dict[str, dict]:
  """Seconds that each resource needs, for the rollout and for the update.

  Args:
    step: of training.
    layout: over devices.
    chip: figures of one device.

  Returns:
    For "rollout" and "update" the seconds of "compute", "memory", "network".
  """
  weight = parts(step, layout, "embed", True) * parts(step, layout, "mlp", True)
  sizes = cost.Sizes(
    step.prompts,
    step.prefix,
    step.view,
    layout.devices // weight,
    layout.micro_batches,
    layout.rollout_slices,
    layout.waves,
  )
  works = {
    "rollout": cost.rollout(
      step.policy, step.episodes, sizes, encodes=not step.encodes
    ),
    "update": cost.update(step.policy, step.episodes, sizes, step.encodes),
  }
  moved = {
    "rollout": rollout_traffic(step, layout),
    "update": update_traffic(step, layout),
  }
  return {
    name: {
      "compute": work.flops / (layout.devices * chip.flops),
      "memory": work.reads / (layout.devices * chip.bandwidth),
      "network": moved[name] / chip.links,
    }
    for name, work in works.items()
  }


def slowest(times: dict[str, float]) -> tuple[str, float]:
  """What binds, and its seconds."""
  name = max(times, key=times.get)
  return name, times[name]


def _sums(step: Step, layout: Layout, tokens: float) -> float:
  """Bytes of the sums over parts of heads and widths, one way through."""
  if parts(step, layout, "heads") == 1:
    return 0.0
  text = step.policy.text
  return 2 * text.depth * tokens * text.width * step.itemsize


def _weights(step: Step, layout: Layout) -> float:
  """Bytes of the decoder's layers, brought together over fsdp."""
  whole = Layout(tensor=layout.tensor)
  if parts(step, layout, "embed") == 1:
    return 0.0
  return share(step, whole, "layers", step.itemsize)


def _per_device(step: Step, layout: Layout) -> tuple[float, float]:
  """Tokens of prompts and of suffixes on one device."""
  prompts = step.prompts / parts(step, layout, "prompt")
  return (
    prompts * step.prefix,
    prompts * step.episodes.group * step.episodes.slots,
  )


def rollout_traffic(step: Step, layout: Layout) -> float:
  """Bytes that reach a device in a rollout, at most: to the last slot."""
  prefix, suffix = _per_device(step, layout)
  weights = _weights(step, layout)
  if not layout.gathered:
    weights *= layout.waves * (step.episodes.slots + 1)
  return weights + _sums(step, layout, prefix + suffix)


def update_traffic(step: Step, layout: Layout) -> float:
  """Bytes that reach a device in an update."""
  prefix, suffix = _per_device(step, layout)
  again = step.policy.remat == "layer"
  ways = 3 if again else 2  # forward, again, backward
  slices = layout.micro_batches * layout.rollout_slices
  tokens, times = ways * (prefix + suffix), slices * ways
  if layout.rollout_slices > 1:  # the prompts once more
    tokens += prefix
    times += layout.micro_batches * (ways + 1)
  return times * _weights(step, layout) + _sums(step, layout, tokens)
