"""Partial module: the part of ``distributed.scheduler`` that differs from the base.

The build puts these definitions into the base's module; what happens to which name is
written down in ``continuous_integration/fork/divergence.json``.
"""

from __future__ import annotations

from distributed.rootish.handles import place_beside
from distributed.rootish.monitor import RootishMonitor
from distributed.rootish.policy import GroupFacts, RootishPolicy, make_policy
from distributed.rootish.queue import Choice, RootishQueue, admit, give_out, make_queue

DEFAULT_EXTENSIONS["rootish"] = RootishMonitor


class TaskGroup:
    #: What the root-ish policy knows about this group
    rootish_facts: GroupFacts

    def __init__(self, name: str, prefix: TaskPrefix):
        self.rootish_facts = GroupFacts()


class SchedulerState:
    #: Decides which tasks are root-ish (``distributed.scheduler.rootish-policy``)
    rootish_policy: RootishPolicy

    def __init__(self, **kwargs: Any):
        self.rootish_policy = make_policy(self)
        self.queued = make_queue(self)

    def is_rootish(self, ts: TaskState) -> bool:
        """Whether ``ts`` is held back for a free thread; see `distributed.rootish`."""
        return self.rootish_policy.is_rootish(ts)

    def _transitions(
        self,
        recommendations: Recs,
        client_msgs: Msgs,
        worker_msgs: Msgs,
        stimulus_id: str,
    ) -> None:
        """Ask the queue after all transitions that fill it or free a thread."""
        self._transitions_any(recommendations, client_msgs, worker_msgs, stimulus_id)
        give_out(self, client_msgs, worker_msgs, stimulus_id)

    def _transition_waiting_processing(self, key: Key, stimulus_id: str) -> RecsMsgs:
        """Queue a root-ish task, even if a thread is free; `_transitions` asks next."""
        ts = self.tasks[key]
        if (queued := admit(self, ts)) is None:
            return self._transition_waiting_processing_any(key, stimulus_id)
        if not queued and (ws := self.decide_worker_non_rootish(ts)):
            return self._add_to_processing(ts, ws, stimulus_id=stimulus_id)
        return {} if queued else {key: "no-worker"}, {}, {}

    def _transition_no_worker_processing(self, key: Key, stimulus_id: str) -> RecsMsgs:
        """Queue a root-ish task whose workers have come, like any other."""
        if admit(self, self.tasks[key]):
            return {}, {}, {}
        return self._transition_no_worker_processing_any(key, stimulus_id)

    def _transition_queued_processing(
        self, key: Key, stimulus_id: str, choice: Choice | None = None
    ) -> RecsMsgs:
        """Give a queued task to the worker for which it was chosen.

        If its group has turned out to bring in little, it goes where its inputs are.
        """
        queue = self.queued
        if not isinstance(queue, RootishQueue):
            return self._transition_queued_processing_any(key, stimulus_id)
        ts = self.tasks[key]
        choice = choice or queue.choose()
        if choice is None or choice.task is not ts:
            return {}, {}, {}
        ws = choice.worker
        if ts.group.rootish_facts.in_doubt and not self.is_rootish(ts):
            ws = self.decide_worker_non_rootish(ts) or ws
        queue.take(choice)
        return self._add_to_processing(ts, ws, stimulus_id=stimulus_id)

    def validate_queued(self, key: Key) -> None:
        """Check a task in the state ``queued``; it may be restricted."""
        ts = self.tasks[key]
        assert ts in self.queued
        assert not ts.processing_on
        assert all(dts.who_has and ts in (dts.waiters or ()) for dts in ts.dependencies)

    def decide_worker_non_rootish(self, ts: TaskState) -> WorkerState | None:
        """Pick a worker for a task that is not root-ish, beside inputs that matter."""
        return (
            place_beside(self, ts)
            or self.rootish_policy.place(ts)
            or self._decide_worker_non_rootish_any(ts)
        )


class Scheduler:
    def stimulus_task_erred(
        self, worker: str, stimulus_id: str, key: Key, **kwargs: Any
    ) -> RecsMsgs:
        """Mark that a task has erred, or that an input could not be sent."""
        if isinstance(self.queued, RootishQueue) and (
            recs := self.queued.refuse(key, worker, stimulus_id, kwargs)
        ):
            return recs, {}, {}
        return self._stimulus_task_erred_any(
            worker=worker, stimulus_id=stimulus_id, key=key, **kwargs
        )

    def _refresh_no_workers_since(self, timestamp: float | None = None) -> None:
        """Ask the queue, too, when a worker has left, pauses, retires or resumes.

        What it was to run goes to others, and others may have worked for the data that
        is lost with it.
        """
        self._refresh_no_workers_since_any(timestamp)
        if isinstance(self.queued, RootishQueue):
            self.queued.let_go()
        self.stimulus_queue_slots_maybe_opened(stimulus_id=f"workers-{time()}")

    def stimulus_queue_slots_maybe_opened(self, *, stimulus_id: str) -> None:
        """Ask the queue, after something that may have freed a thread."""
        if not isinstance(self.queued, RootishQueue):
            self._stimulus_queue_slots_maybe_opened_any(stimulus_id=stimulus_id)
        elif self.idle_task_count and self.queued:
            self.transitions({}, stimulus_id)
