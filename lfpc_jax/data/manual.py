r"""Published data sets as TFDS data sets, from files that a user has fetched.

  python -m lfpc_jax.data.manual --name=vstar --dir=downloads/vstar_bench \
    --data_dir=data

reads the files with the data set's reader, decodes every image once to see
that it can be, and writes the rows with the images' own bytes as ArrayRecord
files. Neither writing nor reading needs TensorFlow. A broken row is skipped,
counted and listed, or stops the build: --on_error=skip or stop. The list stays
with the data set, in its metadata.json, and evaluations say what is missing.
Prints the rows of each split, and warns where fewer are there than published.

Rows are written in their stored order, in shards of at most 256 MiB, one row
in memory at a time, so that sets of many gigabytes need no memory to speak of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import os
import pathlib
import shlex
import shutil
import sys
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from lfpc_jax import notes
from lfpc_jax.arguments import Parser
from lfpc_jax.data import builders, images
from lfpc_jax.data.reading import reading
from lfpc_jax.data.sources import rows as rows_lib
from lfpc_jax.errors import UserError

_SHARD_BYTES = 1 << 28
_SHARD_ROWS = 1024
_LISTED = 1000  # faults kept in the metadata; all are counted


@dataclasses.dataclass(eq=False, kw_only=True)
class ManualConfig(tfds.core.BuilderConfig):
  """A published data set; make it with `manual_config`.

  Attributes:
    source: its reader.
  """

  source: rows_lib.Source


def manual_config(source: rows_lib.Source) -> ManualConfig:
  """The TFDS configuration of a data set."""
  return ManualConfig(
    name=source.name, description=source.instructions, source=source
  )


# Not registered: `python -m` runs this module beside the imported one, and TFDS
# knows a name but once.
class Manual(tfds.core.ShardBasedBuilder, skip_registration=True):
  """TFDS builder over a folder of fetched files; use `prepare`."""

  VERSION = tfds.core.Version("1.0.0")
  MANUAL_DOWNLOAD_INSTRUCTIONS = "See lfpc_jax.data.registry."

  # See `scenes.Scenes`.
  code_path = None

  ledger: rows_lib.Ledger
  max_pixels = images.MAX_PIXELS

  def _info(self) -> tfds.core.DatasetInfo:
    text = tfds.features.Text
    return builders.LocalInfo(
      builder=self,
      description=__doc__,
      # Filled while building, stored with the rest of the description.
      metadata=tfds.core.MetadataDict(),
      features=tfds.features.FeaturesDict(
        {
          "id": text(),
          "image": tfds.features.Image(
            shape=(None, None, 3), doc="the published bytes, of any format"
          ),
          "question": text(),
          "answer": text(doc="with options, a letter or one of them"),
          "category": text(),
          "options": tfds.features.Sequence(text()),
          "boxes": tfds.features.Tensor(
            shape=(None, 4),
            dtype=np.int32,
            doc="nested, smallest first; x1, y1, x2, y2 of the upright image",
          ),
          "group": text(doc="equal for questions that are scored together"),
          "variant": text(doc="which one of its group"),
          "image_id": text(doc="equal for rows with the same image"),
        }
      ),
    )

  def _shard_iterators_per_split(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, list[Callable[[], Iterator[tuple[int, dict[str, Any]]]]]]:
    root = pathlib.Path(dl_manager.manual_dir)
    source = self.builder_config.source
    found = {}
    for split in source.find_splits(root):
      rows = list(rows_lib.read_rows(source, root, split, self.ledger))
      if rows:
        found[split] = [
          functools.partial(self._examples, split, first, part)
          for first, part in _shards(rows)
        ]
    if not found:
      raise _nothing(source, root, self.ledger)
    return found

  def _examples(
    self, split: str, first: int, part: Sequence[rows_lib.Row]
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in enumerate(part, first):
      try:
        data, _, boxes = row.load(max_pixels=self.max_pixels)
      except rows_lib.RowError as error:
        self.ledger.add(error.at(row.where), split)
      else:
        yield number, _features(row, data, boxes)
    self._note_faults(split)

  def _note_faults(self, split: str) -> None:
    ledger, metadata = self.ledger, self.info.metadata
    metadata["broken"] = ledger.count(rows_lib.BROKEN)
    metadata["left_out"] = ledger.count(rows_lib.LEFT_OUT)
    metadata.setdefault("splits", {})[split] = {
      "broken": ledger.count(rows_lib.BROKEN, split),
      "left_out": ledger.count(rows_lib.LEFT_OUT, split),
    }
    metadata["faults"] = [
      dataclasses.asdict(fault) for fault in ledger.faults[:_LISTED]
    ]


def _nothing(
  source: rows_lib.Source, root: pathlib.Path, ledger: rows_lib.Ledger
) -> UserError:
  first = ledger.faults[0] if ledger.faults else None
  why = f": {first.where}: {first.reason}" if first else ""
  return UserError(f"no row of {source.name} in {root} can be used{why}")


def _shards(
  rows: Sequence[rows_lib.Row],
) -> Iterator[tuple[int, Sequence[rows_lib.Row]]]:
  """Cuts rows into shards; gives each one's first index and rows."""
  first, size = 0, 0
  for index, row in enumerate(rows):
    full = size + row.image.size > _SHARD_BYTES or index - first == _SHARD_ROWS
    if full and index > first:
      yield first, rows[first:index]
      first, size = index, 0
    size += row.image.size
  yield first, rows[first:]


