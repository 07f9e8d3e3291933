"""Each reader on small files in the published layout, oddities included."""

import base64
import json

import pyarrow.parquet as pq
import pytest

from lfpc_jax.benchmarks import published_rules
from lfpc_jax.data.sources import (
  chain_of_focus,
  deep_eyes,
  folder,
  hr_bench,
  pixel_reasoner,
  rows,
  visual_probe,
  vstar,
)
from lfpc_jax.errors import UserError
from lfpc_jax.rl import answers
from tests.data.sources import layouts

VSTAR, HR = vstar.SOURCE, hr_bench.SOURCE_4K
PROBE, PIXEL = visual_probe.SOURCE, pixel_reasoner.SOURCE
COF, DEEP = chain_of_focus.SOURCE, deep_eyes.SOURCE
FOLDER = folder.SOURCE


@pytest.mark.parametrize(
  "source", [VSTAR, HR, PROBE, PIXEL, COF, DEEP, FOLDER], ids=lambda s: s.name
)
def test_missing_files_are_answered_with_instructions(source, tmp_path):
  with pytest.raises(UserError, match="no such folder"):
    source.find_splits(tmp_path / "none")
  with pytest.raises(UserError) as caught:
    source.find_splits(tmp_path)
  assert source.instructions in str(caught.value)


# V*Bench


def test_vstar_reads_a_json_for_each_image(tmp_path):
  layouts.write_vstar(tmp_path)
  layouts.write_vstar(tmp_path, "sa_2", "relative_position")
  (row, other), faults = layouts.read(VSTAR, tmp_path)
  assert faults == []
  assert row.id == "direct_attributes/sa_1"
  assert row.category == "direct_attributes"
  assert other.category == "relative_position"
  assert row.question == "What is the material of the glove?"
  assert row.options[0] == "The material of the glove is rubber."
  assert row.answer == "A"  # the first is always the right one
  assert row.boxes == ((10, 20, 25, 28),)  # x, y, width, height
  data, picture, boxes = row.load()
  assert boxes.tolist() == [[10, 20, 25, 28]]
  assert picture.pixels.shape == (40, 60, 3)
  assert data == layouts.image_bytes(kind="JPEG")


def test_vstar_boxes_of_several_targets_become_the_region_around_them(
  tmp_path,
):
  layouts.write_vstar(
    tmp_path, target_object=["a", "b"], bbox=[[10, 20, 5, 5], [30, 2, 4, 6]]
  )
  assert layouts.read_one(VSTAR, tmp_path, "test").boxes == ((10, 2, 34, 25),)


def test_vstar_takes_a_single_box_that_is_no_list_of_boxes(tmp_path):
  layouts.write_vstar(tmp_path, target_object="glove", bbox=[1, 2, 3, 4])
  assert layouts.read_one(VSTAR, tmp_path, "test").boxes == ((1, 2, 4, 6),)


@pytest.mark.parametrize(
  "changes, reason",
  [
    ({"options": []}, "no options"),
    ({"options": ["a", "a"]}, "the same"),
    ({"options": "abcd"}, "must be a list"),
    ({"question": None}, "'question' is missing"),
    ({"question": ["a"]}, "must be text"),
    ({"bbox": [[1, 2, 3]]}, "four numbers"),
    ({"bbox": [[1, 2, 3, 4], [1, 2, 3, 4]]}, "1 target objects, but 2"),
  ],
)
def test_vstar_faults_name_file_and_reason(tmp_path, changes, reason):
  layouts.write_vstar(tmp_path, **changes)
  layouts.write_vstar(tmp_path, "sa_2", "relative_position")
  found, (fault,) = layouts.read(VSTAR, tmp_path)
  assert len(found) == 1
  assert fault.where == "direct_attributes/sa_1.json"
  assert reason in fault.reason and fault.kind == rows.BROKEN


