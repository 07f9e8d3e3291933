"""One episode in plain Python: one flat sequence, no batch, no caches.

The policy is transformers' Qwen2.5-VL in PyTorch, crops are cut and resized
by Pillow, calls are read by Python's json, boxes are placed in fractions.
"""

from collections.abc import Callable
import dataclasses
import fractions
import math

import numpy as np
from PIL import Image
import torch
import transformers
from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl

from lfpc_jax import agent
from lfpc_jax.models import published
from lfpc_jax.rollout.tool_call import CallStatus, Failure
from lfpc_jax.rollout.types import (
  CROPPED,
  NO_CALL,
  NO_ROOM,
  EpisodeConfig,
  Stop,
)
from tests.models import oracle
from tests.rollout import python_reader

CELL, PATCH = 28, 14
_MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
_STD = np.array([0.26862954, 0.26130258, 0.27577711])
_FAILURES = {
  CallStatus.NOT_JSON: Failure.NOT_JSON,
  CallStatus.WRONG_TOOL: Failure.WRONG_TOOL,
  CallStatus.WRONG_ARGUMENTS: Failure.WRONG_ARGUMENTS,
  CallStatus.TOO_LONG: Failure.TOO_LONG,
}


@dataclasses.dataclass(frozen=True)
class World:
  """What the environment knows: the texts it writes, and the tokens' bytes."""

  before: list[int]
  after: list[int]
  errors: list[list[int]]
  image_pad: int
  stops: list[int]
  token_bytes: list[bytes]


@dataclasses.dataclass
class Episode:
  """An episode; `flat` is the whole sequence, slot 0 is number `first`."""

  flat: oracle.Sequence
  first: int
  logp: dict[int, float] = dataclasses.field(default_factory=dict)
  boxes: list[tuple[int, ...]] = dataclasses.field(default_factory=list)
  boxes_shown: list[np.ndarray] = dataclasses.field(default_factory=list)
  grids: list[tuple[int, int]] = dataclasses.field(default_factory=list)
  turns: list[tuple[int, int]] = dataclasses.field(default_factory=list)
  outcome: list[int] = dataclasses.field(default_factory=list)
  stop: Stop | None = None

  @property
  def length(self) -> int:
    """Filled suffix slots."""
    return len(self.flat) - self.first


def load_model(config, params, directory):
  """The transformers model, through the published files."""
  source = agent.ASSETS / "tiny_qwen"
  published.save(directory, config, params, source_directory=source)
  model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
    directory, dtype=torch.float32, attn_implementation="eager"
  )
  return model.eval()


class Policy:
  """Log-probabilities of the next token, from forwards of flat sequences.

  It serves one episode, whose sequence only grows.
  """

  def __init__(self, model):
    """Nothing is known yet."""
    self._model, self._known, self._rows = model, None, None

  def after(self, flat: oracle.Sequence, hint: list[int]) -> np.ndarray:
    """f64[V] after `flat`.

    `hint` are the tokens that may come next: one forward then serves several
    calls. The result does not depend on it, as attention is causal.
    """
    known, n = self._known, len(flat)
    if (
      known is None
      or known.grids != flat.grids
      or list(known.tokens[:n]) != list(flat.tokens)
    ):
      self._known = flat + words(hint)
      logits = oracle.logits(self._model, self._known).astype(np.float64)
      top = logits.max(-1, keepdims=True)
      total = np.log(np.exp(logits - top).sum(-1, keepdims=True))
      self._rows = logits - top - total
    return self._rows[n - 1]


def words(tokens: list[int]) -> oracle.Sequence:
  """Tokens without an image."""
  tokens = np.array(tokens, np.int64)
  return oracle.Sequence(tokens, np.full(len(tokens), -1), (), ())


def image(world: World, grid, pixels: np.ndarray) -> oracle.Sequence:
  """A view's visual tokens; `pixels` is the region u8[H, W, 3]."""
  number = grid[0] * grid[1]
  return oracle.Sequence(
    np.full(number, world.image_pad),
    np.arange(number),
    (grid,),
    (to_patches(pixels, grid),),
  )


def to_patches(pixels: np.ndarray, grid) -> np.ndarray:
  """Patches f32[rows * cols, 4, 588], the width resized first."""
  rows, cols = grid
  region = Image.fromarray(pixels)
  region = region.resize((cols * CELL, region.height), Image.BICUBIC)
  region = region.resize((cols * CELL, rows * CELL), Image.BICUBIC)
  levels = (np.asarray(region) / 255 - _MEAN) / _STD
  cells = levels.reshape(rows, 2, PATCH, cols, 2, PATCH, 3)
  cells = cells.transpose(0, 3, 1, 4, 6, 2, 5)
  return cells.reshape(rows * cols, 4, -1).astype(np.float32)


