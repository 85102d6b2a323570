"""Families: queued tasks that belong on one worker, since their outputs meet there.

`dask.order` goes depth first: what lies between a task and the *reduction* that
combines its output with others is what the reduction waits for. So a family is a
stretch of the queue. Nothing has to be known of the shape of the graph: the chunks of a
tree, two fields that are combined elementwise, the chunks of a stencil, each the
neighbor of the next, and a chunk with its weights and its mask are all stretches.

What bounds a family is memory: until it is combined, its worker holds what its tasks
have made, and so does every other worker. Everything here is counted in bytes. Where
being longer costs no memory, a family may be longer: for what has to be held in any
case, or at once for a single task (:class:`Reach`), and for partial results, which take
the place of what was loaded for them (:class:`Draft`). But no worker takes more than
its share of what is left.

Whatever looks at other tasks looks at :data:`LOOKED_AT` of them at most, so that its
cost does not grow with the graph.
"""

from __future__ import annotations

import heapq
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from distributed.rootish.policy import (
    HANDLE_BYTES,
    LOOKED_AT,
    SMALL_PART,
    UNKNOWN_OUTPUT,
    expected_output,
    mean_output,
)

if TYPE_CHECKING:
    # Circular dependencies
    from distributed.rootish.backpressure import Kind
    from distributed.scheduler import TaskGroup, TaskState, WorkerState

#: What the tasks of a family may load before it is combined, what may be made of that,
#: and to what they may be combined, as a multiple of the largest output among them. As
#: much again may be loaded for what is combined at once.
FAMILY_OUTPUT = 4.6

priority_of: Callable[[Any], tuple[float, ...]] = operator.attrgetter("priority")

#: Holds a task and its kind (see :mod:`distributed.rootish.backpressure`) as long as it
#: is queued, and is empty then. (A list costs less than a weak reference.)
Cell = list[Any]


class InOrder:
    """Queued tasks, in the order of their priority.

    Attributes
    ----------
    cells
        A heap: the priority of each task, a number that no other has, and its cell.
    """

    __slots__ = ("cells",)

    cells: list[tuple[tuple[float, ...], int, Cell]]

    def head(self) -> TaskState | None:
        """Return the first task that is still queued."""
        cells = self.cells
        while cells:
            if cell := cells[0][2]:
                ts: TaskState = cell[0]
                return ts
            heapq.heappop(cells)
        return None

    def tasks(self) -> Iterator[TaskState]:
        """Yield the tasks that are still queued, in whatever order."""
        return (cell[0] for _, _, cell in self.cells if cell)


class Family(InOrder):
    """Neighbors in the queue.

    Parameters
    ----------
    cells
        The tasks, in the order of their priority.
    end
        Tasks of this priority or before, which become ready late, are of this family.

    Attributes
    ----------
    priority
        Of the task that was the first.
    number
        How many families had been begun when this one was.
    worker
        The worker that has begun it, None if nobody has.
    """

    __slots__ = ("end", "number", "priority", "worker")

    end: tuple[float, ...]
    number: int
    priority: tuple[float, ...]
    worker: WorkerState | None

    def __init__(
        self, cells: list[tuple[tuple[float, ...], int, Cell]], end: tuple[float, ...]
    ):
        self.priority = cells[0][0]
        self.cells = cells
        self.end = end
        self.number = 0
        self.worker = None

    def kind(self) -> Kind:
        """Return the kind of the first task. One has to be queued."""
        kind: Kind = self.cells[0][2][1]
        return kind


