"""Handles that are better left where they are: expensive to make, or not to be sent.

A handle is what a load needs to get at its data: an opened file, a connection, a model.
It is small, so by its bytes it costs nothing to copy. But what arrives on another
worker is made again: a file is opened, an index is read, a model is loaded. If a load's
share of that takes longer than the load, it waits for the worker that has the handle,
and is held back there (see :mod:`distributed.rootish.queue`): when and where are two
answers. So do tasks that are held back, and whose inputs are too large to be copied to
any worker.

Some objects cannot be sent at all, since they hold a lock or a socket. A worker that is
given a task with such an input fails to get it and tells the scheduler; the release
does not listen, and the task waits for ever (dask/distributed#6705, #9013). Here it is
taken back, and tasks whose inputs are of that kind stay where those are from then on.
"""

from __future__ import annotations

import math
import operator
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distributed.rootish.lanes import beside
from distributed.rootish.policy import BESIDE, UNKNOWN_OUTPUT

if TYPE_CHECKING:
    # Circular dependencies
    from dask.typing import Key

    from distributed.rootish.lanes import Lane, Restrictions
    from distributed.scheduler import (
        Recs,
        SchedulerState,
        TaskPrefix,
        TaskState,
        WorkerState,
    )

#: Packages whose objects are copied as they are, rather than made again. So are those
#: of built-in types, the names of which have no package.
PLAIN = frozenset({"numpy", "pandas", "pyarrow", "datetime", "decimal"})

#: How the base begins to say which object could not be sent
NOT_SENT = "Could not serialize object of type"


class Handles:
    """What is known of the inputs that are better left where they are.

    Parameters
    ----------
    state
        Knows the workers, and how long tasks take.

    Attributes
    ----------
    bound
        Kinds of inputs that could not be sent: name of the prefix, type of the output.
    unsure
        Prefix -> weak references to its tasks that were given a place before any of
        them had finished.
    """

    __slots__ = ("_last", "_state", "bound", "unsure")

    bound: set[tuple[str, str | None]]
    unsure: dict[TaskPrefix, list[weakref.ref[TaskState]]]
    #: What has led to the last failure, and the tasks that were taken back for it
    _last: tuple[str, set[Key]]

    def __init__(self, state: SchedulerState):
        self._state = state
        self._last = "", set()
        self.bound = set()
        self.unsure = {}

    def is_bound(self, ts: TaskState) -> bool:
        """Whether a task has an input that cannot be sent to other workers.

        Parameters
        ----------
        ts
            A task.
        """
        bound = self.bound
        return bool(bound) and any(_kind(dts) in bound for dts in ts.dependencies)

    def holders(self, ts: TaskState) -> set[WorkerState]:
        """Return the workers that hold all inputs of a task which cannot be sent.

        Parameters
        ----------
        ts
            A task with such inputs.
        """
        bound = [dts for dts in ts.dependencies if _kind(dts) in self.bound]
        return set.intersection(*(set(dts.who_has or ()) for dts in bound))

    def home(
        self, ts: TaskState, waiting: Mapping[Restrictions, Lane]
    ) -> tuple[WorkerState, float] | None:
        """Return the worker beside which a root-ish task waits.

        Parameters
        ----------
        ts
            The task. All its inputs are in memory.
        waiting
            What restricts tasks -> the lane of those that wait already.

        Returns
        -------
        tuple of WorkerState and float, or None
            The worker, and how long it takes to have the inputs elsewhere, in seconds;
            infinite if they cannot be sent. None if the task may as well run there.
        """
        if self.is_bound(ts):
            if holders := self.holders(ts):
                return min(holders, key=operator.attrgetter("address")), math.inf
            return None
        if ts.worker_restrictions or ts.host_restrictions or ts.resource_restrictions:
            return None
        best = None
        total = longest = 0.0
        nworkers = len(self._state.workers)
        large = ts.group.rootish_facts.verdict is BESIDE
        for dts in ts.dependencies:
            seconds = _time_to_make(dts)
            if large:
                seconds += dts.get_nbytes() / self._state.bandwidth
            if seconds and dts.who_has:
                users = max(len(dts.dependents), nworkers)
                total += seconds * (nworkers - 1) / users
                if seconds > longest:
                    best, longest = dts, seconds
        if best is None:
            return None
        usual = self._duration(ts.prefix)
        if ts.prefix.duration_average < 0:
            # As long as what it is believed to load takes to be sent
            usual = UNKNOWN_OUTPUT / self._state.bandwidth
            self.unsure.setdefault(ts.prefix, []).append(weakref.ref(ts))
        if not large and total <= usual:
            return None
        assert best.who_has
        there = best.who_has & self._state.running
        if not there:
            return None

        def load(ws: WorkerState) -> tuple[float, str]:
            lane = waiting.get(beside(ws))
            tasks = len(ws.processing) + (lane.count if lane else 0)
            return tasks / ws.nthreads, ws.address

        return min(there, key=load), longest

    def patience(self, seconds: float, prefix: TaskPrefix) -> float:
        """Return how many tasks for each thread may wait before others help.

        Those are as many as take the time to make the input, or copy it, once more.

        Parameters
        ----------
        seconds
            How long it takes to have their inputs elsewhere.
        prefix
            Of the tasks. As long as none has finished, nobody helps.
        """
        if prefix.duration_average < 0:
            return math.inf
        return seconds / self._duration(prefix)

    def _duration(self, prefix: TaskPrefix) -> float:
        """Return how long a task takes, in seconds, and never nothing."""
        return max(self._state._get_prefix_duration(prefix), 1e-6)

    def refuse(
        self, key: Key, worker: str, stimulus_id: str, failure: Mapping[str, Any]
    ) -> Recs:
        """Learn that a worker could not get an input; take back what needs it there.

        Parameters
        ----------
        key
            Key of the input, of which the worker says that it has erred.
        worker
            Address of the worker.
        stimulus_id
            The same for all inputs that it has asked for at once.
        failure
            What it says of that: ``exception``, ``traceback``, and their texts.

        Returns
        -------
        dict
            Recommended transitions. Tasks wait again, and go to where the input is.
            Where they cannot run there, since it is not open to them or since another
            input is bound to another worker, they have erred. If it is not certain that
            this was the input at fault, they are sent again as often as
            ``distributed.scheduler.allowed-failures`` says. Empty if the input has
            erred for another reason.
        """
        # It is the scheduler that workers speak to
        state: Any = self._state
        ts = state.tasks.get(key)
        ws = state.workers.get(worker)
        if ts is None or ts.state != "memory" or ws not in state.running:
            return {}
        stuck = [dts for dts in ts.dependents if dts.processing_on is ws]
        failed = failure["exception_text"]
        certain = NOT_SENT in failed
        if stuck and (
            # Else it was asked for together with that one
            _type_name(ts) in failed
            if certain
            # What is asked for next on the same connection fails an assertion
            else not failed.startswith("AssertionError")
        ):
            self.bound.add(_kind(ts))
        if stimulus_id != self._last[0]:
            self._last = stimulus_id, set()
        taken = self._last[1]
        recs: Recs = {}
        for dts in stuck:
            if dts.key in taken:
                continue
            taken.add(dts.key)
            recs[dts.key] = "waiting"
            bound = self.is_bound(dts)
            if bound and place_beside(state, dts):
                continue
            dts.suspicious += 1
            if dts.suspicious > state.allowed_failures or (bound and certain):
                recs[dts.key] = "erred"
                dts.exception_blame = dts
                for name in ("exception", "traceback"):
                    setattr(dts, name, failure[name])
                    setattr(dts, f"{name}_text", failure[f"{name}_text"])
        return recs


