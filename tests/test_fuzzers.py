"""Random damage to what is read, and hostile text on what is shown.

How many inputs each part is given, in every run of the tests:

  this file            see CASES
  tool calls           10,600 turns, with each of two vocabularies
                       (tests/rollout/test_tool_call.py)
  box geometry         27,000 boxes (tests/image/test_boxes.py)
  data readers         630 rows and files (tests/data/sources/test_damaged.py)
  pictures             300 files (tests/data/test_images.py)

A test below compares these four numbers with the code of those tests.

Each input is read rightly, or refused by a UserError of one line; anything
else that is raised fails the test.
"""

import dataclasses
import html.parser
import inspect
import json
import random
import re

import numpy as np
import pytest
import safetensors.numpy

from lfpc_jax import config as config_lib
from lfpc_jax import metrics
from lfpc_jax.agent import ASSETS
from lfpc_jax.data import gap_file
from lfpc_jax.errors import UserError
from lfpc_jax.journal import Journal
from lfpc_jax.models import published_config, weight_files
from lfpc_jax.overrides import apply_overrides, flatten
from lfpc_jax.report import page
from tests.data import test_images
from tests.data.sources import test_damaged
from tests.gap_selection import sizes
from tests.image import test_boxes
from tests.report import samples
from tests.rollout import test_tool_call

CASES = {
  "texts on a page": 2_000,
  "fields of a config": 3_000,
  "lines of metrics and journals": 1_000,
  "files of weights": 500,
  "configs of models": 500,
  "files of budgets": 300,
}


def _damaged(rng, data):
  """Bytes with some of them changed, put in, or cut off."""
  data = bytearray(data)
  for _ in range(rng.randrange(1, 4)):
    place = rng.randrange(len(data) + 1)
    junk = rng.randbytes(rng.randrange(1, 9))
    kind = rng.randrange(4)
    if kind == 0:
      data[place:place] = junk
    elif kind == 1 and rng.random() < 0.3:
      del data[place:]
    else:
      data[place : place + len(junk)] = junk
  return bytes(data)


def _refused(read, *args):
  """Whether reading was refused, in one line."""
  try:
    read(*args)
  except UserError as error:
    assert "\n" not in str(error)
    return True
  return False


# ---- The numbers above ----


def _hypothesis_cases(module):
  """What hypothesis gives the tests of a module, all together."""
  tests = [vars(module)[n] for n in vars(module) if n.startswith("test_")]
  return sum(
    test._hypothesis_internal_use_settings.max_examples
    for test in tests
    if hasattr(test, "_hypothesis_internal_use_settings")
  )


def _constants(module, function, pattern):
  """Whole numbers in the text of a module's functions of a name's start."""
  text = "".join(
    inspect.getsource(value)
    for name, value in vars(module).items()
    if name.startswith(function)
  )
  return [int(x.replace("_", "")) for x in re.findall(pattern, text)]


def test_the_numbers_stated_above_are_those_of_the_code():
  boxes = _constants(
    test_boxes, "test_", r" shown = .*rng\.integers\(.*\((\d+_\d+), 2\)"
  )
  found = {
    "tool calls": _constants(
      test_tool_call, "test_ten_thousand", r"range\((\d+_\d+)\)"
    ),
    "box geometry": [sum(boxes)] * (len(boxes) == 3),
    "data readers": [_hypothesis_cases(test_damaged)],
    "pictures": [_hypothesis_cases(test_images)],
  }
  stated = {
    name: [int(re.search(rf"{name} +([\d,]+) ", __doc__)[1].replace(",", ""))]
    for name in found
  }
  assert found == stated


# ---- The page ----

_PIECES = (
  *("<", ">", "&", '"', "'", "`", "/", "\\", "\n", "\0", "\u2028", "]]>"),
  *("<script>", "</script>", "</SCRIPT\n>", "<!--", "-->", "<![CDATA["),
  *("<img src=x onerror=alert(1)>", "<svg/onload=alert(1)>", "</p>", "<p>"),
  *("javascript:", "&lt;", "&#60;", "&amp;lt;", "{{ 7*7 }}", "{% raw %}"),
  *("</title>", "</style>", "</textarea>", "<base href=//x>", "\ud800", "é"),
)