class Draft:
    """A family that is being made, to tell whether the next task is of it.

    It ends where its outputs are combined, or where they would be more than its bound.
    If what they are combined to is neither small nor too much, it goes on with what
    that is combined with, one group of tasks after the other: by then the loads of the
    group before are freed, so that no more of them are in memory at once.

    Parameters
    ----------
    ts
        Its first task.
    end
        Up to where tasks are neighbors of those in the family made before.
    workers
        How many workers may run the tasks.

    Attributes
    ----------
    end
        Up to where tasks are neighbors.
    """

    __slots__ = (
        "_alone",
        "_first",
        "_largest",
        "_last",
        "_loaded",
        "_made",
        "_members",
        "_number",
        "_partials",
        "_reach",
        "_start",
        "_whole",
        "_workers",
        "end",
    )

    end: tuple[float, ...]
    #: Whether it has but one task
    _alone: bool
    _start: TaskState
    _last: TaskState
    #: Of the group of tasks that are combined next
    _first: TaskState
    _number: int
    #: Bytes of the largest output
    _largest: float
    _loaded: float
    _made: float
    _reach: Reach | None
    #: How many tasks of one kind meet at the end
    _members: int
    #: Bytes that groups before were combined to
    _partials: float
    #: Up to where what groups are combined to is combined with each other
    _whole: tuple[float, ...]
    _workers: int

    def __init__(self, ts: TaskState, end: tuple[float, ...], workers: int):
        self._alone = is_cut_up(ts)
        self._start = self._first = self._last = ts
        self._number = self._members = 1
        self._loaded, self._made = output_until_reduced(ts)
        self._largest = self._loaded
        self._partials = 0.0
        self._reach = None
        self._workers = workers
        if priority_of(ts) > end:
            end, self._members = end_of_family(ts, 1)
        self.end = self._whole = end

    def takes(self, ts: TaskState, share_left: bool) -> bool:
        """Take the next task, if it is of the family; return whether it is.

        Parameters
        ----------
        ts
            The task that comes next in the queue.
        share_left
            Whether the family is less than its worker's share of what waits. It may be
            more only for what is combined at once beyond its bound.
        """
        if self._alone or is_cut_up(ts):
            return False
        if not (share_left or (self._reach and self._reach.combines(ts))):
            return False
        if priority_of(ts) > self.end and not self._goes_on(ts):
            return False
        output, makes = output_until_reduced(ts)
        largest = max(self._largest, output)
        loaded = self._loaded + output
        made = self._made + makes
        bound = FAMILY_OUTPUT * largest
        if loaded > bound or made > bound:
            if self._reach is None:
                self._reach = reach_of(self._first, self._workers)
            if not self._reach.covers(ts, loaded <= 2 * bound):
                return False
        self._largest = largest
        self._loaded = loaded
        self._made = made
        self._last = ts
        self._number += 1
        return True

    def _goes_on(self, ts: TaskState) -> bool:
        """Whether the family goes on with ``ts``, after all that is combined first."""
        if self._number < self._members:
            # Others of it are not ready yet
            return False
        last = self._last
        # Else it is between two groups, and this is known
        if self._whole == self.end:
            self._whole, self._members = end_of_family(last, 2)
        if priority_of(ts) > self._whole:
            return False
        # What is not combined is held as it is
        reduction, _ = next(_reductions(last, max), (last, last))
        partial = expected_output(reduction) or 0.0
        if partial <= SMALL_PART * self._largest:
            self.end = self._whole
            return True
        self._partials += partial
        held = self._partials + partial
        bound = FAMILY_OUTPUT * self._largest
        if held > bound:
            reach = reach_of(self._start, self._workers)
            if not reach.covers(ts, held <= 2 * bound):
                return False
        self._first = ts
        self._number = 0
        self._loaded = self._made = 0.0
        self._reach = None
        self.end, self._members = end_of_family(ts, 1)
        return True


def graph_of(ts: TaskState) -> tuple[float, ...]:
    """Return the part of a task's priority that it shares with its graph.

    Parameters
    ----------
    ts
        A task that is queued.
    """
    return priority_of(ts)[:2]


def _reductions(
    ts: TaskState, pick: Callable[..., TaskState]
) -> Iterator[tuple[TaskState, TaskState]]:
    """Yield the tasks within reach that combine the output of ``ts`` with others.

    What combines nothing but pieces of one and the same output is no reduction.

    Parameters
    ----------
    ts
        A task that is queued.
    pick
        Which of several dependents is followed: ``min`` is the first, ``max`` the last.

    Yields
    ------
    reduction: TaskState
        The task.
    before: TaskState
        Its input through which ``ts`` gets there.
    """
    pieces: set[TaskState] | None = None
    newest: list[TaskState] = []
    for _ in range(LOOKED_AT):
        before = ts
        dependents = ts.dependents
        if not dependents or len(dependents) > LOOKED_AT:
            return
        if pieces is not None:
            newest = _pieces_of(newest, pieces)
        if len(dependents) == 1:
            [ts] = dependents
        else:
            if pieces is None:
                pieces = {ts}
                newest = _pieces_of([ts], pieces)
            ts = pick(dependents, key=priority_of)
        if (
            ts.waiting_on
            and len(ts.waiting_on) > 1
            and not (pieces and ts.waiting_on <= pieces)
        ):
            yield ts, before


def _pieces_of(tasks: list[TaskState], pieces: set[TaskState]) -> list[TaskState]:
    """Add to the pieces of an output what is made of some of them, and nothing else."""
    newest = [
        dts
        for ts in tasks[:LOOKED_AT]
        for dts in itertools.islice(ts.dependents, LOOKED_AT)
        # Sets know the hashes of what is in them
        if dts.dependencies <= pieces
    ]
    pieces.update(newest)
    return newest


