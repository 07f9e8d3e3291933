"""A mesh that activations cannot lie on is refused before any compiling."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
_CONTEXT = (
  "mesh.axes=fsdp,context,tensor",
  "mesh.sizes=2,2,1",
  "mesh.slices=1,1,1",
)
# What is changed, and what is said; '' where nothing is wrong.
CASES = [
  ([], ""),
  (["mesh.rules=prefix=fsdp"], "prompt and prefix are both split over the"),
  (["mesh.rules=features=fsdp"], "prompt and features are both split over"),
  (
    [*_CONTEXT, "mesh.rules=prefix=context", "rollout.text_capacity=41"],
    "the axis prefix of size",
  ),
  (["mesh.sizes=2,2"], "the axis vision_heads of size 3 does not divide"),
]
# The update alone has suffixes.
TRAINING = [
  (
    [*_CONTEXT, "mesh.rules=suffix=context"],
    "the axis suffix of size 49 does not divide over 2 devices",
  )
]
# Makes an array of a table or a number; no program of a step.
SMALL = {"jit(stage)", "jit(convert_element_type)"}

_SCRIPT = """
import json, pathlib, sys
import jax
from lfpc_jax import config as config_lib, parallel
from lfpc_jax.errors import UserError
from lfpc_jax.evaluation.runner import Runner
from lfpc_jax.rl.trainer import Trainer
from tests import small_scenes

make = {"train": lambda config: Trainer(config, "unused"), "evaluate": Runner}
what = make[sys.argv[1]]
compiled = []
jax.monitoring.register_event_duration_secs_listener(
  lambda name, *_, **more: name.endswith("backend_compile_duration")
  and compiled.append(more["fun_name"]))
with small_scenes.prepared(sys.argv[2]) as fields:
  for changes in json.loads(sys.argv[3]):
    config = config_lib.freeze(config_lib.load_config(
      f"{small_scenes.CONFIG}:smoke",
      ("gap.tokens=4", "gap.full_tokens=16", "gap.levels=4,16",
       "rl.micro_batches=1", "eval.budgets=16", *fields, *changes)))
    said = ""
    with parallel.configured(config.mesh):
      compiled.clear()
      try:
        what(config)
      except UserError as error:
        said = str(error)
    print(json.dumps([said, compiled]))
"""


@pytest.mark.parametrize(
  "command, cases", [("train", CASES + TRAINING), ("evaluate", CASES)]
)
def test_arrays_that_cannot_lie_so(tmp_path, command, cases):
  changes = json.dumps([fields for fields, _ in cases])
  done = subprocess.run(
    [sys.executable, "-c", _SCRIPT, command, str(tmp_path), changes],
    cwd=ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"},
    capture_output=True,
    text=True,
    timeout=1500,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  lines = done.stdout.splitlines()  # of which some say that scenes are drawn
  found = [json.loads(line) for line in lines if line.startswith("[")]
  assert len(found) == len(cases)
  for (said, compiled), (fields, says) in zip(found, cases):
    assert says in said and bool(says) == bool(said), (fields, said)
    assert set(compiled) <= SMALL, (fields, compiled)
