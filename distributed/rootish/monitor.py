"""What the scheduler has decided of task groups so far, and what that does to memory.

The verdicts are kept with the groups by the policy (see :mod:`distributed.rootish`), so
that looking at them costs nothing as long as nobody looks. On top of them are

- the state of all groups, for :meth:`distributed.Client.rootish`, the dashboard and
  Prometheus;
- what became of the last computations, after their groups are forgotten; see
  :mod:`distributed.rootish.history`;
- a line in the scheduler's log at its start;
- a line in the scheduler's log when something loads more than the cluster can hold,
  because it is not held back.

Bytes in memory are the number of tasks in memory times the mean output of their group.
To add up the tasks would cost as much as there are tasks.
"""

from __future__ import annotations

import html
import logging
import math
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import dask
from dask.utils import format_bytes, parse_timedelta
from tornado.ioloop import PeriodicCallback

import distributed
from distributed.comm.addressing import get_address_host
from distributed.metrics import monotonic
from distributed.rootish.history import (
    ComputationStatus,
    History,
    PastGroups,
    known_fields,
)
from distributed.rootish.loading import (
    CHUNKS_PER_SLOT,
    brings_data,
    chunks_let_through,
    count_slots,
    find_loaders,
    let_loose,
)
from distributed.rootish.policy import Verdict, mean_output
from distributed.rootish.queue import WAITS, RootishQueue
from distributed.rootish.tables import (
    IN_A_SENTENCE,
    NO_QUEUE,
    Column,
    Row,
    Table,
    advice_on,
    fold,
    plain_name,
    shorten,
    size,
    yes_or_no,
)
from distributed.utils import format_dashboard_link

if TYPE_CHECKING:
    # Circular dependencies
    from distributed.scheduler import Scheduler, SchedulerState, TaskGroup

logger = logging.getLogger(__name__)
#: For what is no warning: those who count warnings listen to the other
_log = logging.getLogger("distributed.rootish")

#: How often groups are looked at for a warning, in seconds
CHECK_INTERVAL = 1

#: How often is looked whether what is held back waits for nothing, in seconds
SLACKEN_INTERVAL = 0.2

#: How often the memory of the workers is looked at, in seconds
LOOK_INTERVAL = 0.1

