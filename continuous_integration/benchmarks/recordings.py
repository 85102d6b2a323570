"""Recordings of real workloads: what a replay needs, and how it is written down.

A :class:`Recording` holds what the clients of a scheduler asked for, in order, and what
each task took and gave. It is made by :mod:`continuous_integration.benchmarks.record`
and read by the replay, in any environment with dask and distributed, released or not.

A recording is a text file of JSON lines, and all of them are kept in the repository,
since they are small: neither a download nor a run of an hour stands between a clone and
its figures, and a diff tells what changed in which workload. The lines:

- what was recorded, with how many workers, and the versions that did it;
- for each operation a line, and under it one line for each task group that is new:
  its keys, what it needs, its order, its kind;
- of which type the outputs of each task group are, most of them at least, if known;
- when the operations came, then the sizes and durations of each task group.

So a workload that is recorded anew changes the last lines, which are measurements, and
others only if its graph has changed. Tasks are referred to by their group and their
index in it. Lists of integers are written as runs: ``3*4`` is four times 3, ``0:6`` and
``0:6:2`` are ranges of Python. ``#7`` in a key is token number 7: hashes are numbered
in order of appearance, since real ones change with folders and versions of libraries.
"""

from __future__ import annotations

import json
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Union

from dask._task_spec import Alias, DataNode, GraphNode, Task, TaskRef
from dask.utils import key_split

from distributed.sizeof import safe_sizeof

if TYPE_CHECKING:
    from dask.typing import Key

#: Where the recordings are.
FOLDER = Path(__file__).with_name("recordings")

#: Kinds of tasks: one that runs a function, the same with the mark of a data producer,
#: another name of a task, data in the graph, and a small object in the graph, such as
#: indices, or an array of Zarr, which only stands for data.
KINDS = ("task", "marked", "alias", "data", "stand-in")


class Output(NamedTuple):
    """What a task gives and takes.

    Attributes
    ----------
    nbytes : int
        Size of its output, in bytes.
    seconds : float
        How long it ran.
    typename : str
        Type of its output, as workers name it; empty if that is not known.
    """

    nbytes: int
    seconds: float
    typename: str = ""


@dataclass
class _Operation:
    """Something that a client did.

    Attributes
    ----------
    wait : bool
        Whether the client had waited until all that it wanted was in memory. The replay
        waits for the same, and then does this at once.
    after : float
        Seconds since the operation before, for those that do not wait.
    """

    wait: bool
    after: float


@dataclass
class Submission(_Operation):
    """A graph that was submitted.

    Attributes
    ----------
    tasks : dict of key to GraphNode
        The tasks that the scheduler did not have yet. Their functions are
        :func:`pretend`, their dependencies and marks are the real ones.
    outputs : list of key
        What the client wants of it, known before or not.
    priorities : dict of key to int
        Place of each task in the order of the graph (``internal_priority``).
    annotations : dict of key to dict
        What holds for some tasks only: ``worker_restrictions`` (indices of workers),
        ``host_restrictions``, ``resource_restrictions``, ``loose_restrictions``,
        ``actor``, ``retries``, ``priority`` (of the user), and ``queueable``, which is
        False for tasks that unpack a P2P shuffle.
    generation : float
        Submissions of a smaller one go first; those that come fast one after the other
        share one (``fifo_timeout``). The first has 0.
    """

    tasks: dict[Key, GraphNode]
    outputs: list[Key]
    priorities: dict[Key, int]
    annotations: dict[Key, dict[str, Any]] = field(default_factory=dict)
    generation: float = 0


@dataclass
class Scatter(_Operation):
    """Data that a client sent to workers.

    Attributes
    ----------
    data : dict of key to int
        Sizes, in bytes.
    workers : dict of key to list of int
        Indices of the workers that got it.
    """

    data: dict[Key, int]
    workers: dict[Key, list[int]]


@dataclass
class Release(_Operation):
    """Outputs that a client does not want any longer.

    Attributes
    ----------
    keys : list of key
    """

    keys: list[Key]


Operation = Union[Submission, Scatter, Release]


