r"""A 3B policy on one GPU: decoding, the update, a whole step of stage 1.

  make bench-gpu
  python -m experiments.speed.gpu --workdir=runs/speed --size=small

The published 3B's shapes with random bfloat16 weights that are made on the
device, a head of their own (so that every turn is the same call, see
calling_policy.py) and Adam's moments in float32. 64 questions of 1,024 visual
tokens x 16 rollouts: a turn of 110 tokens, a crop of 240 visual tokens, a
second turn. Pictures are noise; rewards are drawn, not judged. Prints one
table. `small` is the same code at a size for CPUs, and what runs where there is
no GPU; its figures mean nothing.
"""

import argparse
from collections.abc import Iterator
import dataclasses
import functools
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import calling_policy
from experiments.speed import gpu_sizes, measure, problem
from experiments.speed.gpu_sizes import Size
from lfpc_jax import agent as agent_lib
from lfpc_jax import config as config_lib
from lfpc_jax.ahead import cost
from lfpc_jax.data.examples import Example
from lfpc_jax.data.tokenizer import Tokenizer
from lfpc_jax.models import parameters
from lfpc_jax.models.parameters import Params
from lfpc_jax.rl import trainer
from lfpc_jax.rollout import encoding, episode

_NOTES = """\
Operations and bytes are by formula: of the update every slot, filled or not; of
decoding the layers, the head and the filled slots of the caches, each read once
a step. Goals: decoding at 60 % of the memory's rate, the update at 45 % of the
product's. New tokens are those that the policy wrote; all are those of every
rollout's prompt and response. Published for comparison, with 7B policies and
without saying which tokens count: a PyTorch crop-tool system, 375 tokens/s a
GPU on 8 GPUs; a good PyTorch GRPO on images, 2,000 tokens/s an H100."""


class Bench:
  """A policy, its questions and the programs of a step."""

  def __init__(self, folder: pathlib.Path, name: str):
    """Makes the parameters; compiles nothing else yet."""
    path = problem.write_policy(folder, "miniature")  # its tokeniser
    self.size = size = gpu_sizes.sizes(name, Tokenizer.load(path).vocab_size)
    self.config = _config(folder, size)
    self.agent = agent_lib.make_agent(self.config, size.view, size.policy)
    self.learner = trainer.make_learner(self.config, self.agent, size.view)
    policy = self.agent.policy
    self.encode = jax.jit(
      functools.partial(encoding.encode_views, policy, capacity=size.view)
    )
    self.rollout = jax.jit(
      episode.Rollout(policy, self.agent.episodes, size.view, size.waves)
    )
    self.update = jax.jit(self.learner.update, donate_argnums=0)
    self.packed = self.agent.packer.pack(
      _examples(size), [size.view] * size.prompts
    )
    self.params = _parameters(self.agent, size)

  @property
  def sizes(self) -> cost.Sizes:
    """For the formulas."""
    size = self.size
    return cost.Sizes(
      prompts=size.prompts,
      prefix=size.view + size.text,
      view=size.view,
      replicas=1,
      slices=size.micro_batches,
      rollout_slices=size.rollout_slices,
      waves=size.waves,
    )

  def decoding(self) -> tuple[float, float]:
    """Seconds of decoding one turn of few prompts, and the bytes it reads."""
    size, agent = self.size, self.agent
    episodes = dataclasses.replace(
      agent.episodes, max_turns=1, max_response_tokens=size.turn
    )
    part = jax.tree.map(lambda x: x[: size.decoding], self.packed)
    batch = agent_lib.device_batch(part)
    prefix = jax.jit(
      functools.partial(
        encoding.encode_prompt, agent.policy, capacity=size.view
      )
    )(self.params, batch)
    turn = jax.jit(episode.Rollout(agent.policy, episodes, size.view))
    key = jax.random.key(0)
    run = lambda: turn(self.params, batch, agent.texts, key, None, prefix)
    steps = int(jax.device_get(run().steps))
    if steps != size.turn:
      raise SystemExit(f"a turn took {steps} steps, not {size.turn}")
    seconds = measure.alternate({"turn": run}, rounds=3)["turn"]
    parts = [self.params[name] for name in ("layers", "head")]
    weights = sum(x.nbytes for x in jax.tree.leaves(parts))
    filled = int(part.length.sum()) + size.decoding * size.group * steps / 2
    slots = agent.policy.text.kv_heads * agent.policy.text.head_dim
    slots *= 2 * agent.policy.text.depth * 2  # keys and values, two bytes each
    return seconds, steps * (weights + slots * filled)

  def step(self, state: Any) -> tuple[Any, dict[str, float], Any]:
    """One step: the new state, seconds by part, and the rollouts."""
    began, seconds = time.perf_counter(), {}

    def timed(name, function, *args):
      start = time.perf_counter()
      found = jax.block_until_ready(function(*args))
      seconds[name] = time.perf_counter() - start
      return found

    batch = timed("upload", agent_lib.device_batch, self.packed)
    visual = timed("encode", self.encode, state.params, batch)
    batch = dataclasses.replace(batch, visual=visual)
    key = jax.random.key(0)
    trajectory = timed(
      "rollout", self.rollout, state.params, batch, self.agent.texts, key
    )
    lesson = problem.lesson(batch, trajectory)
    state, _ = timed("update", self.update, state, lesson)
    seconds["step"] = time.perf_counter() - began
    return state, seconds, jax.device_get(trajectory)


