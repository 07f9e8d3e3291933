"""Published data sets built with TFDS, opened by name, and surveyed."""

import dataclasses
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from lfpc_jax.data import check, described, loader, manual, registry
from lfpc_jax.data.sources import deep_eyes, folder, rows
from lfpc_jax.errors import UserError
from tests import command_line
from tests.data.sources import layouts

FOLDER, DEEP = folder.SOURCE, deep_eyes.SOURCE


def _own(root, *changes):
  """Lines of one's own data, each with its own image."""
  found = []
  for k, change in enumerate(changes):
    layouts.write_image(root / f"{k}.png", k)
    found.append(
      {"image": f"{k}.png", "question": f"Q{k}?", "answer": str(k), **change}
    )
  layouts.write_lines(root / "train.jsonl", *found)
  return root


def _data(data_dir, name="folder", **fields):
  data = {"name": name, "dir": data_dir, "option_order": "", "option_seed": 0}
  return data | fields


def _open(data_dir, name="folder", split="train", **fields):
  return loader.open_data(_data(data_dir, name, **fields), split)


def test_an_example_survives_the_round_trip(tmp_path):
  full = {
    "options": ["red", "blue"],
    "answer": "B",
    "boxes": [[10, 10, 20, 20.5], [0, -1, 50, 39]],
    "category": "colour",
    "id": "x",
  }
  root = _own(tmp_path / "raw", full, {})
  path, ledger = manual.prepare(FOLDER, root, tmp_path / "data")
  assert path.is_dir() and ledger.faults == []
  first, second = _open(tmp_path / "data")
  assert (first.id, first.question, first.answer) == ("x", "Q0?", "B")
  assert first.options == ("red", "blue") and first.category == "colour"
  assert first.boxes.tolist() == [[10, 10, 20, 21], [0, 0, 50, 39]]
  assert first.boxes.dtype == np.int32
  assert (first.source, first.image_id) == ("folder", "0.png")
  assert (second.options, second.boxes.shape) == ((), (0, 4))
  np.testing.assert_array_equal(second.image, np.full((40, 60, 3), 1, np.uint8))


def test_a_small_image_and_its_boxes_are_enlarged_together(tmp_path):
  root = tmp_path / "raw"
  layouts.write_image(root / "0.png", 9, size=(14, 28))
  line = {"image": "0.png", "question": "?", "answer": "x"}
  layouts.write_lines(root / "train.jsonl", {**line, "boxes": [1, 2, 5, 6]})
  manual.prepare(FOLDER, root, tmp_path / "data")
  (example,) = _open(tmp_path / "data")
  assert example.image.shape == (28, 56, 3)
  assert example.boxes.tolist() == [[2, 4, 10, 12]]


def test_hr_bench_keeps_groups_rotations_and_images(tmp_path):
  root = tmp_path / "raw"
  root.mkdir()
  layouts.write_tsv(root / "hr_bench_8k.tsv", layouts.hr_rows(2))
  source = registry.SOURCES["hr_bench_8k"]
  manual.prepare(source, root, tmp_path / "data")
  found = list(_open(tmp_path / "data", "hr_bench_8k", "test"))
  assert [e.group for e in found] == ["8k-q0"] * 4 + ["8k-q1"] * 4
  assert [e.variant for e in found[:4]] == list("0123")
  assert len({e.image_id for e in found}) == 2
  assert [e.options["ABCD".index(e.answer)] for e in found] == ["green"] * 8


def test_rows_keep_their_order_over_shards(tmp_path, monkeypatch):
  monkeypatch.setattr(manual, "_SHARD_ROWS", 3)
  found = [
    layouts.verl_row(images=[{"bytes": layouts.image_bytes(n)}])
    for n in range(8)
  ]
  # A whole shard, the second, is broken.
  for n in (3, 4, 5):
    found[n]["images"] = [{"bytes": b"junk"}]
  layouts.write_parquet(tmp_path / deep_eyes.FILES["charts"], found)
  path, ledger = manual.prepare(DEEP, tmp_path, tmp_path / "data")
  assert ledger.count(rows.BROKEN) == 3
  assert len(list(path.glob("*array_record*"))) >= 2
  source = _open(tmp_path / "data", "deep_eyes", "charts")
  values = [int(example.image[0, 0, 0]) for example in source]
  assert values == [0, 1, 2, 6, 7]


