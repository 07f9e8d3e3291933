"""Nothing that runs what it reads: no unpickling, no archives, no shell.

One place runs a file on purpose: the config that its user names.
"""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(
  path
  for name in ("lfpc_jax", "configs")
  for path in (ROOT / name).rglob("*.py")
)
_MODULES = {
  "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal",
  "shelve", "tarfile", "zipfile", "zipimport", "code", "imp", "commands",
}  # fmt: skip
_CALLS = {
  "eval", "exec", "compile", "__import__", "os.system", "os.popen",
  "shutil.unpack_archive", "yaml.load", "torch.load", "runpy.run_path",
  "numpy.load", "np.load", "jnp.load",
}  # fmt: skip
_METHODS = {"exec_module", "extractall", "unpack_archive", "loads_pickle"}
# Where one of these is right, and why.
_ALLOWED = {
  ("lfpc_jax/config.py", "exec_module"): "a config is its user's own program",
}


def _name(node):
  """A call's dotted name, '' for one that has none."""
  if isinstance(node, ast.Name):
    return node.id
  if isinstance(node, ast.Attribute):
    owner = _name(node.value)
    return f"{owner}.{node.attr}" if owner else ""
  return ""


def _imported(node):
  if isinstance(node, ast.Import):
    return [alias.name for alias in node.names]
  if isinstance(node, ast.ImportFrom) and not node.level:
    return [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
  return []


def _is_false(call, keyword):
  """Whether a keyword is the constant False; absent, numpy's default is."""
  return all(
    isinstance(k.value, ast.Constant) and k.value.value is False
    for k in call.keywords
    if k.arg == keyword
  )


def forbidden(source):
  """Names of what a module's text uses and must not."""
  found = set()
  for node in ast.walk(ast.parse(source)):
    for name in _imported(node):
      if name.partition(".")[0] in _MODULES or name in _CALLS:
        found.add(name)
    if not isinstance(node, ast.Call):
      continue
    name = _name(node.func)
    last = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    loads_arrays = name in ("numpy.load", "np.load", "jnp.load")
    if name in _CALLS and not loads_arrays:
      found.add(name)
    if loads_arrays and not _is_false(node, "allow_pickle"):
      found.add(name)
    if last in _METHODS:
      found.add(last)
    if not _is_false(node, "shell"):
      found.add("shell")
  return found


@pytest.mark.parametrize(
  "text, name",
  [
    ("import pickle", "pickle"),
    ("from tarfile import open", "tarfile"),
    ("import zipfile as z", "zipfile"),
    ("from os import system", "os.system"),
    ("eval('1')", "eval"),
    ("exec(text)", "exec"),
    ("import os\nos.system('ls')", "os.system"),
    ("import subprocess\nsubprocess.run('ls', shell=True)", "shell"),
    ("run('ls', shell=how)", "shell"),
    ("np.load(path, allow_pickle=True)", "np.load"),
    ("spec.loader.exec_module(module)", "exec_module"),
    ("archive.extractall(folder)", "extractall"),
  ],
)
def test_each_of_them_would_be_found(text, name):
  assert name in forbidden(text)


@pytest.mark.parametrize(
  "text",
  [
    "np.load(path, allow_pickle=False)",
    "np.load(path)",
    "import subprocess\nsubprocess.run(['ls'], shell=False)",
    "model.eval()",
    "re.compile('a')",
    "program.lower().compile()",
    "import ast\nast.literal_eval('1')",
  ],
)
def test_what_is_harmless_is_not(text):
  assert not forbidden(text)


def test_the_package_uses_none_of_them_but_where_it_says_why():
  assert len(FILES) > 100
  found = {
    (path.relative_to(ROOT).as_posix(), name)
    for path in FILES
    for name in forbidden(path.read_text())
  }
  assert found == set(_ALLOWED)
