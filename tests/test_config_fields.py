"""configs/tiny.py says what each of its fields is."""

import pathlib
import re

from lfpc_jax import config
from lfpc_jax.rl.alarms import AlarmConfig

FILE = pathlib.Path(__file__).parents[1] / "configs" / "tiny.py"
_PLAIN = {"weight_decay", "learning_rate"}  # the name is the field's own
_ELSEWHERE = {"alarms"}  # a dataclass documents them


def _untold(lines, singles=True):
  """Fields without a comment beside or above them, and how many there are."""
  group, missing, found = "", [], 0
  for number, line in enumerate(lines):
    if opened := re.match(r" +config\.([\w.]+) = dict\(", line):
      group = opened.group(1)
    field = re.match(r"    +(\w+)=", line)
    single = singles and re.match(r"  config\.(\w+) = (?!dict)", line)
    if not field and not single:
      continue
    found += 1
    name = field.group(1) if field else single.group(1)
    told = "#" in line or lines[number - 1].lstrip().startswith("#")
    if not told and group not in _ELSEWHERE and name not in _PLAIN:
      missing.append(f"{group}.{name}")
  return missing, found


def test_every_field_has_a_comment_beside_or_above_it():
  text = FILE.read_text()
  base, variants = text.split("def get_config")
  missing, found = _untold(base.splitlines())
  assert not missing
  fields = config.load_config(f"{FILE}:stage1")
  assert found == len(config.overrides.flatten(fields))
  missing, more = _untold(variants.splitlines(), singles=False)
  assert not missing
  fields = config.load_config(f"{FILE}:pretrain")
  assert found + more == len(config.overrides.flatten(fields))


def test_fields_that_a_dataclass_documents_have_words_there():
  section = config.load_config(FILE.as_posix()).alarms
  text = AlarmConfig.__doc__
  for name in section:
    assert re.search(rf"^ +{name}: .*\w", text, re.M), name
