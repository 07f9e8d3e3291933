"""One self-contained HTML page: tables, learning curves and rollouts.

The page asks nothing of the network: images are data URIs, style and script are
inline.  What policies and data sets wrote is only ever shown as text, and the
page's own security policy lets no script run but the page's.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
import hashlib
import importlib.resources
import json
import math
import os
from typing import Any

import jinja2
import markupsafe

from lfpc_jax import files
from lfpc_jax.report import page_images, plots, records
from lfpc_jax.report import tables as tables_lib

_SCRIPTS = (
    'page_common.js', 'page_curves.js', 'page_view.js', 'page_filters.js',
    'page_browse.js'
)  # fmt: skip

_FIRST_CURVES = (
  "reward",
  "accuracy",
  "tool_rate",
  "box_coverage",
  "box_iou",
  "box_area",
)


def write_page(
  path: str | os.PathLike[str],
  title: str,
  tables: Sequence[tables_lib.ResultTable] = (),
  curves: Sequence[plots.Curve] = (),
  rollouts: Iterable[records.RolloutRecord] = (),
  notes: Sequence[str] = (),
  compared: tuple[str, str] | None = None,
) -> None:
  """Writes the page to `path`, whole or not at all.

  Args:
    path: The HTML file.
    title: The heading.
    tables: Result tables, shown in this order.
    curves: Learning curves; those of one quantity share a chart.
    rollouts: What to browse; an image that several share is stored once, and
      very many images are compressed more, as the page then says.
    notes: The key findings, a sentence each.
    compared: Two policies whose rollouts the page shows side by side when it
      opens.
  """
  rows, images, less = _pack_rollouts(rollouts)
  style, script = _asset("page.css"), "\n".join(map(_asset, _SCRIPTS))
  start = dict(zip(("policy", "compare"), compared or ()))
  data = {"curves": _group_curves(curves), "rollouts": rows, "start": start}
  environment = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined
  )
  stream = environment.from_string(_asset("page.html.jinja")).stream(
    title=title,
    notes=notes,
    tables=tables,
    has_curves=bool(data["curves"]),
    count=len(rows),
    images=images,
    less=less,
    data=_script_json(data),
    policy=_security_policy(style, script),
    style=markupsafe.Markup(style),
    script=markupsafe.Markup(script),
  )
  with files.atomic_writer(path) as file:
    # A lone surrogate, which a damaged text can hold, must not stop the page.
    stream.dump(file, encoding="utf-8", errors="xmlcharrefreplace")


def _pack_rollouts(
  rollouts: Iterable[records.RolloutRecord],
) -> tuple[list[dict[str, Any]], dict[str, str], bool]:
  """Rollouts as JSON values, their images in base 64, whether any is less.

  Less than recorded, as `page_images.fit` makes them.
  """
  rows, originals, views, crops = [], {}, {}, {}
  for record in rollouts:
    row, shown = records.pack_record(record)
    for key, data in shown.items():
      kind = {row["original_jpeg"]: originals, row["view_jpeg"]: views}
      kind.get(key, crops).setdefault(key, data)
    size, targets = record.original_size, record.targets
    for turn, packed in zip(record.turns, row["turns"]):
      packed["quality"] = _quality(turn.box, targets, size)
    row["quality"] = _quality(record.last_box, targets, size)
    row["reward"], row["called"] = record.reward, record.called
    row["has_box"] = record.last_box is not None
    row["thumbnail"] = f"{row['original_jpeg']}-thumbnail"
    rows.append(row)
  images = originals | views | crops
  fitted = page_images.fit(originals)
  # What the policy saw keeps its pixels while they can be told apart.
  for kind in (views, crops):
    fitted |= page_images.fit(kind, least=page_images.COARSE)
  less = fitted != images
  fitted |= {
    f"{key}-thumbnail": page_images.thumbnail(data)
    for key, data in originals.items()
  }
  coded = {k: base64.b64encode(data).decode() for k, data in fitted.items()}
  return rows, coded, less


def _quality(
  box: records.Box | None,
  targets: Sequence[records.Box],
  size: tuple[int, int],
) -> dict[str, float] | None:
  quality = box and records.box_quality(box, targets, size)
  return vars(quality) if quality else None


def _group_curves(curves: Sequence[plots.Curve]) -> list[dict[str, Any]]:
  """Collects the runs of each quantity, what is looked at most in front.

  Alarms, zero most of the time, come last; others as they first appear.
  """
  charts: dict[str, list[Mapping[str, Any]]] = {}
  for curve in curves:
    charts.setdefault(curve.quantity, []).append(
      {"run": curve.run, "steps": curve.steps, "values": curve.values}
    )

  def place(name):
    if name in _FIRST_CURVES:
      return _FIRST_CURVES.index(name)
    return len(_FIRST_CURVES) + name.startswith("alarm_")

  return [
    {"quantity": name, "runs": charts[name]}
    for name in sorted(charts, key=place)
  ]


def _script_json(data: Any) -> markupsafe.Markup:
  """JSON that is safe inside a script element.

  With '<' escaped no text can end the element or open a comment; a number that
  is not finite, which JSON lacks, becomes null.
  """
  text = json.dumps(_finite(data), allow_nan=False, separators=(",", ":"))
  for character in "<>&":
    text = text.replace(character, f"\\u{ord(character):04x}")
  return markupsafe.Markup(text)


def _finite(value: Any) -> Any:
  if isinstance(value, dict):
    return {key: _finite(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [_finite(item) for item in value]
  odd = isinstance(value, float) and not math.isfinite(value)
  return None if odd else value


def _security_policy(style: str, script: str) -> str:
  """Allows exactly this style, this script and inline images."""
  return (
    "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
    f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
  )


def _digest(text: str) -> str:
  value = hashlib.sha256(text.encode()).digest()
  return f"sha256-{base64.b64encode(value).decode()}"


def _asset(name: str) -> str:
  folder = importlib.resources.files(__package__) / "templates"
  return folder.joinpath(name).read_text("utf-8")
