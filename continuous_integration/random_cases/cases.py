"""What a case is: settings, graphs and steps, as plain data; and how to draw one.

The numbers of a case are taken modulo what there is when their turn comes, so that
every case can be played, and one that fails still says something when parts of it are
left out: it shrinks to a small script.
"""

from __future__ import annotations

import math
import os
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import dask.order
from dask._task_spec import Task, TaskRef
from hypothesis import strategies as st

if TYPE_CHECKING:
    from dask.typing import Key

#: A task that fails so often never succeeds.
ALWAYS = 9

#: How tasks use those of an earlier layer.
USES = ("one", "share", "pair", "near", "all")

#: Names of layers; the last gives every task a group of its own.
NAMES = ("load", "open", "step", "load_")

#: Number of keys that can be scattered, and of clients
NDATA = 3
NCLIENTS = 2


class _Data:
    """Written as Python without what is as by default."""

    _fields: tuple[str, ...]
    _field_defaults: dict[str, Any]

    def __repr__(self) -> str:
        fields = (
            f"{name}={value!r}"
            for name in self._fields
            if (value := getattr(self, name)) != self._field_defaults[name]
        )
        return f"{type(self).__name__}({', '.join(fields)})"


class _Layer(NamedTuple):
    size: int = 1
    uses: tuple[tuple[int, str], ...] = ()
    data: int = 0
    name: str = "load"
    nbytes: int = 8
    seconds: float = 0.01
    mark: bool = False
    only: tuple[int, ...] = ()
    loose: bool = False
    resource: bool = False
    p2p: bool = False
    fails: int = 0
    retries: int = 0
    priority: int = 0
    mixed: bool = False


class Layer(_Data, _Layer):
    """Tasks of one kind.

    Parameters
    ----------
    size
        How many.
    uses
        Which layers they use, counted back from the one before, and how: each uses
        ``one`` task, they ``share`` the first, they reduce them by ``pair``, use their
        neighbours (``near``) or ``all``. Beyond the first layer, they use the outputs
        of the graph before.
    data
        How many of the scattered keys they use as well.
    name
        Which name they have in common.
    nbytes, seconds
        Size of each output, and how long it takes.
    mark
        Whether they are marked as data producers.
    only
        Numbers of the workers that may run them; none says all.
    loose
        Whether others may, too, if there are none of these.
    resource
        Whether they need what workers with an even number have. It does not count for
        those that are restricted to some workers.
    p2p
        Whether they are not to be queued, as those that unpack a P2P shuffle.
    fails
        How often they fail before they succeed.
    retries
        How often they may.
    priority
        As in an annotation.
    mixed
        Whether all of this, from the mark on, is so for every second task only.
    """

    __slots__ = ()
    __repr__ = _Data.__repr__


class _Graph(NamedTuple):
    layers: tuple[Layer, ...] = (Layer(),)
    persist: bool = False


class Graph(_Data, _Graph):
    """What a client submits at once.

    Parameters
    ----------
    layers
        Each may use those before it.
    persist
        Whether the client wants all tasks, and not only those that no other uses.
    """

    __slots__ = ()
    __repr__ = _Data.__repr__


class _Case(NamedTuple):
    graphs: tuple[Graph, ...] = (Graph(),)
    steps: tuple[tuple[Any, ...], ...] = ()
    threads: tuple[int, ...] = (1,)
    start: int = 1
    policy: str = "producers"
    co_assignment: bool = True
    saturation: float = 1.1
    stealing: bool = False
    allowed_failures: int = 3


class Case(_Data, _Case):
    """All that is to happen.

    Parameters
    ----------
    graphs
        What can be submitted.
    steps
        Name of a step and its numbers; see the methods of :class:`Cluster` that are
        called ``do_`` and the name.
    threads
        Threads of each worker that can join.
    start
        How many have joined at the start.
    policy, co_assignment, saturation, stealing, allowed_failures
        Settings of the scheduler.
    """

    __slots__ = ()
    __repr__ = _Data.__repr__


