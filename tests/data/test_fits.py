"""What has no room is found before a run begins, without decoding."""

import dataclasses
import io

import numpy as np
from PIL import Image
import pytest

from lfpc_jax import agent as agent_lib
from lfpc_jax.data import fits, loader
from lfpc_jax.errors import UserError
from tests.gap_selection import sizes


def _row(index, size, question="What digit is on the sign?"):
  file = io.BytesIO()
  Image.new("RGB", size[::-1]).save(file, "PNG")
  # Its pixels are gone: nothing but the header can be read.
  return dict(
    id=f"row-{index}",
    image=file.getvalue()[:60],
    question=question,
    answer="7",
    category="any",
  )


def _find(rows, budgets=lambda step, ids: [9] * len(ids), room=None):
  source = loader.PromptSource(rows, "rows", room)
  packer = agent_lib.make_agent(sizes.load(), 30).packer
  return fits.find(source, packer, {0: range(len(rows))}, budgets)


def test_what_fits_is_not_spoken_of():
  found = _find([_row(k, (100, 224)) for k in range(3)])
  assert found == ([0, 1, 2], [], [])
  assert fits.settle([found]) == ""


def test_all_that_has_no_room_is_counted_and_the_first_named():
  rows = [_row(0, (60, 60)), _row(1, (225, 60)), _row(2, (60, 900))]
  rows += [_row(3, (60, 60), "Which? " * 90)]
  found = _find(rows)
  assert [(k, fault.split(":")[0]) for k, fault in found.faults] == [
    (k, f"example row-{k}") for k in (1, 2, 3)
  ]
  assert "rollout.text_capacity" in found.faults[2][1]
  with pytest.raises(UserError, match="225 x 60 .*shrink.*; 3 of 4 examples"):
    fits.settle([found])


def test_one_process_with_a_fault_stops_all():
  good, bad = _find([_row(0, (60, 60))]), _find([_row(1, (60, 900))])
  with pytest.raises(UserError, match="row-1"):
    fits.settle([list(good), list(bad)])


def test_what_cannot_be_read_stops_all():
  """It is no exception, after which the other processes would wait."""
  good = _find([_row(0, (60, 60))])
  bad = _find([_row(0, (60, 60)), _row(1, (60, 60)) | {"image": b"no image"}])
  with pytest.raises(UserError, match="row-1"):
    fits.settle([good, bad])


def test_what_is_shrunk_is_counted_once_if_two_processes_have_it():
  rows = [_row(0, (60, 60)), _row(1, (448, 60)), _row(2, (60, 900))]
  found = _find(rows, room=(224, 224))
  assert fits.settle([found, found]) == (
    "2 of 3 images are larger than data.image_capacity and shrunk to it"
  )


def test_each_view_has_its_own_budget():
  thin = [_row(0, (28, 224)), _row(1, (28, 224))]
  found = _find(thin, lambda step, ids: [30, 4])
  assert not found.faults  # of eight cells, in a capacity of 30
  asked = []
  steps = {0: [0, 1], 5: [1, 0], 6: [0, 0]}
  packer = agent_lib.make_agent(sizes.load(), 4).packer

  def budgets(step, ids):
    asked.append((step, ids))
    return [4] * len(ids)

  found = fits.find(loader.PromptSource(thin, ""), packer, steps, budgets)
  assert asked[1] == (5, ["row-1", "row-0"]) and len(asked) == 3
  assert found.seen == [0, 1] and len(found.faults) == 2
  assert "capacity of 4" in found.faults[0][1]


def test_an_outline_has_its_size_and_takes_no_memory():
  source = loader.PromptSource([_row(0, (8192, 8192))], "rows")
  (example,) = fits.outlines(source, [0]).values()
  assert example.image.shape == (8192, 8192, 3)
  assert example.image.strides == (0, 0, 0)
  known = dataclasses.replace(source.words(0), image=None)
  assert dataclasses.replace(example, image=None).id == known.id
  assert np.ndim(example.image) == 3
