"""Declares every parameter of the policy: shape, initial value, logical axes.

Flax NNX modules declare; the forward pass reads the plain nested dictionary
that `initialise` returns. Layers are stacked: each parameter of a layer has a
leading axis of length L, so that one `lax.scan` runs them all. If the config
asks for adapters, they are a part of their own, "lora".
"""

from __future__ import annotations

from collections.abc import Mapping
import functools
import hashlib
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from lfpc_jax import parallel
from lfpc_jax.models.config import (
  LoraConfig,
  PolicyConfig,
  TextConfig,
  VisionConfig,
)

Params = dict[str, Any]  # nested; the leaves are arrays
_INIT = nnx.initializers.normal(0.02)


def _declare(rngs, init, shape, axes, kind=nnx.Param) -> nnx.Param:
  return kind(init(rngs.params(), shape, jnp.float32), axes=axes)


class Dense(nnx.Module):
  """A kernel `[*lead, *inputs, *outputs]` and, if asked, a bias."""

  def __init__(
    self, rngs, lead, inputs, outputs, lead_axes, in_axes, out_axes, bias
  ):
    """Each of lead, inputs and outputs is a tuple of sizes."""
    self.kernel = _declare(
      rngs, _INIT, lead + inputs + outputs, lead_axes + in_axes + out_axes
    )
    if bias:
      zeros = nnx.initializers.zeros
      self.bias = _declare(rngs, zeros, lead + outputs, lead_axes + out_axes)


class Scale(nnx.Module):
  """The weight of an RMS norm, `[*lead, width]`."""

  def __init__(self, rngs, lead, width, lead_axes, axis):
    """Starts at one."""
    ones = nnx.initializers.ones
    self.scale = _declare(rngs, ones, lead + (width,), lead_axes + (axis,))


class VisionBlocks(nnx.Module):
  """The L blocks of the tower, stacked."""

  def __init__(self, config: VisionConfig, rngs: nnx.Rngs):
    """Declares attention (fused q, k, v) and a SwiGLU, all with biases."""
    lead, name = (config.depth,), ("layers",)
    d, h, k, f = config.width, config.heads, config.head_dim, config.mlp_width

    def dense(inputs, outputs, in_axes, out_axes):
      return Dense(rngs, lead, inputs, outputs, name, in_axes, out_axes, True)

    embed, mlp = ("vision_embed",), ("vision_mlp",)
    heads = ("vision_heads", "head_dim")
    self.norm1 = Scale(rngs, lead, d, name, "norm")
    self.norm2 = Scale(rngs, lead, d, name, "norm")
    self.qkv = dense((d,), (3, h, k), embed, ("qkv", *heads))
    self.proj = dense((h, k), (d,), heads, embed)
    self.gate = dense((d,), (f,), embed, mlp)
    self.up = dense((d,), (f,), embed, mlp)
    self.down = dense((f,), (d,), mlp, embed)


class VisionTower(nnx.Module):
  """Patch embedding, blocks, and the 2x2 patch merger."""

  def __init__(self, config: VisionConfig, out_width: int, rngs: nnx.Rngs):
    """`out_width` is the decoder's width D."""
    d, unit = config.width, config.merge_size**2
    frames = config.temporal_patch_size
    self.patch_embed = Dense(
      rngs,
      (frames,),
      (config.patch_dim,),
      (d,),
      ("frames",),
      ("pixels",),
      ("vision_embed",),
      False,
    )
    self.blocks = VisionBlocks(config, rngs)
    self.merger_norm = Scale(rngs, (), d, (), "norm")
    wide = (unit * d,)
    axes = ("vision_embed",), ("vision_mlp",)
    self.merger_in = Dense(rngs, (), wide, wide, (), *axes, True)
    axes = ("vision_mlp",), ("embed",)
    self.merger_out = Dense(rngs, (), wide, (out_width,), (), *axes, True)


class DecoderLayers(nnx.Module):
  """The L layers of the decoder, stacked."""

  def __init__(self, config: TextConfig, rngs: nnx.Rngs):
    """Declares grouped-query attention (biases on q, k, v) and a SwiGLU."""
    lead, name = (config.depth,), ("layers",)
    d, f, width = config.width, config.mlp_width, config.head_dim

    def dense(inputs, outputs, in_axes, out_axes, bias=False):
      return Dense(rngs, lead, inputs, outputs, name, in_axes, out_axes, bias)

    embed, mlp = ("embed",), ("mlp",)
    heads, kv_heads = ("heads", "head_dim"), ("kv_heads", "head_dim")
    self.norm1 = Scale(rngs, lead, d, name, "norm")
    self.norm2 = Scale(rngs, lead, d, name, "norm")
    self.q = dense((d,), (config.heads, width), embed, heads, True)
    self.k = dense((d,), (config.kv_heads, width), embed, kv_heads, True)
    self.v = dense((d,), (config.kv_heads, width), embed, kv_heads, True)
    self.o = dense((config.heads, width), (d,), heads, embed)
    self.gate = dense((d,), (f,), embed, mlp)
    self.up = dense((d,), (f,), embed, mlp)
    self.down = dense((f,), (d,), mlp, embed)


