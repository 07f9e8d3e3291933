"""Checkpoints: bit-exact, atomic, readable in part, clear when broken."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax import checkpoints
from lfpc_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]


class Moments(NamedTuple):
  """An optimiser's state, as optax builds them."""

  count: jax.Array
  mu: dict


def _state(seed=0, width=8):
  rng = np.random.default_rng(seed)
  params = {
    "layers": {"kernel": jnp.asarray(rng.normal(size=(3, width)), jnp.float32)},
    "head": jnp.asarray(rng.normal(size=(width,)), jnp.bfloat16),
  }
  moments = Moments(jnp.int32(seed), jax.tree.map(jnp.square, params))
  return {
    "params": params,
    "optimizer": (moments, ()),
    "step": np.int32(seed),
    "key": jax.random.key(seed),
  }


def _bits(tree):
  def raw(x):
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x).tobytes()

  return [raw(x) for x in jax.tree.leaves(tree)]


def _save(directory, *steps, **kwargs):
  with checkpoints.Checkpointer(directory, **kwargs) as checkpointer:
    for step in steps:
      checkpointer.save(step, _state(step), {"position": step})


def test_a_state_comes_back_bit_by_bit_with_its_structure(tmp_path):
  with checkpoints.Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(5, _state(5), {"config": {"a": [1, None]}})
    target = checkpoints.abstract(_state(0))
    state, extra = checkpointer.restore(target)
  assert jax.tree.structure(state) == jax.tree.structure(_state())
  assert _bits(state) == _bits(_state(5))
  assert state["params"]["head"].dtype == jnp.bfloat16
  assert extra == {"config": {"a": [1, None]}}
  draw = jax.random.normal(state["key"], (2,))  # a typed key again
  np.testing.assert_array_equal(draw, jax.random.normal(_state(5)["key"], (2,)))


@pytest.mark.parametrize("kind", ["rbg", "threefry2x32"])
def test_a_key_keeps_its_kind(tmp_path, kind):
  keys = jax.random.split(jax.random.key(3, impl=kind), 2)
  with checkpoints.Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, {"key": keys})
    state, _ = checkpointer.restore({"key": keys})
  assert state["key"].dtype == keys.dtype and _bits(state) == _bits([keys])


def test_saves_when_due_and_keeps_the_latest(tmp_path):
  _save(tmp_path, *range(1, 10), every=2, keep=3)
  with checkpoints.Checkpointer(tmp_path, every=2, keep=3) as checkpointer:
    assert checkpointer.steps == (4, 6, 8) and checkpointer.latest_step == 8
    assert not checkpointer.save(9, _state())
    assert checkpointer.save(9, _state(9), force=True)
    assert not checkpointer.save(9, _state(0), force=True)  # already there
    state, _ = checkpointer.restore(_state())
    older, _ = checkpointer.restore(_state(), step=8)
  assert int(state["step"]) == 9 and int(older["step"]) == 8


def test_an_array_may_be_donated_as_soon_as_save_returns(tmp_path):
  change = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
  x = jnp.arange(1 << 20, dtype=jnp.float32)
  expected = np.arange(1 << 20, dtype=np.float32)
  with checkpoints.Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, {"x": x})
    jax.block_until_ready(change(x))
    state, _ = checkpointer.restore({"x": expected})
  np.testing.assert_array_equal(state["x"], expected)


def test_parameters_alone_from_a_run_or_a_step(tmp_path):
  _save(tmp_path / "checkpoints", 1, 2)
  wanted = _state(2)["params"]
  for path in (tmp_path, tmp_path / "checkpoints"):
    assert _bits(checkpoints.restore_params(path)) == _bits(wanted)
  older = checkpoints.restore_params(tmp_path / "checkpoints" / "1", wanted)
  assert _bits(older) == _bits(_state(1)["params"])
  assert checkpoints.read_extra(tmp_path) == {"position": 2}


