"""What the TPU compiler says of a program that has no room."""

from __future__ import annotations

import dataclasses
import re

_UNITS = {"": 1.0, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# The compiler names all that a program needs, or what it makes by itself.
_FULL = re.compile(
  r"(?P<all>Used |temporaries \()(?P<size>[\d.]+)(?P<unit>[KMGT])"
  r"(?: of|\) exceeds)",
  re.IGNORECASE,
)
_ALLOCATION = re.compile(
  r"^ *\d+\. Size: (?P<size>[\d.]+)(?P<unit>[KMGT]?)B?$(?P<rest>.*?)={9,}",
  re.MULTILINE | re.DOTALL,
)
_SHAPE = re.compile(r"Shape: (\S+)")
_OPERATOR = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Allocation:
  """An array that a refused program would keep.

  Attributes:
    bytes: on one device, padding included.
    shape: with its layout, as the compiler writes it.
    operator: what makes it, '' where that is not said.
  """

  bytes: float
  shape: str
  operator: str


def wanted(text: str) -> tuple[float, bool] | None:
  """Bytes on one device, and whether they are all that the program needs.

  Args:
    text: of the compiler's error.

  Returns:
    None where it speaks of no memory; not all are what the program makes
    beside its arguments.
  """
  full = _FULL.search(text)
  if full is None:
    return None
  size = float(full["size"]) * _UNITS[full["unit"].upper()]
  return size, full["all"].lower().startswith("used")


def largest(text: str, number: int = 5) -> list[Allocation]:
  """The largest allocations that the error lists; often it lists none."""
  found = [
    Allocation(
      float(one["size"]) * _UNITS[one["unit"]],
      "".join(_SHAPE.findall(one["rest"])[:1]),
      "".join(_OPERATOR.findall(one["rest"])[:1]),
    )
    for one in _ALLOCATION.finditer(text)
  ]
  return sorted(found, key=lambda x: -x.bytes)[:number]
