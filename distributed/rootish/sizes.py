"""How large the output of each task of a graph will be, before it runs.

Sizes are known of arrays, by their chunks, which the layers of a graph remember from
before it was optimized; of what the graph itself holds; and of what follows from these:
cuts, parts of reductions, concatenations. Sizes of other outputs can be given, or be
those of a run. What is left is assumed, and said.
"""

from __future__ import annotations

import math
import operator
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from dask._expr import Expr, HLGExpr
from dask._task_spec import (
    Alias,
    DataNode,
    GraphNode,
    NestedContainer,
    Task,
    TaskRef,
    _execute_subgraph,
)
from dask.blockwise import Blockwise
from dask.highlevelgraph import HighLevelGraph
from dask.sizeof import sizeof
from dask.utils import key_split
from toolz import curry

from distributed.shuffle._core import P2PBarrierTask
from distributed.utils import key_split_group

if TYPE_CHECKING:
    from dask.typing import Key

#: What is assumed of an output of which nothing is known, in bytes.
UNKNOWN = 2**20

#: What is assumed of a handle, and of what only says that something was done.
HANDLE = 1_000

#: What a reduction of rows is taken to leave of its input.
PART = 0.01

#: Functions that cut a piece out of their first argument
_CUTS = {"getitem", "_getitem", "getter", "getter_nofancy", "getter_inline"}

#: Functions whose output shares memory with their input
_VIEWS = {"getitem", "transpose", "expand_dims", "squeeze", "broadcast_to"}

#: Functions that put all of their arguments together
_JOINS = {
    "concatenate",
    "concatenate3",
    "concatenate_shaped",
    "concatenate_axes",
    "concatenate_arrays",
    "finalize",
    "stack",
    "_concat",
    "concat",
    "list",
    "tuple",
}

#: Functions that write what they are given elsewhere
_STORES = {"store_chunk", "load_store_chunk"}

#: Size of None, in bytes
NONE = 16

#: Functions of P2P shuffles whose output only says that something was sent
_TRANSFERS = {
    "_shuffle_transfer",
    "assign_index_merge_transfer",
    "merge_transfer",
    "p2p_barrier",
    "rechunk_transfer",
    "shuffle_transfer",
}

#: Functions of P2P shuffles that give what others have sent
_UNPACKS = {"merge_unpack", "shuffle_unpack"}


def layers(expr: Any) -> Iterator[HighLevelGraph]:
    """Yield the graphs of layers that an expression is made of, as they were built.

    Parameters
    ----------
    expr
        An expression of dask, optimized or not.
    """
    stack, seen = [expr], set()
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        # Data frames have attributes of any name
        if isinstance(node, HLGExpr) and isinstance(node.hlg, HighLevelGraph):
            yield node.hlg
        stack.extend(one for one in node.operands if isinstance(one, Expr))


def row_bytes(expr: Any) -> dict[str, float]:
    """Return about how large a row of each data frame in an expression is.

    Parameters
    ----------
    expr
        An expression of dask, optimized.

    Returns
    -------
    dict
        Name of a data frame -> bytes, an arbitrary number for objects.
    """
    found = {}
    stack, seen = [expr], set()
    while stack:
        node = stack.pop()
        if not isinstance(node, Expr) or id(node) in seen:
            continue
        seen.add(id(node))
        stack.extend(node.operands)
        if not hasattr(type(node), "_meta"):
            continue
        try:
            meta = node._meta
            dtypes = list(meta.dtypes) if hasattr(meta, "columns") else [meta.dtype]
            index = getattr(meta, "index", None)
            nbytes = 0 if index is None or index.nlevels > 1 else index.dtype.itemsize
            found[node._name] = nbytes + sum(map(_itemsize, dtypes))
        except Exception:
            # Not every expression has one, and some are not of pandas
            continue
    return found


