"""The device's reading of tool calls against Python's json and re."""

import functools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.data import tiny_tokenizer
from lfpc_jax.data import tokenizer as tokenizer_lib
from lfpc_jax.image.boxes import BoxStatus
from lfpc_jax.rollout import call_json, tool_call
from lfpc_jax.rollout.tool_call import CallStatus, Failure
from tests import real_vocabulary
from tests.rollout import python_reader, random_turns

Verbatim = tokenizer_lib.Verbatim
MAX_BYTES = 256
ROWS, SLOTS = 256, 1600  # one program serves all turns
GOOD = (
  '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 2, 30, 40]}}'
)
ALPHABET = tokenizer_lib.byte_alphabet()
OPEN, CLOSE = "<tool_call>", "</tool_call>"


def oracle(data: bytes):
  return python_reader.read_turn(data, MAX_BYTES)


@pytest.fixture(scope="module", params=["tiny", "real"])
def tokenizer(request):
  if request.param == "real":
    return real_vocabulary.tokenizer()
  return tokenizer_lib.Tokenizer.load(tiny_tokenizer.DIRECTORY)


@pytest.fixture(scope="module")
def tiny():
  return tokenizer_lib.Tokenizer.load(tiny_tokenizer.DIRECTORY)


@functools.cache
def byte_table(tokenizer):
  """Padded to one shape, so that one program reads every vocabulary."""
  table, lengths = tokenizer.token_bytes(152064)
  table = np.pad(table, ((0, 0), (0, 128 - table.shape[1])))
  return tool_call.ByteTable(jnp.asarray(table), jnp.asarray(lengths))


@functools.partial(jax.jit, static_argnames="max_bytes")
def _read(tokens, start, end, table, max_bytes=MAX_BYTES):
  return tool_call.read_call(tokens, start, end, table, max_bytes)


def encode(tokenizer, pieces):
  """Ids and bytes of a text: strings, verbatim strings, or raw bytes."""
  ids, data = [], b""
  for piece in pieces:
    if isinstance(piece, bytes):
      ids += [tokenizer._pieces[ALPHABET[byte]] for byte in piece]
      data += piece
    else:
      ids += tokenizer.encode((piece,))
      data += piece.encode()
  return ids, data


def read(tokenizer, turns):
  """Reads turns, each between two good calls that are not its own."""
  decoy = tokenizer.encode(OPEN + GOOD + CLOSE)
  statuses, boxes = [], []
  for first in range(0, len(turns), ROWS):
    tokens = np.zeros((ROWS, SLOTS), np.int32)
    end = np.full(ROWS, len(decoy), np.int32)
    for k, turn in enumerate(turns[first : first + ROWS]):
      ids = encode(tokenizer, turn)[0]
      text = [*decoy, *ids, *decoy]
      tokens[k, : len(text)] = text
      end[k] += len(ids)
    status, box = _read(
      tokens, np.full_like(end, len(decoy)), end, byte_table(tokenizer)
    )
    statuses.append(status)
    boxes.append(box)
  return (
    np.concatenate(statuses)[: len(turns)],
    np.concatenate(boxes)[: len(turns)],
  )


def read_one(tokenizer, *pieces):
  status, box = read(tokenizer, [pieces])
  return CallStatus(int(status[0])), box[0].tolist()


def read_json(tokenizer, text):
  return read_one(tokenizer, OPEN + text + CLOSE)


# ---- One behaviour at a time ----


def test_a_call_gives_its_box(tokenizer):
  assert read_one(tokenizer, f"<think>a</think>{OPEN}\n{GOOD}\n{CLOSE}") == (
    CallStatus.OK,
    [1, 2, 30, 40],
  )


def test_a_call_before_the_end_of_the_turn_counts(tokenizer):
  assert read_one(tokenizer, f"{OPEN}{GOOD}{CLOSE}<|im_end|>") == (
    CallStatus.OK,
    [1, 2, 30, 40],
  )


@pytest.mark.parametrize(
  "pieces",
  [
    [Verbatim(OPEN), GOOD, CLOSE],
    [OPEN, GOOD, Verbatim(CLOSE)],
    [Verbatim(f"a{OPEN}{GOOD}{CLOSE}b")],
    [b"<tool", "_call>", GOOD, b"<", "/tool_", "call", b">"],
  ],
)
def test_tags_may_be_spelled_out(tokenizer, pieces):
  assert read_one(tokenizer, *pieces) == (CallStatus.OK, [1, 2, 30, 40])


