"""Probes replace what a crop shows, and nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.image.views import View
from lfpc_jax.rollout import probes
from lfpc_jax.rollout.observation import Call
from lfpc_jax.rollout.probes import Probe
from lfpc_jax.rollout.types import Batch
from tests.rollout import scripted_policy

SIZE = [[100, 200], [300, 60], [90, 90]]  # height, width
TARGETS = [
  [[10, 10, 20, 20], [5, 5, 40, 50]],  # a detail and its surroundings
  [[7, 8, 30, 40], [0, 0, 0, 0]],  # one box only
  [[0, 0, 0, 0], [0, 0, 0, 0]],  # none
]
VALID = [[True, True], [True, False], [False, False]]
BOXES = [
  [[0, 0, 50, 30], [150, 60, 200, 100]],
  [[0, 100, 60, 290], [10, 0, 38, 28]],
  [[60, 60, 90, 90], [0, 0, 90, 90]],
]


def _batch():
  fields = {field.name: None for field in dataclasses.fields(Batch)}
  return Batch(
    **fields
    | dict(
      size=jnp.array(SIZE),
      targets=jnp.array(TARGETS),
      target_valid=jnp.array(VALID),
    )
  )


def _replaced(probe):
  boxes = jnp.array(BOXES)
  fields = {field.name: None for field in dataclasses.fields(Call)}
  call = Call(**fields | dict(box=boxes))
  replace = jax.jit(lambda probe: probes.replace_box(probe, _batch(), call))
  return np.asarray(replace(jnp.int32(probe)))


@pytest.mark.parametrize("probe", [Probe.NONE, Probe.NOISE, Probe.BLANK])
def test_a_probe_of_pixels_keeps_the_box(probe):
  assert _replaced(probe).tolist() == BOXES


def test_truth_is_the_second_smallest_box_or_the_only_one():
  found = _replaced(Probe.TRUTH).tolist()
  assert found[0] == [[5, 5, 40, 50]] * 2
  assert found[1] == [[7, 8, 30, 40]] * 2
  assert found[2] == BOXES[2]  # nothing is known of this image


def test_truth_of_a_single_target_slot_is_that_target():
  batch = dataclasses.replace(
    _batch(),
    targets=jnp.array(TARGETS)[:, :1],
    target_valid=jnp.array(VALID)[:, :1],
  )
  assert probes.truth_box(batch).tolist() == [row[0] for row in TARGETS]


def test_other_is_elsewhere_and_of_the_same_size():
  # Worked by hand: + (width // 2, height // 2), wrapped; where the box does
  # not fit there, the far edge.
  assert _replaced(Probe.OTHER).tolist() == [
    [[100, 50, 150, 80], [50, 10, 100, 50]],
    [[0, 0, 60, 190], [32, 150, 60, 178]],
    [[15, 15, 45, 45], [0, 0, 90, 90]],
  ]


def _pixels(probe, seed=0):
  patches = jnp.full((3, 2, 20, 4, 588), 0.5)
  view = View(patches, jnp.ones((3, 2, 2), jnp.int32))
  replace = jax.jit(probes.replace_pixels)
  found = replace(jnp.int32(probe), jax.random.key(seed), view)
  assert found.grid.tolist() == view.grid.tolist()
  return np.asarray(found.patches)


@pytest.mark.parametrize("probe", [Probe.NONE, Probe.TRUTH, Probe.OTHER])
def test_a_probe_of_the_box_keeps_the_pixels(probe):
  assert (_pixels(probe) == 0.5).all()


def test_blank_is_the_mean_colour():
  assert (_pixels(Probe.BLANK) == 0).all()


def test_noise_spans_the_levels_and_repeats_nowhere():
  noise = _pixels(Probe.NOISE)
  # Levels 0 and 255 of the widest channel, in normalised units.
  assert -1.81 < noise.min() < -1.75 and 2.05 < noise.max() < 2.11
  np.testing.assert_allclose(noise.mean(), 0.15, atol=0.01)
  np.testing.assert_allclose(noise.std(), 3.9 / 12**0.5, atol=0.01)
  assert np.abs(np.corrcoef(noise.reshape(6, -1)) - np.eye(6)).max() < 0.05
  assert (noise != _pixels(Probe.NOISE, seed=1)).any()


NAMES = list(scripted_policy.SCRIPTS)
CALLER = NAMES.index("crop and answer")


@pytest.fixture(scope="module")
def probed():
  """The scripts' greedy rollouts under each probe: one program."""
  found = {
    probe: scripted_policy.on_host(scripted_policy.play(0.0, probe))
    for probe in Probe
  }
  assert scripted_policy.program(0.0)._cache_size() == 1
  return {probe: trajectory for probe, (_, _, trajectory) in found.items()}


@pytest.mark.parametrize("probe", sorted(set(Probe) - {Probe.NONE}))
def test_a_probe_changes_what_comes_after_the_crop_only(probed, probe):
  plain, other = probed[Probe.NONE], probed[probe]
  for p, name in enumerate(NAMES):
    crops = plain.crops[p, 0]
    # The first turn is the same, and so is what never saw a crop.
    end = plain.turn_end[p, 0, 0] if crops else plain.length[p, 0]
    for field in ("tokens", "logp"):
      a, b = (getattr(x, field)[p, 0, :end] for x in (plain, other))
      np.testing.assert_allclose(a, b, atol=1e-5)
    # Half an image further there may be the same flat background.
    if crops and probe is not Probe.OTHER:
      # A far-away token of a confident script may keep its last bit.
      a, b = (x.logp[p, 0, end:] for x in (plain, other))
      assert not np.array_equal(a, b), name


def test_the_policys_own_box_is_kept_and_the_shown_grid_is_the_probes(probed):
  plain, truth = probed[Probe.NONE], probed[Probe.TRUTH]
  first = (CALLER, 0, 0)
  for probe in Probe:
    np.testing.assert_array_equal(
      probed[probe].boxes[first], plain.boxes[first]
    )
  # The examples' second target is 60 x 60 pixels: 2 x 2 visual tokens.
  assert truth.grids[first].tolist() == [2, 2] != plain.grids[first].tolist()