def _itemsize(dtype: Any) -> float:
    """Return about how many bytes an element takes."""
    if str(dtype).startswith(("object", "string")):
        return 40
    return float(getattr(dtype, "itemsize", 8))


class Blocks(NamedTuple):
    """The chunks of an array.

    Attributes
    ----------
    chunks
        Sizes of the chunks along each axis.
    itemsize
        Bytes of an element.
    """

    chunks: Sequence[Sequence[int]]
    itemsize: float

    @property
    def nbytes(self) -> float:
        """Of all of the array."""
        return math.prod(map(sum, self.chunks)) * self.itemsize

    @property
    def mean(self) -> float:
        """Of a chunk."""
        return self.nbytes / max(math.prod(map(len, self.chunks)), 1)


def declared(layer: Any) -> Blocks | None:
    """Return what a layer says of the chunks of its array.

    Parameters
    ----------
    layer
        A layer of a graph, as it was built.

    Returns
    -------
    Blocks or None
        None if it makes no array, or one of objects. The shape may be unknown.
    """
    facts = layer.collection_annotations or {}
    dtype, chunks = facts.get("dtype"), facts.get("chunks")
    if dtype is None or chunks is None or dtype.hasobject:
        return None
    return Blocks(chunks, dtype.itemsize)


def arrays(graphs: Iterable[HighLevelGraph]) -> dict[str, Blocks]:
    """Return the chunks of all arrays that graphs are made of.

    Parameters
    ----------
    graphs
        Graphs of layers, as they were built.

    Returns
    -------
    dict
        Name of an array -> its chunks. Arrays whose chunks have no known shape, or hold
        objects, are not in it. Parts of reductions are in it with the size of what
        they have been reduced to.
    """
    found: dict[str, Blocks] = {}
    #: What parts of reductions look like, by name of the layer
    parts: dict[str, _Samples] = {}
    for graph in graphs:
        for name in graph._toposort_layers():
            layer = graph.layers[name]
            said = declared(layer)
            if said is None:
                continue
            chunks, itemsize = said.chunks, said.itemsize
            samples: _Samples | None = None
            if axes := _reduced_axes(layer):
                # What is said of these is what they read
                chunks = tuple(
                    (1,) * len(sizes) if axis in axes else sizes
                    for axis, sizes in enumerate(chunks)
                )
                samples = _sample_chunk(layer, found)
            elif "-partial-" in name:
                inputs = [parts[n] for n in graph.dependencies[name] if n in parts]
                if len(inputs) == 1:
                    samples = _sample_partial(layer, inputs[0])
            if samples:
                parts[name] = samples
                itemsize = _slope(samples) or itemsize
            blocks = Blocks(chunks, itemsize)
            if not math.isnan(blocks.nbytes):
                found[name] = blocks
    return found


#: Outputs of the same function, of arrays with few and with more elements
_Samples = list[Any]


def _reduced_axes(layer: Any) -> Collection[int]:
    """Return along which axes each block of a layer is reduced to one element."""
    task = getattr(layer, "task", None) if isinstance(layer, Blockwise) else None
    if not isinstance(task, Task):
        return ()
    kwargs = {**_keywords(task.func), **task.kwargs}
    axes = kwargs.get("axis")
    if kwargs.get("keepdims") is not True or axes is None:
        return ()
    return (axes,) if isinstance(axes, int) else tuple(axes)


def _keywords(func: Any) -> dict[str, Any]:
    """Return the keyword arguments of a partial function, and of what it holds."""
    kwargs: dict[str, Any] = {}
    while isinstance(func, partial):
        kwargs = {**func.keywords, **kwargs}
        func = func.func
    return kwargs


def _bare(func: Any) -> Any:
    """Return the function that a partial or a curried function calls."""
    while isinstance(func, (partial, curry)):
        func = func.func
    return func