@dataclass
class Recording:
    """A workload as its scheduler saw it.

    Attributes
    ----------
    name : str
        Name of the workload.
    workers, threads : int
        Number of workers that it ran on, and of threads on each.
    reads : list of str
        Names of the task prefixes that bring data in.
    ops : list of Submission, Scatter or Release
        In the order in which the scheduler dealt with them.
    outputs : dict of key to Output
        One for every task and everything that was scattered.
    resources : list of dict
        Resources of each worker; empty if none has any.
    versions : dict of str to str
        Versions of ``distributed`` and ``dask`` that it was recorded with.
    prepared : int
        How many of the operations prepare the computation that is measured.
    """

    name: str
    workers: int
    threads: int
    reads: list[str]
    ops: list[Operation]
    outputs: dict[Key, Output]
    resources: list[dict[str, float]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    prepared: int = 0


# Tasks


def pretend(*inputs: object) -> None:
    """Stand for the function of a task, which nobody runs."""


#: What is in recorded graphs in place of data
_SMALL, _LARGE = b"", bytes(2**16)


def kind_of(node: object) -> str:
    """Return which of :data:`KINDS` a task is, recorded or real.

    Parameters
    ----------
    node
        ``TaskState.run_spec``
    """
    if isinstance(node, Alias):
        return "alias"
    if isinstance(node, DataNode):
        # See is_small_data of distributed.rootish.policy, which the base lacks
        return "data" if safe_sizeof(node.value) > 2**15 else "stand-in"
    return "marked" if getattr(node, "data_producer", False) else "task"


def make_node(kind: str, key: Key, dependencies: Sequence[Key]) -> GraphNode:
    """Return a task that is to the scheduler what the real one was.

    Parameters
    ----------
    kind
        One of :data:`KINDS`.
    key
        Its key.
    dependencies
        Keys of its inputs.
    """
    if kind == "alias":
        [target] = dependencies
        return Alias(key, target)
    if kind in ("data", "stand-in"):
        return DataNode(key, _SMALL if kind == "stand-in" else _LARGE)
    mark: dict[str, Any] = {"_data_producer": True} if kind == "marked" else {}
    return Task(key, pretend, *map(TaskRef, dependencies), **mark)


# Resources


def deal(
    resources: Sequence[Mapping[str, float]], workers: int
) -> list[dict[str, float]]:
    """Return the resources of so many workers, where others had them.

    Among fewer than there were nothing is lost, so that each task has a worker: the
    first also takes the place of the first of those that are missing. With more it
    starts over again.

    Parameters
    ----------
    resources
        Those of each worker; empty if none has any.
    workers
        Number of workers.
    """
    dealt: list[dict[str, float]] = [{} for _ in range(workers)]
    for number in range(max(workers, len(resources)) if resources else 0):
        mine = dealt[number % workers]
        for name, amount in resources[number % len(resources)].items():
            mine[name] = mine.get(name, 0) + amount
    return dealt


# Lists as text


def pack(values: Sequence[int]) -> str:
    """Write a list of integers as runs; see the top of the module."""
    words = []
    start = 0
    while start < len(values):
        first = values[start]
        step = values[start + 1] - first if start + 1 < len(values) else 0
        stop = start + 1
        while stop < len(values) and values[stop] - values[stop - 1] == step:
            stop += 1
        length = stop - start
        if length == 1 or (length == 2 and step):
            words.append(str(first))
            stop = start + 1
        elif step == 0:
            words.append(f"{first}*{length}")
        else:
            end = first + step * length
            words.append(f"{first}:{end}" + ("" if step == 1 else f":{step}"))
        start = stop
    return " ".join(words)


def unpack(text: str) -> list[int]:
    """Read what :func:`pack` has written."""
    values: list[int] = []
    for word in text.split():
        if ":" in word:
            values.extend(range(*map(int, word.split(":"))))
        else:
            first, _, length = word.partition("*")
            values.extend([int(first)] * int(length or 1))
    return values


def _pack_words(words: Iterable[str]) -> str:
    runs = ((word, len(list(same))) for word, same in groupby(words))
    return " ".join(word if n == 1 else f"{word}*{n}" for word, n in runs)


def _unpack_words(text: str) -> list[str]:
    parts = (word.partition("*") for word in text.split())
    return [word for word, _, length in parts for _ in range(int(length or 1))]


# Keys as JSON

_TOKEN = re.compile("0{16}[0-9a-f]{16}")


def token(number: int) -> str:
    """Return what takes the place of a hash in a recorded key."""
    return f"{number:032x}"


def _shorten(text: str) -> str:
    return _TOKEN.sub(lambda match: f"#{int(match[0], 16)}", text)


def _lengthen(text: str) -> str:
    return re.sub("#([0-9]+)", lambda match: token(int(match[1])), text)


def _encode_key(key: Any) -> Any:
    if isinstance(key, tuple):
        return [_encode_key(part) for part in key]
    if isinstance(key, str):
        short = _shorten(key)
        return short if _lengthen(short) == key else {"verbatim": key}
    return key


def _decode_key(key: Any) -> Any:
    if isinstance(key, list):
        return tuple(_decode_key(part) for part in key)
    if isinstance(key, dict):
        return key["verbatim"]
    return _lengthen(key) if isinstance(key, str) else key


def _are_columns(keys: Sequence[Any]) -> bool:
    """Whether keys are tuples of one name and of as many integers."""
    return all(
        isinstance(key, tuple)
        and len(key) == len(keys[0]) > 1
        and isinstance(key[0], str)
        and key[0] == keys[0][0]
        and all(type(part) is int for part in key[1:])
        for key in keys
    )


def _encode_keys(keys: Sequence[Any]) -> dict[str, Any]:
    """Return the fields of a line that say what keys a group has."""
    if _are_columns(keys):
        columns = zip(*(key[1:] for key in keys))
        return {"tuples": [_encode_key(keys[0][0]), *map(pack, columns)]}
    short = [_encode_key(key) for key in keys]
    numbered = [
        re.fullmatch("([^#]*)#([0-9]+)", s) if isinstance(s, str) else None
        for s in short
    ]
    if len({match and match[1] for match in numbered}) == 1 and numbered[0]:
        numbers = [int(match[2]) for match in numbered if match]
        return {"tokens": [numbered[0][1], pack(numbers)]}
    return {"keys": short}


def _decode_keys(line: Mapping[str, Any]) -> list[Any]:
    if "tuples" in line:
        name, *columns = line["tuples"]
        return list(
            zip([_decode_key(name)] * len(unpack(columns[0])), *map(unpack, columns))
        )
    if "tokens" in line:
        name, numbers = line["tokens"]
        return [name + token(number) for number in unpack(numbers)]
    return [_decode_key(key) for key in line["keys"]]


# Groups


class _Catalog:
    """The keys of each group, in the order in which they appear in the file."""

    def __init__(self) -> None:
        self.groups: defaultdict[str, list[Key]] = defaultdict(list)
        self.places: dict[Key, tuple[str, int]] = {}

    def add(self, label: str, keys: Iterable[Key]) -> None:
        """Add keys; what is submitted again is known by its last place."""
        group = self.groups[label]
        for key in keys:
            self.places[key] = label, len(group)
            group.append(key)

    def indices(self, keys: Iterable[Key]) -> dict[str, list[int]]:
        """Group -> sorted indices of the keys that are of that group."""
        found: defaultdict[str, list[int]] = defaultdict(list)
        for label, index in sorted(self.places[key] for key in keys):
            found[label].append(index)
        return found

    def refer(self, keys: Iterable[Key]) -> dict[str, str]:
        """Write keys down as groups and indices."""
        return {label: pack(found) for label, found in self.indices(keys).items()}

    def look_up(self, references: Mapping[str, str]) -> list[Key]:
        """Return the keys that :meth:`refer` has written."""
        return [
            self.groups[label][index]
            for label, indices in references.items()
            for index in unpack(indices)
        ]


def _label(key: Any) -> str:
    """Return the name of the group of a key, in the file."""
    return _shorten(str(key[0])) if isinstance(key, tuple) else key_split(key)


def _encode_group_keys(
    catalog: _Catalog, keys: Iterable[Key]
) -> Iterator[tuple[dict[str, Any], list[Key]]]:
    """Enter keys into the catalog; give the line of each group and its keys."""
    groups: defaultdict[str, list[Any]] = defaultdict(list)
    for key in keys:
        groups[_label(key)].append(key)
    for label, members in groups.items():
        if _are_columns(members):
            members.sort()
        catalog.add(label, members)
        yield {"group": label} | _encode_keys(members), members


def _decode_group_keys(catalog: _Catalog, line: Mapping[str, Any]) -> list[Key]:
    keys = _decode_keys(line)
    catalog.add(line["group"], keys)
    return keys


def _encode_needs(catalog: _Catalog, nodes: Sequence[GraphNode]) -> dict[str, Any]:
    """Say which tasks each of some tasks needs.

    For each group of needed tasks there are their indices, one after the other, and, if
    not each task needs one of them, how many each needs.
    """
    needed = [catalog.indices(node.dependencies) for node in nodes]
    needs: dict[str, Any] = {}
    for label in sorted(set(chain.from_iterable(needed))):
        found = [one.get(label, []) for one in needed]
        counts = [len(one) for one in found]
        indices = pack(list(chain.from_iterable(found)))
        needs[label] = indices if set(counts) == {1} else [pack(counts), indices]
    return needs


def _decode_needs(
    catalog: _Catalog, needs: Mapping[str, Any], length: int
) -> list[list[Key]]:
    result: list[list[Key]] = [[] for _ in range(length)]
    for label, value in needs.items():
        counts, indices = (
            ([1] * length, value)
            if isinstance(value, str)
            else (unpack(value[0]), value[1])
        )
        found = iter(catalog.look_up({label: indices}))
        for dependencies, count in zip(result, counts):
            dependencies += [next(found) for _ in range(count)]
    return result


def _encode_annotations(annotations: Sequence[dict[str, Any]]) -> list[Any]:
    """Return pairs of indices in a group and what holds for these."""
    shared: defaultdict[str, list[int]] = defaultdict(list)
    for index, annotation in enumerate(annotations):
        if annotation:
            shared[json.dumps(annotation, sort_keys=True)].append(index)
    return [[pack(indices), json.loads(text)] for text, indices in shared.items()]


# Files


def _encode_op(catalog: _Catalog, op: Operation) -> list[dict[str, Any]]:
    head: dict[str, Any] = {"op": type(op).__name__.lower(), "wait": op.wait}
    if isinstance(op, Release):
        return [head | {"keys": catalog.refer(op.keys)}]
    if isinstance(op, Scatter):
        return [head] + [
            line | {"workers": [op.workers[key] for key in keys]}
            for line, keys in _encode_group_keys(catalog, op.data)
        ]
    ordered = sorted(op.tasks, key=op.priorities.__getitem__)
    # What a group needs may be in a group below it
    groups = list(_encode_group_keys(catalog, ordered))
    lines = [head | {"outputs": catalog.refer(op.outputs)}]
    for line, keys in groups:
        nodes = [op.tasks[key] for key in keys]
        line["kind"] = _pack_words(map(kind_of, nodes))
        if len(set(map(kind_of, nodes))) == 1:
            line["kind"] = kind_of(nodes[0])
        if needs := _encode_needs(catalog, nodes):
            line["needs"] = needs
        line["order"] = pack([op.priorities[key] for key in keys])
        if pairs := _encode_annotations([op.annotations.get(key, {}) for key in keys]):
            line["annotations"] = pairs
        lines.append(line)
    return lines


def _decode_op(
    catalog: _Catalog, head: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]
) -> Operation:
    wait = head["wait"]
    if head["op"] == "release":
        return Release(wait, 0, catalog.look_up(head["keys"]))
    # Indices refer to all groups, also to those below
    members = [_decode_group_keys(catalog, line) for line in groups]
    if head["op"] == "scatter":
        workers = {
            key: where
            for line, keys in zip(groups, members)
            for key, where in zip(keys, line["workers"])
        }
        return Scatter(wait, 0, dict.fromkeys(workers, 0), workers)
    submission = Submission(wait, 0, {}, catalog.look_up(head["outputs"]), {})
    for line, keys in zip(groups, members):
        kinds = _unpack_words(line["kind"])
        needs = _decode_needs(catalog, line.get("needs", {}), len(keys))
        if len(kinds) == 1:
            kinds *= len(keys)
        submission.tasks.update(
            {k: make_node(kind, k, need) for k, kind, need in zip(keys, kinds, needs)}
        )
        submission.priorities.update(zip(keys, unpack(line["order"])))
        for indices, annotation in line.get("annotations", ()):
            for index in unpack(indices):
                submission.annotations[keys[index]] = dict(annotation)
    return submission


