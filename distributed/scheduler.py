"""Partial module: the part of ``distributed.scheduler`` that differs from the base.

The build puts these definitions into the base's module; what happens to which name is
written down in ``continuous_integration/fork/divergence.json``.
"""

from __future__ import annotations

from distributed.rootish.monitor import RootishMonitor
from distributed.rootish.policy import GroupFacts, RootishPolicy, make_policy
from distributed.rootish.queue import CoAssigningQueue, make_queue

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

    def _transition_queued_processing(self, key: Key, stimulus_id: str) -> RecsMsgs:
        """Give a queued task to a worker.

        A task may be queued before anything is known of what its group brings in. If
        that turned out to be little, it goes where its inputs are. If it takes no slot
        there, the one that was free is for the next task.
        """
        ts = self.tasks[key]
        tg = ts.group
        queue = self.queued
        # The worker for which it was chosen a moment ago
        ws = queue.worker_for(ts) if isinstance(queue, CoAssigningQueue) else None
        in_doubt = tg.nbytes_total >= tg.rootish_facts.confirmed_until
        if moves := in_doubt and not self.is_rootish(ts):
            ws = self.decide_worker_non_rootish(ts) or ws
        if ws is None:
            return self._transition_queued_processing_any(key, stimulus_id)
        full = moves and ws not in self.idle_task_count
        queue.discard(ts)
        recs_msgs = self._add_to_processing(ts, ws, stimulus_id=stimulus_id)
        if full and queue and self.idle_task_count:
            recs_msgs[0][queue.peek().key] = "processing"
        return recs_msgs

    def decide_worker_non_rootish(self, ts: TaskState) -> WorkerState | None:
        """Pick a worker for a task that is not root-ish, beside the inputs that matter.

        Returns
        -------
        ws: WorkerState | None
            The worker on which the task is expected to start soonest, or None if there
            is no worker for it.
        """
        ws = self.rootish_policy.place(ts)
        return ws or self._decide_worker_non_rootish_any(ts)


class Scheduler:
    async def remove_worker(
        self, address: str, *, stimulus_id: str, **kwargs: Any
    ) -> str:
        """Remove a worker, and give queued tasks to the threads that this frees.

        Others may have worked for data that is lost with it; then nothing else would
        ever ask the queue for more.
        """
        answer = await self._remove_worker_any(
            address, stimulus_id=stimulus_id, **kwargs
        )
        self.stimulus_queue_slots_maybe_opened(stimulus_id=stimulus_id)
        return answer
