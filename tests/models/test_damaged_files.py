"""Each way in which published files can be wrong gives one error."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

from lfpc_jax.errors import UserError
from lfpc_jax.models import published, weight_files
from tests.models import oracle

_CONFIG = oracle.config(vision=dict(depth=2))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A float32 directory in several shards; tests copy it before damage."""
  directory = tmp_path_factory.mktemp("published") / "model"
  params = oracle.random_params(_CONFIG)
  published.save(directory, _CONFIG, params, max_shard_bytes=100_000)
  return directory


_NAME = "model.layers.1.mlp.up_proj.weight"


def _edit(change):
  """A damage that edits the tensors of the file that holds _NAME."""

  def damage(directory):
    index = json.loads((directory / weight_files.INDEX).read_text())
    path = directory / index["weight_map"][_NAME]
    tensors = safetensors.numpy.load_file(path)
    change(tensors)
    safetensors.numpy.save_file(tensors, path)

  return damage


def _shard(directory):
  return sorted(directory.glob("*.safetensors"))[1]


def _truncate(directory):
  data = _shard(directory).read_bytes()
  _shard(directory).write_bytes(data[:-100])


def _index(change):
  def damage(directory):
    path = directory / weight_files.INDEX
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))

  return damage


def _only_pickle(directory):
  for file in directory.glob("*.safetensors*"):
    file.unlink()
  (directory / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")


def _wrong_architecture(directory):
  path = directory / "config.json"
  data = json.loads(path.read_text()) | {"model_type": "llama"}
  path.write_text(json.dumps(data))


_DAMAGES = {
  "missing": (_edit(lambda t: t.pop(_NAME)), [f"lacks tensor {_NAME}"]),
  "extra": (
    _edit(lambda t: t.update({"lora.A": t[_NAME]})),
    ["unknown tensor lora.A"],
  ),
  "mis-shaped": (
    _edit(lambda t: t.update({_NAME: t[_NAME].T.copy()})),
    [_NAME, "shape (32, 40)", "wants (40, 32)"],
  ),
  "integers": (
    _edit(lambda t: t.update({_NAME: t[_NAME].astype(np.int8)})),
    [_NAME, "is I8"],
  ),
  "not a number": (
    _edit(lambda t: t[_NAME].__setitem__((39, 31), np.nan)),
    ["model-0000", f"tensor {_NAME} holds NaN", "download it again"],
  ),
  "infinite": (
    _edit(lambda t: t[_NAME].__setitem__((0, 0), -np.inf)),
    ["model-0000", f"tensor {_NAME} holds NaN or infinity as float32"],
  ),
  "twice": (
    _edit(lambda t: t.update({"model.language_model." + _NAME[6:]: t[_NAME]})),
    [_NAME[6:], "stored twice"],
  ),
  "truncated": (_truncate, ["model-00002-of-", "is cut off", "tensor "]),
  "bad header": (
    lambda d: _shard(d).write_bytes(b"\x10" + bytes(7) + b"{no header..}.."),
    ["model-00002-of-", "header cannot be read"],
  ),
  "empty file": (
    lambda d: _shard(d).write_bytes(b""),
    ["model-00002-of-", "header cannot be read"],
  ),
  "missing shard": (
    lambda d: _shard(d).unlink(),
    ["model-00002-of-", "does not exist"],
  ),
  "index without a map": (
    _index(lambda i: i.pop("weight_map")),
    ["index.json", "no index"],
  ),
  "index that leaves the directory": (
    _index(lambda i: i["weight_map"].update({_NAME: "../other.safetensors"})),
    [_NAME, "'../other.safetensors'"],
  ),
  "only pickle": (_only_pickle, ["neither model.safetensors"]),
  "wrong architecture": (_wrong_architecture, ["'llama'", "config.json"]),
}


def test_a_number_too_large_for_the_wanted_precision_is_named(saved, tmp_path):
  directory = shutil.copytree(saved, tmp_path / "m")
  _edit(lambda t: t[_NAME].__setitem__((0, 0), 1e6))(directory)
  published.load(directory)
  with pytest.raises(UserError, match=f"{_NAME} holds .* as float16"):
    published.load(directory, dtype=np.float16)


@pytest.mark.parametrize("damage", _DAMAGES)
def test_one_error_names_what_is_wrong(damage, saved, tmp_path):
  directory = shutil.copytree(saved, tmp_path / "m")
  act, says = _DAMAGES[damage]
  act(directory)
  with pytest.raises(UserError) as error:
    published.load(directory)
  for text in says:
    assert text in str(error.value)
  assert "\n" not in str(error.value)
