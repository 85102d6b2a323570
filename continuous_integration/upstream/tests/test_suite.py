"""Upstream's tests in two environments, on a small checkout of its like."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import psutil
import pytest
from click.testing import CliRunner, Result

from continuous_integration.benchmarks import environments
from continuous_integration.benchmarks.compare import Job, Record
from continuous_integration.benchmarks.environments import Environment
from continuous_integration.upstream import checkout, outcomes, suite
from continuous_integration.upstream.__main__ import main
from continuous_integration.upstream.outcomes import Pair, Results, read_outcomes

# A checkout that is not upstream's, but looks like it

SETTINGS = {
    "conftest.py": """
import pytest

def pytest_addoption(parser):
    parser.addoption("--runslow", action="store_true")
    parser.addoption("--leaks")

def pytest_collection_modifyitems(config, items):
    for item in items:
        if "slow" in item.keywords and not config.getoption("--runslow"):
            item.add_marker(pytest.mark.skip(reason="slow"))
""",
    "pyproject.toml": """
[tool.pytest.ini_options]
addopts = "--strict-markers --strict-config -p no:hypothesispytest -p no:zarr"
markers = ["ci1: first half", "slow: takes long"]
timeout_method = "thread"
timeout = 300
""",
    "distributed/__init__.py": "",
}

HEAD = """
import os
from pathlib import Path
import pytest

package = next(p for p in Path(__file__).parents if p.name == "distributed")
fork = (package / "flavour").read_text() == "fork"
"""

#: Has one test for each thing that may happen to tests.
OUTCOMES = (
    HEAD
    + r"""
before = []

def test_passes():
    before.append(1)

def test_is_well_installed():
    # The folder for what tests write is their own, the settings are upstream's
    assert not any(Path.cwd().iterdir())
    assert (package.parent / "conftest.py").exists()
    assert (package.parent / "docs" / "source" / "prometheus.rst").exists()
    assert not (package / "old" / "tests").exists()
    assert os.environ["DISABLE_IPV6"] == "1"
    assert "PYTEST_ADDOPTS" not in os.environ

def test_fails_in_both():
    assert False

@pytest.mark.parametrize("name", ["a|b[c]:://d"])
def test_broken(name):
    assert not fork

def test_mended():
    assert fork

def test_flaky():
    path = package / "flaky"
    if fork and not path.exists():
        path.touch()
        assert False

def test_broken_among_others():
    assert not (fork and before)

def test_skipped_with_the_fork():
    if fork:
        pytest.skip("no reason")

@pytest.mark.xfail
def test_expected():
    assert False

@pytest.fixture
def torn_down():
    yield
    assert False

def test_error(torn_down):
    pass
"""
)

MODULES = {
    "distributed/tests/test_outcomes.py": OUTCOMES,
    "distributed/tests/test_crash.py": HEAD
    + """
def test_first():
    pass

def test_second():
    if fork:
        os._exit(0)

def test_third():
    pass
""",
    "docs/source/prometheus.rst": "Work-stealing metrics\n" + 30 * "-" + "\n\nSome.\n",
    "docs/source/other.rst": "",
    "distributed/comm/tests/__init__.py": "",
    "distributed/comm/tests/data.bin": "data",
    "distributed/comm/tests/test_import.py": HEAD
    + """
if fork:
    import no_such_module

def test_one():
    assert Path(__file__).with_name("data.bin").exists()
""",
    "distributed/comm/tests/test_skipped.py": """
import pytest
pytest.importorskip("no_such_module")

def test_one():
    pass