def _sample_chunk(layer: Any, known: Mapping[str, Blocks]) -> _Samples | None:
    """Return what a reduction of dask makes of small arrays.

    A mean keeps a sum and a count, a maximum itself.
    """
    import numpy as np

    task = layer.task
    name, index = layer.indices[0]
    if index is None or not _is_of_dask(task.func):
        return None
    facts = known.get(name)
    kind = f"f{int(facts.itemsize)}" if facts else "f8"
    try:
        return [
            task.func(np.ones((side,) * len(index), np.dtype(kind)), **task.kwargs)
            for side in (2, 4)
        ]
    except Exception:
        # Whatever it does not take
        return None


def _sample_partial(layer: Any, samples: _Samples) -> _Samples | None:
    """Return what a reduction of dask makes of parts of itself."""
    task = next(iter(layer.values()), None)
    # Layers may still be of the older kind
    func = task[0] if isinstance(task, tuple) and task else getattr(task, "func", None)
    if func is None or not _is_of_dask(func):
        return samples
    axes = _keywords(func).get("axis") or ()
    found = []
    try:
        for sample in samples:
            for _ in (axes,) if isinstance(axes, int) else axes:
                sample = [sample]
            found.append(func(sample))
    except Exception:
        # Whatever it does not take
        return samples
    return found


def _is_of_dask(func: Any) -> bool:
    """Whether a function is one that may be called, since it only computes."""
    module = str(getattr(_bare(func), "__module__", ""))
    return module.startswith(("dask.array", "numpy"))


def _slope(samples: _Samples) -> float | None:
    """Return how many bytes outputs take for each element, None if it is not known."""
    import numpy as np

    points = []
    for sample in samples:
        values = list(sample.values()) if isinstance(sample, dict) else [sample]
        values = [value for value in values if isinstance(value, np.ndarray)]
        if not values:
            return None
        count = max(value.size for value in values)
        # A count may be one number that is repeated
        points.append((count, sum(map(sizeof, values))))
    (few, small), (many, large) = points
    if many == few:
        return small / few
    return (large - small) / (many - few)


class Output(NamedTuple):
    """What is known of the output of a task.

    Attributes
    ----------
    nbytes
        Its size.
    shape
        If it is an array.
    itemsize
        Bytes of an element, if it is one.
    """

    nbytes: float
    shape: tuple[float, ...] | None = None
    itemsize: float = 0


