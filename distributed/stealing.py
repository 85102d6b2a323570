"""Partial module: the part of ``distributed.stealing`` that differs from the base.

The build puts these definitions into the base's module; what happens to which name is
written down in ``continuous_integration/fork/divergence.json``.
"""

from __future__ import annotations

from distributed.rootish.queue import thieves


class WorkStealing:
    def move_task_confirm(
        self, *, key: str, state: str, stimulus_id: str, worker: str | None = None
    ) -> None:
        """Move a task, or leave it, as its worker says; then ask the queue.

        A task that moves leaves a thread free.
        """
        self._move_task_confirm_any(
            key=key, state=state, stimulus_id=stimulus_id, worker=worker
        )
        self.scheduler.stimulus_queue_slots_maybe_opened(stimulus_id=stimulus_id)

    def _get_thief(
        self,
        scheduler: SchedulerState,
        ts: TaskState,
        potential_thieves: set[WorkerState],
        **kwargs: Any,
    ) -> WorkerState | None:
        """Pick who is to have a task, of those that want work and can have it."""
        potential_thieves = thieves(scheduler, ts, potential_thieves)
        if not potential_thieves:
            return None
        return self._get_thief_any(scheduler, ts, potential_thieves, **kwargs)
