"""The modules that are looked at, as they are imported."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path

from continuous_integration.fork import ForkError
from continuous_integration.fork.base import available_base
from continuous_integration.fork.merge import merge_module
from continuous_integration.fork.project import Entry, read_divergence, read_project
from continuous_integration.mutants.mutate import Mutant, mutants

#: What is looked at unless others are named: decision and queue, and what calls them
DEFAULT = (
    "distributed/rootish/policy.py",
    "distributed/rootish/queue.py",
    "distributed/rootish/lanes.py",
    "distributed/rootish/families.py",
    "distributed/rootish/backpressure.py",
    "distributed/rootish/handles.py",
    "distributed/scheduler.py",
)

#: Tests that may notice unless others are named: those of what is decided. Others run
#: it as well, but take longer and look at something else
TESTS = tuple(
    f"distributed/rootish/tests/test_{name}.py"
    for name in (
        "policy",
        "queue",
        "families",
        "backpressure",
        "handles",
        "restrictions",
        "random",
    )
)


def spec_loaded_by(
    make: Callable[[str, str], SourceFileLoader],
    name: str,
    path: Sequence[str] | None,
) -> ModuleSpec | None:
    """Find a module where it is, and let another loader load it.

    Parameters
    ----------
    make
        Makes the loader, of the name of the module and its file.
    name, path
        As for ``find_spec`` of the entries of ``sys.meta_path``.
    """
    spec = PathFinder.find_spec(name, path)
    if spec is None or spec.origin is None:
        return None
    spec.loader = make(name, spec.origin)
    return spec


class Module:
    """A module of the project.

    Parameters
    ----------
    root
        Folder of the project.
    path
        Of the module, relative to it.
    """

    def __init__(self, root: Path, path: str):
        self.root = root
        self.path = path
        try:
            self.source = (root / path).read_text(encoding="utf-8")
        except OSError as error:
            raise ForkError(f"{path} cannot be read: {error}") from None

    @property
    def name(self) -> str:
        """What it is imported as."""
        return self.path.removesuffix(".py").replace("/", ".")

    @cached_property
    def mutants(self) -> list[Mutant]:
        """All of them."""
        return mutants(self.path, self.source)

    @cached_property
    def text(self) -> str:
        """The text that is imported."""
        return self.merged(self.source)

    def merged(self, source: str) -> str:
        """Return the text that is imported, had the module in the project this text."""
        base = self._base
        if base is None:
            return source
        return merge_module(self.path, base, source, self._declared)

    @cached_property
    def _base(self) -> str | None:
        if not (self.root / "pyproject.toml").is_file():
            return None
        base = available_base(read_project(self.root))
        return base.text(self.path) if self.path in base.paths else None

    @cached_property
    def _declared(self) -> dict[str, Entry]:
        return read_divergence(self.root).get(self.path, {})

    @cached_property
    def _here(self) -> list[tuple[str, int, int]]:
        return _definitions(self.source)

    @cached_property
    def _there(self) -> list[tuple[str, int, int]]:
        return _definitions(self.text)

    def lines(self, mutant: Mutant) -> set[int]:
        """Return the lines of the imported text that a clause is on.

        Parameters
        ----------
        mutant
            One of this module's.
        """
        lines = range(mutant.first, mutant.last + 1)
        if self._base is None:
            return set(lines)
        for name, first, last in self._here:
            if first <= mutant.first <= last:
                [(start, stop), *_] = [
                    (start, stop) for other, start, stop in self._there if other == name
                ]
                if stop - start == last - first:
                    return {line - first + start for line in lines}
                # It is only a part of that one
                return set(range(start, stop + 1))
        return set()

    def naming(self, names: set[str]) -> set[int]:
        """Return the lines of the imported text that have one of some names.

        Parameters
        ----------
        names
            What is made of them in the module is added.
        """
        tree = ast.parse(self.text)
        for node in tree.body:
            if isinstance(node, ast.Assign) and names & _names(node.value):
                names |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        return {
            node.lineno
            for node in ast.walk(tree)
            if isinstance(node, ast.expr) and names & _names(node, deep=False)
        }


def concerned(mutant: Mutant, modules: Sequence[Module]) -> dict[str, set[int]]:
    """Return the lines that a test of a mutant runs, by the path of the module.

    Parameters
    ----------
    mutant
        Of one of the modules.
    modules
        All that are looked at.
    """
    if mutant.constant:
        names = {mutant.constant}
        return {module.path: module.naming(names) for module in modules}
    [module] = [module for module in modules if module.path == mutant.path]
    return {module.path: module.lines(mutant)}


def _names(node: ast.AST, deep: bool = True) -> set[str]:
    """Return the names, and those after a dot, that an expression has."""
    found = set()
    for part in ast.walk(node) if deep else [node]:
        if isinstance(part, ast.Name):
            found.add(part.id)
        elif isinstance(part, ast.Attribute):
            found.add(part.attr)
    return found


def _definitions(text: str) -> list[tuple[str, int, int]]:
    """Return name, first and last line of each function, also of methods."""
    return list(_below(ast.parse(text), ""))


def _below(node: ast.AST, prefix: str) -> Iterator[tuple[str, int, int]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from _below(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            assert child.end_lineno
            yield f"{prefix}{child.name}", child.lineno, child.end_lineno
