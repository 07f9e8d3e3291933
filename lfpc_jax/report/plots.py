"""Learning curves: data for the page, and figures for documents."""

from collections.abc import Mapping, Sequence
import dataclasses
import io
import math
import os
import pathlib
from typing import Any

import matplotlib
import matplotlib.axes
import matplotlib.figure
import matplotlib.lines

from lfpc_jax import files

_LIGHT_COLOURS = (
    '#0f766e', '#c2570c', '#4f5bd5', '#a8326e', '#6b7280', '#8a6d00',
    '#0b8fd1', '#2b2d31'
)  # fmt: skip
_DARK_COLOURS = (
    '#4fd1c5', '#fb923c', '#93a0ff', '#f28ab8', '#b3b9c4', '#e0c04d',
    '#5cc8f7', '#f4f2ee'
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Curve:
  """One quantity over one run's steps."""

  quantity: str
  """Its logged name, such as 'reward/accuracy'."""
  run: str
  steps: tuple[int, ...]
  values: tuple[float, ...]


def curves_from_metrics(
  runs: Mapping[str, Sequence[Mapping[str, Any]]],
) -> list[Curve]:
  """Turns each run's metric rows into one curve per logged quantity.

  Args:
    runs: Rows by the run's name, as `metrics.read_metrics` returns them: each
      with a 'step' and named numbers.  Other values are left out.
  """
  curves = []
  for run, rows in runs.items():
    points: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
      for name, value in row.items():
        if name != "step" and isinstance(value, (int, float)):
          points.setdefault(name, []).append((row["step"], float(value)))
    for name, pairs in points.items():
      steps, values = zip(*pairs)
      curves.append(Curve(name, run, steps, values))
  return curves


def smooth(values: Sequence[float], weight: float) -> list[float]:
  """An exponential moving average, unbiased at its start.

  `weight` in [0, 1) is the old average's share; not-finite values leave a gap
  and do not enter the average.
  """
  total, norm, out = 0.0, 0.0, []
  for value in values:
    if math.isfinite(value):
      total = weight * total + (1 - weight) * value
      norm = weight * norm + (1 - weight)
    out.append(total / norm if math.isfinite(value) else math.nan)
  return out


def learning_curves(
  curves: Sequence[Curve],
  path: str | os.PathLike[str],
  *,
  quantities: Sequence[str] | None = None,
  columns: int = 3,
  smoothing: float = 0.6,
  dark: bool = False,
) -> None:
  """Draws one small panel per quantity to `path` (.svg or .png).

  Args:
    curves: All runs' curves; a run keeps its colour over the panels.
    path: Written whole or not at all; equal input gives equal bytes.
    quantities: Which panels, in this order; all by default.
    columns: Panels in a row.
    smoothing: The moving average's weight; the raw values stay visible.
    dark: Colours for a dark page.
  """
  known = list(dict.fromkeys(curve.quantity for curve in curves))
  quantities = known if quantities is None else list(quantities)
  if missing := [name for name in quantities if name not in known]:
    raise ValueError(
      f"No curve for {missing}: the runs logged {sorted(known)}."
    )
  palette = _DARK_COLOURS if dark else _LIGHT_COLOURS
  runs = dict.fromkeys(curve.run for curve in curves)
  colours = {run: palette[i % len(palette)] for i, run in enumerate(runs)}
  columns = max(1, min(columns, len(quantities)))
  rows = max(1, -(-len(quantities) // columns))
  with matplotlib.rc_context(style(dark)):
    figure = matplotlib.figure.Figure((3.3 * columns, 2.2 * rows + 0.4))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, quantity in zip(axes, quantities):
      chosen = [curve for curve in curves if curve.quantity == quantity]
      _panel(axis, quantity, chosen, colours, smoothing)
    for axis in axes[len(quantities) :]:
      axis.remove()
    _legend(figure, colours)
    save(figure, pathlib.Path(path))


def _panel(
  axis: matplotlib.axes.Axes,
  quantity: str,
  curves: Sequence[Curve],
  colours: Mapping[str, str],
  smoothing: float,
) -> None:
  axis.set_title(quantity, loc="left")
  axis.locator_params(nbins=5)
  for curve in curves:
    colour = colours[curve.run]
    averages = smooth(curve.values, smoothing)
    axis.plot(curve.steps, curve.values, color=colour, alpha=0.25, lw=0.8)
    axis.plot(curve.steps, averages, color=colour, lw=1.6)


def _legend(
  figure: matplotlib.figure.Figure, colours: Mapping[str, str]
) -> None:
  """Names the runs once, above the panels, at most four in a line."""
  height, rows = figure.get_figheight(), -(-len(colours) // 4)
  figure.tight_layout(rect=(0, 0, 1, 1 - (0.15 + 0.2 * rows) / height))
  lines = [
    matplotlib.lines.Line2D([], [], color=colour, lw=2, label=run)
    for run, colour in colours.items()
  ]
  figure.legend(
    handles=lines,
    loc="upper left",
    ncols=max(1, min(4, len(lines))),
    frameon=False,
  )


def save(figure: matplotlib.figure.Figure, path: pathlib.Path) -> None:
  """Writes a figure as .svg or .png, whole or not at all."""
  kind = path.suffix.lstrip(".")
  if kind not in ("svg", "png"):
    raise ValueError(f"Cannot draw {str(path)!r}: name it .svg or .png.")
  with io.BytesIO() as file:
    # No date: the same curves give the same file, so that it can be committed.
    metadata = {"Date": None} if kind == "svg" else {}
    figure.savefig(file, format=kind, dpi=160, metadata=metadata)
    files.atomic_write(path, file.getvalue())


def style(dark: bool) -> dict[str, Any]:
  """Matplotlib's settings for all our figures."""
  paper, ink, faint = (
      ('#16181b', '#d9d7d2', '#33373d') if dark
      else ('#ffffff', '#2b2d31', '#e3e1dc')
  )  # fmt: skip
  return {
    "figure.facecolor": paper,
    "axes.facecolor": paper,
    "axes.edgecolor": faint,
    "axes.labelcolor": ink,
    "axes.titlesize": 9,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": matplotlib.cycler(color=[ink]),
    "font.size": 8,
    "grid.color": faint,
    "grid.linewidth": 0.6,
    "svg.hashsalt": "lfpc",
    "text.color": ink,
    "text.parse_math": False,  # a '$' in a run's name is a '$'
    "xtick.color": ink,
    "ytick.color": ink,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.solid_joinstyle": "round",
  }
