"""The queue: root-ish tasks wait here until a worker has a thread free for one.

Every root-ish task goes through it, the first of a graph as well, and only the queue
gives them out: ``SchedulerState._transitions`` asks it when all other transitions are
through, so after whatever can fill it or free a thread. Four things decide which task
is given to whom:

order
    The most urgent task goes first, by the priority that `dask.order` gave it.
families
    Tasks whose outputs meet go to one worker, so that they need not cross the network:
    stretches of the queue, bounded in bytes (:mod:`distributed.rootish.families`). A
    worker gets the next task of its *own* family; then the *first* family that nobody
    has begun; and it *helps* with another's family if there is no other, or if that one
    is left behind. What is loaded for a running sum is loaded where that is.
backpressure
    Where enough loaded chunks wait for consumers that run or are about to, the next one
    is held back (:mod:`distributed.rootish.backpressure`).
restrictions
    Tasks that may run on some workers only wait in a *lane* of their own, and so do
    those that belong beside a handle which takes long to make. A worker is offered the
    most urgent task of all lanes that are open to it.

Ahead of a more urgent task that the same worker may run goes nothing but the rest of
families that were begun: one for each thread of a worker and the one before. None goes
on beyond the second reduction. In memory at once are loads of 4.6 times the largest
output, partial results of as much, and as much again of what is combined at once; or
what a single task combines; or the worker's share of what must be held in any case. A
task that becomes ready late is of the family that it is combined with. A task costs
O(log tasks), however many workers, groups and dependents there are; see
:mod:`distributed.rootish.lanes`. Where tasks are restricted, all workers with a thread
free for them may be asked, each for the lanes that are open to it.
"""

from __future__ import annotations

import heapq
import itertools
import math
import weakref
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, MutableSet
from typing import TYPE_CHECKING, Any, NamedTuple

import dask
from dask.utils import parse_timedelta

from distributed.collections import HeapSet
from distributed.rootish.backpressure import (
    Kind,
    Outstanding,
    chain_steps,
    find_consumer,
    frees,
    holder_of_state,
    is_chain,
    kind_of,
    loads_much,
    would_wait,
)
from distributed.rootish.families import Cell, priority_of
from distributed.rootish.handles import Handles, bound_to
from distributed.rootish.lanes import (
    REASONS,
    Choice,
    Lane,
    Pool,
    Restrictions,
    beside,
    restrictions_of,
)
from distributed.rootish.policy import LOOKED_AT

if TYPE_CHECKING:
    # Circular dependencies
    from dask.typing import Key

    from distributed.scheduler import (
        Msgs,
        Recs,
        SchedulerState,
        TaskGroup,
        TaskPrefix,
        TaskState,
        WorkerState,
    )

#: Why a task waits: others are more urgent, and all threads taken; a worker has begun
#: its family and will go on with it; enough of what was loaded waits for its consumers;
#: the workers that may run it have no thread free.
WAITS = ("order", "family", "backpressure", "restrictions")