def test_shards_are_cut_by_bytes_too(monkeypatch):
  monkeypatch.setattr(manual, "_SHARD_BYTES", 10)

  class Sized:
    def __init__(self, size):
      self.image = self
      self.size = size

  found = [Sized(n) for n in (4, 4, 4, 30, 1, 9, 1)]
  parts = [
    (first, [row.size for row in part]) for first, part in manual._shards(found)
  ]
  assert parts == [(0, [4, 4]), (2, [4]), (3, [30]), (4, [1, 9]), (6, [1])]


def test_what_was_not_taken_is_kept_with_the_data_set(tmp_path):
  root = _own(tmp_path / "raw", {}, {"image": "none.png"}, {})
  (root / "2.png").write_bytes(b"junk")
  manual.prepare(FOLDER, root, tmp_path / "data")
  builder = manual.open_builder(tmp_path / "data", FOLDER)
  metadata = builder.info.metadata
  assert metadata["broken"] == 2 and metadata["left_out"] == 0
  assert [f["where"] for f in metadata["faults"]] == [
    "train.jsonl line 2",
    "train.jsonl line 3",
  ]
  assert len(_open(tmp_path / "data")) == 1


@pytest.mark.parametrize("broken", ["row", "image"])
def test_a_broken_row_can_stop_the_build_and_leaves_nothing(tmp_path, broken):
  root = _own(tmp_path / "raw", {}, {})
  if broken == "row":
    layouts.write_lines(root / "train.jsonl", "{")
  else:
    (root / "1.png").write_bytes(b"junk")
  with pytest.raises(UserError, match="train.jsonl line"):
    manual.prepare(FOLDER, root, tmp_path / "data", on_error="stop")
  with pytest.raises(UserError, match="no data set at"):
    _open(tmp_path / "data")
  if broken == "image":
    manual.prepare(FOLDER, root, tmp_path / "data")
    assert len(_open(tmp_path / "data")) == 1


def test_nothing_usable_is_an_error_that_says_why(tmp_path):
  root = _own(tmp_path / "raw", {"image": "none.png"})
  with pytest.raises(UserError, match="no row .*line 1: no image 'none.png'"):
    manual.prepare(FOLDER, root, tmp_path / "data")


def test_no_usable_image_leaves_no_data_set(tmp_path):
  root = _own(tmp_path / "raw", {}, {})
  with pytest.raises(
    UserError, match="no row of folder .*: train.jsonl line 1"
  ):
    manual.prepare(FOLDER, root, tmp_path / "data", max_pixels=9)
  manual.prepare(FOLDER, root, tmp_path / "data")
  assert len(_open(tmp_path / "data")) == 2


def test_a_data_set_is_not_built_over_another(tmp_path):
  root = _own(tmp_path / "raw", {})
  manual.prepare(FOLDER, root, tmp_path / "data")
  with pytest.raises(UserError, match="is there already: remove it"):
    manual.prepare(FOLDER, root, tmp_path / "data")


def test_a_pixel_limit_of_the_build(tmp_path):
  root = _own(tmp_path / "raw", {}, {})
  layouts.write_image(root / "1.png", 1, size=(41, 60))
  _, ledger = manual.prepare(
    FOLDER, root, tmp_path / "data", max_pixels=40 * 60
  )
  (fault,) = ledger.faults
  assert "2,400 pixels" in fault.reason


def test_the_build_command(tmp_path, capsys):
  root = _own(tmp_path / "raw", {}, {"image": "none.png"})
  data = str(tmp_path / "data")
  arguments = ["--name=folder", f"--dir={root}", f"--data_dir={data}"]
  assert command_line.status(manual.main, [*arguments, "--on_error=stop"]) == 1
  assert "error: train.jsonl line 2" in capsys.readouterr().err
  assert manual.main(arguments) == 0
  out = capsys.readouterr().out
  assert "broken: train.jsonl line 2: no image" in out
  assert "1 broken rows, 0 left out" in out


def test_a_data_set_that_is_not_built_names_the_command(tmp_path):
  with pytest.raises(UserError) as caught:
    _open(tmp_path / "my data", "vstar", "test")
  text = str(caught.value)
  assert "lfpc_jax.data.manual --name=vstar" in text
  assert "my data' --dir=DIR" in text and "craigwu/vstar_bench" in text


def test_unknown_names_and_splits_are_named(tmp_path):
  with pytest.raises(UserError, match="'vstarr'.*'hr_bench_4k'"):
    _open(tmp_path, "vstarr")
  manual.prepare(FOLDER, _own(tmp_path / "raw", {}), tmp_path / "data")
  with pytest.raises(UserError, match="no split 'test'.*'train'"):
    _open(tmp_path / "data", split="test")


