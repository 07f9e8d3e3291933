"""What gpu.py runs: the published 3B's sizes, and small ones for CPUs."""

import dataclasses

from experiments.speed import problem
from lfpc_jax.models.config import PUBLISHED, PolicyConfig


@dataclasses.dataclass(frozen=True)
class Size:
  """What is run.

  Attributes:
    policy: the sizes of the policy; the vocabulary at least the tokeniser's.
    prompts, group: P and G of a step.
    decoding: prompts whose groups decode side by side where that is timed
      alone: few, so that reading the weights takes longer than products.
    view, crop: visual tokens.
    text: slots of a prompt that are not visual.
    turn: tokens of one.
    box: what every turn calls, in the view's pixels.
    side: of the originals.
    waves, micro_batches, rollout_slices: as in a config.
    chunks: logit_chunk and attention_chunk of a config.
    product, megabytes: of the large product, of the array that is read.
  """

  policy: PolicyConfig
  prompts: int
  group: int
  decoding: int
  view: int
  crop: int
  text: int
  turn: int
  box: tuple[int, int, int, int]
  side: int
  waves: int
  micro_batches: int
  rollout_slices: int
  chunks: tuple[int, int]
  product: int
  megabytes: int


_3B = Size(
  policy=dataclasses.replace(PUBLISHED["3b"], tie_word_embeddings=False),
  prompts=64,
  group=16,
  decoding=4,
  view=1024,
  crop=256,
  text=256,
  turn=110,
  box=(100, 120, 700, 686),
  side=2048,
  waves=4,
  micro_batches=16,
  rollout_slices=1,
  chunks=(2048, 256),
  product=8192,
  megabytes=4096,
)


def sizes(name: str, vocabulary: int) -> Size:
  """The size of a name; a small policy has the tokeniser's vocabulary."""
  if name == "3b":
    return _3B
  text = dataclasses.replace(
    _3B.policy.text,
    vocab_size=vocabulary,
    width=64,
    mlp_width=128,
    depth=2,
    heads=2,
    kv_heads=1,
    mrope_section=(4, 6, 6),
  )
  vision = dataclasses.replace(
    _3B.policy.vision,
    depth=2,
    width=32,
    mlp_width=64,
    heads=2,
    full_attention_blocks=(1,),
  )
  return dataclasses.replace(
    _3B,
    policy=dataclasses.replace(_3B.policy, text=text, vision=vision),
    prompts=4,
    group=2,
    decoding=2,
    view=16,
    crop=16,
    text=40,
    turn=problem.TURN,
    box=problem.BOX,
    side=128,
    waves=2,
    micro_batches=2,
    chunks=(64, 64),
    product=512,
    megabytes=16,
  )
