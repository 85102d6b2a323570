"""Loads wait beside handles that take long to make, or that cannot be sent."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
from dask import delayed

from distributed import Event, wait
from distributed.rootish.handles import place_beside
from distributed.rootish.lanes import Lane, beside
from distributed.rootish.policy import BESIDE, PRODUCER, Verdict
from distributed.rootish.queue import thieves
from distributed.rootish.tests.paper import Paper
from distributed.rootish.tests.utils import (
    CHUNK_NBYTES,
    FOUR_WORKERS,
    TWO_WORKERS,
    policy_cluster,
    watch,
)
from distributed.scheduler import TaskState
from distributed.utils_test import async_poll_for

#: Of two root-ish tasks on each worker, one runs
SLOTS = 2


# -- On paper ------------------------------------------------------------------------


def reads(
    s: Paper,
    number: int,
    opening: float,
    reading: float,
    kind: str | None = "netCDF4.Dataset",
) -> list[TaskState]:
    """Make reads through a handle that the first worker has opened."""
    handle = s.send(s.add("open", 0, nbytes=1))
    tasks = [s.add("read", n + 1, handle, nbytes=CHUNK_NBYTES) for n in range(number)]
    s.finish(handle, nbytes=100)
    handle.type = kind
    handle.prefix.duration_average = opening
    tasks[0].prefix.duration_average = reading
    return tasks


@pytest.mark.parametrize(
    ("kind", "reading", "beside"),
    [
        ("netCDF4.Dataset", 0.1, True),
        ("netCDF4.Dataset", 10, False),
        ("dict", 0.1, False),
        (None, 0.1, False),
        ("numpy.ndarray", 0.1, False),
    ],
)
def test_expensive_handle(kind: str | None, reading: float, beside: bool) -> None:
    """Reads wait beside a handle that takes longer to make than they do."""
    s = Paper(2)
    tasks = reads(s, 4, 1, reading, kind)
    home = s.queue.handles.home(tasks[0], {})
    assert (home is not None) is beside
    if home:
        assert home == (s.all[0], 1)
        patience = s.queue.handles.patience(home[1], tasks[0].prefix)
        assert patience == pytest.approx(1 / reading)
    s.enqueue(*tasks)
    assert (s.give(1) is None) is beside
    assert s.give(0)


@pytest.mark.parametrize("part", [0.9, 1.1])
def test_share_of_the_copies(part: float) -> None:
    """What copies to all workers cost is shared out among the reads."""
    s = Paper(4)
    reading = 3 * 1 / 10
    tasks = reads(s, 10, part, reading)
    assert (s.queue.handles.home(tasks[0], {}) is not None) is (part > 1)


@pytest.mark.parametrize("reading", [0.1, 10])
def test_nothing_is_known_of_the_reads(reading: float) -> None:
    """They wait beside a handle that took long to make, until it is known better."""
    s = Paper(2)
    tasks = reads(s, 8, 1, -1)
    s.enqueue(*tasks)
    assert s.give(1) is None
    assert s.give(0)
    tasks[0].prefix.duration_average = reading
    assert (s.give(1) is None) is (reading < 1)
    assert s.give(0)


@pytest.mark.parametrize("reading", [0.001, 0.1])
def test_reads_are_shorter_than_expected(reading: float) -> None:
    """Then they move beside a handle that did not take long to make."""
    s = Paper(2)
    tasks = reads(s, 8, 0.01, -1)
    s.enqueue(*tasks)
    assert s.give(1)
    tasks[0].prefix.duration_average = reading
    assert (s.give(1) is None) is (reading < 0.01)
    assert s.give(0)


@pytest.mark.parametrize("verdict", [PRODUCER, BESIDE])
def test_inputs_that_are_expensive_to_move(verdict: Verdict) -> None:
    """It is their size that counts then, and not how long the tasks take."""
    s = Paper(2)
    tasks = reads(s, 4, 0, 10, "numpy.ndarray")
    tasks[0].group.rootish_facts.verdict = verdict
    home = s.queue.handles.home(tasks[0], {})
    assert (home is not None) is (verdict is BESIDE)


@pytest.mark.parametrize("output", [2**20, 2**22])
def test_table_is_small_beside_what_is_read_with_it(output: int) -> None:
    """As soon as that is known, reads need not wait where it is."""
    s = Paper(8)
    table = s.send(s.add("table", 0))
    tasks = [s.add("read", n + 1, table) for n in range(100)]
    s.finish(table, nbytes=2**23)
    table.type = "numpy.ndarray"
    assert s.is_rootish(tasks[0])
    assert tasks[0].group.rootish_facts.verdict is BESIDE
    s.enqueue(*tasks)
    assert s.give(1) is None
    first = s.give(0)
    assert first is tasks[0]
    s.finish(first, nbytes=output)
    first.prefix.duration_average = 0.0005
    assert s.give(0)
    assert (s.give(1) is None) is (output == 2**20)


def test_what_has_its_place() -> None:
    """Tasks whose inputs take no time to make are not asked again, and none is kept."""
    s = Paper(2)
    s.enqueue(*reads(s, 8, 1, -1, "numpy.ndarray"))
    assert not s.queue.handles.unsure
    s = Paper(2)
    tasks = reads(s, 8, 0.01, -1)
    s.enqueue(*tasks)
    [prefix] = s.queue.handles.unsure
    assert prefix is tasks[0].prefix
    prefix.duration_average = 1
    assert not s.queue._place_again(prefix)
    assert not s.queue.handles.unsure
    s.queue.clear()
    prefix.duration_average = -1
    s.enqueue(tasks[0])
    assert s.queue.handles.unsure
    s.queue.clear()
    assert not s.queue.handles.unsure


def test_few_reads_on_many_workers() -> None:
    """A handle is made again by each that reads, not on each worker."""
    s = Paper(10)
    tasks = reads(s, 2, 1, 0.95)
    assert s.queue.handles.home(tasks[0], {}) is None


def test_others_help() -> None:
    """A worker takes reads beside another's handle if these are many.

    It has made the handle itself then, and goes on. No other has to make it as well.
    """
    s = Paper(4)
    tasks = reads(s, 20, 1, 0.1)
    spare = round(1 / 0.1)
    s.enqueue(*tasks)
    assert [s.give(1) for _ in tasks[spare:]] == tasks[:-spare]
    assert s.give(2) is None
    assert s.give(1)
    assert s.give(0)


@pytest.mark.parametrize("done", [True, False])
def test_who_has_helped_is_asked_first(done: bool) -> None:
    """Another worker would make the handle once more, though it is less busy."""
    s = Paper(4)
    tasks = reads(s, 20, 1, 0.1)
    s.enqueue(*tasks)
    _, one, other, _ = s.all
    first = s.give(1)
    assert first
    if done:
        [handle] = first.dependencies
        s.add_replica(handle, one)
        s.finish(first, nbytes=CHUNK_NBYTES)
        s.send(s.add("busy", 100), one)
    s.idle_task_count = {one, other}
    choice = s.queue.choose()
    assert choice
    assert choice.worker is one


def test_who_has_helped_has_another_handle() -> None:
    """It does not go on with reads for which it would have to make one more."""
    s = Paper(4)
    tasks = reads(s, 20, 1, 0.1)
    spare = round(1 / 0.1)
    [handle] = tasks[0].dependencies
    other = s.send(s.add("open", 100))
    s.finish(other, nbytes=100)
    other.type = handle.type
    for ts in tasks[-spare:]:
        ts.dependencies.discard(handle)
        handle.dependents.discard(ts)
        ts.add_dependency(other)
    s.enqueue(*tasks)
    assert [s.give(1) for _ in tasks[spare:]] == tasks[:-spare]
    assert s.give(1) is None


@pytest.mark.parametrize("first", [True, False])
def test_nobody_helps_with_what_cannot_be_sent(first: bool) -> None:
    """But with reads that wait beside another handle on the same worker."""
    s = Paper(4)
    tasks = reads(s, 20, 1, 0.1)
    lock = s.send(s.add("lock", 0))
    s.finish(lock, nbytes=100)
    lock.type = "threading.Lock"
    s.queue.handles.bound.add(("lock", lock.type))
    bound = [s.add("read", n + 100 - 200 * first, lock) for n in range(20)]
    s.enqueue(*bound, *tasks)
    s.enqueue(s.add("read", 1000, lock))
    assert s.give(1) is tasks[0]


def test_first_of_those_that_may_be_helped() -> None:
    """What waits beside another worker is left to it as long as the first has more."""
    s = Paper(4)
    tasks = reads(s, 24, 1, 0.1)
    [handle] = tasks[0].dependencies
    s.add_replica(handle, s.all[2])
    s.enqueue(*tasks)
    assert len(s.queue.restricted) == 2
    assert s.give(1) is tasks[0]


def test_nobody_helps_with_what_is_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    s = Paper(4)
    s.enqueue(*reads(s, 20, 1, 0.1))
    assert s.give(1)
    monkeypatch.setattr(Lane, "choose", lambda self, ws: None)
    assert s.offer(1) is None


def test_copies_share_the_reads() -> None:
    """Of several workers with a copy, each gets its part of what waits beside it."""
    s = Paper(3)
    tasks = reads(s, 10, 1, 0.1)
    [handle] = tasks[0].dependencies
    assert handle.who_has
    handle.who_has.add(s.all[2])
    s.enqueue(*tasks)
    lanes = s.queue.restricted
    assert {name: lane.count for name, lane in lanes.items()} == {
        beside(ws): 5 for ws in (s.all[0], s.all[2])
    }


def test_worker_of_a_handle_is_paused() -> None:
    """Reads do not wait for it: others make the handle again."""
    s = Paper(2)
    tasks = reads(s, 4, 1, 0.1)
    s.running.discard(s.all[0])
    s.enqueue(*tasks)
    assert s.give(1) is tasks[0]


@pytest.mark.parametrize("kind", ["worker", "host", "resource"])
def test_restricted_tasks_go_where_they_may(kind: str) -> None:
    """However long it takes to make the handle there."""
    s = Paper(2, resources=[{}, {"DISK": 9}])
    tasks = reads(s, 4, 1, 0.1)
    other = s.all[1]
    asked_for = {
        "worker": {other.address},
        "host": {other.host},
        "resource": {"DISK": 1},
    }
    for ts in tasks:
        setattr(ts, f"{kind}_restrictions", asked_for[kind])
    s.enqueue(*tasks)
    assert s.give(0) is None
    assert s.give(1)


FAILURE = {
    "exception": None,
    "exception_text": "TypeError('Could not serialize object of type Lock')",
    "traceback": None,
    "traceback_text": "",
}


@pytest.mark.parametrize("too_late", ["forgotten", "lost", "paused"])
def test_failure_is_told_too_late(too_late: str) -> None:
    """What has happened meanwhile has taken care of the tasks."""
    s = Paper(2)
    s.allowed_failures = 3
    lock = s.send(s.add("lock", 0))
    ts = s.add("read", 1, lock)
    s.finish(lock, nbytes=10)
    lock.type = "threading.Lock"
    s.send(ts, s.all[1])
    if too_late == "forgotten":
        del s.tasks[lock.key]
    elif too_late == "lost":
        s.move(lock, "released")
    else:
        s.running.discard(s.all[1])
    assert not s.queue.refuse(lock.key, s.all[1].address, "fetch", FAILURE)
    assert not s.queue.handles.bound


def test_fetches_that_fail_again_and_again() -> None:
    """Where it is not certain what is at fault, a task is sent so often and no more."""
    s = Paper(2)
    s.allowed_failures = 2
    table = s.send(s.add("table", 0))
    ts = s.add("read", 1, table)
    s.finish(table, nbytes=10)
    s.send(ts, s.all[1])
    failure = {**FAILURE, "exception_text": "AssertionError()"}
    told = [
        s.queue.refuse(table.key, s.all[1].address, f"fetch-{n}", failure)[ts.key]
        for n in range(3)
    ]
    assert told == ["waiting", "waiting", "erred"]
    assert ts.exception_blame is ts
    assert ts.exception_text == "AssertionError()"


def test_what_failed_with_it_is_not_bound() -> None:
    """Inputs that were asked for together fail together; one of them is at fault."""
    s = Paper(2)
    s.allowed_failures = 3
    lock, table = (s.send(s.add(name, n)) for n, name in enumerate(("lock", "table")))
    ts = s.add("read", 2, lock, table)
    s.finish(lock, table, nbytes=10)
    lock.type, table.type = "threading.Lock", "tables.Table"
    s.send(ts, s.all[1])
    queued = s.add("read", 3, lock)
    s.enqueue(queued)
    for dts in (table, lock):
        s.queue.refuse(dts.key, s.all[1].address, "fetch", FAILURE)
    assert s.queue.handles.bound == {("lock", "threading.Lock")}
    # What is queued already waits beside the lock from now on
    assert [*s.queue.restricted] == [beside(s.all[0], math.inf)]
    assert s.give(1) is None
    assert s.give(0) is queued
    # Nor is it stolen from where the lock is
    assert thieves(s, ts, {*s.all}) == {s.all[0]}
    assert thieves(s, table, {*s.all}) == {*s.all}


# -- Clusters ------------------------------------------------------------------------


class Connection:
    """An opened file, or a connection: it has a lock, and cannot be sent."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


