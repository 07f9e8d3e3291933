"""Random access, the sampler's permutations, and decoding in threads."""

import collections
import io
import threading
import time

import numpy as np
from PIL import Image
import pytest

from lfpc_jax import errors
from lfpc_jax.data import loader
from lfpc_jax.data.sampler import BatchSampler
from tests import waiting


def _row(index, image_bytes=None):
  if image_bytes is None:
    file = io.BytesIO()
    pixels = np.full((28, 42, 3), index, np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    image_bytes = file.getvalue()
  return {
    "id": b"row-%d" % index,
    "image": image_bytes,
    "question": b"?",
    "answer": str(index).encode(),
    "category": b"any",
  }


def _source(number=10):
  return loader.PromptSource([_row(index) for index in range(number)], "rows")


def _sampler(**changes):
  arguments = dict(seed=0, batch_size=4, num_examples=10)
  return BatchSampler(**{**arguments, **changes})


def test_an_example_is_decoded_and_complete():
  rows = [{**_row(7), "options": [b"A", b"B"], "boxes": [[1, 2, 3, 4]]}]
  example = loader.PromptSource(rows, "rows")[0]
  np.testing.assert_array_equal(example.image, np.full((28, 42, 3), 7))
  assert example.image.dtype == np.uint8
  assert (example.id, example.answer, example.source) == ("row-7", "7", "rows")
  assert example.options == ("A", "B")
  np.testing.assert_array_equal(example.boxes, [[1, 2, 3, 4]])
  assert _source()[0].boxes.shape == (0, 4)


def test_boxes_follow_a_small_image_that_is_enlarged():
  file = io.BytesIO()
  Image.new("RGB", (20, 14)).save(file, "PNG")
  row = {**_row(0, file.getvalue()), "boxes": [[1, 2, 3, 4]]}
  example = loader.PromptSource([row], "rows")[0]
  assert example.image.shape == (28, 40, 3)
  np.testing.assert_array_equal(example.boxes, [[2, 4, 6, 8]])


def test_the_words_of_an_example_have_no_image():
  example = _source().words(7)
  assert (example.id, example.answer) == ("row-7", "7")
  assert example.image.shape == (0, 0, 3)


def test_a_large_image_is_shrunk_with_its_boxes_and_said_to_be():
  row = {**_row(0), "boxes": [[2, 3, 10, 11]]}  # of 28 x 42 pixels
  source = loader.PromptSource([row], "rows", room=(28, 28))
  example = source[0]
  assert example.image.shape[:2] == source.size(0) == (28, 28)
  assert example.boxes.tolist() == [[1, 3, 7, 11]]
  assert example.shrunk and source.words(0).shrunk
  whole = loader.PromptSource([row], "rows", room=(28, 42))
  assert not whole[0].shrunk and not whole.words(0).shrunk


def test_a_row_is_read_once_for_its_words_and_its_size():
  class Rows(list):
    def __getitem__(self, index):
      read.append(index)
      return super().__getitem__(index)

  read, rows = [], Rows([_row(0), _row(1)])
  source = loader.PromptSource(rows, "rows")
  for _ in range(2):
    assert [source.size(k) for k in range(2)] == [(28, 42)] * 2
    assert source.words(1).id == "row-1"
  assert sorted(read) == [0, 1]


def test_rows_of_one_image_share_its_pixels(monkeypatch):
  rows = [{**_row(k), "image_id": f"picture {k // 4}"} for k in range(8)]
  rows += [_row(8), _row(8)]  # nothing is known of these
  decoded = []
  decode = loader.images.decode
  monkeypatch.setattr(
    loader.images,
    "decode",
    lambda *a, **k: decoded.append(1) or decode(*a, **k),
  )
  source = loader.PromptSource(rows, "rows")
  with loader.BatchLoader(
    source, lambda _: np.arange(10), num_steps=1, workers=8
  ) as batches:
    ((_, found),) = batches
  assert len(decoded) == 2 + 2
  pixels = [id(e.image) for e in found]
  assert len(set(pixels)) == 4
  assert pixels[:8] == [pixels[k // 4 * 4] for k in range(8)]
  assert [e.id for e in found[:8]] == [f"row-{k}" for k in range(8)]
  del found
  _ = source[5]
  assert len(decoded) == 5  # nobody held the pixels: none are kept


def test_shared_pixels_map_boxes_too():
  file = io.BytesIO()
  Image.new("RGB", (20, 14)).save(file, "PNG")
  row = {**_row(0, file.getvalue()), "boxes": [[1, 2, 3, 4]], "image_id": "a"}
  source = loader.PromptSource([row, row], "rows")
  first, second = source[0], source[1]
  assert first.image is second.image
  np.testing.assert_array_equal(second.boxes, [[2, 4, 6, 8]])


@pytest.mark.parametrize("index", [-1, 10])
def test_an_index_out_of_range_is_refused(index):
  with pytest.raises(IndexError, match=f"Example {index} of .* has 10"):
    _ = _source()[index]


def test_a_broken_image_is_named():
  source = loader.PromptSource([_row(3, b"no image")], "rows")
  with pytest.raises(errors.UserError, match="'row-3' of 'rows'"):
    _ = source[0]


def test_a_cut_off_image_is_named():
  row = _row(3)
  row["image"] = row["image"][:-30]
  with pytest.raises(errors.UserError, match="row-3"):
    _ = loader.PromptSource([row], "rows")[0]


def test_every_epoch_is_another_permutation():
  sampler = _sampler(batch_size=5)
  epochs = [
    np.concatenate([sampler(2 * epoch), sampler(2 * epoch + 1)])
    for epoch in range(6)
  ]
  for epoch in epochs:
    assert sorted(epoch) == list(range(10))
  assert len({tuple(epoch) for epoch in epochs}) == 6


def test_batches_across_epochs_neither_skip_nor_repeat():
  # 10 steps of 4 are exactly four epochs of 10.
  counts = collections.Counter(
    int(i) for step in range(10) for i in _sampler()(step)
  )
  assert set(counts.values()) == {4} and len(counts) == 10


def test_a_batch_larger_than_the_data_set_wraps_around():
  batch = _sampler(batch_size=25)(3)
  counts = np.bincount(batch, minlength=10)
  assert counts.sum() == 25 and counts.min() >= 1 and counts.max() <= 4


def test_the_step_is_the_whole_state():
  fresh = [_sampler()(step) for step in (17, 3, 17)]
  used = _sampler()
  walked = [used(step) for step in range(18)]
  np.testing.assert_array_equal(fresh[0], walked[17])
  np.testing.assert_array_equal(fresh[1], walked[3])
  np.testing.assert_array_equal(fresh[0], fresh[2])
  assert not np.array_equal(_sampler(seed=1)(17), fresh[0])


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_out_the_batch_of_one_process(count):
  for step in range(7):
    parts = [
      _sampler(process_index=index, process_count=count)(step)
      for index in range(count)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), _sampler()(step))


def test_evaluation_sees_all_examples_in_order():
  sampler = _sampler(shuffle=False)
  seen = [sampler(step) for step in range(sampler.steps_per_epoch)]
  assert np.concatenate(seen).tolist() == [*range(10), 0, 1]


def test_impossible_samplers_are_refused():
  with pytest.raises(errors.UserError, match="batch_size = 4 .* 3 processes"):
    _sampler(process_count=3)
  with pytest.raises(errors.UserError, match="Process 2 of 2"):
    _sampler(process_count=2, process_index=2)
  with pytest.raises(errors.UserError, match="from 0 examples"):
    _sampler(num_examples=0)


def test_batches_come_in_order_from_the_first_step_on():
  with loader.BatchLoader(
    _source(), _sampler(), first_step=5, num_steps=4, workers=3
  ) as batches:
    seen = [(step, [int(e.answer) for e in batch]) for step, batch in batches]
  assert seen == [(step, _sampler()(step).tolist()) for step in (5, 6, 7, 8)]


def test_first_is_a_view_of_the_first_examples():
  source = _source()
  few = loader.first(source, 3, "data.items")
  assert [e.answer for e in few] == [source[i].answer for i in range(3)]
  assert few[-1].answer == source[2].answer
  with pytest.raises(IndexError):
    few[3]
  assert loader.first(source, 0, "data.items") is source
  assert loader.first(source, len(source) + 1, "data.items") is source
  with pytest.raises(errors.UserError, match="data.items=-1: must be >= 0"):
    loader.first(source, -1, "data.items")


def test_transform_runs_in_the_thread():
  def transform(step, batch):
    return len(batch), threading.current_thread().name

  with loader.BatchLoader(
    _source(), _sampler(), num_steps=1, transform=transform
  ) as batches:
    ((_, (number, name)),) = batches
  assert number == 4 and name.startswith("batches")


class _Breaks:
  """A source whose example 3 cannot be read."""

  def __getitem__(self, index):
    if index == 3:
      raise OSError("disk on fire")
    return index


def test_an_error_comes_in_its_place_and_stays():
  sampler = _sampler(batch_size=1, shuffle=False)
  with loader.BatchLoader(_Breaks(), sampler, depth=4) as batches:
    assert [next(batches)[1] for _ in range(3)] == [[0], [1], [2]]
    for _ in range(2):
      with pytest.raises(OSError, match="disk on fire"):
        next(batches)
  assert not _threads()


def test_it_says_how_long_a_batch_was_waited_for(monkeypatch):
  clock = waiting.Clock(monkeypatch)

  class Slow:
    def __getitem__(self, index):
      if index == 0:
        clock.advance(7)
      return index

  sampler = _sampler(batch_size=1, shuffle=False)
  with loader.BatchLoader(Slow(), sampler, depth=3) as batches:
    assert batches.waited == 0
    next(batches)
    assert batches.waited == 7
    next(batches)
    assert batches.waited == 0  # of the latest batch alone


def test_closing_ends_the_threads_and_may_be_repeated():
  batches = loader.BatchLoader(_source(), _sampler(), depth=8, workers=4)
  next(batches)
  assert _threads()
  batches.close()
  batches.close()
  assert not _threads()
  with pytest.raises(ValueError, match="closed"):
    next(batches)


def test_decoding_runs_ahead_but_not_without_bound():
  seen = []

  def sampler(step):
    seen.append(step)
    return np.array([0])

  with loader.BatchLoader(_source(), sampler, depth=3) as batches:
    for number in (3, 5):
      deadline = time.monotonic() + 300
      while len(seen) < number and time.monotonic() < deadline:
        time.sleep(0.01)
      time.sleep(0.05)  # in which a loader without bound would go on
      assert sorted(seen) == list(range(number))
      if number == 3:
        next(batches)
        next(batches)


def _threads():
  return [t for t in threading.enumerate() if t.name.startswith("batches")]
