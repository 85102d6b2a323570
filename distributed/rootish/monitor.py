"""What the scheduler has decided of task groups so far, and what that does to memory.

The verdicts are kept with the groups by the policy (see :mod:`distributed.rootish`), so
that looking at them costs nothing as long as nobody looks, and nothing is kept for
groups that the scheduler has forgotten. On top of them are

- the state of all groups, for :meth:`distributed.Client.rootish`, the dashboard and
  Prometheus;
- a line in the scheduler's log when something loads more than the cluster can hold,
  because it is not held back.

Bytes in memory are the number of tasks in memory times the mean output of their group.
To add up the tasks would cost as much as there are tasks.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask
from dask.utils import format_bytes, parse_timedelta
from tornado.ioloop import PeriodicCallback

from distributed.metrics import monotonic
from distributed.rootish.policy import (
    DATA_PRICE,
    DEAR,
    EDGE,
    FEW,
    NOT_COUNTED,
    RESTRICTED,
    THROTTLED,
    Verdict,
    mean_output,
)
from distributed.rootish.queue import WAITS, RootishQueue
from distributed.rootish.tables import html_table, text_table

if TYPE_CHECKING:
    # Circular dependencies
    from distributed.scheduler import Scheduler, SchedulerState, TaskGroup

logger = logging.getLogger(__name__)

#: What is loaded at once where loading is held back, for each slot: the chunk that is
#: being loaded and the one that is being consumed.
CHUNKS_PER_SLOT = 2

#: What is not counted among the chunks: an output that is smaller than this part of the
#: largest.
SMALL = 0.01

#: How often groups are looked at for a warning, in seconds
CHECK_INTERVAL = 1

#: How often is looked whether what is held back waits for nothing, in seconds
SLACKEN_INTERVAL = 0.2

#: What helps where a group that brings in data is not held back
HINTS: Mapping[Verdict, str] = {
    RESTRICTED: "Submit it together with what consumes it, so that the scheduler knows "
    "from the start that its output is needed.",
    FEW: "Holding back so few tasks changes nothing: load smaller chunks.",
    DEAR: "Let it depend on paths or opened files rather than on data, or scatter what "
    "all of it needs with `broadcast=True`.",
    EDGE: "Load in tasks that do not depend on parts of large data.",
    THROTTLED: "Open and load in one task.",
    NOT_COUNTED: "Set `distributed.scheduler.rootish-policy` to `producers`, or raise "
    "`distributed.scheduler.rootish-taskgroup` and `rootish-taskgroup-dependencies` "
    "above the number of its dependencies.",
}

#: What tasks wait for, by the reason: of one and of several
_WAITS_FOR: Mapping[str, tuple[str, str]] = {
    "order": ("a thread", "a thread"),
    "family": (
        "the worker that has begun its family",
        "the workers that have begun their families",
    ),
    "backpressure": ("consumers of what is loaded", "consumers of what is loaded"),
    "restrictions": ("the workers that may run it", "the workers that may run them"),
}

NO_QUEUE_HINT = (
    "Nothing is queued: set `distributed.scheduler.worker-saturation` to 1.1."
)


def count_slots(state: SchedulerState) -> int | None:
    """Return how many root-ish tasks the workers are given at once.

    Parameters
    ----------
    state
        Knows the workers and ``distributed.scheduler.worker-saturation``.

    Returns
    -------
    int or None
        None if the settings turn queuing off.
    """
    # Circular dependencies
    from distributed.scheduler import _task_slots_available

    saturation = state.WORKER_SATURATION
    if math.isinf(saturation):
        return None
    return sum(
        _task_slots_available(ws, saturation)
        + len(ws.processing)
        - len(ws.long_running)
        for ws in state.running
    )


def chunks_let_through(slots: int | None, nthreads: int) -> int:
    """Return how many chunks would be in memory at once if all loading were held back.

    Parameters
    ----------
    slots
        Root-ish tasks that the workers are given at once, None if there is no queue.
    nthreads
        Number of threads of all workers; without a queue, one counts as a slot.
    """
    return CHUNKS_PER_SLOT * (nthreads if slots is None else slots)


@dataclass(frozen=True)
class GroupStatus:
    """What the scheduler has decided of a task group, and how far it is.

    Attributes
    ----------
    name
        Name of the group, a common part of its keys.
    prefix
        Name of its prefix: without the hash.
    tasks
        Number of its tasks, with those that were forgotten.
    states
        State -> number of its tasks that are in it.
    waits
        Why its queued tasks wait -> number of them: ``order`` if others are more urgent
        and all threads are taken; ``family`` if a worker has begun their family, which
        will go on with it; ``backpressure`` if enough of what was loaded waits for its
        consumers, which run or are about to; ``restrictions`` if the workers that may
        run them have no thread free. The sum is the number of those that are queued.
    rootish
        Whether it is root-ish, by the last decision; None as long as there is none.
    reason
        Name of the reason.
    explanation
        The reason as a sentence.
    decisions
        Name of a reason -> number of decisions for it.
    output
        Mean output of a task in bytes, None as long as none has finished.
    nbytes
        Estimate of its output that is in memory, in bytes.
    allowed
        Bytes of it that may be in memory at once where what is loaded is consumed: two
        chunks for each slot. None if it is not held back, or its output not known.
    brings_data
        Whether its tasks bring data into the cluster, as far as is known.
    """

    name: str
    prefix: str
    tasks: int
    states: Mapping[str, int]
    waits: Mapping[str, int]
    rootish: bool | None
    reason: str | None
    explanation: str | None
    decisions: Mapping[str, int]
    output: float | None
    nbytes: float
    allowed: float | None
    brings_data: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the same in plain types, as for JSON."""
        return {
            **vars(self),
            "states": dict(self.states),
            "waits": dict(self.waits),
            "decisions": dict(self.decisions),
        }


