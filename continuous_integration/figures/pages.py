"""Figures in pages: a role and a directive for reStructuredText, regions of Markdown.

Pages of documentation say ``:figure:`NAME.FIGURE``` for a single figure, and
``.. figures:: NAME`` for all of a file: the command, a note, the table and pictures. In
Markdown, which is read as it is, figures stand between comments. No line begins with a
single one, since all of the line would be HTML::

    ... takes <!--figure NAME.FIGURE-->6<!--/figure--> lines

    <!--figures NAME-->
    ...
    <!--/figures-->
"""

from __future__ import annotations

import csv
import io
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from continuous_integration.figures.files import (
    ROOT,
    Cell,
    Figures,
    path_of,
    read,
    readable,
)
from continuous_integration.fork import ForkError

SPAN = re.compile(r"(<!--figure (\S+?)-->)(.*?)(<!--/figure-->)", re.DOTALL)
REGION = re.compile(r"(<!--figures (\S+?)-->\n)(.*?)(<!--/figures-->)", re.DOTALL)
ROLE = re.compile(r"(?<!`):figure:`([^`]+)`(?!`)")
DIRECTIVE = re.compile(r"^\.\. figures:: (\S+)$", re.MULTILINE)


def figure(reference: str, root: Path = ROOT) -> str:
    """Return a single figure.

    Parameters
    ----------
    reference
        Name of the file, a dot, and name of the figure.
    root
        Folder of the project.

    Raises
    ------
    ForkError
        If there is none.
    """
    name, _, which = reference.partition(".")
    return read(name, root).text(which)


def markdown(text: str, root: Path = ROOT) -> str:
    """Return a page of Markdown with its figures as the files have them.

    Parameters
    ----------
    text
        The page.
    root
        Folder of the project.

    Raises
    ------
    ForkError
        If a figure is missing.
    """
    text = SPAN.sub(lambda m: m[1] + figure(m[2], root) + m[4], text)
    return REGION.sub(lambda m: m[1] + _markdown_table(read(m[2], root)) + m[4], text)


def _markdown_table(figures: Figures) -> str:
    rows = [figures.head, *figures.rows]
    lines = [f"| {' | '.join(map(_markdown_cell, row))} |" for row in rows]
    lines.insert(1, "|" + "---|" * len(figures.head))
    table = "\n".join(lines)
    source = f"{figures.source} Command: `{figures.command}`."
    return "\n\n".join(filter(None, [figures.note, table, source])) + "\n"


def _markdown_cell(cell: Cell) -> str:
    return readable(cell).replace("|", r"\|")


def used(text: str, is_markdown: bool) -> tuple[set[str], set[str]]:
    """Return the names of the files that a page shows, and its single figures.

    Parameters
    ----------
    text
        The page.
    is_markdown
        Whether it is Markdown, and not reStructuredText.
    """
    if is_markdown:
        shown = {match[2] for match in REGION.finditer(text)}
        return shown, {match[2] for match in SPAN.finditer(text)}
    return set(DIRECTIVE.findall(text)), set(ROLE.findall(text))


def rst(figures: Figures, with_table: bool = True) -> Iterator[str]:
    """Yield the lines of reStructuredText that show a file.

    Parameters
    ----------
    figures
        What it holds.
    with_table
        Whether to show its table.
    """
    yield from (".. code-block:: sh", "")
    command = textwrap.wrap(
        figures.command, 96, break_long_words=False, break_on_hyphens=False
    )
    for n, line in enumerate(command):
        end = " \\" if n + 1 < len(command) else ""
        yield f"   {'    ' if n else ''}{line}{end}"
    yield from ("", f"{figures.note} {figures.source}".strip(), "")
    if figures.rows and with_table:
        yield from (".. csv-table::", "   :header-rows: 1", "   :class: small", "")
        for row in [figures.head, *figures.rows]:
            cells = io.StringIO()
            csv.writer(cells, lineterminator="").writerow(map(readable, row))
            yield f"   {cells.getvalue()}"
        yield ""
    for picture in figures.pictures:
        yield from (f".. image:: figures/{picture}", "")


def register() -> None:
    """Let docutils, and so Sphinx, know the role and the directive."""
    from docutils import nodes
    from docutils.parsers.rst import Directive, directives, roles
    from docutils.statemachine import StringList

    def depend(document: Any, name: str) -> None:
        # So that a page is made anew when the file changes
        document.settings.record_dependencies.add(str(path_of(name)))

    class FiguresDirective(Directive):  # type: ignore[misc]
        """Shows a file of figures."""

        required_arguments = 1
        option_spec = {"no-table": directives.flag}

        def run(self) -> list[Any]:
            depend(self.state.document, self.arguments[0])
            try:
                figures = read(self.arguments[0])
            except ForkError as error:
                raise self.error(str(error)) from None
            node = nodes.container()
            lines = list(rst(figures, "no-table" not in self.options))
            self.state.nested_parse(StringList(lines, "figures"), 0, node)
            return list(node.children)

    def role(
        name: str, rawtext: str, text: str, lineno: int, inliner: Any, *args: Any
    ) -> tuple[list[Any], list[Any]]:
        depend(inliner.document, text.partition(".")[0])
        try:
            return [nodes.Text(figure(text))], []
        except ForkError as error:
            message = inliner.reporter.error(str(error), line=lineno)
            return [inliner.problematic(rawtext, rawtext, message)], [message]

    directives.register_directive("figures", FiguresDirective)
    roles.register_local_role("figure", role)
