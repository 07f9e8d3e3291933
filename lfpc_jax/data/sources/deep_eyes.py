"""DeepEyes-47k (ChenShawn/DeepEyes-Datasets-47k), ThinkLite among it.

    data_0.1.2_visual_toolbox_v2.parquet        split visual_search
    data_v0.8_visual_toolbox_v2.parquet         split charts: very large images
    data_thinklite_reasoning_acc.parquet        split thinklite: many below 28
                                                pixels, which are enlarged

verl's columns with the images' bytes inside, [{"bytes": ..}]. A file may be a
single row group of two gigabytes, so images are read row by row, forward.
"""

from __future__ import annotations

from collections.abc import Iterator
import pathlib

from lfpc_jax.data.sources import parquet, verl
from lfpc_jax.data.sources.rows import Fault, Row, Source, attempt

FILES = {
  "visual_search": "data_0.1.2_visual_toolbox_v2.parquet",
  "charts": "data_v0.8_visual_toolbox_v2.parquet",
  "thinklite": "data_thinklite_reasoning_acc.parquet",
}


def splits(root: pathlib.Path) -> tuple[str, ...]:
  """See `rows.Source`."""
  return tuple(s for s, name in FILES.items() if (root / name).is_file())


def read(root: pathlib.Path, split: str) -> Iterator[Row | Fault]:
  """See `rows.Source`."""
  name = FILES[split]
  table = parquet.Table(root, name)
  images = table.column("images")
  size = images.mean_bytes()
  for number, row in enumerate(table.rows("images"), 1):
    where = f"{name} row {number}"
    image = parquet.CellImage(images, number - 1, size, ("images",))
    yield attempt(where, verl.row, row, number, image)


SOURCE = Source(
  name="deep_eyes",
  instructions=(
    "Fetch the Parquet files of ChenShawn/DeepEyes-Datasets-47k from Hugging"
    " Face; --dir names their folder."
  ),
  splits=splits,
  read=read,
)
