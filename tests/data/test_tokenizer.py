"""The tokeniser against transformers, for the miniature and for Qwen's."""

import json
import unicodedata

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import tokenizers
import transformers

from lfpc_jax import errors
from lfpc_jax.data import prompts, tiny_tokenizer
from lfpc_jax.data import tokenizer as tokenizer_lib
from tests import real_vocabulary

CALL = (
  '<tool_call>\n{"name": "image_zoom_in_tool", "arguments": '
  '{"bbox_2d": [12, 0, 999, 104]}}\n</tool_call>'
)
TEXTS = (
  "",
  " ",
  CALL,
  CALL * 2,
  "What digit is on the red sign?",
  "It's 1024x768,  \n\n  not 007.\r\n\t– naïve 图像 🙂 e\u0301",
  "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>x<|im_end|>",
  "<answer>7</answer><|im_end|>",
  "<think> a </think>\n",
  "<|im_|> <tool_",
)


@pytest.fixture(scope="module", params=["tiny", "real"])
def which(request):
  return request.param


@pytest.fixture(scope="module")
def tokenizer(which):
  if which == "real":
    return real_vocabulary.tokenizer()
  return tokenizer_lib.Tokenizer.load(tiny_tokenizer.DIRECTORY)


@pytest.fixture(scope="module")
def published(which):
  if which == "real":
    return real_vocabulary.published()
  return transformers.AutoTokenizer.from_pretrained(tiny_tokenizer.DIRECTORY)


@pytest.mark.parametrize("text", TEXTS)
def test_encode_and_decode_agree_with_transformers(tokenizer, published, text):
  ids = tokenizer.encode(text)
  assert ids == published.encode(text)
  assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)


@hypothesis.given(
  st.lists(
    st.one_of(
      st.text(max_size=12),
      st.sampled_from(TEXTS),
      st.integers(0, 2000).map(str),
    )
  ).map("".join)
)
@hypothesis.settings(max_examples=100, deadline=None)
def test_any_text_encodes_as_transformers_does(tokenizer, published, text):
  assert tokenizer.encode(text) == published.encode(text)