def connect() -> Connection:
    return Connection()


def read(connection: Connection, event: Event, i: int) -> bytes:
    event.wait()
    with connection.lock:
        return bytes(CHUNK_NBYTES)


def join(*connections: Connection) -> int:
    return len(connections)


FAIL_AT_ONCE = {"distributed.scheduler.allowed-failures": 0}


@policy_cluster(
    FOUR_WORKERS, far=False, config={"distributed.scheduler.work-stealing": True}
)
async def test_reads_stay_beside_what_cannot_be_sent(
    c: Any, s: Any, *workers: Any
) -> None:
    """They are taken back from others, and held back where they may run."""
    seen = await watch(s, "read")
    event = Event()
    a = s.workers[workers[0].address]
    connection = c.submit(connect, workers=[a.address])
    await wait(connection)
    # What reads are like
    first = c.submit(read, connection, event, -1, workers=[a.address])
    await event.set()
    await wait(first)
    await event.clear()
    handle = delayed(connection)
    parts = [delayed(len)(delayed(read)(handle, event, i)) for i in range(40)]
    total = c.compute(delayed(sum)(parts))
    await async_poll_for(
        lambda: len(s.queued) == 40 - SLOTS and len(a.processing) == SLOTS,
        timeout=60,
    )
    assert len(s.queued.handles.bound) == 1
    for ts in a.processing:
        others = set(s.workers.values()) - {a}
        stealer = s.extensions["stealing"]
        occupancies = dict.fromkeys(s.workers.values(), 0)
        assert place_beside(s, ts) is a
        assert not stealer._get_thief(s, ts, others, occupancies=occupancies)
    await event.set()
    # The parts cross the network, on connections over which a handle failed
    assert await total == 40 * CHUNK_NBYTES
    assert seen.computed == {a.address: 41}


