r"""Originals of 4096 and 8192 pixels a side, from the file to the update.

  python -m experiments.real_sizes.run --workdir=runs/real_sizes

A random policy (calling_policy.py) sees views of 1,024 visual tokens and cuts
crops that cover most of the original. Each part is compiled and timed alone;
then come a whole evaluation of eight questions about two pictures, and two
training steps. Prints lines as it goes; README.md has what came out.

At the paper's other budget, one question about one picture:

  python -m experiments.real_sizes.run --workdir=runs/real_sizes_16384 \
    --budget=16384 --sides=4096 --questions=1 --only=parts,evaluation

There the same box covers less of the view, a fifth of each side. Another
--budget, --sides or --questions wants another --workdir.
"""

import dataclasses
import functools
import json
import pathlib
import re
import time
from typing import Any

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np

from experiments import calling_policy
from experiments.real_sizes import pictures
from lfpc_jax import agent as agent_lib
from lfpc_jax import config as config_lib
from lfpc_jax.data import images, loader, manual, registry
from lfpc_jax.data.tokenizer import Tokenizer
from lfpc_jax.evaluation import command
from lfpc_jax.evaluation.runner import Runner
from lfpc_jax.image import views
from lfpc_jax.image.views import View
from lfpc_jax.models import vision
from lfpc_jax.models.config import PolicyConfig, TextConfig, VisionConfig
from lfpc_jax.rl.trainer import Trainer
from lfpc_jax.rollout import encoding, episode
from lfpc_jax.rollout.types import Batch

_WORKDIR = flags.DEFINE_string("workdir", None, "For all.", required=True)
_ONLY = flags.DEFINE_list(
  "only", ["parts", "evaluation", "training"], "What to run."
)
_BUDGET = flags.DEFINE_integer("budget", 1024, "Visual tokens of the view.")
_SIDES = flags.DEFINE_list(
  "sides", [str(side) for side in pictures.SIDES], "Pixels of the originals."
)
_QUESTIONS = flags.DEFINE_integer("questions", 4, "About each original.")
_CROP, _GROUP = 256, 2
_BOX = (100, 120, 800, 860)  # in pixels of the view


def sides() -> list[int]:
  """Of the square originals, in pixels."""
  return [int(side) for side in _SIDES.value]


def sizes(tokenizer: Tokenizer) -> PolicyConfig:
  """The 7B policy at small width.

  Depths, windows and full-attention blocks are those of Qwen2.5-VL-7B; the
  decoder's widths are a sixteenth, the tower's a twentieth, and there are a
  quarter of the heads.
  """
  return PolicyConfig(
    vision=VisionConfig(width=64, mlp_width=171, heads=4),
    text=TextConfig(
      vocab_size=tokenizer.vocab_size,
      width=224,
      mlp_width=1184,
      heads=7,
      kv_heads=1,
      mrope_section=(4, 6, 6),
    ),
    image_token_id=tokenizer.special.image_pad,
  )


def settings(folder: pathlib.Path, side: int) -> Any:
  """The config, with room for originals of `side` pixels."""
  budget = _BUDGET.value
  config = config_lib.load_config("configs/tiny.py:smoke")
  config.policy.update(path=str(folder / "policy"), remat="layer")
  config.policy.attention_chunk = 1024
  config.data.update(
    name="folder", dir=str(folder / "data"), image_capacity=(side, side)
  )
  config.gap.update(tokens=budget, full_tokens=budget)
  config.rollout.update(
    prompts=2,
    group=_GROUP,
    max_crops=2,
    max_turns=3,
    max_response_tokens=640,
    crop_max_tokens=_CROP,
  )
  config.rl.micro_batches = 2
  config.train.update(report_every=0, tensorboard=False)
  config.eval.update(
    split="train",
    items=0,
    batch=_QUESTIONS.value,
    budgets=(budget,),
    probes=(),
    records=0,
  )
  return config_lib.freeze(config)


def build(folder: pathlib.Path) -> None:
  """The policy, and questions about a picture of each size."""
  if not (folder / "policy").exists():
    turn = calling_policy.call(_BOX)
    calling_policy.write(folder / "policy", sizes, turn)
  if (folder / "data").exists():
    return
  files = folder / "pictures"
  files.mkdir(parents=True, exist_ok=True)
  rows = []
  for k, side in enumerate(sides()):
    (files / f"{side}.jpg").write_bytes(pictures.encoded(side, seed=k))
    for number in range(_QUESTIONS.value):
      question = f"What digit is on sign {number}?"
      row = dict(image=f"{side}.jpg", question=question, answer="7")
      rows.append(json.dumps(row | {"boxes": [[100, 100, 400, 300]]}))
  (files / "train.jsonl").write_text("\n".join(rows) + "\n")
  manual.prepare(registry.SOURCES["folder"], files, folder / "data")


def now() -> tuple[float, float]:
  """Wall and CPU clocks; the host's largest memory counts from here on."""
  pathlib.Path("/proc/self/clear_refs").write_text("5")
  return time.perf_counter(), time.process_time()


