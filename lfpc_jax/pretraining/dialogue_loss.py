"""Second step: the whole policy learns to converse, on a frozen tower.

Next-token loss alone leaves so small a policy at chance for thousands of
steps: nothing tells it that a colour word names a place. Three auxiliary
losses do. After layer 1, two heads (dropped afterwards) must read row and
column from an image token; after layer 2, those of the asked sign from where a
box's number is written. Where the policy writes such a number or the answer's
digit, half of its attention heads must look at the question's colour word in
layer 0, and at the asked sign in layers 1 and 2. And the number's expectation
must be near the target, since a wrong number is the worse the farther off.
(Layers are counted from 0.)
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lfpc_jax.data.tokenizer import Tokenizer
from lfpc_jax.models import attention, decoder, rotary
from lfpc_jax.models import policy as policy_lib
from lfpc_jax.models.config import PolicyConfig
from lfpc_jax.models.layers import rms_norm
from lfpc_jax.models.parameters import Params
from lfpc_jax.pretraining.dialogues import (
  DIGIT_WEIGHT,
  IN_CROP,
  IN_VIEW,
  Dialogues,
)

_BINS = 20  # rows and columns that the position heads name
_WORD_LAYER, _SIGN_LAYERS = 0, (1, 2)
_POSITION_LAYER, _COPY_LAYER = 1, 2  # after whose output the heads read
_POSITION_WEIGHT, _COPY_WEIGHT, _LOOK_WEIGHT, _FAR_WEIGHT = 0.3, 0.3, 0.5, 0.3
_CELL = 28.0  # pixels


class Trace(NamedTuple):
  """What a forward pass leaves behind.

  hidden: suffix states at the target slots, after the norm, [P, G, A, D].
  prefix: prefix states after layer 1, [P, S, D].
  copied: suffix states at the target slots after layer 2, [P, G, A, D].
  looks: log of the attention of each layer and each target over the prefix's
    and then the suffix's slots, L times f32[P, G, A, H, S + T].
  """

  hidden: jax.Array
  prefix: jax.Array
  copied: jax.Array
  looks: list[jax.Array]


def init_heads(key: jax.Array, width: int) -> Params:
  """Auxiliary heads that name row and column of an image token."""
  shape = (2, width, _BINS)
  return {"position": jax.random.normal(key, shape) * width**-0.5}


def _log_attention(q, prefix_k, k, length, target_slot):
  """Joint log-softmax over both key sets for q [P, G, A, H, head_dim]."""
  p, g, a, h, d = q.shape
  seen = jnp.arange(prefix_k.shape[1]) < length[:, None]
  causal = jnp.arange(k.shape[2]) <= target_slot[..., None]
  shared = attention.scores(q.reshape(p, g * a, h, d), prefix_k, seen[:, None])
  shared = shared.reshape(p, h, g, a, -1).transpose(0, 2, 3, 1, 4)
  own = attention.scores(
    q.reshape(p * g, a, h, d),
    k.reshape(p * g, *k.shape[2:]),
    causal.reshape(p * g, a, -1),
  )
  own = own.reshape(p, g, h, a, -1).transpose(0, 1, 3, 2, 4)
  return jax.nn.log_softmax(jnp.concatenate([shared, own], axis=-1))


def trace(config: PolicyConfig, policy: Params, batch: Dialogues) -> Trace:
  """The decoder's forward pass, layer by layer, with its attention."""
  x = policy_lib.embed(
    config, policy, batch.prefix_tokens, batch.prefix_visual, batch.view
  )
  y = policy_lib.embed(config, policy, batch.tokens, batch.visual, batch.crops)
  at_prefix = rotary.text_angles(config.text, batch.prefix_positions)
  at_suffix = rotary.text_angles(config.text, batch.positions)
  slots = jnp.broadcast_to(jnp.arange(y.shape[2]), y.shape[:3])
  slot = jnp.arange(x.shape[1])
  mask = (slot[:, None] >= slot[None])[None]
  targets = batch.target_slot[..., None]
  looks, prefix, copied = [], x, None
  for number in range(config.text.depth):
    layer = jax.tree.map(lambda p, n=number: p[n], policy["layers"])
    q, prefix_k, prefix_v = decoder.project(config, layer, x, at_prefix)
    mixed, _ = attention.attend(q, prefix_k, prefix_v, mask)
    x = decoder.finish(config, layer, x, mixed)
    q, k, v = decoder.project(config, layer, y, at_suffix)
    mixed = decoder.suffix_attention(
      config, q, k, v, slots, prefix_k, prefix_v, batch.length
    )
    y = decoder.finish(config, layer, y, mixed)
    asked = jnp.take_along_axis(q, targets[..., None], axis=2)
    looks.append(
      _log_attention(asked, prefix_k, k, batch.length, batch.target_slot)
    )
    if number == _POSITION_LAYER:
      prefix = x
    if number == _COPY_LAYER:
      copied = jnp.take_along_axis(y, targets, axis=2)
  hidden = jnp.take_along_axis(y, targets, axis=2)
  hidden = rms_norm(policy["norm"], hidden, config.text.norm_epsilon)
  return Trace(hidden, prefix, copied, looks)


