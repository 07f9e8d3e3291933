"""Chain-of-Focus RL (xintongzhang/CoF-RL-Data).

    train.parquet    images/...   (from images.zip)
    train.json       the rows it was made from, where no Parquet is there

The Parquet has verl's columns with images [{"image": "file://.."}] or
["./images/.."]; the JSON has question, groundtruth, image_name, data_source.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import pathlib
from typing import Any

from lfpc_jax.data.sources import fields, files, parquet, verl
from lfpc_jax.data.sources.rows import Fault, Row, Source, attempt

_PARQUET, _JSON = "train.parquet", "train.json"


def splits(root: pathlib.Path) -> tuple[str, ...]:
  """See `rows.Source`."""
  found = any((root / name).is_file() for name in (_PARQUET, _JSON))
  return ("train",) if found else ()


def read(root: pathlib.Path, split: str) -> Iterator[Row | Fault]:
  """See `rows.Source`."""
  if (root / _PARQUET).is_file():
    name, make = _PARQUET, _from_parquet
    rows = parquet.Table(root, name).rows()
  else:
    name, make = _JSON, _from_json
    rows = iter(files.read_json_list(root, name))
  for number, row in enumerate(rows, 1):
    yield attempt(f"{name} row {number}", make, row, root, number)


def _from_parquet(
  where: str, row: dict[str, Any], root: pathlib.Path, number: int
) -> Row:
  images = fields.field(row, "images")
  cell = parquet.only(images if isinstance(images, list) else [images])
  if isinstance(cell, Mapping):
    cell = cell.get("image") or cell.get("path")
  name = fields.text(cell, "the image")
  image = files.find_image(root, name, "images")
  return verl.row(where, row, number, image, name)


def _from_json(where: str, row: Any, root: pathlib.Path, number: int) -> Row:
  answer = fields.answer(fields.field(row, "groundtruth"))
  asked, options = fields.choice(fields.field(row, "question"), answer)
  name = fields.text(fields.field(row, "image_name"), "image_name")
  source = row.get("data_source")
  return Row(
    id=str(number - 1),
    where=where,
    image=files.find_image(root, name, "images"),
    question=asked,
    answer=answer,
    category=fields.text("open" if source is None else source, "data_source"),
    options=options,
    image_id=name,
  )


SOURCE = Source(
  name="chain_of_focus",
  instructions=(
    "Fetch train.parquet and images.zip of xintongzhang/CoF-RL-Data from"
    " Hugging Face and unpack images.zip beside it; --dir names their folder."
  ),
  splits=splits,
  read=read,
)
