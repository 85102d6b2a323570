"""A scheduler's state on paper: a test says what is given out, and what finishes.

Tasks and workers are the real ones, so that the queue finds what it looks at. Nothing
runs, and nothing happens by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import dask
from sortedcontainers import SortedDict

from distributed.collections import HeapSet
from distributed.core import Status
from distributed.rootish.lanes import Choice
from distributed.rootish.queue import RootishQueue
from distributed.rootish.tests.utils import SATURATION
from distributed.scheduler import ClientState, SchedulerState, TaskState, WorkerState

if TYPE_CHECKING:
    # Circular dependencies
    from dask.typing import Key

    from distributed.scheduler import TaskStateState

SETTINGS = {
    "distributed.scheduler.rootish-policy": "producers",
    "distributed.scheduler.rootish-co-assignment": True,
    **SATURATION,
}


def is_held(queue: RootishQueue, ts: TaskState) -> bool:
    """Whether a task that is queued waits for consumers, in whatever chain."""
    for kind in queue.outstanding:
        # What is found is remembered for a task, which is of one kind
        queue._asked.clear()
        if kind[0] == ts.prefix.name and queue.is_held(ts, queue.pool(ts), kind):
            return True
    return False


class Paper(SchedulerState):
    """Workers with one thread each, and tasks that do what they are told.

    Parameters
    ----------
    nworkers
        Number of workers. Each holds two root-ish tasks at once.
    resources
        What each of them has.
    waiting
        ``distributed.scheduler.rootish-waiting``
    """

    queued: Any
    queue: RootishQueue

    def __init__(
        self,
        nworkers: int = 2,
        resources: Iterable[dict[str, float]] = (),
        waiting: float = 2,
    ):
        with dask.config.set(
            {**SETTINGS, "distributed.scheduler.rootish-waiting": waiting}
        ):
            super().__init__(
                aliases={},
                clients={},
                workers=SortedDict(),
                host_info={},
                resources={},
                tasks={},
                unrunnable={},
                queued=HeapSet(key=lambda ts: ts.priority),
                validate=False,
            )
        assert isinstance(self.queued, RootishQueue)
        self.queue = self.queued
        self.client = ClientState("client")
        for n in range(nworkers):
            self.join(n)
        for ws, supplied in zip(self.all, resources):
            ws.resources.update(supplied)
            for name, quantity in supplied.items():
                self.resources.setdefault(name, {})[ws.address] = quantity

    @property
    def all(self) -> list[WorkerState]:
        return list(self.workers.values())

    def join(self, number: int) -> WorkerState:
        """Let a worker join."""
        address = f"tcp://10.0.0.{number}:1"
        ws = self.workers[address] = WorkerState(
            address=address,
            status=Status.running,
            pid=0,
            name=number,
            nthreads=1,
            memory_limit=0,
            local_directory="",
            nanny=None,
            server_id=address,
            scheduler=self,
        )
        self.running.add(ws)
        self.idle_task_count.add(ws)
        self.host_info[ws.host] = {"addresses": {address}, "nthreads": 1}
        self.total_nthreads += 1
        return ws

    def leave(self, number: int) -> None:
        """Let a worker leave."""
        ws = self.workers.pop(f"tcp://10.0.0.{number}:1")
        self.idle_task_count.discard(ws)
        del self.host_info[ws.host]
        for supplied in self.resources.values():
            supplied.pop(ws.address, None)
        self.total_nthreads -= 1
        self.pause(ws)

    def pause(self, ws: WorkerState) -> None:
        """Let a worker take no more tasks."""
        self.running.discard(ws)
        self.queue.let_go()

    def add(
        self,
        name: str,
        number: float,
        *inputs: TaskState,
        graph: int = 0,
        nbytes: int | None = None,
    ) -> TaskState:
        """Add a task.

        Parameters
        ----------
        name
            Of its prefix and its group.
        number
            Its place in the order of its graph.
        inputs
            What it depends on. None of it is in memory.
        graph
            Number of its graph; later ones are less urgent.
        nbytes
            What tasks of its group make, as far as is known.
        """
        ts = self.new_task((name, graph, number), None, "waiting")
        ts.priority = (0, graph, number)
        ts.waiting_on = set(inputs)
        ts.waiters = set()
        for dts in inputs:
            ts.add_dependency(dts)
            assert dts.waiters is not None
            dts.waiters.add(ts)
        if nbytes is not None and not ts.group.nbytes_total:
            ts.group.add_type("bytes")
            ts.group.update_nbytes(nbytes)
        return ts

    def move(self, ts: TaskState, state: TaskStateState) -> None:
        """Let a task change its state, and nothing else."""
        self.transition_counter += 1
        ts.state = state

    def enqueue(self, *tasks: TaskState) -> None:
        """Let tasks wait in the queue, in this order."""
        for ts in tasks:
            self.move(ts, "queued")
            self.queue.add(ts)

    def offer(self, worker: int) -> Choice | None:
        """Return what a worker would get that has a thread free, alone."""
        self.idle_task_count = {self.all[worker]}
        return self.queue.choose()

    def give(self, worker: int) -> TaskState | None:
        """Give the next task to a worker."""
        choice = self.offer(worker)
        if choice is None:
            return None
        self.queue.take(choice)
        self.send(choice.task, choice.worker)
        return choice.task

    def give_all(self, worker: int) -> list[TaskState]:
        """Give tasks to a worker as long as there are any for it."""
        return list(iter(lambda: self.give(worker), None))

    def is_held(self, ts: TaskState) -> bool:
        """Whether a task that is queued waits for consumers."""
        return is_held(self.queue, ts)

    def send(self, ts: TaskState, ws: WorkerState | None = None) -> TaskState:
        """Let a task run."""
        ws = ws or self.all[0]
        self.move(ts, "processing")
        ts.processing_on = ws
        ws.processing.add(ts)
        for dts in ts.dependencies:
            # Some tests send what would have to wait
            if dts.who_has and ws not in dts.who_has:
                ws._inc_needs_replica(dts)
        return ts

    def finish(self, *tasks: TaskState, nbytes: int) -> None:
        """Let tasks finish that run."""
        for ts in tasks:
            assert ts.processing_on
            ws, ts.processing_on = ts.processing_on, None
            ws.processing.discard(ts)
            ws.long_running.discard(ts)
            for dts in ts.dependencies:
                if dts in ws.needs_what:
                    ws._dec_needs_replica(dts)
            self.move(ts, "memory")
            ts.group.add_type("bytes")
            ts.set_nbytes(nbytes)
            self.add_replica(ts, ws)
            for dts in ts.dependencies:
                if dts.waiters:
                    dts.waiters.discard(ts)
            for dts in ts.dependents:
                if dts.waiting_on:
                    dts.waiting_on.discard(ts)

    def release(self, ts: TaskState) -> None:
        """Let workers forget an output that is not needed any more."""
        self.move(ts, "released")
        self.remove_all_replicas(ts)

    def forget(self, ts: TaskState) -> Key:
        """Cancel a task that is queued."""
        self.queue.discard(ts)
        self.move(ts, "forgotten")
        for dts in ts.dependencies:
            dts.dependents.discard(ts)
        for dts in ts.dependents:
            dts.dependencies.discard(ts)
            if dts.waiting_on:
                dts.waiting_on.discard(ts)
        del self.tasks[ts.key]
        return ts.key

    def pairs(
        self,
        number: int,
        graph: int = 0,
        nbytes: int | None = 1,
        names: tuple[str, str] = ("load", "load"),
    ) -> list[TaskState]:
        """Return loads of which each two are combined."""
        loads = []
        for n in range(number):
            two = [
                self.add(name, 3 * n + i, graph=graph, nbytes=nbytes)
                for i, name in enumerate(names)
            ]
            self.add("combine", 3 * n + 2, *two, graph=graph)
            loads += two
        return loads
