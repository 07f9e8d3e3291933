"""What README and docs name exists: functions, fields, flags, commands."""

import argparse
import ast
import pathlib
import re
import runpy
import shlex
import subprocess
import sys
import tomllib

from absl import app, flags
import pytest

from lfpc_jax import config as config_lib
from tests import doc_commands

ROOT = pathlib.Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
TEXTS = {page.name: page.read_text() for page in PAGES}
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
  "scripts"
]
_SPAN = re.compile(r"`([^`\n]+)`")


def _code(text):
  """Fenced blocks line by line, continued lines joined, and inline code."""
  blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
  for block in blocks:
    yield from block.replace("\\\n", " ").splitlines()
  yield from _SPAN.findall(re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def _found(pattern):
  """(page, match) of a pattern that a whole piece of code has."""
  return [
    (name, match.group(1))
    for name, text in TEXTS.items()
    for code in _code(text)
    if (match := re.fullmatch(pattern, code.strip()))
  ]


def _names(tree, prefix=""):
  """Functions, classes with their members, and constants of a module."""
  for node in tree.body:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
      yield prefix + node.name
    if isinstance(node, ast.ClassDef):
      yield from _names(node, f"{prefix}{node.name}.")
    if isinstance(node, ast.Assign):
      yield from (prefix + t.id for t in node.targets if hasattr(t, "id"))


REFERENCES = _found(r"([\w/]+\.py:[\w.]+)")


def test_the_docs_refer_to_code():
  assert len(REFERENCES) > 60
  assert {name for name, _ in REFERENCES} >= {"formulas.md", "extend.md"}


@pytest.mark.parametrize("page, reference", sorted(set(REFERENCES)))
def test_a_function_that_the_docs_name_exists(page, reference):
  path, name = reference.split(":")
  files = [f for f in (ROOT / "lfpc_jax" / path, ROOT / path) if f.exists()]
  assert files, f"{page}: no file {path}"
  names = set(_names(ast.parse(files[0].read_text())))
  assert name in names or path.startswith("configs/"), f"{page}: no {reference}"


@pytest.mark.parametrize(
  "page, path", sorted(set(_found(r"((?:lfpc_jax|tests|configs)/[\w/]*\S*)")))
)
def test_a_file_that_the_docs_name_exists(page, path):
  assert (ROOT / path.partition(":")[0]).exists(), page


@pytest.mark.parametrize("page", TEXTS)
def test_links_between_the_pages_lead_somewhere(page):
  links = re.findall(r"\]\(((?!https?:)[^)#]+)", TEXTS[page])
  folder = next(path for path in PAGES if path.name == page).parent
  for link in links:
    assert (folder / link).exists(), link


def _settings():
  pattern = r"--config\.([\w.]+)=(\S+)"
  return sorted(
    {
      (name, *match.groups())
      for name, text in TEXTS.items()
      for code in _code(text)
      for match in re.finditer(pattern, code)
    }
  )


@pytest.mark.parametrize("page, field, value", _settings())
def test_a_field_that_the_docs_set_exists_and_takes_the_value(
  page, field, value
):
  config_lib.load_config(f"{ROOT}/configs/tiny.py", [f"{field}={value}"])


# Commands that no test and no CI runs, and why.
_NOT_RUN = {
  "make demo": "a quarter of an hour; tests/test_demo.py runs its parts",
  "make bench-gpu": "wants a GPU; tests/speed/test_gpu.py runs it small",
  "pip install .": "tests/test_install.py does, into a folder of its own",
  "pip install 'jax[cuda12]'": "of a machine with a GPU",
  "pip install 'jax[tpu]'": "requirements-dev.txt has it",
  "pip install . 'jax[cuda12]'": "of a machine with a GPU",
  "pip install . 'jax[tpu]'": "of a TPU's host",
  "pip install '.[gcs]'": "thirty packages; tests/test_buckets.py uses them",
  "python -m venv '~/venv'": "the Makefile makes one",
  "python -m pytest -m slow": "an hour; .ci/run takes those of acceptance",
  "apt install chromium": "by .ci/run as root",
  "source .venv/bin/activate": "of a shell that one works in",
  "tensorboard --logdir=runs": "serves until it is stopped",
  "sh experiments/NAME/run.sh": "stands for those with a name",
}


def _commands():
  """What the documents run, other machines' lines unwrapped."""
  return sorted({x for _, c in doc_commands.shown() for x in _inner(c)})


def _inner(command):
  return [shlex.join(shlex.split(x)) for x in doc_commands.inner(command)]


def _is_parsed(command):
  """Whether it is of the project; its flags are then read by a test."""
  words = shlex.split(command)
  if words[:2] == ["python", "-m"]:
    return words[2].partition(".")[0] in ("lfpc_jax", "experiments", "tests")
  return words[0] == "python" and words[1].startswith("experiments/")


def _group(command):
  """Who runs or reads a command; '' for nobody."""
  words = shlex.split(command)
  if command in {c for _, found in RUN for c in found}:
    return "run"
  if _is_parsed(command):
    return "parsed"
  if words[0] == "make" and command in CI.read_text():
    return "CI"
  if "pytest" in words[:3] and words[-1].startswith("tests/"):
    return "pytest" if (ROOT / words[-1]).exists() else ""
  if words[0] == "sh" and (ROOT / words[1]).exists():
    return "script"
  if words[0] in SCRIPTS and len(words) == 1:
    return "console"
  return "not run" if command in _NOT_RUN else ""


RUN = [
  (page, [shlex.join(shlex.split(c)) for c in found])
  for page, found in doc_commands.run().items()
]
CI = ROOT / ".ci" / "run"


def test_every_command_is_run_or_read_or_named_with_a_reason():
  groups = {command: _group(command) for command in _commands()}
  assert not [command for command, group in groups.items() if not group]
  assert set(groups.values()) == {
    "run", "parsed", "CI", "pytest", "script", "console", "not run"
  }  # fmt: skip
  assert _NOT_RUN.keys() == {c for c, g in groups.items() if g == "not run"}


def test_a_command_that_nobody_runs_would_be_seen():
  assert not _group("make bread")
  assert not _group("pytest tests/test_nothing.py")
  assert not _group("sh experiments/nothing/run.sh")
  assert not _group("pip install something")
  assert not _group("lfpc-nothing")


def test_commands_are_found_in_blocks_spans_and_on_other_machines():
  of = {page: c for page, c in doc_commands.shown() if c.startswith("gcloud")}
  assert of.keys() == {"docs/pods.md"}
  found = _commands()
  (pod,) = (c for c in found if "--config.mesh.sizes=4,4" in c)
  assert pod.startswith("python -m lfpc_jax.train --config=configs/stage1.py")
  assert any(c.startswith("python experiments/sweep.py") for c in found)
  assert not any(c.startswith(("srun", "gcloud")) for c in found)


def _help_commands():
  """Those in the docstrings of commands and configs, which --help prints."""
  files = [*ROOT.glob("lfpc_jax/**/*.py"), *ROOT.glob("configs/*.py")]
  found = set()
  for file in files:
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    text = re.sub(r"\s*\\\n\s*", " ", text)
    found |= set(re.findall(r"^ *(python -m lfpc_jax\S* .*)$", text, re.M))
  return sorted(found)


class _Parsed(Exception):
  """A command's flags were all understood; it is not run."""


@pytest.fixture
def only_parse(monkeypatch):
  """Commands stop where they have read their flags."""
  # Flags that other tests' imports have defined would be in the way.
  values = flags.FLAGS
  before = {name: values[name] for name in list(values)}
  own = {
    name
    for name in before
    if not (values.find_module_defining_flag(name) or "").startswith("absl")
  }
  for name in own:
    delattr(values, name)
  parse_args = argparse.ArgumentParser.parse_args

  def parse_arguments(parser, arguments=None):
    parse_args(parser, arguments)
    raise _Parsed

  def start_job(*_, **__):  # a sweep's, after all flags
    raise _Parsed

  def parse_flags(main, argv=None, flags_parser=None):
    (flags_parser or values)(sys.argv if argv is None else argv)
    if "config" in values:
      _, changes = config_lib._split_changes(sys.argv)
      file = values["config"].value
      if file.startswith("runs/"):  # what a run has stored
        file = "configs/tiny.py"
      config_lib.load_config(file, changes)
    raise _Parsed

  monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_arguments)
  monkeypatch.setattr(app, "run", parse_flags)
  monkeypatch.setattr(subprocess, "run", start_job)
  monkeypatch.chdir(ROOT)
  yield
  for name in set(values) - (set(before) - own):
    delattr(values, name)
  for name in own:
    values[name] = before[name]
  values.unparse_flags()


