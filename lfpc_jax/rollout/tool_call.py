"""The tool call of a turn, read from token ids inside the compiled rollout.

    tokens -> the turn's last bytes -> the last <tool_call>..</tool_call>
           -> its JSON, byte by byte -> four numbers, or why there are none

Tags are found in the bytes, so that a tag may be one token or be spelled out,
and a token may hold a tag's end and more. A call is a `<tool_call>` and the
first `</tool_call>` after it; the call with the last such opening tag counts.
"""

import dataclasses
import enum
from typing import Self

import jax
import jax.numpy as jnp

from lfpc_jax.image.boxes import BoxStatus
from lfpc_jax.rollout import call_json

_OPEN, _CLOSE = b"<tool_call>", b"</tool_call>"


class CallStatus(enum.IntEnum):
  """What a turn's text says about the tool."""

  NONE = 0  # there is no complete call
  OK = 1
  NOT_JSON = 2  # not UTF-8, not JSON, or nested too deeply
  WRONG_TOOL = 3  # not an object whose "name" is the crop tool's
  WRONG_ARGUMENTS = 4  # no "arguments" with four numbers as "bbox_2d"
  TOO_LONG = 5  # more bytes than `max_bytes`


class Failure(enum.IntEnum):
  """Why a turn's call gives no crop: one error text each."""

  NOT_JSON = 0
  WRONG_TOOL = 1
  WRONG_ARGUMENTS = 2
  TOO_LONG = 3
  BOX_NOT_FINITE = 4
  BOX_EMPTY = 5
  BOX_TOO_THIN = 6
  NO_CROPS_LEFT = 7


