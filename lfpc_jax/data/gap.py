"""The information gap: how many visual tokens the global view gets.

none      the baseline: the view has the crop source's resolution
fixed     one budget for all
random    a budget drawn anew for each prompt and step
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lfpc_jax.errors import UserError

MODES = ("none", "fixed", "random")


def view_capacity(gap: Mapping[str, Any]) -> int:
  """Visual tokens of the largest global view that a gap section allows.

  Raises:
    UserError: an unknown mode, or budgets that make no view.
  """
  mode, tokens, full = gap["mode"], gap["tokens"], gap["full_tokens"]
  if mode not in MODES:
    raise UserError(f"gap.mode={mode!r}: choose one of {', '.join(MODES)}")
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
    gap: the config's gap section.
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
  return np.random.default_rng((seed, step, 77)).choice(levels, size=number)
