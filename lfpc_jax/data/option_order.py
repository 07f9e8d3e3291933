"""The order of a question's options: stored, or shuffled by a seed.

V*Bench stores the right option first. A policy, or a judge, that leans to A
gains from that, so the order is part of every score: 'shuffled' is the
default, 'stored' compares with older papers.
"""

from __future__ import annotations

import dataclasses
import string
import zlib

import numpy as np

from lfpc_jax.data.examples import Example
from lfpc_jax.errors import UserError
from lfpc_jax.rl import answers

ORDERS = ("stored", "shuffled")


def permutation(example_id: str, number: int, seed: int) -> tuple[int, ...]:
  """The order of a question's options: place k shows option `result[k]`.

  It depends on its arguments alone, so that a question keeps its order in
  whatever part of a data set it is asked.
  """
  rng = np.random.default_rng([seed, zlib.crc32(example_id.encode())])
  return tuple(rng.permutation(number).tolist())


def arrange(example: Example, order: str, seed: int = 0) -> Example:
  """The same question with its options in another order.

  Args:
    example: its answer is a letter or the text of an option.
    order: one of `ORDERS`.
    seed: of 'shuffled'.

  Returns:
    The example; if it has options, its answer is the right one's letter.

  Raises:
    UserError: an unknown order, or an answer that is none of the options.
  """
  if order not in ORDERS:
    raise UserError(f"option_order={order!r}: choose one of {ORDERS}")
  if not example.options:
    return example
  places = range(len(example.options))
  if order == "shuffled":
    places = permutation(example.id, len(example.options), seed)
  right = answers.answer_index(example.answer, example.options)
  return dataclasses.replace(
    example,
    options=tuple(example.options[k] for k in places),
    answer=string.ascii_uppercase[list(places).index(right)],
  )
