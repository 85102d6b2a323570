"""What a case is: settings, graphs and steps, as plain data; and how to draw one.

The numbers of a case are taken modulo what there is when their turn comes, so that
every case can be played, and one that fails still says something when parts of it are
left out: it shrinks to a small script.
"""

from __future__ import annotations

import math
import os
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

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

    def __repr__(self) -> str:
        named = (f"{name}={value!r}" for name, value in changed(self))
        return f"{type(self).__name__}({', '.join(named)})"


def changed(data: Any) -> Iterator[tuple[str, Any]]:
    """Yield the fields that are not as by default, and their values.

    Parameters
    ----------
    data
        A case, a graph or a layer.
    """
    for each in fields(data):
        value = getattr(data, each.name)
        if value != each.default:
            yield each.name, value


@dataclass(frozen=True, repr=False)
class Layer(_Data):
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


@dataclass(frozen=True, repr=False)
class Graph(_Data):
    """What a client submits at once.

    Parameters
    ----------
    layers
        Each may use those before it.
    persist
        Whether the client wants all tasks, and not only those that no other uses.
    """

    layers: tuple[Layer, ...] = (Layer(),)
    persist: bool = False


@dataclass(frozen=True, repr=False)
class Case(_Data):
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

    graphs: tuple[Graph, ...] = (Graph(),)
    steps: tuple[tuple[Any, ...], ...] = ()
    threads: tuple[int, ...] = (1,)
    start: int = 1
    policy: str = "producers"
    co_assignment: bool = True
    saturation: float = 1.1
    stealing: bool = False
    allowed_failures: int = 3


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

    def __init__(self, number: int, graph: Graph, before: Plan | None, workers: int):
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
        self.outputs: list[Key] = [
            key for key in self.tasks if graph.persist or key not in used
        ]
        self.order = dask.order.order(dict(self.tasks))

    def _add(self, key: Key, layer: Layer, inputs: list[Key], special: bool) -> None:
        refs = (TaskRef(dependency) for dependency in inputs)
        mark = layer.mark and special
        number = number_of(key)
        self.tasks[key] = Task(key, combine, number, *refs, _data_producer=mark)
        self.values[key] = combine(number, *(self.values[k] for k in inputs))
        if not special:
            layer = replace(layer, fails=0, p2p=False)
        self.layers[key] = layer
        if not special:
            return
        if layer.only:
            self._annotate(
                "workers", key, [address_of(n % self.workers) for n in layer.only]
            )
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
        f"    {name}={value!r},\n"
        for name, value in changed(case)
        if name not in ("graphs", "steps")
    )
    text = f"    graphs=(\n{graphs}    ),\n    steps=(\n{steps}    ),\n{rest}"
    lines.append(f"play(Case(\n{text}))")
    return "\n".join(lines).replace("=inf", "=float('inf')")


# -- Drawing -------------------------------------------------------------------------

#: What is out of the ordinary in a layer, and its values
_TRAITS: dict[str, Sequence[Any]] = {
    "mark": [True],
    "mixed": [True],
    "data": [1, 2],
    "only": [(0,), (1,), (0, 2)],
    "loose": [True],
    "resource": [True],
    "p2p": [True],
    "fails": [1, 2, ALWAYS],
    "retries": [1, 2],
    "priority": [1, -1],
}

#: Shapes of graphs: names of layers, how many tasks they have, and how they use others
_ONE = ((0, "one"),)
_SHAPES: Sequence[Sequence[tuple[str, Sequence[int], Sequence[Any]]]] = [
    [("load", [8, 13, 20], [()])],
    [("load", [5, 8, 13], [()]), ("step", [1, 2, 6], [((0, "all"),), ((0, "pair"),)])],
    [("open", [1, 2, 3], [()]), ("load", [8, 13], [_ONE])],
    [
        ("open", [1, 2], [()]),
        ("open", [1, 3], [_ONE]),
        ("load", [8, 13], [_ONE]),
        ("step", [8], [_ONE, ((0, "near"),), ((0, "one"), (2, "share"))]),
        ("step", [2, 4], [((0, "pair"),)]),
    ],
    [
        ("load", [5, 8], [()]),
        ("load", [5, 8], [()]),
        ("step", [8], [((0, "one"), (1, "one"))]),
        ("step", [1, 3], [((0, "all"),)]),
    ],
    [("load_", [5, 13], [()]), ("step", [1, 5], [((0, "all"),), ((0, "pair"),)])],
]

#: Steps, how many numbers they take, and how often they come
_STEPS: dict[str, tuple[int, int]] = {
    "run": (2, 15),
    "finish": (2, 8),
    "submit": (2, 4),
    "secede": (2, 2),
    "reschedule": (2, 2),
    "release": (2, 1),
    "release_all": (1, 1),
    "cancel": (3, 2),
    "retry": (1, 1),
    "disconnect": (1, 1),
    "scatter": (3, 2),
    "join": (1, 4),
    "die": (1, 3),
    "leave": (1, 1),
    "pause": (1, 2),
    "resume": (1, 2),
    "retire": (1, 2),
    "deaf": (1, 2),
    "lose": (2, 2),
    "steal": (0, 2),
    "tidy": (0, 1),
}
_KINDS = [kind for kind, (_, often) in _STEPS.items() for _ in range(often)]

