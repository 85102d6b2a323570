"""The order in which queued tasks leave the queue: neighbours go to one worker.

A root-ish task waits in the scheduler's queue until a worker has a thread free for it.
Priority is the order in which the outputs are combined. To give the next task by
priority to whichever worker is free deals neighbours out to different workers, like
cards, and most of the data has to cross the network before it can be combined.

This queue deals out *blocks*: stretches of neighbours that are combined with each other
soon. A worker that is free gets the next task

own
    of its own block, as long as that has any;
first, near
    of the first block that nobody has begun. If that has several tasks, and the worker
    does not have their inputs, one of the next few whose inputs it has is preferred: a
    file stays with the worker that has opened it;
help
    of another worker's block, if there is no other or that worker is left behind.

Where a block ends can be read from the priorities. `dask.order` goes depth first: what
comes between a task and a *join*, a task that combines its output with others, is what
the join waits for. So a task belongs to the block if it comes before the last use of
one that does, at the second join. That holds for trees, for fields that are
combined elementwise, and for stencils, where each chunk is a neighbour of the next.

Memory is bounded by running tasks in the order of their priority, so blocks may not
lead a worker far away from it: what its tasks make until then must not exceed a few
times what one of them brings in. A block that ends for this does not tear apart what
is combined first, a chunk and its weights. Where much is made of each chunk, blocks
have one task, and the order is that of the base. Between graphs, priority is kept to
the task.

See the page "Co-assignment" of the documentation for the evidence.
"""

from __future__ import annotations

import heapq
import itertools
import math
import operator
import weakref
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import dask

from distributed.collections import HeapSet
from distributed.rootish import mean_output

if TYPE_CHECKING:
    # Circular dependencies
    from dask.typing import Key

    from distributed.scheduler import SchedulerState, TaskGroup, TaskState, WorkerState

#: What the tasks of a block may make before it is combined, as a multiple of what one
#: of them brings in.
BLOCK_OUTPUT = 4

#: Neighbours meet at this join at the latest.
JOINS = 2

#: Steps from a task to that join, at most.
STEPS = 8

#: A join merges chunks, rather than to reduce them, if it keeps so much of each.
MERGED = 0.75

#: How far ahead a block is preferred whose inputs a worker has, in what the tasks that
#: are passed over make until it is combined; how much can be preferred to the first.
LOOK_AHEAD = 8

#: Other workers finish a block when so many blocks for each worker were begun after it.
PATIENCE = 4

_priority = operator.attrgetter("priority")

#: A task that waits, and when it was added
_Entry = tuple[Any, int, "weakref.ref[TaskState]"]


class Choice(NamedTuple):
    """Which worker got a queued task, and why.

    Attributes
    ----------
    key
        Key of the task.
    worker
        Address of the worker.
    reason
        One of those in the docstring of this module.
    """

    key: Key
    worker: str
    reason: str


class Block:
    """Neighbours in the queue.

    Parameters
    ----------
    tasks
        In the order of their priority.
    output
        What they make until it is combined, as a multiple of what one brings in.

    Attributes
    ----------
    tasks
        Those that have left the queue are dropped when they come to the front.
    number
        How many blocks had been begun when this one was.
    passed
        Output of the later blocks that were preferred to this one.
    """

    __slots__ = ("number", "output", "passed", "tasks")

    tasks: deque[TaskState]
    output: float
    number: int
    passed: float

    def __init__(self, tasks: deque[TaskState], output: float):
        self.tasks = tasks
        self.output = output
        self.number = 0
        self.passed = 0.0


def graph_of(ts: TaskState) -> tuple[float, ...]:
    """Return the part of a task's priority that it shares with its graph."""
    assert ts.priority
    return ts.priority[:2]


def _joins(ts: TaskState, pick: Callable[..., TaskState]) -> Iterator[TaskState]:
    """Yield the tasks within reach that combine the output of ``ts`` with others.

    Parameters
    ----------
    ts
        A task that is queued.
    pick
        Which of several dependents is followed: ``min`` is the first, ``max`` the last.
    """
    for _ in range(STEPS):
        dependents = ts.dependents
        if not dependents:
            return
        ts = (
            pick(dependents, key=_priority)
            if len(dependents) > 1
            else _only(dependents)
        )
        if ts.waiting_on and len(ts.waiting_on) > 1:
            yield ts


