"""Reading data sets: random access, seeded batches, decoding in advance.

    source = open_scenes('data', 'easy', 'train')
    sampler = BatchSampler(seed=0, batch_size=32, num_examples=len(source))
    with BatchLoader(source, sampler, first_step=step) as batches:
      for step, examples in batches:
        ...

The step is the whole state: a run resumed at a step sees the same batches.
"""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import operator
import os
import pathlib
import threading
import time
from typing import Any, Generic, TypeVar
import weakref

import numpy as np

from lfpc_jax import errors
from lfpc_jax.data import examples, images, scenes
from lfpc_jax.data.reading import reading

T = TypeVar("T")

_OPTIONAL = ("group", "variant", "image_id")
_NO_PIXELS = np.zeros((0, 0, 3), np.uint8)
_MAX_THREADS = 16


class PromptSource(Sequence[examples.Example]):
  """Examples by index, images decoded when asked for.

  As long as somebody holds an image, other examples of the same one share its
  pixels, and decode nothing.

  Args:
    rows: stored examples: the features of `Example`, the image as bytes of
      any format of `images.FORMATS`, boxes in pixels of the upright image;
      what `Example` has defaults for, 'options' and 'boxes' may be missing.
    name: the data set's name, for `Example.source`.
    room: (height, width) that larger images are shrunk to; None for none.
  """

  def __init__(
    self,
    rows: Sequence[Mapping[str, Any]],
    name: str,
    room: images.Size | None = None,
  ):
    self._rows = rows
    self._name = name
    self._room = room
    # A row holds its image's bytes: read it once for words and size.
    self._outlines: dict[int, tuple[examples.Example, images.Size]] = {}
    self._digests: dict[int, str] = {}
    self._pixels = weakref.WeakValueDictionary[str, np.ndarray]()
    self._known: dict[str, images.Picture] = {}  # of these, without pixels
    self._locks: dict[str, threading.Lock] = {}

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> examples.Example:
    index = operator.index(index)
    if not 0 <= index < len(self):
      raise IndexError(
        f"Example {index} of {self._name!r}, which has {len(self)}."
      )
    row = self._row(index)
    picture = self._picture(row)
    example = self._example(row, picture.pixels)
    return dataclasses.replace(
      example,
      boxes=picture.map_boxes(example.boxes),
      shrunk="shrunk" in picture.treatments,
    )

  def words(self, index: int) -> examples.Example:
    """An example without its image, u8[0, 0, 3], which costs no decoding.

    Its boxes are those of the published image.
    """
    return self._outline(index)[0]

  def size(self, index: int) -> images.Size:
    """(height, width) of an example's image, which costs no decoding."""
    return self._outline(index)[1]

  def image_digest(self, index: int) -> str:
    """Digits that change with any byte of an example's image file.

    Whoever asks for it first has `words` and `size` from the same reading.
    """
    if index not in self._digests:
      row = self._row(index)
      self._digests[index] = hashlib.sha256(row["image"]).hexdigest()[:16]
      self._outlines.setdefault(index, self._look(row))
    return self._digests[index]

  def _outline(self, index: int) -> tuple[examples.Example, images.Size]:
    if index not in self._outlines:
      self._outlines[index] = self._look(self._row(index))
    return self._outlines[index]

  def _look(
    self, row: Mapping[str, Any]
  ) -> tuple[examples.Example, images.Size]:
    """What is known of an example without decoding its image."""
    with self._naming(row):
      whole = images.read_size(row["image"])
    size = images.fit(whole, self._room)
    example = self._example(row, _NO_PIXELS)
    return dataclasses.replace(example, shrunk=size != whole), size

  def _row(self, index: int) -> Mapping[str, Any]:
    with reading(f"example {index} of {self._name!r}"):
      return self._rows[index]

  def _example(
    self, row: Mapping[str, Any], image: np.ndarray
  ) -> examples.Example:
    return examples.Example(
      id=_text(row["id"]),
      image=image,
      question=_text(row["question"]),
      answer=_text(row["answer"]),
      category=_text(row["category"]),
      options=tuple(_text(option) for option in row.get("options", ())),
      boxes=np.asarray(row.get("boxes", ()), np.int32).reshape(-1, 4),
      source=self._name,
      **{name: _text(row[name]) for name in _OPTIONAL if name in row},
    )

  def _picture(self, row: Mapping[str, Any]) -> images.Picture:
    """The example's picture, shared with whoever has it already."""
    name = _text(row.get("image_id", ""))
    if not name:
      return self._decode(row)
    # Or the rotations of a question would decode it side by side.
    with self._locks.setdefault(name, threading.Lock()):
      pixels = self._pixels.get(name)
      if pixels is not None:
        return dataclasses.replace(self._known[name], pixels=pixels)
      picture = self._decode(row)
      self._pixels[name] = picture.pixels
      self._known[name] = dataclasses.replace(picture, pixels=_NO_PIXELS)
      return picture

  def _decode(self, row: Mapping[str, Any]) -> images.Picture:
    with self._naming(row):
      # What is too large for its user was refused when the set was built.
      most = 2 * images.MAX_PIXELS
      return images.decode(row["image"], max_pixels=most, room=self._room)

  @contextlib.contextmanager
  def _naming(self, row: Mapping[str, Any]) -> Iterator[None]:
    """Adds to an error about an image whose it is."""
    try:
      yield
    except errors.UserError as error:
      raise errors.UserError(
        f"The image of example {_text(row['id'])!r} of {self._name!r}: {error};"
        " or build the data set again."
      ) from error


