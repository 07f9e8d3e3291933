"""The supervised loop that both pretraining steps share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import concurrent.futures
import functools
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lfpc_jax import files
from lfpc_jax.models.parameters import Params


def batches(
  make: Callable[[np.random.Generator], Any],
  seed: int,
  first: int,
  last: int,
  ahead: int = 4,
  workers: int = 2,
) -> Iterator[Any]:
  """Makes the batches of steps first..last-1 ahead of time, in threads.

  Batch k depends on (seed, k) alone, so a resumed run sees the same data.
  """
  with concurrent.futures.ThreadPoolExecutor(workers) as executor:

    def submit(step):
      return executor.submit(make, np.random.default_rng((seed, step)))

    waiting = [submit(s) for s in range(first, min(first + ahead, last))]
    for step in range(first, last):
      yield waiting.pop(0).result()
      if step + ahead < last:
        waiting.append(submit(step + ahead))


def optimiser(peak: float, steps: int, decay: float = 0.01):
  """AdamW with warm-up and cosine decay, gradient norm clipped at 1."""
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, peak, min(100, steps // 10), steps, peak * 0.05
  )
  return optax.chain(
    optax.clip_by_global_norm(1.0),  # as the shipped policy was made
    optax.adamw(schedule, b2=0.98, weight_decay=decay),
  )


def _write(path: pathlib.Path, state: Any) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  leaves = jax.device_get(jax.tree.leaves(state))
  with files.atomic_writer(path) as file:
    np.savez(file, **{f"{i:05d}": leaf for i, leaf in enumerate(leaves)})


def _read(path: pathlib.Path, like: Any) -> Any:
  with np.load(path, allow_pickle=False) as saved:
    leaves = [saved[name] for name in sorted(saved.files)]
  *arrays, step = leaves
  trained, opt, _ = jax.tree.unflatten(
    jax.tree.structure(like), [*map(jnp.asarray, arrays), int(step)]
  )
  return trained, opt, int(step)


def fit(
  loss: Callable,
  trained: Params,
  source: Callable[[int, int], Iterator[Any]],
  steps: int,
  peak: float,
  path: pathlib.Path,
  report: Callable[[int, dict], None],
  every: int = 100,
) -> Params:
  """Minimises `loss(trained, batch) -> (loss, metrics)`.

  Saves the state every 500 steps in `path`, an .npz file, and goes on from
  there.
  """
  tx = optimiser(peak, steps)
  # A copy: the update donates its arguments.
  state = (jax.tree.map(jnp.array, trained), tx.init(trained), 0)
  if path.exists():
    state = _read(path, state)

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def update(trained, opt, batch):
    grads, metrics = jax.grad(loss, has_aux=True)(trained, batch)
    change, opt = tx.update(grads, opt, trained)
    return optax.apply_updates(trained, change), opt, metrics

  trained, opt, first = state
  sums, began = [], time.time()
  for step, batch in enumerate(source(first, steps), first + 1):
    trained, opt, metrics = update(trained, opt, batch)
    sums.append(metrics)
    if step % every == 0 or step == steps:
      names = sorted({name for m in sums for name in m})
      mean = {
        k: float(np.nanmean([m[k] for m in sums if k in m])) for k in names
      }
      seconds = (time.time() - began) / len(sums)
      report(step, mean | {"seconds": seconds})
      sums, began = [], time.time()
    if step % 500 == 0 or step == steps:
      _write(path, (trained, opt, step))
  return trained
