"""Metrics survive kills and resumes; progress says what a reader needs."""

import io
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console

from lfpc_jax import errors, metrics


def _write(workdir, steps, start=0):
  with metrics.MetricsWriter(workdir, start) as writer:
    for step in steps:
      writer.write(step, {"reward": step / 10})


def _steps(workdir):
  return [row["step"] for row in metrics.read_metrics(workdir)]


def test_rows_read_back_as_written(tmp_path):
  with metrics.MetricsWriter(tmp_path / "run") as writer:
    writer.write(
      0, {"a": 1.5, "b": np.float32(0.25), "c": jnp.int32(3), "n": math.nan}
    )
  (row,) = metrics.read_metrics(tmp_path / "run")
  assert {name: row[name] for name in ('step', 'a', 'b', 'c')} == {
      'step': 0, 'a': 1.5, 'b': 0.25, 'c': 3
  }  # fmt: skip
  assert math.isnan(row["n"])


def test_each_row_is_on_disk_before_the_next(tmp_path):
  writer = metrics.MetricsWriter(tmp_path)
  writer.write(0, {"reward": 1.0})
  assert _steps(tmp_path) == [0]
  writer.close()


def test_resume_drops_the_rows_it_computes_again(tmp_path):
  _write(tmp_path, range(6))
  _write(tmp_path, range(3, 5), start=3)
  assert _steps(tmp_path) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_torn_last_line_is_ignored_and_removed_on_resume(tmp_path, cut):
  _write(tmp_path, range(3))
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(path.read_bytes()[:-cut])
  assert _steps(tmp_path) == [0, 1]
  _write(tmp_path, [2], start=2)
  assert _steps(tmp_path) == [0, 1, 2]
  assert all(json.loads(line) for line in path.read_text().splitlines())


def test_broken_line_inside_the_file_is_named(tmp_path):
  _write(tmp_path, range(3))
  path = tmp_path / "metrics.jsonl"
  lines = path.read_text().splitlines()
  path.write_text("\n".join([lines[0], '{"step": ', lines[2], ""]))
  with pytest.raises(errors.UserError, match="line 2"):
    metrics.read_metrics(tmp_path)


def test_other_processes_write_nothing(tmp_path):
  with metrics.MetricsWriter(tmp_path, enabled=False) as writer:
    writer.write(0, {"reward": 1.0})
  assert not list(tmp_path.iterdir())


def test_array_metric_is_refused_by_name(tmp_path):
  writer = metrics.MetricsWriter(tmp_path)
  with writer, pytest.raises(ValueError, match="lengths"):
    writer.write(0, {"lengths": jnp.zeros(3)})


def test_delayed_scalars_come_one_step_late_and_none_is_lost():
  delayed = metrics.DelayedScalars()
  double = jax.jit(lambda x: 2 * x)
  rows = [
    delayed.push(step, {"x": double(jnp.float32(step))}) for step in range(3)
  ]
  rows.append(delayed.flush())
  assert rows == [None, (0, {"x": 0.0}), (1, {"x": 2.0}), (2, {"x": 4.0})]
  assert delayed.flush() is None


def test_delayed_scalars_pass_a_guard_against_hidden_transfers():
  delayed = metrics.DelayedScalars()
  value = jnp.float32(1.0) + 1.0
  with jax.transfer_guard_device_to_host("disallow"):
    delayed.push(0, {"x": value})
    assert delayed.flush() == (0, {"x": 2.0})


def _progress(terminal, times, **options):
  file = io.StringIO()
  console = rich.console.Console(
    file=file, force_terminal=terminal, width=120, color_system=None
  )
  clock = iter(times).__next__
  progress = metrics.Progress('stage 1', 80, console=console, clock=clock,
                              **options)  # fmt: skip
  return progress, file


def test_plain_lines_come_every_interval_and_at_the_end():
  progress, file = _progress(False, [0, 4, 10, 12, 20])
  with progress:
    for step in (1, 5, 11, 13):
      progress.update(step, reward=step / 4)
    progress.update(80, reward=1.875, doing="saving")
  assert file.getvalue().splitlines() == [
    "stage 1  0/80  starting",
    "stage 1  1/80  reward 0.25",
    "stage 1  11/80  reward 2.75  1 min 09 s left",
    "stage 1  80/80  reward 1.88  0 s left  saving",
  ]


def test_terminal_gets_a_bar_with_step_and_number():
  progress, file = _progress(True, [0, 1])
  with progress:
    progress.update(1, reward=0.5)
    progress.update(2, reward=0.75, doing="[rollout]")
  shown = file.getvalue()
  assert "stage 1" in shown and "2/80" in shown
  assert "reward 0.75" in shown and "[rollout]" in shown


def test_other_processes_print_nothing():
  progress, file = _progress(False, [0, 1], enabled=False)
  with progress:
    progress.update(1, reward=0.5)
    progress.log("hello")
  assert file.getvalue() == ""
