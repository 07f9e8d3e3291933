"""Checkpoints, weights and devices that are wrong."""

import dataclasses

import numpy as np
import safetensors.numpy

from lfpc_jax import checkpoints
from lfpc_jax.models import weight_files
from tests.bad_inputs import bench as lib
from tests.bad_inputs.row import field, rows


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


def _infinite(state):
  """A state one of whose parameters is not finite."""
  scale = state.params["norm"]["scale"].at[5].set(np.inf)
  params = state.params | {"norm": {"scale": scale}}
  return dataclasses.replace(state, params=params)


CHECKPOINTS = rows(
  "checkpoints",
  {
    "not there": field("policy.checkpoint=none", "no checkpoint at", "none"),
    "an empty directory": (
      lambda at: at.write("c/readme") and at.train("policy.checkpoint=c"),
      "no checkpoint in",
      "give a run's directory",
    ),
    "a file": (
      lambda at: at.write("c", "x") and at.train("policy.checkpoint=c"),
      "no checkpoint in",
      "give a run's directory",
    ),
    "of another program": (
      lambda at: (
        at.write("c/checkpoints/3/state/x") and at.evaluate("--checkpoint=c")
      ),
      "cannot read the checkpoint",
      "copy it again, or move",
    ),
    "cut off, to evaluate": (
      lambda at: _largest_cut(at.trained()).evaluate("--checkpoint=w"),
      "cannot read the checkpoint",
      "copy it again, or move",
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
    "not finite, to evaluate": (
      lambda at: at.trained(spoil=_infinite).evaluate("--checkpoint=w"),
      "w/checkpoints/2 holds NaN or infinity in params.norm.scale",
      "move that directory away",
    ),
    "not finite, to go on from": (
      lambda at: at.trained(spoil=_infinite).train("train.steps=3"),
      "w/checkpoints/2 holds NaN or infinity in params.norm.scale",
      "move that directory away to go on from the step before",
    ),
    "not finite, to start from": (
      lambda at: at.trained(spoil=_infinite).train(
        "policy.checkpoint=w", workdir="v"
      ),
      "w/checkpoints/2 holds NaN or infinity in params.norm.scale",
      "move that directory away",
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
  },
)


def model(damage, *says):
  """A damaged directory of published files."""
  return (lambda at: at.steps().train(at.model(damage)), *says)


def _only_pickle(directory):
  (directory / "model.safetensors").unlink()
  (directory / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")


def _bad_number(number):
  """A damage: this number in the last row of one layer's kernel."""

  def damage(directory):
    path = directory / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][-1, -1] = number
    safetensors.numpy.save_file(tensors, path)

  return damage


def _leaves(directory):
  (directory / "model.safetensors").rename(directory.parent / "x.safetensors")
  index = {"weight_map": {"a": "../x.safetensors"}}
  (directory / weight_files.INDEX).write_text(lib.json.dumps(index))


WEIGHTS = rows(
  "weights",
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
    "not a number": model(
      _bad_number(np.nan),
      "tensor model.layers.1.mlp.up_proj.weight holds NaN",
      "download it again, or give other weights",
    ),
    "infinite": model(
      _bad_number(-np.inf),
      "tensor model.layers.1.mlp.up_proj.weight holds NaN or infinity",
      "download it again, or give other weights",
    ),
    "a shard outside": model(_leaves, "'../x.safetensors'", "no file name"),
    "an output in use": (
      lambda at: at.write("out/mine") and at.export("out"),
      "out",
      "empty",
    ),
  },
)


def _no_device(at):
  """What JAX says where JAX_PLATFORMS names what is not there."""

  def devices():
    raise RuntimeError("Unable to initialize backend 'tpu': no chips\nhere")

  at.patch.setattr(lib.trainer_lib.jax, "devices", devices)
  return at


DEVICES = rows(
  "devices",
  {
    "none": (
      lambda at: _no_device(at).train(),
      "Unable to initialize backend 'tpu'",
      "unset JAX_PLATFORMS",
    ),
    "more than there are": field("mesh.sizes=64,1", "(64, 1)", "set one of"),
    "no devices": field("mesh.sizes=0,1", "(0, 1)", "positive integers"),
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
  },
)

ROWS = [*CHECKPOINTS, *WEIGHTS, *DEVICES]
