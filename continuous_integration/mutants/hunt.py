"""Tries mutants, each in a process of its own that is forked when all is imported.

The process that forks imports what tests need but never ``distributed``, so that a
mutant is imported like any other module: there are no references to what it was
before. The tests that run the clause are run, the quickest first, until one fails.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import select
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest
import pytest_timeout

from continuous_integration.fork import ForkError
from continuous_integration.mutants.modules import Module, concerned, spec_loaded_by
from continuous_integration.mutants.mutate import Mutant
from continuous_integration.mutants.record import Recorded

#: Imported before anything is forked, if it is there. None may import `distributed`
PRELOADED = (
    *("asyncio", "bokeh", "cloudpickle", "dask.array", "dask.bag", "dask.delayed"),
    *("dask.order", "h5netcdf", "h5py", "hypothesis", "jinja2", "msgpack", "netCDF4"),
    *("numpy", "pandas", "prometheus_client", "psutil", "rich"),
    *("tblib", "tornado.httpserver", "tornado.web", "xarray", "zarr", "zict"),
)

#: A test is given so much longer than it took, and so many seconds (s)
LONGER = 10
PATIENCE = 10.0

#: Tests are collected in parts, of which each may take so many times the one before
PART = 4
FIRST_PART = 1.0

#: So many tests are tried before, without any mutant
CHECKED = 10

#: What tests of a mutant need of pytest
OPTIONS = ("-x", "-q", "--tb=short", "-p", "no:cacheprovider")


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant.

    Parameters
    ----------
    mutant
        The mutant.
    noticed
        Id of the test that fails with it, or ``"import"``; None if none does.
    how
        ``"fails"``, ``"hangs"`` or ``"dies"``; ``"passes"`` if tests do.
    tests
        Number of tests that run it.
    left
        How many of them were not run, for lack of time.
    seconds
        That it took.
    """

    mutant: Mutant
    noticed: str | None
    how: str
    tests: int
    left: int
    seconds: float

    @property
    def survives(self) -> bool:
        """Whether all tests that run it pass."""
        return not self.noticed and not self.left

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        content = asdict(self)
        content["mutant"] = self.mutant.key
        content["line"] = self.mutant.first
        return content


def preload(names: Iterable[str]) -> None:
    """Import what tests need.

    Parameters
    ----------
    names
        Of modules. What is not installed is not needed.

    Raises
    ------
    ForkError
        If there is no way to fork, or that has imported ``distributed``.
    """
    if not hasattr(os, "fork"):
        raise ForkError(
            "mutants are tried in processes that are forked: not on Windows"
        )
    for name in names:
        with suppress(ImportError):
            importlib.import_module(name)
    if "distributed" in sys.modules:
        raise ForkError("`distributed` is imported; a mutant would not be")


class _Loader(SourceFileLoader):
    """Load another text than that of the file."""

    def __init__(self, text: str, name: str, path: str):
        super().__init__(name, path)
        self.text = text

    def get_code(self, fullname: str) -> CodeType:
        code = compile(self.text, self.path, "exec", dont_inherit=True)
        return code