#: Chooses one of several values
Choose = Callable[[Sequence[Any]], Any]


def _traits(choose: Choose, layer: Layer) -> Layer:
    for _ in range(choose([0, 0, 0, 1, 2])):
        name = choose(list(_TRAITS))
        layer = replace(layer, **{name: choose(_TRAITS[name])})
    return replace(
        layer,
        nbytes=8 if layer.name == "open" else choose([8, 50_000, 2**21]),
        seconds=choose([0.01, 3.0]),
    )


def _any_layer(choose: Choose) -> Layer:
    uses = tuple(
        (choose([0, 0, 1, 2]), choose(USES)) for _ in range(choose([0, 1, 1, 2]))
    )
    return Layer(size=choose([1, 2, 3, 5, 8, 13]), uses=uses, name=choose(NAMES))


def _graph(choose: Choose) -> Graph:
    if choose([True, True, False]):
        layers = [
            Layer(size=choose(sizes), uses=choose(uses), name=name)
            for name, sizes, uses in choose(_SHAPES)
        ]
    else:
        layers = [_any_layer(choose) for _ in range(choose([1, 2, 3, 4]))]
    return Graph(
        layers=tuple(_traits(choose, layer) for layer in layers),
        persist=choose([False, False, True]),
    )


def draw(choose: Choose) -> Case:
    """Draw a case.

    Parameters
    ----------
    choose
        Chooses one of several values. What a case gets simpler by comes first.
    """
    numbers = range(8)
    steps = [("submit", 0, 0)]
    for _ in range(choose(range(41))):
        kind = choose(_KINDS)
        steps.append((kind, *(choose(numbers) for _ in range(_STEPS[kind][0]))))
    return Case(
        graphs=tuple(_graph(choose) for _ in range(choose([1, 2, 3]))),
        steps=tuple(steps),
        threads=tuple(choose([1, 1, 2]) for _ in range(choose([1, 2, 3, 4]))),
        start=choose(range(5)),
        policy=choose(["producers", "producers", "marked", "heuristic"]),
        co_assignment=choose([True, False]),
        saturation=choose([1.1, 1.0, 2.5, math.inf]),
        stealing=choose([False, True]),
        allowed_failures=choose([3, 3, 0, 1]),
    )


def random_case(seed: int) -> Case:
    """Return the case of a number."""
    return draw(random.Random(seed).choice)


@st.composite
def cases(hypothesis_draw: st.DrawFn) -> Case:
    """Give cases to Hypothesis, which shrinks them."""
    return draw(lambda values: hypothesis_draw(st.sampled_from(values)))


# -- Shrinking -----------------------------------------------------------------------


def _without(things: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Yield tuples with parts left out, large parts first."""
    size = len(things)
    while size:
        for n in range(0, len(things), size):
            yield things[:n] + things[n + size :]
        size //= 2


def _simpler(data: Any) -> Iterator[Any]:
    """Yield what is a little simpler than ``data``."""
    if isinstance(data, _Data):
        named: Any = data
        # The steps, which come after the graphs, are what takes time
        for each in reversed(fields(named)):
            yield replace(named, **{each.name: each.default})
            if each.name == "uses":
                continue
            for simpler in _simpler(getattr(named, each.name)):
                yield replace(named, **{each.name: simpler})
    elif isinstance(data, tuple):
        if data and isinstance(data[0], str):
            head, parts = data[:1], data[1:]
        else:
            head, parts = (), data
            yield from (fewer for fewer in _without(parts) if fewer)
        for n, part in enumerate(parts):
            for simpler in _simpler(part):
                yield (*head, *parts[:n], simpler, *parts[n + 1 :])
    elif type(data) is int and data > 1:
        yield data // 2
        if data < 20:
            yield data - 1
    elif type(data) is int and data == 1:
        yield 0


def shrink(case: Case, fails: Callable[[Case], bool]) -> Case:
    """Return the simplest case that is found to fail.

    Parameters
    ----------
    case
        A case that fails.
    fails
        Whether another one does.
    """
    while True:
        size = _size(case)
        for simpler in _simpler(case):
            if _size(simpler) < size and _is_case(simpler) and fails(simpler):
                case = simpler
                break
        else:
            return case


def _size(case: Case) -> tuple[int, str]:
    text = repr(case)
    return len(text), text


def _is_case(case: Case) -> bool:
    sizes = [layer.size for graph in case.graphs for layer in graph.layers]
    return bool(min(sizes) and min(case.threads))
