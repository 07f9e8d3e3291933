"""HR-Bench 4K or 8K: 200 questions in four rotations of their options.

  python -m lfpc_jax.evaluate --config=configs/eval_hr_bench.py:8k \
    --config.policy.path=DIRECTORY --config.data.dir=data \
    --checkpoint=runs/stage1 --workdir=runs/hr_bench_8k

Variants: 4k, 8k. DIRECTORY and data.dir are as in configs/eval_vstar.py.

The score is VLMEvalKit's, the mean over the rotations, overall and for single
(FSP) and cross (FCP) questions; beside it stand the questions that are right
in all four rotations, and what VLMEvalKit's own rule makes of the answers.
Intervals count questions, not rows.

The four rotations of a question share its image on the devices: a batch of
eight questions holds two originals of 8192 x 8192, 0.4 GB. Keep eval.batch a
multiple of four.
"""

import pathlib

import ml_collections

from lfpc_jax import config as config_lib

_SIDES = {"4k": 4096, "8k": 8192}


def get_config(variant: str = "4k") -> ml_collections.ConfigDict:
  """The config of a variant; the module's docstring names them."""
  if variant not in _SIDES:
    raise ValueError(f"no variant {variant!r}: choose {', '.join(_SIDES)}")
  first = pathlib.Path(__file__).with_name("stage1.py")
  config = config_lib.load_config(f"{first}:7b")
  config.name = ""  # the checkpoint gives it
  side = _SIDES[variant]
  config.data.update(
    name=f"hr_bench_{variant}",
    mix=(),
    image_capacity=(side, side),
    oversize="stop",  # a smaller picture would be another question
    option_order="stored",  # the four rotations are the benchmark's own
  )
  config.eval.update(split="test", items=0, batch=8)
  config.eval.probes = ("noise", "blank", "other")  # there are no boxes
  return config
