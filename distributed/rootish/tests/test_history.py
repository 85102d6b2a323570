"""What is known of computations after their groups are forgotten."""

from __future__ import annotations

import json
import os
from typing import Any
from unittest import mock

import dask
import pytest
from dask._task_spec import Task, TaskRef

from distributed import Client, Event, Scheduler, Worker, wait
from distributed.metrics import time
from distributed.rootish import history
from distributed.rootish.history import SETTING, ComputationStatus, History
from distributed.rootish.monitor import RootishStatus
from distributed.rootish.tests.utils import MIB, policy_cluster
from distributed.utils_test import (
    async_poll_for,
    captured_logger,
    gen_cluster,
    gen_test,
)

TASKS = 20


def load(i: int, event: Event | None = None) -> bytes:
    if event is not None:
        event.wait()
    return bytes(MIB)


def keys(name: str, n: int = TASKS) -> list[Any]:
    return [(name, i) for i in range(n)]


def loads(name: str, n: int = TASKS) -> dict[Any, Task]:
    """Return a graph, since it is one computation, whatever is quick or slow."""
    return {key: Task(key, load, key[1]) for key in keys(name, n)}


async def forgotten(s: Scheduler) -> None:
    await async_poll_for(lambda: not s.task_groups, timeout=10)


@pytest.fixture(autouse=True)
def _look_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the groups each time, however slow the machine is."""
    monkeypatch.setattr(history, "SHARE", float("inf"))


@policy_cluster(far=False)
async def test_afterwards(c: Client, s: Scheduler, a: Worker, b: Worker) -> None:
    """Verdicts, peaks and bytes are there when nothing else is."""
    assert (await c.rootish()).computations == ()
    begin = time()
    dsk = loads("load")
    for i in range(TASKS):
        dsk["size", i] = Task(("size", i), len, TaskRef(("load", i)))
    futures = c.get(dsk, list(dsk), sync=False)
    await wait(futures)
    s.extensions["rootish"].history.look()
    del futures
    await forgotten(s)

    status = await c.rootish()
    assert status.groups == ()
    [past] = status.computations
    assert begin - 1 < past.start < time() + 1
    assert past.duration is not None
    assert past.duration >= 0
    assert not past.running
    assert past.tasks == 2 * TASKS
    assert past.nbytes == pytest.approx(TASKS * MIB, rel=0.01)
    assert past.peak == pytest.approx(TASKS * MIB, rel=0.01)
    assert past.peak_of_worker is not None
    assert TASKS / 2 * MIB <= past.peak_of_worker <= past.peak
    assert next(iter(past.at_peak)) == "load"
    assert past.slots == 4
    loaded, measured = past.groups
    assert (loaded.prefix, loaded.rootish, loaded.reason) == ("load", True, "producer")
    assert (loaded.groups, loaded.tasks) == (1, TASKS)
    assert loaded.brings_data
    assert loaded.peak == pytest.approx(TASKS * MIB, rel=0.01)
    assert (measured.prefix, measured.rootish) == ("size", False)
    assert not past.overproducing()
    assert not status.overproducing()
    # The same from a scheduler, as text, in a notebook, and for programs
    assert RootishStatus.from_dict(json.loads(json.dumps(status.to_dict()))) == status
    for text in (str(status), status._repr_html_(), str(past), past._repr_html_()):
        assert "load" in text
        assert "20.00 MiB made" in text
        assert "It brings in far more than it frees" in text


@policy_cluster(far=False)
async def test_one_for_each_computation(
    c: Client, s: Scheduler, a: Worker, b: Worker
) -> None:
    """The newest first; what is running is one as well."""
    for n in range(3):
        await c.gather(c.map(load, range(n + 1), key=keys(f"load-{n}x", n + 1)))
        await forgotten(s)
    event = Event()
    running = c.map(load, range(TASKS), event=event, key=keys("now"))
    await async_poll_for(lambda: s.queued, timeout=10)
    past = (await c.rootish()).computations
    assert [each.tasks for each in past] == [TASKS, 3, 2, 1]
    assert [each.running for each in past] == [True, False, False, False]
    assert [each.duration is None for each in past] == [True, False, False, False]
    assert past[0].took() == "running"
    await event.set()
    await wait(running)
    # Of keys that are there already, nothing is new
    dsk = loads("now")
    again = c.get(dsk, list(dsk), sync=False)
    await async_poll_for(lambda: len(s.computations) == 5, timeout=10)
    assert len((await c.rootish()).computations) == 4
    del again


@policy_cluster(far=False)
async def test_seldom_where_looking_takes_long(
    c: Client, s: Scheduler, a: Worker, b: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be thousands of workers; who asks is told all the same."""
    s.periodic_callbacks["rootish-history"].stop()
    look = s.extensions["rootish"].history.look
    monkeypatch.setattr(history, "SHARE", 1e-12)
    one = c.submit(load, 1, key="one")
    await wait(one)
    look()
    [past] = (await c.rootish()).computations
    assert past.peak == pytest.approx(MIB, rel=0.01)
    two = c.submit(load, 2, key="two")
    await wait(two)
    look()
    records = s.extensions["rootish"].history._records
    assert len(records) == 1
    past, _ = (await c.rootish()).computations
    assert past.peak == pytest.approx(2 * MIB, rel=0.01)


