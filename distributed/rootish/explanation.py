"""Which groups of a graph are root-ish, for what reason, and what is then in memory.

The graph is not run. Its groups are shown to the policies in the order of the data
flow, as if what they depend on had just arrived: a few tasks of each group, on workers
that exist on paper. So the verdicts are those of the scheduler, not of a model of it.

Sizes are known of

- arrays, by their chunks;
- what the graph itself holds: paths, handles, tables;
- whatever only renames them.

Of other tasks nothing is known before they run. Their consumers are judged as if they
were handles, which is what the scheduler takes a size for that it was not told.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from dask._expr import Expr
from dask._task_spec import Alias, DataNode, GraphNode
from dask.base import collections_to_expr, is_dask_collection
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph
from dask.sizeof import sizeof
from dask.utils import format_bytes, key_split
from sortedcontainers import SortedDict

from distributed.collections import HeapSet
from distributed.core import Status
from distributed.rootish.history import size, some_names, yes_or_no
from distributed.rootish.monitor import (
    CHUNKS_PER_SLOT,
    SMALL,
    chunks_let_through,
    count_slots,
)
from distributed.rootish.policy import (
    COUNTED,
    DATA_PRICE,
    DEAR,
    FEW,
    MARKED,
    POLICIES,
    PRODUCER,
    RESTRICTED,
    ROOT,
    UNTHROTTLED,
    Verdict,
)
from distributed.rootish.tables import Column, Row, Table, fold
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
from distributed.utils import key_split_group, offload, silence_logging_cmgr

if TYPE_CHECKING:
    from dask.typing import Key

    from distributed.scheduler import TaskStateState

#: How many tasks of a group are looked at. They are alike, but for edges.
SAMPLE = 8

#: Annotations of tasks that may run on some workers only
_RESTRICTIONS = ("workers", "resources")

#: Verdicts on groups that bring in data, under the policy that goes by the data
_BRINGS_DATA = frozenset({ROOT, PRODUCER, UNTHROTTLED, MARKED, COUNTED})

#: Verdicts on groups that may, for all that this policy says
_NOT_HELD_BACK = frozenset({RESTRICTED, DEAR, FEW})


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
    """

    groups: Sequence[GroupExplanation]
    nthreads: Sequence[int]
    policy: str
    slots: int | None
    in_memory: Mapping[str, InMemory]

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
        queue = self.slots is not None
        groups = [
            group
            for group in self.groups
            if group.brings_data and not (queue and group.verdicts[policy].rootish)
        ]
        # There can be one for each file
        bound = chunks_let_through(self.slots, sum(self.nthreads))
        return groups if sum(group.tasks for group in groups) > bound else []

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
        return self.table().to_text(width, unfold)

    def _repr_html_(self) -> str:
        return self.table().to_html()

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
        return lines

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


def explain(collections: Sequence[Any], nthreads: Sequence[int]) -> Explanation:
    """Explain collections on a cluster; see :func:`distributed.rootish.explain`.

    Parameters
    ----------
    collections
        Collections of dask.
    nthreads
        Number of threads of each worker.

    Raises
    ------
    TypeError
        If one is no collection of dask.
    ValueError
        If there are no collections, or no threads.
    """
    for collection in collections:
        if not is_dask_collection(collection):
            raise TypeError(
                "only collections of dask can be explained, such as arrays, data "
                "frames, bags, delayed objects and xarray objects that hold them; got "
                f"{type(collection).__name__}"
            )
    if not collections:
        raise ValueError("nothing to explain: give at least one collection")
    if not nthreads or min(nthreads) < 1:
        raise ValueError("a cluster needs a worker, and each worker a thread")
    expr = collections_to_expr(collections).optimize()
    tasks, annotations = _materialize_graph(expr, False)
    restricted = {key for kind in _RESTRICTIONS for key in annotations.get(kind, ())}
    graph = _Graph(_cull(tasks, set(flatten(expr.__dask_keys__()))), restricted)
    graph.set_sizes(_array_sizes(collections))
    verdicts = {name: _Paper(name, nthreads).judge(graph) for name in POLICIES}
    return _summarize(graph, verdicts, _Paper(None, nthreads))


