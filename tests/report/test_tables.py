"""One table reads the same in the terminal, in Markdown and in HTML."""

import html.parser
import io
import math

import pytest
import rich.console
import samples

from lfpc_jax import statistics
from lfpc_jax.report import results, tables
from lfpc_jax.statistics import Estimate

TABLE = tables.ResultTable(
  "Accuracy",
  (
    tables.Column("accuracy", "low", scale=100, better="high"),
    tables.Column("seconds", "low", digits=2, better="low"),
  ),
  (
    ("baseline", (statistics.Estimate(0.5, 0.45, 0.55, 90), 2.0)),
    ("stage 1", (statistics.Estimate(0.723, 0.7, 0.75, 90), 1.25)),
    ("a|b <i>", (None, math.nan)),
  ),
  caption="A | b",
)


class _Cells(html.parser.HTMLParser):
  """Collects tags and texts."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.texts = [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)

  def handle_data(self, data):
    self.texts.append(data)


def test_markdown_form():
  assert TABLE.to_markdown() == (
    "**Accuracy**\n\n"
    "|  | low: accuracy | low: seconds |\n"
    "| --- | ---: | ---: |\n"
    "| baseline | 50.0 [45.0 to 55.0] | 2.00 |\n"
    "| stage 1 | **72.3** [70.0 to 75.0] | **1.25** |\n"
    "| a\\|b &lt;i> | — | — |\n\n"
    "A \\| b\n"
  )


def test_a_zero_has_no_sign():
  column = tables.Column("drop", scale=100)
  assert column.text(-0.0) == column.text(-0.0004) == "0.0"
  assert column.interval(Estimate(-0.0, -0.0, 0.1, 3)) == "0.0 to 10.0"
  assert column.text(-0.0006) == "-0.1"


def test_html_form_escapes_and_spans_groups():
  cells = _Cells(TABLE.to_html())
  assert "a|b <i>" in cells.texts and "i" not in cells.tags
  assert cells.texts.count("low") == 1
  assert cells.tags.count("b") == 2
  assert "70.0 to 75.0" in cells.texts


def test_terminal_form_takes_no_markup():
  table = tables.ResultTable(
    "[red]x", (tables.Column("y"),), (("[bold]row", (1.0,)),)
  )
  file = io.StringIO()
  rich.console.Console(file=file, width=60).print(table)
  assert "[red]x" in file.getvalue() and "[bold]row" in file.getvalue()


def test_a_single_unit_shows_no_interval():
  estimate = statistics.mean([0.5])
  assert tables.Column("x").interval(estimate) == ""
  assert tables.Column("x").text(estimate) == "0.5"


def test_a_short_row_is_refused():
  with pytest.raises(ValueError, match="stage 9"):
    tables.ResultTable("t", (tables.Column("y"),), (("stage 9", ()),))


def test_paper_table_has_policies_by_budgets_and_no_empty_column():
  table = results.paper_table(samples.make_results())
  assert [label for label, _ in table.rows] == list(samples.POLICIES)
  titles = [column.title for column in table.columns]
  assert titles[0] == "16 tokens: accuracy"
  assert "144 tokens: noise drop" in titles
  assert not any("seconds" in title for title in titles)
  cells = dict(table.rows)["pretrained"]
  assert cells[titles.index("16 tokens: noise drop")] is None


@pytest.mark.parametrize("width", [40, 80, 300])
def test_a_narrow_terminal_loses_no_number(width):
  columns = tuple(
    tables.Column(f"c{i}", f"{16 + i // 4} tokens", scale=100) for i in range(8)
  )
  cells = tuple(statistics.Estimate(i / 10, 0.01, 0.99, 9) for i in range(8))
  table = tables.ResultTable("t", columns, (("policy", cells),), "caption")
  file = io.StringIO()
  rich.console.Console(file=file, width=width).print(table)
  shown = file.getvalue()
  for i in range(8):
    assert f"c{i}" in shown and f" {i * 10}.0" in shown
  assert shown.count("1.0 to 99.0") == 8
  assert max(map(len, shown.splitlines())) <= width
