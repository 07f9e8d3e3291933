"""The configs for published sizes: whole, precise, and possible."""

import pathlib

import pytest

from lfpc_jax import agent
from lfpc_jax import config as config_lib
from lfpc_jax.benchmarks.judge import open_judge
from lfpc_jax.data import gap, prompts, registry
from lfpc_jax.errors import UserError
from lfpc_jax.models.config import PUBLISHED, LoraConfig
from lfpc_jax.rl.alarms import AlarmConfig
from lfpc_jax.rl.rewards import RewardConfig
from lfpc_jax.rl.trainer import make_optimiser
from lfpc_jax.rl.types import UpdateConfig
from tests import real_vocabulary

ROOT = pathlib.Path(__file__).parents[1]
SIZES = ("3b", "7b", "32b", "72b")
BOTH = pytest.mark.parametrize("stage", ["stage1", "stage2"])


def _load(stage, variant, *changes):
  file = f"{ROOT}/configs/{stage}.py"
  return config_lib.load_config(f"{file}:{variant}", changes)


def _fields(config):
  return set(config_lib.overrides.flatten(config))


@BOTH
@pytest.mark.parametrize("variant", [*SIZES, "quick"])
def test_a_config_is_whole_and_its_parts_are_possible(tmp_path, stage, variant):
  config = _load(stage, variant)
  tiny = config_lib.load_config(f"{ROOT}/configs/tiny.py:stage1")
  assert _fields(config) == _fields(tiny)
  assert config.name == f"{stage} {variant}"
  assert config_lib.freeze(config) == config_lib.freeze(_load(stage, variant))
  RewardConfig(**config.reward)
  rules = UpdateConfig(**config.rl)
  AlarmConfig(**config.alarms)
  LoraConfig(**config.policy.lora)
  judge = config.eval.judge.to_dict() | {"url": "http://host/v1"}
  open_judge(judge, tmp_path / "rulings.jsonl")
  make_optimiser(config.optimizer)
  assert config.rollout.prompts % rules.micro_batches == 0
  assert config.rollout.group % rules.rollout_slices == 0
  limits = agent.episode_config(config.rollout)
  assert limits.max_turns == limits.max_crops + 1
  assert limits.max_turn_tokens <= limits.max_response_tokens
  # All crops fit, and half of the response is left for words.
  crops = limits.max_crops * (limits.crop_max_tokens + 16)
  assert crops < 0.75 * limits.max_response_tokens
  assert gap.view_capacity(config.gap) == 1024
  assert gap.ladder(config.gap.full_tokens, config.selection.lowest) == (
    (8192, 4096, 2048, 1024, 512, 256, 128, 64)
  )
  names = config.data.name.split("+")
  assert set(names) <= set(registry.SOURCES)
  sets = registry.parts(config.data.name, config.data.split)
  assert len(registry.mix(config.data, len(sets))) == len(names)


def test_the_variants_are_the_published_sizes():
  assert tuple(PUBLISHED) == SIZES
  for stage in ("stage1", "stage2"):
    with pytest.raises(UserError, match="no variant '8b': choose 3b, 7b"):
      _load(stage, "8b")


@BOTH
@pytest.mark.parametrize("variant", SIZES)
def test_precision_is_what_a_published_size_wants(stage, variant):
  policy = _load(stage, variant).policy
  assert (policy.dtype, policy.frozen_dtype) == ("bfloat16", "bfloat16")
  assert policy.param_dtype == "float32"
  assert _load(stage, variant).optimizer.dtype == "float32"
  assert (policy.remat, policy.prompt_style) == ("layer", "full")
  kinds = agent._precision(policy, PUBLISHED[variant])
  assert kinds.pop("vision") == "bfloat16"
  assert set(kinds.values()) == {"float32"}


@BOTH
def test_the_papers_numbers(stage):
  config = _load(stage, "7b")
  rollout, optimizer = config.rollout, config.optimizer
  assert (rollout.prompts, rollout.group) == (256, 16)
  assert rollout.max_response_tokens == 2048
  assert (config.train.steps, optimizer.learning_rate) == (80, 1e-6)
  assert (config.rl.kl, config.rl.advantage) == (0.0, "std")
  assert config.eval.budgets == (1024, 16_384)
  assert config.reward.geo_weight == (1.0 if stage == "stage2" else 0.0)
  assert config.reward.tau == 0.9


def test_stage_1_draws_the_papers_mix():
  data = _load("stage1", "7b").data
  sets = registry.parts(data.name, data.split)
  assert dict(zip(sets, registry.mix(data, len(sets)))) == {
    ("pixel_reasoner", "train"): 2700,
    ("chain_of_focus", "train"): 2100,
    ("deep_eyes", "thinklite"): 0,
  }


def test_a_policy_must_be_named():
  config = config_lib.freeze(_load("stage1", "7b"))
  with pytest.raises(UserError, match="policy.path"):
    agent.make_agent(config, 1024)
  with pytest.raises(UserError, match="policy.path='/none'"):
    changed = _load("stage1", "7b", "policy.path=/none")
    agent.make_agent(config_lib.freeze(changed), 1024)


def test_the_prompt_leaves_room_for_a_long_question():
  tokenizer = real_vocabulary.tokenizer()
  capacity = _load("stage1", "7b").rollout.text_capacity
  text = prompts.prompt_text("What digit is on the sign? " * 60, style="full")
  assert len(tokenizer.encode(text)) < capacity


def test_a_calls_bytes_fit_as_models_write_it():
  limit = _load("stage1", "7b").rollout.max_call_bytes
  call = (
    '\n{\n    "name": "image_zoom_in_tool",\n    "arguments": {\n        '
    '"bbox_2d": [\n            1024.125,\n            1024.125,\n            '
    "1024.125,\n            1024.125\n        ]\n    }\n}\n"
  )
  assert len(call) < limit


@pytest.mark.parametrize(
  "benchmark, variant",
  [
    *(("vstar", x) for x in ("test", "test_questions")),
    *(("hr_bench", x) for x in ("4k", "8k")),
    *(("visual_probe", x) for x in ("easy", "medium", "hard")),
  ],
)
def test_a_benchmark_is_asked_as_stage_1_trains(benchmark, variant):
  config, stage1 = _load(f"eval_{benchmark}", variant), _load("stage1", "7b")
  assert _fields(config) == _fields(stage1)
  for section in ("policy", "rollout", "gap"):
    assert config[section] == stage1[section]
  assert config.data.name in registry.SOURCES
  assert config.eval["items"] == 0  # all
  assert config.eval.budgets == (1024, 16_384)
  assert config.data.oversize == "stop"
  assert ("truth" in config.eval.probes) == (benchmark == "vstar")  # boxes
  with pytest.raises(UserError, match="no variant '7b'"):
    _load(f"eval_{benchmark}", "7b")
