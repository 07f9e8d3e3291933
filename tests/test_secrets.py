"""A secret that stands in a config by mistake is neither printed nor stored."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from lfpc_jax import config as config_lib
from lfpc_jax.benchmarks import judge_settings
from lfpc_jax.errors import UserError
from tests import command_line, scripts

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = f"{ROOT}/configs/tiny.py"
SECRET = "sk-very-secret"
JUDGE = ("eval.judge.model=m", "eval.judge.url=http://host/v1")
# The last of two changes of a field counts.
BAD = (
  f"eval.judge.url=http://me:{SECRET}@host/v1",
  f"eval.judge.url=https://{SECRET}@host/v1",
  f"eval.judge.url=http://host/v1?key={SECRET}",
  f"eval.judge.url=http://host/v1#{SECRET}",
  f"eval.judge.url=me:{SECRET}@host",
  f"eval.judge.url=http://{SECRET}#a@host/v1",
  f"eval.judge.url=http://me:{SECRET}/b@host/v1",
  f"eval.judge.url=http://[{SECRET}/v1",
  f"eval.judge.url={SECRET}",
  f"eval.judge.key_variable={SECRET}",
  f"eval.judge.key_variable={SECRET.replace('-', '_')}",
)


@pytest.fixture(autouse=True)
def _keep_cache():
  cache = jax.config.jax_compilation_cache_dir
  yield
  jax.config.update("jax_compilation_cache_dir", cache)


def _shows_secret(text):
  return SECRET in text.replace("_", "-")


@pytest.mark.parametrize("stored_as", ["config.json", None])
@pytest.mark.parametrize("change", BAD)
def test_it_ends_a_command_before_anything_is_printed_or_stored(
  change, stored_as, tmp_path, capsys
):
  ran = []
  status, out, err = command_line.call(
    capsys,
    lambda *arguments: ran.append(arguments),
    f"--config={CONFIG}",
    f"--workdir={tmp_path}",
    *(f"--config.{field}" for field in (*JUDGE, change)),
    stored_as=stored_as,
  )
  assert status == 1 and not ran and not list(tmp_path.iterdir())
  assert err.startswith("error: ") and err.count("\n") == 1
  assert change.split(".")[2].partition("=")[0] in err  # the field's name
  assert not _shows_secret(out + err)


def test_a_good_judge_is_let_on_and_stored(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv("MY_KEY", SECRET)
  changes = (*JUDGE, "eval.judge.key_variable=MY_KEY")
  status, out, _ = command_line.call(
    capsys,
    lambda *_: None,
    f"--config={CONFIG}",
    f"--workdir={tmp_path}",
    *(f"--config.{field}" for field in changes),
  )
  assert status == 0 and "eval.judge.url: '' -> 'http://host/v1'" in out
  stored = (tmp_path / "config.json").read_text()
  assert json.loads(stored)["eval"]["judge"]["key_variable"] == "MY_KEY"
  assert not _shows_secret(out + stored)


def test_a_secret_in_a_file_or_a_stored_config_is_not_shown_either(tmp_path):
  config = config_lib.load_config(CONFIG)
  config.eval.judge.url = f"http://me:{SECRET}@host/v1"
  path = tmp_path / "config.json"
  path.write_text(config_lib.config_json(config))
  with pytest.raises(UserError, match="judge url") as caught:
    config_lib.load_config(str(path))
  assert not _shows_secret(str(caught.value))


def test_a_sweep_prints_no_command_with_it(tmp_path, capsys):
  sweep = scripts.load("experiments/sweep.py")
  flags = [f"--config.{field}" for field in (JUDGE[0], BAD[0])]
  base = [f"--config={CONFIG}", f"--workdir={tmp_path}", "--print"]
  with pytest.raises(SystemExit) as stop:
    sweep.main([*base, *flags])
  found = capsys.readouterr()
  assert stop.value.code == 1 and "judge url" in found.err
  assert not _shows_secret(found.out + found.err)


@pytest.mark.parametrize("command", ["train", "evaluate", "select_gap"])
def test_the_commands_themselves_say_and_store_nothing(command, tmp_path):
  flags = [f"--config.{field}" for field in (JUDGE[0], BAD[0])]
  done = subprocess.run(
    [sys.executable, "-m", f"lfpc_jax.{command}", f"--config={CONFIG}",
     "--workdir=w", "--traceback", *flags],
    cwd=tmp_path,
    env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
    capture_output=True, text=True, timeout=1500, check=False,
  )  # fmt: skip
  assert done.returncode == 1 and "judge url" in done.stderr
  assert not _shows_secret(done.stdout + done.stderr)
  assert not list(tmp_path.iterdir())


def test_a_config_may_leave_a_judge_s_fields_out():
  config = config_lib.load_config(CONFIG)
  with config.unlocked():
    config.eval.judge = dict(url="http://host/v1", model="m")
    judge_settings.check_config(config)
    del config.eval["judge"]
    judge_settings.check_config(config)
