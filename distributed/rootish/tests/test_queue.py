"""What leaves the queue next, and for whom; and that it is a set like others."""

from __future__ import annotations

import gc
import itertools
import math
import operator
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
from dask._task_spec import Task
from hypothesis import given, settings
from hypothesis import strategies as st

from distributed import Event, Scheduler, Worker, get_worker, secede, wait
from distributed.collections import HeapSet
from distributed.core import Status
from distributed.exceptions import Reschedule
from distributed.rootish import POLICIES
from distributed.rootish.families import FAMILY_OUTPUT, Family
from distributed.rootish.lanes import Choice, Lane
from distributed.rootish.queue import RootishQueue
from distributed.rootish.tests.paper import Paper
from distributed.rootish.tests.utils import (
    CHUNK_NBYTES,
    FOUR_WORKERS,
    deal,
    load,
    policy_cluster,
    slots,
    tree,
)
from distributed.scheduler import TaskState, WorkerState
from distributed.stealing import WorkStealing
from distributed.utils_test import async_poll_for, gen_test

OFF = {"distributed.scheduler.rootish-co-assignment": False}

#: Tasks of one output that may be left of the families that a worker has begun: the
#: one for its thread and the one before, each with those that became ready late
AHEAD = 2 * (2 * int(FAMILY_OUTPUT) - 1)

priority_of: Callable[[Any], Any] = operator.attrgetter("priority")


# -- Order ---------------------------------------------------------------------------


def test_own_then_first_then_help() -> None:
    """Workers go on with what they have begun, and help when nothing else is left."""
    s = Paper(2)
    loads = s.pairs(2)
    s.enqueue(*loads)
    assert s.give(0) is loads[0]
    assert s.give(1) is loads[2]
    assert s.give(0) is loads[1]
    assert s.give(0) is loads[3]
    assert s.give(0) is None
    assert s.queue.chosen == {"own": 1, "first": 2, "help": 1}
    a, b = (ws.address for ws in s.all)
    assert s.queue.choices == [
        (loads[0].key, a, "first"),
        (loads[2].key, b, "first"),
        (loads[3].key, a, "help"),
    ]


def test_order_of_arrival_does_not_matter() -> None:
    """The most urgent is next, whenever it became ready; what left is passed over."""
    s = Paper(1)
    loads = s.pairs(12)
    for start in (3, 0, 1, 2):
        s.enqueue(*loads[start::4])
    left = loads[1::2] + loads[::4]
    for ts in loads[2::4]:
        s.queue.discard(ts)
    assert s.give_all(0) == sorted(left, key=priority_of)
    assert not s.queue


def test_the_least_busy_worker_is_asked_first() -> None:
    """What is most urgent does not wait behind another task."""
    s = Paper(3)
    s.enqueue(*s.pairs(3))
    for n in (0, 2):
        s.send(s.add("other", 100 + n), s.all[n])
    choice = s.queue.choose()
    assert choice
    assert choice.worker is s.all[1]


def test_who_is_given_work_does_not_steal() -> None:
    """What was loaded stays where it is while the next load is queued."""
    s = Paper(3)
    stealer: Any = object.__new__(WorkStealing)
    stealer.scheduler = s
    stealer.in_flight_occupancy = dict.fromkeys(s.all, 0.0)
    occupancies = {ws: n for n, ws in enumerate(s.all)}

    def thief() -> WorkerState | None:
        found: WorkerState | None = WorkStealing._get_thief(
            stealer, s, ts, {*s.all}, occupancies=occupancies
        )
        return found

    ts = s.send(s.add("combine", 0), s.all[2])
    s.idle_task_count = {s.all[1]}
    assert thief() is s.all[0]
    [load] = s.pairs(1)[:1]
    s.enqueue(load)
    # The queue has nothing for the one that has room
    assert thief() is s.all[1]
    s.idle_task_count = set()
    assert thief() is None
    s.queue.discard(load)
    assert thief() is s.all[0]
    # With the queue of the base, it is as it was
    s.queued = HeapSet(key=priority_of)
    s.queued.add(load)
    assert thief() is s.all[0]


