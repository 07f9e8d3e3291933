"""VisualProbe (Mini-o3): hard visual search, for training and in three levels.

    VisualProbe_train/train.json    VisualProbe_Easy/val.json
    VisualProbe_Medium/val.json     VisualProbe_Hard/val.json
    DeepEyes_train_4K/train.json    the same layout, from the same authors

A file is a list of images (paths such as VisualProbe_train/data/7.jpg),
problem (with <image>), solution, data_source and doc_id. There are no boxes.
"""

from __future__ import annotations

from collections.abc import Iterator
import pathlib
from typing import Any

from lfpc_jax.data.sources import fields, files, parquet
from lfpc_jax.data.sources.rows import Fault, Row, RowError, Source, attempt

FILES = {
  "train": "VisualProbe_train/train.json",
  "easy": "VisualProbe_Easy/val.json",
  "medium": "VisualProbe_Medium/val.json",
  "hard": "VisualProbe_Hard/val.json",
  "deep_eyes_4k": "DeepEyes_train_4K/train.json",
}


def splits(root: pathlib.Path) -> tuple[str, ...]:
  """See `rows.Source`."""
  return tuple(s for s, name in FILES.items() if (root / name).is_file())


def read(root: pathlib.Path, split: str) -> Iterator[Row | Fault]:
  """See `rows.Source`."""
  name = FILES[split]
  for number, row in enumerate(files.read_json_list(root, name), 1):
    yield attempt(f"{name} row {number}", _row, row, root, split, number)


def _row(
  where: str, row: Any, root: pathlib.Path, split: str, number: int
) -> Row:
  images = fields.field(row, "images")
  images = [images] if isinstance(images, str) else images
  if not isinstance(images, list):
    raise RowError("images must be a list of paths")
  image = fields.text(parquet.only(images), "the image")
  answer = fields.answer(fields.field(row, "solution"))
  asked, options = fields.choice(fields.field(row, "problem"), answer)
  source = row.get("data_source")
  doc = row.get("doc_id")
  doc = fields.text(number - 1 if doc is None else doc, "doc_id")
  return Row(
    id=f"{split}-{number - 1}-{doc}",  # a doc_id may come twice
    where=where,
    image=_find(root, split, image),
    question=asked,
    answer=answer,
    category=split if source is None else fields.text(source, "data_source"),
    options=options,
    image_id=image,
  )


def _find(root: pathlib.Path, split: str, image: str) -> files.PathImage:
  """Below the root, or with the folder's name left out of the path."""
  folder = FILES[split].split("/")[0]
  try:
    return files.find_image(root, image, folder)
  except RowError as error:
    _, slash, rest = image.removeprefix("./").partition("/")
    try:
      return files.find_image(root, f"{folder}/{rest if slash else image}")
    except RowError:
      raise error from None


SOURCE = Source(
  name="visual_probe",
  instructions=(
    "Fetch Mini-o3/VisualProbe_train, VisualProbe_Easy, VisualProbe_Medium and"
    " VisualProbe_Hard from Hugging Face, each into a folder of its name; --dir"
    " names the folder that holds them."
  ),
  splits=splits,
  read=read,
)
