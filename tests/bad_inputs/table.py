"""What a user can get wrong, and what the one line must say.

A row is its kind, its name, what happens on a `bench.Bench`, and words of the
error: some that name what is wrong, and some that say what to do.
"""

import errno
import os
import socket
from typing import NamedTuple

import numpy as np

from lfpc_jax import checkpoints, files
from lfpc_jax.models import weight_files
from tests.bad_inputs import bench as lib
from tests.data.sources import layouts
from tests.evaluation import made_up


class Row(NamedTuple):
  kind: str
  name: str
  act: object
  says: tuple[str, ...]


ROWS = []


def kind(name):
  """Adds rows of a kind: name -> (act, words...)."""

  def add(rows):
    ROWS.extend(Row(name, k, act, says) for k, (act, *says) in rows.items())

  return add


def field(change, *says):
  """A field of the config alone is wrong."""
  return (lambda at: at.train(change), *says)


kind("flags")(
  {
    "no config": (lambda at: at.train(config=""), "no config", "--config="),
    "no directory": (
      lambda at: at.train(workdir=""),
      "no directory for the results",
      "add --workdir=",
    ),
    "a misspelt flag": (
      lambda at: at.train("--wrkdir=w"),
      "'wrkdir'",
      "Did you mean: workdir",
    ),
    "a word that is no flag": (
      lambda at: at.train("more"),
      "'more'",
      "flags begin with --",
    ),
    "a switch with a value": (
      lambda at: at.train("--distributed=perhaps"),
      "--distributed=perhaps",
      "--help lists the flags",
    ),
    "a field without a value": (
      lambda at: at.train("--config.gap.tokens"),
      "--config.gap.tokens",
      "give a value",
    ),
    "many processes for a command of one": (
      lambda at: at.select_gap("--distributed"),
      "one process",
      "omit --distributed",
    ),
    "a needed flag of compare": (
      lambda at: at.compare(),
      "--workdirs",
      "--help lists the flags",
    ),
    "a misspelt flag of compare": (
      lambda at: at.compare("--workdirs=a,b", "--outptu=c"),
      "--outptu=c",
      "--help lists the flags",
    ),
    "one evaluation to compare": (
      lambda at: at.compare("--workdirs=a"),
      "two or more",
      "--workdirs=runs/a,runs/b",
    ),
    "no evaluation to compare": (
      lambda at: at.compare("--workdirs=a,b"),
      "a",
      "evaluat",
    ),
    "an unknown data set to check": (
      lambda at: at.check_data(name="folders"),
      "'folders'",
      "choose from",
    ),
    "a word for a number of scenes": (
      lambda at: at.scenes("--train=many"),
      "--train",
      "'many'",
      "--help lists the flags",
    ),
    "an unknown TPU": (
      lambda at: at.compile_check("v5x:2x2"),
      "--topology=v5x:2x2",
      "known are v",
    ),
    "an unknown size": (
      lambda at: at.compile_check(size="8b"),
      "--size=8b",
      "the published sizes are",
    ),
  }
)

