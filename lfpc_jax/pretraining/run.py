"""Both pretraining steps in order, from a config."""

from __future__ import annotations

import functools
import json
import pathlib
import shutil
from typing import Any

import jax

from lfpc_jax import agent, files
from lfpc_jax.data.tokenizer import Tokenizer
from lfpc_jax.models import published
from lfpc_jax.models.config import PolicyConfig
from lfpc_jax.models.parameters import Params
from lfpc_jax.pretraining import (
  dialogue_loss,
  dialogues,
  initial,
  loop,
  pool,
  tower,
)
from lfpc_jax.pretraining import features as features_lib
from lfpc_jax.pretraining import writer as writer_lib


def _say(name: str, step: int, numbers: dict[str, float]) -> None:
  shown = "  ".join(f"{k} {v:.3f}" for k, v in numbers.items())
  print(f"{name} {step}: {shown}", flush=True)


def _train_tower(
  config: Any,
  workdir: pathlib.Path,
  tokenizer: Tokenizer,
  policy: PolicyConfig,
  scenes: pool.Pool,
) -> Params:
  crowded = pool.make_pool(
    workdir / "crowded", config.pretrain.crowded, pool.CROWDED
  )
  ids = initial.word_ids(tokenizer)
  params = initial.initial_parameters(policy, tokenizer, config.seed)
  heads = tower.init_heads(jax.random.key(config.seed + 1), policy.text.width)
  make = functools.partial(
    tower.make_batch,
    scenes=scenes,
    crowded=crowded,
    number=config.pretrain.tower_batch,
  )
  trained = {"policy": params, "heads": heads}
  for phase, (steps, rate, share) in enumerate(config.pretrain.tower_phases):
    source = functools.partial(
      loop.batches,
      functools.partial(make, crowded_share=share),
      config.seed + 7 + phase,
    )
    trained = loop.fit(
      lambda t, batch: tower.loss(policy, t, batch, ids),
      trained,
      source,
      steps,
      rate,
      workdir / f"tower_{phase}.npz",
      functools.partial(_say, f"tower, phase {phase},"),
    )
  return trained["policy"]


def _train_dialogues(
  config: Any,
  workdir: pathlib.Path,
  tokenizer: Tokenizer,
  policy: PolicyConfig,
  scenes: pool.Pool,
  params: Params,
) -> Params:
  features = features_lib.compute_features(
    policy, params, scenes, config.pretrain.dialogue_scenes, config.seed, print
  )
  make = functools.partial(
    dialogues.make_batch,
    pool=scenes,
    features=features,
    writer=writer_lib.Writer(tokenizer),
  )

  values = dialogue_loss.number_values(tokenizer)

  def loss(trained, batch):
    whole = trained["policy"]
    frozen = whole | {"vision": jax.lax.stop_gradient(whole["vision"])}
    return dialogue_loss.loss(
      policy, trained | {"policy": frozen}, batch, values
    )

  heads = dialogue_loss.init_heads(
    jax.random.key(config.seed + 2), policy.text.width
  )
  trained = {"policy": params, "heads": heads}
  for phase, (steps, rate) in enumerate(config.pretrain.dialogue_phases):
    trained = loop.fit(
      loss,
      trained,
      functools.partial(loop.batches, make, config.seed + 11 + phase),
      steps,
      rate,
      workdir / f"dialogues_{phase}.npz",
      functools.partial(_say, f"dialogues, phase {phase},"),
    )
  return trained["policy"]


def pretrain(config: Any, workdir: pathlib.Path) -> None:
  """Makes `workdir/model`; earlier results in `workdir` are used again."""
  source = agent.ASSETS / "tiny_qwen"
  tokenizer = Tokenizer.load(source)
  policy = initial.tiny_config(tokenizer)
  scenes = pool.make_pool(workdir / "scenes", config.pretrain.scenes)
  params = _train_tower(config, workdir, tokenizer, policy, scenes)
  params = _train_dialogues(config, workdir, tokenizer, policy, scenes, params)
  target = workdir / "model"
  shutil.rmtree(target, ignore_errors=True)
  published.save(
    target, policy, params, dtype="bfloat16", source_directory=source
  )
  origin = json.dumps(config.pretrain.to_dict(), indent=2) + "\n"
  files.atomic_write(target / "pretraining.json", origin.encode())
  print(f"model: {target}")
