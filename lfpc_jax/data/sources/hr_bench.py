"""HR-Bench 4K and 8K (DreamMr/HR-Bench): 200 questions in four rotations each.

    hr_bench_4k.tsv, hr_bench_8k.tsv           the image in base64
    hr_bench_4k.parquet, hr_bench_8k.parquet   the same

Columns: index, question, answer (a letter), category (single or cross), A to
D, cycle_category, image. The four rows of a question show the same image with
its options rotated; questions are often worded alike, so rows belong together
when question, category and image agree. A row with two equal options counts as
any other, as in VLMEvalKit: a letter answers it, their text does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import functools
import hashlib
import pathlib
from typing import Any

from lfpc_jax.data.sources import fields, parquet, tsv
from lfpc_jax.data.sources.rows import (
  Fault,
  ImageFile,
  Row,
  RowError,
  Source,
  attempt,
)

CATEGORIES = ("single", "cross")
LETTERS = ("A", "B", "C", "D")
_MD5 = {
  "4k": "f6b041b03d49543494b8a56d2e35be65",
  "8k": "274c9c7f89329b804a4723178a00219c",
}


def _file(root: pathlib.Path, size: str) -> str | None:
  names = (f"hr_bench_{size}.tsv", f"hr_bench_{size}.parquet")
  return next((name for name in names if (root / name).is_file()), None)


def splits(size: str, root: pathlib.Path) -> tuple[str, ...]:
  """See `rows.Source`; size is '4k' or '8k'."""
  return ("test",) if _file(root, size) else ()


def read(size: str, root: pathlib.Path, split: str) -> Iterator[Row | Fault]:
  """See `rows.Source`; size is '4k' or '8k'."""
  name = _file(root, size) or f"hr_bench_{size}.tsv"
  rows = _from_tsv if name.endswith(".tsv") else _from_parquet
  groups: dict[tuple[str, str, str], list[str]] = {}
  for number, found in enumerate(rows(root, name), 1):
    where = f"{name} row {number}"
    yield attempt(where, _row, found, size, number, groups)


def _from_tsv(root: pathlib.Path, name: str):
  for row in tsv.read(root, name):
    if isinstance(row, RowError):
      yield row
    else:
      yield row.fields, row.image, row.digest


def _from_parquet(root: pathlib.Path, name: str):
  table = parquet.Table(root, name)
  images = table.column("image")
  size = images.mean_bytes()
  for number, row in enumerate(table.rows("image")):
    image = parquet.CellImage(images, number, size, base64_text=True)
    try:
      digest = hashlib.sha256(image.read()).hexdigest()[:16]
    except RowError as error:
      yield error
    else:
      yield row, image, digest


def _row(
  where: str,
  found: tuple[Mapping[str, Any], ImageFile, str],
  size: str,
  number: int,
  groups: dict[tuple[str, str, str], list[str]],
) -> Row:
  row, image, digest = found
  options = fields.options([fields.field(row, x) for x in LETTERS], equal=True)
  answer = fields.text(fields.field(row, "answer"), "the answer")
  if answer not in LETTERS:
    raise RowError(f"the answer {answer!r} is none of {LETTERS}")
  category = fields.text(fields.field(row, "category"), "the category")
  if category not in CATEGORIES:
    raise RowError(f"the category {category!r} is none of {CATEGORIES}")
  asked = fields.question(fields.field(row, "question"))
  index = row.get("index")
  index = number - 1 if index is None else fields.text(index, "the index")
  members = groups.setdefault((asked, category, digest), [])
  cycle = row.get("cycle_category")
  cycle = fields.text(len(members) if cycle is None else cycle, "the rotation")
  if cycle in members:
    raise RowError(f"the rotation {cycle!r} of this question came before")
  members.append(cycle)
  question = list(groups).index((asked, category, digest))
  return Row(
    id=f"{size}-{index}",
    where=where,
    image=image,
    question=asked,
    answer=answer,
    category=category,
    options=options,
    group=f"{size}-q{question}",
    variant=cycle,
    image_id=digest,
  )


def _source(size: str) -> Source:
  return Source(
    name=f"hr_bench_{size}",
    instructions=(
      f"Fetch hr_bench_{size}.tsv or hr_bench_{size}.parquet of"
      " DreamMr/HR-Bench from Hugging Face; --dir names its folder."
    ),
    splits=functools.partial(splits, size),
    read=functools.partial(read, size),
    published={"test": 800},
    md5={f"hr_bench_{size}.tsv": _MD5[size]},
  )


SOURCE_4K, SOURCE_8K = _source("4k"), _source("8k")
