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

import bisect
import heapq
import itertools
import math
import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import dask

from distributed.collections import HeapSet
from distributed.rootish.policy import mean_output

if TYPE_CHECKING:
    # Circular dependencies
    from dask.typing import Key

    from distributed.scheduler import SchedulerState, TaskState, WorkerState

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

#: Tasks that were removed are kept as long as they are so few.
REMOVED = 1000

#: Why a worker got a task: see the docstring of this module.
REASONS = ("own", "first", "near", "help")

#: Where a block ends as long as there is none
_NOWHERE: tuple[tuple[float, ...], int] = (), JOINS

_priority = operator.attrgetter("priority")

#: Tasks in the order of their priority
_Run = deque["TaskState"]


class Choice(NamedTuple):
    """Which worker got a queued task, and why.

    Attributes
    ----------
    key
        Key of the task.
    worker
        Address of the worker.
    reason
        One of :data:`REASONS`.
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
        The same, the next one last. Those that have left the queue are dropped when
        they are met there.
    priority
        Of the task that was the first.
    number
        How many blocks had been begun when this one was.
    passed
        Output of the later blocks that were preferred to this one.
    """

    __slots__ = ("number", "output", "passed", "priority", "tasks")

    tasks: list[TaskState]
    output: float
    priority: Any
    number: int
    passed: float

    def __init__(self, tasks: list[TaskState], output: float):
        self.output = output
        self.priority = _priority(tasks[0])
        tasks.reverse()
        self.tasks = tasks
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
        if len(dependents) == 1:
            [ts] = dependents
        else:
            ts = pick(dependents, key=_priority)
        if ts.waiting_on and len(ts.waiting_on) > 1:
            yield ts


def end_of_block(ts: TaskState, joins: int = JOINS) -> tuple[float, ...]:
    """Return the priority up to which tasks are neighbours of ``ts``.

    Parameters
    ----------
    ts
        A task that is queued.
    joins
        At which of the tasks that combine its output with others they meet.

    Returns
    -------
    tuple
        The priority of that task, or of the last before it that is within reach. If the
        output is never combined, or in another graph, the end of ``ts`` or of its
        graph. Inputs that are in memory already, such as an array of weights, do not
        count.
    """
    end: tuple[float, ...] = _priority(ts)
    for join in itertools.islice(_joins(ts, max), joins):
        end = _priority(join)
    graph = graph_of(ts)
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
        [dts] = dependents
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


