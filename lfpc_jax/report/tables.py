"""Result tables: one form for the terminal, Markdown and HTML."""

from collections.abc import Iterator, Sequence
import dataclasses
import math

import markupsafe
import rich.box
import rich.console
import rich.measure
import rich.table
import rich.text

from lfpc_jax.statistics import Estimate

_ABSENT = "—"


Cell = Estimate | float | str | None


@dataclasses.dataclass(frozen=True)
class Column:
  """How one column of numbers reads."""

  name: str
  group: str = ""
  """The heading it shares with its neighbours, such as a budget."""
  scale: float = 1.0
  """Factor before printing: 100 for a fraction shown in percent."""
  digits: int = 1
  better: str = ""
  """'high' or 'low' marks the best value; '' marks none."""

  @property
  def title(self) -> str:
    """The name with its group, for tables with one heading line."""
    return f"{self.group}: {self.name}" if self.group else self.name

  def text(self, cell: Cell) -> str:
    """The value alone, printed as this column wants it."""
    if cell is None:
      return _ABSENT
    if isinstance(cell, str):
      return cell
    value = _value(cell) * self.scale
    # "z": no minus before a zero.
    return f"{value:z.{self.digits}f}" if math.isfinite(value) else _ABSENT

  def interval(self, cell: Cell) -> str:
    """The confidence interval, or '' where the cell has none."""
    if not isinstance(cell, Estimate) or not all(map(math.isfinite, cell[:3])):
      return ""
    low, high = self.text(cell.low), self.text(cell.high)
    return f"{low} to {high}"