def test_parameters_alone_do_not_touch_the_optimiser(tmp_path, monkeypatch):
  _save(tmp_path, 1)
  asked = []
  read = checkpoints.read_leaves
  monkeypatch.setattr(
    checkpoints, "read_leaves", lambda p, w: asked.extend(w) or read(p, w)
  )
  checkpoints.restore_params(tmp_path)
  assert sorted(asked) == ["params.head", "params.layers.kernel"]


def test_parameters_can_be_read_in_another_floating_point_type(tmp_path):
  _save(tmp_path, 1)
  target = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), _state()["params"]
  )
  kernel = checkpoints.restore_params(tmp_path, target)["layers"]["kernel"]
  expected = _state(1)["params"]["layers"]["kernel"].astype(jnp.bfloat16)
  np.testing.assert_array_equal(kernel, expected)


@pytest.mark.parametrize(
  "change, says",
  [
    (lambda s: s, None),
    (lambda s: _state(width=4), r"mu.head is bfloat16\[8\] there"),
    (lambda s: s | {"more": np.float32(1)}, "more is not in it"),
    (lambda s: s | {"step": np.float32(0)}, r"step is int32\[\] there"),
    (lambda s: s | {"params": {}}, None),
  ],
)
def test_another_shape_is_refused_by_name(tmp_path, change, says):
  _save(tmp_path, 3)
  with checkpoints.Checkpointer(tmp_path) as checkpointer:
    if says is None:
      checkpointer.restore(change(_state()))
      return
    with pytest.raises(UserError, match=says) as error:
      checkpointer.restore(change(_state()))
  assert str(tmp_path / "3") in str(error.value)
  assert "--workdir" in str(error.value)


def test_a_missing_checkpoint_names_the_path(tmp_path):
  missing = tmp_path / "nowhere"
  with pytest.raises(UserError, match=f"{missing}: there is no such"):
    checkpoints.restore_params(missing)
  with pytest.raises(UserError, match=f"no checkpoint in {tmp_path}"):
    checkpoints.restore_params(tmp_path)
  _save(tmp_path, 1)
  with pytest.raises(UserError, match=r"step 7 .*there are \[1\]"):
    checkpoints.find_step(tmp_path, 7)


def _damage(path, how):
  if how == "missing":
    path.unlink()
  else:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("how", ["missing", "truncated"])
def test_damage_is_reported_or_harmless_never_wrong(tmp_path, how):
  whole = tmp_path / "whole"
  _save(whole, 1)
  files = sorted(p for p in (whole / "1").rglob("*") if p.is_file())
  reported = 0
  for file in files:
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    _damage(copy / file.relative_to(whole), how)
    try:
      with checkpoints.Checkpointer(copy) as checkpointer:
        state, extra = checkpointer.restore(_state())
      assert _bits(state) == _bits(_state(1)) and extra == {"position": 1}
    except UserError as error:
      assert str(copy) in str(error) and "\n" not in str(error)
      reported += 1
    shutil.rmtree(copy)
  assert reported >= 3  # array data, its index, and the plain values


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
  (tmp_path / "file").write_text("in the way")
  with pytest.raises(UserError, match="cannot write checkpoints to .*file"):
    checkpoints.Checkpointer(tmp_path / "file" / "run")


def test_extra_must_be_plain(tmp_path):
  with checkpoints.Checkpointer(tmp_path) as checkpointer:
    with pytest.raises(UserError, match="not JSON serializable"):
      checkpointer.save(1, _state(), {"bad": object()})


def test_no_notes_on_the_terminal(tmp_path):
  script = (
    "import jax.numpy as jnp; from lfpc_jax import checkpoints as c\n"
    "from absl import logging; logging.set_verbosity(logging.INFO)\n"
    f"with c.Checkpointer({str(tmp_path)!r}) as k:\n"
    "  k.save(1, {'params': {'x': jnp.ones(2)}})\n"
    f"print(c.restore_params({str(tmp_path)!r})['x'])"
  )
  done = _python(script)
  assert (done.stdout, done.stderr) == ("[1. 1.]\n", "")


