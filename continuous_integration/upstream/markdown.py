"""A page of our documentation, as Markdown for the description of a pull request.

docutils reads the page; what is written here covers what our pages are made of, and
anything else stops with its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes
from docutils.core import publish_doctree
from docutils.parsers.rst import roles
from docutils.utils import SystemMessage

from continuous_integration.figures.pages import register
from continuous_integration.fork import ForkError

_SETTINGS = {
    "doctitle_xform": False,  # a single section is none of its own otherwise
    "halt_level": 2,  # warnings
    "report_level": 5,  # by the exception alone
    "syntax_highlight": "none",
    "input_encoding": "utf-8",
}


class Section(NamedTuple):
    """A section of a page.

    Parameters
    ----------
    title
        Its title
    text
        What it says, in Markdown
    """

    title: str
    text: str


def sections(page: Path) -> list[Section]:
    """Return the sections of a page of documentation; images stay out.

    Parameters
    ----------
    page
        Path of the page. Files that it includes are found from there.

    Raises
    ------
    ForkError
        If it cannot be read, or has something that this module does not know
    """
    # Sphinx's role for other pages of ours, which do not go with the description
    roles.register_local_role("doc", roles.GenericRole("doc", nodes.emphasis))
    register()
    try:
        tree = publish_doctree(
            page.read_text(encoding="utf-8"),
            source_path=str(page),
            settings_overrides=_SETTINGS,
        )
    except (OSError, SystemMessage) as error:
        raise ForkError(f"{page.name} cannot be read: {error}") from None
    try:
        return [
            Section(node[0].astext(), "\n\n".join(_blocks(node[1:])))
            for whole in tree.children
            if isinstance(whole, nodes.section)
            for node in whole.children
            if isinstance(node, nodes.section)
        ]
    except NotImplementedError as error:
        raise ForkError(f"{page.name}: no Markdown is known for {error}") from None


def _blocks(children: Any) -> Iterator[str]:
    for node in children:
        if isinstance(node, nodes.paragraph):
            yield _inline(node)
        elif isinstance(node, nodes.literal_block):
            language = next((c for c in node["classes"] if c != "code"), "")
            yield f"```{language}\n{node.astext()}\n```"
        elif isinstance(node, nodes.bullet_list):
            yield "\n".join(map(_item, node))
        elif isinstance(node, nodes.table):
            yield "\n".join(_table(node))
        elif isinstance(node, nodes.section):
            yield f"**{node[0].astext()}**"
            yield from _blocks(node[1:])
        elif not isinstance(node, (nodes.comment, nodes.image, nodes.target)):
            raise NotImplementedError(node.tagname)


def _item(item: Any) -> str:
    text = "\n\n".join(_blocks(item))
    return (
        "- " + "\n".join(f"  {line}" if line else "" for line in text.split("\n"))[2:]
    )


def _table(table: Any) -> Iterator[str]:
    head = True
    for row in table.findall(nodes.row):
        cells = [" ".join(_blocks(entry)).replace("|", r"\|") for entry in row]
        yield f"| {' | '.join(cells)} |"
        if head:
            yield "|" + "---|" * len(cells)
            head = False


def _inline(node: Any) -> str:
    return "".join(map(_span, node)).replace("\n", " ")


def _span(node: Any) -> str:
    text: str = node.astext()
    if isinstance(node, nodes.Text):
        return text
    if isinstance(node, nodes.literal):
        return f"`{text}`"
    if isinstance(node, nodes.emphasis):
        return f"*{text}*"
    if isinstance(node, nodes.strong):
        return f"**{text}**"
    if isinstance(node, nodes.reference):
        return f"[{text}]({node['refuri']})"
    if isinstance(node, nodes.target):
        return ""
    raise NotImplementedError(node.tagname)