@pytest.mark.parametrize(
  "text",
  [
    "",
    "x",
    GOOD,
    OPEN + GOOD,
    GOOD + CLOSE,
    f"{CLOSE}{GOOD}{OPEN}",
    f"<tool_call {GOOD}{CLOSE}",
    "<|im_end|>",
    "<answer>7</answer>",
  ],
)
def test_an_incomplete_call_is_none(tokenizer, text):
  assert read_one(tokenizer, text) == (CallStatus.NONE, [0] * 4)


def test_the_last_complete_call_counts(tokenizer):
  other = GOOD.replace("40", "44")
  call = lambda text: OPEN + text + CLOSE
  ok = (CallStatus.OK, [1, 2, 30, 44])
  assert read_one(tokenizer, call(GOOD) + " and " + call(other)) == ok
  assert read_one(tokenizer, call(GOOD) + call(other) + OPEN + GOOD) == ok
  assert read_one(tokenizer, OPEN + GOOD + call(other)) == ok
  assert read_one(tokenizer, call(other) + "x" + CLOSE) == ok
  assert read_one(tokenizer, call(GOOD) + call("{"))[0] == CallStatus.NOT_JSON


@pytest.mark.parametrize(
  "text, status",
  [
    ("", CallStatus.NOT_JSON),
    ("{}", CallStatus.WRONG_TOOL),
    (GOOD + "x", CallStatus.NOT_JSON),
    (GOOD[:-1], CallStatus.NOT_JSON),
    (GOOD.replace("40", "40,"), CallStatus.NOT_JSON),
    (GOOD.replace("40", "040"), CallStatus.NOT_JSON),
    (GOOD.replace("40", "+40"), CallStatus.NOT_JSON),
    (GOOD.replace("40", "40."), CallStatus.NOT_JSON),
    (GOOD.replace('"', "'"), CallStatus.NOT_JSON),
    (GOOD.replace("zoom", "zooms"), CallStatus.WRONG_TOOL),
    (GOOD.replace("_tool", ""), CallStatus.WRONG_TOOL),
    (GOOD.replace("name", "names"), CallStatus.WRONG_TOOL),
    (f"[{GOOD}]", CallStatus.WRONG_TOOL),
    ("7", CallStatus.WRONG_TOOL),
    ('"image_zoom_in_tool"', CallStatus.WRONG_TOOL),
    (GOOD.replace("bbox_2d", "bbox"), CallStatus.WRONG_ARGUMENTS),
    (GOOD.replace(", 40", ""), CallStatus.WRONG_ARGUMENTS),
    (GOOD.replace("40", "40, 5"), CallStatus.WRONG_ARGUMENTS),
    (GOOD.replace("40", "true"), CallStatus.WRONG_ARGUMENTS),
    (GOOD.replace("40", '"40"'), CallStatus.WRONG_ARGUMENTS),
    (GOOD.replace("40", "NaN"), CallStatus.WRONG_ARGUMENTS),
    (GOOD.replace("40", "-Infinity"), CallStatus.WRONG_ARGUMENTS),
    (GOOD.replace("40", "[40]"), CallStatus.WRONG_ARGUMENTS),
    (GOOD.replace("40", '40, {"a": 1}'), CallStatus.WRONG_ARGUMENTS),
    (
      GOOD.replace('{"bbox_2d": [1, 2, 30, 40]}', "[[1, 2, 30, 40]]"),
      CallStatus.WRONG_ARGUMENTS,
    ),
    (
      GOOD.replace("[1, 2, 30, 40]", '{"bbox_2d": [1, 2, 30, 40]}'),
      CallStatus.WRONG_ARGUMENTS,
    ),
  ],
)
def test_what_is_not_a_call_has_its_status_and_no_box(tokenizer, text, status):
  assert read_json(tokenizer, text) == (status, [0] * 4)
  assert oracle((OPEN + text + CLOSE).encode())[0] == status


