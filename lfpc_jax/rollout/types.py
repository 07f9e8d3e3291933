"""What goes into a rollout and what comes out of it."""

from __future__ import annotations

import dataclasses
import enum

import jax

from lfpc_jax.errors import UserError


class Stop(enum.IntEnum):
  """Why an episode ended."""

  ANSWERED = 0  # the policy ended its turn without a call
  TURN_LENGTH = 1  # a turn reached its token budget
  RESPONSE_LENGTH = 2  # the response reached its token budget
  TURNS = 3  # the last turn ended with a call


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
  """P prompts as arrays, each image stored once.

  Attributes:
    tokens: prompt ids i32[P, S], padded on the right.
    positions: rotary positions i32[P, S, 3].
    visual_index: number of the visual token in each slot or -1, i32[P, S].
    length: filled slots i32[P]; the last one becomes suffix slot 0.
    next_position: rotary position after the prompt, i32[P].
    originals: u8[I, Ho, Wo, 3], each in the top left corner and shared by
      P / I prompts in a row. In training I = P.
    size: (height, width) of each original, i32[P, 2].
    grid: (rows, cols) of the global view, i32[P, 2].
    targets: nested boxes in original pixels, smallest first, i32[P, n, 4].
    target_valid: which of them exist, bool[P, n].
    visual: the global views as the tower encodes them, [P, N, D]; None: each
      program that needs them renders and encodes them itself.
  """

  tokens: jax.Array
  positions: jax.Array
  visual_index: jax.Array
  length: jax.Array
  next_position: jax.Array
  originals: jax.Array
  size: jax.Array
  grid: jax.Array
  targets: jax.Array
  target_valid: jax.Array
  visual: jax.Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trajectory:
  """G episodes of each of P prompts; crops are stored as boxes, not pixels.

  Suffix slot 0 holds the prompt's last token. M is the number of turns.

  Attributes:
    tokens: i32[P, G, T].
    positions: rotary positions i32[P, G, T, 3].
    visual_index: crop number * N + visual token, or -1, i32[P, G, T].
    length: filled slots, i32[P, G].
    written: the policy wrote this token, bool[P, G, T].
    logp: the sampler's log-probability of a written token, f32[P, G, T].
    boxes: executed crops in original pixels, i32[P, G, C, 4].
    boxes_shown: the same as the policy wrote them, f32[P, G, C, 4].
    grids: their (rows, cols), i32[P, G, C, 2].
    crops: number of executed crops, i32[P, G].
    turns: number of turns the policy wrote, i32[P, G].
    turn_start, turn_end: slots [start, end) of each turn, i32[P, G, M].
    outcome: of each turn: NO_CALL, CROPPED, NO_ROOM or a tool_call.Failure,
      i32[P, G, M].
    stop: a Stop, i32[P, G].
    steps: decode steps that the batch took in all, i32[].
  """

  tokens: jax.Array
  positions: jax.Array
  visual_index: jax.Array
  length: jax.Array
  written: jax.Array
  logp: jax.Array
  boxes: jax.Array
  boxes_shown: jax.Array
  grids: jax.Array
  crops: jax.Array
  turns: jax.Array
  turn_start: jax.Array
  turn_end: jax.Array
  outcome: jax.Array
  stop: jax.Array
  steps: jax.Array


# Values of Trajectory.outcome; a good call that the episode had no turn or no
# slots left to serve is NO_ROOM.
NO_ROOM, NO_CALL, CROPPED = -3, -2, -1


@dataclasses.dataclass(frozen=True)
class EpisodeConfig:
  """Limits of an episode; static, so that a change compiles anew.

  Attributes:
    group: rollouts of a prompt, G.
    max_crops: executed crops of an episode, C. [choice: 5]
    max_turns: turns of the policy, M; a failed call takes a turn too.
    max_turn_tokens: tokens of one turn.
    max_response_tokens: tokens after the prompt, observations counted.
    crop_min_tokens: a smaller crop is enlarged to this many visual tokens.
    crop_max_tokens: a larger crop is shrunk to this many, N.
    crop_min_side: shortest side of a crop in original pixels. [choice: 28]
    crop_max_aspect: largest aspect ratio of a crop. [choice: 100]
    temperature: divides the logits; 0 is greedy. [choice: 1]
    top_p: samples from the smallest set of this probability. [choice: 1]
    max_call_bytes: longest tool call that is read.
  """

  group: int = 16
  max_crops: int = 5
  max_turns: int = 7
  max_turn_tokens: int = 1024
  max_response_tokens: int = 2048
  crop_min_tokens: int = 4
  crop_max_tokens: int = 1024
  crop_min_side: int = 28
  crop_max_aspect: float = 100.0
  temperature: float = 1.0
  top_p: float = 1.0
  max_call_bytes: int = 512

  def __post_init__(self) -> None:
    """Refuses limits that make no episode."""
    positive = (
      "group",
      "max_crops",
      "max_turns",
      "max_turn_tokens",
      "max_response_tokens",
      "crop_min_tokens",
      "crop_min_side",
      "max_call_bytes",
    )
    for name in positive:
      if getattr(self, name) < 1:
        raise UserError(f"rollout.{name}={getattr(self, name)}: must be >= 1")
    if self.crop_max_tokens < self.crop_min_tokens:
      raise UserError(
        f"rollout.crop_max_tokens={self.crop_max_tokens} is below "
        f"crop_min_tokens={self.crop_min_tokens}"
      )
    heat = self.temperature
    if not 0 <= heat < float("inf") or not 0 < self.top_p <= 1:
      raise UserError(
        f"rollout.temperature={heat} must be >= 0 and "
        f"top_p={self.top_p} in (0, 1]"
      )

  @property
  def most_written(self) -> int:
    """Tokens that the policy may write in an episode."""
    return min(self.max_turns * self.max_turn_tokens, self.max_response_tokens)

  @property
  def slots(self) -> int:
    """Suffix slots T: the prompt's last token and the response."""
    return self.max_response_tokens + 1
