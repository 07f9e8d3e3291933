"""The page as its reader uses it: in real time, by pointer, on a phone."""

import dataclasses
import itertools
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
_ITEMS = "[...document.querySelectorAll('.item')].map(i => +i.dataset.index)"
_WIDTH = "document.documentElement.scrollWidth"


@pytest.fixture(scope="module", name="browser")
def fixture_browser(tmp_path_factory):
  browser = chromium.Chromium(tmp_path_factory.mktemp("profile"))
  yield browser
  browser.close()


@pytest.fixture(scope="module", name="rollouts")
def fixture_rollouts():
  """Eight questions by four policies; one rollout is hostile."""
  rollouts = samples.make_records(8)
  rollouts[5] = dataclasses.replace(
    rollouts[5],
    question=samples.HOSTILE,
    prediction=samples.HOSTILE,
    category=samples.HOSTILE,
    turns=(
      dataclasses.replace(
        rollouts[5].turns[-1],
        text=samples.HOSTILE,
        observation=samples.HOSTILE,
      ),
    ),
  )
  return rollouts


@pytest.fixture(scope="module", name="path")
def fixture_path(tmp_path_factory, rollouts):
  path = tmp_path_factory.mktemp("page") / "page.html"
  page.write_page(
    path,
    "A title",
    [results.paper_table(samples.make_results())],
    samples.make_curves(20),
    rollouts,
    ["A finding."],
  )
  return path


def _found(browser, fragment):
  """What a selection in the address shows, on the page that is open."""
  browser.evaluate(
    f"history.replaceState(null, '', {f'#{fragment}'!r}); loadHash()"
  )
  return browser.evaluate(_ITEMS)


def test_page_opens_from_disk_without_a_problem_or_a_request(browser, path):
  for width, dark in itertools.product((1280, 375), (False, True)):
    browser.open(path, width=width, dark=dark)
    browser.painted()
    assert not browser.problems
    asked = [u for u in browser.requests if not u.startswith("data:")]
    # The fragment is no part of a request's address.
    assert asked == [path.as_uri()]
    assert browser.evaluate(_WIDTH) <= width


def test_a_problem_would_be_seen(browser, tmp_path):
  bad = tmp_path / "bad.html"
  bad.write_text("<script>null.x</script><img src=http://127.0.0.1:9/x.png>")
  browser.open(bad)
  assert browser.problems and len(browser.requests) == 2


_RANGES = {
  "low=0.7&high=1.9": lambda r: 0.7 <= r.reward <= 1.9,
  "iou_low=0.4": lambda r: (_quality(r, "iou") or 0) >= 0.4,
  "iou_high=0.2": lambda r: (_quality(r, "iou", 1)) <= 0.2,
  "cover_low=0.2&cover_high=0.8": (
    lambda r: 0.2 <= _quality(r, "coverage", 0) <= 0.8
  ),
  "tool=one": lambda r: sum(t.box is not None for t in r.turns) == 1,
}


def _quality(rollout, name, absent=None):
  """IoU or coverage of the last crop, counted in pixels."""
  if rollout.last_box is None:
    return absent
  masks = np.zeros((3, *rollout.original_size), bool)
  for mask, box in zip(masks, (rollout.last_box, *rollout.targets)):
    x1, y1, x2, y2 = box
    mask[y1:y2, x1:x2] = True
  crop, target, context = masks
  if name == "coverage":
    return (crop & target).sum() / target.sum()
  return max((crop & t).sum() / (crop | t).sum() for t in (target, context))


@pytest.mark.parametrize("fragment", _RANGES)
def test_range_of_a_number(browser, path, rollouts, fragment):
  browser.open(path, fragment)
  expected = [i for i, r in enumerate(rollouts) if _RANGES[fragment](r)]
  assert 0 < len(expected) < len(rollouts)
  browser.painted()
  assert _found(browser, fragment)[:20] == expected[:20]
  count = browser.evaluate("document.querySelector('#count').textContent")
  assert count == f"{len(expected)} of {len(rollouts)} rollouts"
  set_ = browser.evaluate("document.querySelector('summary').textContent")
  assert set_ == f"Filters: {fragment.count('=')} set"


def test_several_crops_are_told_from_one(browser, tmp_path, rollouts):
  twice = next(r for r in rollouts if r.last_box)
  crop = next(turn for turn in twice.turns if turn.box)
  twice = dataclasses.replace(twice, turns=(crop, *twice.turns))
  page.write_page(tmp_path / "p.html", "T", rollouts=[*rollouts, twice])
  browser.open(tmp_path / "p.html", "tool=more")
  assert browser.evaluate(_ITEMS) == [len(rollouts)]


def test_typing_in_a_field_filters(browser, path, rollouts):
  browser.open(path)
  browser.evaluate("document.querySelector('input[aria-label=from]').focus()")
  browser.call("Input.insertText", text="0.7")
  count = browser.evaluate("document.querySelector('#count').textContent")
  expected = sum(r.reward >= 0.7 for r in rollouts)
  assert count == f"{expected} of {len(rollouts)} rollouts"
  assert "low=0.7" in browser.evaluate("location.hash")


