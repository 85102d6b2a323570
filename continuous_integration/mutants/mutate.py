"""Mutants: texts of a module in which one clause or one number is not what it was.

A mutant takes something out that somebody wrote on purpose. If no test notices, either
a test is missing or the clause is.

======================  ==============================================================
clause                  its mutants
======================  ==============================================================
``if X``, ``elif X``    never, always
``while X``             never
``X if C else Y``       ``X``, ``Y``
``A and B``, ``or``     each operand is dropped
``for … if X``          of comprehensions: ``X`` is dropped
``min(A, B)``, ``max``  each argument is dropped; so is ``default=``
``NUMBER = 8``          half of it, and twice as much; in a module or a class
======================  ==============================================================
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Mutant:
    """A change of a module.

    Parameters
    ----------
    path
        Of the module, relative to the folder of the project.
    name
        Where it is and what becomes of what, in words that stay the same when lines
        are added elsewhere.
    first, last
        Lines that it stands on.
    start, stop
        The bytes that are replaced.
    text
        What they are replaced by.
    constant
        Name of the number, if it is one.
    """

    path: str
    name: str
    first: int
    last: int
    start: int
    stop: int
    text: str
    constant: str | None = None

    def __str__(self) -> str:
        return f"{self.path}:{self.first} {self.name}"

    @property
    def key(self) -> str:
        """What it is listed by."""
        return f"{self.path} {self.name}"

    def apply(self, source: str) -> str:
        """Return the text of the module with the change."""
        content = source.encode()
        changed = content[: self.start] + self.text.encode() + content[self.stop :]
        return changed.decode()


def mutants(path: str, source: str) -> list[Mutant]:
    """Make all mutants of a module.

    Parameters
    ----------
    path
        Of the module, relative to the folder of the project.
    source
        Its text.

    Returns
    -------
    list
        In order of the lines.
    """
    visitor = _Visitor(path, source)
    visitor.visit(ast.parse(source))
    return sorted(visitor.named(), key=lambda mutant: (mutant.first, mutant.start))


class _Visitor(ast.NodeVisitor):
    """Collect mutants of a syntax tree.

    Parameters
    ----------
    path, source
        As for :func:`mutants`.
    """

    def __init__(self, path: str, source: str):
        self.path = path
        self.content = source.encode()
        self.starts = [0]
        for line in self.content.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.scope: list[str] = []
        self.is_in_function = False
        self.found: list[Mutant] = []

    def named(self) -> Iterator[Mutant]:
        """Yield what was found; what is the same twice in a function is numbered."""
        seen: Counter[str] = Counter()
        for mutant in self.found:
            seen[mutant.name] += 1
            number = f" #{n}" if (n := seen[mutant.name]) > 1 else ""
            yield Mutant(
                **{**mutant.__dict__, "name": mutant.name + number},
            )

    def position(self, line: int, column: int) -> int:
        return self.starts[line - 1] + column

    def text(self, node: ast.expr | ast.keyword) -> str:
        assert node.end_lineno
        assert node.end_col_offset is not None
        start = self.position(node.lineno, node.col_offset)
        stop = self.position(node.end_lineno, node.end_col_offset)
        return self.content[start:stop].decode()

    def add(
        self, node: ast.expr, text: str, becomes: str, constant: str | None = None
    ) -> None:
        """Add a mutant in which ``text`` is in the place of an expression."""
        assert node.end_lineno
        assert node.end_col_offset is not None
        where = ".".join(self.scope) or "module"
        was = ast.unparse(node)
        name = (
            f"{where}: {becomes}" if constant else f"{where}: `{_short(was)}` {becomes}"
        )
        mutant = Mutant(
            self.path,
            name,
            node.lineno,
            node.end_lineno,
            self.position(node.lineno, node.col_offset),
            self.position(node.end_lineno, node.end_col_offset),
            # The expression may go over several lines
            f"({text})",
            constant,
        )
        self.found.append(mutant)

    # -- Where it is

    def _enter(self, node: Any) -> None:
        self.scope.append(node.name)
        self.generic_visit(node)
        self.scope.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._enter(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        before, self.is_in_function = self.is_in_function, True
        self._enter(node)
        self.is_in_function = before

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        before, self.is_in_function = self.is_in_function, True
        self._enter(node)
        self.is_in_function = before

    # -- Clauses

    def visit_If(self, node: ast.If) -> None:
        # Nothing below it is ever run
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.add(node.test, "False", "never")
            self.add(node.test, "True", "always")
            self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        if not isinstance(node.test, ast.Constant):
            self.add(node.test, "False", "never")
        self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> None:
        """Skip what only looks."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Skip messages; before Python 3.12, it was not known where their parts are."""

    def visit_IfExp(self, node: ast.IfExp) -> None:
        for part in (node.body, node.orelse):
            self.add(node, self.text(part), f"is `{_short(ast.unparse(part))}`")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        word = " and " if isinstance(node.op, ast.And) else " or "
        for dropped in node.values:
            rest = [f"({self.text(v)})" for v in node.values if v is not dropped]
            gone = _short(ast.unparse(dropped))
            self.add(node, word.join(rest), f"without `{gone}`")
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self.add(test, "True", "always")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in ("min", "max"):
            arguments: list[ast.expr | ast.keyword] = [*node.args, *node.keywords]
            for dropped in arguments:
                rest = [part for part in arguments if part is not dropped]
                gone = f"without `{_short(ast.unparse(dropped))}`"
                if isinstance(dropped, ast.keyword):
                    if dropped.arg != "default":
                        continue
                elif len(node.args) == 1:
                    continue
                elif len(rest) == 1 and not isinstance(rest[0], ast.Starred):
                    # The smallest of one
                    self.add(node, self.text(rest[0]), gone)
                    continue
                texts = ", ".join(map(self.text, rest))
                self.add(node, f"{node.func.id}({texts})", gone)
        self.generic_visit(node)

    # -- Numbers

    def visit_Assign(self, node: ast.Assign) -> None:
        self._number(node.targets, node.value)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._number([node.target], node.value)
        self.generic_visit(node)

    def _number(self, targets: Sequence[ast.expr], value: ast.expr | None) -> None:
        if self.is_in_function or value is None:
            return
        number = _number(value)
        if not number:
            return
        for target in targets:
            if isinstance(target, ast.Name) and target.id.strip("_").isupper():
                half = number // 2 if isinstance(number, int) else number / 2
                for what, text in (("halved", half), ("doubled", 2 * number)):
                    becomes = f"{target.id} {what}"
                    self.add(value, repr(text), becomes, target.id)


def _number(node: ast.expr) -> int | float | None:
    """Return the number that an expression stands for, None if it has anything else."""
    allowed = (ast.Constant, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop)
    if not all(isinstance(part, allowed) for part in ast.walk(node)):
        return None
    value = eval(compile(ast.Expression(node), "", "eval"), {})
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number else None


def _short(text: str, width: int = 70) -> str:
    """Return a text on one line that is not too long for a table."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"