def place(box, shown, original, config: EpisodeConfig):
  """The crop in original pixels, or the Failure; sizes (height, width)."""
  if not np.all(np.isfinite(box)):
    return Failure.BOX_NOT_FINITE
  lows, highs = [], []
  for axis in (0, 1):
    side, full = shown[1 - axis], original[1 - axis]
    low, high = (
      min(max(fractions.Fraction(float(box[k])), 0), side)
      for k in (axis, axis + 2)
    )
    if high <= low:
      return Failure.BOX_EMPTY
    low = math.floor(low * full / side)
    high = math.ceil(high * full / side)
    length = min(max(high - low, config.crop_min_side), full)
    start = min(max((low + high - length) // 2, 0), full - length)
    lows.append(start)
    highs.append(start + length)
  sides = [high - low for low, high in zip(lows, highs)]
  if max(sides) > config.crop_max_aspect * min(sides):
    return Failure.BOX_TOO_THIN
  return (*lows, *highs)


def crop_grid(box, config: EpisodeConfig) -> tuple[int, int]:
  """(rows, cols): the processor's, its long side cut to the budget."""
  least, most = config.crop_min_tokens, config.crop_max_tokens
  size = image_processing_pil_qwen2_vl.smart_resize(
    box[3] - box[1], box[2] - box[0], CELL, least * CELL**2, most * CELL**2
  )
  rows, cols = (side // CELL for side in size)
  if rows * cols > most:
    short = min(rows, cols)
    longest = most // short
    rows, cols = min(rows, longest), min(cols, longest)
  return rows, cols


def _read(world, config, turn, shown, original, crops: int):
  """(Failure or None, box as written, crop); None for no call at all."""
  data = b"".join(world.token_bytes[token] for token in turn)
  status, box = python_reader.read_turn(data, config.max_call_bytes)
  if status == CallStatus.NONE:
    return None
  if status != CallStatus.OK:
    return _FAILURES[status], None, None
  crop = place(box, shown, original, config)
  if isinstance(crop, Failure):
    return crop, box, None
  if crops >= config.max_crops:
    return Failure.NO_CROPS_LEFT, box, None
  return None, box, crop


def play(
  policy: Policy,
  world: World,
  config: EpisodeConfig,
  prompt: list[int],
  grid: tuple[int, int],
  original: np.ndarray,
  choose: Callable[[np.ndarray, int], int],
  hint: list[int],
) -> Episode:
  """Plays one episode.

  Args:
    policy: gives the next token's log-probabilities.
    world: the environment's texts.
    config: limits.
    prompt: ids, visual tokens included.
    grid: (rows, cols) of the global view.
    original: u8[H, W, 3].
    choose: the next token from log-probabilities and the number of tokens
      that the policy has written so far.
    hint: tokens that the policy will perhaps write.
  """
  place_of_image = prompt.index(world.image_pad)
  flat = words(prompt[:place_of_image])
  flat += image(world, grid, original)
  flat += words(prompt[place_of_image + grid[0] * grid[1] :])
  now = Episode(flat, first=len(flat) - 1)
  shown = (grid[0] * CELL, grid[1] * CELL)
  written = 0
  for turn in range(config.max_turns):
    start, ended = len(now.flat), False
    while not ended and (
      len(now.flat) - start < config.max_turn_tokens
      and now.length <= config.max_response_tokens
    ):
      scores = policy.after(now.flat, hint[written:])
      token = choose(scores, written)
      now.logp[len(now.flat) - now.first] = scores[token]
      now.flat += words([token])
      written += 1
      ended = token in world.stops
    tokens = now.flat.tokens[start:].tolist()
    now.turns.append((start - now.first, now.length))
    call = _read(
      world, config, tokens, shown, original.shape[:2], len(now.boxes)
    )
    if call is None:
      now.outcome.append(NO_CALL)
      full = now.length > config.max_response_tokens
      cut = Stop.RESPONSE_LENGTH if full else Stop.TURN_LENGTH
      now.stop = Stop.ANSWERED if ended else cut
      return now
    failure, box, crop = call
    if failure is None:
      crop_cells = crop_grid(crop, config)
      region = original[crop[1] : crop[3], crop[0] : crop[2]]
      answer = words(world.before) + image(world, crop_cells, region)
      answer += words(world.after)
    else:
      answer = words(world.errors[failure])
    if tokens[-1] == world.before[0]:  # the turn is closed already
      answer = dataclasses.replace(
        answer, tokens=answer.tokens[1:], visual_index=answer.visual_index[1:]
      )
    fits = now.length + len(answer) <= config.max_response_tokens
    last = turn + 1 == config.max_turns
    if not fits or last:
      now.outcome.append(NO_ROOM if failure is None else int(failure))
      now.stop = Stop.TURNS if last else Stop.RESPONSE_LENGTH
      return now
    now.outcome.append(CROPPED if failure is None else int(failure))
    now.flat += answer
    if failure is None:
      now.boxes.append(crop)
      now.boxes_shown.append(box)
      now.grids.append(crop_cells)
  raise AssertionError("an episode ends in its last turn")
