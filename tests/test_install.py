"""The installed package holds its data files and says what it needs."""

import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
_FILES = (
  "pyproject.toml",
  "setup.py",
  "requirements.txt",
  "README.md",
  "LICENSE",
)


@pytest.mark.slow  # fetches the build backend
def test_an_installed_package_holds_all_files_of_the_source(tmp_path):
  source, site = tmp_path / "source", tmp_path / "site"
  source.mkdir()
  for name in _FILES:
    shutil.copy(ROOT / name, source)
  junk = shutil.ignore_patterns("__pycache__", "*.pyc")
  for name in ("lfpc_jax", "configs"):
    shutil.copytree(ROOT / name, source / name, ignore=junk)
  pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
  subprocess.run([*pip, f"--target={site}", str(source)], check=True)

  def files(root):
    found = (p for p in root.rglob("*") if p.is_file())
    return {p.relative_to(root) for p in found if p.suffix != ".pyc"}

  configs = {pathlib.Path("configs") / x for x in files(source / "configs")}
  wanted = files(source / "lfpc_jax") | configs
  assert files(site / "lfpc_jax") == wanted
  assert not (site / "configs").exists()  # a name that others have too
  (info,) = site.glob("lfpc_jax-*.dist-info")
  metadata = importlib.metadata.PathDistribution(info)
  assert metadata.version == "0.1.0"
  lines = (ROOT / "requirements.txt").read_text().splitlines()
  wanted = [line for line in lines if line and not line.startswith("#")]
  needed = [line for line in metadata.requires if "extra ==" not in line]
  assert len(needed) == len(wanted)
  _check_command(site, tmp_path)


def _check_command(site, elsewhere):
  """A console command finds the configs from another directory."""
  for flags, status, says in (
    (["--help"], 0, "Asks a policy one question about one picture."),
    (["--question= "], 1, "error: the question is empty"),
  ):
    done = subprocess.run(
      [sys.executable, site / "bin" / "lfpc-ask", *flags],
      cwd=elsewhere,
      env={**os.environ, "PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"},
      capture_output=True,
      text=True,
      check=False,
    )
    assert done.returncode == status
    assert says in done.stdout + done.stderr