""",
}


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-c", "user.name=n", "-c", "user.email=e", *arguments],
        cwd=folder,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def make_checkout(folder: Path, modules: Mapping[str, str], tag: str = "1.0") -> Path:
    for name, text in {**SETTINGS, **modules}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=all")
    git(folder, "tag", tag)
    return folder


def make_environments(parent: Path) -> list[Environment]:
    """Make two that have pytest, and packages that know which they are in."""
    found = []
    for name in ("base", "fork"):
        folder = parent / name
        venv.create(folder, symlinks=os.name != "nt")
        python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        site = environments.site_packages(python)
        (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
        (site / "distributed").mkdir()
        (site / "distributed" / "__init__.py").touch()
        (site / "distributed" / "flavour").write_text(name)
        found.append(Environment(name, python, f"{name} 1"))
    return found


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


class Bench:
    """Calls the command with a checkout and environments of its own."""

    def __init__(self, folder: Path, modules: Mapping[str, str]) -> None:
        self.folder = folder
        self.checkout = make_checkout(folder / "checkout", modules)
        self.environments = make_environments(folder / "environments")
        self.report = folder / "suite.md"

    def __call__(self, *arguments: str) -> Result:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(suite, "_environments", lambda *_: self.environments)
            patch.setenv("PYTEST_ADDOPTS", "--no-such-option")
            return call(
                *(str(self.checkout), *arguments),
                *("--environments", str(self.folder / "environments")),
                *("--output", str(self.report), "--repeats", "2"),
            )

    @property
    def json(self) -> Any:
        return json.loads(self.report.with_suffix(".json").read_text())

    @property
    def verdicts(self) -> dict[str, str]:
        verdicts = {}
        for one in self.json["differences"]:
            module, colons, test = one["test"].partition("::")
            verdicts[module.rpartition("/")[2] + colons + test] = one["verdict"]
        return verdicts


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["test", *arguments])


def last_line(result: Result) -> str:
    assert result.exit_code == 1, result.output
    return result.output.splitlines()[-1]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("suite"), MODULES)


@pytest.fixture(scope="module")
def before(bench: Bench) -> dict[str, tuple[int, int]]:
    # As if the computer had been switched off in the middle
    left = bench.folder / "environments" / "fork"
    [package] = [path.parent for path in left.rglob("distributed/flavour")]
    (package / "old" / "tests").mkdir(parents=True)
    (package / "old" / "tests" / "test_old.py").touch()
    return files(bench.checkout)


@pytest.fixture(scope="module")
def result(bench: Bench, before: object) -> Result:
    return bench()


# The whole command


def test_every_difference_has_a_verdict(bench: Bench, result: Result) -> None:
    assert last_line(result) == "Error: 4 broken by the fork"
    assert bench.verdicts == {
        "test_outcomes.py::test_broken[a|b[c]:://d]": "broken by the fork",
        "test_outcomes.py::test_mended": "mended by the fork",
        "test_outcomes.py::test_flaky": "flaky",
        "test_outcomes.py::test_broken_among_others": "broken by the fork",
        "test_outcomes.py::test_skipped_with_the_fork": "different",
        "test_crash.py": "broken by the fork",
        "test_import.py": "broken by the fork",
    }
    shown = {
        one["test"].rpartition("::")[2]: (one["whole"], one["alone"])
        for one in bench.json["differences"]
    }
    assert shown["test_mended"] == (
        # All of the module is run again, for the sake of another test
        {"base": ["failed"] * 3, "fork": ["passed"] * 3},
        {"base": ["failed"] * 2, "fork": ["passed"] * 2},
    )
    assert shown["test_broken_among_others"] == (
        {"base": ["passed"] * 3, "fork": ["failed"] * 3},
        {"base": ["passed"] * 2, "fork": ["passed"] * 2},
    )


def test_totals_and_modules_that_did_not_end(bench: Bench, result: Result) -> None:
    content = bench.json
    assert content["totals"]["base"] == {
        "passed": 10,
        "failed": 2,
        "error": 1,
        "xfailed": 1,
        "skipped": 1,
    }
    assert content["totals"]["fork"] == {
        "passed": 4,
        "failed": 4,
        "error": 2,
        "xfailed": 1,
        "skipped": 2,
        "crashed": 1,
        # two behind the crash, and one that cannot be imported
        "not run": 3,
    }
    assert content["unfinished"] == [
        ["distributed/comm/tests/test_import.py", "run", "error"],
        ["distributed/tests/test_crash.py", "run", "crashed"],
    ]
    assert [name.rpartition("::")[2] for name in content["fail in both"]] == [
        "test_fails_in_both",
        "test_error",
    ]
    assert content["environments"] == {"base": "base 1", "fork": "fork 1"}


def test_report_is_a_table(bench: Bench, result: Result) -> None:
    text = bench.report.read_text()
    assert "Upstream's tests at 1.0 (" in text
    assert "| not run | 0 | 3 |" in text
    assert (
        "| distributed/tests/test_outcomes.py::test_broken[a&#124;b[c]:://d] "
        "| passed → failed |"
    ) in text
    assert "| distributed/tests/test_crash.py | run | crashed |" in text
    assert text in result.output
    assert "crashed in distributed/tests/test_crash.py::test_second" in result.output


def test_all_output_is_in_a_log(bench: Bench, result: Result) -> None:
    log = bench.folder / "suite-logs" / "fork" / "distributed.tests.test_outcomes.log"
    assert "test_broken_among_others" in log.read_text()
    assert "--runslow" in log.read_text()


def test_nothing_of_the_checkout_is_kept(
    bench: Bench, before: object, result: Result
) -> None:
    assert files(bench.checkout) == before
    assert git(bench.checkout, "status", "--porcelain", "--ignored") == ""
    for environment in bench.environments:
        site = environments.site_packages(environment.python)
        left = [p for p in site.rglob("*") if "__pycache__" not in p.parts]
        assert {path.relative_to(site).as_posix() for path in left} <= {
            "distributed",
            "distributed/__init__.py",
            "distributed/comm",
            "distributed/flaky",
            "distributed/flavour",
            "distributed/old",
            "libraries.pth",
        }


def test_goes_on_where_it_was(
    bench: Bench, result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that was run is known, and told again."""
    report = bench.report.read_text()
    with monkeypatch.context() as patch:
        patch.setattr(suite.Suite, "_run", lambda *_: pytest.fail("run again"))
        again = bench()
    assert last_line(again) == last_line(result)
    assert bench.report.read_text() == report


