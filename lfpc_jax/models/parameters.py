"""Declares every parameter of the policy: shape, initial value, logical axes.

Flax NNX modules declare; the forward pass reads the plain nested dictionary
that `initialise` returns. Layers are stacked: each parameter of a layer has a
leading axis of length L, so that one `lax.scan` runs them all.
"""

from __future__ import annotations

from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from lfpc_jax.models.config import PolicyConfig, TextConfig, VisionConfig

Params = dict[str, Any]  # nested; the leaves are arrays
_INIT = nnx.initializers.normal(0.02)


def _declare(rngs, init, shape, axes) -> nnx.Param:
  return nnx.Param(init(rngs.params(), shape, jnp.float32), axes=axes)


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


def _state(config: PolicyConfig, seed: int | jax.Array) -> nnx.State:
  return nnx.state(Policy(config, nnx.Rngs(seed)), nnx.Param)


def initialise(config: PolicyConfig, seed: int = 0) -> Params:
  """Random float32 parameters, normal with deviation 0.02."""
  make = jax.jit(lambda key: nnx.to_pure_dict(_state(config, key)))
  return make(jax.random.key(seed))


def abstract(config: PolicyConfig, dtype: Any = jnp.float32) -> Params:
  """The tree of shapes, without allocating anything."""
  tree = jax.eval_shape(lambda: nnx.to_pure_dict(_state(config, 0)))
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), tree)


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


def count(config: PolicyConfig) -> int:
  """Number of parameters, without allocating them."""
  return sum(x.size for x in jax.tree.leaves(abstract(config)))