@gen_cluster(client=True, nthreads=[("127.0.0.1", 2)] * 2)
async def test_moved(c: Client, s: Scheduler, a: Worker, b: Worker) -> None:
    """Workers say with their heartbeats what they have sent; it may be late."""

    async def compute(n: int) -> None:
        loaded = [
            c.submit(load, i, key=f"load{n}-{i}", workers=a.address) for i in range(n)
        ]
        # At once: a computation lasts as long as there is something to do
        fetched = c.submit(len, loaded, key=f"fetch{n}", workers=b.address)
        await fetched
        s.extensions["rootish"].history.look()

    for worker in (a, b):
        worker.periodic_callbacks["heartbeat"].stop()
    event = Event()
    first = c.submit(event.wait, key="first", workers=b.address)
    await compute(3)
    await event.set()
    await first
    del first
    [past] = (await c.rootish()).computations
    assert past.moved == 0
    await a.heartbeat()
    # Nothing else has happened
    s.extensions["rootish"].history.look()
    await forgotten(s)
    event = Event()
    second = c.submit(event.wait, key="second", workers=b.address)
    await compute(5)
    await a.heartbeat()
    await b.heartbeat()
    status = await c.rootish()
    await event.set()
    await second
    assert [past.moved for past in status.computations] == pytest.approx(
        [5 * MIB, 3 * MIB], rel=0.01
    )
    assert "3.00 MiB moved" in str(status.computations[1])
    # A narrow table leaves the column out
    with mock.patch.dict(os.environ, COLUMNS="200"):
        assert "moved" in str(status)
    assert json.loads(json.dumps(status.to_dict()))["computations"][1]["moved"] > MIB


@gen_cluster(client=True, worker_kwargs={"memory_limit": 0})
async def test_nobody_says_what_is_moved(
    c: Client, s: Scheduler, a: Worker, b: Worker
) -> None:
    await c.submit(load, 1)
    [past] = (await c.rootish()).computations
    assert past.moved is None
    assert "? moved" in str(past)


def test_moved_is_not_said_by_others() -> None:
    """A scheduler of an earlier version says nothing of it."""
    data = {field: None for field in ComputationStatus.__dataclass_fields__}
    data["groups"] = ()
    del data["moved"]
    assert ComputationStatus.from_dict(data).moved is None


@policy_cluster(far=False, config={SETTING: 2})
async def test_bounded(c: Client, s: Scheduler, a: Worker, b: Worker) -> None:
    for n in range(4):
        await c.gather(c.map(load, range(n + 1), key=keys("load", n + 1)))
        await forgotten(s)
    assert [each.tasks for each in (await c.rootish()).computations] == [4, 3]


