"""The installed package holds its data files and says what it needs."""

import importlib.metadata
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow  # fetches the build backend
def test_an_installed_package_holds_all_files_of_the_source(tmp_path):
  source, site = tmp_path / "source", tmp_path / "site"
  source.mkdir()
  for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
    shutil.copy(ROOT / name, source)
  junk = shutil.ignore_patterns("__pycache__", "*.pyc")
  shutil.copytree(ROOT / "lfpc_jax", source / "lfpc_jax", ignore=junk)
  pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
  subprocess.run([*pip, f"--target={site}", str(source)], check=True)

  def files(root):
    found = (p for p in root.rglob("*") if p.is_file())
    return {p.relative_to(root) for p in found if p.suffix != ".pyc"}

  assert files(site / "lfpc_jax") == files(source / "lfpc_jax")
  (info,) = site.glob("lfpc_jax-*.dist-info")
  metadata = importlib.metadata.PathDistribution(info)
  assert metadata.version == "0.1.0"
  lines = (ROOT / "requirements.txt").read_text().splitlines()
  wanted = [line for line in lines if line and not line.startswith("#")]
  assert len(metadata.requires) == len(wanted)
