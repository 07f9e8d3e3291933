"""V*Bench (craigwu/vstar_bench): 191 questions about small things.

    direct_attributes/NAME.jpg + NAME.json      115 questions
    relative_position/NAME.jpg + NAME.json       76 questions
    test_questions.jsonl                         the same, options shuffled

A JSON holds target_object, bbox (x, y, width, height), question and options,
of which the first is always the right one: shuffle them before a policy sees
them (`lfpc_jax.benchmarks.vstar`). Split 'test' reads these files; split
'test_questions' reads the JSON lines with their own order of options.
"""

from __future__ import annotations

from collections.abc import Iterator
import pathlib
from typing import Any

from lfpc_jax.data.sources import fields, files
from lfpc_jax.data.sources.rows import Fault, Row, RowError, Source, attempt

CATEGORIES = ("direct_attributes", "relative_position")
_LINES = "test_questions.jsonl"
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


def splits(root: pathlib.Path) -> tuple[str, ...]:
  """See `rows.Source`."""
  found = ["test"] if any((root / c).is_dir() for c in CATEGORIES) else []
  return (*found, *(["test_questions"] if (root / _LINES).is_file() else []))


def read(root: pathlib.Path, split: str) -> Iterator[Row | Fault]:
  """See `rows.Source`."""
  return _read_lines(root) if split == "test_questions" else _read_files(root)


def _read_files(root: pathlib.Path) -> Iterator[Row | Fault]:
  for category in CATEGORIES:
    try:
      folder = files.inside(root, category)
      names = sorted(path.name for path in folder.iterdir())
    except (OSError, RowError) as error:
      yield Fault(category, f"the folder cannot be read ({error})")
      continue
    stems = dict.fromkeys(
      name.rpartition(".")[0]
      for name in names
      if name.lower().endswith((".json", *_ENDINGS))
    )
    for stem in stems:
      where = f"{category}/{stem}.json"
      yield attempt(where, _from_file, stem, root, category, names)


def _from_file(
  where: str, stem: str, root: pathlib.Path, category: str, names: list[str]
) -> Row:
  if f"{stem}.json" not in names:
    raise RowError("this JSON is missing; its image is there")
  image = next(
    (
      name
      for name in names
      if name.rpartition(".")[0] == stem and name.lower().endswith(_ENDINGS)
    ),
    None,
  )
  if image is None:
    raise RowError("its image is missing")
  row = files.read_json(root, where)
  options = fields.options(fields.field(row, "options"))
  if not options:
    raise RowError("there are no options")
  return Row(
    id=f"{category}/{stem}",
    where=where,
    image=files.find_image(root, f"{category}/{image}"),
    question=fields.question(fields.field(row, "question")),
    answer="A",
    category=category,
    options=options,
    boxes=_target(row),
    image_id=f"{category}/{image}",
  )


def _target(row: Any) -> tuple[tuple[float, float, float, float], ...]:
  """The region around all target objects."""
  found = fields.boxes(row.get("bbox"), "xywh")
  names = row.get("target_object")
  if isinstance(names, list) and found and len(names) != len(found):
    raise RowError(f"{len(names)} target objects, but {len(found)} boxes")
  return fields.union(found)


def _read_lines(root: pathlib.Path) -> Iterator[Row | Fault]:
  for number, line in files.read_lines(root, _LINES):
    yield attempt(f"{_LINES} line {number}", _from_line, line, root)


def _from_line(where: str, line: bytes, root: pathlib.Path) -> Row:
  row = files.load_json(line)
  label = fields.text(fields.field(row, "label"), "the label")
  asked, options = fields.split_options(
    fields.question(fields.field(row, "text"))
  )
  if not options:
    raise RowError("no options (A), (B), .. in the text")
  if not (len(label) == 1 and 0 <= ord(label) - ord("A") < len(options)):
    raise RowError(f"the label {label!r} is none of {len(options)} options")
  image = fields.text(fields.field(row, "image"), "the image")
  stem = image.rpartition(".")[0]
  boxes = ()
  if (root / f"{stem}.json").is_file():
    boxes = _target(files.read_json(root, f"{stem}.json"))
  return Row(
    id=fields.text(fields.field(row, "question_id"), "the question's id"),
    where=where,
    image=files.find_image(root, image),
    question=asked,
    answer=label,
    category=fields.text(fields.field(row, "category"), "the category"),
    options=options,
    boxes=boxes,
    image_id=image,
  )


SOURCE = Source(
  name="vstar",
  instructions=(
    "Fetch craigwu/vstar_bench from Hugging Face; --dir names the folder that"
    " holds direct_attributes/, relative_position/ and test_questions.jsonl."
  ),
  splits=splits,
  read=read,
  published={"test": 191, "test_questions": 191},
)
