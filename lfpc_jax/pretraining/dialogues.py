"""Conversations about pooled scenes, for the second step of pretraining.

Each conversation follows one of two forms: the answer at once, or a tool call
with a rough box, the crop, then the answer. Boxes are rough by construction
(random side and centre around the sign), so the policy locates only roughly;
often the crop misses the digit, and the policy learns to fall back on the
global view. The tower's outputs are computed once for the whole pool.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from lfpc_jax.data import questions
from lfpc_jax.pretraining import pool as pool_lib
from lfpc_jax.pretraining import views
from lfpc_jax.pretraining.features import CROPS, Features
from lfpc_jax.pretraining.writer import Conversation, Writer

_TARGETS = 16  # the policy's own tokens in the longest conversation
# The fixed text around what must be seen is easy.
DIGIT_WEIGHT, NUMBER_WEIGHT = 3.0, 2.0
IN_VIEW, IN_CROP = 1, 2  # where a target slot is to look


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dialogues:
  """P images with G conversations each.

  prefix_tokens, prefix_positions, prefix_visual: i32[P, S], [P, S, 3], [P, S].
  length: filled prefix slots, i32[P].
  view: the tower's outputs, [P, N, D].
  tokens, positions, visual: the suffixes, i32[P, G, T], [.., 3], [P, G, T].
  target_slot: suffix slots whose next token is the policy's, i32[P, G, 16].
  weight: of those in the loss, 0 for padding, f32[P, G, 16].
  look: IN_VIEW or IN_CROP where a target is a box's number or the answer's
    digit, else 0, i32[P, G, 16].
  crops: the tower's outputs for the crops, [P, G, 16, D].
  colour_slot: suffix slot of the question's colour word, i32[P, G].
  view_cells, crop_cells: tokens that hold the asked digit,
    bool[P, G, N], bool[P, G, 16].
  """

  prefix_tokens: jax.Array
  prefix_positions: jax.Array
  prefix_visual: jax.Array
  length: jax.Array
  view: jax.Array
  tokens: jax.Array
  positions: jax.Array
  visual: jax.Array
  target_slot: jax.Array
  weight: jax.Array
  look: jax.Array
  crops: jax.Array
  colour_slot: jax.Array
  view_cells: jax.Array
  crop_cells: jax.Array


@dataclasses.dataclass(frozen=True)
class Kind:
  """What the conversations of a batch have in common.

  Attributes:
    level: visual tokens of the view; 0 for a crop as the whole image.
    calls: whether they call the tool.
    prompts: number of images, P.
    group: conversations about one image, G.
    share: of all batches.
  """

  level: int
  calls: bool
  prompts: int
  group: int
  share: float

  @property
  def slots(self) -> int:
    """Suffix slots that the longest such conversation needs."""
    return 62 if self.calls else 24


KINDS = (
  Kind(0, False, 48, 2, 0.2),
  Kind(16, False, 16, 4, 0.05),
  Kind(16, True, 12, 6, 0.25),
  Kind(64, False, 12, 8, 0.05),
  Kind(64, True, 10, 6, 0.05),
  Kind(324, False, 6, 12, 0.25),
  Kind(324, True, 5, 8, 0.15),
)
"""Short conversations are cheap, so that most answers are read directly."""


def _visible(pool, features, m, s, c, partner) -> bool:
  """Whether a crop shows the digit of sign s, and its partner if asked."""
  box = features.crop_boxes[m, s, c]
  parts = [pool.digits[m, s]] + (
    [pool.signs[m, partner]] if partner >= 0 else []
  )
  return all(
    (part[:2] >= box[:2] - 2).all() and (part[2:] <= box[2:] + 2).all()
    for part in parts
  )


def _draw(rng, pool, features, m, in_crop):
  """A sign, one of its crops, and the question's text.

  With `in_crop` the crop is one that shows what the question is about.
  """
  count = int((pool.colour[m] >= 0).sum())
  for _ in range(50):
    s, c = int(rng.integers(count)), int(rng.integers(CROPS))
    partner = int(pool.partner[m, s])
    related = partner >= 0 and rng.random() < 0.5
    asked = partner if related else -1
    if not in_crop or _visible(pool, features, m, s, c, asked):
      break
  colour = pool_lib.COLOURS[pool.colour[m, partner if related else s]]
  category = "relation" if related else "attribute"
  return s, c, questions.question_text(category, colour)


def make_batch(
  rng: np.random.Generator,
  pool: pool_lib.Pool,
  features: Features,
  writer: Writer,
  kinds: tuple[Kind, ...] = KINDS,
) -> Dialogues:
  """Conversations of one random kind about random scenes.

  Args:
    rng: source of randomness.
    pool: the scenes.
    features: the tower's outputs for them.
    writer: makes the text.
    kinds: what to choose from, each a program of its own shapes.
  """
  shares = np.array([kind.share for kind in kinds])
  kind = kinds[rng.choice(len(kinds), p=shares / shares.sum())]
  rows = []
  for m in rng.integers(len(features.crops), size=kind.prompts):
    rows.append(_prompt_row(rng, pool, features, writer, kind, int(m)))
  return Dialogues(*(np.stack(column) for column in zip(*rows, strict=True)))


def _prompt_row(rng, pool, features, writer, kind: Kind, m: int):
  """The arrays of one image and its conversations."""
  size = pool.images.shape[1]
  region = np.array((0, 0, size, size))
  if kind.level:
    side = int(kind.level**0.5)
    grid, view = (side, side), features.levels[kind.level][m]
  else:
    # A crop is the whole image; all its conversations ask about one sign.
    first, crop, _ = _draw(rng, pool, features, m, True)
    grid = tuple(int(v) for v in features.crop_grids[m, first, crop])
    view = features.crops[m, first, crop]
    region = features.crop_boxes[m, first, crop]
  head = writer.prefix(grid, len(view))
  parts = []
  for _ in range(kind.group):
    s, c, question = _draw(rng, pool, features, m, False)
    while not kind.level and (s, c) != (first, crop):
      s, c, question = _draw(rng, pool, features, m, True)
    call, box = None, features.crop_boxes[m, s, c]
    crop_grid, ink = features.crop_grids[m, s, c], pool.digits[m, s]
    if kind.calls:
      x1, y1, x2, y2 = box * (side * views.CELL / size)
      call = (int(x1), int(y1), int(np.ceil(x2)), int(np.ceil(y2)))
    text = writer.conversation(
      question, call, crop_grid, pool.digit[m, s], head[4]
    )
    seen = kind.calls and _visible(pool, features, m, s, c, -1)
    parts.append(
      (
        *_padded(text, kind.slots, seen),
        features.crops[m, s, c] if kind.calls else view[:1] * 0,
        text.colour,
        _cells(ink, region, grid, len(view)),
        _cells(ink, box, crop_grid, 16 if kind.calls else 1),
      )
    )
  return (*head[:4], view, *(np.stack(p) for p in zip(*parts, strict=True)))


def _cells(ink, region, grid, capacity: int) -> np.ndarray:
  """Which tokens of a view of `region` hold much of a box, bool[capacity]."""
  rows, cols = grid
  scale = np.array([cols, rows]) / (region[2:] - region[:2])
  low, high = (ink[:2] - region[:2]) * scale, (ink[2:] - region[:2]) * scale
  corner = np.stack([np.arange(capacity) % cols, np.arange(capacity) // cols])
  width = np.minimum(high[:, None], corner + 1) - np.maximum(
    low[:, None], corner
  )
  area = np.prod(np.clip(width, 0, None), axis=0)
  area[rows * cols :] = 0
  return (area > 0) & (area >= 0.3 * area.max())


def _padded(text: Conversation, slots: int, seen: bool):
  """One conversation in T slots, with the slots that predict its tokens."""
  n = len(text.tokens)
  tokens, index = np.zeros(slots, np.int32), np.full(slots, -1, np.int32)
  positions = np.zeros((slots, 3), np.int32)
  tokens[:n], positions[:n], index[:n] = (
    text.tokens,
    text.positions,
    text.visual,
  )
  predicted = np.flatnonzero(text.weight > 0)
  k = len(predicted)
  slot, look = np.zeros((2, _TARGETS), np.int32)
  value = np.zeros(_TARGETS, np.float32)
  slot[:k] = predicted - 1
  value[:k] = np.where(predicted == text.answer, DIGIT_WEIGHT, 1.0)
  value[:k][np.isin(predicted, text.numbers)] = NUMBER_WEIGHT
  look[:k][np.isin(predicted, text.numbers)] = IN_VIEW
  look[:k][predicted == text.answer] = IN_CROP if seen else IN_VIEW
  return tokens, positions, index, slot, value, look
