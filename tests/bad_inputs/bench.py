"""A user's directory, and the commands as they are called there.

Each command runs in this process, on arguments that are good but for what a
row of the table changes.
"""

import builtins
import contextlib
import dataclasses
import io
import json
import os
import pathlib
import resource
import shutil
import struct
from typing import NamedTuple
import zlib

from absl import flags
import numpy as np
from PIL import Image

from lfpc_jax import compare, evaluate, pretrain, select_gap, train
from lfpc_jax import config as config_lib
from lfpc_jax.ahead import command as ahead_command
from lfpc_jax.ahead import proposing
from lfpc_jax.asking import command as ask_command
from lfpc_jax.asking import episode
from lfpc_jax.data import check, manual, scenes
from lfpc_jax.evaluation import runner
from lfpc_jax.gap_selection import direct
from lfpc_jax.models import published
from lfpc_jax.rl import trainer as trainer_lib
from lfpc_jax.rollout.types import Stop
from tests import command_line, small_scenes
from tests.data.sources import layouts
from tests.evaluation import made_up

MODEL = pathlib.Path(config_lib.__file__).parent / "assets" / "tiny_qwen"
SMALL = ("gap.tokens=4", "gap.full_tokens=16", "gap.levels=4,16")
ROW = {"image": "1.png", "question": "Which?", "answer": "7"}


class Outcome(NamedTuple):
  """What a command left to its user."""

  status: int
  err: str
  out: str


