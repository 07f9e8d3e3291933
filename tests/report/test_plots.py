"""Learning curves: what is drawn, and that it can be committed."""

import math
from xml.etree import ElementTree

import PIL.Image
import pytest
import samples

from lfpc_jax.report import plots


def test_curves_take_every_number_that_was_logged():
  rows = [
    {"step": 3, "a": 1.0, "note": "text"},
    {"step": 4, "a": 2, "b": 5.0},
  ]
  assert plots.curves_from_metrics({"run": rows}) == [
    plots.Curve("a", "run", (3, 4), (1.0, 2.0)),
    plots.Curve("b", "run", (4,), (5.0,)),
  ]


def test_smoothing_is_unbiased_and_leaves_gaps():
  assert plots.smooth([2.0, 2.0, 2.0], 0.9) == pytest.approx([2, 2, 2])
  # Weights 0.5 and 0.25 of the two values, over their sum.
  assert plots.smooth([1.0, 4.0], 0.5)[1] == pytest.approx(3)
  out = plots.smooth([1.0, math.nan, 1.0], 0.5)
  assert math.isnan(out[1]) and out[2] == pytest.approx(1)


def test_svg_is_well_formed_and_the_same_each_time(tmp_path):
  curves = samples.make_curves(steps=12)
  for name in ("a.svg", "b.svg"):
    plots.learning_curves(
      curves, tmp_path / name, quantities=["reward/total", "update/loss"]
    )
  text = (tmp_path / "a.svg").read_text()
  assert ElementTree.fromstring(text).tag.endswith("svg")
  assert "update/loss" in text and "reward/tool" not in text
  assert text == (tmp_path / "b.svg").read_text()


def test_dark_png_has_a_dark_ground(tmp_path):
  curves = samples.make_curves(steps=5, runs=("$a_b$",))[:2]
  plots.learning_curves(curves, tmp_path / "c.png", dark=True)
  with PIL.Image.open(tmp_path / "c.png") as image:
    assert max(image.convert("RGB").getpixel((2, 2))) < 60


@pytest.mark.parametrize(
  "name, quantities, message",
  [("c.gif", None, "svg or .png"), ("c.svg", ["nope"], "nope")],
)
def test_bad_requests_are_named(tmp_path, name, quantities, message):
  curves = samples.make_curves(steps=3)[:1]
  with pytest.raises(ValueError, match=message):
    plots.learning_curves(curves, tmp_path / name, quantities=quantities)