class Record(NamedTuple):
    """A choice that was carried out.

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


class RootishQueue(MutableSet["TaskState"]):
    """The tasks in the state ``queued``.

    Parameters
    ----------
    state
        Knows which workers have a thread free. It is read and never changed.

    Attributes
    ----------
    chosen
        How many tasks were chosen for each of :data:`REASONS`.
    handles
        Knows which inputs are better left where they are.
    open
        The lane of tasks without restrictions.
    restricted
        What restricts tasks -> the lane of those.
    outstanding
        Kind of loads -> those that are out.
    counter
        Numbers for whatever needs one.
    waiting
        Outputs of a kind that may wait to be consumed, for each slot
        (``distributed.scheduler.rootish-waiting``).
    slackened
        Whether more may at the moment, because no consumer has finished for long.
    """

    __slots__ = (
        "_asked",
        "_asked_at",
        "_cells",
        "_chained",
        "_chains",
        "_lanes_of",
        "_pools",
        "_records",
        "_seen",
        "chosen",
        "counter",
        "handles",
        "open",
        "outstanding",
        "restricted",
        "slackened",
        "state",
        "waiting",
    )

    state: SchedulerState
    chosen: dict[str, int]
    handles: Handles
    open: Lane
    restricted: dict[Restrictions, Lane]
    outstanding: dict[Kind, Outstanding]
    counter: itertools.count[int]
    waiting: float
    slackened: bool
    _cells: dict[TaskState, tuple[Cell, Lane]]
    #: Kind of loads -> whether its consumers are the steps of chains
    _chained: dict[Kind, bool]
    #: Step -> the number of its chain
    _chains: weakref.WeakKeyDictionary[TaskState, int]
    #: Worker -> the lanes of restricted tasks that it may run
    _lanes_of: dict[WorkerState, list[Lane]]
    #: What the workers were like when they were looked at last
    _seen: tuple[int, ...]
    _pools: dict[Restrictions | None, Pool]
    #: What was found of tasks since the last transition, of that number
    _asked: dict[TaskState, bool]
    _asked_at: int
    _records: deque[tuple[Key, str, str]]

    def __init__(self, state: SchedulerState):
        self.state = state
        self.waiting = _read_waiting()
        self.handles = Handles(state)
        self.chosen = dict.fromkeys(REASONS, 0)
        self._records = deque(
            maxlen=dask.config.get("distributed.admin.low-level-log-length")
        )
        self._cells = {}
        self.counter = itertools.count()
        self._clear()

    def _clear(self) -> None:
        self.outstanding = {}
        self._pools = {None: Pool(self.state)}
        self.open = Lane(self, self._pools[None])
        self.restricted = {}
        self._lanes_of = {}
        self._seen = ()
        self._asked = {}
        self._asked_at = -1
        self.slackened = False
        self._chained = {}
        self._chains = weakref.WeakKeyDictionary()
        self.handles.unsure.clear()

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> Any:
        return set(it)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)} tasks>"

    def __contains__(self, ts: object) -> bool:
        return ts in self._cells

    def __len__(self) -> int:
        return len(self._cells)

    def __iter__(self) -> Iterator[TaskState]:
        return iter(self._cells)

    @property
    def choices(self) -> list[Record]:
        """The last choices, as many as ``distributed.admin.low-level-log-length`` says.

        What a worker goes on with, its own family, is not listed.
        """
        return list(itertools.starmap(Record, self._records))

    def add(self, value: TaskState) -> None:
        """Let a task wait. Nothing happens if it does already."""
        if value in self._cells:
            return
        lane = self.open
        restrictions = restrictions_of(value)
        home = self.handles.home(value, self.restricted)
        if home:
            restrictions = beside(*home)
        if restrictions is not None:
            found = self.restricted.get(restrictions)
            if found is None:
                found = self._open_lane(restrictions)
            lane = found
            if restrictions.beside:
                assert home
                lane.beside = home[1]
        cell: Cell = [value, self.kind_of(value)]
        self._cells[value] = cell, lane
        lane.add(value, cell)

    def discard(self, value: TaskState) -> None:
        """Forget a task at once, wherever it waits. Nothing happens if it does not."""
        if found := self._cells.pop(value, None):
            cell, lane = found
            cell.clear()
            self._asked.pop(value, None)
            lane.count -= 1
            if not self._cells:
                self._clear()
            elif not lane.count and lane is not self.open:
                self._close_lane(lane)

    def _open_lane(self, restrictions: Restrictions) -> Lane:
        pool = self._pool(restrictions)
        lane = self.restricted[restrictions] = Lane(self, pool)
        self._offer(lane)
        return lane

    def _offer(self, lane: Lane) -> None:
        """Let the workers that may run its tasks be asked for a lane."""
        for ws in lane.pool.workers:
            self._lanes_of.setdefault(ws, []).append(lane)

    def _close_lane(self, lane: Lane) -> None:
        assert lane.pool.restrictions
        del self.restricted[lane.pool.restrictions]
        for ws in lane.pool.workers:
            lanes = self._lanes_of[ws]
            lanes.remove(lane)
            if not lanes:
                del self._lanes_of[ws]

    def refuse(
        self, key: Key, worker: str, stimulus_id: str, failure: Mapping[str, Any]
    ) -> Recs:
        """See :meth:`Handles.refuse`. What waits for such an input moves beside it."""
        known = len(self.handles.bound)
        recs = self.handles.refuse(key, worker, stimulus_id, failure)
        if len(self.handles.bound) > known:
            self._move(filter(self.handles.is_bound, list(self._cells)))
        return recs

    def _move(self, tasks: Iterable[TaskState]) -> None:
        """Let tasks wait where they belong by now."""
        for ts in tasks:
            self.discard(ts)
            self.add(ts)

    def _place_again(self, prefix: TaskPrefix) -> bool:
        """Move tasks that were placed before it was known how long such tasks take.

        The first that waits stands for all, as their inputs took as long to make.

        Returns
        -------
        bool
            Whether they belonged elsewhere.
        """
        placed = self.handles.unsure.pop(prefix)
        tasks = [ts for ref in placed if (ts := ref()) in self._cells]
        if not tasks:
            return False
        # How much they bring in is known by now as well
        self.state.is_rootish(tasks[0])
        waits_beside = self._cells[tasks[0]][1].beside is not None
        if waits_beside == (self.handles.home(tasks[0], self.restricted) is not None):
            return False
        self._move(tasks)
        return True

    def sorted(self) -> Iterator[TaskState]:
        """Yield the tasks in the order of their priority."""
        return iter(sorted(self._cells, key=priority_of))

    def peek(self) -> TaskState:
        """Return the most urgent task, without any change. Costs O(tasks).

        Raises
        ------
        KeyError
            If the queue is empty.
        """
        if not self._cells:
            raise KeyError("peek into empty set")
        return min(self._cells, key=priority_of)

    def peekn(self, n: int) -> Iterator[TaskState]:
        """Yield the ``n`` most urgent tasks, without any change."""
        yield from heapq.nsmallest(n, self._cells, key=priority_of)

    def pop(self) -> TaskState:
        """Remove and return the most urgent task."""
        ts = self.peek()
        self.discard(ts)
        return ts

    def pool(self, ts: TaskState) -> Pool:
        """Return the workers that may run a task.

        Parameters
        ----------
        ts
            A task, queued or not.
        """
        self._look()
        return self._pool(restrictions_of(ts))

    def _look(self) -> None:
        """Look at the workers if they may have changed.

        That costs little where there are as many as before. One cannot take the place
        of another, since whenever a worker leaves, :meth:`let_go` is called.
        """
        state = self.state
        seen: tuple[int, ...] = len(state.running), state.total_nthreads
        if len(self._pools) > 1:
            seen += len(state.workers), *map(len, state.resources.values())
        if seen != self._seen:
            self._seen = seen
            for pool in self._pools.values():
                pool.look()
            for outstanding in self.outstanding.values():
                outstanding.look()
            self._lanes_of = {}
            for lane in self.restricted.values():
                self._offer(lane)

    def _pool(self, restrictions: Restrictions | None) -> Pool:
        pool = self._pools.get(restrictions)
        if pool is None:
            pool = self._pools[restrictions] = Pool(self.state, restrictions)
        return pool

    def choose(self) -> Choice | None:
        """Return the task that is to leave the queue now, and the worker that gets it.

        Returns
        -------
        Choice or None
            None if there is no task that a worker with a free thread may run now.
        """
        state = self.state
        idle = state.idle_task_count
        if not (idle and self._cells):
            return None
        self._look()
        choice = self._choose(idle)
        if (
            choice
            and choice.task.prefix in self.handles.unsure
            and choice.task.prefix.duration_average >= 0
            and self._place_again(choice.task.prefix)
        ):
            choice = self._choose(idle)
        if (
            choice is None
            and len(idle) == len(state.running)
            and all(
                len(ws.processing) == len(ws.long_running)
                for ws in state.workers.values()
            )
        ):
            # Nothing is running that could free an output
            self._count_again()
            choice = self._choose(idle)
        return choice

    def _count_again(self) -> None:
        """Forget what was found of outputs that wait to be consumed."""
        self._asked_at = -1
        for outstanding in self.outstanding.values():
            outstanding.count_again()

    def _slots_for(self, outstanding: Outstanding) -> int:
        """Return how many tasks of a kind the workers hold at once."""
        return min(outstanding.slots, self.open.pool.slots)

    def _choose(self, idle: set[WorkerState]) -> Choice | None:
        if not self.restricted:
            choice = self.open.choose(min(idle, key=_load))
            if choice and choice.reason == "first" and is_chain(choice.family.kind()):
                # What is loaded elsewhere would move to the state of its chain
                ws = holder_of_state(choice.task)
                if ws in idle and len(ws.processing) < ws.nthreads:
                    return self.open.choose(ws)
            return choice
        asked = idle if self.open.count else idle & self._lanes_of.keys()
        for ws in sorted(asked, key=_load):
            choices = []
            if self.open.count and (choice := self.open.choose(ws)):
                choices.append(choice)
            for lane in self._lanes_of.get(ws, ()):
                if lane.pool.has_room(ws) and (choice := lane.choose(ws)):
                    choices.append(choice)
            if choices:
                return min(choices, key=lambda choice: priority_of(choice.task))
        return self._choose_helper(idle)

    def _choose_helper(self, idle: set[WorkerState]) -> Choice | None:
        """Return a task that waits beside its inputs, for a worker without them.

        Whoever has them by now, since it has helped before, is asked first.
        """
        ws = min(idle, key=_load)
        best = None
        for lane in self.restricted.values():
            if lane.beside is None:
                continue
            helper = min(lane.served & idle, key=_load, default=None)
            choice = lane.choose(helper) if helper else None
            if choice and _has_inputs(choice):
                return choice
            patience = self.handles.patience(lane.beside, lane.prefix)
            if best is None and lane.count > patience * lane.pool.nthreads:
                best = lane.choose(ws)
        return best

    def take(self, choice: Choice) -> None:
        """Remove a task that was chosen.

        Parameters
        ----------
        choice
            As :meth:`choose` returned it.
        """
        ts, ws, reason, _, lane = choice
        lane.take(choice)
        lane.served.add(ws)
        self.chosen[reason] += 1
        if reason != "own":
            self._records.append((ts.key, ws.address, reason))
        self.discard(ts)

    def note(
        self, ts: TaskState, pool: Pool | None = None, kind: Kind | None = None
    ) -> None:
        """Count the output of a task among those that wait to be consumed.

        Parameters
        ----------
        ts
            A task that was sent to a worker, or is of a family that a worker has begun.
        pool
            The workers that may run it, if that is known.
        kind
            Of the task, if that is known.
        """
        if self.waiting < math.inf and ts.dependents:
            kind = kind or self.kind_of(ts)
            outstanding = self.outstanding.get(kind)
            if outstanding is None:
                outstanding = self.outstanding[kind] = Outstanding()
            outstanding.add(ts, pool or self.pool(ts))

    def kind_of(self, ts: TaskState) -> Kind:
        """Return of which kind a task is.

        As :func:`distributed.rootish.backpressure.kind_of` says, but where consumers
        wait for each other, as in a fold, each such chain has a number of its own, so
        that several go on side by side. Whether they do is asked for one task of a
        kind.

        Parameters
        ----------
        ts
            A task.
        """
        kind = kind_of(ts)
        chained = self._chained.get(kind)
        if chained is None:
            chained = self._chained[kind] = any(chain_steps(ts))
        if not chained:
            return kind
        chains = self._chains
        new = []
        for step in chain_steps(ts):
            if step in chains:
                number = chains[step]
                break
            new.append(step)
        else:
            if not new:
                return kind
            number = next(self.counter)
        chains.update(dict.fromkeys(new, number))
        return kind[0], number

    def is_held(self, ts: TaskState, pool: Pool, kind: Kind) -> bool:
        """Whether a task waits until what was loaded has been consumed.

        Parameters
        ----------
        ts
            A task that is queued.
        pool
            The workers that may run it.
        kind
            Of the task.
        """
        outstanding = self.outstanding.get(kind)
        if outstanding is None or outstanding.has_room():
            return False
        if priority_of(ts) <= outstanding.latest or ts.who_wants or not ts.dependents:
            return False
        # It is asked several times until the next transition
        now = self.state.transition_counter
        if self._asked_at != now:
            self._asked_at = now
            self._asked.clear()
        held = self._asked.get(ts)
        if held is None:
            outstanding.open_to(pool)
            held = self._asked[ts] = self._has_to_wait(ts, pool, outstanding)
        return held

    def _has_to_wait(self, ts: TaskState, pool: Pool, outstanding: Outstanding) -> bool:
        """Whether a task of a kind that has no room is held back."""
        limit = self.waiting * self._slots_for(outstanding)
        if (chains := pool.chains[ts.prefix.name]) > 1:
            # One output is consumed while the next is loaded
            limit = max(limit / (2 * chains), 2)
        output = loads_much(ts)
        if output and len(outstanding.tasks) >= limit:
            before, consumer = find_consumer(ts, output)
            if (
                before
                and consumer
                and would_wait(consumer, before, self.pool(consumer).slots)
                and frees(consumer, before, output)
            ):
                return outstanding.is_full(limit, output)
        if outstanding.consumers is None:
            outstanding.skip(limit)
        return False

    def slacken(self, now: float) -> bool:
        """Let tasks go that were held back while nothing has finished for long.

        Parameters
        ----------
        now
            Time in seconds.

        Returns
        -------
        bool
            Whether any may be let go.
        """
        unknown = parse_timedelta(
            dask.config.get("distributed.scheduler.unknown-task-duration")
        )
        self._look()
        for kind, outstanding in [*self.outstanding.items()]:
            if outstanding.is_over():
                del self.outstanding[kind]
        found = self.outstanding.values()
        for outstanding in found:
            slots = self._slots_for(outstanding)
            outstanding.slacken(now, slots, self.waiting, unknown)
        self.slackened = any(outstanding.slack for outstanding in found)
        # Consumers that were counted may have seceded
        self._count_again()
        return bool(found)

    def let_go(self) -> None:
        """Give back the families of workers that are not running any more."""
        self._seen = ()
        for lane in self.lanes():
            lane.let_go()

    def occupancy(self, ws: WorkerState) -> float:
        """Return how long a worker needs for what waits for it and few others.

        What several workers may run is shared out among them. Tasks that are open to
        all of them make no difference between workers, and do not count.

        Parameters
        ----------
        ws
            The worker.

        Returns
        -------
        float
            In seconds, as in ``WorkerState.occupancy``.
        """
        lanes = itertools.islice(self._lanes_of.get(ws, ()), LOOKED_AT)
        return sum(
            lane.count
            * self.state._get_prefix_duration(lane.prefix)
            / len(lane.pool.workers)
            for lane in lanes
        )

    def stranded(self) -> list[TaskState]:
        """Return the tasks that no worker may run any more."""
        self._look()
        lanes = self.restricted.values()
        closed = {lane for lane in lanes if not lane.pool.workers}
        if not closed:
            return []
        return [ts for ts, (_, lane) in self._cells.items() if lane in closed]

    def lanes(self) -> Iterator[Lane]:
        """Yield the lane of tasks without restrictions, and those of the others."""
        yield self.open
        yield from self.restricted.values()

    def _is_closed(self, pool: Pool) -> bool:
        """Whether tasks would find a thread sooner if they were not restricted."""
        if pool.nthreads >= self.open.pool.nthreads:
            return False
        return not any(map(pool.has_room, pool.workers & self.state.idle_task_count))

    def why_waiting(self) -> dict[TaskGroup, Counter[str]]:
        """Return why the tasks wait, without any change.

        Returns
        -------
        dict
            Group -> how many of its tasks wait for each of :data:`WAITS`. The sum is
            the number of its tasks that are queued.

        Notes
        -----
        Costs O(groups + tasks of families, and those that are held back or restricted).

        Whether a kind is held back is not counted again. It was when a thread was
        free last; as long as none is, that is all that there is to know, and nothing is
        decided otherwise because somebody looks.
        """
        self._look()
        left = {
            tg: queued
            for tg in self.state.task_groups.values()
            if (queued := tg.states["queued"])
        }
        reasons: dict[TaskGroup, Counter[str]] = {tg: Counter() for tg in left}

        def count(reason: str, numbers: Mapping[TaskGroup, int]) -> None:
            for tg, number in numbers.items():
                if number := min(number, left.get(tg, 0)):
                    left[tg] -= number
                    reasons[tg][reason] += number

        holding = {
            kind: outstanding.latest
            for kind, outstanding in self.outstanding.items()
            if outstanding.consumers is not None
        }
        for lane in self.lanes():
            closed = self._is_closed(lane.pool)
            order = "restrictions" if closed else "order"
            for family in lane.families():
                ts = family.head()
                if ts is None:
                    continue
                latest = holding.get(family.kind())
                if latest is not None and _may_wait(ts, latest):
                    reason = "backpressure"
                else:
                    reason = order if family.worker is None else "family"
                count(reason, Counter(ts.group for ts in family.tasks()))
            for line in lane.lines():
                if line.held or closed:
                    count(
                        "backpressure" if line.held else order,
                        Counter(ts.group for ts in line.tasks()),
                    )
        # Most tasks are in none of these; they are not looked at
        for tg, queued in left.items():
            if queued:
                reasons[tg]["order"] += queued
        return reasons


def _may_wait(ts: TaskState, latest: tuple[float, ...]) -> bool:
    """Whether a task is held back if its kind is: neither a result nor a gap."""
    return bool(ts.dependents and not ts.who_wants and priority_of(ts) > latest)


def admit(state: SchedulerState, ts: TaskState) -> bool | None:
    """Queue a task that is ready, if it is root-ish.

    Parameters
    ----------
    state
        The scheduler's state.
    ts
        The task, in the state ``waiting`` or ``no-worker``.

    Returns
    -------
    bool or None
        Whether it is queued. None if the queue is not in force, or not for this task.
    """
    queue: Any = state.queued
    if (
        not isinstance(queue, RootishQueue)
        or not ts._queueable
        or math.isinf(state.WORKER_SATURATION)
    ):
        return None
    if not state.is_rootish(ts):
        return False
    state.unrunnable.pop(ts, None)
    if state.validate:
        state._validate_ready(ts)
    ts.state = "queued"
    queue.add(ts)
    return True


def give_out(
    state: SchedulerState, client_msgs: Msgs, worker_msgs: Msgs, stimulus_id: str
) -> None:
    """Give out tasks as long as there is one that a worker with a free thread may run.

    Then take back what was sent or queued in error: tasks that no worker may run any
    more, and those of which nothing was known when they were sent.

    Parameters
    ----------
    state
        The scheduler's state, all other transitions of which are through.
    client_msgs, worker_msgs
        Address -> messages. More are added.
    stimulus_id
        What has led to this.
    """
    queue: Any = state.queued
    if not isinstance(queue, RootishQueue):
        return
    while state.idle_task_count and (choice := queue.choose()):
        recs, cmsgs, wmsgs = state._transition(
            choice.task.key, "processing", stimulus_id, choice=choice
        )
        for all_msgs, msgs in ((client_msgs, cmsgs), (worker_msgs, wmsgs)):
            for address, more in msgs.items():
                all_msgs.setdefault(address, []).extend(more)
        if recs:
            state._transitions_any(recs, client_msgs, worker_msgs, stimulus_id)
    if queue.restricted or state.rootish_policy.unsure:
        back = [*queue.stranded(), *state.rootish_policy.overdue()]
        if back:
            recs = {ts.key: "waiting" for ts in back}
            state._transitions(recs, client_msgs, worker_msgs, stimulus_id)


def thieves(
    state: SchedulerState, ts: TaskState, idle: set[WorkerState]
) -> set[WorkerState]:
    """Return the workers that may steal a task.

    A worker that has all the tasks which it may have is given the next ones from the
    queue. If it stole instead, what was loaded for one worker would move to another.

    Parameters
    ----------
    state
        The scheduler's state.
    ts
        A task that another worker has.
    idle
        Workers that the base takes for idle. It goes by how long their tasks will
        take: a worker that loads counts as idle beside one that computes.
    """
    if isinstance(state.queued, RootishQueue) and state.queued:
        idle = idle & state.idle_task_count
    bound = bound_to(state, ts)
    return idle if bound is None else idle & bound


def _has_inputs(choice: Choice) -> bool:
    """Whether the worker has all inputs of the task, or is about to."""
    ws = choice.worker
    return all(
        dts in ws.has_what or dts in ws.needs_what for dts in choice.task.dependencies
    )


def _load(ws: WorkerState) -> float:
    return len(ws.processing) / ws.nthreads


def _read_waiting() -> float:
    """Return the setting ``distributed.scheduler.rootish-waiting``."""
    value = dask.config.get("distributed.scheduler.rootish-waiting")
    try:
        # As YAML has it, where it comes from the environment
        waiting = math.inf if value == ".inf" else float(value)
        if isinstance(value, bool) or not waiting > 0:
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(
            "`distributed.scheduler.rootish-waiting` must be a number above 0, or "
            f".inf to hold nothing back for its consumers; got {value!r}"
        ) from None
    return waiting


def make_queue(state: SchedulerState) -> HeapSet[TaskState]:
    """Make the queue that the settings ask for.

    Parameters
    ----------
    state
        The scheduler's state, after its policy was made.

    Returns
    -------
    HeapSet or RootishQueue
        The base's own queue if ``distributed.scheduler.rootish-co-assignment`` is
        false, or the policy stands for a release.

    Raises
    ------
    ValueError
        If a setting has a value that it cannot have.
    """
    wanted = dask.config.get("distributed.scheduler.rootish-co-assignment")
    if not isinstance(wanted, bool):
        raise ValueError(
            "`distributed.scheduler.rootish-co-assignment` must be true or false; "
            f"got {wanted!r}"
        )
    queue = RootishQueue(state)
    if wanted and state.rootish_policy.co_assigns:
        # It has what the base uses of its own
        return queue  # type: ignore[return-value]
    return state.queued
