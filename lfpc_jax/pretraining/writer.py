"""Token sequences of conversations, in the miniature's prompt style."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lfpc_jax.data import prompts
from lfpc_jax.data.tiny_tokenizer import CALL_CLOSE, CALL_OPEN
from lfpc_jax.data.tokenizer import Tokenizer, Verbatim
from lfpc_jax.pretraining.pool import COLOURS

_STYLE = "short"


class Conversation(NamedTuple):
  """One suffix: a question and what follows.

  tokens, positions, visual: i64[n], [n, 3], [n], as in a packed prompt.
  weight: 1 where the token is the policy's own, f64[n].
  numbers: places of the box's four numbers, i64[4], or [0] without a call.
  answer: place of the answer's digit.
  colour: place of the colour word.
  """

  tokens: np.ndarray
  positions: np.ndarray
  visual: np.ndarray
  weight: np.ndarray
  numbers: np.ndarray
  answer: int
  colour: int


class Writer:
  """Turns scenes into token sequences, in the prompt style of the policy."""

  def __init__(self, tokenizer: Tokenizer):
    """Encodes what all conversations share, once."""
    self.tokenizer = tokenizer
    head, _, tail = prompts.prompt_text("?", style=_STYLE)
    head = tokenizer.encode(head)
    place = head.index(tokenizer.special.image_pad)
    self.head, self.close = head[:place], head[place + 1 :]
    self.tail = tokenizer.encode(tail)
    before, after = prompts.observation_tokens(tokenizer, _STYLE)
    self.before, self.after = list(before), list(after)
    self.pad = tokenizer.special.image_pad
    self.colours = {tokenizer.encode(" " + c)[0] for c in COLOURS}
    self.cache: dict[str, list[int]] = {}

  def _ids(self, text: str) -> list[int]:
    if text not in self.cache:
      self.cache[text] = self.tokenizer.encode(Verbatim(text))
    return self.cache[text]

  def _plain(self, text: str) -> list[int]:
    if text not in self.cache:
      self.cache[text] = self.tokenizer.encode(text)
    return self.cache[text]

  def prefix(self, grid: tuple[int, int], capacity: int):
    """System text and image, padded to `capacity` visual tokens.

    Returns:
      tokens, positions, visual index, length, and the next rotary position.
    """
    a, number = len(self.head), grid[0] * grid[1]
    tokens = self.head + [self.pad] * number + self.close
    k = np.arange(number)
    image = np.stack(
      [np.full(number, a), a + k // grid[1], a + k % grid[1]], -1
    )
    text = np.repeat(np.arange(a)[:, None], 3, 1)
    end = a + max(grid)
    close = end + np.repeat(np.arange(len(self.close))[:, None], 3, 1)
    positions = np.concatenate([text, image, close])
    visual = np.full(len(tokens), -1)
    visual[a : a + number] = k
    pad = capacity - number
    return (
      np.pad(tokens, (0, pad)).astype(np.int32),
      np.pad(positions, ((0, pad), (0, 0))).astype(np.int32),
      np.pad(visual, (0, pad), constant_values=-1).astype(np.int32),
      np.int32(len(tokens)),
      end + len(self.close),
    )

  def conversation(
    self,
    question: str,
    call: tuple[int, int, int, int] | None,
    grid: tuple[int, int],
    answer: str,
    position: int,
  ) -> Conversation:
    """Question, answer, and with `call` a look between them.

    Args:
      question: its text.
      call: the box as shown, or None to answer at once.
      grid: (rows, cols) of the crop.
      answer: the answer's text.
      position: rotary position of the first token.
    """
    parts = [(self._ids(question), 0.0), (self.tail, 0.0)]
    if call is not None:
      box = ", ".join(str(v) for v in call)
      text = f"<tool_call>{CALL_OPEN}{box}{CALL_CLOSE}</tool_call>"
      visual = [self.pad] * (grid[0] * grid[1])
      parts += [(self.tokenizer.encode(text), 1.0), (self.before, 0.0)]
      parts += [(visual, 0.0), (self.after, 0.0)]
    final = self._plain(f"<answer>{answer}</answer><|im_end|>")
    parts.append((final, 1.0))
    tokens = np.concatenate([np.array(p, np.int64) for p, _ in parts])
    weight = np.concatenate([np.full(len(p), w) for p, w in parts])
    positions = np.repeat(np.arange(len(tokens))[:, None], 3, 1)
    index = np.full(len(tokens), -1)
    if call is not None:
      first = sum(len(p) for p, _ in parts[:4])
      k = np.arange(grid[0] * grid[1])
      index[first + k] = k
      spot = np.stack([0 * k, k // grid[1], k % grid[1]], -1)
      positions[first + k] = first + spot
      positions[first + len(k) :] += max(grid) - len(k)
    # A box's four numbers are one token each, with separators between.
    start = sum(len(p) for p, _ in parts[:2]) + 2
    numbers = start + 2 * np.arange(4) if call is not None else np.arange(0)
    (colour,) = np.flatnonzero(np.isin(tokens, list(self.colours)))
    return Conversation(
      tokens,
      positions + position,
      index,
      weight,
      numbers,
      len(tokens) - 3,
      int(colour),
    )
