"""Evaluation results in the form of the paper's tables."""

from collections.abc import Sequence
import dataclasses

from lfpc_jax.report.tables import Column, ResultTable
from lfpc_jax.statistics import Estimate


@dataclasses.dataclass(frozen=True)
class PolicyResult:
  """One policy evaluated at one budget; fractions of 1, seconds apart."""

  policy: str
  budget: int
  """The global view's budget in visual tokens."""
  accuracy: Estimate | None = None
  tool_rate: Estimate | None = None
  valid_box_rate: Estimate | None = None
  iou: Estimate | None = None
  coverage: Estimate | None = None
  area: Estimate | None = None
  noise_drop: Estimate | None = None
  """Crop dependence: accuracy lost when the crops are random noise."""
  truth_gain: Estimate | None = None
  """Accuracy gained when the crops are the ground-truth region."""
  seconds: Estimate | None = None
  """Seconds per question, compiling left out."""
  seconds_compiling: Estimate | None = None
  """The same with the time that compiling took, over all questions."""


_RESULT_COLUMNS = {
  "accuracy": Column("accuracy", scale=100, better="high"),
  "tool_rate": Column("tool rate", scale=100),
  "valid_box_rate": Column("valid boxes", scale=100),
  "iou": Column("IoU", scale=100, better="high"),
  "coverage": Column("coverage", scale=100, better="high"),
  "area": Column("area", scale=100),
  "noise_drop": Column("noise drop", scale=100),
  "truth_gain": Column("truth gain", scale=100),
  "seconds": Column("seconds", digits=2, better="low"),
  "seconds_compiling": Column("with compiling", digits=2, better="low"),
}


def paper_table(
  results: Sequence[PolicyResult],
  title: str = "Accuracy, crops and crop dependence",
  caption: str = (
    "In percent, with 95 % confidence intervals. Noise drop: accuracy lost "
    "when every crop becomes random noise (the crop dependence). Truth "
    "gain: accuracy gained with ground-truth crops."
  ),
) -> ResultTable:
  """Sets results in the paper's form: a row per policy, budgets side by side.

  Policies and budgets keep the order of their first result; a quantity that no
  policy has at a budget gets no column.
  """
  cells = {(result.policy, result.budget): result for result in results}
  columns = []
  for budget in dict.fromkeys(result.budget for result in results):
    at_budget = [result for result in results if result.budget == budget]
    for field, column in _RESULT_COLUMNS.items():
      if any(getattr(result, field) is not None for result in at_budget):
        group = f"{budget:,} tokens"
        columns.append(
          (budget, field, dataclasses.replace(column, group=group))
        )
  rows = tuple(
    (
      policy,
      tuple(
        getattr(cells.get((policy, budget)), field, None)
        for budget, field, _ in columns
      ),
    )
    for policy in dict.fromkeys(result.policy for result in results)
  )
  return ResultTable(title, tuple(c for _, _, c in columns), rows, caption)
