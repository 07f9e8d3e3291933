"""The policy with all that surrounds it, as a config names it."""

import dataclasses
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax import agent, checkpoints
from lfpc_jax import config as config_lib
from lfpc_jax.data import prompts
from lfpc_jax.errors import UserError
from lfpc_jax.models import published
from lfpc_jax.rollout.tool_call import Failure
from lfpc_jax.rollout.types import Trajectory

TINY = agent.ASSETS / "tiny_qwen"
CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "tiny.py"


@pytest.fixture(scope="module")
def config():
  changes = ("gap.min_tokens=3", "rollout.text_capacity=33")
  return config_lib.freeze(config_lib.load_config(f"{CONFIG}:stage1", changes))


@pytest.fixture(scope="module")
def made(config):
  return agent.make_agent(config, 16, group=1, temperature=0.0)


def test_a_bare_name_is_a_shipped_model_and_a_path_is_itself(tmp_path):
  assert agent.find_model("tiny_qwen") == TINY
  assert agent.find_model(str(tmp_path)) == tmp_path
  for path in ("large_qwen", str(tmp_path / "none")):
    with pytest.raises(UserError, match="policy.path=.*tiny_qwen") as error:
      agent.find_model(path)
    assert repr(path) in str(error.value)


def test_limits_are_the_configs_unless_changed(config, made):
  limits = dataclasses.asdict(made.episodes)
  changed = {"group": 1, "temperature": 0.0}
  assert limits == {n: changed.get(n, config.rollout[n]) for n in limits}
  # The other fields of the section are not an episode's.
  others = {"prompts", "text_capacity", "waves"}
  assert set(config.rollout) - set(limits) == others


def test_the_packer_has_the_configs_capacities(config, made):
  packer = made.packer
  assert (packer.view_capacity, packer.view_min_tokens) == (16, 3)
  assert packer.text_capacity == 33
  assert packer.image_capacity == config.data.image_capacity
  assert packer.style == config.policy.prompt_style == "short"


def test_the_environments_texts_are_the_prompts_own(made):
  texts, decode = made.texts, made.tokenizer.decode
  before, after = prompts.observation_text("short")
  assert decode(texts.before.tolist()) == before
  assert decode(texts.after.tolist()) == after
  for failure in Failure:
    row = texts.errors[failure, : texts.error_lengths[failure]]
    assert decode(row.tolist()) == prompts.error_text(failure, "short")
  assert decode([int(texts.image_pad)]) == "<|image_pad|>"
  stops = {decode([token]) for token in texts.stops.tolist()}
  assert stops == {"</tool_call>", "<|im_end|>"}
  assert len(texts.table.lengths) == made.policy.text.vocab_size


def test_turns_are_the_policys_text_without_the_environments(made):
  encode = made.tokenizer.encode
  written = [["red", " sign"], ["<answer>7</answer>"]]  # one turn, two turns
  tokens, start, end = np.zeros((1, 2, 40), np.int32), [], []
  for g, parts in enumerate(written):
    slot, starts, ends = 1, [0, 0], [0, 0]
    for turn, part in enumerate(parts):
      ids = encode(part)
      tokens[0, g, slot : slot + len(ids)] = ids
      starts[turn], ends[turn] = slot, slot + len(ids)
      slot += len(ids) + 3  # what the environment wrote
    start.append(starts)
    end.append(ends)
  fields = {field.name: None for field in dataclasses.fields(Trajectory)}
  trajectory = Trajectory(
    **fields
    | dict(
      tokens=tokens,
      length=np.array([[40, 40]]),
      turns=np.array([[2, 1]]),
      turn_start=np.array([start]),
      turn_end=np.array([end]),
    )
  )
  assert made.turns(trajectory) == [written]


def _equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    np.testing.assert_array_equal(x, y)


def test_parameters_come_from_where_the_config_says(made, tmp_path):
  shipped = agent.load_params(made, "")
  _equal(shipped, published.load(TINY, made.policy, jnp.float32)[1])
  other = jax.tree.map(lambda x: x + 1, shipped)
  with checkpoints.Checkpointer(tmp_path / "run" / "checkpoints") as saver:
    saver.save(3, {"params": other, "step": jnp.int32(3)})
  # A run also holds its config, under the name of a published one's.
  (tmp_path / "run" / "config.json").write_text("{}")
  for path in ("run", "run/checkpoints", "run/checkpoints/3"):
    _equal(agent.load_params(made, str(tmp_path / path)), other)
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(shipped))


def test_parameters_of_another_published_directory(made, tmp_path):
  doubled = jax.tree.map(lambda x: 2 * x, agent.load_params(made, ""))
  path = tmp_path / "model"
  published.save(path, made.policy, doubled, jnp.float32, TINY)
  _equal(agent.load_params(made, str(path)), doubled)


@pytest.mark.parametrize(
  "section, key, value, says",
  [
    ("", "rms_norm_eps", 1e-5, "text.norm_epsilon is 1e-05, and 1e-06"),
    ("", "image_token_id", 3, "image_token_id is 3"),
    ("vision_config", "fullatt_block_indexes", [], "full_attention_blocks"),
    ("", "model_type", "llama", "only Qwen2.5-VL"),
  ],
)
def test_files_of_a_policy_that_computes_otherwise_are_refused(
  made, tmp_path, section, key, value, says
):
  """Their tensors have the right shapes."""
  path = tmp_path / "model"
  shutil.copytree(TINY, path)
  config = json.loads((path / "config.json").read_text())
  (config[section] if section else config)[key] = value
  (path / "config.json").write_text(json.dumps(config))
  with pytest.raises(UserError, match=says):
    agent.load_params(made, str(path))


def test_a_program_serves_published_and_restored_parameters(made, tmp_path):
  shipped = agent.load_params(made, "")
  with checkpoints.Checkpointer(tmp_path) as saver:
    saver.save(1, {"params": shipped})
  program = jax.jit(lambda params: params["norm"]["scale"] + 1)
  for path in ("", str(tmp_path)):
    program(agent.committed(agent.load_params(made, path)))
  assert program._cache_size() == 1


def test_a_checkpoint_that_is_not_there_is_named(made, tmp_path):
  with pytest.raises(UserError, match=f"no checkpoint at {tmp_path}/none"):
    agent.load_params(made, str(tmp_path / "none"))
