r"""How many large JPEG and PNG files a core decodes, by threads and processes.

  python -m experiments.real_sizes.decoding

Prints a row for each size and format, the least of three rounds. CPU seconds
are those of all threads or processes, so that other work on the machine hardly
matters. Processes hand their pixels over in shared memory, which is the least
that they can cost. "Locked" is what a decoding spends outside of Pillow's
decoder, where it holds the interpreter: the bound for threads.
"""

import concurrent.futures
import dataclasses
import io
import itertools
import multiprocessing
from multiprocessing import shared_memory
import os
import resource
import time

from absl import app
import numpy as np
from PIL import Image

from experiments.real_sizes import pictures
from lfpc_jax.data import images

_IMAGES, _ROUNDS = 4, 3


@dataclasses.dataclass(frozen=True)
class Speed:
  """Wall and CPU seconds of decoding one image."""

  wall: float
  cpu: float


def _cpu() -> float:
  kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
  used = [resource.getrusage(kind) for kind in kinds]
  return sum(u.ru_utime + u.ru_stime for u in used)


def _decode(data: bytes) -> np.ndarray:
  return images.decode(data).pixels


def locked(data: bytes) -> float:
  """CPU seconds of a decoding outside of Pillow's decoder."""
  began = time.thread_time()
  _decode(data)
  whole = time.thread_time() - began
  with Image.open(io.BytesIO(data)) as image:
    began = time.thread_time()
    image.load()
    return max(0.0, whole - (time.thread_time() - began))


def _decode_shared(arguments: tuple[bytes, str]) -> tuple[float, ...]:
  """In a process of its own: the pixels go to the named memory."""
  data, name = arguments
  began = _cpu()
  pixels = _decode(data)
  memory = shared_memory.SharedMemory(name)
  np.ndarray(pixels.shape, np.uint8, memory.buf)[:] = pixels
  memory.close()
  return (_cpu() - began,)


def one_by_one(data: bytes) -> Speed:
  """In the calling thread."""
  began = time.perf_counter(), _cpu()
  for _ in range(_IMAGES):
    _decode(data)
  return Speed(
    (time.perf_counter() - began[0]) / _IMAGES, (_cpu() - began[1]) / _IMAGES
  )


def by_threads(data: bytes, workers: int) -> Speed:
  """As `lfpc_jax.data.loader` does it."""
  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    began = time.perf_counter(), _cpu()
    for _ in pool.map(_decode, [data] * _IMAGES):
      pass
    wall, cpu = time.perf_counter() - began[0], _cpu() - began[1]
  return Speed(wall / _IMAGES, cpu / _IMAGES)


def by_processes(data: bytes, workers: int, side: int) -> Speed:
  """Processes that are started beforehand and share memory with this one."""
  context = multiprocessing.get_context("spawn")
  memory = shared_memory.SharedMemory(create=True, size=side * side * 3)
  with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
    list(pool.map(_decode_shared, [(data, memory.name)] * workers))
    began = time.perf_counter(), _cpu()
    work = [(data, memory.name)] * _IMAGES
    children = sum(cpu for (cpu,) in pool.map(_decode_shared, work))
    wall, own = time.perf_counter() - began[0], _cpu() - began[1]
  memory.close()
  memory.unlink()
  return Speed(wall / _IMAGES, (own + children) / _IMAGES)


def best(speeds: list[Speed]) -> Speed:
  """The least of each."""
  return Speed(min(s.wall for s in speeds), min(s.cpu for s in speeds))


def main(_) -> None:
  """Measures in turns, so that what else runs disturbs all alike."""
  cores = os.cpu_count() or 1
  print(f"{cores} cores; seconds an image: wall (CPU)")
  for side, kind in itertools.product(pictures.SIDES, ("JPEG", "PNG")):
    data = pictures.encoded(side, kind)
    rounds = [
      (
        one_by_one(data),
        by_threads(data, cores),
        by_processes(data, cores, side),
      )
      for _ in range(_ROUNDS)
    ]
    one, threads, processes = (best(list(s)) for s in zip(*rounds))
    print(
      f"{kind} {side} x {side}, {len(data) / 1e6:.1f} MB: "
      f"alone {one.wall:.3f} ({one.cpu:.3f}), "
      f"{cores} threads {threads.wall:.3f} ({threads.cpu:.3f}), "
      f"{cores} processes {processes.wall:.3f} ({processes.cpu:.3f}); "
      f"{1 / one.cpu:.1f} images a second and core, "
      f"locked {locked(data):.3f}",
      flush=True,
    )


if __name__ == "__main__":
  app.run(main)