@dataclass(frozen=True)
class RootishStatus:
    """What the scheduler has decided of its task groups.

    Attributes
    ----------
    policy
        Value of ``distributed.scheduler.rootish-policy``.
    nthreads
        Number of threads of all workers.
    slots
        Root-ish tasks that the workers are given at once, None if the settings turn
        queuing off.
    queued
        Number of tasks that are held back.
    groups
        One for each group that the scheduler knows, the oldest first.
    """

    policy: str
    nthreads: int
    slots: int | None
    queued: int
    groups: Sequence[GroupStatus]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RootishStatus:
        """Make it of what :meth:`to_dict` has returned.

        Parameters
        ----------
        data
            Plain types.
        """
        groups = tuple(GroupStatus(**group) for group in data["groups"])
        return cls(**{**data, "groups": groups})

    def overproducing(self) -> list[GroupStatus]:
        """Return the groups that bring in data and are not held back, if too many.

        Too many are more tasks than would be let through if they were held back.
        """
        groups = [
            group
            for group in self.groups
            if group.brings_data and not (group.rootish and self.slots is not None)
        ]
        bound = chunks_let_through(self.slots, self.nthreads)
        return groups if sum(group.tasks for group in groups) > bound else []

    def waits(self) -> Counter[str]:
        """Return why tasks wait -> how many; see :class:`GroupStatus`."""
        waits: Counter[str] = Counter()
        for group in self.groups:
            waits.update(group.waits)
        return waits

    def to_dict(self) -> dict[str, Any]:
        """Return the same in plain types, as for JSON."""
        groups = [group.to_dict() for group in self.groups]
        return {**vars(self), "groups": groups}

    def __str__(self) -> str:
        head, rows = self._table()
        return "\n".join([*self._summary(), "", text_table(head, rows, _NUMBERS)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(self._summary(), *self._table())

    def _summary(self) -> list[str]:
        slots = "no queue" if self.slots is None else f"{self.slots} slots"
        rootish = sum(bool(group.rootish) for group in self.groups)
        summary = [
            f"{len(self.groups)} groups, {rootish} of them root-ish, under the policy "
            f"{self.policy}; {slots}, {self.queued} tasks queued"
        ]
        if sentence := waits_for(self.waits()):
            summary.append(sentence)
        return summary

    def _table(self) -> tuple[Sequence[str], list[Sequence[str]]]:
        """Return the titles and the rows; what tasks wait for only if some do."""
        waits = any(group.waits for group in self.groups)
        head = (*_HEAD[:-1], "waits for", *_HEAD[-1:]) if waits else _HEAD
        return head, [_row(group, waits) for group in self.groups]


def waits_for(waiting: Mapping[str, int]) -> str:
    """Tell in a sentence what tasks wait for, most of them first.

    Parameters
    ----------
    waiting
        Why tasks wait -> number of them.

    Returns
    -------
    str
        Empty if none does.
    """
    parts = [
        f"{number:,d} for {_WAITS_FOR[reason][number > 1]}"
        for reason, number in Counter(waiting).most_common()
        if number
    ]
    if not parts:
        return ""
    number, _, rest = parts[0].partition(" ")
    tasks = "task waits" if number == "1" else "tasks wait"
    return ", ".join([f"{number} {tasks} {rest}", *parts[1:]])


def count_waiting(waiting: Mapping[str, int]) -> str:
    """Tell in a few words why tasks wait: ``12 order, 3 backpressure``.

    Parameters
    ----------
    waiting
        Why tasks wait -> number of them.
    """
    return ", ".join(
        f"{number:,d} {reason}" for reason in WAITS if (number := waiting.get(reason))
    )


_STATES = ("waiting", "queued", "processing", "memory")
_HEAD = ("group", "tasks", *_STATES, "in memory", "allowed", "root-ish", "reason")
#: Columns that are numbers
_NUMBERS = frozenset(range(1, 8))


def _row(group: GroupStatus, waits: bool) -> tuple[str, ...]:
    """Return the cells of a group; with what its tasks wait for, or without."""
    rootish = "?" if group.rootish is None else "yes" if group.rootish else "no"
    return (
        group.name,
        str(group.tasks),
        *(str(group.states.get(state, 0)) for state in _STATES),
        "?" if group.output is None else format_bytes(round(group.nbytes)),
        "" if group.allowed is None else format_bytes(round(group.allowed)),
        rootish,
        *([count_waiting(group.waits)] if waits else ()),
        group.explanation or "Not decided yet.",
    )


class RootishMonitor:
    """Extension of the scheduler: see what the policy has decided, and warn.

    Parameters
    ----------
    scheduler
        Gets a handler ``rootish`` that returns :meth:`status` in plain types, and,
        unless ``distributed.scheduler.rootish-warning-interval`` is null, a periodic
        callback.

    Raises
    ------
    ValueError
        If that setting is no time.
    """

    def __init__(self, scheduler: Scheduler):
        self.scheduler = scheduler
        self._warned_at = -math.inf
        scheduler.handlers["rootish"] = self._get_status
        scheduler.periodic_callbacks["rootish-backpressure"] = PeriodicCallback(
            self.slacken, SLACKEN_INTERVAL * 1000
        )
        setting = "distributed.scheduler.rootish-warning-interval"
        interval = dask.config.get(setting)
        if interval is None:
            return
        try:
            self._warning_interval = parse_timedelta(interval)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ValueError(
                f"`{setting}` must be a time such as 60s, or null; got {interval!r}"
            ) from None
        scheduler.periodic_callbacks["rootish"] = PeriodicCallback(
            self.check, CHECK_INTERVAL * 1000
        )

    def status(self) -> RootishStatus:
        """Return what is decided of all groups that the scheduler knows."""
        state = self.scheduler
        slots = count_slots(state)
        groups = list(state.task_groups.values())
        loaders = {
            tg: output
            for tg in groups
            if (output := mean_output(tg)) is not None and brings_data(tg, output)
        }
        waits = why_waiting(state)
        # What is small beside the chunks is a handle
        least = SMALL * max(loaders.values(), default=0)
        return RootishStatus(
            policy=state.rootish_policy.name,
            nthreads=state.total_nthreads,
            slots=slots,
            queued=len(state.queued),
            groups=tuple(
                group_status(tg, slots, loaders.get(tg, -1) >= least, waits.get(tg, {}))
                for tg in groups
            ),
        )

    async def _get_status(self) -> dict[str, Any]:
        """Answer a client."""
        return self.status().to_dict()

    def count_groups(self) -> Counter[Verdict]:
        """Return for how many groups a verdict is the last one."""
        return Counter(
            verdict
            for tg in self.scheduler.task_groups.values()
            if (verdict := tg.rootish_facts.verdict)
        )

    def count_waiting(self) -> Counter[str]:
        """Return how many tasks wait for which reason, those of no tasks as well."""
        waiting = Counter(dict.fromkeys(WAITS, 0))
        for numbers in why_waiting(self.scheduler).values():
            waiting.update(numbers)
        return waiting

    def slacken(self) -> None:
        """Let tasks go that wait for consumers which do not finish."""
        queue = self.scheduler.queued
        if isinstance(queue, RootishQueue) and queue.slacken(monotonic()):
            self.scheduler.stimulus_queue_slots_maybe_opened(
                stimulus_id=f"rootish-backpressure-{monotonic()}"
            )

    def check(self) -> None:
        """Log a warning if something loads more than the cluster can hold.

        That is where tasks that workers were given, and that have finished, make up for
        more than the memory of all workers, bring in data, and are not held back; and
        where more of it is in memory already than if they were. Counted is what goes by
        one name, since loaders can have a group for each file. Only the largest is
        named, and only if the last warning is long enough ago.
        """
        state = self.scheduler
        limits = [ws.memory_limit for ws in state.workers.values()]
        # 0 means that a worker has no limit
        if not all(limits) or not limits:
            return
        if monotonic() < self._warned_at + self._warning_interval:
            return
        bound = chunks_let_through(count_slots(state), state.total_nthreads)
        sent: Counter[str] = Counter()
        waiting: Counter[str] = Counter()
        examples: dict[str, TaskGroup] = {}
        for tg, output in self._loading():
            name = tg.prefix.name
            in_memory = tg.states["memory"]
            sent[name] += round(output * (tg.states["processing"] + in_memory))
            # In chunks; while they are consumed as they are loaded, all is well
            waiting[name] += in_memory
            examples[name] = tg
        limit = sum(limits)
        for name, nbytes in sent.most_common():
            if nbytes <= limit:
                return
            if waiting[name] > bound:
                self._warned_at = monotonic()
                logger.warning(self._warning(examples[name], nbytes, limit))
                return

    def _loading(self) -> Iterator[tuple[TaskGroup, float]]:
        """Yield groups that load and are not held back, with their mean output."""
        no_queue = math.isinf(self.scheduler.WORKER_SATURATION)
        for tg in self.scheduler.task_groups.values():
            # Of one name, those that have finished count with those that run
            if not tg.prefix.states["processing"]:
                continue
            verdict = tg.rootish_facts.verdict
            if verdict is None or (verdict.rootish and not no_queue):
                continue
            output = mean_output(tg) or mean_output(tg.prefix)
            if output is not None and brings_data(tg, output):
                yield tg, output

    def _warning(self, tg: TaskGroup, nbytes: int, limit: int) -> str:
        """Put a warning into words."""
        verdict = tg.rootish_facts.verdict
        assert verdict is not None
        hint = NO_QUEUE_HINT if verdict.rootish else HINTS[verdict]
        return (
            f"Tasks of {tg.prefix.name!r} are about to load {format_bytes(nbytes)} "
            f"into a cluster with {format_bytes(limit)} of memory, since their group "
            f"{tg.name!r} is not held back. Reason ({verdict.reason}): "
            f"{verdict.explanation} {hint} (Set "
            "`distributed.scheduler.rootish-warning-interval` to null to turn this "
            "warning off.)"
        )


def brings_data(tg: TaskGroup, output: float) -> bool:
    """Whether tasks of a group bring data into the cluster.

    Parameters
    ----------
    tg
        The group.
    output
        Mean output of its tasks in bytes.
    """
    verdict = tg.rootish_facts.verdict
    if verdict is None or not (verdict.rootish or verdict in HINTS):
        return False
    inputs = sum(other.nbytes_total for other in tg.dependencies if other is not tg)
    return inputs <= DATA_PRICE * output * len(tg)


def why_waiting(state: SchedulerState) -> Mapping[TaskGroup, Mapping[str, int]]:
    """Return why queued tasks wait.

    Parameters
    ----------
    state
        The scheduler's state.

    Returns
    -------
    Mapping
        Group -> reason -> number of tasks; see :class:`GroupStatus`. The queue of the
        base knows nothing but the order.
    """
    queue = state.queued
    if isinstance(queue, RootishQueue):
        return queue.why_waiting()
    return {
        tg: {"order": queued}
        for tg in state.task_groups.values()
        if (queued := tg.states["queued"])
    }


def group_status(
    tg: TaskGroup, slots: int | None, loads: bool, waits: Mapping[str, int]
) -> GroupStatus:
    """Return what is decided of a group, and how far it is.

    Parameters
    ----------
    tg
        The group.
    slots
        Root-ish tasks that the workers are given at once, None if there is no queue.
    loads
        Whether it brings data into the cluster.
    waits
        Why its queued tasks wait -> how many.
    """
    facts = tg.rootish_facts
    verdict = facts.verdict
    output = mean_output(tg)
    allowed = None
    if verdict and verdict.rootish and slots is not None and output is not None:
        allowed = CHUNKS_PER_SLOT * slots * output
    return GroupStatus(
        name=tg.name,
        prefix=tg.prefix.name,
        tasks=len(tg),
        states={state: number for state, number in tg.states.items()},
        waits=dict(waits),
        rootish=verdict.rootish if verdict else None,
        reason=verdict.reason if verdict else None,
        explanation=verdict.explanation if verdict else None,
        decisions={each.reason: count for each, count in facts.decisions.items()},
        output=output,
        nbytes=(output or 0) * tg.states["memory"],
        allowed=allowed,
        brings_data=loads,
    )


async def ask_scheduler(scheduler: Any) -> RootishStatus:
    """Ask a scheduler what it has decided; see :meth:`distributed.Client.rootish`.

    Parameters
    ----------
    scheduler
        The client's connection to it.

    Raises
    ------
    RuntimeError
        If it keeps no verdicts.
    """
    # Of a handler that it does not have, a scheduler returns nothing
    status = await scheduler.rootish()
    if status is None:
        raise RuntimeError(
            f"the scheduler at {scheduler.address} keeps no verdicts; start it with a "
            "`distributed` whose version ends in `+rootish`"
        )
    return RootishStatus.from_dict(status)
