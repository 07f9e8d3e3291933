"""Layouts, shares of a device, and the smallest slice, worked by hand."""

import dataclasses

import pytest

from lfpc_jax.ahead import chips, layouts, memory, search, times
from lfpc_jax.ahead.layouts import Layout, Leaf, Step
from lfpc_jax.errors import UserError
from lfpc_jax.models.config import PolicyConfig, TextConfig, VisionConfig
from lfpc_jax.parallel.sharding import DEFAULT_RULES
from lfpc_jax.rollout.types import EpisodeConfig

POLICY = PolicyConfig(
  vision=VisionConfig(depth=2, width=64, mlp_width=128, heads=4),
  text=TextConfig(
    vocab_size=1024,
    width=64,
    mlp_width=256,
    depth=2,
    heads=8,
    kv_heads=2,
    mrope_section=(2, 1, 1),
  ),
  dtype="bfloat16",
)
LEAVES = (
  Leaf("layers", (2, 64, 8, 8), ("layers", "embed", "heads", "head_dim"), 4),
  Leaf("layers", (2, 64, 2, 8), ("layers", "embed", "kv_heads", "head_dim"), 4),
  Leaf("norm", (64,), ("norm",), 4),
  Leaf("vision", (64, 64), ("vision_embed", "vision_mlp"), 2),
)
STEP = Step(
  policy=POLICY,
  episodes=EpisodeConfig(
    group=4, max_response_tokens=63, max_crops=1, crop_max_tokens=16
  ),
  leaves=LEAVES,
  frozen=frozenset({"vision"}),
  prompts=16,
  prefix=64,
  view=32,
  pixels=1000,
  observation=20,
  moment=4,
  copies=0,
  rules=DEFAULT_RULES,
  rollout_rules=dict(DEFAULT_RULES) | {"embed": (), "vision_embed": ()},
)


def test_a_device_has_its_share_of_each_parameter():
  layout = Layout(fsdp=4, tensor=2)
  # 8192 / (4 * 2) + 2048 / (4 * 2) + 64 trained elements of 4 bytes.
  trained = 4 * (1024 + 256 + 64)
  assert layouts.share(STEP, layout, "trained") == trained
  # The tower: 4096 / (4 * 2) elements of 2 bytes.
  assert memory.state(STEP, layout) == {
    "parameters": trained + 2 * 512,
    "moments": 2 * trained,
    "reference": 0,
  }
  # A rollout has all of fsdp's parts, in half the bytes.
  whole = layouts.share(STEP, layout, "trained", 2, rollout=True)
  assert whole == 2 * (8192 / 2 + 2048 / 2 + 64)
  split = dataclasses.replace(layout, gathered=False)
  assert layouts.share(STEP, split, "trained", 2, True) == trained / 2


def test_keys_and_values_by_hand():
  # Keys and values, 2 layers, 10 tokens, 1 of 2 heads of 8 in 2 bytes.
  assert memory.keys(STEP, Layout(tensor=2), 10) == 2 * 2 * 10 * 1 * 8 * 2


@pytest.mark.parametrize(
  "layout, fits",
  [
    (Layout(), True),
    (Layout(fsdp=16, tensor=2), True),
    (Layout(tensor=4), False),  # two key-value heads
    (Layout(fsdp=32), False),  # sixteen prompts
    (Layout(fsdp=4, waves=4), True),
    (Layout(fsdp=4, waves=8), False),  # two prompts a wave
    (Layout(micro_batches=3), False),
    (Layout(rollout_slices=3), False),
  ],
)
def test_what_does_not_divide_is_no_layout(layout, fits):
  assert layouts.divides(STEP, layout) == fits


def test_flags_are_those_of_a_command_line():
  layout = Layout(4, 2, waves=2, micro_batches=4, gathered=False)
  assert layout.flags() == (
    "--config.mesh.sizes=4,2 --config.rollout.waves=2 "
    "--config.rl.micro_batches=4 --config.rl.rollout_slices=1 "
    "--config.mesh.rollout_rules=()"
  )


