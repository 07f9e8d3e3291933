"""JSON's grammar as one table: (state, byte) -> next state and an action.

The grammar is that of Python's `json.loads` on strict UTF-8. What a table
cannot hold, the open brackets, is left to the reader's actions.
"""

from collections.abc import Callable
import enum

import numpy as np

_SPACE = b" \t\n\r"
_DIGITS = b"0123456789"
_HEX = b"0123456789abcdefABCDEF"
_ESCAPES = {
  b'"': 34,
  b"\\": 92,
  b"/": 47,
  b"b": 8,
  b"f": 12,
  b"n": 10,
  b"r": 13,
  b"t": 9,
}
_LITERALS = (b"true", b"false", b"null", b"NaN", b"Infinity")


class State(enum.IntEnum):
  """What the text so far allows next."""

  ERROR = 0
  VALUE = 1
  VALUE_OR_END = 2
  KEY = 3
  KEY_OR_END = 4
  COLON = 5
  AFTER = 6
  STRING = 7
  ESCAPE = 8
  HEX_1 = 9
  HEX_2 = 10
  HEX_3 = 11
  HEX_4 = 12
  UTF8_1 = 13
  UTF8_2 = 14
  UTF8_3 = 15
  UTF8_E0 = 16
  UTF8_ED = 17
  UTF8_F0 = 18
  UTF8_F4 = 19
  # A number. It may end in ZERO, INTEGER, FRACTION and EXPONENT.
  MINUS = 20
  ZERO = 21
  INTEGER = 22
  POINT = 23
  FRACTION = 24
  E = 25
  E_SIGN = 26
  EXPONENT = 27
  # The first of the states inside true, false, null, NaN and Infinity.
  LITERAL = 28


class Action(enum.IntEnum):
  """What a byte does beside changing the state."""

  NONE = 0
  OPEN_OBJECT = 1
  OPEN_ARRAY = 2
  CLOSE_OBJECT = 3
  CLOSE_ARRAY = 4
  COMMA = 5
  OPEN_KEY = 6
  OPEN_STRING = 7
  LITERAL = 8
  CLOSE_STRING = 9
  CHARACTER = 10
  ESCAPED = 11
  HEX = 12
  LAST_HEX = 13
  FOREIGN = 14


_S, _A = State, Action
_VALUES = (_S.VALUE, _S.VALUE_OR_END)
_KEYS = (_S.KEY, _S.KEY_OR_END)
_NUMBER_END = (_S.ZERO, _S.INTEGER, _S.FRACTION, _S.EXPONENT)


def _build_table() -> np.ndarray:
  """i32[states, 256]: next state + 256 * action; zero is an error."""
  literal_states = sum(len(word) - 1 for word in _LITERALS)
  table = np.zeros((_S.LITERAL + literal_states, 256), np.int32)

  def on(states, chars, target, action=_A.NONE):
    for state in states if isinstance(states, tuple) else (states,):
      table[state, list(chars)] = target + 256 * action

  _add_brackets(on)
  _add_numbers(on)
  _add_strings(on)
  _add_literals(on)
  return table


def _add_brackets(on: Callable[..., None]) -> None:
  for state in (*_VALUES, *_KEYS, _S.COLON, _S.AFTER):
    on(state, _SPACE, state)
  on(_VALUES, b"{", _S.KEY_OR_END, _A.OPEN_OBJECT)
  on(_VALUES, b"[", _S.VALUE_OR_END, _A.OPEN_ARRAY)
  on(_VALUES, b'"', _S.STRING, _A.OPEN_STRING)
  on(_S.VALUE_OR_END, b"]", _S.AFTER, _A.CLOSE_ARRAY)
  on(_KEYS, b'"', _S.STRING, _A.OPEN_KEY)
  on(_S.KEY_OR_END, b"}", _S.AFTER, _A.CLOSE_OBJECT)
  on(_S.COLON, b":", _S.VALUE)
  ends = (_S.AFTER, *_NUMBER_END)
  on(ends, _SPACE, _S.AFTER)
  on(ends, b",", _S.VALUE, _A.COMMA)
  on(ends, b"]", _S.AFTER, _A.CLOSE_ARRAY)
  on(ends, b"}", _S.AFTER, _A.CLOSE_OBJECT)


