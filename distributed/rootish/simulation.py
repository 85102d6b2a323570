"""A scheduler that is real, with workers that pretend, in virtual time.

What the scheduler does to memory and to the network is logic: it follows from the
graph, from the size and duration of every output, and from the order in which messages
arrive. A :class:`Simulation` plays all of that without a network, a thread or a clock.
The scheduler is the one that is installed, the release's or the fork's; it is given the
messages of workers and clients, and what it answers is carried out.

A :class:`SimulatedWorker` runs what it is given in the order of priority, fetches what
is missing from others over a link of its own, holds outputs until it is told to drop
them, and reports. If it is asked to, it spills, or pauses when its memory is full.

This module imports nothing of ours, so that it can be loaded beside the release.
"""

from __future__ import annotations

import heapq
import inspect
import itertools
import math
import pickle
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, Protocol

import dask
import dask.order
from dask.utils import parse_bytes

from distributed import Scheduler
from distributed.comm import CommClosedError
from distributed.protocol import Serialized
from distributed.scheduler import ClientState

if TYPE_CHECKING:
    from dask._task_spec import GraphNode
    from dask.typing import Key

    from distributed.scheduler import WorkerState

#: So much is fetched by one request, unless it is one key (bytes); as real workers do.
REQUEST_NBYTES = 50_000_000


class Output(Protocol):
    """What a task gives and takes: the size of its output in bytes, and seconds."""

    @property
    def nbytes(self) -> int: ...
    @property
    def seconds(self) -> float: ...


@dataclass(frozen=True)
class Cluster:
    """What workers, their links and their messages are like.

    Parameters
    ----------
    workers, threads
        Number of workers, and of threads on each.
    resources
        Of the first workers; others have the same, again and again.
    bandwidth
        Of each worker's link, for what it fetches, in bytes per second.
    latency
        Between a request for data and the answer, in seconds.
    delay
        That a message takes between the scheduler and a worker, in seconds.
    batch, batch_workers
        Smallest time between two batches of messages that the scheduler sends to one
        worker, and a worker to the scheduler, in seconds.
    busy
        Time that the scheduler takes for each message of a worker, in seconds. Others
        wait.
    overhead
        Time that a thread is taken for each task beside the task itself, in seconds.
    stealing, replicas
        Time between two rounds of work stealing, and of the active memory manager, in
        seconds; None turns it off.
    memory_limit
        Memory of each worker in bytes; None is as much as it wants.
    spill, pause
        Parts of the memory from which on a worker spills what it was given first, and
        starts no more tasks. They count only where there is a limit; None turns it off.
    disk
        Bytes that are spilled, or read again, per second.
    """

    workers: int = 4
    threads: int = 1
    bandwidth: float = 100e6
    latency: float = 0.001
    resources: tuple[Mapping[str, float], ...] = ()
    delay: float = 0.0
    batch: float = 0.0
    batch_workers: float = 0.0
    busy: float = 0.0
    overhead: float = 0.0
    stealing: float | None = None
    replicas: float | None = None
    memory_limit: int | None = None
    spill: float | None = 0.7
    pause: float | None = 0.8
    disk: float = 200e6


#: What messages, transfers and tasks take between processes that share two cores.
LOCAL = Cluster(
    bandwidth=1e9,
    latency=0.005,
    delay=0.001,
    batch=0.005,
    batch_workers=0.002,
    busy=0.0008,
    overhead=0.005,
    stealing=0.1,
    replicas=2.0,
)


@dataclass
class Graph:
    """What a client submits at once; it is passed on to the scheduler as it is.

    Parameters
    ----------
    tasks
        Tasks by their key. Their functions are never called.
    outputs
        Keys that the client wants.
    order
        Rank of every task; by default that of :func:`dask.order.order`.
    annotations
        Values by key, by the kind of annotation, such as ``{"workers": {"x": [...]}}``.
    """

    tasks: Mapping[Key, GraphNode]
    outputs: Iterable[Key]
    order: Mapping[Key, int] | None = None
    annotations: Mapping[str, Mapping[Key, Any]] = field(default_factory=dict)

    def __dask_graph__(self) -> dict[Key, GraphNode]:
        return dict(self.tasks)

    def __dask_annotations__(self) -> Mapping[str, Mapping[Key, Any]]:
        return self.annotations