kind("configs")(
  {
    "no such file": (
      lambda at: at.train(config="configs/tyni.py"),
      "configs/tyni.py",
      "no such file",
    ),
    "a directory": (
      lambda at: at.train(config=str(at.folder)),
      "no such file",
    ),
    "no Python": (
      lambda at: at.train(config=str(at.write("c.py", "def get_config(:"))),
      "c.py",
      "SyntaxError",
    ),
    "bytes": (
      lambda at: at.train(config=str(at.write("c.py", b"\x00\xff\xfe"))),
      "c.py",
      "SyntaxError",
    ),
    "no get_config": (
      lambda at: at.train(config=str(at.write("c.py", "x = 1"))),
      "c.py",
      "defines no get_config()",
    ),
    "no ConfigDict": (
      lambda at: at.train(
        config=str(at.write("c.py", "def get_config(): return 3"))
      ),
      "returns int",
    ),
    "an unknown variant": (
      lambda at: at.train(config=f"{lib.small_scenes.CONFIG}:stage3"),
      "'stage3'",
      "choose stage1",
    ),
    "a config without sections": (
      lambda at: at.train(
        config=str(
          at.write(
            "c.py",
            "import ml_collections\n"
            "def get_config(): return ml_collections.ConfigDict()",
          )
        )
      ),
      "data",
      "configs/tiny.py",
    ),
    "a stored config cut off": (
      lambda at: at.train(config=str(at.write("config.json", '{"seed": '))),
      "config.json is damaged",
    ),
    "a stored config that is a list": (
      lambda at: at.train(config=str(at.write("config.json", "[1]"))),
      "config.json",
    ),
    "a misspelt field": field("gap.tokns=4", "did you mean gap.tokens?"),
    "a group": field("gap=4", "is a group", "set a field of it"),
    "another type": field("gap.tokens=few", "gap.tokens=few", "type int"),
    "a view larger than full": field(
      "gap.tokens=400", "gap.tokens=400", "from 1 to gap.full_tokens"
    ),
    "an unknown gap": field("gap.mode=low", "'low'", "choose one of none"),
    "no rollouts": field("rollout.group=0", "rollout.group=0", "must be >= 1"),
    "no prompts": field("rollout.prompts=0", "rollout.prompts=0"),
    "a negative temperature": field(
      "rollout.temperature=-1", "rollout.temperature=-1", "must be >= 0"
    ),
    "an unknown rule": field(
      "reward.tool_rule=maybe", "'maybe'", "'conditional', 'unconditional'"
    ),
    "an unknown advantage": field("rl.advantage=rank", "rl.advantage='rank'"),
    "slices that leave a rest": field(
      "rl.micro_batches=3", "rollout.prompts=4", "rl.micro_batches=3"
    ),
    "no slices": field("rl.micro_batches=0", "rl.micro_batches=0"),
    "an unknown part": field("policy.freeze=tower", "['tower']"),
    "an unknown precision": field(
      "policy.dtype=float8", "policy.dtype='float8'", "choose one of"
    ),
    "a learning rate that is no number": field(
      "optimizer.learning_rate=nan", "optimizer.learning_rate=nan"
    ),
    "a norm that turns the gradient": field(
      "optimizer.clip_norm=-1", "optimizer.clip_norm=-1"
    ),
    "a negative number of steps": field("train.steps=-1", "train.steps=-1"),
    "checkpoints never": field("checkpoint.every=0", "every 0 steps"),
    "no step may be skipped": (
      lambda at: at.steps().train("train.max_skipped=0"),
      "train.max_skipped=0",
      "must be >= 1",
    ),
    "an alarm that means nothing": field("alarms.window=0", "alarms.window=0"),
    "an adapter of no linear layer": (
      lambda at: at.train("policy.lora.rank=2", "policy.lora.targets=w,"),
      "policy.lora.targets",
      "'w'",
    ),
    "an unknown probe": (
      lambda at: at.evaluate("eval.probes=grey,"),
      "'grey'",
      "the probes are",
    ),
    "no question at a time": (
      lambda at: at.evaluate("eval.batch=0"),
      "eval.batch=0",
    ),
    "a view of nothing": (
      lambda at: at.evaluate("eval.budgets=0,"),
      "eval.budgets",
    ),
    "levels above the original": (
      lambda at: at.select_gap("selection.levels=99,"),
      "selection.levels=(99,)",
      "gap.full_tokens=16",
    ),
  }
)

kind("data sets")(
  {
    "not built": field("data.dir=elsewhere", "elsewhere", "build it with `py"),
    "unknown": field("data.name=vstr", "data.name='vstr'", "choose 'scenes'"),
    "no such split": field("data.split=dev", "'dev'", "choose one of"),
    "splits for other sets": field("data.split=a+b", "2 parts", "give one for"),
    "an unknown difficulty": field("data.difficulty=mild", "'mild'"),
    "a negative number": field("data.items=-1", "data.items=-1", "0 is all"),
    "an unknown order": field("data.option_order=abc", "'abc'", "choose one"),
    "a negative number of scenes": (
      lambda at: at.scenes("--train=-5"),
      "-5",
    ),
    "no folder": (
      lambda at: at.build_data(),
      "raw: no such folder",
      "--dir names a folder",
    ),
    "an empty folder": (
      lambda at: at.write("raw/readme") and at.build_data(),
      "holds no file of folder",
      "--dir names a folder",
    ),
    "a line that is no JSON": (
      lambda at: at.rows("{").build_data("--on_error=stop"),
      "train.jsonl line 1",
      "Correct the row, or skip",
    ),
    "no usable row": (
      lambda at: at.rows({"answer": ""}).build_data(),
      "no row of folder",
      "the answer is empty",
    ),
    "a path out of the folder": (
      lambda at: at.rows({"image": "../../etc/passwd"}).build_data(),
      "leads out of",
      "keep all files below it",
    ),
    "a link out of the folder": (
      lambda at: (
        at.write("secret.png", layouts.image_bytes()),
        at.rows({"image": "a.png"}),
        (at.folder / "raw" / "a.png").symlink_to(at.folder / "secret.png"),
        at.build_data(),
      )[-1],
      "leads out of",
    ),
    "built already": (
      lambda at: at.built() and at.build_data(),
      "is there already",
      "remove it",
    ),
    "Parquet cut off": (
      lambda at: (
        layouts.write_parquet(
          at.folder / "raw/hr_bench_8k.parquet", layouts.hr_rows(1)
        ),
        lib.cut("raw/*.parquet")(at.folder),
        at.build_data(name="hr_bench_8k"),
      )[-1],
      "hr_bench_8k.parquet",
    ),
    "a built one cut off": (
      lambda at: (
        fields := at.built(),
        lib.cut("built/**/*.array_record*", 0.3)(at.folder),
        at.steps().train(*fields),
      )[-1],
      "built",
      "build",
    ),
    "a built one without its description": (
      lambda at: (
        fields := at.built(),
        lib.cut("built/**/dataset_info.json", 0.5)(at.folder),
        at.steps().train(*fields),
      )[-1],
      "built",
      "build",
    ),
    "no selected budgets": field(
      "gap.mode=selected", "no selected budgets at", "lfpc_jax.select_gap"
    ),
    "selected budgets cut off": (
      lambda at: (
        at.write("g.parquet", b"PAR1")
        and at.train("gap.mode=selected", "gap.file=g.parquet")
      ),
      "g.parquet is no Parquet file",
      "lfpc_jax.select_gap",
    ),
  }
)