# -- Graphs --------------------------------------------------------------------------


def combine(number: int, *inputs: int) -> int:
    """Make something of the inputs that tells whether they were right."""
    return (number + sum((n + 1) * value for n, value in enumerate(inputs))) % 2**31


def number_of(key: Key) -> int:
    """Return a number for a key, the same in every process."""
    return zlib.crc32(repr(key).encode())


def _used(how: str, n: int, earlier: list[Key]) -> list[Key]:
    """Return the keys that the task number ``n`` uses."""
    size = len(earlier)
    if how == "one":
        return [earlier[n % size]]
    if how == "share":
        return earlier[:1]
    if how == "pair":
        return [earlier[2 * n % size], earlier[(2 * n + 1) % size]]
    if how == "near":
        return [earlier[m % size] for m in (n - 1, n, n + 1)]
    assert how == "all"
    return earlier


class Plan:
    """The tasks of one graph of a case.

    Attributes
    ----------
    tasks : dict
        Tasks by their key.
    layers : dict
        The layer of each.
    annotations : dict
        Values by key, by the kind of annotation.
    outputs : list
        Keys that the client wants.
    values : dict
        What the tasks are to return, and what is scattered.
    """

    def __init__(
        self, number: int, graph: Graph, before: Plan | None, workers: int
    ):
        self.workers = workers
        self.tasks: dict[Key, Task] = {}
        self.layers: dict[Key, Layer] = {}
        self.annotations: dict[str, dict[Key, Any]] = {}
        scattered: list[Key] = [f"data-{n}" for n in range(NDATA)]
        self.values: dict[Key, int] = {key: number_of(key) for key in scattered}
        if before:
            self.values.update(before.values)
        rows: list[list[Key]] = []
        for n, layer in enumerate(graph.layers):
            row: list[Key] = []
            for i in range(layer.size):
                key: Key = (f"{layer.name}-{number}-{n}", i)
                if layer.name.endswith("_"):
                    key = f"{layer.name}{number}_{n}_{i}"
                inputs = dict.fromkeys(scattered[: layer.data])
                for back, how in layer.uses:
                    if back < n:
                        earlier = rows[n - 1 - back]
                    elif before:
                        earlier = before.outputs
                    else:
                        continue
                    inputs.update(dict.fromkeys(_used(how, i, earlier)))
                self._add(key, layer, list(inputs), i % 2 == 0 or not layer.mixed)
                row.append(key)
            rows.append(row)
        used = {key for task in self.tasks.values() for key in task.dependencies}
        self.outputs = [key for key in self.tasks if graph.persist or key not in used]
        self.order = dask.order.order(dict(self.tasks))

    def _add(self, key: Key, layer: Layer, inputs: list[Key], special: bool) -> None:
        refs = (TaskRef(dependency) for dependency in inputs)
        mark = layer.mark and special
        number = number_of(key)
        self.tasks[key] = Task(key, combine, number, *refs, _data_producer=mark)
        self.values[key] = combine(number, *(self.values[k] for k in inputs))
        if not special:
            layer = layer._replace(fails=0, p2p=False)
        self.layers[key] = layer
        if not special:
            return
        if layer.only:
            self._annotate("workers", key, [address_of(n % self.workers) for n in layer.only])
            self._annotate("allow_other_workers", key, layer.loose)
        elif layer.resource:
            self._annotate("resources", key, {"R": 1})
        if layer.priority:
            self._annotate("priority", key, layer.priority)
        if layer.retries:
            self._annotate("retries", key, layer.retries)

    def _annotate(self, kind: str, key: Key, value: Any) -> None:
        self.annotations.setdefault(kind, {})[key] = value

    def __dask_graph__(self) -> dict[Key, Task]:
        return dict(self.tasks)

    def __dask_annotations__(self) -> dict[str, dict[Key, Any]]:
        return self.annotations


def address_of(number: int) -> str:
    """Return the address of a worker that never listens."""
    return f"tcp://192.0.2.{number + 1}:1000"