def _config(folder: pathlib.Path, size: Size) -> Any:
  """Stage 1 at this size, the tower frozen as in configs/stage1.py."""
  config = problem.settings(
    *(folder, "miniature", size.prompts, size.group, size.view), side=size.side
  )
  logits, attention = size.chunks
  config.policy.update(
    freeze=("vision",),
    dtype="bfloat16",
    param_dtype="bfloat16",
    frozen_dtype="bfloat16",
    remat="layer",
    logit_chunk=logits,
    attention_chunk=attention,
  )
  observation = size.crop + problem.OBSERVATION - problem.CROP
  config.rollout.update(
    waves=size.waves,
    text_capacity=size.text,
    max_turn_tokens=size.turn,
    # Slots are one more: 512 at 3B.
    max_response_tokens=-(-(2 * size.turn + observation) // 64) * 64 - 1,
    crop_max_tokens=size.crop,
    max_call_bytes=512,
  )
  config.rl.micro_batches = size.micro_batches
  config.rl.rollout_slices = size.rollout_slices
  config.optimizer.learning_rate = 1e-6  # [paper]; the calls stay as they are
  return config_lib.freeze(config)


def _examples(size: Size) -> list[Example]:
  """Questions about noise."""
  rng = np.random.default_rng(0)
  shape = (size.side, size.side, 3)
  return [
    Example(
      id=str(k),
      image=rng.integers(0, 256, shape, np.uint8),
      question="What digit is on the red sign?",
      answer="1",
      category="",
      options=(),
      boxes=np.zeros((0, 4), np.int32),
      source="noise",
    )
    for k in range(size.prompts)
  ]


def _parameters(agent: agent_lib.Agent, size: Size) -> Params:
  """Random bfloat16 parameters, drawn on the device, that call the tool."""

  def draw(key):
    params = parameters.declared(agent.policy, key)
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)

  turn = problem.turn(size.turn, size.box)
  params = jax.jit(draw)(jax.random.key(0))
  return agent_lib.committed(
    calling_policy.calling(params, agent.tokenizer, turn)
  )


def memory(size: Size, slots: int) -> float:
  """Bytes that an update needs at most, by formula.

  Parameters, moments, the sum of the gradients and those of one slice; one
  activation a layer of a slice's tokens, the widest layer's own, and what one
  part of the logits takes.

  Args:
    size: the policy's and the step's.
    slots: of a suffix.
  """
  tower = parameters.abstract(size.policy)["vision"]
  frozen = sum(x.size for x in jax.tree.leaves(tower))
  trained = parameters.count(size.policy) - frozen
  held = 2 * frozen + (2 + 2 * 4 + 2 + 2) * trained
  prompts = size.prompts / size.micro_batches
  tokens = prompts * (size.view + size.text)
  tokens += prompts * size.group / size.rollout_slices * slots
  text = size.policy.text
  kept = 2 * text.depth * text.width + 3 * 4 * text.mlp_width
  logits = 3 * 4 * text.vocab_size * size.chunks[0]
  pictures = size.prompts * 3 * size.side**2
  return held + tokens * kept + logits + pictures


