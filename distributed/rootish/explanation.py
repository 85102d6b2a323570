"""Which groups of a graph are root-ish, for what reason, and what is then in memory.

The graph is not run. Its groups are shown to the policies in the order of the data
flow, as if what they depend on had just arrived: a few tasks of each group, on workers
that exist on paper. So the verdicts are those of the scheduler, not of a model of it.
What the computation will take is then predicted, by
:mod:`distributed.rootish.prediction`.

All of it happens in a thread of its own, since some graphs cannot be known before
something is computed: the partitions of a data frame that is sorted, the statistics of
files. The cluster that does that may need every thread that the process has.

Sizes are known of

- arrays, by their chunks;
- what the graph itself holds: paths, handles, tables;
- whatever only renames them.

Of other tasks nothing is known before they run. Their consumers are judged as if they
were handles, which is what the scheduler takes a size for that it was not told.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import logging
import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from dask._expr import FinalizeCompute
from dask._task_spec import Alias, DataNode, GraphNode
from dask.base import collections_to_expr, is_dask_collection
from dask.core import flatten
from dask.sizeof import sizeof
from dask.system import CPU_COUNT
from dask.utils import format_bytes, key_split, parse_bytes, parse_timedelta
from sortedcontainers import SortedDict

from distributed.collections import HeapSet
from distributed.core import Status
from distributed.rootish.loading import (
    CHUNKS_PER_SLOT,
    SMALL,
    count_slots,
    let_loose,
)
from distributed.rootish.policy import (
    BESIDE,
    CONSUMER,
    COUNTED,
    FEW,
    PLACED,
    POLICIES,
    PRODUCER,
    SMALL_PART,
    UNKNOWN_OUTPUT,
    Verdict,
)
from distributed.rootish.prediction import (
    LIMIT,
    PLAYED,
    Prediction,
    TooLong,
    Worker,
    few_collections,
    html_prediction,
    plot_prediction,
    predict,
    text_prediction,
    unheard,
)
from distributed.rootish.sizes import Blocks, Sizes, arrays, declared, layers, row_bytes
from distributed.rootish.tables import (
    Column,
    Row,
    Table,
    fold,
    size,
    some_names,
    yes_or_no,
)
from distributed.scheduler import (
    SchedulerState,
    TaskGroup,
    TaskPrefix,
    TaskState,
    WorkerState,
    _cull,
    _materialize_graph,
)
from distributed.shuffle._core import P2PBarrierTask
from distributed.utils import key_split_group

if TYPE_CHECKING:
    from dask.typing import Key

    from distributed.scheduler import TaskStateState

logger = logging.getLogger(__name__)

#: How many tasks of a group are looked at. They are alike, but for edges.
SAMPLE = 8

#: How long it may take to know the graph, and to predict what it takes.
TIMEOUT = 30.0

#: What has more users is rather a handle than a chunk, if its size is not known.
FEW_USERS = 2

#: Annotations of tasks that may run on some workers only
_RESTRICTIONS = ("workers", "resources")

#: Verdicts on groups that bring in data, under the policy that goes by the data
_BRINGS_DATA = frozenset({PRODUCER, BESIDE, COUNTED})

#: Verdicts on groups that may, for all that this policy says
_NOT_HELD_BACK = frozenset({PLACED, CONSUMER, FEW})


class InMemory(NamedTuple):
    """What has been loaded and not been consumed yet, at most, all groups together.

    Attributes
    ----------
    chunks
        Number of tasks whose output is in memory.
    nbytes
        Size of the output of those where it is known, in bytes.
    unknown
        Number of those where it is not known.
    """

    chunks: int
    nbytes: float
    unknown: int

    def __str__(self) -> str:
        known = (
            f"{format_bytes(round(self.nbytes))} in {self.chunks - self.unknown} chunks"
        )
        unknown = f"{self.unknown} chunks of unknown size"
        if not self.unknown:
            return known
        return unknown if self.unknown == self.chunks else f"{known} and {unknown}"


@dataclass(frozen=True)
class GroupExplanation:
    """What the policies make of a task group.

    Attributes
    ----------
    name
        Name of the group, a common part of its keys.
    prefix
        Name of its prefix: without the hash.
    tasks
        Number of its tasks.
    dependency_groups, dependency_tasks
        Number of groups that it depends on, and of all their tasks.
    marked
        Part of its tasks that are marked as data producers, from 0 to 1.
    nbytes
        Mean output of a task in bytes, None if that is not known before it runs.
    brings_data
        Whether its tasks bring data into the cluster.
    verdicts
        Name of the policy -> what it says of most of its tasks.
    in_memory
        Name of the policy -> how many of its chunks are in memory at once, at most.
    """

    name: str
    prefix: str
    tasks: int
    dependency_groups: int
    dependency_tasks: int
    marked: float
    nbytes: float | None
    brings_data: bool
    verdicts: Mapping[str, Verdict]
    in_memory: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return the same in plain types, as for JSON."""
        return {
            **vars(self),
            "verdicts": {
                policy: asdict(verdict) for policy, verdict in self.verdicts.items()
            },
            "in_memory": dict(self.in_memory),
        }