def picture(data, *says):
  """A picture that the policy is asked about."""
  return (
    lambda at: at.ask(at.picture("p.png", data), "Which?"),
    "--image=p.png",
    *says,
  )


kind("images")(
  {
    "not there": (
      lambda at: at.ask("none.png", "Which?"),
      "--image=none.png",
      "name a picture's file",
    ),
    "a directory": (lambda at: at.ask(".", "Which?"), "it is a directory"),
    "a path with a zero byte": (
      lambda at: at.ask("a\0b.png", "Which?"),
      "--image=a\0b.png",
    ),
    "a loop of links": (
      lambda at: (
        os.symlink("l.png", at.folder / "l.png") or at.ask("l.png", "Which?")
      ),
      "--image=l.png",
    ),
    "empty": picture(b"", "0 bytes are no JPEG", "convert or replace"),
    "text": picture(b"no picture", "10 bytes are no JPEG"),
    "cut off": picture(lib.noise()[:6000], "cannot be decoded", "replace"),
    "an archive": picture(b"PK\x03\x04" + bytes(90), "94 bytes are no JPEG"),
    "a PostScript program": picture(
      b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "are no JPEG"
    ),
    "a bomb": picture(lib.bomb(60_000), "exceed", "pixels"),
    "a long one": picture((33_000, 200), "200 x 33000", "scale it down"),
    "a thin one": picture((6_000, 28), "thinner than 1 : 200", "crop it"),
    "one in a data set": (
      lambda at: (
        at.rows({}),
        at.write("raw/1.png", lib.bomb(60_000)),
        at.build_data("--on_error=stop"),
      )[-1],
      "exceed",
      "Correct the row",
    ),
    "larger than the config's": (
      lambda at: at.steps().train("data.image_capacity=64,64"),
      "data.image_capacity",
      "128",
    ),
  }
)


def boxes(value, *says):
  """A row of one's own data with these boxes."""
  return (
    lambda at: at.rows({"boxes": value}).build_data("--on_error=stop"),
    "train.jsonl line 1",
    *says,
    "Correct the row, or skip",
  )


kind("boxes")(
  {
    "no list": boxes(7, "box"),
    "three numbers": boxes([[1, 2, 3]], "box"),
    "a word": boxes([[1, 2, 3, "x"]], "box"),
    "no number": boxes([[1, 2, 3, float("nan")]], "box"),
    "empty": boxes([[5, 5, 5, 9]], "box"),
    "turned": boxes([[9, 9, 5, 5]], "box"),
    "outside": boxes([[500, 500, 600, 600]], "lies outside its image"),
    "not nested": boxes([[0, 0, 9, 9], [20, 20, 30, 30]], "not inside"),
    "huge": boxes([[0, 0, 1e30, 1e30]], "box"),
  }
)