def _changes(rollouts, first, second):
  by_key = {(r.id, r.policy): r.correct for r in rollouts}
  return [
    (by_key[r.id, first], by_key[r.id, second])
    for r in rollouts
    if r.policy == first
  ]


def test_comparison_sorts_the_pairs_by_what_changed(browser, path, rollouts):
  pairs = _changes(rollouts, "baseline", "stage 2")
  base = "policy=baseline&compare=stage+2"
  browser.open(path, base)
  assert len(_found(browser, base)) == len(pairs)
  wanted = {
    "fixed": (False, True),
    "broken": (True, False),
    "right": (True, True),
    "wrong": (False, False),
  }
  for change, pair in wanted.items():
    shown = _found(browser, f"{base}&change={change}")
    assert len(shown) == pairs.count(pair)


def test_comparison_shows_the_paired_difference(browser, path, rollouts):
  fragment = "policy=baseline&compare=stage+2"
  browser.open(path, fragment)
  row = browser.evaluate(
    "[...document.querySelectorAll('.difference td')].map(c => c.textContent)"
  )
  pairs = _changes(rollouts, "baseline", "stage 2")
  share = 100 * sum(b - a for a, b in pairs) / len(pairs)
  assert row[0] == str(len(pairs))
  assert row[1] == f"{'+' if share > 0 else ''}{share:.1f} %"


def test_a_page_opens_with_two_policies_side_by_side(
  browser, tmp_path, rollouts
):
  path = tmp_path / "p.html"
  page.write_page(
    path, "T", rollouts=rollouts, compared=("baseline", "stage 2")
  )
  names = (
    "[...document.querySelectorAll('.rollout > header strong')]"
    ".map(name => name.textContent)"
  )
  browser.open(path)
  assert browser.evaluate(names) == ["baseline", "stage 2"]
  browser.open(path, "policy=pretrained")  # the address says otherwise
  assert browser.evaluate(names) == ["pretrained"]
  assert not browser.problems


_CLIPS = (
  "[...document.querySelectorAll('.stage')].map(stage => getComputedStyle("
  "stage.querySelectorAll('img')[1]).clipPath)"
)


def _stage(browser):
  """The first picture's left, top, width and height in the view."""
  return browser.evaluate(
    "(() => { const stage = document.querySelector('.stage');"
    "stage.scrollIntoView({block: 'center'});"
    "const box = stage.getBoundingClientRect();"
    "return [box.left, box.top, box.width, box.height]; })()"
  )


def test_dragging_the_slider_moves_the_gap_of_both_policies(browser, path):
  browser.open(path, "policy=baseline&compare=stage+2")
  left, top, width, height = _stage(browser)
  middle = top + height / 2
  browser.drag((left + width / 2, middle), (left + width * 0.8, middle))
  clips = browser.evaluate(_CLIPS)
  assert len(clips) == 2 and clips[0] == clips[1]
  hidden = float(re.fullmatch(r"inset\(0px ([\d.]+)% 0px 0px\)", clips[0])[1])
  assert hidden == pytest.approx(20, abs=3)
  browser.evaluate("move(1)")  # the next question is looked at alike
  assert browser.evaluate(_CLIPS) == clips


def test_the_slider_shows_the_view_left_and_the_original_right(
  browser, tmp_path, rollouts
):
  side = 192
  flat = {
    name: samples.records.jpeg_bytes(np.full((side, side, 3), shade, np.uint8))
    for name, shade in (("view", 40), ("original", 220))
  }
  rollout = dataclasses.replace(
    rollouts[0],
    view_jpeg=flat["view"],
    original_jpeg=flat["original"],
    targets=(),
    turns=rollouts[0].turns[-1:],
  )
  page.write_page(tmp_path / "p.html", "T", rollouts=[rollout])
  browser.open(tmp_path / "p.html")
  left, top, width, height = _stage(browser)
  browser.screenshot(tmp_path / "p.png")
  with PIL.Image.open(tmp_path / "p.png") as picture:
    row = np.asarray(picture.convert("L"), int)[int(top + height / 4)]
  assert abs(row[int(left + width * 0.25)] - 40) < 8
  assert abs(row[int(left + width * 0.75)] - 220) < 8


def test_hostile_text_makes_no_element_and_runs_nothing(browser, path):
  browser.open(path, "show=5")
  browser.painted()
  assert not browser.problems
  assert browser.evaluate("document.title") == "A title"
  assert browser.evaluate("document.scripts.length") == browser.evaluate(
    "document.querySelectorAll('script[id]').length + 1"
  )
  sources = browser.evaluate("[...document.images].map(image => image.src)")
  assert all(s.startswith("data:image/jpeg") or not s for s in sources)
  shown = browser.evaluate("document.querySelector('#detail').innerText")
  expected = samples.HOSTILE.replace("\u202e", "\\u202e")
  # Question, category, prediction, the turn and what came back.
  assert shown.count("onerror") == 5 and expected.split("\u2028")[0] in shown


