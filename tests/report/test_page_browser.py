"""The page in a real browser: filters, comparison, slider, no error."""

import dataclasses
import html
import json
import math
import re

import chromium
import numpy as np
import PIL.Image
import pytest
import samples

from lfpc_jax.report import page, results

pytestmark = pytest.mark.skipif(
  chromium.PATH is None, reason="no chromium on the path: apt install chromium"
)


class Browser:
  """Opens pages of one folder in a Chromium."""

  def __init__(self, chrome, folder):
    self.chrome, self._folder = chrome, folder

  @property
  def messages(self):
    """What the page that is open has complained of."""
    return self.chrome.problems

  def dom(self, fragment, until="true"):
    """The page's elements, as soon as an expression in it is true."""
    self.chrome.open(self._folder / "page.html", fragment)
    self.chrome.until(until)
    return self.chrome.evaluate("document.documentElement.outerHTML")

  def drive(self, fragment, script):
    """Runs `script` in a copy of the page; returns its JSON result."""
    text = (self._folder / "page.html").read_text("utf-8")
    text = re.sub(r'<meta http-equiv="Content-Security[^>]*>', "", text)
    report = (
      "<script>const done = value => { const out = document.createElement("
      "'output'); out.id = 'driven'; out.textContent = JSON.stringify(value);"
      "document.body.append(out); };\n{" + script + "}</script>"
    )
    driven = text.replace("</body>", report + "</body>")
    (self._folder / "driven.html").write_text(driven, "utf-8")
    self.chrome.open(self._folder / "driven.html", fragment)
    assert not self.messages
    found = self.chrome.until("document.querySelector('#driven')?.textContent")
    assert not self.messages
    return json.loads(found)


@pytest.fixture(scope="module", name="chrome")
def fixture_chrome(tmp_path_factory):
  chrome = chromium.Chromium(tmp_path_factory.mktemp("profile"))
  yield chrome
  chrome.close()


@pytest.fixture(scope="module", name="rollouts")
def fixture_rollouts():
  """Eight questions by four policies; one rollout is hostile."""
  rollouts = samples.make_records(8)
  rollouts[5] = dataclasses.replace(
    rollouts[5], question=samples.HOSTILE, prediction=samples.HOSTILE
  )
  return rollouts


@pytest.fixture(scope="module", name="browser")
def fixture_browser(chrome, tmp_path_factory, rollouts):
  folder = tmp_path_factory.mktemp("page")
  page.write_page(
    folder / "page.html",
    "A title",
    [results.paper_table(samples.make_results())],
    samples.make_curves(20),
    rollouts,
    ["A finding."],
  )
  return Browser(chrome, folder)


def _indices(dom):
  found = re.findall(r'class="item"[^>]*data-index="(\d+)', dom)
  return [int(index) for index in found]


def test_a_console_error_would_be_seen(chrome, tmp_path):
  (tmp_path / "page.html").write_text("<script>null.x</script>")
  other = Browser(chrome, tmp_path)
  other.dom("")
  assert other.messages


def test_page_opens_without_a_message_and_draws_everything(browser, rollouts):
  drawn = "document.querySelectorAll('.chart .raw').length >= 3"
  dom = browser.dom("show=5", drawn)
  assert not browser.messages
  assert _indices(dom) == list(range(len(rollouts)))
  assert dom.count('class="chart"') == 11


def test_hostile_text_is_shown_and_does_nothing(browser):
  dom = browser.dom("show=5")
  assert "<title>A title</title>" in dom
  assert not re.search(r"<img[^>]*onerror", dom)
  shown = re.search(r'<div id="detail".*?<h3>(.*?)</h3>', dom, re.DOTALL)[1]
  expected = samples.HOSTILE.replace("\u202e", "\\u202e")
  assert html.unescape(shown) == expected


_FILTERS = {
  "correct=no": lambda r: not r.correct,
  "tool=no": lambda r: not r.called,
  "tool=fault": lambda r: "WRONG_TOOL" in {t.call_status for t in r.turns},
  "category=hard&policy=stage+1": (
    lambda r: r.category == "hard" and r.policy == "stage 1"
  ),
  "low=0.7&high=1.9": lambda r: 0.7 <= r.reward <= 1.9,
  "quality=none": lambda r: r.last_box is None,
  "quality=covers": lambda r: _coverage(r) > 0.9,
  "quality=missed": lambda r: _coverage(r) == 0,
  "find=ONERROR": lambda r: r.question == samples.HOSTILE,
  "find=nowhere": lambda r: False,
}
_COMPARISON = "policy=baseline&compare=stage+2&change=fixed"


def _coverage(rollout):
  """The smallest target's share in the last box, counted in pixels."""
  if rollout.last_box is None:
    return math.nan
  masks = np.zeros((2, *rollout.original_size), bool)
  for mask, box in zip(masks, (rollout.last_box, rollout.targets[0])):
    x1, y1, x2, y2 = box
    mask[y1:y2, x1:x2] = True
  return masks.all(0).sum() / masks[1].sum()


