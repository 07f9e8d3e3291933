"""What lfpc_jax.select_gap found, one row for each example, as Parquet.

The file lies beside the data. Its schema's metadata holds, as JSON, what it is
about: the data set, the policy, the ladder. So a run can be checked, and a
file of other data is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import json
import os
import pathlib
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from lfpc_jax import files
from lfpc_jax.errors import UserError

_KEY = b"lfpc_jax.gap"
_REMEDY = (
  "make it with `python -m lfpc_jax.select_gap` and the same config, or name "
  "another with --config.gap.file=FILE"
)


@dataclasses.dataclass(frozen=True)
class Chosen:
  """The selection for one example; answers are the policy's, greedy, direct.

  Attributes:
    id: the example's.
    tokens: the chosen budget in visual tokens.
    diverged: some level's answer differs from the original's; otherwise the
      lowest level was chosen.
    original_tokens: visual tokens of the original's view.
    original_answer, original_correct: at full resolution.
    answer, correct: at the chosen budget.
    levels, answers: all budgets below the original's that were tried.
  """

  id: str
  tokens: int
  diverged: bool
  original_tokens: int
  original_answer: str
  original_correct: bool
  answer: str
  correct: bool
  levels: tuple[int, ...]
  answers: tuple[str, ...]


_SCHEMA = pa.schema(
  [
    ("id", pa.string()),
    ("tokens", pa.int32()),
    ("diverged", pa.bool_()),
    ("original_tokens", pa.int32()),
    ("original_answer", pa.string()),
    ("original_correct", pa.bool_()),
    ("answer", pa.string()),
    ("correct", pa.bool_()),
    ("levels", pa.list_(pa.int32())),
    ("answers", pa.list_(pa.string())),
  ]
)


@dataclasses.dataclass(frozen=True)
class Selection:
  """A whole file.

  Attributes:
    rows: one for each example.
    about: `data_identity`, and what else decided the answers; plain values.
  """

  rows: tuple[Chosen, ...]
  about: Mapping[str, Any]

  def budgets(self) -> dict[str, int]:
    """The chosen budget of each example."""
    return {row.id: row.tokens for row in self.rows}


def data_identity(data: Mapping[str, Any], examples: int) -> dict[str, Any]:
  """What a selection must agree on with a run: the data it is about.

  Args:
    data: the config's data section.
    examples: number of examples of the split.
  """
  # What is shrunk is shrunk to this room, which decides the pixels.
  room = data["image_capacity"] if data.get("oversize") == "shrink" else None
  drawn = data.get("mix", ())
  mix = {"mix": list(drawn), "mix_seed": data["mix_seed"]} if drawn else {}
  return {
    "dataset": _dataset_name(data),
    "split": data["split"],
    "examples": examples,
    # The order of the options is part of what is asked.
    "option_order": data["option_order"],
    "option_seed": data["option_seed"],
    "room": room and list(room),
    **mix,
  }


def find(config: Mapping[str, Any]) -> pathlib.Path:
  """The config's selection: gap.file, or its place beside the data."""
  if config["gap"]["file"]:
    return pathlib.Path(config["gap"]["file"]).expanduser()
  data = config["data"]
  name = f"{_dataset_name(data)}-{data['split']}.parquet"
  return pathlib.Path(data["dir"]) / "gap" / name


def save(path: str | os.PathLike[str], selection: Selection) -> None:
  """Writes the file, whole or not at all."""
  rows = [dataclasses.asdict(row) for row in selection.rows]
  about = json.dumps(dict(selection.about)).encode()
  table = pa.Table.from_pylist(rows, _SCHEMA.with_metadata({_KEY: about}))
  with files.atomic_writer(path) as file:
    parquet.write_table(table, file)


def load(
  path: str | os.PathLike[str], wanted: Mapping[str, Any] | None = None
) -> Selection:
  """Reads a file.

  Args:
    path: of the file.
    wanted: what its `about` must say, such as `data_identity`.

  Raises:
    UserError: it is missing, no such file, or about something else.
  """
  try:
    table = parquet.read_table(path)
    stored = (table.schema.metadata or {}).get(_KEY)
    about = dict(json.loads(stored or b"{}"))
    fits = stored is not None and table.schema.names == _SCHEMA.names
    rows = tuple(map(_chosen, table.to_pylist())) if fits else ()
  except FileNotFoundError:
    raise UserError(f"no selected budgets at {path}: {_REMEDY}") from None
  # A damaged file raises this or that, by the place of the damage.
  except (pa.ArrowException, OSError, ValueError, TypeError) as error:
    text = " ".join(str(error).split())[:200]
    raise UserError(f"{path} is no Parquet file ({text}): {_REMEDY}") from None
  if not fits:
    raise UserError(f"{path} holds no selected budgets: {_REMEDY}")
  for name, value in (wanted or {}).items():
    if about.get(name) != value:
      raise UserError(
        f"{path} is about {name} {about.get(name)!r}, this run about "
        f"{value!r}: {_REMEDY}"
      )
  return Selection(rows, about)


def _chosen(row: Mapping[str, Any]) -> Chosen:
  lists = {name: tuple(row[name]) for name in ("levels", "answers")}
  return Chosen(**{**row, **lists})


def _dataset_name(data: Mapping[str, Any]) -> str:
  """As in data.name; scenes with the digest of all that decides them."""
  # Imported late: the data set's builder takes seconds to import.
  from lfpc_jax.data import scenes

  own = scenes.scenes_config(data["difficulty"]).name
  return "+".join(
    own if name == "scenes" else name for name in data["name"].split("+")
  )
