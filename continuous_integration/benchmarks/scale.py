"""What grows with the number of tasks, files and workers, by simulation.

``python -m continuous_integration.benchmarks scale`` computes graphs of many sizes on
many workers that are simulated. ``... scale-check`` compares small ones with the same
on workers that are real.
"""

from __future__ import annotations

import asyncio
import csv
import itertools
import logging
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import dask
import numpy as np
from dask._task_spec import Task, TaskRef

from continuous_integration.benchmarks import compare as comparing
from continuous_integration.benchmarks.environments import environments
from continuous_integration.benchmarks.graphs import GRAPHS, Graph
from continuous_integration.benchmarks.measure import (
    BUILD,
    POLICIES,
    install,
    load_recorder,
    moved_by,
)
from continuous_integration.benchmarks.options import Decorator, contender_options
from continuous_integration.benchmarks.plots import Line, plot_lines
from continuous_integration.benchmarks.progress import (
    execute_visibly,
    refuse_errors,
    say,
)
from continuous_integration.benchmarks.simulation import LOCAL
from continuous_integration.benchmarks.simulation import run as simulate
from continuous_integration.figures import SCHEDULER, figures_option, write_figures
from distributed.utils import silence_logging_cmgr

MODULE = "continuous_integration.benchmarks.simulation"

#: Loads in a row that take milliseconds ask more of a scheduler than it can do: what is
#: not held back then runs ahead.
CLUSTER = ("--delay", "0.002", "--busy", "0.0002", "--stealing", "0.1")
THREADS = 2

#: A change of these makes figures old, as one of the scheduler does.
ABOUT = (
    "distributed/rootish/simulation.py",
    *(
        f"continuous_integration/benchmarks/{name}.py"
        for name in ("graphs", "scale", "simulation")
    ),
)

#: By default: two releases' rules and ours.
CONTENDERS = ("fork:rootish-policy=heuristic", "base", "fork")


@dataclass(frozen=True)
class Size:
    """Size of a graph, and of the cluster that computes it."""

    tasks: int
    groups: int
    workers: int

    @property
    def arguments(self) -> tuple[str, ...]:
        """Options for the simulation."""
        return (
            *("--tasks", str(self.tasks), "--groups", str(self.groups)),
            *("--workers", str(self.workers), "--threads", str(THREADS)),
        )