def _add_numbers(on: Callable[..., None]) -> None:
  on(_VALUES, b"-", _S.MINUS)
  on((*_VALUES, _S.MINUS), b"0", _S.ZERO)
  on((*_VALUES, _S.MINUS, _S.INTEGER), b"123456789", _S.INTEGER)
  on(_S.INTEGER, b"0", _S.INTEGER)
  on((_S.ZERO, _S.INTEGER), b".", _S.POINT)
  on((_S.POINT, _S.FRACTION), _DIGITS, _S.FRACTION)
  on((_S.ZERO, _S.INTEGER, _S.FRACTION), b"eE", _S.E)
  on(_S.E, b"+-", _S.E_SIGN)
  on((_S.E, _S.E_SIGN, _S.EXPONENT), _DIGITS, _S.EXPONENT)


def _add_strings(on: Callable[..., None]) -> None:
  on(_S.STRING, range(32, 128), _S.STRING, _A.CHARACTER)
  on(_S.STRING, b'"', _S.AFTER, _A.CLOSE_STRING)
  on(_S.STRING, b"\\", _S.ESCAPE)
  for char in _ESCAPES:
    on(_S.ESCAPE, char, _S.STRING, _A.ESCAPED)
  on(_S.ESCAPE, b"u", _S.HEX_1)
  for k in range(3):
    on(_S(_S.HEX_1 + k), _HEX, _S.HEX_1 + k + 1, _A.HEX)
  on(_S.HEX_4, _HEX, _S.STRING, _A.LAST_HEX)

  # UTF-8: shortest forms only, no surrogates, nothing above U+10FFFF.
  foreign = _A.FOREIGN
  tail = range(0x80, 0xC0)
  on(_S.STRING, range(0xC2, 0xE0), _S.UTF8_1, foreign)
  on(_S.STRING, range(0xE1, 0xF0), _S.UTF8_2, foreign)
  on(_S.STRING, range(0xF1, 0xF4), _S.UTF8_3, foreign)
  for first, state in (
    (0xE0, _S.UTF8_E0),
    (0xED, _S.UTF8_ED),
    (0xF0, _S.UTF8_F0),
    (0xF4, _S.UTF8_F4),
  ):
    on(_S.STRING, [first], state, foreign)
  on(_S.UTF8_1, tail, _S.STRING)
  on(_S.UTF8_2, tail, _S.UTF8_1)
  on(_S.UTF8_3, tail, _S.UTF8_2)
  on(_S.UTF8_E0, range(0xA0, 0xC0), _S.UTF8_1)
  on(_S.UTF8_ED, range(0x80, 0xA0), _S.UTF8_1)
  on(_S.UTF8_F0, range(0x90, 0xC0), _S.UTF8_2)
  on(_S.UTF8_F4, range(0x80, 0x90), _S.UTF8_2)


def _add_literals(on: Callable[..., None]) -> None:
  state = int(_S.LITERAL)
  for word in _LITERALS:
    starts = (*_VALUES, _S.MINUS) if word == b"Infinity" else _VALUES
    on(starts, word[:1], state, _A.LITERAL)
    for char in word[1:-1]:
      on(state, [char], state + 1)
      state += 1
    on(state, word[-1:], _S.AFTER)
    state += 1


def _build_escapes() -> np.ndarray:
  values = np.zeros(256, np.int32)
  for char, value in _ESCAPES.items():
    values[ord(char)] = value
  return values


TABLE = _build_table()
ESCAPED = _build_escapes()  # i32[256]: the character that \\x stands for
