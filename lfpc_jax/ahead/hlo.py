"""The collectives of a compiled program, read from its text."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import re

KINDS = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)
BETWEEN = "between slices"  # how the kinds of what leaves a slice end
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(
  r"^\s+(?:ROOT )?%?[\w.\-]+ = (\(.*?\)|\S+) ([\w\-]+)\((.*)$"
)
_CALLED = re.compile(
  r"(?:body|to_apply|calls|condition|true_computation|false_computation)"
  r"=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_CONSTANT = re.compile(r" = s32\[\]\S* constant\((\d+)\)")
_CHANNEL = re.compile(r"channel_id=(\d+)")
# Between slices a collective is a message of the host to other hosts.
_MESSAGE = re.compile(r'_xla_megascale_transfer_type="([A-Z_]+)"')
_ARRAY = re.compile(r"\b(pred|[subf]\d+|bf16|f8\w*|c64)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
  """A collective of the program, as often as it runs.

  Attributes:
    kind: one of `KINDS`, or what ends in `BETWEEN`.
    shape: of its result, as the program writes it.
    bytes: of its result on one device, or of what it sends to other slices.
    times: how often it runs; in a loop whose length is data, once for each of
      that loop's steps.
    open_loop: whether it is in such a loop.
  """

  kind: str
  shape: str
  bytes: int
  times: int
  open_loop: bool

  @property
  def leaves(self) -> bool:
    """Whether it goes to another slice."""
    return self.kind.endswith(BETWEEN)


def collectives(text: str) -> list[Collective]:
  """All collectives of a program, from `compiled.as_text()`."""
  bodies, entry = _computations(text)
  found, channels = [], set()
  for channel, collective in _walk(bodies, entry, 1, False):
    # An asynchronous one stands in several fusions, as start, middle and end.
    # Messages between slices count their channels anew.
    known = (collective.leaves, channel)
    if channel is None or known not in channels:
      found.append(collective)
      channels.add(known)
  return found


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
  bodies: dict[str, list[str]] = {}
  current, entry = None, ""
  for line in text.splitlines():
    start = _COMPUTATION.match(line)
    if start:
      current = start.group(2)
      bodies[current] = []
      entry = current if start.group(1) else entry
    elif current is not None:
      bodies[current].append(line)
  return bodies, entry


def _trips(bodies: dict[str, list[str]], rest: str) -> int | None:
  """How often a loop runs, if that is known: a scan counts up from 0."""
  noted = _TRIPS.search(rest)
  if noted:
    return int(noted.group(1))
  condition = _CONDITION.search(rest)
  lines = bodies.get(condition.group(1), []) if condition else []
  limits = [n for line in lines for n in _CONSTANT.findall(line)]
  root = next((line for line in lines if "ROOT" in line), "")
  counts = " compare(" in root and "direction=LT" in root
  return int(limits[0]) if counts and len(limits) == 1 else None


def _walk(
  bodies, name, times: int, in_open: bool
) -> Iterator[tuple[str | None, Collective]]:
  for line in bodies.get(name, ()):
    found = _INSTRUCTION.match(line)
    if not found:
      continue
    shape, operation, rest = found.groups()
    kind = operation.removesuffix("-start")
    message = _MESSAGE.search(rest) if operation == "send" else None
    if message:
      kind = f"{message.group(1).lower().replace('_', '-')} {BETWEEN}"
    if message or kind in KINDS:
      channel = _CHANNEL.search(rest)
      size = _bytes(shape, kind)
      yield (
        channel and channel.group(1),
        Collective(kind, shape, size, times, in_open),
      )
      continue
    # A collective may also hide in a fusion that overlaps it with compute.
    inner, inner_open = times, in_open
    if operation == "while":
      trips = _trips(bodies, rest)
      inner = times * (1 if trips is None else trips)
      inner_open = in_open or trips is None
    called = _CALLED.findall(rest)
    for branches in _BRANCHES.findall(rest):
      called += [part.strip().lstrip("%") for part in branches.split(",")]
    for other in called:
      yield from _walk(bodies, other, inner, inner_open)


def _bytes(shape: str, kind: str) -> int:
  """Bytes of a result; an asynchronous one also names its operands first."""
  sizes = []
  for dtype, dims in _ARRAY.findall(shape):
    bits = 8 if dtype == "pred" else int(re.search(r"\d+", dtype).group())
    count = 1
    for n in filter(None, dims.split(",")):
      count *= int(n)
    sizes.append(count * bits // 8)
  if shape.startswith("(") and kind != "all-reduce" and len(sizes) > 1:
    return max(sizes)
  return sum(sizes)
