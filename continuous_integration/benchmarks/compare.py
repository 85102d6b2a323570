"""Run contenders turn about, keep what was measured, and compare medians.

Runs are done in Python processes of the contenders: each in one of its own, or all of
one repetition in one that stays. What a run measured is appended at once to a file of
JSON lines, so that an interruption loses one run and the next start goes on from there.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import statistics
import subprocess
import tempfile
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from continuous_integration.benchmarks.environments import (
    Environment,
    clean_environ,
    measuring_identity,
)
from continuous_integration.benchmarks.ours import REPOSITORY

#: Fields of a measurement that are compared, with their headings and, in their own
#: unit, how much the medians may differ whatever the limit says: two chunks, or what
#: timers and the memory of processes do by themselves.
METRICS = {
    "peak_managed": ("peak managed (MB)", 4.2),
    "peak_process": ("peak process (MB)", 25.0),
    "moved": ("moved (MB)", 4.2),
    "seconds": ("time (s)", 0.1),
}

#: How long a process works until the next one does, in seconds: short beside what
#: changes the speed of a machine, and long beside the time to fill its caches.
TURN = 0.1

Record = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One run that is to be done.

    Attributes
    ----------
    environment : Environment
        Where it runs.
    module : str
        Module that is run with ``-m``; it prints one JSON object.
    arguments : tuple of str
        Its arguments.
    repeat : int
        Which repetition it is; also the seed of the hashes of strings, so that the
        contenders of one repetition have the same.
    measuring : str
        Identity of what measures.
    """

    environment: Environment
    module: str
    arguments: tuple[str, ...]
    repeat: int
    measuring: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """What tells this run from all others."""
        environment = self.environment
        return (
            environment.name,
            environment.identity,
            self.measuring,
            self.module,
            *self.arguments,
            str(self.repeat),
        )


def turns(
    contenders: Sequence[Environment],
    module: str,
    arguments: Iterable[Sequence[str]],
    repeats: int,
) -> list[list[Job]]:
    """Return the runs that belong together, in the order A B, B A, A B ...

    Parameters
    ----------
    contenders
        Environments.
    module
        Module that is run.
    arguments
        Arguments of each thing that is to be run in each environment.
    repeats
        How often.
    """
    every = [tuple(one) for one in arguments]
    measuring = measuring_identity()
    return [
        [
            Job(environment, module, one, repeat, measuring)
            for environment in contenders[:: -1 if repeat % 2 else 1]
        ]
        for repeat in range(repeats)
        for one in every
    ]


def read_records(path: Path) -> dict[tuple[str, ...], Record]:
    """Return what was measured by the key of its run; a torn last line is left out."""
    records: dict[tuple[str, ...], Record] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            records[tuple(record["key"])] = record
    return records


def _start(
    job: Job,
    arguments: Sequence[str],
    errors: IO[str],
    stdin: int = subprocess.PIPE,
    stdout: int | IO[str] = subprocess.PIPE,
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(job.environment.python), "-m", job.module, *arguments],
        cwd=REPOSITORY,
        env=clean_environ(
            PYTHONHASHSEED=str(job.repeat + 1), **dict(job.environment.variables)
        ),
        stdin=stdin,
        stdout=stdout,
        stderr=errors,
        text=True,
    )


