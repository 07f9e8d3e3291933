"""Stage 2 of LFPC on a published Qwen2.5-VL: the grounding reward.

  python -m lfpc_jax.train --config=configs/stage2.py:7b --workdir=runs/stage2 \
    --config.policy.path=DIRECTORY --config.policy.checkpoint=runs/stage1

It goes on from stage 1's run and differs from configs/stage1.py, whose
variants it has, in its data and its reward.

The paper's data are 256 questions of VisualProbe with nested boxes drawn by
hand, which are not published: VisualProbe itself has no boxes. So data.name is
'folder', your own questions with boxes, see docs/data.md. A question without
boxes earns no grounding reward.
"""

import pathlib

import ml_collections

from lfpc_jax import config as config_lib


def get_config(variant: str = "7b") -> ml_collections.ConfigDict:
  """The config of a variant; configs/stage1.py names them."""
  first = pathlib.Path(__file__).with_name("stage1.py")
  config = config_lib.load_config(f"{first}:{variant}")
  config.name = f"stage2 {variant}"
  config.data.update(name="folder", split="train", mix=())
  config.reward.update(
    geo_weight=1.0,
    tau=0.9,  # [paper]
    iou_weight=0.5,
    crop_rule="last",
  )
  return config
