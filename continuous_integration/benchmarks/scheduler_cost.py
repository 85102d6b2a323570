"""CPU time of a scheduler per task, measured without a network.

What is measured is the CPU time inside the scheduler's handlers while it deals with
:mod:`simulated workers <continuous_integration.benchmarks.simulation>`, and nothing
else: neither the simulation, nor the network, nor what dask does to materialise, order
and unpickle the graph. (Those would be the same for every scheduler and hide
differences.)

The figures of one run are printed as a JSON object by ``python -m
continuous_integration.benchmarks.scheduler_cost``, which runs on the base as released
and on the fork.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import click
import dask

from continuous_integration.benchmarks.graphs import GRAPHS
from continuous_integration.benchmarks.measure import (
    POLICIES,
    policy_setting,
    without_marks,
)
from continuous_integration.benchmarks.simulation import Cluster, Simulation


class Meter:
    """Sum up CPU time."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        start = time.process_time()
        try:
            yield
        finally:
            self.seconds += time.process_time() - start
            self.calls += 1


async def run(
    name: str,
    *,
    tasks: int,
    groups: int,
    marks: bool,
    workers: int,
    threads: int,
) -> dict[str, Any]:
    """Measure one graph once.

    Parameters
    ----------
    name
        Name of the graph.
    tasks, groups
        Size of the graph; it comes as close to them as its shape allows.
    marks
        Whether the reads carry the mark of a data producer.
    workers, threads
        Number of simulated workers, and of threads on each.

    Returns
    -------
    dict
        ``tasks`` and ``groups`` that the graph has; ``submit``, ``run``, ``release``
        and their sum ``total``: CPU time per task in microseconds; ``queued``: the
        largest number of tasks that were queued at once; ``transfers``: keys that were
        moved; ``makespan``: simulated seconds.
    """
    import distributed
    from distributed import Scheduler

    graph = GRAPHS[name](tasks, groups, marks)
    count = len(graph.tasks)
    scheduler = Scheduler(dashboard=False, dashboard_address=":0", validate=False)
    meters = {phase: Meter() for phase in ("submit", "run", "release")}
    cluster = Cluster(workers, threads)
    simulation = Simulation(scheduler, graph, cluster, meters["submit"])
    await simulation.connect()
    gc.collect()
    gc.disable()
    try:
        await simulation.submit()
        number = len(scheduler.task_groups)
        simulation.meter = meters["run"]
        simulation.run()
        simulation.meter = meters["release"]
        simulation.release()
    finally:
        gc.enable()
        kept = len(scheduler.tasks)
        await simulation.disconnect()
        await scheduler.close()
    if kept:
        raise RuntimeError(f"the scheduler keeps {kept} tasks of released results")
    per_task = {phase: m.seconds / count * 1e6 for phase, m in meters.items()}
    return {
        "graph": name,
        "marks": marks,
        "version": distributed.__version__,
        "tasks": count,
        "groups": number,
        "workers": workers,
        "threads": threads,
        **per_task,
        "total": sum(per_task.values()),
        "queued": simulation.queued,
        "transfers": simulation.transfers,
        "makespan": simulation.now,
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--graph", "name", type=click.Choice(sorted(GRAPHS)), default="files")
@click.option("--tasks", default=100_000, type=click.IntRange(1))
@click.option("--groups", default=1_000, type=click.IntRange(1))
@click.option("--marks/--no-marks", default=True, help="Whether reads are marked.")
@click.option("--workers", default=10, type=click.IntRange(1))
@click.option("--threads", default=2, type=click.IntRange(1))
@click.option("--policy", type=click.Choice(POLICIES), help="Only the fork has them.")
def main(
    name: str,
    tasks: int,
    groups: int,
    marks: bool,
    workers: int,
    threads: int,
    policy: str | None,
) -> None:
    """Measure the scheduler of this Python once; print a JSON object."""
    import distributed

    # Hundreds of workers that come and go would be as many lines
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    config: dict[str, Any] = {}
    if policy is not None:
        config = policy_setting(policy, distributed.__version__)
    with dask.config.set(config), nullcontext() if marks else without_marks():
        figures = asyncio.run(
            run(
                name,
                tasks=tasks,
                groups=groups,
                marks=marks,
                workers=workers,
                threads=threads,
            )
        )
    click.echo(json.dumps(figures))


if __name__ == "__main__":
    main()