def test_token_bytes_spell_what_each_id_decodes_to(tokenizer, published):
  table, lengths = tokenizer.token_bytes()
  assert table.shape == (tokenizer.vocab_size, lengths.max())
  assert tokenizer.vocab_size == len(published)
  step = max(1, len(published) // 5000)
  for index in [*range(0, len(published), step), *tokenizer._added.values()]:
    text = bytes(table[index, : lengths[index]]).decode(errors="replace")
    assert text == published.decode([index])
  assert not table[np.arange(table.shape[1]) >= lengths[:, None]].any()


def test_token_bytes_keep_a_character_that_two_tokens_share(tokenizer):
  table, lengths = tokenizer.token_bytes()
  text = "🙂 ñ 図 " + CALL
  ids = tokenizer.encode(text)
  assert b"".join(bytes(table[i, : lengths[i]]) for i in ids) == text.encode()


def test_token_bytes_are_padded_for_a_larger_model(tokenizer):
  size = tokenizer.vocab_size + 7
  table, lengths = tokenizer.token_bytes(size)
  assert len(table) == size and not lengths[-7:].any()
  with pytest.raises(ValueError, match="less than"):
    tokenizer.token_bytes(tokenizer.vocab_size - 1)


def test_verbatim_text_never_becomes_an_added_token(tokenizer, published):
  added = set(published.get_added_vocab().values())
  text = "".join(published.get_added_vocab())
  ids = tokenizer.encode(tokenizer_lib.Verbatim(text))
  assert not added & set(ids)
  assert tokenizer.decode(ids) == text
  # Nor does a tag of which it gives a part.
  for parts in (
    (tokenizer_lib.Verbatim("<|im_"), "end|>"),
    ("<|im_", tokenizer_lib.Verbatim("end|>")),
  ):
    assert not added & set(tokenizer.encode(parts))


def test_harmless_verbatim_text_encodes_as_if_it_were_ours(tokenizer):
  parts = ("<|im_start|>user\nAl", tokenizer_lib.Verbatim("so 12 "), " 3\n")
  assert tokenizer.encode(parts) == tokenizer.encode("".join(parts))


def test_a_missing_directory_is_named(tmp_path):
  with pytest.raises(errors.UserError, match="nowhere"):
    tokenizer_lib.Tokenizer.load(tmp_path / "nowhere")


def _damage(text, how):
  parts = json.loads(text)
  match how:
    case "empty":
      return ""
    case "cut off":
      return text[: len(text) // 2]
    case "no object":
      return "[1, 2]"
    case "other keys":
      return json.dumps({"a": 1})
    case "no vocabulary":
      parts["model"].pop("vocab")
    case "unknown model":
      parts["model"]["type"] = "Magic"
    case "bad added token":
      parts["added_tokens"][0].pop("lstrip")
    case "no chat tokens":
      parts["added_tokens"] = []
  return json.dumps(parts)


@pytest.mark.parametrize(
  "how",
  [
    "empty",
    "cut off",
    "no object",
    "other keys",
    "no vocabulary",
    "unknown model",
    "bad added token",
    "no chat tokens",
  ],
)
def test_a_broken_file_is_one_line_that_names_it(how, tmp_path):
  whole = (tiny_tokenizer.DIRECTORY / "tokenizer.json").read_text()
  file = tmp_path / "tokenizer.json"
  file.write_text(_damage(whole, how))
  with pytest.raises(errors.UserError) as error:
    tokenizer_lib.Tokenizer.load(tmp_path)
  text = str(error.value)
  assert text.startswith(f"no tokeniser can be read from {file} (")
  assert "\n" not in text


def test_bytes_that_are_no_text_and_an_empty_directory_are_named(tmp_path):
  with pytest.raises(errors.UserError, match=f"read from {tmp_path} ") as error:
    tokenizer_lib.Tokenizer.load(tmp_path)
  assert "\n" not in str(error.value)
  (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe\x00")
  with pytest.raises(errors.UserError, match="UnicodeDecodeError"):
    tokenizer_lib.Tokenizer.load(tmp_path)


def test_a_vocabulary_without_chat_tokens_is_refused():
  backend = tokenizers.Tokenizer(
    tokenizers.models.BPE(vocab={"a": 0}, merges=[])
  )
  with pytest.raises(ValueError, match="im_start"):
    tokenizer_lib.Tokenizer(backend.to_str())


def test_an_added_token_that_eats_white_space_is_refused():
  backend = tiny_tokenizer.build()
  backend.add_tokens([tokenizers.AddedToken("<x>", lstrip=True)])
  with pytest.raises(ValueError, match="<x>"):
    tokenizer_lib.Tokenizer(backend.to_str())


def test_ids_of_the_real_vocabulary_are_the_published_ones():
  special = real_vocabulary.tokenizer().special
  assert special == tokenizer_lib.SpecialTokens(
    im_start=151644,
    im_end=151645,
    vision_start=151652,
    vision_end=151653,
    image_pad=151655,
    tool_call=151657,
    tool_call_end=151658,
    pad=151643,
  )


def test_vocabulary_and_merges_files_are_read_too(tmp_path):
  backend = tiny_tokenizer.build()
  tiny_tokenizer.write(tmp_path)
  (tmp_path / "tokenizer.json").unlink()
  vocabulary = {
    piece: index
    for piece, index in backend.get_vocab().items()
    if index not in backend.get_added_tokens_decoder()
  }
  (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
  (tmp_path / "merges.txt").write_text("#version: 0.2\n")
  config = json.loads((tmp_path / "tokenizer_config.json").read_text())
  config["tokenizer_class"] = "Qwen2Tokenizer"
  (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
  (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
  tokenizer = tokenizer_lib.Tokenizer.load(tmp_path)
  assert tokenizer.decode(tokenizer.encode(CALL)) == CALL
  assert tokenizer.special.im_end == backend.token_to_id("<|im_end|>")


@pytest.fixture(scope="module")
def tiny():
  return tokenizer_lib.Tokenizer.load(tiny_tokenizer.DIRECTORY)


def test_a_tiny_call_is_eleven_tokens(tiny):
  pieces = [tiny.decode([index]) for index in tiny.encode(CALL)]
  assert pieces == [
    "<tool_call>",
    tiny_tokenizer.CALL_OPEN,
    "12",
    ", ",
    "0",
    ", ",
    "999",
    ", ",
    "104",
    tiny_tokenizer.CALL_CLOSE,
    "</tool_call>",
  ]


def test_tiny_numbers_are_single_tokens(tiny):
  assert {len(tiny.encode(str(n))) for n in range(1000)} == {1}
  assert tiny.vocab_size % 64 == 0


def test_tiny_knows_every_word_it_is_told(tiny):
  texts = [prompts.error_text(kind, "short") for kind in prompts.Failure]
  texts += prompts.observation_text("short")
  for colour in (
    "red",
    "green",
    "blue",
    "yellow",
    "orange",
    "purple",
    "cyan",
    "pink",
    "white",
    "black",
    "brown",
    "gray",
  ):
    for question in (
      f"What digit is on the {colour} sign?",
      f"What digit is on the sign next to the {colour} sign?",
    ):
      texts.append("".join(prompts.prompt_text(question, style="short")))
  for text in texts:
    spelled = [
      piece
      for piece in map(tiny.decode, zip(tiny.encode(text)))
      if len(piece) == 1 and piece.isalpha()
    ]
    assert not spelled, text


def test_the_shipped_files_are_those_that_the_code_writes(tmp_path):
  tiny_tokenizer.write(tmp_path)
  written = sorted(tmp_path.iterdir())
  assert written
  for file in written:
    shipped = tiny_tokenizer.DIRECTORY / file.name
    assert shipped.read_text() == file.read_text(), file.name


def test_the_tiny_image_processor_counts_visual_tokens_as_ours():
  processor = transformers.AutoImageProcessor.from_pretrained(
    tiny_tokenizer.DIRECTORY
  )
  image = np.zeros((3000, 2000, 3), np.uint8)
  grid = processor(images=image, return_tensors="np")["image_grid_thw"][0]
  rows, columns = grid[1:] // 2
  assert 300 <= rows * columns <= 324
