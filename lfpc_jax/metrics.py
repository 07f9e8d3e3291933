"""Metrics of a run: a JSON-lines file, and progress on the console.

A training loop that never waits for the device holds back each step's scalars
until the next step has been dispatched:

  with Progress('stage 1', steps, start=start) as progress:
    writer, delayed = MetricsWriter(workdir, start), DelayedScalars()
    for step in range(start, steps):
      state, scalars = train_step(state, ...)     # dispatched, not awaited
      if (row := delayed.push(step, scalars)):    # of step - 1: ready by now
        writer.write(*row)
        progress.update(row[0] + 1, reward=row[1]['reward'])
    if (row := delayed.flush()):
      writer.write(*row)
"""

from collections.abc import Callable, Mapping
import json
import os
import pathlib
import time
from typing import Any, Self

import jax
import rich.console
import rich.progress
import rich.text

from lfpc_jax import errors, files

Row = tuple[int, dict[str, float]]
"""A step and its scalars, on the host."""

FILE = "metrics.jsonl"  # in a workdir
# Of a row: what another run of the same config does not repeat.
CLOCKED = ("data_wait_seconds",)


class MetricsWriter:
  """Appends one JSON line per step to `workdir/metrics.jsonl`.

  A line reaches the file whole or, after a kill, torn as its last line.  On a
  resume at step k, rows of step k and later are dropped: the run computes them
  again.
  """

  def __init__(
    self,
    workdir: str | os.PathLike[str],
    start_step: int = 0,
    *,
    enabled: bool | None = None,
  ):
    """Opens the file for steps from `start_step` on.

    Args:
      workdir: The run's folder; made if missing.
      start_step: The first step that this process will write.
      enabled: Whether this process writes; by default only process 0 does.
    """
    self._file = None
    if _is_first_process() if enabled is None else enabled:
      path = pathlib.Path(workdir) / FILE
      _keep_rows_before(path, start_step)
      self._file = path.open("ab", buffering=0)

  def write(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Appends one row; values may be Python, NumPy or JAX scalars."""
    if self._file is not None:
      row = {"step": int(step), **_to_host(scalars)}
      # One write per line: a kill cannot leave two half lines.
      files.append(self._file, json.dumps(row).encode() + b"\n")

  def close(self) -> None:
    """Closes the file; a closed writer writes nothing."""
    if self._file is not None:
      self._file.close()
      self._file = None

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """Reads the rows of a metrics file, or of the one in folder `path`.

  A torn last line, as a kill leaves it, is ignored.

  Raises:
    FileNotFoundError: there is no such file.
    UserError: another line is no metrics row; the message names it.
  """
  path = pathlib.Path(path)
  path = path / FILE if path.is_dir() else path
  lines = path.read_bytes().split(b"\n")
  rows = []
  # A whole file ends in a newline, so that its last piece is empty.
  for number, line in enumerate(lines[:-1], 1):
    try:
      rows.append({"step": None, **json.loads(line)})
      rows[-1]["step"] = int(rows[-1]["step"])
    except (ValueError, TypeError) as error:
      raise errors.UserError(
        f"{path}, line {number}, is no metrics row: {line[:80]!r}. Remove "
        "the line, or the file if it is not a metrics file."
      ) from error
  return rows


class DelayedScalars:
  """Holds a step's scalars on the device until the next step is dispatched.

  Fetching a scalar waits for the program that computes it.  One step late, that
  program has finished while the device already works on the next.
  """

  def __init__(self):
    self._held: tuple[int, Mapping[str, Any]] | None = None

  def push(self, step: int, scalars: Mapping[str, Any]) -> Row | None:
    """Takes a step's scalars; returns the previous step's, fetched."""
    for value in scalars.values():
      if isinstance(value, jax.Array):
        value.copy_to_host_async()
    row = self.flush()
    self._held = step, scalars
    return row

  def flush(self) -> Row | None:
    """Returns the step still held, fetched; None if there is none."""
    if self._held is None:
      return None
    (step, scalars), self._held = self._held, None
    return step, _to_host(scalars)


class Progress:
  """Shows what is running, the step, the time left and the latest numbers.

  A terminal gets a live bar; a log file gets a plain line at most every
  `interval` seconds.  Only process 0 prints.
  """

  def __init__(
    self,
    task: str,
    total: int,
    *,
    start: int = 0,
    interval: float = 10.0,
    console: rich.console.Console | None = None,
    enabled: bool | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Prepares the display; it appears on entering the context.

    Args:
      task: What is running, for a reader.
      total: The number of steps at the end.
      start: Steps done before, on a resume.
      interval: Seconds between plain lines.
      console: Where to print; standard output by default.
      enabled: Whether this process prints; by default only process 0 does.
      clock: Seconds; for tests.
    """
    self._task, self._total, self._interval = task, total, interval
    self._console = console or rich.console.Console()
    self._enabled = _is_first_process() if enabled is None else enabled
    self._clock = clock
    self._step = start
    self._first: tuple[float, int] | None = None
    self._printed: float | None = None
    self._bar: rich.progress.Progress | None = None

  def __enter__(self) -> Self:
    if self._enabled and self._console.is_terminal:
      self._bar = rich.progress.Progress(
        rich.progress.SpinnerColumn(),
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(bar_width=24),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[rest]}", markup=False),
        console=self._console,
      )
      self._bar.add_task(
        self._task, total=self._total, completed=self._step, rest=""
      )
      self._bar.start()
    elif self._enabled and self._step < self._total:
      # The first step compiles: a log should say that something goes on.
      line = f"{self._task}  {self._step}/{self._total}  starting"
      self._console.print(rich.text.Text(line), soft_wrap=True)
    return self

  def __exit__(self, *_: object) -> None:
    if self._bar is not None:
      self._bar.stop()

  def update(self, step: int, doing: str = "", **numbers: Any) -> None:
    """Reports `step` steps done, what runs now, and numbers to show.

    The numbers should be on the host already: printing a JAX array waits.
    """
    now = self._clock()
    # The first steps compile; the pace is measured from the first report on.
    if self._first is None:
      self._first = now, step
    self._step = step
    if not self._enabled:
      return
    rest = "  ".join(self._details(now, doing, numbers))
    if self._bar is not None:
      self._bar.update(self._bar.task_ids[0], completed=step, rest=rest)
    elif self._is_due(now):
      self._printed = now
      line = f"{self._task}  {step}/{self._total}  {rest}".rstrip()
      self._console.print(rich.text.Text(line), soft_wrap=True)

  def log(self, message: str) -> None:
    """Prints a line, above the bar if there is one."""
    if self._enabled:
      self._console.print(rich.text.Text(message), soft_wrap=True)

  def _is_due(self, now: float) -> bool:
    return (
      self._printed is None
      or self._step >= self._total
      or now - self._printed >= self._interval
    )

  def _details(
    self, now: float, doing: str, numbers: Mapping[str, Any]
  ) -> list[str]:
    parts = [f"{name} {float(value):.3g}" for name, value in numbers.items()]
    first, step = self._first
    if self._step > step:
      left = (now - first) / (self._step - step) * (self._total - self._step)
      parts.append(f"{_duration(left)} left")
    return [*parts, doing] if doing else parts


def _keep_rows_before(path: pathlib.Path, step: int) -> None:
  """Drops a torn last line and the rows from `step` on."""
  if path.exists():
    rows = [row for row in read_metrics(path) if row["step"] < step]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    files.atomic_write(path, lines.encode())
  path.parent.mkdir(parents=True, exist_ok=True)


def _to_host(scalars: Mapping[str, Any]) -> dict[str, float]:
  """Fetches all values at once, as Python numbers."""
  values = jax.device_get(dict(scalars))
  try:
    return {
      name: value.item() if hasattr(value, "item") else value
      for name, value in values.items()
    }
  except ValueError as error:
    shapes = {name: getattr(v, "shape", ()) for name, v in values.items()}
    raise ValueError(
      f"A metric must be one number; the shapes are {shapes}: reduce the "
      "array, or log its parts by name."
    ) from error


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours} h {minutes:02d} min"
  return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def _is_first_process() -> bool:
  return jax.process_index() == 0
