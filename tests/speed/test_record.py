"""What an evaluation compiles costs no more than is recorded; waste shows."""

import copy
import functools

import jax
import jax.numpy as jnp
import pytest

from lfpc_jax import agent as agent_lib
from lfpc_jax.data import loader
from lfpc_jax.models import policy
from lfpc_jax.rollout import encoding
from tests import small_scenes
from tests.speed import record


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  data = tmp_path_factory.mktemp("data")
  with small_scenes.quick_configs(data, *record.CHANGES) as config:
    yield config()


def test_no_program_of_an_evaluation_costs_more_than_is_recorded(config):
  kept = record.read("evaluation")
  found = record.evaluation(config)
  assert found["compiled by step"][0] > 2 and found["compiled by step"][1] == 0
  assert not record.growth(kept, found)


def _with_scores(config, params, batch, capacity):
  """Prefills, and scores all of the vocabulary in each slot of the prompt."""
  cache = encoding.encode_prompt(config, params, batch, capacity)
  hidden = jnp.take(params["embedding"], batch.tokens, axis=0)
  scores = policy.logits(config, params, hidden)
  return cache, jax.nn.logsumexp(scores, axis=-1)


@pytest.mark.parametrize("waste", ["none", "prefix per rollout", "all scores"])
def test_waste_in_the_prefill_is_named(config, waste):
  kept = record.read("evaluation")
  agent = agent_lib.make_agent(config, 16, group=1)
  source = loader.open_data(config.data, "test")
  batch = agent.packer.pack([source[k] for k in range(4)], [16] * 4)
  function = _with_scores if waste == "all scores" else encoding.encode_prompt
  if waste == "prefix per rollout":
    batch = jax.tree.map(lambda x: x.repeat(2, axis=0), batch)
  program = jax.jit(functools.partial(function, agent.policy, capacity=16))
  params = agent_lib.load_params(agent, "")
  found = record.costs(program.lower(params, batch).compile())
  programs = kept["programs"] | {"prefill": found}
  told = record.growth(kept, kept | {"programs": programs})
  if waste == "none":
    assert not told
  else:
    assert "prefill: flops" in told and "prefill: bytes accessed" in told
    assert "rollout" not in told and record.COMMAND in told


KEPT = {
  "programs": {"update": dict.fromkeys(record.TOLERANCE, 1000)},
  "compiled by step": [6, 0],
}


@pytest.mark.parametrize("kind", record.TOLERANCE)
def test_growth_beyond_the_tolerance_is_told(kind):
  found = copy.deepcopy(KEPT)
  for value, grown in ((1000, False), (1005, False), (1101, True)):
    found["programs"]["update"][kind] = value
    assert bool(record.growth(KEPT, found)) == grown
  assert f"update: {kind} 1,000 -> 1,101\n" in record.growth(KEPT, found)
  found["programs"]["update"][kind] = 499  # nothing is counted any more
  assert f"update: {kind} 1,000 -> 499\n" in record.growth(KEPT, found)


def test_a_program_more_or_less_is_told():
  more = KEPT | {"compiled by step": [6, 1]}
  assert "by step: [6, 0] -> [6, 1]\n" in record.growth(KEPT, more)
  none = KEPT | {"programs": {}}
  assert "update: flops 1,000 -> 0\n" in record.growth(KEPT, none)
  new = {"programs": KEPT["programs"] | {"second": {"flops": 7}}}
  assert "second: flops 0 -> 7\n" in record.growth(KEPT, KEPT | new)