class Finder:
    """Find one module as a mutant.

    Parameters
    ----------
    name
        Of the module.
    text
        What it is to be.
    """

    def __init__(self, name: str, text: str):
        self.name = name
        self.text = text

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Implement the protocol of ``sys.meta_path``."""
        if name != self.name:
            return None
        return spec_loaded_by(partial(_Loader, self.text), name, path)


class _Reporter:
    """Tell the process that waits which test begins, and which fails."""

    def __init__(self, pipe: int):
        self.pipe = pipe

    def tell(self, *words: str) -> None:
        os.write(self.pipe, (json.dumps(words) + "\n").encode())

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.tell("starts", nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.tell("fails", report.nodeid)


def parts(tests: Sequence[str], seconds: dict[str, float]) -> Iterator[list[str]]:
    """Divide tests into parts that take ever longer.

    Collecting tests takes time as well, mostly for what their modules import.

    Parameters
    ----------
    tests
        Their ids.
    seconds
        How long each takes.
    """
    part: list[str] = []
    taken, allowed = 0.0, FIRST_PART
    for test in tests:
        if part and taken + seconds[test] > allowed:
            yield part
            part, taken, allowed = [], 0.0, allowed * PART
        part.append(test)
        taken += seconds[test]
    if part:
        yield part


def replayed(name: str) -> dict[str, Any]:
    """Replay a recording on four workers, with the ``distributed`` that is imported.

    Parameters
    ----------
    name
        Of the recording.
    """
    import asyncio

    import dask

    from continuous_integration.benchmarks import recordings
    from continuous_integration.benchmarks.replay import SETTINGS, cluster_of, replay

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    recording = recordings.read(name)
    with dask.config.set(SETTINGS):
        return asyncio.run(replay(recording, cluster_of("4x1", recording)))


def _child(
    module: Module,
    mutant: Mutant,
    tests: Sequence[Sequence[str]],
    replays: Mapping[str, dict[str, Any]],
    pipe: int,
) -> None:
    """Run tests with a mutant, in the process that was forked for it."""
    reporter = _Reporter(pipe)
    text = module.merged(mutant.apply(module.source))
    sys.meta_path.insert(0, Finder(module.name, text))
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    os.environ.pop("PYTEST_ADDOPTS", None)
    for part in tests:
        arguments = [*OPTIONS, f"--rootdir={module.root}", *part]
        if code := pytest.main(arguments, plugins=[reporter, pytest_timeout]):
            # If no test has failed, something could not be imported
            reporter.tell("ends", str(int(code)))
            return
    for name, expected in replays.items():
        test = f"replay of {name}"
        reporter.tell("starts", test)
        if replayed(name) != expected:
            reporter.tell("fails", test)
            return
    reporter.tell("passes")


@dataclass
class _Running:
    """A mutant that is being tried."""

    mutant: Mutant
    pid: int
    pipe: int
    tests: list[str]
    left: int
    start: float
    deadline: float
    log: Path
    test: str | None = None
    said: str = ""
    rest: bytes = b""


def _in_a_fork(function: Callable[[], Any]) -> Any:
    """Return what a function returns in a process of its own, as JSON has it."""
    receive, send = os.pipe()
    pid = os.fork()
    if not pid:  # pragma: no cover
        code = 1
        try:
            with os.fdopen(send, "w") as pipe:
                json.dump(function(), pipe)
            code = 0
        finally:
            os._exit(code)
    os.close(send)
    with os.fdopen(receive) as pipe:
        content = pipe.read()
    if os.waitpid(pid, 0)[1]:
        raise ForkError("what mutants are compared with fails by itself")
    return json.loads(content)


class Hunt:
    """Tries mutants.

    Parameters
    ----------
    root
        Folder of the project.
    modules
        All that are looked at.
    recorded
        Which test runs which lines.
    jobs
        How many mutants are tried at once.
    seconds
        How long the tests of one may take, as recorded.
    replays
        Names of recordings of which the replay has to come out as it does without the
        mutant, where tests let it pass.
    patience
        A test may take so many seconds, and ten times as long as recorded.
    """

    def __init__(
        self,
        root: Path,
        modules: Sequence[Module],
        recorded: Recorded,
        jobs: int = 1,
        seconds: float = math.inf,
        replays: Sequence[str] = (),
        patience: float = PATIENCE,
    ):
        self.root = root
        self.modules = modules
        self.recorded = recorded
        self.jobs = jobs
        self.seconds = seconds
        self.patience = patience
        self.replays = _in_a_fork(lambda: {name: replayed(name) for name in replays})
        # How many mutants a test has noticed: it may well notice the next
        self.notices: Counter[str] = Counter()

    def tests(self, mutant: Mutant) -> list[str]:
        """Return the tests that run a mutant, those first that tell soon."""
        found: set[str] = set()
        lines = concerned(mutant, self.modules)
        for path, numbers in lines.items():
            found |= self.recorded.tests(path, numbers)
        if not found and (mutant.constant or mutant.name.startswith("module:")):
            # It was run when the module was imported
            found = set(self.recorded.seconds)
        return sorted(found, key=self._cost)

    def _cost(self, test: str) -> tuple[float, str]:
        # What takes next to nothing is all the same
        seconds = max(self.recorded.seconds[test], 0.01)
        return seconds / (1 + self.notices[test]), test

    def run(
        self, mutants: Sequence[Mutant], until: Callable[[], bool] = lambda: False
    ) -> Generator[Outcome, None, None]:
        """Try mutants.

        Parameters
        ----------
        mutants
            What to try, in this order.
        until
            Whether no more of them is to be begun.

        Yields
        ------
        Outcome
            Of each, as soon as it is known.
        """
        waiting = list(reversed(mutants))
        running: dict[int, _Running] = {}
        with tempfile.TemporaryDirectory() as folder:
            try:
                while running or waiting:
                    while waiting and len(running) < self.jobs and not until():
                        begun = self._begin(waiting.pop(), Path(folder))
                        if isinstance(begun, Outcome):
                            yield begun
                        else:
                            running[begun.pipe] = begun
                    if not running:
                        return
                    yield from self._wait(running)
            finally:
                for one in running.values():
                    self._end(one)

    def check(self, tests: Sequence[str] = ()) -> None:
        """Try what is no mutant.

        Parameters
        ----------
        tests
            What must pass with it, by default those that take least.

        Raises
        ------
        ForkError
            If tests fail with it, for then they say nothing about others.
        """
        path = self.modules[0].path
        same = Mutant(path, "nothing", 1, 1, 0, 0, "")
        known = [test for test in tests if test in self.recorded.seconds]
        known = known or sorted(self.recorded.seconds, key=self._cost)[:CHECKED]
        with tempfile.TemporaryDirectory() as folder:
            one = self._fork(same, known, known, Path(folder))
            running = {one.pipe: one}
            try:
                while not (outcomes := list(self._wait(running))):
                    pass
            finally:
                for one in running.values():
                    self._end(one)
            if outcomes[0].noticed:
                log = one.log.read_text(encoding="utf-8", errors="replace")
                what = f"{outcomes[0].noticed} {outcomes[0].how} without a mutant"
                raise ForkError(f"{what}:\n{log[-3000:]}")

    def _begin(self, mutant: Mutant, folder: Path) -> _Running | Outcome:
        tests = self.tests(mutant)
        if not tests and not self.replays:
            return Outcome(mutant, None, "passes", 0, 0, 0.0)
        chosen: list[str] = []
        taken = 0.0
        for test in tests:
            taken += self.recorded.seconds[test]
            if chosen and taken > self.seconds:
                break
            chosen.append(test)
        return self._fork(mutant, tests, chosen, folder)

    def _fork(
        self, mutant: Mutant, tests: list[str], chosen: Sequence[str], folder: Path
    ) -> _Running:
        [module] = [module for module in self.modules if module.path == mutant.path]
        receive, send = os.pipe()
        now = time.monotonic()
        log = folder / f"{now}.log"
        pid = os.fork()
        if not pid:  # pragma: no cover
            code = 1
            try:
                os.setsid()
                os.close(receive)
                output = os.open(log, os.O_WRONLY | os.O_CREAT)
                os.dup2(output, 1)
                os.dup2(output, 2)
                os.chdir(module.root)
                divided = [*parts(chosen, self.recorded.seconds)]
                _child(module, mutant, divided, self.replays, send)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                # Nothing of the process that it was forked from may go on here
                os._exit(code)
        os.close(send)
        left = len(tests) - len(chosen)
        deadline = now + 2 * self.patience
        return _Running(mutant, pid, receive, tests, left, now, deadline, log)

    def _wait(self, running: dict[int, _Running]) -> Iterator[Outcome]:
        """Wait for the next message, and yield what has ended."""
        soonest = min(one.deadline for one in running.values())
        timeout = max(soonest - time.monotonic(), 0)
        ready, _, _ = select.select(list(running), [], [], timeout)
        for pipe in ready:
            one = running[pipe]
            data = os.read(pipe, 2**16)
            *lines, one.rest = (one.rest + data).split(b"\n")
            for words in map(json.loads, lines):
                one.said = words[0]
                if words[0] == "starts":
                    one.test = words[1]
                    seconds = self.recorded.seconds.get(words[1], 0)
                    longer = self.patience + LONGER * seconds
                    one.deadline = time.monotonic() + longer
                elif words[0] == "fails":
                    del running[pipe]
                    yield self._outcome(one, words[1], "fails")
                    break
            else:
                if not data:
                    del running[pipe]
                    if one.said == "passes":
                        yield self._outcome(one, None, "passes")
                    else:
                        how = "fails" if one.said == "ends" else "dies"
                        yield self._outcome(one, one.test or "import", how)
        for pipe, one in list(running.items()):
            if one.deadline <= time.monotonic():
                del running[pipe]
                yield self._outcome(one, one.test or "import", "hangs")

    def _outcome(self, one: _Running, noticed: str | None, how: str) -> Outcome:
        self._end(one)
        if noticed:
            self.notices[noticed] += 1
        seconds = time.monotonic() - one.start
        left = 0 if noticed else one.left
        return Outcome(
            one.mutant, noticed, how, len(one.tests), left, round(seconds, 2)
        )

    def _end(self, one: _Running) -> None:
        # It, and the workers that it may have started
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(one.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.kill(one.pid, signal.SIGKILL)
        os.waitpid(one.pid, 0)
        os.close(one.pipe)