def _tell(process: subprocess.Popen[str], line: str) -> None:
    """Write a line to a process. If it died, what it printed will tell."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.write(line + "\n")
        process.stdin.flush()


@contextlib.contextmanager
def _time_limit(process: subprocess.Popen[str], timeout: float) -> Iterator[Record]:
    """Kill a process that takes too long; yield a record that then has the error."""
    late: Record = {}

    def give_up() -> None:
        late["error"] = f"took longer than {timeout:g} seconds"
        process.kill()

    timer = threading.Timer(timeout, give_up)
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def _measured(line: str) -> Record | None:
    """Return the JSON object on a line, if it holds one."""
    try:
        measured = json.loads(line)
    except ValueError:
        return None
    return measured if isinstance(measured, dict) else None


def _complaint(lines: Iterable[str], errors: IO[str]) -> Record:
    """Return a record with the last thing that a process had to say."""
    errors.seek(0)
    lines = [line for line in (*lines, *errors) if line.strip()]
    return {"error": lines[-1].strip() if lines else "it printed nothing"}


def new_record(job: Job) -> Record:
    """Return what every record has: which run it is of, and when that was recorded."""
    return {
        "key": job.key,
        "contender": job.environment.name,
        "repeat": job.repeat,
        "when": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


class _Run:
    """The process of one job, which works in turns, and what it prints."""

    def __init__(self, job: Job, output: IO[str], errors: IO[str]):
        self.output = output
        self.errors = errors
        self.worked = 0.0
        self.process = _start(job, job.arguments, errors, subprocess.DEVNULL, output)
        self.suspend()

    def suspend(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(self.process.pid).suspend()

    def take_turn(self, length: float) -> bool:
        """Let the process work for so many seconds; return whether it ended."""
        start = time.monotonic()
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(self.process.pid).resume()
        try:
            self.process.wait(length)
        except subprocess.TimeoutExpired:
            self.suspend()
            return False
        finally:
            self.worked += time.monotonic() - start
        return True

    def result(self) -> Record:
        """Return what the process measured, or what it complained about."""
        self.output.seek(0)
        lines = self.output.read().splitlines()
        measured = _measured(lines[-1]) if lines else None
        if self.process.returncode == 0 and measured is not None:
            return measured
        return _complaint(lines, self.errors)

    def kill(self) -> None:
        """End the process, if it has not ended."""
        self.process.kill()
        self.process.wait()


def run_together(jobs: Sequence[Job], timeout: float) -> list[Record]:
    """Run jobs, each in a process of its own, in turns; return their records.

    One process works at a time, for :data:`TURN` seconds; the others are suspended,
    but not processes that they have started.

    A run that fails, or works for longer than ``timeout`` seconds, gives a record with
    ``error``, which the next start tries again.
    """
    records = [new_record(job) for job in jobs]
    with contextlib.ExitStack() as stack:
        waiting: deque[tuple[_Run, Record]] = deque()
        for job, record in zip(jobs, records):
            output = stack.enter_context(tempfile.TemporaryFile("w+"))
            errors = stack.enter_context(tempfile.TemporaryFile("w+"))
            run = _Run(job, output, errors)
            stack.callback(run.kill)
            waiting.append((run, record))
        while waiting:
            run, record = waiting.popleft()
            length = TURN if waiting else timeout - run.worked
            if run.take_turn(length):
                record.update(run.result())
            elif run.worked >= timeout:
                record["error"] = f"took longer than {timeout:g} seconds"
            else:
                waiting.append((run, record))
    return records


class Servers:
    """Processes that stay, one for each environment: they import everything once.

    Their module's command ``serve`` takes the arguments of a run as a JSON list on a
    line, and answers with a JSON object on a line. Each repetition has new processes.
    """

    def __init__(self) -> None:
        self._servers: dict[str, tuple[int, subprocess.Popen[str], IO[str]]] = {}
        self._files = contextlib.ExitStack()

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *args: object) -> None:
        for name in list(self._servers):
            self._stop(name)
        self._files.close()

    def run(self, jobs: Sequence[Job], timeout: float) -> list[Record]:
        """Do jobs one after the other; return their records.

        A run that fails, or takes longer than ``timeout`` seconds, gives a record with
        ``error``, which the next start tries again.
        """
        return [{**new_record(job), **self._run(job, timeout)} for job in jobs]

    def _run(self, job: Job, timeout: float) -> Record:
        name = job.environment.name
        process, errors = self._server(job)
        lines = []
        with _time_limit(process, timeout) as late:
            _tell(process, json.dumps(job.arguments))
            assert process.stdout is not None
            for line in process.stdout:
                if (measured := _measured(line)) is not None:
                    return measured
                lines.append(line)
        self._stop(name)
        return late or _complaint(lines, errors)

    def _server(self, job: Job) -> tuple[subprocess.Popen[str], IO[str]]:
        name = job.environment.name
        if name in self._servers and self._servers[name][0] != job.repeat:
            self._stop(name)
        if name not in self._servers:
            file = tempfile.TemporaryFile("w+")  # noqa: SIM115
            errors: IO[str] = self._files.enter_context(file)
            process = _start(job, ["serve"], errors)
            self._servers[name] = job.repeat, process, errors
        return self._servers[name][1:]

    def _stop(self, name: str) -> None:
        _, process, _ = self._servers.pop(name)
        process.kill()
        process.communicate()


def execute(
    batches: Sequence[Sequence[Job]],
    path: Path,
    *,
    timeout: float = 600,
    started: Callable[[Job], None] = lambda job: None,
    finished: Callable[[Job, Record], None] = lambda job, record: None,
    run: Callable[[Sequence[Job], float], list[Record]] = run_together,
) -> list[Record]:
    """Do what was not done yet and return the records of all jobs, in their order.

    Parameters
    ----------
    batches
        What is to be done; if one job of a batch is missing, all of it is done.
    path
        File of JSON lines that keeps the records.
    timeout
        Longest time that one run may work, in seconds.
    started
        Called before a batch with its first job.
    finished
        Called for each job with its record, also for what was done before.
    run
        Does one batch.
    """
    known = read_records(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    records = []
    for batch in batches:
        found = [known.get(job.key, {"error": "not done yet"}) for job in batch]
        if any("error" in record for record in found):
            started(batch[0])
            found = run(batch, timeout)
            with path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(record) + "\n" for record in found)
        for job, record in zip(batch, found):
            finished(job, record)
        records += found
    return records


# Statistics


def ratio(value: float, reference: float, slack: float = 0.0) -> float | None:
    """Return ``value / reference``, or None if both are next to nothing.

    Parameters
    ----------
    value, reference
        What is compared, with what.
    slack
        What counts as nothing.
    """
    if max(abs(value), abs(reference)) <= slack or reference == 0:
        return None
    return value / reference


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Return the geometric mean of ratios and its 95 % confidence interval.

    The interval is Student's for the mean of the logarithms. Its quantile comes from
    that of the normal distribution by the first terms of the expansion in 1/n, which is
    right to 1 % from 4 ratios on.

    Parameters
    ----------
    ratios
        One ratio per pair; at least 4.

    Returns
    -------
    mean, low, high

    Raises
    ------
    ValueError
        When there are fewer than 4.
    """
    if len(ratios) < 4:
        raise ValueError("a confidence interval needs at least 4 pairs")
    logs = [math.log(one) for one in ratios]
    mean = statistics.fmean(logs)
    error = statistics.stdev(logs) / math.sqrt(len(logs))
    freedom = len(logs) - 1
    z = statistics.NormalDist().inv_cdf(0.975)
    t = (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
    return math.exp(mean), math.exp(mean - t * error), math.exp(mean + t * error)


def medians(
    records: Iterable[Record], fields: Iterable[str]
) -> dict[str, dict[str, dict[str, float]]]:
    """Return the median of each field: workload -> contender -> field -> median."""
    values: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if "error" not in record:
            values[record["workload"]][record["contender"]].append(record)
    return {
        workload: {
            contender: {
                name: statistics.median(record[name] for record in several)
                for name in fields
            }
            for contender, several in contenders.items()
        }
        for workload, contenders in values.items()
    }


def telling(
    found: dict[str, dict[str, dict[str, float]]], number: int = 6
) -> list[str]:
    """Return the workloads whose peaks of managed memory differ most.

    Parameters
    ----------
    found
        What :func:`medians` returned.
    number
        How many at most.
    """

    def spread(name: str) -> float:
        peaks = [one["peak_managed"] for one in found[name].values()]
        return max(peaks) / max(min(peaks), 1)

    return sorted(found, key=spread, reverse=True)[:number]


# Reports


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(
    records: Sequence[Record], contenders: Sequence[str], limits: dict[str, Any]
) -> tuple[str, list[str]]:
    """Return a Markdown table of medians and ratios, and what is beyond the limits.

    Parameters
    ----------
    records
        What was measured.
    contenders
        Names; the ratios are those to the first.
    limits
        Workload -> metric -> largest ratio to the first that the others may have,
        beyond that of ``again``.

    Returns
    -------
    table : str
    complaints : list of str
        One line for each median beyond its limit, failed run, and different result.
    """
    first, others = contenders[0], contenders[1:]
    found = medians(records, (*METRICS, "result"))
    head = ["workload"]
    for heading, _ in METRICS.values():
        head.append(f"{heading} {first}")
        for name in others:
            head += [name, "ratio"]
    lines = [
        "| " + " | ".join(head) + " |",
        "|" + "---|" + "---:|" * (len(head) - 1),
    ]
    complaints = []
    for workload, by_contender in found.items():
        row = [workload]
        reference = by_contender.get(first)
        for metric, (_, slack) in METRICS.items():
            row.append(_number(reference[metric]) if reference else "")
            for name in others:
                one = by_contender.get(name)
                if one is None or reference is None:
                    row += [_number(one[metric]) if one else "", ""]
                    continue
                value = one[metric]
                quotient = ratio(value, reference[metric], slack)
                limit = limits.get(workload, {}).get(metric)
                if limit is not None and "again" in by_contender:
                    # Nobody is asked to be steadier than the base itself
                    noise = by_contender["again"][metric] / (reference[metric] or 1)
                    limit *= max(noise, 1 / noise) if noise > 0 else 1
                beyond = (
                    limit is not None
                    and name != "again"
                    and value > limit * reference[metric] + slack
                )
                if beyond:
                    complaints.append(
                        f"{workload}: {metric} of {name} is {_number(value)}, more "
                        f"than {limit:g} x {_number(reference[metric])}"
                    )
                text = "" if quotient is None else f"{quotient:.2f}"
                row += [_number(value), f"**{text}**" if beyond else text]
        lines.append("| " + " | ".join(row) + " |")
        results = {name: one["result"] for name, one in by_contender.items()}
        if any(
            not math.isclose(value, results[next(iter(results))], rel_tol=1e-6)
            for value in results.values()
        ):
            complaints.append(f"{workload}: the results differ: {results}")
    for record in records:
        if "error" in record:
            what = " ".join(record["key"][4:])
            complaints.append(
                f"{record['contender']}: {what}: failed: {record['error']}"
            )
    return "\n".join(lines), complaints


def summary(
    found: dict[str, dict[str, dict[str, float]]], contenders: Sequence[str]
) -> list[list[str]]:
    """Return a small table: under each metric the medians, and the ratio of the last.

    Parameters
    ----------
    found
        What :func:`medians` returned.
    contenders
        Names, in the order of the medians; the ratio is that of the last to the first.

    Returns
    -------
    list of list of str
        A row of headings, and one for each workload that all of them have run.
    """
    rows = [["workload", *(heading for heading, _ in METRICS.values())]]
    for workload, by_contender in found.items():
        if not all(name in by_contender for name in contenders):
            continue
        row = [workload]
        for metric, (_, slack) in METRICS.items():
            values = [by_contender[name][metric] for name in contenders]
            quotient = ratio(values[-1], values[0], slack)
            row.append(
                " → ".join(map(_number, values))
                + ("" if quotient is None else f" ({quotient:.2f})")
            )
        rows.append(row)
    return rows


def means(
    found: dict[str, dict[str, dict[str, float]]], contenders: Sequence[str]
) -> list[str]:
    """Return one more row for :func:`summary`: geometric means of the ratios.

    Parameters
    ----------
    found
        What :func:`medians` returned.
    contenders
        Names, in the order of the medians.
    """
    row = ["geometric mean of the ratios"]
    for metric, (_, slack) in METRICS.items():
        ratios = [
            quotient
            for one in found.values()
            if all(name in one for name in contenders)
            and (
                quotient := ratio(
                    one[contenders[-1]][metric], one[contenders[0]][metric], slack
                )
            )
        ]
        row.append(f"{statistics.geometric_mean(ratios):.2f}" if ratios else "")
    return row


def machine() -> str:
    """Return one line that says on what and when this runs."""
    return (
        f"{time.strftime('%Y-%m-%d')}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    )
