"""Checkpoints in a bucket: the URL stays one, and a local bucket keeps them.

The second part wants `pip install gcsfs gcp-storage-emulator`.
"""

import logging
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

from etils import epath
import pytest

from lfpc_jax import checkpoints
from lfpc_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
URL = "gs://bucket/runs/stage1"


@pytest.fixture
def reachable(monkeypatch):
  """Nothing asks a network; notes what is asked for."""
  asked = []
  monkeypatch.setattr(
    type(epath.Path(URL)), "exists", lambda path: bool(asked.append(str(path)))
  )
  return asked


def test_a_url_is_no_local_path(reachable, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  assert str(checkpoints.located(URL)) == URL
  assert str(checkpoints.located(epath.Path(URL) / "5")) == f"{URL}/5"
  assert str(checkpoints.located("runs/a")) == str(tmp_path / "runs" / "a")
  assert reachable == [URL, f"{URL}/5"]


@pytest.mark.parametrize(
  "use",
  [checkpoints.find_step, checkpoints.read_extra, checkpoints.restore_params],
)
def test_what_is_missing_is_named_by_its_url(reachable, monkeypatch, use):
  monkeypatch.setattr(checkpoints, "_is_step", lambda path: False)
  with pytest.raises(UserError, match=f"no checkpoint at {URL}: there is"):
    use(URL)


def test_steps_are_kept_below_the_url(reachable, monkeypatch, tmp_path):
  made = []
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(
    checkpoints.ocp,
    "CheckpointManager",
    lambda path, options: made.append(path),
  )
  monkeypatch.setattr(
    type(epath.Path(URL)), "mkdir", lambda path, **_: made.append(path)
  )
  checkpointer = checkpoints.Checkpointer(URL)
  assert [str(path) for path in (*made, checkpointer.directory)] == [URL] * 3
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "error, says",
  [
    (ImportError("Please install gcsfs"), "`pip install gcsfs` serves gs://"),
    (OSError("Forbidden: bucket"), "does not answer: Forbidden: bucket. Check"),
  ],
)
def test_a_bucket_that_does_not_answer_is_one_line(monkeypatch, error, says):
  def fail(path):
    raise error

  monkeypatch.setattr(type(epath.Path(URL)), "exists", fail)
  for use in (checkpoints.Checkpointer, checkpoints.find_step):
    with pytest.raises(UserError, match=says) as found:
      use(URL)
    assert URL in str(found.value) and "\n" not in str(found.value)


def test_a_bucket_that_takes_nothing_is_one_line(reachable, monkeypatch):
  # As gcsfs has it; no OSError.
  refused = type("HttpError", (Exception,), {"__module__": "gcsfs.retry"})

  def fail(path, **kwargs):
    raise refused("storage.objects.create denied")

  monkeypatch.setattr(type(epath.Path(URL)), "mkdir", fail)
  says = f"cannot write checkpoints to {URL} .*create denied"
  with pytest.raises(UserError, match=says):
    checkpoints.Checkpointer(URL)


# ---- A bucket on this machine ----

_CLIENT = """
import sys
import jax, jax.numpy as jnp, numpy as np
from lfpc_jax import checkpoints

url, act = sys.argv[1:]
folder = url + "/checkpoints"

def state(step):
  return {"params": {f"w{i}": jnp.arange(12.0) + step * i for i in range(40)}
          | {"b": jnp.full(3, step, jnp.bfloat16)},
          "step": np.int32(step), "key": jax.random.key(step)}

def bits(tree):
  return [np.asarray(jax.random.key_data(x) if jnp.issubdtype(
    x.dtype, jax.dtypes.prng_key) else x).tobytes()
    for x in jax.tree.leaves(tree)]

with checkpoints.Checkpointer(folder, keep=2) as saver:
  if act == "save":
    for step in (1, 2, 3):
      saver.save(step, state(step), {"position": step})
    saver.wait()
    assert saver.steps == (2, 3), saver.steps
  elif act == "save for ever":
    for step in range(4, 1000):
      saver.save(step, state(step), {"position": step})
  else:
    step = saver.latest_step
    found, extra = saver.restore(checkpoints.abstract(state(0)))
    assert bits(found) == bits(state(step)) and extra == {"position": step}
    assert checkpoints.find_step(url) == saver.directory / str(step)
    params = checkpoints.restore_params(url, state(0)["params"])
    assert bits(params) == bits(state(step)["params"])
    print("whole", step)
"""


@pytest.fixture
def bucket():
  """The environment of a client, and the names of what the bucket holds."""
  pytest.importorskip("gcsfs", reason="serves gs:// paths")
  pytest.importorskip("gcp_storage_emulator", reason="a bucket for tests")
  from tests import bucket as local

  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  logging.disable(logging.ERROR)  # it names each object that is not there
  run = local.serve(port)
  run.start()
  yield (
    {**os.environ, "JAX_PLATFORMS": "cpu", **local.environment(port)},
    lambda: local.names(run),
  )
  run.stop()
  logging.disable(logging.NOTSET)


def _client(environment, act):
  return subprocess.Popen(
    [sys.executable, "-c", _CLIENT, URL, act],
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _done(process):
  out, errors = process.communicate(timeout=1500)
  assert process.returncode == 0, errors[-3000:]
  return out


def test_a_bucket_keeps_whole_checkpoints_through_a_kill(bucket):
  environment, names = bucket
  _done(_client(environment, "save"))
  prefix = "runs/stage1/checkpoints"
  assert any(name.startswith(f"{prefix}/3/") for name in names())
  assert not any(name.startswith(f"{prefix}/1/") for name in names())
  assert _done(_client(environment, "read")) == "whole 3\n"

  saver = _client(environment, "save for ever")
  while not any(name.startswith(f"{prefix}/4") for name in names()):
    assert saver.poll() is None, saver.communicate()[1][-3000:]
    time.sleep(0.002)
  saver.send_signal(signal.SIGKILL)
  saver.communicate()
  assert not any("4/commit_success" in name for name in names())
  assert _done(_client(environment, "read")) == "whole 3\n"
