"""CPU time of a scheduler per task, measured without a network.

A real ``Scheduler`` gets a graph from a client that only listens, and the answers of
workers that only pretend: a small simulation keeps their time, runs the tasks they are
given in the order of priority, and moves data as long as a task needs it. What is
measured is the CPU time inside the scheduler's handlers, and nothing else: neither the
simulation, nor the network, nor what dask does to materialise, order and unpickle the
graph. (Those would be the same for every scheduler and hide differences.)

The simulation is deterministic, so that two schedulers which decide alike do exactly
the same work; and the module runs unchanged on the base as released and on the fork.
The figures of one run are printed as a JSON object by ``python -m
continuous_integration.benchmarks.scheduler_cost``.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import itertools
import json
import logging
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click
import dask
import dask.order
from dask._task_spec import Task, TaskRef

from continuous_integration.benchmarks.measure import (
    POLICIES,
    policy_setting,
    without_marks,
)

if TYPE_CHECKING:
    from dask.typing import Key

    from distributed import Scheduler

#: Bandwidth of the simulated network (bytes per second) and its latency (seconds).
BANDWIDTH = 100e6
LATENCY = 0.001

# Graphs


@dataclass
class Graph:
    """Tasks, and what the simulated workers are to make of them.

    Attributes
    ----------
    tasks : dict
        Tasks by their key.
    outputs : list
        Keys that the client wants.
    kinds : dict of str to (int, float)
        Size of the output (bytes) and duration (seconds) by the kind of the task, which
        is what its key begins with, up to a hyphen.
    """

    tasks: dict[Key, Task] = field(default_factory=dict)
    outputs: list[Key] = field(default_factory=list)
    kinds: dict[str, tuple[int, float]] = field(default_factory=dict)

    def add(self, key: Key, *dependencies: Key, mark: bool = False) -> Key:
        """Add one task and return its key."""
        refs = (TaskRef(dependency) for dependency in dependencies)
        self.tasks[key] = Task(key, pretend, *refs, _data_producer=mark)
        return key


def pretend(*args: Any) -> None:
    """Stand for the function of a task; it never runs."""


MIB = 2**20
GRAPHS: dict[str, Callable[[int, int, bool], Graph]] = {}


def graph(
    build: Callable[[int, int, bool], Graph],
) -> Callable[[int, int, bool], Graph]:
    """Register a graph: a function of tasks, groups and marks."""
    GRAPHS[build.__name__.replace("_", "-")] = build
    return build


def _reduce(graph: Graph, name: str, keys: list[Key], width: int = 8) -> Key:
    """Add a tree that reduces ``keys`` to one; return the key of that."""
    for level in itertools.count():
        keys = [
            graph.add((name, level, n), *keys[n * width : (n + 1) * width])
            for n in range(-(-len(keys) // width))
        ]
        if len(keys) == 1:
            return keys[0]
    raise AssertionError


@graph
def files(tasks: int, groups: int, marks: bool) -> Graph:
    """Open each file, read it in chunks, scale and reduce each chunk, then all.

    Every file makes four groups: its handle, its reads, the scaled chunks, and the tree
    that reduces them.
    """
    graph = Graph(
        kinds={
            "open": (200, 0.01),
            "read": (2 * MIB, 0.05),
            "scale": (2 * MIB, 0.01),
            "reduce": (1000, 0.01),
            "total": (1000, 0.01),
        }
    )
    number = max(groups // 4, 1)
    # A tree of width 8 has one node for every seven leaves.
    chunks = max(round((tasks / number - 1) / (2 + 1 / 7)), 1)
    parts = []
    for n in range(number):
        handle = graph.add((f"open-{n}", 0))
        reads = [graph.add((f"read-{n}", c), handle, mark=marks) for c in range(chunks)]
        scaled = [graph.add((f"scale-{n}", c), read) for c, read in enumerate(reads)]
        parts.append(_reduce(graph, f"reduce-{n}", scaled))
    graph.outputs.append(_reduce(graph, "total", parts))
    return graph


@graph
def small_files(tasks: int, groups: int, marks: bool) -> Graph:
    """Read many files of few chunks each without a handle, scale, reduce all.

    Groups that are each smaller than the cluster: half of them read.
    """
    graph = Graph(
        kinds={
            "read": (2 * MIB, 0.05),
            "scale": (2 * MIB, 0.01),
            "reduce": (1000, 0.01),
        }
    )
    number = max(groups // 2, 1)
    chunks = max(round(tasks / number / (2 + 1 / 7)), 1)
    scaled = []
    for n in range(number):
        for c in range(chunks):
            read = graph.add((f"read-{n}", c), mark=marks)
            scaled.append(graph.add((f"scale-{n}", c), read))
    graph.outputs.append(_reduce(graph, "reduce", scaled))
    return graph


@graph
def deep_handles(tasks: int, groups: int, marks: bool) -> Graph:
    """Open handles one through another, and read through the last.

    A tenth of the groups are handles.
    """
    graph = Graph(
        kinds={"open": (200, 0.01), "read": (2 * MIB, 0.05), "mean": (8, 0.01)}
    )
    depth = max(groups // 10, 1)
    handle = graph.add(("open-0", 0))
    for n in range(1, depth):
        handle = graph.add((f"open-{n}", 0), handle)
    number = max((groups - depth) // 2, 1)
    chunks = max(round((tasks - depth) / number / 2), 1)
    means = []
    for n in range(number):
        for c in range(chunks):
            read = graph.add((f"read-{n}", c), handle, mark=marks)
            means.append(graph.add((f"mean-{n}", c), read))
    graph.outputs.append(_reduce(graph, "mean-all", means))
    return graph


@graph
def fan_in(tasks: int, groups: int, marks: bool) -> Graph:
    """Read, then combine hundreds of chunks at a time, each chunk ten times."""
    graph = Graph(kinds={"read": (100_000, 0.05), "combine": (1000, 0.01)})
    number = max(groups // 2, 1)
    chunks = max(tasks // number, 1)
    width = 300
    for n in range(number):
        reads = [graph.add((f"read-{n}", c), mark=marks) for c in range(chunks)]
        for c in range(0, chunks, width // 10):
            combined = graph.add((f"combine-{n}", c), *reads[c : c + width])
            graph.outputs.append(combined)
    return graph


@graph
def elementwise(tasks: int, groups: int, marks: bool) -> Graph:
    """Chunks that nothing feeds, and a long chain of elementwise steps on each.

    Each group is one step on all chunks, and larger than the cluster.
    """
    graph = Graph(kinds={"read": (2 * MIB, 0.05), "step": (2 * MIB, 0.01)})
    steps = max(groups, 1)
    for c in range(max(tasks // steps, 1)):
        key = graph.add(("read-0", c), mark=marks)
        for n in range(1, steps):
            key = graph.add((f"step-{n}", c), key)
        graph.outputs.append(key)
    return graph


# The simulation


class _Silence:
    """A comm that swallows what is written, and says nothing until it is closed."""

    name = ""
    local_address = peer_address = "tcp://192.0.2.1:1"

    def __init__(self) -> None:
        self._over = asyncio.Event()

    async def write(self, message: Any, **kwargs: Any) -> int:
        return 0

    async def read(self, **kwargs: Any) -> Any:
        from distributed.comm import CommClosedError

        await self._over.wait()
        raise CommClosedError

    def closed(self) -> bool:
        return self._over.is_set()

    def abort(self) -> None:
        self._over.set()

    async def close(self) -> None:
        self._over.set()


class Mailbox:
    """Takes the place of ``BatchedSend``: keeps messages until they are taken."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def send(self, *messages: dict[str, Any]) -> None:
        self.messages.extend(messages)

    def take(self) -> list[dict[str, Any]]:
        """Return what has come since."""
        messages, self.messages = self.messages, []
        return messages

    def closed(self) -> bool:
        return False

    def abort(self) -> None:
        pass

    async def close(self, timeout: Any = None) -> None:
        pass