def end_of_block(ts: TaskState) -> tuple[float, ...]:
    """Return the priority up to which tasks are neighbours of ``ts``.

    Parameters
    ----------
    ts
        A task that is queued.

    Returns
    -------
    tuple
        The priority of a task that combines its output with others, and is the second
        that does so, where there are two within reach. If it is never combined, or in
        another graph, the end of ``ts`` or of its graph. Inputs that are in memory
        already, such as an array of weights, do not count.
    """
    graph = graph_of(ts)
    end: tuple[float, ...] = _priority(ts)
    for join in itertools.islice(_joins(ts, max), JOINS):
        end = _priority(join)
    return end if end[:2] == graph else (*graph, math.inf)


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
    use: tuple[float, ...] = _priority(next(_joins(ts, min), ts))
    return use


def output_until_joined(ts: TaskState) -> float:
    """Return what is made of the output of ``ts`` before it is combined.

    Parameters
    ----------
    ts
        A task that is queued.

    Returns
    -------
    float
        As a multiple of that output, at least 1. A task whose output is not known yet
        counts for 1. A join that merges chunks and keeps their size, as in a rechunk,
        counts as well.
    """
    output = mean_output(ts.group) or mean_output(ts.prefix)
    dependents = ts.dependents
    for _ in range(STEPS):
        # Past tasks that only rename or convert
        if len(dependents) != 1:
            break
        dts = _only(dependents)
        if len(dts.dependencies) > 1 or not dts.dependents:
            break
        dependents = dts.dependents
    made = 0.0
    for dts in dependents:
        known = mean_output(dts.group)
        made += 1 if known is None or not output else known / output
    made = max(made, 1)
    for join in itertools.islice(_joins(ts, max), JOINS):
        known = mean_output(join.group)
        if known and output and join not in dependents:
            share = known / output / len(join.dependencies)
            if share > MERGED:
                # While chunks are merged, they are there twice
                made += share
    return made


def _only(tasks: Collection[TaskState]) -> TaskState:
    return next(iter(tasks))