class Adapter(nnx.Module):
  """The pair A `[L, *inputs, rank]` and B `[L, rank, *outputs]` of a kernel.

  `nnx.LoRA` declares one 2-D pair and wraps the call of one module; here the
  layers are stacked, heads lie apart and there are no calls, so that of it
  the variable's type serves alone.
  """

  def __init__(self, rngs: nnx.Rngs, kernel: nnx.Param, inputs: int, rank: int):
    """Reads sizes and axes off the kernel; `inputs` axes of it are inputs."""
    shape, axes, cut = kernel.shape, kernel.get_metadata()["axes"], inputs + 1
    # As PEFT: uniform in +- 1 / sqrt(fan-in), and B zero, so that the
    # adapted policy begins as the policy itself.
    start = nnx.initializers.variance_scaling(
      1 / 3, "fan_in", "uniform", range(1, cut), cut, (0,)
    )
    shapes = (*shape[:cut], rank), (shape[0], rank, *shape[cut:])
    names = (*axes[:cut], "lora_rank"), (axes[0], "lora_rank", *axes[cut:])
    zeros, kind = nnx.initializers.zeros, nnx.LoRAParam
    self.a = _declare(rngs, start, shapes[0], names[0], kind)
    self.b = _declare(rngs, zeros, shapes[1], names[1], kind)


class Adapters(nnx.Module):
  """An adapter for each target among the decoder's linear layers."""

  def __init__(self, layers: DecoderLayers, lora: LoraConfig, rngs: nnx.Rngs):
    """`layers` gives the sizes."""
    for name in lora.targets:
      kernel, inputs = getattr(layers, name).kernel, 2 if name == "o" else 1
      setattr(self, name, Adapter(rngs, kernel, inputs, lora.rank))


class Policy(nnx.Module):
  """All parameters of a Qwen2.5-VL."""

  def __init__(self, config: PolicyConfig, rngs: nnx.Rngs):
    """Declares tower, embedding, decoder, final norm and output head."""
    text = config.text
    table, axes = (text.vocab_size, text.width), ("vocab", "embed")
    self.vision = VisionTower(config.vision, text.width, rngs)
    self.embedding = _declare(rngs, _INIT, table, axes)
    self.layers = DecoderLayers(text, rngs)
    self.norm = Scale(rngs, (), text.width, (), "norm")
    if not config.tie_word_embeddings:
      self.head = _declare(rngs, _INIT, table, axes)
    if config.lora.rank:
      self.lora = Adapters(self.layers, config.lora, rngs)


def _state(config: PolicyConfig, seed: int | jax.Array) -> nnx.State:
  return nnx.state(Policy(config, nnx.Rngs(seed)), nnx.Param)


def declared(config: PolicyConfig, key: jax.Array) -> Params:
  """The initial values; under `jax.jit` only what is used is computed."""
  return nnx.to_pure_dict(_state(config, key))


def initialise(config: PolicyConfig, seed: int = 0) -> Params:
  """Random float32 parameters, normal with deviation 0.02."""
  return jax.jit(lambda key: declared(config, key))(jax.random.key(seed))


def abstract(config: PolicyConfig, dtype: Any = jnp.float32) -> Params:
  """The tree of shapes, without allocating anything.

  Args:
    config: the policy.
    dtype: precision of all, or a dictionary with that of each top-level part.
  """
  tree = jax.eval_shape(lambda: nnx.to_pure_dict(_state(config, 0)))

  def describe(path, x):
    kind = dtype[path[0].key] if isinstance(dtype, Mapping) else dtype
    return jax.ShapeDtypeStruct(x.shape, kind)

  return jax.tree_util.tree_map_with_path(describe, tree)


def logical_axes(config: PolicyConfig) -> Params:
  """The tree of logical axis names, one tuple of strings per parameter."""
  state = nnx.eval_shape(lambda: _state(config, 0))
  return nnx.to_pure_dict(
    jax.tree.map(
      lambda p: p.get_metadata()["axes"],
      state,
      is_leaf=lambda p: isinstance(p, nnx.Variable),
    )
  )


def shardings(config: PolicyConfig) -> Params | None:
  """Where each parameter lies on the active mesh; None without a mesh.

  Raises:
    UserError: a size that does not divide, or a collision of rules.
  """
  if parallel.current_mesh() is None:
    return None
  return parallel.tree_shardings(logical_axes(config), abstract(config))


def pinned(config: PolicyConfig, tree: Params, rollout: bool = False) -> Params:
  """Parameters, or gradients, of some parts, each where its axes lie.

  Args:
    config: the policy.
    tree: the parts.
    rollout: where the mesh's rules of rollouts have them.
  """
  if parallel.current_mesh() is None:
    return tree
  axes = logical_axes(config)
  axes = {name: axes[name] for name in tree}
  return parallel.constrain_tree(tree, axes, rollout)


@functools.cache
def count(config: PolicyConfig) -> int:
  """Number of parameters, without allocating them."""
  return sum(x.size for x in jax.tree.leaves(abstract(config)))


def params_digest(params: Params) -> str:
  """A few hexadecimal digits that change with the parameters.

  Sums of bit patterns, weighted by place, do not depend on the order of the
  addition, and so not on the device or the sharding.
  """
  leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(_sums(params)))
  text = repr([(jax.tree_util.keystr(path), int(x)) for path, x in leaves])
  return hashlib.sha256(text.encode()).hexdigest()[:12]


@jax.jit
def _sums(params: Params) -> Params:
  """Each parameter's bit patterns, weighted by place and summed, u32[]."""

  def total(x):
    kind = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(x, kind).astype(jnp.uint32)
    # An odd weight loses no bit; without one, two swapped values go unseen.
    weight = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1
    return jnp.sum(bits * weight.reshape(bits.shape), dtype=jnp.uint32)

  return jax.tree.map(total, params)
