"""What a computation will take, before it runs: memory, bytes moved, what holds it.

The graph is played on the real scheduler with workers that pretend (see
:mod:`distributed.rootish.simulation`), once for each policy. What outputs weigh is told
by :mod:`distributed.rootish.sizes`. How long tasks take is not known: each is taken to
pass so many bytes a second, in and out.

All of it happens in the thread that asks for it. The scheduler in it is never started,
and shares nothing with one that runs in the same process.
"""

from __future__ import annotations

import asyncio
import gc
import html
import logging
import operator
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ContextDecorator, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import dask
import dask.order
from dask.utils import format_bytes

from distributed.active_memory_manager import ActiveMemoryManagerExtension
from distributed.collections import HeapSet
from distributed.rootish.apart import Apart, NoAnswer, worthwhile
from distributed.rootish.policy import POLICIES
from distributed.rootish.queue import make_queue
from distributed.rootish.simulation import (
    LOCAL,
    Graph,
    SimulatedWorker,
    Simulation,
    SimulationError,
)
from distributed.rootish.sizes import NOTHING, Assumption, Sizes, passes_on
from distributed.rootish.tables import Column, Row, Table, text_table
from distributed.scheduler import DEFAULT_EXTENSIONS, Scheduler
from distributed.shuffle._core import P2PBarrierTask

if TYPE_CHECKING:
    from dask._task_spec import GraphNode
    from dask.typing import Key

    from distributed.scheduler import TaskState

#: Policies that are played: that of this fork, and that of the release.
PLAYED = ("producers", "marked")

#: Graphs of more tasks are not played unless that is asked for.
LIMIT = 100_000

#: Bytes that a task takes in and gives, per second.
THROUGHPUT = 500e6

#: What any task takes, in seconds. The scheduler does not bear nothing.
LEAST = 1e-5

#: A peak is looked at if it is so many times the last that was.
NOTABLE = 1.02

#: Points of a curve that are kept.
POINTS = 500

#: Groups that are named among those that hold memory at the peak.
HOLDERS = 10

#: Those that a scheduler writes to
_LOGGERS = (
    "distributed.active_memory_manager",
    "distributed.core",
    "distributed.http.proxy",
    "distributed.rootish.monitor",
    "distributed.scheduler",
    "distributed.stealing",
)

#: Extensions of the scheduler that change nothing of what is predicted.
_IDLE_EXTENSIONS = ("spans", "events", "queues", "variables", "semaphores", "locks")


class Worker(NamedTuple):
    """A worker of the cluster that something is predicted for.

    Attributes
    ----------
    nthreads
        Number of its threads.
    memory_limit
        Its memory in bytes, None if there is no limit.
    names
        Its address and its name, for tasks that may run on it only.
    resources
        Abstract resources, by name.
    """

    nthreads: int
    memory_limit: int | None = None
    names: tuple[str, ...] = ()
    resources: Mapping[str, float] = {}


class Holder(NamedTuple):
    """What holds memory when there is most of it.

    Attributes
    ----------
    prefix
        Name of the tasks without the hash.
    tasks
        Number of them whose output is in memory.
    nbytes
        Their size, with copies.
    why
        Why they are in memory.
    """

    prefix: str
    tasks: int
    nbytes: int
    why: str


@dataclass(frozen=True)
class Played:
    """What a computation will take under one policy.

    Attributes
    ----------
    policy
        Name of the policy.
    peak, peak_worker
        Managed memory of the cluster and of the fullest worker, at most, in bytes.
    moved
        Bytes that workers fetch from each other. What P2P shuffles send is not counted.
    fits
        Whether no worker has to write data to disk, None if there is no limit.
    holders
        What holds the memory of the cluster at the peak, the largest first.
    curve
        Parts of the duration, from 0 to 1, and managed memory of the cluster in bytes.
    """

    policy: str
    peak: int
    peak_worker: int
    moved: int
    fits: bool | None
    holders: Sequence[Holder]
    curve: Sequence[tuple[float, int]]

    def to_dict(self) -> dict[str, Any]:
        """Return the same in plain types, as for JSON."""
        return {
            **vars(self),
            "holders": [holder._asdict() for holder in self.holders],
            "curve": [list(point) for point in self.curve],
        }


