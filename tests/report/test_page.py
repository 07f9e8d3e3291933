"""The page as a file: self-contained, inert, and each image once."""

import base64
import dataclasses
import hashlib
import html.parser
import json
import re

import samples

from lfpc_jax.report import page, plots, results


class _Page(html.parser.HTMLParser):
  """The elements of a page, and the text of its style and scripts."""

  def __init__(self, text):
    super().__init__()
    self.elements, self.texts, self._open = [], {}, None
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    self._open = tag, dict(attrs).get("id")

  def handle_endtag(self, tag):
    self._open = None

  def handle_data(self, data):
    self.texts[self._open] = self.texts.get(self._open, "") + data

  def data(self):
    return json.loads(self.texts["script", "data"])


def _write(path, rollouts, **parts):
  page.write_page(path, parts.pop("title", "Title"), rollouts=rollouts, **parts)
  return path.read_text("utf-8")


def _hostile_page(tmp_path):
  rollouts = samples.make_records(2)
  hostile = samples.HOSTILE
  turn = dataclasses.replace(
    rollouts[0].turns[0], text=hostile, observation=hostile
  )
  rollouts[0] = dataclasses.replace(
      rollouts[0], id=hostile, question=hostile, answer=hostile,
      prediction=hostile, category=hostile, policy=hostile,
      stop_reason=hostile, rewards={hostile: 1.0}, turns=(turn,),
  )  # fmt: skip
  table = results.paper_table(
      [dataclasses.replace(samples.make_results()[0], policy=hostile)],
      title=hostile, caption=hostile,
  )  # fmt: skip
  curves = [plots.Curve(hostile, hostile, (0, 1), (0.0, 1.0))]
  return _write(
      tmp_path / 'p.html', rollouts, title=hostile, tables=[table],
      curves=curves, notes=[hostile],
  )  # fmt: skip


def test_hostile_text_makes_no_element_and_stays_whole(tmp_path):
  parsed = _Page(_hostile_page(tmp_path))
  tags = [tag for tag, _ in parsed.elements]
  assert "img" not in tags
  executable = [
    attributes
    for tag, attributes in parsed.elements
    if tag == "script" and "type" not in attributes
  ]
  assert len(executable) == 1
  assert not any(
    name.startswith("on") for _, a in parsed.elements for name in a
  )
  rollout = parsed.data()["rollouts"][0]
  assert rollout["question"] == samples.HOSTILE
  assert rollout["turns"][0]["text"] == samples.HOSTILE
  assert parsed.texts["title", None] == samples.HOSTILE


def test_page_asks_nothing_of_the_network(tmp_path):
  text = _write(tmp_path / "p.html", samples.make_records(1))
  for tag, attributes in _Page(text).elements:
    assert tag not in ("link", "iframe", "object", "base")
    assert "src" not in attributes
    assert attributes.get("href", "#").startswith("#")
  urls = set(re.findall(r'https?://[^\s\'"]+', text))
  assert urls == {"http://www.w3.org/2000/svg"}  # a name, not an address


def test_security_policy_allows_this_style_and_script_only(tmp_path):
  parsed = _Page(_write(tmp_path / "p.html", samples.make_records(1)))
  (policy,) = [
    attributes["content"]
    for tag, attributes in parsed.elements
    if attributes.get("http-equiv") == "Content-Security-Policy"
  ]
  assert "default-src 'none'" in policy and "unsafe" not in policy
  for kind in ("style", "script"):
    text = parsed.texts[kind, None]
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    assert f"{kind}-src 'sha256-{digest}'" in policy


def test_rollouts_of_one_image_share_its_bytes(tmp_path):
  rollouts = samples.make_records(1)
  text = _write(tmp_path / "p.html", rollouts)
  assert len(rollouts) == 4
  original = base64.b64encode(rollouts[0].original_jpeg).decode()
  assert text.count(original) == 1


def test_page_holds_quality_and_reward_of_each_rollout(tmp_path):
  rollouts = samples.make_records(1)
  data = _Page(_write(tmp_path / "p.html", rollouts)).data()
  for row, rollout in zip(data["rollouts"], rollouts, strict=True):
    assert row["reward"] == rollout.reward
    assert row["called"] == rollout.called
    assert (row["quality"] is None) == (rollout.last_box is None)


def test_values_that_are_not_finite_leave_a_gap(tmp_path):
  curves = [plots.Curve("loss", "run", (0, 1), (float("nan"), float("inf")))]
  data = _Page(_write(tmp_path / "p.html", [], curves=curves)).data()
  assert data["curves"][0]["runs"][0]["values"] == [None, None]


def test_a_damaged_text_does_not_stop_the_page(tmp_path):
  rollout = dataclasses.replace(samples.make_records(1)[0], question="\ud800x")
  text = _write(tmp_path / "p.html", [rollout], notes=["\udfff"])
  assert "\\ud800x" in text


def test_absent_parts_leave_no_section(tmp_path):
  parsed = _Page(_write(tmp_path / "p.html", [], notes=["Only a note."]))
  sections = [a.get("id") for tag, a in parsed.elements if tag == "section"]
  assert sections == ["summary"]
