"""Backpressure: what was loaded is consumed before more of it is loaded.

The order of the queue bounds memory where consumers keep pace. Where they are few, or
come one after the other, or belong to a small pool of workers, what is loaded waits for
them. Loads of one kind may have so many outputs that wait, for each slot: tasks of one
prefix for consumers of one prefix; those for a chain of consumers, such as a fold, are
a kind of their own. Beyond that, the next task of the kind is held back as long as

- so many of its outputs have a consumer that is running, or will be when others have
  ended that are no loads: whatever it still waits for is running, or waits for nothing
  but what is;
- the consumer of the next task would have to wait, too, and not for loads alone; and
- the next task is later than all that are out, and of no family that was begun: gaps
  are filled.

No computation can stop for that. As long as a task is held back, a task that is no load
of its kind is running, and a consumer waits for that, and for gaps that are filled
meanwhile. (Gaps may be of another kind. But for the kind whose last task out is the
most urgent, they are gaps of the other kind as well, and not held back.) When it has
ended, either the consumer runs and frees an output, or another task is running that it
waits for, and so on: there is an end of these. Outputs that have to be held anyway,
since their consumer waits for what is not even given out, do not count: anomalies,
persisted data and rechunks are not slowed down. Only a task that runs and does not end
before one does that is held back, because it waits for an event which that would set,
could stop it; therefore holding back slackens when no consumer has finished for as long
as a slot usually needs for what may wait for it.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from distributed.rootish.families import count_alike, priority_of, renamed
from distributed.rootish.policy import (
    HANDLE_BYTES,
    LOOKED_AT,
    SMALL_PART,
    expected_output,
    mean_output,
)

if TYPE_CHECKING:
    # Circular dependencies
    from distributed.rootish.lanes import Pool
    from distributed.scheduler import TaskGroup, TaskState, WorkerState

#: Name of the prefix of loads, and of that of their consumers; or, of a chain of
#: consumers, its number.
Kind = tuple[str, str | int]


class Outstanding:
    """Loads of one kind whose outputs are in memory, or will be.

    They have left the queue, or are of a family that a worker has begun.

    Attributes
    ----------
    tasks
        Weak references to them, in the order in which they were given out.
    consumers
        The group of the consumers, None as long as nothing is held back.
    latest
        Priority of the least urgent of the tasks.
    pools
        The workers that may run them: one pool for each restriction.
    slots
        Root-ish tasks that those hold at once.
    slack
        How many tasks more may be out, because nothing has finished for long.
    """

    __slots__ = (
        "_added",
        "_again",
        "_room",
        "_since",
        "_wait",
        "consumers",
        "latest",
        "pools",
        "slack",
        "slots",
        "tasks",
    )

    tasks: deque[weakref.ref[TaskState]]
    consumers: TaskGroup | None
    latest: tuple[float, ...]
    pools: set[Pool]
    slots: int
    slack: int
    #: How many tasks were ever added
    _added: int
    #: How many of them there are when it is asked again whether the next is held back
    _room: int
    #: How many consumers have finished when all are counted again
    _again: int
    #: How many consumers had finished, and when that was noticed, in seconds
    _since: tuple[tuple[TaskGroup, int], float] | None
    #: How long after that holding back slackens, in seconds
    _wait: float

    def __init__(self) -> None:
        self.tasks = deque()
        self.consumers = None
        self.latest = ()
        self.pools = set()
        self.slots = 0
        self.slack = 0
        self._added = 0
        self._again = self._room = 0
        self._since = None
        self._wait = 0.0

    def add(self, ts: TaskState, pool: Pool) -> None:
        """Count the output of a task.

        Parameters
        ----------
        ts
            The task.
        pool
            The workers that may run it.
        """
        self.open_to(pool)
        self.tasks.append(weakref.ref(ts))
        self._added += 1
        self.latest = max(self.latest, priority_of(ts))

    def open_to(self, pool: Pool) -> None:
        """Count the workers of a pool among those that may run the tasks.

        Parameters
        ----------
        pool
            The workers.
        """
        if pool not in self.pools:
            self.pools.add(pool)
            self.look()

    def look(self) -> None:
        """Look at the workers, which have changed."""
        self.slots = sum(pool.slots for pool in self.pools)

    def has_room(self) -> bool:
        """Whether so few wait, by the last count, that the next need not be held."""
        return self._added < self._room

    def skip(self, limit: float) -> None:
        """Do without a count until there may be enough for the next to be held back.

        Parameters
        ----------
        limit
            How many outputs may wait.
        """
        tasks = self.tasks
        while len(tasks) > limit + LOOKED_AT:
            tasks.popleft()
        more = max(limit - len(tasks), SMALL_PART * limit)
        self._room = self._added + math.ceil(more)

    def is_full(self, limit: float, output: float) -> bool:
        """Whether more outputs wait for a consumer, which is about to run, than may.

        Parameters
        ----------
        limit
            How many may.
        output
            Mean output of the tasks, in bytes.

        Notes
        -----
        All are counted when it may have changed by a part of the bound. Of those that
        do not wait for a consumer, the last are kept in mind: some may soon. Data that
        must be held anyway is not looked at over and over.
        """
        limit += self.slack
        if self.consumers is not None:
            if finished(self.consumers) < self._again:
                return True
        elif self.has_room():
            return False
        about_to_run: set[TaskState] = set()
        still: list[tuple[weakref.ref[TaskState], TaskState | None]] = []
        prefix = None
        latest: tuple[float, ...] = ()
        # Consumer -> what it will consume
        users: dict[TaskState, list[TaskState]] = {}
        seen = set()
        for ref in self.tasks:
            ts = ref()
            if ts is None or ts in seen:
                continue
            seen.add(ts)
            before, user = find_consumer(ts, output)
            if before is None:
                continue
            still.append((ref, user))
            latest = max(latest, priority_of(ts))
            prefix = ts.prefix
            if user is not None:
                users.setdefault(user, []).append(before)

        def gap(ts: TaskState) -> bool:
            """Whether a task loads the same, and is not held back."""
            return priority_of(ts) <= latest and ts.prefix is prefix

        consumers = {
            user: inputs
            for user, inputs in users.items()
            if is_about_to_run(user, about_to_run, gap)
        }
        waiting = sum(map(len, consumers.values()))
        others = len(still) - waiting - math.ceil(limit) - LOOKED_AT
        self.tasks = deque()
        for ref, user in still:
            if others > 0 and user not in consumers:
                others -= 1
            else:
                self.tasks.append(ref)
        self.latest = latest
        step = SMALL_PART * limit
        # Where no worker is left that may run them, none may wait
        if waiting < limit or not consumers:
            self.consumers = None
            self._room = self._added + math.ceil(max(limit - waiting, step))
            return False
        consumer, inputs = next(iter(consumers.items()))
        excess = max(waiting - limit + 1, step if waiting > limit + step else 1)
        self.consumers = consumer.group
        self._again = finished(consumer.group) + math.ceil(excess / len(inputs))
        return True

    def count_again(self) -> None:
        """Forget what is known, and count all when asked the next time."""
        self.consumers = None
        self._room = 0

    def is_over(self) -> bool:
        """Whether nothing of what was loaded is in memory, or will be."""
        tasks = (ref() for ref in self.tasks)
        there = ("queued", "processing", "memory")
        return not any(ts and ts.state in there for ts in tasks)

    def slacken(self, now: float, slots: int, waiting: float, unknown: float) -> None:
        """Let more tasks go if no consumer has finished for long.

        Parameters
        ----------
        now
            Time in seconds.
        slots
            How many tasks are let go at first; twice as many after each time.
        waiting
            How many outputs may wait for each slot: by the time that so many consumers
            take, one has finished.
        unknown
            How long a consumer takes if nothing is known of it, in seconds.
        """
        if self.consumers is None:
            return
        done = self.consumers, finished(self.consumers)
        if self._since is None or self._since[0] != done:
            usual = self.consumers.prefix.duration_average
            self._since = done, now
            self._wait = waiting * usual if usual > 0 else unknown
            self.slack = 0
        elif now - self._since[1] >= self._wait:
            self._since = done, now
            self._wait *= 2
            self.slack += max(slots, self.slack)


def finished(tg: TaskGroup) -> int:
    """Return how many tasks of a group are done with.

    Parameters
    ----------
    tg
        The group.
    """
    states = tg.states
    return states["memory"] + states["released"] + states["forgotten"] + states["erred"]


def find_consumer(
    ts: TaskState, output: float
) -> tuple[TaskState | None, TaskState | None]:
    """Find out who holds what a task has loaded, and who will consume it.

    Parameters
    ----------
    ts
        A task.
    output
        What it loads, in bytes.

    Returns
    -------
    before: TaskState or None
        The task itself, or the last that has renamed or converted what it loaded. None
        if nobody holds that, or is about to.
    consumer: TaskState or None
        The last that will need it. None if there is none, or if the output was cut up
        and lives on in pieces. It may merge rather than consume; see :func:`frees`.
    """
    held = False
    for _ in range(LOOKED_AT):
        held = held or ts.state in ("memory", "processing", "queued")
        dependents = ts.dependents
        if not dependents or len(dependents) > LOOKED_AT or ts.who_wants:
            break
        made = 0.0
        user = None
        for dts in dependents:
            if len(dts.dependencies) == 1:
                made += mean_output(dts.group) or 0
            if dts.state in ("waiting", "processing") and (
                user is None or priority_of(dts) > priority_of(user)
            ):
                user = dts
        if made < SMALL_PART * output:
            return ts if held else None, user
        if len(dependents) > 1:
            break
        [ts] = dependents
    return ts if held else None, None


def kind_of(ts: TaskState) -> Kind:
    """Return of which kind a task is: what it loads, and for whom.

    Parameters
    ----------
    ts
        A task.

    Returns
    -------
    tuple of str
        Names of its prefix, and of that of the last task that needs its output, which
        is empty if there are none, or too many to look at.
    """
    dependents = ts.dependents
    name = ""
    if len(dependents) == 1:
        [dts] = dependents
        name = dts.group.prefix.name
    elif dependents and len(dependents) <= LOOKED_AT:
        name = max(dependents, key=priority_of).group.prefix.name
    return ts.group.prefix.name, name


def is_chain(kind: Kind) -> bool:
    """Whether tasks of a kind are for a chain of consumers.

    Parameters
    ----------
    kind
        The kind.
    """
    return not isinstance(kind[1], str)


def chain_steps(ts: TaskState) -> Iterator[TaskState]:
    """Yield the step of a chain that consumes the output of a task, and those before.

    In a chain, such as a fold, each step is of the same prefix, and waits for the one
    before and for a load of its own.

    Parameters
    ----------
    ts
        A task. If several need its output, it is for no chain.
    """
    load = renamed(ts)
    if len(load.dependents) != 1:
        return
    step: TaskState | None
    [step] = load.dependents
    prefix, group = step.prefix, load.group

    def find_step(tasks: Iterable[TaskState]) -> TaskState | None:
        for ts in itertools.islice(tasks, LOOKED_AT):
            if ts.prefix is prefix and count_alike(ts.dependencies, group):
                return ts
        return None

    if find_step(step.dependencies) or find_step(step.dependents):
        while step:
            yield step
            step = find_step(step.dependencies)


def holder_of_state(ts: TaskState) -> WorkerState | None:
    """Return the worker that has, or makes, the state of the chain a task loads for.

    Parameters
    ----------
    ts
        A task that is queued.

    Returns
    -------
    WorkerState or None
        None if there is no such state yet, or it is small beside what is loaded: then
        the next step runs where that is.
    """
    for step in itertools.islice(chain_steps(ts), LOOKED_AT):
        ws = step.processing_on or next(iter(step.who_has or ()), None)
        if ws:
            state = mean_output(step.group) or 0
            return ws if state > SMALL_PART * (expected_output(ts) or 0) else None
    return None


def frees(user: TaskState, before: TaskState, output: float) -> bool:
    """Whether a consumer makes less than it needs.

    The step of a chain, such as a running sum, makes anew what the step before has
    made, and frees that: neither counts. As long as it is not known what a consumer
    makes, one that takes many outputs of one group is believed to merge them.

    Parameters
    ----------
    user
        The consumer.
    before
        One of its inputs.
    output
        What is loaded, in bytes.
    """
    inputs = user.dependencies
    made = expected_output(user)
    if made is None:
        return count_alike(inputs, before.group) < 2
    nbytes = 0.0
    some = list(itertools.islice(inputs, LOOKED_AT))
    for dts in some:
        needs = mean_output(dts.group) or output
        if dts.prefix is user.prefix:
            made -= needs
        else:
            nbytes += needs
    return made < SMALL_PART * nbytes * len(inputs) / len(some)


def is_about_to_run(
    ts: TaskState, known: set[TaskState], gap: Callable[[TaskState], bool]
) -> bool:
    """Whether a consumer runs, or will when others have ended that are not loads.

    Parameters
    ----------
    ts
        The consumer.
    known
        Tasks of which that is known. More are added.
    gap
        Whether a task that is queued or running is one of the loads, and not held back.
    """
    if ts.state == "processing":
        return not _has_seceded(ts)
    seen = {ts}
    todo = [ts]
    behind_others = False
    while todo:
        for dts in todo.pop().waiting_on or ():
            if dts in known:
                behind_others = True
                continue
            if dts in seen:
                continue
            if len(seen) > LOOKED_AT:
                return False
            if dts.state == "waiting":
                todo.append(dts)
            elif dts.state == "processing":
                if _has_seceded(dts):
                    return False
                if not gap(dts):
                    behind_others = True
            elif dts.state != "queued" or not gap(dts):
                return False
            seen.add(dts)
    if behind_others:
        known.update(dts for dts in seen if dts.state == "waiting")
    return behind_others


def _has_seceded(ts: TaskState) -> bool:
    """Whether a task in the state ``processing`` waits for others."""
    return ts.processing_on is not None and ts in ts.processing_on.long_running


def would_wait(consumer: TaskState, before: TaskState, slots: int) -> bool:
    """Whether a consumer could not run at once if its inputs were loaded.

    Parameters
    ----------
    consumer
        The task.
    before
        One of its inputs; see :func:`find_consumer`.
    slots
        How many of its kind the workers that may run it can take.
    """
    waits_for = itertools.islice(consumer.waiting_on or (), LOOKED_AT)
    return (
        any(dts.prefix is not before.prefix for dts in waits_for)
        or consumer.group.states["processing"] >= slots
    )


def loads_much(ts: TaskState) -> float:
    """Return the output of a task if it matters for memory, else 0.

    Parameters
    ----------
    ts
        A task that is queued.

    Returns
    -------
    float
        Mean output in bytes. Handles, paths and tables of assets do not matter, and
        nothing does as long as nothing is known.
    """
    output = expected_output(ts) or 0.0
    return output if output > HANDLE_BYTES else 0.0