def say(name: str, began: tuple[float, float], more: str = "") -> None:
  """A line: wall and CPU seconds and the host's largest memory since `now`."""
  wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
  status = pathlib.Path("/proc/self/status").read_text()
  peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**20
  print(
    f"{name:34} {wall:8.2f} s {cpu:8.2f} s CPU  {peak:5.2f} GiB  {more}",
    flush=True,
  )


def timed(name: str, function, *args) -> Any:
  """Compiles, runs and times one program."""
  began = now()
  compiled = jax.jit(function).lower(*args).compile()
  cpu = time.process_time() - began[1]
  memory = compiled.memory_analysis().temp_size_in_bytes / 2**30
  began = now()
  result = jax.block_until_ready(compiled(*args))
  say(name, began, f"temporary {memory:.2f} GiB, compiled in {cpu:.0f} s CPU")
  return result


def parts(folder: pathlib.Path, side: int) -> None:
  """Each part of two episodes about one picture."""
  config = settings(folder, side)
  agent = agent_lib.make_agent(config, _BUDGET.value)
  source = loader.open_data(config.data, "train")
  example = source[_QUESTIONS.value * sides().index(side)]
  data = (folder / "pictures" / f"{side}.jpg").read_bytes()
  began = now()
  images.decode(data)
  say(f"{side}: decode the file", began, f"{len(data) / 1e6:.1f} MB")
  began = now()
  packed = agent.packer.pack([example], [_BUDGET.value])
  say(f"{side}: pack", began)
  began = now()
  batch = jax.block_until_ready(agent_lib.device_batch(packed))
  say(f"{side}: move to the device", began)
  view, crops = resized(side, batch)
  if side == sides()[0]:  # the policy does not see the original's size
    policy_parts(agent, batch, view, crops)


def resized(side: int, batch: Batch) -> tuple[View, View]:
  """The view, and two crops that cover most of the original."""
  whole = jnp.array([[0, 0, side, side]])
  render = functools.partial(views.render_views, capacity=_BUDGET.value)
  view = timed(
    f"{side}: resize the view", render, batch.originals, whole, batch.grid
  )
  box = jnp.array(_BOX) * side // (28 * batch.grid[0, 0])
  boxes = jnp.broadcast_to(box, (1, _GROUP, 4)).astype(jnp.int32)
  grids = jnp.full((1, _GROUP, 2), 16)
  valid = jnp.ones((1, _GROUP), bool)
  crop = functools.partial(views.render_crops, capacity=_CROP)
  crops = timed(
    f"{side}: cut and resize two crops",
    *(crop, batch.originals, boxes, grids, valid),
  )
  return view, jax.tree.map(lambda x: x[0], crops)


def policy_parts(
  agent: agent_lib.Agent, batch: Batch, view: View, crops: View
) -> None:
  """The tower, the prompt, and two episodes that share it."""
  params = agent_lib.load_params(agent, "")
  tower = functools.partial(vision.encode_views, agent.policy)
  visual = timed("tower, the view", tower, params, view)
  timed("tower, two crops", tower, params, crops)
  batch = dataclasses.replace(batch, visual=visual)
  prefill = functools.partial(
    encoding.encode_prompt, agent.policy, capacity=_BUDGET.value
  )
  prefix = timed("prefill of the prompt", prefill, params, batch)
  rollout = episode.Rollout(agent.policy, agent.episodes, _BUDGET.value)
  found = timed(
    "two episodes with two crops each",
    lambda *args: rollout(*args[:-1], None, args[-1]),
    *(params, batch, agent.texts, jax.random.key(0), prefix),
  )
  crops, steps = np.asarray(found.crops).tolist(), int(found.steps)
  print(f"crops {crops}, {steps} decode steps", flush=True)


def evaluation(folder: pathlib.Path) -> None:
  """All questions, at one budget."""
  config = settings(folder, max(sides()))
  runner = Runner(config)
  began = now()
  command.evaluate_into(folder / "evaluation", config, runner, "random", "")
  say("evaluation with compiling", began)
  params = agent_lib.load_params(runner.agent, "")
  began = now()
  found = runner.run("random", params, command.open_questions(config))
  say("the same, compiled", began, f"{len(found.rows)} questions")
  crops = [row.crops for row in found.rows]
  print(f"crops {crops}, seconds a question {found.seconds}", flush=True)


class _Timed(Trainer):
  """Says what each step takes."""

  def train_step(self, state, prepared, reference=None):
    """As the trainer's own, to the end of its programs."""
    began = now()
    found = jax.block_until_ready(
      super().train_step(state, prepared, reference)
    )
    say(f"training step {int(found[0].step)}", began)
    return found


def training(folder: pathlib.Path) -> None:
  """Two steps of 2 x 2 rollouts in room for the largest picture."""
  config = settings(folder, max(sides()))
  _Timed(config, str(folder / "train")).run()


def main(_) -> None:
  """Runs what --only names."""
  folder = pathlib.Path(_WORKDIR.value).absolute()
  config_lib.setup_jax()
  build(folder)
  if "parts" in _ONLY.value:
    for side in sides():
      parts(folder, side)
  if "training" in _ONLY.value:
    training(folder)
  if "evaluation" in _ONLY.value:
    evaluation(folder)


if __name__ == "__main__":
  app.run(main)
