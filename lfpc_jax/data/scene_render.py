"""Procedural street scenes: coloured signs that bear handwritten digits.

A scene is a photograph on which coloured plates stand, alone or in touching
pairs; each bears one handwritten digit. At a small global view the colours
stay visible and the digits do not, so that a question about a digit needs a
crop: the information gap of LFPC (arXiv 2603.27494) in the smallest form.

Each split has its own photographs and its own digits (`scene_assets`).
Everything random comes from the generator that the caller passes.
"""

import dataclasses
import functools

import numpy as np
from PIL import Image

from lfpc_jax.data import scene_assets

Box = tuple[int, int, int, int]

# A change of what `compose_scene` draws for a given generator needs a new
# number: stored data sets are recognised by it.
RENDER_VERSION = 1

COLOURS: dict[str, tuple[int, int, int]] = {
  "red": (206, 32, 36),
  "green": (36, 150, 58),
  "blue": (38, 78, 214),
  "yellow": (240, 214, 36),
  "orange": (238, 126, 20),
  "purple": (126, 48, 176),
  "cyan": (52, 200, 216),
  "pink": (244, 142, 188),
  "white": (244, 244, 244),
}

# A photograph's shorter side, as a multiple of the scene's side: whole motifs
# and close-ups. Few steps, so that the enlarged photographs can be cached.
_ZOOMS = (1.1, 1.6, 2.3)
_BICUBIC = Image.Resampling.BICUBIC


@dataclasses.dataclass(frozen=True)
class SceneSpec:
  """What scenes of one difficulty look like; lengths in pixels.

  Ranges are inclusive. A post is one sign or a pair of touching signs.

  Attributes:
    name: the difficulty's name.
    size: side of the square image.
    num_signs: range of the number of signs, each of another colour.
    sign_size: range of a plate's side.
    digit_size: range of a digit's ink height.
    min_pairs: pairs in every scene (a relation question needs one).
    pair_probability: chance that two further signs form a pair.
    gap: least distance between two posts.
  """

  name: str
  size: int = 512
  num_signs: tuple[int, int] = (3, 6)
  sign_size: tuple[int, int] = (48, 64)
  digit_size: tuple[int, int] = (26, 34)
  min_pairs: int = 1
  pair_probability: float = 0.35
  gap: int = 28

  def __post_init__(self):
    for field in ("num_signs", "sign_size", "digit_size"):
      low, high = getattr(self, field)
      if not 1 <= low <= high:
        raise ValueError(
          f"SceneSpec.{field} = {(low, high)} is no range: give two positive"
          " integers, the lower first."
        )
    if self.num_signs[1] > len(COLOURS):
      raise ValueError(
        f"SceneSpec.num_signs = {self.num_signs} exceeds the {len(COLOURS)}"
        " colours, and every sign of a scene needs its own."
      )
    if 2 * self.min_pairs > self.num_signs[0]:
      raise ValueError(
        f"SceneSpec.min_pairs = {self.min_pairs} pairs do not fit into"
        f" num_signs = {self.num_signs}."
      )
    if self.digit_size[1] > self.sign_size[0]:
      raise ValueError(
        f"SceneSpec.digit_size = {self.digit_size} does not fit on signs of"
        f" sign_size = {self.sign_size}."
      )

  def scaled(self, size: int) -> "SceneSpec":
    """The same scenes with an image of `size` pixels a side."""
    scale = size / self.size

    def pixels(*lengths: int) -> tuple[int, ...]:
      return tuple(max(1, round(length * scale)) for length in lengths)

    return dataclasses.replace(
      self,
      size=size,
      sign_size=pixels(*self.sign_size),
      digit_size=pixels(*self.digit_size),
      gap=pixels(self.gap)[0],
    )


EASY = SceneSpec(name="easy")
HARD = SceneSpec(
  name="hard",
  num_signs=(6, 8),
  sign_size=(36, 48),
  digit_size=(16, 22),
  min_pairs=2,
  pair_probability=0.7,
  gap=20,
)
SPECS = {spec.name: spec for spec in (EASY, HARD)}


@dataclasses.dataclass(frozen=True)
class Sign:
  """One sign of a scene.

  Attributes:
    colour: its name, a key of `COLOURS`.
    box: the plate, (x1, y1, x2, y2) pixel edges, half-open.
    digit_box: the digit's ink, likewise.
    digit: 0 to 9.
    partner: index of the other sign of its pair, or -1.
  """

  colour: str
  box: Box
  digit_box: Box
  digit: int
  partner: int


