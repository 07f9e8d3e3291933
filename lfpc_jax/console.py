"""Console commands: `lfpc-train` is `python -m lfpc_jax.train`, and so on.

pyproject.toml names them. A module runs as the main program, so that --help,
exit statuses and worker processes are those of `python -m`.
"""

import runpy


def _run(module: str) -> None:
  runpy.run_module(f"lfpc_jax.{module}", run_name="__main__", alter_sys=True)


def ask() -> None:
  """Asks a policy about a picture."""
  _run("ask")


def check_data() -> None:
  """Says what is in a published data set."""
  _run("data.check")


def build_data() -> None:
  """Builds a published data set."""
  _run("data.manual")


def compare() -> None:
  """Compares evaluations of the same questions."""
  _run("compare")


def compile_check() -> None:
  """Compiles for a TPU slice that is not there."""
  _run("compile_check")


def demo() -> None:
  """Runs the whole way at small scale."""
  _run("demo")


def evaluate() -> None:
  """Evaluates a policy."""
  _run("evaluate")


def export() -> None:
  """Writes a policy as published files."""
  _run("export")


def paper_table() -> None:
  """Sets benchmarks' scores side by side."""
  _run("paper_table")


def pretrain() -> None:
  """Makes the miniature's starting checkpoint."""
  _run("pretrain")


def scenes() -> None:
  """Builds the embedded data set."""
  _run("data.scenes")


def select_gap() -> None:
  """Finds each example's own global view."""
  _run("select_gap")


def train() -> None:
  """Trains a policy."""
  _run("train")
