"""What the tests of the root-ish decision share.

Overproduction depends on how fast workers are in comparison with their scheduler, so
that a test which merely runs something and looks at the peak passes on one machine and
fails on another. :class:`FarWorker` takes the luck out of it: it hears from the
scheduler only when it has nothing left to do. Whatever a policy sends out at once is
then all run before anything that consumes it, and what comes of it can be counted.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections import Counter, deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import dask
import pytest
from dask._task_spec import DataNode, List, Task, TaskRef
from dask.utils import key_split

from distributed.diagnostics.memory_recorder import MemoryRecorder
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.rootish import Verdict
from distributed.rootish.simulation import (
    LOCAL,
    Cluster,
    Graph,
    Job,
    SimulatedWorker,
    Simulation,
)
from distributed.scheduler import Scheduler, TaskPrefix
from distributed.utils_test import gen_cluster, gen_test
from distributed.worker import Worker

if TYPE_CHECKING:
    # Circular dependencies
    from dask.typing import Key

    from distributed.scheduler import TaskState, TaskStateState

#: Two workers with one thread each: with this saturation two slots on each.
TWO_WORKERS: list[Any] = [("127.0.0.1", 1)] * 2
FOUR_WORKERS: list[Any] = [("127.0.0.1", 1)] * 4

#: The default, for tests of what is held back: their environment may set another.
SATURATION = {"distributed.scheduler.worker-saturation": 1.1}

#: Clusters on which every shape of graph is tried, workers x threads.
CLUSTERS = {"4x1": [("127.0.0.1", 1)] * 4, "2x2": [("127.0.0.1", 2)] * 2}

#: A chunk that is worth more than the messages that it takes to copy a handle.
CHUNK_NBYTES = 2**17

KIB = 2**10
MIB = 2**20


#: How long each task takes as far as the scheduler of :func:`policy_cluster` knows (s)
MEASURED = 0.001

#: Clusters of simulated workers, workers x threads
PLAYED = {"4x1": replace(LOCAL, workers=4), "2x2": replace(LOCAL, workers=2, threads=2)}


class SilentWorker(Worker):
    """A worker whose heart does not beat.

    Once a second, the scheduler would hear how quickly data was moved, and which tasks
    have been running for how long, and decide by that.
    """

    async def heartbeat(self) -> None:
        pass


class FarWorker(SilentWorker):
    """A worker that hears from the scheduler only when it has run out of work.

    This is what a worker is whose tasks take less time than a message to the
    scheduler and back, made independent of either time.
    """

    LATE = (
        "acquire-replicas",
        "cancel-compute",
        "compute-task",
        "free-keys",
        "refresh-who-has",
        "remove-replicas",
        "steal-request",
    )

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._mail: deque[tuple[Callable[..., Any], dict[str, Any]]] = deque()
        for op in self.LATE:
            handler = self.stream_handlers[op]
            self.stream_handlers[op] = functools.partial(self._receive, handler)

    def _receive(self, handler: Callable[..., Any], **message: Any) -> None:
        self._mail.append((handler, message))
        self._read_mail()

    def _read_mail(self) -> None:
        if self.state.executing or self.state.ready:
            return
        # All of it, so that the worker chooses by priority among what has arrived
        mail = list(self._mail)
        self._mail.clear()
        for handler, message in mail:
            handler(**message)

    def handle_stimulus(self, *stims: Any) -> None:
        super().handle_stimulus(*stims)
        self._read_mail()


@contextlib.contextmanager
def steady(scheduler: Scheduler, slackens: bool) -> Iterator[None]:
    """Let a scheduler decide as if no machine was ever slow.

    Parameters
    ----------
    scheduler
        It hears of every task that it took :data:`MEASURED`.
    slackens
        Whether holding back slackens when no consumer has finished for long.
    """

    def add_duration(
        prefix: TaskPrefix, action: str, start: float, stop: float
    ) -> None:
        add(prefix, action, start, start + MEASURED)

    add = TaskPrefix.add_duration
    if not slackens:
        scheduler.periodic_callbacks["rootish-backpressure"].stop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskPrefix, "add_duration", add_duration)
        yield


def hear_verdicts(
    scheduler: Scheduler, hear: Callable[[TaskState, Verdict], None]
) -> None:
    """Call a function with each task and verdict, whenever the scheduler asks."""

    class Heard(type(scheduler.rootish_policy)):  # type: ignore[misc]
        def verdict(self, ts: TaskState) -> Verdict:
            verdict: Verdict = super().verdict(ts)
            hear(ts, verdict)
            return verdict

    scheduler.rootish_policy = Heard(scheduler)


class Watch(MemoryRecorder):
    """See what a computation does to some prefixes, at every transition.

    Attributes
    ----------
    peak_sent : int
        Largest number of tasks of the prefixes that the workers were asked to run at
        once.
    peak_replicas : int
        Largest number of workers that held one and the same task of the prefixes.
    queued : set of str
        Keys of the prefixes that were ever held back.
    computed : Counter
        Number of tasks of the prefixes that each worker ran, by address.
    verdicts : list of Verdict
        What the policy said of each task of the prefixes, in order, whenever the
        scheduler asked.
    """

    def __init__(self, *prefixes: str):
        super().__init__(prefixes)
        self.peak_sent = 0
        self.peak_replicas = 0
        self.queued: set[Key] = set()
        self.computed: Counter[str] = Counter()
        self.verdicts: list[Verdict] = []

    async def start(self, scheduler: Scheduler) -> None:
        await super().start(scheduler)
        hear_verdicts(scheduler, self._hear)

    def _hear(self, ts: TaskState, verdict: Verdict) -> None:
        if ts.prefix.name in self.prefixes:
            self.verdicts.append(verdict)

    def transition(
        self,
        key: Key,
        start: TaskStateState,
        finish: TaskStateState,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().transition(key, start, finish, *args, **kwargs)
        tasks = self.scheduler.tasks
        if key not in tasks or tasks[key].prefix.name not in self.prefixes:
            return
        ts = tasks[key]
        known = self.scheduler.task_prefixes
        sent = sum(
            known[name].states["processing"] for name in self.prefixes if name in known
        )
        self.peak_sent = max(self.peak_sent, sent)
        self.peak_replicas = max(self.peak_replicas, len(ts.who_has or ()))
        if finish == "queued":
            self.queued.add(key)
        if start == "processing" and finish == "memory":
            self.computed[kwargs["worker"]] += 1

    @property
    def reasons(self) -> set[str]:
        """Names of the reasons that were given."""
        return {verdict.reason for verdict in self.verdicts}


async def watch(s: Scheduler, *prefixes: str) -> Watch:
    """Watch tasks of ``prefixes`` from now on."""
    plugin = Watch(*prefixes)
    await plugin.start(s)
    s.add_plugin(plugin, name=f"watch {' '.join(prefixes)}")
    return plugin


class Deal(SchedulerPlugin):
    """Note which worker got which task of a prefix, in order."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.dealt: list[tuple[Any, str]] = []

    async def start(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    def transition(
        self,
        key: Key,
        start: TaskStateState,
        finish: TaskStateState,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        if finish == "processing":
            ts = self.scheduler.tasks[key]
            if ts.prefix.name == self.prefix:
                assert ts.processing_on
                self.dealt.append((key, ts.processing_on.address))

    @property
    def workers(self) -> dict[Any, str]:
        """The worker that got a task last."""
        return dict(self.dealt)


async def deal(s: Scheduler, prefix: str = "load") -> Deal:
    """Note who gets tasks of a prefix from now on."""
    plugin = Deal(prefix)
    await plugin.start(s)
    s.add_plugin(plugin, name=f"deal {prefix}")
    return plugin


def load(*args: object) -> bytes:
    """Load a chunk."""
    return bytes(CHUNK_NBYTES)


def combine(*chunks: bytes) -> bytes:
    """Keep as much as one chunk has."""
    return chunks[0]


def tree(leaves: int, width: int) -> dict[Any, Task]:
    """Make loads that are combined by ``width``, and what comes of that counted."""
    dsk: dict[Any, Task] = {}
    for n in range(leaves):
        dsk["load", n] = Task(("load", n), load, n)
    parts = []
    for n in range(leaves // width):
        key = ("combine", n)
        chunks = [TaskRef(("load", n * width + i)) for i in range(width)]
        dsk[key] = Task(key, combine, *chunks)
        dsk["count", n] = Task(("count", n), len, TaskRef(key))
        parts.append(TaskRef(("count", n)))
    dsk["total"] = Task("total", sum, List(*parts))
    return dsk


@contextlib.contextmanager
def marks_stripped() -> Iterator[None]:
    """Let nothing be marked as a data producer, neither tasks nor literal data."""
    with pytest.MonkeyPatch.context() as patch:
        for node in (Task, DataNode):
            patch.setattr(node, "data_producer", property(lambda self: False))
        yield


def reading_tasks(collection: Any) -> list[Key]:
    """Keys of the tasks that read from what `da.from_array` was given."""
    return [
        key
        for key, task in collection.__dask_graph__().items()
        if any(key_split(dep).startswith("original") for dep in task.dependencies)
    ]


def slots(s: Scheduler) -> int:
    """Root-ish tasks that worker saturation allows at once."""
    return sum(
        max(math.ceil(s.WORKER_SATURATION * ws.nthreads), 1)
        for ws in s.workers.values()
    )


def moved(workers: Collection[Worker]) -> int:
    """Bytes that the workers sent to each other so far."""
    return sum(w.transfer_outgoing_bytes_total for w in workers)


def policy_cluster(
    nthreads: Sequence[tuple[str, int]]
    | Mapping[str, Sequence[tuple[str, int]]] = TWO_WORKERS,
    *,
    far: bool = True,
    slackens: bool = False,
    config: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., None]]:
    """Run a coroutine test on a small cluster under the policy of parameter ``policy``.

    What the scheduler decides does not depend on how quick the machine is: it does not
    learn how long tasks and transfers really took, and nothing is done by the clock.

    Parameters
    ----------
    nthreads
        Address and number of threads of each worker; or several such clusters by
        name, for a test on each.
    far
        Whether workers hear from the scheduler only when they have run out of work.
    slackens
        Whether holding back slackens when no consumer has finished for long.
    config
        Settings beyond the policy. Unless they say otherwise, worker saturation is
        :data:`SATURATION`, and work stealing is off, so that tasks run where the
        decision put them. So is the active memory manager, so that copies stay.
    **kwargs
        For ``gen_cluster``. The time after which it gives up is for tests that hang,
        and long enough for those that take their time on a busy machine.

    Returns
    -------
    Decorator for tests ``(c, s, *workers, policy=..., ...)``.
    """
    settings = {
        "distributed.scheduler.validate": True,
        "distributed.worker.validate": False,
        "distributed.scheduler.work-stealing": False,
        "distributed.scheduler.active-memory-manager.start": False,
        "distributed.comm.timeouts.connect": "60s",
        **SATURATION,
        **(config or {}),
    }

    clusters = nthreads if isinstance(nthreads, Mapping) else {"": nthreads}
    first = next(iter(clusters))

    def decorate(func: Callable[..., Awaitable[None]]) -> Callable[..., None]:
        def test_under(policy: str, cluster: str) -> Callable[..., None]:
            chosen = {"distributed.scheduler.rootish-policy": policy, **settings}
            return gen_cluster(
                client=True,
                nthreads=list(clusters[cluster]),
                Worker=FarWorker if far else SilentWorker,
                config=chosen,
                **{"timeout": 120, **kwargs},
            )(run)

        @functools.wraps(func)
        async def run(c: Any, s: Any, *args: Any, **parameters: Any) -> None:
            with steady(s, slackens):
                await func(c, s, *args, **parameters)

        @functools.wraps(func)
        def test(
            *, policy: str = "producers", cluster: str = first, **parameters: Any
        ) -> None:
            if "policy" in inspect.signature(func).parameters:
                parameters["policy"] = policy
            test_under(policy, cluster)(**parameters)

        # What pytest has to fill in is what the cluster leaves open
        signature = inspect.signature(test_under("producers", first))
        if len(clusters) > 1:
            cluster = inspect.Parameter("cluster", inspect.Parameter.KEYWORD_ONLY)
            signature = signature.replace(
                parameters=[*signature.parameters.values(), cluster]
            )
            test = pytest.mark.parametrize("cluster", list(clusters))(test)
        test.__signature__ = signature  # type: ignore[attr-defined]
        return test

    return decorate


class Output(NamedTuple):
    """What a simulated task gives, in bytes, and takes."""

    nbytes: int = 100
    seconds: float = 1.0


class Span(NamedTuple):
    """Number of the worker that ran a task, and from when to when."""

    worker: int
    start: float
    stop: float


class Noted(Simulation):
    """Notes where and when tasks ran; the keys of ``spans`` are in order of the end."""

    def __init__(self, scheduler: Scheduler, *args: Any, **kwargs: Any):
        super().__init__(scheduler, *args, **kwargs)
        self.spans: dict[Key, Span] = {}

    def _finish(self, worker: SimulatedWorker, job: Job, start: float = 0.0) -> None:
        number = list(self.workers).index(worker.address)
        self.spans[job.key] = Span(number, start, self.now)
        super()._finish(worker, job, start)

    @property
    def fleet(self) -> list[SimulatedWorker]:
        return list(self.workers.values())

    def runs_on(self, **numbers: int) -> dict[str, dict[Key, Any]]:
        """Annotations that let tasks run on one worker only."""
        addresses = list(self.workers)
        return {"workers": {key: [addresses[n]] for key, n in numbers.items()}}


@contextlib.asynccontextmanager
async def simulated(
    cluster: Cluster, sizes: Mapping[str, Output] = {}, **more: Any
) -> AsyncIterator[Noted]:
    """Simulate a cluster; outputs are given by key, or by prefix."""

    def output(key: Key) -> Output:
        return sizes.get(str(key)) or sizes.get(key_split(key), Output())

    scheduler = Scheduler(dashboard=False, dashboard_address=":0", validate=True)
    try:
        simulation = Noted(
            scheduler, lambda key: sizes.get(str(key), Output()), cluster, **more
        )
        simulation.start()
        yield simulation
    finally:
        await scheduler.close()


class Played(NamedTuple):
    """What became of a graph that was played.

    Attributes
    ----------
    simulation
        Where and when tasks ran, and what was moved.
    seen
        What tasks of the prefix did to memory, as the scheduler knows it.
    slots
        Root-ish tasks that worker saturation allowed at once.
    """

    simulation: Noted
    seen: Watch
    slots: int


def play(
    dsk: Mapping[Any, Task],
    wanted: Sequence[Key],
    nbytes: Mapping[str, int],
    *,
    prefix: str = "load",
    cluster: Cluster = PLAYED["4x1"],
    config: Mapping[str, Any] | None = None,
) -> Played:
    """Compute a graph in virtual time.

    On real workers, who helps whom, and when, would depend on how fast they are.

    Parameters
    ----------
    dsk, wanted
        The graph, and what is wanted of it. Its functions are not called.
    nbytes
        What tasks give, by prefix. Others make a number.
    prefix
        Of the tasks to watch.
    cluster
        What is simulated.
    config
        Settings. Worker saturation is :data:`SATURATION` unless they say otherwise.
    """
    played: list[Played] = []
    # Some tasks take twice as long as others, so that workers are not in step
    outputs = {
        str(key): Output(nbytes.get(key_split(key), 28), Random(str(key)).uniform(1, 2))
        for key in dsk
    }
    chosen = {"distributed.scheduler.rootish-policy": "producers", **SATURATION}

    @gen_test()
    async def run() -> None:
        with dask.config.set({**chosen, **(config or {})}):
            async with simulated(cluster, outputs) as simulation:
                seen = await watch(simulation.scheduler, prefix)
                simulation.submit(Graph(dsk, wanted))
                simulation.run()
                played.append(Played(simulation, seen, slots(simulation.scheduler)))

    run()
    return played[0]