@pytest.mark.parametrize(
  "text",
  [
    GOOD.replace(" ", ""),
    GOOD.replace(" ", "\n\t \r"),
    GOOD.replace("name", "n\\u0061me").replace("zoom", "\\u007A\\u006fom"),
    GOOD.replace("bbox_2d", "bbox\\u005F2d"),
    GOOD.replace('{"bbox', '{"label": "a \\"]}\\\\ é 🙂", "bbox'),
    GOOD.replace("}}", ', "x": [{"bbox_2d": [5]}, null, -0.5e-3]}}'),
    GOOD.replace('{"name"', '{"bbox_2d": 1, "name": 3, "name"'),
    GOOD.replace('{"bbox', '{"bbox_2d": [9, 9, 9], "bbox'),
    GOOD.replace('"arg', '"arguments": {"bbox_2d": [5, 5, 5, 5]}, "arg'),
  ],
)
def test_all_that_python_reads_as_the_call_is_the_call(tokenizer, text):
  assert read_json(tokenizer, text) == (CallStatus.OK, [1, 2, 30, 40])
  assert oracle((OPEN + text + CLOSE).encode())[0] == CallStatus.OK


def test_a_repeated_key_makes_the_first_value_void(tokenizer):
  for wrong in ('"bbox_2d": [1, 2, 3]', '"bbox_2d": {}', '"bbox_2d": null'):
    text = GOOD.replace("40]", f"40], {wrong}")
    assert read_json(tokenizer, text)[0] == CallStatus.WRONG_ARGUMENTS
  text = GOOD[:-1] + ', "arguments": [[1, 2, 3, 4]]}'
  assert read_json(tokenizer, text)[0] == CallStatus.WRONG_ARGUMENTS
  text = GOOD[:-1] + ', "name": null}'
  assert read_json(tokenizer, text)[0] == CallStatus.WRONG_TOOL


@pytest.mark.parametrize(
  "number",
  [
    "0",
    "-0",
    "7",
    "1023.5",
    "0.1",
    "-12.75",
    "123456.7",
    "16777215",
    "1e3",
    "1E+2",
    "25e-2",
    "0.001e5",
    "99999999",
    "1234567890123",
    "3.14159265358979",
    "0.000000123456789123",
    "1.5e38",
    "0e999",
    "1e-30",
    "0.00000000000000000000000000000000000000001e50",
  ],
)
def test_numbers_are_rounded_to_float32(tokenizer, number):
  status, box = read_json(tokenizer, GOOD.replace("40", number))
  assert status == CallStatus.OK
  np.testing.assert_allclose(
    np.float32(box[3]), np.float32(float(number)), rtol=2.5e-7
  )
  if len(number) < 8 and "e" not in number:
    assert box[3] == float(np.float32(float(number)))


@pytest.mark.parametrize(
  "number, value",
  [
    ("1e39", np.inf),
    ("-1e400", -np.inf),
    ("1e99999999999999", np.inf),
    ("9" * 60, np.inf),
    ("1e-99999999999", 0),
  ],
)
def test_numbers_beyond_float32_are_infinite_or_zero(tokenizer, number, value):
  status, box = read_json(tokenizer, GOOD.replace("40", number))
  assert (status, box[3]) == (CallStatus.OK, value)


@pytest.mark.parametrize(
  "bad",
  [
    b"\xff",
    b"\x80",
    b"\xc0\xaf",
    b"\xe2\x82",
    b"\xed\xa0\x80",
    b"\xf5\x80\x80\x80",
    b"\xf4\x90\x80\x80",
    b"\xe0\x80\x80",
    b"\xf0\x80\x80\x80",
    b"\x1f",
  ],
)
def test_bytes_that_are_not_utf8_are_not_json(tokenizer, bad):
  label = '{"label": "'
  pieces = [OPEN + label, bad, '", ' + GOOD[1:], CLOSE]
  assert read_one(tokenizer, *pieces)[0] == CallStatus.NOT_JSON
  pieces[1] = b"\xe2\x82\xac \xf4\x8f\xbf\xbf"
  assert read_one(tokenizer, *pieces)[0] == CallStatus.OK


def test_nesting_is_read_to_its_limit(tokenizer):
  deepest = call_json.MAX_DEPTH - 2
  nest = lambda n: GOOD.replace(
    '{"bbox', '{"x": ' + "[" * n + "]" * n + ', "bbox'
  )
  assert read_json(tokenizer, nest(deepest))[0] == CallStatus.OK
  assert read_json(tokenizer, nest(deepest + 1))[0] == CallStatus.NOT_JSON
  assert read_json(tokenizer, nest(60))[0] == CallStatus.NOT_JSON