def test_vstar_is_shuffled_unless_the_stored_order_is_asked_for(tmp_path):
  root = tmp_path / "raw"
  for k in range(12):
    layouts.write_vstar(root, f"sa_{k}")
  manual.prepare(registry.SOURCES["vstar"], root, tmp_path / "data")

  def letters(**fields):
    return "".join(
      e.answer for e in _open(tmp_path / "data", "vstar", "test", **fields)
    )

  assert len(set(letters())) > 1
  assert letters() == letters(option_order="shuffled", option_seed=0)
  assert letters() != letters(option_seed=1)
  assert letters(option_order="stored") == "A" * 12
  with pytest.raises(UserError, match=r"data.option_order='fixed': choose"):
    letters(option_order="fixed")
  example = _open(tmp_path / "data", "vstar", "test")[0]
  right = example.options["ABCD".index(example.answer)]
  assert right == "The material of the glove is rubber."


def test_larger_images_are_shrunk_by_flag(tmp_path):
  root = _own(tmp_path / "raw", {"boxes": [[10, 10, 20, 20]]})  # of 40 x 60
  manual.prepare(FOLDER, root, tmp_path / "data")
  flags = dict(image_capacity=(40, 45))
  assert _open(tmp_path / "data", **flags)[0].image.shape == (40, 60, 3)
  flags["oversize"] = "shrink"
  example = _open(tmp_path / "data", **flags)[0]
  assert example.image.shape == (30, 45, 3) and example.shrunk
  assert example.boxes.tolist() == [[7, 7, 15, 15]]
  with pytest.raises(UserError, match=r"data.oversize='crop': choose"):
    _open(tmp_path / "data", oversize="crop")


def test_data_sets_are_joined_one_after_the_other(tmp_path):
  data = tmp_path / "data"
  manual.prepare(FOLDER, _own(tmp_path / "raw", {}, {}), data)
  layouts.write_parquet(
    tmp_path / deep_eyes.FILES["thinklite"], [layouts.verl_row()] * 3
  )
  manual.prepare(DEEP, tmp_path, data)
  source = _open(data, "folder+deep_eyes", "train+thinklite")
  assert len(source) == 5
  assert [e.source for e in source] == ["folder"] * 2 + ["deep_eyes"] * 3
  assert source[1].id == "folder/train-2" == source.words(1).id
  assert source[4].answer == "red" and source.words(4).image.size == 0
  for index in (-1, 5):
    with pytest.raises(IndexError):
      _ = source[index]
  with pytest.raises(UserError, match="2 parts for the 1 data sets"):
    _open(data, "folder", "train+test")


def test_a_mix_draws_so_many_questions_of_each_set(tmp_path):
  data = tmp_path / "data"
  manual.prepare(FOLDER, _own(tmp_path / "raw", *[{}] * 9), data)
  layouts.write_parquet(
    tmp_path / deep_eyes.FILES["thinklite"], [layouts.verl_row()] * 3
  )
  manual.prepare(DEEP, tmp_path, data)

  def drawn(mix, seed=0):
    source = _open(
      data,
      "folder+deep_eyes",
      "train+thinklite",
      mix=mix,
      mix_seed=seed,
    )
    return [example.id for example in source]

  whole = drawn(())
  assert len(whole) == 12 and drawn((0, 0)) == whole
  some = drawn((4, 2))
  assert [name.split("/")[0] for name in some] == ["folder"] * 4 + [
    "deep_eyes"
  ] * 2
  # In stored order, none twice, the same by the same seed alone.
  assert [x for x in whole if x in some] == some
  assert some == drawn((4, 2))
  assert len({tuple(drawn((4, 2), seed)) for seed in range(5)}) > 1
  assert drawn((0, 1))[:9] == whole[:9]
  # What is not there cannot be drawn.
  assert drawn((100, 3)) == whole
  notes = described.notes(
    _data(data, "folder+deep_eyes", mix=(100, 3)), "train+thinklite"
  )
  assert notes == [
    "data.mix asks for 100 questions of folder, split train: all 9 are taken."
  ]
  for mix in ((4,), (4, -1), (1, 2, 3)):
    with pytest.raises(UserError, match=r"data.mix=.*each of the 2 data sets"):
      drawn(mix)


