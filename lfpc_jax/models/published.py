"""Loads and saves the published safetensors layout of Qwen2.5-VL.

Loading goes tensor by tensor, each read straight to the devices that want a
part of it, so that the host never holds more than one tensor of one layer, or
some rows of the embedding, besides the parameters. Only safetensors are read:
nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping
import functools
import json
import os
import pathlib
import shutil
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from lfpc_jax import finite
from lfpc_jax.errors import UserError
from lfpc_jax.models import (
  layout,
  lora,
  parameters,
  published_config,
  weight_files,
)
from lfpc_jax.models.config import PolicyConfig
from lfpc_jax.models.parameters import Params

_COMPANIONS = (
  "added_tokens.json",
  "chat_template.jinja",
  "chat_template.json",
  "generation_config.json",
  "merges.txt",
  "preprocessor_config.json",
  "processor_config.json",
  "special_tokens_map.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "video_preprocessor_config.json",
  "vocab.json",
)
_BLOCK_ELEMENTS = 2**22  # read at one time of what is not stacked
_TOKEN_IDS = {
  "bos_token_id": "<|endoftext|>",
  "eos_token_id": "<|im_end|>",
  "vision_start_token_id": "<|vision_start|>",
  "vision_end_token_id": "<|vision_end|>",
  "vision_token_id": "<|vision_pad|>",
  "video_token_id": "<|video_pad|>",
}


def load(
  directory: str | os.PathLike[str],
  config: PolicyConfig | None = None,
  dtype: Any = None,
  shardings: Params | None = None,
) -> tuple[PolicyConfig, Params]:
  """Loads a published model.

  Args:
    directory: holds config.json and model.safetensors, or its shards and
      their index.
    config: the policy; None reads config.json.
    dtype: precision of the parameters, or a dictionary with that of each
      top-level part; None keeps each as it is stored.
    shardings: a tree as the parameters' of `jax.sharding.Sharding`; None puts
      everything on the default device.

  Returns:
    The config and the parameters, without adapters: `lora.initialise`.

  Raises:
    UserError: a file or a tensor is missing, unknown, damaged, of another
      shape or not finite; the message names it.
  """
  directory = pathlib.Path(directory)
  config = config or published_config.load_config(directory)
  files = weight_files.find(directory)
  weight_files.check(config, files, directory)
  shapes, params = parameters.abstract(config), {}
  for tensor in layout.tensors(config):
    shape = layout.lookup(shapes, tensor.path).shape
    sharding = shardings and layout.lookup(shardings, tensor.path)
    wanted = dtype
    if isinstance(dtype, Mapping):
      wanted = dtype[tensor.path.split(".")[0]]
    leaf = _load_parameter(tensor, files, shape, wanted, sharding)
    layout.insert(params, tensor.path, leaf)
  _check_finite(config, files, params)
  return config, params


def _check_finite(config, files, params: Params) -> None:
  """Refuses NaN and infinity, which would become the policy's every output."""
  table = {tensor.path: tensor for tensor in layout.tensors(config)}
  leaves = {path: layout.lookup(params, path) for path in table}
  found = finite.first_bad(leaves)
  if found is not None:
    (path, row), kind = found, leaves[found[0]].dtype
    file, name = files[table[path].name.format(i=row)]
    raise UserError(
      f"{file}: tensor {name} holds NaN or infinity as {kind}: download it "
      "again, or give other weights"
    )


def _load_parameter(tensor, files, shape, dtype, sharding) -> jax.Array:
  """Loads one parameter, layer after layer if it is stacked."""

  def reader(layer, shape):
    path, name = files[tensor.name.format(i=layer)]

    def read(index):
      # Reopened for each part: closing gives the mapped pages back.
      with weight_files.opened(path) as handle:
        part = layout.read(tensor, handle.get_slice(name), shape, index)
      return np.asarray(part, dtype, order="C")  # one copy at most

    return read

  if not tensor.stacked:
    return _place_by_rows(reader(0, shape), shape, sharding)
  inner = _layer_sharding(sharding)
  update = jax.jit(_set_layer, donate_argnums=0, out_shardings=sharding)
  stack = None
  for layer in range(shape[0]):
    part = _place(reader(layer, shape[1:]), shape[1:], inner)
    if stack is None:
      stack = jnp.zeros(shape, part.dtype, device=sharding)
    if part.dtype != stack.dtype:
      raise UserError(
        f"{tensor.name.format(i=layer)} is {part.dtype} and layer 0's is "
        f"{stack.dtype}: say which precision the parameters should have"
      )
    # Waiting keeps the host from running ahead with tensors in flight.
    stack = update(stack, part, layer).block_until_ready()
  return stack