kind("tokens")(
  {
    "no question": (
      lambda at: at.ask("", " "),
      "the question is empty",
      "--question=",
    ),
    "an endless question": (
      lambda at: at.ask("", "Which of the digits is it? " * 2000),
      "too many for a policy",
      "shorten it",
    ),
    "a question for a small prompt": (
      lambda at: at.steps().train("rollout.text_capacity=2"),
      "does not fit",
      "rollout.text_capacity",
    ),
    "an answer that is no option": (
      lambda at: at.rows({"options": ["red", "blue"]}).build_data(
        "--on_error=stop"
      ),
      "train.jsonl line 1",
      "'7'",
    ),
    "an unknown style": field("policy.prompt_style=long", "'long'"),
    "a tokeniser cut off": (
      lambda at: at.train(at.model(lib.cut("tokenizer.json"))),
      "tokenizer.json",
      "copy the tokeniser's files",
    ),
    "a tokeniser without chat tokens": (
      lambda at: at.train(
        at.model(lib.edit_json("tokenizer.json", added_tokens=[]))
      ),
      "tokenizer.json",
      "copy the tokeniser's files",
    ),
  }
)


def _stored(at, pattern):
  """Files of a run's last checkpoint."""
  folder = at.folder / "w" / checkpoints.SUBFOLDER / "2"
  return sorted(p for p in folder.rglob(pattern) if p.is_file())


def _largest_cut(at):
  path = max(_stored(at, "*"), key=lambda p: p.stat().st_size)
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  return at


def _without(at, pattern):
  for path in _stored(at, pattern):
    path.unlink()
  return at


kind("checkpoints")(
  {
    "not there": field("policy.checkpoint=none", "no checkpoint at", "none"),
    "an empty directory": (
      lambda at: at.write("c/readme") and at.train("policy.checkpoint=c"),
      "no checkpoint in",
      "give a run's directory",
    ),
    "to evaluate": (
      lambda at: at.evaluate("--checkpoint=none"),
      "no checkpoint at",
    ),
    "cut off": (
      lambda at: _largest_cut(at.trained()).train("train.steps=3"),
      "cannot read the checkpoint",
      "copy it again, or move that directory away",
    ),
    "without its values": (
      lambda at: _without(at.trained(), "extra/*").train("train.steps=3"),
      "cannot read the checkpoint",
      "copy it again, or move",
    ),
    "of another config": (
      lambda at: at.trained().train("optimizer.learning_rate=0.5"),
      "optimizer.learning_rate: 0.0003 -> 0.5",
      "give another --workdir",
    ),
    "of a longer run": (
      lambda at: at.trained().train("train.steps=1"),
      "a run of 2 steps",
      "raise it, or give another --workdir",
    ),
    "of other data": (
      lambda at: at.trained().train("data.items=5"),
      "holds a run with another config",
      "--workdir",
    ),
    "of another policy": (
      lambda at: at.trained().train(
        "policy.checkpoint=w",
        "policy.lora.rank=2",
        at.model(lib.edit_json("config.json", num_hidden_layers=3)),
        workdir="v",
      ),
      "another policy",
      "Use the config it was trained with",
    ),
    "a file in its place": (
      lambda at: at.write("w/checkpoints") and at.train(),
      "cannot write checkpoints",
      "permissions",
    ),
    "metrics that are none": (
      lambda at: (
        at.trained(),
        at.write("w/metrics.jsonl", "no row\n"),
        at.train("train.steps=3"),
      )[-1],
      "line 1, is no metrics row",
      "Remove the line",
    ),
    "a journal of another evaluation": (
      lambda at: (
        at.write("w/journal.jsonl", '{"policy": "x"}\n') and at.evaluate()
      ),
      "holds another evaluation",
      "remove journal.jsonl",
    ),
    "a journal that is none": (
      lambda at: at.write("w/journal.jsonl", "\x00\n{}\n") and at.evaluate(),
      "journal.jsonl",
      "remove",
    ),
    "an evaluation cut off": (
      lambda at: at.write("w/evaluation.json", '{"policy"') and at.evaluate(),
      "evaluation.json",
      "remove",
    ),
  }
)


def model(damage, *says):
  """A damaged directory of published files."""
  return (lambda at: at.steps().train(at.model(damage)), *says)


