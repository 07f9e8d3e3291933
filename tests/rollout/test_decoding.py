"""How far a step of decoding reads its cache changes nothing it writes."""

import dataclasses

import jax
import numpy as np
import pytest

from lfpc_jax.rollout import decoding, episode
from tests.rollout import scripted_policy


@pytest.mark.parametrize(
  "slots, expected",
  [
    (10, (10,)),
    (65, (32, 65)),
    (81, (40, 81)),
    (249, (64, 128, 249)),
    (2049, (512, 1024, 2049)),
    (16385, (4096, 8192, 16385)),
  ],
)
def test_extents_are_a_quarter_half_and_all(slots, expected):
  assert decoding.extents(slots) == expected


def test_rows_that_outgrow_an_extent_write_the_same(monkeypatch):
  params, batch, whole = scripted_policy.play(1.0)
  length = np.unique(whole.length)
  wanted = [1, *length[:-1][:: max(1, len(length) // 4)].tolist()]
  monkeypatch.setattr(decoding, "extents", lambda slots: (*wanted, slots))
  rollout = episode.Rollout(
    scripted_policy.config(),
    scripted_policy.limits(1.0),
    scripted_policy.VIEW_TOKENS,
  )
  parts = jax.jit(rollout, compiler_options=scripted_policy.FAST_COMPILE)(
    params, batch, scripted_policy.make_texts(), jax.random.key(0)
  )
  for field in dataclasses.fields(whole):
    a, b = getattr(parts, field.name), getattr(whole, field.name)
    if field.name == "logp":
      np.testing.assert_allclose(a, b, atol=1e-5)
    else:
      np.testing.assert_array_equal(a, b, err_msg=field.name)