def sweeps(largest: int) -> dict[str, list[Size]]:
    """Return sizes by the title of what grows.

    Parameters
    ----------
    largest
        Largest number of tasks.
    """
    most = min(largest, 100_000)
    numbers = [n for n in (1_000, 10_000, 100_000, 1_000_000) if n <= largest]
    return {
        "tasks, 100 workers": [Size(n, n // 10, 100) for n in numbers],
        "tasks, 1,000 workers": [Size(n, n // 10, 1_000) for n in numbers[1:]],
        "groups": [Size(most, n, 100) for n in (10, 100, 1_000, 10_000) if n < most],
        "workers": [Size(most, most // 10, n) for n in (10, 100, 1_000)],
    }


def lines(
    records: Sequence[comparing.Record], largest: int, metric: str, factor: float
) -> Iterator[tuple[str, str, Line]]:
    """Yield what is to be drawn: graph, title of the sweep, and a line.

    Parameters
    ----------
    records
        What was measured, with ``asked``, its :class:`Size`.
    largest
        As for :func:`sweeps`.
    metric
        Which number of a record.
    factor
        It is multiplied with this.
    """
    by_size = {
        (record["graph"], record["contender"], record["asked"]): record[metric]
        for record in records
    }
    graphs = dict.fromkeys(record["graph"] for record in records)
    contenders = dict.fromkeys(record["contender"] for record in records)
    for graph in graphs:
        for title, sizes in sweeps(largest).items():
            what = title.partition(",")[0]
            for contender in contenders:
                points = [
                    (getattr(size, what), by_size[graph, contender, size] * factor)
                    for size in sizes
                    if (graph, contender, size) in by_size
                ]
                yield graph, title, Line(contender, points)


def _graphs(*default: str) -> Decorator:
    return click.option(
        "--graph",
        "graphs",
        multiple=True,
        type=click.Choice(sorted(GRAPHS)),
        default=default,
        help=f"Give it several times.  [default: {', '.join(default)}]",
    )


@click.command("scale")
@_graphs("files", "small-files", "fields", "neighbours", "stack", "deep-handles")
@click.option(
    "--largest",
    default=100_000,
    show_default=True,
    type=click.IntRange(10_000),
    help="Largest number of tasks; a million take some 10 GiB and minutes.",
)
@click.option("--marks", is_flag=True, help="Mark what brings data in.")
@contender_options(CONTENDERS, timeout=3600.0)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=BUILD / "scale.csv",
    help="The table; beside it go what was simulated (.jsonl) and pictures of the peak "
    "and of CPU time.  [default: build/benchmarks/scale.csv]",
)
@figures_option()
def command(
    graphs: tuple[str, ...],
    largest: int,
    marks: bool,
    names_: tuple[str, ...],
    parent: Path,
    fresh: bool,
    timeout: float,
    output: Path,
    figures: str | None,
) -> None:
    """Simulate graphs of more and more tasks and groups on more and more workers.

    Shown are the peak of a worker without handles, results and parts of them, what is
    moved, and the CPU time that a task costs the scheduler.
    """
    sizes = list(dict.fromkeys(s for sizes in sweeps(largest).values() for s in sizes))
    switch = "--marks" if marks else "--no-marks"
    arguments = {
        ("--graph", graph, switch, *size.arguments, *CLUSTER): size
        for graph in graphs
        for size in sizes
    }
    contenders = environments(names_, parent, say)
    # Each alone: large graphs need much memory
    jobs = [
        job
        for batch in comparing.turns(contenders, MODULE, arguments, 1)
        for job in batch
    ]
    records = execute_visibly(
        [[job] for job in jobs],
        output.with_suffix(".jsonl"),
        fresh,
        timeout,
        lambda record: (
            f"{record['graph']}, {record['tasks']} tasks, {record['groups']} groups, "
            f"{record['workers']} workers: {record['peak_chunks'] / 1e6:.0f} MB"
        ),
    )
    refuse_errors(records)
    for job, record in zip(jobs, records):
        record["contender"] = job.environment.name
        record["asked"] = arguments[job.arguments]
    write(records, output)
    for metric, factor, label in (
        ("peak_chunks", 1e-6, "peak of a worker (MB)"),
        ("total", 1.0, "CPU time of the scheduler per task (µs)"),
    ):
        plot_lines(
            list(lines(records, largest, metric, factor)),
            label,
            output.with_name(f"{output.stem}-{metric.replace('_', '-')}.png"),
        )
    if figures:
        write_figures(
            figures,
            about=[*SCHEDULER, *ABOUT],
            head=HEAD,
            rows=[*map(cells, records)],
            pictures=[output.with_name(f"{output.stem}-peak-chunks.png")],
        )
    click.echo(f"written to {output}, with pictures beside it", err=True)


HEAD = (
    *("graph", "tasks", "groups", "workers", "contender", "peak of a worker (MB)"),
    *("peak of all (MB)", "moved (MB)", "makespan (s)", "CPU per task (µs)"),
)


def write(records: Sequence[comparing.Record], path: Path) -> None:
    """Write a table of what was simulated.

    Parameters
    ----------
    records
        What was measured.
    path
        File to write, CSV.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEAD)
        writer.writerows(map(cells, records))


def cells(record: comparing.Record) -> list[Any]:
    """Return a row of the table.

    Parameters
    ----------
    record
        What was measured.
    """
    sizes = (record[name] / 1e6 for name in ("peak_chunks", "peak", "moved"))
    times = record["makespan"], record["total"]
    return [
        *(record[name] for name in HEAD[:5]),
        *(f"{number:.1f}" for number in (*sizes, *times)),
    ]


# Against workers that are real


def make(nbytes: int, seconds: float, *inputs: object) -> np.ndarray[Any, Any]:
    """Sleep, and return as many bytes as asked for."""
    time.sleep(seconds)
    return np.ones(nbytes, dtype="u1")


def runnable(graph: Graph) -> dict[Any, Task]:
    """Return the tasks of a graph with a function that does what is pretended.

    Parameters
    ----------
    graph
        Of which the tasks, and what they are to give and take, are used.
    """
    tasks = {}
    for key, task in graph.tasks.items():
        kind = graph.kind(key)
        tasks[key] = Task(
            key,
            make,
            kind.nbytes,
            kind.seconds,
            *(TaskRef(dependency) for dependency in task.dependencies),
            _data_producer=task.data_producer,
        )
    return tasks


def run_for_real(graph: Graph, workers: int, threads: int) -> dict[str, float]:
    """Compute a graph on a local cluster whose workers have processes of their own.

    Parameters
    ----------
    graph
        What to compute.
    workers, threads
        Number of workers, and of threads on each.

    Returns
    -------
    dict
        ``peak``, the most that all workers held, and ``moved``, both in bytes, and
        ``makespan``, in seconds.
    """
    from distributed import Client, LocalCluster

    recorder = load_recorder()()
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            dashboard_address=":0",
            memory_limit=0,
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(workers)
        cluster.sync(install, recorder, cluster.scheduler)
        start = time.perf_counter()
        client.get(runnable(graph), graph.outputs)
        seconds = time.perf_counter() - start
        moved = moved_by(client)
    return {"peak": recorder.peak_managed, "moved": moved, "makespan": seconds}


@click.command("scale-check")
@_graphs("files", "fields", "neighbours", "stack")
@click.option("--tasks", default=1_000, show_default=True, type=click.IntRange(1))
@click.option("--groups", default=200, show_default=True, type=click.IntRange(1))
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1))
@click.option(
    "--workers",
    multiple=True,
    default=(2, 4, 8),
    type=click.IntRange(1),
    help="Of one thread; give it several times.  [default: 2, 4, 8]",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=BUILD / "scale-check.csv",
    help="The table.  [default: build/benchmarks/scale-check.csv]",
)
@figures_option()
def check(
    graphs: tuple[str, ...],
    tasks: int,
    groups: int,
    repeats: int,
    workers: tuple[int, ...],
    output: Path,
    figures: str | None,
) -> None:
    """Compare the simulation with real workers, under each policy, without marks.

    What is real is a median; tasks sleep, and make as many bytes as is pretended.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    ratios: dict[str, list[float]] = {metric: [] for metric in METRICS}
    with output.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = [
            f"{metric}, {how}" for metric in METRICS for how in ("real", "simulated")
        ]
        head = ["graph", "workers", "policy", *names]
        writer.writerow(head)
        rows = []
        for graph, number, policy in itertools.product(graphs, workers, POLICIES):
            with dask.config.set({"distributed.scheduler.rootish-policy": policy}):
                made = GRAPHS[graph](tasks, groups, False)
                runs = [run_for_real(made, number, 1) for _ in range(repeats)]
                with silence_logging_cmgr(logging.CRITICAL):
                    simulated = asyncio.run(
                        simulate(
                            graph,
                            tasks=tasks,
                            groups=groups,
                            marks=False,
                            cluster=replace(LOCAL, workers=number),
                        )
                    )
            row = [graph, str(number), policy]
            for metric, factor in METRICS.items():
                real = statistics.median(one[metric] for one in runs)
                row += [f"{real * factor:.1f}", f"{simulated[metric] * factor:.1f}"]
                # How many times next to nothing it is says nothing
                if min(real, simulated[metric]) * factor > 5:
                    ratios[metric].append(simulated[metric] / real)
            writer.writerow(row)
            rows.append(row)
            click.echo(" ".join(f"{cell:>10}" for cell in row))
    values: dict[str, str] = {}
    for metric, found in ratios.items():
        if found:
            values |= {
                f"{metric}.median": f"{statistics.median(found):.2f}",
                f"{metric}.least": f"{min(found):.2f}",
                f"{metric}.most": f"{max(found):.2f}",
            }
            click.echo(
                f"{metric}: simulated / real {statistics.median(found):.2f}, from "
                f"{min(found):.2f} to {max(found):.2f}, where both are more than 5"
            )
    if figures:
        note = f"Medians of {repeats} real runs; megabytes and seconds."
        about = [*SCHEDULER, *ABOUT]
        write_figures(
            figures, about=about, note=note, values=values, head=head, rows=rows
        )
    click.echo(f"written to {output}", err=True)


#: What is compared, and what makes megabytes or seconds of it.
METRICS = {"peak": 1e-6, "moved": 1e-6, "makespan": 1.0}
