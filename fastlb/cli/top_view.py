"""How `fastlb top` looks: one frame from an overview, what was before it, and what the user has chosen.

Pure. A frame has as many lines as the terminal, none wider. From above: the totals, the last minute, what
is wrong, the views' names, one table, the selected row in detail, a line for questions and outcomes, the
keys.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from fastlb.cli.top_detail import detail, others
from fastlb.cli.top_header import HEADER_LINES, WIDE, Sight, Trail, header
from fastlb.cli.top_tables import (
    DEFAULT_SORT,
    GROUPS,
    LEFT,
    STYLES,
    VIEWS,
    Column,
    Row,
    sorted_rows,
)
from fastlb.cli.wording import clean

LEAST_WIDTH, LEAST_HEIGHT = 60, 14
FOOTER_LINES = 2
LEAST_NAME = 12
MARK = "> "
KEYS = (
    ("tab", "view"),
    ("j k", "select"),
    ("s", "sort"),
    ("d", "drain"),
    ("u", "undrain"),
    ("+ -", "scale"),
    ("?", "help"),
    ("q", "quit"),
)
HELP = (
    ("1 2 3 4 5, tab", "groups, listeners, targets, instances, workers"),
    ("up down, j k", "select; also PgUp, PgDn, Home, End"),
    ("s, r", "sort by the next column; the other way round"),
    ("d, u", "drain the selected target, or the selected instance's; undrain"),
    ("+, -", "one instance more or fewer in the selected auto scaling group"),
    ("y, n", "answer a question; enter and escape do the same"),
    ("?", "this help"),
    ("q, Ctrl-C", "quit"),
)


def frame(
    overview: Row, trail: Trail, sight: Sight, width: int, height: int, ascii: bool = False
) -> list[Text]:
    """Exactly `height` lines."""
    if width < LEAST_WIDTH or height < LEAST_HEIGHT:
        said = f"fastlb top needs {LEAST_WIDTH}x{LEAST_HEIGHT}, this is {width}x{height}"
        return _fit([Text(said)], width, height)
    lines = header(overview, trail, sight, width, ascii)
    room = height - HEADER_LINES - FOOTER_LINES
    lines += _help() if sight.help else _body(overview, sight, width, room)
    lines = _fit(lines, width, height - FOOTER_LINES)
    lines = _fit([*lines, _message(sight), _keys(width)], width, height)
    return _in_ascii(lines) if ascii else lines


def plain_frame(
    overview: Row, trail: Trail, width: int | None, sort: str = "", ascii: bool = False
) -> list[Text]:
    """Everything once, for a pipe or a terminal that can do no more: all views, each row with its
    details where they say more."""
    room = width or 120
    lines = header(overview, trail, Sight(), room, ascii)[:-2]
    for view, default in zip(VIEWS, DEFAULT_SORT, strict=True):
        rows = sorted_rows(view, overview, sort or default, False)
        lines += [Text(), Text(view.title, "bold")]
        if not rows:
            lines.append(Text(f"{' ' * len(MARK)}none", "dim"))
            continue
        lines += _table(rows, view.columns, room, None, wide=width is None or room >= WIDE)
    scaled = others(GROUPS, VIEWS[GROUPS].rows(overview), width)
    lines += [Text(), *scaled] if scaled else []
    for line in lines:
        line.rstrip()
    return _in_ascii(lines) if ascii else lines


# -- the body


def _body(overview: Row, sight: Sight, width: int, room: int) -> list[Text]:
    view = VIEWS[sight.view]
    rows = sorted_rows(view, overview, sight.sort, sight.backwards)
    if not rows:
        return [Text(f"no {view.title.lower()}", "yellow")]
    at = position(rows, sight)
    about = detail(sight.view, rows[at], overview, width)
    about += others(sight.view, rows[:at] + rows[at + 1 :], width)
    below = min(len(about), max(room // 3, room - 2 - len(rows)))
    shown = max(room - below - 2, 1)  # the heads and the rule
    first = _first(at, len(rows), shown)
    page = rows[first : first + shown]
    lines = _table(page, view.columns, width, at - first, wide=width >= WIDE)
    lines += [Text()] * (shown - len(page))
    hidden = len(rows) - len(page)
    more = f" {first + 1}-{first + len(page)} of {len(rows)} " if hidden else ""
    lines.append(Text(more.rjust(width), "dim"))
    return lines + [one.copy() for one in about[:below]]


def position(rows: Sequence[Row], sight: Sight) -> int:
    """Where the selected row is; the first one where it is gone."""
    name = VIEWS[sight.view].name
    return next((n for n, row in enumerate(rows) if name(row) == sight.selected), 0)


def _first(at: int, count: int, shown: int) -> int:
    """The first row of the page, so that the selected one has others around it."""
    return max(0, min(at - shown // 2, count - shown))


def _table(
    rows: Sequence[Row],
    columns: Sequence[Column],
    width: int,
    selected: int | None,
    wide: bool,
) -> list[Text]:
    """Heads and rows. The first column gives way where there is no room; the last one is cut."""
    used = [
        one for one in columns if (wide or not one.wide) and any(one.known(row) for row in rows)
    ]
    cells = [[column.cell(row) for column in used] for row in rows]
    widths = [
        max(len(column.head), *(len(row[n]) for row in cells)) for n, column in enumerate(used)
    ]
    others = sum(widths[1:]) + 2 * (len(used) - 1) + len(MARK)
    if others + widths[0] > width:
        if used[-1].key == "reason":  # of a long one the beginning says most
            cut = min(others + widths[0] - width, max(widths[-1] - 20, 0))
            widths[-1] -= cut
            others -= cut
        widths[0] = max(min(widths[0], width - others), LEAST_NAME)

    def line(row: Sequence[str], mark: str, style: str | None) -> Text:
        made = Text(mark)
        for n, (column, text) in enumerate(zip(used, row, strict=True)):
            if len(text) > widths[n]:
                text = _shortened(text, widths[n]) if n == 0 else text[: widths[n] - 1] + "…"
            text = text.ljust(widths[n]) if column.key in LEFT else text.rjust(widths[n])
            made.append(f"{'  ' if n else ''}")
            made.append(text, style or STYLES.get(text.strip()))
        return made

    blank = " " * len(MARK)
    lines = [line([column.head for column in used], blank, "dim")]
    for n, row in enumerate(cells):
        made = line(row, MARK if n == selected else blank, None)
        if n == selected:
            made.append(" " * (width - len(made)))
            made.stylize("reverse")
        lines.append(made)
    return lines


def _shortened(text: str, width: int) -> str:
    """The end of an address says more than its middle."""
    before = (width - 1) // 3
    return f"{text[:before]}…{text[len(text) - (width - 1 - before) :]}"


def _help() -> list[Text]:
    width = max(len(keys) for keys, _ in HELP)
    lines = [Text(), Text("Keys", "bold")]
    lines += [Text.assemble((f"  {keys:{width}}", "bold"), f"  {what}") for keys, what in HELP]
    return lines


# -- the footer


def _message(sight: Sight) -> Text:
    if sight.question:
        return Text(f"{sight.question}  [y/n]", "bold yellow")
    if sight.lost:
        return Text(f"no connection, trying again: {clean(sight.lost)}", "bold red")
    return Text(clean(sight.said), "bold red" if sight.failed else "green")


def _keys(width: int) -> Text:
    line = Text()
    for key, what in KEYS:
        line.append(f"{key}", "bold")
        line.append(f" {what}  ", "dim")
    return line


def _fit(lines: list[Text], width: int, height: int) -> list[Text]:
    """So many lines, none wider."""
    fitted = [*lines[:height], *(Text() for _ in range(height - len(lines)))]
    for line in fitted:
        line.truncate(width)
        line.no_wrap = True
    return fitted


def _in_ascii(lines: list[Text]) -> list[Text]:
    """For a terminal that has nothing else: letter by letter, so that all stays in its place."""
    for line in lines:
        line.plain = line.plain.replace("…", "~").encode("ascii", "replace").decode("ascii")
    return lines
