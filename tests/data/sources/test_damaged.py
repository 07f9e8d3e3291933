"""Random damage: every row is good, listed, or the file is named; no crash."""

import base64
import json
import pathlib
import tempfile

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import pytest

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
from tests.data.sources import layouts

_settings = settings(
  max_examples=60,
  deadline=None,
  suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
pytestmark = pytest.mark.filterwarnings("ignore")

_values = st.recursive(
  st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["1.png", "../1.png", "/etc/passwd", "\0", "A", "<image>"]),
  ),
  lambda inner: st.one_of(
    st.lists(inner, max_size=4),
    st.dictionaries(st.text(max_size=6), inner, max_size=3),
  ),
  max_leaves=8,
)


def _read(source, root):
  """Reads everything, decodes it, and checks that what comes out is sound."""
  try:
    splits = source.find_splits(root)
  except UserError:
    return 0
  number = 0
  for split in splits:
    ledger = rows.Ledger()
    try:
      found = list(rows.read_rows(source, root, split, ledger))
    except UserError as error:
      assert "\n" not in str(error)
      continue
    for fault in ledger.faults:
      assert fault.reason and "\n" not in fault.reason
    for row in found:
      assert row.question and row.answer and row.category
      try:
        _, picture, boxes = row.load(max_pixels=10**6)
      except rows.RowError:
        continue
      height, width = picture.upright_size
      assert (boxes >= 0).all() and (boxes[:, 2:] <= (width, height)).all()
      assert (boxes[:, :2] < boxes[:, 2:]).all()
      number += 1
  return number


def _changed(data, row):
  """A row with some of its fields replaced or dropped."""
  row = dict(row)
  names = st.lists(st.sampled_from(sorted(row)), min_size=1, max_size=3)
  for name in data.draw(names):
    if data.draw(st.booleans()):
      row[name] = data.draw(_values)
    else:
      row.pop(name, None)
  return row


def _in_folder(test):
  with tempfile.TemporaryDirectory() as name:
    root = pathlib.Path(name)
    layouts.write_image(root / "1.png")
    return test(root)


_OWN = {
  "image": "1.png",
  "question": "Which?",
  "answer": "A",
  "options": ["red", "blue"],
  "boxes": [[1, 2, 3, 4]],
  "category": "x",
  "id": "1",
}
_PROBE = {
  "images": ["1.png"],
  "problem": "<image>\nWhich?",
  "solution": "red",
  "data_source": "x",
  "doc_id": 3,
}
_COF = {
  "question": "Which?",
  "groundtruth": "red",
  "image_name": "1.png",
  "data_source": "x",
}


@_settings
@given(st.data())
def test_lines_of_ones_own_with_any_values(data):
  def test(root):
    layouts.write_lines(root / "a.jsonl", _changed(data, _OWN), _OWN)
    assert _read(folder.SOURCE, root) >= 1

  _in_folder(test)


@_settings
@given(st.data())
def test_rows_of_visual_probe_with_any_values(data):
  def test(root):
    found = [_changed(data, _PROBE), {**_PROBE, "doc_id": "other"}]
    layouts.write_json(root / visual_probe.FILES["train"], found)
    assert _read(visual_probe.SOURCE, root) >= 1

  _in_folder(test)


@_settings
@given(st.data())
def test_rows_of_chain_of_focus_with_any_values(data):
  def test(root):
    found = [_changed(data, _COF), data.draw(_values), _COF]
    layouts.write_json(root / "train.json", found)
    assert _read(chain_of_focus.SOURCE, root) >= 1

  _in_folder(test)


@_settings
@given(st.data())
def test_jsons_of_vstar_with_any_values(data):
  def test(root):
    layouts.write_vstar(root, "good")
    layouts.write_vstar(root, "bad")
    path = root / "direct_attributes/bad.json"
    layouts.write_json(path, _changed(data, layouts.vstar_row()))
    lines = [_changed(data, layouts.vstar_line()), data.draw(_values)]
    layouts.write_lines(root / "test_questions.jsonl", *lines)
    assert _read(vstar.SOURCE, root) >= 1

  _in_folder(test)