def rows(bench: Bench) -> Iterator[list[str]]:
  """The table's lines, each as soon as it is measured."""
  size = bench.size
  peak = measure.product_rate(size.product, "bfloat16", repeats=16)
  rate = measure.memory_rate(size.megabytes)
  yield [f"a product of {size.product} rows", "", f"{peak / 1e12:.3g} TFLOP/s"]
  yield ["reading memory", "", f"{rate / 1e9:.4g} GB/s"]
  seconds, read = bench.decoding()
  name = f"decoding {size.decoding} x {size.group}, {size.turn} tokens each"
  yield [name, f"{seconds:.3g}", _share(read / seconds, rate, "GB/s", 1e9)]
  # Committed as what an update returns, or the next one would compile anew.
  state = agent_lib.committed(bench.learner.init(bench.params, 0))
  bench.params = None  # the update gives them away
  state, _, _ = bench.step(state)  # compiles
  state, took, found = bench.step(state)
  if (found.crops != 1).any():
    raise SystemExit("not every rollout has made its crop")
  written, rollouts = int(found.written.sum()), found.length.size
  held = written + size.group * int(bench.packed.length.sum())
  held += int(found.length.sum()) - rollouts - written
  yield ["questions onto the device", f"{took['upload']:.3g}", ""]
  yield ["their views' tower", f"{took['encode']:.3g}", ""]
  name = f"rollout, {size.prompts} x {size.group} in {size.waves} waves"
  rate = f"{written / took['rollout']:,.0f} new tokens/s"
  yield [name, f"{took['rollout']:.3g}", rate]
  yield from _update_rows(bench, took["update"], peak)
  per_second = f"{written / took['step']:,.0f} new tokens/s, "
  per_second += f"{held / took['step']:,.0f} of all"
  yield ["whole step", f"{took['step']:.3g}", per_second]
  gib = memory(size, bench.agent.episodes.slots) / 2**30
  gib = f"{gib:.3g} GiB by formula"
  stats = jax.devices()[0].memory_stats() or {}
  if "peak_bytes_in_use" in stats:
    gib += f", {stats['peak_bytes_in_use'] / 2**30:.1f} at most in use"
  yield ["memory of an update", "", gib]


def _update_rows(
  bench: Bench, seconds: float, peak: float
) -> Iterator[list[str]]:
  """The update with all that it computes, and without what it repeats."""
  size, policy = bench.size, bench.agent.policy
  name = f"update in {size.micro_batches} x {size.rollout_slices} slices"
  for remat, what in ("layer", ""), ("none", ", repeated layers left out"):
    flops = cost.update(
      dataclasses.replace(policy, remat=remat),
      bench.agent.episodes,
      bench.sizes,
      frozen=True,
    ).flops
    share = _share(flops / seconds, peak, "TFLOP/s", 1e12)
    yield [name + what, f"{seconds:.3g}", share]


def _share(rate: float, limit: float, unit: str, scale: float) -> str:
  return f"{rate / scale:.4g} {unit}, {100 * rate / limit:.0f} %"


def main() -> None:
  """Prints the table; without a GPU, of the small size."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--workdir", type=pathlib.Path, required=True)
  parser.add_argument("--size", choices=("3b", "small"))
  given = parser.parse_args()
  config_lib.setup_jax()
  device = jax.devices()[0]
  size = given.size or ("3b" if device.platform == "gpu" else "small")
  if not given.size and size == "small":
    text = f"no GPU: jax {jax.__version__} finds {device.device_kind} alone, so"
    text += " the same code runs at a small size, whose figures mean nothing; "
    print(f"{text}pip install 'jax[cuda12]' brings the GPU's part", flush=True)
  began = time.perf_counter()
  found = list(rows(Bench(given.workdir, size)))
  print(f"{size} on {device.device_kind}, jax {jax.__version__}")
  print(measure.table(["what", "seconds", "rate"], found))
  print(f"{_NOTES}\nAll of it took {time.perf_counter() - began:.0f} s.")


if __name__ == "__main__":
  main()
