"""Graphs that simulated workers compute: the shapes of what users run, of any size.

Each function builds one from a number of tasks, a number of groups, and whether what
brings data in is marked; it comes as close to them as the shape allows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from dask._task_spec import Task, TaskRef

if TYPE_CHECKING:
    from dask.typing import Key


class Kind(NamedTuple):
    """What a task gives and takes.

    Attributes
    ----------
    nbytes
        Size of the output, in bytes.
    seconds
        Duration.
    apart
        Whether the output is a handle or a part of a result, which has to be held
        however chunks are loaded.
    """

    nbytes: int
    seconds: float
    apart: bool = False


@dataclass
class Graph:
    """Tasks, and what workers are to make of them.

    Attributes
    ----------
    tasks : dict
        Tasks by their key.
    outputs : list
        Keys that the client wants.
    kinds : dict of str to Kind
        What tasks give, by the kind of the task, which is what its key begins with, up
        to a hyphen.
    """

    tasks: dict[Key, Task] = field(default_factory=dict)
    outputs: list[Key] = field(default_factory=list)
    kinds: Mapping[str, Kind] = field(default_factory=dict)

    def add(self, key: Key, *dependencies: Key, mark: bool = False) -> Key:
        """Add one task and return its key."""
        refs = (TaskRef(dependency) for dependency in dependencies)
        self.tasks[key] = Task(key, pretend, *refs, _data_producer=mark)
        return key

    def kind(self, key: Key) -> Kind:
        """Return what the task of a key gives and takes."""
        name = key[0] if isinstance(key, tuple) else key
        return self.kinds[str(name).partition("-")[0]]


def pretend(*args: Any) -> None:
    """Stand for the function of a task; it never runs."""


KIB = 2**10
MIB = 2**20
GRAPHS: dict[str, Callable[[int, int, bool], Graph]] = {}

#: What most graphs are made of.
_OPEN = Kind(200, 0.01, apart=True)
_READ = Kind(2 * MIB, 0.05)
_STEP = Kind(2 * MIB, 0.01)
_PART = Kind(1000, 0.01, apart=True)


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
            "open": _OPEN,
            "read": _READ,
            "scale": _STEP,
            "reduce": _PART,
            "total": _PART,
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
    graph = Graph(kinds={"read": _READ, "scale": _STEP, "reduce": _PART})
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
    graph = Graph(kinds={"open": _OPEN, "read": _READ, "mean": _PART})
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
    graph = Graph(kinds={"read": Kind(100_000, 0.05), "combine": _PART})
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
def wide_fan_in(tasks: int, groups: int, marks: bool) -> Graph:
    """Read, reduce each chunk to little, and combine up to 10,000 at a time."""
    graph = Graph(kinds={"read": _READ, "mean": _PART, "combine": _PART})
    number = max(groups // 3, 1)
    chunks = max(tasks // number // 2, 1)
    width = 10_000
    for n in range(number):
        means = []
        for c in range(chunks):
            read = graph.add((f"read-{n}", c), mark=marks)
            means.append(graph.add((f"mean-{n}", c), read))
        for c in range(0, chunks, width):
            part = graph.add((f"combine-{n}", c), *means[c : c + width])
            graph.outputs.append(part)
    return graph


@graph
def elementwise(tasks: int, groups: int, marks: bool) -> Graph:
    """Chunks that nothing feeds, and a long chain of elementwise steps on each.

    Each group is one step on all chunks, and larger than the cluster.
    """
    graph = Graph(kinds={"read": _READ, "step": _STEP})
    steps = max(groups, 1)
    for c in range(max(tasks // steps, 1)):
        key = graph.add(("read-0", c), mark=marks)
        for n in range(1, steps):
            key = graph.add((f"step-{n}", c), key)
        graph.outputs.append(key)
    return graph


@graph
def fields(tasks: int, groups: int, marks: bool) -> Graph:
    """Read two fields of each file through its handle, multiply them, and reduce all.

    Every file makes five groups. Both fields of a chunk are needed at the same time.
    """
    graph = Graph(kinds={"open": _OPEN, "read": _READ, "product": _STEP, "mean": _PART})
    number = max(groups // 5, 1)
    chunks = max(round((tasks / number - 1) / (4 + 1 / 7)), 1)
    means = []
    for n in range(number):
        handle = graph.add((f"open-{n}", 0))
        for c in range(chunks):
            fields = [
                graph.add((f"read-{name}-{n}", c), handle, mark=marks) for name in "uv"
            ]
            product = graph.add((f"product-{n}", c), *fields)
            means.append(graph.add((f"mean-{n}", c), product))
    graph.outputs.append(_reduce(graph, "mean-all", means))
    return graph


@graph
def neighbours(tasks: int, groups: int, marks: bool) -> Graph:
    """Read, give the edges of each chunk to both of its neighbours, filter, and reduce.

    Groups are large: those of the edges and filters are one each, whatever is asked.
    """
    graph = Graph(
        kinds={
            "open": _OPEN,
            "read": _READ,
            "edge": Kind(64 * KIB, 0.01),
            "filter": _STEP,
            "mean": _PART,
        }
    )
    number = max((groups - 4) // 2, 1)
    chunks = max(round((tasks / number - 1) / (5 + 1 / 7)), 1)
    reads: list[Key] = []
    for n in range(number):
        handle = graph.add((f"open-{n}", 0))
        reads += [
            graph.add((f"read-{n}", c), handle, mark=marks) for c in range(chunks)
        ]
    edges = [
        [graph.add(("edge", n, side), read) for side in (0, 1)]
        for n, read in enumerate(reads)
    ]
    means = []
    for n, read in enumerate(reads):
        left = [edges[n - 1][1]] if n else []
        right = [edges[n + 1][0]] if n + 1 < len(reads) else []
        filtered = graph.add(("filter", n), read, *left, *right)
        means.append(graph.add(("mean-each", n), filtered))
    graph.outputs.append(_reduce(graph, "mean-all", means))
    return graph


@graph
def stack(tasks: int, groups: int, marks: bool) -> Graph:
    """Read images of the same place, and take the median over time of each block.

    Groups stand for images: every block needs the chunks of all of them at once, at
    most 32.
    """
    graph = Graph(kinds={"asset": _OPEN, "read": _READ, "median": _PART})
    images = min(max((groups - 2) // 2, 1), 32)
    blocks = max((tasks - images) // (images + 1), 1)
    assets = [graph.add((f"asset-{n}", 0)) for n in range(images)]
    for b in range(blocks):
        reads = [
            graph.add((f"read-{n}", b), asset, mark=marks)
            for n, asset in enumerate(assets)
        ]
        graph.outputs.append(graph.add(("median", b), *reads))
    return graph