def test_the_security_policy_stops_a_script_that_gets_in(browser, path):
  browser.open(path)
  browser.evaluate(
    "document.body.insertAdjacentHTML('beforeend',"
    """'<img src=x onerror="document.title=1">')"""
  )
  browser.painted()
  assert browser.evaluate("document.title") == "A title"
  for _ in range(1000):  # frames
    if browser.problems:
      break
    browser.painted()
  assert browser.problems  # the browser says what it refused


def test_dark_mode_follows_the_system(browser, path, tmp_path):
  shades = {}
  for dark in (False, True):
    browser.open(path, dark=dark)
    browser.screenshot(tmp_path / "page.png")
    with PIL.Image.open(tmp_path / "page.png") as picture:
      shades[dark] = np.asarray(picture.convert("L"))[200:, 3].mean()
  assert shades[False] > 240 and shades[True] < 40


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground(browser, path, dark):
  """Contrast by WCAG 2, at least 4.5 for text of this size."""
  browser.open(path, "policy=baseline&compare=stage+2", dark=dark)
  ratios = browser.evaluate(
    """(() => {
      const canvas = document.createElement('canvas').getContext(
        '2d', {willReadFrequently: true});
      const rgb = colour => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
      };
      const light = rgb => rgb.slice(0, 3).map(v => v / 255).map(
        v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4
      ).reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
      const ground = node => {
        const own = rgb(getComputedStyle(node).backgroundColor);
        return own[3] === 255 || !node.parentElement ? own
          : ground(node.parentElement);
      };
      const wanted = 'h3, .item .q, .item .meta, .good, .bad, .said, .mark, '
        + '.turn header, .facts, .caption, td, th, .legend li, .ends button, '
        + '.readout span, label';
      return [...document.querySelectorAll(wanted)].map(node => {
        const [a, b] = [light(rgb(getComputedStyle(node).color)),
                        light(ground(node))];
        return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05),
                `${node.tagName} ${node.className} ${node.textContent}`
                .slice(0, 60)];
      });
    })()"""
  )
  assert len(ratios) > 100
  assert not [pair for pair in ratios if pair[0] < 4.5]


def test_a_phone_folds_the_filters_and_stacks_the_pair(browser, path):
  browser.open(path, "policy=baseline&compare=stage+2", width=375, height=812)
  browser.painted()
  is_open = "document.querySelector('#filter-box').open"
  assert not browser.evaluate(is_open)
  browser.evaluate("document.querySelector('#filter-box summary').click()")
  assert browser.evaluate(is_open)
  assert browser.evaluate(_WIDTH) <= 375
  boxes = browser.evaluate(
    "[...document.querySelectorAll('.rollout')].map(node => {"
    "const box = node.getBoundingClientRect();"
    "return [box.left, box.top, box.right, box.bottom]; })"
  )
  (left, _, right, bottom), (_, second_top, _, _) = boxes
  assert left >= 0 and right <= 375 and second_top >= bottom
  small = browser.evaluate(
    "[...document.querySelectorAll('button, select, input:not([type=range])')]"
    ".filter(n => n.offsetParent && n.type !== 'checkbox')"
    ".map(n => n.getBoundingClientRect().height).filter(h => h < 24)"
  )
  assert not small  # WCAG 2.2's least size of a target


def test_a_thousand_rollouts_are_quick(browser, tmp_path, rollouts):
  # Of 250 pictures, none like another, and hard to compress.
  rng = np.random.default_rng(0)
  originals = [
    samples.records.jpeg_bytes(rng.integers(0, 256, (320, 320, 3), np.uint8))
    for _ in range(250)
  ]
  many = [
    dataclasses.replace(
      rollouts[i % 32],
      id=f"{i // 4}",
      question=f"Number {i}?",
      original_jpeg=originals[i // 4],
      original_size=(320, 320),
    )
    for i in range(1000)
  ]
  page.write_page(tmp_path / "page.html", "Many", rollouts=many)
  assert (tmp_path / "page.html").stat().st_size < 30e6
  browser.open(tmp_path / "page.html")
  browser.painted()
  assert not browser.problems
  assert len(browser.evaluate(_ITEMS)) < 100
  pictures = browser.evaluate("document.images.length")
  drawn = browser.evaluate(
    "[...document.images].filter(image => image.src).length"
  )
  assert drawn < pictures  # those out of sight are left alone
  loaded = browser.evaluate(
    "performance.getEntriesByType('navigation')[0].loadEventEnd"
  )
  milliseconds = browser.evaluate(
    """(() => ['no', 'yes', ''].map(value => {
      const start = performance.now();
      setState('correct', value);
      document.body.getBoundingClientRect();
      return performance.now() - start;
    }))()"""
  )
  # A hundred times what it takes alone on a core: a slower one may have other
  # work beside. To draw all at once is refused above, whatever it takes.
  assert loaded < 100_000 and min(milliseconds) < 5_000
  browser.evaluate("document.querySelector('#list').scrollTop = 1e6")
  browser.until(f"{_ITEMS}.length > 40")