#: Past computations that are shown until they are unfolded
PAST = 5

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
    computations
        What became of the last computations, the newest first; as many as
        ``distributed.scheduler.rootish-history`` says.
    """

    policy: str
    nthreads: int
    slots: int | None
    queued: int
    groups: Sequence[GroupStatus]
    computations: Sequence[ComputationStatus] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RootishStatus:
        """Make it of what :meth:`to_dict` has returned, or that of another version.

        Parameters
        ----------
        data
            Plain types.

        Raises
        ------
        TypeError
            If these are not the verdicts of a scheduler.
        """
        known = known_fields(cls, data)
        known["groups"] = tuple(
            GroupStatus(**known_fields(GroupStatus, group)) for group in known["groups"]
        )
        known["computations"] = tuple(
            map(ComputationStatus.from_dict, known.get("computations", ()))
        )
        return cls(**known)

    def overproducing(self) -> list[GroupStatus | PastGroups]:
        """Return the groups that bring in data and are not held back, if too many.

        Too many are more tasks than would be let through if they were held back. If the
        scheduler knows no groups any more, it is asked of the last computation.
        """
        if not self.groups and self.computations:
            return [*self.computations[0].overproducing()]
        groups = let_loose(
            self.groups, attrgetter("rootish"), self.slots, self.nthreads
        )
        return [*groups]

    def waits(self) -> Counter[str]:
        """Return why tasks wait -> how many; see :class:`GroupStatus`."""
        waits: Counter[str] = Counter()
        for group in self.groups:
            waits.update(group.waits)
        return waits

    def to_dict(self) -> dict[str, Any]:
        """Return all of it in plain types, as for JSON, with what to do."""
        reasons = {group.reason for group in self.groups}
        for past in self.computations:
            reasons.update(group.reason for group in past.groups)
        queue = self.slots is not None
        return {
            **vars(self),
            "groups": [group.to_dict() for group in self.groups],
            "computations": [past.to_dict() for past in self.computations],
            "advice": {
                reason: str(advice)
                for reason in sorted(filter(None, reasons))
                if (advice := advice_on(reason, queue))
            },
        }

    def __str__(self) -> str:
        return self.to_text()

    __repr__ = __str__

    def to_text(self, width: int | None = None, unfold: bool = False) -> str:
        """Return it as tables for a terminal.

        Parameters
        ----------
        width
            Of the terminal, in columns; its own if it is not given.
        unfold
            Whether to show each group and each computation by itself.
        """
        tables = [self.table()]
        if self.computations and not self.groups:
            tables.append(self.computations[0].table())
        if len(self.computations) > 1 or (self.groups and self.computations):
            tables.append(self._past(self.computations if unfold else None))
        return "\n\n".join(table.to_text(width, unfold) for table in tables)

    def _repr_html_(self) -> str:
        text = self.table().to_html()
        for n, past in enumerate(self.computations):
            shown = " open" if not n and not self.groups else ""
            title = html.escape(f"{past.headline()} ({past.title()})")
            if n < PAST or not text:
                text += (
                    f"<details{shown}><summary>{title}</summary>"
                    f"{past.table().to_html()}</details>"
                )
        return text

    def table(self) -> Table:
        """Return the table of the groups that the scheduler knows.

        Those of one name that were judged alike are one row. What tasks wait for is in
        it only if some do.
        """
        waits = any(group.waits for group in self.groups)
        columns = [*_COLUMNS]
        if waits:
            columns.insert(-1, Column("waits for", spare=3))
        rows = fold(
            self.groups,
            lambda group: (group.prefix, group.reason),
            lambda members: _row(members, waits),
            attrgetter("name"),
        )
        return Table(self._summary(), columns, rows, queue=self.slots is not None)

    def _past(self, computations: Sequence[ComputationStatus] | None) -> Table:
        """Return the table of computations, a row for each; the last few of them."""
        shown = self.computations[:PAST] if computations is None else computations
        left_out = len(self.computations) - len(shown)
        rows = [
            Row(
                past.title(),
                (
                    past.began().partition(" ")[2],
                    past.took(),
                    f"{past.tasks:,d}",
                    size(past.nbytes),
                    size(past.peak),
                    size(past.peak_of_worker),
                    size(past.moved),
                    "yes" if past.overproducing() else "no",
                ),
            )
            for past in shown
        ]
        summary = "Computations, the last one first"
        if left_out:
            summary += f"; {left_out:,d} earlier ones are left out"
        return Table([summary], _COMPUTATIONS, rows)

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

_COLUMNS = (
    Column("group"),
    Column("tasks", number=True),
    Column("waiting", number=True, spare=7),
    Column("queued", number=True, spare=5),
    Column("processing", number=True, spare=6),
    Column("memory", number=True, spare=4),
    Column("in memory", number=True),
    Column("allowed", number=True, spare=2),
    Column("root-ish", spare=1),
    Column("reason"),
)
_COMPUTATIONS = (
    Column("computation"),
    Column("began", spare=4),
    Column("took", number=True),
    Column("tasks", number=True, spare=2),
    Column("made", number=True, spare=1),
    Column("peak", number=True),
    Column("of a worker", number=True, spare=3),
    Column("moved", number=True, spare=5),
    Column("overproduced"),
)


def _row(members: Sequence[GroupStatus], waits: bool) -> Row:
    """Return the row of groups; with what their tasks wait for, or without."""
    group = members[0]
    states: Counter[str] = Counter()
    waiting: Counter[str] = Counter()
    for member in members:
        states.update(member.states)
        waiting.update(member.waits)
    nbytes = sum(member.nbytes for member in members)
    known = any(member.output is not None for member in members)
    # One queue serves all of them
    allowed = max((m.allowed for m in members if m.allowed is not None), default=None)
    tasks = sum(member.tasks for member in members)
    return Row(
        group.prefix,
        (
            f"{tasks:,d}",
            *(f"{states[state]:,d}" for state in _STATES),
            size(nbytes if known else None),
            "" if allowed is None else size(allowed),
            yes_or_no(group.rootish),
            *([count_waiting(waiting)] if waits else ()),
            group.reason or "undecided",
        ),
        (nbytes, allowed or 0, tasks),
        group.reason or "undecided",
        group.explanation or "Not decided yet.",
    )


class _Look(PeriodicCallback):
    """Looks at the memory of the workers, and says first who decides here.

    It starts when the scheduler has, so that its page has an address, and before there
    are workers.
    """

    def __init__(self, monitor: RootishMonitor):
        super().__init__(monitor.history.look, LOOK_INTERVAL * 1000)
        self._monitor = monitor

    def start(self) -> None:
        _log.info(self._monitor.introduction())
        super().start()


class RootishMonitor:
    """Extension of the scheduler: see what the policy has decided, and warn.

    Parameters
    ----------
    scheduler
        Gets a handler ``rootish`` that returns :meth:`status` in plain types, and
        periodic callbacks: one that looks at the memory of the workers, and, unless
        ``distributed.scheduler.rootish-warning-interval`` is null, one that warns.

    Raises
    ------
    ValueError
        If that setting is no time, or ``distributed.scheduler.rootish-history`` no
        number of computations.

    Attributes
    ----------
    history
        What became of the last computations.
    """

    history: History

    def __init__(self, scheduler: Scheduler):
        self.scheduler = scheduler
        self.history = History(scheduler)
        self._warned_at = -math.inf
        scheduler.handlers["rootish"] = self._get_status
        scheduler.periodic_callbacks["rootish-history"] = _Look(self)
        scheduler.periodic_callbacks["rootish-backpressure"] = PeriodicCallback(
            self.slacken, SLACKEN_INTERVAL * 1000
        )
        setting = "distributed.scheduler.rootish-warning-interval"
        interval = dask.config.get(setting)
        if interval is None:
            return
        try:
            self._warning_interval = parse_timedelta(interval)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
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
        loaders = find_loaders(groups)
        waits = why_waiting(state)
        return RootishStatus(
            policy=state.rootish_policy.name,
            nthreads=state.total_nthreads,
            slots=slots,
            queued=len(state.queued),
            groups=tuple(
                group_status(tg, slots, tg in loaders, waits.get(tg, {}))
                for tg in groups
            ),
            computations=self.history.status(),
        )

    def introduction(self) -> str:
        """Return which version decides by which policy, and where to see it."""
        state = self.scheduler
        page = "no page, as there is no dashboard"
        server = state.services.get("dashboard")
        # The server is there for other things as well
        there = any(
            "/rootish" in getattr(app, "app_paths", ())
            for app in state.http_application.applications
        )
        if there and server is not None:
            host = get_address_host(state.address) if state.listeners else ""
            try:
                link = format_dashboard_link(host, server.port)
            except KeyError:
                # As it says in the log already
                link = f":{server.port}/status"
            page = f"page {link.removesuffix('/status')}/rootish"
        return (
            f"distributed {distributed.__version__} holds back root-ish tasks: policy "
            f"{state.rootish_policy.name}, {page}"
        )

    def _to_dict(self, *, exclude: Container[str] = ()) -> dict[str, Any]:
        """Return what is in a dump of the cluster's state, beside the groups."""
        return {
            "policy": self.scheduler.rootish_policy.name,
            "slots": count_slots(self.scheduler),
            "decisions": {
                verdict.reason: count
                for verdict, count in self.scheduler.rootish_policy.decisions.items()
            },
            "computations": [past.to_dict() for past in self.history.status()],
        }

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
        no_queue = math.isinf(self.scheduler.WORKER_SATURATION)
        advice = NO_QUEUE if no_queue else advice_on(verdict.reason)
        prefix, name = (
            shorten(plain_name(each), IN_A_SENTENCE)
            for each in (tg.prefix.name, tg.name)
        )
        return (
            f"Tasks of '{prefix}' are about to load {format_bytes(nbytes)} "
            f"into a cluster with {format_bytes(limit)} of memory, since their group "
            f"'{name}' is not held back. Reason ({verdict.reason}): "
            f"{verdict.explanation} {advice or ''} (Set "
            "`distributed.scheduler.rootish-warning-interval` to null to turn this "
            "warning off.)"
        )


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
        name=plain_name(tg.name),
        prefix=plain_name(tg.prefix.name),
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
