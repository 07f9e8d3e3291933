"""What the policy is told: the conversation's text and its packed prefix.

The text is exactly that of Qwen2.5-VL's chat template. A style holds all that
is worded: `full` explains the tool as a published model needs it, `short` is
the miniature's, a few tokens long.
"""

from collections.abc import Sequence
import dataclasses
import json
import string
import types

import jax
import numpy as np

from lfpc_jax import errors
from lfpc_jax.data import tokenizer as tokenizer_lib
from lfpc_jax.rollout import call_json, tool_call
from lfpc_jax.rollout.tool_call import Failure

Tokenizer = tokenizer_lib.Tokenizer

_IMAGE_START, _IMAGE_PAD, _IMAGE_END = (
  "<|vision_start|>",
  "<|image_pad|>",
  "<|vision_end|>",
)
_ASSISTANT = "<|im_end|>\n<|im_start|>assistant\n"
ANSWER_OPENING = "<answer>"  # of a direct answer, which the policy goes on from
ANSWER_CLOSING = "</answer>"

_TOOL_SCHEMA = json.dumps(
  {
    "type": "function",
    "function": {
      "name": call_json.TOOL_NAME,
      "description": (
        "Shows a region of the image at full resolution. Use it when "
        "what you look for is too small to see."
      ),
      "parameters": {
        "type": "object",
        "properties": {
          call_json.BOX_KEY: {
            "type": "array",
            "items": {"type": "number"},
            "minItems": 4,
            "maxItems": 4,
            "description": (
              "The region [x1, y1, x2, y2] in pixels of the image "
              "as shown: (x1, y1) is its top left corner, "
              "(x2, y2) its bottom right corner."
            ),
          },
        },
        "required": [call_json.BOX_KEY],
      },
    },
  }
)
_CALL_FORM = json.dumps(
  {
    "name": call_json.TOOL_NAME,
    "arguments": {call_json.BOX_KEY: ["x1", "y1", "x2", "y2"]},
  }
).replace('"x1", "y1", "x2", "y2"', "x1, y1, x2, y2")


@dataclasses.dataclass(frozen=True)
class PromptStyle:
  """The words around a question, an observation and an error."""

  system: str
  suffix: str  # after the question
  response_margin: str  # inside <tool_response>, at both ends
  failures: tuple[str, ...]  # one text for each `Failure`
  # The same for a question that is to be answered at once, without the tool.
  direct_system: str
  direct_suffix: str


_FULL = PromptStyle(
  system=(
    "You are a helpful assistant.\n\n# Tools\n"
    "You may call a tool to look at the image more closely. Its "
    "signature is within <tools></tools>:\n"
    f"<tools>\n{_TOOL_SCHEMA}\n</tools>\n\n"
    "# How to call the tool\n"
    "Write one JSON object with the tool's name and its arguments within "
    "<tool_call></tool_call>:\n"
    f"<tool_call>\n{_CALL_FORM}\n</tool_call>\n"
    "The coordinates are pixels of the first image as shown to you. The "
    "region comes back in the next turn."
  ),
  suffix=(
    "\nThink first. If a detail is too small to be sure of, call "
    f"**{call_json.TOOL_NAME}** to see it, then answer. Format strictly "
    "as: <think>...</think> <tool_call>...</tool_call> (if the tool is "
    "needed) <answer>...</answer>"
  ),
  response_margin="\n",
  failures=(
    f"Error: the tool call is not valid JSON. Write {_CALL_FORM}",
    f'Error: there is no such tool. The only tool is "{call_json.TOOL_NAME}".',
    f'Error: "arguments" must hold "{call_json.BOX_KEY}", a list of four '
    "numbers [x1, y1, x2, y2].",
    f"Error: the tool call is too long. Write only {_CALL_FORM}",
    "Error: the box has a coordinate that is not a finite number.",
    "Error: the box has no area inside the image. It needs x1 < x2 and "
    "y1 < y2, in pixels of the image as shown.",
    "Error: the box is too long and thin. Choose a wider region.",
    "Error: no more calls are possible. Answer with what you have seen.",
  ),
  direct_system="You are a helpful assistant.",
  direct_suffix="\nFormat strictly as: <answer>...</answer>",
)
_SHORT = PromptStyle(
  system="Answer or zoom in.",
  suffix="",
  response_margin="",
  failures=(
    "The call is not valid JSON.",
    "The tool is unknown.",
    "The call must give four numbers.",
    "The call is too long.",
    "The box is not finite.",
    "The box is empty.",
    "The box is too thin.",
    "No crops left.",
  ),
  direct_system="Answer or zoom in.",  # all that the miniature knows
  direct_suffix="",
)
STYLES = types.MappingProxyType({"full": _FULL, "short": _SHORT})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedPrompt:
  """A prefix in S slots; NumPy on the host. Unused slots are at the end.

  `visual_index` numbers the visual tokens from 0 and is -1 elsewhere.
  `next_position` is the rotary position, on all three axes, of the token that
  comes after the prefix.
  """

  tokens: np.ndarray  # i32[S], padded with the pad token
  positions: np.ndarray  # i32[S, 3]: time, row, column
  visual_index: np.ndarray  # i32[S]
  length: np.ndarray  # i32[]
  next_position: np.ndarray  # i32[]


def find_style(name: str) -> PromptStyle:
  """The style of that name.

  Raises:
    UserError: there is none.
  """
  if name not in STYLES:
    raise errors.UserError(
      f"No prompt style {name!r}: choose one of {', '.join(STYLES)}."
    )
  return STYLES[name]


