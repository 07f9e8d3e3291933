"""Configs: changes by flags, storing, and what a command says and returns."""

import functools
import json
import os
import textwrap

import jax
import ml_collections
import pytest

from lfpc_jax import config
from lfpc_jax.errors import UserError
from tests import command_line

_FILE = '''
import ml_collections
from ml_collections import config_dict

def get_config(variant="stage1"):
  """One config in two variants."""
  if variant not in ("stage1", "stage2"):
    raise ValueError(f"no variant {variant}")
  config = ml_collections.ConfigDict()
  config.name = variant
  config.gap = ml_collections.ConfigDict(
    dict(tokens=64, drop=True, temperature=1.0))
  config.mesh = ml_collections.ConfigDict(
    dict(axes=("fsdp", "tensor"), sizes=(-1, 1)))
  config.limit = config_dict.placeholder(int)
  config.note = None
  config.tokens_twice = config.gap.get_ref("tokens") * 2
  return config
'''


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "tiny.py"
  path.write_text(_FILE)
  return str(path)


@pytest.mark.parametrize(
  "change, field, expected",
  [
    ("gap.tokens=16", "gap.tokens", 16),
    ("gap.drop=false", "gap.drop", False),
    ("gap.temperature=2", "gap.temperature", 2.0),
    ("gap.temperature=1e-3", "gap.temperature", 1e-3),
    ("name=a=b c", "name", "a=b c"),
    ("mesh.sizes=(2,4)", "mesh.sizes", (2, 4)),
    ("mesh.sizes=2,4", "mesh.sizes", (2, 4)),
    ("mesh.sizes=8", "mesh.sizes", (8,)),
    ("mesh.sizes=[8]", "mesh.sizes", (8,)),
    ("mesh.axes=data,model", "mesh.axes", ("data", "model")),
    ("mesh.axes=('data',)", "mesh.axes", ("data",)),
    ("mesh.axes=()", "mesh.axes", ()),
    ("limit=3", "limit", 3),
    ("limit=None", "limit", None),
    ("note=text", "note", "text"),
    ("note=(1,2)", "note", (1, 2)),
  ],
)
def test_a_change_has_the_type_of_its_field(file, change, field, expected):
  value = config.load_config(file, [change])
  for name in field.split("."):
    value = value[name]
  assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
  "change, says",
  [
    ("gap.tokns=16", "no such field; did you mean gap.tokens?"),
    ("tokens=16", "did you mean gap.tokens?"),
    ("gpa.tokens=16", "did you mean gap.tokens?"),
    ("gap.tokens.more=16", "no such field"),
    ("xyzzy=1", "known: gap.drop"),
    ("gap=3", "is a group; set a field of it: gap.drop, gap.temp"),
    ("gap.tokens=many", "gap.tokens=many: not a value of type int"),
    ("gap.tokens=1.5", "not a value of type int .it is 64"),
    ("gap.tokens=None", "not a value of type int"),
    ("gap.drop=maybe", "not a value of type bool"),
    ("limit=some", "not a value of type int"),
    ("mesh.sizes=a,b", "not a value of type tuple"),
    ("mesh.sizes=2.0,4", "not a value of type tuple"),
    ("gap.tokens", "give a value"),
  ],
)
def test_a_wrong_change_is_refused_by_name(file, change, says):
  with pytest.raises(UserError, match=says):
    config.load_config(file, [change])


def test_a_variant_is_the_argument_of_get_config(file):
  assert config.load_config(f"{file}:stage2").name == "stage2"
  with pytest.raises(UserError, match="tiny.py:x: ValueError: no variant x"):
    config.load_config(f"{file}:x")


@pytest.mark.parametrize(
  "text, says",
  [
    ("def get_config(): return 1/0", "ZeroDivisionError"),
    ("def get_config(:", "SyntaxError"),
    ("x = 1", "defines no get_config"),
    ("def get_config(): return 3", "returns int"),
  ],
)
def test_a_broken_file_is_named(tmp_path, text, says):
  (tmp_path / "bad.py").write_text(text)
  with pytest.raises(UserError, match=f"bad.py.*{says}"):
    config.load_config(str(tmp_path / "bad.py"))


def test_a_frozen_config_is_resolved_and_a_key(file):
  frozen = config.freeze(config.load_config(file, ["gap.tokens=16"]))
  assert frozen.tokens_twice == 32
  again = config.freeze(config.load_config(file, ["gap.tokens=16"]))
  assert frozen == again and hash(frozen) == hash(again)
  with pytest.raises(AttributeError):
    frozen.name = "x"


def test_a_stored_config_comes_back(file, tmp_path):
  frozen = config.freeze(config.load_config(file, ["mesh.sizes=2,4"]))
  config.write_config(frozen, tmp_path / "run")
  back = config.freeze(config.read_config(tmp_path / "run"))
  assert back == frozen and back.mesh.sizes == (2, 4)
  assert config.diff(frozen, back) == []
  stored = str(tmp_path / "run" / "config.json")
  assert config.load_config(stored, ["limit=3"]).limit == 3
  with open(stored) as handle:
    assert json.load(handle)["tokens_twice"] == 128


def test_a_missing_or_damaged_stored_config_is_named(tmp_path):
  with pytest.raises(UserError, match="no config at .*config.json"):
    config.read_config(tmp_path)
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(UserError, match="config.json is damaged"):
    config.read_config(tmp_path)


