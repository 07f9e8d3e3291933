r"""LaTeX around an answer, as models write it and training sets keep it.

    \boxed{B}    $7$    $$7$$    \(7\)    \[7\]    \text{red}    \frac{1}{2}

Only what encloses a WHOLE answer is taken off, so that "\boxed{A} or
\boxed{B}" still names no single one, and "$5" stays an amount. Fractions of
two numbers become 1/2 wherever they stand. Every pass is linear.
"""

import re

_DEPTH = 4  # of one in another: $\boxed{\text{B}}$
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_COMMANDS = (r"\boxed{", r"\text{", r"\textbf{", r"\mathrm{", r"\mathbf{")
_FRACTION = re.compile(
  r"(?P<before>(?<=[0-9./]))?\\[dt]?frac"
  r"(?:\{(?P<a>-?[0-9]{1,20})\}\{(?P<b>[0-9]{1,20})\}"
  r"|(?P<c>[0-9])(?P<d>[0-9]))"
  r"(?P<after>(?=[0-9.]))?"
)


def plain(text: str) -> str:
  """The text without the LaTeX that encloses all of it."""
  text = text.strip()
  for _ in range(_DEPTH):
    inner = _inner(text) or _inner(text.removesuffix("."))
    if not inner:
      break
    text = inner
  return _FRACTION.sub(_fraction, text) if "frac" in text else text


def _inner(text: str) -> str:
  """What the outermost pair encloses; '' if none encloses all."""
  for opening, closing in _DELIMITERS:
    if text.startswith(opening) and text.endswith(closing):
      inner = text[len(opening) : -len(closing)]
      if not any(mark in inner for mark in (opening, closing, "$")):
        return inner.strip()
  command = next((c for c in _COMMANDS if text.startswith(c)), "")
  if command and _closes_at_the_end(text, len(command)):
    return text[len(command) : -1].strip()
  return ""


def _closes_at_the_end(text: str, start: int) -> bool:
  """Whether the brace before `start` is closed by the last character."""
  depth = 1
  for place in range(start, len(text)):
    depth += (text[place] == "{") - (text[place] == "}")
    if depth == 0:
      return place == len(text) - 1
  return False


def _fraction(match: re.Match[str]) -> str:
  """1/2; apart from digits beside it, as in the mixed number 3 1/2."""
  above, below = match["a"] or match["c"], match["b"] or match["d"]
  before = "" if match["before"] is None else " "
  after = "" if match["after"] is None else " "
  return f"{before}{above}/{below}{after}"