def test_more_urgent_graph_interrupts_families() -> None:
    """What is begun waits as long as there is anything more urgent to begin."""
    s = Paper(2)
    slow, urgent = s.pairs(4, graph=1), s.pairs(2, graph=0)
    s.enqueue(*slow)
    assert s.give(0) is slow[0]
    s.enqueue(*urgent)
    assert s.give(0) is urgent[0]
    assert s.give(0) is urgent[1]
    assert s.give(0) is urgent[2]
    assert s.give(0) is urgent[3]
    assert s.give(0) is slow[1]


class Unseen(list[Any]):
    """A list that nobody may go through."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("looks at each of them")


def test_what_waits_for_its_turn_is_not_looked_at() -> None:
    """Why they wait is known of all of them."""
    s = Paper(2)
    loads = [s.add("load", n, nbytes=10) for n in range(40)]
    s.enqueue(*loads)
    [line] = s.queue.open.lines()
    line.cells = Unseen(line.cells)
    assert s.queue.why_waiting() == {loads[0].group: Counter(order=40)}


def test_what_comes_after_a_family_was_made() -> None:
    """It goes first if it is more urgent, and is no family yet if it is not."""
    s = Paper(2)
    loads = [s.add("load", n, nbytes=10) for n in range(16)]
    for n in range(0, 16, 4):
        s.add("sum", 20 + n, *loads[n : n + 4])
    s.enqueue(*loads[4:8])
    assert s.offer(0)
    s.enqueue(*loads[8:])
    assert s.offer(0)
    assert len(s.queue.open.next) == 1
    s.enqueue(*loads[:4])
    assert s.give(0) is loads[0]


def test_more_urgent_family_that_was_made_before() -> None:
    """It goes first, even if all that wait for a family are of another graph."""
    s = Paper(2)
    later, urgent = (
        [s.add("load", n, graph=graph, nbytes=10) for n in range(4)] for graph in (1, 0)
    )
    for graph, loads in ((1, later), (0, urgent)):
        s.add("sum", 9, *loads, graph=graph)
    s.enqueue(*later)
    assert s.give(0) is later[0]
    s.enqueue(*urgent)
    assert s.offer(1)
    assert s.queue.open.next
    assert s.give(0) is urgent[0]


def test_more_urgent_graph_is_helped() -> None:
    """Between graphs, priority is kept to the task."""
    s = Paper(2)
    slow, urgent = s.pairs(4, graph=1), s.pairs(2, graph=0)
    s.enqueue(*slow)
    assert s.give(0) is slow[0]
    s.enqueue(*urgent)
    assert s.give(1) is urgent[0]
    # Rather than to go on with a graph that is less urgent
    assert [s.give(0) for _ in range(3)] == urgent[2:] + urgent[1:2]
    assert s.give(0) is slow[1]


def test_help_where_all_is_begun() -> None:
    """The more urgent graph is helped first."""
    s = Paper(3)
    slow, urgent = s.pairs(1, graph=1), s.pairs(1, graph=0)
    s.enqueue(*slow)
    assert s.give(0) is slow[0]
    s.enqueue(*urgent)
    assert s.give(1) is urgent[0]
    assert s.give(2) is urgent[1]
    assert s.give(2) is slow[1]


def test_family_of_a_worker_that_is_gone() -> None:
    """The others finish it at once."""
    s = Paper(3)
    loads = s.pairs(20)
    s.enqueue(*loads)
    assert s.give(1) is loads[0]
    s.leave(1)
    assert s.give(0) is loads[1]
    assert s.give(0) is loads[2]


def test_family_that_is_left_behind() -> None:
    """The others finish it if its worker does not come back, in the end."""
    s = Paper(3)
    loads = s.pairs(40)
    s.enqueue(*loads)
    assert s.give(2) is loads[0]
    taken = [s.give(0) for _ in range(40)]
    assert taken[:4] == loads[2:6]
    assert loads[1] in taken


@pytest.mark.parametrize("nworkers", [4, 64])
def test_families_are_not_gone_through(
    nworkers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To find one that is left behind does not cost more with more workers."""
    s = Paper(nworkers)
    s.enqueue(*s.pairs(20 * nworkers))
    for n in range(nworkers):
        # All families but the last of each are done, and kept
        for _ in range(5):
            assert s.give(n)
    looked_at = []

    def look(family: Family) -> TaskState | None:
        looked_at.append(family)
        return head(family)

    head = Family.head
    monkeypatch.setattr(Family, "head", look)
    for _ in range(4):
        s.give(0)
    assert 0 < len(looked_at) < 60


