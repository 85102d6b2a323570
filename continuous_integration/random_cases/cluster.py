"""A real scheduler, without a network or a clock, and workers that pretend.

:func:`play` plays a case, and raises :class:`Fault` when something does not hold.

The scheduler validates itself. Workers are those of a simulation, but do nothing on
their own: the steps of the case say when they read messages, move data, run the
functions of their tasks, and answer. After every call of the scheduler:

*   every task that could run is given to a worker, queued, or in ``no-worker``, for a
    reason that holds: no worker is free; no running worker is allowed to run it;
*   nothing is queued that is restricted, an actor, or that P2P places;
*   a root-ish task was given only to a worker with a slot free for it;
*   the queue knows every queued task, and knows where it is.

At the end all workers are well, and everything that clients want is there and right, or
has failed as planned; what is released is forgotten, by the queue, too.
"""

from __future__ import annotations

import asyncio
import logging
import math
import selectors
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import dask

from continuous_integration.random_cases.cases import (
    ALWAYS,
    NCLIENTS,
    NDATA,
    Case,
    Plan,
    address_of,
)
from distributed import Scheduler, SchedulerPlugin
from distributed.core import Status
from distributed.protocol import Serialized, serialize
from distributed.rootish import GroupFacts, Verdict
from distributed.rootish.families import priority_of
from distributed.rootish.queue import RootishQueue
from distributed.rootish.simulation import (
    Graph,
    Job,
    SimulatedWorker,
    Simulation,
)
from distributed.scheduler import ClientState

if TYPE_CHECKING:
    from dask.typing import Key

    from distributed.scheduler import TaskState, WorkerState


class Fault(AssertionError):
    """Something that must hold does not."""


class Known(Exception):
    """A fault of the base that has nothing to do with the queue ends a case.

    Input in error
        When a worker dies or a failed task is tried again, the base may ask for a task
        of which another input has failed, or leave it behind, wanted; and what is run
        again may keep the blame.
    A task cancelled twice
        Over two paths, when what both depend on is cancelled: an assertion fails.
    Scattered data lost
        The base still counts on the worker that was to fetch them for a task that is
        forgotten: its `needs_what` or its occupancy is wrong. Or it keeps tasks that
        nobody wants any more; or it fails when one is tried again that needs them.
    """


