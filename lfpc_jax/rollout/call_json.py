"""A tool call's JSON, read byte by byte on the device.

A pushdown automaton. `json_grammar` gives each byte's next state and action;
a `Reader` keeps, per row, the open brackets (a bit stack), which key it is
under, and the four numbers of `arguments.bbox_2d`.

As in Python: a repeated key's last value wins, keys may be written with
escapes, and NaN and Infinity are values. Not as in Python: more than
`MAX_DEPTH` open brackets are an error.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from lfpc_jax.rollout import json_grammar
from lfpc_jax.rollout.json_grammar import Action, State

TOOL_NAME = "image_zoom_in_tool"
BOX_KEY = "bbox_2d"
MAX_DEPTH = 24

# What a string is compared with while it is read.
_NAMES = tuple(s.encode() for s in ("name", "arguments", BOX_KEY, TOOL_NAME))
_NAME, _ARGUMENTS, _BOX, _TOOL = range(4)


def _build_names() -> np.ndarray:
  """i32[4, L]: the names' characters, and -1 after each one's end."""
  width = max(map(len, _NAMES)) + 1
  return np.array(
    [[*name] + [-1] * (width - len(name)) for name in _NAMES], np.int32
  )


_TARGETS = _build_names()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reader:
  """What is known of each row's JSON so far; every field is `[...]`.

  `alike` has a bit for each of `_NAMES` that the open string may still be.
  `under` is the last key of the outermost object, `in_box` tells that the
  innermost open bracket is the box's array or that it lies deeper.
  """

  state: jax.Array
  depth: jax.Array
  objects: jax.Array  # bit d: the bracket open at depth d + 1 is `{`
  is_key: jax.Array
  alike: jax.Array
  position: jax.Array  # characters of the open string
  code: jax.Array  # of a \\uXXXX escape
  under: jax.Array  # _NAME, _ARGUMENTS, or -1
  under_box: jax.Array  # in the arguments' own keys: the last is the box's
  in_box: jax.Array
  tool_found: jax.Array
  box_found: jax.Array
  broken: jax.Array  # the box's array holds something that is not a number
  count: jax.Array  # numbers of the box's array
  box: jax.Array  # f32[..., 4]
  mantissa: jax.Array
  digits: jax.Array  # significant digits in the mantissa
  negative: jax.Array
  shift: jax.Array  # of the decimal point
  exponent: jax.Array
  exponent_negative: jax.Array


def start(shape: tuple[int, ...]) -> Reader:
  """Readers before the first byte, one for each row of `shape`."""
  zero = jnp.zeros(shape, jnp.int32)
  no = jnp.zeros(shape, bool)
  return Reader(
    state=zero + State.VALUE,
    depth=zero,
    objects=zero,
    is_key=no,
    alike=zero,
    position=zero,
    code=zero,
    under=zero - 1,
    under_box=no,
    in_box=no,
    tool_found=no,
    box_found=no,
    broken=no,
    count=zero,
    box=jnp.zeros((*shape, 4), jnp.float32),
    mantissa=zero,
    digits=zero,
    negative=no,
    shift=zero,
    exponent=zero,
    exponent_negative=no,
  )


def is_json(reader: Reader) -> jax.Array:
  """bool[...]: the bytes so far, of which the last is a space, are JSON."""
  return (reader.state == State.AFTER) & (reader.depth == 0)


def step(r: Reader, byte: jax.Array) -> Reader:
  """Reads one byte `i32[...]` of each row."""
  entry = jnp.asarray(json_grammar.TABLE).reshape(-1)[r.state * 256 + byte]
  state, action = entry & 255, entry >> 8
  r = _end_number(r, state)
  r = _read_number(r, state, byte)
  r = _read_string(r, action, byte)
  r = _read_meaning(r, action)
  return _read_brackets(r, state, action)


def _read_number(r: Reader, state: jax.Array, byte: jax.Array) -> Reader:
  """Digits, sign and exponent. Digits after the ninth only move the point."""
  begins = (r.state == State.VALUE) | (r.state == State.VALUE_OR_END)
  fresh = lambda value, empty=0: jnp.where(begins, empty, value)
  mantissa, digits, shift = fresh(r.mantissa), fresh(r.digits), fresh(r.shift)
  digit = byte - ord("0")
  whole = (state == State.ZERO) | (state == State.INTEGER)
  fraction = state == State.FRACTION
  kept = (whole | fraction) & (digits < 9)
  mantissa = jnp.where(kept, mantissa * 10 + digit, mantissa)
  shift += (whole & ~kept).astype(jnp.int32)
  shift -= (fraction & kept).astype(jnp.int32)
  digits += (kept & (mantissa > 0)).astype(jnp.int32)
  exponent = fresh(r.exponent)
  # The bound keeps a long exponent from wrapping round; 10^9999 is infinite.
  exponent = jnp.where(
    state == State.EXPONENT, jnp.minimum(exponent * 10 + digit, 9999), exponent
  )
  minus = byte == ord("-")
  return dataclasses.replace(
    r,
    mantissa=mantissa,
    digits=digits,
    shift=shift,
    exponent=exponent,
    negative=fresh(r.negative, False) | (minus & (state == State.MINUS)),
    exponent_negative=fresh(r.exponent_negative, False)
    | (minus & (state == State.E_SIGN)),
  )


def _end_number(r: Reader, state: jax.Array) -> Reader:
  """Stores a number that ended before this byte, if it is of the box."""
  was = (r.state >= State.MINUS) & (r.state <= State.EXPONENT)
  ended = was & ((state < State.MINUS) | (state > State.EXPONENT))
  stored = ended & r.in_box & (r.depth == 3)
  place = stored[..., None] & (jnp.arange(4) == r.count[..., None])
  box = jnp.where(place, _number(r)[..., None], r.box)
  # A fifth number is remembered as such; a hundredth need not be.
  count = jnp.minimum(r.count + stored, 5)
  return dataclasses.replace(r, box=box, count=count)


def _number(r: Reader) -> jax.Array:
  """f32[...]: the number read. Too large becomes infinite, tiny zero."""
  power = r.shift + jnp.where(r.exponent_negative, -r.exponent, r.exponent)
  # Powers of ten up to 10^10 are exact in float32, so that an ordinary
  # coordinate is rounded once.
  tens = jnp.asarray([10.0**k for k in range(39)], jnp.float32)
  scale = tens[jnp.minimum(jnp.abs(power), 38)]
  value = r.mantissa.astype(jnp.float32)
  value = jnp.where(power < 0, value / scale, value * scale)
  # A mantissa is a whole number below 10^9.
  value = jnp.where(power > 38, jnp.inf, jnp.where(power < -38, 0.0, value))
  value = jnp.where(r.mantissa == 0, 0.0, value)
  return jnp.where(r.negative, -value, value)


def _read_string(r: Reader, action: jax.Array, byte: jax.Array) -> Reader:
  """Compares the open string, escapes decoded, with the known names."""
  opens = (action == Action.OPEN_KEY) | (action == Action.OPEN_STRING)
  # 0..9, A..F and a..f to their values.
  nibble = (byte & 15) + 9 * (byte >> 6)
  code = jnp.where(r.state == State.HEX_1, 0, r.code)
  code = jnp.where(
    (action == Action.HEX) | (action == Action.LAST_HEX),
    code * 16 + nibble,
    code,
  )
  char = jnp.where(action == Action.CHARACTER, byte, -2)
  char = jnp.where(
    action == Action.ESCAPED, jnp.asarray(json_grammar.ESCAPED)[byte], char
  )
  char = jnp.where(action == Action.LAST_HEX, code, char)
  complete = action == Action.CLOSE_STRING
  char = jnp.where(complete, -1, char)
  reads = (action >= Action.CLOSE_STRING) & (action != Action.HEX)
  width = _TARGETS.shape[1]
  # alike's bit k stays if name k has this character at this position.
  equal = jnp.asarray(_TARGETS)[:, jnp.minimum(r.position, width - 1)]
  bits = jnp.arange(4).reshape(4, *[1] * char.ndim)
  same = jnp.sum((equal == char).astype(jnp.int32) << bits, axis=0)
  alike = jnp.where(reads, r.alike & same, r.alike)
  return dataclasses.replace(
    r,
    code=code,
    is_key=jnp.where(opens, action == Action.OPEN_KEY, r.is_key),
    alike=jnp.where(opens, 15, alike),
    position=jnp.where(opens, 0, r.position + reads),
  )


def _read_meaning(r: Reader, action: jax.Array) -> Reader:
  """What a finished key or string, or a bracket, means for the call."""
  is_name = lambda k: (r.alike >> k) & 1 == 1
  string = action == Action.CLOSE_STRING
  key, text = string & r.is_key, string & ~r.is_key
  outer_key = key & (r.depth == 1)
  under = jnp.where(
    is_name(_NAME), _NAME, jnp.where(is_name(_ARGUMENTS), _ARGUMENTS, -1)
  )
  under = jnp.where(outer_key, under, r.under)
  inner_key = key & (r.depth == 2) & (r.under == _ARGUMENTS)
  under_box = jnp.where(inner_key, is_name(_BOX), r.under_box & ~outer_key)

  # A key named again makes its former value void.
  tool_found = r.tool_found & ~(outer_key & (under == _NAME))
  tool_found |= text & (r.depth == 1) & (r.under == _NAME) & is_name(_TOOL)
  void = (inner_key & under_box) | (outer_key & (under == _ARGUMENTS))

  opens_array = action == Action.OPEN_ARRAY
  other = opens_array | (action == Action.OPEN_OBJECT)
  other |= (action == Action.OPEN_STRING) | (action == Action.LITERAL)
  begins_box = opens_array & (r.depth == 2) & r.under_box
  among_numbers = r.in_box & (r.depth == 3)
  ends_box = among_numbers & (action == Action.CLOSE_ARRAY)
  broken = (r.broken & ~begins_box) | (among_numbers & other)
  return dataclasses.replace(
    r,
    under=under,
    under_box=under_box,
    tool_found=tool_found,
    box_found=(r.box_found & ~void) | (ends_box & ~broken & (r.count == 4)),
    broken=broken,
    count=jnp.where(begins_box, 0, r.count),
    in_box=(r.in_box | begins_box) & ~ends_box,
  )


def _read_brackets(r: Reader, state: jax.Array, action: jax.Array) -> Reader:
  """The stack of brackets, and the next state, which may depend on it."""
  is_open = r.depth > 0
  innermost = r.objects >> jnp.maximum(r.depth - 1, 0)
  in_object = is_open & (innermost & 1 == 1)
  in_array = is_open & ~in_object
  opens_object = action == Action.OPEN_OBJECT
  opens_array = action == Action.OPEN_ARRAY
  opens = opens_object | opens_array
  closes_object = action == Action.CLOSE_OBJECT
  closes_array = action == Action.CLOSE_ARRAY
  closes = is_open & (closes_object | closes_array)
  comma = action == Action.COMMA

  ends_key = (action == Action.CLOSE_STRING) & r.is_key
  state = jnp.where(comma & in_object, State.KEY, state)
  state = jnp.where(ends_key, State.COLON, state)
  error = (closes_object & ~in_object) | (closes_array & ~in_array)
  error |= (opens & (r.depth >= MAX_DEPTH)) | (comma & ~is_open)
  bit = 1 << jnp.minimum(r.depth, MAX_DEPTH)
  objects = jnp.where(opens, r.objects & ~bit, r.objects)
  return dataclasses.replace(
    r,
    state=jnp.where(error, State.ERROR, state),
    depth=r.depth + opens - closes,
    objects=jnp.where(opens_object, objects | bit, objects),
  )