def _place_scores(heads: Params, hidden: jax.Array) -> jax.Array:
  """Log-probabilities of row and column, [2, ..., BINS]."""
  scale = jax.lax.rsqrt(jnp.mean(hidden**2, -1, keepdims=True) + 1e-6)
  scores = jnp.einsum("...d,adb->a...b", hidden * scale, heads["position"])
  return jax.nn.log_softmax(scores)


def _grid_places(batch: Dialogues) -> jax.Array:
  """Row and column of each image token of the prefix, i32[2, P, S]."""
  positions, visual = batch.prefix_positions, batch.prefix_visual >= 0
  first = jnp.argmax(visual, axis=1)
  start = jnp.take_along_axis(positions[..., 0], first[:, None], axis=1)
  places = jnp.moveaxis(positions[..., 1:], -1, 0) - start
  return jnp.clip(places, 0, _BINS - 1)


def _mean_where(values: jax.Array, mask: jax.Array) -> jax.Array:
  return jnp.sum(jnp.where(mask, values, 0)) / jnp.maximum(jnp.sum(mask), 1)


def _position_loss(heads: Params, hidden: jax.Array, batch: Dialogues):
  """An image token's state must name its row and its column.

  Without it, nothing in the policy ever learns absolute coordinates: rotary
  positions are relative, and the text before the image is the only anchor.
  """
  logp = _place_scores(heads, hidden)
  picked = jnp.take_along_axis(logp, _grid_places(batch)[..., None], -1)
  return -_mean_where(picked.mean(0)[..., 0], batch.prefix_visual >= 0)


def _copy_loss(heads: Params, hidden: jax.Array, batch: Dialogues):
  """Where a box's number is written, the state must name the sign's place.

  Any of the cells that hold the digit counts.
  """
  logp = _place_scores(heads, hidden)
  places = jax.nn.one_hot(_grid_places(batch), _BINS)
  visual = jnp.maximum(batch.prefix_visual, 0)[:, None]
  cells = jnp.take_along_axis(batch.view_cells, visual, axis=2)
  cells &= (batch.prefix_visual >= 0)[:, None]
  share = cells / jnp.maximum(cells.sum(-1, keepdims=True), 1)
  target = jnp.einsum("pgs,apsb->apgb", share, places)
  picked = jnp.einsum("apgb,apgtb->pgt", target, logp) / 2
  return -_mean_where(picked, _numbers(batch))


def _numbers(batch: Dialogues) -> jax.Array:
  """Targets that are a box's numbers, bool[P, G, A]."""
  return (batch.look == IN_VIEW) & (batch.weight != DIGIT_WEIGHT)


def _far_loss(
  scores: jax.Array, targets: jax.Array, values: jax.Array, batch: Dialogues
) -> jax.Array:
  """Distance in cells between a number's expectation and its target.

  Args:
    scores: logits [P, G, A, V].
    targets: token ids i32[P, G, A].
    values: the number that each token writes, or -1, f32[V].
    batch: tells which targets are numbers.
  """
  values = jnp.asarray(values)
  scores = jnp.where(values >= 0, scores, -1e9)
  expected = jax.nn.softmax(scores) @ jnp.maximum(values, 0)
  far = jnp.abs(expected - values[targets]) / _CELL
  return _mean_where(far, _numbers(batch))


