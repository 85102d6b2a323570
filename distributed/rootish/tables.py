"""Names and tables for people: in terminals, notebooks and logs, on the dashboard.

What a user calls a task can be anything: a tuple, five thousand characters, an escape
sequence. Here it becomes something that can be printed, with a bound on its length.
Task groups of one name that were judged alike make one row, which can be unfolded; what
is left out is counted. All of it is in ``to_dict()`` of what is shown.

Beside each reason stands what to do about it, and where the documentation says more.
"""

from __future__ import annotations

import functools
import html
import importlib.metadata
import json
import shutil
import unicodedata
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar, overload
from urllib.parse import urlsplit

from dask.utils import format_bytes

T = TypeVar("T")

#: Rows of a table that are shown until it is unfolded
UNFOLDED = 20

#: Further rows that can be unfolded in a notebook, and parts of a row
MORE_ROWS = 40
MORE_PARTS = 5

#: Width of what is printed where there is no terminal, and the least, in columns
WIDTH = 120
LEAST_WIDTH = 50

#: Room for a name: in a notebook or on a page, among other names in a sentence, in a
#: tooltip, in a sentence, for which other columns of a terminal make room, and the
#: least; in columns of a terminal
NAME = 48
SHORT_NAME = 30
TOOLTIP = 160
IN_A_SENTENCE = 80
ENOUGH_FOR_NAMES = 30
LEAST_NAME = 12

#: Lines below a table in which reasons are explained, at most
LINES = 18

_CUT = "..."


# -- Names ---------------------------------------------------------------------------


def plain_name(name: object) -> str:
    """Return the name of a group or prefix as text that can be sent and stored.

    Parameters
    ----------
    name
        Such as ``TaskGroup.name``. It can be any part of a key: a number, a tuple, text
        with halves of surrogate pairs, which cannot be encoded.
    """
    text = name if isinstance(name, str) else repr(name)
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode()


