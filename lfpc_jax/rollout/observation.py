"""What the tool gives back: a crop's tokens, or an error's."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from lfpc_jax.image import boxes, views
from lfpc_jax.models import rotary
from lfpc_jax.rollout import tool_call
from lfpc_jax.rollout.types import EpisodeConfig


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Texts:
  """Token ids that the environment writes; all i32.

  Attributes:
    before, after: around a crop's visual tokens, [a] and [b]. The first
      token closes the policy's turn, as in the errors.
    errors: one row for each tool_call.Failure, padded, [F, e].
    error_lengths: [F].
    image_pad: placeholder of a visual token, [].
    stops: tokens that end a turn, [s].
    table: the bytes of every token.
  """

  before: jax.Array
  after: jax.Array
  errors: jax.Array
  error_lengths: jax.Array
  image_pad: jax.Array
  stops: jax.Array
  table: tool_call.ByteTable

  def capacity(self, config: EpisodeConfig) -> int:
    """Tokens of the longest observation, O."""
    crop = len(self.before) + config.crop_max_tokens + len(self.after)
    return max(crop, self.errors.shape[1])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Call:
  """The tool call of a turn, one for each rollout.

  Attributes:
    made: the turn holds a call, bool[P, G].
    failure: tool_call.Failure, or -1, i32[P, G].
    box_shown: as written, f32[P, G, 4].
    box: in original pixels, i32[P, G, 4].
    closed: 1 where the policy closed its turn itself, so that the
      observation's first token is left out, else 0, i32[P, G].
    grid: (rows, cols) of the crop, i32[P, G, 2].
    length: tokens of the observation, i32[P, G].
  """

  made: jax.Array
  failure: jax.Array
  box_shown: jax.Array
  box: jax.Array
  closed: jax.Array
  grid: jax.Array
  length: jax.Array

  @property
  def good(self) -> jax.Array:
    """A call that gives a crop, bool[P, G]."""
    return self.made & (self.failure < 0)


def crop_grid(box: jax.Array, config: EpisodeConfig) -> jax.Array:
  """Visual tokens (rows, cols) of crops [..., 4], never above the maximum.

  The processor's own rule exceeds small budgets for thin boxes; the longer
  side is then shortened.
  """
  size = jnp.stack([box[..., 3] - box[..., 1], box[..., 2] - box[..., 0]], -1)
  most = config.crop_max_tokens
  grid = views.choose_grid_traced(size, config.crop_min_tokens, most)
  short = jnp.minimum(jnp.min(grid, -1, keepdims=True), most)
  long = jnp.minimum(
    jnp.max(grid, -1, keepdims=True), most // jnp.maximum(short, 1)
  )
  tall = grid[..., :1] >= grid[..., 1:]
  return jnp.where(
    tall,
    jnp.concatenate([long, short], -1),
    jnp.concatenate([short, long], -1),
  )


def read(
  config: EpisodeConfig,
  texts: Texts,
  tokens: jax.Array,
  start: jax.Array,
  end: jax.Array,
  shown_size: jax.Array,
  original_size: jax.Array,
  crops_left: jax.Array,
) -> Call:
  """Reads each rollout's turn [start, end) and places its box.

  Args:
    config: limits.
    texts: what the environment writes.
    tokens: i32[P, G, T].
    start: first slot of the turn, i32[P, G].
    end: one after its last slot, i32[P, G].
    shown_size: (height, width) of the global view, i32[P, 1, 2].
    original_size: (height, width) of the original, i32[P, 1, 2].
    crops_left: i32[P, G].
  """
  status, shown = tool_call.read_call(
    tokens, start, end, texts.table, config.max_call_bytes
  )
  box, box_status = boxes.place_box(
    shown,
    jnp.broadcast_to(shown_size, (*shown.shape[:2], 2)),
    jnp.broadcast_to(original_size, (*shown.shape[:2], 2)),
    min_side=config.crop_min_side,
    max_aspect=config.crop_max_aspect,
  )
  last = jnp.take_along_axis(tokens, end[..., None] - 1, axis=-1)[..., 0]
  call = Call(
    made=status != tool_call.CallStatus.NONE,
    failure=tool_call.find_failure(status, box_status, crops_left),
    box_shown=shown,
    box=box,
    closed=(last == texts.before[0]).astype(jnp.int32),
    grid=jnp.zeros_like(box[..., :2]),
    length=jnp.zeros_like(status),
  )
  return with_box(config, texts, call, box)


def with_box(
  config: EpisodeConfig, texts: Texts, call: Call, box: jax.Array
) -> Call:
  """The call with another box in original pixels, i32[P, G, 4]."""
  grid = crop_grid(box, config)
  crop = len(texts.before) + grid[..., 0] * grid[..., 1] + len(texts.after)
  error = texts.error_lengths[jnp.maximum(call.failure, 0)]
  length = jnp.where(call.failure < 0, crop, error) - call.closed
  return dataclasses.replace(call, box=box, grid=grid, length=length)


def compose(
  config: EpisodeConfig, texts: Texts, call: Call, position: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Token ids, visual tokens and rotary positions of the observations.

  Args:
    config: limits.
    texts: what the environment writes.
    call: the calls.
    position: rotary position of the observation's first token, i32[P, G].

  Returns:
    tokens i32[P, G, O], visual token or -1 i32[P, G, O], positions
    i32[P, G, O, 3], and the position after the observation i32[P, G].
  """
  # j counts the tokens of the whole text, of which a closed turn has one.
  j = jnp.arange(texts.capacity(config), dtype=jnp.int32)
  j = j + call.closed[..., None]
  start = (position - call.closed)[..., None]
  a, good = len(texts.before), call.good[..., None]
  visual = (call.grid[..., 0] * call.grid[..., 1])[..., None]
  number = j - a
  is_visual = good & (number >= 0) & (number < visual)
  behind = jnp.clip(number - visual, 0, len(texts.after) - 1)
  tokens = jnp.where(
    number < 0,
    texts.before[jnp.minimum(j, a - 1)],
    jnp.where(is_visual, texts.image_pad, texts.after[behind]),
  )
  error = texts.errors[jnp.maximum(call.failure, 0)]
  place = jnp.minimum(j, texts.errors.shape[1] - 1)
  error = jnp.take_along_axis(error, place, axis=-1)
  tokens = jnp.where(good, tokens, error)
  # After an image, text goes on from its larger side (Qwen2.5-VL).
  saved = jnp.where(good, jnp.max(call.grid, -1, keepdims=True) - visual, 0)
  text = start + j + jnp.where(number >= visual, saved, 0)
  image = rotary.view_positions(
    start + a, call.grid[..., None, :], jnp.maximum(number, 0)
  )
  positions = jnp.where(is_visual[..., None], image, text[..., None])
  after = position + call.length + saved[..., 0]
  return tokens, jnp.where(is_visual, number, -1), positions, after