@pytest.mark.parametrize("nworkers", [4, 64])
def test_lanes_are_not_gone_through(
    nworkers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker is asked for what it may run."""
    s = Paper(nworkers)
    loads = [s.add("load", n) for n in range(2 * nworkers)]
    for n, ts in enumerate(loads):
        ts.worker_restrictions = {s.all[n % nworkers].address}
    s.enqueue(*loads)
    asked = []

    def choose(lane: Lane, ws: WorkerState) -> Choice | None:
        asked.append(lane)
        return choose_of(lane, ws)

    choose_of = Lane.choose
    monkeypatch.setattr(Lane, "choose", choose)
    s.idle_task_count = set(s.all)
    assert s.queue.choose()
    assert len(asked) == 1


@settings(deadline=None)
@given(st.randoms(use_true_random=False))
def test_nothing_is_lost(random: Random) -> None:
    """Every task comes out once, whatever comes and goes meanwhile."""
    s = Paper(3)
    names = ("load", random.choice(["load", "mask"]))
    waiting = [ts for graph in range(3) for ts in s.pairs(8, graph, names=names)]
    inside: set[Any] = set()
    out: list[Any] = []
    while waiting or inside:
        what = random.random()
        if waiting and what < 0.5:
            ts = waiting.pop(random.randrange(len(waiting)))
            s.enqueue(ts)
            inside.add(ts)
        elif inside and what > 0.95:
            # Cancelled, and wanted again
            ts = random.choice(sorted(inside, key=priority_of))
            s.queue.discard(ts)
            inside.discard(ts)
            waiting.append(ts)
        elif inside:
            ts = s.give(random.randrange(3))
            assert ts
            inside.remove(ts)
            out.append(ts)
        assert set(s.queue) == inside
        assert len(s.queue) == len(inside)
    assert len(out) == len(set(out)) == 48


def test_look_ahead_is_bounded() -> None:
    """Whoever goes ahead of a more urgent task is of a family that was begun."""
    s = Paper(4)
    loads = s.pairs(64)
    random = Random(0)
    late = random.sample(loads, 32)
    s.enqueue(*(ts for ts in loads if ts not in late))
    for ts in late:
        choice = s.offer(random.randrange(4))
        assert choice
        behind = {t for t in s.queue if priority_of(t) < priority_of(choice.task)}
        families = list(itertools.chain(*s.queue.open.begun.values()))
        begun = {ts for family in families for ts in family.tasks()}
        assert behind <= begun or choice.reason == "own"
        assert len(begun) <= AHEAD * len(s.all)
        s.queue.take(choice)
        s.send(choice.task, choice.worker)
        s.enqueue(ts)


# -- A set ---------------------------------------------------------------------------


def test_is_a_set() -> None:
    """Who knows the queue of the base finds what a set has, most urgent first."""
    s = Paper(2)
    loads = s.pairs(4)
    s.enqueue(*reversed(loads))
    s.give(0)
    queue = s.queue
    left = loads[1:]
    assert list(queue.sorted()) == left
    assert set(queue) == queue == set(left)
    assert queue | {loads[0]} == set(loads)
    assert queue & set(loads[:3]) == set(loads[1:3])
    assert queue - set(left) == set()
    assert loads[0] not in queue
    assert "load" not in queue
    assert str(len(left)) in repr(queue)
    with pytest.raises(KeyError):
        queue.remove(loads[0])
    queue.discard(loads[0])
    queue.add(loads[1])
    assert len(queue) == len(left)
    assert [queue.pop() for _ in left] == left
    assert not queue
    assert not list(queue.sorted())
    assert not list(queue.peekn(3))
    for take_one in (queue.peek, queue.pop):
        with pytest.raises(KeyError):
            take_one()


@pytest.mark.parametrize("begun", [True, False])
def test_clear(begun: bool) -> None:
    s = Paper(2)
    loads = s.pairs(8)
    s.enqueue(*loads)
    if begun:
        s.give(0)
    s.queue.clear()
    assert not s.queue
    assert s.give(0) is None
    s.enqueue(*loads[1:])
    assert s.give(1) is loads[1]


def test_looking_changes_nothing() -> None:
    """Whoever looks at the queue, as often as they like, finds what would be next."""

    def look(s: Paper) -> None:
        queue = s.queue
        waiting = sorted(queue, key=priority_of)
        assert queue.peek() is waiting[0]
        assert list(queue.peekn(3)) == waiting[:3]
        assert list(queue.sorted()) == waiting
        assert sum(sum(why.values()) for why in queue.why_waiting().values()) == len(
            waiting
        )
        assert repr(queue)

    taken = []
    for looks in (True, False):
        s, random = Paper(3), Random(0)
        loads = s.pairs(20)
        given = []
        for ts in random.sample(loads, len(loads)):
            s.enqueue(ts)
            if looks:
                look(s)
            if random.random() < 0.3:
                given.append(s.give(random.randrange(3)))
        while len(given) < len(loads):
            if looks:
                look(s)
            given.append(s.give(random.randrange(3)))
        taken.append([ts and ts.key for ts in given])
    assert taken[0] == taken[1]


def test_no_thread_is_free() -> None:
    s = Paper(1)
    s.enqueue(*s.pairs(1))
    s.idle_task_count = set()
    assert s.queue.choose() is None


def test_asking_twice() -> None:
    """As long as nothing is taken, the answer is the same."""
    s = Paper(3)
    s.enqueue(*s.pairs(8))
    while choice := s.queue.choose():
        assert s.queue.choose() == choice
        assert choice.task in s.queue
        s.queue.take(choice)
        assert choice.task not in s.queue


@pytest.mark.parametrize("where", ["run", "family", "begun", "held", "restricted"])
def test_cancelled_task_is_let_go_at_once(where: str) -> None:
    """Nothing keeps its payload while others wait."""
    s = Paper(2, waiting=1 if where == "held" else 2)
    loads = s.pairs(40, nbytes=2**20)
    victim = loads[-1]
    if where == "restricted":
        victim.worker_restrictions = {s.all[0].address}
    if where == "held":
        model = s.send(s.add("model", 1000))
        for n in range(len(loads)):
            model = s.add("model", 1001 + n, model, loads[n], nbytes=1)
    s.enqueue(*loads)
    if where == "held":
        assert len(s.give_all(0)) < len(loads)
        assert s.is_held(victim)
    elif where in ("family", "begun"):
        victim = loads[1]
        assert s.offer(0)
        if where == "begun":
            s.give(0)
    ref = weakref.ref(victim)
    loads.remove(victim)
    s.forget(victim)
    del victim
    gc.collect()
    assert ref() is None
    assert s.queue


def test_cancelled_and_submitted_again() -> None:
    """A family has a task that was forgotten, and another of that key is queued."""
    s = Paper(2)
    loads = s.pairs(3)
    s.enqueue(*loads)
    assert s.give(0) is loads[0]
    s.forget(loads[1])
    again = s.add("load", 1)
    assert again == loads[1]
    s.enqueue(again)
    assert [s.give(0) for _ in range(5)] == [again, *loads[2:]]
    assert next(ts for ts in s.tasks.values() if ts == again) is again
    assert again.processing_on
    assert not loads[1].processing_on


# -- One way out ---------------------------------------------------------------------


def wait_for(event: Event, *args: object) -> bytes:
    event.wait()
    return bytes(CHUNK_NBYTES)


@policy_cluster([("127.0.0.1", 1)], far=False)
async def test_what_becomes_ready_late_does_not_overtake(
    c: Any, s: Any, a: Any
) -> None:
    """A slot that becomes free is for the most urgent, not for who has just come."""
    opens, loads = Event("opens"), Event("loads")
    handle = c.submit(wait_for, opens, key="handle")
    late = c.map(load, [handle] * 20, key=[("late", n) for n in range(20)], priority=-1)
    await async_poll_for(lambda: len(s.tasks) == 21, timeout=60)
    first = c.map(wait_for, [loads] * 20, key=[("first", n) for n in range(20)])
    await async_poll_for(lambda: len(s.queued) == 19, timeout=60)
    dealt_first, dealt_late = await deal(s, "first"), await deal(s, "late")
    await opens.set()
    await async_poll_for(lambda: s.tasks["handle"].state == "memory", timeout=60)
    assert {s.tasks[future.key].state for future in late} == {"queued"}
    assert not dealt_late.dealt
    await async_poll_for(lambda: len(dealt_first.dealt) == 1, timeout=60)
    await loads.set()
    await wait([*first, *late])


def watch_threads(s: Any) -> list[tuple[int, int]]:
    """Note what waits, and how many workers are free, after every stimulus."""
    seen: list[tuple[int, int]] = []
    transitions = s._transitions

    def transitions_and_look(*args: Any, **kwargs: Any) -> None:
        transitions(*args, **kwargs)
        seen.append((len(s.queued), len(s.idle_task_count)))

    s._transitions = transitions_and_look
    return seen


@policy_cluster(FOUR_WORKERS)
async def test_no_worker_idles(c: Any, s: Any, *workers: Any) -> None:
    """No thread is free while a task is queued, after whatever happens."""
    seen = watch_threads(s)
    [total] = c.get(tree(160, 4), ["total"], sync=False)
    assert await total == 40 * CHUNK_NBYTES
    assert any(queued for queued, _ in seen)
    assert not [one for one in seen if all(one)]


def fail(event: Event, *args: object) -> None:
    event.wait()
    raise ZeroDivisionError


def reschedule(event: Event, *args: object) -> None:
    event.wait()
    raise Reschedule


def go_on(event: Event, end: Event) -> None:
    event.wait()
    secede()
    end.wait()


@pytest.mark.parametrize(
    "happens",
    ["errs", "rescheduled", "secedes", "cancelled", "joins", "resumes", "leaves"],
)
@policy_cluster(far=False, config={"distributed.worker.memory.pause": False})
async def test_asked_after(c: Any, s: Any, a: Any, b: Any, happens: str) -> None:
    """What is queued gets every thread that becomes free, whatever the reason."""
    go, end = Event("go"), Event("end")
    seen = watch_threads(s)
    first: Callable[..., Any] = {
        "errs": fail,
        "rescheduled": reschedule,
        "secedes": go_on,
    }.get(happens, wait_for)
    keys = [("first", n) for n in range(4)]
    begun = c.map(first, [go] * 4, [end] * 4, key=keys, priority=1)
    await async_poll_for(lambda: len(s.tasks) == 4, timeout=60)
    futures = c.map(wait_for, [end] * 20, key=[("then", n) for n in range(20)])
    await async_poll_for(lambda: len(s.tasks) == 24, timeout=60)

    def sent() -> int:
        number: int = s.task_prefixes["then"].states["processing"]
        return number

    assert sent() == 0
    if happens in ("errs", "rescheduled", "secedes"):
        await go.set()
        if happens != "rescheduled":
            await async_poll_for(lambda: sent() == slots(s), timeout=60)
    elif happens == "cancelled":
        await c.cancel(begun)
        await async_poll_for(lambda: sent() == slots(s), timeout=60)
    elif happens == "joins":
        async with Worker(s.address, nthreads=1) as third:
            await async_poll_for(lambda: sent() == 2, timeout=60)
            assert len(s.workers[third.address].processing) == 2
            await end.set()
            await go.set()
            await wait(futures)
    elif happens == "resumes":
        a.status = Status.paused
        await async_poll_for(lambda: len(s.running) == 1, timeout=60)
        await go.set()
        await async_poll_for(lambda: sent() == 2, timeout=60)
        a.status = Status.running
        await async_poll_for(lambda: sent() == 4, timeout=60)
    elif happens == "leaves":
        await a.close(executor_wait=False)
        await async_poll_for(lambda: len(s.workers) == 1, timeout=60)
    assert not [one for one in seen if all(one)]
    if happens == "rescheduled":
        await c.cancel(begun)
    await end.set()
    await go.set()
    await wait(futures)
    assert {future.status for future in futures} == {"finished"}
    assert not [one for one in seen if all(one)]


@policy_cluster(
    far=False,
    config={
        "distributed.scheduler.work-stealing": True,
        # Nothing is stolen but by the test
        "distributed.scheduler.work-stealing-interval": "1h",
    },
)
async def test_asked_after_a_task_was_stolen(c: Any, s: Any, a: Any, b: Any) -> None:
    """The worker that loses it has a thread free."""
    event = Event()
    first = c.map(
        wait_for, [event] * 2, key=[("first", n) for n in (0, 1)], workers=[a.address]
    )
    await async_poll_for(lambda: len(s.workers[a.address].processing) == 2, timeout=60)
    futures = c.map(wait_for, [event] * 20, key=[("then", n) for n in range(20)])
    await async_poll_for(lambda: len(s.queued) == 18, timeout=60)
    await async_poll_for(lambda: a.state.executing_count == 1, timeout=60)
    [ready] = (ts.key for ts in a.state.ready)
    s.extensions["stealing"].move_task_request(
        s.tasks[ready], s.workers[a.address], s.workers[b.address]
    )
    await async_poll_for(lambda: len(s.queued) == 17, timeout=60)
    assert s.tasks[ready].processing_on is s.workers[b.address]
    await event.set()
    await wait([*first, *futures])


def load_when(event: Event, worker: str, *args: object) -> bytes:
    """Load, but wait for the event on one worker."""
    if get_worker().address == worker:
        event.wait()
    return bytes(CHUNK_NBYTES)


@policy_cluster(far=False)
async def test_slow_worker_is_helped(c: Any, s: Any, a: Any, b: Any) -> None:
    """No worker idles while there is anything in the queue."""
    event = Event()
    dsk = tree(64, 4)
    for n in range(64):
        dsk["load", n] = Task(("load", n), load_when, event, a.address, n)
    [total] = c.get(dsk, ["total"], sync=False)
    ws = s.workers[a.address]
    await async_poll_for(
        lambda: "total" in s.tasks and not s.queued and len(ws.processing) <= 2,
        timeout=60,
    )
    await async_poll_for(
        lambda: s.task_prefixes["load"].states["processing"] <= 2, timeout=60
    )
    await event.set()
    assert await total == 16 * CHUNK_NBYTES


class Started:
    """How many loads have begun, on any worker of this process."""

    number = itertools.count()


def load_some(event: Event, *args: object) -> bytes:
    """Load, but wait for the event from the seventeenth load on."""
    if next(Started.number) >= 16:
        event.wait()
    return bytes(CHUNK_NBYTES)


@pytest.mark.parametrize("how", ["leave", "pause"])
@policy_cluster(far=False, config={"distributed.worker.memory.pause": False})
async def test_worker_leaves_with_a_family(
    c: Any, s: Any, a: Any, b: Any, how: str, monkeypatch: Any
) -> None:
    """A family is finished elsewhere when its worker leaves or pauses."""
    event = Event()
    dsk = tree(64, 4)
    monkeypatch.setattr(Started, "number", itertools.count())
    for n in range(64):
        dsk["load", n] = Task(("load", n), load_some, event, n)
    [total] = c.get(dsk, ["total"], sync=False)
    await async_poll_for(
        lambda: s.queued.chosen["own"] and s.workers[a.address].processing, timeout=60
    )
    assert s.queued
    ws = s.workers[a.address]
    assert ws in s.queued.open.begun
    if how == "leave":
        await a.close(executor_wait=False)
    else:
        a.status = Status.paused
    await async_poll_for(lambda: ws not in s.queued.open.begun, timeout=60)
    if how == "pause":
        a.status = Status.running
    await event.set()
    assert await total == 16 * CHUNK_NBYTES


@policy_cluster(far=False)
async def test_priority_between_graphs(c: Any, s: Any, a: Any, b: Any) -> None:
    """What is more urgent runs before what is left of a family."""
    event = Event()
    slow = {("load", n): Task(("load", n), wait_for, event) for n in range(40)}
    urgent = {("urgent", n): Task(("urgent", n), load, n) for n in range(40)}
    first, second = await deal(s), await deal(s, "urgent")
    low = c.get(slow, list(slow), sync=False, priority=0)
    await async_poll_for(lambda: len(s.queued) == 40 - slots(s), timeout=60)
    high = c.get(urgent, list(urgent), sync=False, priority=1)
    await async_poll_for(lambda: len(s.queued) == 80 - slots(s), timeout=60)
    begun = len(first.dealt)
    await event.set()
    await wait(high)
    done = len(first.dealt) - begun
    assert len(second.dealt) == 40
    # Both workers may have gone on before the client heard of the last
    assert done <= 2 * slots(s)
    await wait(low)


# -- Settings ------------------------------------------------------------------------


def test_off_is_the_order_of_the_base() -> None:
    """Without co-assignment, tasks leave the queue by priority, whoever is free."""
    in_order = {}

    async def run(c: Any, s: Any, *workers: Any) -> None:
        dealt = await deal(s)
        loads = [("load", n) for n in range(128)]
        await wait(c.get(tree(128, 4), [*loads, "total"], sync=False))
        keys = [key for key, _ in dealt.dealt]
        by_priority = sorted(keys, key=lambda key: s.tasks[key].priority)
        assert len(keys) == 128
        in_order[type(s.queued)] = keys == by_priority

    policy_cluster(FOUR_WORKERS)(run)()
    policy_cluster(FOUR_WORKERS, config=OFF)(run)()
    assert in_order == {RootishQueue: False, HeapSet: True}


@policy_cluster()
async def test_another_queue_in_its_place(c: Any, s: Any, a: Any, b: Any) -> None:
    """A plugin may put the base's own queue there, and what is queued runs."""
    s.queued = HeapSet(key=priority_of)
    [total] = c.get(tree(64, 4), ["total"], sync=False)
    assert await total == 16 * CHUNK_NBYTES


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("on", [True, False])
def test_setting(policy: str, on: bool) -> None:
    """It may be turned off, and policies of the base keep the queue of the base."""

    @policy_cluster(config=None if on else OFF)
    async def run(c: Any, s: Any, a: Any, b: Any, policy: str) -> None:
        expected = RootishQueue if on and policy == "producers" else HeapSet
        assert type(s.queued) is expected
        assert await c.submit(len, b"123") == 3

    run(policy=policy)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        *(
            ("rootish-co-assignment", value, "must be true or false")
            for value in ("yes", 1, None)
        ),
        *(
            ("rootish-waiting", value, "must be a number above 0")
            for value in (0, -1, "two", None, True, [2], math.nan)
        ),
    ],
)
def test_bad_settings(
    setting: str, value: object, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever mistypes one is told which, what it may be, and what it was."""
    # It would be left open
    monkeypatch.setattr(Scheduler, "start_http_server", lambda *args, **kwargs: None)

    @gen_test(config={f"distributed.scheduler.{setting}": value})
    async def start() -> None:
        with pytest.raises(ValueError, match=message) as info:
            Scheduler()
        assert repr(value) in str(info.value)
        assert setting in str(info.value)

    start()


@pytest.mark.parametrize("value", [2, 0.5, "3", ".inf", math.inf])
def test_waiting(value: Any) -> None:
    """Any number above 0 will do."""
    assert Paper(waiting=value).queue.waiting == float(str(value).lstrip("."))