@pytest.mark.parametrize("config", [{}, FAIL_AT_ONCE])
def test_two_that_cannot_be_sent(config: dict[str, Any]) -> None:
    """A task that can run nowhere errs, and says what could not be sent."""

    @policy_cluster(TWO_WORKERS, far=False, config=config)
    async def run(c: Any, s: Any, a: Any, b: Any) -> None:
        pair = [
            c.submit(connect, workers=[w.address], pure=False, key=f"connect-{n}")
            for n, w in enumerate((a, b))
        ]
        with pytest.raises(TypeError, match="Connection"):
            await c.submit(join, *pair)
        # Nothing else is lost
        assert await c.gather([c.submit(join, future) for future in pair]) == [1, 1]

    run()


@policy_cluster(TWO_WORKERS, far=False)
async def test_not_where_it_may_run(c: Any, s: Any, a: Any, b: Any) -> None:
    """A task errs which is restricted to others than the holder."""
    connection = c.submit(connect, workers=[a.address])
    with pytest.raises(TypeError, match="Connection"):
        await c.submit(join, connection, workers=[b.address])
    again = c.submit(join, connection, workers=[a.address], key="again")
    assert await again == 1


@policy_cluster(TWO_WORKERS, far=False)
async def test_the_holder_leaves(c: Any, s: Any, a: Any, b: Any) -> None:
    """The handle is made again, and what needs it runs beside the new one."""
    connection = c.submit(connect, workers=[a.address], allow_other_workers=True)
    with pytest.raises(TypeError, match="Connection"):
        await c.submit(join, connection, workers=[b.address])
    await a.close()
    event = Event()
    await event.set()
    chunks = c.map(read, [connection] * 10, [event] * 10, range(10))
    assert sum(map(len, await c.gather(chunks))) == 10 * CHUNK_NBYTES


@policy_cluster(
    TWO_WORKERS, far=False, config={"distributed.scheduler.allowed-failures": 1}
)
async def test_what_fails_with_it(c: Any, s: Any, a: Any, b: Any) -> None:
    """Other data is not believed to be impossible to send."""
    connection = c.submit(connect, workers=[a.address])
    data = c.map(bytes, range(5), workers=[a.address])
    await wait([connection, *data])
    with pytest.raises(TypeError, match="Connection"):
        await c.submit(join, connection, workers=[b.address])
    # On the same connection
    assert await c.submit(len, data, workers=[b.address]) == 5
    assert {prefix for prefix, _ in s.queued.handles.bound} == {"connect"}
