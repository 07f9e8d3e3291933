"""Disks, memory, other runs, gradients and judges that fail."""

import errno
import os

import numpy as np

from lfpc_jax import files
from tests.bad_inputs import bench as lib
from tests.bad_inputs.row import rows
from tests.benchmarks import judge_server
from tests.evaluation import made_up


def _held(at, act):
  with files.locked(at.folder / "w"):
    return act()


def _full(at, act, size=0):
  with at.full_disk(size):
    return act()


def _sync_fails(at):
  """The disk is full when a whole file is to be kept."""

  def fsync(number):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  at.patch.setattr(os, "fsync", fsync)
  return at


DISKS = rows(
  "disks",
  {
    "full at the start": (
      lambda at: _sync_fails(at.steps()).train(),
      "No space left on device",
      "give a --workdir that can be written",
    ),
    "full in an evaluation": (
      lambda at: _sync_fails(at).evaluate(),
      "No space left on device",
      "free some space",
    ),
    "full at a row": (
      lambda at: _rows_fail(at.steps()).train("train.tensorboard=False"),
      "No space left on device",
      "free some space",
    ),
    "full at a checkpoint": (
      lambda at: _full(
        at.trained(),
        lambda: at.train("train.steps=4", "train.tensorboard=False"),
        20_000,
      ),
      "cannot write checkpoints",
      "Check free space",
    ),
    "full at a resume": (
      lambda at: _full(at.trained(), lambda: at.train("train.steps=4")),
      "File too large",
      "--workdir",
    ),
    "full at an answer": (
      lambda at: _full(at.answered(), lambda: at.ask("", None)),
      "File too large",
    ),
    "full at an export": (
      lambda at: _full(at, lambda: at.export("out"), 100_000),
      "out",
    ),
    "full at a page": (
      lambda at: _full(
        at.evaluations("a", "b"),
        lambda: at.compare("--workdirs=a,b", "--output=w.html"),
      ),
      "File too large",
    ),
    "full at a data set": (
      lambda at: _full(at.rows({}), at.build_data),
      "File too large",
      "built/manual/folder",
      "ulimit -f",
    ),
    "full in the middle of scenes": (
      lambda at: _full(
        at,
        lambda: at.scenes("--train=4", "--validation=1", "--test=1"),
        10_000,
      ),
      "File too large",
      "built/scenes",
    ),
    "full at a selection": (
      lambda at: _full(at, lambda: at.select_gap("selection.levels=4,")),
      "File too large",
      "free some space",
    ),
    "a workdir that is a file": (
      lambda at: at.write("v") and at.train(workdir="v"),
      "cannot write v/.lock",
      "give a --workdir that can be written",
    ),
    "a read-only directory": (
      lambda at: at.refuse(errno.EROFS).train(),
      "Read-only file system",
      "give a --workdir that can be written",
    ),
    "a directory of somebody else": (
      lambda at: at.refuse(errno.EACCES).train(),
      "Permission denied",
      "give a --workdir that can be written",
    ),
    "a read-only directory of an evaluation": (
      lambda at: at.refuse(errno.EROFS).evaluate(),
      "Read-only file system",
      "give a --workdir that can be written",
    ),
    "a read-only directory of an answer": (
      lambda at: at.answered().refuse(errno.EROFS).ask("", None),
      "Read-only file system",
      "give a --workdir that can be written",
    ),
    "a read-only directory of a selection": (
      lambda at: at.refuse(errno.EROFS).select_gap("selection.levels=4,"),
      "Read-only file system",
      "give a --workdir that can be written",
    ),
    "a read-only directory of data": (
      lambda at: at.rows({}).refuse(errno.EROFS, "built").build_data(),
      "Read-only file system: 'built'",
      "name a directory that can be written",
    ),
    "a read-only directory of an export": (
      lambda at: at.refuse(errno.EROFS, ".out.part").export("out"),
      "Read-only file system: '.out.part'",
      "name a directory that can be written",
    ),
    "a read-only directory of a page": (
      lambda at: (
        at.evaluations("a", "b")
        .refuse(errno.EROFS, "v")
        .compare("--workdirs=a,b", "--output=v/c.html")
      ),
      "Read-only file system: 'v'",
      "name a directory that can be written",
    ),
    "no memory on the host": (
      lambda at: _fails(at, MemoryError()).train(),
      "out of memory",
      "--config.rollout.prompts",
    ),
    "no memory on a device": (
      lambda at: _fails(
        at,
        lib.trainer_lib.jax.errors.JaxRuntimeError(
          "RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.\nmore"
        ),
      ).train(),
      "Out of memory allocating 99 bytes",
      "--config.rl.micro_batches",
    ),
  },
)


