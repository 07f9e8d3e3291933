"""IEEE float64 in integers: multiply, divide and square root, bit by bit.

Devices compute in float32 here. Where a published rule was written in float64
and its last bit decides, this reproduces it, on any device, without the
global 64-bit switch. Numbers are positive and normal; each result is
rounded to nearest, ties to even, as the standard says.

A number is (high * 2^32 + low) * 2^exponent with a significand of exactly 53
bits. The algorithms are the schoolbook's: one bit of the result a step.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

_BITS = 53
_UNROLL = 6  # Steps a loop iteration: a step is only a few instructions.

# A whole number below 2^64 as two uint32: (high, low).
_Pair = tuple[jax.Array, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Float64:
  """A positive number: a significand of 53 bits times 2^exponent.

  Attributes:
    high: u32[...], the significand's upper 21 bits.
    low: u32[...], its lower 32 bits.
    exponent: i32[...].
  """

  high: jax.Array
  low: jax.Array
  exponent: jax.Array


def from_int(number: jax.Array | int) -> Float64:
  """A positive i32[...], exactly."""
  number = jnp.asarray(number, jnp.uint32)
  shift = lax.clz(number)
  top = number << shift
  return Float64(top >> 11, top << 21, -21 - shift.astype(jnp.int32))


def multiply(a: Float64, b: Float64) -> Float64:
  """a * b, broadcast: adds b for each bit of a, and moves right between."""
  a, b = _broadcast(a, b)
  zero = jnp.zeros_like(a.high)

  def step(_, carry):
    digits, product, guard, sticky = carry
    sticky, guard = sticky | guard, product[1] & 1
    product = _half(product)
    added = _add(product, (b.high, b.low))
    return _half(digits), _where(digits[1] & 1, added, product), guard, sticky

  _, product, guard, sticky = _repeat(
    _BITS, step, ((a.high, a.low), (zero, zero), zero, zero)
  )
  return _round(product, guard, sticky, a.exponent + b.exponent + _BITS - 1)


def divide(a: Float64, b: Float64) -> Float64:
  """a / b, broadcast: long division."""
  a, b = _broadcast(a, b)
  divisor = (b.high, b.low)
  smaller = ~_at_least((a.high, a.low), divisor)
  rest = _where(smaller, _double((a.high, a.low)), (a.high, a.low))

  def step(_, carry):
    quotient, rest = carry
    bit = _at_least(rest, divisor)
    rest = _where(bit, _subtract(rest, divisor), rest)
    high, low = _double(quotient)
    return (high, low | bit), _double(rest)

  zero = jnp.zeros_like(a.high)
  quotient, rest = _repeat(_BITS + 1, step, ((zero, zero), rest))
  exponent = a.exponent - b.exponent - smaller - _BITS
  return _round(quotient, zero, _any(rest), exponent)


def sqrt(a: Float64) -> Float64:
  """The square root: two bits of the radicand give one of the root."""
  odd = a.exponent % 2 == 1
  high, low = _where(odd, _double((a.high, a.low)), (a.high, a.low))
  digits = (high << 10 | low >> 22, low << 10)
  zero = jnp.zeros_like(a.high)

  def step(_, carry):
    digits, root, rest = carry
    rest = _double(_double(rest))
    rest = (rest[0], rest[1] | digits[0] >> 30)
    high, low = _double(_double(root))
    trial = (high, low | 1)
    bit = _at_least(rest, trial)
    rest = _where(bit, _subtract(rest, trial), rest)
    high, low = _double(root)
    return _double(_double(digits)), (high, low | bit), rest

  _, root, rest = _repeat(_BITS + 1, step, (digits, (zero, zero), (zero, zero)))
  exponent = (a.exponent - odd - (_BITS + 1)) // 2
  return _round(root, zero, _any(rest), exponent)


def floor(a: Float64) -> jax.Array:
  """The whole part i32[...] of a number below 2^31."""
  return _cut(a)[0]


def ceil(a: Float64) -> jax.Array:
  """The next whole number i32[...] of a number below 2^31."""
  whole, rest = _cut(a)
  return whole + (rest != 0)


def _cut(a: Float64) -> tuple[jax.Array, jax.Array]:
  """The whole part i32, and bits that are zero if that is all."""
  shift = jnp.clip(-a.exponent, _BITS - 31, _BITS).astype(jnp.uint32)
  short = jnp.minimum(shift, 31)  # A shift by 32 bits has no defined result.
  long = jnp.maximum(shift, 32) - 32
  is_short = shift < 32
  whole = jnp.where(
    is_short, a.high << (32 - short) | a.low >> short, a.high >> long
  )
  rest = jnp.where(
    is_short,
    a.low << (32 - short),
    a.low | (a.high & ((jnp.uint32(1) << long) - 1)),
  )
  return whole.astype(jnp.int32), rest


def _round(
  pair: _Pair, guard: jax.Array, sticky: jax.Array, exponent: jax.Array
) -> Float64:
  """Rounds 53 or 54 bits, one guard bit and a sticky rest to 53 bits."""
  long = pair[0] >= 1 << (_BITS - 32)
  sticky = jnp.where(long, sticky | guard, sticky)
  guard = jnp.where(long, pair[1] & 1, guard)
  pair = _where(long, _half(pair), pair)
  up = guard & (sticky | pair[1]) & 1
  high, low = _add(pair, (jnp.zeros_like(up), up))
  carried = high >> (_BITS - 32)  # All ones became 2^53: halve, exactly.
  return Float64(
    high >> carried, low, exponent + long + carried.astype(jnp.int32)
  )


def _repeat(count: int, step: Callable[..., Any], carry: Any) -> Any:
  return lax.fori_loop(0, count, step, carry, unroll=_UNROLL)


def _broadcast(a: Float64, b: Float64) -> tuple[Float64, Float64]:
  shape = jnp.broadcast_shapes(a.high.shape, b.high.shape)
  return jax.tree.map(lambda x: jnp.broadcast_to(x, shape), (a, b))


def _where(condition: jax.Array, a: _Pair, b: _Pair) -> _Pair:
  return (jnp.where(condition, a[0], b[0]), jnp.where(condition, a[1], b[1]))


def _any(a: _Pair) -> jax.Array:
  return ((a[0] | a[1]) != 0).astype(jnp.uint32)


def _at_least(a: _Pair, b: _Pair) -> jax.Array:
  return (a[0] > b[0]) | ((a[0] == b[0]) & (a[1] >= b[1]))


def _double(a: _Pair) -> _Pair:
  return a[0] << 1 | a[1] >> 31, a[1] << 1


def _half(a: _Pair) -> _Pair:
  return a[0] >> 1, a[1] >> 1 | a[0] << 31


def _add(a: _Pair, b: _Pair) -> _Pair:
  low = a[1] + b[1]
  return a[0] + b[0] + (low < a[1]), low


def _subtract(a: _Pair, b: _Pair) -> _Pair:
  return a[0] - b[0] - (a[1] < b[1]), a[1] - b[1]
