"""Records come back from their file as they were, each image stored once."""

import dataclasses
import io
import json

import numpy as np
import PIL.Image
import pytest
import samples

from lfpc_jax import errors
from lfpc_jax.image import boxes
from lfpc_jax.report import records


def test_records_survive_the_file(tmp_path):
  rollouts = samples.make_records(questions=3)
  rollouts[1] = dataclasses.replace(
    rollouts[1], question=samples.HOSTILE, prediction="\ud800 ü 数"
  )
  records.save_records(tmp_path / "r" / "rollouts.jsonl", rollouts)
  assert records.load_records(tmp_path / "r" / "rollouts.jsonl") == rollouts


def test_numpy_values_are_stored_as_numbers(tmp_path):
  rollout = dataclasses.replace(
    samples.make_records(1)[0],
    correct=np.bool_(True),
    rewards={"accuracy": np.float32(0.5)},
    targets=tuple(map(tuple, np.array([[1, 2, 30, 40]], np.int32))),
  )
  records.save_records(tmp_path / "r.jsonl", [rollout])
  (loaded,) = records.load_records(tmp_path / "r.jsonl")
  assert loaded == rollout
  assert loaded.correct is True


def test_an_image_is_stored_once_for_all_rollouts_of_a_question(tmp_path):
  rollouts = samples.make_records(questions=2)
  assert len(rollouts) == 8
  records.save_records(tmp_path / "r.jsonl", rollouts)
  lines = [json.loads(x) for x in (tmp_path / "r.jsonl").open()]
  crops = {
    turn.crop_jpeg for r in rollouts for turn in r.turns if turn.crop_jpeg
  }
  # Two originals and two views, whatever the number of policies.
  assert sum("image" in line for line in lines) == len(crops) + 4
  assert sum("rollout" in line for line in lines) == 8


def test_a_failing_save_keeps_the_old_file(tmp_path):
  path = tmp_path / "r.jsonl"
  rollouts = samples.make_records(1)
  records.save_records(path, rollouts)

  def interrupted():
    yield rollouts[0]
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    records.save_records(path, interrupted())
  assert records.load_records(path) == rollouts
  assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("line", ['{"rollout": ', '{"rollout": {}}', "[1]"])
def test_a_line_that_is_no_record_is_named(tmp_path, line):
  path = tmp_path / "r.jsonl"
  records.save_records(path, [])
  path.write_text(f"{line}\n")
  with pytest.raises(errors.UserError, match="line 1"):
    records.load_records(path)


def test_box_quality_of_a_hand_computed_case():
  # 20 x 10 over a target 10 x 10 that it half covers: 50 / (200 + 100 - 50);
  # over the context 40 x 20: 200 / 800.
  quality = records.box_quality(
    (0, 0, 20, 10), [(15, 0, 25, 10), (0, 0, 40, 20)], (100, 200)
  )
  assert quality.coverage == pytest.approx(0.5)
  assert quality.iou == pytest.approx(0.25)
  assert quality.area == pytest.approx(0.01)
  apart = records.box_quality((0, 0, 5, 5), [(5, 0, 9, 9)], (10, 10))
  assert (apart.iou, apart.coverage) == (0, 0)
  assert records.box_quality((0, 0, 5, 5), [], (10, 10)) is None


def test_box_quality_agrees_with_counted_pixels():
  rng = np.random.default_rng(0)
  for _ in range(50):
    corners = np.sort(rng.integers(0, 31, (2, 2, 2)), axis=1)
    corners[:, 1] += 1
    a, b = (tuple(int(v) for v in pair.ravel()) for pair in corners)
    masks = np.zeros((2, 32, 32), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, (a, b)):
      mask[y1:y2, x1:x2] = True
    quality = records.box_quality(a, [b], (32, 32))
    both, either = (masks[0] & masks[1]).sum(), (masks[0] | masks[1]).sum()
    assert quality.iou == pytest.approx(both / either)
    assert quality.coverage == pytest.approx(both / masks[1].sum())
    assert quality.area == pytest.approx(masks[0].sum() / 1024)


def test_box_quality_agrees_with_the_rewards_geometry():
  rng = np.random.default_rng(1)
  corners = np.sort(rng.integers(0, 60, (20, 3, 2, 2)), axis=2)
  corners[:, :, 1] += 4
  triples = corners.reshape(20, 3, 4)
  for box, *targets in triples.tolist():
    quality = records.box_quality(box, targets, (80, 90))
    ious = [float(boxes.iou(np.array(box), np.array(t))) for t in targets]
    assert quality.iou == pytest.approx(max(ious), abs=1e-6)
    inner = boxes.coverage(np.array(box), np.array(targets[0]))
    assert quality.coverage == pytest.approx(float(inner), abs=1e-6)


def test_jpeg_bytes_keeps_the_aspect_within_the_limit():
  image = np.zeros((300, 600, 3), np.uint8)
  image[..., 0] = 200
  data = records.jpeg_bytes(image, max_side=150)
  with PIL.Image.open(io.BytesIO(data)) as shown:
    assert shown.format == "JPEG"
    assert shown.size == (150, 75)
    np.testing.assert_allclose(shown.getpixel((70, 30)), (200, 0, 0), atol=4)


def test_reward_and_last_box_of_a_rollout():
  turn = records.TurnRecord
  rollout = dataclasses.replace(
    samples.make_records(1)[0],
    rewards={"accuracy": 0.8, "tool": 1.2, "format": -0.2},
    turns=(
      turn("", "OK", box=(0, 0, 1, 1)),
      turn("", "OK", box=(0, 0, 2, 2)),
      turn("", "NOT_JSON"),
    ),
  )
  assert rollout.reward == pytest.approx(1.8)
  assert rollout.last_box == (0, 0, 2, 2)
  assert rollout.called
  assert not dataclasses.replace(rollout, turns=(turn("x"),)).called