def _rows_fail(at):
  """The disk is full when a step's row is to be kept."""

  def append(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  at.patch.setattr(files, "append", append)
  return at


def _fails(at, error):
  """A step of training raises."""

  def train_step(*_):
    raise error

  at.patch.setattr(lib.trainer_lib.Trainer, "train_step", train_step)
  return at


TWO_RUNS = rows(
  "two runs",
  {
    "of training": (
      lambda at: _held(at, at.steps().train),
      f"process {os.getpid()}",
      "wait for its end, or give another --workdir",
    ),
    "of evaluation": (
      lambda at: _held(at, at.evaluate),
      "is in use by another run",
      "give another --workdir",
    ),
    "of selection": (
      lambda at: _held(at, lambda: at.select_gap("selection.levels=4,")),
      "is in use by another run",
      "give another --workdir",
    ),
    "of pretraining": (
      lambda at: _held(at, at.pretrain),
      "is in use by another run",
      "give another --workdir",
    ),
  },
)

NOT_FINITE = rows(
  "not finite",
  {
    "gradients": (
      lambda at: at.steps(skipped=1.0).train("train.steps=9"),
      "its gradient is not finite",
      "--config.optimizer.learning_rate",
    ),
    "the loss": (
      lambda at: at.steps(skipped=1.0, loss=np.nan).train(
        "train.max_skipped=1"
      ),
      "the step was not applied",
      "--config.optimizer.clip_norm",
    ),
  },
)


def judged(*fields):
  """An evaluation whose answers go to a judge."""

  def act(at):
    (at.folder / "w" / "evaluate.json").unlink()  # this one will end
    at.patch.setattr("time.sleep", lambda seconds: None)
    with made_up.policy(lambda batch, probe: ["green"] * len(batch.size)):
      return at.evaluate(
        "data.image_capacity=224,224",
        "eval.judge.model=qwen",
        "eval.probes=()",
        *fields,
      )

  return act


def _down(at):
  with judge_server.nobody() as url:
    return judged(f"eval.judge.url={url}")(at)


def _answering(*reply):
  """A judge that answers every request with this."""

  def act(at):
    with judge_server.serve(lambda number, body: reply) as server:
      return judged(f"eval.judge.url={server.url}")(at)

  return act


JUDGE = rows(
  "judge",
  {
    "down": (_down, "Connection refused", "the same command"),
    "out of order": (
      _answering(500, {}, b"no"),
      "HTTP status 500",
      "the same command",
    ),
    "a key that it refuses": (
      _answering(401, {}, b"no"),
      "HTTP status 401",
      "LFPC_JUDGE_KEY",
    ),
    "a model that it has not": (
      _answering(404, {}, b"no"),
      "HTTP status 404",
      "eval.judge.model",
    ),
    "no completion": (
      _answering(200, {}, b"<html>"),
      "the reply is no chat completion",
      "the same command",
    ),
    "no address": (
      judged("eval.judge.url=host:8000"),
      "judge url: give the address",
      "http://host:8000/v1",
    ),
    "a password in its address": (
      judged("eval.judge.url=http://me:secret@host/v1"),
      "leave out user, password",
      "LFPC_JUDGE_KEY",
    ),
    "a key for its name": (
      judged("eval.judge.key_variable=sk-very-secret"),
      "judge key_variable",
      "put the key into it",
    ),
    "no model": (
      judged("eval.judge.url=http://host/v1", "eval.judge.model="),
      "eval.judge.model is empty",
      "name the model",
    ),
    "a key that cannot be sent": (
      lambda at: (
        at.patch.setenv("LFPC_JUDGE_KEY", "a\nb")
        or judged("eval.judge.url=http://127.0.0.1:9/v1")(at)
      ),
      "LFPC_JUDGE_KEY",
      "set it again",
    ),
  },
)

ROWS = [*DISKS, *TWO_RUNS, *NOT_FINITE, *JUDGE]
