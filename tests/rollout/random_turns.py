"""Random turns with tool calls: most nearly right, some right."""

from lfpc_jax.data.tokenizer import Verbatim

OPEN, CLOSE = "<tool_call>", "</tool_call>"


def _number(rng):
  return rng.choice(
    [
      lambda: str(rng.randrange(1000)),
      lambda: str(rng.randrange(1000)),
      lambda: str(rng.randrange(-50, 10 ** rng.randrange(1, 12))),
      lambda: f"{rng.uniform(-10, 2000):.{rng.randrange(1, 9)}f}",
      lambda: f"{rng.uniform(0, 9)}e{rng.randrange(-40, 45)}",
      lambda: rng.choice(["-0", "0.0", "1E3", "2e+1", "1e400", "12e-1"]),
    ]
  )()


def _string(rng):
  parts = [
    "a",
    "red",
    " ",
    "é",
    "图",
    "🙂",
    "\\n",
    '\\"',
    "\\\\",
    "\\/",
    "\\u0041",
    "\\ud83d",
    "{",
    "]",
    ",",
    "name",
    "bbox_2d",
    "\x7f",
  ]
  return '"' + "".join(rng.choices(parts, k=rng.randrange(5))) + '"'


def _any_value(rng, depth=0):
  kind = rng.randrange(8 if depth < 3 else 6)
  if kind < 2:
    return _number(rng)
  if kind < 4:
    return _string(rng)
  if kind < 6:
    return rng.choice(["true", "false", "null", "NaN", "Infinity", "-Infinity"])
  items = [_any_value(rng, depth + 1) for _ in range(rng.randrange(4))]
  if kind == 6:
    return "[" + ",".join(items) + "]"
  keys = ['"name"', '"arguments"', '"bbox_2d"', '"x"']
  return "{" + ", ".join(f"{rng.choice(keys)}: {v}" for v in items) + "}"


def _escape(rng, text):
  """Writes some of a name's characters as escapes."""
  return "".join(
    f"\\u{ord(c):04{rng.choice('xX')}}" if rng.random() < 0.2 else c
    for c in text
  )


def _members(rng, key, value):
  """An object's members: usually the right one, maybe others about it."""
  name = lambda text: (
    '"' + (_escape(rng, text) if rng.random() < 0.1 else text) + '"'
  )
  members = [(name(key), value)] if rng.random() < 0.96 else []
  while rng.random() < 0.2:
    other = rng.choice([key, "label", "name", "arguments", key[:-1]])
    members.insert(
      rng.randrange(len(members) + 1), (name(other), _any_value(rng))
    )
  return members


def _json(rng):
  space = lambda: rng.choice(["", "", "", " ", "\n", "\t", "\r\n"])
  count = 4 if rng.random() < 0.95 else rng.randrange(7)
  numbers = [
    _number(rng) if rng.random() < 0.98 else _any_value(rng)
    for _ in range(count)
  ]
  box = "[" + ",".join(space() + n + space() for n in numbers) + "]"
  join = lambda members: (
    "{"
    + ",".join(f"{space()}{k}{space()}:{space()}{v}" for k, v in members)
    + "}"
  )
  arguments = join(_members(rng, "bbox_2d", box))
  tool = "image_zoom_in_tool" if rng.random() < 0.97 else "image_zoom_in"
  if rng.random() < 0.1:
    tool = _escape(rng, tool)
  members = _members(rng, "name", f'"{tool}"') + _members(
    rng, "arguments", arguments
  )
  if rng.random() < 0.3:
    rng.shuffle(members)
  return space() + join(members) + space()


def _mutate(rng, text):
  """Deletes, inserts or replaces a few characters."""
  for _ in range(rng.randrange(1, 4)):
    k = rng.randrange(len(text) + 1)
    new = rng.choice(["", *'{}[]",:\\0123456789.eE+-aNI \n\x01\x00é', "null"])
    text = text[:k] + new + text[k + rng.randrange(2) :]
  return text


def _content(rng):
  text = _json(rng)
  roll = rng.random()
  if roll < 0.3:
    text = _mutate(rng, text)
  elif roll < 0.33:
    text = _any_value(rng)
  elif roll < 0.36:
    text = text[: rng.randrange(len(text) + 1)]
  elif roll < 0.39:
    text += rng.choice(["x", " {}", "//", ",", "\xa0", "\ufeff", "0"])
  elif roll < 0.43:
    k = rng.randrange(len(text) + 1)
    bad = bytes(
      rng.choices(b'\x80\xbf\xc3\xa9\xe2\x82\xf0\xff"', k=rng.randrange(1, 4))
    )
    return [text[:k], bad, text[k:]]
  return [text]


def _tag(rng, tag):
  roll = rng.random()
  if roll < 0.8:
    return tag
  if roll < 0.95:
    return Verbatim(tag)
  return rng.choice(["", tag[:-1], " " + tag, tag + "\n", tag * 2])


def random_turn(rng):
  """A turn: strings, verbatim strings, and raw bytes, in order."""
  row = [rng.choice(["", "<think>I look.</think>\n", "<", '{"a', "é"])]
  for _ in range(rng.choice([1, 1, 1, 1, 1, 2, 2, 0])):
    row += [_tag(rng, OPEN), *_content(rng), _tag(rng, CLOSE)]
    row += [rng.choice(["", "", "", "<|im_end|>", " ", "and "])]
  if rng.random() < 0.2:
    # Spelled in pieces that ignore the JSON's own borders.
    row = [
      Verbatim(piece) if isinstance(piece, str) else piece for piece in row
    ]
  return row