def open_scenes(
  data_dir: str | os.PathLike[str] = "data",
  difficulty: str | scenes.ScenesConfig = "easy",
  split: str = "train",
  room: images.Size | None = None,
) -> PromptSource:
  """Opens a split of `Scenes`.

  Args:
    data_dir: where data sets live.
    difficulty: 'easy', 'hard', or a configuration from `scenes_config`.
    split: 'train', 'validation' or 'test'.
    room: see `PromptSource`.

  Raises:
    UserError: the data set has not been built, or has no such split.
  """
  builder = scenes.open_builder(data_dir, difficulty)
  config = builder.builder_config
  remedy = f"`{scenes.build_command(data_dir, config)}`"
  name = f"scenes-{config.spec.name}"
  return open_built(builder, split, name, remedy, room)


def open_built(
  builder: Any,
  split: str,
  name: str,
  remedy: str,
  room: images.Size | None = None,
) -> PromptSource:
  """Opens a split of a data set that a TFDS builder has built.

  Args:
    builder: a `tfds.core.DatasetBuilder` with the features of `Example`.
    split: one of its splits.
    name: for `Example.source`.
    remedy: the command that builds it.
    room: see `PromptSource`.

  Raises:
    UserError: it has not been built, or has no such split.
  """
  if not pathlib.Path(builder.data_path).exists():
    raise errors.UserError(
      f"no data set at {builder.data_path}: build it with {remedy}"
    )
  if split not in builder.info.splits:
    raise errors.UserError(
      f"{builder.data_path} has no split {split!r}: choose one of"
      f" {tuple(builder.info.splits)}"
    )
  # Imported here, as the rest of this module needs no data set.
  import tensorflow_datasets as tfds

  with reading(builder.data_path):
    rows = builder.as_data_source(
      split, decoders={"image": tfds.decode.SkipDecoding()}
    )
  return PromptSource(rows, name, room)


def open_data(
  data: Mapping[str, Any], split: str
) -> Sequence[examples.Example]:
  """Opens what a config's data section names; see `registry.open_data`."""
  # Imported here, as it imports this module.
  from lfpc_jax.data import registry

  return registry.open_data(data, split)


class Picked(Sequence[examples.Example]):
  """Some of a source's examples, each decoded when it is asked for."""

  def __init__(
    self, source: Sequence[examples.Example], numbers: Sequence[int]
  ):
    self._source, self._numbers = source, numbers

  def __len__(self) -> int:
    return len(self._numbers)

  def __getitem__(self, index: int) -> examples.Example:
    return self._source[self._numbers[index]]

  def words(self, index: int) -> examples.Example:
    """See `PromptSource.words`."""
    return self._source.words(self._numbers[index])

  def size(self, index: int) -> tuple[int, int]:
    """See `PromptSource.size`."""
    return self._source.size(self._numbers[index])

  def image_digest(self, index: int) -> str:
    """See `PromptSource.image_digest`."""
    return self._source.image_digest(self._numbers[index])


