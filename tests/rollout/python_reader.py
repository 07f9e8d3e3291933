"""Tool calls read with Python's json and re: the tests' oracle."""

import json
import re

import numpy as np

from lfpc_jax.rollout import call_json
from lfpc_jax.rollout.tool_call import CallStatus


class _NotANumber:
  """What NaN and Infinity become."""


def _depth(text: str) -> int:
  depth = deepest = 0
  for char in re.sub(r'"(?:[^"\\]|\\.)*"', "", text):
    depth += (char in "[{") - (char in "]}")
    deepest = max(deepest, depth)
  return deepest


def read_turn(data: bytes, max_bytes: int):
  """The (CallStatus, box f32[4] or None) of a turn's bytes."""
  calls = re.findall(
    rb"<tool_call>((?:(?!<tool_call>).)*?)</tool_call>", data, re.DOTALL
  )
  if not calls:
    return CallStatus.NONE, None
  if len(calls[-1]) > max_bytes:
    return CallStatus.TOO_LONG, None
  try:
    text = calls[-1].decode()
    value = json.loads(
      text, parse_int=float, parse_constant=lambda _: _NotANumber()
    )
  except ValueError:
    return CallStatus.NOT_JSON, None
  if _depth(text) > call_json.MAX_DEPTH:
    return CallStatus.NOT_JSON, None
  if not (
    isinstance(value, dict) and value.get("name") == "image_zoom_in_tool"
  ):
    return CallStatus.WRONG_TOOL, None
  arguments = value.get("arguments")
  box = arguments.get("bbox_2d") if isinstance(arguments, dict) else None
  if not (
    isinstance(box, list)
    and len(box) == 4
    and all(type(side) is float for side in box)
  ):
    return CallStatus.WRONG_ARGUMENTS, None
  with np.errstate(over="ignore"):
    return CallStatus.OK, np.array(box).astype(np.float32)
