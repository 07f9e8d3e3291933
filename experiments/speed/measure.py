"""Clocks: functions in turn, a peer's process, the machine's limits."""

from collections.abc import Callable, Mapping
import json
import pathlib
import resource
import statistics
import subprocess
import time
from typing import Any

import jax
import jax.numpy as jnp

_PEER = pathlib.Path(__file__).with_name("peer.py")
# Seconds between two functions: threads of the one before, PyTorch's too, go on
# turning for a while after their work, and would take a core from the next.
_REST = 0.5


def alternate(
  functions: Mapping[str, Callable[[], Any]], rounds: int, warm: int = 1
) -> dict[str, float]:
  """Median seconds of each function, all of them run in every round.

  Args:
    functions: by name. What they return is waited for; a number is taken as
      the seconds that the function has measured itself.
    rounds: timed runs of each.
    warm: runs of each before them.
  """
  seconds = {name: [] for name in functions}
  for number in range(warm + rounds):
    for name, function in functions.items():
      time.sleep(_REST)
      began = time.perf_counter()
      found = jax.block_until_ready(function())
      took = time.perf_counter() - began
      if number >= warm:
        seconds[name].append(found if isinstance(found, float) else took)
  return {name: statistics.median(times) for name, times in seconds.items()}


class Peer:
  """peer.py in a process of its own, asked line by line."""

  def __init__(self, python: str, folder: pathlib.Path, threads: int):
    """Starts it; `versions` says what it runs on."""
    self._process = subprocess.Popen(
      [python, _PEER, folder, str(threads)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    self.versions = self._read()

  def __enter__(self):
    """The peer itself."""
    return self

  def __exit__(self, *error):
    """Ends the process."""
    self._process.stdin.close()
    self._process.wait()

  def ask(self, do: str, **more: Any) -> dict[str, Any]:
    """What the peer answers; `seconds` is its own measurement."""
    print(json.dumps({"do": do} | more), file=self._process.stdin, flush=True)
    return self._read()

  def _read(self) -> dict[str, Any]:
    line = self._process.stdout.readline()
    if not line:
      raise SystemExit(f"the peer ended with code {self._process.wait()}")
    return json.loads(line)


def least_cpu(function: Callable[[], Any], rounds: int = 5) -> float:
  """CPU seconds of a call, the least of some; the first call is not timed."""
  took = []
  for _ in range(rounds + 1):
    began = time.process_time()
    jax.block_until_ready(function())
    took.append(time.process_time() - began)
  return min(took[1:])


def page_faults(function: Callable[[], Any]) -> int:
  """Pages that a call has to be given by the system: memory it had not kept."""
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  jax.block_until_ready(function())
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def product_rate(
  size: int = 3000, dtype: str = "float32", repeats: int = 1
) -> float:
  """Floating-point operations per second of a large product.

  Args:
    size: rows and columns.
    dtype: its precision.
    repeats: products in a row, where one alone is over too soon for a clock.
  """
  # A device's clock may depend on the numbers: ones are easier than others.
  a = jax.random.normal(jax.random.key(0), (size, size)) / size**0.5
  a = a.astype(dtype)
  product = jax.jit(
    lambda a: jax.lax.fori_loop(0, repeats, lambda _, x: x @ a, a)
  )
  seconds = alternate({"product": lambda: product(a)}, rounds=5)["product"]
  return 2 * repeats * size**3 / seconds


def memory_rate(megabytes: int = 512) -> float:
  """Bytes per second of reading one large array."""
  a = jnp.ones((megabytes * 2**18,), jnp.float32)
  read = jax.jit(jnp.sum)
  seconds = alternate({"read": lambda: read(a)}, rounds=5)["read"]
  return a.size * 4 / seconds


def table(head: list[str], rows: list[list[Any]]) -> str:
  """A table in Markdown."""
  lines = [head, ["---"] * len(head), *rows]
  return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
