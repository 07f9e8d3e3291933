r"""A step's sampling: by inversion, and by a Gumbel score for each id.

  python -m experiments.speed.sampling

Prints milliseconds of CPU a step of 64 rows, for the miniature's vocabulary and
a published one. The Gumbel scores are those of jax.random.categorical, their
largest found as `rollout/sampling.py` finds that of greedy scores.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from experiments.speed import measure
from lfpc_jax.rollout import sampling

Pair = tuple[jax.Array, jax.Array]
_ROWS, _STEPS = 64, 8


def by_gumbel(key: jax.Array, logits: jax.Array) -> Pair:
  """A token of each row and its log-probability, with V random numbers."""
  token = sampling._largest(logits + jax.random.gumbel(key, logits.shape))
  chosen = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0]
  return token, chosen - jax.nn.logsumexp(logits, axis=-1)


def by_inversion(key: jax.Array, logits: jax.Array) -> Pair:
  """The same with two random numbers."""
  return sampling.sample(key, logits, 1.0, 1.0)


def milliseconds(way: Callable[..., Pair], vocabulary: int) -> float:
  """CPU time of a step, the least of some rounds."""
  logits = 3 * jax.random.normal(jax.random.key(0), (_ROWS, vocabulary))

  @jax.jit
  def steps(key):
    def step(total, number):
      # A step reads what the one before has written, as in a rollout.
      given = logits + 1e-9 * total
      token, logp = way(jax.random.fold_in(key, number), given)
      return jnp.sum(logp), token

    return jax.lax.scan(step, 0.0, jnp.arange(_STEPS))

  return 1e3 * measure.least_cpu(lambda: steps(jax.random.key(0))) / _STEPS


def main() -> None:
  """Prints the table."""
  rows = []
  for vocabulary in (1536, 152_064):
    took = [milliseconds(way, vocabulary) for way in (by_gumbel, by_inversion)]
    rows.append([f"{vocabulary:,}", *(f"{ms:.2f}" for ms in took)])
  print(measure.table(["ids", "Gumbel scores", "inversion"], rows))


if __name__ == "__main__":
  main()
