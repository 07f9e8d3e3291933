"""How a failing command ends: in one line, or in a traceback for who asks.

One line is for what a user can do something about. Any other exception is a
fault of the program and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import errno
import os
import signal
import sys

from jax.errors import JaxRuntimeError
import ml_collections

from lfpc_jax.errors import UserError

_LESS = (
  "take less at a time, as with --config.rl.micro_batches, "
  "--config.rollout.prompts or --config.eval.batch; docs/troubleshooting.md "
  "says what else needs less"
)
_AGAIN = "; the same command then goes on from what is there"
_REMEDIES = {
  errno.ENOSPC: f"free some space{_AGAIN}",
  errno.EDQUOT: f"free some of your quota{_AGAIN}",
  errno.EFBIG: f"lift the limit of a file's size (ulimit -f){_AGAIN}",
  errno.EMFILE: f"lift the limit of open files (ulimit -n){_AGAIN}",
  errno.EROFS: "name a directory that can be written",
  errno.EACCES: "give yourself the right to it, or name another place",
}
_MENDABLE = (UserError, OSError, MemoryError, JaxRuntimeError, AttributeError)


@contextlib.contextmanager
def plain_errors(traceback: bool = False) -> Iterator[None]:
  """Turns an error that a user can mend into one line and an exit status.

  Args:
    traceback: raise what came instead, to show where it came from.
  """
  try:
    yield
  except BrokenPipeError:
    # Whoever read this has read enough, as `head` has; nothing failed. What is
    # still in the buffer must go nowhere when Python flushes it.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(128 + signal.SIGPIPE)
  except _MENDABLE as error:
    text = _line(error)
    if traceback or not text:
      raise
    print(f"error: {visible(text)}", file=sys.stderr)
    sys.exit(1)
  except KeyboardInterrupt:
    print("stopped", file=sys.stderr)
    sys.exit(130)


def visible(text: str) -> str:
  """The text with what would act on a terminal, or hide, written as its code.

  A file's name, a data set's row or a model's answer may stand in an error.
  """
  return "".join(
    c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
  )


def _line(error: Exception) -> str:
  """What to tell a user; '' for an error that is the program's own."""
  text = " ".join(str(error).split())
  if isinstance(error, MemoryError):
    return f"out of memory ({text or 'on the host'}): {_LESS}"
  if isinstance(error, JaxRuntimeError):
    kind, _, detail = text.partition(": ")
    if kind != "RESOURCE_EXHAUSTED":
      return ""
    return f"out of memory ({detail[:200]}): {_LESS}"
  if isinstance(error, AttributeError):
    if not isinstance(error.obj, ml_collections.ConfigDict):
      return ""
    return f"the config lacks {error.name!r}: add it, as configs/tiny.py has it"
  if isinstance(error, OSError) and error.errno in _REMEDIES:
    return f"{text}: {_REMEDIES[error.errno]}"
  return text