def dumps(recording: Recording) -> str:
    """Return the text of a recording.

    Durations are rounded to two significant digits.
    """
    catalog = _Catalog()
    ops = recording.ops
    lines: list[dict[str, Any]] = [
        {
            "recording": recording.name,
            "workers": recording.workers,
            "threads": recording.threads,
            "resources": recording.resources,
            "reads": recording.reads,
            "prepared": recording.prepared,
        },
        {"versions": recording.versions},
    ]
    for op in ops:
        lines += _encode_op(catalog, op)
    types = {
        label: name
        for label, keys in catalog.groups.items()
        if (name := statistics.mode(recording.outputs[key].typename for key in keys))
    }
    if types:
        lines.append({"types": types})
    lines.append(
        {
            "after": _pack_words(_round(op.after) for op in ops),
            "generation": _pack_words(
                f"{op.generation:g}" for op in ops if isinstance(op, Submission)
            ),
        }
    )
    for label, keys in catalog.groups.items():
        outputs = [recording.outputs[key] for key in keys]
        lines.append(
            {
                "measured": label,
                "nbytes": pack([output.nbytes for output in outputs]),
                "seconds": _pack_words(_round(output.seconds) for output in outputs),
            }
        )
    return "".join(json.dumps(line) + "\n" for line in lines)


