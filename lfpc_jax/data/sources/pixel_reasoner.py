r"""Pixel-Reasoner-RL (TIGER-Lab/PixelReasoner-RL-Data).

    release.parquet    images/...   (from images.zip)

Columns: question, answer (a list of one `\boxed{..}`), image (a list of
relative paths), qid, is_video (true, false or null). Videos, and rows of
several images, are left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterator
import pathlib
from typing import Any

from lfpc_jax.data.sources import fields, files, parquet
from lfpc_jax.data.sources.rows import (
  LEFT_OUT,
  Fault,
  Row,
  RowError,
  Source,
  attempt,
)

_FILE = "release.parquet"
_VIDEO = (".mp4", ".avi", ".mkv", ".mov", ".webm")


def splits(root: pathlib.Path) -> tuple[str, ...]:
  """See `rows.Source`."""
  return ("train",) if (root / _FILE).is_file() else ()


def read(root: pathlib.Path, split: str) -> Iterator[Row | Fault]:
  """See `rows.Source`."""
  for number, row in enumerate(parquet.Table(root, _FILE).rows(), 1):
    yield attempt(f"{_FILE} row {number}", _row, row, root, number)


def _row(
  where: str, row: dict[str, Any], root: pathlib.Path, number: int
) -> Row:
  images = fields.field(row, "image")
  images = [images] if isinstance(images, str) else images
  if not isinstance(images, list):
    raise RowError("image must be a list of paths")
  names = [fields.text(image, "the image") for image in images]
  if row.get("is_video") or any(n.lower().endswith(_VIDEO) for n in names):
    raise RowError("a video", LEFT_OUT)
  image = parquet.only(names)
  answer = fields.answer(fields.field(row, "answer"))
  asked, options = fields.choice(fields.field(row, "question"), answer)
  qid = row.get("qid")
  qid = fields.text(number - 1 if qid is None else qid, "qid")
  return Row(
    id=f"{number - 1}-{qid}",  # a qid may come twice
    where=where,
    image=files.find_image(root, image, "images"),
    question=asked,
    answer=answer,
    category="choice" if options else "open",
    options=options,
    image_id=image,
  )


SOURCE = Source(
  name="pixel_reasoner",
  instructions=(
    "Fetch release.parquet and images.zip of TIGER-Lab/PixelReasoner-RL-Data"
    " from Hugging Face and unpack images.zip beside the Parquet file; --dir"
    " names their folder. videos.zip is not needed."
  ),
  splits=splits,
  read=read,
)