def _wanted(batch: Dialogues) -> tuple[jax.Array, jax.Array]:
  """Where a target is to look: the word, the sign; bool[P, G, A, S + T]."""

  def at(cells, visual):
    return jnp.take_along_axis(cells, jnp.maximum(visual, 0), 2) & (visual >= 0)

  p, g, t = batch.tokens.shape
  s = batch.prefix_tokens.shape[1]
  prefix_visual = jnp.broadcast_to(batch.prefix_visual[:, None], (p, g, s))
  view = at(batch.view_cells, prefix_visual)
  crop = at(batch.crop_cells, batch.visual)
  look = batch.look[..., None]
  view = view[:, :, None] & (look == IN_VIEW)
  crop = crop[:, :, None] & (look == IN_CROP)
  sign = jnp.concatenate([view, crop], axis=-1)
  word = jnp.arange(s + t) == s + batch.colour_slot[..., None]
  return jnp.broadcast_to(word[:, :, None], sign.shape), sign


def _look_loss(looks: list[jax.Array], batch: Dialogues) -> jax.Array:
  """Minus log of the attention's mass where it should be, per layer."""
  word, sign = _wanted(batch)
  asked = jnp.any(sign, axis=-1)
  heads = looks[0].shape[3] // 2

  def miss(look, wanted):
    # The other heads are free for what else the layer must do.
    look = jnp.where(wanted[..., None, :], look[..., :heads, :], -1e9)
    mass = jax.nn.logsumexp(look, axis=-1).mean(-1)
    return -jnp.sum(jnp.where(asked, mass, 0)) / jnp.maximum(asked.sum(), 1)

  return jnp.stack(
    [miss(looks[_WORD_LAYER], word)]
    + [miss(looks[number], sign) for number in _SIGN_LAYERS]
  )


def number_values(tokenizer: Tokenizer) -> np.ndarray:
  """The number that each token writes, or -1, f32[V]."""
  values = np.full(tokenizer.vocab_size, -1, np.float32)
  for number in range(1000):
    tokens = tokenizer.encode(str(number))
    if len(tokens) == 1:
      values[tokens] = number
  return values


def loss(
  config: PolicyConfig, trained: Params, batch: Dialogues, values: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Weighted next-token loss of the policy's own tokens, and the auxiliary.

  Args:
    config: the policy.
    trained: 'policy' and 'heads'.
    batch: the conversations.
    values: of `number_values`.
  """
  policy, heads = trained["policy"], trained["heads"]
  forward = trace(config, policy, batch)
  targets = jnp.take_along_axis(batch.tokens, batch.target_slot + 1, axis=2)
  scores = policy_lib.logits(config, policy, forward.hidden)
  logp = jax.nn.log_softmax(scores)
  picked = jnp.take_along_axis(logp, targets[..., None], axis=-1)[..., 0]
  text = -jnp.sum(picked * batch.weight) / jnp.sum(batch.weight)
  where = _position_loss(heads, forward.prefix, batch)
  looks = _look_loss(forward.looks, batch)
  digit, numbers = batch.weight == DIGIT_WEIGHT, _numbers(batch)
  right = jnp.sum((jnp.argmax(scores, -1) == targets) & digit) / jnp.sum(digit)
  calls = batch.crops.shape[2] > 1
  level = batch.view.shape[1]
  kind = f"{'call' if calls else 'direct'}_{level}_{len(batch.tokens)}"
  metrics = {"loss": text, "where": where, f"{kind}_right": right}
  for name, value in zip(("word", "sign1", "sign2"), looks, strict=True):
    metrics[f"{kind}_{name}"] = value
  total = text + _POSITION_WEIGHT * where + _LOOK_WEIGHT * jnp.sum(looks)
  if calls:
    copied = _copy_loss(heads, forward.copied, batch)
    far = _far_loss(scores, targets, values, batch)
    metrics[f"{kind}_copied"], metrics[f"{kind}_far"] = copied, far
    metrics[f"{kind}_numbers"] = -_mean_where(picked, numbers)
    total += _COPY_WEIGHT * copied + _FAR_WEIGHT * far
  return total, metrics
