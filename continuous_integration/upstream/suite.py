"""Run upstream's tests with the base as released and with the fork, and compare.

Each module is run in a process of its own, with the base and with the fork in turn, and
recorded at once, so that an interruption loses one module. What differs is run again:

- tests alone, together with the others of their module that differ;
- whole modules, where it is not single tests that differ but how the module ended, and
  where a test fails with the fork among the others only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from continuous_integration.benchmarks.compare import Job, Record, machine, new_record
from continuous_integration.benchmarks.environments import (
    Environment,
    alone,
    clean_environ,
    identities,
    release_environment,
    separate_fork_environment,
    site_packages,
)
from continuous_integration.benchmarks.measure import REPOSITORY
from continuous_integration.benchmarks.progress import execute_visibly, say
from continuous_integration.benchmarks.workloads import Unavailable
from continuous_integration.figures import figures_option, write_figures
from continuous_integration.fork import ForkError
from continuous_integration.fork.project import read_project
from continuous_integration.upstream.checkout import (
    Checkout,
    clone,
    document,
    laid_out,
    open_checkout,
)
from continuous_integration.upstream.outcomes import (
    BROKEN,
    UNSETTLED,
    Results,
    read_outcomes,
    write_report,
)

BUILD = REPOSITORY / "build" / "upstream"

#: What upstream's tests need, or are skipped without.
REQUIREMENTS = (
    "asyncssh",
    "bokeh",
    "crick; sys_platform == 'linux' and python_version < '3.14'",
    "dask[array,dataframe]",
    "gilknocker",
    "h5py",
    "ipykernel",
    "ipywidgets",
    "jsonschema",
    "jupyter-server-proxy",
    "jupyterlab",
    "lz4",
    "memray; sys_platform != 'win32'",
    "netCDF4",
    "numba",
    "paramiko",
    "prometheus-client",
    "pytest",
    "pytest-repeat",
    "pytest-reportlog",
    "pytest-rerunfailures",
    "pytest-timeout",
    "python-snappy",
    "requests",
    "scikit-learn",
    "scipy",
    "setproctitle",
    "setuptools",
    "sparse",
    "uvloop; sys_platform != 'win32'",
    "zstandard",
)

#: Marker expressions of the two jobs that upstream's CI divides the suite into.
HALVES = {"1": "ci1", "2": "not ci1"}

#: How upstream's CI calls pytest. The time limits are in its settings; there it changes
#: the method for all systems that have signals.
_CI_OPTIONS = ("--leaks=fds,processes,threads",)
_SIGNALS = ("-o", "timeout_method=signal")

Run = Callable[[Sequence[Job]], list[Record]]


@dataclass(frozen=True)
class Suite:
    """How tests are run, and where.

    Attributes
    ----------
    sites : mapping
        Name of an environment -> the folder with its package and its tests.
    options : tuple of str
        Options of pytest.
    logs : Path
        Folder for what pytest prints.
    """

    sites: Mapping[str, Path]
    options: tuple[str, ...]
    logs: Path

    def run(self, jobs: Sequence[Job], timeout: float) -> list[Record]:
        """Do jobs one after the other; return their records.

        Parameters
        ----------
        jobs
            Their arguments are a module and, unless all of it is meant, tests.
        timeout
            Longest time for a job, in seconds.
        """
        return [self._run(job, timeout) for job in jobs]

    def _run(self, job: Job, timeout: float) -> Record:
        module, *tests = job.arguments
        site = self.sites[job.environment.name]
        start = time.monotonic()
        with (
            # Tests write where they are started; the report must be out of their way
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
            tempfile.TemporaryDirectory() as report_folder,
        ):
            report = Path(report_folder) / "report"
            command = [
                *(str(job.environment.python), "-m", "pytest"),
                *(f"--rootdir={site}", f"--report-log={report}"),
                *("-c", str(site / "pyproject.toml"), "-p", "no:cacheprovider"),
                *("--color=no", *self.options),
                # A path would make one slash of two, and names of tests have such
                *(f"{site}{os.sep}{one}" for one in tests or [module]),
            ]
            code = _wait(command, Path(folder), self._log(job), timeout)
            outcomes, reached = read_outcomes(report, module, code)
        return {
            **new_record(job),
            "seconds": round(time.monotonic() - start, 1),
            "module": module,
            "tests": tests,
            "outcomes": outcomes,
            "reached": reached,
        }

    def _log(self, job: Job) -> Path:
        module = job.arguments[0].removesuffix(".py").replace("/", ".")
        return self.logs / job.environment.name / f"{module}.log"


def _wait(
    command: Sequence[str], folder: Path, log: Path, timeout: float
) -> int | None:
    """Run a command and whatever it starts; return its exit code, None if killed."""
    environ = clean_environ(PYTHONDONTWRITEBYTECODE="1", DISABLE_IPV6="1")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as output:
        print(f"\n$ {' '.join(command)}", file=output, flush=True)
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={k: v for k, v in environ.items() if not k.startswith("PYTEST_")},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            print(f"\nkilled after {timeout:g} seconds", file=output)
            return None
        finally:
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process, and what it has left behind where that is known."""
    if sys.platform == "win32":
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def describe(record: Record) -> str:
    """Return one line on what a job gave.

    Parameters
    ----------
    record
        Of :meth:`Suite.run`.
    """
    module, outcomes = record["module"], dict(record["outcomes"])
    end = outcomes.pop(module, None)
    counts = [f"{n} {name}" for name, n in sorted(Counter(outcomes.values()).items())]
    text = f"{module}: {', '.join(counts) or 'no tests'}"
    if end is None:
        return text
    return f"{text}; {end} {record['reached']}".rstrip()


