"""What a computation held and moved, seen at every transition.

A sampler that polls (``MemorySampler``) misses what comes and goes between two polls,
and overproduction is exactly that. :class:`MemoryRecorder` is a scheduler plugin
instead: it looks at the scheduler's books after every transition of a task.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.metrics import time

if TYPE_CHECKING:
    # Circular dependencies
    from dask.typing import Key

    from distributed.scheduler import Scheduler, TaskStateState


class MemoryRecorder(SchedulerPlugin):
    """Record the peak of managed memory, and how many chunks were in memory at once.

    Register it on the scheduler before the computation and read it afterwards::

        recorder = MemoryRecorder(prefixes=["load"])
        await recorder.start(scheduler)
        scheduler.add_plugin(recorder)

    Parameters
    ----------
    prefixes
        Names of the task prefixes whose tasks count as chunks. Prefixes that the
        scheduler does not know (yet) count as 0.
    interval
        Smallest time between two points of :attr:`history`, in seconds. The peaks do
        not depend on it.

    Attributes
    ----------
    peak_managed : int
        Largest sum over the workers of managed memory, replicas included, in bytes.
    peak_chunks : int
        Largest number of tasks of ``prefixes`` that were in memory at once.
    history : list of (float, int)
        Time (seconds since the epoch) and managed memory (bytes) at that time.
    """

    name = "memory-recorder"

    def __init__(self, prefixes: Collection[str] = (), interval: float = 0.05):
        self.prefixes = frozenset(prefixes)
        self.interval = interval
        self.reset()

    def reset(self) -> None:
        """Forget what was recorded, to measure the next computation."""
        self.peak_managed = 0
        self.peak_chunks = 0
        self.history: list[tuple[float, int]] = []

    async def start(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    def transition(
        self,
        key: Key,
        start: TaskStateState,
        finish: TaskStateState,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        managed = sum(ws.nbytes for ws in self.scheduler.workers.values())
        self.peak_managed = max(self.peak_managed, managed)
        now = time()
        if not self.history or now - self.history[-1][0] >= self.interval:
            self.history.append((now, managed))
        if finish == "memory" and self.prefixes:
            known = self.scheduler.task_prefixes
            chunks = sum(
                known[name].states["memory"] for name in self.prefixes if name in known
            )
            self.peak_chunks = max(self.peak_chunks, chunks)