def prompt_text(
  question: str,
  options: Sequence[str] = (),
  style: str = "full",
  direct: bool = False,
) -> tuple[str, ...]:
  """A prompt with one image placeholder, for `Tokenizer.encode`.

  Args:
    question: what is asked.
    options: the choices, if any.
    style: a key of STYLES.
    direct: says nothing of the tool and ends with the answer's opening tag,
      so that the policy can only answer.

  Returns:
    Parts that make the text when joined. The question and its options are
    `Verbatim`: nothing in them becomes an image, a turn's end or a call.

  Raises:
    UserError: an unknown style, or more options than letters.
  """
  words = find_style(style)
  if len(options) > len(string.ascii_uppercase):
    raise errors.UserError(
      f"the question {question[:60]!r} has {len(options)} options: only "
      f"{len(string.ascii_uppercase)} can have a letter"
    )
  letters = (
    f"\n{letter}. {option}"
    for letter, option in zip(string.ascii_uppercase, options)
  )
  asked = question + ("\nOptions:" if options else "") + "".join(letters)
  system = words.direct_system if direct else words.system
  end = words.suffix + _ASSISTANT
  if direct:
    end = words.direct_suffix + _ASSISTANT + ANSWER_OPENING
  return (
    f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n"
    f"{_IMAGE_START}{_IMAGE_PAD}{_IMAGE_END}",
    tokenizer_lib.Verbatim(asked),
    end,
  )


def observation_text(style: str = "full") -> tuple[str, str]:
  """Text before and after a crop's image tokens.

  It begins with the `<|im_end|>` that closes the policy's turn, since a turn
  ends at `</tool_call>`, and ends where the policy's next turn begins.
  """
  before, after = _response(find_style(style))
  return before + _IMAGE_START, _IMAGE_END + after


def error_text(
  failure: Failure | tool_call.CallStatus | tool_call.BoxStatus,
  style: str = "full",
) -> str:
  """The observation, as a whole turn, for a call that gives no crop."""
  words = find_style(style)
  before, after = _response(words)
  kind = tool_call.failure_of(failure)
  return before + words.failures[kind] + after


def observation_tokens(
  tokenizer: Tokenizer, style: str = "full"
) -> tuple[np.ndarray, np.ndarray]:
  """Ids i32[..] before and after a crop's image tokens."""
  before, after = observation_text(style)
  return (
    np.array(tokenizer.encode(before), np.int32),
    np.array(tokenizer.encode(after), np.int32),
  )


def error_tokens(
  tokenizer: Tokenizer, style: str = "full"
) -> tuple[np.ndarray, np.ndarray]:
  """Each failure's observation: ids i32[len(Failure), L], and lengths."""
  rows = [tokenizer.encode(error_text(kind, style)) for kind in Failure]
  lengths = np.array([len(row) for row in rows], np.int32)
  table = np.full((len(rows), lengths.max()), tokenizer.special.pad, np.int32)
  for row, ids in zip(table, rows):
    row[: len(ids)] = ids
  return table, lengths


def pack_prompt(
  tokenizer: Tokenizer,
  text: tokenizer_lib.Text,
  grid: Sequence[int],
  capacity: int,
) -> PackedPrompt:
  """Encodes a prompt and gives its one image a slot for each visual token.

  Args:
    tokenizer: the policy's.
    text: with one image placeholder, as `prompt_text` gives.
    grid: (rows, columns) of the global view's visual tokens.
    capacity: S, the number of slots.

  Raises:
    UserError: the prompt needs more slots than there are.
    ValueError: the text has no image placeholder, or several.
  """
  rows, columns = (int(side) for side in grid)
  ids = np.array(tokenizer.encode(text), np.int32)
  (places,) = np.nonzero(ids == tokenizer.special.image_pad)
  if len(places) != 1:
    raise ValueError(
      f"A prompt needs one {_IMAGE_PAD}, this one has {len(places)}."
    )
  place, visual = int(places[0]), rows * columns
  length = len(ids) - 1 + visual
  if length > capacity:
    raise errors.UserError(
      f"A prompt of {length} tokens ({visual} of the image, {len(ids) - 1} "
      f"of text) does not fit the prefix of {capacity} slots: raise "
      "rollout.text_capacity, or lower the visual-token budget of the global "
      "view."
    )
  ids = np.insert(
    np.delete(ids, place), place, np.full(visual, tokenizer.special.image_pad)
  )
  tokens = np.full(capacity, tokenizer.special.pad, np.int32)
  tokens[:length] = ids
  index = np.full(capacity, -1, np.int32)
  index[place : place + visual] = np.arange(visual)
  positions = np.zeros((capacity, 3), np.int32)
  positions[:length] = _positions(place, rows, columns, length)
  return PackedPrompt(
    tokens=tokens,
    positions=positions,
    visual_index=index,
    length=np.int32(length),
    next_position=np.int32(positions[length - 1, 0] + 1),
  )


def _response(words: PromptStyle) -> tuple[str, str]:
  """What opens and closes the user turn that answers a call."""
  margin = words.response_margin
  return (
    f"<|im_end|>\n<|im_start|>user\n<tool_response>{margin}",
    f"{margin}</tool_response>{_ASSISTANT}",
  )


def _positions(place: int, rows: int, columns: int, length: int) -> np.ndarray:
  """Qwen2.5-VL's rotary positions i32[length, 3] around one image.

  Text counts up on all three axes alike. An image's tokens share one time and
  take their row and column; the text after it goes on from the larger side.
  """
  before = np.arange(place)
  row, column = np.divmod(np.arange(rows * columns), columns)
  image = place + np.stack([np.zeros_like(row), row, column], axis=-1)
  rest = length - place - rows * columns
  after = place + max(rows, columns) + np.arange(rest)
  text = lambda steps: np.repeat(steps[:, None], 3, axis=1)
  return np.concatenate([text(before), image, text(after)]).astype(np.int32)