class _Page(html.parser.HTMLParser):
  """The elements of a page, and what its data say."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.data, self._in_data = [], "", False
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    self.tags.append((tag, sorted(name for name, _ in attributes)))
    self._in_data = ("id", "data") in attributes

  def handle_endtag(self, tag):
    self._in_data = False

  def handle_data(self, text):
    self.data += text * self._in_data


def _written(path, texts):
  record = samples.make_records(1)[0]
  fields = ("question", "answer", "prediction", "category", "id", "policy")
  rollouts = []
  for k in range(0, len(texts) // 2, len(fields)):
    changes = dict(zip(fields, texts[k:]))
    rollouts.append(dataclasses.replace(record, **changes))
  page.write_page(path, texts[0], rollouts=rollouts, notes=texts)
  return _Page(path.read_text("utf-8"))


def test_no_text_makes_an_element_on_the_page(tmp_path):
  rng = random.Random(1)
  number = CASES["texts on a page"]
  texts = [
    "".join(rng.choices(_PIECES, k=rng.randrange(1, 9))) for _ in range(number)
  ]
  tame = _written(tmp_path / "tame.html", ["text"] * number)
  hostile = _written(tmp_path / "hostile.html", texts)
  assert hostile.tags == tame.tags
  found = json.loads(hostile.data)["rollouts"]
  asked = [rollout["question"] for rollout in found]
  assert asked == texts[: number // 2 : 6]


# ---- What a user or a download brings ----


def test_any_text_is_a_value_of_a_field_or_refused():
  rng = random.Random(2)
  known = config_lib.load_config(sizes.CONFIG)
  kinds = {name: type(value) for name, value in flatten(known).items()}
  pieces = "0 1 -7 1e999 nan None True ( ) [ ] { } , : ' \" \\ a é \0 = # **"
  pieces = [*pieces.split(), "(" * 5_000, "-" * 5_000, "9" * 5_000, " "]
  refused = 0
  for _ in range(CASES["fields of a config"]):
    name = rng.choice(list(kinds))
    text = "".join(rng.choices(pieces, k=rng.randrange(6)))
    refused += _refused(apply_overrides, known, [f"{name}={text}"])
    now = flatten(known)[name]
    assert isinstance(now, kinds[name]), (name, text[:80], now)
  assert 0.2 < refused / CASES["fields of a config"] < 0.95


@pytest.mark.parametrize("kind", ["metrics", "journal"])
def test_damaged_lines_are_read_or_refused(kind, tmp_path):
  rng = random.Random(3)
  about = {"policy": "p", "levels": [1, 2]}
  rows = [{"step": k, "reward": k / 7, "name": "é"} for k in range(4)]
  first = [about] if kind == "journal" else []
  good = "".join(json.dumps(row) + "\n" for row in (*first, *rows)).encode()
  path = tmp_path / "lines.jsonl"

  def read():
    if kind == "metrics":
      found = metrics.read_metrics(path)
      assert all(isinstance(row["step"], int) for row in found)
    else:
      with Journal(path, about, "run") as journal:
        assert all(isinstance(entry, dict) for entry in journal.entries)

  refused = 0
  for _ in range(CASES["lines of metrics and journals"] // 2):
    path.write_bytes(_damaged(rng, good))
    refused += _refused(read)
  assert refused > 50


def test_damaged_weights_are_read_or_refused(tmp_path):
  rng = random.Random(4)
  tensors = {f"t{k}": np.full((3, k + 1), k, np.float32) for k in range(4)}
  good = safetensors.numpy.save(tensors)
  path = tmp_path / weight_files.SINGLE

  def read():
    for file, name in weight_files.find(tmp_path).values():
      with weight_files.opened(file) as handle:
        handle.get_slice(name).get_shape()

  refused = 0
  for _ in range(CASES["files of weights"]):
    # Most of a file is its header, which is what can be wrong.
    path.write_bytes(_damaged(rng, good))
    refused += _refused(read)
  assert refused > 100


_ODD = (None, True, -1, 0, 3, 1.5, 10**30, "x", "", [], {}, [1], float("nan"))


def test_any_values_make_a_config_or_are_refused(tmp_path):
  rng = random.Random(5)
  file = ASSETS / "tiny_qwen" / "config.json"
  refused = 0
  for _ in range(CASES["configs of models"]):
    fields = json.loads(file.read_text())
    for _ in range(rng.randrange(1, 4)):
      inside = rng.choice([fields, fields, fields.get("vision_config")])
      if isinstance(inside, dict) and inside:
        inside[rng.choice(list(inside))] = rng.choice(_ODD)
    (tmp_path / "config.json").write_text(json.dumps(fields))
    refused += _refused(published_config.load_config, tmp_path)
  assert refused > 100


def test_damaged_budgets_are_read_or_refused(tmp_path):
  rng = random.Random(6)
  about = {"dataset": "d", "split": "train"}
  rows = tuple(sizes.chosen(f"q{k}", 4 + k) for k in range(6))
  path = tmp_path / "gap.parquet"
  gap_file.save(path, gap_file.Selection(rows, about))
  good = path.read_bytes()
  refused = 0
  for _ in range(CASES["files of budgets"]):
    path.write_bytes(_damaged(rng, good))
    refused += _refused(gap_file.load, path, about)
  assert refused > 100
