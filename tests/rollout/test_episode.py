"""The whole rollout against plain Python, PyTorch and Pillow."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.rollout import episode
from lfpc_jax.rollout.probes import Probe
from lfpc_jax.rollout.tool_call import Failure
from lfpc_jax.rollout.types import CROPPED, NO_CALL, NO_ROOM, Stop
from tests.models import oracle
from tests.rollout import reference_episode, scripted_policy

NAMES = list(scripted_policy.SCRIPTS)

# How each script ends: outcome of its turns, and why it stops.
FATES = {
  "crop and answer": ([CROPPED, NO_CALL], Stop.ANSWERED),
  "answer": ([NO_CALL], Stop.ANSWERED),
  "no JSON": ([Failure.NOT_JSON, NO_CALL], Stop.ANSWERED),
  "no tool": ([Failure.WRONG_TOOL, NO_CALL], Stop.ANSWERED),
  "three numbers": ([Failure.WRONG_ARGUMENTS, NO_CALL], Stop.ANSWERED),
  "empty box": ([Failure.BOX_EMPTY, NO_CALL], Stop.ANSWERED),
  "calls for ever": (
    [CROPPED, CROPPED, Failure.NO_CROPS_LEFT, Failure.NO_CROPS_LEFT],
    Stop.TURNS,
  ),
  "never ends": ([NO_CALL], Stop.TURN_LENGTH),
  "long turns": ([CROPPED, NO_ROOM], Stop.RESPONSE_LENGTH),
  "spelled end": ([CROPPED, NO_CALL], Stop.ANSWERED),
  "spelled end of no JSON": ([Failure.NOT_JSON, NO_CALL], Stop.ANSWERED),
  "spelled end, goes on": ([CROPPED, NO_CALL], Stop.ANSWERED),
}


@pytest.fixture(scope="module")
def greedy():
  # With a probe of nothing, the probes' own tests share the program.
  return scripted_policy.on_host(scripted_policy.play(0.0, Probe.NONE))


@pytest.fixture(scope="module")
def sampled():
  return scripted_policy.on_host(scripted_policy.play(1.0))


@pytest.fixture(scope="module")
def model(greedy, tmp_path_factory):
  return reference_episode.load_model(
    scripted_policy.config(), greedy[0], tmp_path_factory.mktemp("m") / "m"
  )


@pytest.fixture(scope="module")
def world():
  texts = scripted_policy.make_texts()
  table, lengths = scripted_policy.load_tokenizer().token_bytes()
  return reference_episode.World(
    before=np.asarray(texts.before).tolist(),
    after=np.asarray(texts.after).tolist(),
    errors=[
      row[:length].tolist()
      for row, length in zip(np.asarray(texts.errors), texts.error_lengths)
    ],
    image_pad=int(texts.image_pad),
    stops=np.asarray(texts.stops).tolist(),
    token_bytes=[row[:n].tobytes() for row, n in zip(table, lengths)],
  )


def _reference(model, world, batch, trajectory, p, g, is_greedy):
  tokens = trajectory.tokens[p, g][trajectory.written[p, g]].tolist()
  height, width = batch.size[p]

  def choose(scores, number):
    return int(np.argmax(scores)) if is_greedy else tokens[number]

  return reference_episode.play(
    reference_episode.Policy(model),
    world,
    scripted_policy.EPISODES,
    batch.tokens[p, : batch.length[p]].tolist(),
    tuple(batch.grid[p].tolist()),
    batch.originals[p, :height, :width],
    choose,
    tokens,
  )


def _check(model, trajectory, p, g, expected):
  """Compares one rollout with the reference's episode.

  Returns the largest error of a log-probability, relative to those below -1.
  """
  row = {k: v[p, g] for k, v in vars(trajectory).items() if k != "steps"}
  n, turns = expected.length, len(expected.turns)
  assert row["length"] == n
  flat = expected.flat
  assert row["tokens"][:n].tolist() == flat.tokens[expected.first :].tolist()
  written = sorted(expected.logp)
  assert np.flatnonzero(row["written"]).tolist() == written
  assert row["turns"] == turns
  spans = zip(row["turn_start"][:turns], row["turn_end"][:turns])
  assert [tuple(map(int, span)) for span in spans] == expected.turns
  assert row["outcome"][:turns].tolist() == expected.outcome
  assert (row["outcome"][turns:] == NO_CALL).all()
  assert row["stop"] == expected.stop
  crops = len(expected.boxes)
  assert row["crops"] == crops
  assert row["boxes"][:crops].tolist() == [list(b) for b in expected.boxes]
  assert not row["boxes"][crops:].any() and not row["grids"][crops:].any()
  assert row["grids"][:crops].tolist() == [list(x) for x in expected.grids]
  for ours, box in zip(row["boxes_shown"], expected.boxes_shown):
    np.testing.assert_array_equal(ours, box)
  places = oracle.positions(model, flat)[expected.first :]
  np.testing.assert_array_equal(row["positions"][:n], places)
  index = flat.visual_index[expected.first :]
  most = scripted_policy.EPISODES.crop_max_tokens
  want = np.full(n, -1)
  # `Sequence` numbers visual tokens through all images, the view first.
  sizes = np.cumsum([0] + [r * c for r, c in flat.grids])
  for k, (low, high) in enumerate(itertools.pairwise(sizes[1:])):
    inside = (index >= low) & (index < high)
    want = np.where(inside, k * most + index - low, want)
  np.testing.assert_array_equal(row["visual_index"][:n], want)
  assert (row["visual_index"][n:] == -1).all()
  logp = np.array([expected.logp[slot] for slot in written])
  error = np.abs(row["logp"][written] - logp)
  return (error / np.maximum(1, np.abs(logp))).max()


@pytest.mark.parametrize("name", NAMES)
def test_a_script_gives_the_episode_worked_out_by_hand(greedy, name):
  _, _, trajectory = greedy
  p = NAMES.index(name)
  turns = scripted_policy.script_tokens(name)
  outcome, stop = FATES[name]
  for g in range(2):
    spans = zip(trajectory.turn_start[p, g], trajectory.turn_end[p, g])
    written = [trajectory.tokens[p, g, a:b].tolist() for a, b in spans]
    assert trajectory.turns[p, g] == len(turns)
    assert written[: len(turns)] == turns
    assert trajectory.outcome[p, g, : len(turns)].tolist() == outcome
    assert trajectory.stop[p, g] == stop
    assert trajectory.crops[p, g] == outcome.count(CROPPED)


def test_a_turn_that_the_policy_closed_is_not_closed_again(greedy, world):
  _, _, trajectory = greedy
  end = world.before[0]
  for name, count in (("spelled end", 1), ("crop and answer", 0)):
    p = NAMES.index(name)
    start, stop = trajectory.turn_end[p, 0, 0], trajectory.turn_start[p, 0, 1]
    assert (trajectory.tokens[p, 0, start - 1] == end) == count
    environment = trajectory.tokens[p, 0, start:stop].tolist()
    text = world.before[count:]
    assert environment[: len(text)] == text
    assert environment[-len(world.after) :] == world.after


def test_greedy_rollouts_are_those_of_flat_sequences(greedy, model, world):
  _, batch, trajectory = greedy
  errors = [
    _check(
      model,
      trajectory,
      p,
      0,
      _reference(model, world, batch, trajectory, p, 0, True),
    )
    for p in range(len(NAMES))
  ]
  assert max(errors) < 1e-4, errors


def test_sampled_rollouts_are_those_of_flat_sequences(sampled, model, world):
  _, batch, trajectory = sampled
  errors = {}
  for p in range(len(NAMES)):
    for g in range(trajectory.length.shape[1]):
      episode = _reference(model, world, batch, trajectory, p, g, False)
      errors[p, g] = _check(model, trajectory, p, g, episode)
  # The script's logits are in the hundreds, so 1e-4 is at float32's edge.
  assert max(errors.values()) < 3e-4, errors


def test_sampled_rollouts_of_one_group_have_different_fates(sampled):
  _, _, trajectory = sampled
  assert any(len(set(row)) > 1 for row in trajectory.length.tolist())
  assert any(len(set(row)) > 1 for row in trajectory.stop.tolist())
  assert any(len(set(row)) > 1 for row in trajectory.crops.tolist())


def test_the_policy_of_these_tests_looks_at_view_and_crop(greedy, model, world):
  """Guards the comparisons: a wrong picture would move the numbers."""
  _, batch, trajectory = greedy
  p = NAMES.index("crop and answer")
  flat = _reference(model, world, batch, trajectory, p, 0, True).flat
  logits = oracle.logits(model, flat)[-4:]
  for number in range(2):
    patches = list(flat.patches)
    patches[number] = patches[number][::-1].copy()
    other = oracle.Sequence(
      flat.tokens, flat.visual_index, flat.grids, tuple(patches)
    )
    change = np.abs(oracle.logits(model, other)[-4:] - logits).max()
    assert change > 1e-2


def test_waves_write_what_all_write_at_once():
  params, batch, wanted = scripted_policy.play(0.0, Probe.NONE)
  prompts = batch.tokens.shape[0]
  waves = next(n for n in (2, 3, 5, 7) if prompts % n == 0)
  rollout = episode.Rollout(
    scripted_policy.config(),
    scripted_policy.limits(0.0),
    scripted_policy.VIEW_TOKENS,
    waves,
  )
  found = jax.jit(rollout, compiler_options=scripted_policy.FAST_COMPILE)(
    params, batch, scripted_policy.make_texts(), jax.random.key(0)
  )
  assert found.steps > wanted.steps  # of all waves
  for field in dataclasses.fields(found):
    a, b = getattr(found, field.name), getattr(wanted, field.name)
    if field.name == "logp":
      np.testing.assert_allclose(a, b, atol=1e-5)
    elif field.name != "steps":
      np.testing.assert_array_equal(a, b, err_msg=field.name)


def test_waves_draw_numbers_of_their_own():
  """The same prompt in two waves is answered in two ways."""
  params, batch, _ = scripted_policy.play(0.0, Probe.NONE)
  batch = jax.tree.map(lambda x: jnp.concatenate([x[:1]] * 2), batch)
  rollout = episode.Rollout(
    scripted_policy.config(),
    scripted_policy.limits(1.0),
    scripted_policy.VIEW_TOKENS,
    2,
  )
  found = jax.jit(rollout, compiler_options=scripted_policy.FAST_COMPILE)(
    params, batch, scripted_policy.make_texts(), jax.random.key(0)
  )
  assert (found.tokens[0] != found.tokens[1]).any()
