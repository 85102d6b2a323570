"""Loads that may run on some workers only wait as well, for those workers."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import dask
import pytest
from dask import delayed

from distributed import Event, Worker, wait
from distributed.core import Status
from distributed.rootish import POLICIES
from distributed.rootish.lanes import Restrictions, restrictions_of
from distributed.rootish.policy import HANDLE_BYTES
from distributed.rootish.tests.paper import Paper
from distributed.rootish.tests.utils import CHUNK_NBYTES, policy_cluster, watch
from distributed.utils_test import async_poll_for

RELEASE = {
    "co-assignment": {"distributed.scheduler.rootish-co-assignment": False},
    "saturation": {"distributed.scheduler.worker-saturation": "inf"},
}


# -- On paper ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked_for", "expected"),
    [
        ({}, None),
        ({"worker_restrictions": set()}, None),
        (
            {"worker_restrictions": {"tcp://a:1"}},
            Restrictions(workers=frozenset({"tcp://a:1"})),
        ),
        (
            {"worker_restrictions": {"tcp://a:1"}, "loose_restrictions": True},
            Restrictions(workers=frozenset({"tcp://a:1"}), loose=True),
        ),
        (
            {"worker_restrictions": {"tcp://a:1", "tcp://b:1"}},
            Restrictions(workers=frozenset({"tcp://a:1", "tcp://b:1"})),
        ),
        (
            {"worker_restrictions": {"tcp://a:1"}, "host_restrictions": {"b"}},
            Restrictions(workers=frozenset({"tcp://a:1"}), hosts=frozenset({"b"})),
        ),
        (
            {"host_restrictions": {"b"}},
            Restrictions(hosts=frozenset({"b"})),
        ),
        (
            {"resource_restrictions": {"GPU": 1, "CPU": 0.5}},
            Restrictions(resources=frozenset({("GPU", 1), ("CPU", 0.5)})),
        ),
    ],
)
def test_restrictions_of(
    asked_for: dict[str, Any], expected: Restrictions | None
) -> None:
    """Tasks that ask for the same wait together."""
    ts = Paper().add("load", 0)
    for name, value in asked_for.items():
        setattr(ts, name, value)
    restrictions = restrictions_of(ts)
    assert restrictions == expected
    assert hash(restrictions) == hash(expected)


def test_pool() -> None:
    """Slots are counted over the workers that may run a task, as they come and go."""
    s = Paper(3, resources=[{"GPU": 2}, {"GPU": 1}, {"CPU": 1}])
    ts = s.add("load", 0)
    assert s.queue.pool(ts).workers == set(s.all)
    assert s.queue.pool(ts).slots == 6
    ts.resource_restrictions = {"GPU": 1}
    pool = s.queue.pool(ts)
    assert pool.workers == set(s.all[:2])
    assert (pool.nthreads, pool.slots) == (2, 4)
    ts.resource_restrictions = {"GPU": 2}
    assert s.queue.pool(ts).workers == {s.all[0]}
    s.leave(0)
    assert not s.queue.pool(ts).workers
    assert s.queue.pool(ts).slots == 0
    ts.resource_restrictions = None
    ts.worker_restrictions = {"tcp://10.0.0.7:1", s.all[0].address}
    assert s.queue.pool(ts).workers == {s.all[0]}
    new = s.join(7)
    assert s.queue.pool(ts).workers == {s.all[0], new}
    # Loose ones are for all, if those are not there
    ts.worker_restrictions = {"tcp://10.0.0.9:1"}
    assert not s.queue.pool(ts).workers
    ts.loose_restrictions = True
    assert s.queue.pool(ts).workers == set(s.all)


@pytest.mark.parametrize("others", [False, True])
def test_a_worker_takes_the_place_of_another(others: bool) -> None:
    """Nobody has asked the queue meanwhile, and there are as many as before."""
    s = Paper(3, resources=[{"GPU": 1}] * 3)
    first, second, third = s.all
    ts = s.add("load", 0)
    ts.resource_restrictions = {"GPU": 1}
    s.pause(second)
    if not others:
        s.pause(third)
    s.enqueue(ts)
    assert s.queue.pool(ts).workers == s.running
    s.pause(first)
    s.running.add(second)
    assert not s.queue.stranded()
    assert s.give(1) is ts
    assert s.queue.pool(ts).workers == s.running


def test_none_takes_the_place_of_a_worker() -> None:
    """What only that one could run is found, although there are as many as before."""
    s = Paper(2, resources=[{"GPU": 1}])
    first, second = s.all
    ts = s.add("load", 0)
    ts.resource_restrictions = {"GPU": 1}
    s.pause(second)
    s.enqueue(ts)
    assert not s.queue.stranded()
    s.pause(first)
    s.running.add(second)
    assert s.queue.stranded() == [ts]


def test_resources_last_for_some_threads() -> None:
    """A worker runs no more tasks at once than it has resources for."""
    s = Paper(1, resources=[{"GPU": 3, "DISK": 1}])
    s.all[0].nthreads = 4
    ts = s.add("load", 0)
    for wanted, threads in (({"GPU": 1}, 3), ({"GPU": 0.5}, 4), ({"DISK": 0}, 4)):
        ts.resource_restrictions = wanted
        assert s.queue.pool(ts).nthreads == threads


def test_most_urgent_of_all_lanes() -> None:
    """A worker is offered the first of what it may run, whatever that asks for."""
    s = Paper(3, resources=[{"GPU": 1}])
    loads = [s.add("load", n) for n in range(8)]
    loads[0].worker_restrictions = {s.all[1].address}
    loads[1].resource_restrictions = {"GPU": 1}
    loads[3].worker_restrictions = {s.all[0].address}
    loads[4].host_restrictions = {s.all[0].host}
    loads[5].worker_restrictions = {s.all[1].address, s.all[2].address}
    s.enqueue(*reversed(loads))
    assert len(s.queue.restricted) == 5
    assert s.give_all(2) == [loads[2], *loads[5:]]
    assert s.give_all(1) == [loads[0]]
    assert s.give_all(0) == [loads[1], *loads[3:5]]
    assert not s.queue.restricted


def test_whoever_is_free_may_run_nothing() -> None:
    """Then others that are free are asked."""
    s = Paper(3)
    ts = s.add("load", 0)
    ts.worker_restrictions = {s.all[2].address}
    s.enqueue(ts)
    s.send(s.add("other", 1), s.all[2])
    s.idle_task_count = set(s.all)
    choice = s.queue.choose()
    assert choice
    assert choice.worker is s.all[2]
    s.idle_task_count = set(s.all[:2])
    assert s.queue.choose() is None


def test_resources_in_use() -> None:
    """A worker gets as many as its resources last for, and one to follow."""
    s = Paper(2, resources=[{"GPU": 1}, {"GPU": 1}])
    loads = [s.add("load", n) for n in range(4)]
    for ts in loads:
        ts.resource_restrictions = {"GPU": 1}
    s.enqueue(*loads)
    ws, thief = s.all
    assert s.give(0) is loads[0]
    assert s.give(0) is loads[1]
    assert s.offer(0) is None
    # The base leaves resources alone when a task is stolen
    ws.used_resources["GPU"] = 2
    ws.processing.discard(loads[1])
    s.send(loads[1], thief)
    assert s.give(0) is loads[2]
    assert s.give(1) is loads[3]


def test_why_waiting() -> None:
    """Told apart from those that wait for their turn."""
    s = Paper(2)
    bound, free = s.add("bound", 0), s.add("free", 1)
    bound.worker_restrictions = {s.all[0].address}
    s.enqueue(bound, free)
    s.idle_task_count = {s.all[1]}
    assert s.queue.why_waiting() == {
        bound.group: Counter(restrictions=1),
        free.group: Counter(order=1),
    }
    s.idle_task_count = set(s.all)
    assert s.queue.why_waiting()[bound.group] == Counter(order=1)


def test_no_restriction_if_all_are_named() -> None:
    """What any worker may run waits for its turn, in whatever way that was said."""
    s = Paper(2)
    ts = s.add("load", 0)
    ts.worker_restrictions = {ws.address for ws in s.all}
    s.enqueue(ts)
    s.idle_task_count = set()
    assert s.queue.why_waiting() == {ts.group: Counter(order=1)}


@pytest.mark.parametrize("loose", [True, False])
def test_stranded(loose: bool) -> None:
    """Tasks that no worker may run any more are found."""
    s = Paper(2, resources=[{"GPU": 1}])
    loads = [s.add("load", n) for n in range(4)]
    loads[0].worker_restrictions = {s.all[0].address}
    loads[0].loose_restrictions = loose
    loads[1].resource_restrictions = {"GPU": 1}
    loads[2].host_restrictions = {s.all[1].host}
    s.enqueue(*loads)
    assert not s.queue.stranded()
    s.leave(0)
    assert s.queue.stranded() == loads[loose:2]
    if loose:
        assert s.give(0) is loads[0]


# -- Clusters ------------------------------------------------------------------------


POOL: Any = [
    ("127.0.0.1", 1, {"resources": {"POOL": 1}}),
    ("127.0.0.2" if sys.platform == "linux" else "127.0.0.1", 1),
]

#: Root-ish tasks that a worker with one thread holds
SLOTS = 2

KINDS = ["workers", "allow_other_workers", "resources"]
if sys.platform == "linux":
    # Elsewhere there is one address of this machine
    KINDS.append("hosts")


def asking_for(kind: str, a: Any) -> dict[str, Any]:
    """What a load asks for that is to run on worker a."""
    asked: dict[str, Any] = {
        "workers": {"workers": [a.address]},
        "allow_other_workers": {"workers": [a.address], "allow_other_workers": True},
        "resources": {"resources": {"POOL": 1}},
        "hosts": {"workers": ["127.0.0.1"]},
    }[kind]
    return asked


def load_when(event: Event, i: int) -> bytes:
    event.wait()
    return bytes(CHUNK_NBYTES)


def consume(chunk: bytes) -> int:
    return len(chunk)


def loads_and_consumers(
    c: Any, event: Event, asked: dict[str, Any], number: int = 20
) -> Any:
    """Submit loads, the workers of which are said, and what consumes them."""
    with dask.annotate(**asked):
        loads = [
            delayed(load_when)(event, n, dask_key_name=("load_when", n))
            for n in range(number)
        ]
    sizes = [delayed(consume)(chunk) for chunk in loads]
    return c.compute(sizes, optimize_graph=False)


@pytest.mark.parametrize("kind", KINDS)
@policy_cluster(POOL, far=False)
async def test_held_back(c: Any, s: Any, a: Any, b: Any, kind: str) -> None:
    """Where the graph says who needs them, loads wait for a thread of their workers."""
    event = Event()
    seen = await watch(s, "load_when")
    sizes = loads_and_consumers(c, event, asking_for(kind, a))
    await async_poll_for(lambda: len(s.queued) == 20 - SLOTS, timeout=60)
    assert len(s.workers[a.address].processing) == SLOTS
    assert not s.workers[b.address].processing
    # Nobody else waits for them
    assert await c.submit(len, b"123", workers=[b.address]) == 3
    assert await c.submit(len, b"1234") == 4
    await event.set()
    assert await c.gather(sizes) == [CHUNK_NBYTES] * 20
    assert seen.computed == {a.address: 20}
    assert seen.peak_sent == SLOTS


@pytest.mark.parametrize("how", [*RELEASE, *POLICIES])
def test_as_in_the_release(how: str) -> None:
    """Other settings send them all at once."""
    held_back = how == "producers"

    @policy_cluster(POOL, far=False, config=RELEASE.get(how))
    async def run(c: Any, s: Any, a: Any, b: Any, policy: str) -> None:
        event = Event()
        sizes = loads_and_consumers(c, event, asking_for("workers", a))
        sent = SLOTS if held_back else 20
        ws = s.workers[a.address]
        await async_poll_for(lambda: len(ws.processing) == sent, timeout=60)
        assert len(s.queued) == 20 - sent
        await event.set()
        await wait(sizes)

    run(policy=how if how in POLICIES else "producers")


@pytest.mark.parametrize("policy", POLICIES)
@policy_cluster(POOL, far=False)
async def test_nothing_is_known(c: Any, s: Any, a: Any, b: Any, policy: str) -> None:
    """Tasks that nobody needs yet go to where they are bound, as in the release."""
    event = Event()
    seen = await watch(s, "wait_for")
    futures = c.map(wait_for, [event] * 20, range(20), workers=[a.address])
    await async_poll_for(lambda: len(s.workers[a.address].processing) == 20, timeout=60)
    assert not s.queued
    await event.set()
    await wait(futures)
    assert seen.computed == {a.address: 20}
    # And stay there, as they turned out to be small
    assert not seen.queued


def wait_for(event: Event, i: int) -> int:
    event.wait()
    return i


@pytest.mark.parametrize("nbytes", [1, HANDLE_BYTES - 100, 2 * HANDLE_BYTES])
@policy_cluster(POOL, far=False)
async def test_small_outputs_go_at_once(
    c: Any, s: Any, a: Any, b: Any, nbytes: int
) -> None:
    """Whoever needs them, and whatever was done before they were known to be small."""
    event = Event()
    first = c.submit(bytes, nbytes, key=("load_when", -1), workers=[a.address])
    await wait(first)
    sizes = loads_and_consumers(c, event, asking_for("workers", a))
    sent = SLOTS if nbytes > HANDLE_BYTES else 20
    ws = s.workers[a.address]
    await async_poll_for(lambda: len(ws.processing) == sent, timeout=60)
    assert len(s.queued) == 20 - sent
    await event.set()
    await wait(sizes)


def test_who_is_called_back() -> None:
    """What does not run yet: neither others, nor what has seceded."""
    s = Paper(1)
    loads = [s.send(s.add("load", n)) for n in range(5)]
    s.send(s.add("other", 9))
    s.all[0].long_running.add(loads[3])
    policy = s.rootish_policy
    policy.unsure[loads[0].group] = None
    assert not policy.overdue()
    s.finish(loads[0], nbytes=CHUNK_NBYTES)
    s.add("use", 10, loads[1])
    loads[1].worker_restrictions = {s.all[0].address}
    assert policy.overdue() == [loads[2], loads[4]]
    assert not policy.unsure
    # The one that stays is among those that are out
    outstanding = s.queue.outstanding["load", "use"]
    assert [ref() for ref in outstanding.tasks] == [loads[1]]
    assert outstanding.pools == {s.queue.pool(loads[1])}


def test_nothing_is_kept_of_restricted_tasks_that_are_gone() -> None:
    """Although it was never known what they make."""
    s = Paper(1)
    tg = s.add("load", 0).group
    s.rootish_policy.unsure[tg] = None
    del s.task_groups[tg.name]
    assert not s.rootish_policy.overdue()
    assert not s.rootish_policy.unsure


@pytest.mark.parametrize("large", [True, False])
@policy_cluster(POOL, far=False)
async def test_called_back(c: Any, s: Any, a: Any, b: Any, large: bool) -> None:
    """When the first has brought in data, those that are not about to run wait."""
    go, event = Event(), Event()
    keys = [("load_first", n) for n in range(20)]
    futures = c.map(
        load_first,
        [go] * 20,
        [event] * 20,
        range(20),
        [CHUNK_NBYTES if large else 1] * 20,
        key=keys,
        workers=[a.address],
    )
    ws = s.workers[a.address]
    await async_poll_for(lambda: len(ws.processing) == 20, timeout=60)
    await go.set()
    await wait(futures[0])
    # Those that stay are about to run
    left = SLOTS if large else 19
    await async_poll_for(lambda: len(ws.processing) == left, timeout=60)
    assert len(s.queued) == 19 - left
    waits = [s.tasks[key].state for key in keys[1:]]
    assert waits == ["processing"] * left + ["queued"] * (19 - left)
    back = [t for t in s.story(*keys[1:]) if t[1] == "processing"]
    assert bool(back) is large
    await event.set()
    await wait(futures)
    assert {future.status for future in futures} == {"finished"}


def load_first(go: Event, event: Event, i: int, nbytes: int) -> bytes:
    (event if i else go).wait()
    return bytes(nbytes)


@policy_cluster(POOL, far=False)
async def test_pool_leaves_and_comes_back(c: Any, s: Any, a: Any, b: Any) -> None:
    """Meanwhile there is no worker for them; the others are not asked."""
    event = Event()
    seen = await watch(s, "load_when")
    sizes = loads_and_consumers(c, event, asking_for("resources", a))
    await async_poll_for(lambda: len(s.queued) == 20 - SLOTS, timeout=60)
    await a.close(executor_wait=False)
    loads = [ts for ts in s.tasks.values() if ts.prefix.name == "load_when"]
    await async_poll_for(
        lambda: {ts.state for ts in loads} == {"no-worker"}, timeout=60
    )
    assert set(loads) == set(s.unrunnable)
    assert not s.queued
    await event.set()
    async with Worker(s.address, nthreads=1, resources={"POOL": 1}) as again:
        assert await c.gather(sizes) == [CHUNK_NBYTES] * 20
        assert seen.computed == {again.address: 20}
        assert seen.peak_sent == SLOTS


@pytest.mark.parametrize("saturation", [1.1, "inf"])
def test_pool_is_not_there_yet(saturation: Any) -> None:
    """Loads wait for it like other tasks, and are held back when it comes."""
    config = {"distributed.scheduler.worker-saturation": saturation}

    @policy_cluster(POOL, far=False, config=config)
    async def run(c: Any, s: Any, a: Any, b: Any) -> None:
        event = Event()
        sizes = loads_and_consumers(c, event, {"resources": {"LATER": 1}})
        await async_poll_for(lambda: len(s.unrunnable) == 20, timeout=60)
        async with Worker(s.address, nthreads=1, resources={"LATER": 1}) as later:
            ws = s.workers[later.address]
            sent = 20 if saturation == "inf" else SLOTS
            await async_poll_for(lambda: len(ws.processing) == sent, timeout=60)
            assert len(s.queued) == 20 - sent
            await event.set()
            assert await c.gather(sizes) == [CHUNK_NBYTES] * 20

    run()


@pytest.mark.parametrize("how", ["leave", "pause"])
@policy_cluster(POOL, far=False, config={"distributed.worker.memory.pause": False})
async def test_others_if_the_workers_go(
    c: Any, s: Any, a: Any, b: Any, how: str
) -> None:
    """What may run on other workers does, when its own are not there for it."""
    event = Event()
    sizes = loads_and_consumers(c, event, asking_for("allow_other_workers", a))
    await async_poll_for(lambda: len(s.queued) == 20 - SLOTS, timeout=60)
    if how == "leave":
        await a.close(executor_wait=False)
    else:
        a.status = Status.paused
    ws = s.workers[b.address]
    await async_poll_for(lambda: len(ws.processing) == SLOTS, timeout=60)
    # One that is paused keeps what it was given
    assert len(s.queued) == 20 - SLOTS * (1 if how == "leave" else 2)
    if how == "pause":
        a.status = Status.running
    await event.set()
    assert await c.gather(sizes) == [CHUNK_NBYTES] * 20
