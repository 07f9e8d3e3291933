"""One's own data: a folder of images, and a JSON object a line.

    mine/train.jsonl     {"image": "photos/1.jpg", "question": "Which colour?",
    mine/photos/1.jpg     "answer": "B", "options": ["red", "blue"],
                          "boxes": [[10, 20, 30, 40], [0, 0, 90, 90]]}

Each NAME.jsonl is the split NAME. Required: image (a path below the folder),
question, answer (with options: a letter or one of them). Optional: options;
boxes, nested, as [x1, y1, x2, y2] in pixels of the upright image; category;
id. Other fields are ignored, unless they look like one of these misspelt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import difflib
import pathlib
from typing import Any

from lfpc_jax.data.sources import fields, files
from lfpc_jax.data.sources.rows import Fault, Row, RowError, Source, attempt

FIELDS = ("image", "question", "answer", "options", "boxes", "category", "id")


def splits(root: pathlib.Path) -> tuple[str, ...]:
  """See `rows.Source`."""
  return tuple(sorted(path.stem for path in root.glob("*.jsonl")))


def read(root: pathlib.Path, split: str) -> Iterator[Row | Fault]:
  """See `rows.Source`."""
  name = f"{split}.jsonl"
  for number, line in files.read_lines(root, name):
    where = f"{name} line {number}"
    yield attempt(where, _row, line, root, f"{split}-{number}")


def _row(where: str, line: bytes, root: pathlib.Path, place: str) -> Row:
  row = files.load_json(line)
  image = fields.text(fields.field(row, "image"), "the image")
  _check_spelling(row)
  found = row.get("id")
  category = row.get("category")
  return Row(
    id=fields.text(place if found is None else found, "id"),
    where=where,
    image=files.find_image(root, image),
    question=fields.text(fields.field(row, "question"), "the question"),
    answer=fields.text(fields.field(row, "answer"), "the answer"),
    category="all" if category is None else fields.text(category, "category"),
    options=fields.options(row.get("options")),
    boxes=fields.boxes(row.get("boxes")),
    image_id=image,
  )


def _check_spelling(row: Mapping[str, Any]) -> None:
  for name in row:
    if name in FIELDS:
      continue
    meant = difflib.get_close_matches(name.lower(), FIELDS, 1, cutoff=0.7)
    if meant and meant[0] not in row:
      raise RowError(f"the field {name!r} is unknown: is {meant[0]!r} meant?")


SOURCE = Source(
  name="folder",
  instructions=(
    "--dir names a folder with NAME.jsonl for each split, whose lines have the"
    " fields image, question, answer, and where wanted options, boxes,"
    " category and id."
  ),
  splits=splits,
  read=read,
)
