"""Which test runs which lines, and how long it takes: a plugin of pytest.

``pytest -p continuous_integration.mutants.record`` writes it to :data:`FOLDER`, a file
for each process that runs tests. What is recorded belongs to the texts of modules and
tests as they were; of others nothing is known.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from time import perf_counter
from types import CodeType, ModuleType
from typing import Any

import pytest

from continuous_integration.fork import ForkError
from continuous_integration.mutants.modules import spec_loaded_by

ROOT = Path(__file__).parents[2]

#: Where it is written, relative to the folder of the project
FOLDER = "build/mutants"

#: Names the modules to look at, by their paths, with ``os.pathsep`` between them
MODULES = "MUTANTS_MODULES"

#: What modules call with the number of a line before they run it
MARK = "__mutants_mark__"


@dataclass
class Recorded:
    """What was recorded.

    Parameters
    ----------
    seconds
        How long a test takes, by its id. Only those that passed are in it.
    lines
        Tests that run a line, by the path of the module and the number of the line.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, dict[int, set[str]]] = field(default_factory=dict)

    def tests(self, path: str, lines: Iterable[int]) -> set[str]:
        """Return the tests that run any of some lines of a module."""
        known = self.lines.get(path, {})
        return {test for line in lines for test in known.get(line, ())}


def digest(texts: Iterable[str]) -> str:
    """Return what tells texts from others."""
    sha = hashlib.sha256()
    for text in texts:
        sha.update(f"{len(text)}\n{text}".encode())
    return sha.hexdigest()


def folder_digest(folder: Path) -> str:
    """Return what tells the tests of a folder, and what they share, from others."""
    files = sorted(folder.glob("*.py"))
    return digest(file.read_text(encoding="utf-8") for file in files)


def read(root: Path, texts: Mapping[str, str]) -> Recorded:
    """Read what was recorded.

    Parameters
    ----------
    root
        Folder of the project.
    texts
        Of the modules, by path, as they are imported.

    Raises
    ------
    ForkError
        If there is nothing, or it belongs to other texts.
    """
    result = Recorded()
    files = sorted((root / FOLDER).glob("record-*.json"))
    if not files:
        raise ForkError("nothing is recorded")
    for file in files:
        content = json.loads(file.read_text(encoding="utf-8"))
        for folder, tests in content["folders"].items():
            if tests != folder_digest(root / folder):
                raise ForkError(f"tests of {folder} have changed")
        for path, text in texts.items():
            if content["modules"].get(path) != digest([text]):
                raise ForkError(f"{path} has changed since it was recorded")
        for test, (seconds, modules) in content["ran"].items():
            result.seconds[test] = seconds
            for path, lines in modules.items():
                by_line = result.lines.setdefault(path, defaultdict(set))
                for line in lines:
                    by_line[line].add(test)
    return result


