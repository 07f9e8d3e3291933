"""The select_gap command: answers, journal, file, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import pathlib
import time
from typing import Any

import numpy as np
import rich
import rich.console
import rich.text

from lfpc_jax import agent as agent_lib
from lfpc_jax import config as config_lib
from lfpc_jax import files, metrics
from lfpc_jax.data import fits, gap_file, loader
from lfpc_jax.data import gap as gap_lib
from lfpc_jax.data.gap_file import Selection
from lfpc_jax.data.loader import PromptSource
from lfpc_jax.errors import UserError
from lfpc_jax.gap_selection import select, summary
from lfpc_jax.gap_selection.direct import DirectAnswers
from lfpc_jax.gap_selection.journal import Entry, Journal
from lfpc_jax.models.parameters import params_digest

JOURNAL = "answers.jsonl"  # in the workdir
CONFIG = "select_gap.json"  # there too


def ladder(config: Mapping[str, Any]) -> tuple[int, ...]:
  """The budgets below the original's, falling.

  Raises:
    UserError: selection.levels are not between 1 and gap.full_tokens.
  """
  full, section = config["gap"]["full_tokens"], config["selection"]
  if not section["levels"]:
    return gap_lib.ladder(full, section["lowest"])
  levels = tuple(sorted(set(section["levels"]), reverse=True))
  if levels[0] >= full or levels[-1] < 1:
    raise UserError(
      f"selection.levels={section['levels']} must be from 1 to below "
      f"gap.full_tokens={full}"
    )
  return levels


class _Policy:
  """Answers by level, from the journal where it can, else from the policy."""

  def __init__(self, config, params, source: PromptSource, ids, journal):
    self._config, self._params, self._source = config, params, source
    self._ids, self._journal = ids, journal

  def __call__(
    self, level: int, indices: Sequence[int]
  ) -> list[tuple[str, int]]:
    """Answer and visual tokens of each example."""
    size = self._config["selection"]["batch"]
    known = self._journal.known(level)
    # The same batches in every part of an interrupted run.
    parts = [indices[k : k + size] for k in range(0, len(indices), size)]
    missing = [p for p in parts if any(self._ids[i] not in known for i in p)]
    if missing:
      done = len(parts) - len(missing)
      self._answer(level, missing, done, len(parts))
      known = self._journal.known(level)
    return [known[self._ids[i]] for i in indices]

  def _answer(self, level, parts, done, total) -> None:
    direct = DirectAnswers(self._config, self._params, level)
    title = f"answers at {level:,} tokens"
    with (
      metrics.Progress(title, total, start=done) as progress,
      loader.BatchLoader(
        self._source,
        lambda step: np.asarray(parts[step]),
        num_steps=len(parts),
        transform=lambda _, examples: direct.pack(examples),
      ) as batches,
    ):
      before = time.perf_counter()
      for step, packed in batches:
        compiled = direct.compile_seconds
        texts, tokens = direct(*packed)
        compiled = direct.compile_seconds - compiled
        now = time.perf_counter()
        self._journal.add(
          Entry(
            level,
            [self._ids[i] for i in parts[step]],
            texts,
            tokens.tolist(),
            now - before - compiled,
            compiled,
          )
        )
        before = now
        progress.update(done + step + 1)


def select_into(
  config: Mapping[str, Any],
  workdir: pathlib.Path,
  path: pathlib.Path,
  source: PromptSource,
) -> tuple[Selection, list[Entry]]:
  """Selects a budget for each example and writes the file.

  Args:
    config: a whole config, see configs/.
    workdir: for the journal; a run that was killed goes on from it.
    path: of the file.
    source: the examples of data.split.

  Returns:
    What was written, and what the answers took.

  Raises:
    UserError: workdir or path hold a selection of something else.
  """
  levels, full = ladder(config), config["gap"]["full_tokens"]
  number = min(config["selection"]["items"] or len(source), len(source))
  agent = agent_lib.make_agent(config, levels[-1])
  params = agent_lib.load_params(agent, config["policy"]["checkpoint"])
  about = gap_file.data_identity(config["data"], number) | {
    "policy": config["policy"]["path"],
    "checkpoint": config["policy"]["checkpoint"],
    "parameters": params_digest(params),
    "prompt_style": config["policy"]["prompt_style"],
    "answer_tokens": config["selection"]["answer_tokens"],
    "full_tokens": full,
    "min_tokens": config["gap"]["min_tokens"],
    "levels": list(levels),
  }
  _check_free(path, about)
  examples = [source.words(i) for i in range(number)]
  if shrunk := _check_room(agent, source, number, levels[-1]):
    rich.print(rich.text.Text(shrunk))
  with files.locked(workdir), Journal(workdir / JOURNAL, about) as journal:
    config_lib.write_config(config, workdir, CONFIG)
    answer = _Policy(config, params, source, [e.id for e in examples], journal)
    rows = select.choose_levels(examples, full, levels, answer)
  selection = Selection(tuple(rows), about)
  gap_file.save(path, selection)
  return selection, journal.entries


def _check_room(agent, source, number: int, budget: int) -> str:
  """Refuses what would end the run later; says what is shrunk."""
  packer, all_ = agent_lib.direct_packer(agent), {0: range(number)}
  budgets = lambda step, ids: [budget] * len(ids)
  return fits.settle([fits.find(source, packer, all_, budgets)])


def _check_free(path: pathlib.Path, about: Mapping[str, Any]) -> None:
  """Refuses to write over the selection of another policy or ladder."""
  if not path.exists():
    return
  known = gap_file.load(path).about
  names = [k for k in about if about[k] != known.get(k)]
  if names:
    changes = "; ".join(
      f"{k} {known.get(k)!r}, now {about[k]!r}" for k in names
    )
    raise UserError(
      f"{path} holds another selection ({changes}): remove it, or write "
      "elsewhere with --config.gap.file=FILE"
    )


def run(config: Mapping[str, Any], workdir: pathlib.Path) -> None:
  """The command: selects, writes the file, prints and keeps the tables."""
  data = config["data"]
  source = loader.open_data(data, data["split"])
  path = gap_file.find(config)
  selection, entries = select_into(config, workdir, path, source)
  console = rich.console.Console()
  tables = (
    summary.level_table(selection),
    summary.share_table(selection.rows),
    summary.cost_table(entries, len(selection.rows)),
  )
  for table in tables:
    console.print(table)
  text = "\n\n".join(table.to_markdown() for table in tables)
  files.atomic_write(path.with_suffix(".md"), text.encode())
  console.print(f"budgets: {path}, these tables beside it", soft_wrap=True)
  console.print(
    "train with --config.gap.mode=selected"
    + (f" --config.gap.file={path}" if config["gap"]["file"] else ""),
    soft_wrap=True,
  )