def run_all(
    contenders: Sequence[Environment],
    modules: Iterable[str],
    suite: str,
    repeats: int,
    run: Run,
) -> Results:
    """Run modules with the base and with the fork, and again what differs.

    Parameters
    ----------
    contenders
        The base and the fork.
    modules
        Modules of tests.
    suite
        Identity of the tests, and of how they are run.
    repeats
        How often to run again what differs.
    run
        Does jobs, or knows what they gave before.
    """

    def jobs(things: Iterable[tuple[str, ...]], repeat: int) -> list[Job]:
        # The one does not always come first
        return [
            Job(environment, "pytest", thing, repeat, suite)
            for number, thing in enumerate(things)
            for environment in contenders[:: -1 if (number + repeat) % 2 else 1]
        ]

    records = run(jobs([(module,) for module in modules], 0))
    differences = Results(records).differences()
    whole = {one.module for one in differences if one.needs_module}
    chosen: dict[str, list[str]] = {}
    for one in differences:
        if one.module not in whole:
            chosen.setdefault(one.module, []).append(one.test)
    things = [
        *((module,) for module in sorted(whole)),
        *((module, *tests) for module, tests in chosen.items()),
    ]
    records += run(
        [job for repeat in range(repeats) for job in jobs(things, repeat + 1)]
    )
    for repeat in range(1, repeats + 1):
        results = Results(records)
        doubtful = {x.module for x in results.differences() if x.depends_on_company}
        records += run(jobs([(module,) for module in sorted(doubtful)], repeat))
    return Results(records)


def _environments(parent: Path, report: Callable[[str], None]) -> list[Environment]:
    base = release_environment(
        read_project(REPOSITORY).base, parent, report, REQUIREMENTS
    )
    fork = separate_fork_environment(parent, report, REQUIREMENTS)
    return [Environment("base", *base), Environment("fork", *fork)]


def _checkout(folder: Path | None, make: bool) -> Checkout:
    base = read_project(REPOSITORY).base
    if folder is None:
        raise click.ClickException(
            "a git checkout of dask/distributed is needed: give its folder, or a new "
            f"folder and --clone, which fetches the tag {base}"
        )
    if make:
        say(f"cloning the tag {base}")
        clone(folder, base)
    return open_checkout(folder.resolve())