@policy_cluster(far=False, config={SETTING: 0})
async def test_turned_off(c: Client, s: Scheduler, a: Worker, b: Worker) -> None:
    await c.gather(c.map(load, range(3)))
    assert (await c.rootish()).computations == ()
    assert not s.extensions["rootish"].history._records


@policy_cluster(far=False)
async def test_after_a_restart(c: Client, s: Scheduler, a: Worker, b: Worker) -> None:
    """The scheduler forgets all of it, and this is when people ask."""
    await c.gather(c.map(load, range(3)))
    s.extensions["rootish"].history.look()
    s._clear_task_state()
    assert not s.computations
    [past] = (await c.rootish()).computations
    assert past.tasks == 3


@policy_cluster(far=False)
async def test_names_and_rows_are_bounded(
    c: Client, s: Scheduler, a: Worker, b: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MOST_ROWS", 3)
    monkeypatch.setattr(history, "MOST_NAMES", 3)
    dsk = {(f"load{n}", 0): Task((f"load{n}", 0), bytes, n * MIB) for n in range(10)}
    futures = c.get(dsk, list(dsk), sync=False)
    await wait(futures)
    [past] = (await c.rootish()).computations
    assert [group.prefix for group in past.groups] == ["load9", "load8", "load7"]
    assert past.groups[0].peak == pytest.approx(9 * MIB, rel=0.01)
    assert past.left_out == 7
    assert past.tasks == 10
    assert past.nbytes == pytest.approx(45 * MIB, rel=0.01)
    assert "7 small ones are left out" in str(past)
    [record] = s.extensions["rootish"].history._records
    assert len(record.of_names) <= 2 * 3


@policy_cluster(far=False)
async def test_a_group_for_each_file(
    c: Client, s: Scheduler, a: Worker, b: Worker
) -> None:
    """They are one, and their peak is that of all together."""
    for n in range(4):
        await wait(c.submit(load, n, key=(f"load-{n:032x}", 0)))
        await forgotten(s)
    dsk = {k: Task(k, load, 0) for n in range(4) for k in [(f"load-{n:032x}", 0)]}
    futures = c.get(dsk, list(dsk), sync=False)
    await wait(futures)
    past = (await c.rootish()).computations[0]
    assert [(group.prefix, group.groups) for group in past.groups] == [("load", 4)]
    assert past.groups[0].peak == pytest.approx(4 * MIB, rel=0.01)


@gen_cluster(
    client=True,
    nthreads=[("", 1)] * 2,
    config={"distributed.scheduler.rootish-policy": "heuristic"},
)
async def test_what_was_wrong(c: Client, s: Scheduler, a: Worker, b: Worker) -> None:
    """It was not held back, and can be seen afterwards."""
    await c.gather(c.map(load, range(TASKS), workers=[a.address], key=keys("load")))
    await forgotten(s)
    status = await c.rootish()
    [past] = status.computations
    [group] = past.overproducing()
    assert (group.prefix, group.reason) == ("load", "placed")
    assert status.overproducing() == [group]
    assert "Not held back, and more than the cluster consumes at once" in str(past)


@gen_cluster(client=True, nthreads=[("", 1)])
async def test_nothing_happens_nothing_is_done(
    c: Client, s: Scheduler, a: Worker
) -> None:
    """Without transitions, not even the workers are looked at."""
    seen = s.extensions["rootish"].history
    await c.submit(load, 1)
    await forgotten(s)
    seen.look()
    workers, s.workers = s.workers, None  # type: ignore[assignment]
    try:
        seen.look()
    finally:
        s.workers = workers


@gen_cluster(client=True, nthreads=[("", 1)])
async def test_looking_takes_a_part_of_the_time(
    c: Client, s: Scheduler, a: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All groups are looked at rarely, where there are so many that it takes long."""
    clock = iter(range(1000))
    monkeypatch.setattr(history, "SHARE", 0.001)
    monkeypatch.setattr(history, "thread_time", lambda: next(clock))
    looks: list[object] = []
    look = History._look_at_groups
    monkeypatch.setattr(
        History,
        "_look_at_groups",
        lambda *args: (looks.append(args), look(*args)),
    )
    futures = []
    for n in range(5):
        futures.append(c.submit(load, n))
        await wait(futures)
        s.extensions["rootish"].history.look()
    assert len(looks) == 1
    [past] = (await c.rootish()).computations[:1]
    assert past.peak is not None


@gen_cluster(client=True, nthreads=[("", 1)])
async def test_looked_at_by_the_clock(c: Client, s: Scheduler, a: Worker) -> None:
    """Nobody has to ask for a peak to be seen."""
    event = Event()
    loads = c.map(load, range(TASKS))
    await wait(loads)
    later = c.submit(load, 0, event=event, key="later")
    seen = s.extensions["rootish"].history
    await async_poll_for(
        lambda: any(
            record.peak and record.peak >= TASKS * MIB for record in seen._records
        ),
        timeout=10,
    )
    await event.set()
    await later


@pytest.mark.parametrize("length", [-1, 1.5, "many", None, True])
def test_bad_setting(length: Any) -> None:
    with (
        dask.config.set({SETTING: length}),
        pytest.raises(ValueError, match=f"{SETTING}.*must be a number of computations"),
    ):
        History(None)  # type: ignore[arg-type]


# -- Other places --------------------------------------------------------------------


@policy_cluster(far=False)
async def test_dump(c: Client, s: Scheduler, a: Worker, b: Worker) -> None:
    """Of the cluster's state: what is known of groups, and no addresses of objects."""
    futures = c.map(load, range(TASKS), key=keys("load"))
    await wait(futures)
    state = await s.get_cluster_state(exclude=())
    [group] = state["scheduler"]["task_groups"].values()
    facts = group["rootish_facts"]
    assert facts["verdict"]["reason"] == "producer"
    assert facts["verdict"]["rootish"] is True
    assert facts["decisions"] == {"producer": TASKS}
    extension = state["scheduler"]["extensions"]["rootish"]
    assert extension["policy"] == "producers"
    assert extension["decisions"] == {"producer": TASKS}
    [past] = extension["computations"]
    assert ComputationStatus.from_dict(past).tasks == TASKS
    assert " object at 0x" not in json.dumps([group, extension])
    assert "decisions" not in s.task_groups["load"].rootish_facts._to_dict(
        exclude=["decisions"]
    )


@pytest.mark.parametrize("name", [7, 1.5, ("a", 1), "a\x1b[2J\nb"])
@policy_cluster(far=False)
async def test_keys_of_many_types(
    c: Client, s: Scheduler, a: Worker, b: Worker, name: Any
) -> None:
    """Whatever a group is called, it can be sent, printed and stored."""
    futures = c.map(load, range(3), key=[(name, i) for i in range(3)])
    await wait(futures)
    status = await c.rootish()
    assert isinstance(status.groups[0].name, str)
    json.dumps(status.to_dict())
    assert status._repr_html_()
    assert all(line.isprintable() for line in str(status).splitlines())


@pytest.mark.parametrize("dashboard", [True, False])
@gen_test()
async def test_one_line_at_the_start(dashboard: bool) -> None:
    """Which version, by which policy, and where to see it; nothing comes later."""
    with captured_logger("distributed.rootish", level="INFO") as log:
        async with Scheduler(
            port=0, dashboard=dashboard, dashboard_address=":0"
        ) as scheduler:
            [line] = log.getvalue().splitlines()
            server = scheduler.services["dashboard"]
            page = f":{server.port}/rootish" if dashboard else "no page"
            scheduler.extensions["rootish"].history.look()
    assert log.getvalue().splitlines() == [line]
    assert "+rootish." in line
    assert "policy producers" in line
    assert page in line
