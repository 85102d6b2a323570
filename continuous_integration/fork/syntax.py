"""Finds definitions in a module and fingerprints them."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Sequence
from typing import Union

from continuous_integration.fork import ForkError

FunctionNode = Union[ast.FunctionDef, ast.AsyncFunctionDef]

#: Fields of a syntax tree that say how it was written or are always the same
_NO_MEANING = frozenset({"ctx", "kind", "type_comment", "type_ignores"})


def parse(text: str, path: str) -> ast.Module:
    """Parse a module.

    Raises
    ------
    ForkError
        If it is not valid Python, with file and line
    """
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or "?"
        reason = getattr(error, "msg", None) or error
        raise ForkError(f"{path}, line {line}: does not parse: {reason}") from None


def defined_names(node: ast.stmt) -> list[str]:
    """Return the names that a statement defines by itself; imports do not count."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    targets: Sequence[ast.expr] = ()
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return [t.id for t in targets if isinstance(t, ast.Name)]


def find(body: Sequence[ast.stmt], name: str) -> list[ast.stmt]:
    """Return the statements that define a qualified name, e.g. ``"Class.method"``.

    There are several where a name has overloads, a setter, or alternatives in the
    branches of an ``if`` or a ``try``.
    """
    first, _, rest = name.partition(".")
    found = [node for node in _flat(body) if first in defined_names(node)]
    if not rest:
        return found
    return [
        inner
        for node in found
        if isinstance(node, ast.ClassDef)
        for inner in find(node.body, rest)
    ]


def _flat(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a scope, those inside of branches included."""
    for node in body:
        yield node
        if isinstance(node, (ast.If, ast.Try, ast.With, ast.For, ast.While)):
            for field in ("body", "handlers", "orelse", "finalbody"):
                for child in getattr(node, field, ()):
                    inner = (
                        child.body if isinstance(child, ast.ExceptHandler) else [child]
                    )
                    yield from _flat(inner)


def imported(
    body: Sequence[ast.stmt],
) -> Iterator[tuple[str, str, Union[ast.Import, ast.ImportFrom], ast.alias]]:
    """Yield (bound name, what it stands for, statement, alias) for each import."""
    for node in _flat(body):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.partition(".")[0]
                yield bound, f"{alias.name} {alias.asname}", node, alias
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                source = f"{'.' * node.level}{node.module or ''}:{alias.name}"
                yield alias.asname or alias.name, source, node, alias


def fingerprint(nodes: Sequence[ast.AST]) -> str:
    """Return a short hash of the syntax of a definition.

    It is the same on every supported Python: ``ast.dump`` is not, since fields are
    added to the nodes over time, so only fields that hold something count. Formatting
    and comments do not matter. Docstrings do: a definition may keep its code while its
    contract changes, and looking at a reworded docstring costs a maintainer little.

    Parameters
    ----------
    nodes
        The statements that define the name, see :func:`find`

    Returns
    -------
    str
        16 hexadecimal digits
    """
    text = " ".join(map(_normal, nodes))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _normal(value: object) -> str:
    if isinstance(value, ast.Constant):
        # Not `!r`: which characters that escapes depends on the Unicode of the Python
        return f"{type(value.value).__name__}:{value.value!a}"
    if isinstance(value, ast.JoinedStr):
        # Python 3.12 has empty strings between the parts, where others have nothing
        parts = [v for v in value.values if getattr(v, "value", None) != ""]
        return f"(JoinedStr {_normal(parts)})"
    if isinstance(value, ast.AST):
        fields = " ".join(
            f"{name}={_normal(content)}"
            for name, content in ast.iter_fields(value)
            if name not in _NO_MEANING and content is not None and content != []
        )
        return f"({type(value).__name__} {fields})"
    if isinstance(value, list):
        return f"[{' '.join(map(_normal, value))}]"
    return ascii(value)


class Source:
    """The text of a module, its syntax tree, and changes to it by whole lines.

    Positions are line numbers as ``ast`` counts them, from 1.

    Parameters
    ----------
    text
        Python source
    path
        For messages
    """

    def __init__(self, text: str, path: str):
        self.path = path
        self.tree = parse(text, path)
        # Not `splitlines`: it also breaks at characters that Python does not
        self.lines = text.split("\n")
        self._edits: list[tuple[int, int, list[str]]] = []

    def span(self, node: ast.stmt) -> tuple[int, int]:
        """Return the first and last line of a statement, its decorators included.

        Raises
        ------
        ForkError
            If another statement shares one of these lines
        """
        decorators = getattr(node, "decorator_list", [])
        first = min(node.lineno, *(d.lineno for d in decorators), node.lineno)
        last = node.end_lineno or node.lineno
        before = self.lines[node.lineno - 1].encode()[: node.col_offset]
        behind = self.lines[last - 1].encode()[node.end_col_offset :].strip()
        if before.strip() or (behind and not behind.startswith(b"#")):
            raise ForkError(
                f"{self.path}, line {node.lineno}: a definition must have its lines to "
                "itself"
            )
        return first, last

    def commented_span(self, node: ast.stmt) -> tuple[int, int]:
        """Return :meth:`span` with the comment right above the statement."""
        first, last = self.span(node)
        indent = " " * node.col_offset
        while first > 1 and self.lines[first - 2].startswith(f"{indent}#"):
            first -= 1
        return first, last

    def text(self, span: tuple[int, int]) -> list[str]:
        """Return the lines of a span."""
        first, last = span
        return self.lines[first - 1 : last]

    def insert(self, line: int, lines: Sequence[str]) -> None:
        """Put lines in front of a line; behind what was put there before."""
        self._edits.append((line, line, list(lines)))

    def replace(self, span: tuple[int, int], lines: Sequence[str]) -> None:
        """Put lines in the place of a span."""
        first, last = span
        self._edits.append((first, last + 1, list(lines)))

    def result(self) -> str:
        """Return the text with all changes made."""
        lines = list(self.lines)
        # From the end, so that the positions before it stay what they are. Two edits
        # at the same line go in reverse, so that the first one ends up above.
        ordered = sorted(enumerate(self._edits), key=lambda e: (e[1][0], e[1][1], e[0]))
        for _, (first, until, new) in reversed(ordered):
            lines[first - 1 : until - 1] = new
        return "\n".join(lines)