@dataclasses.dataclass(frozen=True)
class Scene:
  """A rendered scene: image u8[H, W, 3] and its signs."""

  image: np.ndarray
  signs: tuple[Sign, ...]


def compose_scene(
  rng: np.random.Generator, spec: SceneSpec, glyphs: str
) -> Scene:
  """Draws one scene.

  Args:
    rng: the only source of randomness.
    spec: sizes and numbers.
    glyphs: the split whose digits and photographs are used, one of
      `scene_assets.SPLITS`.

  Returns:
    The scene; colours and digits are distinct within it.

  Raises:
    ValueError: `glyphs` names no split.
    RuntimeError: the signs do not fit into the image.
  """
  if glyphs not in scene_assets.SPLITS:
    raise ValueError(
      f"Unknown split {glyphs!r}: choose one of {scene_assets.SPLITS}."
    )
  image = _background(rng, spec.size, glyphs)
  boxes, partners = _layout(rng, spec)
  colours = rng.permutation(list(COLOURS))[: len(boxes)]
  # Distinct digits: reading another sign than the one asked is always wrong.
  digits = rng.permutation(10)[: len(boxes)]
  for box in boxes:
    _draw_pole(rng, image, box)
  signs = []
  columns = zip(colours, boxes, digits, partners, strict=True)
  for colour, box, digit, partner in columns:
    shade = _draw_plate(rng, image, box, COLOURS[colour])
    ink = _draw_digit(rng, image, box, int(digit), shade, spec, glyphs)
    signs.append(Sign(str(colour), box, ink, int(digit), partner))
  return Scene(image, tuple(signs))


def _background(rng: np.random.Generator, size: int, split: str) -> np.ndarray:
  """A random cut of a photograph: u8[size, size, 3], flipped and tinted."""
  paths = scene_assets.PHOTOGRAPHS[split]
  zoom = _ZOOMS[rng.integers(len(_ZOOMS))]
  path = paths[rng.integers(len(paths))]
  photo = scene_assets.photograph(path, round(size * zoom))
  x = int(rng.integers(photo.width - size + 1))
  y = int(rng.integers(photo.height - size + 1))
  cut = photo.crop((x, y, x + size, y + size))
  if rng.random() < 0.5:
    cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
  # Darker than the plates, so that their colours stand out.
  gain = rng.uniform(0.45, 0.75) * rng.uniform(0.9, 1.1, size=3)
  levels = np.arange(256) * gain[:, None] + rng.uniform(0, 24)
  return np.array(cut.point(levels.astype(np.uint8).ravel().tolist()))


def _layout(
  rng: np.random.Generator, spec: SceneSpec
) -> tuple[list[Box], list[int]]:
  """Places posts without overlap: the signs' boxes and their partners."""
  count = int(rng.integers(spec.num_signs[0], spec.num_signs[1] + 1))
  further = count // 2 - spec.min_pairs
  pairs = spec.min_pairs + int(rng.binomial(further, spec.pair_probability))
  widths = [2] * pairs + [1] * (count - 2 * pairs)
  for _ in range(100):
    posts = _place_posts(rng, spec, widths)
    if posts is not None:
      break
  else:
    raise RuntimeError(
      f"{count} signs found no place in {spec}: enlarge `size`, or lower"
      " `num_signs`, `sign_size` or `gap`."
    )
  boxes, partners = [], []
  for (x, y, side), width in zip(posts, widths, strict=True):
    first = len(boxes)
    partners += [first + 1, first] if width == 2 else [-1]
    boxes += [
      (x + k * side, y, x + (k + 1) * side, y + side) for k in range(width)
    ]
  return boxes, partners


