"""What compile_check takes as it stands, and what it refuses."""

import pytest

from lfpc_jax import config as config_lib
from lfpc_jax.ahead import checking, chips, command, layouts, proposing, search
from lfpc_jax.errors import UserError
from tests.ahead.test_chips import needs_libtpu


def _config(file, *changes):
  return config_lib.load_config(f"configs/{file}", changes)


def test_a_variant_of_a_published_size_needs_no_flag(capsys):
  about = checking.subject(_config("stage1.py:3b"))
  assert about.size == "3b" and about.agent.policy.text.width == 2048
  assert "--size=3b, of the config 'stage1 3b'" in capsys.readouterr().out
  asked = checking.subject(_config("stage1.py:3b"), "7b")
  assert asked.agent.policy.text.width == 3584
  assert capsys.readouterr().out == ""


def test_a_path_is_not_replaced_by_a_variant_s_name():
  about = checking.subject(_config("stage1.py:7b", "policy.path=tiny_qwen"))
  assert about.size == "" and about.agent.policy.text.width < 1000


@needs_libtpu
def test_what_does_not_divide_is_laid_out_anew(capsys):
  topology = chips.find("v5e:8x8")
  about = checking.subject(_config("stage1.py:7b"))
  changed = command.divided(about, topology).config
  said = capsys.readouterr().out
  assert "no multiple of the 64 parts" in said
  found = search.on_slice(
    layouts.make_step(about.config, about.agent, about.learner),
    "v5e:8x8",
    topology.chip,
    64,
  )
  assert found.layout.flags() in said
  assert changed.mesh.sizes == (found.layout.fsdp, found.layout.tensor)
  assert changed.rollout.waves == found.layout.waves
  assert changed.rl.micro_batches == found.layout.micro_batches


@needs_libtpu
def test_what_divides_stays_as_it_is():
  config = _config("tiny.py:smoke", "rl.micro_batches=1")
  about = checking.subject(config)
  assert command.divided(about, chips.find("v5e:2x2")) is about


@needs_libtpu
def test_several_slices_or_other_axes_are_laid_out_by_hand():
  two = chips.find("v5e:2x2", 2)
  with pytest.raises(UserError, match=r"2 slices: .*--config.mesh.slices=2,1"):
    command.divided(checking.subject(_config("tiny.py:smoke")), two)
  for changes, devices in (
    (("mesh.slices=2,1",), two),
    (
      (
        "mesh.axes=fsdp,context,tensor",
        "mesh.sizes=-1,1,1",
        "mesh.slices=1,1,1",
      ),
      chips.find("v5e:2x4"),
    ),
  ):
    about = checking.subject(_config("tiny.py:smoke", *changes))
    with pytest.raises(UserError, match="waves.*--propose says what divides"):
      command.divided(about, devices)


@needs_libtpu
def test_an_evaluation_that_does_not_divide_is_left_out(capsys):
  config = _config(
    "tiny.py:smoke", "rl.micro_batches=1", "eval.batch=6", "eval.budgets=16"
  )
  found = checking.check(
    checking.subject(config), chips.find("v5e:2x2"), only="evaluation"
  )
  assert list(found) == []
  said = capsys.readouterr().out
  assert said.startswith("left out: the evaluation at 16 tokens, of eval.batch")
  assert "of size 6 does not divide over 4" in said


def test_a_slice_is_proposed_for_alone(capsys):
  config = _config("tiny.py:smoke", "rollout.prompts=64")
  assert proposing.run(config, "v5e:2x4")
  said = capsys.readouterr().out
  assert "v5e:2x4" in said and "v5e:2x2" not in said and "v5e:4x4" not in said
  assert proposing.run(config, "v5e")
  said = capsys.readouterr().out
  assert "the smallest slice that fits" in said and "v5e:4x4" in said


@pytest.mark.parametrize(
  "topology, slices, says",
  [
    ("v5e:2x2", 2, "--slices=2: a layout is proposed for one slice"),
    ("v5e:3x5", 1, "--topology=v5e:3x5: slices of v5e are 1x1, 2x2"),
    ("v9", 1, "known are v4"),
  ],
)
def test_a_proposal_for_nothing_is_refused(topology, slices, says):
  with pytest.raises(UserError, match=says):
    proposing.run(_config("tiny.py:smoke"), topology, slices=slices)


def test_a_refused_proposal_is_made_smaller(monkeypatch):
  """The compiler wants twice the estimate of the update, and is believed."""
  about = checking.subject(_config("tiny.py:smoke"))
  step = layouts.make_step(about.config, about.agent, about.learner)
  limit = chips.device_of("v5e").memory
  plain = {"encode": 0.1, "rollout": 0.1, "update": 0.9}
  monkeypatch.setattr(search.memory, "encode", lambda *_: {"x": 0.1 * limit})
  monkeypatch.setattr(search.memory, "rollout", lambda *_: {"x": 0.1 * limit})
  monkeypatch.setattr(
    search.memory,
    "update",
    lambda step, layout: {
      "x": 0.9 * limit / (layout.micro_batches * layout.rollout_slices)
    },
  )
  tried = []

  def check(about, topology, text=False, only=""):
    layout = about.config.rl.micro_batches
    tried.append((only, layout))
    used = plain[only] * limit * (2 if only == "update" else 1) / layout
    program = type("Program", (), {"name": only})()
    yield checking.Outcome(program, 1, {"used": used}, [], used <= limit), ""

  monkeypatch.setattr(proposing.checking, "check", check)
  monkeypatch.setattr(
    proposing.chips, "find", lambda name: chips.Topology(name, None, [])
  )
  done = proposing.confirm(about, step, "v5e:1x1")
  assert done.proposal.layout.micro_batches == 2
  assert [(x[0], x[2], x[3]) for x in done.refused] == [
    ("v5e:1x1", "update", 1.8 * limit)
  ]
  # What has been compiled and has not changed is not compiled again.
  assert tried == [("encode", 1), ("rollout", 1), ("update", 1), ("update", 2)]
