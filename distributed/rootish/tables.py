"""Tables of task groups, for terminals and for notebooks."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable, Sequence

#: Rows of a table that are not folded in a notebook
UNFOLDED = 20


def text_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Collection[int]
) -> str:
    """Lay a table out for a terminal.

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
    table = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*table)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if n in numbers else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in table
    )


def html_table(
    summary: Iterable[str], head: Sequence[str], rows: Sequence[Sequence[str]]
) -> str:
    """Lay a table out for a notebook, whatever characters keys are made of.

    Parameters
    ----------
    summary
        Lines above the table.
    head
        Titles of the columns.
    rows
        A cell for each column. All but the first :data:`UNFOLDED` rows are folded.

    Returns
    -------
    str
        HTML.
    """
    text = f"<p>{'<br>'.join(map(html.escape, summary))}</p>"
    text += _html_rows(head, rows[:UNFOLDED])
    if rest := rows[UNFOLDED:]:
        text += (
            f"<details><summary>{len(rest)} more groups</summary>"
            f"{_html_rows(head, rest)}</details>"
        )
    return text


def _html_rows(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"
