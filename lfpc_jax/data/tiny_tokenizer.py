"""The miniature policy's tokeniser, written in the published file layout.

A byte-level vocabulary made for short episodes: the 256 bytes (so any text
encodes), the numbers 0 to 999 as one token each (so a box is four numbers
and three commas), the words of the prompts, Qwen2.5-VL's chat tokens, and two
long tokens that hold a tool call's fixed JSON. A whole call is 11 tokens:

    <tool_call> CALL_OPEN 12 `, ` 34 `, ` 56 `, ` 78 CALL_CLOSE </tool_call>

`python -m lfpc_jax.data.tiny_tokenizer` writes the package's copy.
"""

import json
import pathlib
import sys

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

# Where the package keeps the miniature policy.
DIRECTORY = pathlib.Path(__file__).parents[1] / "assets" / "tiny_qwen"

CALL_OPEN = '\n{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": ['
CALL_CLOSE = "]}}\n"

SPECIAL_TOKENS = (
  "<|endoftext|>",
  "<|im_start|>",
  "<|im_end|>",
  "<|vision_start|>",
  "<|vision_end|>",
  "<|vision_pad|>",
  "<|image_pad|>",
  "<|video_pad|>",
)
PLAIN_TOKENS = (
  "<tool_call>",
  "</tool_call>",
  "<tool_response>",
  "</tool_response>",
  "<think>",
  "</think>",
  "<answer>",
  "</answer>",
  CALL_OPEN,
  CALL_CLOSE,
)

# Up to three digits are one piece, as is `, ` before a digit; a word takes
# the one space before it.
PIECES = (
  r", (?=\p{N})|\p{N}{1,3}| ?\p{L}+| ?[^\s\p{L}\p{N}]+"
  r"|[\r\n]|[^\S\r\n]+(?!\S)|\s"
)

# Each word enters the vocabulary bare and with a leading space. Any change
# here moves ids, and makes weights trained before it useless.
WORDS = """
system user assistant What digit is on the sign next to Answer or zoom in
red green blue yellow orange purple cyan pink white black brown gray
Which which what colour color larger smaller than left right above below of
yes no number letter and a an it at image object one two none
Error error The box call tool not valid JSON has must be finite four numbers
x y with empty inside too thin wrong long again crops crop remain No more
give your answer now question was that name arguments bbox image_zoom_in_tool
think I look there here see first closer then so region where need find this
can read show write use unknown small text turn
""".split()
PUNCTUATION = ", ", " (", ' "', '":', "..", "...", "),", ").", " [", "],"

VOCABULARY_MULTIPLE = 64

# Qwen2.5-VL's published chat template.
CHAT_TEMPLATE = (
  "{% set image_count = namespace(value=0) %}"
  "{% set video_count = namespace(value=0) %}"
  "{% for message in messages %}"
  "{% if loop.first and message['role'] != 'system' %}"
  "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
  "{% endif %}<|im_start|>{{ message['role'] }}\n"
  "{% if message['content'] is string %}"
  "{{ message['content'] }}<|im_end|>\n"
  "{% else %}{% for content in message['content'] %}"
  "{% if content['type'] == 'image' or 'image' in content"
  " or 'image_url' in content %}"
  "{% set image_count.value = image_count.value + 1 %}"
  "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
  "<|vision_start|><|image_pad|><|vision_end|>"
  "{% elif content['type'] == 'video' or 'video' in content %}"
  "{% set video_count.value = video_count.value + 1 %}"
  "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}"
  "<|vision_start|><|video_pad|><|vision_end|>"
  "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
  "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
  "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def vocabulary() -> dict[str, int]:
  """Ids of the byte-level pieces, spelled in the byte alphabet."""
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  pieces = [str(n) for n in range(1000)]
  pieces += [form for word in WORDS for form in (word, f" {word}")]
  pieces += PUNCTUATION
  spelled = (spell.pre_tokenize_str(piece)[0][0] for piece in pieces)
  # A dictionary keeps the first place of a piece named twice.
  order = dict.fromkeys([*alphabet, *spelled])
  return {piece: index for index, piece in enumerate(order)}


def build() -> tokenizers.Tokenizer:
  """The tokeniser, padded with unused tokens to a multiple of 64 ids."""
  # `ignore_merges` takes a piece that is in the vocabulary whole; with no
  # merges, any other piece falls to its bytes.
  tokenizer = tokenizers.Tokenizer(
    models.BPE(vocab=vocabulary(), merges=[], ignore_merges=True)
  )
  tokenizer.normalizer = normalizers.NFC()
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(tokenizers.Regex(PIECES), behavior="isolated"),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  tokenizer.decoder = decoders.ByteLevel()

  def add(texts, special):
    tokenizer.add_tokens(
      [
        tokenizers.AddedToken(text, special=special, normalized=False)
        for text in texts
      ]
    )

  add(SPECIAL_TOKENS, special=True)
  add(PLAIN_TOKENS, special=False)
  unused = -tokenizer.get_vocab_size() % VOCABULARY_MULTIPLE
  add([f"<|unused_{k}|>" for k in range(unused)], special=True)
  return tokenizer


def write(directory: str | pathlib.Path) -> None:
  """Writes tokeniser, chat template, image and generation settings."""
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  tokenizer = build()
  tokenizer.save(str(directory / "tokenizer.json"))
  (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)
  _write_json(
    directory / "tokenizer_config.json",
    {
      # Not Qwen2Tokenizer: that class puts its own rule for digits in the
      # place of this file's.
      "tokenizer_class": "PreTrainedTokenizerFast",
      "bos_token": None,
      "eos_token": "<|im_end|>",
      "pad_token": "<|endoftext|>",
      "unk_token": None,
      "clean_up_tokenization_spaces": False,
      "model_max_length": 32768,
      "added_tokens_decoder": {
        str(index): {
          "content": token.content,
          "special": token.special,
          "lstrip": False,
          "rstrip": False,
          "single_word": False,
          "normalized": False,
        }
        for index, token in sorted(tokenizer.get_added_tokens_decoder().items())
      },
    },
  )
  _write_json(
    directory / "preprocessor_config.json",
    {
      "image_processor_type": "Qwen2VLImageProcessor",
      "processor_class": "Qwen2_5_VLProcessor",
      "min_pixels": 4 * 28 * 28,
      "max_pixels": 324 * 28 * 28,
      "patch_size": 14,
      "temporal_patch_size": 2,
      "merge_size": 2,
      "image_mean": [0.48145466, 0.4578275, 0.40821073],
      "image_std": [0.26862954, 0.26130258, 0.27577711],
    },
  )
  end_of_text = tokenizer.token_to_id("<|endoftext|>")
  _write_json(
    directory / "generation_config.json",
    {
      "do_sample": True,
      "temperature": 1.0,
      "top_p": 1.0,
      "eos_token_id": [tokenizer.token_to_id("<|im_end|>"), end_of_text],
      "pad_token_id": end_of_text,
    },
  )


def _write_json(path: pathlib.Path, value: dict) -> None:
  path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
  write(sys.argv[1] if len(sys.argv) > 1 else DIRECTORY)