@dataclasses.dataclass(frozen=True)
class ResultTable:
  """Rows of a label and one cell per column."""

  title: str
  columns: tuple[Column, ...]
  rows: tuple[tuple[str, tuple[Cell, ...]], ...]
  caption: str = ""

  def __post_init__(self) -> None:
    for label, cells in self.rows:
      if len(cells) != len(self.columns):
        raise ValueError(
          f"Row {label!r} of table {self.title!r} has {len(cells)} cells for "
          f"{len(self.columns)} columns: give one cell per column, None "
          "where nothing was measured."
        )

  def best(self, index: int) -> str | None:
    """The printed form of column `index`'s best value; None if unmarked."""
    column = self.columns[index]
    values = [
      _value(cells[index])
      for _, cells in self.rows
      if isinstance(cells[index], (int, float, Estimate))
      and math.isfinite(_value(cells[index]))
    ]
    if not column.better or len(values) < 2:
      return None
    return column.text(max(values) if column.better == "high" else min(values))

  def __rich_console__(
    self, console: rich.console.Console, options: rich.console.ConsoleOptions
  ) -> Iterator[rich.console.RenderableType]:
    """Prints for a terminal; cells are text, never markup.

    What a narrow terminal has no room for goes into further tables below.
    """
    yield rich.text.Text(self.title, style="italic")
    rest = list(range(len(self.columns)))
    while rest:
      number = len(rest)
      while number > 1 and not self._fits(console, options, rest[:number]):
        number -= 1
      yield self._part(rest[:number])
      rest = rest[number:]
    if self.caption:
      yield rich.text.Text(self.caption, style="italic dim")

  def _fits(self, console, options, indices: Sequence[int]) -> bool:
    # A group (one budget's columns) is parted only if it must.
    groups = [column.group for column in self.columns] + [None]
    alone = len({groups[i] for i in indices}) == 1
    whole = alone or groups[indices[-1]] != groups[indices[-1] + 1]
    wide = options.update(width=10**4)
    part = self._part(indices)
    needed = rich.measure.Measurement.get(console, wide, part).maximum
    return whole and needed <= options.max_width

  def _part(self, indices: Sequence[int]) -> rich.table.Table:
    """Some of the columns."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    table.add_column("")
    for index in indices:
      column = self.columns[index]
      title = f"{column.group}\n{column.name}" if column.group else column.name
      table.add_column(rich.text.Text(title), justify="right", no_wrap=True)
    for label, cells in self.rows:
      texts = [rich.text.Text(label)]
      for index in indices:
        column, cell = self.columns[index], cells[index]
        best = column.text(cell) == self.best(index)
        text = rich.text.Text(column.text(cell), style="bold" if best else "")
        if column.interval(cell):
          text.append(f"\n{column.interval(cell)}", style="not bold dim")
        texts.append(text)
      table.add_row(*texts)
    return table

  def to_markdown(self) -> str:
    """The table as GitHub Markdown, with the title and the caption."""
    heads = ["", *(column.title for column in self.columns)]
    lines = [heads, ["---", *("---:" for _ in self.columns)]]
    for label, cells in self.rows:
      lines.append([label])
      for index, (column, cell) in enumerate(zip(self.columns, cells)):
        text = _markdown(column.text(cell))
        text = f"**{text}**" if text == self.best(index) else text
        interval = column.interval(cell)
        lines[-1].append(f"{text} [{interval}]" if interval else text)
    for line in (lines[0], *lines[2:]):
      line[0] = _markdown(line[0])
    lines[0] = [_markdown(head) for head in lines[0]]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    parts = [f"**{_markdown(self.title)}**", body, _markdown(self.caption)]
    return "\n\n".join(part for part in parts if part) + "\n"

  def to_html(self) -> markupsafe.Markup:
    """The cells as an HTML `<table>`; every text in it is escaped.

    Title and caption are left to the page, which sets them around it.
    """
    rows = markupsafe.Markup("").join(
      _tag("tr", _tag("th", label, scope="row") + self._html_cells(cells))
      for label, cells in self.rows
    )
    return _tag("table", _tag("thead", self._html_head()) + _tag("tbody", rows))

  def _html_cells(self, cells: Sequence[Cell]) -> markupsafe.Markup:
    html = markupsafe.Markup("")
    for index, (column, cell) in enumerate(zip(self.columns, cells)):
      best = column.text(cell) == self.best(index)
      text = _tag("b" if best else "span", column.text(cell))
      if column.interval(cell):
        text += _tag("small", column.interval(cell))
      html += _tag("td", text, **self._group_start(index))
    return html

  def _group_start(self, index: int) -> dict[str, str]:
    """Marks the first column of a group, for a rule on its left."""
    group = self.columns[index].group
    starts = index and group != self.columns[index - 1].group
    return {"class": "start"} if starts else {}

  def _html_head(self) -> markupsafe.Markup:
    names = markupsafe.Markup("").join(
      _tag("th", column.name, scope="col", **self._group_start(index))
      for index, column in enumerate(self.columns)
    )
    if not any(column.group for column in self.columns):
      return _tag("tr", _tag("td", "") + names)
    groups, spans = [], []
    for column in self.columns:
      if groups and groups[-1] == column.group:
        spans[-1] += 1
      else:
        groups.append(column.group)
        spans.append(1)
    heads = markupsafe.Markup("").join(
      _tag("th", group, scope="colgroup", colspan=span)
      for group, span in zip(groups, spans)
    )
    corner = _tag("td", "", rowspan=2)
    return _tag("tr", corner + heads, **{"class": "groups"}) + _tag("tr", names)


def _value(cell: Estimate | float) -> float:
  return cell.mean if isinstance(cell, Estimate) else float(cell)


def _markdown(text: str) -> str:
  """Escapes what would break a Markdown table cell or start HTML."""
  text = " ".join(text.split())
  text = text.replace("&", "&amp;").replace("<", "&lt;")
  return text.replace("|", "\\|")


def _tag(name: str, content: object, **attributes: object) -> markupsafe.Markup:
  """An HTML element; `content` and attribute values are escaped."""
  html = markupsafe.Markup("").join(
    markupsafe.Markup(' {}="{}"').format(key, value)
    for key, value in attributes.items()
  )
  return markupsafe.Markup("<{0}{1}>{2}</{0}>").format(name, html, content)