@dataclass(frozen=True)
class Explanation:
    """Which groups of a graph are root-ish, and why.

    Attributes
    ----------
    groups
        One for each group, in the order of the data flow.
    nthreads
        Number of threads of each worker.
    policy
        The policy of the settings: the value of
        ``distributed.scheduler.rootish-policy``.
    slots
        Root-ish tasks that the cluster is given at once, None if the settings turn
        queuing off.
    in_memory
        Name of the policy -> what has been loaded and not been consumed yet, at most.
        Results that are kept and partial results come on top.
    prediction
        What the computation will take, None if that was not predicted.
    notes
        What was taken to be so, and what was computed, to know the graph; and why there
        is no prediction if there is none.
    """

    groups: Sequence[GroupExplanation]
    nthreads: Sequence[int]
    policy: str
    slots: int | None
    in_memory: Mapping[str, InMemory]
    prediction: Prediction | None = None
    notes: Sequence[str] = ()

    @property
    def fits(self) -> bool | None:
        """Whether the computation fits the workers' memory under the chosen policy.

        None if that was not predicted, or the workers have no limit.
        """
        if self.prediction is None or self.policy not in self.prediction.policies:
            return None
        return self.prediction.policies[self.policy].fits

    def plot(self, ax: Any = None) -> Any:
        """Plot managed memory over time, as predicted for each policy.

        Parameters
        ----------
        ax
            Axes of Matplotlib to draw on; new ones if they are not given.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ValueError
            If nothing was predicted.
        """
        if self.prediction is None:
            raise ValueError("nothing was predicted: " + "; ".join(self.notes))
        return plot_prediction(self.prediction, ax)

    def overproducing(self, policy: str | None = None) -> list[GroupExplanation]:
        """Return the groups that bring in data and are not held back, if too many.

        Too many are more tasks than would be let through if they were held back.

        Parameters
        ----------
        policy
            Name of the policy; that of the settings if it is not given.

        Raises
        ------
        ValueError
            If there is no such policy.
        """
        policy = self.policy if policy is None else policy
        if policy not in POLICIES:
            raise ValueError(
                f"policy must be one of {', '.join(POLICIES)}; got {policy!r}"
            )
        return let_loose(
            self.groups,
            lambda group: group.verdicts[policy].rootish,
            self.slots,
            sum(self.nthreads),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the same in plain types, as for JSON."""
        return {
            "nthreads": list(self.nthreads),
            "policy": self.policy,
            "slots": self.slots,
            "in_memory": {
                policy: memory._asdict() for policy, memory in self.in_memory.items()
            },
            "overproducing": [group.name for group in self.overproducing()],
            "prediction": self.prediction and self.prediction.to_dict(),
            "notes": list(self.notes),
            "groups": [group.to_dict() for group in self.groups],
        }

    def __str__(self) -> str:
        return self.to_text()

    __repr__ = __str__

    def to_text(self, width: int | None = None, unfold: bool = False) -> str:
        """Return it as a table for a terminal.

        Parameters
        ----------
        width
            Of the terminal, in columns; its own if it is not given.
        unfold
            Whether to show each group by itself.
        """
        predicted = []
        if self.prediction is not None:
            predicted = [*text_prediction(self.prediction, self.policy), ""]
        return "\n".join([*predicted, self.table().to_text(width, unfold)])

    def _repr_html_(self) -> str:
        predicted = ""
        if self.prediction is not None:
            predicted = html_prediction(self.prediction, self.policy)
        return predicted + self.table().to_html()

    def table(self) -> Table:
        """Return the table of the groups, those that were judged alike in one row.

        What brings in data is what one looks for, and comes first.
        """
        rows = fold(self.groups, self._alike, self._row, attrgetter("name"))
        # What other policies say is the first to be left out of a narrow terminal
        others = {*POLICIES} - {self.policy}
        columns = [
            column._replace(spare=3) if column.title in others else column
            for column in _COLUMNS
        ]
        return Table(self._summary(), columns, rows, queue=self.slots is not None)

    def _summary(self) -> list[str]:
        threads = sum(self.nthreads)
        lines = [
            f"{sum(group.tasks for group in self.groups)} tasks in "
            f"{len(self.groups)} groups, on {len(self.nthreads)} workers with "
            f"{threads} threads"
        ]
        for policy, memory in self.in_memory.items():
            chosen = " (chosen)" if policy == self.policy else ""
            lines.append(f"{policy}{chosen}: up to {memory} loaded at once")
        if groups := self.overproducing():
            lines.append(
                "not held back, and more than the cluster consumes at once: "
                + some_names(group.prefix for group in groups)
            )
        return [*lines, *self.notes]

    def _alike(self, group: GroupExplanation) -> tuple[Any, ...]:
        """Return what groups of one row have in common."""
        rootish = tuple(group.verdicts[policy].rootish for policy in POLICIES)
        return group.prefix, group.verdicts[self.policy], rootish, group.nbytes is None

    def _row(self, groups: Sequence[GroupExplanation]) -> Row:
        group = groups[0]
        tasks = sum(each.tasks for each in groups)
        marked = sum(each.marked * each.tasks for each in groups) / tasks
        mark = yes_or_no(bool(marked)) if marked in (0, 1) else f"{marked:.0%}"
        nbytes = None
        if group.nbytes is not None:
            nbytes = sum((each.nbytes or 0) * each.tasks for each in groups)
        inputs = sum(each.dependency_tasks for each in groups)
        verdict = group.verdicts[self.policy]
        return Row(
            group.prefix,
            (
                f"{tasks:,d}",
                f"{inputs:,d} in {sum(each.dependency_groups for each in groups):,d}",
                mark,
                size(None if nbytes is None else nbytes / tasks),
                *(yes_or_no(group.verdicts[name].rootish) for name in POLICIES),
                verdict.reason,
            ),
            (group.brings_data, nbytes or 0, tasks),
            verdict.reason,
            verdict.explanation,
        )


_COLUMNS = (
    Column("group"),
    Column("tasks", number=True),
    Column("inputs", number=True, spare=2),
    Column("mark", spare=1),
    Column("output", number=True),
    *map(Column, POLICIES),
    Column("reason"),
)


@dataclass(frozen=True)
class Options:
    """What is asked for beside the collections.

    Attributes
    ----------
    sizes
        Prefix or name of a group -> size of the output of each task, with or without
        a unit.
    predict
        Whether to predict what the computation takes; None is up to a number of tasks.
    persist
        Whether results are to stay on the workers, as with ``persist``.
    timeout
        Time that it may take, with or without a unit; None is half a minute.
    """

    sizes: Mapping[str, str | float] | None = None
    predict: bool | None = None
    persist: bool = False
    timeout: str | float | None = None

    @property
    def seconds(self) -> float:
        """The time that it may take."""
        return TIMEOUT if self.timeout is None else parse_timedelta(self.timeout)

    @property
    def given(self) -> dict[str, float]:
        """Sizes in bytes."""
        return {name: parse_bytes(size) for name, size in (self.sizes or {}).items()}


DEFAULT = Options()


def check(collections: Sequence[Any], options: Options) -> None:
    """Raise if something cannot be explained.

    Parameters
    ----------
    collections
        What is said to be collections of dask.
    options
        What is asked for.

    Raises
    ------
    TypeError
        If one is no collection of dask.
    ValueError
        If there are none, or an option cannot be understood.
    """
    for collection in collections:
        if not is_dask_collection(collection):
            hint = ""
            if hasattr(collection, "chunk") and hasattr(collection, "chunks"):
                hint = (
                    ", which holds no chunks: open it with `chunks={}`, or call "
                    "`.chunk()`, so that it is loaded piece by piece"
                )
            raise TypeError(
                "only collections of dask can be explained, such as arrays, data "
                "frames, bags, delayed objects and xarray objects that hold them; got "
                f"{type(collection).__name__}{hint}"
            )
    if not collections:
        raise ValueError("nothing to explain: give at least one collection")
    # These raise what is to be raised
    _ = options.given, options.seconds


def explain(
    collections: Sequence[Any],
    workers: Sequence[Worker],
    options: Options = DEFAULT,
) -> Explanation:
    """Explain collections on a cluster; see :func:`distributed.rootish.explain`.

    Parameters
    ----------
    collections
        Collections of dask.
    workers
        Of the cluster.
    options
        What else is asked for.

    Raises
    ------
    TypeError
        If one is no collection of dask.
    ValueError
        If there are no collections, or no threads.
    TimeoutError
        If the graph is not known in time.
    """
    check(collections, options)
    if not workers or min(worker.nthreads for worker in workers) < 1:
        raise ValueError("a cluster needs a worker, and each worker a thread")
    question = Question(collections, workers, options)
    client = _client_of_this_thread()
    if client is None:
        question.notes.append(
            "no cluster: the graph is taken as it is where there is one, with P2P "
            "shuffles of data frames"
        )
    try:
        with out_of_the_way():
            finding = question.start(client, question.find_graph)
            while not finding.done():
                concurrent.futures.wait([finding], question.patience())
            finding.result()
            return question.start(None, question.answer).result()
    finally:
        question.stopped = True


def explain_here(
    collections: Sequence[Any],
    nthreads: int | None,
    nworkers: int | None,
    memory: str | float | None,
    options: Options,
) -> Explanation:
    """Explain collections without a cluster; see :func:`distributed.rootish.explain`.

    Parameters
    ----------
    collections
        Collections of dask.
    nthreads, nworkers
        Number of threads of each worker, and of workers; None is as on this machine, or
        one if the other is given.
    memory
        Of each worker, with or without a unit.
    options
        What else is asked for.
    """
    from distributed.deploy.utils import nprocesses_nthreads
    from distributed.worker_memory import parse_memory_limit

    if nthreads is None and nworkers is None:
        nworkers, nthreads = nprocesses_nthreads()
        memory = "auto" if memory is None else memory
    nthreads = 1 if nthreads is None else nthreads
    limit = None
    if memory is not None and nthreads > 0:
        limit = parse_memory_limit(memory, nthreads, logger=logger)
    worker = Worker(nthreads, limit)
    return explain(
        collections, [worker] * (1 if nworkers is None else nworkers), options
    )


async def explain_on_cluster(
    collections: Sequence[Any], client: Any, options: Options = DEFAULT
) -> Explanation:
    """Explain collections; see :meth:`distributed.Client.explain_rootish`.

    Parameters
    ----------
    collections
        Collections of dask.
    client
        A client of the cluster.
    options
        What else is asked for.

    Raises
    ------
    TypeError
        If one is no collection of dask.
    ValueError
        If there are no collections, or no workers.
    TimeoutError
        If the graph is not known in time.
    """
    check(collections, options)
    scheduler = client.scheduler
    identity = await scheduler.identity()
    workers = [
        Worker(
            facts["nthreads"],
            facts["memory_limit"] or None,
            (address, str(facts["name"])),
            facts["resources"],
        )
        for address, facts in identity["workers"].items()
        if facts["nthreads"]
    ]
    if not workers:
        raise ValueError(
            "the cluster has no workers yet: wait for them, or give `nworkers` and "
            "`nthreads` to `distributed.rootish.explain`"
        )
    question = Question(collections, workers, options)
    try:
        finding = question.start(client, question.find_graph)
        found = asyncio.wrap_future(finding)
        while not found.done():
            await asyncio.wait([found], timeout=question.patience())
        found.result()
        await question.ask(scheduler)
        return await asyncio.wrap_future(question.start(None, question.answer))
    finally:
        question.stopped = True


def _client_of_this_thread() -> Any:
    """Return the client that computations of this thread would use, None without one.

    One that lives in this very thread cannot answer while the thread waits.
    """
    from distributed.worker import get_client

    try:
        client = get_client()
    except ValueError:
        return None
    return None if client.asynchronous else client


@contextlib.contextmanager
def out_of_the_way() -> Iterator[None]:
    """Let the worker run something else while a task of it waits for an answer.

    What has to be computed for the answer may need the thread.
    """
    from distributed.threadpoolexecutor import rejoin
    from distributed.worker import secede, thread_state

    seceded = False
    if getattr(thread_state, "key", None):
        with contextlib.suppress(Exception):
            # It may have done so before
            secede()
            seceded = True
    try:
        yield
    finally:
        if seceded:
            rejoin()


class _Watched:
    """Stands for a client while a graph is optimized.

    Data frames ask for a client to know that they will be computed on a cluster, and
    compute with it what they have to know.

    Parameters
    ----------
    client
        The client, None if there is none: then it is computed here.
    computed
        What was computed is added here.
    """

    asynchronous = False
    status = "running"

    def __init__(self, client: Any, computed: list[str]):
        self._client = client
        self._computed = computed

    def get(self, graph: Any, keys: Any, **kwargs: Any) -> Any:
        """Compute, and note what."""
        flat = list(flatten([keys])) if isinstance(keys, list) else [keys]
        self._computed.extend(key_split(key) for key in flat)
        if self._client is not None:
            return self._client.get(graph, keys, **kwargs)
        from dask.threaded import get

        # Else there would be one for each thread that has ever asked
        with concurrent.futures.ThreadPoolExecutor(CPU_COUNT) as pool:
            return get(graph, keys, pool=pool)

    def __getattr__(self, name: str) -> Any:
        if self._client is None:
            raise AttributeError(
                f"there is no cluster here, nor a client with {name!r}, while a "
                "computation is explained"
            )
        return getattr(self._client, name)


@contextlib.contextmanager
def as_on_cluster() -> Iterator[None]:
    """Let collections be made as where there is a cluster, unless there is a client.

    Arrays choose how they are rechunked when they are made.
    """
    from distributed.client import _current_client, default_client

    try:
        default_client()
    except ValueError:
        stand_in: Any = _Watched(None, [])
        token = _current_client.set(stand_in)
        try:
            yield
        finally:
            _current_client.reset(token)
    else:
        yield


class Question:
    """What is to be explained, and what is known of it so far.

    Parameters
    ----------
    collections
        Collections of dask.
    workers
        Of the cluster.
    options
        What else is asked for.
    """

    def __init__(
        self,
        collections: Sequence[Any],
        workers: Sequence[Worker],
        options: Options,
    ):
        self.collections = collections
        self.workers = workers
        self.options = options
        self.notes: list[str] = []
        self.stopped = False
        self._began = time.monotonic()
        self._computed: list[str] = []
        self._phase = "optimizes"
        #: What the scheduler says of outputs
        self.seen: dict[str, float] = {}
        self.remembered: dict[str, tuple[float, str]] = {}
        self.persisted: dict[Key, float] = {}

    def left(self) -> float:
        """Return how many seconds there are."""
        return max(self._began + self.options.seconds - time.monotonic(), 0)

    def patience(self) -> float:
        """Return how long to wait, in seconds, before this is asked again.

        Raises
        ------
        TimeoutError
            If that was too long. A large graph may take its time to be written down,
            unless a time was given for it; what is bounded is what may never end.
        """
        left = self.left()
        if left:
            # Nothing is late before then
            return left
        if self.options.timeout is None and self._phase != "optimizes":
            return 1.0
        text = f"the graph is not known after {self.options.seconds:g} s: dask still "
        if self._computed:
            text += (
                f"computes {', '.join(dict.fromkeys(self._computed))} for it, on the "
                "cluster, which may be busy or have too few workers"
            )
        else:
            text += f"{self._phase} it"
        raise TimeoutError(f"{text}. Give it more time with `timeout=`.")

    def start(
        self, client: Any, function: Callable[[], Any]
    ) -> concurrent.futures.Future[Any]:
        """Call a function in a thread of its own.

        Parameters
        ----------
        client
            What it computes with.
        function
            What to call.
        """
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        future.set_running_or_notify_cancel()

        def call() -> None:
            from distributed.client import _current_client

            watched: Any = _Watched(client, self._computed)
            _current_client.set(watched)
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        context = contextvars.copy_context()
        # The process may end while something is still being computed
        threading.Thread(
            target=context.run, args=(call,), name="explain-rootish", daemon=True
        ).start()
        return future

    def find_graph(self) -> None:
        """Find out what would be run."""
        expr = collections_to_expr(self.collections)
        if not self.options.persist:
            expr = FinalizeCompute(expr)
        self.take(expr.optimize())

    @few_collections
    def take(self, expr: Any) -> None:
        """Take an expression for what would be run.

        Parameters
        ----------
        expr
            As it is submitted: optimized.
        """
        self._phase = "materializes"
        self.expr = expr
        tasks, self.annotations = _materialize_graph(expr, False)
        self.outputs = list(flatten(expr.__dask_keys__()))
        self.tasks = _cull(tasks, set(self.outputs))
        restricted = {
            key for kind in _RESTRICTIONS for key in self.annotations.get(kind, ())
        }
        self.graph = _Graph(self.tasks, restricted)

    async def ask(self, scheduler: Any) -> None:
        """Ask the scheduler how large what it knows is."""
        outside = [key for key in self.graph.users if key not in self.tasks]
        if outside:
            # Some may have been forgotten
            with contextlib.suppress(KeyError, TypeError, ValueError):
                found = await scheduler.nbytes(keys=outside, summary=False)
                self.persisted = {key: n for key, n in found.items() if n >= 0}
        with contextlib.suppress(Exception):
            status = await scheduler.rootish()
            outputs: defaultdict[str, list[float]] = defaultdict(list)
            for group in (status or {}).get("groups", ()):
                if group["output"] is not None:
                    self.seen[group["name"]] = group["output"]
                    outputs[group["prefix"]].append(group["output"])
            for prefix, means in outputs.items():
                self.seen.setdefault(prefix, sum(means) / len(means))
            # The newest first, so the oldest is overwritten by it
            for past in reversed((status or {}).get("computations", ())):
                self._remember(past)

    def _remember(self, past: Mapping[str, Any]) -> None:
        """Take what a computation has made for what its like will make.

        Parameters
        ----------
        past
            What became of it. As long as it runs, its groups are there and say more.
        """
        if past["running"]:
            return
        tasks: Counter[str] = Counter()
        made: Counter[str] = Counter()
        for group in past["groups"]:
            tasks[group["prefix"]] += group["tasks"]
            made[group["prefix"]] += group["nbytes"]
        when = f"{datetime.fromtimestamp(past['start']):%Y-%m-%d %H:%M:%S}"
        for prefix, nbytes in made.items():
            # What has made nothing was given up
            if nbytes:
                self.remembered[prefix] = nbytes / tasks[prefix], when

    @few_collections
    def answer(self) -> Explanation:
        """Explain the graph, and predict what it takes."""
        if self._computed:
            names = ", ".join(dict.fromkeys(self._computed))
            self.notes.append(f"computed, to know the graph: {names}")
        blocks = arrays(layers(self.expr))
        graph, nthreads = self.graph, [worker.nthreads for worker in self.workers]
        graph.set_sizes(_array_sizes(layers(self.expr)))
        given = self.options.given
        for name, group in graph.groups.items():
            for known in (name, key_split(group.keys[0])):
                if known in given:
                    group.nbytes = given[known]
        verdicts = {name: _Paper(name, nthreads).judge(graph) for name in POLICIES}
        settings = _Paper(None, nthreads)
        by_data = verdicts["producers"]
        if settings.slots is None:
            # What brings data in does so without a queue as well
            by_data = _Paper("producers", nthreads, saturation=1.0).judge(graph)
        prediction = self._predict(blocks, settings.rootish_policy.name)
        return _summarize(graph, verdicts, by_data, settings, prediction, self.notes)

    def _predict(self, blocks: Mapping[str, Blocks], policy: str) -> Prediction | None:
        wanted = self.options.predict
        if wanted is False:
            return None
        if wanted is None and len(self.tasks) > LIMIT:
            self.notes.append(
                f"not predicted: more than {LIMIT} tasks; `predict=True` does it all "
                "the same"
            )
            return None
        if self.outputs and not self.tasks:
            return None
        sizes = Sizes(
            self.tasks,
            blocks,
            self.options.given,
            self.seen,
            self.persisted,
            row_bytes(self.expr),
            self.remembered,
        )
        if sizes.unused:
            self.notes.append(
                f"nothing is called {', '.join(sizes.unused)}, of which a size is given"
            )
        bounded = wanted is None or self.options.timeout is not None

        def go_on() -> None:
            if self.stopped or (bounded and not self.left()):
                raise TooLong

        policies = dict.fromkeys((policy, *PLAYED))
        try:
            return predict(
                self.tasks,
                self.outputs,
                self.annotations,
                sizes,
                self.workers,
                policies,
                go_on,
            )
        except TooLong:
            if wanted:
                raise TimeoutError(
                    f"not predicted within {self.options.seconds:g} s: give it more "
                    "time with `timeout=`"
                ) from None
            self.notes.append(
                f"not predicted within {self.options.seconds:g} s: `predict=True` "
                "takes the time that it needs"
            )
            return None


def _array_sizes(graphs: Iterable[Any]) -> dict[str, float]:
    """Return the mean size of the chunks of all arrays that graphs are made of.

    Parameters
    ----------
    graphs
        Graphs of layers, as they were built.

    Returns
    -------
    dict
        Name of an array -> bytes. Arrays whose chunks have no known shape, or hold
        objects, are not in it. What reads and reduces at once has the size of what it
        reads: that is what it brings in.
    """
    sizes = {}
    for graph in graphs:
        for name, layer in graph.layers.items():
            blocks = declared(layer)
            if blocks and not math.isnan(blocks.nbytes):
                sizes[name] = blocks.mean
    return sizes


@dataclass
class _Group:
    """A group of a graph: its keys, and what is upstream and downstream of them."""

    keys: list[Key] = field(default_factory=list)
    dependencies: set[str] = field(default_factory=set)
    dependents: set[str] = field(default_factory=set)
    nbytes: float | None = None

    def sample(self) -> list[Key]:
        """Return some keys, evenly spread."""
        step = max(len(self.keys) / SAMPLE, 1)
        return [self.keys[int(n * step)] for n in range(min(SAMPLE, len(self.keys)))]


class _Graph:
    """Groups of a graph.

    Parameters
    ----------
    tasks
        Key -> task, of all that is to be run.
    restricted
        Keys of tasks that may run on some workers only.

    Attributes
    ----------
    groups
        Name -> group, upstream ones first.
    users
        Key -> how many tasks depend on it.
    """

    def __init__(self, tasks: Mapping[Key, GraphNode], restricted: Collection[Key]):
        self.tasks = tasks
        self.restricted = restricted
        self.users: Counter[Key] = Counter()
        self._names: dict[Key, str] = {}
        groups: dict[str, _Group] = defaultdict(_Group)
        for key, node in tasks.items():
            group = groups[self.name(key)]
            group.keys.append(key)
            if node.dependencies:
                self.users.update(node.dependencies)
                group.dependencies.update(map(self.name, node.dependencies))
        # Of what is persisted, there are only the keys
        for key in self.users.keys() - tasks.keys():
            groups[self.name(key)].keys.append(key)
        for name, group in groups.items():
            for other in group.dependencies:
                groups[other].dependents.add(name)
        self.groups = {name: groups[name] for name in _upstream_first(groups)}

    def name(self, key: Key) -> str:
        """Return the name of a key's group."""
        # What costs time is to read it from a string
        if isinstance(key, tuple):
            return str(key[0])
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = key_split_group(key)
        return name

    def holds(self, name: str) -> bool:
        """Whether a group's output is there already: in the graph, or persisted."""
        nodes = (self.tasks.get(key) for key in self.groups[name].sample())
        return all(node is None or isinstance(node, DataNode) for node in nodes)

    def set_sizes(self, arrays: Mapping[str, float]) -> None:
        """Find out how large the outputs of the groups are.

        Parameters
        ----------
        arrays
            Name -> mean size of a chunk in bytes.
        """
        # Fused tasks have the hash of the last one, and its name as the end of theirs
        by_hash = defaultdict(list)
        for name in arrays:
            by_hash[name.rpartition("-")[2]].append(name)
        renamed = []
        for name, group in self.groups.items():
            nodes = [self.tasks.get(key) for key in group.sample()]
            if name in arrays:
                group.nbytes = arrays[name]
            elif sizes := [
                sizeof(node.value) for node in nodes if isinstance(node, DataNode)
            ]:
                group.nbytes = sum(sizes) / len(sizes)
            elif ends := [
                end for end in by_hash[name.rpartition("-")[2]] if name.endswith(end)
            ]:
                group.nbytes = arrays[max(ends, key=len)]
            if all(isinstance(node, Alias) for node in nodes):
                renamed.append(group)
        for name, group in self.groups.items():
            if name.startswith("finalize-") and group.nbytes is None:
                # It puts the result together
                inputs = [self.groups[other] for other in group.dependencies]
                if all(other.nbytes is not None for other in inputs):
                    group.nbytes = sum(
                        (other.nbytes or 0) * len(other.keys) for other in inputs
                    )
        for group in renamed:
            for other in group.dependencies:
                if group.nbytes is None:
                    group.nbytes = self.groups[other].nbytes
                elif self.groups[other].nbytes is None:
                    self.groups[other].nbytes = group.nbytes


def _upstream_first(groups: Mapping[str, _Group]) -> Iterator[str]:
    """Yield the names of groups, those that others depend on first.

    Groups can depend on each other. Where they do, one of them has to be first.
    """
    missing = {name: len(group.dependencies - {name}) for name, group in groups.items()}
    ready = [name for name, number in missing.items() if not number]
    rest = iter(groups)
    while missing:
        if not ready:
            ready.append(next(name for name in rest if name in missing))
        name = ready.pop()
        if missing.pop(name, None) is None:
            continue
        yield name
        for other in groups[name].dependents:
            if other in missing:
                missing[other] -= 1
                if not missing[other]:
                    ready.append(other)


class _Users(set[TaskState]):
    """Dependents of a task, of which all are counted and few exist."""

    def __init__(self, tasks: Iterable[TaskState], number: int):
        super().__init__(tasks)
        self._number = number

    def __len__(self) -> int:
        return self._number


class _Paper(SchedulerState):
    """A scheduler's state without a scheduler, to ask a policy.

    Parameters
    ----------
    policy
        Name of the policy; that of the settings if it is not given.
    nthreads
        Number of threads of each worker.
    saturation
        Root-ish tasks that workers are given for each thread; that of the settings if
        it is not given.
    """

    def __init__(
        self,
        policy: str | None,
        nthreads: Sequence[int],
        saturation: float | None = None,
    ):
        workers = SortedDict()
        for number, threads in enumerate(nthreads):
            address = f"tcp://worker-{number}:0"
            workers[address] = WorkerState(
                address=address,
                status=Status.running,
                pid=0,
                name=number,
                nthreads=threads,
                memory_limit=0,
                local_directory="",
                nanny=None,
                server_id=address,
            )
        with unheard():
            super().__init__(
                aliases={},
                clients={},
                workers=workers,
                host_info={},
                resources={},
                tasks={},
                unrunnable={},
                queued=HeapSet(key=lambda ts: ts.priority),
                validate=False,
            )
        if policy is not None:
            self.rootish_policy = POLICIES[policy](self)
        if saturation is not None:
            self.WORKER_SATURATION = saturation
        self.total_nthreads = sum(nthreads)
        self.nthreads = nthreads
        # Of the tasks that depend on a group's, one stands for all
        self._dependents: dict[str, list[TaskState]] = {}
        self._nowhere = TaskGroup("", TaskPrefix(""))

    def log_event(self, topic: Any, msg: Any) -> None:
        """Do nothing; there is nobody to tell."""

    def valid_workers(self, ts: TaskState) -> None:
        """Let every worker run every task: on paper, pools are as large as all."""

    @property
    def slots(self) -> int | None:
        """Root-ish tasks that workers are given at once, None if there is no queue."""
        return count_slots(self)

    def judge(self, graph: _Graph) -> dict[str, Verdict]:
        """Return what the policy says of each group of a graph."""
        self._add_groups(graph)
        verdicts = {}
        for name, group in graph.groups.items():
            tg = self.task_groups[name]
            if group.nbytes is not None:
                # As when all of them have finished, but for their states
                tg.add_type("object")
                tg.update_nbytes(max(round(group.nbytes), 1))
            found = Counter(
                self.rootish_policy.verdict(ts) for ts in self._sample(graph, name)
            )
            verdict = verdicts[name] = max(found, key=lambda v: (found[v], v.rootish))
            # What was loaded is data to the groups that follow
            tg.rootish_facts.change(verdict)
        return verdicts

    def _add_groups(self, graph: _Graph) -> None:
        for name, group in graph.groups.items():
            prefix = key_split(group.keys[0])
            if prefix not in self.task_prefixes:
                self.task_prefixes[prefix] = TaskPrefix(prefix)
            tg = self.task_groups[name] = TaskGroup(name, self.task_prefixes[prefix])
            for tasks in (tg, tg.prefix):
                tasks._size += len(group.keys)
                tasks.states["waiting"] += len(group.keys)
        users = {name: self._uncounted(name, None, name) for name in graph.groups}
        for name, group in graph.groups.items():
            self.task_groups[name].dependencies.update(
                self.task_groups[other] for other in group.dependencies
            )
            self._dependents[name] = [users[other] for other in group.dependents]

    def _nbytes(self, dts: TaskState) -> int:
        """Return the size of an input; of one that is not known, a guess.

        What consumes data makes data, and what is held back and has few users is rather
        a chunk than a handle.
        """
        verdict = dts.group.rootish_facts.verdict
        is_chunk = verdict is CONSUMER or (
            verdict in _BRINGS_DATA and len(dts.dependents) <= FEW_USERS
        )
        if is_chunk and not dts.group.nbytes_total:
            return UNKNOWN_OUTPUT
        return dts.get_nbytes()

    def _sample(self, graph: _Graph, name: str) -> Iterator[TaskState]:
        """Yield some tasks of a group whose inputs have just arrived."""
        for key in graph.groups[name].sample():
            ts = self._task(graph, key, "waiting")
            node = graph.tasks.get(key)
            ts.waiting_on = set()
            if key in graph.restricted:
                ts.worker_restrictions = {"some"}
            for other in node.dependencies if node else ():
                dts = self._task(graph, other, "memory")
                dts.nbytes = self._nbytes(dts)
                dts.who_has = {next(iter(self.workers.values()))}
                ts.dependencies.add(dts)
                if isinstance(graph.tasks.get(other), P2PBarrierTask):
                    # As the shuffle's plugin does once it has begun
                    ts._queueable = False
            yield ts

    def _task(self, graph: _Graph, key: Key, state: TaskStateState) -> TaskState:
        """Make a task; its group has counted it already."""
        name = graph.name(key)
        group = graph.groups[name]
        ts = self._uncounted(key, graph.tasks.get(key), name)
        ts._state = state
        if group.nbytes is not None:
            ts.nbytes = round(group.nbytes)
        ts.dependents = _Users(self._dependents[name], graph.users[key])
        return ts

    def _uncounted(self, key: Key, node: GraphNode | None, name: str) -> TaskState:
        ts = TaskState(key, node, "released", self._nowhere, validate=False)
        ts.group = self.task_groups[name]
        return ts


def _bound(slots: int | None) -> float:
    """Return how many chunks are in memory at once where loading is held back."""
    return math.inf if slots is None else CHUNKS_PER_SLOT * slots


def _summarize(
    graph: _Graph,
    verdicts: Mapping[str, Mapping[str, Verdict]],
    by_data: Mapping[str, Verdict],
    settings: _Paper,
    prediction: Prediction | None,
    notes: Sequence[str],
) -> Explanation:
    """Put together what is known of the groups.

    Parameters
    ----------
    graph
        The groups.
    verdicts
        Name of the policy -> name of the group -> what the one says of the other.
    by_data
        Name of the group -> what the policy that goes by the data would say of it if
        there were a queue.
    settings
        Knows the policy of the settings.
    prediction
        What it will take, None if that was not predicted.
    notes
        What was taken to be so.
    """
    bound = _bound(settings.slots)
    loaders: set[str] = set()
    for name in graph.groups:
        if _loads(graph, name, by_data[name], loaders):
            loaders.add(name)
    # What costs loaders next to nothing is a handle
    loaders -= {
        name
        for name in loaders
        if graph.groups[name].nbytes is None
        and graph.groups[name].dependents
        and graph.groups[name].dependents <= loaders
    }
    largest = max((graph.groups[name].nbytes or 0 for name in loaders), default=0)
    explained = []
    for name, group in graph.groups.items():
        nodes = [graph.tasks[key] for key in group.keys if key in graph.tasks]
        size = len(group.keys)
        judged = {policy: verdicts[policy][name] for policy in POLICIES}
        brings_data = name in loaders and (
            group.nbytes is None or group.nbytes >= SMALL * largest
        )
        explained.append(
            GroupExplanation(
                name=name,
                prefix=key_split(group.keys[0]),
                tasks=size,
                dependency_groups=len(group.dependencies),
                dependency_tasks=sum(
                    len(graph.groups[other].keys) for other in group.dependencies
                ),
                marked=sum(node.data_producer for node in nodes) / size,
                nbytes=group.nbytes,
                brings_data=brings_data,
                verdicts=judged,
                in_memory={
                    policy: round(min(size, bound)) if verdict.rootish else size
                    for policy, verdict in judged.items()
                    if brings_data
                },
            )
        )
    return Explanation(
        groups=tuple(explained),
        nthreads=tuple(settings.nthreads),
        policy=settings.rootish_policy.name,
        slots=settings.slots,
        in_memory={policy: _in_memory(explained, policy, bound) for policy in POLICIES},
        prediction=prediction,
        notes=tuple(notes),
    )


def _loads(
    graph: _Graph, name: str, verdict: Verdict, upstream_loaders: Collection[str]
) -> bool:
    """Whether a group brings data in, as far as can be told before it runs.

    Parameters
    ----------
    graph
        The groups.
    name
        Name of the group.
    verdict
        Of the policy that goes by the data. What it does not hold back may bring data
        in all the same; then the sizes tell.
    upstream_loaders
        Groups upstream of it that do.
    """
    group = graph.groups[name]
    if graph.holds(name) or any(
        # It unpacks a shuffle, of what was loaded before
        isinstance(graph.tasks.get(graph.groups[other].keys[0]), P2PBarrierTask)
        for other in group.dependencies
    ):
        return False
    if verdict in _BRINGS_DATA:
        return True
    if verdict not in _NOT_HELD_BACK:
        return False
    inputs = {other: graph.groups[other] for other in group.dependencies - {name}}
    if group.nbytes is None:
        return verdict is PLACED and not inputs.keys() & upstream_loaders
    sizes = [other.nbytes for other in inputs.values()]
    total = sum(
        nbytes * len(other.keys)
        for nbytes, other in zip(sizes, inputs.values())
        if nbytes is not None
    )
    return None not in sizes and total <= SMALL_PART * group.nbytes * len(group.keys)


def _in_memory(
    groups: Iterable[GroupExplanation], policy: str, bound: float
) -> InMemory:
    """Return what is in memory at once, at most.

    All that is held back waits in one queue. What it lets through can be of any group.
    """
    chunks = unknown = 0
    nbytes = 0.0
    # The largest come first; those of unknown size count as the smallest
    left = bound
    for group in sorted(groups, key=lambda group: group.nbytes or 0, reverse=True):
        if not group.brings_data:
            continue
        number = group.tasks
        if group.verdicts[policy].rootish:
            number = round(min(number, left))
            left -= number
        chunks += number
        if group.nbytes is None:
            unknown += number
        else:
            nbytes += number * group.nbytes
    return InMemory(chunks, nbytes, unknown)
