"""Bad inputs: one line that says what and what to do, and nothing is lost."""

import collections
import itertools
import json
import os

import jax
from jax.errors import JaxRuntimeError
import pytest

from lfpc_jax.errors import UserError
from lfpc_jax.metrics import read_metrics
from tests import small_scenes
from tests.bad_inputs import bench, table


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """Fields of a config that name a data set."""
  with small_scenes.prepared(tmp_path_factory.mktemp("data")) as changes:
    yield changes


@pytest.fixture
def at(data, capsys, tmp_path, monkeypatch):
  """An empty directory but for results that must stay as they are."""
  monkeypatch.chdir(tmp_path)
  cache = jax.config.jax_compilation_cache_dir
  found = bench.Bench(tmp_path, data, capsys, monkeypatch)
  found.write("w/results.html", "of a week's work")
  for name in ("evaluate.json", "select_gap.json", "ask.json"):
    found.write(f"w/{name}", '{"of": "what was done before"}')
  yield found
  jax.config.update("jax_compilation_cache_dir", cache)


def _check_nothing_is_lost(before, after):
  for path, data in before.items():
    if path.name == "metrics.jsonl":  # a run that goes on adds to it
      assert after[path].startswith(data)
    elif path.match("w/config.json"):  # of the run that was let on
      assert json.loads(after[path]).keys() == json.loads(data).keys()
    else:
      assert after[path] == data, path


def _name(row):
  return f"{row.kind}: {row.name}"


def test_the_table_is_long_and_covers_every_kind():
  kinds = collections.Counter(row.kind for row in table.ROWS)
  assert len(table.ROWS) >= 60 and len(kinds) == 13
  assert len({_name(row) for row in table.ROWS}) == len(table.ROWS)


@pytest.mark.parametrize("row", table.ROWS, ids=_name)
def test_one_line_says_what_is_wrong_and_what_to_do(row, at):
  found = row.act(at)
  assert found.status == 1, found
  assert found.err.startswith("error: ") and found.err.count("\n") == 1, found
  assert "Traceback" not in found.err + found.out
  for words in row.says:
    assert words in found.err
  _check_nothing_is_lost(at.before, bench.contents(at.folder))


@pytest.mark.parametrize(
  "row", {row.kind: row for row in table.ROWS}.values(), ids=_name
)
def test_who_asks_for_a_traceback_gets_it(row, at):
  at.traceback = True
  with pytest.raises((UserError, OSError, MemoryError, JaxRuntimeError)):
    row.act(at)


def test_a_clock_that_goes_backwards_harms_nothing(at):
  """A resume takes the highest step, whatever the files' times say."""
  seconds = itertools.count(2_000_000_000, -3_600)
  at.patch.setattr("time.time", lambda: next(seconds))
  at.trained()
  for number, path in enumerate(sorted(at.folder.rglob("*"), reverse=True)):
    os.utime(path, (number, number))
  found = at.train("train.tensorboard=False", "train.steps=4")
  assert (found.status, found.err) == (0, "")
  rows = read_metrics(at.folder / "w")
  assert [row["step"] for row in rows] == [0, 1, 2, 3]
