"""What the scheduler tells of its verdicts, and what it warns of."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import dask.array as da
import pytest
from dask import annotate, config, delayed
from dask._task_spec import Task, TaskRef
from dask.tokenize import tokenize

from distributed import Client, Event, LocalCluster, Scheduler, Worker, wait
from distributed.rootish import POLICIES, explain
from distributed.rootish.backpressure import Outstanding
from distributed.rootish.loading import CHUNKS_PER_SLOT
from distributed.rootish.monitor import (
    GroupStatus,
    RootishMonitor,
    RootishStatus,
    count_waiting,
    waits_for,
)
from distributed.rootish.policy import (
    CONSUMER,
    FEW,
    PLACED,
    PRODUCER,
    GroupFacts,
    Producers,
    Verdict,
)
from distributed.rootish.queue import WAITS, RootishQueue
from distributed.rootish.tables import ADVICE
from distributed.rootish.tests.paper import Paper, is_held
from distributed.rootish.tests.utils import MIB, policy_cluster, slots
from distributed.scheduler import TaskState
from distributed.utils_test import (
    async_poll_for,
    captured_logger,
    gen_cluster,
    gen_test,
    inc,
)

INTERVAL = "distributed.scheduler.rootish-warning-interval"

#: As in a release, restricted tasks are sent at once
AT_ONCE = {"distributed.scheduler.rootish-co-assignment": False}


def load(handle: Any, i: int) -> bytes:
    return bytes(MIB)


def load_first(event: Event, i: int, n: int = 1) -> bytes:
    """Load at once if it is among the first ``n``, else when told so."""
    if i >= n:
        event.wait()
    return bytes(MIB)


#: More chunks than would be let through if they were held back, on two small workers
MANY = 2 * 4 + 2


def size(chunk: bytes) -> int:
    return len(chunk)


def find(status: RootishStatus, prefix: str) -> GroupStatus:
    [group] = [group for group in status.groups if group.prefix == prefix]
    return group


def loads(n: int = 20) -> list[Any]:
    """Loads through two handles that nothing throttles."""
    opened = [delayed(str, pure=True)(f"file-{i}") for i in range(2)]
    return [delayed(load, pure=True)(opened[i % 2], i) for i in range(n)]


@policy_cluster(far=False)
async def test_status(c: Client, s: Scheduler, a: Worker, b: Worker) -> None:
    futures = c.compute([delayed(size)(chunk) for chunk in loads()])
    await wait(futures)
    status = await c.rootish()
    assert status.policy == "producers"
    assert status.nthreads == 2
    assert status.slots == slots(s) == 4
    assert status.queued == 0

    [sizes] = [group for group in status.groups if group.prefix == "size"]
    assert sizes.tasks == sizes.states["memory"] == 20
    assert sizes.rootish is False
    assert sizes.allowed is None
    assert sizes.explanation


@policy_cluster(far=False)
async def test_status_of_loads(c: Client, s: Scheduler, a: Worker, b: Worker) -> None:
    event = Event()
    futures = c.map(load_first, [event] * 20, range(20))
    await wait(futures[0])
    status = await c.rootish()
    group = find(status, "load_first")
    assert (group.rootish, group.reason) == (True, "producer")
    assert group.explanation
    assert group.decisions == {"producer": 20}
    assert group.tasks == 20
    assert sum(group.states.values()) == 20
    assert group.states["memory"] == 1
    assert group.states["queued"] == status.queued == len(s.queued)
    assert group.states["queued"] > 0
    assert group.output == pytest.approx(MIB, rel=0.01)
    assert group.nbytes == group.output
    assert group.allowed == CHUNKS_PER_SLOT * 4 * group.output
    assert group.brings_data
    assert not status.overproducing()

    await event.set()
    await wait(futures)
    group = find(await c.rootish(), "load_first")
    assert group.states["memory"] == 20
    assert group.nbytes == pytest.approx(20 * MIB, rel=0.01)
    # A group is known as long as the scheduler knows it, and its computation longer
    assert group.reason == "producer"
    del futures
    await async_poll_for(lambda: not s.task_groups, timeout=10)
    status = await c.rootish()
    assert status.groups == ()
    [past] = status.computations
    assert [each.reason for each in past.groups] == ["producer"]


@policy_cluster(far=False)
async def test_not_decided_yet(c: Client, s: Scheduler, a: Worker, b: Worker) -> None:
    event = Event()
    chunk = delayed(load_first)(event, 1)
    future = c.compute(delayed(size)(chunk))
    await async_poll_for(lambda: len(s.tasks) == 2, timeout=10)
    status = await c.rootish()
    group = find(status, "size")
    assert (group.rootish, group.reason, group.explanation) == (None, None, None)
    assert group.decisions == {}
    assert group.output is None
    assert group.nbytes == 0
    assert not group.brings_data
    assert "Not decided yet." in str(status)
    await event.set()
    assert await future == MIB


@pytest.mark.parametrize(
    ("policy", "reason", "too_much"),
    [("producers", "producer", False), ("marked", "not-counted", True)],
)
@policy_cluster(far=False)
async def test_overproducing(
    c: Client,
    s: Scheduler,
    a: Worker,
    b: Worker,
    policy: str,
    reason: str,
    too_much: bool,
) -> None:
    opened = [
        delayed(str, pure=True)(f"file-{i}", dask_key_name=f"open-{i}")
        for i in range(6)
    ]
    chunks = [delayed(load)(opened[i % 6], i) for i in range(60)]
    futures = c.compute(chunks)
    await wait(futures)
    status = await c.rootish()
    group = find(status, "load")
    assert group.reason == reason
    assert group.brings_data
    assert status.overproducing() == ([group] if too_much else [])
    # Handles cost next to nothing
    assert not find(status, "open").brings_data


@policy_cluster(
    far=False, config={"distributed.scheduler.worker-saturation": float("inf")}
)
async def test_status_without_a_queue(
    c: Client, s: Scheduler, a: Worker, b: Worker
) -> None:
    futures = c.compute([delayed(load)(None, i) for i in range(20)])
    await wait(futures)
    status = await c.rootish()
    assert status.slots is None
    group = find(status, "load")
    assert group.rootish
    assert group.allowed is None
    assert status.overproducing() == [group]
    assert "no queue" in str(status)


def test_status_sync() -> None:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        future = client.submit(bytes, 10)
        wait(future)
        status = client.rootish()
        assert [group.prefix for group in status.groups] == ["bytes"]
        assert client.explain_rootish(da.ones(3, chunks=1)).nthreads == (1,)


@policy_cluster(far=False)
async def test_data_form(c: Client, s: Scheduler, a: Worker, b: Worker) -> None:
    futures = c.compute(loads())
    await wait(futures)
    status = await c.rootish()
    data = json.loads(json.dumps(status.to_dict()))
    assert RootishStatus.from_dict(data) == status
    assert status == s.extensions["rootish"].status()


@policy_cluster(far=False)
async def test_tables(c: Client, s: Scheduler, a: Worker, b: Worker) -> None:
    hostile = "a<script>alert(1)</script>"
    futures = [c.submit(load, "x", i, key=(hostile, i)) for i in range(20)]
    await wait(futures)
    status = await c.rootish()
    group = status.groups[0]
    text = str(status)
    assert hostile in text
    assert group.explanation in text
    assert "20.00 MiB" in text
    assert "<script>" not in status._repr_html_()
    assert "&lt;script&gt;alert(1)" in status._repr_html_()


@gen_cluster(client=True, nthreads=[("", 1), ("", 3)])
async def test_explain_on_a_cluster(
    c: Client, s: Scheduler, a: Worker, b: Worker
) -> None:
    x = da.ones(100, chunks=1).sum()
    explanation = await c.explain_rootish(x, x + 1)
    assert sorted(explanation.nthreads) == [1, 3]
    assert [group.tasks for group in explanation.groups] == [
        group.tasks for group in explain(x, x + 1, nthreads=1).groups
    ]
    assert not s.tasks
    with pytest.raises(TypeError, match="got int"):
        await c.explain_rootish(1)
    with pytest.raises(ValueError, match="nothing to explain"):
        await c.explain_rootish()


@gen_cluster(client=True, nthreads=[])
async def test_explain_without_workers(c: Client, s: Scheduler) -> None:
    with pytest.raises(ValueError, match="no workers yet"):
        await c.explain_rootish(da.ones(3))


@gen_cluster(client=True, nthreads=[])
async def test_scheduler_of_a_release(c: Client, s: Scheduler) -> None:
    """As if it had no such extension: the error says what to do."""
    del s.handlers["rootish"]
    with (
        captured_logger("distributed.core"),
        pytest.raises(
            RuntimeError, match=r"keeps no verdicts; start it with .*rootish"
        ),
    ):
        await c.rootish()


# -- What is waited for --------------------------------------------------------------


def combined(event: Event, n: int, width: int = 1) -> dict[Any, Task]:
    """Loads that wait for the event, of which each ``width`` are consumed together."""
    dsk: dict[Any, Task] = {}
    for i in range(n):
        dsk["load", i] = Task(("load", i), load_first, event, i, 0)
    for i in range(n // width):
        chunks = [TaskRef(("load", width * i + k)) for k in range(width)]
        dsk["sizes", i] = Task(("sizes", i), sizes, *chunks)
    return dsk


def sizes(*chunks: bytes) -> int:
    return sum(map(len, chunks))


async def submit(c: Client, s: Scheduler, dsk: dict[Any, Task], **kwargs: Any) -> Any:
    """Submit a graph, and wait until the scheduler has it."""
    keys = [key for key in dsk if key[0] == "sizes"]
    futures = c.get(dsk, keys, sync=False, **kwargs)
    await async_poll_for(lambda: len(s.tasks) == len(dsk), timeout=10)
    return futures


@contextlib.contextmanager
def no_close_look() -> Iterator[None]:
    """Let nothing look at each queued task, or count outputs again."""

    def look(*args: Any) -> Any:
        raise AssertionError("looks too closely")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Outstanding, "is_full", look)
        patch.setattr(RootishQueue, "__iter__", look)
        yield


async def waiting_loads(c: Client, s: Scheduler) -> dict[str, int]:
    """Return why loads wait. All that are queued do for something."""
    with no_close_look():
        status = s.extensions["rootish"].status()
    assert await c.rootish() == status
    for group in status.groups:
        assert sum(group.waits.values()) == group.states["queued"]
    assert sum(status.waits().values()) == status.queued
    monitor = s.extensions["rootish"]
    assert monitor.count_waiting() == {**dict.fromkeys(WAITS, 0), **status.waits()}
    return dict(find(status, "load").waits)


@policy_cluster(far=False)
async def test_waiting_for_a_thread(
    c: Client, s: Scheduler, a: Worker, b: Worker
) -> None:
    event = Event()
    futures = await submit(c, s, combined(event, 20))
    assert await waiting_loads(c, s) == {"order": 20 - slots(s)}
    assert "\n16 tasks wait for a thread\n" in str(await c.rootish())
    # Those that nobody wants any more wait no more
    await c.cancel(futures[-6:])
    await async_poll_for(lambda: len(s.queued) == 10, timeout=10)
    assert await waiting_loads(c, s) == {"order": 10}
    await event.set()
    await wait(futures[:-6])
    assert await waiting_loads(c, s) == {}


@policy_cluster(far=False)
async def test_waiting_for_the_worker_of_a_family(
    c: Client, s: Scheduler, a: Worker, b: Worker
) -> None:
    """Each worker has begun one of four, and two of its loads have no thread yet."""
    event = Event()
    futures = await submit(c, s, combined(event, 32, width=4))
    assert await waiting_loads(c, s) == {"order": 24, "family": 4}
    await event.set()
    await wait(futures)


@pytest.mark.parametrize("everywhere", [False, True])
@policy_cluster(far=False)
async def test_waiting_for_workers(
    c: Client, s: Scheduler, a: Worker, b: Worker, everywhere: bool
) -> None:
    """Those that may run it are taken, though others may be free."""
    event = Event()
    workers = [a.address, b.address] if everywhere else [a.address]
    futures = await submit(c, s, combined(event, 20), workers=workers)
    expected = {"order": 16} if everywhere else {"restrictions": 18}
    assert await waiting_loads(c, s) == expected
    if not everywhere:
        assert s.workers[b.address] in s.idle_task_count
        # Of those that are cancelled one by one, none is counted
        await c.cancel(futures[-6:])
        await async_poll_for(lambda: len(s.queued) == 12, timeout=10)
        assert await waiting_loads(c, s) == {"restrictions": 12}
    await event.set()
    await wait(futures[:-6])


def fit(event: Event, model: int, chunk: bytes) -> int:
    event.wait()
    return model + len(chunk)


@policy_cluster(
    far=False,
    # Holding back slackens after it
    config={"distributed.scheduler.unknown-task-duration": "1h"},
)
async def test_waiting_for_consumers(
    c: Client, s: Scheduler, a: Worker, b: Worker
) -> None:
    """Where they come one after the other, loads wait, though a thread is free."""
    event = Event()
    dsk: dict[Any, Task] = {"model": Task("model", int)}
    model = "model"
    for i in range(40):
        dsk["load", i] = Task(("load", i), load, None, i)
        chunk = TaskRef(("load", i))
        dsk["fit", i] = Task(("fit", i), fit, event, TaskRef(model), chunk)
        model = ("fit", i)  # type: ignore[assignment]
    [future] = c.get(dsk, [model], sync=False)
    # One worker runs the first consumer, and the other has loaded what it had to
    await async_poll_for(
        lambda: s.queued and not all(ws.processing for ws in s.workers.values()),
        timeout=10,
    )

    queued = len(s.queued)
    assert queued > 20
    waiting = await waiting_loads(c, s)
    text = str(await c.rootish())
    # The worker that is busy with the consumer may have begun a family
    held = waiting.pop("backpressure")
    assert held > 20
    assert waiting.get("family", 0) == queued - held
    assert f"{held} tasks wait for consumers of what is loaded" in text
    assert sum(is_held(s.queued, ts) for ts in s.queued) == held
    await event.set()
    assert await future == 40 * MIB


def test_what_is_begun_waits_for_its_worker() -> None:
    """It was counted when it was begun, so that it is not held back."""
    s = Paper(2)
    loads = [s.add("load", 3 * n, nbytes=MIB) for n in range(60)]
    last = s.add("model", 0, nbytes=1)
    s.send(last, s.all[0])
    for n in range(0, 60, 2):
        last = s.add("fit", 3 * n + 5, *loads[n : n + 2], last, nbytes=1)
    s.enqueue(*loads)
    assert s.give(1)
    s.give_all(0)
    why = s.queue.why_waiting()
    held = sum(map(s.is_held, s.queue))
    begun = len(s.queue) - held
    assert begun > 0
    assert why == {loads[0].group: {"backpressure": held, "family": begun}}


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("policy", POLICIES)
def test_waiting_in_the_queue_of_the_base(policy: str, on: bool) -> None:
    """It knows the order alone."""

    @policy_cluster(
        far=False, config={"distributed.scheduler.rootish-co-assignment": on}
    )
    async def run(c: Client, s: Scheduler, a: Worker, b: Worker, policy: str) -> None:
        ours = on and policy == "producers"
        assert isinstance(s.queued, RootishQueue) is ours
        event = Event()
        dsk = combined(event, 32, width=4)
        for i in range(32):
            dsk["load", i] = Task(
                ("load", i), load_first, event, i, 0, _data_producer=True
            )
        futures = await submit(c, s, dsk)
        waiting = await waiting_loads(c, s)
        assert waiting == ({"order": 24, "family": 4} if ours else {"order": 28})
        await event.set()
        await wait(futures)

    run(policy=policy)


@policy_cluster(far=False)
async def test_column_of_what_is_waited_for(
    c: Client, s: Scheduler, a: Worker, b: Worker
) -> None:
    """It is there as long as something waits."""
    event = Event()
    futures = await submit(c, s, combined(event, 32, width=4))
    status = await c.rootish()
    assert RootishStatus.from_dict(json.loads(json.dumps(status.to_dict()))) == status
    summary = "24 tasks wait for a thread, 4 for the workers that have begun"
    cell = "24 order, 4 family"
    text = status.to_text(width=120)
    for each in (text, status._repr_html_()):
        for part in (summary, cell, "waits for"):
            assert part in each
    lines = text.splitlines()
    [load] = [line for line in lines if line.startswith("load ")]
    [head] = [line for line in lines if line.startswith("group ")]
    assert load.index(cell) == head.index("waits for")
    await event.set()
    await wait(futures)
    status = await c.rootish()
    for text in (str(status), status._repr_html_()):
        assert "waits for" not in text
        assert "tasks wait" not in text


def test_what_is_waited_for_in_words() -> None:
    assert waits_for({}) == count_waiting({}) == waits_for({"order": 0}) == ""
    many = {"order": 1200, "restrictions": 3, "backpressure": 14, "family": 8}
    assert waits_for(many) == (
        "1,200 tasks wait for a thread, 14 for consumers of what is loaded, 8 for the "
        "workers that have begun their families, 3 for the workers that may run them"
    )
    assert count_waiting(many) == (
        "1,200 order, 8 family, 14 backpressure, 3 restrictions"
    )
    one = dict.fromkeys(["family", "restrictions"], 1)
    assert waits_for(one) == (
        "1 task waits for the worker that has begun its family, 1 for the workers that "
        "may run it"
    )


# -- Events --------------------------------------------------------------------------


@policy_cluster(far=False)
async def test_events(c: Client, s: Scheduler, a: Worker, b: Worker) -> None:
    """One for each verdict that is new to a group."""
    futures = c.compute([delayed(load)(None, i) for i in range(20)])
    await wait(futures)
    [(_, event)] = s.get_events("rootish")
    [group] = s.task_groups.values()
    assert event == {
        "action": "verdict",
        "group": group.name,
        "policy": "producers",
        "rootish": True,
        "reason": "producer",
        "explanation": event["explanation"],
        "before": None,
    }


@policy_cluster(far=False)
async def test_event_of_a_change(c: Client, s: Scheduler, a: Worker, b: Worker) -> None:
    """A group that is judged otherwise once its output is known."""
    future = c.submit(inc, 1)
    await wait(future)
    [ts] = s.tasks.values()
    verdicts = iter([PRODUCER, PRODUCER, CONSUMER, PRODUCER, CONSUMER])

    class Scripted(Producers):
        def verdict(self, ts: TaskState) -> Verdict:
            return next(verdicts)

    s.rootish_policy = Scripted(s)
    answers = [s.is_rootish(ts) for _ in range(5)]
    assert answers == [True, True, False, True, False]
    events = [event for _, event in s.get_events("rootish")]
    assert [(event["before"], event["reason"]) for event in events] == [
        (None, "few"),
        ("few", "producer"),
        ("producer", "consumer"),
    ]
    assert ts.group.rootish_facts.verdict is CONSUMER
    assert ts.group.rootish_facts.decisions == {FEW: 1, PRODUCER: 3, CONSUMER: 2}
    assert s.rootish_policy.decisions == {PRODUCER: 3, CONSUMER: 2}


@policy_cluster(far=False)
async def test_a_group_per_file_is_told_once(
    c: Client, s: Scheduler, a: Worker, b: Worker
) -> None:
    """Of first verdicts, the first of each kind and prefix is; a change always is."""
    keys = [(f"load-{tokenize(n)}", 0) for n in range(3)]
    await wait([c.submit(inc, n, key=key) for n, key in enumerate(keys)])
    assert {tg.prefix.name for tg in s.task_groups.values()} == {"load"}
    assert len(s.task_groups) == len(keys)
    verdicts = iter([PRODUCER, PRODUCER, CONSUMER, CONSUMER, CONSUMER])

    class Scripted(Producers):
        def verdict(self, ts: TaskState) -> Verdict:
            return next(verdicts)

    for tg in s.task_groups.values():
        tg.rootish_facts = GroupFacts()
    s.rootish_policy = Scripted(s)
    before = len(s.get_events("rootish"))
    for key in [*keys, *keys[:2]]:
        s.is_rootish(s.tasks[key])
    events = [event for _, event in s.get_events("rootish")[before:]]
    assert [(event["before"], event["reason"]) for event in events] == [
        (None, "producer"),
        (None, "consumer"),
        ("producer", "consumer"),
        ("producer", "consumer"),
    ]


@policy_cluster(far=False)
async def test_count_groups(c: Client, s: Scheduler, a: Worker, b: Worker) -> None:
    monitor = s.extensions["rootish"]
    assert not monitor.count_groups()
    futures = c.compute([delayed(load)(None, i) for i in range(20)])
    few = c.submit(size, bytes(3))
    await wait([*futures, few])
    assert sum(monitor.count_groups().values()) == len(s.task_groups)
    assert monitor.count_groups()[FEW] == 1
    assert sum(s.rootish_policy.decisions.values()) == 21


# -- Warnings ------------------------------------------------------------------------


def small_cluster(s: Scheduler, nbytes: int = 8 * MIB) -> RootishMonitor:
    """Let the scheduler believe that its workers have this much memory together."""
    for ws in s.workers.values():
        ws.memory_limit = nbytes // len(s.workers)
    monitor = s.extensions["rootish"]
    assert isinstance(monitor, RootishMonitor)
    return monitor


@contextlib.asynccontextmanager
async def half_loaded(c: Client, **kwargs: Any) -> AsyncIterator[None]:
    """Load 20 chunks of 1 MiB: half of them before the block, the others behind it."""
    event = Event()
    futures = c.map(load_first, [event] * 20, range(20), n=MANY, **kwargs)
    await wait(futures[:MANY])
    yield
    await event.set()
    await wait(futures)


@policy_cluster(far=False, config=AT_ONCE)
async def test_warning(c: Client, s: Scheduler, a: Worker, b: Worker) -> None:
    with captured_logger("distributed.rootish.monitor") as log:
        monitor = small_cluster(s)
        async with half_loaded(c, workers=[a.address, b.address]):
            [group] = s.task_groups.values()
            assert group.rootish_facts.verdict is PLACED
            assert not s.queued
            monitor.check()
            [line] = log.getvalue().splitlines()
            assert repr(group.name) in line
            assert "20.00 MiB" in line
            assert "8.00 MiB" in line
            assert "(placed)" in line
            assert str(ADVICE["placed"]) in line
            assert INTERVAL in line
            # Not again and again
            monitor.check()
            assert len(log.getvalue().splitlines()) == 1
            monitor._warned_at -= monitor._warning_interval
            monitor.check()
            assert len(log.getvalue().splitlines()) == 2
        # Too late to do anything about it
        monitor._warned_at -= monitor._warning_interval
        monitor.check()
        assert len(log.getvalue().splitlines()) == 2


@policy_cluster(far=False, config=AT_ONCE)
async def test_no_warning_where_it_fits(
    c: Client, s: Scheduler, a: Worker, b: Worker
) -> None:
    with captured_logger("distributed.rootish.monitor") as log:
        async with half_loaded(c, workers=[a.address, b.address]):
            small_cluster(s, 32 * MIB).check()
            # No limit is no limit
            small_cluster(s, 0).check()
            assert not log.getvalue()


@policy_cluster(far=False, config=AT_ONCE)
async def test_no_warning_where_it_is_consumed(
    c: Client, s: Scheduler, a: Worker, b: Worker
) -> None:
    """What is sent would be too much, if it were not gone as soon as it is there."""
    with captured_logger("distributed.rootish.monitor") as log:
        event = Event()
        loads = c.map(load_first, [event] * 20, range(20), n=MANY, workers=[a.address])
        sizes = c.map(size, loads, workers=[b.address])
        del loads
        await wait(sizes[:MANY])
        await async_poll_for(
            lambda: s.task_prefixes["load_first"].states["memory"] <= 1, timeout=10
        )
        assert s.task_prefixes["load_first"].states["processing"] == 20 - MANY
        small_cluster(s).check()
        assert not log.getvalue()
        await event.set()
        await wait(sizes)


@pytest.mark.parametrize("restricted", [True, False])
@policy_cluster(far=False)
async def test_no_warning_of_what_is_queued(
    c: Client, s: Scheduler, a: Worker, b: Worker, restricted: bool
) -> None:
    with captured_logger("distributed.rootish.monitor") as log:
        workers = [a.address, b.address] if restricted else None
        # Else, bound ones are sent at once, and called back when this is known: by
        # then, those that block may have taken all threads
        await wait(c.submit(load_first, Event(), 0, n=MANY, key=("load_first", 0)))
        async with half_loaded(c, workers=workers):
            assert s.queued
            small_cluster(s, 2 * MIB).check()
            assert not log.getvalue()


@policy_cluster(
    far=False, config={"distributed.scheduler.worker-saturation": float("inf")}
)
async def test_warning_without_a_queue(
    c: Client, s: Scheduler, a: Worker, b: Worker
) -> None:
    with captured_logger("distributed.rootish.monitor") as log:
        async with half_loaded(c):
            small_cluster(s).check()
            assert "`distributed.scheduler.worker-saturation` to 1.1" in log.getvalue()


def stretch(chunk: bytes, event: Event, i: int) -> bytes:
    """Make as much as it consumes."""
    if i >= MANY:
        event.wait()
    return bytes(MIB)


@policy_cluster(far=False, config=AT_ONCE)
async def test_no_warning_of_consumers(
    c: Client, s: Scheduler, a: Worker, b: Worker
) -> None:
    """They did not bring the data in; to hold them back would not help."""
    with captured_logger("distributed.rootish.monitor") as log:
        event = Event()

        def submit(first: int, last: int) -> list[Any]:
            # Nobody keeps the chunks, so that they are freed
            results = []
            for i in range(first, last):
                with annotate(workers=[a.address]):
                    chunk = delayed(load)("x", i)
                with annotate(workers=[b.address]):
                    results.append(delayed(stretch)(chunk, event, i))
            return c.compute(results, optimize_graph=False)

        futures = submit(0, MANY)
        await wait(futures)
        futures += submit(MANY, 20)
        name = "stretch"
        await async_poll_for(
            lambda: s.task_prefixes[name].states["processing"] == 20 - MANY, timeout=10
        )
        small_cluster(s).check()
        assert not log.getvalue()
        await event.set()
        await wait(futures)


@policy_cluster(far=False, config=AT_ONCE)
async def test_warning_of_a_group_for_each_file(
    c: Client, s: Scheduler, a: Worker, b: Worker
) -> None:
    """What counts is what goes by one name."""
    with captured_logger("distributed.rootish.monitor") as log:
        event = Event()

        def submit(i: int) -> Any:
            key = (f"load_first-{tokenize(i)}", 0)
            workers = [a.address, b.address]
            return c.submit(load_first, event, i, MANY, key=key, workers=workers)

        futures = [submit(i) for i in range(MANY)]
        await wait(futures)
        futures += [submit(i) for i in range(MANY, 20)]
        await async_poll_for(lambda: len(s.tasks) == 20, timeout=10)
        assert len(s.task_groups) == 20
        small_cluster(s).check()
        assert "20.00 MiB" in log.getvalue()
        await event.set()
        await wait(futures)


@gen_cluster(nthreads=[])
async def test_warnings_are_on(s: Scheduler) -> None:
    callback = s.periodic_callbacks["rootish"]
    assert callback.is_running()
    assert s.extensions["rootish"]._warning_interval == 60


@gen_cluster(nthreads=[], config={INTERVAL: None})
async def test_warnings_turned_off(s: Scheduler) -> None:
    assert "rootish" not in s.periodic_callbacks
    assert s.extensions["rootish"].status().groups == ()


@pytest.mark.parametrize("interval", ["often", "10 parsecs", [1], "-1s", "", "1e999s"])
@gen_test()
async def test_bad_interval(interval: Any) -> None:
    with (
        config.set({INTERVAL: interval}),
        pytest.raises(ValueError, match=f"{INTERVAL}.*must be a time"),
    ):
        async with Scheduler(dashboard_address=":0"):
            pass


@gen_cluster(client=True, nthreads=[("", 1)] * 2, config={INTERVAL: "1h", **AT_ONCE})
async def test_warned_by_the_clock(
    c: Client, s: Scheduler, a: Worker, b: Worker
) -> None:
    """Nobody has to ask for a warning."""
    with captured_logger("distributed.rootish.monitor") as log:
        small_cluster(s)
        async with half_loaded(c, workers=[a.address, b.address]):
            await async_poll_for(lambda: bool(log.getvalue()), timeout=10)
            assert len(log.getvalue().splitlines()) == 1
