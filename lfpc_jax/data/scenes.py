"""The data set `Scenes`: questions about digits on coloured signs.

Build it with

  python -m lfpc_jax.data.scenes --data_dir=data --difficulty=easy

which takes about half a minute per difficulty on two cores. Images are stored
as JPEG bytes in ArrayRecord files; neither writing nor reading needs
TensorFlow. The folder's name holds a digest of everything that decides the
data set's content, so that a changed configuration builds another data set
instead of reading a stale one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import pathlib
import shlex
import signal
import sys
import threading
import time
from typing import Any
import zlib

import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

from lfpc_jax import errors, notes
from lfpc_jax.arguments import Parser
from lfpc_jax.data import builders, questions, scene_render
from lfpc_jax.data.reading import reading

SPLIT_SIZES = {"train": 2048, "validation": 512, "test": 1024}

_SHARD_EXAMPLES = 256
_SIZES = range(32, 8193)  # signs find their place; readers take the pixels
_JPEG_QUALITY = 95


@dataclasses.dataclass(eq=False, kw_only=True)
class ScenesConfig(tfds.core.BuilderConfig):
  """What decides the content of a data set; make it with `scenes_config`.

  Attributes:
    spec: the scenes' sizes and numbers.
    split_sizes: number of examples of each split.
    seed: seed of all randomness.
  """

  spec: scene_render.SceneSpec
  split_sizes: Mapping[str, int]
  seed: int


def scenes_config(
  difficulty: str = "easy",
  *,
  size: int = scene_render.EASY.size,
  split_sizes: Mapping[str, int] | None = None,
  seed: int = 0,
) -> ScenesConfig:
  """The configuration of a difficulty, at an image size of one's choice.

  Args:
    difficulty: 'easy' or 'hard'.
    size: side of the images in pixels; signs and digits scale with it.
    split_sizes: replaces the default number of examples of the named splits.
    seed: seed of all randomness.

  Raises:
    UserError: an unknown difficulty or split, a negative number, or a size out
      of range.
  """
  if difficulty not in scene_render.SPECS:
    raise errors.UserError(
      f"Unknown difficulty {difficulty!r}: choose one of"
      f" {tuple(scene_render.SPECS)}."
    )
  unknown = set(split_sizes or ()) - set(SPLIT_SIZES)
  if unknown:
    raise errors.UserError(
      f"Unknown splits {sorted(unknown)}: choose from {tuple(SPLIT_SIZES)}."
    )
  for split, number in (split_sizes or {}).items():
    if number < 0:
      raise errors.UserError(
        f"{number} examples of the split {split!r}: must be >= 0"
      )
  if size not in _SIZES:
    raise errors.UserError(
      f"scenes of {size} pixels a side: must be from {_SIZES.start} to "
      f"{_SIZES.stop - 1}"
    )
  if seed < 0:
    raise errors.UserError(f"seed={seed} of the scenes: must be >= 0")
  spec = scene_render.SPECS[difficulty]
  if size != spec.size:
    spec = spec.scaled(size)
  sizes = {**SPLIT_SIZES, **(split_sizes or {})}
  content = dict(
    render=scene_render.RENDER_VERSION,
    spec=dataclasses.asdict(spec),
    sizes=sizes,
    seed=seed,
    quality=_JPEG_QUALITY,
  )
  text = json.dumps(content, sort_keys=True)
  digest = hashlib.sha256(text.encode()).hexdigest()[:8]
  return ScenesConfig(
    name=f"{difficulty}-{size}-{digest}",
    description=text,
    spec=spec,
    split_sizes=sizes,
    seed=seed,
  )


# Not registered, see `manual.Manual`.
class Scenes(tfds.core.ShardBasedBuilder, skip_registration=True):
  """TFDS builder of the scenes; `prepare` is the usual way to run it."""

  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [  # noqa: RUF012 - TFDS's own convention
    scenes_config(name) for name in scene_render.SPECS
  ]

  # TFDS looks beside the code for checksums of downloads; there are none, and
  # the look-up needs a package that TFDS does not declare.
  code_path = None

  # How examples are drawn: `map`, or a process pool's map. Same bytes.
  mapper: Callable[..., Iterable[dict[str, Any]]] = map

  def _info(self) -> tfds.core.DatasetInfo:
    text = tfds.features.Text
    return builders.LocalInfo(
      builder=self,
      description=__doc__,
      features=tfds.features.FeaturesDict(
        {
          "id": text(doc="unique within the data set"),
          "image": tfds.features.Image(
            shape=(None, None, 3), encoding_format="jpeg"
          ),
          "question": text(),
          "answer": text(doc="a digit"),
          "category": text(doc="attribute or relation"),
          "boxes": tfds.features.Tensor(
            shape=(None, 4),
            dtype=np.int32,
            doc="nested, smallest first; pixel edges x1, y1, x2, y2",
          ),
          "signs": text(doc="all signs of the scene, as JSON"),
        }
      ),
    )

  def _shard_iterators_per_split(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, list[Callable[[], Iterator[tuple[int, dict[str, Any]]]]]]:
    return {
      split: [
        functools.partial(self._examples, split, first)
        for first in range(0, size, _SHARD_EXAMPLES)
      ]
      for split, size in self.builder_config.split_sizes.items()
      if size
    }

  def _examples(
    self, split: str, first: int
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    config = self.builder_config
    last = min(first + _SHARD_EXAMPLES, config.split_sizes[split])
    draw = functools.partial(_draw_example, config.spec, config.seed, split)
    indices = range(first, last)
    yield from zip(indices, self.mapper(draw, indices), strict=True)


def _follow(parent: int) -> None:
  """Ends a worker when its parent is gone; a kill tells it nothing."""

  def watch() -> None:
    while os.getppid() == parent:
      time.sleep(1.0)
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
  """Processes started here leave Ctrl-C to their parent."""
  if threading.current_thread() is not threading.main_thread():
    yield  # signals are the main thread's
    return
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    yield
  finally:
    signal.signal(signal.SIGINT, before)


def _progress(difficulty: str | ScenesConfig, number: int):
  # Imported here: workers import this module and need no JAX.
  import rich.console

  from lfpc_jax import metrics

  name = difficulty if isinstance(difficulty, str) else difficulty.name
  # While it works, what TFDS prints is caught.
  console = rich.console.Console(file=sys.stdout)
  return metrics.Progress(f"{name} scenes", number, console=console)


def _counting(mapper, progress):
  """A mapper that reports each example."""
  done = itertools.count(1)

  def mapped(draw, indices):
    for row in mapper(draw, indices):
      progress.update(next(done), "drawing")
      yield row

  return mapped


def _draw_example(
  spec: scene_render.SceneSpec, seed: int, split: str, index: int
) -> dict[str, Any]:
  """Example number `index` of a split; depends on its arguments only."""
  names = [zlib.crc32(name.encode()) for name in (spec.name, split)]
  rng = np.random.default_rng([seed, *names, index])
  scene = scene_render.compose_scene(rng, spec, split)
  category = questions.CATEGORIES[index % len(questions.CATEGORIES)]
  question = questions.draw_question(rng, scene.signs, category)
  return {
    "id": f"{spec.name}-{split}-{index:05d}",
    "image": _encode(scene.image),
    "question": question.text,
    "answer": question.answer,
    "category": question.category,
    "boxes": question.boxes,
    "signs": json.dumps([dataclasses.asdict(s) for s in scene.signs]),
  }


def _encode(image: np.ndarray) -> bytes:
  """JPEG bytes, without chroma subsampling: colours are what is asked."""
  file = io.BytesIO()
  Image.fromarray(image).save(
    file, "JPEG", quality=_JPEG_QUALITY, subsampling=0
  )
  return file.getvalue()


def prepare(
  data_dir: str | os.PathLike[str] = "data",
  difficulty: str | ScenesConfig = "easy",
  *,
  workers: int | None = None,
) -> pathlib.Path:
  """Builds a data set unless it is there; returns its folder.

  The folder appears under its final name only when it is complete, so that an
  interrupted build is never taken for a data set. The bytes depend on the
  configuration alone, not on `workers`.

  Args:
    data_dir: where data sets live.
    difficulty: 'easy', 'hard', or a configuration from `scenes_config`.
    workers: processes that draw; by default one per core, at most eight, and
      none for small data sets. Processes are spawned, so a script that calls
      this needs the usual `if __name__ == '__main__'`.
  """
  builder = open_builder(data_dir, difficulty)
  path = pathlib.Path(builder.data_path)
  if path.exists():
    return path
  number = sum(builder.builder_config.split_sizes.values())
  if workers is None:
    workers = min(8, os.cpu_count() or 1) if number >= _SHARD_EXAMPLES else 0
  with contextlib.ExitStack() as stack:
    if workers > 1:
      pool = concurrent.futures.ProcessPoolExecutor(
        workers,
        multiprocessing.get_context("spawn"),
        initializer=_follow,
        initargs=(os.getpid(),),
      )
      stack.callback(pool.shutdown, cancel_futures=True)
      with _no_interrupts():
        pool.submit(os.getpid)  # starts the processes
      builder.mapper = functools.partial(pool.map, chunksize=8)
    progress = stack.enter_context(_progress(difficulty, number))
    builder.mapper = _counting(builder.mapper, progress)
    builders.remove_abandoned(path.parent)
    # It prints that it downloads, which it does not.
    stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
    try:
      with builders.writing(path):
        builder.download_and_prepare()
    except OSError:
      # Another process was faster: its data set has the same bytes.
      if not path.exists():
        raise
  return path


def open_builder(
  data_dir: str | os.PathLike[str], difficulty: str | ScenesConfig
) -> Scenes:
  """The builder of a data set, which may not have been built yet."""
  notes.silence("tensorflow_datasets")
  if isinstance(difficulty, str):
    difficulty = scenes_config(difficulty)
  # TFDS wants the very object of a configuration that the class lists.
  listed = {config.name: config for config in Scenes.BUILDER_CONFIGS}
  with reading(os.path.join(data_dir, "scenes", difficulty.name)):
    return Scenes(
      data_dir=os.fspath(data_dir),
      config=listed.get(difficulty.name, difficulty),
      file_format="array_record",
    )


def build_command(
  data_dir: str | os.PathLike[str], config: ScenesConfig
) -> str:
  """The shell command that builds a data set."""
  words = [
    "python -m lfpc_jax.data.scenes",
    f"--data_dir={shlex.quote(os.fspath(data_dir))}",
    f"--difficulty={config.spec.name}",
  ]
  if config.spec.size != scene_render.SPECS[config.spec.name].size:
    words.append(f"--size={config.spec.size}")
  if config.seed:
    words.append(f"--seed={config.seed}")
  for split, size in config.split_sizes.items():
    if size != SPLIT_SIZES[split]:
      words.append(f"--{split}={size}")
  return " ".join(words)


def main(arguments: Sequence[str] | None = None) -> None:
  """Builds a data set from the command line."""
  parser = Parser(__doc__)
  for name, default, says in (
    ("data_dir", "data", "where it is written; --config.data.dir of a run"),
    ("size", scene_render.EASY.size, "height and width of a scene in pixels"),
    ("seed", 0, "other scenes for each"),
    *((split, n, f"scenes of {split}") for split, n in SPLIT_SIZES.items()),
  ):
    parser.add_argument(
      f"--{name}",
      type=type(default),
      default=default,
      help=f"{says} (%(default)s)",
    )
  parser.add_argument(
    "--difficulty",
    default="easy",
    choices=list(scene_render.SPECS),
    help="hard: smaller digits, more signs (%(default)s)",
  )
  args = parser.parse_args(arguments)
  # Imported here: the workers' copy of this module needs no JAX.
  from lfpc_jax import config as config_lib

  with config_lib.plain_errors(args.traceback):
    config = scenes_config(
      args.difficulty,
      size=args.size,
      split_sizes={split: getattr(args, split) for split in SPLIT_SIZES},
      seed=args.seed,
    )
    print(prepare(args.data_dir, config))


if __name__ == "__main__":
  main()