class _Selector(selectors.SelectSelector):
    """Waits for nothing: if there is nothing else to do, time passes."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise Fault("nothing would ever happen again")
        self.now += timeout
        return super().select(0)


class _Scheduler(Scheduler):
    """Has no server for a dashboard."""

    def start_http_server(self, *args: Any, **kwargs: Any) -> None:
        pass

    async def _stop_services(self) -> None:
        pass


class Watch(SchedulerPlugin):
    """See which tasks were root-ish when they were given to a worker."""

    def __init__(self, cluster: Cluster):
        self.cluster = cluster
        #: What the policy said of each task, the last time
        self.rootish: dict[Key, bool] = {}

    def update_graph(
        self, scheduler: Scheduler, *, tasks: list[Key], **kwargs: Any
    ) -> None:
        for key in tasks:
            if (layer := self.cluster.layers.get(key)) and layer.p2p:
                scheduler.tasks[key]._queueable = False

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        lost = scheduler.get_events(worker)[-1][1].get("lost-scattered-tasks")
        self.cluster.lost_data |= bool(lost)
        # One that retires is removed when it has nothing left to tell
        self.cluster.workers.pop(worker, None)

    def transition(
        self, key: Key, start: str, finish: str, *args: Any, **kwargs: Any
    ) -> None:
        counts = self.cluster.counts
        counts["transitions"] += 1
        if finish == "queued":
            counts["queued"] += 1
        if finish != "processing":
            return
        ts = self.cluster.scheduler.tasks[key]
        if self.rootish.get(key) and ts._queueable and self.cluster.queues:
            counts["root-ish sent"] += 1
            ws = ts.processing_on
            assert ws
            if self.cluster.free_slots(ws) < 0:
                # What is raised in a plugin is only logged
                self.cluster.faults.append(f"{key} is one too many on {ws.address}")


class Cluster(Simulation):
    """A scheduler, and workers and clients that pretend.

    Parameters
    ----------
    case
        What is to happen.
    counts
        What happens is counted here.
    """

    def __init__(self, case: Case, counts: Counter[str]):
        self.case = case
        self.counts = counts
        self.plans: list[Plan] = []
        for n, graph in enumerate(case.graphs):
            before = self.plans[-1] if n else None
            self.plans.append(Plan(n, graph, before, len(case.threads)))
        self.layers = {k: v for plan in self.plans for k, v in plan.layers.items()}
        self.values = {k: v for plan in self.plans for k, v in plan.values.items()}
        scheduler = _Scheduler(
            dashboard=False,
            validate=True,
            allowed_failures=case.allowed_failures,
            needs_workdir=False,
        )
        super().__init__(scheduler, self.layers.__getitem__)
        self.queues = not math.isinf(self.scheduler.WORKER_SATURATION)
        self.faults: list[str] = []
        self.watch = Watch(self)
        self.scheduler.add_plugin(self.watch)
        self._listen_to_verdicts()
        #: Workers that let messages wait
        self.deaf: set[SimulatedWorker] = set()
        #: Addresses of workers that ever did
        self.heard_late: set[str] = set()
        #: Whether scattered data were lost
        self.lost_data = False
        self.clients = [f"client-{n}" for n in range(NCLIENTS)]
        for name in self.clients:
            self._connect(name)
        self.failed: Counter[Key] = Counter()
        self.deaths: Counter[Key] = Counter()
        self.retiring: list[asyncio.Task[Any]] = []
        self.event = "start"

    def _listen_to_verdicts(self) -> None:
        rootish = self.watch.rootish

        class Heard(type(self.scheduler.rootish_policy)):  # type: ignore[misc]
            def verdict(self, ts: TaskState) -> Verdict:
                verdict: Verdict = super().verdict(ts)
                rootish[ts.key] = verdict.rootish
                return verdict

            def _like_the_last(
                self, ts: TaskState, facts: GroupFacts, marked: bool
            ) -> Verdict | None:
                """Weigh all inputs where a glance was enough."""
                verdict: Verdict | None = super()._like_the_last(ts, facts, marked)
                weighed = self._weigh(ts, facts, marked) if verdict else None
                if verdict is not weighed:
                    raise Fault(f"{ts} is {verdict} at a glance, and {weighed}")
                return verdict

        self.scheduler.rootish_policy = Heard(self.scheduler)

    # What happens

    async def play(self) -> None:
        """Do all steps, and bring what was begun to an end."""
        try:
            for n in range(self.case.start):
                self.do_join(n)
            for kind, *numbers in self.case.steps:
                self.counts["steps"] += 1
                getattr(self, f"do_{kind}")(*numbers)
                await self.settle()
            await self.recover()
            self.release_all()
            self.check_forgotten()
        finally:
            for task in self.retiring:
                task.cancel()
            await asyncio.gather(*self.retiring, return_exceptions=True)
            await self.scheduler.close()

    def did(self, event: str) -> None:
        self.event = event
        self.counts[f"event {event}"] += 1

    def _tell(self, op: str, **message: Any) -> None:
        """Give the scheduler a message of a worker or a client, and look at it."""
        super()._tell(op, **message)
        self.check()

    async def settle(self) -> None:
        """Let workers and clients read their messages, and retirement go on."""
        await self.wait()
        while self.hear():
            await self.wait()
        self.done()

    async def wait(self) -> None:
        """Let time pass, if anybody waits for it."""
        if self.retiring:
            await asyncio.sleep(0.05)
            self.event = "retire"
            self.check()

    def pick(self, n: int, things: Iterable[Any]) -> Any:
        things = list(things)
        return things[n % len(things)] if things else None

    def worker(self, n: int) -> SimulatedWorker | None:
        worker: SimulatedWorker | None = self.pick(n, self.workers.values())
        return worker

    # Steps: clients

    def do_submit(self, graph: int, client: int) -> None:
        """Submit a graph, perhaps again."""
        plan: Plan = self.pick(graph, self.plans)
        name = self.clients[client % NCLIENTS]
        self.did("submit again" if plan.outputs[0] in self.watch.rootish else "submit")
        self.counts["tasks"] += len(plan.tasks)
        graph_ = Graph(plan.tasks, plan.outputs, plan.order, plan.annotations)
        self.submit(graph_, name)
        self.check()

    def do_release(self, client: int, n: int) -> None:
        name = self.clients[client % NCLIENTS]
        if (key := self.pick(n, self.told[name])) is not None:
            self.did("release")
            self.release([key], name)

    def do_release_all(self, client: int) -> None:
        name = self.clients[client % NCLIENTS]
        if self.told[name]:
            self.did("release all")
            self.release(self.told[name], name)

    def do_cancel(self, client: int, n: int, force: bool) -> None:
        """Cancel one key, if the scheduler can.

        It cannot if the key has dependents that nobody wants: it would fail.
        """
        name = self.clients[client % NCLIENTS]
        keys = []
        for key in self.told[name]:
            ts = self.scheduler.tasks.get(key)
            if ts is not None and all(dts.who_wants for dts in _dependents(ts)):
                keys.append(key)
        if (key := self.pick(n, keys)) is not None:
            self.did("cancel")
            self._tell(
                "cancel-keys", keys=[key], client=name, force=force, reason="", msg=""
            )

    def do_retry(self, client: int) -> None:
        name = self.clients[client % NCLIENTS]
        tasks = self.scheduler.tasks
        keys = [k for k in self.told[name] if k in tasks and tasks[k].state == "erred"]
        # The scheduler cannot retry what has failed for more than one reason
        blamed = {id(ts.exception_blame) for ts in tasks.values() if ts.exception_blame}
        if keys and len(blamed) == 1:
            self.did("retry")
            self.scheduler.stimulus_retry(keys, name)
            self.check()

    def do_disconnect(self, client: int) -> None:
        """Lose a client, which connects again."""
        name = self.clients[client % NCLIENTS]
        self.did("disconnect")
        self.told[name].clear()
        self.scheduler.remove_client(name, stimulus_id="disconnect")
        self.scheduler.clients[name] = ClientState(name)
        self.check()

    def do_scatter(self, n: int, data: int, client: int) -> None:
        key = f"data-{data % NDATA}"
        name = self.clients[client % NCLIENTS]
        known = self.scheduler.tasks.get(key)
        worker = self.worker(n)
        # What is told to a worker and what is sent to it are in no order
        in_order = worker not in self.deaf
        if worker and in_order and (known is None or known.state == "memory"):
            self.did("scatter")
            nbytes = 10 ** (2 + 2 * (data % NDATA))
            self.scatter(key, self.values[key], nbytes, [worker], name)

    # Steps: the cluster

    def do_join(self, n: int) -> None:
        """Let a worker join that is not there."""
        threads = self.case.threads
        number = self.pick(
            n, [n for n in range(len(threads)) if address_of(n) not in self.workers]
        )
        if number is None:
            return
        self.did("join")
        resources = {} if number % 2 else {"R": 1}
        self.join(address_of(number), threads[number], resources)
        self.check()

    def _remove(self, n: int, expected: bool) -> None:
        if worker := self.worker(n):
            event = "die processing" if worker.jobs else "die"
            self.did("leave" if expected else event)
            if not expected:
                processing = self.scheduler.workers[worker.address].processing
                self.deaths.update(ts.key for ts in processing)
            self.leave(worker, expected)
            self.check()

    def do_die(self, n: int) -> None:
        self._remove(n, expected=False)

    def do_leave(self, n: int) -> None:
        self._remove(n, expected=True)

    def _status(self, n: int, before: Status, after: Status) -> None:
        workers = self.scheduler.workers.values()
        ws = self.pick(n, [ws for ws in workers if ws.status == before])
        if ws is not None:
            self.did("pause" if after == Status.paused else "resume")
            self._tell("worker-status-change", worker=ws.address, status=after.name)

    def do_pause(self, n: int) -> None:
        self._status(n, Status.running, Status.paused)

    def do_resume(self, n: int) -> None:
        self._status(n, Status.paused, Status.running)

    def do_retire(self, n: int) -> None:
        """Retire a worker: it goes when others have what it has."""
        workers = self.scheduler.workers.values()
        ws = self.pick(n, [ws for ws in workers if ws.status == Status.running])
        if ws is not None:
            self.did("retire")
            retire = self.scheduler.retire_workers(
                [ws.address], stimulus_id="retire", close_workers=False
            )
            self.retiring.append(asyncio.ensure_future(retire))

    def do_deaf(self, n: int) -> None:
        """Let messages to a worker wait, or let it read them."""
        if worker := self.worker(n):
            self.did("hears late")
            self.deaf ^= {worker}
            self.heard_late.add(worker.address)

    def do_lose(self, n: int, data: int) -> None:
        """Let a worker give up a result that others have, too."""
        if not (worker := self.worker(n)):
            return
        # No worker gives up what its tasks need
        ws = self.scheduler.workers[worker.address]
        needed = {dts.key for ts in ws.processing for dts in ts.dependencies}
        spare = {dts.key for dts in ws.has_what if len(dts.who_has) > 1} - needed
        key = self.pick(data, [key for key in worker.data if key in spare])
        if key is not None:
            self.did("lose")
            self._drop(worker, key)
            self._tell("release-worker-data", key=key, worker=worker.address)

    def do_steal(self) -> None:
        if extension := self.scheduler.extensions.get("stealing"):
            self.did("balance")
            extension.balance()
            self.check()

    def do_tidy(self) -> None:
        """Let the active memory manager drop what is there twice."""
        self.did("drop replicas")
        self.scheduler.extensions["amm"].run_once()
        self.check()

    # Steps: tasks

    def do_run(self, n: int, number: int) -> None:
        """Let a worker run some tasks, in order."""
        worker = self.worker(n)
        if not worker or self.scheduler.workers[worker.address].status == Status.paused:
            return
        for _ in range(1 + number):
            jobs = sorted(worker.jobs.values(), key=lambda job: job.priority)
            if not any(self.run_task(worker, job) for job in jobs):
                break
            self.hear()

    def do_finish(self, n: int, number: int) -> None:
        """Let a worker run one of its tasks."""
        if (worker := self.worker(n)) and worker.jobs:
            self.run_task(worker, self.pick(number, worker.jobs.values()))

    def do_secede(self, n: int, number: int) -> None:
        """Let a task run for long, beside others."""
        if worker := self.worker(n):
            jobs = (job for job in worker.jobs.values() if not job.seceded)
            if (job := self.pick(number, jobs)) is not None:
                self.did("secede")
                job.seceded = True
                self._tell(
                    "long-running",
                    key=job.key,
                    worker=worker.address,
                    run_id=job.message["run_id"],
                    compute_duration=self.layers[job.key].seconds,
                )

    def do_reschedule(self, n: int, number: int) -> None:
        """Let a task ask to be run elsewhere."""
        if (worker := self.worker(n)) and worker.jobs:
            self.did("reschedule")
            key = self.pick(number, worker.jobs)
            del worker.jobs[key]
            self._tell("reschedule", key=key, worker=worker.address)

    # Workers

    def hear(self) -> bool:
        """Let workers read their messages; return whether there were any."""
        any_ = False
        for worker in list(self.workers.values()):
            while worker.mailbox.messages and worker not in self.deaf:
                any_ = True
                super()._read(worker)
        return any_

    def _read(self, worker: SimulatedWorker) -> None:
        """Let messages wait until the case lets workers read them."""

    def _accept(self, worker: SimulatedWorker, job: Job) -> None:
        """Let a task wait until the case lets it run."""

    def _proceed(self, worker: SimulatedWorker) -> None:
        """Let everything wait for the case."""

    def _report(self, worker: SimulatedWorker, op: str, **message: Any) -> None:
        """Tell the scheduler at once."""
        if op == "steal-response" and message["state"] == "ready":
            self.did("steal")
        self._tell(op, worker=worker.address, **message)

    def _has_begun(self, worker: SimulatedWorker, job: Job) -> bool:
        """Whether a task has a thread, or has given it back."""
        return job.seceded or job in [*worker.jobs.values()][: worker.threads]

    def _compute(self, worker: SimulatedWorker, job: Job) -> Any:
        """Run the function of a task."""
        inputs = {key: worker.data[key] for key in job.message["who_has"]}
        return job.message["run_spec"].data(inputs)

    def _want(
        self, worker: SimulatedWorker, key: Key, holders: Iterable[str], *args: Any
    ) -> None:
        """Fetch a copy at once."""
        self.fetch(worker, key, holders)

    def fetch(self, worker: SimulatedWorker, key: Key, holders: Iterable[str]) -> bool:
        """Move a result to a worker; return whether it has it then."""
        if key in worker.data:
            return True
        if holder := self._holder(key, holders):
            self._hold(worker, key, holder.data[key])
            self.counts["transfers"] += 1
            self._report(worker, "add-keys", keys=[key])
        return bool(holder)

    def run_task(self, worker: SimulatedWorker, job: Job) -> bool:
        """Run a task, if its inputs can be had; return whether it was run."""
        if not all(
            self.fetch(worker, key, holders)
            for key, holders in job.message["who_has"].items()
        ):
            return False
        if self.failed[job.key] < self.layers[job.key].fails:
            self.fail(worker, job)
        else:
            self._finish(worker, job)
        return True

    def _finish(self, worker: SimulatedWorker, job: Job, start: float = 0.0) -> None:
        self.did("finish")
        super()._finish(worker, job, start)

    def fail(self, worker: SimulatedWorker, job: Job) -> None:
        """Report that a task has failed."""
        self.did("fail")
        if self.layers[job.key].fails < ALWAYS:
            self.failed[job.key] += 1
        del worker.jobs[job.key]
        self._report(
            worker,
            "task-erred",
            key=job.key,
            run_id=job.message["run_id"],
            exception=_EXCEPTION,
            exception_text="planned",
            traceback=None,
            traceback_text="",
        )

    # What must hold

    def free_slots(self, ws: WorkerState) -> int:
        """Return how many root-ish tasks a worker may be given."""
        slots = max(math.ceil(self.case.saturation * ws.nthreads), 1)
        return slots - len(ws.processing) + len(ws.long_running)

    def check(self) -> None:
        """Look at everything after a call of the scheduler.

        Raises
        ------
        Fault
            If something does not hold.
        """
        self.counts["checks"] += 1
        s = self.scheduler
        try:
            s.validate_state()
        except AssertionError as e:
            # A message may be a tuple
            [*args] = e.args[0] if e.args and isinstance(e.args[0], tuple) else e.args
            line = traceback.extract_tb(e.__traceback__)[-1].line or ""
            if self.lost_data and ("needs_what" in line or "occupancy" in line):
                raise Known from None
            failed = any(ts.exception_blame for ts in s.tasks.values())
            if failed and "waiting on released dep" in args[:1]:
                # For it is not run, since an input of its own is in error
                raise Known from None
            raise Fault(
                f"after {self.event}: the scheduler's own validation: {e}"
            ) from e
        if self.faults:
            raise Fault(f"after {self.event}: {self.faults}")
        for problem in self.problems():
            raise Fault(f"after {self.event}: {problem}")

    def problems(self) -> Iterator[str]:
        """Yield what does not hold, one sentence each."""
        s = self.scheduler
        queued = set()
        for ts in s.tasks.values():
            if ts.exception_blame and ts.state not in ("erred", "released"):
                raise Known
            if ts.state == "queued":
                queued.add(ts)
                if ts.actor or not ts._queueable or not self.queues:
                    yield f"{ts} must not be queued"
            elif ts.state == "released" and (ts.who_wants or ts.waiters):
                if any(dts.state == "erred" for dts in ts.dependencies):
                    raise Known
                yield f"{ts} is wanted, and not on its way"
            elif ts.state == "no-worker":
                fit = [ws for ws in s.running if self.may_run(ts, ws)]
                if fit:
                    yield f"{ts} is stranded: {fit[0].address} may run it"
            elif (
                ts.state == "processing"
                and ts.processing_on.address not in self.workers
            ):
                yield f"{ts} is stranded on a worker that is gone"
        if queued != set(s.queued):
            yield f"queued are {queued}, and in the queue {set(s.queued)}"
        if not self.queues:
            return
        free = {ws for ws in s.running if self.free_slots(ws) > 0}
        if free != s.idle_task_count:
            yield f"free are {free}, and known as free {s.idle_task_count}"
        if free and queued:
            self.counts[f"queued beside a free worker after {self.event}"] += 1
            if isinstance(s.queued, RootishQueue):
                if s.queued.choose():
                    yield f"{len(queued)} tasks are queued, and free are {free}"
                elif not any(ws.processing for ws in s.workers.values()):
                    self.counts["stranded"] += len(queued)
                    yield f"stranded in the queue, with nothing under way: {queued}"
            elif self.event in _FILL_SLOTS:
                yield f"{len(queued)} tasks are queued, and free are {free}"
            # Then the next task that ends, wherever, fills the slots
            elif not any(ws.processing for ws in s.workers.values()):
                self.counts["stranded"] += len(queued)
                yield f"stranded in the queue, with nothing under way: {queued}"
        if isinstance(s.queued, RootishQueue):
            yield from self.problems_of_queue(s.queued)

    def problems_of_queue(self, queue: RootishQueue) -> Iterator[str]:
        """Yield what is wrong in the books of the queue."""
        places: Counter[Any] = Counter()
        for lane in queue.lanes():
            for some in (*lane.lines(), *lane.families()):
                tasks = list(some.tasks())
                places.update(tasks)
                if tasks and some.head() is not min(tasks, key=priority_of):
                    yield f"a {type(some).__name__} is not in order"
            if lane.count < 0 or not (lane.count or lane is queue.open):
                yield f"a lane has {lane.count} tasks"
        for ts in queue:
            if places[ts] != 1:
                yield f"{ts} is {places[ts]} times in the queue"

    def may_run(self, ts: TaskState, ws: WorkerState) -> bool:
        """Whether a task in ``no-worker`` may be run by a worker.

        The base lets such a task wait for the workers that it was restricted to, even
        if others would do.
        """
        only = ts.worker_restrictions
        if only and ws.address not in only:
            return False
        needed = ts.resource_restrictions or {}
        return all(ws.resources.get(name, 0) >= n for name, n in needed.items())

    # The end

    async def recover(self) -> None:
        """Let all workers be well, and work until nothing is left to do."""
        self.event = "recovery"
        self.deaf.clear()
        await self.settle()
        while self.retiring:
            self.retiring = [task for task in self.retiring if not task.done()]
            await self.settle()
            # What it waits for may be that a task ends
            self.work()
        for ws in list(self.scheduler.workers.values()):
            if ws.status == Status.paused:
                self._tell("worker-status-change", worker=ws.address, status="running")
        while len(self.workers) < len(self.case.threads):
            self.do_join(0)
        await self.settle()
        while self.work():
            await self.settle()
        await self.settle()
        self.event = "recovery"
        left = [ts for ts in self.scheduler.tasks.values() if ts.state in _UNDER_WAY]
        if left:
            self.counts["stranded"] += len(left)
            raise Fault(f"stranded at the end: {left}")
        self.check_results()

    def work(self) -> bool:
        """Let every worker run what it can; return whether anything was run."""
        any_ = False
        for worker in list(self.workers.values()):
            for job in list(worker.jobs.values()):
                if worker.jobs.get(job.key) is job and self.run_task(worker, job):
                    any_ = True
                    self.hear()
        return any_

    def check_results(self) -> None:
        """Compare with what is to come out, and with what clients were told."""
        s = self.scheduler
        for name in self.clients:
            wanted = {ts.key for ts in s.clients[name].wants_what}
            if wanted != set(self.told[name]):
                raise Fault(f"{name} wants {set(self.told[name])}, known is {wanted}")
            for key, state in self.told[name].items():
                ts = s.tasks[key]
                if ts.state != state:
                    raise Fault(f"{name} was told that {key!r} is {state}: {ts}")
                if state == "erred":
                    self.counts["results: failed"] += 1
                    self.check_blame(ts.exception_blame)
                else:
                    self.counts["results: right"] += 1
        for ts in s.tasks.values():
            holders = ts.who_has or ()
            for ws in holders:
                value = self.workers[ws.address].data.get(ts.key)
                late = ws.address in self.heard_late
                if late and value is None and len(holders) > 1:
                    # It told of a copy that it was to free by then
                    raise Known
                if value != self.values[ts.key]:
                    raise Fault(f"{ts.key!r} on {ws.address} is {value}")

    def check_blame(self, ts: TaskState) -> None:
        """Whether a task was bound to fail, or its workers died."""
        planned = self.layers[ts.key].fails
        if not planned and self.deaths[ts.key] <= self.case.allowed_failures:
            raise Fault(f"{ts} has failed for no reason")

    def release_all(self) -> None:
        """Let clients release what they want."""
        self.event = "release of everything"
        for name in self.clients:
            self.release(self.told[name], name)
        self.hear()

    def check_forgotten(self) -> None:
        """Whether nothing is kept of tasks that nobody wants.

        Raises
        ------
        Fault
            If something is.
        """
        s = self.scheduler
        kept: dict[str, Any] = {
            "tasks": s.tasks,
            "groups": s.task_groups,
            "queue": list(s.queued),
            "no-worker": s.unrunnable,
            "replicated": s.replicated_tasks,
            "processing": {ts for ws in s.workers.values() for ts in ws.processing},
            "data": [key for worker in self.workers.values() for key in worker.data],
        }
        if isinstance(s.queued, RootishQueue):
            for lane in s.queued.lanes():
                kept["lines"] = list(lane.lines())
                kept["families"] = [*lane.next, *lane.begun]
        for name, things in kept.items():
            if things and not (self.lost_data and name in ("tasks", "groups")):
                raise Fault(f"{name} kept after all is released: {things}")
        if s.tasks:
            raise Known
        if s.total_occupancy:
            raise Fault(f"occupancy of {s.total_occupancy} with nothing to do")


def _dependents(ts: TaskState) -> set[TaskState]:
    """Return all that depends on a task."""
    found: set[TaskState] = set()
    stack = [ts]
    while stack:
        new = stack.pop().dependents - found
        found |= new
        stack += new
    return found


_UNDER_WAY = ("waiting", "queued", "processing", "no-worker")
#: Events after which the scheduler gives queued tasks to workers that are free
_FILL_SLOTS = {
    "cancel",
    "die",
    "die processing",
    "disconnect",
    "fail",
    "finish",
    "join",
    "leave",
    "release",
    "release all",
    "release of everything",
    "resume",
    "secede",
}
_EXCEPTION = Serialized(*serialize(ValueError("planned")))


def _last_function(error: BaseException) -> str:
    return traceback.extract_tb(error.__traceback__)[-1].name


def settings_of(case: Case) -> dict[str, Any]:
    """Return the configuration for a case."""
    return {
        "distributed.scheduler.rootish-policy": case.policy,
        "distributed.scheduler.rootish-co-assignment": case.co_assignment,
        "distributed.scheduler.worker-saturation": case.saturation,
        # It keeps tasks that are forgotten, and the queue of the base may give them out
        "distributed.scheduler.work-stealing": case.stealing
        and case.co_assignment
        and case.policy == "producers",
        "distributed.scheduler.active-memory-manager.start": False,
        "distributed.scheduler.http.routes": [],
        "distributed.admin.system-monitor.disk": False,
    }


def play(case: Case, counts: Counter[str] | None = None) -> Counter[str]:
    """Play a case.

    Parameters
    ----------
    case
        What is to happen.
    counts
        Counts to go on with.

    Returns
    -------
    Counter
        How many tasks, events of each kind, and so on, there were.

    Raises
    ------
    Fault
        If something does not hold.
    """
    counts = Counter() if counts is None else counts
    counts["cases"] += 1
    # In which an hour takes no time
    selector = _Selector()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]

    clusters: list[Cluster] = []

    async def run() -> None:
        clusters.append(Cluster(case, counts))
        await clusters[0].play()

    try:
        with dask.config.set(settings_of(case)):
            loop.run_until_complete(run())
    except Known:
        counts["ended by a known fault of the base"] += 1
    except AssertionError as error:
        # It is asked for a task that depends on one in error, or cancels one twice
        known = ["_transition_released_waiting", "stimulus_cancel"]
        if not case.allowed_failures:
            # What has died with its worker is in memory again
            known.append("_transition_memory_erred")
        tasks = clusters[0].scheduler.tasks.values()
        if any(ts.state == "erred" for ts in tasks):
            # A task that others wait for is left behind
            known.append("validate_released")
        if _last_function(error) not in known:
            raise
        counts["ended by a known fault of the base"] += 1
    except KeyError as error:
        # What was to be tried again is forgotten, as its scattered data are
        scatters = any(step[0] == "scatter" for step in case.steps)
        if _last_function(error) != "stimulus_retry" or not scatters:
            raise
        counts["ended by a known fault of the base"] += 1
    finally:
        loop.close()
    return counts


def quiet() -> None:
    """Let the scheduler say nothing: workers that come and go are many lines."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)
