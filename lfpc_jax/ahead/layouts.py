"""A step of training and the ways to lay it out over devices.

What is here needs no devices: sizes, rules of the mesh, and divisions.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from lfpc_jax.agent import Agent
from lfpc_jax.errors import UserError
from lfpc_jax.models import lora, parameters
from lfpc_jax.models.config import PolicyConfig
from lfpc_jax.parallel import sharding
from lfpc_jax.rl.update import Learner
from lfpc_jax.rollout.types import EpisodeConfig

AXES = ("fsdp", "tensor")  # those that a proposal can size


@dataclasses.dataclass(frozen=True)
class Layout:
  """How a step is cut, over devices and in time.

  Attributes:
    fsdp: parts of the prompts and of the parameters.
    tensor: parts of heads, widths and the vocabulary.
    waves: slices of the prompts in a rollout.
    micro_batches: slices of the prompts in an update.
    rollout_slices: slices of a prompt's rollouts in an update.
    gathered: whether a rollout brings its parameters together over fsdp.
  """

  fsdp: int = 1
  tensor: int = 1
  waves: int = 1
  micro_batches: int = 1
  rollout_slices: int = 1
  gathered: bool = True

  @property
  def devices(self) -> int:
    """All of them."""
    return self.fsdp * self.tensor

  def changes(self) -> dict[str, Any]:
    """The config's fields that say so."""
    found = {
      "mesh.sizes": (self.fsdp, self.tensor),
      "rollout.waves": self.waves,
      "rl.micro_batches": self.micro_batches,
      "rl.rollout_slices": self.rollout_slices,
    }
    return found if self.gathered else found | {"mesh.rollout_rules": ()}

  def flags(self) -> str:
    """The same as a command line has them."""

    def text(value):
      return ",".join(map(str, value)) or "()" if value != () else "()"

    return " ".join(
      f"--config.{name}={text(x) if isinstance(x, tuple) else x}"
      for name, x in self.changes().items()
    )


@dataclasses.dataclass(frozen=True)
class Leaf:
  """A parameter: its part, shape, logical axes and bytes of an element."""

  part: str
  shape: tuple[int, ...]
  axes: tuple[str, ...]
  itemsize: int

  @property
  def size(self) -> int:
    """Elements."""
    return math.prod(self.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
  """A step of training, whatever devices it runs on; equal to itself alone.

  Attributes:
    policy: its sizes.
    episodes: limits of its episodes.
    leaves: its parameters.
    frozen: the parts that are not trained.
    prompts: P.
    prefix: slots S of a prompt.
    view: visual tokens of the largest global view.
    pixels: bytes of a prompt's picture.
    observation: tokens of the longest observation.
    moment: bytes of an element of each of the two moments.
    copies: of the parameters that the KL term keeps, 0 or 1.
    rules: of the mesh, and of parameters in a rollout if it gathers them.
    rollout_rules: these.
  """

  policy: PolicyConfig
  episodes: EpisodeConfig
  leaves: tuple[Leaf, ...]
  frozen: frozenset[str]
  prompts: int
  prefix: int
  view: int
  pixels: int
  observation: int
  moment: int
  copies: int
  rules: Mapping[str, tuple[str, ...]]
  rollout_rules: Mapping[str, tuple[str, ...]]

  @property
  def itemsize(self) -> int:
    """Bytes of an element of an activation."""
    return jnp.dtype(self.policy.dtype).itemsize

  @property
  def encodes(self) -> bool:
    """Whether views come encoded, because the tower is not trained."""
    return "vision" in self.frozen

  @property
  def fused(self) -> bool:
    """Whether a TPU's kernel keeps scores of attention out of the memory."""
    kernel, wide = self.policy.attention, self.policy.dtype == "float32"
    return kernel == "splash" or (kernel == "auto" and not wide)

  def select(self, which: str) -> tuple[Leaf, ...]:
    """Some of the parameters.

    Args:
      which: 'all', 'trained', 'decoder' (all but the tower), or a part's name.
    """
    return tuple(
      x
      for x in self.leaves
      if which in ("all", x.part)
      or (which == "trained" and x.part not in self.frozen)
      or (which == "decoder" and x.part != "vision")
    )


def make_step(
  config: Mapping[str, Any], agent: Agent, learner: Learner
) -> Step:
  """What a config says, less how it is laid out.

  Raises:
    UserError: its mesh has other axes than `AXES`.
  """
  if tuple(config["mesh"]["axes"]) != AXES:
    raise UserError(
      f"mesh.axes={tuple(config['mesh']['axes'])}: a layout is proposed for "
      f"the axes {AXES} alone"
    )
  packer, policy = agent.packer, agent.policy
  names = parameters.abstract(policy)
  rules = sharding.parse_rules(config["mesh"]["rules"])
  return Step(
    policy=policy,
    episodes=agent.episodes,
    leaves=_leaves(policy, agent.precision),
    frozen=frozenset(lora.frozen_parts(names, learner.frozen)),
    prompts=config["rollout"]["prompts"],
    prefix=packer.view_capacity + packer.text_capacity,
    view=packer.view_capacity,
    pixels=3 * math.prod(packer.image_capacity),
    observation=agent.texts.capacity(agent.episodes),
    moment=jnp.dtype(config["optimizer"]["dtype"]).itemsize,
    copies=int(config["rl"]["kl"] > 0),
    rules=rules,
    rollout_rules=sharding.parse_rules(("embed=", "vision_embed="), rules),
  )


def _leaves(policy: PolicyConfig, precision: Mapping[str, str]):
  shapes = jax.tree_util.tree_leaves_with_path(
    parameters.abstract(policy, precision)
  )
  axes = jax.tree.leaves(
    parameters.logical_axes(policy), is_leaf=lambda x: isinstance(x, tuple)
  )
  return tuple(
    Leaf(path[0].key, x.shape, names, x.dtype.itemsize)
    for (path, x), names in zip(shapes, axes, strict=True)
  )


def parts(step: Step, layout: Layout, axis: str, rollout: bool = False) -> int:
  """Into how many parts an array axis of this name is split."""
  rules = step.rollout_rules if rollout and layout.gathered else step.rules
  return math.prod(getattr(layout, name) for name in rules[axis])


def share(
  step: Step,
  layout: Layout,
  which: str,
  itemsize: int | None = None,
  rollout: bool = False,
) -> float:
  """Bytes of parameters on one device.

  Args:
    step: of training.
    layout: where they lie.
    which: see `Step.select`.
    itemsize: bytes of an element; None: as they are kept.
    rollout: where a rollout has them.
  """
  mesh = Layout(layout.fsdp, layout.tensor, gathered=layout.gathered)
  return _share(step, mesh, which, itemsize, rollout)


@functools.lru_cache(maxsize=1 << 14)
def _share(step, layout, which, itemsize, rollout) -> float:
  split = functools.cache(lambda axis: parts(step, layout, axis, rollout))
  return sum(
    x.size * (itemsize or x.itemsize) / math.prod(map(split, x.axes))
    for x in step.select(which)
  )


def divides(step: Step, layout: Layout) -> bool:
  """Whether everything divides that a layout splits."""
  prompts, lanes = step.prompts, parts(step, layout, "prompt")
  for slices in (layout.waves, layout.micro_batches):
    if prompts % slices or prompts // slices % lanes:
      return False
  if step.episodes.group % layout.rollout_slices:
    return False
  return all(
    size % parts(step, layout, axis, rollout) == 0
    for leaf in step.leaves
    for size, axis in zip(leaf.shape, leaf.axes)
    for rollout in (False, True)
  )
