"""The commands that the documents show, out of what wraps them."""

import pathlib
import re
import shlex

ROOT = pathlib.Path(__file__).parents[1]
PAGES = (
  ROOT / "README.md",
  *sorted((ROOT / "docs").glob("*.md")),
  *sorted((ROOT / "experiments").rglob("*.md")),
)
_PROGRAMS = (
  "python", "make", "sh", "srun", "gcloud", "pip", "pytest", "tensorboard",
  "apt", "source",
)  # fmt: skip
_START = re.compile(
  rf"(?:\S*/)?(?:python3\.11|{'|'.join(_PROGRAMS)}) +[^ |=]|lfpc-"
)
_BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def lines(block):
  """A block's lines; a line goes on after a backslash or an open quote."""
  parts = []
  for line in block.replace("\\\n", " ").splitlines():
    if parts and parts[-1].count("'") % 2:
      parts[-1] += " " + line
    else:
      parts.append(line)
  return parts


def blocks(text):
  """The fenced blocks of a page."""
  return _BLOCK.findall(text)


def below(text, heading):
  """What a page has from a heading to the next one."""
  rest = text[text.index(f"\n{heading}\n") + len(heading) + 2 :]
  return rest[: rest.index("\n#")]


def shown():
  """All commands, comments and extra spaces left out: (page, command)."""
  found = set()
  for page in PAGES:
    text = page.read_text()
    code = [line for block in blocks(text) for line in lines(block)]
    code += re.findall(r"`([^`]+)`", _BLOCK.sub("", text))
    for line in code:
      command = " ".join(re.sub(r"\s#\s.*", "", line).split())
      if _START.match(command):
        found.add((page.relative_to(ROOT).as_posix(), command))
  return found


def inner(command):
  """The commands that one command runs on other machines, or itself."""
  words = shlex.split(command)
  if words[0] == "srun":
    start = next((k for k, w in enumerate(words) if "python" in w), None)
    return [] if start is None else inner(shlex.join(words[start:]))
  if words[0] == "gcloud":
    scripts = [w.partition("=")[2] for w in words if w.startswith("--command=")]
    parts = [part.strip() for text in scripts for part in text.split("&&")]
    return [x for part in parts if _START.match(part) for x in inner(part)]
  name = re.fullmatch(r"(?:\S*/)?(python|pip)[\d.]*", words[0])
  return [shlex.join([name[1], *words[1:]])] if name else [command]


def run():
  """The commands that a test runs, by page and heading, in their order."""
  found = {}
  for name, heading in (
    ("README.md", "## Use it"),
    ("docs/data.md", "## Your own pictures"),
  ):
    part = below((ROOT / name).read_text(), heading)
    code = [line for block in blocks(part) for line in lines(block)]
    commands = [" ".join(re.sub(r"\s#\s.*", "", c).split()) for c in code]
    found[name] = [c for c in commands if c.startswith("python ")]
  return found