async def explain_on_cluster(collections: Sequence[Any], scheduler: Any) -> Explanation:
    """Explain collections; see :meth:`distributed.Client.explain_rootish`.

    Parameters
    ----------
    collections
        Collections of dask.
    scheduler
        The client's connection to the scheduler of the cluster.

    Raises
    ------
    TypeError
        If one is no collection of dask.
    ValueError
        If there are no collections, or no workers.
    """
    nthreads = await scheduler.ncores()
    if not nthreads:
        raise ValueError(
            "the cluster has no workers yet: wait for them, or give `nworkers` and "
            "`nthreads` to `distributed.rootish.explain`"
        )
    return await offload(explain, collections, list(nthreads.values()))


def _array_sizes(collections: Iterable[Any]) -> dict[str, float]:
    """Return the mean size of the chunks of all arrays that collections are made of.

    Parameters
    ----------
    collections
        Collections of dask. Those that are not made of layers, such as data frames, do
        not tell.

    Returns
    -------
    dict
        Name of an array -> bytes. Arrays whose chunks have no known shape, or hold
        objects, are not in it.
    """
    sizes = {}
    for collection in collections:
        if isinstance(getattr(collection, "expr", None), Expr):
            continue
        graph = collection.__dask_graph__()
        if not isinstance(graph, HighLevelGraph):
            continue
        for name, layer in graph.layers.items():
            facts = layer.collection_annotations or {}
            dtype, chunks = facts.get("dtype"), facts.get("chunks")
            if dtype is None or chunks is None or dtype.hasobject:
                continue
            nbytes = math.prod(map(sum, chunks)) * dtype.itemsize
            if not math.isnan(nbytes):
                sizes[name] = nbytes / max(math.prod(map(len, chunks)), 1)
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
    """

    def __init__(self, policy: str | None, nthreads: Sequence[int]):
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
        with silence_logging_cmgr("WARNING"):
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
        # Groups whose output arrives as it is consumed, not all at once
        throttled: set[str] = set()
        for name, group in graph.groups.items():
            tg = self.task_groups[name]
            if group.nbytes is not None:
                # As when all of them have finished, but for their states
                tg.add_type("object")
                tg.update_nbytes(max(round(group.nbytes), 1))
            upstream = group.dependencies - {name}
            arrive_at_once = not (upstream & throttled)
            tg.prefix.states["processing"] = tg.prefix._size if arrive_at_once else 0
            found = Counter(
                self.rootish_policy.verdict(ts) for ts in self._sample(graph, name)
            )
            verdict = verdicts[name] = max(found, key=lambda v: (found[v], v.rootish))
            if verdict.rootish or not arrive_at_once:
                throttled.add(name)
            if verdict.rootish and len(tg) > (self.slots or math.inf):
                tg.states["queued"] = 1
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
                dts.nbytes = dts.get_nbytes()
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
    graph: _Graph, verdicts: Mapping[str, Mapping[str, Verdict]], settings: _Paper
) -> Explanation:
    """Put together what is known of the groups.

    Parameters
    ----------
    graph
        The groups.
    verdicts
        Name of the policy -> name of the group -> what the one says of the other.
    settings
        Knows the policy of the settings.
    """
    bound = _bound(settings.slots)
    loaders: set[str] = set()
    for name in graph.groups:
        if _loads(graph, name, verdicts["producers"][name], loaders):
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
    if graph.holds(name):
        return False
    if verdict in _BRINGS_DATA:
        return True
    if verdict not in _NOT_HELD_BACK:
        return False
    group = graph.groups[name]
    inputs = {other: graph.groups[other] for other in group.dependencies - {name}}
    if group.nbytes is None:
        return verdict is RESTRICTED and not inputs.keys() & upstream_loaders
    sizes = [other.nbytes for other in inputs.values()]
    total = sum(
        nbytes * len(other.keys)
        for nbytes, other in zip(sizes, inputs.values())
        if nbytes is not None
    )
    return None not in sizes and total <= DATA_PRICE * group.nbytes * len(group.keys)


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
