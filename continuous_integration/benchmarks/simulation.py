"""What a real scheduler costs and does, with workers in simulated time and no network.

A :class:`Simulation` keeps the time of workers that only pretend: they run the tasks
they are given in the order of priority, fetch what a task needs over a link of their
own, hold it as long as the scheduler wants, and answer. It is deterministic, so that
two schedulers which decide alike do exactly the same.

Workers do not spill, pause or fail, and the active memory manager is off. The CPU time
is that inside the scheduler's handlers, and nothing else: neither the simulation, nor
what dask does to materialise, order and unpickle the graph. (Those would be the same
for every scheduler and hide differences.)

The figures of one run are printed as a JSON object by ``python -m
continuous_integration.benchmarks.simulation``, which runs unchanged on the base as
released and on the fork.
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
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import click
import dask
import dask.order

from continuous_integration.benchmarks.graphs import GRAPHS, Graph
from continuous_integration.benchmarks.measure import (
    POLICIES,
    policy_setting,
    without_marks,
)

if TYPE_CHECKING:
    from dask.typing import Key

    from distributed import Scheduler

#: So much is fetched by one request, unless it is one key (bytes).
REQUEST_NBYTES = 1_000_000


@dataclass(frozen=True)
class Cluster:
    """What is simulated.

    Attributes
    ----------
    workers, threads : int
        Number of workers, and of threads on each.
    bandwidth : float
        Of each worker's link, for what it fetches, in bytes per second.
    latency : float
        Of a request for data, in seconds.
    delay : float
        Time that a message takes between the scheduler and a worker, in seconds.
    busy : float
        Time that the scheduler is busy with each message of a worker, in seconds.
        Others wait.
    stealing : float or None
        Seconds between two rounds of work stealing, which is off if it is None.
    """

    workers: int
    threads: int
    bandwidth: float = 100e6
    latency: float = 0.001
    delay: float = 0.0
    busy: float = 0.0
    stealing: float | None = None


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
    """Takes the place of ``BatchedSend``: keeps messages until they are taken.

    Parameters
    ----------
    filled
        Called when there is something in it for the first time since it was emptied.
    """

    def __init__(self, filled: Callable[[], None] = lambda: None) -> None:
        self.messages: list[dict[str, Any]] = []
        self.filled = filled

    def send(self, *messages: dict[str, Any]) -> None:
        if messages and not self.messages:
            self.filled()
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


class Hidden:
    """Pickles to next to nothing, and unpickles to what is in ``content``."""

    content: Any = None

    def __reduce__(self) -> Any:
        return _reveal, ()


def _reveal() -> Any:
    return Hidden.content


@dataclass
class _Job:
    """A task that a worker is to run."""

    message: dict[str, Any]
    missing: int = 0
    running: bool = False


@dataclass
class Worker:
    """What a worker knows; :class:`Simulation` moves it on.

    Attributes
    ----------
    data : dict
        Size of everything that it holds, by key.
    nbytes, peak : int
        Size of all that, now and at most.
    chunks, peak_chunks : int
        The same without handles, parts of results, and results that the client wants.
    """

    address: str
    threads: int
    mailbox: Mailbox
    data: dict[Key, int] = field(default_factory=dict)
    nbytes: int = 0
    peak: int = 0
    chunks: int = 0
    peak_chunks: int = 0
    jobs: dict[Key, _Job] = field(default_factory=dict)
    ready: list[tuple[Any, int, _Job]] = field(default_factory=list)
    wanted: list[tuple[Any, int, Key, int]] = field(default_factory=list)
    waiting: dict[Key, list[_Job]] = field(default_factory=dict)
    fetching: bool = False
    busy: int = 0


class Simulation:
    """Workers and a client for a scheduler, in simulated time.

    Parameters
    ----------
    scheduler
        A scheduler that was not started.
    graph
        What to compute.
    cluster
        What to simulate.
    meter
        Called as a context manager around each call of the scheduler.

    Attributes
    ----------
    now : float
        Simulated seconds since the beginning.
    workers : dict of str to Worker
        By address.
    queued : int
        Largest number of tasks that were queued at once.
    nbytes, peak : int
        Size of all that workers hold, now and at most.
    transfers, moved : int
        Number and bytes of what was fetched from one worker to another.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        graph: Graph,
        cluster: Cluster,
        meter: Callable[[], Any],
    ):
        self.scheduler = scheduler
        self.graph = graph
        self.cluster = cluster
        self.meter = meter
        self.workers: dict[str, Worker] = {}
        self.client = Mailbox()
        self.now = 0.0
        self.queued = 0
        self.nbytes = 0
        self.peak = 0
        self.transfers = 0
        self.moved = 0
        #: When the scheduler has dealt with all that it was told
        self._free = 0.0
        self._outputs = set(graph.outputs)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._full: deque[Worker] = deque()
        self._type = pickle.dumps(float)
        self._comms: list[_Silence] = []
        self._streams: list[asyncio.Task[Any]] = []

    async def connect(self) -> None:
        """Register workers and the client with the scheduler."""
        # What pretends to be connections has no more than the scheduler uses
        scheduler: Any = self.scheduler
        metrics = {
            "bandwidth": {"total": self.cluster.bandwidth, "workers": {}, "types": {}},
            "digests_total_since_heartbeat": {},
            "memory": 0,
            "spilled_bytes": {"memory": 0, "disk": 0},
        }
        for n in range(self.cluster.workers):
            address = f"tcp://192.0.2.{n // 250 + 2}:{10_000 + n % 250}"
            comm = _Silence()
            self._comms.append(comm)
            add = scheduler.add_worker(
                comm,
                address=address,
                status="running",
                server_id=f"worker-{n}",
                nthreads=self.cluster.threads,
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
            worker = Worker(address, self.cluster.threads, Mailbox())
            worker.mailbox.filled = partial(self._full.append, worker)
            scheduler.stream_comms[address] = worker.mailbox
            self.workers[address] = worker
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
        with self.meter():
            await self.scheduler.update_graph(
                client="client",
                expr_ser=Serialized(header, frames),
                keys=set(self.graph.outputs),
                internal_priority=order,
                submitting_task=None,
                span_metadata={"collections": []},
            )
        Hidden.content = None
        self._deliver()

    def run(self) -> None:
        """Play the workers until nothing is left to do.

        Raises
        ------
        RuntimeError
            When the client did not get all that it wants.
        """
        if self.cluster.stealing:
            self._after(self.cluster.stealing, self._balance)
        while self._events:
            self.now, _, action = heapq.heappop(self._events)
            action()
            self._deliver()
            self.queued = max(self.queued, len(self.scheduler.queued))
        done = set()
        for message in self.client.take():
            if message.get("op") == "key-in-memory":
                done.add(message["key"])
            elif message.get("op") == "task-erred":
                raise RuntimeError(f"the scheduler gave up: {message}")
        if missing := self._outputs - done:
            raise RuntimeError(
                f"the scheduler stands still: {len(missing)} of "
                f"{len(self._outputs)} results are missing"
            )

    def release(self) -> None:
        """Release the results, as a client does."""
        with self.meter():
            self.scheduler.client_releases_keys(self.graph.outputs, "client")
        self._deliver()

    # Time and messages

    def _after(self, delay: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._count), action))

    def _tell(self, op: str, worker: Worker, **message: Any) -> None:
        """Give the scheduler a message of a worker, when it has arrived."""

        def arrived() -> None:
            with self.meter():
                self.scheduler.stream_handlers[op](worker=worker.address, **message)

        if self.cluster.delay or self.cluster.busy:
            self._free = self.cluster.busy + max(
                self._free, self.now + self.cluster.delay
            )
            self._after(self._free - self.now, arrived)
        else:
            arrived()

    def _deliver(self) -> None:
        """Let workers act on what the scheduler told them, when it has arrived."""
        while self._full:
            worker = self._full.popleft()
            obey = partial(self._obey, worker, worker.mailbox.take())
            if self.cluster.delay:
                self._after(self.cluster.delay, obey)
            else:
                obey()

    def _balance(self) -> None:
        stealing: Any = self.scheduler.extensions["stealing"]
        with self.meter():
            stealing.balance()
        # Nobody else moves time on when all is done
        if any(worker.jobs for worker in self.workers.values()) or self._events:
            self._after(self.cluster.stealing or 0, self._balance)

    # Workers

    def _obey(self, worker: Worker, messages: list[dict[str, Any]]) -> None:
        for message in messages:
            op = message["op"]
            if op == "compute-task":
                self._accept(worker, message)
            elif op in ("free-keys", "remove-replicas"):
                for key in message["keys"]:
                    self._drop(worker, key)
            elif op == "steal-request":
                key = message["key"]
                state = self._give_up(worker, key)
                self._tell(
                    "steal-response",
                    worker,
                    key=key,
                    state=state,
                    stimulus_id=message["stimulus_id"],
                )
            else:
                raise RuntimeError(f"the simulation knows no {op!r}")

    def _is_chunk(self, key: Key) -> bool:
        return not (key in self._outputs or self.graph.kind(key).apart)

    def _hold(self, worker: Worker, key: Key, nbytes: int) -> None:
        if key in worker.data:
            return
        worker.data[key] = nbytes
        worker.nbytes += nbytes
        worker.peak = max(worker.peak, worker.nbytes)
        self.nbytes += nbytes
        self.peak = max(self.peak, self.nbytes)
        if self._is_chunk(key):
            worker.chunks += nbytes
            worker.peak_chunks = max(worker.peak_chunks, worker.chunks)

    def _drop(self, worker: Worker, key: Key) -> None:
        self._give_up(worker, key)
        nbytes = worker.data.pop(key, None)
        if nbytes is not None:
            worker.nbytes -= nbytes
            self.nbytes -= nbytes
            if self._is_chunk(key):
                worker.chunks -= nbytes

    def _give_up(self, worker: Worker, key: Key) -> str | None:
        """Forget a task unless it has begun; return what became of it."""
        job = worker.jobs.get(key)
        if job is None:
            return "memory" if key in worker.data else None
        if job.running:
            return "executing"
        del worker.jobs[key]
        return "waiting" if job.missing else "ready"

    def _accept(self, worker: Worker, message: dict[str, Any]) -> None:
        job = worker.jobs[message["key"]] = _Job(message)
        for key in message["who_has"]:
            if key in worker.data:
                continue
            job.missing += 1
            if key in worker.waiting:
                worker.waiting[key].append(job)
            else:
                worker.waiting[key] = [job]
                entry = (
                    message["priority"],
                    next(self._count),
                    key,
                    message["nbytes"][key],
                )
                heapq.heappush(worker.wanted, entry)
        if job.missing:
            self._fetch(worker)
        else:
            self._ready(worker, job)

    def _fetch(self, worker: Worker) -> None:
        """Let a worker ask for what is most urgent, unless it does so already."""
        if worker.fetching:
            return
        keys: dict[Key, int] = {}
        total = 0
        while worker.wanted:
            _, _, key, nbytes = worker.wanted[0]
            if keys and total + nbytes > REQUEST_NBYTES:
                break
            heapq.heappop(worker.wanted)
            if any(worker.jobs.get(j.message["key"]) is j for j in worker.waiting[key]):
                keys[key] = nbytes
                total += nbytes
            else:  # All that wanted it were given up
                del worker.waiting[key]
        if not keys:
            return
        worker.fetching = True

        def arrived() -> None:
            worker.fetching = False
            self.transfers += len(keys)
            self.moved += total
            for key, nbytes in keys.items():
                self._hold(worker, key, nbytes)
            self._tell("add-keys", worker, keys=list(keys), stimulus_id="add-keys")
            for key in keys:
                for job in worker.waiting.pop(key):
                    job.missing -= 1
                    if not job.missing:
                        self._ready(worker, job)
            self._fetch(worker)

        self._after(self.cluster.latency + total / self.cluster.bandwidth, arrived)

    def _ready(self, worker: Worker, job: _Job) -> None:
        entry = (job.message["priority"], next(self._count), job)
        heapq.heappush(worker.ready, entry)
        self._start(worker)

    def _start(self, worker: Worker) -> None:
        while worker.ready and worker.busy < worker.threads:
            _, _, job = heapq.heappop(worker.ready)
            key = job.message["key"]
            if worker.jobs.get(key) is not job:  # Given up
                continue
            job.running = True
            worker.busy += 1
            finish = partial(self._finish, worker, job)
            self._after(self.graph.kind(key).seconds, finish)

    def _finish(self, worker: Worker, job: _Job) -> None:
        key = job.message["key"]
        kind = self.graph.kind(key)
        del worker.jobs[key]
        worker.busy -= 1
        self._hold(worker, key, kind.nbytes)
        # The next task starts before the scheduler knows that this one has finished
        self._start(worker)
        self._tell(
            "task-finished",
            worker,
            key=key,
            run_id=job.message["run_id"],
            nbytes=kind.nbytes,
            type=self._type,
            typename="float",
            metadata={},
            thread=1,
            startstops=[
                {
                    "action": "compute",
                    "start": self.now - kind.seconds,
                    "stop": self.now,
                }
            ],
            status="OK",
            stimulus_id=f"task-finished-{self.now}",
        )