def _place_posts(
  rng: np.random.Generator, spec: SceneSpec, widths: list[int]
) -> list[tuple[int, int, int]] | None:
  """(x, y, side) of each post; None if one of them found no place."""
  border = max(1, spec.gap // 4)
  placed = np.zeros((0, 4), np.int64)
  posts = []
  for width in widths:
    side = int(rng.integers(spec.sign_size[0], spec.sign_size[1] + 1))
    room = spec.size - 2 * border - np.array([width * side, side])
    if room.min() < 0:
      return None
    corner = border + rng.integers(0, room + 1, size=(32, 2))
    far = corner + [width * side, side]
    apart = (corner[:, None] >= placed[:, 2:] + spec.gap).any(-1)
    apart |= (far[:, None] + spec.gap <= placed[:, :2]).any(-1)
    free = np.flatnonzero(apart.all(-1))
    if not free.size:
      return None
    k = free[0]
    placed = np.vstack([placed, np.concatenate([corner[k], far[k]])])
    posts.append((int(corner[k, 0]), int(corner[k, 1]), side))
  return posts


def _draw_pole(rng: np.random.Generator, image: np.ndarray, box: Box) -> None:
  """Draws a thin grey pole below a plate, for one plate in two."""
  if rng.random() < 0.5:
    return
  x1, _, x2, y2 = box
  side = x2 - x1
  length = int(side * rng.uniform(0.5, 2.0))
  half = max(1, side // 24)
  middle = (x1 + x2) // 2
  level = rng.integers(40, 110)
  image[y2 : y2 + length, middle - half : middle + half] = level


def _draw_plate(
  rng: np.random.Generator,
  image: np.ndarray,
  box: Box,
  colour: tuple[int, int, int],
) -> np.ndarray:
  """Draws a rounded plate with a thin border; returns its colour f32[3]."""
  x1, y1, x2, y2 = box
  shade = np.clip(colour + rng.uniform(-10, 10, size=3), 0, 255)
  shade = shade.astype(np.float32)
  opacity, tone = _plate(x2 - x1, int(rng.integers(5)))
  # Light from above or from below: one side up to a tenth darker.
  light = np.linspace(*rng.uniform(0.9, 1.0, size=2), x2 - x1)
  face = tone * light.astype(np.float32)[:, None, None] * shade
  _blend(image[y1:y2, x1:x2], face, opacity)
  return shade


@functools.cache
def _plate(side: int, roundness: int) -> tuple[np.ndarray, np.ndarray]:
  """A plate's opacity and brightness, each f32[side, side, 1]."""
  radius = side * 0.055 * roundness
  # Signed distance to the rounded square's edge, negative inside.
  centred = np.abs(np.arange(side) + 0.5 - side / 2) - (side / 2 - radius)
  outside = np.maximum(centred, 0)
  distance = np.hypot(outside[:, None], outside) - radius
  distance += np.minimum(np.maximum(centred[:, None], centred), 0)
  border = np.clip(0.5 + distance + max(1.0, side / 28), 0, 1)
  planes = np.clip(0.5 - distance, 0, 1), 1 - 0.45 * border
  return tuple(plane.astype(np.float32)[..., None] for plane in planes)


def _draw_digit(
  rng: np.random.Generator,
  image: np.ndarray,
  box: Box,
  digit: int,
  shade: np.ndarray,
  spec: SceneSpec,
  split: str,
) -> Box:
  """Writes a digit near the plate's centre; returns its ink's box."""
  x1, y1, x2, _ = box
  side = x2 - x1
  choices = scene_assets.split_glyphs(split)[digit]
  glyph = scene_assets.glyph(int(choices[rng.integers(len(choices))]))
  height = int(rng.integers(spec.digit_size[0], spec.digit_size[1] + 1))
  stretch = rng.uniform(0.85, 1.1) * glyph.width / glyph.height
  width = int(np.clip(round(height * stretch), 1, int(0.84 * side)))
  slack_x, slack_y = side - width, side - height
  x = x1 + int(slack_x * rng.uniform(0.38, 0.62))
  y = y1 + int(slack_y * rng.uniform(0.38, 0.62))
  drawn = np.asarray(glyph.resize((width, height), _BICUBIC), np.float32)
  opacity = drawn[..., None] * np.float32(rng.uniform(0.88, 1.0) / 255)
  light = shade @ (0.299, 0.587, 0.114) < 128
  ink = rng.uniform(225, 250) if light else rng.uniform(0, 40)
  _blend(image[y : y + height, x : x + width], ink, opacity)
  return (x, y, x + width, y + height)


def _blend(
  target: np.ndarray, colour: np.ndarray | float, opacity: np.ndarray
) -> None:
  """Paints `colour` (0 to 255) over target u8[h, w, 3], in place."""
  below = target.astype(np.float32)
  target[:] = below + opacity * (colour - below) + np.float32(0.5)
