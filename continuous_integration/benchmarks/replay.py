"""Replay recordings of real workloads on a real scheduler with simulated workers.

What comes out is the same to the bit, however busy the machine is: the scheduler's
logic and nothing else. It depends on the order in which Python goes through sets, so
that each recording is replayed with several seeds, and medians are taken.

``python -m continuous_integration.benchmarks.replay`` replays with the distributed that
is imported, released or not, and prints a JSON object for each recording and cluster;
:func:`replay_all` calls it for each contender and seed.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import dask

from continuous_integration.benchmarks import recordings
from continuous_integration.benchmarks.ours import load_ours
from continuous_integration.benchmarks.recordings import (
    Operation,
    Recording,
    Release,
    Scatter,
    Submission,
)
from distributed import Scheduler, SchedulerPlugin

if TYPE_CHECKING:
    from dask.typing import Key

    from distributed.rootish import simulation
else:
    simulation = load_ours("distributed/rootish/simulation.py")

#: Numbers of workers, and of threads on each.
CLUSTERS = ("4x1", "2x2", "8x1", "2x4", "100x1")

CLIENT = "client"

#: Kinds of annotations, by how they are recorded.
ANNOTATIONS = {
    "worker_restrictions": "workers",
    "host_restrictions": "workers",
    "loose_restrictions": "allow_other_workers",
    "resource_restrictions": "resources",
    "priority": "priority",
    "retries": "retries",
}


class _Unqueueable(SchedulerPlugin):
    """Mark tasks that unpack a P2P shuffle, as the shuffle itself does."""

    def __init__(self, keys: set[Key]):
        self.keys = keys

    def update_graph(
        self, scheduler: Scheduler, *, tasks: Sequence[Key], **kwargs: Any
    ) -> None:
        for key in self.keys.intersection(tasks):
            scheduler.tasks[key]._queueable = False


class Replay(simulation.Simulation):
    """Play a recording.

    Parameters
    ----------
    scheduler
        A scheduler that was not started.
    recording
        What clients did, and what tasks took and gave.
    cluster
        What it is played on.

    Attributes
    ----------
    chunks
        The most outputs of what brings data in that were in memory at once.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        recording: Recording,
        cluster: simulation.Cluster,
    ):
        super().__init__(scheduler, recording.outputs.__getitem__, cluster)
        self.recording = recording
        self.chunks = 0
        self._reads = set(recording.reads)
        self._generation = math.nan
        self._unqueueable = {
            key
            for op in recording.ops
            if isinstance(op, Submission)
            for key, found in op.annotations.items()
            if not found.get("queueable", True)
        }
        # A plugin costs at each transition
        if self._unqueueable:
            scheduler.add_plugin(_Unqueueable(self._unqueueable))

    def play(self) -> dict[str, Any]:
        """Return what came out.

        Returns
        -------
        dict
            ``peak``, ``peak_worker``: managed memory of the cluster and of the fullest
            worker, at most; ``moved``: all three in bytes; ``chunks``; ``makespan``, in
            seconds; ``decisions``: how often each reason was given, where the scheduler
            has some.
        """
        self.start()
        begin = 0.0
        for number, op in enumerate(self.recording.ops):
            if op.wait or number == self.recording.prepared:
                self.run(self.done)
            else:
                self.sleep(op.after)
            if number == self.recording.prepared:
                begin = self.now
                self.peak = self.nbytes
                self.peak_worker = max(w.known for w in self.workers.values())
                self.moved = self.chunks = 0
            self._do(op)
        self.run()
        policy = getattr(self.scheduler, "rootish_policy", None)
        decisions = {v.reason: n for v, n in getattr(policy, "decisions", {}).items()}
        return {
            "peak": self.peak,
            "peak_worker": self.peak_worker,
            "chunks": self.chunks,
            "moved": self.moved,
            "makespan": round(self.now - begin, 6),
            "decisions": dict(sorted(decisions.items())),
        }

    def _do(self, op: Operation) -> None:
        workers = list(self.workers.values())
        if isinstance(op, Release):
            self.release(op.keys)
        elif isinstance(op, Scatter):
            for key, nbytes in op.data.items():
                numbers = {n % len(workers) for n in op.workers[key]}
                self.scatter(key, None, nbytes, [workers[n] for n in sorted(numbers)])
        else:
            self._submit(op)

    def _submit(self, op: Submission) -> None:
        workers = list(self.workers)
        annotations: dict[str, dict[Key, Any]] = {}
        for key, found in op.annotations.items():
            for name, value in found.items():
                if name == "worker_restrictions":
                    value = [workers[n % len(workers)] for n in value]
                if name in ANNOTATIONS:
                    annotations.setdefault(ANNOTATIONS[name], {})[key] = value
        graph = simulation.Graph(op.tasks, op.outputs, op.priorities, annotations)
        actors = [key for key, found in op.annotations.items() if found.get("actor")]
        # Those of one generation came fast one after the other
        same = op.generation == self._generation
        self._generation = op.generation
        self.submit(graph, actors=actors or None, fifo_timeout=1e12 if same else 0)

    def _grows(
        self, worker: simulation.SimulatedWorker, keys: Sequence[Key], nbytes: int
    ) -> None:
        super()._grows(worker, keys, nbytes)
        for key in keys:
            ts = self.scheduler.tasks.get(key)
            if ts and ts.state == "processing" and ts.prefix.name in self._reads:
                known = self.scheduler.task_prefixes
                there = sum(
                    known[name].states["memory"]
                    for name in self._reads
                    if name in known
                )
                self.chunks = max(self.chunks, there + 1)