def test_vstar_lists_images_and_jsons_without_each_other(tmp_path):
  folder_ = tmp_path / "direct_attributes"
  layouts.write_image(folder_ / "alone.jpg", kind="JPEG")
  layouts.write_json(folder_ / "blind.json", layouts.vstar_row())
  (folder_ / "bad.json").write_text("{")
  layouts.write_image(folder_ / "bad.jpg", kind="JPEG")
  (tmp_path / "relative_position").mkdir()
  found, faults = layouts.read(VSTAR, tmp_path)
  assert found == []
  reasons = {fault.where.split("/")[1]: fault.reason for fault in faults}
  assert "this JSON is missing" in reasons["alone.json"]
  assert "image is missing" in reasons["blind.json"]
  assert "no valid JSON" in reasons["bad.json"]


def test_vstar_names_a_folder_that_is_missing(tmp_path):
  layouts.write_vstar(tmp_path)
  (tmp_path / "relative_position").rmdir()
  found, (fault,) = layouts.read(VSTAR, tmp_path)
  assert len(found) == 1 and fault.where == "relative_position"


def test_vstar_lines_keep_their_own_order_of_options(tmp_path):
  layouts.write_vstar(tmp_path)
  layouts.write_lines(tmp_path / "test_questions.jsonl", layouts.vstar_line())
  assert VSTAR.find_splits(tmp_path) == ("test", "test_questions")
  row = layouts.read_one(VSTAR, tmp_path, "test_questions")
  assert row.question == "What is the material of the glove?"
  assert row.options == ("cotton", "rubber", "kevlar", "leather")
  assert (row.answer, row.id) == ("B", "0")
  assert row.boxes == ((10, 20, 25, 28),)  # from the image's own JSON


def test_vstar_lines_need_no_json_beside_the_image(tmp_path):
  layouts.write_image(tmp_path / "direct_attributes/sa_1.jpg", kind="JPEG")
  layouts.write_lines(tmp_path / "test_questions.jsonl", layouts.vstar_line())
  row = layouts.read_one(VSTAR, tmp_path, "test_questions")
  assert row.boxes == ()


@pytest.mark.parametrize(
  "line, reason",
  [
    ("{", "no valid JSON"),
    ("[]", "must be an object"),
    (layouts.vstar_line(label="E"), "label 'E' is none of 4"),
    (layouts.vstar_line(label="rubber"), "label 'rubber'"),
    (layouts.vstar_line(text="What?"), "no options"),
    (layouts.vstar_line(image="../x.jpg"), "leads out of"),
    (layouts.vstar_line(image="x.jpg"), "no image 'x.jpg'"),
    (layouts.vstar_line(category=None), "'category' is missing"),
  ],
)
def test_vstar_lines_faults(tmp_path, line, reason):
  layouts.write_vstar(tmp_path)
  layouts.write_lines(
    tmp_path / "test_questions.jsonl", line, layouts.vstar_line()
  )
  found, (fault,) = layouts.read(VSTAR, tmp_path, "test_questions")
  assert len(found) == 1
  assert fault.where == "test_questions.jsonl line 1" and reason in fault.reason


# HR-Bench


def _hr_file(root, form, found):
  path = root / f"hr_bench_4k.{form}"
  if form == "tsv":
    layouts.write_tsv(path, found)
  else:
    layouts.write_parquet(path, found, row_group_size=3)


