"""The whole selection but for the program: kill, resume, refuse, count.

The answers are made up; tests of direct answers are beside this.
"""

import dataclasses

import numpy as np
import pytest
import rich.console

from lfpc_jax.data import gap_file
from lfpc_jax.errors import UserError
from lfpc_jax.gap_selection import command, select, summary
from lfpc_jax.gap_selection.journal import Journal
from tests.gap_selection import sizes

# The least budget at which each example still gets its original answer.
ENOUGH = (4, 9, 30, 5, 9)
EXPECTED = ((4, False), (4, True), (9, True), (4, True), (4, True))


class _Answers:
  """Stands for DirectAnswers."""

  def __init__(self, config, params, budget):
    self.budget, self.compile_seconds = budget, 0.0

  def pack(self, examples):
    return examples, len(examples)

  def __call__(self, examples, number):
    self.compile_seconds = 1e-9
    assert len(examples) == number <= sizes.BATCH
    names = [int(example.id.split()[1]) for example in examples]
    right = [self.budget >= ENOUGH[k] for k in names]
    tokens = np.full(number, min(self.budget, 25))
    return ["7" if x else f"{self.budget}" for x in right], tokens


@pytest.fixture(scope="module", autouse=True)
def made_up():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(command, "DirectAnswers", _Answers)
    yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """(selection, entries, folder) of a run that nothing stopped."""
  folder = tmp_path_factory.mktemp("whole")
  found = command.select_into(
    sizes.load(), folder / "run", folder / "gap.parquet", sizes.source()
  )
  return *found, folder


def _plain(entries):
  """Without the times."""
  return [
    dataclasses.replace(entry, seconds=0, compile_seconds=0)
    for entry in entries
  ]


def test_each_example_gets_its_level_and_both_answers(whole):
  selection, entries, folder = whole
  assert gap_file.load(folder / "gap.parquet") == selection
  assert [row.id for row in selection.rows] == [f"image {k}" for k in range(5)]
  given = {
    (entry.level, name): answer
    for entry in entries
    for name, answer in zip(entry.ids, entry.answers)
  }
  assert tuple((r.tokens, r.diverged) for r in selection.rows) == EXPECTED
  for row in selection.rows:
    assert row.original_answer == given[sizes.FULL, row.id]
    assert row.answer == given[row.tokens, row.id]
    assert row.diverged is select.diverges(row.answer, row.original_answer)
    assert row.original_tokens == 25 and row.original_correct


def test_one_program_a_level_and_full_batches(whole):
  _, entries, _ = whole
  at_full = [entry for entry in entries if entry.level == sizes.FULL]
  assert [len(entry.ids) for entry in at_full] == [3, 2]
  for level in (sizes.FULL, *sizes.LEVELS):
    compiled = [e.compile_seconds > 0 for e in entries if e.level == level]
    assert compiled[:1] == [True] and not any(compiled[1:])
  assert all(entry.seconds > 0 for entry in entries)


def test_a_killed_run_goes_on_from_its_last_batch(whole, tmp_path, monkeypatch):
  selection, entries, _ = whole
  arguments = sizes.load(), tmp_path / "run", tmp_path / "gap.parquet"
  add = Journal.add

  def add_one_and_die(journal, entry):
    if journal.entries:
      raise KeyboardInterrupt
    add(journal, entry)

  monkeypatch.setattr(Journal, "add", add_one_and_die)
  with pytest.raises(KeyboardInterrupt):
    command.select_into(*arguments, sizes.source())
  monkeypatch.undo()
  assert not arguments[2].exists()
  path = tmp_path / "run" / command.JOURNAL
  kept = path.read_bytes()
  assert len(kept.splitlines()) == 2  # what it is about, and a batch
  path.write_bytes(kept + b'{"level": 30, "ids": ["im')
  again, more = command.select_into(*arguments, sizes.source())
  assert path.read_bytes().startswith(kept)
  assert again == selection
  assert _plain(more) == _plain(entries)


