"""Probes replace what a crop shows, and nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.evaluation import items
from lfpc_jax.image.views import View
from lfpc_jax.rl.answers import Verdict
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


def _overlap(a, b):
  """Pixels that two boxes have in common, by counting along each axis."""
  return int(
    np.prod([max(0, min(a[k + 2], b[k + 2]) - max(a[k], b[k])) for k in (0, 1)])
  )


def _fits_apart(box, truth, size):
  """Whether some place for the box does not touch the truth: tries all."""
  width, height = box[2] - box[0], box[3] - box[1]
  return any(
    not _overlap((x, y, x + width, y + height), truth)
    for x in range(size[1] - width + 1)
    for y in range(size[0] - height + 1)
  )


def _random_box(rng, size, is_large):
  """Of any size, or more than half of the image on both sides."""
  sides = size[::-1]
  low = [int(rng.integers(0, n // 4 if is_large else n)) for n in sides]
  least = [n * 3 // 4 if is_large else a + 1 for a, n in zip(low, sides)]
  high = [int(rng.integers(a, n + 1)) for a, n in zip(least, sides)]
  return [*low, *high]


def _random_regions(number, rng):
  """Sizes, truths and boxes of all proportions, in small images."""
  for k in range(number):
    size = rng.integers(8, 25, 2)
    yield size, *(_random_box(rng, size, k % 3 == 0) for _ in range(2))


@pytest.fixture(scope="module")
def regions():
  """(size, truth, box, shown, has room) of random cases, one program."""
  cases = list(_random_regions(400, np.random.default_rng(0)))
  sizes, truths, asked = (np.array(x, np.int32) for x in zip(*cases))
  fields = {field.name: None for field in dataclasses.fields(Batch)}
  batch = Batch(
    **fields
    | dict(
      size=jnp.array(sizes),
      targets=jnp.array(truths)[:, None],
      target_valid=jnp.ones((len(cases), 1), bool),
    )
  )
  call_fields = {field.name: None for field in dataclasses.fields(Call)}
  call = Call(**call_fields | dict(box=jnp.array(asked)[:, None]))
  shown, room = jax.jit(
    lambda: (
      probes.replace_box(jnp.int32(Probe.OTHER), batch, call),
      probes.has_room_elsewhere(batch, call.box[:, :, None]),
    )
  )()
  shown, room = np.asarray(shown)[:, 0], np.asarray(room)[:, 0, 0]
  return list(zip(sizes, truths, asked, shown, room))


def test_another_region_has_the_size_and_is_inside_the_image(regions):
  for size, _, box, shown, _ in regions:
    assert (shown[2:] - shown[:2] == box[2:] - box[:2]).all()
    assert (shown >= 0).all() and (shown[2:] <= size[::-1]).all()


def test_another_region_is_apart_from_the_truth_wherever_that_can_be(regions):
  rooms = []
  for size, truth, box, shown, room in regions:
    possible = _fits_apart(box, truth, size)
    assert possible == room, (size, truth, box)
    assert (_overlap(shown, truth) == 0) == possible
    rooms.append(possible)
  assert 0.2 < np.mean(rooms) < 0.95  # both kinds were seen


def test_another_region_is_mostly_new_and_not_always_the_same_spot(regions):
  small = [
    (box, shown)
    for size, _, box, shown, room in regions
    if room and (4 * (box[2:] - box[:2]) <= size[::-1]).all()
  ]
  assert len(small) > 10
  # A large truth may leave only places that touch the box.
  assert np.mean([_overlap(box, shown) == 0 for box, shown in small]) > 0.9
  assert len({tuple(shown[:2]) for _, shown in small}) > len(small) / 2


def test_another_region_without_a_known_truth_is_apart_from_the_box():
  box = BOXES[2][0]
  shown = _replaced(Probe.OTHER).tolist()[2][0]
  assert _overlap(box, shown) == 0 and shown[2] - shown[0] == 30
  assert _replaced(Probe.OTHER).tolist()[2][1] == BOXES[2][1]  # the whole image


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


def test_an_evaluations_rows_say_which_regions_lie_apart(probed):
  examples = scripted_policy.make_examples(len(NAMES))
  batch = jax.tree.map(jnp.asarray, scripted_policy.make_batch())
  rows = {}
  for probe in (Probe.NONE, Probe.OTHER):
    terms = jax.device_get(items.box_terms(batch, probed[probe]))
    verdicts = [[Verdict(True, True, "7")] * 2] * len(NAMES)
    rows[probe] = items.make_items(
      examples, 20, probe.name.lower(), probed[probe], verdicts, terms
    )
  assert all(row.apart is None for row in rows[Probe.NONE])
  plain, other = rows[Probe.NONE], rows[Probe.OTHER]
  for name, before, row in zip(NAMES, plain, other):
    assert (row.apart is not None) == (row.crops > 0), name
    assert row.box == before.box  # the policy's own
  # Nearly the whole image leaves no room for another region of its size.
  assert other[NAMES.index("long turns")].apart is False
  assert other[NAMES.index("calls for ever")].apart is True  # small crops