def _parse(monkeypatch, command):
  _, *words = shlex.split(command)
  if words[0] == "-m":
    monkeypatch.setattr(sys, "argv", words[1:])
    runpy.run_module(words[1], run_name="__main__", alter_sys=True)
  monkeypatch.setattr(sys, "argv", words)
  runpy.run_path(words[0], run_name="__main__")


def _is_main(module):
  file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
  return 'if __name__ == "__main__":' in file.read_text()


def test_the_docs_name_modules_that_are_commands():
  words = [shlex.split(c) for c in _commands() if _is_parsed(c)]
  modules = {w[2] for w in words if w[1] == "-m"}
  assert {"lfpc_jax.train", "experiments.pods.table"} < modules
  assert all(map(_is_main, modules))


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize(
  "command",
  sorted(
    {c for c in _commands() if _is_parsed(c) and "--" in c}
    | set(_help_commands())
  ),
)
def test_a_command_of_the_docs_parses(only_parse, monkeypatch, command):
  with pytest.raises(_Parsed):
    _parse(monkeypatch, command)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize(
  "command",
  [
    "python -m lfpc_jax.ask --imgae=a.jpg",
    "python -m lfpc_jax.data.check --name=vstar --dir=a --shw=3",
    "python -m lfpc_jax.ask --config.gap.tokns=3",
  ],
)
def test_a_command_with_a_wrong_flag_does_not(
  only_parse, monkeypatch, capsys, command
):
  with pytest.raises(SystemExit) as stop:
    _parse(monkeypatch, command)
  assert stop.value.code in (1, 2)
  assert capsys.readouterr().err


def test_other_commands_of_the_docs_name_what_there_is():
  targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
  made = {name for _, name in _found(r"make (\w+)(?:\s+#.*)?")}
  assert made and made <= targets
  tests = _found(r"(?:\S*python -m )?pytest .*?(tests/\S+)")
  assert len(tests) > 2
  for page, path in tests:
    assert (ROOT / path).exists(), page


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_console_command_runs_a_module(name, monkeypatch):
  module, function = SCRIPTS[name].split(":")
  ran = []
  monkeypatch.setattr(runpy, "run_module", lambda *a, **k: ran.append((a, k)))
  console = __import__(module, fromlist=[function])
  getattr(console, function)()
  (((run,), how),) = ran
  assert _is_main(run)
  assert how == {"run_name": "__main__", "alter_sys": True}


def test_console_commands_that_the_docs_name_exist():
  changes = (ROOT / "CHANGELOG.md").read_text()
  named = re.findall(r"`(lfpc-[\w-]+)", "\n".join([changes, *TEXTS.values()]))
  assert set(named) == set(SCRIPTS)
