"""The page's curves: all of them, in an order, with labels that can be read."""

import re

import chromium
import pytest
import samples

from lfpc_jax.report import page, plots

pytestmark = pytest.mark.skipif(
  chromium.PATH is None, reason="no chromium on the path: apt install chromium"
)
_DRAWN = """[...document.querySelectorAll('.chart')].filter(
  chart => chart.offsetParent).every(chart => chart.querySelector('path'))"""


@pytest.fixture(scope="module", name="browser")
def fixture_browser(tmp_path_factory):
  browser = chromium.Chromium(tmp_path_factory.mktemp("profile"))
  yield browser
  browser.close()


def test_curves_are_drawn_for_every_quantity_and_tell_values(browser, tmp_path):
  path = tmp_path / "page.html"
  page.write_page(path, "Curves", curves=samples.make_curves(20))
  browser.open(path)
  names = {curve.quantity for curve in samples.make_curves(2)}
  charts = browser.evaluate(
    """(async () => {
      const found = [];
      for (const chart of document.querySelectorAll('.chart')) {
        chart.scrollIntoView();
        const paths = () => chart.querySelectorAll('path').length;
        for (let frame = 0; frame < 3000 && !paths(); frame++)
          await new Promise(requestAnimationFrame);
        found.push([chart.querySelector('figcaption').textContent, paths()]);
      }
      return found;
    })()"""
  )
  assert {name for name, _ in charts} == names
  assert all(paths == 6 for _, paths in charts)  # three runs, raw and smooth
  readout = browser.evaluate(
    """(() => {
      const chart = document.querySelector('.chart');
      chart.scrollIntoView({block: 'center'});
      const picture = chart.querySelector('svg');
      const {left, top, width} = picture.getBoundingClientRect();
      picture.dispatchEvent(new PointerEvent('pointermove', {
        clientX: left + width / 2, clientY: top + 9, bubbles: true}));
      return chart.querySelector('.readout').innerText;
    })()"""
  )
  assert re.match(r"step (8|9|10)\b", readout)


def test_what_is_looked_at_most_comes_first_and_alarms_last(browser, tmp_path):
  names = ("alarm_a", "entropy", "accuracy", "alarm_b", "box_iou", "reward")
  rows = [{"step": step} | dict.fromkeys(names, 0.5) for step in range(3)]
  curves = plots.curves_from_metrics({"run": rows})
  page.write_page(tmp_path / "p.html", "Curves", curves=curves)
  browser.open(tmp_path / "p.html")
  browser.until(_DRAWN)
  shown = browser.evaluate(
    "[...document.querySelectorAll('.chart figcaption')].map(x => x.innerText)"
  )
  wanted = ["reward", "accuracy", "box_iou", "entropy", "alarm_a", "alarm_b"]
  assert shown == wanted


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_no_label_of_a_curve_is_cut_off(browser, tmp_path, width):
  sizes = (-4e-6, 8.1e-6, 1234.5, -98_765.4, 6.5e8, 0.00123, -0.0321)
  rows = [
    {"step": step} | {f"about {x}": x * (1 + step / 1e6) for x in sizes}
    for step in range(0, 100_000, 9_999)
  ]
  curves = plots.curves_from_metrics({"run": rows})
  page.write_page(tmp_path / "p.html", "Curves", curves=curves)
  browser.open(tmp_path / "p.html", width=width, height=4000)
  browser.until(_DRAWN)
  room = browser.evaluate(
    """[...document.querySelectorAll('.chart text')].map(text => {
      const picture = text.closest('svg'), inside =
        getComputedStyle(picture).overflow === 'visible' ?
        text.closest('.chart') : picture;
      const inner = text.getBoundingClientRect();
      const outer = inside.getBoundingClientRect();
      return Math.min(inner.left - outer.left, outer.right - inner.right);
    })"""
  )
  assert len(room) > 4 * len(sizes) and min(room) > 0


def test_a_phone_shows_the_first_curves_until_asked_for_all(browser, tmp_path):
  path = tmp_path / "page.html"
  page.write_page(path, "Curves", curves=samples.make_curves(20))
  shown = (
    "[...document.querySelectorAll('.chart')].filter(c => c.offsetParent)"
    ".length"
  )
  button = "document.querySelector('#all-curves')"
  browser.open(path)
  assert browser.evaluate(shown) == 11
  assert not browser.evaluate(f"{button}.offsetParent")
  browser.open(path, width=390)
  assert browser.evaluate(shown) == 4
  assert browser.evaluate(f"{button}.textContent") == "Show all 11 curves"
  browser.evaluate(f"{button}.click()")
  browser.painted()
  assert browser.evaluate(shown) == 11
  assert not browser.evaluate(f"{button}.offsetParent")
  browser.until(
    "document.querySelectorAll('.chart')[4].querySelectorAll('path').length"
  )
  browser.open(path, width=390)
  browser.evaluate("document.querySelector('[type=search]').focus()")
  browser.call("Input.insertText", text="update/loss")
  assert browser.evaluate(shown) == 1


def test_what_is_rounded_to_zero_has_no_sign(browser, tmp_path):
  page.write_page(tmp_path / "p.html", "Numbers")
  browser.open(tmp_path / "p.html")
  shown = browser.evaluate(
    "[percent(-0.0004, 1), percent(-0.0006, 1), number(-0.001), number(-0.01),"
    " number(0), percent(null)]"
  )
  assert shown == ["0.0 %", "-0.1 %", "0.00", "-0.01", "0.00", "—"]