_OF_CALL = {
  CallStatus.NOT_JSON: Failure.NOT_JSON,
  CallStatus.WRONG_TOOL: Failure.WRONG_TOOL,
  CallStatus.WRONG_ARGUMENTS: Failure.WRONG_ARGUMENTS,
  CallStatus.TOO_LONG: Failure.TOO_LONG,
}
_OF_BOX = {
  BoxStatus.NOT_FINITE: Failure.BOX_NOT_FINITE,
  BoxStatus.EMPTY: Failure.BOX_EMPTY,
  BoxStatus.TOO_THIN: Failure.BOX_TOO_THIN,
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ByteTable:
  """The bytes of each token: u8[V, M], zero after the end, and i32[V]."""

  bytes: jax.Array
  lengths: jax.Array

  @classmethod
  def of(cls, tokenizer, vocab_size: int | None = None) -> Self:
    """The table of a `Tokenizer`, with a row for each of the model's ids."""
    return cls(*map(jnp.asarray, tokenizer.token_bytes(vocab_size)))


def read_call(
  tokens: jax.Array,
  start: jax.Array,
  end: jax.Array,
  table: ByteTable,
  max_bytes: int = 512,
) -> tuple[jax.Array, jax.Array]:
  """Reads the tool call that a turn's tokens spell.

  Numbers too large for float32 are infinite, with status OK: the box's own
  check refuses them. The literals NaN and Infinity are wrong arguments.

  Args:
    tokens: i32[..., T] ids. An id outside the table has no bytes.
    start: i32[...] the turn's first token.
    end: i32[...] one after the turn's last token.
    table: each token's bytes.
    max_bytes: the longest JSON that is read. Only the last 2 * max_bytes + 32
      bytes of the turn are searched (a turn ends with its call, so that
      little follows one); a closing tag there without its opening tag, in a
      turn that is longer, is TOO_LONG.

  Returns:
    CallStatus i32[...], and the box f32[..., 4] as written; zeros unless OK.
  """
  window, size, is_cut = _last_bytes(
    tokens, start, end, table, 2 * max_bytes + 32
  )
  first, stop, found, is_headless = _find_call(window, size)
  length = jnp.where(found, stop - first, 0)
  too_long = (is_cut & is_headless) | (length > max_bytes)
  # Rows without a call read nothing.
  length = jnp.where(length > max_bytes, 0, length)
  slots = jnp.arange(max_bytes + 1)
  place = jnp.minimum(first[..., None] + slots, window.shape[-1] - 1)
  content = jnp.take_along_axis(window, place, axis=-1)
  # The space after the end makes a number at the end complete.
  content = jnp.where(slots < length[..., None], content, ord(" "))
  reader = _read_json(content, length)
  status = jnp.select(
    [
      too_long,
      ~found,
      ~call_json.is_json(reader),
      ~reader.tool_found,
      ~reader.box_found,
    ],
    [
      CallStatus.TOO_LONG,
      CallStatus.NONE,
      CallStatus.NOT_JSON,
      CallStatus.WRONG_TOOL,
      CallStatus.WRONG_ARGUMENTS,
    ],
    CallStatus.OK,
  ).astype(jnp.int32)
  is_ok = (status == CallStatus.OK)[..., None]
  return status, jnp.where(is_ok, reader.box, 0.0)


def find_failure(
  call_status: jax.Array, box_status: jax.Array, crops_left: jax.Array
) -> jax.Array:
  """The first thing that keeps a call from its crop.

  Args:
    call_status: CallStatus i32[...].
    box_status: BoxStatus i32[...]; counts only where the call is OK.
    crops_left: i32[...] crops that the episode may still be given; counts
      only where the box is valid.

  Returns:
    Failure i32[...], or -1: a good call, or no call at all.
  """
  is_ok = call_status == CallStatus.OK
  is_valid = is_ok & (box_status == BoxStatus.VALID)
  cases = [
    (call_status == status, failure) for status, failure in _OF_CALL.items()
  ]
  cases += [
    (is_ok & (box_status == status), failure)
    for status, failure in _OF_BOX.items()
  ]
  cases.append((is_valid & (crops_left <= 0), Failure.NO_CROPS_LEFT))
  conditions, failures = zip(*cases)
  return jnp.select(conditions, failures, -1).astype(jnp.int32)


def failure_of(status: Failure | CallStatus | BoxStatus) -> Failure:
  """The failure that a status stands for.

  Raises:
    ValueError: the status is not a failure.
  """
  if isinstance(status, Failure):
    return status
  # By type: the members are integers, and equal across the two enumerations.
  known = {CallStatus: _OF_CALL, BoxStatus: _OF_BOX}[type(status)]
  if status not in known:
    raise ValueError(f"{status!r} is not a failure and has no error text.")
  return known[status]


def _last_bytes(
  tokens: jax.Array,
  start: jax.Array,
  end: jax.Array,
  table: ByteTable,
  size: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The last bytes of the tokens [start, end), from slot 0 on.

  Returns:
    i32[..., size] bytes, how many of them there are, and whether the turn has
    more bytes than that.
  """
  rows, width = table.bytes.shape
  # A token has a byte, so that `size` tokens fill the window.
  kept = min(tokens.shape[-1], size)
  index = end[..., None] - kept + jnp.arange(kept)
  known = index >= jnp.maximum(start, 0)[..., None]
  tokens = jnp.take_along_axis(
    tokens, jnp.clip(index, 0, tokens.shape[-1] - 1), axis=-1
  )
  known &= (tokens >= 0) & (tokens < rows)
  tokens = jnp.where(known, tokens, 0)
  lengths = jnp.where(known, table.lengths[tokens], 0)
  ends = jnp.cumsum(lengths, axis=-1)
  total = ends[..., -1:]
  skipped = jnp.maximum(total - size, 0)
  offset = skipped + jnp.arange(size)
  token_of = jnp.minimum(_count_not_above(ends - skipped, size), kept - 1)
  begin = jnp.take_along_axis(ends - lengths, token_of, axis=-1)
  token = jnp.take_along_axis(tokens, token_of, axis=-1)
  byte = table.bytes.reshape(-1)[
    token * width + jnp.minimum(offset - begin, width - 1)
  ]
  byte = jnp.where(offset < total, byte.astype(jnp.int32), 0)
  is_cut = (skipped[..., 0] > 0) | (end - start > kept)
  return byte, (total - skipped)[..., 0], is_cut


def _count_not_above(ends: jax.Array, size: int) -> jax.Array:
  """For each offset 0, 1, .. size - 1, how many `ends` are not above it."""

  def count(ends):
    ones = (
      jnp.zeros(size, jnp.int32).at[jnp.maximum(ends, 0)].add(1, mode="drop")
    )
    return jnp.cumsum(ones)

  return jnp.vectorize(count, signature="(k)->(s)")(ends)


def _find_call(
  window: jax.Array, size: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Where the last call's JSON begins and ends in the window.

  Returns:
    First and stop i32[...], whether there is a call, and whether there is a
    closing tag without any opening tag before it.
  """
  slots = window.shape[-1]
  place = jnp.arange(slots)
  opens = _occurrences(window, _OPEN)
  closes = _occurrences(window, _CLOSE)
  last_close = jnp.max(jnp.where(closes, place, -1), axis=-1)
  first = jnp.max(
    jnp.where(opens & (place + len(_OPEN) <= last_close[..., None]), place, -1),
    axis=-1,
  )
  found = first >= 0
  first = first + len(_OPEN)
  stop = jnp.min(
    jnp.where(closes & (place >= first[..., None]), place, slots), axis=-1
  )
  return first, stop, found, (last_close >= 0) & ~found


def _occurrences(window: jax.Array, tag: bytes) -> jax.Array:
  """bool[..., W]: the tag begins here. Bytes after the text are zero."""
  padding = [(0, 0)] * (window.ndim - 1) + [(0, len(tag))]
  padded = jnp.pad(window, padding)
  found = jnp.ones(window.shape, bool)
  for k, char in enumerate(tag):
    found &= padded[..., k : k + window.shape[-1]] == char
  return found


def _read_json(content: jax.Array, length: jax.Array) -> call_json.Reader:
  """Runs the automaton over each row's bytes i32[..., max_bytes + 1].

  The loop's length is known before it starts: on a mesh, no step asks the
  other devices whether they have finished.
  """
  reader = call_json.start(length.shape)
  by_place = jnp.moveaxis(content, -1, 0)
  steps = jnp.where(jnp.any(length > 0), jnp.max(length) + 1, 0)
  return jax.lax.fori_loop(
    0, steps, lambda k, reader: call_json.step(reader, by_place[k]), reader
  )