@dataclass
class _Worker:
    """What a worker knows; :class:`Simulation` moves it on."""

    address: str
    threads: int
    mailbox: Mailbox
    data: set[Key] = field(default_factory=set)
    ready: list[tuple[Any, int, dict[str, Any]]] = field(default_factory=list)
    busy: int = 0


class Simulation:
    """Workers and a client for a scheduler, in simulated time.

    Parameters
    ----------
    scheduler
        A scheduler that was not started.
    graph
        What to compute.
    meter
        Called as a context manager around each call of the scheduler.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        graph: Graph,
        meter: Callable[[], Any],
    ):
        self.scheduler = scheduler
        self.graph = graph
        self.meter = meter
        self.workers: dict[str, _Worker] = {}
        self.client = Mailbox()
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.count = itertools.count()
        self.done: set[Key] = set()
        self.transfers = 0
        self._type = pickle.dumps(float)
        self.queued = 0
        self._comms: list[_Silence] = []
        self._streams: list[asyncio.Task[Any]] = []

    async def connect(self, workers: int, threads: int) -> None:
        """Register workers and the client with the scheduler."""
        # What pretends to be connections has no more than the scheduler uses
        scheduler: Any = self.scheduler
        metrics = {
            "bandwidth": {"total": BANDWIDTH, "workers": {}, "types": {}},
            "digests_total_since_heartbeat": {},
            "memory": 0,
            "spilled_bytes": {"memory": 0, "disk": 0},
        }
        for n in range(workers):
            address = f"tcp://192.0.2.{n // 250 + 2}:{10_000 + n % 250}"
            comm = _Silence()
            self._comms.append(comm)
            add = scheduler.add_worker(
                comm,
                address=address,
                status="running",
                server_id=f"worker-{n}",
                nthreads=threads,
                name=f"worker-{n}",
                resolve_address=False,
                now=time.time(),
                resources={},
                memory_limit=2**34,
                metrics=metrics,
                services={},
                local_directory="",
                versions={},
                nanny="",
                extra={},
                stimulus_id="register",
            )
            self._streams.append(asyncio.create_task(add))
            while address not in scheduler.stream_comms:
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            mailbox = Mailbox()
            scheduler.stream_comms[address] = mailbox
            self.workers[address] = _Worker(address, threads, mailbox)
        comm = _Silence()
        self._comms.append(comm)
        add = scheduler.add_client(comm, client="client", versions={})
        self._streams.append(asyncio.create_task(add))
        while "client" not in scheduler.client_comms:
            await asyncio.sleep(0)
        scheduler.client_comms["client"] = self.client

    async def disconnect(self) -> None:
        """Close the connections; the scheduler is of no more use."""
        for comm in self._comms:
            comm.abort()
        await asyncio.gather(*self._streams, return_exceptions=True)

    async def submit(self) -> None:
        """Give the graph to the scheduler, as a client does."""
        from dask._expr import LLGExpr

        from distributed.protocol import Serialized, serialize

        expression = LLGExpr(self.graph.tasks)
        # As from a client, but the graph itself stays here: nobody unpickles it.
        Hidden.content = expression
        header, frames = serialize(Hidden(), serializers=["pickle"])
        order = dask.order.order(self.graph.tasks)
        keys = set(self.graph.outputs)
        with self.meter():
            await self.scheduler.update_graph(
                client="client",
                expr_ser=Serialized(header, frames),
                keys=keys,
                internal_priority=order,
                submitting_task=None,
                span_metadata={"collections": []},
            )
        Hidden.content = None
        self.deliver()

    def run(self) -> None:
        """Play the workers until nothing is left to do.

        Raises
        ------
        RuntimeError
            When the client did not get all that it wants.
        """
        while self.events:
            self.now, _, action = heapq.heappop(self.events)
            action()
            self.deliver()
            self.queued = max(self.queued, len(self.scheduler.queued))
        for message in self.client.take():
            if message.get("op") == "key-in-memory":
                self.done.add(message["key"])
            elif message.get("op") == "task-erred":
                raise RuntimeError(f"the scheduler gave up: {message}")
        missing = set(self.graph.outputs) - self.done
        if missing:
            raise RuntimeError(
                f"the scheduler stands still: {len(missing)} of "
                f"{len(self.graph.outputs)} results are missing"
            )

    def release(self) -> None:
        """Release the results, as a client does."""
        with self.meter():
            self.scheduler.client_releases_keys(self.graph.outputs, "client")
        self.deliver()

    def _after(self, delay: float, action: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.now + delay, next(self.count), action))

    def _kind(self, key: Key) -> tuple[int, float]:
        name = key[0] if isinstance(key, tuple) else key
        return self.graph.kinds[str(name).partition("-")[0]]

    def deliver(self) -> None:
        """Let workers act on what the scheduler told them."""
        for worker in self.workers.values():
            for message in worker.mailbox.take():
                op = message["op"]
                if op == "compute-task":
                    self._fetch(worker, message)
                elif op in ("free-keys", "remove-replicas"):
                    worker.data.difference_update(message["keys"])
                else:
                    raise RuntimeError(f"the simulation knows no {op!r}")

    def _fetch(self, worker: _Worker, message: dict[str, Any]) -> None:
        missing = [key for key in message["who_has"] if key not in worker.data]
        if not missing:
            self._ready(worker, message)
            return
        nbytes = sum(message["nbytes"][key] for key in missing)
        self.transfers += len(missing)

        def arrived() -> None:
            worker.data.update(missing)
            with self.meter():
                self.scheduler.stream_handlers["add-keys"](
                    worker=worker.address, keys=missing, stimulus_id="add-keys"
                )
            self._ready(worker, message)

        self._after(LATENCY + nbytes / BANDWIDTH, arrived)

    def _ready(self, worker: _Worker, message: dict[str, Any]) -> None:
        heapq.heappush(worker.ready, (message["priority"], next(self.count), message))
        self._start(worker)

    def _start(self, worker: _Worker) -> None:
        while worker.ready and worker.busy < worker.threads:
            _, _, message = heapq.heappop(worker.ready)
            worker.busy += 1
            _, duration = self._kind(message["key"])

            def finish(message: dict[str, Any] = message) -> None:
                self._finish(worker, message)

            self._after(duration, finish)

    def _finish(self, worker: _Worker, message: dict[str, Any]) -> None:
        key = message["key"]
        nbytes, duration = self._kind(key)
        worker.busy -= 1
        worker.data.add(key)
        # The next task starts before the scheduler knows that this one has finished.
        self._start(worker)
        answer = {
            "key": key,
            "run_id": message["run_id"],
            "nbytes": nbytes,
            "type": self._type,
            "typename": "float",
            "metadata": {},
            "thread": 1,
            "startstops": [
                {"action": "compute", "start": self.now - duration, "stop": self.now}
            ],
            "status": "OK",
            "stimulus_id": f"task-finished-{self.now}",
        }
        with self.meter():
            self.scheduler.stream_handlers["task-finished"](
                worker=worker.address, **answer
            )


class Hidden:
    """Pickles to next to nothing, and unpickles to what is in ``content``."""

    content: Any = None

    def __reduce__(self) -> Any:
        return _reveal, ()


def _reveal() -> Any:
    return Hidden.content


# Measuring


class Meter:
    """Sum up CPU time, and instructions where ``perf`` counts them."""

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
    simulation = Simulation(scheduler, graph, meters["submit"])
    await simulation.connect(workers, threads)
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
