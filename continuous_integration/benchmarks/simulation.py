"""What a real scheduler costs and does, with simulated workers and synthetic graphs.

The CPU time is that inside the scheduler's handlers, and nothing else: neither the
simulation, nor what dask does to materialize, order and unpickle the graph. (Those
would be the same for every scheduler and hide differences.) The active memory manager
is off.

The figures of one run are printed as a JSON object by ``python -m
continuous_integration.benchmarks.simulation``, which runs unchanged on the base as
released and on the fork.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click
import dask

from continuous_integration.benchmarks.graphs import GRAPHS, Graph
from continuous_integration.benchmarks.measure import (
    POLICIES,
    policy_setting,
    without_marks,
)
from continuous_integration.benchmarks.ours import load_ours

if TYPE_CHECKING:
    from dask.typing import Key

    from distributed.rootish import simulation
else:
    simulation = load_ours("distributed/rootish/simulation.py")

Cluster = simulation.Cluster
LOCAL = simulation.LOCAL


class Chunks(simulation.Simulation):
    """Counts what workers hold but for handles, parts of results, and results.

    Parameters
    ----------
    graph
        What is computed.
    *args
        As for a simulation, but for the outputs of tasks.

    Attributes
    ----------
    peak_chunks
        The most that one worker held, in bytes.
    """

    def __init__(self, graph: Graph, scheduler: Any, *args: Any):
        super().__init__(scheduler, graph.kind, *args)
        self.graph = graph
        self.peak_chunks = 0
        self._chunks: Counter[str] = Counter()
        self._outputs = set(graph.outputs)

    def _count_chunk(
        self, worker: simulation.SimulatedWorker, key: Key, sign: int
    ) -> None:
        kind = self.graph.kind(key)
        if not kind.apart and key not in self._outputs:
            self._chunks[worker.address] += sign * kind.nbytes
            self.peak_chunks = max(self.peak_chunks, self._chunks[worker.address])

    def _hold(self, worker: simulation.SimulatedWorker, key: Key, value: Any) -> None:
        super()._hold(worker, key, value)
        self._count_chunk(worker, key, 1)

    def _drop(self, worker: simulation.SimulatedWorker, key: Key) -> None:
        if key in worker.data:
            self._count_chunk(worker, key, -1)
        super()._drop(worker, key)


#: What is said of the cluster.
SHOWN = (*("workers", "threads", "bandwidth", "latency", "delay", "busy", "stealing"),)
#: What is said of the simulation.
FOUND = ("queued", "peak", "peak_worker", "peak_chunks", "transfers", "moved")


class Meter:
    """Add up the CPU time that the scheduler takes.

    What the fork does again and again, whatever there is to do, is done in this time as
    often as by a scheduler that is never idle: nothing else would show what it costs.

    Parameters
    ----------
    scheduler
        One that was not started.

    Attributes
    ----------
    phase
        What it is doing now.
    seconds
        Phase -> CPU time.
    """

    def __init__(self, scheduler: Any):
        self.phase = ""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._rounds = {
            callback.callback: callback.callback_time / 1e3
            for name, callback in scheduler.periodic_callbacks.items()
            if name.startswith("rootish")
        }
        self._due = dict.fromkeys(self._rounds, 0.0)
        self._next = 0.0 if self._due else math.inf

    @contextmanager
    def __call__(self) -> Iterator[None]:
        start = time.process_time()
        yield
        stop = time.process_time()
        if stop >= self._next:
            for callback, due in self._due.items():
                if stop >= due:
                    callback()
                    self._due[callback] = stop + self._rounds[callback]
            self._next = min(self._due.values())
            stop = time.process_time()
        self.seconds[self.phase] += stop - start


async def run(
    name: str, *, tasks: int, groups: int, marks: bool, cluster: Cluster
) -> dict[str, Any]:
    """Compute one graph on simulated workers.

    Parameters
    ----------
    name
        Name of the graph.
    tasks, groups
        Size of the graph; it comes as close to them as its shape allows.
    marks
        Whether the reads carry the mark of a data producer.
    cluster
        What to simulate.

    Returns
    -------
    dict
        ``tasks`` and ``groups`` that the graph has; ``submit``, ``run``, ``release``
        and their sum ``total``: CPU time per task in microseconds; ``queued``: the
        largest number of tasks that were queued at once; ``peak``: the most that all
        workers held as far as the scheduler knew, in bytes; ``peak_worker``: the most
        that one of them did; ``peak_chunks``: the most that one of them really held,
        without handles, parts of results, and results;
        ``transfers``, ``moved``: keys and bytes that were moved;
        ``makespan``: simulated seconds.
    """
    import distributed
    from distributed import Scheduler

    graph = GRAPHS[name](tasks, groups, marks)
    count = len(graph.tasks)
    scheduler = Scheduler(dashboard=False, dashboard_address=":0", validate=False)
    played = Chunks(graph, scheduler, cluster)
    played.start()
    played.meter = meter = Meter(scheduler)
    submitted = simulation.Graph(graph.tasks, graph.outputs)
    gc.collect()
    gc.disable()
    try:
        meter.phase = "submit"
        played.submit(submitted)
        number = len(scheduler.task_groups)
        meter.phase = "run"
        played.run()
        makespan = played.now
        meter.phase = "release"
        played.release(graph.outputs)
    finally:
        gc.enable()
        kept = len(scheduler.tasks)
        await scheduler.close()
    if kept:
        raise RuntimeError(f"the scheduler keeps {kept} tasks of released results")
    per_task = {phase: taken / count * 1e6 for phase, taken in meter.seconds.items()}
    return {
        "graph": name,
        "marks": marks,
        "version": distributed.__version__,
        "tasks": count,
        "groups": number,
        **{name: getattr(cluster, name) for name in SHOWN},
        **per_task,
        "total": sum(per_task.values()),
        **{name: getattr(played, name) for name in FOUND},
        "makespan": makespan,
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--graph", "name", type=click.Choice(sorted(GRAPHS)), default="files")
@click.option("--tasks", default=100_000, type=click.IntRange(1))
@click.option("--groups", default=1_000, type=click.IntRange(1))
@click.option("--marks/--no-marks", default=True, help="Whether reads are marked.")
@click.option("--workers", default=10, type=click.IntRange(1))
@click.option("--threads", default=2, type=click.IntRange(1))
@click.option("--bandwidth", default=100e6, help="Of a worker, in bytes per second.")
@click.option("--latency", default=0.001, help="Of a transfer, in seconds.")
@click.option("--delay", default=0.0, help="Of a message, in seconds.")
@click.option("--busy", default=0.0, help="Of the scheduler, a message, in seconds.")
@click.option("--stealing", type=float, help="Seconds between two rounds of it.")
@click.option("--policy", type=click.Choice(POLICIES), help="Only the fork has them.")
def main(
    name: str, tasks: int, groups: int, marks: bool, policy: str | None, **cluster: Any
) -> None:
    """Compute a graph on simulated workers; print a JSON object."""
    import distributed

    # Hundreds of workers that come and go would be as many lines
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    config: dict[str, Any] = {}
    if policy is not None:
        config = policy_setting(policy, distributed.__version__)
    with dask.config.set(config), nullcontext() if marks else without_marks():
        size: dict[str, Any] = {"tasks": tasks, "groups": groups, "marks": marks}
        figures = asyncio.run(run(name, **size, cluster=Cluster(**cluster)))
    click.echo(json.dumps(figures))


if __name__ == "__main__":
    main()
