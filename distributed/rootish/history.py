"""What became of computations: verdicts, peaks and bytes, when all is forgotten.

The scheduler itself keeps the groups of its last computations, and a group keeps its
verdicts and the bytes that its tasks have made. So there is nothing to be noted while
tasks run, and what is told of a computation is put together when somebody asks.

Peaks of memory are the exception. They are looked for a few times a second, as long as
anything happens: the managed memory of all workers, and that of the fullest. What held
it is found by looking at all groups. Both are done as often as they take no more than a
fixed part of the time. A computation that is over before the first look has no peak.

Bytes that workers send come with their heartbeats, and the scheduler adds them up for
all of its time. A computation has what was added while it was the last one. So what is
sent in a moment before the next one begins may be taken for that one's.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any

import dask.config

from distributed.metrics import monotonic, thread_time
from distributed.rootish.loading import count_slots, find_loaders, let_loose
from distributed.rootish.policy import Verdict, mean_output
from distributed.rootish.tables import (
    SHORT_NAME,
    Column,
    Row,
    Table,
    plain_name,
    shorten,
    size,
    some_names,
    yes_or_no,
)

if TYPE_CHECKING:
    # Circular dependencies
    from distributed.scheduler import (
        Computation,
        Scheduler,
        TaskGroup,
        TaskStateState,
    )

SETTING = "distributed.scheduler.rootish-history"

#: Part of the time that looking at all workers may take, and so may finding out what
#: holds the memory
SHARE = 0.001

#: Names whose peaks are kept of a computation
MOST_NAMES = 100

#: Rows of a computation, those with the most bytes
MOST_ROWS = 100

#: What workers say in heartbeats of bytes that others have asked for, from memory and
#: from disk
SENT = (("get-data", "memory-read", "bytes"), ("get-data", "disk-read", "bytes"))

#: States of tasks that are still to be done
_TO_DO: tuple[TaskStateState, ...] = ("waiting", "queued", "processing", "no-worker")


@dataclass(frozen=True)
class PastGroups:
    """Task groups of a computation that have one name and were judged alike.

    Attributes
    ----------
    prefix
        Their name: the common part of their keys without the hash.
    groups
        Number of groups.
    tasks
        Number of their tasks.
    rootish
        Whether they are root-ish, by the last decision; None if there was none.
    reason
        Name of the reason.
    explanation
        The reason as a sentence.
    nbytes
        Bytes that their tasks have made.
    peak
        Most bytes of all tasks of this name that were seen in memory at once, None if
        nobody looked in time.
    brings_data
        Whether their tasks bring data into the cluster.
    """

    prefix: str
    groups: int
    tasks: int
    rootish: bool | None
    reason: str | None
    explanation: str | None
    nbytes: float
    peak: float | None
    brings_data: bool

    @property
    def name(self) -> str:
        """The name."""
        return self.prefix

    def to_dict(self) -> dict[str, Any]:
        """Return the same in plain types, as for JSON."""
        return dict(vars(self))


@dataclass(frozen=True)
class ComputationStatus:
    """What became of a computation.

    Attributes
    ----------
    id
        The scheduler's name for it.
    start
        When it arrived, in seconds since 1970.
    duration
        Seconds until the last of its tasks was done, so far. None if none is.
    running
        Whether some of its tasks are still to be done.
    tasks
        Number of its tasks.
    nbytes
        Bytes that its tasks have made.
    peak
        Most managed memory of all workers that was seen, in bytes, whatever it belonged
        to; None if nobody looked in time.
    peak_of_worker
        The same of the worker that had the most.
    at_peak
        Name -> bytes of what held the memory at the peak, the largest first, and each
        result once.
    copies_at_peak
        Bytes of the same results on further workers.
    nthreads
        Number of threads of all workers.
    slots
        Root-ish tasks that the workers were given at once, None if the settings turned
        queuing off.
    groups
        One for each name and verdict, those that made the most bytes first.
    left_out
        Number of names and verdicts that are not among these.
    moved
        Bytes that workers have sent, to others and to clients that gather results, as
        far as they have said so in heartbeats until the next computation; None if they
        do not say it, since their memory has no limit. What P2P shuffles send is not
        among them.
    """

    id: str
    start: float
    duration: float | None
    running: bool
    tasks: int
    nbytes: float
    peak: float | None
    peak_of_worker: float | None
    at_peak: Mapping[str, float]
    copies_at_peak: float
    nthreads: int
    slots: int | None
    groups: Sequence[PastGroups]
    left_out: int
    moved: float | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ComputationStatus:
        """Make it of what :meth:`to_dict` has returned.

        Parameters
        ----------
        data
            Plain types.
        """
        known = known_fields(cls, data)
        known["groups"] = tuple(
            PastGroups(**known_fields(PastGroups, group)) for group in known["groups"]
        )
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Return the same in plain types, as for JSON."""
        groups = [group.to_dict() for group in self.groups]
        return {**vars(self), "at_peak": dict(self.at_peak), "groups": groups}

    def overproducing(self) -> list[PastGroups]:
        """Return those that brought in data and were not held back, if too many.

        Too many are more tasks than are let through if they are held back.
        """
        return let_loose(self.groups, attrgetter("rootish"), self.slots, self.nthreads)

    def __str__(self) -> str:
        return self.to_text()

    __repr__ = __str__

    def to_text(self, width: int | None = None, unfold: bool = False) -> str:
        """Return it as a table for a terminal.

        Parameters
        ----------
        width
            Of the terminal, in columns; its own if it is not given.
        unfold
            Whether to show all rows.
        """
        return self.table().to_text(width, unfold)

    def _repr_html_(self) -> str:
        return self.table().to_html()

    def table(self) -> Table:
        """Return the table of its groups."""
        summary = [self.headline()]
        if held := self.held_at_peak():
            summary.append(f"In memory at the peak: {held}.")
        if groups := self.overproducing():
            summary.append(
                "Not held back, and more than the cluster consumes at once: "
                f"{some_names(group.prefix for group in groups)}."
            )
        if self.left_out:
            summary.append(f"{self.left_out:,d} small ones are left out.")
        rows = [_past_row(group) for group in self.groups]
        return Table(summary, _PAST, rows, queue=self.slots is not None)

    def headline(self) -> str:
        """Return in a line when it was, how long it took, and how much it held."""
        return f"{self.began()}: {self.tasks:,d} tasks, {', '.join(self.facts())}"

    def began(self) -> str:
        """Return when it arrived."""
        return f"{datetime.fromtimestamp(self.start):%Y-%m-%d %H:%M:%S}"

    def facts(self) -> tuple[str, ...]:
        """Return how long it took, its peaks, and what it made and moved, as text."""
        return (
            self.took(),
            f"peak {size(self.peak)}",
            f"{size(self.peak_of_worker)} on the fullest worker",
            f"{size(self.nbytes)} made",
            f"{size(self.moved)} moved",
        )

    def took(self) -> str:
        """Return how long it took, as text."""
        if self.running:
            return "running"
        return "not done" if self.duration is None else f"{self.duration:.1f} s"

    def held_at_peak(self) -> str:
        """Return what held the memory at the peak, as text."""
        largest = list(self.at_peak.items())[:3]
        held = [
            f"{size(nbytes)} {shorten(name, SHORT_NAME)}" for name, nbytes in largest
        ]
        # Sizes are estimated, so that there may seem to be some where there are none
        if self.copies_at_peak > 0.05 * (self.peak or 0):
            held.append(f"{size(self.copies_at_peak)} copies of results")
        return ", ".join(held)

    def title(self) -> str:
        """Return what it may be known by: the names that made the most bytes."""
        names = list(dict.fromkeys(group.prefix for group in self.groups))
        return ", ".join(shorten(name, SHORT_NAME) for name in names[:2])


