"""lfpc_jax: learning to focus and to crop precisely, in JAX.

A vision-language policy (Qwen2.5-VL) sees a small global view of a large
image, calls a crop tool with a box, receives that region of the original and
answers. Reinforcement learning teaches it to look (LFPC, arXiv 2603.27494).

Dimension letters, the same in every docstring:

  P  prompts of a step            G  rollouts of a prompt (its group)
  S  prefix slots                 T  suffix slots
  N  visual-token capacity        C  crops of a rollout
  D  model width                  F  feed-forward width
  H  query heads                  K  key-value heads
  V  vocabulary                   L  layers
"""

__version__ = "0.1.0"
