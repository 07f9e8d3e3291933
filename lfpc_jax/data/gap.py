"""The information gap: how many visual tokens the global view gets.

none      the baseline: the view has the crop source's resolution
fixed     one budget for all
random    a budget drawn anew at each step, for all of its prompts; or, with
          gap.draw='prompt', for each of them
selected  each example's own budget, which lfpc_jax.select_gap has found; with
          gap.wrong='drop' without those that were wrong on the original too

Batches of mixed budgets have one shape: the prefix has slots for the largest
budget there can be, and a view's own grid is data, so no budget compiles
anything anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from lfpc_jax.data import gap_file, loader
from lfpc_jax.data.examples import Example
from lfpc_jax.errors import UserError
from lfpc_jax.parallel import Share

MODES = ("none", "fixed", "random", "selected")
DRAWS = ("step", "prompt")
WRONG = ("keep", "drop")


def view_capacity(gap: Mapping[str, Any]) -> int:
  """Visual tokens of the largest global view that a gap section allows.

  Raises:
    UserError: an unknown mode or rule, or budgets that make no view.
  """
  for name, known in (("mode", MODES), ("draw", DRAWS), ("wrong", WRONG)):
    # A run's stored config may be older than a field, then without a fault.
    if (value := gap.get(name, known[0])) not in known:
      raise UserError(f"gap.{name}={value!r}: choose one of {', '.join(known)}")
  mode, tokens, full = gap["mode"], gap["tokens"], gap["full_tokens"]
  if not 1 <= tokens <= full:
    raise UserError(
      f"gap.tokens={tokens} must be from 1 to gap.full_tokens={full}"
    )
  return tokens if mode == "fixed" else full


def budgets(
  gap: Mapping[str, Any], seed: int, step: int, number: int
) -> np.ndarray:
  """Visual-token budgets i64[number] of the prompts of a step.

  Args:
    gap: the config's gap section; its mode is not 'selected', where the
      budget is the example's.
    seed: the run's.
    step: of training; the budgets are a pure function of it.
    number: prompts.
  """
  if gap["mode"] == "none":
    return np.full(number, gap["full_tokens"])
  if gap["mode"] == "fixed":
    return np.full(number, gap["tokens"])
  low, high = gap["tokens"], gap["full_tokens"]
  levels = [level for level in gap["levels"] if low <= level <= high]
  if not levels:
    raise UserError(
      f"gap.levels={gap['levels']} has none from gap.tokens={gap['tokens']} to "
      f"gap.full_tokens={gap['full_tokens']}"
    )
  drawn = np.random.default_rng((seed, step, 77)).choice(
    # A run that is older than the field drew for each prompt.
    levels,
    size=number if gap.get("draw", "prompt") == "prompt" else 1,
  )
  return np.broadcast_to(drawn, number)


def ladder(full: int, lowest: int) -> tuple[int, ...]:
  """Budgets below `full`, each half of the one before, down to `lowest`.

  They are powers of two: 8192, 4096, .., 64 below 16,384. LFPC says only
  "step by step"; halving is a choice of this project.

  Raises:
    UserError: there is none.
  """
  found = [2**k for k in range(32) if lowest <= 2**k < full]
  if not found:
    raise UserError(
      f"no power of two from selection.lowest={lowest} to below "
      f"gap.full_tokens={full}: lower the first or raise the second"
    )
  return tuple(reversed(found))


@dataclasses.dataclass(frozen=True)
class Gap:
  """A config's gap, with its file read.

  Attributes:
    config: the gap section.
    seed: the run's.
    capacity: visual tokens of the largest view, for static shapes.
    selected: budget by example; None unless the mode is 'selected'.
    file: where these come from, for messages.
    left: indices of the examples that are trained on; None: all.
  """

  config: Mapping[str, Any]
  seed: int
  capacity: int
  selected: Mapping[str, int] | None = None
  file: str = ""
  left: tuple[int, ...] | None = None

  def examples(self, source: Sequence[Example]) -> Sequence[Example]:
    """Those of the training split that are trained on."""
    return source if self.left is None else loader.Picked(source, self.left)

  def budgets(
    self, step: int, ids: Sequence[str], share: Share | None = None
  ) -> np.ndarray:
    """Visual-token budgets i64[P] of a step's examples.

    Args:
      step: of training.
      ids: the examples'.
      share: which part of the step's batch they are; None: all of it.

    Raises:
      UserError: nothing was selected for an example.
    """
    if self.selected is None:
      share = share or Share(0, 1, len(ids))
      return budgets(self.config, self.seed, step, share.size)[share.rows]
    unknown = [name for name in ids if name not in self.selected]
    if unknown:
      raise UserError(
        f"{self.file} has no budget for example {unknown[0]!r}: it is of "
        "other data; run lfpc_jax.select_gap on these"
      )
    return np.array([self.selected[name] for name in ids], np.int64)


def open_gap(config: Mapping[str, Any], examples: int) -> Gap:
  """The gap of a whole config; reads the file that 'selected' needs.

  Args:
    config: a whole config, see configs/.
    examples: number of examples of the training split.

  Raises:
    UserError: a bad section, or a file that is missing or of other data.
  """
  section, seed = config["gap"], config["seed"]
  capacity = view_capacity(section)
  if section["mode"] != "selected":
    return Gap(section, seed, capacity)
  path = gap_file.find(config)
  wanted = gap_file.data_identity(config["data"], examples)
  selection, left = gap_file.load(path, wanted), None
  if section.get("wrong") == "drop":
    left = tuple(
      k for k, row in enumerate(selection.rows) if row.original_correct
    )
    if not left:
      raise UserError(
        f"{path} has no example that is right on the original: "
        "gap.wrong='drop' leaves none; train with --config.gap.wrong=keep"
      )
  selected = selection.budgets()
  largest = max(selected.values())
  if largest > capacity:
    raise UserError(
      f"{path} has budgets up to {largest}, more than "
      f"gap.full_tokens={capacity}: raise it"
    )
  return Gap(section, seed, largest, selected, str(path), left)