@dataclass(frozen=True)
class Prediction:
    """What a computation will take.

    Attributes
    ----------
    policies
        Name of the policy -> what it will take.
    limit
        Managed memory from which on the smallest worker writes data to disk, in bytes;
        None if none does.
    memory_limit
        Memory of the smallest worker in bytes, None if there is no limit.
    assumptions
        What was assumed of outputs whose size is not known, the largest first.
    notes
        What else was assumed, in sentences.
    shuffled
        Bytes that go through P2P shuffles, as far as is known. They are no managed
        memory, and in no figure of the policies.
    """

    policies: Mapping[str, Played]
    limit: float | None
    memory_limit: int | None
    assumptions: Sequence[Assumption]
    notes: Sequence[str]
    shuffled: int = 0

    @property
    def known(self) -> bool:
        """Whether the size of everything is known, given, or small."""
        return all(assumption.known for assumption in self.assumptions)

    def to_dict(self) -> dict[str, Any]:
        """Return the same in plain types, as for JSON."""
        return {
            "policies": {name: one.to_dict() for name, one in self.policies.items()},
            "limit": self.limit,
            "memory_limit": self.memory_limit,
            "known": self.known,
            "assumptions": [one.to_dict() for one in self.assumptions],
            "notes": list(self.notes),
            "shuffled": self.shuffled,
        }


class TooLong(Exception):
    """There was no time left."""


def spilling_limit(memory_limit: int | None) -> float | None:
    """Return from how many managed bytes on a worker writes data to disk.

    Parameters
    ----------
    memory_limit
        Of the worker, None if it has none.

    Returns
    -------
    float or None
        By the settings of this process; all of its memory if they turn spilling and
        pausing off, None if there is no limit.
    """
    if not memory_limit:
        return None
    parts = [
        dask.config.get(f"distributed.worker.memory.{name}", False)
        for name in ("target", "spill", "pause", "terminate")
    ]
    return memory_limit * min((part for part in parts if part), default=1.0)


class _Work(NamedTuple):
    """What a task gives and takes."""

    nbytes: int
    seconds: float


