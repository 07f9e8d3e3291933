"""What the TPU compiler makes of the miniature: kernels, slices, proposals."""

import re

import pytest

from tests.ahead.test_chips import check, needs_libtpu

pytestmark = [needs_libtpu, pytest.mark.slow, pytest.mark.timeout(1800)]
_KERNEL = re.compile(r'op_name="([^"]*)/(splash_\w+)/pallas_call"')


def _kernels(folder, name):
  """(where in the program, which kernel) of each splash attention."""
  return set(_KERNEL.findall((folder / f"{name}.txt").read_text()))


def test_splash_attention_is_what_is_compiled(tmp_path):
  for program in ("rollout", "update"):
    done = check(
      "--config=configs/tiny.py:smoke",
      "--config.rl.micro_batches=1",
      "--config.policy.dtype=bfloat16",
      "--config.policy.attention=splash",
      "--topology=v5e:2x2",
      f"--only={program}",
      f"--dump={tmp_path}",
    )
    assert done.returncode == 0, done.stderr[-3000:]
  # The tower of a crop runs in a branch, if there is a crop; the prefill, like
  # the update's decoder, in the loop over layers alone.
  found = _kernels(tmp_path, "rollout")
  prefill = {kernel for place, kernel in found if "cond" not in place}
  assert prefill == {"splash_mha_fwd_segmented_no_residuals"}
  assert any("cond" in place for place, _ in found)
  found = _kernels(tmp_path, "update")
  backward = {kernel for place, kernel in found if "transpose(jvp" in place}
  assert {re.sub("_segmented.*", "", kernel) for kernel in backward} == {
    "splash_mha_dq",
    "splash_mha_dkv",
  }
  assert any(
    "transpose" not in place and kernel.startswith("splash_mha_fwd")
    for place, kernel in found
  )


def test_a_proposal_is_confirmed_by_compiling():
  done = check(
    "--config=configs/tiny.py:smoke",
    "--topology=v5e:2x2",
    "--propose",
    "--confirm",
  )
  assert done.returncode == 0, done.stderr[-3000:]
  for program in ("encode", "rollout", "update"):
    assert re.search(rf"{program} +│ +yes", done.stdout), done.stdout
  flags = re.search(
    r"fits \(compiled\):\n--topology=v5e:2x2 (--config.*)\n", done.stdout
  )
  sizes = re.search(r"--config.mesh.sizes=(\d),(\d) ", flags[1])
  assert int(sizes[1]) * int(sizes[2]) == 4


def test_two_slices_tell_what_goes_between_them():
  done = check(
    "--config=configs/tiny.py:smoke",
    "--config.rl.micro_batches=1",
    "--config.rollout.prompts=8",
    "--topology=v5e:2x2",
    "--slices=2",
    "--config.mesh.slices=2,1",
    "--only=update",
  )
  assert done.returncode == 0, done.stderr[-3000:]
  assert "8 devices of 15.75 GiB" in done.stdout
  assert re.search(r"update +│ +yes", done.stdout), done.stdout
  assert re.search(r"all-reduce between slices +│ +\d", done.stdout)
  assert re.search(r"all-gather +│ +\d", done.stdout)
  assert "2 slices: what one device sends" in done.stdout