def _features(
  row: rows_lib.Row, data: bytes, boxes: np.ndarray
) -> dict[str, Any]:
  return {
    "id": row.id,
    "image": data,
    "question": row.question,
    "answer": row.answer,
    "category": row.category,
    "options": list(row.options),
    "boxes": boxes,
    "group": row.group,
    "variant": row.variant,
    "image_id": row.image_id,
  }


def open_builder(
  data_dir: str | os.PathLike[str], source: rows_lib.Source
) -> Manual:
  """The builder of a data set, which may not have been built yet."""
  notes.silence("tensorflow_datasets")
  with reading(os.path.join(data_dir, "manual", source.name)):
    return Manual(
      data_dir=os.fspath(data_dir),
      config=manual_config(source),
      file_format="array_record",
    )


def prepare(
  source: rows_lib.Source,
  root: str | os.PathLike[str],
  data_dir: str | os.PathLike[str] = "data",
  *,
  on_error: str = "skip",
  max_pixels: int = images.MAX_PIXELS,
) -> tuple[pathlib.Path, rows_lib.Ledger]:
  """Builds a data set; an interrupted build leaves none.

  Args:
    source: the reader.
    root: the folder with the fetched files.
    data_dir: where data sets live.
    on_error: 'skip' lists broken rows, 'stop' raises at the first one.
    max_pixels: larger images are broken.

  Returns:
    The data set's folder and the account of rows that were not taken.

  Raises:
    UserError: it is there already, files are missing, no row can be used, or
      a row is broken and `on_error` is 'stop'.
  """
  ledger = rows_lib.Ledger(on_error)
  root = pathlib.Path(root).absolute()
  source.find_splits(root)
  builder = open_builder(data_dir, source)
  path = pathlib.Path(builder.data_path)
  if path.exists():
    raise UserError(
      f"{path} is there already: remove it, or choose another --data_dir"
    )
  builders.remove_abandoned(path.parent)
  builder.ledger, builder.max_pixels = ledger, max_pixels
  options = tfds.download.DownloadConfig(manual_dir=os.fspath(root))
  with builders.writing(path):
    builder.download_and_prepare(download_config=options)
  if not builder.info.splits.total_num_examples:
    shutil.rmtree(path)
    raise _nothing(source, root, ledger)
  return path, ledger


def build_command(data_dir: str | os.PathLike[str], name: str) -> str:
  """The shell command that builds a data set, less its `--dir`."""
  place = shlex.quote(os.fspath(data_dir))
  return f"python -m lfpc_jax.data.manual --name={name} --data_dir={place}"


def main(arguments: Sequence[str] | None = None) -> int:
  """Builds a data set from the command line; returns the exit status."""
  from lfpc_jax import config as config_lib
  from lfpc_jax.data import check, registry

  parser = Parser(__doc__)
  check.add_source_flags(parser)
  parser.add_argument(
    "--data_dir",
    default="data",
    help="where it is written; --config.data.dir of a run (%(default)s)",
  )
  args = parser.parse_args(arguments)
  with config_lib.plain_errors(args.traceback):
    source = registry.SOURCES[args.name]
    path, ledger = prepare(
      source,
      args.dir,
      args.data_dir,
      on_error=args.on_error,
      max_pixels=args.max_pixels,
    )
    splits = open_builder(args.data_dir, source).info.splits
  for fault in ledger.faults:
    print(f"{fault.kind}: {fault.where}: {fault.reason}")
  for split, info in splits.items():
    print(_counted(split, info.num_examples, source.published.get(split)))
  print(
    f"{path}: {ledger.count(rows_lib.BROKEN)} broken rows,"
    f" {ledger.count(rows_lib.LEFT_OUT)} left out"
  )
  return 0


def _counted(split: str, rows: int, published: int | None) -> str:
  """How many rows a split has, and a warning where some are missing."""
  if published is None:
    return f"split {split}: {rows:,} rows"
  found = f"split {split}: {rows:,} of {published:,} published rows"
  if rows >= published:
    return found
  return (
    f"{found}\nwarning: {published - rows:,} rows of split {split} are "
    "missing: a score of it is no score of the benchmark; fetch the files "
    "again, or correct the rows above"
  )


if __name__ == "__main__":
  sys.exit(main())
