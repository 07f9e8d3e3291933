"""Adapters and precisions from a config's fields to parameters and back."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax import agent, checkpoints
from lfpc_jax import config as config_lib
from lfpc_jax.errors import UserError
from lfpc_jax.models import lora

_FILE = pathlib.Path(__file__).parents[1] / "configs" / "tiny.py"


def _config(*changes):
  return config_lib.freeze(config_lib.load_config(f"{_FILE}:stage1", changes))


def _agent(*changes):
  return agent.make_agent(_config(*changes), 16)


def _kinds(params):
  return {
    name: {str(x.dtype) for x in jax.tree.leaves(part)}
    for name, part in params.items()
  }


def _save(path, config, params):
  content = {"config": config_lib.json.loads(config_lib.config_json(config))}
  with checkpoints.Checkpointer(path) as saver:
    saver.save(1, {"params": params, "step": jnp.int32(1)}, content)
  return str(path)


def _equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def with_adapters():
  changes = ("policy.lora.rank=2", "policy.frozen_dtype=bfloat16")
  made = _agent(*changes)
  return changes, made, agent.load_params(made, "")


def test_adapters_are_off_unless_asked_for():
  made = _agent()
  assert made.policy.lora.rank == 0
  assert lora.PART not in agent.load_params(made, "")


def test_frozen_and_trained_parts_have_the_configs_precision(with_adapters):
  _, _, params = with_adapters
  kinds = _kinds(params)
  assert kinds.pop(lora.PART) == {"float32"}
  assert set(map(str, kinds.values())) == {"{'bfloat16'}"}
  changes = ("policy.frozen_dtype=bfloat16", "policy.freeze=vision,embedding")
  kinds = _kinds(agent.load_params(_agent(*changes), ""))
  half = {name for name, kind in kinds.items() if kind == {"bfloat16"}}
  assert half == {"vision", "embedding"}
  assert kinds["layers"] == kinds["norm"] == {"float32"}


def test_a_checkpoint_gives_its_adapters_back(with_adapters, tmp_path):
  changes, made, params = with_adapters
  trained = params | {
    lora.PART: jax.tree.map(lambda x: x + 1, params[lora.PART])
  }
  path = _save(tmp_path / "a", _config(*changes), trained)
  _equal(agent.load_params(made, path), trained)
  for change in ("rank=0", "rank=3", "alpha=8", "targets=q,v"):
    other = _agent(*changes, f"policy.lora.{change}")
    with pytest.raises(UserError, match="policy.lora=.*'rank': 2") as error:
      agent.load_params(other, path)
    assert "\n" not in str(error.value)


def test_adapters_in_bfloat16_are_so_from_the_start(tmp_path):
  """So that nothing is rounded where a run goes on from another."""
  changes = ("policy.lora.rank=2", "policy.param_dtype=bfloat16")
  made = _agent(*changes)
  params = agent.load_params(made, "")
  assert _kinds(params)[lora.PART] == {"bfloat16"}
  path = _save(tmp_path / "a", _config(*changes), params)
  again = agent.load_params(made, path)
  _equal(again, params)
  assert _kinds(again) == _kinds(params)


def test_the_configs_seed_decides_fresh_adapters():
  first, same, other = (
    agent.load_params(_agent("policy.lora.rank=2", f"seed={seed}"), "")
    for seed in (3, 3, 4)
  )
  _equal(first, same)
  a, b = (x[lora.PART]["q"]["a"] for x in (first, other))
  assert jnp.any(a != b)


def test_adapters_may_start_on_a_run_without_any(with_adapters, tmp_path):
  _, made, _ = with_adapters
  base = jax.tree.map(lambda x: 2 * x, agent.load_params(_agent(), ""))
  path = _save(tmp_path / "a", _config(), base)
  params = agent.load_params(made, path)
  assert jnp.abs(params.pop(lora.PART)["q"]["b"]).max() == 0
  _equal(params, jax.tree.map(lambda x: x.astype(jnp.bfloat16), base))


@pytest.mark.parametrize(
  "change, says",
  [
    ("policy.lora.rank=-2", "policy.lora.rank=-2"),
    ("policy.lora.targets=q,qkv", "no layer 'qkv'"),
    ("policy.param_dtype=float16", "policy.param_dtype='float16'"),
    ("policy.dtype=half", "policy.dtype='half'"),
  ],
)
def test_a_field_that_cannot_be_is_named(change, says):
  changes = (change,) if "rank" in change else (change, "policy.lora.rank=2")
  with pytest.raises(UserError) as error:
    _agent(*changes)
  assert says in str(error.value)
