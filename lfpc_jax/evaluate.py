r"""Evaluates a policy on held-out questions.

  python -m lfpc_jax.evaluate --config=configs/tiny.py:stage1 \
    --checkpoint=runs/stage1 --workdir=runs/stage1/evaluation

--checkpoint is a training run's directory, one of its steps, or a directory
of published files; without it, the config's starting policy is evaluated.
Writes items.jsonl (a row for each question, budget and probe), probes.jsonl
(each probe's accuracy and its paired difference to the unprobed run),
records.jsonl (rollouts to look at), evaluation.json (all that can change a
score: settings, code, versions, parameters, questions; and times),
report.html, and of a benchmark (configs/eval_*.py) scores.json, its own score
with all that it rests on, and grades.jsonl. Killed and started again, it goes
on.
"""

import pathlib
import sys

from absl import flags

from lfpc_jax import config as config_lib

_CHECKPOINT = flags.DEFINE_string("checkpoint", "", "The policy to evaluate.")


def run(config, workdir: str) -> None:
  """Evaluates, prints the tables, writes the results."""
  from lfpc_jax import parallel
  from lfpc_jax.evaluation import command

  with parallel.configured(config.get("mesh")):
    command.evaluate(config, pathlib.Path(workdir), _CHECKPOINT.value)


if __name__ == "__main__":
  # The command stores the config, once it knows what is in the folder.
  sys.exit(config_lib.main(run, stored_as=None, many_processes=True))