def test_a_call_is_read_up_to_its_longest(tokenizer):
  padded = lambda n: OPEN + " " * (n - len(GOOD)) + GOOD + CLOSE
  assert read_one(tokenizer, padded(MAX_BYTES))[0] == CallStatus.OK
  assert read_one(tokenizer, padded(MAX_BYTES + 1))[0] == CallStatus.TOO_LONG
  # The opening tag lies before the bytes that are searched.
  assert read_one(tokenizer, "x", padded(5 * MAX_BYTES)) == (
    CallStatus.TOO_LONG,
    [0] * 4,
  )


def test_a_long_text_before_the_call_changes_nothing(tokenizer):
  thought = "I look at the red sign. " * 100
  assert read_one(tokenizer, thought + OPEN + GOOD + CLOSE) == (
    CallStatus.OK,
    [1, 2, 30, 40],
  )
  assert read_one(tokenizer, thought) == (CallStatus.NONE, [0] * 4)


def test_a_call_before_all_that_is_searched_is_not_read(tokenizer):
  """No stop token ends such a turn: the tag is spelled, not written."""
  call = OPEN + GOOD + CLOSE[:-1], CLOSE[-1]
  searched = 2 * MAX_BYTES + 32
  found = searched - len(CLOSE) - len(GOOD) - len(OPEN)
  assert read_one(tokenizer, *call, "x" * found)[0] == CallStatus.OK
  assert read_one(tokenizer, *call, "x" * searched)[0] == CallStatus.NONE


def test_any_leading_axes_and_unknown_ids(tiny):
  ids = [*tiny.encode(OPEN), 10**6, -1, *tiny.encode(GOOD + CLOSE)]
  tokens = np.zeros((2, 3, 64), np.int32)
  tokens[1, 2, : len(ids)] = ids
  end = np.zeros((2, 3), np.int32)
  end[1, 2] = len(ids)
  table = tool_call.ByteTable.of(tiny, vocab_size=2048)
  status, box = _read(tokens, np.zeros_like(end), end, table, max_bytes=96)
  assert status.tolist() == [[0, 0, 0], [0, 0, 1]]
  assert box[1, 2].tolist() == [1, 2, 30, 40] and not box[0].any()


def test_the_first_failure_is_found():
  cases = [
    (CallStatus.NONE, BoxStatus.EMPTY, 0, -1),
    (CallStatus.OK, BoxStatus.VALID, 1, -1),
    (CallStatus.OK, BoxStatus.VALID, 0, Failure.NO_CROPS_LEFT),
    (CallStatus.OK, BoxStatus.NOT_FINITE, 1, Failure.BOX_NOT_FINITE),
    (CallStatus.OK, BoxStatus.EMPTY, 1, Failure.BOX_EMPTY),
    (CallStatus.OK, BoxStatus.TOO_THIN, 0, Failure.BOX_TOO_THIN),
    (CallStatus.NOT_JSON, BoxStatus.VALID, 1, Failure.NOT_JSON),
    (CallStatus.WRONG_TOOL, BoxStatus.EMPTY, 1, Failure.WRONG_TOOL),
    (CallStatus.WRONG_ARGUMENTS, BoxStatus.EMPTY, 0, Failure.WRONG_ARGUMENTS),
    (CallStatus.TOO_LONG, BoxStatus.EMPTY, 1, Failure.TOO_LONG),
  ]
  *inputs, expected = (jnp.array(column) for column in zip(*cases))
  np.testing.assert_array_equal(tool_call.find_failure(*inputs), expected)


# ---- Ten thousand turns ----


def test_ten_thousand_turns_are_read_as_python_reads_them(tokenizer):
  rng = random.Random(2603)
  rows = [random_turns.random_turn(rng) for _ in range(10_600)]
  data = [encode(tokenizer, row)[1] for row in rows]
  # Longer turns are not searched whole; another test is about them.
  longest = 2 * MAX_BYTES + 32
  rows, data = zip(*[(r, d) for r, d in zip(rows, data) if len(d) <= longest])
  status, box = read(tokenizer, rows)
  wanted, wanted_box = zip(*(oracle(d) for d in data))
  wanted_box = [np.zeros(4) if b is None else b for b in wanted_box]
  seen = np.bincount(wanted, minlength=6)
  assert len(rows) >= 10_000 and seen.min() > 30, seen
  wrong = [
    (data[k], CallStatus(int(status[k])), wanted[k])
    for k in np.flatnonzero(status != wanted)
  ]
  assert not wrong, wrong[:5]
  np.testing.assert_allclose(box, wanted_box, rtol=2.5e-7, atol=1e-29)
