"""How our parameters correspond to the tensors of the published files.

One table serves both directions. A published linear layer stores
`[outputs, inputs]` with the heads flattened; ours stores `[inputs, outputs]`
with the heads apart, and stacks the layers of one kind on a leading axis.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import functools
import math
import operator
from typing import Any

import numpy as np

from lfpc_jax.models import parameters
from lfpc_jax.models.config import PolicyConfig
from lfpc_jax.models.parameters import Params

Index = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One parameter of ours and where it is published.

  path: keys of our nested dictionary, joined by dots.
  name: the published name, `{i}` standing for the layer's number.
  form: 'same', 'patches' (the patch embedding's convolution) or 'linear'.
  inputs: leading axes of ours that are a linear layer's inputs (0: a bias).
  """

  path: str
  name: str
  form: str = "linear"
  inputs: int = 0

  @property
  def stacked(self) -> bool:
    """Whether ours has a leading layer axis."""
    return "{i}" in self.name


def _linear(path: str, name: str, inputs: int = 1, bias: bool = True):
  kernel = Tensor(f"{path}.kernel", f"{name}.weight", "linear", inputs)
  return (kernel, Tensor(f"{path}.bias", f"{name}.bias"))[: 1 + bias]


def _scale(path: str, name: str):
  return (Tensor(f"{path}.scale", f"{name}.weight", "same"),)


_BLOCK, _LAYER = "visual.blocks.{i}.", "model.layers.{i}."
_HEAD = Tensor("head", "lm_head.weight", "same")
TABLE = (
  Tensor(
    "vision.patch_embed.kernel", "visual.patch_embed.proj.weight", "patches"
  ),
  *_scale("vision.blocks.norm1", _BLOCK + "norm1"),
  *_scale("vision.blocks.norm2", _BLOCK + "norm2"),
  *_linear("vision.blocks.qkv", _BLOCK + "attn.qkv"),
  *_linear("vision.blocks.proj", _BLOCK + "attn.proj", 2),
  *_linear("vision.blocks.gate", _BLOCK + "mlp.gate_proj"),
  *_linear("vision.blocks.up", _BLOCK + "mlp.up_proj"),
  *_linear("vision.blocks.down", _BLOCK + "mlp.down_proj"),
  *_scale("vision.merger_norm", "visual.merger.ln_q"),
  *_linear("vision.merger_in", "visual.merger.mlp.0"),
  *_linear("vision.merger_out", "visual.merger.mlp.2"),
  Tensor("embedding", "model.embed_tokens.weight", "same"),
  *_scale("layers.norm1", _LAYER + "input_layernorm"),
  *_scale("layers.norm2", _LAYER + "post_attention_layernorm"),
  *_linear("layers.q", _LAYER + "self_attn.q_proj"),
  *_linear("layers.k", _LAYER + "self_attn.k_proj"),
  *_linear("layers.v", _LAYER + "self_attn.v_proj"),
  *_linear("layers.o", _LAYER + "self_attn.o_proj", 2, bias=False),
  *_linear("layers.gate", _LAYER + "mlp.gate_proj", bias=False),
  *_linear("layers.up", _LAYER + "mlp.up_proj", bias=False),
  *_linear("layers.down", _LAYER + "mlp.down_proj", bias=False),
  *_scale("norm", "model.norm"),
  _HEAD,
)
"""Every parameter of a Qwen2.5-VL; a tied policy has no head."""


def canonical(name: str) -> str:
  """The hub's name of a tensor that a newer transformers release saved."""
  for new, old in (
    ("model.visual.", "visual."),
    ("model.language_model.", "model."),
  ):
    if name.startswith(new):
      return old + name[len(new) :]
  return name


def tensors(config: PolicyConfig) -> tuple[Tensor, ...]:
  """The rows of the table that this policy has."""
  return tuple(t for t in TABLE if t != _HEAD or not config.tie_word_embeddings)


def lookup(tree: Params, path: str) -> Any:
  """The leaf at a dotted path."""
  return functools.reduce(operator.getitem, path.split("."), tree)


def insert(tree: Params, path: str, leaf: Any) -> None:
  """Sets the leaf at a dotted path, making the dictionaries on the way."""
  *parents, last = path.split(".")
  for key in parents:
    tree = tree.setdefault(key, {})
  tree[last] = leaf


def entries(
  config: PolicyConfig,
) -> Iterator[tuple[Tensor, int, str, tuple[int, ...]]]:
  """Every published tensor: (row, layer, published name, published shape)."""
  shapes = parameters.abstract(config)
  for tensor in tensors(config):
    shape = lookup(shapes, tensor.path).shape
    for layer in range(shape[0] if tensor.stacked else 1):
      inner = shape[1:] if tensor.stacked else shape
      published = _published_shape(config, tensor, inner)
      yield tensor, layer, tensor.name.format(i=layer), published


def _published_shape(config, tensor: Tensor, shape: tuple[int, ...]):
  if tensor.form == "same":
    return shape
  if tensor.form == "patches":
    side = config.vision.patch_size
    return (shape[2], config.vision.channels, shape[0], side, side)
  outputs = math.prod(shape[tensor.inputs :])
  inputs = math.prod(shape[: tensor.inputs])
  return (outputs, inputs) if tensor.inputs else (outputs,)


def to_published(
  config: PolicyConfig, tensor: Tensor, x: np.ndarray
) -> np.ndarray:
  """One layer's parameter, contiguous, in its published shape."""
  if tensor.form == "patches":
    frames, _, width = x.shape
    side = config.vision.patch_size
    x = x.reshape(frames, config.vision.channels, side, side, width)
    x = x.transpose(4, 1, 0, 2, 3)
  elif tensor.form == "linear":
    inputs = math.prod(x.shape[: tensor.inputs])
    x = x.reshape(inputs, -1).T if tensor.inputs else x.reshape(-1)
  return np.ascontiguousarray(x)


def _span(shape: tuple[int, ...], index: Index) -> slice:
  """The run of flattened slots that holds `index`: all axes but the first."""
  start, stop, _ = index[0].indices(shape[0])
  inner = math.prod(shape[1:])
  return slice(start * inner, stop * inner)


def read(
  tensor: Tensor, stored: Any, shape: tuple[int, ...], index: Index
) -> np.ndarray:
  """Reads `index` of one layer's parameter, and little more, from a file.

  Args:
    tensor: its row of the table.
    stored: the published tensor; only slices of it are taken.
    shape: our shape of the parameter, without the layer axis.
    index: the wanted part of it, one slice for each axis.

  Returns:
    Our parameter's part, in the stored precision.
  """
  if tensor.form == "same":
    return stored[index]
  if tensor.form == "patches":
    whole = stored[:]
    whole = whole.transpose(2, 1, 3, 4, 0)  # frames, channels, y, x, width
    return whole.reshape(shape)[index]
  groups = [slice(tensor.inputs, None)]
  if tensor.inputs:
    groups.append(slice(0, tensor.inputs))
  spans = tuple(_span(shape[g], index[g]) for g in groups)
  part = np.transpose(stored[spans])
  sizes, rest = list(shape), list(index)
  for group in groups:
    start, stop, _ = index[group][0].indices(shape[group][0])
    sizes[group.start], rest[group.start] = stop - start, slice(None)
  return part.reshape(sizes)[tuple(rest)]
