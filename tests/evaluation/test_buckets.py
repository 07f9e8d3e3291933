"""Batches by image size: every question once, in few capacities."""

from hypothesis import given
from hypothesis import strategies as st

from lfpc_jax.evaluation import buckets
from lfpc_jax.evaluation.buckets import Part

LARGEST = (400, 800)
_sizes = st.tuples(st.integers(1, 400), st.integers(1, 800))


def test_questions_of_a_size_are_asked_together_the_largest_first():
  small, wide, large = (100, 200), (101, 201), (300, 700)
  sizes = [small, wide, large, small, wide, small]
  assert buckets.cut(sizes, LARGEST, 2) == [
    Part((2,), (400, 800)),
    Part((0, 3), (100, 200)),
    Part((5,), (100, 200)),
    Part((1, 4), (200, 400)),
  ]


def test_a_bucket_that_fills_no_batch_is_joined_to_what_holds_all():
  tall, wide = (380, 100), (90, 350)
  parts = buckets.cut([tall, wide, wide], LARGEST, 2)
  assert parts == [Part((0,), (400, 400)), Part((1, 2), (100, 400))]
  (part,) = buckets.cut([tall, wide], LARGEST, 3)
  assert part == Part((0, 1), (400, 400))
  assert part.filled(3) == (0, 1, 0)


def test_what_exceeds_the_largest_is_left_to_be_refused():
  (part,) = buckets.cut([(401, 20)], LARGEST, 2)
  assert part.capacity == (400, 200)


def _shares(images, batch, parts=1):
  found = buckets.cut([(9, 9)] * len(images), (9, 9), batch, images, parts)
  return [(part.numbers, part.share) for part in found]


def test_questions_about_one_picture_lie_side_by_side():
  # Rotation by rotation, as a file may have them; one lacks a rotation.
  images = list("abcabcabd")
  assert _shares(images, 3) == [
    ((0, 3, 6), 3),
    ((1, 4, 7), 3),
    ((2, 5, 8), 1),
  ]
  assert _shares(list("aaaabbbb"), 8) == [((0, 1, 2, 3, 4, 5, 6, 7), 4)]
  assert _shares(list("aaaa"), 8) == [((0, 1, 2, 3), 4)]


def test_pictures_are_not_shared_where_that_fits_no_batch():
  apart = [((0, 1, 2, 3), 1), ((4, 5, 6, 7), 1)]
  assert _shares(list("aaabbbcc"), 4) == apart
  assert _shares([""] * 8, 4) == apart
  # Two originals do not divide over four devices.
  assert _shares(list("aaaabbbb"), 8, 2) == [((0, 1, 2, 3, 4, 5, 6, 7), 4)]
  assert _shares(list("aaaabbbb"), 8, 4) == [((0, 1, 2, 3, 4, 5, 6, 7), 1)]
  # One shared picture among many would be a program of its own.
  assert _shares(list("aabcdefg"), 4)[0] == ((0, 1, 2, 3), 1)


def test_a_batch_that_cannot_share_pictures_says_so():
  images = [name for name in "abc" for _ in range(4)]
  assert buckets.unshared(images, 8) == buckets.unshared(images, 8, 2) == ""
  assert buckets.unshared(["", *"abc"], 3) == buckets.unshared([], 3) == ""
  said = buckets.unshared(images, 6)
  assert said.startswith("3 pictures have 4 questions each, and eval.batch=6")
  assert said.endswith("encoded 4 times; give a multiple of 4")
  said = buckets.unshared(images, 8, 4)
  assert "eval.batch=8 on 4 parts of the mesh" in said
  assert said.endswith("give a multiple of 16")


@given(
  st.lists(st.tuples(_sizes, st.sampled_from(["", *"abcdef"])), min_size=1),
  st.integers(1, 8),
)
def test_sharing_loses_no_question_and_mixes_no_pictures(asked, batch):
  sizes, images = zip(*asked)
  parts = buckets.cut(sizes, LARGEST, batch, images)
  found = [number for part in parts for number in part.numbers]
  assert sorted(found) == list(range(len(sizes)))
  for part in parts:
    filled = part.filled(batch)
    for k in range(0, batch if part.share > 1 else 0, part.share):
      row = {images[number] for number in filled[k : k + part.share]}
      assert len(row) == 1 and row != {""}


@given(st.lists(_sizes, min_size=1, max_size=40), st.integers(1, 5))
def test_every_question_comes_once_and_fits(sizes, batch):
  parts = buckets.cut(sizes, LARGEST, batch)
  found = [number for part in parts for number in part.numbers]
  assert sorted(found) == list(range(len(sizes)))
  assert len({part.capacity for part in parts}) <= 9
  for part in parts:
    assert 1 <= len(part.numbers) <= batch == len(part.filled(batch))
    assert list(part.numbers) == sorted(part.numbers)
    for number in part.numbers:
      assert all(
        s <= c <= most
        for s, c, most in zip(sizes[number], part.capacity, LARGEST)
      )