@_settings
@given(st.data())
def test_rows_of_hr_bench_with_any_text(data):
  def test(root):
    found = layouts.hr_rows(1)
    names = st.sampled_from(sorted(found[0]))
    found[1][data.draw(names)] = data.draw(
      st.text(st.characters(codec="utf-8"), max_size=30)
    )
    layouts.write_tsv(root / "hr_bench_4k.tsv", found)
    assert _read(hr_bench.SOURCE_4K, root) >= 3

  _in_folder(test)


@_settings
@given(st.data())
def test_columns_of_parquets_of_any_type(data):
  """A Parquet's column has one type, so a whole column changes."""

  def test(root):
    column = st.sampled_from([1, 2.5, "x", None, True, b"y", ["z"], {"a": 1}])
    sets = [
      (pixel_reasoner.SOURCE, "release.parquet", _pixel()),
      (deep_eyes.SOURCE, deep_eyes.FILES["charts"], layouts.verl_row()),
      (chain_of_focus.SOURCE, "train.parquet", layouts.verl_row()),
      (hr_bench.SOURCE_4K, "hr_bench_4k.parquet", layouts.hr_rows(1)[0]),
    ]
    source, name, row = data.draw(st.sampled_from(sets))
    row[data.draw(st.sampled_from(sorted(row)))] = data.draw(column)
    layouts.write_parquet(root / name, [row, row])
    _read(source, root)

  _in_folder(test)


def _pixel():
  return {
    "question": "Which?",
    "answer": ["\\boxed{red}"],
    "image": ["1.png"],
    "qid": "1",
    "is_video": False,
  }


def _whole_files():
  """Name, bytes and reader of one good file of each kind."""
  with tempfile.TemporaryDirectory() as name:
    root = pathlib.Path(name)
    layouts.write_tsv(root / "a", layouts.hr_rows(1))
    yield hr_bench.SOURCE_4K, "hr_bench_4k.tsv", (root / "a").read_bytes()
    sets = [
      (hr_bench.SOURCE_8K, "hr_bench_8k.parquet", layouts.hr_rows(1)),
      (pixel_reasoner.SOURCE, "release.parquet", [_pixel()] * 3),
      (
        deep_eyes.SOURCE,
        deep_eyes.FILES["charts"],
        [layouts.verl_row() for _ in range(3)],
      ),
    ]
    for source, file, found in sets:
      layouts.write_parquet(root / "a", found)
      yield source, file, (root / "a").read_bytes()
    layouts.write_lines(root / "a", _OWN, {**_OWN, "id": "2"})
    yield folder.SOURCE, "a.jsonl", (root / "a").read_bytes()
    probe = json.dumps([_PROBE]).encode()
    yield visual_probe.SOURCE, visual_probe.FILES["hard"], probe


_FILES = list(_whole_files())
_damages = st.lists(
  st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=12)),
  min_size=1,
  max_size=5,
)


@settings(parent=_settings, max_examples=150)
@given(st.sampled_from(_FILES), _damages, st.floats(0.1, 1), st.booleans())
def test_files_with_any_bytes_changed_or_cut_off(file, damages, share, cut):
  source, name, good = file
  damaged = bytearray(good)
  for place, junk in damages:
    start = int(place * (len(damaged) - 1))
    damaged[start : start + len(junk)] = junk
  if cut:
    damaged = damaged[: int(share * len(damaged))]

  def test(root):
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(bytes(damaged))
    _read(source, root)

  _in_folder(test)


@_settings
@given(st.binary(max_size=200), st.sampled_from(_FILES))
def test_files_of_any_bytes(junk, file):
  source, name, _ = file

  def test(root):
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(junk)
    assert _read(source, root) == 0

  _in_folder(test)


@_settings
@given(st.binary(max_size=60))
def test_base64_of_any_bytes_is_no_image(junk):
  def test(root):
    found = layouts.hr_rows(1)
    for row in found:
      row["image"] = base64.b64encode(junk).decode()
    layouts.write_tsv(root / "hr_bench_4k.tsv", found)
    assert _read(hr_bench.SOURCE_4K, root) == 0

  _in_folder(test)