@click.command("test")
@click.argument(
    "folder",
    metavar="CHECKOUT",
    required=False,
    type=click.Path(path_type=Path),
)
@click.argument("names", nargs=-1, metavar="[MODULE]...")
@click.option(
    "--clone", "make", is_flag=True, help="Clone the base's tag into CHECKOUT first."
)
@click.option(
    "--half", type=click.Choice(list(HALVES)), help="One half, as upstream's CI does."
)
@click.option("--fast", is_flag=True, help="Skip the tests that are marked as slow.")
@click.option(
    "--repeats",
    default=5,
    show_default=True,
    type=click.IntRange(1),
    help="How often to run again what differs, in both.",
)
@click.option(
    "--timeout", default=3600.0, show_default=True, help="Seconds for one module."
)
@click.option("--fresh", is_flag=True, help="Forget what was run before.")
@click.option(
    "--environments",
    "parent",
    type=click.Path(file_okay=False, path_type=Path),
    default=BUILD / "environments",
    help="Folder of the environments.  [default: build/upstream/environments]",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=BUILD / "suite.md",
    help="The report; beside it go the same as JSON, what was run (.jsonl), and what "
    "pytest printed (-logs/).  [default: build/upstream/suite.md]",
)
@figures_option()
def command(
    folder: Path | None,
    names: tuple[str, ...],
    make: bool,
    half: str | None,
    fast: bool,
    repeats: int,
    timeout: float,
    fresh: bool,
    parent: Path,
    output: Path,
    figures: str | None,
) -> None:
    """Run upstream's tests with the base and with the fork, and compare.

    CHECKOUT is a git checkout of dask/distributed, of which the committed tests are
    used. MODULE is the path of a module in it, or the end of such a path; without any,
    all are run. What was run before an interruption is not run again.

    It fails if a test is broken by the fork, or the repeats do not settle that.
    """
    try:
        _test(
            _checkout(folder, make),
            names,
            _options(half, fast),
            repeats,
            timeout,
            fresh,
            parent.resolve(),
            output.resolve(),
            figures,
        )
    except (ForkError, Unavailable) as error:
        raise click.ClickException(str(error)) from None


def _options(half: str | None, fast: bool) -> tuple[str, ...]:
    return (
        *_CI_OPTIONS,
        *(() if fast else ("--runslow",)),
        *(() if sys.platform == "win32" else _SIGNALS),
        *(("-m", HALVES[half]) if half else ()),
    )


def _test(
    checkout: Checkout,
    names: Sequence[str],
    options: tuple[str, ...],
    repeats: int,
    timeout: float,
    fresh: bool,
    parent: Path,
    output: Path,
    figures: str | None,
) -> None:
    modules = checkout.select(names)
    logs = output.with_name(f"{output.stem}-logs")
    path = output.with_suffix(".jsonl")
    if fresh:
        path.unlink(missing_ok=True)
        shutil.rmtree(logs, ignore_errors=True)
    with alone(parent, say):
        contenders = _environments(parent, say)
        sites = {one.name: site_packages(one.python) for one in contenders}

        def run(jobs: Sequence[Job]) -> list[Record]:
            if not jobs:
                return []
            return execute_visibly(
                [[job] for job in jobs],
                path,
                fresh=False,
                timeout=timeout,
                describe=describe,
                run=Suite(sites, options, logs).run,
                announce=lambda job: f"{job.environment.name} {job.arguments[0]}",
            )

        identity = " ".join((checkout.commit, *options))
        with laid_out(checkout, list(sites.values())):
            document(sites["fork"])
            results = run_all(contenders, modules, identity, repeats, run)
    if figures:
        write_figures(
            figures,
            about=["distributed"],
            note=f"Upstream's tests at {checkout.description}, {len(modules)} modules.",
            head=("outcome", "base", "fork"),
            rows=results.outcomes(),
        )
    _conclude(results, checkout, contenders, options, output, logs)


def _conclude(
    results: Results,
    checkout: Checkout,
    contenders: Sequence[Environment],
    options: Sequence[str],
    output: Path,
    logs: Path,
) -> None:
    how = " ".join(("pytest", *(repr(x) if " " in x else x for x in options)))
    head = (
        f"Upstream's tests at {checkout.description} ({checkout.commit[:12]}), "
        f"`{how}`; {machine()}\n\n" + identities(contenders)
    )
    facts = {
        "machine": machine(),
        "checkout": {"commit": checkout.commit, "describe": checkout.description},
        "options": options,
        "environments": {one.name: one.identity for one in contenders},
    }
    click.echo(write_report(results, head, facts, output))
    click.echo(f"written to {output}; what pytest printed is in {logs}", err=True)
    if not results.totals("base")["passed"]:
        raise click.ClickException(f"no test passes with the base: see {logs}")
    verdicts = Counter(one.verdict for one in results.differences())
    if verdicts[BROKEN]:
        raise click.ClickException(f"{verdicts[BROKEN]} {BROKEN}")
    if verdicts[UNSETTLED]:
        raise click.ClickException(
            f"{verdicts[UNSETTLED]} unsettled: give more --repeats"
        )