def test_another_policys_selection_is_not_written_over(whole, tmp_path):
  *_, folder = whole
  changed = sizes.load("selection.levels=4")
  with pytest.raises(UserError, match=r"gap.parquet holds another selection"):
    command.select_into(
      changed, tmp_path, folder / "gap.parquet", sizes.source()
    )
  with pytest.raises(UserError, match=r"levels \[9, 4\] -> \[4\]"):
    command.select_into(
      changed, folder / "run", tmp_path / "x.parquet", sizes.source()
    )


def test_levels_that_are_no_ladder_are_refused():
  with pytest.raises(UserError, match=r"selection.levels=\(9, 30\)"):
    command.ladder(sizes.load("selection.levels=9,30"))
  assert command.ladder(sizes.load("selection.levels=()")) == (16,)


def test_the_digest_tells_parameters_apart():
  params = sizes.params()
  known = command.params_digest(params)
  assert known == command.params_digest(params)
  other = np.array(params["norm"]["scale"])
  other[3] = np.nextafter(other[3], 9, dtype=other.dtype)
  changed = params | {"norm": {"scale": other}}
  assert command.params_digest(changed) != known
  swapped = np.array(params["embedding"])
  swapped[[0, 1]] = swapped[[1, 0]]
  assert command.params_digest(params | {"embedding": swapped}) != known


def _printed(table):
  console = rich.console.Console(width=200)
  with console.capture() as capture:
    console.print(table)
  return capture.get()


def _row(name, tokens, diverged, right):
  return sizes.chosen(
    name, tokens, diverged=diverged, original_correct=right, answer="7"
  )


def test_the_tables_count_what_was_chosen():
  rows = (
    _row("a", 64, True, True),
    _row("b", 64, True, False),
    _row("c", 64, True, True),
    _row("d", 16, False, False),
    _row("e", 16, True, True),
  )
  table = summary.level_table(gap_file.Selection(rows, {"levels": [64, 16]}))
  counts = {label: cells[0] for label, cells in table.rows}
  assert counts == {
    "64 tokens": 3,
    "16 tokens": 1,
    "16 tokens, never diverged": 1,
  }
  assert "60.0" in _printed(table)
  # Three originals are right, two of them at 64; two are wrong, one there.
  shares = {
    label: [cell and cell.mean for cell in cells[2:4]]
    for label, cells in table.rows
  }
  assert shares == {
    "64 tokens": [pytest.approx(2 / 3), 0.5],
    "16 tokens": [pytest.approx(1 / 3), 0],
    "16 tokens, never diverged": [0, 0.5],
  }
  right = gap_file.Selection(rows[:1], {"levels": [64, 16]})
  assert all(row[1][3] is None for row in summary.level_table(right).rows)
  shares = {
    label: cells[0].mean for label, cells in summary.share_table(rows).rows
  }
  assert shares == {
    "wrong on the original": 0.4,
    "never diverges": 0.2,
    "never diverges, right": 0.0,
  }


def test_the_command_prints_its_tables_and_keeps_them(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(command.loader, "open_data", lambda *_: sizes.source())
  path = tmp_path / "gap.parquet"
  command.run(sizes.load(f"gap.file={path}"), tmp_path / "run")
  kept = (tmp_path / "gap.md").read_text()
  shown = capsys.readouterr().out
  for text in (
    "Chosen budget of the global view",
    "never diverges",
    "wrong on the original",
    "of wrong originals",
    "seconds for 1,000 examples",
  ):
    assert text in kept and text.split()[-1] in shown
  assert gap_file.load(path).rows


def test_the_cost_is_of_a_thousand_examples(whole):
  _, entries, _ = whole
  entries = [
    dataclasses.replace(entry, seconds=0.5, compile_seconds=0.0)
    for entry in entries
  ]
  table = summary.cost_table(entries, 5)
  answers, seconds, _, thousand, _ = dict(table.rows)["in all"]
  assert answers == sum(len(entry.ids) for entry in entries)
  assert seconds == 0.5 * len(entries)
  assert thousand == pytest.approx(1000 * seconds / 5)