def _round(seconds: float) -> str:
    return f"{seconds:.2g}"


def loads(text: str) -> Recording:
    """Return the recording that a text holds."""
    catalog = _Catalog()
    lines = [json.loads(line) for line in text.splitlines()]
    head = lines[0]
    blocks: list[list[dict[str, Any]]] = []
    outputs: dict[Key, Output] = {}
    for line in lines[2:]:
        if "op" in line:
            blocks.append([line])
        elif "group" in line:
            blocks[-1].append(line)
    ops = [_decode_op(catalog, first, groups) for first, *groups in blocks]
    types: dict[str, str] = {}
    for line in lines[2:]:
        if "types" in line:
            types = line["types"]
        elif "after" in line:
            for op, after in zip(ops, _unpack_words(line["after"])):
                op.after = float(after)
            submissions = [op for op in ops if isinstance(op, Submission)]
            generations = _unpack_words(line["generation"])
            for op, generation in zip(submissions, generations):
                op.generation = float(generation)
        elif "measured" in line:
            seconds = map(float, _unpack_words(line["seconds"]))
            label = line["measured"]
            typename = repeat(types.get(label, ""))
            found = map(Output, unpack(line["nbytes"]), seconds, typename)
            outputs.update(zip(catalog.groups[label], found))
    for op in ops:
        if isinstance(op, Scatter):
            op.data = {key: outputs[key].nbytes for key in op.data}
    return Recording(
        name=head["recording"],
        workers=head["workers"],
        threads=head["threads"],
        reads=head["reads"],
        ops=ops,
        outputs=outputs,
        resources=head["resources"],
        versions=lines[1]["versions"],
        prepared=head["prepared"],
    )


def names(folder: Path = FOLDER) -> list[str]:
    """Return the names of all recordings, sorted."""
    return sorted(path.stem for path in folder.glob("*.jsonl"))


def read(name: str, folder: Path = FOLDER) -> Recording:
    """Read a recording.

    Parameters
    ----------
    name
        Name of the workload.
    folder
        Where the recordings are.

    Raises
    ------
    FileNotFoundError
        When there is none.
    """
    return loads((folder / f"{name}.jsonl").read_text(encoding="utf-8"))


def write(recording: Recording, folder: Path = FOLDER) -> Path:
    """Write a recording to the file of its name; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{recording.name}.jsonl"
    path.write_text(dumps(recording), encoding="utf-8", newline="\n")
    return path