_FULL_DISK = """
import resource, signal, sys, time
import jax.numpy as jnp
from lfpc_jax import checkpoints
from lfpc_jax.failing import plain_errors

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
state = {"params": {str(i): jnp.full((100, 100), i) for i in range(40)}}
try:
  with plain_errors(), checkpoints.Checkpointer(sys.argv[1]) as saver:
    saver.save(1, state)
    saver.save(2, state)
finally:
  time.sleep(3)  # the other arrays' writers come to their end
"""


def test_a_full_disk_is_one_line(tmp_path):
  done = _python(_FULL_DISK, str(tmp_path))
  assert done.returncode == 1 and done.stdout == ""
  assert done.stderr.startswith("error: cannot write checkpoints to ")
  assert done.stderr.count("\n") == 1, done.stderr


def _python(script, *args):
  return subprocess.run(
    [sys.executable, "-c", script, *args],
    cwd=ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=1500,
  )


# One process imports JAX and forks a saver for each kill: no start-up between.
_KILLED = """
import json, os, random, signal, sys, time
import jax, jax.numpy as jnp, numpy as np
from lfpc_jax import checkpoints

directory, kills, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def state_of(step):
  return {"params": {f"w{i}": jnp.full((64, 8), step + i, jnp.float32)
                     for i in range(20)}, "step": jnp.int32(step)}

def check_latest(saver, at_least):
  step = saver.latest_step or 0
  assert step >= at_least, f"step {at_least} was whole, now {step} is latest"
  if step:
    state, extra = saver.restore(state_of(0))
    assert extra == {"step": step}, (extra, step)
    wanted = jax.tree.leaves(state_of(step))
    for a, b in zip(jax.tree.leaves(state), wanted, strict=True):
      np.testing.assert_array_equal(a, b)
  return step

def save_until_killed(report, at_least):
  with checkpoints.Checkpointer(directory, keep=2) as saver:
    step = check_latest(saver, at_least)
    while True:
      step += 1
      saver.save(step, state_of(step), {"step": step})
      os.write(report, b"%d\\n" % (step - 1))  # whole, as the next has begun

def fork(work, *args):
  child = os.fork()
  if child == 0:
    try:
      work(*args)
      os._exit(0)
    except BaseException as error:
      print("child:", repr(error), file=sys.stderr, flush=True)
      os._exit(1)
  return child

rng = random.Random(seed)
whole = cut_short = 0
for kill in range(kills):
  read, write = os.pipe()
  child = fork(save_until_killed, write, whole)
  os.close(write)
  said = os.read(read, 100)
  assert said, "the saver did not save"
  time.sleep(rng.uniform(0.0, 0.6))
  os.kill(child, signal.SIGKILL)
  os.waitpid(child, 0)
  said += os.read(read, 10000)
  os.close(read)
  whole = int(said.split()[-1])
  cut_short += any("tmp" in name for name in os.listdir(directory))

def verify():
  with checkpoints.Checkpointer(directory, keep=2) as saver:
    check_latest(saver, whole)

_, status = os.waitpid(fork(verify), 0)
assert status == 0
left = os.listdir(directory)
assert left and not [name for name in left if "tmp" in name], left
print(json.dumps({"whole": whole, "cut_short": cut_short}))
"""


def _kill(directory, kills, seed):
  done = _python(_KILLED, str(directory), str(kills), str(seed))
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
  found = _kill(tmp_path, kills=6, seed=0)
  assert found["whole"] >= 1
  assert found["cut_short"] >= 1, "no kill hit a save"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_sixty_kills_leave_a_whole_checkpoint(tmp_path, seed):
  found = _kill(tmp_path, kills=20, seed=seed)
  assert found["whole"] >= 10 and found["cut_short"] >= 5