@dataclass(frozen=True)
class Assumption:
    """What was assumed of the outputs of some tasks.

    Attributes
    ----------
    prefix
        Name of the tasks without the hash.
    tasks
        Number of them.
    nbytes
        Mean size of what each gives.
    why
        What it was taken from.
    known
        Whether it is a size that was given or seen, or follows from that of an array.
    """

    prefix: str
    tasks: int
    nbytes: float
    why: str
    known: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the same in plain types, as for JSON."""
        return dict(vars(self))


GIVEN = "as given"
SEEN = "as in a run before"
#: Of one whose groups are forgotten; its time follows
REMEMBERED = "as on average in the computation of "
SMALL_HANDLE = "taken for a handle"
BECOMES = "as large as what becomes of it"
AS_INPUT = "as large as its largest input"
NOTHING = "nothing is known of it"

_KNOWN = {GIVEN, SEEN, BECOMES}


class Sizes:
    """Sizes of the outputs of all tasks of a graph.

    Parameters
    ----------
    tasks
        Key -> task, of all that is to be run.
    blocks
        Chunks of the arrays that are in it.
    given
        Prefix or name of a group -> size of an output in bytes, as somebody knows it.
    seen
        The same as a scheduler has seen it.
    remembered
        Prefix -> the same as a scheduler remembers it of a computation whose groups are
        forgotten, and when that was, as text.
    persisted
        Key -> size of what is not in the graph, because it is there already.
    rows
        Name of a data frame -> bytes of a row.

    Attributes
    ----------
    nbytes
        Key -> size of its output, with what is persisted.
    assumptions
        What was assumed, the largest first.
    unused
        Names in ``given`` that nothing is called.
    """

    def __init__(
        self,
        tasks: Mapping[Key, GraphNode],
        blocks: Mapping[str, Blocks],
        given: Mapping[str, float],
        seen: Mapping[str, float],
        persisted: Mapping[Key, float],
        rows: Mapping[str, float],
        remembered: Mapping[str, tuple[float, str]] = {},
    ):
        self.tasks = tasks
        self._blocks = blocks
        self._given = given
        self._seen = seen
        self._remembered = remembered
        self._rows = rows
        self._used: set[str] = set()
        self._names: dict[str, tuple[str, str]] = {}
        self._outputs: dict[Key, Output] = {}
        self._guessed: dict[Key, str] = {}
        self._literals: dict[int, float] = {}
        self._offsets: dict[str, list[list[int]]] = {}
        for key, nbytes in persisted.items():
            self._outputs[key] = Output(nbytes)
        self._find()
        self.nbytes = {
            key: max(round(output.nbytes), 1) for key, output in self._outputs.items()
        }
        self.assumptions = self._assumptions()
        self.unused = sorted(given.keys() - self._used)

    def shuffled(self, barrier: Key) -> int:
        """Return how many bytes go through a P2P shuffle, as far as is known.

        Parameters
        ----------
        barrier
            Key of the task in its middle.
        """
        tasks, nbytes = self.tasks, self.nbytes
        sent = {
            key
            for transfer in tasks[barrier].dependencies
            if transfer in tasks
            for key in tasks[transfer].dependencies
        }
        # What sends may be fused with what makes it. Of arrays, the shuffle itself says
        # how large they are, but for the size of an element
        chunks = getattr(getattr(tasks[barrier], "spec", None), "new", None)
        elements = math.prod(map(sum, chunks)) if chunks else 0
        if math.isnan(elements):
            elements = 0
        itemsize = max(
            (
                blocks.itemsize
                for name, blocks in self._blocks.items()
                if name.startswith("rechunk-p2p")
            ),
            default=0,
        )
        return max(sum(nbytes[key] for key in sent), round(elements * itemsize))

    def _find(self) -> None:
        order, dependents = _topological(self.tasks)
        for key in self._outside(order):
            output = self._declared(key)
            if output is not None:
                self._outputs[key] = output
        unknown = []
        for key in order:
            output = self._output(key, self.tasks[key], {})
            if output is None:
                unknown.append(key)
            else:
                self._outputs[key] = output
        # What they become tells of those that it is known of
        for key in reversed(unknown):
            guess = self._from_users(key, dependents.get(key, ()))
            if guess is not None:
                self._outputs[key], self._guessed[key] = guess
        for key in unknown:
            if key not in self._outputs:
                # Something upstream may have been found out meanwhile
                output = self._output(key, self.tasks[key], {}, True)
                inputs = [self._outputs[d] for d in self.tasks[key].dependencies]
                if output is not None:
                    self._guessed[key] = AS_INPUT
                elif inputs:
                    output = Output(max(one.nbytes for one in inputs))
                    self._guessed[key] = AS_INPUT
                else:
                    output = Output(UNKNOWN)
                    self._guessed[key] = NOTHING
                self._outputs[key] = output

    def _outside(self, order: Iterable[Key]) -> Iterator[Key]:
        """Yield what is used and not in the graph, nor known to be persisted."""
        for key in order:
            for other in self.tasks[key].dependencies:
                if other not in self.tasks and other not in self._outputs:
                    self._outputs[other] = Output(UNKNOWN)
                    yield other

    def _name(self, key: Key) -> tuple[str, str]:
        """Return the names of a key's group and prefix."""
        text = key[0] if isinstance(key, tuple) else key
        if not isinstance(text, str):
            text = str(text)
        names = self._names.get(text)
        if names is None:
            names = key_split_group(key), key_split(key)
            self._names[text] = names
        return names

    def _told(self, key: Key, sizes: Mapping[str, float]) -> float | None:
        """Return what somebody says of a key, None if nobody does."""
        if not sizes:
            return None
        for name in self._name(key):
            if name in sizes:
                self._used.add(name)
                return sizes[name]
        return None

    def _declared(self, key: Key) -> Output | None:
        """Return the size of a chunk of an array, None if the key is of none."""
        if not isinstance(key, tuple) or not isinstance(key[0], str):
            return None
        blocks = self._blocks.get(key[0])
        if blocks is None or len(key) != len(blocks.chunks) + 1:
            return None
        try:
            index: Sequence[Any] = key[1:]
            shape = tuple(sizes[i] for sizes, i in zip(blocks.chunks, index))
        except (IndexError, TypeError):
            return None
        return Output(math.prod(shape) * blocks.itemsize, shape, blocks.itemsize)

    def _output(
        self,
        key: Key,
        node: Any,
        inner: Mapping[Any, Any],
        guess: bool = False,
    ) -> Output | None:
        """Return what is known of the output of a task.

        Parameters
        ----------
        key
            Its key.
        node
            The task.
        inner
            Tasks that are fused with it, and what they stand for, by key.
        guess
            Whether it may be guessed from the inputs.
        """
        given = self._told(key, self._given)
        if given is not None:
            self._guessed[key] = GIVEN
            return Output(given)
        if isinstance(node, DataNode):
            return self._literal(node.value)
        declared = self._declared(key)
        if isinstance(node, Task):
            name = _last_function(node)
            if name == "_broadcast_trick_inner":
                # All elements are one
                if declared is None:
                    return Output(8)
                return declared._replace(nbytes=declared.itemsize)
            if name in _STORES:
                return Output(NONE)
        if isinstance(node, Alias):
            # What it stands for may be less than it would be: a broadcast, nothing
            return self._input(node.target, inner, guess) or declared
        if declared is not None:
            return declared
        if not isinstance(node, Task):
            return self._literal(node)
        seen = self._told(key, self._seen)
        if seen is not None:
            self._guessed[key] = SEEN
            return Output(seen)
        if self._remembered and (past := self._remembered.get(self._name(key)[1])):
            nbytes, when = past
            self._guessed[key] = f"{REMEMBERED}{when}"
            return Output(nbytes)
        if node.func is _execute_subgraph:
            tasks, out, names, *values = node.args
            return self._output(
                out, tasks[out], {**inner, **dict(zip(names, values)), **tasks}, guess
            )
        return self._called(key, node, inner, guess)

    def _called(
        self, key: Key, node: Task, inner: Mapping[Any, Any], guess: bool
    ) -> Output | None:
        """Return what is known of the output of a function."""
        func = _bare(node.func)
        name = getattr(func, "__name__", "")
        if isinstance(node, P2PBarrierTask) or name in _TRANSFERS:
            return Output(HANDLE)
        if name in _CUTS and len(node.args) >= 2:
            return self._cut(node, inner, guess)
        if name in _UNPACKS:
            return self._unpacked(node)
        if (
            isinstance(node, NestedContainer)
            or name in _JOINS
            or (isinstance(key, str) and key.startswith("finalize-"))
        ):
            total = 0.0
            for dependency in node.dependencies:
                output = self._input(dependency, inner, guess)
                if output is None:
                    return None
                whole = math.prod(output.shape or ()) * output.itemsize
                total += max(output.nbytes, whole)
            return Output(total)
        if not guess:
            return None
        largest, rows = 0.0, None
        for one in node.dependencies:
            output = self._input(one, inner, guess)
            if output is not None and output.nbytes > largest:
                largest = output.nbytes
                rows = self._rows.get(one[0]) if isinstance(one, tuple) else None
        if not largest:
            return None
        if _reduces(key, node.func):
            return Output(max(largest * PART, HANDLE))
        if rows and isinstance(key, tuple) and key[0] in self._rows:
            largest *= self._rows[str(key[0])] / rows
        return Output(largest)

    def _input(
        self, reference: Any, inner: Mapping[Any, Any], guess: bool
    ) -> Output | None:
        """Return what is known of the output that a task takes."""
        if isinstance(reference, TaskRef):
            reference = reference.key
        if isinstance(reference, GraphNode):
            return self._output(reference.key, reference, inner, guess)
        if reference in inner:
            node = inner[reference]
            if isinstance(node, TaskRef):
                return self._outputs.get(node.key)
            return self._output(reference, node, inner, guess)
        return self._outputs.get(reference)

    def _literal(self, value: Any) -> Output:
        """Return the size of what the graph itself holds."""
        if (nbytes := self._literals.get(id(value))) is None:
            try:
                nbytes = float(sizeof(value))
            except Exception:
                # Whatever somebody else's objects raise
                nbytes = HANDLE
            self._literals[id(value)] = nbytes
        shape = getattr(value, "shape", None)
        itemsize = getattr(getattr(value, "dtype", None), "itemsize", 0)
        if isinstance(shape, tuple) and itemsize:
            return Output(nbytes, shape, itemsize)
        return Output(nbytes)

    def _value(self, argument: Any, inner: Mapping[Any, Any]) -> Any:
        """Return an argument that the graph itself holds, None if it does not."""
        if isinstance(argument, TaskRef):
            argument = inner.get(argument.key, self.tasks.get(argument.key))
            if isinstance(argument, TaskRef):
                argument = self.tasks.get(argument.key)
        if isinstance(argument, DataNode):
            return argument.value
        if isinstance(argument, NestedContainer):
            if argument.dependencies:
                return None
            return argument()
        return None if isinstance(argument, GraphNode) else argument

    def _cut(self, node: Task, inner: Mapping[Any, Any], guess: bool) -> Output | None:
        """Return the size of a piece of an array."""
        whole = self._input(node.args[0], inner, guess)
        if whole is None:
            return None
        if whole.shape is None:
            # A column, a part of a tuple: no larger than what it is cut from
            return whole if guess else None
        index = self._value(node.args[1], inner)
        if getattr(_bare(node.func), "__name__", "") == "_getitem":
            # It comes with the number of a shuffle
            index = index[1] if isinstance(index, tuple) else None
        shape = _cut_shape(whole.shape, index)
        if shape is None:
            return whole if guess else None
        return Output(math.prod(shape) * whole.itemsize, shape, whole.itemsize)

    def _unpacked(self, node: Task) -> Output | None:
        """Return the size of one of the parts that a P2P shuffle makes."""
        total, parts = 0.0, 1
        for barrier in node.dependencies:
            waits = self.tasks.get(barrier)
            if not isinstance(waits, P2PBarrierTask):
                continue
            for transfer in waits.dependencies:
                for sent in self.tasks[transfer].dependencies:
                    output = self._outputs.get(sent)
                    if output is None:
                        return None
                    total += output.nbytes
            parts = max(parts, getattr(waits.spec, "npartitions", 1))
        return Output(total / parts) if total else None

    def _from_users(
        self, key: Key, users: Collection[Key]
    ) -> tuple[Output, str] | None:
        """Guess the size of an output by what is made of it."""
        known = [(user, self._outputs[user]) for user in users if user in self._outputs]
        if not known or len(known) < len(users):
            return None
        for user, output in known:
            node = self.tasks[user]
            if isinstance(node, Alias):
                return output, BECOMES
        if any(output.shape is None for _, output in known):
            # What says that something was sent, or is guessed itself, tells nothing
            return None
        if not self.tasks[key].dependencies and len(users) > 1:
            return Output(HANDLE), SMALL_HANDLE
        shares = []
        for user, output in known:
            if isinstance(user, str) and user.startswith("finalize-"):
                return None
            missing = [
                other
                for other in self.tasks[user].dependencies
                if other not in self._outputs
            ]
            shares.append(output.nbytes / max(len(missing), 1))
        inputs = [self._outputs.get(d) for d in self.tasks[key].dependencies]
        bound = sum(one.nbytes for one in inputs if one) if all(inputs) else math.inf
        return Output(min(max(shares), bound or math.inf)), BECOMES

    def _assumptions(self) -> list[Assumption]:
        count: Counter[tuple[str, str]] = Counter()
        total: defaultdict[tuple[str, str], float] = defaultdict(float)
        for key, why in self._guessed.items():
            if key in self._outputs:
                entry = self._name(key)[1], why
                count[entry] += 1
                total[entry] += self._outputs[key].nbytes
        found = [
            Assumption(
                prefix,
                tasks,
                total[prefix, why] / tasks,
                why,
                why in _KNOWN or why.startswith(REMEMBERED),
            )
            for (prefix, why), tasks in count.items()
        ]
        return sorted(found, key=lambda one: -one.nbytes * one.tasks)