# Options and interruptions, on fewer tests

HALF = """
import os
import pytest

@pytest.mark.ci1
def test_first():
    pass

@pytest.mark.slow
def test_second():
    pass
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    modules = {
        "distributed/tests/test_a.py": HALF,
        "distributed/comm/tests/test_a.py": HALF,
        "distributed/tests/test_b.py": HALF,
    }
    return Bench(tmp_path_factory.mktemp("small"), modules)


def test_halves(small: Bench) -> None:
    module = "distributed/tests/test_a.py"
    result = small(module, "--half", "1")
    assert result.exit_code == 0, result.output
    assert small.json["totals"] == {"base": {"passed": 1}, "fork": {"passed": 1}}
    assert "No test's outcome differs." in small.report.read_text()
    result = small(module, "--half", "2")
    assert result.exit_code == 0, result.output
    assert small.json["totals"] == {"base": {"passed": 1}, "fork": {"passed": 1}}
    # Else nothing was compared
    result = small(module, "--half", "2", "--fast")
    assert last_line(result).startswith("Error: no test passes with the base: see ")
    assert small.json["totals"] == {"base": {"skipped": 1}, "fork": {"skipped": 1}}


def fake_run(
    calls: list[tuple[str, str]],
) -> Callable[[suite.Suite, Job, float], Record]:
    def run(self: suite.Suite, job: Job, timeout: float) -> Record:
        calls.append((job.environment.name, job.arguments[0]))
        return {
            "key": job.key,
            "contender": job.environment.name,
            "module": job.arguments[0],
            "tests": [],
            "outcomes": {"test_a": "passed"},
            "reached": "",
        }

    return run


def test_interrupted(small: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str]] = []
    run = fake_run(calls)

    def interrupted(self: suite.Suite, job: Job, timeout: float) -> Record:
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(self, job, timeout)

    monkeypatch.setattr(suite.Suite, "_run", interrupted)
    result = small("--fresh")
    assert last_line(result) == "Error: interrupted; the same command goes on from here"
    first = list(calls)
    site = environments.site_packages(small.environments[1].python)
    assert not [*site.rglob("tests")]
    assert not (site / "conftest.py").exists()
    monkeypatch.setattr(suite.Suite, "_run", run)
    result = small()
    assert result.exit_code == 0, result.output
    # The one and the other come first in turn, and each is run once
    assert calls == [
        ("base", "distributed/comm/tests/test_a.py"),
        ("fork", "distributed/comm/tests/test_a.py"),
        ("fork", "distributed/tests/test_a.py"),
        ("base", "distributed/tests/test_a.py"),
        ("base", "distributed/tests/test_b.py"),
        ("fork", "distributed/tests/test_b.py"),
    ]
    assert calls[:3] == first
    small("--fresh")
    assert len(calls) == 12
    # Another fork, other tests, or other options are run by themselves
    small("--fast")
    assert len(calls) == 18
    base, fork = small.environments
    monkeypatch.setattr(
        small, "environments", [base, Environment("fork", fork.python, "fork 2")]
    )
    small()
    assert calls[18:] == [one for one in calls[:6] if one[0] == "fork"]
    git(small.checkout, "commit", "--allow-empty", "--quiet", "--message=more")
    small()
    assert len(calls) == 27


def test_modules_are_named_by_their_ends(
    small: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str]] = []
    monkeypatch.setattr(suite.Suite, "_run", fake_run(calls))

    def ran(*names: str) -> set[str]:
        calls.clear()
        result = small(*names, "--fresh")
        assert result.exit_code == 0, result.output
        return {module for _, module in calls}

    assert ran("test_b.py") == {"distributed/tests/test_b.py"}
    assert ran("distributed/tests/test_a.py") == {"distributed/tests/test_a.py"}
    assert ran("comm/tests/test_a.py") == {"distributed/comm/tests/test_a.py"}
    assert len(ran("test_a.py")) == 2
    assert last_line(small("test_b.py", "st_a.py")) == (
        f"Error: no module of tests st_a.py in {small.checkout}: give a path such as "
        "distributed/comm/tests/test_a.py"
    )


def test_a_module_that_hangs(small: Bench, tmp_path: Path) -> None:
    """It is killed with all that it has started, and says so."""
    base = small.environments[0]
    site = tmp_path / "site"
    make_checkout(
        site,
        {
            "distributed/tests/test_hangs.py": f"""
