"""Runs a command in this process, as its users would from a shell."""

from absl import flags
import pytest

from lfpc_jax import config


def call(capsys, run, *args, **kwargs):
  """Exit status, standard output and standard error of `config.main`."""
  if "config" in flags.FLAGS:
    for name in ("config", "workdir", "traceback", "compile_cache"):
      flags.FLAGS[name].unparse()
  argv = ["command", "--compile_cache=off", *args]
  with pytest.raises(SystemExit) as stop:
    config.main(run, argv=argv, **kwargs)
  out, err = capsys.readouterr()
  return stop.value.code or 0, out, err


def status(main, arguments):
  """Exit status of a `main` that takes no config."""
  try:
    return main(list(arguments)) or 0
  except SystemExit as stop:
    return stop.code or 0
