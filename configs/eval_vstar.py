"""V*Bench: 191 questions, answered at 1,024 and 16,384 visual tokens.

  python -m lfpc_jax.evaluate --config=configs/eval_vstar.py \
    --config.policy.path=DIRECTORY --config.data.dir=data \
    --checkpoint=runs/stage1 --workdir=runs/vstar

DIRECTORY holds the published model that the checkpoint was trained from; the
data set must have been built below data.dir, see docs/data.md. All settings of
the episodes are those of configs/stage1.py, in whose precision the policy
runs.

The score is the accuracy over all questions, and by category. The options are
shuffled by data.option_seed; --config.data.option_order=stored asks as older
papers do, with the right option always first; scores.json and the caption say
which. The columns "as VLMEvalKit reads" are that tool's rule on the same
answers. The columns "by likelihood" are the benchmark's official score, which
compares the options' likelihoods; it is another question than the generated
answer's, so compare like with like.
"""

import pathlib

import ml_collections

from lfpc_jax import config as config_lib


def get_config(variant: str = "test") -> ml_collections.ConfigDict:
  """The config of a split: 'test', or 'test_questions' in its own order."""
  if variant not in ("test", "test_questions"):
    raise ValueError(f"no variant {variant!r}: choose test or test_questions")
  first = pathlib.Path(__file__).with_name("stage1.py")
  config = config_lib.load_config(f"{first}:7b")
  config.name = ""  # the checkpoint gives it
  config.data.update(
    name="vstar",
    mix=(),
    image_capacity=(8192, 8192),
    oversize="stop",  # a smaller picture would be another question
  )
  config.eval.update(split=variant, items=0, likelihood=True)
  return config
