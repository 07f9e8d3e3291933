"""The rotations of a question share its view, with the real tower."""

import dataclasses

import pytest

from lfpc_jax.data.loader import PromptSource
from lfpc_jax.evaluation import command, runner
from lfpc_jax.rollout import encoding
from tests.evaluation import made_up
from tests.gap_selection import sizes

BUDGET, QUESTIONS, ROTATIONS = 9, 2, 4
OPTIONS = ("3", "5", "7", "9")


def _rows():
  """Two pictures, each asked about with its options in four rotations."""
  found = sizes.source(QUESTIONS)
  for q in range(QUESTIONS):
    row = found._rows[q]
    for turn in range(ROTATIONS):
      options = OPTIONS[turn:] + OPTIONS[:turn]
      yield row | dict(
        id=f"{q}-{turn}",
        options=options,
        answer="A",
        group=f"q{q}",
        variant=str(turn),
        image_id=f"i{q}",
      )


class _Rotations(PromptSource):
  """The same pictures, of which nobody may know that they are shared."""

  shared = True

  def words(self, index):
    example = super().words(index)
    return example if self.shared else dataclasses.replace(example, image_id="")


@pytest.mark.slow  # compiles the episode twice
@pytest.mark.timeout(1800)
def test_rotations_that_share_a_view_are_answered_as_they_are_alone(
  monkeypatch,
):
  config = made_up.config(
    f"eval.batch={QUESTIONS * ROTATIONS}",
    f"eval.budgets=({BUDGET},)",
    "eval.probes=('noise',)",
    "rollout.text_capacity=60",
  )
  encode, views = encoding.vision.encode_views, []

  def count(policy, params, view):
    number, capacity = view.patches.shape[:2]
    views.append((number, capacity))
    return encode(policy, params, view)

  monkeypatch.setattr(encoding.vision, "encode_views", count)
  found = {}
  for shared in (True, False):
    source = _Rotations(list(_rows()), "rotations")
    source.shared = shared
    one = runner.Runner(config)
    (part,) = one.cut(source)
    assert part.share == (ROTATIONS if shared else 1)
    found[shared] = one.run("p", sizes.params(), source).rows
    # Of the global views alone: crops have another capacity.
    whole = [number for number, capacity in views if capacity == BUDGET]
    assert whole == [QUESTIONS if shared else QUESTIONS * ROTATIONS]
    views.clear()
  assert len(found[True]) == QUESTIONS * ROTATIONS * len(one.probes)
  assert found[True] == found[False]


def test_an_evaluation_says_that_pictures_are_not_shared(tmp_path, capsys):
  config = made_up.config(
    "eval.batch=3", "eval.probes=()", "rollout.text_capacity=60"
  )
  with made_up.policy(source=PromptSource(list(_rows()), "rotations")):
    command.evaluate(config, tmp_path, "")
  out = " ".join(capsys.readouterr().out.split())
  assert "2 pictures have 4 questions each, and eval.batch=3" in out
