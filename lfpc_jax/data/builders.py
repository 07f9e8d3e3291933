"""What the TFDS builders share: they ask nobody, and tidy up after a kill."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import errno
import os
import pathlib
import re
import shutil
import time

import tensorflow_datasets as tfds

_CALL_FAILED = re.compile(r"\w+\(\) failed: ([^;]*)")
_NUMBERS = {os.strerror(number): number for number in errno.errorcode}
_ABANDONED_SECONDS = 3600.0  # a build writes every few seconds


class LocalInfo(tfds.core.DatasetInfo):
  """The description of a data set that is built here or nowhere."""

  def initialize_from_bucket(self) -> None:
    """Does not look for it among the published ones.

    TFDS makes a temporary directory for the answer first, and leaves it.
    """


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
  """Turns ArrayRecord's word of a file that it cannot write into an OSError.

  Args:
    path: the data set's folder.
  """
  try:
    yield
  except RuntimeError as error:
    failed = _CALL_FAILED.search(str(error))
    if not failed:
      raise
    raise OSError(_NUMBERS.get(failed[1], 0), failed[1], str(path)) from error


def remove_abandoned(folder: pathlib.Path) -> None:
  """Removes builds that were killed; one that may still go on is younger.

  Args:
    folder: where the data set's versions lie.
  """
  for path in folder.glob("incomplete.*"):
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
      latest = max(p.stat().st_mtime for p in (path, *path.iterdir()))
      if time.time() - latest > _ABANDONED_SECONDS:
        shutil.rmtree(path, ignore_errors=True)