class _Marked(ast.NodeTransformer):
    """Puts a call before each statement of functions, with the number of its line.

    Parameters
    ----------
    lines
        Is filled with the lines of each statement by the number of the first, but those
        of other statements in it.
    """

    def __init__(self, lines: dict[int, range]):
        self.lines = lines
        self._depth = 0

    def visit(self, node: ast.AST) -> Any:
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        self._depth += is_function
        super().generic_visit(node)
        if self._depth:
            for name in ("body", "orelse", "finalbody"):
                # Also that of a lambda has this name
                if isinstance(body := getattr(node, name, None), list):
                    setattr(node, name, list(self._marked(body)))
        self._depth -= is_function
        return node

    def _marked(self, body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
        for statement in body:
            if not (
                isinstance(statement, ast.Expr)
                and isinstance(statement.value, ast.Constant)
            ):
                yield self._mark(statement)
            yield statement

    def _mark(self, statement: ast.stmt) -> ast.stmt:
        first, last = statement.lineno, statement.end_lineno or statement.lineno
        if inner := getattr(statement, "body", None):
            # The first is the mark of the first
            last = max(first, inner[0].lineno - 1)
        self.lines[first] = range(first, last + 1)
        call = ast.Call(ast.Name(MARK, ast.Load()), [ast.Constant(first)], [])
        return ast.fix_missing_locations(ast.copy_location(ast.Expr(call), statement))


class _Loader(SourceFileLoader):
    """Load a module that tells which lines it runs."""

    def __init__(self, recorder: Recorder, name: str, path: str):
        super().__init__(name, path)
        self.recorder = recorder

    def get_code(self, fullname: str) -> CodeType:
        path = self.recorder.names[fullname]
        lines = self.recorder.ranges.setdefault(path, {})
        tree = _Marked(lines).visit(ast.parse(self.get_data(self.path)))
        code: CodeType = compile(tree, self.path, "exec", dont_inherit=True)
        return code

    def exec_module(self, module: ModuleType) -> None:
        path = self.recorder.names[module.__name__]
        module.__dict__[MARK] = self.recorder.lines[path].add
        super().exec_module(module)


class Recorder:
    """Records what runs in this process.

    It finds the modules to look at, as an entry of ``sys.meta_path``.

    Parameters
    ----------
    root
        Folder of the project.
    paths
        Of the modules to look at, relative to it.
    """

    def __init__(self, root: Path, paths: Sequence[str]):
        self.root = root
        self.paths = paths
        self.names = {
            path.removesuffix(".py").replace("/", "."): path for path in paths
        }
        self.ranges: dict[str, dict[int, range]] = {}
        self.lines: dict[str, set[int]] = defaultdict(set)
        self.ran: dict[str, tuple[float, dict[str, list[int]]]] = {}
        self.failed: set[str] = set()

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Implement the protocol of ``sys.meta_path``."""
        if name not in self.names:
            return None
        return spec_loaded_by(partial(_Loader, self), name, path)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Note the lines that run while a test does."""
        for lines in self.lines.values():
            lines.clear()
        start = perf_counter()
        yield
        seconds = round(perf_counter() - start, 4)
        found = {}
        for path, lines in self.lines.items():
            ranges = self.ranges[path]
            if run := {line for first in set(lines) for line in ranges[first]}:
                found[path] = sorted(run)
        if item.nodeid not in self.failed:
            self.ran[item.nodeid] = seconds, found

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Leave out what does not pass as it is."""
        if not report.passed:
            self.failed.add(report.nodeid)
            self.ran.pop(report.nodeid, None)

    def pytest_sessionfinish(self) -> None:
        """Write it down."""
        if not self.ran:
            return
        folders = {Path(test.partition("::")[0]).parent.as_posix() for test in self.ran}
        # As they were imported, and merged
        modules = {
            path: digest([Path(file).read_text(encoding="utf-8")])
            for path in self.paths
            if (file := _imported(path))
        }
        content = {
            "folders": {
                folder: folder_digest(self.root / folder) for folder in sorted(folders)
            },
            "modules": modules,
            "ran": self.ran,
        }
        folder = self.root / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, separators=(",", ":"))
        (folder / f"record-{os.getpid()}.json").write_text(text, encoding="utf-8")


def _imported(path: str) -> str | None:
    """Return the file that a module was imported from, if it was."""
    name = path.removesuffix(".py").replace("/", ".")
    return getattr(sys.modules.get(name), "__file__", None)


# `conftest.py` imports what is to be recorded
@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Begin anew, and record in every process that runs tests."""
    folder = config.rootpath / FOLDER
    if not hasattr(config, "workerinput"):
        for old in folder.glob("record-*.json"):
            old.unlink()
    if paths := os.environ.get(MODULES):
        names = paths.split(os.pathsep)
    else:
        from continuous_integration.mutants.modules import DEFAULT

        names = list(DEFAULT)
    recorder = Recorder(config.rootpath, names)
    if imported := sorted(sys.modules.keys() & recorder.names.keys()):
        raise pytest.UsageError(f"imported before it can be recorded: {imported[0]}")
    config.pluginmanager.register(recorder, "recorder")
    sys.meta_path.insert(0, recorder)
