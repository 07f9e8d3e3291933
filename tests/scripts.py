"""Scripts that no package holds, as modules."""

import importlib.util
import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[1]


def load(path):
  """The script at a path below the project's root."""
  path = ROOT / path
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  sys.modules[path.stem] = module  # dataclasses look it up
  spec.loader.exec_module(module)
  return module