_PAST = (
    Column("group"),
    Column("tasks", number=True),
    Column("made", number=True, spare=1),
    Column("peak", number=True),
    Column("root-ish", spare=2),
    Column("reason"),
)


def _past_row(group: PastGroups) -> Row:
    return Row(
        group.prefix,
        (
            f"{group.tasks:,d}",
            size(group.nbytes),
            size(group.peak),
            yes_or_no(group.rootish),
            group.reason or "undecided",
        ),
        (group.nbytes, group.tasks),
        group.reason,
        group.explanation,
        number=group.groups,
    )


def known_fields(cls: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a class of this version knows of data that another may have sent.

    Parameters
    ----------
    cls
        A data class.
    data
        Names of its attributes -> values, and others.

    Raises
    ------
    TypeError
        If it is no mapping, or the class needs more than it has.
    """
    if not isinstance(data, Mapping):
        raise TypeError(f"not the verdicts of a scheduler: {type(data).__name__}")
    known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
    missing = [
        name
        for name, field in cls.__dataclass_fields__.items()
        if name not in known and field.default is dataclasses.MISSING
    ]
    if missing:
        raise TypeError(f"the scheduler does not say {', '.join(missing)}")
    return known


class _Record:
    """What was seen of a computation while it ran."""

    __slots__ = (
        "at_peak",
        "computation",
        "copies",
        "moved",
        "nthreads",
        "of_names",
        "of_worker",
        "peak",
        "slots",
    )

    #: It holds its groups, as it does in the scheduler
    computation: Computation
    peak: float | None
    of_worker: float | None
    at_peak: Mapping[str, float]
    #: What the memory was held by beside these, in bytes
    copies: float
    #: Name -> most bytes of it that were seen in memory
    of_names: dict[str, float]
    #: Bytes that workers have sent
    moved: float
    nthreads: int
    slots: int | None

    def __init__(self, computation: Computation):
        self.computation = computation
        self.peak = self.of_worker = None
        self.at_peak = {}
        self.copies = self.moved = 0
        self.of_names = {}
        self.nthreads = 0
        self.slots = None


class History:
    """Remembers the last computations of a scheduler.

    Parameters
    ----------
    scheduler
        It keeps its last computations, as many as
        ``distributed.diagnostics.computations.max-history`` says.

    Raises
    ------
    ValueError
        If ``distributed.scheduler.rootish-history`` is no number of computations.
    """

    def __init__(self, scheduler: Scheduler):
        length = dask.config.get(SETTING)
        if isinstance(length, bool) or not isinstance(length, int) or length < 0:
            raise ValueError(
                f"`{SETTING}` must be a number of computations, 0 for none; got "
                f"{length!r}"
            )
        self.scheduler = scheduler
        self._records: deque[_Record] = deque(maxlen=length)
        #: The scheduler's last computation when it was looked at
        self._last: Computation | None = None
        #: Its transitions when it was looked at
        self._seen = -1
        #: When workers may be looked at again, and when all groups
        self._awake = -math.inf
        self._rested = -math.inf
        #: What workers had sent when that was looked at
        self._sent = 0.0

    def look(self) -> None:
        """See whether there is a new computation, or more in memory than ever.

        It costs as much as there are workers, and nothing if nothing has happened. If
        there are very many, it is done less often than asked for.
        """
        if monotonic() >= self._awake:
            self._look()

    def _look(self) -> None:
        self._count_sent()
        if self.scheduler.transition_counter == self._seen:
            return
        self._seen = self.scheduler.transition_counter
        self._find_new()
        if not self._records:
            return
        record = self._records[-1]
        total = most = 0
        start = thread_time()
        for ws in self.scheduler.workers.values():
            total += ws.nbytes
            most = max(most, ws.nbytes)
        self._awake = monotonic() + (thread_time() - start) / SHARE
        before = record.peak or 0
        higher = record.peak is None or total > before
        record.peak = max(total, before)
        record.of_worker = max(most, record.of_worker or 0)
        # A name may have its peak when another one is gone already
        if monotonic() >= self._rested and total >= before / 2:
            start = thread_time()
            self._look_at_groups(record, higher)
            self._rested = monotonic() + (thread_time() - start) / SHARE

    def _count_sent(self) -> None:
        """Add what workers say that they have sent to the last computation.

        They may say it when all of its tasks are done.
        """
        metrics = self.scheduler.cumulative_worker_metrics
        sent = sum(metrics.get(name, 0) for name in SENT)
        if self._records:
            self._records[-1].moved += sent - self._sent
        self._sent = sent

    def _find_new(self) -> None:
        """Begin a record for each computation that has arrived meanwhile."""
        computations = self.scheduler.computations
        if not computations or computations[-1] is self._last:
            return
        new: list[Computation] = []
        for computation in reversed(computations):
            if computation is self._last:
                break
            # Of tasks whose groups are there already, there is nothing new to tell
            if computation.groups:
                new.append(computation)
        self._last = computations[-1]
        self._records.extend(map(_Record, reversed(new)))

    def _look_at_groups(self, record: _Record, higher: bool) -> None:
        """Find out what the memory is held by."""
        held: dict[str, float] = defaultdict(float)
        for tg in self.scheduler.task_groups.values():
            if in_memory := tg.states["memory"]:
                held[plain_name(tg.prefix.name)] += in_memory * (mean_output(tg) or 0)
        of_names = record.of_names
        for name, nbytes in held.items():
            of_names[name] = max(of_names.get(name, 0), nbytes)
        if len(of_names) > 2 * MOST_NAMES:
            record.of_names = _largest(of_names, MOST_NAMES)
        if higher:
            record.at_peak = _largest(held, 10)
            record.copies = max((record.peak or 0) - sum(held.values()), 0)
        record.nthreads = self.scheduler.total_nthreads
        record.slots = count_slots(self.scheduler)

    def status(self) -> tuple[ComputationStatus, ...]:
        """Return what became of the last computations, the newest first."""
        self._look()
        return tuple(map(self._status, reversed(self._records)))

    def _status(self, record: _Record) -> ComputationStatus:
        computation = record.computation
        groups = computation.groups
        loaders = find_loaders(groups)
        together: dict[tuple[Any, Verdict | None], list[TaskGroup]] = {}
        for tg in groups:
            alike = tg.prefix.name, tg.rootish_facts.verdict
            together.setdefault(alike, []).append(tg)
        rows = [
            _past_groups(members, record, not loaders.isdisjoint(members))
            for members in together.values()
        ]
        rows.sort(key=lambda row: (row.nbytes, row.tasks), reverse=True)
        stop = max((tg.stop for tg in groups), default=0)
        state = self.scheduler
        return ComputationStatus(
            id=str(computation.id),
            start=computation.start,
            duration=max(stop - computation.start, 0) if stop else None,
            running=any(tg.states[to_do] for tg in groups for to_do in _TO_DO),
            tasks=sum(map(len, groups)),
            nbytes=sum(row.nbytes for row in rows),
            peak=record.peak,
            peak_of_worker=record.of_worker,
            at_peak=record.at_peak,
            copies_at_peak=record.copies,
            nthreads=record.nthreads or state.total_nthreads,
            slots=record.slots if record.nthreads else count_slots(state),
            groups=tuple(rows[:MOST_ROWS]),
            left_out=max(len(rows) - MOST_ROWS, 0),
            moved=record.moved if record.moved or _say_what_they_send(state) else None,
        )


def _say_what_they_send(scheduler: Scheduler) -> bool:
    """Whether workers do, as those do whose memory is managed."""
    return any(ws.memory_limit for ws in scheduler.workers.values())


def _largest(sizes: Mapping[str, float], number: int) -> dict[str, float]:
    """Return the names with the largest sizes, the largest first."""
    return dict(heapq.nlargest(number, sizes.items(), key=itemgetter(1)))


def _past_groups(
    members: Sequence[TaskGroup], record: _Record, loads: bool
) -> PastGroups:
    """Return what became of groups of one name and verdict."""
    tg = members[0]
    verdict = tg.rootish_facts.verdict
    prefix = plain_name(tg.prefix.name)
    return PastGroups(
        prefix=prefix,
        groups=len(members),
        tasks=sum(map(len, members)),
        rootish=verdict.rootish if verdict else None,
        reason=verdict.reason if verdict else None,
        explanation=verdict.explanation if verdict else None,
        nbytes=sum(member.nbytes_total for member in members),
        peak=record.of_names.get(prefix),
        brings_data=loads,
    )