def printable(text: str) -> str:
    """Escape what cannot be printed, or would do more than print.

    Parameters
    ----------
    text
        Anything, such as control characters, line ends, marks that change the direction
        of writing, or halves of surrogate pairs.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text
    )


def shorten(text: str, width: int) -> str:
    """Make text printable, and cut it in the middle if it is too long.

    The beginning of a name tells what it is, and the end tells it from others.

    Parameters
    ----------
    text
        Anything.
    width
        Columns of a terminal that there are for it.
    """
    # What is far too long need not be looked at in full
    if len(text) > 2 * width:
        text = text[:width] + text[-width:]
        cut = True
    else:
        cut = False
    text = printable(text)
    if not cut and columns_of(text) <= width:
        return text
    room = max(width - len(_CUT), 0)
    end = _first_columns(text[::-1], room // 2)[::-1]
    return _first_columns(text, room - room // 2) + _CUT[: max(width, 0)] + end


def columns_of(text: str) -> int:
    """Return how many columns of a terminal text takes.

    Parameters
    ----------
    text
        It can be printed.
    """
    return len(text) if text.isascii() else sum(map(_columns_of_char, text))


def _columns_of_char(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _first_columns(text: str, width: int) -> str:
    """Return the beginning that takes up to this many columns."""
    end = 0
    for char in text:
        width -= _columns_of_char(char)
        if width < 0:
            break
        end += 1
    return text[:end]


def some_names(names: Iterable[str]) -> str:
    """Return names as text, each once, and not too many of them.

    Parameters
    ----------
    names
        Anything.
    """
    different = list(dict.fromkeys(names))
    more = f" and {len(different) - 3:,d} more" if len(different) > 3 else ""
    return ", ".join(shorten(name, SHORT_NAME) for name in different[:3]) + more


def yes_or_no(rootish: bool | None) -> str:
    """Return whether a group is root-ish, as a word.

    Parameters
    ----------
    rootish
        None if it is not decided.
    """
    return "?" if rootish is None else "yes" if rootish else "no"


def size(nbytes: float | None) -> str:
    """Return a number of bytes as text, ``?`` if it is not known.

    Parameters
    ----------
    nbytes
        The number, or None.
    """
    return "?" if nbytes is None else format_bytes(round(nbytes))


# -- What to do ----------------------------------------------------------------------


class Advice(NamedTuple):
    """What to do where a group was judged for some reason.

    Attributes
    ----------
    text
        What to change, in a sentence or two.
    section
        Title of a section of the page "How do I ...?" of the documentation.
    """

    text: str
    section: str

    def __str__(self) -> str:
        return f"{self.text} See {link_to(self.section)}"


#: Sections of the page "How do I ...?"
WHY = "Why did my cluster load everything?"
SETTINGS = "Which setting do I change?"
STAGES = "How do I stage a computation that does not fit?"
POOLS = "How do I load on one pool of workers, and compute on another?"

#: For what is held back as it should be
_IN_MEMORY = (
    "Nothing to change, unless far more is in memory than is allowed: then something "
    "keeps it. Compute what is small first, and go through the data again."
)
_PLACED = "Nothing to change: it does not load."

#: Name of a reason -> what to do. See :class:`distributed.rootish.Verdict`.
ADVICE: dict[str, Advice] = {
    "producer": Advice(_IN_MEMORY, STAGES),
    "beside": Advice(
        "If workers idle beside those that hold its inputs, scatter what all of it "
        "needs with `broadcast=True`.",
        SETTINGS,
    ),
    "consumer": Advice(
        "Normal for what consumes chunks. If it loads, let it depend on paths or "
        "opened files rather than on data, and scatter what all of it needs with "
        "`broadcast=True`.",
        SETTINGS,
    ),
    "few": Advice(
        "Holding back so few tasks changes nothing. If they load too much, load "
        "smaller chunks.",
        SETTINGS,
    ),
    "stand-in": Advice(_PLACED, SETTINGS),
    "placed": Advice(
        "If it loads, submit it together with what consumes it, so that the scheduler "
        "knows from the start that its output is needed, and leave "
        "`distributed.scheduler.rootish-co-assignment` on. Actors are never held back.",
        POOLS,
    ),
    "counted": Advice(_IN_MEMORY, STAGES),
    "not-counted": Advice(
        "If it loads, set `distributed.scheduler.rootish-policy` to `producers`, or "
        "raise `distributed.scheduler.rootish-taskgroup` and "
        "`rootish-taskgroup-dependencies` above the number of its dependencies.",
        SETTINGS,
    ),
}

#: Where nothing at all is held back
NO_QUEUE = Advice(
    "Nothing is queued: set `distributed.scheduler.worker-saturation` to 1.1.", SETTINGS
)


def advice_on(reason: str | None, queue: bool = True) -> Advice | None:
    """Return what to do where a group was judged for a reason.

    Parameters
    ----------
    reason
        Name of the reason. A scheduler of another version may have others.
    queue
        Whether what is root-ish is held back. It is not if the settings turn queuing
        off.
    """
    advice = ADVICE.get(reason or "")
    if advice and not queue and advice.text == _IN_MEMORY:
        return NO_QUEUE
    return advice


def link_to(section: str) -> str:
    """Return where a section of the page "How do I ...?" is.

    Parameters
    ----------
    section
        Its title.

    Returns
    -------
    str
        A link, if this was installed from a repository that is on the web; otherwise
        the file of the repository, which is no address.
    """
    anchor = "".join(c if c.isalnum() else " " for c in section.lower()).split()
    return f"{_documentation()}howto.rst#{'-'.join(anchor)}"


@functools.cache
def _documentation() -> str:
    """Return where the documentation of what is installed is."""
    try:
        text = importlib.metadata.distribution("distributed").read_text(
            "direct_url.json"
        )
        origin = json.loads(text or "{}")
        url = urlsplit(origin["url"])
        commit = origin["vcs_info"]["commit_id"]
    except (importlib.metadata.PackageNotFoundError, KeyError, TypeError, ValueError):
        return "docs/"
    # Without the name and password that it may have been fetched with
    if url.scheme not in ("http", "https") or not url.hostname:
        return "docs/"
    host = url.netloc.rpartition("@")[2]
    path = url.path.rstrip("/").removesuffix(".git")
    return f"{url.scheme}://{host}{path}/blob/{commit}/docs/"


# -- Tables --------------------------------------------------------------------------


def text_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Collection[int]
) -> str:
    """Lay a small table out as it is, without regard to the width of the terminal.

    Parameters
    ----------
    head
        Titles of the columns.
    rows
        A cell for each column. The last may be a sentence.
    numbers
        Indices of the columns that are numbers; they are aligned on the right.

    Returns
    -------
    str
        A line for the titles and one for each row.
    """
    table = [head, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(columns_of, column)) for column in zip(*table)]
    return "\n".join(
        "  ".join(
            _pad(cell, width, left=n in numbers)
            for n, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in table
    )


class Column(NamedTuple):
    """A column of a table.

    Attributes
    ----------
    title
        What is above it.
    number
        Whether it is one of numbers; these are aligned on the right.
    spare
        It is left out of a terminal that is too narrow, the largest number first. Those
        with 0 never are.
    """

    title: str
    number: bool = False
    spare: int = 0


@dataclass(frozen=True)
class Row:
    """A row of a table: a task group, or several in one.

    Attributes
    ----------
    name
        What it is about, in the first column. Anything.
    cells
        What is in the other columns.
    size
        Rows are sorted by it, the largest first.
    reason
        Name of the reason of its verdict, if there is one.
    explanation
        The reason as a sentence.
    parts
        Rows that it was made of.
    number
        Of how many it was made.
    """

    name: str
    cells: Sequence[str]
    size: tuple[float, ...] = ()
    reason: str | None = None
    explanation: str | None = None
    parts: Sequence[Row] = ()
    number: int = 1


def fold(
    items: Iterable[T],
    alike: Callable[[T], Hashable],
    row: Callable[[Sequence[T]], Row],
    name: Callable[[T], str],
) -> list[Row]:
    """Make one row of all items that are alike.

    Parameters
    ----------
    items
        What the table is about.
    alike
        Returns the same for those that belong into one row.
    row
        Makes a row of some of them.
    name
        Returns what tells an item from others in its row.

    Returns
    -------
    list of Row
        The largest first. Those of several items have these as parts.
    """
    together: dict[Hashable, list[T]] = {}
    for item in items:
        together.setdefault(alike(item), []).append(item)
    rows = []
    for members in together.values():
        whole = row(members)
        if len(members) > 1:
            parts = _Parts(members, row, name)
            whole = replace(whole, parts=parts, number=len(members))
        rows.append(whole)
    return sorted(rows, key=_size, reverse=True)


def _size(row: Row) -> tuple[float, ...]:
    return row.size


class _Parts(Sequence[Row]):
    """Rows that are made when somebody looks at them."""

    def __init__(
        self,
        members: Sequence[Any],
        row: Callable[[Sequence[Any]], Row],
        name: Callable[[Any], str],
    ):
        self._members = members
        self._row = row
        self._name = name

    def __len__(self) -> int:
        return len(self._members)

    @functools.cached_property
    def _rows(self) -> list[Row]:
        rows = [
            replace(self._row([member]), name=self._name(member))
            for member in self._members
        ]
        return sorted(rows, key=_size, reverse=True)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        return self._rows[index]


@dataclass(frozen=True)
class Table:
    """A table for people.

    Attributes
    ----------
    summary
        Sentences above it.
    columns
        The first is the name.
    rows
        In the order in which they are shown.
    noun
        What a row that was not folded is.
    queue
        Whether what is root-ish is held back.
    """

    summary: Sequence[str]
    columns: Sequence[Column]
    rows: Sequence[Row]
    noun: str = "groups"
    queue: bool = True

    def to_text(self, width: int | None = None, unfold: bool = False) -> str:
        """Lay it out for a terminal.

        Parameters
        ----------
        width
            Of the terminal, in columns; its own if it is not given.
        unfold
            Whether to show all rows, and what they are made of.
        """
        if width is None:
            width = shutil.get_terminal_size((WIDTH, 24)).columns
        width = max(width, LEAST_WIDTH)
        lines = [line for text in self.summary for line in _wrap(text, width)]
        rows = self.rows if unfold else self.rows[:UNFOLDED]
        if rows:
            lines.append("")
            lines += self._lines(list(_unfolded(rows) if unfold else rows), width)
        if left_out := len(self.rows) - len(rows):
            lines.append(f"{_CUT} and {left_out:,d} more rows")
        if explained := self._explained(rows, width, None if unfold else LINES):
            lines += ["", *explained]
        return "\n".join(lines)

    def _lines(self, rows: Sequence[Row], width: int) -> Iterator[str]:
        """Yield the titles and the rows."""
        columns = self.columns[1:]
        cells = [[column.title for column in columns]]
        cells += [[printable(cell) for cell in row.cells] for row in rows]
        widths = [max(map(columns_of, column)) for column in zip(*cells)]
        shown = list(range(len(columns)))
        title = self.columns[0].title
        longest = max(columns_of(self._name(row, NAME)) for row in rows)
        longest = max(longest, columns_of(title))
        least = min(longest, ENOUGH_FOR_NAMES)
        for spare in sorted({column.spare for column in columns} - {0}, reverse=True):
            if sum(widths[n] + 2 for n in shown) + least > width:
                shown = [n for n in shown if columns[n].spare != spare]
        # What is last may be long, and is cut before the name is
        room = width - sum(widths[n] + 2 for n in shown)
        if room < LEAST_NAME and not columns[shown[-1]].number:
            last = shown[-1]
            widths[last] = max(widths[last] - LEAST_NAME + room, LEAST_NAME)
            room = width - sum(widths[n] + 2 for n in shown)
        room = max(min(longest, room), LEAST_NAME)
        names = [title, *(self._name(row, room) for row in rows)]
        for name, row in zip(names, cells):
            line = _pad(name, room)
            for n in shown:
                cell = shorten(row[n], widths[n])
                line += "  " + _pad(cell, widths[n], left=columns[n].number)
            yield line.rstrip()

    def _name(self, row: Row, width: int) -> str:
        """Return the name, and of how many it is made."""
        if row.number == 1:
            return shorten(row.name, width)
        number = f" ({row.number:,d} {self.noun})"
        if len(number) + min(len(row.name), LEAST_NAME) > width:
            number = f" ({row.number:,d})"
        return shorten(row.name, width - len(number)) + number

    def _explained(
        self, rows: Iterable[Row], width: int, room: int | None
    ) -> list[str]:
        """Return what the reasons are that occur, and what to do, as lines.

        Those of the first rows, where there is no room for all.
        """
        reasons: dict[str, Row] = {}
        for row in rows:
            if row.reason is not None:
                reasons.setdefault(row.reason, row)
        indent = max((len(printable(reason)) for reason in reasons), default=0) + 2
        sections: dict[str, None] = {}
        lines: list[str] = []
        before = None
        for reason, row in reasons.items():
            advice = advice_on(reason, self.queue)
            text = row.explanation or ""
            if advice:
                # Not the same again and again
                text += f" {advice.text if advice != before else 'Likewise.'}"
            new = _wrap(text, width, printable(reason).ljust(indent))
            if room is not None and lines and len(lines) + len(new) > room:
                break
            lines += new
            if advice:
                before = advice
                sections[advice.section] = None
        return lines + [f"See {link_to(section)}" for section in sections]

    def to_html(self) -> str:
        """Lay it out for a notebook."""
        summary = "<br>".join(
            html.escape(shorten(line, 10 * IN_A_SENTENCE)) for line in self.summary
        )
        text = f"<p>{summary}</p>" + self._html_rows(self.rows[:UNFOLDED])
        if rest := self.rows[UNFOLDED:]:
            shown = rest[:MORE_ROWS]
            more = f"{len(rest):,d} more rows"
            if len(rest) > len(shown):
                more += f", {len(shown)} of them here"
            text += (
                f"<details><summary>{more}</summary>{self._html_rows(shown)}</details>"
            )
        return text + self._html_explained()

    def _html_rows(self, rows: Sequence[Row]) -> str:
        if not rows:
            return ""
        titles = "".join(
            f"<th style='{_align(column)}'>{html.escape(column.title)}</th>"
            for column in self.columns
        )
        body = "".join(map(self._html_row, rows))
        return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"

    def _html_row(self, row: Row) -> str:
        cells = [f"<td style='{_align(self.columns[0])}'>{self._html_name(row)}</td>"]
        for n, cell in enumerate(row.cells, start=1):
            text = html.escape(shorten(cell, NAME))
            if cell == row.reason and row.explanation:
                tip = html.escape(shorten(row.explanation, TOOLTIP))
                text = f"<span title='{tip}'>{text}</span>"
            cells.append(f"<td style='{_align(self.columns[n])}'>{text}</td>")
        return f"<tr>{''.join(cells)}</tr>"

    def _html_name(self, row: Row) -> str:
        name = _html_code(row.name)
        if row.number > 1:
            name += f" ({row.number:,d} {self.noun})"
        if not row.parts:
            return name
        parts = "".join(
            f"<br>{_html_code(part.name)}" for part in row.parts[:MORE_PARTS]
        )
        if (left_out := len(row.parts) - MORE_PARTS) > 0:
            parts += f"<br>and {left_out:,d} more"
        return f"<details><summary>{name}</summary>{parts}</details>"

    def _html_explained(self) -> str:
        """Return what the reasons are that occur in the first rows, and what to do."""
        reasons: dict[str, Row] = {}
        for row in self.rows[:UNFOLDED]:
            if row.reason is not None:
                reasons.setdefault(row.reason, row)
        lines = []
        for reason, row in reasons.items():
            text = f"<b>{html.escape(printable(reason))}</b>: "
            text += html.escape(shorten(row.explanation or "", 10 * IN_A_SENTENCE))
            if advice := advice_on(reason, self.queue):
                text += f" {html_advice(advice)}"
            lines.append(text)
        return f"<p><small>{'<br>'.join(lines)}</small></p>" if lines else ""


def html_advice(advice: Advice) -> str:
    """Return what to do as HTML, with a link if there is an address.

    Parameters
    ----------
    advice
        What to do.
    """
    where = link_to(advice.section)
    section = html.escape(advice.section)
    if "://" in where:
        section = f"<a href='{html.escape(where)}' target='_blank'>{section}</a>"
    else:
        # No address: the file in the repository
        section = f"<i>{section}</i> ({html.escape(where.partition('#')[0])})"
    return f"{html.escape(advice.text)} See {section}"


def _html_code(name: str) -> str:
    """Return a name as HTML, with more of it if one points at it."""
    short = html.escape(shorten(name, NAME))
    if columns_of(short) == len(name):
        return f"<code>{short}</code>"
    return f"<code title='{html.escape(shorten(name, TOOLTIP))}'>{short}</code>"


def _align(column: Column) -> str:
    side = "right" if column.number else "left"
    return f"text-align: {side}; white-space: nowrap"


def _unfolded(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield rows, each with its parts below it."""
    for row in rows:
        yield row
        for part in row.parts:
            yield replace(part, name=f"  {part.name}")


def _pad(text: str, width: int, left: bool = False) -> str:
    space = " " * (width - columns_of(text))
    return space + text if left else text + space


def _wrap(text: str, width: int, first: str = "") -> list[str]:
    """Break a sentence into lines; words that are longer are cut."""
    indent = " " * len(first)
    lines, line, new = [], first, True
    for word in printable(text).split(" "):
        word = shorten(word, width - len(indent))
        if not new and columns_of(line) + 1 + columns_of(word) > width:
            lines.append(line)
            line, new = indent, True
        line += word if new else f" {word}"
        new = False
    return [*lines, line]
