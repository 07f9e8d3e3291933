"""Stage 1 of LFPC on a published Qwen2.5-VL: the information gap.

  python -m lfpc_jax.train --config=configs/stage1.py:7b --workdir=runs/stage1 \
    --config.policy.path=DIRECTORY --config.data.dir=data

DIRECTORY holds the published model: config.json, safetensors, tokeniser. The
paper's mix of data (2,700 questions of Pixel-Reasoner, 2,100 of Chain-of-Focus,
ThinkLite-VL) is drawn from sets that must have been built below data.dir, see
docs/data.md. What the paper gives is marked
[paper]; the rest are choices. Fields that are not set here are documented,
and have their values, in configs/tiny.py.

Variants:
  3b, 7b, 32b, 72b  the paper's step at that size; [paper] is 7b. They differ
             in how many prompts the update takes at one time
  quick      two steps of 4 x 4 rollouts, to see whether everything fits

The global view has 1,024 tokens. For the paper's own selection of each
question's view, run lfpc_jax.select_gap with this config and its policy, then
train with --config.gap.mode=selected.

Nothing here has been run at these sizes yet: expect to raise rollout.waves,
rl.micro_batches and rl.rollout_slices, or to lower data.image_capacity, until
your devices hold a step; docs/pods.md has the order. All P originals lie on
the devices: 256 of 4096 x 4096 are 12.9 GB; the hosts hold at most six times
that, see docs/data.md.
"""

import pathlib

import ml_collections

from lfpc_jax import config as config_lib

# Slices of the prompts in the rollout and in the update, whose rest must be a
# multiple of the mesh's parts of them, and of each prompt's rollouts in the
# update. compile_check says what fits; experiments/pods has what it said.
SLICES = {
  "3b": (16, 16, 8),
  "7b": (16, 16, 16),
  "32b": (8, 8, 16),
  "72b": (4, 4, 16),
}


def _base() -> ml_collections.ConfigDict:
  miniature = pathlib.Path(__file__).with_name("tiny.py")
  config = config_lib.load_config(f"{miniature}:stage1")
  config.policy.update(
    path="",  # to be given: the directory of the published model
    prompt_style="full",
    freeze=("vision",),
    dtype="bfloat16",
    param_dtype="float32",
    frozen_dtype="bfloat16",
    remat="layer",
    logit_chunk=256,
    attention_chunk=256,
  )
  config.data.update(
    name="pixel_reasoner+chain_of_focus+deep_eyes",  # [paper]
    split="train+train+thinklite",  # ThinkLite-VL comes with DeepEyes
    mix=(2700, 2100, 0),  # [paper]; of ThinkLite-VL it gives no number: all
    image_capacity=(4096, 4096),
    oversize="shrink",  # one long picture must not end a run
  )
  config.gap.update(
    mode="fixed",
    tokens=1024,  # [paper's evaluation: 1,024 and 16,384]
    full_tokens=16_384,
    levels=(64, 128, 256, 512, 1024),
    min_tokens=4,
  )
  config.selection.update(lowest=64, batch=8, answer_tokens=64)
  config.rollout.update(
    prompts=256,  # [paper]
    group=16,  # [paper]
    max_crops=5,
    max_turns=6,
    max_turn_tokens=1024,
    max_response_tokens=2048,  # [paper]
    text_capacity=1024,
    crop_min_tokens=4,
    crop_max_tokens=256,  # so that five crops leave room to think
    max_call_bytes=512,
  )
  config.optimizer.update(
    learning_rate=1e-6,  # [paper]
    warmup_steps=0,
    b2=0.999,
    weight_decay=0.01,
    clip_norm=1.0,
    dtype="float32",
  )
  config.train.steps = 80  # [paper]
  config.checkpoint.update(every=5, keep=2)
  config.eval.update(items=0, batch=16, budgets=(1024, 16_384))  # [paper]
  return config


def get_config(variant: str = "7b") -> ml_collections.ConfigDict:
  """The config of a variant; the module's docstring names them."""
  config = _base()
  config.name = f"stage1 {variant}"
  if variant == "quick":
    config.rollout.update(prompts=4, group=4)
    config.rl.micro_batches = 4
    config.train.steps = 2
    config.checkpoint.every = 1
    config.eval.update(items=8, batch=4, records=2)
    return config
  if variant not in SLICES:
    raise ValueError(
      f"no variant {variant!r}: choose {', '.join(SLICES)} or quick"
    )
  waves, prompts, rollouts = SLICES[variant]
  config.rollout.waves = waves
  config.rl.update(micro_batches=prompts, rollout_slices=rollouts)
  return config