#: What a client takes messages of the scheduler for.
STATES = {
    "key-in-memory": "memory",
    "task-erred": "erred",
    "lost-data": "pending",
    "task-retried": "pending",
}

#: Messages without a name of what has happened.
NO_STIMULUS = {"update-data", "cancel-keys"}

#: After so many rounds in which nothing else happens, nothing ever will.
PATIENCE = 100

EMPTY: Mapping[str, float] = {}
DEFAULT = Cluster()
_TYPE = pickle.dumps(float)


class SimulationError(RuntimeError):
    """The scheduler gave up, or stands still."""


# Connections


class Mailbox:
    """Takes the place of ``BatchedSend``: keeps messages until they are taken.

    Parameters
    ----------
    heard
        Called when something has been put into it.
    """

    def __init__(self, heard: Callable[[], None] = lambda: None) -> None:
        self.messages: list[dict[str, Any]] = []
        self.heard = heard

    def send(self, *messages: dict[str, Any]) -> None:
        self.messages.extend(messages)
        self.heard()

    def take(self) -> list[dict[str, Any]]:
        """Return what has come since it was emptied, and empty it."""
        messages, self.messages = self.messages, []
        return messages

    def closed(self) -> bool:
        return False

    def abort(self) -> None:
        pass

    async def close(self, timeout: Any = None) -> None:
        pass


class _Registered(CommClosedError):
    """The scheduler has answered a worker that registers."""


class _Registration:
    """A comm that stops the scheduler when it would begin to listen to a worker."""

    async def write(self, message: Any, **kwargs: Any) -> int:
        if message["status"] != "OK":
            raise SimulationError(f"a worker cannot register: {message}")
        raise _Registered


def _elsewhere(function: Callable[..., Any], **names: Any) -> Callable[..., Any]:
    """Return a function for which some names of its module stand for something else.

    A scheduler that runs in the same process, in another thread, must not notice.
    """
    function = inspect.unwrap(function)
    assert isinstance(function, FunctionType)
    copy = FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


