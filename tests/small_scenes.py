"""The data set of scenes in a size for tests: twelve small images."""

from collections.abc import Callable, Iterator
import contextlib
import functools
import os
import pathlib

import jax
import ml_collections
import pytest

from lfpc_jax import config as config_lib
from lfpc_jax.data import scenes

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "tiny.py"
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


@contextlib.contextmanager
def quick_configs(
  data_dir: str | os.PathLike[str], *changes: str
) -> Iterator[Callable[..., ml_collections.FrozenConfigDict]]:
  """Gives configs of small scenes; programs compile with little effort."""
  with prepared(data_dir) as data:
    jax.config.update("jax_disable_most_optimizations", True)
    yield lambda *more: config_lib.freeze(
      config_lib.load_config(f"{CONFIG}:smoke", (*data, *changes, *more))
    )
    jax.config.update("jax_disable_most_optimizations", False)