class CoAssigningQueue(HeapSet["TaskState"]):
    """The tasks in the state ``queued``, in the order in which they are to be run.

    Runs and blocks may still have tasks that are in another state by now, or that were
    forgotten while one of the same key is queued. They are dropped when they are met.

    Parameters
    ----------
    state
        Knows which worker is to get the next task. It is read and never changed.

    Attributes
    ----------
    chosen
        How many tasks were chosen for each of :data:`REASONS`.

    Notes
    -----
    Tasks come in order for the most part: all reads of a graph, or of a file. They are
    kept in runs, and the runs, not the tasks, in a heap. A task costs O(log runs), and
    O(its dependents) once. The heap of the base class stays empty.
    """

    __slots__ = (
        "_begun",
        "_choices",
        "_count",
        "_end",
        "_graph",
        "_latest",
        "_next",
        "_peeked",
        "_removed",
        "_run",
        "_runs",
        "chosen",
        "state",
    )

    state: SchedulerState
    chosen: dict[str, int]
    _choices: deque[tuple[Key, str, str]]
    #: Tasks that came in the order of their priority. This run is the first of all, or
    #: was so before the last tasks were added
    _run: _Run
    #: The others: a heap by the priority of their first task
    _runs: list[tuple[Any, int, _Run]]
    #: The run that was begun last
    _latest: _Run
    #: Blocks that nobody has begun, in the order of their priority
    _next: list[Block]
    #: Up to where tasks are neighbours of those in the block that was made last, and at
    #: which join they meet
    _end: tuple[tuple[float, ...], int]
    #: Blocks of workers, in the order in which they were begun; all of one graph
    _begun: dict[WorkerState, Block]
    #: The graph of those
    _graph: tuple[float, ...]
    #: Number of blocks that were begun
    _count: int
    #: The task that was chosen last, the worker for which, and the reason
    _peeked: tuple[TaskState, WorkerState, str] | None
    #: How many tasks were removed since it was seen to that none of them is kept
    _removed: int

    def __init__(self, state: SchedulerState):
        super().__init__(key=_priority)
        self.state = state
        self.chosen = dict.fromkeys(REASONS, 0)
        self._choices = deque(
            maxlen=dask.config.get("distributed.admin.low-level-log-length")
        )
        self._run = self._latest = deque()
        self._runs = []
        self._next = []
        self._end = _NOWHERE
        self._begun = {}
        self._graph = ()
        self._count = 0
        self._peeked = None
        self._removed = 0

    @property
    def choices(self) -> list[Choice]:
        """The last choices, as many as ``distributed.admin.low-level-log-length`` says.

        What a worker goes on with, its own block, is not listed.
        """
        return list(itertools.starmap(Choice, self._choices))

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
        state = self.state
        idle = state.idle_task_count
        ws = (
            # As a rule, in the long run
            next(iter(idle))
            if len(idle) == 1
            else state.decide_worker_rootish_queuing_enabled()
        )
        if ws is None:
            self._peeked = None
            return min(self._data, key=_priority)
        before = self._peeked
        mine = self._begun.get(ws)
        ts = self._head(mine) if mine else None
        if ts:
            reason = "own"
            if before and before[0] is ts and before[1] is ws:
                # It was that which made the block the worker's own
                return ts
        else:
            reason, ts = self._begin(ws)
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
        if reason != "own":
            self._choices.append((ts.key, ws.address, reason))
        return ws

    def add(self, value: TaskState) -> None:
        data = self._data
        size = len(data)
        data.add(value)
        if len(data) == size:
            return
        priority = _priority(value)
        if self._begun and priority < self._graph:
            # A graph that is more urgent has come
            self._return_begun()
        if priority < self._end[0]:
            self._end = _NOWHERE
        run = self._latest
        if run and run[-1].priority < priority:
            run.append(value)
        else:
            self._latest = self._new_run([value])

    def remove(self, value: TaskState) -> None:
        """Remove a task that will not be run.

        Those that are run are at the front, and dropped when they are met there. Others
        are not kept until their turn comes.

        Raises
        ------
        KeyError
            If it is not in the queue.
        """
        super().remove(value)
        self._removed += 1
        if self._removed > max(len(self._data), REMOVED):
            self._begin_runs_again()

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
        self._run = self._latest = deque()
        self._runs.clear()
        self._peeked = None
        self._next.clear()
        self._end = _NOWHERE
        self._begun.clear()
        self._removed = 0

    # Choosing

    def _begin(self, ws: WorkerState) -> tuple[str, TaskState]:
        """Return the next task for a worker that has no block, and the reason.

        There must be one.
        """
        self._begun.pop(ws, None)
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
        ts = block.tasks[-1]
        self._graph = graph_of(ts)
        self._begun[ws] = block
        return "near" if n else "first", ts

    def _someone_to_help(self, first: TaskState | None) -> TaskState | None:
        """Return a task of another worker's block, if that is what to do now.

        Parameters
        ----------
        first
            First task of the blocks that nobody has begun, if any.
        """
        begun = self._begun
        if not begun:
            return None
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
        graph = graph_of(blocks[0].tasks[-1])
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

    def _head(self, block: Block) -> TaskState | None:
        """Return the first task of a block that is still queued."""
        tasks = block.tasks
        while tasks:
            ts = tasks[-1]
            if ts._state == "queued":
                return ts
            tasks.pop()
        return None

    def _head_of_next(self) -> TaskState | None:
        """Return the first task that is in nobody's block."""
        blocks = self._next
        # What was added since may come before blocks that were made
        while blocks and (ts := self._top()) and _priority(ts) < blocks[-1].priority:
            self._draw()
        while blocks:
            if ts := self._head(blocks[0]):
                return ts
            del blocks[0]
        return blocks[0].tasks[-1] if self._draw() else None

    def _draw(self) -> bool:
        """Make a block of the tasks that come next; return whether there was any."""
        ts = self._top()
        if ts is None:
            return False
        self._run.popleft()
        tasks = [ts]
        output = self._output_until_joined(ts)
        after = None
        # Every task makes 1 at least
        room = output + 1 <= BLOCK_OUTPUT
        end, joins = self._end
        if room and _priority(ts) > end:
            # That is enough for large families, and the next join is looked for if not
            end, joins = end_of_block(ts, 1), 1
        while room and (after := self._top()):
            priority = _priority(after)
            if priority > end:
                end, joins = end_of_block(tasks[-1]), JOINS
                if priority > end:
                    break
            made = self._output_until_joined(after)
            if output + made > BLOCK_OUTPUT:
                break
            output += made
            self._run.popleft()
            tasks.append(after)
        if (
            after
            and len(tasks) > 1
            # All are of one family else
            and (joins > 1 or len(ts.dependents) > 1)
            and _priority(after) < first_use(tasks[-1])
            and first_use(ts) < _priority(after)
        ):
            # What is combined first is not torn
            while len(tasks) > 1 and _priority(after) < first_use(tasks[-1]):
                after = tasks.pop()
                output -= self._output_until_joined(after)
                self._run.appendleft(after)
        self._end = end, joins
        bisect.insort(self._next, Block(tasks, output), key=_priority)
        return True

    def _output_until_joined(self, ts: TaskState) -> float:
        """Ask the function of that name, anew when more is known of the outputs."""
        facts = ts.group.rootish_facts
        if ts.prefix.nbytes_total >= facts.output_review_at:
            facts.output_until_joined = output_until_joined(ts)
            facts.output_review_at = 2 * ts.prefix.nbytes_total or 1
        return facts.output_until_joined

    def _top(self) -> TaskState | None:
        """Return the task that comes next, if any, as the first of ``_run``."""
        runs = self._runs
        while True:
            run = self._run
            if not run:
                if not runs:
                    return None
                self._run = heapq.heappop(runs)[-1]
                continue
            ts = run[0]
            if runs and runs[0][0] < _priority(ts):
                # As a rule, all of a run comes before the others
                self._inc += 1
                entry = _priority(ts), self._inc, run
                self._run = heapq.heapreplace(runs, entry)[-1]
            elif ts._state == "queued":
                return ts
            else:
                run.popleft()

    def _new_run(self, tasks: Iterable[TaskState]) -> _Run:
        run = deque(tasks)
        self._inc += 1
        heapq.heappush(self._runs, (_priority(run[0]), self._inc, run))
        return run

    def _begin_runs_again(self) -> None:
        """Forget the tasks that were removed before they came to the front."""
        blocks = [*self._next, *self._begun.values()]
        in_blocks = {
            ts for block in blocks for ts in block.tasks if ts._state == "queued"
        }
        self._runs.clear()
        self._run = self._latest = deque(
            ts for ts in self.sorted() if ts not in in_blocks
        )
        self._removed = 0

    def _return_begun(self) -> None:
        """Make runs of the blocks that workers have begun."""
        for block in self._begun.values():
            if tasks := [ts for ts in reversed(block.tasks) if ts._state == "queued"]:
                self._new_run(tasks)
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