def _only_pickle(directory):
  (directory / "model.safetensors").unlink()
  (directory / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")


def _leaves(directory):
  (directory / "model.safetensors").rename(directory.parent / "x.safetensors")
  index = {"weight_map": {"a": "../x.safetensors"}}
  (directory / weight_files.INDEX).write_text(lib.json.dumps(index))


kind("weights")(
  {
    "no such directory": field("policy.path=7b", "'7b'", "the shipped models"),
    "no config": model(lambda d: (d / "config.json").unlink(), "config.json"),
    "a config that is no JSON": model(
      lib.cut("config.json"), "config.json is not valid JSON"
    ),
    "another architecture": model(
      lib.edit_json("config.json", model_type="llama"), "'llama'"
    ),
    "a size below zero": model(
      lib.edit_json("config.json", hidden_size=-1), "hidden_size=-1"
    ),
    "another width": model(
      lib.edit_json("config.json", intermediate_size=128), "has shape"
    ),
    "pickle alone": model(
      _only_pickle, "only safetensors are loaded", "convert"
    ),
    "cut off": model(
      lib.cut("model.safetensors"), "is cut off", "download it again"
    ),
    "no header": model(
      lambda d: (d / "model.safetensors").write_bytes(b"\xff" * 64),
      "header cannot be read",
      "download it again",
    ),
    "a shard outside": model(_leaves, "'../x.safetensors'", "no file name"),
    "an output in use": (
      lambda at: at.write("out/mine") and at.export("out"),
      "out",
      "empty",
    ),
  }
)

kind("devices")(
  {
    "more than there are": field("mesh.sizes=64,1", "64", "mesh.sizes"),
    "no devices": field("mesh.sizes=0,1", "mesh.sizes"),
    "sizes for other axes": field("mesh.sizes=1,", "mesh"),
    "an axis twice": field("mesh.axes=fsdp,fsdp", "named twice"),
    "a rule of no axis": field("mesh.rules=hedas=fsdp,", "'hedas'"),
    "a rule for no axis": field("mesh.rules=embed=tensr,", "tensr"),
    "a rule that is none": field("mesh.rules=embed,", "embed"),
    "slices that are not there": field("mesh.slices=2,1", "slices"),
    "no other process": (
      lambda at: (
        at.patch.setenv("JAX_NUM_PROCESSES", "two") or at.train("--distributed")
      ),
      "no other processes found",
      "--nodistributed",
    ),
  }
)


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


kind("disks")(
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
      lambda at: _full(at, lambda: at.ask("", None)),
      "File too large",
    ),
    "full at an export": (
      lambda at: _full(at, lambda: at.export("out"), 100_000),
      "out",
    ),
    "full at a page": (
      lambda at: (
        made_up.write_evaluation(at.folder / "a", "a", [made_up.item("q")]),
        made_up.write_evaluation(at.folder / "b", "b", [made_up.item("q")]),
        _full(at, lambda: at.compare("--workdirs=a,b", "--output=w.html")),
      )[-1],
      "File too large",
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
      lambda at: at.refuse(errno.EACCES, "open", lib.io).train(),
      "Permission denied",
      "give a --workdir that can be written",
    ),
    "a read-only directory of an evaluation": (
      lambda at: at.refuse(errno.EROFS).evaluate(),
      "Read-only file system",
      "give a --workdir that can be written",
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
  }
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


kind("two runs")(
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
      lambda at: _held(at, at.select_gap),
      "is in use by another run",
      "give another --workdir",
    ),
  }
)

kind("not finite")(
  {
    "gradients": (
      lambda at: at.steps(skipped=1.0).train("train.steps=9"),
      "the gradient is not finite",
      "--config.optimizer.learning_rate",
    ),
    "the loss": (
      lambda at: at.steps(skipped=1.0, loss=np.nan).train(
        "train.max_skipped=1"
      ),
      "the step was not applied",
      "--config.optimizer.clip_norm",
    ),
  }
)


def judged(*fields):
  """An evaluation whose answers go to a judge."""

  def act(at):
    at.patch.setattr("time.sleep", lambda seconds: None)
    with made_up.policy(lambda batch, probe: ["green"] * len(batch.size)):
      return at.evaluate("eval.judge.model=qwen", "eval.probes=()", *fields)

  return act


def _unused_port():
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    return free.getsockname()[1]


kind("judge")(
  {
    "down": (
      lambda at: judged(f"eval.judge.url=http://127.0.0.1:{_unused_port()}/v1")(
        at
      ),
      "Connection refused",
      "the same command",
    ),
    "no address": (
      judged("eval.judge.url=host:8000"),
      "judge url='host:8000'",
      "http://host:8000/v1",
    ),
    "a password in its address": (
      judged("eval.judge.url=http://me:secret@host/v1"),
      "leave out user, password",
      "LFPC_JUDGE_KEY",
    ),
    "a key that cannot be sent": (
      lambda at: (
        at.patch.setenv("LFPC_JUDGE_KEY", "a\nb")
        or judged("eval.judge.url=http://127.0.0.1:9/v1")(at)
      ),
      "LFPC_JUDGE_KEY",
      "set it again",
    ),
  }
)