def _kind(ts: TaskState) -> tuple[str, str | None]:
    return ts.prefix.name, ts.type


def _type_name(ts: TaskState) -> str:
    """Return the name of the type of an output, without its module."""
    return (ts.type or "").rpartition(".")[2]


def _time_to_make(dts: TaskState) -> float:
    """Return how long it takes to make an input again where it is copied to.

    In seconds. Plain data is copied as it is.
    """
    package, dot, _ = (dts.type or "").partition(".")
    if not dot or package in PLAIN:
        return 0.0
    return max(dts.prefix.duration_average, 0.0)


def bound_to(state: SchedulerState, ts: TaskState) -> set[WorkerState] | None:
    """Return the workers that hold those inputs of a task which cannot be sent.

    Parameters
    ----------
    state
        The scheduler's state.
    ts
        The task.

    Returns
    -------
    set of WorkerState or None
        None if there are no such inputs, or our queue is not in force.
    """
    handles: Handles | None = getattr(state.queued, "handles", None)
    return handles.holders(ts) if handles and handles.is_bound(ts) else None


def place_beside(state: SchedulerState, ts: TaskState) -> WorkerState | None:
    """Return the worker for a task with an input that cannot be sent.

    Parameters
    ----------
    state
        The scheduler's state.
    ts
        A task that is not root-ish. All its inputs are in memory.

    Returns
    -------
    WorkerState or None
        None if there is no such input, or its worker is not there for the task.
    """
    bound = bound_to(state, ts)
    if not bound:
        return None
    if (valid := state.valid_workers(ts)) is not None:
        bound &= valid
    least_busy = operator.attrgetter("occupancy")
    return min(bound & state.running, key=least_busy, default=None)
