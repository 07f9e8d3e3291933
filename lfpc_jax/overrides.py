"""Changes of single config fields, as a command line gives them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
import difflib
from typing import Any

import ml_collections

from lfpc_jax.errors import UserError

_SEEDS = 1 << 32
_BOOLS = {"true": True, "1": True, "false": False, "0": False}


def apply_overrides(
  config: ml_collections.ConfigDict, changes: Iterable[str]
) -> None:
  """Sets fields of `config` in place.

  Args:
    config: the config to change.
    changes: `field.subfield=value` each. A value has the field's type: a
      tuple is written `(2,2)` or `2,2`; an unset field (None) takes a value
      of its declared type, or any plain value if none was declared.

  Raises:
    UserError: an unknown field, or a value of another type.
  """
  for change in changes:
    path, equals, text = change.partition("=")
    if not equals:
      raise UserError(f"--config.{change}: give a value, as in {path}=...")
    group, name = _find(config, path)
    group[name] = _parse(path, text, group, name)


def check_seeds(config: Mapping[str, Any]) -> None:
  """Refuses seeds that no generator takes.

  Raises:
    UserError: a field named seed, or so at its end, is out of range.
  """
  for path, value in flatten(config).items():
    if path.endswith("seed") and not 0 <= value < _SEEDS:
      raise UserError(f"{path}={value}: must be from 0 to {_SEEDS - 1}")


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Fields by their dotted path, groups opened."""
  fields = {}
  for name, value in config.items():
    if isinstance(value, Mapping | ml_collections.ConfigDict):
      fields |= flatten(value, f"{prefix}{name}.")
    else:
      fields[prefix + name] = value
  return fields


def _find(
  config: ml_collections.ConfigDict, path: str
) -> tuple[ml_collections.ConfigDict, str]:
  """The group that holds a field, and the field's name in it."""
  group: Any = config
  *parents, name = path.split(".")
  for parent in parents:
    group = group[parent] if _is_group(group) and parent in group else None
  if not _is_group(group) or name not in group:
    raise UserError(f"--config.{path}: no such field; {_nearest(path, config)}")
  if _is_group(group[name]):
    inside = ", ".join(f"{path}.{field}" for field in group[name])
    raise UserError(f"--config.{path} is a group; set a field of it: {inside}")
  return group, name


def _nearest(path: str, config: ml_collections.ConfigDict) -> str:
  """The known field that looks most like `path`, by path or by last name."""
  known = list(flatten(config))
  near = difflib.get_close_matches(path, known, n=1)
  if not near:
    last = {field.rpartition(".")[2]: field for field in known}
    name = path.rpartition(".")[2]
    near = [last[n] for n in difflib.get_close_matches(name, last, n=1)]
  if near:
    return f"did you mean {near[0]}?"
  return f"known: {', '.join(known)}"


def _parse(
  path: str, text: str, group: ml_collections.ConfigDict, name: str
) -> Any:
  kind = group.get_type(name)
  if text == "None" and group[name] is None:
    return None
  try:
    return _value(text, kind, group[name])
  except (ValueError, SyntaxError, TypeError) as error:
    raise UserError(
      f"--config.{path}={text}: not a value of type {kind.__name__} (it is "
      f"{group[name]!r} by default)"
    ) from error


def _value(text: str, kind: type, before: Any) -> Any:
  if kind is bool:
    if text.lower() not in _BOOLS:
      raise ValueError(text)
    return _BOOLS[text.lower()]
  if kind in (int, float, str):
    return kind(text)
  if kind is type(None) or kind is object:
    return _literal(text)
  if kind in (tuple, list):
    return _tuple(text, before or ())
  raise TypeError(f"fields of type {kind.__name__} cannot be set by a flag")


def _tuple(text: str, before: tuple[Any, ...]) -> tuple[Any, ...]:
  """A tuple whose elements have the type that all elements before had."""
  value = _literal(text)
  if isinstance(value, str):  # a,b without quotes
    bare = text.strip().removeprefix("(").removesuffix(")")
    value = tuple(part.strip() for part in bare.split(",") if part.strip())
  value = tuple(value) if isinstance(value, tuple | list) else (value,)
  kinds = {type(x) for x in before}
  if len(kinds) != 1 or not kinds & {int, float, str, bool}:
    return value
  kind = kinds.pop()
  if kind is float:
    value = tuple(float(x) for x in value)
  if any(type(x) is not kind for x in value):
    raise ValueError(text)
  return value


def _literal(text: str) -> Any:
  """A Python literal, or the text itself where it is none."""
  try:
    return ast.literal_eval(text)
  # The last two: thousands of brackets or signs.
  except (ValueError, SyntaxError, RecursionError, MemoryError):
    return text


def _is_group(value: Any) -> bool:
  return isinstance(value, ml_collections.ConfigDict)
