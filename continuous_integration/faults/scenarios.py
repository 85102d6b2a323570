"""The scenarios: what goes wrong, and how it is known that it did.

Nothing here waits for a time: workers wait at gates until what they are to wait for was
seen by the scheduler, and the scheduler kills at a transition.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import operator
import socket
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import psutil

from continuous_integration.benchmarks.measure import without_marks
from continuous_integration.faults import storage
from continuous_integration.faults.run import (
    Fault,
    Recorder,
    Run,
    Scenario,
    Setting,
    config,
    is_chunk,
)
from continuous_integration.faults.storage import (
    CHUNKS,
    FILES,
    LOOK,
    MEANWHILE,
    REPAIRED,
    STEPS,
    Calm,
    Chunk,
    Fails,
    Notes,
    Stages,
    Swells,
)
from distributed import Client, Nanny, Scheduler
from distributed.utils import get_mp_context, silence_logging_cmgr

if TYPE_CHECKING:
    from distributed.scheduler import TaskState

SCENARIOS: dict[str, Scenario] = {}

_Play = Callable[[Run], Any]


def scenario(name: str, **must: int) -> Callable[[_Play], _Play]:
    """Register the decorated function as a scenario.

    Parameters
    ----------
    name
        Name on the command line.
    **must
        What must be seen at least how often, with underscores for blanks.
    """

    def register(play: _Play) -> _Play:
        events = {what.replace("_", " "): least for what, least in must.items()}
        SCENARIOS[name] = Scenario(name, play, events)
        return play

    return register


@scenario("undisturbed", chunks_read=CHUNKS)
def undisturbed(run: Run) -> Any:
    """Nothing goes wrong."""
    with run.cluster():
        run.submit(Calm(run.notes))
        result = run.result()
        run.seen["chunks read"] = run.recorder.loaded.total()
    return result


def reference(setting: Setting) -> Any:
    """Return the result of an undisturbed run.

    Parameters
    ----------
    setting
        Under what.

    Raises
    ------
    Fault
        If it is not what the files have.
    """
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        result = undisturbed(Run(setting, Notes(Path(folder))))
    if not np.array_equal(result, storage.true_result(setting.data)):
        raise Fault("the result of the undisturbed run is wrong")
    return result


# -- Workers that are killed ---------------------------------------------------------


@scenario(
    "killed-reading", killed_while_reading=3, restarted_by_a_nanny=3, read_again=3
)
def killed_reading(run: Run) -> Any:
    """Three workers are killed while they read, one after the other."""
    stops = tuple(n * CHUNKS // 6 for n in (1, 3, 5))
    interrupted: list[tuple[Chunk, int]] = []
    run.notes.open(0)
    with run.cluster():
        run.submit(Stages(run.notes, stops))
        for stage in (1, 2, 3):
            pids = partial(run.notes.pids, "stage", stage)
            run.until("a read", pids)
            pid = pids()[0]
            address = run.address(pid)
            if not (chunks := _being_read(run, pid)):
                raise Fault(f"{address} reads, and the scheduler does not know")
            psutil.Process(pid).kill()
            run.seen["killed while reading"] += 1
            interrupted += [(chunk, pid) for chunk in chunks]
            run.until(
                "the loss of the worker",
                partial(operator.contains, run.recorder.removed, address),
            )
            _await_workers(run, 2)
            run.seen["restarted by a nanny"] += 1
            run.notes.open(stage)
        result = run.result()
        run.seen["reads cut off"] = len(interrupted)
        for chunk, pid in interrupted:
            run.seen["read again"] += run.notes.pids("read", chunk)[-1] != pid
        if run.seen["read again"] != len(interrupted):
            raise Fault("a read was cut off, and nobody read that chunk again")
    return result


def _being_read(run: Run, pid: int) -> list[Chunk]:
    """Return the chunks that a process reads, by its notes and by the scheduler."""

    def given(scheduler: Scheduler) -> list[Any]:
        ws = scheduler.workers[run.address(pid)]
        return [ts.key for ts in ws.processing if is_chunk(ts.key)]

    chunks = map(Chunk.of, run.ask(given))
    return [chunk for chunk in chunks if pid in run.notes.pids("read", chunk)]


def _await_workers(run: Run, number: int, *, after_end: bool = False) -> None:
    run.until(
        f"{number} workers",
        lambda: run.ask(lambda scheduler: len(scheduler.workers)) == number,
        after_end=after_end,
    )


class Killer:
    """Kill workers when they have brought in chunks that are still needed.

    The scheduler calls it at the transition: nothing has been told to use the
    chunk yet.

    Parameters
    ----------
    counts
        After so many chunks, one time after the other.
    everyone
        Kill not only the worker that brought in the last one.
    """

    def __init__(self, *counts: int, everyone: bool = False):
        self.counts = list(counts)
        self.everyone = everyone
        self.loads = 0
        self.killed: list[str] = []
        #: Chunks that were held by those who were killed, and needed
        self.lost: list[Any] = []
        #: Everything else that they held and that was needed
        self.lost_others = 0

    def __call__(self, scheduler: Scheduler, ts: TaskState) -> None:
        self.loads += 1
        [holder] = ts.who_has or [None]
        if (
            not self.counts
            or self.loads < self.counts[0]
            or holder is None
            or holder.address in self.killed
        ):
            return
        del self.counts[0]
        for ws in list(scheduler.workers.values()) if self.everyone else [holder]:
            if ws.address in self.killed:
                continue
            psutil.Process(ws.pid).kill()
            self.killed.append(ws.address)
            needed = [t.key for t in ws.has_what if t.waiters or t.who_wants]
            self.lost += filter(is_chunk, needed)
            self.lost_others += sum(not is_chunk(key) for key in needed)


def _killed_holding(run: Run, killer: Killer) -> Any:
    with run.cluster():
        run.recorder.on_load = killer
        run.submit(Stages(run.notes, (CHUNKS * 5 // 8,)))
        run.notes.open(0)
        if killer.everyone:
            # Lest the second time comes when not all of them are back
            run.until("the loss of all", lambda: len(run.recorder.removed) == 2)
            _await_workers(run, 2)
        run.notes.open(1)
        result = run.result()
        _await_workers(run, 2, after_end=True)
        again = run.recorder.loaded
        run.seen["killed while holding"] = len(killer.killed)
        run.seen["chunks lost"] = len(killer.lost)
        run.seen["other results lost"] = killer.lost_others
        run.seen["read again"] = sum(again[key] - 1 for key in set(killer.lost))
        run.seen["read in vain"] = again.total() - CHUNKS
        run.seen["restarted by a nanny"] = len(run.recorder.pids) - 2
        for key, times in Counter(killer.lost).items():
            if again[key] <= times:
                raise Fault(f"{key} was lost {times} times and read {again[key]} times")
    return result


@scenario(
    "killed-holding",
    killed_while_holding=3,
    chunks_lost=3,
    read_again=3,
    restarted_by_a_nanny=3,
)
def killed_holding(run: Run) -> Any:
    """Three workers are killed while they hold chunks, one after the other."""
    return _killed_holding(run, Killer(*(n * CHUNKS // 4 for n in (1, 2, 3))))


@scenario(
    "killed-all",
    killed_while_holding=4,
    chunks_lost=2,
    read_again=2,
    restarted_by_a_nanny=4,
)
def killed_all(run: Run) -> Any:
    """All workers are killed at once, twice."""
    counts = CHUNKS // 2, CHUNKS
    return _killed_holding(run, Killer(*counts, everyone=True))


# -- Workers without memory ----------------------------------------------------------

#: Memory limit of a worker; it begins with some 200 MB.
LIMIT = 640 * 10**6


@scenario("over-memory", restarted_for_memory=1, read_again=1)
def over_memory(run: Run) -> Any:
    """A worker exceeds its memory limit while it reads, and its nanny restarts it."""
    chunk = Chunk.numbered(CHUNKS // 2)
    with run.cluster(memory_limit=LIMIT):
        run.notes.open(MEANWHILE)
        run.submit(Swells(run.notes, chunk, LIMIT))
        result = run.result()
        _await_workers(run, 2, after_end=True)
        [pid] = run.notes.pids("swelling", chunk)
        events = run.client.get_events("worker-restart-memory")
        run.seen["restarted for memory"] = sum(e["pid"] == pid for _, e in events)
        if run.address(pid) not in run.recorder.removed:
            raise Fault("the worker that exceeded its memory is still there")
        run.seen["read again"] = len(run.notes.pids("read", chunk)) - 1
    return result


@scenario("paused", paused=1, went_on=1, read_by_others_meanwhile=CHUNKS // 3)
def paused(run: Run) -> Any:
    """A worker pauses for lack of memory while it reads, and goes on later."""
    chunk = Chunk.numbered(CHUNKS // 2)

    def status(scheduler: Scheduler) -> str:
        ws = scheduler.workers[address]
        return ws.status.name

    with run.cluster(memory_limit=LIMIT):
        # Between where it pauses and where it is restarted
        run.submit(Swells(run.notes, chunk, int(0.87 * LIMIT)))
        run.until("a read that takes memory", lambda: run.notes.pids("swollen", chunk))
        [pid] = run.notes.pids("swollen", chunk)
        address = run.address(pid)
        run.until("a pause", lambda: run.ask(status) == "paused")
        run.seen["paused"] += 1
        # It has been given three reads at most
        run.notes.open(MEANWHILE)
        before = run.recorder.loaded.total()
        run.until(
            "the reads of others",
            lambda: run.recorder.loaded.total() >= CHUNKS - 3,
        )
        run.seen["read by others meanwhile"] = run.recorder.loaded.total() - before
        run.notes.open(chunk)
        result = run.result()
        run.until(
            "the end of the pause", lambda: run.ask(status) == "running", after_end=True
        )
        run.seen["went on"] += 1
    return result


# -- Storage that fails --------------------------------------------------------------


@scenario("flaky-storage", reads_failed=30, read_after_a_failure=20)
def flaky_storage(run: Run) -> Any:
    """Storage fails now and then, once or twice for a chunk, and then answers."""
    step = CHUNKS // 20
    times = {Chunk.numbered(n * step): 1 + n % 2 for n in range(20)}
    with run.cluster():
        run.submit(Fails(run.notes, times), retries=2)
        result = run.result()
        for chunk, failures in times.items():
            failed = len(run.notes.pids("failed", chunk))
            run.seen["reads failed"] += failed
            run.seen["read after a failure"] += run.recorder.loaded[chunk.key] > 0
            if failed != failures:
                raise Fault(f"{chunk} failed {failed} times instead of {failures}")
    return result


@scenario(
    "broken-storage",
    reads_failed=3,
    errors_that_name_file_and_key=1,
    results_of_other_files=FILES - 1,
    repaired=1,
)
def broken_storage(run: Run) -> Any:
    """Storage stays broken for a chunk: its file fails, no other, until repaired."""
    broken = Chunk(FILES // 2, STEPS // 2)
    with run.cluster():
        parts = storage.arrays(run.setting.data, Fails(run.notes, {broken: 10**6}))
        futures = run.client.compute([storage.reduce([p]) for p in parts], retries=2)
        for run.future in futures:
            run.until("an answer for each file", run.future.done)
        run.seen["reads failed"] = len(run.notes.pids("failed", broken))

        error = futures[broken.file].exception()
        file = run.setting.data / f"{broken.file:02}.zarr" / f"c/{broken.step}/0/0"
        [blame] = run.ask(
            lambda s: {
                ts.exception_blame.key
                for ts in s.tasks.values()
                if ts.exception_blame is not None
            }
        )
        if not isinstance(error, OSError) or error.filename != str(file):
            raise Fault(f"the error does not name {file}: {error!r}")
        if blame != broken.key:
            raise Fault(f"{broken.key} failed, and the scheduler blames {blame}")
        run.seen["errors that name file and key"] += 1
        others = [f for f in futures if f is not futures[broken.file]]
        run.seen["results of other files"] = sum(f.status == "finished" for f in others)
        if len(run.recorder.pids) != 2 or run.recorder.removed:
            raise Fault("a worker was lost, too")
        if again := {k: n for k, n in run.recorder.loaded.items() if n > 1}:
            raise Fault(f"read more than once: {again}")

        run.notes.open(REPAIRED)
        # While it is remembered, it would be given as the answer
        futures[broken.file].release()
        run.until(
            "the error to be forgotten",
            lambda: run.ask(lambda s: broken.key not in s.tasks),
            after_end=True,
        )
        run.future = run.client.compute(storage.reduce([parts[broken.file]]))
        run.result()
        futures[broken.file] = run.future
        run.seen["repaired"] += 1
        results = run.client.gather(futures)
    return np.concatenate([*(r[:-1] for r in results), [sum(r[-1] for r in results)]])


# -- The cluster changes -------------------------------------------------------------


@scenario(
    "adaptive",
    scaled_up_from_0_to_8=1,
    scaled_down_to_1_while_reading=1,
    scaled_up_to_4=1,
)
def adaptive(run: Run) -> Any:
    """The cluster adapts from 0 to 8, to 1 and to 4 workers, while they read."""
    trouble = Stages(run.notes, (0, CHUNKS // 4, CHUNKS // 2))

    def adapt(minimum: int, maximum: int) -> None:
        run.local.adapt(
            minimum=minimum,
            maximum=maximum,
            interval="50ms",
            wait_count=1,
            target_duration="100ms",
        )

    def readers(stage: int) -> int:
        """Count the workers that wait with a chunk of a stage."""
        alive = run.ask(lambda s: {ws.pid for ws in s.workers.values()})
        return len(alive & set(run.notes.pids("stage", stage)))

    with run.cluster(workers=0, threads=1):
        if run.ask(lambda s: len(s.workers)):
            raise Fault("there are workers already")
        run.bound(8, 1)
        run.submit(trouble)
        adapt(0, 8)
        _await_workers(run, 8)
        run.until("reads by 8 workers", lambda: readers(1) == 8)
        run.seen["scaled up from 0 to 8"] += 1
        run.notes.open(1)

        run.until("more reads by 8 workers", lambda: readers(2) == 8)
        adapt(1, 1)
        _await_workers(run, 1)
        run.seen["scaled down to 1 while reading"] += 1
        run.end_part()
        run.bound(1, 1, more=run.ask(_managed))
        run.notes.open(2)

        run.until("a read by the last worker", lambda: readers(3) == 1)
        run.end_part()
        run.bound(4, 1, more=run.ask(_managed))
        adapt(4, 4)
        _await_workers(run, 4)
        run.until("reads by 4 workers", lambda: readers(3) == 4)
        run.seen["scaled up to 4"] += 1
        run.notes.open(3)
        result = run.result()
    return result


def _managed(scheduler: Scheduler) -> int:
    return sum(ws.nbytes for ws in scheduler.workers.values())


# -- The scheduler is started again, with another policy -----------------------------


def _serve(policy: str, port: int, notes: Notes, stop: str) -> None:
    """Run a scheduler in this process until a gate is opened, or the parent is gone.

    Parameters
    ----------
    policy
        Value of ``distributed.scheduler.rootish-policy``.
    port
        Where it listens.
    notes, stop
        The gate.
    """

    async def serve() -> None:
        parent = multiprocessing.parent_process()
        assert parent
        async with Scheduler(host="127.0.0.1", port=port, dashboard_address=":0"):
            while parent.is_alive() and not notes.is_open(stop):
                await asyncio.sleep(LOOK)

    with silence_logging_cmgr(logging.CRITICAL), dask.config.set(config(policy)):
        asyncio.run(serve())


@contextlib.contextmanager
def _scheduler(*arguments: Any) -> Iterator[Any]:
    """Run a scheduler in a process of its own, which is killed at the end."""
    process = get_mp_context().Process(target=_serve, args=arguments)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


@contextlib.contextmanager
def _workers(client: Client, address: str, number: int, threads: int) -> Iterator[None]:
    """Run workers, each with a process and a nanny; the nannies are in this process."""

    async def start() -> list[Nanny]:
        nannies = [
            Nanny(
                address,
                nthreads=threads,
                memory_limit=0,
                silence_logs=logging.CRITICAL,
            )
            for _ in range(number)
        ]
        return await asyncio.gather(*nannies)

    async def close() -> None:
        await asyncio.gather(*(nanny.close() for nanny in nannies))

    nannies = client.sync(start)
    try:
        yield
    finally:
        client.sync(close)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def _is_dead(process: Any) -> bool:
    return not process.is_alive()


def _policy(dask_scheduler: Scheduler) -> str:
    return dask_scheduler.rootish_policy.name


def _peak(dask_scheduler: Scheduler) -> int:
    recorder = dask_scheduler.plugins[Recorder.name]
    assert isinstance(recorder, Recorder)
    return recorder.peak_managed


def _take_down(run: Run, policy: str) -> None:
    """Take down the peak, unless the policy cannot know what to hold back."""
    if run.setting.marks or policy == "producers":
        run.end_part(run.client.run_on_scheduler(_peak))


#: Kept, lest the marks come back
_unmarked = without_marks()


def _strip_marks() -> None:
    _unmarked.__enter__()


@scenario(
    "restart",
    schedulers_killed=1,
    schedulers_stopped=1,
    other_policy=1,
    first_policy_again=1,
    futures_cancelled=2,
)
def restart(run: Run) -> Any:
    """The scheduler dies during a run, and starts again with another policy; twice.

    Workers go with it, as always, and are started again. The client stays, is told, and
    submits again.
    """
    first = run.setting.policy
    other = "marked" if first == "producers" else "producers"
    port = _free_port()
    address = f"tcp://127.0.0.1:{port}"
    trouble = Stages(run.notes, (CHUNKS // 3, 2 * CHUNKS // 3))
    run.notes.open(0)
    with contextlib.ExitStack() as client:
        client.enter_context(dask.config.set(config(first)))
        for stage, policy in enumerate((first, other, first)):
            with contextlib.ExitStack() as stack:
                stop = f"stop-{stage}"
                scheduler = stack.enter_context(
                    _scheduler(policy, port, run.notes, stop)
                )
                if stage == 0:
                    run.client = client.enter_context(Client(address))
                else:
                    run.until(
                        "the client to find the scheduler",
                        lambda: run.client.status == "running",
                        after_end=True,
                    )
                stack.enter_context(_workers(run.client, address, 2, 2))
                run.client.register_plugin(Recorder())
                if not run.setting.marks:
                    run.client.run_on_scheduler(_strip_marks)
                if (runs := run.client.run_on_scheduler(_policy)) != policy:
                    raise Fault(f"the scheduler has the policy {runs}, not {policy}")
                run.seen["other policy"] += stage == 1
                run.seen["first policy again"] += stage == 2
                run.bound(2, 2)
                run.submit(trouble)
                if stage == 2:
                    result = run.result()
                    _take_down(run, policy)
                    break
                run.until("a read", partial(run.notes.pids, "stage", stage + 1))
                _take_down(run, policy)
                if stage == 0:
                    scheduler.kill()
                    run.seen["schedulers killed"] += 1
                else:
                    run.notes.open(stop)
                    run.seen["schedulers stopped"] += 1
                run.until(
                    "the end of the scheduler",
                    partial(_is_dead, scheduler),
                    after_end=True,
                )
                run.until(
                    "the cancellation",
                    lambda: run.future.status == "cancelled",
                    after_end=True,
                )
                run.seen["futures cancelled"] += 1
                # Workers that are to stop wait for what they read
                run.notes.open(stage + 1)
    return result