class _Play(Simulation):
    """Play one graph, and note what is in memory.

    Parameters
    ----------
    scheduler
        One that was not started.
    output
        Key -> what the task gives and takes.
    workers
        Those of the cluster.
    outputs
        Keys that the client wants.
    check
        Called now and then; raises if it has to stop.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        output: Mapping[Key, _Work],
        workers: Sequence[Worker],
        outputs: Iterable[Key],
        check: Callable[[], None],
    ):
        super().__init__(scheduler, output.__getitem__, LOCAL)
        self._hardware = workers
        self._wanted = set(outputs)
        self._check = check
        self._steps = 0
        self._seen = 0
        self.holders: list[Holder] = []
        self.curve: list[tuple[float, int]] = [(0.0, 0)]
        self.fullest: Counter[str] = Counter()

    def start(self) -> None:
        """Let the workers join, each with the threads that it has."""
        self.cluster = replace(LOCAL, workers=0)
        for number, worker in enumerate(self._hardware):
            self.join(address(number), worker.nthreads, worker.resources)
        super().start()

    def stop(self) -> bool:
        """Raise if there is no time left; never true."""
        self._steps += 1
        if not self._steps % 256:
            self._check()
        return False

    def _handle(
        self, op: str, message: dict[str, Any], worker: SimulatedWorker | None = None
    ) -> None:
        super()._handle(op, message, worker)
        if self.nbytes != self.curve[-1][1]:
            self.curve.append((self.now, self.nbytes))

    def _grows(self, worker: SimulatedWorker, keys: Sequence[Key], nbytes: int) -> None:
        # What is in memory when something comes, before anything is released for it
        total = self.nbytes + nbytes
        if total > self.peak:
            self.curve.append((self.now, total))
            if total > NOTABLE * self._seen:
                self._seen = total
                self._look(worker, keys)
        full = worker.known + nbytes
        if full > self.fullest[worker.address]:
            self.fullest[worker.address] = full
        super()._grows(worker, keys, nbytes)

    def _look(self, worker: SimulatedWorker, news: Iterable[Key]) -> None:
        """Note what holds memory now, and why."""
        found: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        whys: dict[tuple[str, str], str] = {}
        there = {
            ts: len(ts.who_has)
            for ws in self.scheduler.workers.values()
            for ts in ws.has_what
        }
        for key in news:
            ts = self.scheduler.tasks.get(key)
            if ts is not None:
                there[ts] = there.get(ts, 0) + 1
        for ts, copies in there.items():
            group = ts.group.name
            # Tasks of a group wait for the same, but for edges
            why = self._why(ts)
            whys.setdefault((group, why), why)
            entry = found[ts.prefix.name, why]
            entry[0] += 1
            entry[1] += self._sizes.get(ts.key, 0) * copies
        self.holders = sorted(
            (
                Holder(prefix, tasks, nbytes, why)
                for (prefix, why), (tasks, nbytes) in found.items()
            ),
            key=lambda holder: -holder.nbytes,
        )[:HOLDERS]

    def _why(self, ts: TaskState) -> str:
        """Return why an output is in memory."""
        if ts.key in self._wanted:
            return "kept: it is a result"
        running = queued = None
        blocked: TaskState | None = None
        for user in ts.waiters or ():
            if user.state == "queued":
                queued = user
            elif user.state == "processing":
                running = user
            elif blocked is None:
                blocked = user
        if running is not None:
            return f"in use: {running.prefix.name} runs"
        if queued is not None:
            return f"held back: {queued.prefix.name} is queued"
        if blocked is not None:
            for other in blocked.waiting_on or ():
                return f"{blocked.prefix.name} waits for {_cause(other).prefix.name}"
            return f"{blocked.prefix.name} is about to run"
        if ts.who_wants:
            return "kept: a client wants it"
        return "just made"


def _cause(ts: TaskState) -> TaskState:
    """Return what a task that others wait for waits for itself, to no great depth."""
    # The next one says more than a load far away
    return ts


def address(number: int) -> str:
    """Return where the worker of a number pretends to listen."""
    return f"tcp://192.0.2.{number // 250 + 2}:{10_000 + number % 250}"


class _Paper(Scheduler):
    """A scheduler that nobody can connect to.

    Parameters
    ----------
    policy
        Name of its policy.
    """

    def __init__(self, policy: str):
        extensions: dict[str, Any] = {
            name: extension
            for name, extension in DEFAULT_EXTENSIONS.items()
            if name not in _IDLE_EXTENSIONS
        }
        # It is run by the simulation
        extensions["amm"] = partial(ActiveMemoryManagerExtension, start=False)
        title = _title()
        super().__init__(
            dashboard=False,
            validate=False,
            extensions=extensions,
            needs_workdir=False,
        )
        _set_title(title)
        # Settings are those of the process, and another thread may read them now
        self.rootish_policy = POLICIES[policy](self)
        self.queued = HeapSet(key=operator.attrgetter("priority"))
        self.queued = make_queue(self)

    def start_http_server(self, *args: Any, **kwargs: Any) -> None:
        """Start none."""


def _title() -> str | None:
    """Return what the process is called, None if that cannot be told."""
    try:
        from setproctitle import getproctitle
    except ImportError:
        return None
    return str(getproctitle())


def _set_title(title: str | None) -> None:
    if title is not None:
        from setproctitle import setproctitle

        setproctitle(title)


def _durations(
    tasks: Mapping[Key, GraphNode], nbytes: Mapping[Key, int]
) -> dict[Key, _Work]:
    """Return what each task gives, and how long it is taken to run."""
    work = {}
    for key, node in tasks.items():
        size = nbytes[key]
        passed = 0
        if not passes_on(node):
            passed = size + sum(nbytes[other] for other in node.dependencies)
        work[key] = _Work(size, LEAST + passed / THROUGHPUT)
    return work


def _placed(
    tasks: Mapping[Key, GraphNode],
    annotations: Mapping[str, Mapping[Key, Any]],
    workers: Sequence[Worker],
) -> tuple[dict[str, dict[Key, Any]], list[str]]:
    """Return annotations with the addresses of workers that pretend, and notes.

    Parameters
    ----------
    tasks
        Tasks by their key.
    annotations
        Values by key, by the kind of annotation.
    workers
        Those of the cluster.
    """
    known = {name: n for n, worker in enumerate(workers) for name in worker.names}
    notes = []
    strangers: dict[str, int] = {}
    places: dict[Key, list[str]] = {}
    for key, wanted in annotations.get("workers", {}).items():
        numbers = []
        for name in [wanted] if isinstance(wanted, str) else wanted:
            number = known.get(str(name))
            if number is None:
                number = strangers.setdefault(str(name), len(strangers))
            numbers.append(number % len(workers))
        places[key] = [address(number) for number in numbers]
    if strangers:
        notes.append(
            "the cluster has no workers with these names, so others stand for them: "
            + ", ".join(strangers)
        )
    # A P2P shuffle spreads what it makes over the workers
    for barrier in tasks.values():
        if isinstance(barrier, P2PBarrierTask):
            made = sorted(
                (k for k in tasks if barrier.key in tasks[k].dependencies), key=str
            )
            for n, key in enumerate(made):
                places.setdefault(key, [address(n * len(workers) // len(made))])
    kinds = ("resources", "priority", "retries", "allow_other_workers")
    result = {
        kind: dict(values) for kind, values in annotations.items() if kind in kinds
    }
    if places:
        result["workers"] = places
    return result, notes


def _equipped(
    workers: Sequence[Worker], annotations: Mapping[str, Mapping[Key, Any]]
) -> tuple[list[Worker], list[str]]:
    """Return workers that have all resources that tasks ask for, and notes."""
    needs: dict[str, float] = {}
    for wanted in annotations.get("resources", {}).values():
        for name, amount in wanted.items():
            needs[name] = max(needs.get(name, 0), amount)
    missing = {
        name: amount
        for name, amount in needs.items()
        if all(worker.resources.get(name, 0) < amount for worker in workers)
    }
    if not missing:
        return list(workers), []
    return [
        worker._replace(resources={**worker.resources, **missing}) for worker in workers
    ], [f"no worker has {', '.join(missing)}, so each is taken to"]


def predict(
    tasks: Mapping[Key, GraphNode],
    outputs: Iterable[Key],
    annotations: Mapping[str, Mapping[Key, Any]],
    sizes: Sizes,
    workers: Sequence[Worker],
    policies: Iterable[str],
    check: Callable[[], None] = lambda: None,
) -> Prediction:
    """Play a graph under several policies.

    Parameters
    ----------
    tasks
        Tasks by their key.
    outputs
        Keys that the client wants.
    annotations
        Values by key, by the kind of annotation, such as ``{"workers": {...}}``.
    sizes
        Of their outputs, and of what is there already.
    workers
        Those of the cluster.
    policies
        Names of the policies.
    check
        Called now and then; raises if it has to stop.
    """
    outputs, policies = list(outputs), list(policies)
    apart = {policy: Apart() for policy in worthwhile(len(tasks), policies)}
    try:
        placed, notes = _placed(tasks, annotations, workers)
        workers, more = _equipped(workers, annotations)
        notes += more
        order = dask.order.order(dict(tasks))
        check()
        limits = [worker.memory_limit for worker in workers if worker.memory_limit]
        memory_limit = min(limits) if limits else None
        plan = Plan(
            Graph(tasks, outputs, order, placed),
            _durations(tasks, sizes.nbytes),
            {key: n for key, n in sizes.nbytes.items() if key not in tasks},
            workers,
            spilling_limit(memory_limit),
            [key for key, node in tasks.items() if isinstance(node, P2PBarrierTask)],
        )
        for policy, process in apart.items():
            process.ask(plan, policy)
        played = {}
        for policy in policies:
            try:
                played[policy] = _play_somewhere(plan, policy, apart, check)
            except SimulationError as error:
                notes.append(f"{policy}: not predicted, {error}")
            except TooLong:
                if not played:
                    raise
                # The first is the one that was chosen
                notes.append(
                    f"{policy}: not predicted for want of time; `predict=True` takes it"
                )
    finally:
        for process in apart.values():
            process.stop()
    shuffled = sum(map(sizes.shuffled, plan.barriers))
    if plan.barriers:
        notes.append(_what_shuffles_do(shuffled, len(workers)))
    return Prediction(
        played, plan.limit, memory_limit, sizes.assumptions, notes, shuffled
    )


def _what_shuffles_do(nbytes: int, workers: int) -> str:
    """Tell what P2P shuffles do that is not counted."""
    sent = format_bytes(nbytes - nbytes // workers)
    where = "on disk"
    if not dask.config.get("distributed.p2p.storage.disk", True):
        where = "in memory"
    return (
        f"not counted: P2P shuffles send about {sent} between workers, and keep "
        f"{format_bytes(nbytes)} {where} themselves, beside their buffers"
    )


@dataclass(frozen=True)
class Plan:
    """What is played.

    Attributes
    ----------
    graph
        Tasks and their order.
    work
        Key -> what the task gives and takes.
    persisted
        Key -> size of what is there already.
    workers
        Those of the cluster.
    limit
        Managed memory from which on a worker writes data to disk, None if none does.
    barriers
        Keys of the tasks in the middle of P2P shuffles.
    """

    graph: Graph
    work: Mapping[Key, _Work]
    persisted: Mapping[Key, int]
    workers: Sequence[Worker]
    limit: float | None
    barriers: Sequence[Key]


def _play_somewhere(
    plan: Plan, policy: str, apart: Mapping[str, Apart], check: Callable[[], None]
) -> Played:
    """Play a graph under one policy, here unless a process does it."""
    if policy in apart:
        with suppress(NoAnswer):
            return apart[policy].answer(check)
    return play(plan, policy, check)


def play(plan: Plan, policy: str, check: Callable[[], None]) -> Played:
    """Play a graph under one policy.

    Parameters
    ----------
    plan
        What is played.
    policy
        Name of the policy.
    check
        Called now and then; raises if it has to stop.

    Raises
    ------
    SimulationError
        If the scheduler gives up, or stands still.
    """
    graph = plan.graph

    async def play() -> _Play:
        # Where it is made, there has to be an event loop; nothing waits in it
        scheduler = _Paper(policy)
        try:
            play = _Play(scheduler, plan.work, plan.workers, graph.outputs, check)
            play.start()
            there = list(play.workers.values())
            for n, (key, nbytes) in enumerate(plan.persisted.items()):
                play.scatter(key, None, nbytes, [there[n % len(there)]])
            play.submit(graph)
            for key in plan.barriers:
                for ts in scheduler.tasks[key].dependents:
                    # As the shuffle does once it has begun
                    ts._queueable = False
            play.run(play.stop)
            return play
        finally:
            await scheduler.close()

    with unheard():
        played = asyncio.run(play())
    fullest = max(played.fullest.values(), default=0)
    fits = None
    if plan.limit is not None:
        fits = fullest <= plan.limit
    end = played.curve[-1][0] or 1.0
    curve = [(now / end, nbytes) for now, nbytes in _thin(played.curve)]
    return Played(
        policy, played.peak, fullest, played.moved, fits, tuple(played.holders), curve
    )


class _FewCollections(ContextDecorator):
    """Put full garbage collections off as long as somebody builds something large.

    Each goes through all objects of the process, which grow to millions, and none of
    which is garbage: that took a third of the time. Young objects are still collected.
    Threads may ask for it at the same time.
    """

    #: More than there will ever be of those collections that are counted
    NEVER = 1_000_000

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = self.NEVER

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                first, second, self._before = gc.get_threshold()
                gc.set_threshold(first, second, self.NEVER)

    def __exit__(self, *args: object) -> None:
        with self._lock:
            self._users -= 1
            first, second, now = gc.get_threshold()
            # Else somebody else has set it meanwhile
            if not self._users and now == self.NEVER:
                gc.set_threshold(first, second, self._before)


#: To be entered where something large is built; also a decorator.
few_collections = _FewCollections()


@contextmanager
def unheard() -> Iterator[None]:
    """Keep what schedulers log in this thread out of the logs.

    A scheduler of the same process goes on to write its own.
    """
    thread = threading.get_ident()

    def is_of_others(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno >= logging.ERROR

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for one in loggers:
        one.addFilter(is_of_others)
    try:
        yield
    finally:
        for one in loggers:
            one.removeFilter(is_of_others)


def _thin(curve: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """Return some points of a curve, the highest of each stretch, and the last."""
    step = -(-len(curve) // POINTS)
    stretches = (curve[n : n + step] for n in range(0, len(curve), step))
    found = [max(stretch, key=lambda point: point[1]) for stretch in stretches]
    if found[-1] != curve[-1]:
        found.append(curve[-1])
    return found


# What people see


def text_prediction(prediction: Prediction, policy: str) -> list[str]:
    """Return lines that tell what was predicted.

    Parameters
    ----------
    prediction
        What was predicted.
    policy
        The one that the settings choose.
    """
    head, rows, numbers = _table(prediction, policy)
    lines = ["predicted:", *text_table(head, rows, numbers).splitlines()]
    if (played := prediction.policies.get(policy)) and played.holders:
        lines.append(f"at the peak of {policy}:")
        lines.extend(
            text_table(
                HOLDER_HEAD, map(_holder_row, played.holders), {0, 1}
            ).splitlines()[1:]
        )
    return [*lines, *_remarks(prediction)]


HOLDER_HEAD = ("bytes", "outputs", "of", "because")


def _holder_row(holder: Holder) -> tuple[str, ...]:
    return (
        format_bytes(holder.nbytes),
        str(holder.tasks),
        holder.prefix,
        holder.why,
    )


def _table(
    prediction: Prediction, policy: str
) -> tuple[Sequence[str], list[Sequence[str]], set[int]]:
    """Return titles, a row for each policy, and which columns are numbers."""
    head = ["policy", "peak", "fullest worker", "moved"]
    if prediction.memory_limit:
        head.append(f"fits {format_bytes(prediction.memory_limit)} each")
    rows: list[Sequence[str]] = []
    for name, played in prediction.policies.items():
        row = [
            f"{name} (chosen)" if name == policy else name,
            *map(format_bytes, (played.peak, played.peak_worker, played.moved)),
        ]
        if prediction.memory_limit:
            row.append("yes" if played.fits else "no")
        rows.append(row)
    return head, rows, {1, 2, 3}


def _remarks(prediction: Prediction) -> list[str]:
    """Return what was assumed, in sentences."""
    lines = [
        f"assumed: {one.prefix} gives {format_bytes(round(one.nbytes))} each, {one.why}"
        for one in prediction.assumptions
    ]
    asked = [one.prefix for one in prediction.assumptions if one.why == NOTHING]
    if asked:
        names = ", ".join(f'"{name}": "2 MiB"' for name in asked[:3])
        lines.append(f"give what you know of it: sizes={{{names}}}")
    return [*lines, *prediction.notes]


#: Colors of the policies' curves
COLORS = {"producers": "#0072b2", "marked": "#d55e00", "heuristic": "#999999"}


def html_prediction(prediction: Prediction, policy: str) -> str:
    """Return HTML that tells what was predicted, with a curve for each policy.

    Parameters
    ----------
    prediction
        What was predicted.
    policy
        The one that the settings choose.
    """
    head, rows, _ = _table(prediction, policy)
    text = _html(["Predicted"], head, rows) + svg_curves(prediction)
    if (played := prediction.policies.get(policy)) and played.holders:
        text += _html(
            [f"In memory at the peak of {policy}"],
            HOLDER_HEAD,
            [*map(_holder_row, played.holders)],
        )
    if remarks := _remarks(prediction):
        text += f"<p>{'<br>'.join(map(html.escape, remarks))}</p>"
    return text


def _html(
    summary: Sequence[str], head: Sequence[str], rows: Sequence[Sequence[str]]
) -> str:
    """Lay a small table out for a notebook."""
    columns = [*map(Column, head)]
    return Table(summary, columns, [Row(row[0], row[1:]) for row in rows]).to_html()


def svg_curves(prediction: Prediction, width: int = 480, height: int = 160) -> str:
    """Return a picture of managed memory over time, as SVG.

    Parameters
    ----------
    prediction
        What was predicted.
    width, height
        In pixels.
    """
    top = max((played.peak for played in prediction.policies.values()), default=0) or 1
    left, bottom = 70, 20
    lines = []
    for number, (name, played) in enumerate(prediction.policies.items()):
        points = " ".join(
            f"{left + x * (width - left - 5):.1f},"
            f"{(height - bottom) * (1 - y / top) + 5:.1f}"
            for x, y in played.curve
        )
        color = COLORS.get(name, "#000")
        lines.append(
            f'<polyline points="{points}" fill="none" stroke="{color}" '
            f'stroke-width="1.5"/><text x="{left + 5 + 110 * number}" '
            f'y="{height - 2}" fill="{color}" font-size="12">{html.escape(name)}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
        f'height="{height + 10}" role="img" aria-label="Managed memory over time">'
        f'<text x="0" y="15" font-size="12" fill="currentColor">{format_bytes(top)}'
        f'</text><path d="M{left},5V{height - bottom + 5}H{width - 5}" fill="none" '
        f'stroke="currentColor"/>{"".join(lines)}</svg>'
    )


def plot_prediction(prediction: Prediction, ax: Any = None) -> Any:
    """Plot managed memory over time with Matplotlib.

    Parameters
    ----------
    prediction
        What was predicted.
    ax
        Axes to draw on; new ones if they are not given.

    Returns
    -------
    matplotlib.axes.Axes
    """
    if ax is None:
        from matplotlib import pyplot

        _, ax = pyplot.subplots()
    for name, played in prediction.policies.items():
        times, nbytes = zip(*played.curve)
        mib = [n / 2**20 for n in nbytes]
        ax.plot(times, mib, label=name, color=COLORS.get(name))
    ax.set_xlabel("part of the duration")
    ax.set_ylabel("managed memory (MiB)")
    ax.set_ylim(bottom=0)
    ax.legend()
    return ax
