"""Sequences as a batch of prefixes and suffixes, and the policy run on it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from lfpc_jax.image.views import View
from lfpc_jax.models import decoder, policy, vision
from tests.models import oracle

# The programs are small and run once: compiling is what costs.
fast_jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Part:
  """Token arrays [..., T] with their images' views [sequences * C, N, ...].

  `visual_index` points into the C * N slots of the sequence's views.
  """

  tokens: jax.Array
  positions: jax.Array
  visual_index: jax.Array
  length: jax.Array
  views: View


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
  """Prefix arrays [P, S] and suffix arrays [P, G, T]."""

  prefix: Part
  suffix: Part


def _views(sequences, images: int, capacity: int) -> View:
  """Padded views; a slot without an image holds numbers and an empty grid."""
  rng = np.random.default_rng(7)
  shape = (len(sequences), images, capacity, 4, 588)
  patches = rng.normal(size=shape).astype(np.float32)
  grids = np.zeros((len(sequences), images, 2), np.int32)
  for row, sequence in enumerate(sequences):
    for i, image in enumerate(sequence.patches):
      patches[row, i, : len(image)] = image
      grids[row, i] = sequence.grids[i]
  return View(
    jnp.asarray(patches.reshape(-1, capacity, 4, 588)),
    jnp.asarray(grids.reshape(-1, 2)),
  )


def _slots(sequence, capacity: int) -> np.ndarray:
  """The running visual index as an index into padded views."""
  sizes = [rows * cols for rows, cols in sequence.grids]
  places = [i * capacity + np.arange(n) for i, n in enumerate(sizes)]
  table = np.concatenate([*places, [-1]])  # the last entry serves -1
  return table[sequence.visual_index]


def _part(sequences, positions, lead, pad: int) -> Part:
  capacity = max([r * c for s in sequences for r, c in s.grids], default=1) + 2
  images = max(1, *(len(s.grids) for s in sequences))
  slots = max(len(s) for s in sequences) + pad
  tokens = np.zeros((len(sequences), slots), np.int32)
  where = np.zeros((len(sequences), slots, 3), np.int32)
  index = np.full((len(sequences), slots), -1, np.int32)
  for row, (sequence, position) in enumerate(zip(sequences, positions)):
    tokens[row, : len(sequence)] = sequence.tokens
    where[row, : len(sequence)] = position
    index[row, : len(sequence)] = _slots(sequence, capacity)
  length = np.array([len(s) for s in sequences], np.int32)
  return Part(
    jnp.asarray(tokens.reshape(*lead, slots)),
    jnp.asarray(where.reshape(*lead, slots, 3)),
    jnp.asarray(index.reshape(*lead, slots)),
    jnp.asarray(length.reshape(lead)),
    _views(sequences, images, capacity),
  )


def build(model, prefixes, groups, pad: int = 2) -> Batch:
  """Packs P prefixes and P groups of G suffixes, padded on the right.

  Rotary positions are those that transformers gives the flat sequences.
  """
  prefix_at, suffix_at = [], []
  for prefix, group in zip(prefixes, groups, strict=True):
    flat = [oracle.positions(model, prefix + suffix) for suffix in group]
    prefix_at.append(flat[0][: len(prefix)])
    suffix_at += [at[len(prefix) :] for at in flat]
  suffixes = [suffix for group in groups for suffix in group]
  lead = (len(groups), len(groups[0]))
  return Batch(
    _part(prefixes, prefix_at, lead[:1], pad),
    _part(suffixes, suffix_at, lead, pad),
  )


def embed(config, params, part: Part) -> jax.Array:
  """Token embeddings [..., T, D] with the visual tokens in place."""
  visual = vision.encode_views(config, params, part.views)
  visual = visual.reshape(*part.tokens.shape[:-1], -1, visual.shape[-1])
  return policy.embed(config, params, part.tokens, part.visual_index, visual)


def prefill(config, params, prefix: Part) -> decoder.PrefixCache:
  """The prefixes' keys and values."""
  x = embed(config, params, prefix)
  return decoder.prefill(config, params, x, prefix.positions, prefix.length)


def hidden(config, params, batch: Batch) -> jax.Array:
  """Hidden states [P, G, T, D] of the suffixes, in one forward."""
  suffix = batch.suffix
  slots = jnp.arange(suffix.tokens.shape[-1])
  return decoder.extend(
    config,
    params,
    embed(config, params, suffix),
    suffix.positions,
    jnp.broadcast_to(slots, suffix.tokens.shape),
    prefill(config, params, batch.prefix),
  )[0]


@functools.partial(fast_jit, static_argnums=0)
def _logits(config, params, batch):
  return policy.logits(config, params, hidden(config, params, batch))


def logits(config, params, batch: Batch) -> np.ndarray:
  """Logits [P, G, T, V] of the suffixes."""
  return np.asarray(_logits(config, params, batch))


@functools.partial(fast_jit, static_argnums=0)
def _loss_gradients(config, trained, rest, batch):
  def loss(trained):
    params = trained | rest
    states, suffix = hidden(config, params, batch), batch.suffix
    logp, _ = policy.log_probabilities(
      config, params, states[:, :, :-1], suffix.tokens[:, :, 1:]
    )
    real = jnp.arange(logp.shape[-1]) < suffix.length[..., None] - 1
    return -jnp.sum(jnp.where(real, logp, 0.0)), policy.logits(
      config, params, states
    )

  return jax.grad(loss, has_aux=True)(trained)


def loss_gradients(config, params, batch: Batch, parts=None):
  """Logits, and gradients of the token loss over all suffixes.

  The loss is the oracle's: the sum of the negative log-probabilities of the
  suffixes' tokens after the first, each predicted from the slot before it.
  `parts` names the top-level parts that get gradients; None is all.
  """
  trained = {name: params[name] for name in parts or params}
  rest = {name: params[name] for name in params.keys() - trained.keys()}
  gradients, scores = _loss_gradients(config, trained, rest, batch)
  return np.asarray(scores), gradients
