"""What a judge's settings may be; light, so that every config is checked.

A key or a password that stands in them by mistake would be printed and stored
with the config. No message shows the value that it refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
import os
import re
from typing import Any
import urllib.parse

from lfpc_jax.errors import UserError

_UNSHOWN = "; what stands there is not shown, as it may be a key"
# Most keys have small letters or hyphens, names of variables by custom neither.
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
# For fields that a config leaves to `judge.JudgeConfig`.
_ABSENT = dict(
  url="", model="", key_variable="_", threads=1, attempts=1, timeout=1.0
)


def check_config(config: Mapping[str, Any]) -> None:
  """Refuses a config whose section `eval.judge` no judge can have.

  Raises:
    UserError: names the field; no value that may be a secret.
  """
  settings = config.get("eval", {}).get("judge")
  if not settings:
    return
  settings = _ABSENT | dict(settings)
  check_variable(settings["key_variable"])
  if not settings["url"]:
    return
  check(settings)
  read_key(settings["key_variable"])
  if not settings["model"]:
    raise UserError(
      "eval.judge.url is set, but eval.judge.model is empty: name the model "
      "as the judge's API does"
    )


def check(settings: Mapping[str, Any]) -> None:
  """Refuses fields of a `judge.JudgeConfig`.

  Raises:
    UserError: names the field; no value that may be a secret.
  """
  check_variable(settings["key_variable"])
  _check_url(settings["url"], settings["key_variable"])
  threads, attempts = settings["threads"], settings["attempts"]
  timeout = settings["timeout"]
  if threads < 1 or attempts < 1 or not timeout > 0:
    raise UserError(
      f"judge threads={threads}, attempts={attempts}, timeout={timeout}: all "
      "must be positive"
    )


def check_variable(name: str) -> None:
  """Refuses what is no name of an environment variable, a key perhaps.

  Raises:
    UserError: it is none.
  """
  if not _VARIABLE.fullmatch(name):
    raise UserError(
      "judge key_variable: give the name of an environment variable, in "
      "capital letters, such as LFPC_JUDGE_KEY, and put the key into it"
      f"{_UNSHOWN}"
    )


def read_key(variable: str) -> str:
  """The key that an environment variable holds; '' if it is unset.

  Raises:
    UserError: a character of it cannot be sent.
  """
  key = os.environ.get(variable, "").strip()
  if not all("!" <= character <= "~" for character in key):
    raise UserError(
      f"the key in the environment variable {variable} holds a character that"
      " cannot be sent: set it again"
    )
  return key


def _check_url(url: str, variable: str) -> None:
  try:
    parts = urllib.parse.urlsplit(url)
    whole = parts.scheme in ("http", "https") and bool(parts.hostname)
    _ = parts.port  # must be a number
  except ValueError:
    whole = False
  if not whole:
    raise UserError(
      "judge url: give the address of an API, such as 'http://host:8000/v1'"
      f"{_UNSHOWN}"
    )
  if "@" in url or parts.query or parts.fragment:
    raise UserError(
      "judge url: leave out user, password and query; the key belongs into the "
      f"variable {variable}"
    )
