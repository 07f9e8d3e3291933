"""The command that builds a data set, as its users call it."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
from PIL import Image

from lfpc_jax.data import registry

ROOT = pathlib.Path(__file__).parents[2]


def _call(*args):
  done = subprocess.run(
    [sys.executable, "-m", "lfpc_jax.data.manual", *map(str, args)],
    cwd=ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=1500,
    check=False,
  )
  return done.returncode, done.stdout, done.stderr


def test_the_module_builds_a_data_set_that_can_be_opened(tmp_path):
  mine, data = tmp_path / "mine", tmp_path / "data"
  mine.mkdir()
  pixels = np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3)
  Image.fromarray(pixels).save(mine / "a.png")
  row = {"image": "a.png", "question": "Which?", "answer": "7"}
  rows = [row, row | {"image": "b.png"}]
  (mine / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
  flags = "--name=folder", f"--dir={mine}", f"--data_dir={data}"
  status, out, err = _call(*flags)
  assert status == 0, err
  assert "1 broken rows" in out and "b.png" in out
  (example,) = registry.open_source("folder", data, "train")
  np.testing.assert_array_equal(example.image, pixels)
  assert (example.question, example.answer) == ("Which?", "7")
