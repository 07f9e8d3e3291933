"""The benchmark for a GPU runs whole, at a small size, where there is none."""

import sys

import jax
import pytest

from experiments.speed import gpu, gpu_sizes


@pytest.mark.slow
def test_the_small_size_gives_every_line(tmp_path):
  bench = gpu.Bench(tmp_path, "small")
  found = {row[0]: row[1:] for row in gpu.rows(bench)}
  # What was timed has not been compiled within.
  assert bench.rollout._cache_size() == bench.update._cache_size() == 1
  seconds = {name: row[0] for name, row in found.items()}
  for name in (
    "decoding 2 x 2, 24 tokens each",
    "rollout, 4 x 2 in 2 waves",
    "update in 2 x 1 slices",
    "whole step",
  ):
    assert float(seconds[name]) > 0
  assert "new tokens/s" in found["whole step"][1]
  assert found["memory of an update"][1].endswith("GiB by formula")


def test_memory_of_the_3b_fits_the_gpu_that_it_is_for():
  size = gpu_sizes.sizes("3b", 0)
  assert 40 < gpu.memory(size, slots=512) / 2**30 < 72


def test_without_a_gpu_the_small_size_runs_and_says_so(
  tmp_path, monkeypatch, capsys
):
  if jax.default_backend() == "gpu":
    return
  asked = []
  bench = lambda folder, name: asked.append(name)
  monkeypatch.setattr(gpu, "Bench", bench)
  monkeypatch.setattr(gpu, "rows", lambda bench: [["whole step", "1", ""]])
  monkeypatch.setattr(sys, "argv", ["gpu", f"--workdir={tmp_path}"])
  gpu.main()
  said = capsys.readouterr().out.splitlines()
  assert asked == ["small"]
  assert said[0].startswith("no GPU: ") and "mean nothing" in said[0]
  assert said[1].startswith("small on ") and "| whole step | 1 |  |" in said
