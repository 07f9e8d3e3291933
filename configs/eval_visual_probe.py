"""VisualProbe: small things in large images, in three levels.

  python -m lfpc_jax.evaluate --config=configs/eval_visual_probe.py:hard \
    --config.policy.path=DIRECTORY --config.data.dir=data \
    --checkpoint=runs/stage1 --workdir=runs/visual_probe_hard

Variants: easy, medium, hard. DIRECTORY and data.dir are as in
configs/eval_vstar.py.

The score is the accuracy of one greedy answer. The questions are open, and the
authors judge answers with a language model: name one with
--config.eval.judge.url and --config.eval.judge.model, or what is worded
otherwise than the truth counts as wrong.
"""

import pathlib

import ml_collections

from lfpc_jax import config as config_lib

_LEVELS = ("easy", "medium", "hard")


def get_config(variant: str = "hard") -> ml_collections.ConfigDict:
  """The config of a variant; the module's docstring names them."""
  if variant not in _LEVELS:
    raise ValueError(f"no variant {variant!r}: choose {', '.join(_LEVELS)}")
  first = pathlib.Path(__file__).with_name("stage1.py")
  config = config_lib.load_config(f"{first}:7b")
  config.name = ""  # the checkpoint gives it
  config.data.update(
    name="visual_probe",
    mix=(),
    image_capacity=(8192, 8192),
    oversize="stop",  # a smaller picture would be another question
  )
  config.eval.update(split=variant, items=0)
  config.eval.probes = ("noise", "blank", "other")  # there are no boxes
  return config
