"""Lanes: what waits for the same workers, in order, and the families that it makes.

A lane is asked by the queue (:mod:`distributed.rootish.queue`) for the next task of a
worker that may run its tasks. They wait in lines: one for each kind of loads, which is
held back as a whole. Families are made of what is first there when a worker asks; a
lane knows who has begun which.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from distributed.rootish.backpressure import Kind, is_chain, kind_of
from distributed.rootish.families import (
    Cell,
    Draft,
    Family,
    InOrder,
    first_use,
    graph_of,
    priority_of,
)

if TYPE_CHECKING:
    # Circular dependencies
    from distributed.rootish.queue import RootishQueue
    from distributed.scheduler import (
        SchedulerState,
        TaskPrefix,
        TaskState,
        WorkerState,
    )

#: Why a worker got a task: see :mod:`distributed.rootish.queue`.
REASONS = ("own", "first", "help")


class Choice(NamedTuple):
    """A task that is to leave the queue, and for whom.

    Attributes
    ----------
    task
        The task.
    worker
        The worker that is to get it.
    reason
        One of :data:`REASONS`.
    family
        The family of the task.
    lane
        The lane of the family.
    """

    task: TaskState
    worker: WorkerState
    reason: str
    family: Family
    lane: Lane


class Restrictions(NamedTuple):
    """Which workers may run a task, or should.

    Attributes
    ----------
    workers
        Addresses of workers.
    hosts
        Names of hosts.
    resources
        Pairs of a name and how much of it is needed.
    loose
        Whether others may as well, if none of these is there.
    beside
        Whether it is only that the worker holds a handle which is expensive to make.
    """

    workers: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    resources: frozenset[tuple[str, float]] = frozenset()
    loose: bool = False
    beside: bool = False


class Pool:
    """The workers that may run tasks of the same restrictions.

    Parameters
    ----------
    state
        Knows the workers.
    restrictions
        What the tasks have in common, None if they may run anywhere.

    Attributes
    ----------
    restrictions
        The same.
    workers
        Those of them that are running.
    nthreads
        Of all of them; no more of each than its resources last for.
    slots
        Root-ish tasks that they hold at once.
    chains
        Name of a prefix -> how many chains of consumers its tasks are for.
    """

    __slots__ = (
        "_like",
        "_state",
        "chains",
        "nthreads",
        "restrictions",
        "slots",
        "workers",
    )

    restrictions: Restrictions | None
    workers: set[WorkerState]
    nthreads: float
    slots: int
    chains: Counter[str]

    def __init__(self, state: SchedulerState, restrictions: Restrictions | None = None):
        self._state = state
        self.restrictions = restrictions
        # What `SchedulerState.valid_workers` reads of a task
        self._like: Any = restrictions and SimpleNamespace(
            worker_restrictions=set(restrictions.workers),
            host_restrictions=set(restrictions.hosts),
            resource_restrictions=dict(restrictions.resources),
            loose_restrictions=restrictions.loose,
        )
        self.chains = Counter()
        self.look()

    def look(self) -> None:
        """Look at the workers, which have changed."""
        state = self._state
        valid = None
        if wanted := self._like:
            valid = state.valid_workers(wanted)
            if not valid and wanted.loose_restrictions:
                valid = None
        if valid is None:
            valid = set(state.running) if wanted else state.running
        self.workers = valid
        threads = [self._threads(ws) for ws in self.workers]
        self.nthreads = sum(threads)
        saturation = state.WORKER_SATURATION
        self.slots = (
            0
            if math.isinf(saturation)
            else sum(max(math.ceil(saturation * n), 1) for n in threads)
        )

    def _threads(self, ws: WorkerState) -> float:
        """Return how many of the tasks a worker can run at once."""
        wanted = self._like
        threads: float = ws.nthreads
        for name, required in wanted.resource_restrictions.items() if wanted else ():
            if required > 0:
                threads = min(threads, ws.resources.get(name, 0) / required)
        return threads

    def has_room(self, ws: WorkerState) -> bool:
        """Whether a worker of the pool has resources left for a task.

        What it has is counted, since the base's ``WorkerState.used_resources`` does not
        change when a task is stolen.
        """
        saturation = self._state.WORKER_SATURATION

        def used(name: str) -> float:
            asked = filter(None, (ts.resource_restrictions for ts in ws.processing))
            return sum(wanted.get(name, 0) for wanted in asked)

        return all(
            used(name) < saturation * ws.resources.get(name, 0)
            for name in self._like.resource_restrictions
        )


class _Line(InOrder):
    """Tasks of one kind, which are held back together.

    Parameters
    ----------
    kind
        Of the tasks.
    """

    __slots__ = ("held", "kind", "place")

    held: bool
    kind: Kind
    #: Priority by which it waits for its turn, None if it does not
    place: Any

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.held = False
        self.place = None
        self.cells = []


class Lane:
    """Tasks that are open to the same workers, and the families that they make.

    Parameters
    ----------
    queue
        The queue that it belongs to.
    pool
        The workers that may run the tasks.

    Attributes
    ----------
    count
        How many tasks wait in it.
    prefix
        Of the task that has come last.
    beside
        How long it takes to have its inputs elsewhere, in seconds; None if the tasks do
        not wait beside their inputs.
    served
        Workers that have got a task of it.
    held
        Lines that are held back.
    next
        Families that nobody has begun, in the order of their priority.
    begun
        Worker -> its families that are not finished.
    """

    __slots__ = (
        "_counter",
        "_end",
        "_holds",
        "_lines",
        "_nbegun",
        "_number",
        "_queue",
        "_spans",
        "_tops",
        "_unfinished",
        "begun",
        "beside",
        "count",
        "held",
        "next",
        "pool",
        "prefix",
        "served",
    )

    count: int
    prefix: TaskPrefix
    beside: float | None
    served: set[WorkerState]
    held: list[_Line]
    next: list[Family]
    begun: dict[WorkerState, list[Family]]
    _lines: dict[Kind, _Line]
    #: A heap of lines that are not held back, by their places and what these were once
    _tops: list[tuple[Any, int, _Line]]
    #: Families that may still get tasks which become ready late, by their priority
    _spans: list[Family]
    #: A heap of families that were begun and have a task, or had when they were put
    #: there: their graph, their number, and a number that no other entry has
    _unfinished: list[tuple[tuple[float, ...], int, int, Family]]
    #: How many families workers have, with those that are done
    _nbegun: int
    #: Whether anything was held back when the lane was asked last
    _holds: bool
    #: Up to where tasks are neighbors of those in the family that was made last
    _end: tuple[float, ...]

    def __init__(self, queue: RootishQueue, pool: Pool):
        self._queue = queue
        self.pool = pool
        self.count = 0
        self.beside = None
        self.served = set()
        self.held = []
        self.next = []
        self.begun = {}
        self._tops = []
        self._lines = {}
        self._spans = []
        self._end = ()
        self._holds = False
        self._unfinished = []
        self._nbegun = 0
        self._counter = queue.counter
        self._number = 0

    def add(self, ts: TaskState, cell: Cell) -> None:
        """Let a task wait.

        Parameters
        ----------
        ts
            The task.
        cell
            Holds it as long as it is queued.
        """
        self.count += 1
        self.prefix = ts.prefix
        if self._adopt(ts, cell):
            return
        # It may be one of those that are expected before
        self._end = ()
        self._put(cell)

    def _put(self, cell: Cell) -> None:
        """Put a task into the line of its kind."""
        ts, kind = cell
        line = self._lines.get(kind)
        if line is None:
            line = self._lines[kind] = _Line(kind)
            if is_chain(kind):
                self.pool.chains[kind[0]] += 1
        priority = priority_of(ts)
        self._insert(line, cell)
        if not line.held and (line.place is None or priority < line.place):
            self._place(line, priority)

    def _insert(self, tasks: InOrder, cell: Cell) -> None:
        """Put a task where it is in order."""
        entry = priority_of(cell[0]), next(self._counter), cell
        heapq.heappush(tasks.cells, entry)

    def _drop(self, line: _Line) -> None:
        """Forget a line of which no task is left."""
        kind = line.kind
        line.place = None
        del self._lines[kind]
        if is_chain(kind):
            self.pool.chains[kind[0]] -= 1

    def _adopt(self, ts: TaskState, cell: Cell) -> bool:
        """Whether a task joins a family that was made before it was ready."""
        spans = self._spans
        priority = priority_of(ts)
        n = bisect.bisect(spans, priority, key=priority_of)
        if n and priority <= spans[n - 1].end:
            family = spans[n - 1]
        elif n < len(spans) and spans[n].priority < first_use(ts) <= spans[n].end:
            # It comes before, such as the weights of the first chunk
            family = spans[n]
        else:
            return False
        begun = family.worker is not None
        # What is held back waits for all of its kind
        if begun and self._is_held(ts, cell[1]):
            return False
        self._insert(family, cell)
        if begun:
            self._note(cell)
            self._push(family)
        return True

    def _place(self, line: _Line, priority: tuple[float, ...]) -> None:
        """Let a line have its turn by the priority of its first task."""
        line.place = priority
        heapq.heappush(self._tops, (priority, next(self._counter), line))

    def _is_held(self, ts: TaskState, kind: Kind) -> bool:
        return self._queue.is_held(ts, self.pool, kind)

    def _top(self, ask: bool = True) -> _Line | None:
        """Return the line that has the next task, as its first.

        Parameters
        ----------
        ask
            Whether to set aside lines of which the next task is held back.
        """
        tops = self._tops
        while tops:
            priority, _, line = tops[0]
            # Else it has another place by now
            if line.place == priority:
                ts = line.head()
                if ts is None:
                    self._drop(line)
                elif priority_of(ts) != priority and len(tops) > 1:
                    self._place(line, priority_of(ts))
                elif line.kind[1] == "" and kind_of(ts)[1]:
                    # Its consumers came after it
                    *_, cell = heapq.heappop(line.cells)
                    cell[1] = self._queue.kind_of(ts)
                    self._put(cell)
                    continue
                elif ask and self._is_held(ts, line.kind):
                    line.place = None
                    line.held = True
                    self.held.append(line)
                else:
                    return line
            heapq.heappop(tops)
        return None

    def _take_back(self) -> None:
        """Take back lines that need not be held back any more."""
        held = []
        for line in self.held:
            ts = line.head()
            if ts and self._is_held(ts, line.kind):
                held.append(line)
                continue
            line.held = False
            if ts:
                self._place(line, priority_of(ts))
            else:
                self._drop(line)
        self.held = held

    def choose(self, ws: WorkerState) -> Choice | None:
        """Return the task that a worker is to get next, if there is any for it.

        Parameters
        ----------
        ws
            A worker of the pool that has a thread free.
        """
        own = None
        for family in self.begun.get(ws, ()):
            if family.head() and (own is None or family.priority < own.priority):
                own = family
        if own and own.priority[:2] <= self._most_urgent():
            return Choice(own.cells[0][2][0], ws, "own", own, self)
        if self.held:
            self._take_back()
        first = self._first()
        limit = first.priority if first else None
        oldest = self._oldest()
        urgent = oldest.priority[:2] if oldest else (math.inf,)
        ts = self._next_of(own, limit) if own else None
        if own and ts and graph_of(ts) == urgent:
            return Choice(ts, ws, "own", own, self)
        before = first
        if limit is None or limit[:2] > urgent:
            # What is left of a more urgent graph goes before the first
            before, limit = None, urgent
        if oldest and (other := self._other(ws, oldest, before, limit)):
            return other
        if own and ts:
            return Choice(ts, ws, "own", own, self)
        if first and (ts := first.head()):
            return Choice(ts, ws, "first", first, self)
        return None

    def _most_urgent(self) -> tuple[float, ...]:
        """Return a graph before which none has a task, as far as is seen at once."""
        graphs: list[tuple[float, ...]] = [(math.inf,)]
        if self._unfinished:
            graphs.append(self._unfinished[0][0])
        if self.next:
            graphs.append(self.next[0].priority[:2])
        if self._tops:
            graphs.append(self._tops[0][0][:2])
        return min(graphs)

    def _oldest(self) -> Family | None:
        """Return the first that was begun and has a task, of the most urgent graph."""
        unfinished = self._unfinished
        while unfinished:
            family = unfinished[0][-1]
            if family.worker and family.head():
                return family
            heapq.heappop(unfinished)
        return None

    def _next_of(
        self, family: Family, limit: tuple[float, ...] | None
    ) -> TaskState | None:
        """Return the next task of a family that was begun, unless it has to wait.

        It is not held back for a consumer, since gaps are filled. But between graphs,
        priority is kept to the task.
        """
        ts = family.head()
        return None if ts and limit is not None and graph_of(ts) > limit else ts

    def take(self, choice: Choice) -> None:
        """Note that a choice is carried out.

        Parameters
        ----------
        choice
            As :meth:`choose` returned it.
        """
        _, ws, reason, family, _ = choice
        if reason != "first":
            return
        self.next.remove(family)
        self._nbegun += 1
        self._number += 1
        family.number = self._number
        family.worker = ws
        self._push(family)
        for *_, cell in family.cells:
            if cell:
                self._note(cell)
        mine = self.begun.setdefault(ws, [])
        mine.append(family)
        if len(mine) > 1 + ws.nthreads:
            self._give_back(mine.pop(0))

    def _note(self, cell: Cell) -> None:
        """Count a task of a family that was begun among those that are out."""
        ts, kind = cell
        self._queue.note(ts, self.pool, kind)

    def _push(self, family: Family) -> None:
        """Count a family among those that were begun and have a task."""
        entry = family.priority[:2], family.number, next(self._counter), family
        heapq.heappush(self._unfinished, entry)

    def _give_back(self, family: Family) -> None:
        """Give back what is left of a family that a worker has begun."""
        self._nbegun -= 1
        if family.head():
            family.worker = None
            bisect.insort(self.next, family, key=priority_of)
        else:
            self._forget(family)

    def _forget(self, family: Family) -> None:
        """Let no more tasks join a family of which none is left."""
        spans = self._spans
        n = bisect.bisect_left(spans, family.priority, key=priority_of)
        while spans[n] is not family:
            n += 1
        del spans[n]

    def let_go(self) -> None:
        """Give back the families of workers that are not running any more."""
        for ws in self.begun.keys() - self._queue.state.running:
            for family in self.begun.pop(ws):
                self._give_back(family)

    def _other(
        self,
        ws: WorkerState,
        oldest: Family,
        first: Family | None,
        limit: tuple[float, ...] | None,
    ) -> Choice | None:
        """Return the next task of a family that another worker has begun.

        A worker helps if it has nothing else to do, or if a family is left behind: more
        were begun since than workers have now. If it has nothing else since tasks are
        held back, a family is no less that of the other, which may have a thread free
        as well.

        Parameters
        ----------
        ws
            The worker.
        oldest
            The first family that was begun and is not done.
        first
            The first family that nobody has begun.
        limit
            Tasks of later graphs have to wait; None if there is no other graph.
        """
        if first or not self._holds or self._queue.slackened:
            if first and self._number - oldest.number <= self._nbegun:
                return None
            ts = self._next_of(oldest, limit)
            return Choice(ts, ws, "help", oldest, self) if ts else None
        families = [
            family
            for worker in self._queue.state.idle_task_count
            for family in self.begun.get(worker, ())
            if family.head()
        ]
        for family in sorted(families, key=priority_of):
            if ts := self._next_of(family, limit):
                assert family.worker
                return Choice(ts, family.worker, "own", family, self)
        return None

    def _first(self) -> Family | None:
        """Return the first family that nobody has begun and that need not wait."""
        families = self.next
        while (
            families
            and (line := self._top(ask=False))
            and (ts := line.head())
            and priority_of(ts) < families[-1].priority
        ):
            if self._top() is line:
                self._draw(line)
        n = 0
        while n < len(families):
            family = families[n]
            ts = family.head()
            if ts is None:
                self._forget(families.pop(n))
            elif self._is_held(ts, family.kind()):
                n += 1
            else:
                return family
        if line := self._top():
            return self._draw(line)
        self._holds = bool(n or self.held)
        return None

    def _draw(self, line: _Line) -> Family:
        """Make a family of the tasks that come next, and return it.

        Parameters
        ----------
        line
            What :meth:`_top` has returned.
        """
        cells = [heapq.heappop(line.cells)]
        ts = cells[0][2][0]
        workers = len(self.pool.workers)
        draft = Draft(ts, self._end, workers)
        after = None
        while (more := self._top()) and (after := more.head()):
            # The others have their share of what is left as well
            if not draft.takes(after, len(cells) * workers < self.count):
                break
            cells.append(heapq.heappop(more.cells))
        else:
            after = None
        last = cells[-1][2][0]
        if (
            after
            and len(cells) > 1
            and priority_of(after) < first_use(last)
            and first_use(ts) < priority_of(after)
        ):
            # What is combined first is not torn
            while True:
                *_, cell = cells.pop()
                after = cell[0]
                self._put(cell)
                last = cells[-1][2][0]
                if len(cells) < 2 or priority_of(after) >= first_use(last):
                    break
        self._end = end = draft.end
        if after and priority_of(after) <= end:
            end = priority_of(last)
        family = Family(cells, end)
        bisect.insort(self.next, family, key=priority_of)
        bisect.insort(self._spans, family, key=priority_of)
        return family

    def families(self) -> Iterator[Family]:
        """Yield all families, begun or not, also those of which no task is left."""
        yield from self.next
        yield from itertools.chain(*self.begun.values())

    def lines(self) -> Iterator[_Line]:
        """Yield all lines, held back or not."""
        yield from self.held
        yield from {line: None for _, _, line in self._tops}


def beside(ws: WorkerState, seconds: float = 0) -> Restrictions:
    """Return what restricts tasks that wait beside a handle on a worker.

    Parameters
    ----------
    ws
        The worker.
    seconds
        How long it takes to have the handle elsewhere. If that is infinite, it is as if
        the tasks were restricted to the worker, and nobody helps.
    """
    return Restrictions(frozenset({ws.address}), beside=seconds < math.inf)


def restrictions_of(ts: TaskState) -> Restrictions | None:
    """Return what tasks have in common that the same workers may run.

    Parameters
    ----------
    ts
        A task.

    Returns
    -------
    Restrictions or None
        None if every worker may run it.
    """
    workers = ts.worker_restrictions
    hosts = ts.host_restrictions
    resources = ts.resource_restrictions
    if not (workers or hosts or resources):
        return None
    return Restrictions(
        frozenset(workers or ()),
        frozenset(hosts or ()),
        frozenset((resources or {}).items()),
        ts.loose_restrictions,
    )