def count_alike(tasks: Iterable[TaskState], group: TaskGroup) -> int:
    """Return how many of those tasks that are looked at are of a group.

    Parameters
    ----------
    tasks
        What a task depends on, or some of that.
    group
        The group.
    """
    return sum(ts.group is group for ts in itertools.islice(tasks, LOOKED_AT))


def end_of_family(ts: TaskState, reductions: int) -> tuple[tuple[float, ...], int]:
    """Return the priority up to which tasks are of the family of ``ts``.

    Parameters
    ----------
    ts
        A task that is queued.
    reductions
        At which of the tasks that combine its output with others they meet.

    Returns
    -------
    end: tuple
        The priority of that task, or of the last before it that is within reach. If the
        output is never combined, or in another graph, the end of ``ts`` or of its
        graph. Inputs that are in memory already, such as an array of weights, do not
        count.
    members: int
        How many tasks of one kind meet there, as far as is seen.
    """
    end = priority_of(ts)
    members = 1
    for reduction, before in itertools.islice(_reductions(ts, max), reductions):
        end = priority_of(reduction)
        members *= max(count_alike(reduction.waiting_on or (), before.group), 1)
    graph = graph_of(ts)
    return (end if end[:2] == graph else (*graph, math.inf)), members


def is_cut_up(ts: TaskState) -> bool:
    """Whether an output is cut into more pieces than twice the bound of a family.

    As in a stencil in three dimensions. Each piece is combined with those of other
    chunks. Most are thin, and little is moved if they are on other workers, but many
    chunks have to be there before the first is done with: they are loaded in order.

    Parameters
    ----------
    ts
        A task that is queued.
    """
    pieces = ts.dependents
    return len(pieces) > 2 * FAMILY_OUTPUT and all(
        len(piece.dependencies) == 1 for piece in pieces
    )


def first_use(ts: TaskState) -> tuple[float, ...]:
    """Return the priority of the first task that combines the output of ``ts``.

    Parameters
    ----------
    ts
        A task that is queued.

    Returns
    -------
    tuple
        That of ``ts`` if there is none within reach.
    """
    return priority_of(next(_reductions(ts, min), (ts, ts))[0])


class Reach(NamedTuple):
    """How far a family may go beyond its bound, since that costs no memory.

    Either all that its first task is combined with is needed at once, and nothing else
    is. Or the output of that task must be held in any case until a result is there that
    needs many others, such as the mean of all: then each worker may have its share of
    these at once.

    Attributes
    ----------
    whole
        Priority of the task that combines the first with others, if that frees it.
    reduction
        That task, if it is known to combine data; else None.
    held
        Priority of the last task that is loaded before the output of the first can be
        freed.
    share
        Priority up to which one worker may have what is loaded until then.
    """

    whole: tuple[float, ...]
    reduction: TaskState | None
    held: tuple[float, ...]
    share: tuple[float, ...]

    def combines(self, ts: TaskState) -> bool:
        """Whether a task is combined with the first, by a task that needs all at once.

        However many these are, the worker that combines them holds all of them. If
        others load them, it has to copy them as well.

        Parameters
        ----------
        ts
            A task that comes next.
        """
        return any(other is self.reduction for other, _ in _reductions(ts, min))

    def covers(self, ts: TaskState, has_room: bool) -> bool:
        """Whether a task that comes next is of the family.

        Parameters
        ----------
        ts
            The task.
        has_room
            Whether all that is loaded is within twice the bound.
        """
        priority = priority_of(ts)
        if priority <= self.whole and (has_room or self.combines(ts)):
            return True
        return priority <= self.share and held_until(ts) >= self.held


def reach_of(ts: TaskState, workers: int) -> Reach:
    """Return how far a family may go beyond its bound.

    Parameters
    ----------
    ts
        Its first task.
    workers
        How many workers the cluster has.
    """
    first = priority_of(ts)
    held = held_until(ts)
    share = first
    if held > first and held[:2] == first[:2]:
        # Priorities within a graph are consecutive numbers
        share = *first[:2], first[2] + (held[2] - first[2]) / workers
        share = max(share, first_use(ts))
    return Reach(*_combined_by(ts), held, share)


