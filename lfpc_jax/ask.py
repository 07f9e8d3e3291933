r"""Asks a policy one question about one picture.

  python -m lfpc_jax.ask
  python -m lfpc_jax.ask --checkpoint=runs/stage1 --image=photo.jpg \
    --question="What digit is on the red sign?"

Without flags, the shipped miniature is asked about the shipped scene. Each
turn is printed as soon as it is written. --workdir, by default runs/ask, gets
the original with the boxes (boxes.png), the global view and the crops as the
policy saw them (view.png, crop_1.png, ...) and the turns (episode.json).

--config=configs/tiny.py:stage1 is the default; its gap decides the global
view's visual tokens, as in --config.gap.tokens=64. --checkpoint is a run's
directory, one of its steps, or a directory of published files.
"""

import pathlib
import sys

from absl import flags

from lfpc_jax import config as config_lib


def define_flags() -> None:
  """Flags of this command alone; --help lists the others too."""
  flags.DEFINE_string("checkpoint", "", "The policy to ask.")
  flags.DEFINE_string("image", "", "A picture's file; the shipped scene.")
  flags.DEFINE_string("question", None, "What is asked about the picture.")
  flags.DEFINE_multi_string(
    "option", [], "A choice; give the flag once for each."
  )


def run(config, workdir: str | None) -> None:
  """Asks, prints the episode, writes the pictures."""
  # Imported late, so that --help and wrong flags answer at once.
  from lfpc_jax.asking import command

  values = flags.FLAGS
  command.ask(
    config,
    pathlib.Path(workdir or "runs/ask"),
    checkpoint=values.checkpoint,
    image=values.image,
    question=values.question,
    options=values.option,
  )


if __name__ == "__main__":
  define_flags()
  sys.exit(
    config_lib.main(
      run,
      default_config="configs/tiny.py:stage1",
      workdir_needed=False,
      stored_as=None,
    )
  )