async def _offload(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


def _run(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise SimulationError("the scheduler waits for something that is not simulated")


# Workers


class Job:
    """A task that a worker is to run.

    Parameters
    ----------
    message
        The scheduler's request.

    Attributes
    ----------
    key, priority
        Of the task; the smallest priority is the most urgent.
    missing
        Number of its inputs that have not arrived.
    running, seceded
        Whether it has begun, and whether it has given its thread back.
    """

    def __init__(self, message: dict[str, Any]):
        self.message = message
        self.key: Key = message["key"]
        self.priority: Any = message["priority"]
        self.missing = 0
        self.running = self.seceded = False


#: Stands for a task where a copy is wanted for its own sake, after what tasks need.
COPY = Job({"key": None, "priority": (math.inf,)})


class SimulatedWorker:
    """What a worker knows; its :class:`Simulation` moves it on.

    Parameters
    ----------
    address
        Where the scheduler knows it.
    threads
        Number of its threads.
    resources
        Abstract resources, by name.

    Attributes
    ----------
    jobs
        What it is to run, by key.
    data
        What it holds, by key. The values are None, unless a subclass computes any.
    """

    def __init__(self, address: str, threads: int, resources: Mapping[str, float]):
        self.address = address
        self.threads = threads
        self.jobs: dict[Key, Job] = {}
        self.data: dict[Key, Any] = {}
        #: Messages of the scheduler, and for it, and when the next batch may go
        self.mailbox, self.outbox = Mailbox(), Mailbox()
        self.flushing = self.posting = False
        self.next_in = self.next_out = 0.0
        #: What is left of threads and resources
        self.free = threads
        self.resources = dict(resources)
        #: What can be run: the most urgent first
        self.ready: list[tuple[Any, int, Job]] = []
        #: Who waits for an input that is missing
        self.waiting: dict[Key, list[Job]] = {}
        #: Inputs to be asked for, by the worker to ask, with their sizes
        self.wanted: dict[str, list[tuple[Any, int, Key, int]]] = {}
        #: Workers and inputs that were asked for, and when the link is free
        self.asked: set[str] = set()
        self.requested: set[Key] = set()
        self.link_free = 0.0
        #: Bytes that it holds, and those of them that the scheduler knows of
        self.nbytes = self.known = 0
        #: What lies on disk, in bytes
        self.spilled: dict[Key, int] = {}
        self.paused = False


class Simulation:
    """Workers and clients for a scheduler, in virtual time.

    Parameters
    ----------
    scheduler
        A scheduler that was not started.
    output
        Returns what the task of a key gives and takes.
    cluster
        What is simulated. Its workers join when :meth:`start` is called.
    meter
        Makes a context manager around each call of the scheduler.

    Attributes
    ----------
    now
        Virtual seconds since the beginning.
    workers
        Those that are there, by address.
    nbytes, peak, peak_worker
        Managed memory as the scheduler knows it, in bytes: now; at most; at most on one
        worker.
    transfers, moved
        Number and bytes of what was fetched from one worker to another.
    queued
        Largest number of tasks that were queued at once.
    told
        What each client was told of the keys that it wants: "pending", "memory" or
        "erred".

    Examples
    --------
    >>> scheduler = Scheduler(dashboard=False)  # doctest: +SKIP
    >>> simulation = Simulation(scheduler, output, Cluster(workers=8))  # doctest: +SKIP
    >>> simulation.start()  # doctest: +SKIP
    >>> simulation.submit(Graph(tasks, outputs))  # doctest: +SKIP
    >>> simulation.run()  # doctest: +SKIP
    >>> simulation.peak, simulation.moved, simulation.now  # doctest: +SKIP
    """

    def __init__(
        self,
        scheduler: Scheduler,
        output: Callable[[Key], Output],
        cluster: Cluster = DEFAULT,
        meter: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ):
        # What pretends to be a connection has no more than the scheduler uses
        self.scheduler: Any = scheduler
        self.output = output
        self.cluster = cluster
        self.meter = meter
        self.workers: dict[str, SimulatedWorker] = {}
        self.mail: dict[str, Mailbox] = {}
        self.told: dict[str, dict[Key, str]] = {}
        self.now = 0.0
        self.nbytes = self.peak = self.peak_worker = 0
        self.transfers = self.moved = 0
        self.queued = 0
        #: Whether something was pending when that was last looked for
        self._waits = False
        self._joined = 0
        #: Size of everything that was made or scattered
        self._sizes: dict[Key, int] = {}
        #: When the scheduler has dealt with all that it was told
        self._free = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        #: How many of the events happen again and again
        self._rounds = 0
        #: Workers that were told something a moment ago
        self._called: dict[SimulatedWorker, None] = {}

    # Who is there

    def start(self) -> None:
        """Let the workers join, and begin what is done again and again."""
        resources = itertools.cycle(self.cluster.resources or (EMPTY,))
        for n in range(self.cluster.workers):
            address = f"tcp://192.0.2.{n // 250 + 2}:{10_000 + n % 250}"
            self.join(address, self.cluster.threads, next(resources))
        extensions = self.scheduler.extensions
        if self.cluster.stealing:
            self._repeat(self.cluster.stealing, extensions["stealing"].balance)
        if self.cluster.replicas:
            self._repeat(self.cluster.replicas, extensions["amm"].run_once)

    def join(
        self, address: str, threads: int, resources: Mapping[str, float] = EMPTY
    ) -> SimulatedWorker:
        """Let a worker join.

        Parameters
        ----------
        address
            Where it pretends to listen, such as ``tcp://192.0.2.1:1``.
        threads
            Number of its threads.
        resources
            Abstract resources, by name.

        Returns
        -------
        SimulatedWorker

        Raises
        ------
        SimulationError
            If the scheduler refuses it.
        """
        worker = SimulatedWorker(address, threads, resources)
        worker.mailbox.heard = partial(self._called.setdefault, worker)
        worker.outbox.heard = partial(self._post, worker)
        self._joined += 1
        bandwidth = parse_bytes(dask.config.get("distributed.scheduler.bandwidth"))
        # While the scheduler adds it, it gives it tasks
        add_worker = _elsewhere(
            Scheduler.add_worker, BatchedSend=lambda **kwargs: worker.mailbox
        )
        adding = add_worker(
            self.scheduler,
            _Registration(),
            address=address,
            status="running",
            server_id=f"worker-{self._joined}",
            nthreads=threads,
            name=f"worker-{self._joined}",
            resolve_address=False,
            now=time.time(),
            resources=dict(resources),
            memory_limit=self.cluster.memory_limit or 2**34,
            metrics={
                "bandwidth": {"total": bandwidth, "workers": {}, "types": {}},
                "digests_total_since_heartbeat": {},
                "memory": 0,
                "spilled_bytes": {"memory": 0, "disk": 0},
            },
            services={},
            local_directory="",
            versions={},
            nanny="",
            extra={},
            stimulus_id="join",
        )
        try:
            _run(adding)
        except _Registered:
            self.workers[address] = worker
            self._deliver()
            return worker
        raise SimulationError(f"the scheduler does not know {address} for a worker")

    def leave(self, worker: SimulatedWorker, expected: bool = True) -> None:
        """Let a worker leave, with all that it has.

        Parameters
        ----------
        worker
            One that is there.
        expected
            Whether it says so. Else its tasks are blamed.
        """
        del self.workers[worker.address]
        how = {"stimulus_id": "leave", "expected": expected, "close": False}
        _run(self.scheduler.remove_worker(worker.address, **how))
        self._learn(worker)
        self._deliver()

    def _connect(self, client: str) -> None:
        """Let a client connect, unless it has."""
        if client not in self.mail:
            self.scheduler.clients[client] = ClientState(client)
            self.mail[client] = self.scheduler.client_comms[client] = Mailbox()
            self.told[client] = {}

    # What clients do

    def submit(self, graph: Graph, client: str = "client", **options: Any) -> None:
        """Let a client submit a graph.

        Parameters
        ----------
        graph
            What to compute.
        client
            Name of the client.
        **options
            Other arguments of ``Scheduler.update_graph``, such as ``user_priority``.
        """
        self._connect(client)
        outputs = list(graph.outputs)
        self.told[client].update(dict.fromkeys(outputs, "pending"))
        order = graph.order
        if order is None:
            order = dask.order.order(dict(graph.tasks))
        # As from a client, but nobody unpickles the graph
        update_graph = _elsewhere(
            Scheduler.update_graph, deserialize=lambda *args: graph, offload=_offload
        )
        updating = update_graph(
            self.scheduler,
            client=client,
            expr_ser=Serialized({}, []),
            keys=set(outputs),
            internal_priority=dict(order),
            submitting_task=None,
            **{
                "span_metadata": {"collections": []},
                "stimulus_id": "submit",
                **options,
            },
        )
        with self.meter():
            _run(updating)
        self._deliver()

    def release(self, keys: Iterable[Key], client: str = "client") -> None:
        """Let a client release keys.

        Parameters
        ----------
        keys
            What it wants no more.
        client
            Name of the client.
        """
        keys = list(keys)
        for key in keys:
            self.told[client].pop(key, None)
        self._waits = False
        self._tell("client-releases-keys", keys=keys, client=client)

    def scatter(
        self,
        key: Key,
        value: Any,
        nbytes: int,
        workers: Iterable[SimulatedWorker],
        client: str = "client",
    ) -> None:
        """Let a client scatter something to workers.

        Parameters
        ----------
        key
            Its key.
        value
            What the workers hold.
        nbytes
            Its size, in bytes.
        workers
            Who gets it.
        client
            Name of the client.
        """
        self._connect(client)
        self.told[client][key] = "pending"
        self._sizes[key] = nbytes
        workers = list(workers)
        for worker in workers:
            self._hold(worker, key, value)
        self._tell(
            "update-data",
            who_has={key: [worker.address for worker in workers]},
            nbytes={key: nbytes},
            client=client,
        )
        for worker in workers:
            self._learn(worker)

    def done(self) -> bool:
        """Whether clients were told of everything that they want."""
        for client, mailbox in self.mail.items():
            told = self.told[client]
            for message in mailbox.take():
                self._waits = False
                if message["op"] == "cancelled-keys":
                    for key in message["keys"]:
                        told.pop(key, None)
                elif message.get("key") in told:
                    told[message["key"]] = STATES[message["op"]]
        # To go through all that is wanted costs, so only when there is news
        if not self._waits:
            self._waits = any("pending" in told.values() for told in self.told.values())
        return not self._waits

    # Time and messages

    def run(self, until: Callable[[], bool] | None = None) -> None:
        """Let time pass until nothing is left to do.

        Parameters
        ----------
        until
            Time stops when this becomes true. It is asked after each event.

        Raises
        ------
        SimulationError
            If the scheduler gives up, or stands still while a client waits.
        """
        quiet = 0
        while self._events and not (until and until()):
            # What happens again and again may help, or go on for ever
            quiet = quiet + 1 if len(self._events) == self._rounds else 0
            if quiet and (quiet > PATIENCE or self.done()):
                break
            self.now, _, action = heapq.heappop(self._events)
            action()
            self._deliver()
            if (queued := len(self.scheduler.queued)) > self.queued:
                self.queued = queued
        if until and until():
            return
        self.done()
        for told in self.told.values():
            for key, state in told.items():
                if state != "memory":
                    what = "gave up" if state == "erred" else "stands still"
                    raise SimulationError(f"the scheduler {what}: {key!r} is {state}")

    def _after(self, delay: float, action: Callable[[], None]) -> None:
        """Let something happen later."""
        heapq.heappush(self._events, (self.now + delay, next(self._count), action))

    def sleep(self, seconds: float) -> None:
        """Let some time pass, and what happens in it happen.

        Parameters
        ----------
        seconds
            How much, in virtual seconds.
        """
        over: list[bool] = []
        self._after(seconds, lambda: over.append(True))
        self.run(lambda: bool(over))

    def _repeat(self, interval: float, action: Callable[[], None]) -> None:
        def again() -> None:
            with self.meter():
                action()
            self._after(interval, again)

        self._rounds += 1
        self._after(interval, again)

    def _tell(self, op: str, **message: Any) -> None:
        """Give the scheduler a message of a worker or a client, here and now."""
        self._handle(op, message)
        self._deliver()

    def _report(self, worker: SimulatedWorker, op: str, **message: Any) -> None:
        """Let a worker send the scheduler a message."""
        worker.outbox.send({"op": op, **message})

    def _post(self, worker: SimulatedWorker) -> None:
        """Send what a worker has to say as soon as another batch may go."""
        if not worker.posting:
            worker.posting = True
            delay = max(worker.next_out - self.now, 0)
            self._after(delay, partial(self._posted, worker))

    def _posted(self, worker: SimulatedWorker) -> None:
        worker.posting = False
        worker.next_out = self.now + self.cluster.batch_workers
        messages = worker.outbox.take()
        arrival = max(self._free, self.now + self.cluster.delay)
        self._free = arrival + self.cluster.busy * len(messages)

        def arrived() -> None:
            for message in messages:
                # It may have been removed meanwhile
                if self.workers.get(worker.address) is worker:
                    self._handle(message.pop("op"), message, worker)

        self._after(self._free - self.now, arrived)

    def _handle(
        self, op: str, message: dict[str, Any], worker: SimulatedWorker | None = None
    ) -> None:
        """Call the scheduler's handler, and keep the books of what it knows."""
        if op not in NO_STIMULUS:
            message.setdefault("stimulus_id", op)
        if worker is None:
            with self.meter():
                self.scheduler.stream_handlers[op](**message)
            return
        if op in ("task-finished", "add-keys"):
            grown = 0
            ws = self.scheduler.workers[worker.address]
            keys = message["keys"] if op == "add-keys" else [message["key"]]
            for key in keys:
                ts = self.scheduler.tasks.get(key)
                if ts and ws not in (ts.who_has or ()):
                    grown += self._sizes[key]
            self._grows(worker, keys, grown)
        with self.meter():
            self.scheduler.stream_handlers[op](worker=worker.address, **message)
        self._learn(worker)

    def _grows(self, worker: SimulatedWorker, keys: Sequence[Key], nbytes: int) -> None:
        """Note that the scheduler is about to learn of outputs or copies."""
        self.peak = max(self.peak, self.nbytes + nbytes)
        self.peak_worker = max(self.peak_worker, worker.known + nbytes)

    def _learn(self, worker: SimulatedWorker) -> None:
        """Note what the scheduler knows that a worker holds."""
        ws: WorkerState | None = self.scheduler.workers.get(worker.address)
        known = ws.nbytes if ws else 0
        self.nbytes += known - worker.known
        worker.known = known

    def _deliver(self) -> None:
        """Send workers on its way what the scheduler has told them."""
        cluster = self.cluster
        while self._called:
            worker = next(iter(self._called))
            del self._called[worker]
            self._learn(worker)
            if not (cluster.delay or cluster.batch):
                self._read(worker)
            elif not worker.flushing:
                worker.flushing = True
                delay = max(worker.next_in - self.now, 0)
                self._after(delay, partial(self._flush, worker))

    def _flush(self, worker: SimulatedWorker) -> None:
        worker.flushing = False
        worker.next_in = self.now + self.cluster.batch
        messages = worker.mailbox.take()

        def arrived() -> None:
            for message in messages:
                self._obey(worker, message)

        self._after(self.cluster.delay, arrived)

    # Workers

    def _read(self, worker: SimulatedWorker) -> None:
        """Let a worker read its messages."""
        for message in worker.mailbox.take():
            self._obey(worker, message)

    def _obey(self, worker: SimulatedWorker, message: dict[str, Any]) -> None:
        """Let a worker do what the scheduler asks for."""
        op = message["op"]
        if op == "compute-task":
            job = worker.jobs[message["key"]] = Job(message)
            if job.key in worker.data:
                self._finish(worker, job)
            else:
                self._accept(worker, job)
        elif op == "free-keys":
            for key in message["keys"]:
                worker.jobs.pop(key, None)
                self._drop(worker, key)
            self._proceed(worker)
        elif op == "remove-replicas":
            for key in message["keys"]:
                if key in worker.data:
                    self._drop(worker, key)
                    # It may have been the only copy by then
                    self._report(worker, "release-worker-data", key=key)
        elif op == "acquire-replicas":
            for key, holders in message["who_has"].items():
                if key not in worker.data:
                    self._want(worker, key, holders, message["nbytes"][key], COPY)
            self._proceed(worker)
        elif op == "steal-request":
            key, state = message["key"], None
            if stolen := worker.jobs.get(key):
                state = "executing"
                if not self._has_begun(worker, stolen):
                    del worker.jobs[key]
                    state = "ready"
            answer = {"key": key, "state": state, "stimulus_id": message["stimulus_id"]}
            self._report(worker, "steal-response", **answer)
        elif op == "worker-status-change":
            self._report(worker, op, status=message["status"])
        elif op not in ("remove-worker", "close", "refresh-who-has"):
            raise SimulationError(f"the simulation knows no {op!r}")

    def _has_begun(self, worker: SimulatedWorker, job: Job) -> bool:
        """Whether a worker cannot give up a task any more."""
        return job.running

    def _compute(self, worker: SimulatedWorker, job: Job) -> Any:
        """Return what a worker is to hold as the output of a task."""
        return None

    def _hold(self, worker: SimulatedWorker, key: Key, value: Any) -> None:
        """Let a worker hold something, and mind its memory."""
        worker.data[key] = value
        worker.nbytes += self._sizes[key]
        self._mind_memory(worker)

    def _drop(self, worker: SimulatedWorker, key: Key) -> None:
        """Let a worker drop what it holds, if it does."""
        if key in worker.data:
            del worker.data[key]
            worker.nbytes -= self._sizes[key]
            worker.spilled.pop(key, None)
            self._mind_memory(worker)

    def _mind_memory(self, worker: SimulatedWorker) -> None:
        """Spill what is beyond the limit, and pause or go on."""
        cluster = self.cluster
        if cluster.memory_limit is None:
            return
        used = worker.nbytes - sum(worker.spilled.values())
        if cluster.spill is not None:
            for key in worker.data:
                if used <= cluster.spill * cluster.memory_limit:
                    break
                if key not in worker.spilled:
                    nbytes = worker.spilled[key] = self._sizes[key]
                    used -= nbytes
                    # It says nothing while it writes
                    worker.next_out = max(worker.next_out, self.now)
                    worker.next_out += nbytes / cluster.disk
        if cluster.pause is not None:
            paused = used > cluster.pause * cluster.memory_limit
            if paused != worker.paused:
                worker.paused = paused
                status = "paused" if paused else "running"
                self._report(worker, "worker-status-change", status=status)
                if not paused:
                    self._proceed(worker)

    def _accept(self, worker: SimulatedWorker, job: Job) -> None:
        """Let a worker begin to fetch what a task needs, or to run it."""
        sizes = job.message["nbytes"]
        for key, holders in job.message["who_has"].items():
            if key not in worker.data:
                job.missing += 1
                self._want(worker, key, holders, sizes[key], job)
        if not job.missing:
            heapq.heappush(worker.ready, (job.priority, next(self._count), job))
        self._proceed(worker)

    def _want(
        self,
        worker: SimulatedWorker,
        key: Key,
        holders: Iterable[str],
        nbytes: int,
        job: Job,
    ) -> None:
        """Note that a worker is to fetch something for a task."""
        if key not in worker.waiting:
            worker.waiting[key] = []
            for address in holders:
                entry = job.priority, next(self._count), key, nbytes
                heapq.heappush(worker.wanted.setdefault(address, []), entry)
        worker.waiting[key].append(job)

    def _proceed(self, worker: SimulatedWorker) -> None:
        """Let a worker fetch and run what it can."""
        if not worker.paused:
            if worker.wanted:
                self._gather(worker)
            if worker.ready:
                self._start(worker)

    def _is_wanted(self, worker: SimulatedWorker, key: Key) -> bool:
        if key not in worker.waiting or key in worker.requested:
            return False
        if any(j is COPY or worker.jobs.get(j.key) is j for j in worker.waiting[key]):
            return True
        # All that wanted it were given up
        del worker.waiting[key]
        return False

    def _gather(self, worker: SimulatedWorker) -> None:
        """Let a worker ask others for what is most urgent, one request to each."""
        while True:
            first, address = None, ""
            for holder, heap in list(worker.wanted.items()):
                if holder in worker.asked:
                    continue
                while heap and not self._is_wanted(worker, heap[0][2]):
                    heapq.heappop(heap)
                if not heap:
                    del worker.wanted[holder]
                elif first is None or heap[0] < first:
                    first, address = heap[0], holder
            if first is None:
                return
            heap = worker.wanted[address]
            keys: dict[Key, int] = {}
            total = 0
            while heap and not (keys and total + heap[0][3] > REQUEST_NBYTES):
                _, _, key, nbytes = heapq.heappop(heap)
                if self._is_wanted(worker, key):
                    keys[key] = nbytes
                    worker.requested.add(key)
                    total += nbytes
            worker.asked.add(address)
            begin = max(self.now + self.cluster.latency, worker.link_free)
            worker.link_free = begin + total / self.cluster.bandwidth
            arrived = partial(self._arrived, worker, address, keys)
            self._after(worker.link_free - self.now, arrived)

    def _arrived(
        self, worker: SimulatedWorker, address: str, keys: dict[Key, int]
    ) -> None:
        worker.asked.discard(address)
        found = []
        for key, nbytes in keys.items():
            worker.requested.discard(key)
            holder = self._holder(key, [address])
            if holder and key not in worker.data:
                self._hold(worker, key, holder.data[key])
                self.transfers += 1
                self.moved += nbytes
                found.append(key)
        if found:
            self._report(worker, "add-keys", keys=found)
        for key in found:
            for job in worker.waiting.pop(key, ()):
                job.missing -= 1
                if not job.missing and worker.jobs.get(job.key) is job:
                    heapq.heappush(worker.ready, (job.priority, next(self._count), job))
        self._proceed(worker)

    def _holder(self, key: Key, holders: Iterable[str]) -> SimulatedWorker | None:
        """Return a worker that holds something, None if there is none."""
        known = self.scheduler.tasks.get(key)
        more = (ws.address for ws in (known and known.who_has) or ())
        for address in itertools.chain(holders, more):
            other = self.workers.get(address)
            if other and key in other.data:
                return other
        return None

    def _start(self, worker: SimulatedWorker) -> None:
        """Let a worker run what is most urgent, as far as threads and resources go."""
        aside = []
        while worker.ready and worker.free:
            entry = heapq.heappop(worker.ready)
            job = entry[2]
            if worker.jobs.get(job.key) is not job:
                continue
            needs = job.message["resource_restrictions"] or {}
            if any(worker.resources.get(name, 0) < n for name, n in needs.items()):
                aside.append(entry)
                continue
            for name, n in needs.items():
                worker.resources[name] -= n
            job.running = True
            worker.free -= 1
            seconds = self.output(job.key).seconds + self.cluster.overhead
            if worker.spilled:
                for key in job.message["who_has"]:
                    # What was used last is spilled last
                    worker.data[key] = worker.data.pop(key)
                    seconds += worker.spilled.pop(key, 0) / self.cluster.disk
                self._mind_memory(worker)
            self._after(seconds, partial(self._end, worker, job, self.now))
        for entry in aside:
            heapq.heappush(worker.ready, entry)

    def _end(self, worker: SimulatedWorker, job: Job, start: float) -> None:
        if self.workers.get(worker.address) is not worker:
            return
        worker.free += 1
        for name, n in (job.message["resource_restrictions"] or {}).items():
            worker.resources[name] += n
        # Else it was cancelled
        if worker.jobs.get(job.key) is job:
            self._finish(worker, job, start)
        # The next task starts before the scheduler knows that this one has finished
        self._proceed(worker)

    def _finish(self, worker: SimulatedWorker, job: Job, start: float = 0.0) -> None:
        """Let a worker hold the output of a task, and report it."""
        key = job.key
        output = self.output(key)
        self._sizes[key] = output.nbytes
        if key not in worker.data:
            self._hold(worker, key, self._compute(worker, job))
        worker.jobs.pop(key, None)
        stop = start + output.seconds
        self._report(
            worker,
            "task-finished",
            key=key,
            run_id=job.message["run_id"],
            nbytes=output.nbytes,
            type=_TYPE,
            # Of predicted outputs no type is known
            typename=getattr(output, "typename", "") or "float",
            metadata={},
            thread=1,
            startstops=[{"action": "compute", "start": start, "stop": stop}],
            status="OK",
        )