class Bench:
  """One empty directory, in which the commands run.

  Attributes:
    folder: the directory.
    patch: changes of the program for this row alone.
  """

  def __init__(self, folder, data, capsys, patch):
    self.folder, self.patch = folder, patch
    self._data, self._capsys = data, capsys
    # What is found late would else be found after a minute of compiling.
    for owner, name in (
      (trainer_lib.Trainer, "train_step"),
      (runner.encoding, "encode_prompt"),
      (direct.DirectAnswers, "__call__"),
      (episode.Asked, "turns"),
    ):
      patch.setattr(owner, name, _never)
    self.traceback = False  # whether the user asks for one
    self.before = {}  # all files' bytes when the command began

  # ---- Commands ----

  def train(self, *args, config=f"{small_scenes.CONFIG}:smoke", workdir="w"):
    """lfpc_jax.train; a flag without its dashes is a config's field."""
    flags_ = [f"--config={config}"] * bool(config)
    flags_ += [f"--workdir={workdir}"] * bool(workdir)
    fields = (
      (*self._data, *SMALL)
      if config.startswith(str(small_scenes.CONFIG))
      else ()
    )
    return self._main(
      train.run,
      [*flags_, *_flags(fields), *_flags(args)],
      stored_as=None,
      many_processes=True,
    )

  def evaluate(self, *args):
    """lfpc_jax.evaluate."""
    return self._main(
      evaluate.run,
      [
        f"--config={small_scenes.CONFIG}:smoke",
        "--workdir=w",
        *_flags((*self._data, *SMALL, "eval.budgets=4,")),
        *_flags(args),
      ],
      stored_as=None,
      many_processes=True,
    )

  def select_gap(self, *args):
    """lfpc_jax.select_gap."""
    return self._main(
      select_gap.run,
      [
        f"--config={small_scenes.CONFIG}:smoke",
        "--workdir=w",
        *_flags((*self._data, *SMALL, *args)),
      ],
      stored_as=None,
    )

  def pretrain(self, *args):
    """lfpc_jax.pretrain."""
    fields = [f"--config={small_scenes.CONFIG}:pretrain", "--workdir=w"]
    return self._main(pretrain.run, fields + _flags(args), stored_as=None)

  def ask(self, image="", question=None, *args, **more):
    """lfpc_jax.ask; its own flags as arguments."""

    def run(config, workdir):
      folder = pathlib.Path(workdir)
      ask_command.ask(config, folder, image=image, question=question, **more)

    fields = [f"--config={small_scenes.CONFIG}:smoke", "--workdir=w"]
    return self._main(run, fields + _flags(args), stored_as=None)

  def export(self, output, **changes):
    """What lfpc_jax.export does with a directory of published files."""

    def run(config, workdir):
      published.check_free(output)
      sizes, params = published.load(changes.get("model", MODEL))
      published.save(output, sizes, params)

    fields = [f"--config={small_scenes.CONFIG}:smoke"]
    return self._main(run, fields, workdir_needed=False, stored_as=None)

  def compile_check(self, topology="v5e:2x2", **more):
    """lfpc_jax.compile_check."""

    def run(config, workdir):
      ahead_command.run(config, topology, **more)

    fields = [f"--config={small_scenes.CONFIG}:smoke"]
    return self._main(run, fields, workdir_needed=False, stored_as=None)

  def propose(self, topology="v5e", *changes, **more):
    """lfpc_jax.compile_check --propose."""

    def run(config, workdir):
      proposing.run(config, topology, **more)

    fields = [f"--config={small_scenes.CONFIG}:smoke", *_flags(changes)]
    return self._main(run, fields, workdir_needed=False, stored_as=None)

  def build_data(self, *args, name="folder"):
    """lfpc_jax.data.manual."""
    fields = f"--name={name}", "--dir=raw", "--data_dir=built"
    return self._parse(manual.main, [*fields, *args])

  def check_data(self, *args, name="folder"):
    """lfpc_jax.data.check."""
    return self._parse(check.main, [f"--name={name}", "--dir=raw", *args])

  def scenes(self, *args):
    """lfpc_jax.data.scenes."""
    return self._parse(scenes.main, ["--data_dir=built", *args])

  def compare(self, *args):
    """lfpc_jax.compare."""
    return self._parse(compare.main, args)

  def _main(self, run, args, **options):
    self._look()
    args = [*args, "--traceback"] if self.traceback else args
    if "distributed" in flags.FLAGS:
      flags.FLAGS["distributed"].unparse()
    if "checkpoint" in flags.FLAGS:
      flags.FLAGS["checkpoint"].unparse()
    found = command_line.call(self._capsys, run, *args, **options)
    status, out, err = found
    return Outcome(status, err, out)

  def _parse(self, main, args):
    self._look()
    args = [*args, "--traceback"] if self.traceback else [*args]
    status = command_line.status(main, args)
    out, err = self._capsys.readouterr()
    return Outcome(status, err, out)

  def _look(self):
    self._capsys.readouterr()
    self.before = contents(self.folder)

  # ---- What lies in the directory ----

  def write(self, name, data=""):
    """A file of text, bytes or JSON."""
    path = self.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(data, str | bytes):
      data = json.dumps(data)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path

  def rows(self, *changes):
    """A data set of one's own in raw/: a row for each set of changes."""
    layouts.write_image(self.folder / "raw" / "1.png")
    found = [x if isinstance(x, str) else ROW | x for x in changes]
    layouts.write_lines(self.folder / "raw" / "train.jsonl", *found)
    return self

  def picture(self, name, data):
    """A picture of given bytes, or of a size (width, height)."""
    path = self.folder / name
    if isinstance(data, bytes):
      path.write_bytes(data)
    else:
      Image.new("RGB", data).save(path)
    return name

  def model(self, damage=lambda directory: None):
    """A copy of the shipped model, damaged; gives the field that names it."""
    directory = self.folder / "model"
    shutil.copytree(MODEL, directory)
    damage(directory)
    return "policy.path=model"

  def steps(self, spoil=lambda state: state, **metrics):
    """Steps of training cost nothing, and have these metrics.

    `spoil` is what else they do to the state.
    """
    found = dict(reward=0.0, accuracy=0.0, tool_rate=0.0, skipped=0.0) | metrics

    def train_step(trainer, state, *_):
      state = dataclasses.replace(state, step=state.step + 1)
      return spoil(state), found

    self.patch.setattr(trainer_lib.Trainer, "train_step", train_step)
    return self

  def answered(self):
    """The policy that is asked answers at once."""
    turn = episode.Turn("<answer>7</answer><|im_end|>"), Stop.ANSWERED
    turns = lambda *_: iter([turn])
    self.patch.setattr(episode.Asked, "turns", turns)
    return self

  def trained(self, *args, **kwargs):
    """A run of two such steps in w/."""
    self.steps(**kwargs)
    assert self.train("train.tensorboard=False", *args).status == 0
    return self

  def built(self):
    """A built data set of one's own; gives the fields that name it."""
    assert self.rows({}, {}).build_data().status == 0
    return "data.name=folder", "data.dir=built"

  @contextlib.contextmanager
  def full_disk(self, size=0):
    """No file of this process can grow beyond some bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
      yield self
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

  def evaluations(self, *names):
    """Folders of finished evaluations."""
    for name in names:
      made_up.write_evaluation(
        self.folder / name, name, [made_up.item("q")], config={}, checkpoint=""
      )
    return self

  def refuse(self, error, place="w"):
    """No file in w/, or in another place, can be written, and none made."""
    function, make = io.open, os.mkdir

    def refused(path, mode="r", *args, **kwargs):
      writes = set(mode) & set("wax+") and not isinstance(path, int)
      if writes and place in pathlib.Path(path).parts:
        raise OSError(error, os.strerror(error), str(path))
      return function(path, mode, *args, **kwargs)

    def not_made(path, *args, **kwargs):
      if place in pathlib.Path(path).parts and not os.path.isdir(path):
        raise OSError(error, os.strerror(error), str(path))
      return make(path, *args, **kwargs)

    self.patch.setattr(io, "open", refused)
    self.patch.setattr(builtins, "open", refused)
    self.patch.setattr(os, "mkdir", not_made)
    return self


def _flags(args):
  """Fields of a config, FIELD=VALUE, as flags; other words as they are."""
  return [
    f"--config.{arg}" if "=" in arg and arg[0] != "-" else arg for arg in args
  ]


def _never(*_, **__):
  raise AssertionError("the command has begun to compute")


def contents(folder):
  """The bytes of all files in a directory, but for locks."""
  return {
    path: path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file() and path.name != ".lock"
  }


def edit_json(name, **changes):
  """A damage: other fields in a JSON file of a directory."""

  def damage(directory):
    path = directory / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))

  return damage


def cut(name, share=0.5):
  """A damage: only the beginning of a file is left."""

  def damage(directory):
    (path,) = directory.glob(name)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])

  return damage


def noise(side=64):
  """A PNG of random pixels, which no encoder can shrink."""
  pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "PNG")
  return file.getvalue()


def bomb(side):
  """A PNG of a few bytes whose header promises side x side pixels."""
  data = bytearray(noise(8))
  data[16:24] = struct.pack(">II", side, side)
  data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
  return bytes(data)