# Measuring


class Meter:
    """Sum up CPU time."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        start = time.process_time()
        try:
            yield
        finally:
            self.seconds += time.process_time() - start


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
        workers held, in bytes; ``peak_worker``: the most that one of them did;
        ``peak_chunks``: that without handles, parts of results, and results;
        ``transfers``, ``moved``: keys and bytes that were moved;
        ``makespan``: simulated seconds.
    """
    import distributed
    from distributed import Scheduler

    graph = GRAPHS[name](tasks, groups, marks)
    count = len(graph.tasks)
    scheduler = Scheduler(dashboard=False, dashboard_address=":0", validate=False)
    meters = {phase: Meter() for phase in ("submit", "run", "release")}
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
    workers = simulation.workers.values()
    return {
        "graph": name,
        "marks": marks,
        "version": distributed.__version__,
        "tasks": count,
        "groups": number,
        **asdict(cluster),
        **per_task,
        "total": sum(per_task.values()),
        "queued": simulation.queued,
        "peak": simulation.peak,
        "peak_worker": max(worker.peak for worker in workers),
        "peak_chunks": max(worker.peak_chunks for worker in workers),
        "transfers": simulation.transfers,
        "moved": simulation.moved,
        "makespan": simulation.now,
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
    name: str,
    tasks: int,
    groups: int,
    marks: bool,
    policy: str | None,
    **cluster: Any,
) -> None:
    """Compute a graph on simulated workers; print a JSON object."""
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
                cluster=Cluster(**cluster),
            )
        )
    click.echo(json.dumps(figures))


if __name__ == "__main__":
    main()