def _by_rows(monkeypatch, rollout, update):
  """Programs that need so many bytes for each row on a device."""

  def need(unit, slices):
    def of(step, layout):
      rows = step.prompts * step.episodes.group / slices(layout)
      return {"rows": unit * rows / layout.fsdp}

    return of

  monkeypatch.setattr(memory, "encode", lambda step, layout: {})
  monkeypatch.setattr(memory, "rollout", need(rollout, lambda x: x.waves))
  monkeypatch.setattr(
    memory,
    "update",
    need(update, lambda x: x.micro_batches * x.rollout_slices),
  )


def test_the_fewest_slices_that_fit_prompts_before_rollouts(monkeypatch):
  _by_rows(monkeypatch, rollout=10, update=10)
  # 64 rows on two devices are 32 each; 8, 16 and 1 of them fit.
  for limit, waves, prompts, rollouts in (
    (80, 4, 4, 1),
    (160, 2, 2, 1),
    (20, 8, 8, 2),
  ):
    found = search.cut(STEP, Layout(fsdp=2), limit)
    assert (found.micro_batches, found.rollout_slices) == (prompts, rollouts)
    assert found.waves == waves
  # A refusal says that a program needs twice the estimate.
  found = search.cut(STEP, Layout(fsdp=2), 80, {"update": 2.0})
  assert (found.waves, found.micro_batches) == (4, 8)


def test_the_smallest_slice_that_fits(monkeypatch):
  limit = chips.device_of("v5e").memory
  _by_rows(monkeypatch, rollout=limit / 2, update=limit / 2)
  # At least the four rollouts of one prompt go side by side: 2 x too many.
  assert search.smallest(search.proposals(STEP, "v5e")) is None
  _by_rows(monkeypatch, rollout=limit / 4, update=1)
  found = search.smallest(search.proposals(STEP, "v5e"))
  assert found.topology == "v5e:1x1" and found.layout.waves == 16
  monkeypatch.setattr(
    memory, "update", lambda step, layout: {"all": 3 * limit / layout.devices}
  )
  found = search.smallest(search.proposals(STEP, "v5e"))
  assert found.topology == "v5e:2x2" and found.memory["update"] == 0.75 * limit


def test_no_slice_is_an_unknown_generation_s():
  with pytest.raises(UserError, match="known are v4"):
    search.proposals(STEP, "v9")


def test_standard_slices_count_devices():
  assert chips.standard_slices("v5e")[2] == ("v5e:2x4", 8)
  assert chips.standard_slices("v5p")[2] == ("v5p:2x2x4", 16)
  # Two devices a chip, each with half of its memory.
  assert chips.standard_slices("tpu7x")[0] == ("tpu7x:2x2x1", 8)
  assert chips.device_of("tpu7x").memory == 96 * 2**30


def test_traffic_by_hand():
  layout = Layout(fsdp=4, tensor=2, micro_batches=2)
  # Weights of the layers in a rollout's precision, half of them a device.
  weights = (8192 + 2048) / 2 * 2
  # Two sums a layer of each of 4 prompts' 64 + 4 x 64 tokens, 64 wide.
  tokens = 4 * 64 + 4 * 4 * 64
  sums = 2 * 2 * tokens * 64 * 2
  assert times.rollout_traffic(STEP, layout) == weights + sums
  # Forward, again, and backward; the weights in both micro-batches.
  assert times.update_traffic(STEP, layout) == 3 * (2 * weights + sums)
  # One device has nothing to tell.
  assert times.update_traffic(STEP, Layout()) == 0
  # Without gathering, each of 64 tokens, and the prefill, bring them together.
  split = dataclasses.replace(layout, gathered=False)
  assert times.rollout_traffic(STEP, split) == 65 * weights + sums