@pytest.mark.parametrize("form", ["tsv", "parquet"])
def test_hr_bench_groups_the_four_rotations(tmp_path, form):
  _hr_file(tmp_path, form, layouts.hr_rows(3))
  found, faults = layouts.read(HR, tmp_path)
  assert faults == [] and len(found) == 12
  assert [row.group for row in found] == [f"4k-q{n // 4}" for n in range(12)]
  assert [row.variant for row in found[:4]] == ["0", "1", "2", "3"]
  assert [row.category for row in found[::4]] == ["single", "cross", "single"]
  for number, row in enumerate(found):
    assert row.options["ABCD".index(row.answer)] == "green"
    assert row.load()[0] == layouts.image_bytes(number // 4)
    assert row.image_id == found[number // 4 * 4].image_id
  assert len({row.image_id for row in found}) == 3
  assert [row.id for row in found[:2]] == ["4k-0", "4k-1"]


def test_hr_bench_reads_the_same_from_both_forms(tmp_path):
  found = []
  for form in ("tsv", "parquet"):
    (tmp_path / form).mkdir()
    _hr_file(tmp_path / form, form, layouts.hr_rows(2))
    found.append(layouts.read(HR, tmp_path / form)[0])
  for one, other in zip(*found, strict=True):
    for name in ("id", "question", "answer", "options", "group", "variant"):
      assert getattr(one, name) == getattr(other, name)
    assert one.load()[0] == other.load()[0]


def test_hr_bench_8k_has_its_own_file(tmp_path):
  layouts.write_tsv(tmp_path / "hr_bench_8k.tsv", layouts.hr_rows(1))
  assert HR.splits(tmp_path) == ()
  found, _ = layouts.read(hr_bench.SOURCE_8K, tmp_path)
  assert [row.id for row in found] == [f"8k-{n}" for n in range(4)]


@pytest.mark.parametrize("form", ["tsv", "parquet"])
@pytest.mark.parametrize(
  "changes, reason",
  [
    ({"answer": "E"}, "answer 'E' is none of"),
    ({"answer": "green"}, "answer 'green'"),
    ({"C": ""}, "an option is empty|'C' is missing"),
    ({"category": "triple"}, "category 'triple'"),
    ({"question": " "}, "question is empty"),
    ({"cycle_category": 1}, "rotation '1' of this question came before"),
    ({"index": 2}, "id '4k-2' came before"),
    ({"image": ""}, "no image"),
  ],
)
def test_hr_bench_faults(tmp_path, form, changes, reason):
  found = layouts.hr_rows(1)
  found[3].update(changes)
  _hr_file(tmp_path, form, found)
  good, (fault,) = layouts.read(HR, tmp_path)
  assert len(good) == 3
  assert fault.where.endswith("row 4")
  assert any(part in fault.reason for part in reason.split("|"))


@pytest.mark.parametrize("form", ["tsv", "parquet"])
def test_hr_bench_keeps_a_row_with_two_equal_options(tmp_path, form):
  found = layouts.hr_rows(1)
  for row in found:
    # As if red were listed twice, and no white.
    row.update({x: row[x].replace("white", "red") for x in "ABCD"})
  _hr_file(tmp_path, form, found)
  rows, faults = layouts.read(HR, tmp_path)
  assert len(rows) == 4 and faults == []
  first = rows[0]
  assert first.options == ("red", "blue", "green", "red")
  choose = answers.chosen_option
  assert [choose(x, first.options) for x in "ACD"] == [0, 2, 3]
  assert choose("red", first.options) is None
  assert choose("D. red", first.options) == 3
  # VLMEvalKit reads the same.
  kit = published_rules.vlmevalkit
  assert [kit(x, first.options) for x in ("A", "D", "red")] == [0, 3, None]


@pytest.mark.parametrize("tail", ["", " " + "long" * 300, ' "long"' * 200])
def test_hr_bench_text_with_quotes_tabs_and_line_breaks(tmp_path, tail):
  found = layouts.hr_rows(1)
  for row in found:
    row["question"] = f'The "STOP" sign,\twhere\nis it?{tail}'
  found[2]["A"] = 'It says "A"'
  _hr_file(tmp_path, "tsv", found)
  good, faults = layouts.read(HR, tmp_path)
  assert faults == [] and len(good) == 4
  assert good[0].question == f'The "STOP" sign,\twhere\nis it?{tail}'
  assert good[2].options[0] == 'It says "A"'
  assert all(row.load()[0] == layouts.image_bytes(0) for row in good)


def test_hr_bench_a_stray_quote_costs_one_row(tmp_path):
  _hr_file(tmp_path, "tsv", layouts.hr_rows(2))
  path = tmp_path / "hr_bench_4k.tsv"
  lines = path.read_text().splitlines(keepends=True)
  lines[3] = lines[3].replace("What", '"What', 1)
  path.write_text("".join(lines))
  good, (fault,) = layouts.read(HR, tmp_path)
  assert len(good) == 7 and fault.where.endswith("row 3")


def test_hr_bench_a_truncated_tsv_loses_its_last_row(tmp_path):
  _hr_file(tmp_path, "tsv", layouts.hr_rows(2))
  path = tmp_path / "hr_bench_4k.tsv"
  path.write_bytes(path.read_bytes()[:-101])
  good, faults = layouts.read(HR, tmp_path)
  broken = [row for row in good if not _loads(row)]
  assert len(good) - len(broken) == 7
  assert len(broken) + len(faults) == 1


def _loads(row):
  try:
    row.load()
  except rows.RowError:
    return False
  return True


def test_hr_bench_a_truncated_parquet_is_no_parquet(tmp_path):
  _hr_file(tmp_path, "parquet", layouts.hr_rows(2))
  path = tmp_path / "hr_bench_4k.parquet"
  path.write_bytes(path.read_bytes()[:-50])
  with pytest.raises(UserError, match="no Parquet file"):
    layouts.read(HR, tmp_path)


def test_hr_bench_without_an_image_column_is_refused(tmp_path):
  layouts.write_tsv(tmp_path / "hr_bench_4k.tsv", [{"index": 1, "A": "x"}])
  with pytest.raises(UserError, match="'image'"):
    layouts.read(HR, tmp_path)
  (tmp_path / "hr_bench_4k.tsv").unlink()
  layouts.write_parquet(tmp_path / "hr_bench_4k.parquet", [{"index": 1}])
  with pytest.raises(UserError, match="no column 'image'"):
    layouts.read(HR, tmp_path)


def test_hr_bench_parquet_images_may_be_bytes(tmp_path):
  found = layouts.hr_rows(1)
  for row in found:
    row["image"] = {"bytes": base64.b64decode(row["image"]), "path": None}
  _hr_file(tmp_path, "parquet", found)
  good, faults = layouts.read(HR, tmp_path)
  assert faults == [] and good[3].load()[0] == layouts.image_bytes(0)


@pytest.mark.parametrize("form", ["tsv", "parquet"])
def test_hr_bench_images_in_base64_with_other_characters(tmp_path, form):
  found = layouts.hr_rows(1)
  text = found[0]["image"]
  found[0]["image"] = f"{text[:40]}!{text[40:]}"
  found[1]["image"] = f"data:image/png;base64,{text}"
  _hr_file(tmp_path, form, found)
  good, faults = layouts.read(HR, tmp_path)
  assert len(good) + len(faults) == 4
  assert sum(map(_loads, good)) == 3
  reasons = [fault.reason for fault in faults]
  for row in good:
    if not _loads(row):
      with pytest.raises(rows.RowError) as caught:
        row.load()
      reasons.append(str(caught.value))
  assert len(reasons) == 1 and "no base64" in reasons[0]


# VisualProbe


def _probe_row(**changes):
  row = {
    "images": ["VisualProbe_train/data/visual_probe_train_7.jpg"],
    "problem": "<image>\nWhat is on the sign?",
    "solution": " STOP ",
    "data_source": "visual_probe_train",
    "doc_id": 7,
  }
  return {**row, **changes}


def _write_probe(root, *found):
  name = "VisualProbe_train"
  layouts.write_image(root / name / "data/visual_probe_train_7.jpg", 3)
  layouts.write_json(root / name / "train.json", list(found))


def test_visual_probe(tmp_path):
  _write_probe(tmp_path, _probe_row())
  row = layouts.read_one(PROBE, tmp_path)
  assert (row.question, row.answer) == ("What is on the sign?", "STOP")
  assert (row.id, row.category) == ("train-0-7", "visual_probe_train")
  assert row.boxes == () and row.options == ()
  assert row.load()[0] == layouts.image_bytes(3)


@pytest.mark.parametrize(
  "image",
  [
    "data/visual_probe_train_7.jpg",
    "./VisualProbe_train/data/visual_probe_train_7.jpg",
    "Other_folder/data/visual_probe_train_7.jpg",
  ],
)
def test_visual_probe_paths_with_and_without_the_folder(tmp_path, image):
  _write_probe(tmp_path, _probe_row(images=[image]))
  row = layouts.read_one(PROBE, tmp_path)
  assert row.load()[0] == layouts.image_bytes(3)


def test_visual_probe_a_doc_id_that_comes_twice_costs_no_row(tmp_path):
  none = _probe_row()
  del none["doc_id"]
  _write_probe(tmp_path, _probe_row(), _probe_row(), none)
  found, faults = layouts.read(PROBE, tmp_path)
  assert faults == []
  assert [row.id for row in found] == ["train-0-7", "train-1-7", "train-2-2"]


def test_visual_probe_levels(tmp_path):
  for level in ("Easy", "Medium", "Hard"):
    name = f"VisualProbe_{level}"
    layouts.write_image(tmp_path / name / "data/1.jpg", 5)
    layouts.write_json(
      tmp_path / name / "val.json",
      [_probe_row(images=[f"{name}/data/1.jpg"], data_source=None)],
    )
  assert PROBE.find_splits(tmp_path) == ("easy", "medium", "hard")
  row = layouts.read_one(PROBE, tmp_path, "hard")
  assert (row.id, row.category) == ("hard-0-7", "hard")


@pytest.mark.parametrize(
  "changes, reason, kind",
  [
    ({"images": ["a", "b"]}, "2 images", rows.LEFT_OUT),
    ({"images": []}, "no image", rows.LEFT_OUT),
    ({"images": 7}, "list of paths", rows.BROKEN),
    ({"images": ["../../etc/passwd"]}, "leads out", rows.BROKEN),
    ({"images": ["/etc/passwd"]}, "leads out", rows.BROKEN),
    ({"images": ["data/none.jpg"]}, "no image", rows.BROKEN),
    ({"solution": ""}, "answer is empty", rows.BROKEN),
    ({"problem": "<image>"}, "question is empty", rows.BROKEN),
  ],
)
def test_visual_probe_faults(tmp_path, changes, reason, kind):
  _write_probe(tmp_path, _probe_row(**changes))
  fault = layouts.read_fault(PROBE, tmp_path)
  assert reason in fault.reason and fault.kind == kind
  assert fault.where == "VisualProbe_train/train.json row 1"


def test_visual_probe_that_is_no_list_is_refused(tmp_path):
  _write_probe(tmp_path)
  layouts.write_json(tmp_path / "VisualProbe_train/train.json", {"a": 1})
  with pytest.raises(UserError, match="no list of rows"):
    layouts.read(PROBE, tmp_path)


# Pixel-Reasoner


def _pixel_row(**changes):
  row = {
    "question": "Which colour?\nchoices:\nA: red\nB: blue",
    "answer": ["\\boxed{B}"],
    "image": ["images/1.jpg"],
    "qid": "sa1brl_1",
    "is_video": False,
  }
  return {**row, **changes}


def _write_pixel(root, *found):
  layouts.write_image(root / "images/1.jpg", 4)
  layouts.write_parquet(root / "release.parquet", list(found))


def test_pixel_reasoner(tmp_path):
  _write_pixel(tmp_path, _pixel_row())
  row = layouts.read_one(PIXEL, tmp_path)
  assert (row.question, row.answer) == ("Which colour?", "B")
  assert row.options == ("red", "blue") and row.category == "choice"
  assert row.id == "0-sa1brl_1"
  assert row.load()[0] == layouts.image_bytes(4)


def test_pixel_reasoner_a_qid_that_comes_twice_costs_no_row(tmp_path):
  rows = _pixel_row(), _pixel_row(), _pixel_row(qid=None)
  _write_pixel(tmp_path, *rows)
  found, faults = layouts.read(PIXEL, tmp_path)
  assert faults == []
  assert [row.id for row in found] == ["0-sa1brl_1", "1-sa1brl_1", "2-2"]


def test_pixel_reasoner_open_questions_and_null_for_is_video(tmp_path):
  _write_pixel(
    tmp_path,
    _pixel_row(question="How many?", answer=["\\boxed{7}"], is_video=None),
  )
  row = layouts.read_one(PIXEL, tmp_path)
  assert (row.answer, row.options, row.category) == ("7", (), "open")


def test_pixel_reasoner_absolute_paths_of_the_rename_script(tmp_path):
  _write_pixel(tmp_path, _pixel_row(image=[str(tmp_path / "images/1.jpg")]))
  assert layouts.read_one(PIXEL, tmp_path).load()[0] == layouts.image_bytes(4)


@pytest.mark.parametrize(
  "changes, reason, kind",
  [
    ({"is_video": True}, "a video", rows.LEFT_OUT),
    ({"image": ["videos/1.mp4"], "is_video": None}, "a video", rows.LEFT_OUT),
    ({"image": ["images/1.jpg"] * 2}, "2 images", rows.LEFT_OUT),
    ({"image": []}, "no image", rows.LEFT_OUT),
    ({"answer": ["\\boxed{['7', '8']}"]}, "several answers", rows.LEFT_OUT),
    ({"answer": []}, "answer is empty", rows.BROKEN),
    ({"image": ["images/2.jpg"]}, "no image", rows.BROKEN),
    ({"image": ["/etc/hostname"]}, "leads out", rows.BROKEN),
    ({"question": None}, "'question' is missing", rows.BROKEN),
  ],
)
def test_pixel_reasoner_faults(tmp_path, changes, reason, kind):
  _write_pixel(tmp_path, _pixel_row(), _pixel_row(qid="2", **changes))
  good, (fault,) = layouts.read(PIXEL, tmp_path)
  assert len(good) == 1
  assert reason in fault.reason and fault.kind == kind


# Chain-of-Focus


def _cof_row(image="./images/1.jpg", **changes):
  user = (
    "<image> Question: Which colour?\n(A) red\n(B) blue\nAnswer with the"
    " option's letter from the given choices directly.\nThink in the mind"
    " first, and then decide whether to call tools"
  )
  row = layouts.verl_row(
    images=[{"image": image}],
    agent_name="cof_tool_agent",
    prompt=[
      {"role": "system", "content": "You are"},
      {"role": "user", "content": user},
    ],
    reward_model={"style": "rule", "ground_truth": "B"},
    extra_info={
      "index": 3,
      "need_tools_kwargs": True,
      "tools_kwargs": {"image_zoom_in_tool": {"create_kwargs": {"image": "x"}}},
    },
  )
  return {**row, **changes}


@pytest.mark.parametrize(
  "image",
  [
    "./images/1.jpg",
    "file://images/1.jpg",
    "1.jpg",
    "file://1.jpg",
    "file:///home/somebody/data/images/1.jpg",
  ],
)
def test_chain_of_focus(tmp_path, image):
  layouts.write_image(tmp_path / "images/1.jpg", 6)
  layouts.write_parquet(tmp_path / "train.parquet", [_cof_row(image)])
  row = layouts.read_one(COF, tmp_path)
  assert (row.question, row.answer) == ("Which colour?", "B")
  assert row.options == ("red", "blue")
  assert row.load()[0] == layouts.image_bytes(6)


def test_chain_of_focus_from_its_json(tmp_path):
  layouts.write_image(tmp_path / "images/1.jpg", 6)
  layouts.write_json(
    tmp_path / "train.json",
    [
      {
        "question": "How many?\nAnswer the question using a single word or"
        " phrase.",
        "groundtruth": "seven",
        "image_name": "1.jpg",
        "data_source": "llava",
      }
    ],
  )
  row = layouts.read_one(COF, tmp_path)
  assert (row.question, row.answer) == ("How many?", "seven")
  assert row.category == "llava"


@pytest.mark.parametrize(
  "changes, reason",
  [
    ({"image": "file:///etc/passwd"}, "leads out"),
    ({"image": "2.jpg"}, "no image"),
    ({"images": None}, "'images' is missing"),
    ({"prompt": [{"role": "system", "content": "x"}]}, "no question"),
    ({"prompt": None}, "no question"),
    ({"reward_model": None}, "no ground truth"),
  ],
)
def test_chain_of_focus_faults(tmp_path, changes, reason):
  layouts.write_image(tmp_path / "images/1.jpg", 6)
  layouts.write_parquet(tmp_path / "train.parquet", [_cof_row(**changes)])
  assert reason in layouts.read_fault(COF, tmp_path).reason


# DeepEyes


def _deep(root, *found, split="visual_search", **options):
  layouts.write_parquet(root / deep_eyes.FILES[split], list(found), **options)


def test_deep_eyes(tmp_path):
  _deep(tmp_path, layouts.verl_row())
  row = layouts.read_one(DEEP, tmp_path)
  assert (row.question, row.answer) == ("Which colour?", "red")
  assert (row.id, row.category) == ("0-17", "vstar")
  assert row.load()[0] == layouts.image_bytes(7)


def test_deep_eyes_question_from_the_prompt(tmp_path):
  extra = {"answer": "red", "index": 5}
  _deep(tmp_path, layouts.verl_row(extra_info=extra))
  row = layouts.read_one(DEEP, tmp_path)
  assert (row.question, row.id) == ("Which colour?", "0-5")


def test_deep_eyes_splits_and_thinklite(tmp_path):
  for split in deep_eyes.FILES:
    _deep(tmp_path, layouts.verl_row(), split=split)
  assert DEEP.find_splits(tmp_path) == ("visual_search", "charts", "thinklite")
  tiny = [{"bytes": layouts.image_bytes(9, (12, 20))}]
  boxed = {"style": "rule", "ground_truth": "\\boxed{7}"}
  _deep(
    tmp_path,
    layouts.verl_row(images=tiny, reward_model=boxed, env_name=""),
    split="thinklite",
  )
  row = layouts.read_one(DEEP, tmp_path, "thinklite")
  _, picture, _ = row.load()
  assert row.answer == "7"
  assert picture.pixels.shape == (28, 47, 3)
  assert picture.treatments == ("enlarged",)


def test_deep_eyes_images_by_row_in_any_order(tmp_path):
  found = [
    layouts.verl_row(images=[{"bytes": layouts.image_bytes(n)}])
    for n in range(25)
  ]
  _deep(tmp_path, *found, row_group_size=10)
  good, _ = layouts.read(DEEP, tmp_path)
  for n in [*range(25), 3, 24, 0, 11, 10, 9, 9, 1, 8, 0]:
    assert good[n].load()[0] == layouts.image_bytes(n)


@pytest.mark.parametrize(
  "images, reason, kind",
  [
    ([], "no image", rows.LEFT_OUT),
    ([{"bytes": b"a", "path": None}] * 2, "2 images", rows.LEFT_OUT),
    ([{"bytes": None, "path": None}], "no image", rows.BROKEN),
    ([{"bytes": None, "path": "../x.jpg"}], "leads out", rows.BROKEN),
    ([{"bytes": b"junk", "path": None}], "no JPEG", rows.BROKEN),
  ],
)
def test_deep_eyes_faulty_images_show_when_they_are_read(
  tmp_path, images, reason, kind
):
  _deep(tmp_path, layouts.verl_row(images=images))
  row = layouts.read_one(DEEP, tmp_path)
  with pytest.raises(rows.RowError, match=reason) as caught:
    row.load()
  assert caught.value.kind == kind


def test_deep_eyes_damaged_pages_break_rows_and_not_the_run(tmp_path):
  found = [layouts.verl_row() for _ in range(8)]
  _deep(tmp_path, *found, use_dictionary=False)
  path = tmp_path / deep_eyes.FILES["visual_search"]
  assert all(_loads(row) for row in layouts.read(DEEP, tmp_path)[0])
  group = pq.ParquetFile(path).metadata.row_group(0)
  (place,) = (
    group.column(c).data_page_offset
    for c in range(group.num_columns)
    if group.column(c).path_in_schema == "images.list.element.bytes"
  )
  data = bytearray(path.read_bytes())
  data[place : place + 40] = b"\xff" * 40
  path.write_bytes(bytes(data))
  good, _ = layouts.read(DEEP, tmp_path)
  assert not any(_loads(row) for row in good)


# One's own folder


def _own(**changes):
  row = {"image": "photos/1.png", "question": "Which?", "answer": "blue"}
  return {**row, **changes}


def _write_own(root, *found):
  layouts.write_image(root / "photos/1.png", 8)
  layouts.write_lines(root / "train.jsonl", *found)


def test_own_data(tmp_path):
  _write_own(
    tmp_path,
    _own(),
    _own(
      id="x",
      answer="B",
      options=["red", "blue"],
      boxes=[[0, 0, 50, 39.5], [10, 10, 20, 20]],
      category="colour",
      note="ignored",
    ),
  )
  layouts.write_lines(tmp_path / "validation.jsonl", _own())
  assert FOLDER.find_splits(tmp_path) == ("train", "validation")
  (plain, full), faults = layouts.read(FOLDER, tmp_path, "train")
  assert faults == []
  assert (plain.id, plain.category, plain.options) == ("train-1", "all", ())
  assert (full.id, full.category) == ("x", "colour")
  assert full.boxes == ((10, 10, 20, 20), (0, 0, 50, 39.5))
  assert full.load()[2].tolist() == [[10, 10, 20, 20], [0, 0, 50, 40]]


@pytest.mark.parametrize(
  "line, reason",
  [
    ("", None),
    ("{'image': 1}", "no valid JSON"),
    ('"text"', "must be an object"),
    ("NaN", "must be an object"),
    (_own(image=None), "'image' is missing"),
    (_own(image="photos/2.png"), "no image"),
    (_own(image="../secret.png"), "leads out"),
    (_own(image=["photos/1.png"]), "must be text"),
    (_own(options=["red", "green"]), "neither a letter"),
    (_own(answer="C", options=["red", "green"]), "neither a letter"),
    (_own(boxes=[[0, 0, 5, 5], [4, 4, 30, 30]]), "is not inside"),
    (_own(boxes=[[0, 0, 5]]), "four numbers"),
    ({"image": "photos/1.png", "question": "?", "answr": "x"}, "'answer' mea"),
    (_own(option=["a", "b"]), "'options' meant"),
    (_own(bboxes=[[1, 2, 3, 4]]), "'boxes' meant"),
    (json.dumps(_own(answer="\ud800")), "no valid Unicode"),
  ],
)
def test_own_data_faults(tmp_path, line, reason):
  _write_own(tmp_path, line, _own())
  good, faults = layouts.read(FOLDER, tmp_path)
  assert len(good) == 1
  assert len(faults) == (reason is not None)
  for fault in faults:
    assert reason in fault.reason and fault.where == "train.jsonl line 1"


@pytest.mark.parametrize("box", [[60, 0, 70, 10], [-9, 0, -1, 5]])
def test_a_box_outside_the_image_is_broken(tmp_path, box):
  _write_own(tmp_path, _own(boxes=[box]))
  with pytest.raises(rows.RowError, match="outside its image of 40 x 60"):
    layouts.read_one(FOLDER, tmp_path).load()


def test_a_box_over_the_border_is_clipped(tmp_path):
  _write_own(tmp_path, _own(boxes=[[-3, 5.5, 61, 40]]))
  row = layouts.read_one(FOLDER, tmp_path)
  assert row.load()[2].tolist() == [[0, 5, 60, 40]]


def test_an_id_that_comes_twice_is_broken(tmp_path):
  _write_own(tmp_path, _own(id="a"), _own(id="a"))
  good, (fault,) = layouts.read(FOLDER, tmp_path)
  assert len(good) == 1 and "'a' came before" in fault.reason


def test_a_broken_row_can_stop_the_run(tmp_path):
  _write_own(tmp_path, _own(), "{")
  ledger = rows.Ledger("stop")
  found = rows.read_rows(FOLDER, tmp_path, "train", ledger)
  assert next(found).answer == "blue"
  with pytest.raises(UserError, match="train.jsonl line 2: .*on_error=skip"):
    next(found)


def test_what_is_left_out_stops_nothing(tmp_path):
  _write_pixel(tmp_path, _pixel_row(is_video=True))
  ledger = rows.Ledger("stop")
  assert list(rows.read_rows(PIXEL, tmp_path, "train", ledger)) == []
  assert ledger.count(rows.LEFT_OUT) == 1 and ledger.count(rows.BROKEN) == 0


def test_on_error_knows_two_words():
  with pytest.raises(UserError, match="'ignore'"):
    rows.Ledger("ignore")