def test_only_plain_values_are_stored(tmp_path):
  with pytest.raises(UserError, match="plain values"):
    config.write_config(ml_collections.ConfigDict({"f": print}), tmp_path)


def test_a_diff_names_changed_added_and_removed_fields():
  before = {"a": 1, "g": {"b": (1, 2), "c": "x"}}
  after = {"a": 1, "g": {"b": [1, 3], "d": None}}
  assert config.diff(before, after) == [
    "g.b: (1, 2) -> (1, 3)",
    "g.c: 'x' -> (none)",
    "g.d: (none) -> None",
  ]


@pytest.fixture
def cache_setting():
  names = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
  )
  before = {name: getattr(jax.config, name) for name in names}
  yield
  for name, value in before.items():
    jax.config.update(name, value)


@pytest.mark.usefixtures("cache_setting")
def test_the_compile_cache_is_on_and_can_be_moved_or_turned_off(
  tmp_path, monkeypatch
):
  jax.config.update("jax_compilation_cache_dir", None)
  monkeypatch.delenv("LFPC_COMPILE_CACHE", raising=False)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  path = config.setup_jax()
  assert path == str(tmp_path / "lfpc_jax" / "compiled")
  assert os.path.isdir(path) and jax.config.jax_compilation_cache_dir == path
  assert config.setup_jax(str(tmp_path / "b")) == str(tmp_path / "b")
  monkeypatch.setenv("LFPC_COMPILE_CACHE", "off")
  assert config.setup_jax() is None
  assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.usefixtures("cache_setting")
def test_a_cache_that_cannot_be_made_is_no_error(tmp_path, capsys):
  (tmp_path / "file").write_text("")
  assert config.setup_jax(str(tmp_path / "file" / "cache")) is None
  assert "no compile cache" in capsys.readouterr().err


@pytest.fixture
def command(cache_setting, capsys):
  """Runs `main` in this process; gives the exit status and the output."""
  return functools.partial(command_line.call, capsys)


def test_a_command_gets_its_config_and_stores_it(command, file, tmp_path):
  seen = []
  status, out, _ = command(
    lambda c, w: seen.append((c.gap.tokens, c.limit, w)),
    f"--config={file}:stage2",
    f"--workdir={tmp_path}/run",
    "--config.gap.tokens=16",
    "--config.limit",
    "3",
  )
  assert status == 0 and seen == [(16, 3, f"{tmp_path}/run")]
  assert out == textwrap.dedent(f"""\
    config {file}:stage2 with
      gap.tokens: 64 -> 16
      limit: None -> 3
      tokens_twice: 128 -> 32
    """)
  assert config.read_config(tmp_path / "run").gap.tokens == 16


def test_what_a_user_can_mend_is_one_line(capsys):
  for error, status, says in (
    (UserError("no light"), 1, "error: no light\n"),
    (KeyboardInterrupt(), 130, "stopped\n"),
  ):
    with pytest.raises(SystemExit) as stop, config.plain_errors():
      raise error
    assert (stop.value.code, capsys.readouterr().err) == (status, says)
  with pytest.raises(UserError), config.plain_errors(traceback=True):
    raise UserError("no light")


@pytest.mark.parametrize(
  "args, says",
  [
    (["--workdir=w"], "no config: add --config="),
    (["--config={file}"], "no directory for the results: add --workdir="),
    (["--config={file}", "--wrkdir=w"], "'wrkdir'. Did you mean: workdir"),
    (["--config={file}", "--workdir=w", "x"], "unknown argument 'x'"),
    (["--config={file}", "--config.gap.tokens"], "give a value"),
    (["--config={file}z", "--workdir=w"], "no such file"),
    (["--config={file}", "--workdir={file}/w"], "cannot write"),
    (["--config={file}", "--workdir=w", "--config.nam=x"], "mean name?"),
  ],
)
def test_a_user_error_is_one_line_and_a_failure(
  command, file, tmp_path, monkeypatch, args, says
):
  monkeypatch.chdir(tmp_path)
  args = [arg.format(file=file) for arg in args]
  status, _, err = command(lambda c, w: None, *args)
  assert status == 1 and says in err
  assert err.startswith("error: ") and err.count("\n") == 1


def test_errors_inside_a_command(command, file, tmp_path):
  args = f"--config={file}", f"--workdir={tmp_path}"

  def fail(error):
    def run(config, workdir):
      raise error

    return run

  assert command(fail(UserError("no data at x")), *args)[::2] == (
    1,
    "error: no data at x\n",
  )
  full = OSError(28, "No space left on device", "x")
  status, _, err = command(fail(full), *args)
  assert status == 1 and "No space left on device: 'x'" in err
  assert command(fail(KeyboardInterrupt()), *args)[0] == 130
  for error, more in ((RuntimeError("bug"), ()), (UserError("x"), ("--tr",))):
    more = [f"{flag}aceback" for flag in more]
    with pytest.raises(type(error)):  # shown by Python with its traceback
      command(fail(error), *args, *more)


def test_shipped_configs_are_found_from_any_directory(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert config.load_config("configs/tiny.py:stage1").name == "stage1"
  (tmp_path / "configs").mkdir()
  own = tmp_path / "configs" / "tiny.py"
  own.write_text(
    "import ml_collections\n"
    "def get_config(): return ml_collections.ConfigDict({'name': 'mine'})\n"
  )
  assert config.load_config("configs/tiny.py").name == "mine"
  with pytest.raises(UserError, match=r"--config=configs/none\.py: no such"):
    config.load_config("configs/none.py")
