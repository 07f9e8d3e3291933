"""Builds Qwen2.5's tokeniser directory from its byte-pair ranks.

The ranks ship in the Python package `dashscope`; merges follow from them. The
added tokens and their ids are those that Qwen2.5-VL publishes.
"""

import base64
import functools
import importlib.util
import itertools
import json
import pathlib
import tempfile

import pytest
import transformers

from lfpc_jax.data import tiny_tokenizer
from lfpc_jax.data import tokenizer as tokenizer_lib

FIRST_ADDED = 151643
SPECIAL = (
  "<|endoftext|>",
  "<|im_start|>",
  "<|im_end|>",
  "<|object_ref_start|>",
  "<|object_ref_end|>",
  "<|box_start|>",
  "<|box_end|>",
  "<|quad_start|>",
  "<|quad_end|>",
  "<|vision_start|>",
  "<|vision_end|>",
  "<|vision_pad|>",
  "<|image_pad|>",
  "<|video_pad|>",
)
NOT_SPECIAL = (
  "<tool_call>",
  "</tool_call>",
  "<|fim_prefix|>",
  "<|fim_middle|>",
  "<|fim_suffix|>",
  "<|fim_pad|>",
  "<|repo_name|>",
  "<|file_sep|>",
)
PIECES = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
  r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _ranks() -> dict[bytes, int]:
  spec = importlib.util.find_spec("dashscope")
  if spec is None:
    pytest.skip("needs the Qwen vocabulary: pip install dashscope")
  path = pathlib.Path(spec.origin).parent / "resources" / "qwen.tiktoken"
  lines = path.read_bytes().splitlines()
  pairs = (line.split() for line in lines if line)
  return {base64.b64decode(token): int(rank) for token, rank in pairs}


def _merge_of(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
  """The last pair that byte-pair encoding joins to make `token`."""
  parts = [token[k : k + 1] for k in range(len(token))]
  limit = ranks[token]
  while True:
    joined = [ranks.get(a + b, limit) for a, b in itertools.pairwise(parts)]
    best = min(joined, default=limit)
    if best >= limit:
      return parts
    k = joined.index(best)
    parts[k : k + 2] = [parts[k] + parts[k + 1]]


def _write(directory: pathlib.Path) -> None:
  ranks = _ranks()
  alphabet = tokenizer_lib.byte_alphabet()
  spell = lambda token: "".join(alphabet[byte] for byte in token)
  merges = []
  for token in sorted(ranks, key=ranks.get):
    if len(token) > 1:
      pair = _merge_of(token, ranks)
      assert len(pair) == 2, token
      merges.append([spell(part) for part in pair])
  added = [
    {
      "id": FIRST_ADDED + k,
      "content": text,
      "single_word": False,
      "lstrip": False,
      "rstrip": False,
      "normalized": False,
      "special": text in SPECIAL,
    }
    for k, text in enumerate(SPECIAL + NOT_SPECIAL)
  ]
  byte_level = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": False,
    "use_regex": False,
  }
  (directory / "tokenizer.json").write_text(
    json.dumps(
      {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
          "type": "Sequence",
          "pretokenizers": [
            {
              "type": "Split",
              "pattern": {"Regex": PIECES},
              "behavior": "Isolated",
              "invert": False,
            },
            byte_level,
          ],
        },
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
          "type": "BPE",
          "dropout": None,
          "unk_token": None,
          "continuing_subword_prefix": "",
          "end_of_word_suffix": "",
          "fuse_unk": False,
          "byte_fallback": False,
          "ignore_merges": False,
          "vocab": {spell(token): rank for token, rank in ranks.items()},
          "merges": merges,
        },
      }
    )
  )
  (directory / "tokenizer_config.json").write_text(
    json.dumps(
      {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "unk_token": None,
        "add_bos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": 131072,
      }
    )
  )
  (directory / "chat_template.jinja").write_text(tiny_tokenizer.CHAT_TEMPLATE)


@functools.cache
def directory() -> pathlib.Path:
  """The tokeniser's directory, built once a process; skips without ranks."""
  _ranks()
  path = pathlib.Path(tempfile.mkdtemp(prefix="qwen_tokenizer_"))
  _write(path)
  return path


@functools.cache
def tokenizer() -> tokenizer_lib.Tokenizer:
  """The real vocabulary's tokeniser."""
  return tokenizer_lib.Tokenizer.load(directory())


@functools.cache
def published() -> transformers.PreTrainedTokenizerBase:
  """The same directory, read by transformers."""
  return transformers.AutoTokenizer.from_pretrained(directory())