def cluster_of(name: str, recording: Recording) -> simulation.Cluster:
    """Return the cluster of a name such as ``4x1``, as it is on one machine.

    Parameters
    ----------
    name
        Number of workers, and of threads on each.
    recording
        It says which resources workers have.
    """
    workers, threads = map(int, name.split("x"))
    resources = tuple(recordings.deal(recording.resources, workers))
    return replace(
        simulation.LOCAL, workers=workers, threads=threads, resources=resources
    )


async def replay(recording: Recording, cluster: simulation.Cluster) -> dict[str, Any]:
    """Play a recording with the distributed that is imported; see :meth:`Replay.play`.

    Parameters
    ----------
    recording
        What clients did, and what tasks took and gave.
    cluster
        What it is played on.
    """
    scheduler = Scheduler(dashboard=False, dashboard_address=":0", validate=False)
    try:
        return Replay(scheduler, recording, cluster).play()
    finally:
        await scheduler.close()


#: What a replay neither needs nor is to depend on.
SETTINGS = {
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.scheduler.http.routes": [],
    "distributed.admin.system-monitor.disk": False,
    "distributed.diagnostics.nvml": False,
}


@click.command()
@click.argument("names", nargs=-1)
@click.option("--cluster", "clusters", multiple=True, default=CLUSTERS)
@click.option("--set", "settings", multiple=True, help="NAME=VALUE of the scheduler.")
@click.option("--folder", default=str(recordings.FOLDER))
def main(
    names: Sequence[str],
    clusters: Sequence[str],
    settings: Sequence[str],
    folder: str,
) -> None:
    """Replay recordings with the distributed of this Python; print JSON objects."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    # Few of the many objects are garbage, and looking for it takes time
    gc.set_threshold(50_000, 20, 20)
    # Whatever else is configured on this machine has no say
    dask.config.refresh(paths=[], env={})
    chosen = dict(SETTINGS)
    for setting in settings:
        name, _, value = setting.partition("=")
        chosen[f"distributed.scheduler.{name}"] = dask.config.interpret_value(value)

    async def play_all() -> None:
        for name in names or recordings.names(Path(folder)):
            recording = recordings.read(name, Path(folder))
            for cluster in clusters:
                try:
                    result = await replay(recording, cluster_of(cluster, recording))
                except simulation.SimulationError as error:
                    result = {"error": str(error)}
                line = {"workload": name, "cluster": cluster, **result}
                click.echo(json.dumps(line))

    with dask.config.set(chosen):
        asyncio.run(play_all())


if __name__ == "__main__":
    main()
