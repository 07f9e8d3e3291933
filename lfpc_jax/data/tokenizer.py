"""Text to token ids and back, for any Qwen2.5-VL directory.

Chat tokens and other people's text never mix: a question that contains
`<|im_end|>` or `<tool_call>` must not end a turn or call a tool. So a text
is a string, whose added tokens count, or a sequence of strings of which some
are `Verbatim`, whose added tokens are spelled out as ordinary text.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import json
import pathlib
import re
from typing import Self

import numpy as np
import tokenizers
import transformers

from lfpc_jax import errors

PAD_TEXT = "<|endoftext|>"


class Verbatim(str):
  """Text from outside, none of which is read as a special token."""


Text = str | Sequence[str]


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
  """Ids of the tokens that give a conversation its structure."""

  im_start: int
  im_end: int
  vision_start: int
  vision_end: int
  image_pad: int
  tool_call: int
  tool_call_end: int
  pad: int


_SPECIAL_TEXTS = SpecialTokens(
  "<|im_start|>",
  "<|im_end|>",
  "<|vision_start|>",
  "<|vision_end|>",
  "<|image_pad|>",
  "<tool_call>",
  "</tool_call>",
  PAD_TEXT,
)


class Tokenizer:
  """A published tokeniser; see `load`."""

  def __init__(self, description: str):
    """Makes a tokeniser of a byte-level vocabulary.

    Args:
      description: what tokenizer.json holds.

    Raises:
      ValueError: a chat token is missing, or an added token swallows the
        white space beside it.
    """
    parts = json.loads(description)
    self._pieces = parts["model"]["vocab"]
    self._added = {
      token["content"]: token["id"] for token in parts["added_tokens"]
    }
    for token in parts["added_tokens"]:
      if token["lstrip"] or token["rstrip"] or token["single_word"]:
        raise ValueError(
          f"The added token {token['content']!r} changes the text beside "
          "it: set its lstrip, rstrip and single_word to false."
        )
      # So that the switch below turns all of them off, not some.
      token["special"] = True
    parts.update(truncation=None, padding=None)
    self._backend = tokenizers.Tokenizer.from_str(json.dumps(parts))
    self._backend.encode_special_tokens = True
    # The longest token wins where two begin at one place.
    self._added_pattern = re.compile(
      "("
      + "|".join(
        re.escape(text) for text in sorted(self._added, key=len, reverse=True)
      )
      + ")"
    )
    self.special = self._find_special_tokens()

  @classmethod
  def load(cls, directory: str | pathlib.Path) -> Self:
    """Reads tokenizer.json, or what `transformers` can make one from.

    Raises:
      UserError: there is no such directory, or no tokeniser can be made of
        what is in it.
    """
    directory = pathlib.Path(directory)
    if not directory.is_dir():
      raise errors.UserError(
        f"No tokeniser directory {str(directory)!r}: give a directory in "
        "the published layout, with tokenizer.json."
      )
    file = directory / "tokenizer.json"
    whole = file.exists()
    try:
      if whole:
        return cls(file.read_text(encoding="utf-8"))
      found = transformers.AutoTokenizer.from_pretrained(directory)
      return cls(found.backend_tokenizer.to_str())
    except Exception as error:  # the libraries raise all kinds, some plain
      reason = (str(error).splitlines() or [""])[0]
      raise errors.UserError(
        f"no tokeniser can be read from {file if whole else directory} "
        f"({type(error).__name__}: {reason}): copy the tokeniser's files of "
        "the published model again"
      ) from error

  @property
  def vocab_size(self) -> int:
    """One more than the largest id. A model may have more rows than this."""
    return 1 + max([*self._pieces.values(), *self._added.values()])

  def encode(self, text: Text) -> list[int]:
    """Token ids. Added tokens count, but never in or across `Verbatim`."""
    ids = []
    plain = ""
    for piece, is_added in self._split(text):
      if not is_added:
        plain += piece
        continue
      ids += [*self._encode_plain(plain), self._added[piece]]
      plain = ""
    return ids + self._encode_plain(plain)

  def decode(self, ids: Iterable[int]) -> str:
    """The text of the ids, special tokens included; bad UTF-8 replaced."""
    ids = [int(index) for index in ids]
    return self._backend.decode(ids, skip_special_tokens=False)

  def token_bytes(
    self, vocab_size: int | None = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """The exact bytes of each token.

    Args:
      vocab_size: number of rows V, for a model whose vocabulary is padded;
        ids that the tokeniser does not know have no bytes.

    Returns:
      Bytes u8[V, M], zero after the end, and lengths i32[V].
    """
    texts = [b""] * self.vocab_size
    # Characters to those of the same number as the byte, then to bytes.
    to_byte = {ord(char): byte for byte, char in byte_alphabet().items()}
    for piece, index in self._pieces.items():
      texts[index] = piece.translate(to_byte).encode("latin-1")
    for text, index in self._added.items():
      texts[index] = text.encode()
    rows = len(texts) if vocab_size is None else vocab_size
    if rows < len(texts):
      raise ValueError(
        f"vocab_size={rows} is less than the tokeniser's {len(texts)} ids."
      )
    lengths = np.zeros(rows, np.int32)
    lengths[: len(texts)] = [len(text) for text in texts]
    table = np.zeros((rows, lengths.max()), np.uint8)
    table[np.arange(table.shape[1]) < lengths[:, None]] = np.frombuffer(
      b"".join(texts), np.uint8
    )
    return table, lengths

  def _split(self, text: Text) -> Iterable[tuple[str, bool]]:
    """Yields (piece, whether it is an added token)."""
    for part in (text,) if isinstance(text, str) else text:
      if isinstance(part, Verbatim):
        yield str(part), False
        continue
      for k, piece in enumerate(self._added_pattern.split(part)):
        yield piece, k % 2 == 1

  def _encode_plain(self, text: str) -> list[int]:
    return self._backend.encode(text, add_special_tokens=False).ids

  def _find_special_tokens(self) -> SpecialTokens:
    texts = dataclasses.asdict(_SPECIAL_TEXTS)
    missing = [text for text in texts.values() if text not in self._added]
    if missing:
      raise ValueError(
        f"The tokeniser lacks the tokens {missing}: use the tokeniser of a "
        "Qwen2.5-VL model."
      )
    return SpecialTokens(
      **{name: self._added[text] for name, text in texts.items()}
    )


def byte_alphabet() -> dict[int, str]:
  """The printable character that byte-level vocabularies use for a byte."""
  visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
  hidden = [byte for byte in range(256) if byte not in visible]
  return {byte: chr(byte) for byte in visible} | {
    byte: chr(256 + k) for k, byte in enumerate(hidden)
  }
