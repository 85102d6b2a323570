"""A page of upstream's documentation + a partial page of ours -> its new text.

A partial page holds nothing but text of ours. Each piece of it says where it goes, in a
comment of reStructuredText::

    .. section: Title of a section
       replaces: 0123abcd 4567cdef
       which: the two paragraphs on apples

    What is to be read there instead.

``replaces`` gives the paragraphs that are replaced, ``after`` the one that the text
goes behind; with neither, it goes to the end of the section, before its first
subsection. Paragraphs are named by a hash of their words, so that a page which says
something else than what was read stops the merge. ``which`` says for people what they
are about. An item of a list is a paragraph.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from continuous_integration.fork import ForkError

_LABEL = re.compile(r"\.\. _[^:]+:$")
_ITEM = re.compile(r"\s*([*+-]|\w{1,2}\.)\s")
_UNDERLINE = re.compile(r"([^\w\s])\1{3,}$")
_KEYS = ("replaces", "after", "which")


class Piece(NamedTuple):
    """A piece of a partial page.

    Parameters
    ----------
    section
        Title of the section that it goes into
    how
        ``replaces``, ``after``, or empty for the end of the section
    paragraphs
        Fingerprints of those that it replaces, or of the one that it follows
    which
        What these are about
    lines
        Its text
    """

    section: str
    how: str
    paragraphs: tuple[str, ...]
    which: str
    lines: list[str]


class Paragraph(NamedTuple):
    """A paragraph of a page: lines from `first` up to, but without, `until`."""

    first: int
    until: int
    words: str

    @property
    def fingerprint(self) -> str:
        """A short hash of its words; how they are wrapped does not matter."""
        return hashlib.sha256(self.words.encode()).hexdigest()[:8]


def read_pieces(text: str, path: str) -> list[Piece]:
    """Take a partial page apart.

    Parameters
    ----------
    text
        Of the partial page
    path
        For messages

    Raises
    ------
    ForkError
        If a piece does not say properly where it goes
    """
    pieces = []
    _, *parts = re.split(r"^\.\. section:", text, flags=re.MULTILINE)
    for part in parts:
        title, *lines = part.strip().split("\n")
        section = title.strip()
        head: dict[str, str] = {}
        while lines and lines[0].startswith(" "):
            key, _, value = lines.pop(0).partition(":")
            head[key.strip()] = value.strip()
        hows = [key for key in ("replaces", "after") if key in head]
        how = hows[0] if hows else ""
        paragraphs = tuple(head.get(how, "").split())
        fits = {"replaces": paragraphs, "after": len(paragraphs) == 1, "": True}[how]
        if set(head) - set(_KEYS) or len(hows) > 1 or not fits:
            raise ForkError(
                f"{path}: {section}: needs `replaces`, with paragraphs, or `after`, "
                "with one, or neither; and `which`"
            )
        if bool(how) != bool(head.get("which")):
            raise ForkError(f"{path}: {section}: say `which` paragraphs these are")
        while lines and not lines[0].strip():
            lines.pop(0)
        if not lines:
            raise ForkError(f"{path}: {section}: has no text")
        pieces.append(Piece(section, how, paragraphs, head.get("which", ""), lines))
    if not pieces:
        raise ForkError(f"{path}: says of no text where it goes")
    return pieces


def bring_up_to_date(path: str, page: str, part: Path) -> str:
    """Bring a page up to date with a partial page that is a file.

    Parameters
    ----------
    path
        Of the page, for messages
    page
        Its text
    part
        The partial page

    Raises
    ------
    ForkError
        If the part is not in order, or does not fit the page
    """
    return merge_page(
        path, page, read_pieces(part.read_text(encoding="utf-8"), part.name)
    )


def merge_page(path: str, page: str, pieces: Sequence[Piece]) -> str:
    """Bring a page up to date.

    Parameters
    ----------
    path
        Of the page, for messages
    page
        Its text
    pieces
        What to put into it, see :func:`read_pieces`

    Returns
    -------
    str
        Its new text

    Raises
    ------
    ForkError
        If one of the places is gone, naming it and what is there now
    """
    lines = page.split("\n")
    edits: list[tuple[int, int, list[str]]] = []
    for piece in pieces:
        found = [s for title, s in _sections(lines) if title == piece.section]
        if len(found) != 1:
            raise ForkError(
                f'{path}: has {len(found) or "no"} sections "{piece.section}"; see '
                "where that text of ours belongs now"
            )
        edits.append(_edit(path, piece, list(_paragraphs(lines, *found[0])), lines))
    result = list(lines)
    until = len(lines) + 1
    # From the end, so that the positions before it stay what they are; what goes to
    # one place keeps its order
    for number, (first, last, new) in sorted(
        enumerate(edits), key=lambda e: (e[1][0], e[0]), reverse=True
    ):
        if last > until:
            raise ForkError(
                f'{path}: section "{pieces[number].section}": '
                f"{pieces[number].which} is replaced twice"
            )
        result[first:last] = new
        until = first
    return "\n".join(result)


def _edit(
    path: str, piece: Piece, paragraphs: list[Paragraph], lines: list[str]
) -> tuple[int, int, list[str]]:
    """Return which lines to replace, and what with."""
    if not piece.how:
        ends = [p.until for p in paragraphs if not _LABEL.match(p.words)]
        if not ends:
            raise ForkError(f'{path}: section "{piece.section}" is empty')
        return ends[-1], ends[-1], ["", *piece.lines]
    marks = [p.fingerprint for p in paragraphs]
    number = len(piece.paragraphs)
    found = [
        paragraphs[i : i + number]
        for i in range(len(marks))
        if tuple(marks[i : i + number]) == piece.paragraphs
    ]
    if len(found) != 1:
        is_now = "there twice" if found else "not there"
        head = (
            f'{path}: section "{piece.section}": {piece.which} '
            f"({' '.join(piece.paragraphs)}) is {is_now}; it has now"
        )
        now = [f"  {p.fingerprint} {p.words[:60]}" for p in paragraphs]
        raise ForkError("\n".join([head, *now]))
    first, last = found[0][0], found[0][-1]
    if piece.how == "replaces":
        return first.first, last.until, piece.lines
    new = ["", *piece.lines]
    if last.until < len(lines) and lines[last.until].strip():
        new.append("")
    return last.until, last.until, new


def _sections(lines: list[str]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the title of each section, and its lines up to the next title."""
    titles = [
        number
        for number, (line, under) in enumerate(itertools.pairwise(lines))
        if line[:1].strip()
        and not _UNDERLINE.match(line)
        and _UNDERLINE.match(under.rstrip())
        and len(under.rstrip()) >= len(line.rstrip())
        and (number == 0 or not lines[number - 1].strip())
    ]
    for number, until in zip(titles, [*titles[1:], len(lines)]):
        yield lines[number].rstrip(), (number + 2, until)


def _paragraphs(lines: list[str], first: int, until: int) -> Iterator[Paragraph]:
    start = None
    for number in range(first, until + 1):
        line = lines[number] if number < until else ""
        ends = not line.strip() or _ITEM.match(line) is not None
        if start is not None and ends:
            words = " ".join(" ".join(lines[start:number]).split())
            yield Paragraph(start, number, words)
            start = None
        if line.strip() and start is None:
            start = number