def _reduces(key: Key, func: Any) -> bool:
    """Whether a task makes a part of a reduction of a data frame or a bag."""
    func = _bare(func)
    name = getattr(func, "__name__", "")
    prefix = str(key[0] if isinstance(key, tuple) else key)
    if "-tree-" in prefix or "-part-" in prefix or "-aggregate-" in prefix:
        return True
    return str(getattr(func, "__module__", "")).startswith("dask.dataframe") and (
        "chunk" in name or "_groupby_apply" in name or "_agg" in name
    )


def _last_function(node: Task) -> str:
    """Return the name of the function that gives the output of a task."""
    while node.func is _execute_subgraph:
        inner = node.args[0][node.args[1]]
        if not isinstance(inner, Task):
            return ""
        node = inner
    return str(getattr(_bare(node.func), "__name__", ""))


def passes_on(node: GraphNode) -> bool:
    """Whether a task makes nothing: another name, a view, data of the graph.

    Parameters
    ----------
    node
        The task.
    """
    if not isinstance(node, Task):
        return True
    return _last_function(node) in _VIEWS and node.func is not _execute_subgraph


def _cut_shape(shape: Sequence[float], index: Any) -> tuple[float, ...] | None:
    """Return the shape of a piece of an array, None if that cannot be told."""
    if not isinstance(index, tuple):
        index = (index,)
    if Ellipsis in [one for one in index if one is Ellipsis]:
        at = next(n for n, one in enumerate(index) if one is Ellipsis)
        rest = len(shape) - sum(one is not None for one in index) + 1
        index = (*index[:at], *[slice(None)] * max(rest, 0), *index[at + 1 :])
    result: list[float] = []
    axis = 0
    for one in index:
        if one is None:
            result.append(1)
            continue
        if axis >= len(shape):
            return None
        size = shape[axis]
        axis += 1
        if isinstance(one, slice):
            try:
                result.append(len(range(*one.indices(int(size)))))
            except TypeError:
                return None
        elif hasattr(one, "__len__"):
            kind = getattr(getattr(one, "dtype", None), "kind", "")
            result.append(int(sum(one)) if kind == "b" else len(one))
        else:
            try:
                operator.index(one)
            except TypeError:
                return None
    return (*result, *shape[axis:])


def _topological(
    tasks: Mapping[Key, GraphNode],
) -> tuple[list[Key], dict[Key, list[Key]]]:
    """Return the keys, upstream ones first, and the users of each."""
    users: defaultdict[Key, list[Key]] = defaultdict(list)
    missing: dict[Key, int] = {}
    ready = []
    for key, node in tasks.items():
        number = 0
        for other in node.dependencies:
            users[other].append(key)
            number += other in tasks
        missing[key] = number
        if not number:
            ready.append(key)
    order = []
    while ready:
        key = ready.pop()
        order.append(key)
        for user in users.get(key, ()):
            missing[user] -= 1
            if not missing[user]:
                ready.append(user)
    return order, dict(users)