class CoAssigningQueue(HeapSet["TaskState"]):
    """The tasks in the state ``queued``, in the order in which they are to be run.

    Parameters
    ----------
    state
        Knows which worker is to get the next task. It is read and never changed.

    Attributes
    ----------
    chosen
        How many tasks were chosen for each of the reasons in the docstring of this
        module.
    choices
        The last of these choices, as many as
        ``distributed.admin.low-level-log-length`` says.

    Notes
    -----
    Tasks come in order for the most part: all reads of a graph, or of a file. They are
    kept in runs, and the runs, not the tasks, in a heap. A task costs O(log runs), and
    O(its dependents) once. The heap of the base class stays empty.
    """

    __slots__ = (
        "_begun",
        "_count",
        "_graph",
        "_group",
        "_latest",
        "_made",
        "_next",
        "_peeked",
        "_review_at",
        "_runs",
        "choices",
        "chosen",
        "state",
    )

    state: SchedulerState
    chosen: Counter[str]
    choices: deque[Choice]
    #: Tasks that came in the order of their priority, one run after the other: a heap
    #: by their first entries
    _runs: list[deque[_Entry]]
    #: The run that was begun last
    _latest: deque[_Entry] | None
    #: Blocks that nobody has begun, in the order of their priority
    _next: deque[Block]
    #: Blocks of workers, in the order in which they were begun; all of one graph
    _begun: dict[WorkerState, Block]
    #: The graph of those
    _graph: tuple[float, ...]
    #: Number of blocks that were begun
    _count: int
    #: The task that was chosen last, the worker for which, and the reason
    _peeked: tuple[TaskState, WorkerState, str] | None
    #: The group that was met last; its tasks are alike
    _group: TaskGroup | None
    #: What is made of the output of its tasks
    _made: float
    #: Value of ``TaskGroup.nbytes_total`` from which on that is out of date
    _review_at: int

    def __init__(self, state: SchedulerState):
        super().__init__(key=_priority)
        self.state = state
        self.chosen = Counter()
        self.choices = deque(
            maxlen=dask.config.get("distributed.admin.low-level-log-length")
        )
        self._runs = []
        self._latest = None
        self._next = deque()
        self._begun = {}
        self._graph = ()
        self._count = 0
        self._peeked = None
        self._group = None

    def peek(self) -> TaskState:
        """Return the task that is to run next, without removing it.

        It is meant for the worker that the scheduler would take now.

        Raises
        ------
        KeyError
            If the queue is empty.
        """
        if not self._data:
            raise KeyError("peek into empty set")
        before = self._peeked
        self._peeked = None
        ws = self.state.decide_worker_rootish_queuing_enabled()
        if ws is None:
            return min(self._data, key=_priority)
        reason, ts = self._choose(ws)
        if before and before[0] is ts and before[1] is ws:
            # It was that which made the block the worker's own
            reason = before[2]
        self._peeked = ts, ws, reason
        return ts

    def worker_for(self, ts: TaskState) -> WorkerState | None:
        """Return the worker for which :meth:`peek` chose a task, once.

        Parameters
        ----------
        ts
            A task that leaves the queue.

        Returns
        -------
        WorkerState or None
            None if it was not this task that was chosen last, or if the worker has no
            thread free for it any more.
        """
        if self._peeked is None:
            return None
        chosen, ws, reason = self._peeked
        self._peeked = None
        if chosen is not ts or ws not in self.state.idle_task_count:
            return None
        self.chosen[reason] += 1
        self.choices.append(Choice(ts.key, ws.address, reason))
        return ws

    def add(self, value: TaskState) -> None:
        if value in self._data:
            return
        priority = _priority(value)
        if self._begun and priority < self._graph:
            # A graph that is more urgent has come
            self._return_all()
        elif self._next:
            last = self._next[-1].tasks
            if last and priority < _priority(last[-1]):
                self._return_next()
        self._data.add(value)
        entry = self._entry(value)
        run = self._latest
        if run and priority > run[-1][0]:
            run.append(entry)
        else:
            self._latest = self._new_run(entry)

    def __reduce__(self) -> Any:
        entries = [(_priority(ts), n, ts) for n, ts in enumerate(self.sorted())]
        return HeapSet._unpickle, (self.key, len(entries), entries)

    def pop(self) -> TaskState:
        if not self._data:
            raise KeyError("pop from an empty set")
        ts = min(self._data, key=_priority)
        self.discard(ts)
        return ts

    def peekright(self) -> TaskState:
        if not self._data:
            raise KeyError("peek into empty set")
        return max(self._data, key=_priority)

    def popright(self) -> TaskState:
        ts = self.peekright()
        self.discard(ts)
        return ts

    def sorted(self) -> Iterator[TaskState]:
        return iter(sorted(self._data, key=_priority))

    def clear(self) -> None:
        super().clear()
        self._runs.clear()
        self._latest = None
        self._group = None
        self._peeked = None
        self._next.clear()
        self._begun.clear()

    # Choosing

    def _choose(self, ws: WorkerState) -> tuple[str, TaskState]:
        """Return the next task for a worker and the reason. There must be one."""
        begun = self._begun
        if mine := begun.get(ws):
            if own := self._head(mine):
                return "own", own
            del begun[ws]
        first = self._head_of_next()
        if help_ := self._someone_to_help(first):
            return "help", help_
        assert first
        n = self._near(ws)
        block = self._next[n]
        if n:
            self._next[0].passed += block.output
        del self._next[n]
        self._count += 1
        block.number = self._count
        self._graph = graph_of(block.tasks[0])
        begun[ws] = block
        return "near" if n else "first", block.tasks[0]

    def _someone_to_help(self, first: TaskState | None) -> TaskState | None:
        """Return a task of another worker's block, if that is what to do now.

        Parameters
        ----------
        first
            First task of the blocks that nobody has begun, if any.
        """
        begun = self._begun
        forced = first is None or graph_of(first) != self._graph
        while begun:
            # The one that was begun before all others
            other, block = next(iter(begun.items()))
            if (
                not forced
                and self._count - block.number <= PATIENCE * len(begun)
                and other in self.state.running
            ):
                break
            if ts := self._head(block):
                return ts
            del begun[other]
        return None

    def _near(self, ws: WorkerState) -> int:
        """Return which of the next blocks ``ws`` is to begin; 0 is the first."""
        blocks = self._next
        if (
            blocks[0].passed >= LOOK_AHEAD
            # Where blocks have one task, memory is dear, and the order is kept
            or len(blocks[0].tasks) == 1
            or _has_inputs(ws, blocks[0])
        ):
            return 0
        graph = graph_of(blocks[0].tasks[0])
        n = 0
        ahead = 0.0
        while (ahead := ahead + blocks[n].output) < LOOK_AHEAD:
            n += 1
            if n == len(blocks) and not self._draw():
                break
            if (
                _has_inputs(ws, blocks[n])
                and (ts := self._head(blocks[n]))
                and graph_of(ts) == graph
            ):
                return n
        return 0

    # Blocks

    def _waits(self, ts: TaskState) -> bool:
        """Whether a task is queued.

        It is equal to every other task of that key. When a key is submitted again that
        was cancelled, blocks may still have the task that was forgotten.
        """
        return ts in self._data and ts.state != "forgotten"

    def _head(self, block: Block) -> TaskState | None:
        """Return the first task of a block that is still queued."""
        tasks = block.tasks
        while tasks:
            if self._waits(tasks[0]):
                return tasks[0]
            tasks.popleft()
        return None

    def _head_of_next(self) -> TaskState | None:
        """Return the first task that is in nobody's block."""
        while self._next:
            if ts := self._head(self._next[0]):
                return ts
            self._next.popleft()
        return self._next[0].tasks[0] if self._draw() else None

    def _draw(self) -> bool:
        """Make a block of the tasks that come next; return whether there was any."""
        ts = self._top()
        if ts is None:
            return False
        self._take_top()
        tasks = deque([ts])
        end = end_of_block(ts)
        output = self._output_until_joined(ts)
        while (after := self._top()) is not None:
            if _priority(after) > end:
                end = end_of_block(tasks[-1])
                if _priority(after) > end:
                    break
            made = self._output_until_joined(after)
            if output + made > BLOCK_OUTPUT:
                break
            output += made
            self._take_top()
            tasks.append(after)
        if len(tasks) > 1 and after is not None and first_use(ts) < _priority(after):
            # What is combined first is not torn
            while len(tasks) > 1 and _priority(after) < first_use(tasks[-1]):
                after = tasks.pop()
                output -= self._output_until_joined(after)
                self._new_run(self._entry(after))
        self._next.append(Block(tasks, output))
        return True

    def _output_until_joined(self, ts: TaskState) -> float:
        """Ask the function of that name, anew when more is known of the outputs."""
        group = ts.group
        if group is not self._group or group.nbytes_total >= self._review_at:
            self._group = group
            self._made = output_until_joined(ts)
            self._review_at = 2 * group.nbytes_total or 1
        return self._made

    def _top(self) -> TaskState | None:
        """Return the task that comes next, if any, without taking it out of its run."""
        while self._runs:
            ts = self._runs[0][0][2]()
            if ts is not None and self._waits(ts):
                return ts
            self._take_top()
        return None

    def _take_top(self) -> None:
        runs = self._runs
        run = runs[0]
        run.popleft()
        if not run:
            heapq.heappop(runs)
        # As a rule, all of a run comes before the others. To compare the first entries
        # is faster than to compare runs.
        elif (len(runs) > 1 and runs[1][0] < run[0]) or (
            len(runs) > 2 and runs[2][0] < run[0]
        ):
            heapq.heapreplace(runs, run)

    def _entry(self, ts: TaskState) -> _Entry:
        self._inc += 1
        return _priority(ts), self._inc, weakref.ref(ts)

    def _new_run(self, *entries: _Entry) -> deque[_Entry]:
        run = deque(entries)
        heapq.heappush(self._runs, run)
        return run

    def _return(self, blocks: Iterable[Block]) -> None:
        """Make runs of blocks."""
        for block in blocks:
            if entries := [self._entry(ts) for ts in block.tasks if self._waits(ts)]:
                self._new_run(*entries)

    def _return_next(self) -> None:
        self._return(self._next)
        self._next.clear()

    def _return_all(self) -> None:
        self._return_next()
        self._return(self._begun.values())
        self._begun.clear()


def _has_inputs(ws: WorkerState, block: Block) -> bool:
    """Whether a worker has all inputs of the tasks of a block."""
    for ts in block.tasks:
        for dts in ts.dependencies:
            if not dts.who_has or ws not in dts.who_has:
                return False
    return True


def make_queue(state: SchedulerState) -> HeapSet[TaskState]:
    """Make the queue that ``distributed.scheduler.rootish-co-assignment`` asks for.

    Parameters
    ----------
    state
        The scheduler's state, with its policy, and the queue of the base, which is
        empty. Policies that are those of the base keep it.

    Raises
    ------
    ValueError
        If the setting is neither true nor false.
    """
    wanted = dask.config.get("distributed.scheduler.rootish-co-assignment")
    if not isinstance(wanted, bool):
        raise ValueError(
            "`distributed.scheduler.rootish-co-assignment` must be true or false; "
            f"got {wanted!r}"
        )
    if wanted and state.rootish_policy.co_assigns:
        return CoAssigningQueue(state)
    return state.queued