def _set_layer(stack: jax.Array, part: jax.Array, layer: jax.Array):
  return jax.lax.dynamic_update_index_in_dim(stack, part, layer, axis=0)


def _layer_sharding(sharding):
  """The sharding of one layer of a stacked parameter."""
  if not isinstance(sharding, jax.sharding.NamedSharding):
    return sharding
  spec = jax.sharding.PartitionSpec(*sharding.spec[1:])
  return jax.sharding.NamedSharding(sharding.mesh, spec)


def _place_by_rows(read, shape: tuple[int, ...], sharding) -> jax.Array:
  """`_place`, each device's part some rows at a time.

  The embedding of a large policy is larger than any other tensor, and twice
  that where it is cast.
  """
  if sharding is None:
    return _fill(read, (slice(None),) * len(shape), shape, None)
  places = sharding.addressable_devices_indices_map(shape)
  # A part is its device's alone: no program here may span the active mesh.
  with jax.set_mesh(jax.sharding.Mesh(np.empty((), object), ())):
    parts = [_fill(read, i, shape, device) for device, i in places.items()]
  return jax.make_array_from_single_device_arrays(shape, sharding, parts)


def _fill(read, index, shape: tuple[int, ...], device) -> jax.Array:
  """The part `index` of a parameter, on one device, rows after rows."""
  bounds = [i.indices(n)[:2] for i, n in zip(index, shape)]
  sizes = [stop - start for start, stop in bounds]
  (first, last), rest = bounds[0], tuple(slice(*b) for b in bounds[1:])
  width = int(np.prod(sizes[1:]))
  rows = max(1, _BLOCK_ELEMENTS // max(width, 1))
  whole = None
  for start in range(first, last, rows):
    block = read((slice(start, min(start + rows, last)), *rest))
    if len(block) == sizes[0]:
      return jax.device_put(block, device)
    if whole is None:
      whole = jnp.zeros(sizes, block.dtype, device=device)
    # Waiting keeps the host from running ahead with blocks in flight.
    whole = _set_rows(whole, block, start - first).block_until_ready()
  return whole


@functools.partial(jax.jit, donate_argnums=0)
def _set_rows(whole: jax.Array, block: jax.Array, start: int) -> jax.Array:
  return jax.lax.dynamic_update_slice_in_dim(whole, block, start, axis=0)


def _place(read, shape: tuple[int, ...], sharding) -> jax.Array:
  if sharding is None:
    return jnp.asarray(read((slice(None),) * len(shape)))
  return jax.make_array_from_callback(shape, sharding, read)


def check_free(directory: str | os.PathLike[str]) -> None:
  """Refuses a directory that `save` would write over.

  Raises:
    UserError: it holds something, or is a file.
  """
  path = pathlib.Path(directory)
  if path.exists() and (not path.is_dir() or any(path.iterdir())):
    raise UserError(f"{path} exists and is not empty: choose another")


def save(
  directory: str | os.PathLike[str],
  config: PolicyConfig,
  params: Params,
  dtype: Any = None,
  source_directory: str | os.PathLike[str] | None = None,
  max_shard_bytes: int = 4 * 2**30,
  **extra: Any,
) -> None:
  """Saves a model that transformers and vLLM load.

  The directory appears whole or not at all. Adapters are merged, layer by
  layer, in float32, and the sum is rounded once, to the files' precision. All
  processes must call this; process 0 writes.

  Args:
    directory: must not exist, or be empty.
    config: the policy.
    params: its parameters, on any devices.
    dtype: precision in the files; None keeps each parameter's.
    source_directory: where tokenizer and processor files are copied from, and
      the ids of special tokens are read.
    max_shard_bytes: a larger model is split in several files.
    **extra: further keys of config.json.

  Raises:
    UserError: the directory is in use, or the source does not exist.
  """
  directory = pathlib.Path(directory)
  source = source_directory and pathlib.Path(source_directory)
  check_free(directory)
  if source and not source.is_dir():
    raise UserError(f"{source} does not exist: it should hold the tokenizer")
  part = directory.parent / f".{directory.name}.part"
  writes = jax.process_index() == 0
  if writes:
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
  try:
    if writes:
      _save_companions(part, config, params, dtype, source, extra)
    target = part if writes else None
    _save_tensors(target, config, params, dtype, max_shard_bytes)
    if writes:
      part.rename(directory)
  except BaseException:
    shutil.rmtree(part, ignore_errors=True)
    raise
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(f"save {directory}")


def _save_companions(part, config, params, dtype, source, extra) -> None:
  """Writes config.json and copies what belongs to the tokenizer."""
  stored = np.dtype(dtype or params["embedding"].dtype).name
  keys = {"torch_dtype": stored} | _token_ids(source) | extra
  data = published_config.to_published(config, **keys)
  (part / "config.json").write_text(json.dumps(data, indent=2) + "\n")
  for name in _COMPANIONS:
    if source and (source / name).is_file():
      shutil.copyfile(source / name, part / name)


def _token_ids(source: pathlib.Path | None) -> dict[str, Any]:
  """Ids of special tokens from config.json or, without it, the tokenizer."""
  if source and (source / "config.json").is_file():
    data = json.loads((source / "config.json").read_text())
    return {key: data[key] for key in _TOKEN_IDS if key in data}
  if source and (source / "tokenizer.json").is_file():
    data = json.loads((source / "tokenizer.json").read_text())
    ids = {token["content"]: token["id"] for token in data["added_tokens"]}
    return {key: ids[text] for key, text in _TOKEN_IDS.items() if text in ids}
  return {}


def _save_tensors(part, config, params, dtype, max_shard_bytes: int) -> None:
  """Writes the shards one by one; `part` is None where nothing is written."""
  plan: list[list] = [[]]
  total = used = 0
  for tensor, layer, name, shape in layout.entries(config):
    leaf = layout.lookup(params, tensor.path)
    size = int(np.prod(shape)) * np.dtype(dtype or leaf.dtype).itemsize
    if plan[-1] and used + size > max_shard_bytes:
      plan.append([])
      used = 0
    plan[-1].append((tensor, layer, name))
    used, total = used + size, total + size
  weight_map = {}
  for number, rows in enumerate(plan, 1):
    file = f"model-{number:05}-of-{len(plan):05}.safetensors"
    file = file if len(plan) > 1 else weight_files.SINGLE
    data = {}
    for tensor, layer, name in rows:
      leaf = layout.lookup(params, tensor.path)
      leaf = leaf[layer] if tensor.stacked else leaf
      kind = dtype or leaf.dtype
      merged = lora.merged_layer(config, params, tensor.path, layer, leaf)
      leaf = _fetch(merged).astype(kind)
      data[name] = layout.to_published(config, tensor, leaf)
      weight_map[name] = file
    if part:
      _save_file(data, part / file)
      # The library makes the file private; it should be as its neighbours.
      shutil.copymode(part / "config.json", part / file)
  if part and len(plan) > 1:
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (part / weight_files.INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _fetch(x: jax.Array) -> np.ndarray:
  """A possibly distributed array, whole on this host."""
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    return multihost_utils.process_allgather(x, tiled=True)
  return np.asarray(x)


def _save_file(data: dict[str, Any], path: pathlib.Path) -> None:
  try:
    safetensors.numpy.save_file(data, path, {"format": "pt"})
  except safetensors.SafetensorError as error:  # of the disk, mostly
    raise UserError(
      f"cannot write {path} ({error}): free some space, or name another place"
    ) from error
