"""A module of the base + a partial module -> the module of the fork.

The syntax trees only say where things are. What is written is the text of the base with
lines of the partial module put in, so the formatting and the comments of both survive.

Each definition of the partial module is declared in ``divergence.json`` with how it
meets the base:

replaces
    It takes the place of the base's definition. With ``keeps``, the base's stays, right
    above it, under that name.
extends
    The statements of its body come after those of the base's body.
adds
    The base has no such name. A function or a class goes to the end of its scope, or
    behind the name given by ``after``. A variable or an annotation goes behind the
    imports of a module; in a class, above ``__slots__``, which is often made from the
    annotations.
appends
    A statement that defines nothing. It goes to the end of its scope, or behind the
    name given by ``after``.
relies-on
    The partial module has nothing by that name; our code calls the base's.

Imports need no declaration: those that the base does not have join its own.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeGuard, Union

from continuous_integration.fork import ForkError
from continuous_integration.fork.project import DIVERGENCE, HOWS, Entry
from continuous_integration.fork.syntax import (
    FunctionNode,
    Source,
    defined_names,
    find,
    fingerprint,
    imported,
)

ImportNode = Union[ast.Import, ast.ImportFrom]
Scope = Union[ast.Module, ast.ClassDef]


def changed_names(source: Source, declared: Mapping[str, Entry]) -> Iterator[str]:
    """Yield the names whose definition in the base was not reviewed.

    Parameters
    ----------
    source
        Module of the base
    declared
        What the fork does to its names

    Raises
    ------
    ForkError
        If the base has no such name
    """
    for name, entry in declared.items():
        if HOWS[entry["how"]]:
            nodes = find(source.tree.body, name)
            if not nodes:
                raise ForkError(
                    f"{source.path}: the base has no {name}, which {DIVERGENCE} says "
                    f"the fork {entry['how'].replace('-', ' ')}"
                )
            if fingerprint(nodes) not in entry.get("base", ()):
                yield name


def check_fingerprints(source: Source, declared: Mapping[str, Entry]) -> None:
    """Refuse a base with definitions that were not reviewed.

    Raises
    ------
    ForkError
        If there are any, naming them all
    """
    if changed := list(changed_names(source, declared)):
        raise ForkError(
            f"{source.path}: the base's {', '.join(changed)} changed since it was last "
            "reviewed; compare with `python -m continuous_integration.fork accept`"
        )


def merge_module(path: str, base: str, ours: str, declared: Mapping[str, Entry]) -> str:
    """Merge a partial module into a module of the base.

    Parameters
    ----------
    path
        Of the module, for messages
    base, ours
        Their texts
    declared
        What the fork does to the names of this module

    Returns
    -------
    str
        Text of the module of the fork

    Raises
    ------
    ForkError
        If the two do not fit together as declared
    """
    merge = _Merge(Source(base, path), Source(ours, path), declared)
    check_fingerprints(merge.base, declared)
    if ast.get_docstring(merge.ours.tree) is None:
        raise ForkError(f"{path}: must open with a docstring that says what it is")
    merge.scope(merge.base.tree, merge.ours.tree, "")
    for name, entry in declared.items():
        if entry["how"] != "relies-on" and name not in merge.done:
            raise ForkError(
                f"{path}: has no {name}, which {DIVERGENCE} says it {entry['how']}"
            )
    merged = merge.base.result()
    Source(merged, f"{path}, merged")
    return merged


class _Merge:
    """One run of :func:`merge_module`."""

    def __init__(self, base: Source, ours: Source, declared: Mapping[str, Entry]):
        self.base = base
        self.ours = ours
        self.declared = declared
        self.done: set[str] = set()
        self.sections: set[int] = set()

    def scope(self, base: Scope, ours: Scope, prefix: str) -> None:
        """Merge the statements of a module, or of a class that both have."""
        body = (
            ours.body[1:] if ast.get_docstring(ours, False) is not None else ours.body
        )
        for node in body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                self.add_import(node, typing=False)
                continue
            if _is_type_checking(node) and isinstance(ours, ast.Module):
                for statement in node.body:
                    if not isinstance(statement, (ast.Import, ast.ImportFrom)):
                        raise self.error(statement, "only imports can be added here")
                    self.add_import(statement, typing=True)
                continue
            names = defined_names(node)
            if len(names) > 1:
                raise self.error(node, "defines several names at once")
            name = prefix + (names[0] if names else ast.unparse(node).split("\n")[0])
            found = find(base.body, names[0]) if names else []
            entry = self.declared.get(name)
            if entry is None and isinstance(node, ast.ClassDef) and len(found) == 1:
                if not isinstance(found[0], ast.ClassDef):
                    raise self.error(node, f"{name} is not a class in the base")
                self.scope(found[0], node, f"{name}.")
                continue
            if entry is None:
                raise self.error(node, f"{name} is not declared in {DIVERGENCE}")
            if name in self.done:
                raise self.error(node, f"{name} is there twice")
            self.done.add(name)
            self.definition(node, name, entry, base, found)

    def definition(
        self,
        node: ast.stmt,
        name: str,
        entry: Entry,
        scope: Scope,
        found: Sequence[ast.stmt],
    ) -> None:
        """Merge one definition, or one statement that defines nothing."""
        how = entry["how"]
        if how == "relies-on":
            raise self.error(
                node, f"{DIVERGENCE} says the fork relies on the base's {name}"
            )
        if (how == "appends") == bool(defined_names(node)):
            raise self.error(
                node,
                f"{name}: `appends` is for statements that define nothing, and only "
                "for them",
            )
        if how in ("adds", "appends"):
            if how == "adds" and (found or _is_imported(scope, name)):
                raise self.error(
                    node, f"the base already has {name}; it cannot be added"
                )
            self.add(node, scope, entry.get("after"))
            return
        if len(found) != 1:
            raise self.error(node, f"the base defines {name} {len(found)} times")
        if _kind(node) != _kind(found[0]):
            raise self.error(node, f"{name} is a {_kind(found[0])} in the base")
        if how == "extends":
            self.extend(node, found[0], name)
        else:
            self.replace(node, found[0], scope, entry.get("keeps"))

    def replace(
        self, node: ast.stmt, old: ast.stmt, scope: Scope, keeps: str | None
    ) -> None:
        """Put a definition in the place of the base's, or below it if that is kept."""
        span = self.base.span(old)
        text = self.ours.text(self.ours.commented_span(node))
        if keeps is None:
            self.base.replace(span, text)
            return
        if not isinstance(old, (ast.FunctionDef, ast.AsyncFunctionDef)):
            raise self.error(node, "only a function can be kept under another name")
        if find(scope.body, keeps) or _is_imported(scope, keeps):
            raise self.error(
                node, f"the base has a {keeps}; keep {old.name} as another"
            )
        line = self.base.lines[old.lineno - 1]
        # `lineno` is that of `def` and not of a decorator
        renamed = re.sub(rf"^(.*?\bdef\s+){old.name}\b", rf"\g<1>{keeps}", line)
        self.base.replace((old.lineno, old.lineno), [renamed])
        self.base.insert(span[1] + 1, _spaced(text, scope))

    def extend(self, node: ast.stmt, old: ast.stmt, name: str) -> None:
        """Put the statements of a function's body behind those of the base's."""
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            raise self.error(node, f"{name}: only a function can be extended")
        assert isinstance(old, (ast.FunctionDef, ast.AsyncFunctionDef))
        if strangers := _arguments(node) - _arguments(old):
            raise self.error(
                node, f"the base's {name} has no {', '.join(sorted(strangers))}"
            )
        if isinstance(old.body[-1], (ast.Return, ast.Raise)):
            raise self.error(
                node, f"nothing behind the end of the base's {name} would run"
            )
        has_docstring = ast.get_docstring(node, False) is not None
        body = node.body[1:] if has_docstring else node.body
        if not body:
            raise self.error(node, f"{name} has nothing to extend the base's with")
        if body[0].col_offset != old.body[0].col_offset:
            raise self.error(body[0], "must be indented like the body of the base's")
        first, _ = self.ours.commented_span(body[0])
        _, last = self.ours.span(body[-1])
        _, end = self.base.span(old.body[-1])
        self.base.insert(end + 1, self.ours.text((first, last)))

    def add(self, node: ast.stmt, scope: Scope, after: str | None) -> None:
        """Put a statement where nothing is."""
        text = self.ours.text(self.ours.commented_span(node))
        is_variable = isinstance(node, (ast.Assign, ast.AnnAssign))
        if after is not None:
            found = find(scope.body, after)
            if not found:
                raise self.error(node, f"the base has no {after} to go behind")
            line = self.base.span(found[-1])[1] + 1
            gap = bool(defined_names(node)) and not is_variable
        elif is_variable and isinstance(scope, ast.ClassDef):
            self.annotate(text, scope)
            return
        elif is_variable:
            line = self.end_of_imports() + 1
            gap = False
            text = ["", *text]
        else:
            line = self.base.span(scope.body[-1])[1] + 1
            gap = True
        self.base.insert(line, _spaced(text, scope) if gap else text)

    def annotate(self, text: list[str], scope: ast.ClassDef) -> None:
        """Add a variable to a class, above ``__slots__`` where there are some."""
        slots = find(scope.body, "__slots__")
        annotations = [n for n in scope.body if isinstance(n, ast.AnnAssign)]
        if slots:
            self.base.insert(self.base.commented_span(slots[0])[0], [*text, ""])
        elif annotations:
            self.base.insert(self.base.span(annotations[-1])[1] + 1, text)
        elif ast.get_docstring(scope, False) is not None:
            self.base.insert(self.base.span(scope.body[0])[1] + 1, ["", *text])
        else:
            self.base.insert(self.base.commented_span(scope.body[0])[0], [*text, ""])

    def add_import(self, node: ImportNode, typing: bool) -> None:
        """Add what an import binds and the base does not have yet.

        Parameters
        ----------
        node
            Import of the partial module
        typing
            Whether it goes into the block ``if TYPE_CHECKING:``
        """
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            return
        there = {bound: what for bound, what, _, _ in imported(self.base.tree.body)}
        new = []
        for bound, what, _, alias in imported([node]):
            if there.get(bound, what) != what or find(self.base.tree.body, bound):
                raise self.error(node, f"{bound} is something else in the base")
            if bound not in there:
                new.append(alias)
        if not new:
            return
        text = self.ours.text(self.ours.commented_span(node))
        if len(new) < len(node.names):
            node.names = new
            text = [" " * node.col_offset + ast.unparse(node)]
        blocks = [n for n in self.base.tree.body if _is_type_checking(n)]
        if typing and not blocks:
            end = self.end_of_imports()
            self.base.insert(end + 1, ["", "if TYPE_CHECKING:", *text])
            return
        body = blocks[0].body if typing else self.base.tree.body
        imports = [n for n in body if isinstance(n, (ast.Import, ast.ImportFrom))]
        module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        # Sorted as import sorters do, as far as that is simple
        alike = [
            n
            for n in imports
            if isinstance(n, ast.ImportFrom)
            and isinstance(node, ast.ImportFrom)
            and _package(n) == _package(node)
        ]
        smaller = [n for n in alike if (n.module or "") <= module]
        place = (smaller or imports or body)[-1]
        line = self.base.span(place)[1] + 1
        # Imports under a condition are few: those of a new package begin a section
        if typing and not alike and line not in self.sections:
            self.sections.add(line)
            text = ["", *text]
        self.base.insert(line, text)

    def end_of_imports(self) -> int:
        """Return the last line of the imports at the top of the base's module."""
        end = 0
        for node in self.base.tree.body:
            is_docstring = isinstance(node, ast.Expr) and end == 0
            if (
                is_docstring
                or _is_type_checking(node)
                or isinstance(node, (ast.Import, ast.ImportFrom))
            ):
                end = self.base.span(node)[1]
        return end

    def error(self, node: ast.stmt, reason: str) -> ForkError:
        """Return an error at a place of the partial module."""
        return ForkError(f"{self.ours.path}, line {node.lineno}: {reason}")


def _kind(node: ast.stmt) -> str:
    if isinstance(node, ast.ClassDef):
        return "class"
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return "coroutine" if isinstance(node, ast.AsyncFunctionDef) else "function"
    return "variable"


def _arguments(node: FunctionNode) -> set[str]:
    return {a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)}


def _package(node: ast.ImportFrom) -> tuple[int, str]:
    return node.level, (node.module or "").partition(".")[0]


def _is_imported(scope: Scope, name: str) -> bool:
    simple = name.rpartition(".")[2]
    return any(bound == simple for bound, *_ in imported(scope.body))


def _is_type_checking(node: ast.stmt) -> TypeGuard[ast.If]:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _spaced(text: Sequence[str], scope: Scope) -> list[str]:
    """Set a definition off from what is above it, with blank lines."""
    return ["", *text] if isinstance(scope, ast.ClassDef) else ["", "", *text]