def _combined_by(ts: TaskState) -> tuple[tuple[float, ...], TaskState | None]:
    """Return where a task is combined with all that it needs, and by which task.

    Chunks that are combined with those of another field are so with their neighbors
    next. So is what a stencil makes of them, and if that is large, they are together
    for it.

    Parameters
    ----------
    ts
        A task that is queued.

    Returns
    -------
    whole: tuple
        Priority of the task that combines it. That of ``ts`` if another use needs tasks
        that come later, or if something more urgent is needed that is not there yet.
    reduction: TaskState or None
        That task, if it combines several of what is known to be data.
    """
    whole = priority_of(ts)
    reduction = None
    # What a stencil makes has to be larger, to be combined
    bound = -1.0
    reductions = zip(_reductions(ts, min), _reductions(ts, max))
    for (first, before), (last, _) in itertools.islice(reductions, 2):
        if _last_needed(first) != _last_needed(last):
            if first.prefix is not last.prefix:
                break
            bound = SMALL_PART * (expected_output(ts) or 0)
            continue
        made = mean_output(before.group) or 0
        if made <= bound:
            break
        some = itertools.islice(first.waiting_on or (), LOOKED_AT)
        more_urgent = (dts for dts in some if priority_of(dts) < priority_of(ts))
        if any(dts.state == "waiting" for dts in more_urgent):
            break
        whole = priority_of(first)
        if count_alike(first.dependencies, before.group) > 1:
            if made > HANDLE_BYTES:
                reduction = first
            break
    return whole, reduction


def renamed(ts: TaskState) -> TaskState:
    """Return the last task that only renames or converts the output of another.

    Parameters
    ----------
    ts
        The task, which is returned if its output is used as it is.
    """
    for _ in range(LOOKED_AT):
        dependents = ts.dependents
        if len(dependents) != 1:
            break
        [dts] = dependents
        if len(dts.dependencies) > 1 or not dts.dependents:
            break
        ts = dts
    return ts


def held_until(ts: TaskState) -> tuple[float, ...]:
    """Return up to where tasks are loaded while the output of another must be held.

    Parameters
    ----------
    ts
        A task that is queued.

    Returns
    -------
    tuple
        Priority of the last task that is needed for something which its last user
        waits for, such as a mean of all. That of ``ts`` if there is no such thing.
    """
    dependents = renamed(ts).dependents
    if not dependents or len(dependents) > LOOKED_AT:
        return priority_of(ts)
    waiting_on = max(dependents, key=priority_of).waiting_on
    if not waiting_on or len(waiting_on) > LOOKED_AT:
        return priority_of(ts)
    needed = max(waiting_on, key=priority_of)
    for _ in range(LOOKED_AT):
        if len(needed.dependencies) != 1:
            break
        [needed] = needed.dependencies
    last = _last_needed(needed)
    if last == priority_of(needed):
        # It is merged with what is loaded, or there is too much to look at
        return priority_of(ts)
    return max(priority_of(ts), last)


def _last_needed(ts: TaskState) -> tuple[float, ...]:
    """Return the priority of the last task that another waits for, at any depth.

    What waits for more than :data:`LOOKED_AT` stands for what it waits for. That of the
    task itself if others wait for each other for longer than that, as in a fold.
    """
    last = ts
    for _ in range(LOOKED_AT):
        waiting_on = last.waiting_on
        if not waiting_on or len(waiting_on) > LOOKED_AT:
            return priority_of(last)
        last = max(waiting_on, key=priority_of)
    return priority_of(ts)


def output_until_reduced(ts: TaskState) -> tuple[float, float]:
    """Return the output of a task, and what is made of it before it is combined.

    It is kept with the group, and looked up again when the prefix has made twice as
    much as then.

    Parameters
    ----------
    ts
        A task that is queued.

    Returns
    -------
    output: float
        Of the task, in bytes, as far as that is known. If a single task needs it and
        makes more of it, as of packed data, that counts: it takes the output's place.
    made: float
        What there is of it before it is combined, in bytes.
    """
    facts = ts.group.rootish_facts
    known = ts.prefix.nbytes_total
    if known >= facts.output_review_at:
        facts.output_until_reduced = _output_until_reduced(ts)
        facts.output_review_at = 2 * known or 1
    return facts.output_until_reduced


def _output_until_reduced(ts: TaskState) -> tuple[float, float]:
    """Look that up.

    Of what is made of several inputs, each counts for its share in bytes: a chunk that
    is multiplied with a small array of weights is not made of the weights.
    """
    output = expected_output(ts) or UNKNOWN_OUTPUT
    dependents = renamed(ts).dependents

    def share(dts: TaskState) -> float:
        verdict = dts.group.rootish_facts.verdict
        if verdict and verdict.rootish:
            return 0.0
        known = mean_output(dts.group)
        if known is None:
            return output
        some = list(itertools.islice(dts.dependencies, LOOKED_AT))
        inputs = sum(mean_output(i.group) or output for i in some)
        inputs *= len(dts.dependencies) / len(some)
        return known * min(output / inputs, 1.0) if inputs else 0.0

    some = list(itertools.islice(dependents, LOOKED_AT))
    made = sum(map(share, some))
    if len(some) == 1:
        output = max(output, made)
    elif some:
        made *= len(dependents) / len(some)
    return output, made