import subprocess, sys, threading
from pathlib import Path

def test_first():
    pass

def test_hangs():
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    child = subprocess.Popen(command)
    Path({str(tmp_path / "new")!r}).write_text(str(child.pid))
    Path({str(tmp_path / "new")!r}).rename({str(tmp_path / "pid")!r})
    child.wait()
"""
        },
    )
    one = suite.Suite({"base": site}, (), tmp_path / "logs")
    job = Job(base, "pytest", ("distributed/tests/test_hangs.py",), 0)
    timeout = 1.0
    # However slow this machine is, at last it gets so far
    while not (tmp_path / "pid").exists():
        timeout *= 2
        [record] = one.run([job], timeout)
    pid = int((tmp_path / "pid").read_text())
    if psutil.pid_exists(pid):
        assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert record["outcomes"] == {
        "distributed/tests/test_hangs.py": "timed out",
        "distributed/tests/test_hangs.py::test_first": "passed",
    }
    assert suite.describe(record) == (
        "distributed/tests/test_hangs.py: 1 passed; timed out in "
        "distributed/tests/test_hangs.py::test_hangs"
    )
    [log] = (tmp_path / "logs").rglob("*.log")
    assert f"killed after {timeout:g} seconds" in log.read_text()


def test_settings_that_pytest_refuses(small: Bench, tmp_path: Path) -> None:
    site = make_checkout(
        tmp_path / "site", {"distributed/tests/test_a.py": HALF, "conftest.py": "1 / 0"}
    )
    one = suite.Suite({"base": site}, (), tmp_path / "logs")
    module = "distributed/tests/test_a.py"
    [record] = one.run([Job(small.environments[0], "pytest", (module,), 0)], 600)
    assert record["outcomes"] == {module: "error"}
    assert suite.describe(record) == f"{module}: no tests; error"


# What repeats mean

P, F = "passed", "failed"


@pytest.mark.parametrize(
    ("base", "fork", "meaning"),
    [
        ([P, P], [F, F], outcomes.BROKEN),
        ([P, P], [F, "timed out"], outcomes.BROKEN),
        ([P, "skipped"], [F, "missing"], outcomes.BROKEN),
        ([F, F], [P, P], outcomes.MENDED),
        ([P, P], [P, P], outcomes.FLAKY),
        ([F, F], [F, F], outcomes.FLAKY),
        ([F, P], [P, F], outcomes.FLAKY),
        ([F, P], [P, P], outcomes.FLAKY),
        # Only the fork fails, if not always
        ([P, P], [P, F], outcomes.UNSETTLED),
        # The fork always fails, the base does not
        ([P, F], [F, F], outcomes.UNSETTLED),
        ([P, P], ["skipped", "skipped"], outcomes.DIFFERENT),
        ([], [F], outcomes.UNSETTLED),
        ([P], [], outcomes.UNSETTLED),
    ],
)
def test_meaning(base: list[str], fork: list[str], meaning: str) -> None:
    assert Pair(base, fork).meaning() == meaning


def settle(
    outcome: Callable[[str, tuple[str, ...], int], dict[str, str]], repeats: int = 5
) -> tuple[Results, list[tuple[str, tuple[str, ...], int]]]:
    """Run one module whose outcomes a function makes; return also what was run."""
    contenders = [Environment(x, Path(sys.executable), x) for x in ("base", "fork")]
    ran = []

    def run(jobs: Sequence[Job]) -> list[Record]:
        records = []
        for job in jobs:
            module, *tests = job.arguments
            name = job.environment.name
            ran.append((name, tuple(tests), job.repeat))
            records.append(
                {
                    "contender": name,
                    "module": module,
                    "tests": tests,
                    "outcomes": outcome(name, tuple(tests), job.repeat),
                }
            )
        return records

    return suite.run_all(contenders, ["m"], "1", repeats, run), ran


def test_repeats_are_run_in_both() -> None:
    results, ran = settle(
        lambda name, tests, repeat: {"m::a": P, "m::b": F if name == "fork" else P}
    )
    assert sorted(ran) == [
        *[("base", (), 0), *(("base", ("m::b",), n) for n in range(1, 6))],
        *[("fork", (), 0), *(("fork", ("m::b",), n) for n in range(1, 6))],
    ]
    [difference] = results.differences()
    assert difference.verdict == outcomes.BROKEN
    assert difference.alone == Pair([P] * 5, [F] * 5)


def test_no_repeats_where_nothing_differs() -> None:
    results, ran = settle(lambda *_: {"m::a": P, "m::b": F})
    assert len(ran) == 2
    assert results.differences() == []
    assert results.failures() == ["m::b"]


def test_flaky_with_the_base() -> None:
    """A test that fails with the base only is not tried among others."""
    results, ran = settle(
        lambda name, tests, repeat: {"a": F if (name, repeat) == ("base", 0) else P}
    )
    assert [one.verdict for one in results.differences()] == [outcomes.FLAKY]
    assert len(ran) == 12


def test_flaky_in_both() -> None:
    """Then nothing is left to find out among others."""

    def outcome(name: str, tests: tuple[str, ...], repeat: int) -> dict[str, str]:
        fails = repeat == 1 if tests else name == "fork"
        return {"a": F if fails else P}

    results, ran = settle(outcome)
    assert [one.verdict for one in results.differences()] == [outcomes.FLAKY]
    assert len(ran) == 12


@pytest.mark.parametrize("alone", [P, F])
@pytest.mark.parametrize(
    ("passes_at", "verdict", "runs"),
    [(1, outcomes.FLAKY, 1), (3, outcomes.FLAKY, 3), (9, outcomes.BROKEN, 5)],
)
def test_fails_among_others(
    passes_at: int, verdict: str, runs: int, alone: str
) -> None:
    """The whole module is run until the fork has passed once."""

    def outcome(name: str, tests: tuple[str, ...], repeat: int) -> dict[str, str]:
        if tests:
            return {"a": alone}
        return {"a": F if name == "fork" and repeat < passes_at else P}

    results, ran = settle(outcome)
    [difference] = results.differences()
    assert difference.verdict == verdict
    assert [one for one in ran if one[:2] == ("fork", ())] == [
        ("fork", (), repeat) for repeat in range(runs + 1)
    ]


def test_crash_is_repeated_as_a_whole() -> None:
    def outcome(name: str, tests: tuple[str, ...], repeat: int) -> dict[str, str]:
        if (name, repeat) == ("fork", 0):
            return {"a": P, "m": "crashed"}
        return {"a": P, "b": P}

    results, ran = settle(outcome)
    assert {tests for _, tests, _ in ran} == {()}
    # b was not reached; that it is missing is no difference by itself
    [difference] = results.differences()
    assert (difference.test, difference.verdict) == ("m", outcomes.FLAKY)
    assert difference.whole.fork == ["crashed"] + ["run"] * 5
    assert results.totals("fork") == {P: 1, "crashed": 1, "not run": 1}
    assert results.unfinished() == [("m", "run", "crashed")]


def test_crash_in_both_is_told() -> None:
    results, ran = settle(lambda *_: {"m": "crashed"})
    assert len(ran) == 2
    assert results.differences() == []
    assert results.unfinished() == [("m", "crashed", "crashed")]


def test_crash_of_repeats() -> None:
    """Where tests bring the process down when they are alone, they have failed."""

    def outcome(name: str, tests: tuple[str, ...], repeat: int) -> dict[str, str]:
        if name == "base":
            return {"a": P, "b": P}
        return {"a": P, "m": "crashed"} if tests else {"a": F, "b": F}

    results, _ = settle(outcome)
    verdicts = {one.test: one.verdict for one in results.differences()}
    assert verdicts["b"] == outcomes.BROKEN


def test_missing_test() -> None:
    results, ran = settle(
        lambda name, *_: {"a": P} if name == "fork" else {"a": P, "b": P}
    )
    assert {tests for _, tests, _ in ran} == {()}
    [difference] = results.differences()
    assert difference.whole.fork == ["missing"] * 6
    assert difference.verdict == outcomes.BROKEN
    assert results.totals("fork") == {P: 1, "missing": 1}


def test_unsettled_fails_the_command(
    small: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(self: suite.Suite, job: Job, timeout: float) -> Record:
        fails = job.environment.name == "fork" and job.repeat < 2
        return {
            "key": job.key,
            "contender": job.environment.name,
            "module": job.arguments[0],
            "tests": list(job.arguments[1:]),
            "outcomes": {"a": F if fails else P, "b": P},
            "reached": "",
        }

    monkeypatch.setattr(suite.Suite, "_run", run)
    result = small("test_b.py", "--fresh")
    assert last_line(result) == "Error: 1 unsettled: give more --repeats"


# What pytest reports


def line(**values: Any) -> str:
    return json.dumps(values) + "\n"


def phase(test: str, when: str, outcome: str, **more: Any) -> str:
    return line(
        **{"$report_type": "TestReport", "nodeid": test, "when": when},
        outcome=outcome,
        **more,
    )


END = line(**{"$report_type": "SessionFinish", "exitstatus": 1})


@pytest.mark.parametrize(
    ("text", "code", "expected"),
    [
        (END, 0, {}),
        (END, 5, {}),
        (END, -11, {"m": "crashed"}),
        (END, 3, {"m": "crashed"}),
        ("", 0, {"m": "crashed"}),
        ("", 4, {"m": "error"}),
        ("", None, {"m": "timed out"}),
        (phase("a", "call", P) + '{"$repo', -9, {"a": P, "m": "crashed"}),
        # Interrupted from within
        (phase("a", "call", P) + END, 2, {"a": P, "m": "crashed"}),
        # A failure stays one, whatever comes after it
        (phase("a", "call", F) + phase("a", "teardown", F) + END, 1, {"a": F}),
        (phase("a", "call", P) + phase("a", "teardown", F) + END, 1, {"a": "error"}),
        (phase("a", "setup", "skipped") + END, 0, {"a": "skipped"}),
        (phase("a", "call", "skipped", wasxfail="") + END, 0, {"a": "xfailed"}),
        (phase("a", "call", P, wasxfail="") + END, 0, {"a": "xpassed"}),
        # A test that its own mark lets try again
        (
            phase("a", "call", "rerun")
            + phase("a", "setup", P)
            + phase("a", "call", P)
            + END,
            0,
            {"a": P},
        ),
    ],
)
def test_read_outcomes(
    text: str, code: int | None, expected: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "report").write_text(text)
    found, reached = read_outcomes(tmp_path / "report", "m", code)
    assert found == expected
    over = '"teardown"' in text
    assert reached == (f"{'after' if over else 'in'} a" if "a" in expected else "")


def test_read_outcomes_of_nothing(tmp_path: Path) -> None:
    assert read_outcomes(tmp_path / "none", "m", 1) == ({"m": "crashed"}, "")


# The checkout


def test_without_a_checkout(tmp_path: Path) -> None:
    assert last_line(call()).startswith(
        "Error: a git checkout of dask/distributed is needed: give its folder, or "
    )
    assert last_line(call(str(tmp_path / "none"))).startswith(
        f"Error: no folder {tmp_path / 'none'}: give a git checkout of https://"
    )


def test_no_checkout_of_upstream(tmp_path: Path) -> None:
    refusal = "is not the root of a git checkout of https://"
    (tmp_path / "empty").mkdir()
    # Nothing above it may be one
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
        text = last_line(call(str(tmp_path / "empty")))
    assert refusal in text
    assert "not a git repository" in text
    good = make_checkout(tmp_path / "good", {"distributed/tests/test_a.py": HALF})
    checkout.open_checkout(good)
    # As this project is, without the package itself
    ours = make_checkout(tmp_path / "ours", {"distributed/tests/test_a.py": HALF})
    git(ours, "rm", "--quiet", "distributed/__init__.py")
    git(ours, "commit", "--quiet", "--message=less")
    for folder in (good / "distributed", ours):
        assert refusal in last_line(call(str(folder)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        assert last_line(call(str(good))) == "Error: git is needed: install it"


def test_only_what_is_committed_counts(tmp_path: Path) -> None:
    folder = make_checkout(tmp_path / "one", {"distributed/tests/test_a.py": HALF})
    (folder / "distributed" / "tests" / "test_new.py").touch()
    (folder / "distributed" / "tests" / "test_a.py").write_text("changed")
    site = tmp_path / "site"
    site.mkdir()
    found = checkout.open_checkout(folder)
    assert found.modules == ["distributed/tests/test_a.py"]
    with checkout.laid_out(found, [site]):
        assert (site / found.modules[0]).read_text() == HALF
    assert not (site / found.modules[0]).exists()


def test_pages_that_tests_read(tmp_path: Path) -> None:
    """They say of the fork what the fork has them say."""
    page = tmp_path / "site" / "docs" / "source" / "prometheus.rst"
    # There may be no such page
    checkout.document(tmp_path / "site")
    page.parent.mkdir(parents=True)
    page.write_text("Metrics\n-------\n\ndask_one\n    Theirs\n")
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / page.name).write_text(".. section: Metrics\n\ndask_two\n    Ours\n")
    checkout.document(tmp_path / "site", parts)
    lines = page.read_text().splitlines()
    assert lines.index("dask_one") < lines.index("dask_two")


def test_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {"distributed/tests/test_a.py": HALF}
    origin = make_checkout(tmp_path / "origin", modules, tag="2.0")
    monkeypatch.setattr(checkout, "URL", origin.as_uri())
    target = tmp_path / "clone"
    checkout.clone(target, "2.0")
    found = checkout.open_checkout(target)
    assert (found.description, found.modules) == ("2.0", list(modules))
    with pytest.raises(click.ClickException, match="is there already: use it without"):
        checkout.clone(target, "2.0")
    other = tmp_path / "other"
    with pytest.raises(click.ClickException) as caught:
        checkout.clone(other, "3.0")
    assert "3.0 not found" in caught.value.message
    assert caught.value.message.endswith(
        "give a checkout of its tag 3.0 that was made elsewhere"
    )
    assert "\n" not in caught.value.message
    monkeypatch.setattr(checkout, "URL", (tmp_path / "nowhere").as_uri())
    text = last_line(call(str(other), "--clone"))
    assert "nowhere cannot be cloned: '/" in text
    assert not other.exists()


# Environments


def test_separate_environment_follows_base_and_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def run(*command: str | Path) -> str:
        ran.append(" ".join(map(str, command[1:])))
        if "venv" in command:
            Path(command[-1]).mkdir()
        return "lib==1\nold @ file:///\n"

    source = ["1"]
    monkeypatch.setattr(environments, "_run", run)
    monkeypatch.setattr(environments, "source_identity", lambda: source[0])
    reports: list[str] = []

    def make(*libraries: str) -> str:
        ran.clear()
        python, identity = environments.separate_fork_environment(
            tmp_path, reports.append, libraries
        )
        assert python.is_relative_to(tmp_path)
        return identity

    first = make("lib")
    assert [one for one in ran if "install" in one][1:] == [
        "-m pip install --quiet --no-deps lib==1",
        f"-m pip install --quiet --no-deps --force-reinstall {environments.REPOSITORY}",
    ]
    assert make("lib") == first
    assert ran == []
    source[0] = "2"
    assert make("lib") != first
    assert len(ran) == 1
    assert "--force-reinstall" in ran[0]
    make("lib", "more")
    assert next(x for x in ran if "install" in x).endswith("lib more")

    # One that stopped in the middle is not taken for what it was
    def fail(*command: str | Path) -> str:
        raise environments.Unavailable("sorry")

    source[0] = "1"
    with monkeypatch.context() as patch:
        patch.setattr(environments, "_run", fail)
        with pytest.raises(environments.Unavailable, match="sorry"):
            make("lib", "more")
    source[0] = "2"
    make("lib", "more")
    assert len(ran) == 1


def test_failed_installation_is_one_line(
    small: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> list[Environment]:
        raise environments.Unavailable("`pip install` failed: sorry")

    monkeypatch.setattr(suite, "_environments", fail)
    parent = small.folder / "environments"
    result = call(str(small.checkout), "--environments", str(parent))
    assert last_line(result) == "Error: `pip install` failed: sorry"


@pytest.mark.skipif(os.name == "nt", reason="there is no such lock")
def test_one_at_a_time(tmp_path: Path) -> None:
    import fcntl

    reports = []
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def report(message: str) -> None:
            reports.append(message)
            fcntl.flock(file, fcntl.LOCK_UN)

        with environments.alone(tmp_path, report):
            pass
    assert reports == [f"waiting for another process that uses {tmp_path}"]