@pytest.fixture(scope="module", name="views")
def fixture_views(browser):
  """What each selection shows: the list, and the policies in detail."""
  return browser.drive(
    "",
    f"const out = {{}}; for (const part of {[*_FILTERS, _COMPARISON]}) {{"
    """
        history.replaceState(null, '', `#${part}`);
        loadHash();
        const texts = query => [...document.querySelectorAll(query)];
        out[part] = [
          texts('.item').map(item => Number(item.dataset.index)),
          texts('.rollout > header strong').map(name => name.textContent)];
      }
      done(out);
      """,
  )


@pytest.mark.parametrize("fragment", _FILTERS)
def test_filter(views, rollouts, fragment):
  wanted = _FILTERS[fragment]
  expected = [i for i, r in enumerate(rollouts) if wanted(r)]
  assert len(expected) < len(rollouts)
  assert bool(expected) == (fragment != "find=nowhere")
  assert views[fragment][0] == expected


def test_comparison_pairs_two_policies_on_a_question(views, rollouts):
  by_key = {(r.id, r.policy): r for r in rollouts}
  fixed = [
    i
    for i, r in enumerate(rollouts)
    if r.policy == "baseline"
    and not r.correct
    and by_key[r.id, "stage 2"].correct
  ]
  assert fixed
  assert views[_COMPARISON] == [fixed, ["baseline", "stage 2"]]


def test_slider_uncovers_the_original(browser):
  clips = browser.drive('show=1', """
    const slider = document.querySelector('.stage input');
    const view = document.querySelectorAll('.stage img')[1];
    const out = [];
    for (const value of [0, 30, 100]) {
      slider.value = value;
      slider.dispatchEvent(new Event('input'));
      out.push(getComputedStyle(view).clipPath);
    }
    done(out);
  """)  # fmt: skip
  assert clips == ['inset(0px 100% 0px 0px)', 'inset(0px 70% 0px 0px)',
                   'inset(0px 0% 0px 0px)']  # fmt: skip


def test_boxes_lie_where_the_record_says(browser, rollouts):
  index = next(
    i for i, r in enumerate(rollouts) if r.last_box and len(r.targets) == 2
  )
  shown = browser.drive(f'show={index}', """
    const stage = document.querySelector('.stage').getBoundingClientRect();
    done(['policy', 'target', 'context'].map(name => {
      const box = document.querySelector(`.stage rect.${name}`)
        .getBoundingClientRect();
      return [(box.left - stage.left) / stage.width,
              (box.top - stage.top) / stage.height,
              (box.right - stage.left) / stage.width,
              (box.bottom - stage.top) / stage.height];
    }));
  """)  # fmt: skip
  rollout = rollouts[index]
  expected = np.array([rollout.last_box, *rollout.targets]) / 192
  np.testing.assert_allclose(shown, expected, atol=0.02)


def test_controls_write_an_address_that_restores_the_view(browser):
  address, shown = browser.drive('theme=dark', """
    const control = [...document.querySelectorAll('#filters label')].find(
      label => label.textContent.startsWith('Answer')).lastChild;
    control.value = 'no';
    control.dispatchEvent(new Event('change'));
    document.dispatchEvent(new KeyboardEvent('keydown', {key: 'j'}));
    done([location.hash.slice(1), document.querySelector('#detail').innerText]);
  """)  # fmt: skip
  assert "correct=no" in address and "theme=dark" in address
  again = browser.drive(
    address, "done(document.querySelector('#detail').innerText);"
  )
  assert again == shown


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_theme_sets_the_ground(browser, tmp_path, theme):
  picture = tmp_path / "page.png"
  browser.dom(f"theme={theme}")
  browser.chrome.screenshot(picture)
  with PIL.Image.open(picture) as image:
    ground = np.asarray(image.convert("L"))[400:, 3].mean()
  assert ground > 240 if theme == "light" else ground < 40


def test_phone_width_needs_no_sideways_scroll(browser):
  widths = browser.drive('show=5', """
    const frame = document.createElement('iframe');
    frame.style = 'width: 360px; border: 0';
    frame.srcdoc = document.documentElement.outerHTML.replace(
      /<script>const done[^]*?<\\/script>/, '');
    frame.onload = () => done([
      frame.contentDocument.documentElement.scrollWidth,
      frame.contentWindow.innerWidth]);
    document.body.append(frame);
  """)  # fmt: skip
  assert widths[0] <= widths[1] == 360


def test_the_list_shows_thumbnails(browser):
  sizes = browser.drive('', """
    const first = document.querySelector('.item img');
    const wait = () => first.complete && first.naturalWidth
      ? done([first.naturalWidth, document.querySelector(
          '.stage img').naturalWidth])
      : setTimeout(wait, 20);
    wait();
  """)  # fmt: skip
  assert sizes == [104, 192]


def test_a_thousand_rollouts_fill_the_list_by_and_by(
  chrome, tmp_path, rollouts
):
  many = [dataclasses.replace(rollouts[i % 32], id=f"{i}") for i in range(1000)]
  page.write_page(tmp_path / "page.html", "Many", rollouts=many)
  dom = Browser(chrome, tmp_path).dom("")
  assert "1000 of 1000 rollouts" in dom
  assert 0 < len(_indices(dom)) < 200