def first(
  source: Sequence[examples.Example], number: int, field: str
) -> Sequence[examples.Example]:
  """At most `number` examples; 0 for all. `field` names it in errors."""
  if number < 0:
    raise errors.UserError(f"{field}={number}: must be >= 0; 0 is all")
  few = 0 < number < len(source)
  return Picked(source, range(number)) if few else source


def draw(
  source: Sequence[examples.Example], number: int, seed: int
) -> Sequence[examples.Example]:
  """At most `number` examples, drawn by the seed, in order; 0 for all."""
  if not 0 < number < len(source):
    return source
  rng = np.random.default_rng(seed)
  drawn = rng.choice(len(source), number, replace=False)
  return Picked(source, np.sort(drawn).tolist())


class BatchLoader(Generic[T]):
  """Iterates over (step, batch), decoding some steps ahead in threads.

  An exception of a thread is raised where its batch would have come, and again
  at each further attempt. Use it as a context manager, or call `close`.

  Args:
    source: examples by index.
    sampler: gives the indices of each step.
    first_step: the step of the first batch.
    num_steps: how many batches; None for no end.
    transform: turns (step, examples) into the batch, in the thread; by default
      the batch is the list of examples.
    depth: how many batches are prepared in advance. The host holds the
      examples of so many and of the one in use.
    workers: number of threads that decode; None: one for each core, up to 16.
      Threads serve as processes would: decoding leaves the interpreter free
      (docs/data.md has figures).

  Attributes:
    waited: seconds that the latest batch was waited for.
  """

  def __init__(
    self,
    source: Sequence[examples.Example],
    sampler: Callable[[int], np.ndarray],
    *,
    first_step: int = 0,
    num_steps: int | None = None,
    transform: Callable[[int, list[examples.Example]], T] = lambda _, x: x,
    depth: int = 2,
    workers: int | None = None,
  ):
    if depth < 1:
      raise ValueError(f"depth = {depth}: prepare at least one batch ahead.")
    self._source = source
    self._sampler = sampler
    self._transform = transform
    self._depth = depth
    self._next = first_step
    self._last = None if num_steps is None else first_step + num_steps
    self._closed = False
    self.waited = 0.0
    # Futures instead of a queue: nobody ever waits for room or for an item
    # that no one will bring.
    self._pending = collections.deque()
    self._threads = concurrent.futures.ThreadPoolExecutor(
      depth, thread_name_prefix="batches"
    )
    workers = workers or min(os.cpu_count() or 1, _MAX_THREADS)
    self._decoders = concurrent.futures.ThreadPoolExecutor(
      workers, thread_name_prefix="batches-decode"
    )
    self._fill()

  def __iter__(self) -> Iterator[tuple[int, T]]:
    return self

  def __next__(self) -> tuple[int, T]:
    if self._closed:
      raise ValueError("This BatchLoader is closed: make another one.")
    if not self._pending:
      raise StopIteration
    step, future = self._pending[0]
    began = time.perf_counter()
    batch = future.result()
    self.waited = time.perf_counter() - began
    self._pending.popleft()
    self._fill()
    return step, batch

  def __enter__(self) -> "BatchLoader[T]":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def close(self) -> None:
    """Drops what has not been started and ends the threads; may be repeated."""
    self._closed = True
    self._decoders.shutdown(wait=True, cancel_futures=True)
    self._threads.shutdown(wait=True, cancel_futures=True)
    self._pending.clear()

  def _fill(self) -> None:
    while len(self._pending) < self._depth and self._next != self._last:
      future = self._threads.submit(self._load, self._next)
      self._pending.append((self._next, future))
      self._next += 1

  def _load(self, step: int) -> T:
    indices = map(int, self._sampler(step))
    found = self._decoders.map(self._source.__getitem__, indices)
    return self._transform(step, list(found))


def _text(value: bytes | str) -> str:
  return value.decode() if isinstance(value, bytes) else value
