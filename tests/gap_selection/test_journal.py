"""The journal survives a kill, and refuses to mix two selections."""

import pytest

from lfpc_jax.errors import UserError
from lfpc_jax.gap_selection.journal import Entry, Journal

ABOUT = {"levels": (64, 16), "parameters": "abc"}
FIRST = Entry(64, ["a", "b"], ["7", "1"], [324, 324], 0.5, 2.0)
SECOND = Entry(16, ["a"], ["3"], [324], 0.25, 0.0)


def test_entries_come_back(tmp_path):
  path = tmp_path / "answers.jsonl"
  with Journal(path, ABOUT) as journal:
    journal.add(FIRST)
    journal.add(SECOND)
  with Journal(path, ABOUT) as journal:
    assert journal.entries == [FIRST, SECOND]
    assert journal.known(64) == {"a": ("7", 324), "b": ("1", 324)}
    assert journal.known(16) == {"a": ("3", 324)}
    assert journal.known(4) == {}


@pytest.mark.parametrize("lost", [1, 20, 70])
def test_a_torn_last_line_is_dropped_and_written_again(tmp_path, lost):
  path = tmp_path / "answers.jsonl"
  with Journal(path, ABOUT) as journal:
    journal.add(FIRST)
    journal.add(SECOND)
  whole = path.read_bytes()
  path.write_bytes(whole[:-lost])
  with Journal(path, ABOUT) as journal:
    assert journal.entries == [FIRST]
    journal.add(SECOND)
  assert path.read_bytes() == whole


def test_a_first_line_that_never_came_is_a_fresh_start(tmp_path):
  path = tmp_path / "answers.jsonl"
  path.write_bytes(b'{"levels"')
  with Journal(path, ABOUT) as journal:
    assert journal.entries == []


def test_another_selections_journal_is_refused(tmp_path):
  path = tmp_path / "answers.jsonl"
  with Journal(path, ABOUT):
    pass
  with pytest.raises(UserError, match=r"parameters 'abc' -> 'xyz'.*--workdir"):
    Journal(path, ABOUT | {"parameters": "xyz"})
