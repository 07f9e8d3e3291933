r"""Configs of commands: load, change by flags, freeze, store, compare.

A config file defines `get_config(variant=...)`, which returns an
`ml_collections.ConfigDict` of plain values. A command is

  def run(config: ml_collections.FrozenConfigDict, workdir: str) -> None: ...

  if __name__ == "__main__":
    config.main(run)

and is called as

  python -m lfpc_jax.train --config=configs/tiny.py:stage1 \
    --workdir=runs/tiny --config.gap.tokens=16
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import importlib.util
import inspect
import json
import logging
import os
import pathlib
import sys
from types import ModuleType
from typing import Any, NoReturn

from absl import app, flags
from etils import epath
import jax
import ml_collections

from lfpc_jax import overrides, parallel
from lfpc_jax.benchmarks import judge_settings
from lfpc_jax.errors import UserError
from lfpc_jax.failing import plain_errors
from lfpc_jax.files import atomic_write
from lfpc_jax.parallel import start

FILE = "config.json"  # in a workdir
Run = Callable[[ml_collections.FrozenConfigDict, str], None]
_CACHE_VARIABLE = "LFPC_COMPILE_CACHE"


def load_config(
  file: str, changes: Sequence[str] = ()
) -> ml_collections.ConfigDict:
  """A config file's config, with changes, locked against new fields.

  Args:
    file: `path.py` or `path.py:variant`; what follows the colon is
      `get_config`'s argument. Or a stored `config.json`.
    changes: `field.subfield=value`, as `overrides.apply_overrides`.

  Raises:
    UserError: no such file or variant, an unknown field, a wrong type, seed
      or judge.
  """
  # A path may hold a colon itself; a variant is what follows the suffix.
  path, suffix, variant = file.rpartition(".py:")
  path, colon = (path + ".py", ":") if suffix else (file, "")
  if file.endswith(".json"):
    config = read_config(file)
  else:
    module = _import_file(path)
    arguments = (variant,) if colon else ()
    try:
      config = module.get_config(*arguments)
    except Exception as error:
      hint = "" if _takes_variant(module) else " (it has no variants)"
      raise UserError(f"--config={file}: {_describe(error)}{hint}") from error
  if not isinstance(config, ml_collections.ConfigDict):
    kind = type(config).__name__
    raise UserError(
      f"--config={file}: get_config returns {kind}, no ConfigDict"
    )
  config.lock()
  overrides.apply_overrides(config, changes)
  overrides.check_seeds(config)
  # Before anything of it is printed or stored: it may hold a secret.
  judge_settings.check_config(config)
  return config


def freeze(
  config: ml_collections.ConfigDict,
) -> ml_collections.FrozenConfigDict:
  """An immutable, hashable copy: references resolved, lists as tuples."""
  resolved = config.copy_and_resolve_references()
  return ml_collections.FrozenConfigDict(_tuples(resolved.to_dict()))


def config_json(config: Mapping[str, Any]) -> str:
  """The config as JSON text; equal configs give equal text."""
  return json.dumps(_plain(config), indent=2) + "\n"


def write_config(
  config: Mapping[str, Any], workdir: epath.PathLike, name: str = FILE
) -> None:
  """Stores a resolved config in `workdir`, whole or not at all.

  Raises:
    UserError: the directory cannot be written.
  """
  path = epath.Path(workdir) / name
  data = config_json(config)
  try:
    if "://" in os.fspath(workdir):  # object stores write whole files
      path.write_text(data)
    else:
      atomic_write(path, data.encode())
  except OSError as error:
    raise UserError(
      f"cannot write {path}: {error.strerror}; give a --workdir that can be "
      "written"
    ) from error


def read_config(
  path: epath.PathLike, name: str = FILE
) -> ml_collections.ConfigDict:
  """The config stored by `write_config`; `path` is the file or its workdir.

  Raises:
    UserError: there is none, or it is no JSON.
  """
  path = epath.Path(path)
  path = path / name if path.is_dir() else path
  try:
    fields = dict(json.loads(path.read_text()))
  except OSError as error:
    raise UserError(f"no config at {path}: {error.strerror}") from error
  except (ValueError, TypeError) as error:
    raise UserError(
      f"the config {path} is damaged ({error}): copy it again, or name the "
      "config file that it was made from"
    ) from error
  return ml_collections.ConfigDict(_tuples(fields))


def diff(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
  """One line for each field that differs, `gap.tokens: 64 -> 16`."""
  a, b = (overrides.flatten(_tuples(_plain(c))) for c in (before, after))
  none = "(none)"
  return [
    f"{name}: {a.get(name, none)!r} -> {b.get(name, none)!r}".replace(
      repr(none), none
    )
    for name in [*a, *(n for n in b if n not in a)]
    if name not in a or name not in b or a[name] != b[name]
  ]


def setup_jax(cache: str | None = None) -> str | None:
  """Turns the persistent compile cache on, so a second start is fast.

  Args:
    cache: a directory, or `off`; None takes the variable LFPC_COMPILE_CACHE,
      then JAX's own setting, then the user's cache directory.

  Returns:
    The cache's directory, or None if it is off.
  """
  cache = cache or os.environ.get(_CACHE_VARIABLE)
  if cache == "off":
    jax.config.update("jax_compilation_cache_dir", None)
    return None
  home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  default = pathlib.Path(home).expanduser() / "lfpc_jax" / "compiled"
  path = cache or jax.config.jax_compilation_cache_dir or str(default)
  try:
    epath.Path(path).mkdir(parents=True, exist_ok=True)
  except OSError as error:
    print(f"no compile cache: {path}: {error.strerror}", file=sys.stderr)
    path = None
  jax.config.update("jax_compilation_cache_dir", path)
  # Which platforms are not there is of no interest where others are.
  logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
  # Small programs add up too: a tiny policy compiles dozens of them.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
  return path


def main(
  run: Run,
  *,
  default_config: str | None = None,
  workdir_needed: bool = True,
  stored_as: str | None = FILE,
  many_processes: bool = False,
  argv: Sequence[str] | None = None,
) -> NoReturn:
  """Runs a command: flags, config, `run(config, workdir)`, exit status.

  Prints how the config differs from its file, stores it in the workdir, and
  turns a `UserError`, or a failure of a file, into one line and exit status
  1; `--traceback` shows where it came from.

  Args:
    run: the command itself; its module's docstring is the help text.
    default_config: the config file used without `--config`.
    workdir_needed: whether `--workdir` must be given.
    stored_as: name of the config's copy in the workdir; None leaves storing
      to `run`, which may first look at what is there.
    many_processes: whether `run` can be one of several, see `parallel.start`.
    argv: the command line; None takes the process's.
  """
  argv = list(sys.argv if argv is None else argv)
  _define_flags(default_config, argv[0], many_processes)

  def begin(rest: list[str]) -> None:
    if len(rest) > 1:
      raise UserError(f"unknown argument {rest[1]!r}: flags begin with --")
    _start(run, changes, workdir_needed, stored_as, many_processes)

  with plain_errors("--traceback" in argv):
    rest, changes = _split_changes(argv)
    app.run(begin, rest, flags_parser=parse_flags)
  sys.exit(1)  # app.run exits by itself


def _start(
  run: Run,
  changes: Sequence[str],
  workdir_needed: bool,
  stored_as: str | None,
  many_processes: bool,
) -> None:
  values = flags.FLAGS
  if values.config is None:
    raise UserError("no config: add --config=configs/tiny.py or another file")
  if values.workdir is None and workdir_needed:
    raise UserError("no directory for the results: add --workdir=runs/NAME")
  config = freeze(load_config(values.config, changes))
  if many_processes:
    start.start(values.distributed)
  elif values.distributed:
    raise UserError("this command runs in one process: omit --distributed")
  if changes and parallel.is_first():
    base = freeze(load_config(values.config))
    print("\n  ".join([f"config {values.config} with", *diff(base, config)]))
  setup_jax(values.compile_cache)
  _check_devices()
  stores = values.workdir is not None and stored_as is not None
  if stores and parallel.is_first():
    write_config(config, values.workdir, stored_as)
  run(config, values.workdir)


def _check_devices() -> None:
  """Refuses to begin where JAX can compute nothing."""
  try:
    jax.devices()
  except RuntimeError as error:
    raise UserError(
      f"JAX finds no device ({' '.join(str(error).split())}): unset "
      "JAX_PLATFORMS, or install what it names, as by pip install 'jax[tpu]'"
    ) from error


def _define_flags(
  default_config: str | None, command: str, many_processes: bool
) -> None:
  if "config" in flags.FLAGS:
    flags.FLAGS.set_default("config", default_config)
    return
  flags.DEFINE_string(
    "config",
    default_config,
    "Config file, as path.py or path.py:variant. Change a field of it with "
    "--config.FIELD=VALUE; configs/tiny.py says what each field is.",
  )
  flags.DEFINE_string("workdir", None, "Directory for all results.")
  flags.DEFINE_bool("traceback", False, "Show where an error came from.")
  flags.DEFINE_string(
    "compile_cache", None, "Directory of compiled programs, or 'off'."
  )
  flags.DEFINE_bool(
    "distributed",
    None,
    "Be one of several processes, of a TPU pod or a cluster. By default, if "
    "the environment says so.",
  )
  # --help lists the flags of the command's own module; these belong to it.
  for name in (
    "config",
    "workdir",
    "traceback",
    "compile_cache",
    *["distributed"] * many_processes,
  ):
    flags.FLAGS.register_key_flag_for_module(command, flags.FLAGS[name])


def parse_flags(argv: list[str]) -> list[str]:
  """What is left of a command line; for `absl.app.run`.

  Help that was asked for is no failure: the command ends with status 0, where
  absl would give 1.

  Raises:
    UserError: an unknown flag, or a value that it cannot have.
  """
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    raise UserError(f"{error} (--help lists the flags)") from error
  except SystemExit as error:
    sys.exit(0 if error.code == 1 else error.code)


def _split_changes(argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """Takes `--config.field=value` and `--config.field value` out of argv."""
  rest, changes = [], []
  words = iter(argv)
  for word in words:
    name = word.lstrip("-")
    if not word.startswith("-") or not name.startswith("config."):
      rest.append(word)
      continue
    change = name.removeprefix("config.")
    if "=" not in change:
      value = next(words, None)
      if value is None:
        raise UserError(f"{word}: give a value, as in {word}=...")
      change = f"{change}={value}"
    changes.append(change)
  return rest, changes


def find_file(path: str) -> pathlib.Path:
  """A config file as it is named, or else the one that the package ships.

  So configs/tiny.py is found from any directory: an installed package has the
  folder inside, a source tree beside the package.

  Raises:
    UserError: there is none.
  """
  package = pathlib.Path(__file__).parent
  file = pathlib.Path(path)
  places = [file]
  if file.parts[:1] == ("configs",):
    places += [package / file, package.parent / file]
  for place in places:
    if place.is_file():
      return place
  raise UserError(f"--config={path}: no such file")


def _import_file(path: str) -> ModuleType:
  file = find_file(path)
  spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
  if spec is None or spec.loader is None:
    raise UserError(f"--config={path}: a config is a Python file, NAME.py")
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except Exception as error:
    raise UserError(f"--config={path}: {_describe(error)}") from error
  if not hasattr(module, "get_config"):
    raise UserError(f"--config={path}: it defines no get_config()")
  return module


def _takes_variant(module: ModuleType) -> bool:
  return bool(inspect.signature(module.get_config).parameters)


def _describe(error: Exception) -> str:
  """One line; a UserError speaks for itself, others name their kind."""
  text = " ".join(str(error).split())
  if isinstance(error, UserError):
    return text
  return f"{type(error).__name__}: {text}"


def _plain(value: Any) -> Any:
  """Dictionaries, lists and JSON's scalars."""
  if isinstance(value, Mapping | ml_collections.ConfigDict):
    return {name: _plain(field) for name, field in value.items()}
  if isinstance(value, tuple | list):
    return [_plain(x) for x in value]
  if value is None or isinstance(value, bool | int | float | str):
    return value
  raise UserError(
    f"a config holds plain values, not {value!r} of {type(value).__name__}"
  )


def _tuples(value: Any) -> Any:
  """The same with every list as a tuple."""
  if isinstance(value, Mapping):
    return {name: _tuples(field) for name, field in value.items()}
  if isinstance(value, tuple | list):
    return tuple(_tuples(x) for x in value)
  return value
