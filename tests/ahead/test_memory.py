"""Memory by formula against what the TPU compiler says."""

import functools

import pytest

from lfpc_jax import config as config_lib
from lfpc_jax.ahead import checking, layouts, memory, search
from lfpc_jax.ahead.layouts import Layout

GIB = 2**30
# The 7b's stage 1 on v5e:4x4 with plain XLA's attention; GiB on one device.
# Compiled with libtpu 0.0.42.
SAID = [
  ("rollout", Layout(4, 4, waves=16), 14.29),
  ("rollout", Layout(16, 1, waves=1), 94.2),
  ("update", Layout(4, 4, micro_batches=64, rollout_slices=16), 14.87),
  ("update", Layout(4, 4, micro_batches=64, rollout_slices=4), 17.54),
  ("update", Layout(16, 1, micro_batches=16), 25.75 + 5.71),
]


def _step(file, size, *changes):
  about = checking.subject(config_lib.load_config(file, changes), size)
  return about, layouts.make_step(about.config, about.agent, about.learner)


@functools.cache
def _paper():
  return _step(
    "configs/stage1.py:7b",
    "7b",
    "data.image_capacity=2048,2048",
    "policy.attention=xla",
  )[1]


@pytest.mark.parametrize("program, layout, said", SAID)
def test_the_estimate_is_within_a_tenth_of_the_compiler(program, layout, said):
  found = getattr(memory, program)(_paper(), layout)
  found.pop("held", None)  # the compiler does not know of it
  assert sum(found.values()) / GIB == pytest.approx(said, rel=0.1)


def test_arguments_are_exact():
  # 6.651 GiB, said of the fourth line above.
  layout = Layout(4, 4, micro_batches=64, rollout_slices=4)
  found = memory.update(_paper(), layout)["arguments"]
  assert found == pytest.approx(7_141_689_344, rel=0.002)


def test_a_kernel_needs_no_room_for_scores():
  fused = _step("configs/stage1.py:7b", "7b", "data.image_capacity=2048,2048")[
    1
  ]
  layout = Layout(4, 4, micro_batches=64)
  for program in search.PROGRAMS:
    ours, plain = (
      search.used(step, layout, program) for step in (fused, _paper())
    )
    assert ours < plain or program == "rollout"
