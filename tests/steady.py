"""Metrics that two runs of one config have in common: all but the clock's."""

from lfpc_jax import metrics


def read_metrics(path):
  """The rows of `metrics.read_metrics` less what a clock has measured."""
  return [
    {k: x for k, x in row.items() if k not in metrics.CLOCKED}
    for row in metrics.read_metrics(path)
  ]