def test_building_and_reading_need_no_tensorflow(tmp_path):
  root = _own(tmp_path / "raw", {})
  trap = tmp_path / "trap" / "tensorflow"
  trap.mkdir(parents=True)
  (trap / "__init__.py").write_text('raise AssertionError("imported")')
  code = f"""
import sys
from lfpc_jax.data import loader, manual
assert manual.main(["--name=folder", "--dir={root}",
                    "--data_dir={tmp_path / "data"}"]) == 0
data = dict(name="folder", dir={str(tmp_path / "data")!r}, option_order="",
            option_seed=0)
assert loader.open_data(data, "train")[0].answer == "0"
assert "tensorflow" not in sys.modules
"""
  path = os.pathsep.join([str(trap.parent), os.getcwd()])
  subprocess.run(
    [sys.executable, "-c", code],
    env={**os.environ, "PYTHONPATH": path},
    check=True,
  )


# data.check


def _check(capsys, *arguments):
  status = command_line.status(check.main, arguments)
  captured = capsys.readouterr()
  return status, " ".join(captured.out.split()), captured.err


def test_check_of_a_good_data_set(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv("COLUMNS", "200")
  boxed = {"boxes": [[0, 0, 6, 4]], "options": ["red", "blue"], "answer": "B"}
  root = _own(tmp_path, {}, boxed, {"category": "number"})
  status, out, _ = _check(capsys, "--name=folder", f"--dir={root}")
  assert status == 0
  assert "folder, split train" in out
  assert "usable rows │ 3" in out and "broken rows │ 0" in out
  assert "smallest image │ 40 x 60" in out
  assert "│ 1.000 / 1.000 / 1.000 %" in out  # 24 of 2,400 pixels
  assert "│ all │ 2 │ 66.7 %" in out and "│ number │ 1 │ 33.3 %" in out
  assert "│ open questions │ 2" in out and "│ 2 options │ 1" in out
  assert "│ B │ 1" in out and "│ blue │ 1" in out
  assert "│ 0 boxes │ 2" in out and "│ 1 boxes │ 1" in out
  assert "│ up to 0.25 │ 3" in out
  assert "What is wrong" not in out


def test_check_lists_what_is_wrong(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv("COLUMNS", "200")
  root = _own(tmp_path, {}, {"image": "../x.png"}, {}, {"answer": "A"})
  (root / "2.png").write_bytes(b"junk")
  status, out, _ = _check(capsys, "--name=folder", f"--dir={root}")
  assert status == 1
  assert "train.jsonl line 2 │ broken │ the path '../x.png' leads out" in out
  assert "train.jsonl line 3 │ broken │ 4 bytes are no JPEG" in out
  assert "1 open questions have a letter for an answer" in out
  status, out, _ = _check(
    capsys, "--name=folder", f"--dir={root}", "--no_images", "--show=0"
  )
  assert status == 1 and "1 more" in out and "Images by size" not in out


def test_check_can_stop_at_the_first_broken_row(tmp_path, capsys):
  root = _own(tmp_path, {}, {"image": "none.png"})
  status, _, err = _check(
    capsys, "--name=folder", f"--dir={root}", "--on_error=stop"
  )
  assert status == 1 and err.startswith("error: train.jsonl line 2")


def test_check_counts_videos_and_is_content(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv("COLUMNS", "200")
  row = {
    "question": "Which?",
    "answer": ["x"],
    "image": ["a.mp4"],
    "qid": "1",
    "is_video": True,
  }
  layouts.write_parquet(tmp_path / "release.parquet", [row] * 3)
  status, out, _ = _check(capsys, "--name=pixel_reasoner", f"--dir={tmp_path}")
  assert status == 0
  assert "rows left out │ 3" in out and "3 rows │ left out │ a video" in out


def test_check_of_benchmarks(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv("COLUMNS", "200")
  for k in range(9):
    layouts.write_vstar(tmp_path, f"sa_{k}")
  layouts.write_tsv(tmp_path / "hr_bench_4k.tsv", layouts.hr_rows(2)[:7])
  status, out, _ = _check(capsys, "--name=vstar", f"--dir={tmp_path}")
  assert status == 3
  assert "the right option is always A" in out
  assert "9 rows, where 191 are published" in out
  status, out, _ = _check(
    capsys, "--name=hr_bench_4k", f"--dir={tmp_path}", "--md5"
  )
  assert status == 3
  assert "7 rows, where 800 are published" in out
  assert "1 questions have not their four rotations, such as 4k-q1" in out
  assert "NOT f6b041b03d49543494b8a56d2e35be65" in out
  assert "groups of questions │ 2" in out


def test_check_tells_broken_rows_from_a_wrong_count(
  tmp_path, capsys, monkeypatch
):
  source = dataclasses.replace(FOLDER, published={"train": 2})
  monkeypatch.setitem(check.registry.__dict__, "SOURCES", {"folder": source})

  def status(*changes):
    shutil.rmtree(tmp_path / "raw", ignore_errors=True)
    root = _own(tmp_path / "raw", *changes)
    return _check(capsys, "--name=folder", f"--dir={root}")[0]

  assert status({}, {}) == 0
  assert status({}) == status({}, {}, {}) == 3
  assert status({}, {"image": "none.png"}) == 1
  assert status({}, {}, {"image": "none.png"}) == 1


def test_the_build_says_how_many_rows_each_split_has(tmp_path, capsys):
  for k in range(3):
    layouts.write_vstar(tmp_path, f"sa_{k}")
  (tmp_path / "direct_attributes" / "sa_2.jpg").write_bytes(b"junk")
  layouts.write_lines(tmp_path / "test_questions.jsonl", layouts.vstar_line())
  arguments = ["--name=vstar", f"--dir={tmp_path}"]
  assert manual.main([*arguments, f"--data_dir={tmp_path / 'data'}"]) == 0
  out = capsys.readouterr().out
  assert "split test: 2 of 191 published rows" in out
  assert "warning: 189 rows of split test are missing" in out
  assert "split test_questions: 1 of 191 published rows" in out
  tests, lines = (
    described.describe(_data(tmp_path / "data", "vstar"), split)[0]
    for split in ("test", "test_questions")
  )
  assert (tests.rows, tests.broken, tests.left_out) == (2, 1, 0)
  assert (lines.rows, lines.broken) == (1, 0)
  assert "found 1 broken and left out 0" in tests.missing
  assert "test_questions, has 1 of 191 published" in lines.missing


def test_a_whole_set_has_nothing_missing(tmp_path, capsys):
  root = _own(tmp_path / "raw", {}, {})
  arguments = ["--name=folder", f"--dir={root}"]
  assert manual.main([*arguments, f"--data_dir={tmp_path / 'data'}"]) == 0
  out = capsys.readouterr().out
  assert "split train: 2 rows" in out and "warning" not in out
  (found,) = described.describe(_data(tmp_path / "data"), "train")
  assert found.missing == "" and found.published is None


def test_check_prints_no_control_characters_and_no_markup(
  tmp_path, capsys, monkeypatch
):
  monkeypatch.setenv("COLUMNS", "200")
  root = _own(tmp_path, {"answer": "[red]x[/red]\x1b[31m"})
  _, out, _ = _check(capsys, "--name=folder", f"--dir={root}")
  assert "[red]x[/red]�[31m" in out and "\x1b[31m" not in out


def test_check_names_unknown_splits_and_missing_files(tmp_path, capsys):
  root = _own(tmp_path, {})
  arguments = ("--name=folder", f"--dir={root}", "--split=dev")
  status, _, err = _check(capsys, *arguments)
  assert status == 1 and "--split=dev" in err and "train" in err
  status, _, err = _check(capsys, "--name=vstar", f"--dir={root}")
  assert status == 1 and "craigwu/vstar_bench" in err


def test_check_counts_questions_with_equal_options(
  tmp_path, capsys, monkeypatch
):
  monkeypatch.setenv("COLUMNS", "200")
  found = layouts.hr_rows(1)
  found[2]["A"] = found[2]["B"]
  layouts.write_tsv(tmp_path / "hr_bench_4k.tsv", found)
  _, out, _ = _check(capsys, "--name=hr_bench_4k", f"--dir={tmp_path}")
  assert "usable rows │ 4" in out
  assert "1 questions have two equal options" in out


def test_check_finds_repeated_questions_and_unmatchable_answers(
  tmp_path, capsys, monkeypatch
):
  monkeypatch.setenv("COLUMNS", "200")
  layouts.write_image(tmp_path / "0.png", 0)
  same = {"image": "0.png", "question": "Q?", "answer": "7"}
  long = {"image": "0.png", "question": "R?", "answer": "x" * 1000}
  layouts.write_lines(tmp_path / "train.jsonl", same, same, long)
  _, out, _ = _check(capsys, "--name=folder", f"--dir={tmp_path}")
  assert "1 questions are asked more than once of the same image" in out
  assert "1 answers are too long" in out
