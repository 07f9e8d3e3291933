"""The data set of scenes in a size for tests: twelve small images."""

from collections.abc import Iterator
import contextlib
import functools
import os

import pytest

from lfpc_jax.data import scenes

SIZE = 128  # of an image's side, in pixels


@contextlib.contextmanager
def prepared(data_dir: str | os.PathLike[str]) -> Iterator[tuple[str, ...]]:
  """Within it, scenes are small; gives the changes of a config to read them."""
  config = functools.partial(
    scenes.scenes_config,
    size=SIZE,
    split_sizes=dict(train=12, validation=0, test=4),
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(scenes, "scenes_config", config)
    scenes.prepare(data_dir, "easy", workers=0)
    yield f"data.dir={data_dir}", f"data.image_capacity={SIZE},{SIZE}"