def script(case: Case) -> str:
    """Return a program that plays a case."""
    seed = os.environ.get("PYTHONHASHSEED", "random")
    lines = [f"# PYTHONHASHSEED={seed}"]
    lines.append("from continuous_integration.random_cases import *")
    graphs = "".join(f"        {graph!r},\n" for graph in case.graphs)
    steps = "".join(f"        {step!r},\n" for step in case.steps)
    rest = "".join(
        f"    {name}={getattr(case, name)!r},\n"
        for name in case._fields[2:]
        if getattr(case, name) != case._field_defaults[name]
    )
    lines.append(
        f"play(Case(\n    graphs=(\n{graphs}    ),\n    steps=(\n{steps}    ),\n{rest}))"
    )
    return "\n".join(lines).replace("=inf", "=float('inf')")


# -- Strategies ----------------------------------------------------------------------

_small = st.integers(0, 3)
_index = st.integers(0, 7)


def _often(value: Any, *others: Any) -> st.SearchStrategy[Any]:
    """Give ``value`` in half of the cases."""
    return st.sampled_from([value] * len(others) + list(others))


_layers = st.builds(
    Layer,
    size=st.sampled_from([1, 2, 3, 4, 6, 8, 12]),
    uses=st.lists(
        st.tuples(st.sampled_from([0, 0, 1, 2]), st.sampled_from(USES)), max_size=2
    ).map(tuple),
    data=_often(0, 1, 2),
    name=st.sampled_from(NAMES),
    nbytes=st.sampled_from([8, 50_000, 2**21]),
    seconds=st.sampled_from([0.001, 0.1, 3.0]),
    mark=st.booleans(),
    only=_often((), (0,), (1,), (0, 2)),
    loose=st.booleans(),
    resource=_often(False, False, False, True),
    p2p=_often(False, False, False, True),
    fails=_often(0, 0, 1, 2, ALWAYS),
    retries=_often(0, 1, 2),
    priority=_often(0, 1, -1),
    mixed=st.booleans(),
)

_graphs = st.builds(
    Graph,
    layers=st.lists(_layers, min_size=1, max_size=4).map(tuple),
    persist=_often(False, False, True),
)

#: Steps, how many numbers they take, and how often they are to come
_STEPS: dict[str, tuple[int, int]] = {
    "submit": (2, 6),
    "run": (2, 12),
    "finish": (2, 6),
    "secede": (2, 1),
    "reschedule": (2, 1),
    "release": (2, 1),
    "release_all": (1, 1),
    "cancel": (3, 1),
    "retry": (1, 1),
    "disconnect": (1, 1),
    "scatter": (3, 2),
    "join": (1, 3),
    "die": (1, 2),
    "leave": (1, 1),
    "pause": (1, 2),
    "resume": (1, 2),
    "retire": (1, 1),
    "deaf": (1, 2),
    "lose": (2, 1),
    "steal": (0, 2),
    "tidy": (0, 1),
}


def _step(kind: str, numbers: int) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(st.just(kind), *[_small] * numbers)


_steps = st.one_of(
    [
        _step(kind, numbers)
        for kind, (numbers, often) in _STEPS.items()
        for _ in range(often)
    ]
)


def cases() -> st.SearchStrategy[Case]:
    """Return a strategy for cases."""
    return st.builds(
        Case,
        graphs=st.lists(_graphs, min_size=1, max_size=3).map(tuple),
        steps=st.lists(_steps, min_size=1, max_size=40).map(
            lambda steps: (("submit", 0, 0), *steps)
        ),
        threads=st.lists(st.sampled_from([1, 1, 2]), min_size=1, max_size=4).map(tuple),
        start=_small,
        policy=st.sampled_from(["producers", "producers", "marked", "heuristic"]),
        co_assignment=st.booleans(),
        saturation=st.sampled_from([1.1, 1.0, 2.5, math.inf]),
        stealing=st.booleans(),
        allowed_failures=_often(3, 0, 1),
    )
