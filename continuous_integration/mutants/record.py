"""Which test runs which lines, and how long it takes: a plugin of pytest.

``pytest -p continuous_integration.mutants.record`` writes it to :data:`FOLDER`, a file
for each process that runs tests. What is recorded belongs to the texts of modules and
tests as they were; of others nothing is known.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from types import CodeType, FrameType
from typing import Any

import pytest

from continuous_integration.fork import ForkError

ROOT = Path(__file__).parents[2]

#: Where it is written, relative to the folder of the project
FOLDER = "build/mutants"

#: Names the modules to look at, by their paths, with ``os.pathsep`` between them
MODULES = "MUTANTS_MODULES"


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


class Recorder:
    """Records what runs in this process.

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
        self.lines: dict[str, set[int]] = defaultdict(set)
        self.ran: dict[str, tuple[float, dict[str, list[int]]]] = {}
        self.failed: set[str] = set()
        self._of_code: dict[CodeType, set[int] | None] = {}

    def _call(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        try:
            lines = self._of_code[code]
        except KeyError:
            name = code.co_filename.replace(os.sep, "/")
            path = next((p for p in self.paths if name.endswith(f"/{p}")), None)
            lines = self._of_code[code] = None if path is None else self.lines[path]
        if lines is None:
            return None

        def line(frame: FrameType, event: str, arg: Any) -> Any:
            if event == "line":
                lines.add(frame.f_lineno)
            return line

        return line

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Note the lines that run while a test does, in all threads."""
        for lines in self.lines.values():
            lines.clear()
        start = perf_counter()
        threading.settrace(self._call)
        sys.settrace(self._call)
        try:
            yield
        finally:
            sys.settrace(None)
            threading.settrace(None)
        seconds = round(perf_counter() - start, 4)
        found = {path: sorted(lines) for path, lines in self.lines.items() if lines}
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
    config.pluginmanager.register(Recorder(config.rootpath, names), "recorder")
