"""Which queued task a free worker gets: its neighbours, and never one out of turn."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from dask import delayed
from dask._task_spec import List, Task, TaskRef
from hypothesis import given, settings
from hypothesis import strategies as st

from distributed import Event, Scheduler, SchedulerPlugin, get_worker, wait
from distributed.collections import HeapSet
from distributed.rootish import POLICIES, GroupFacts
from distributed.rootish.queue import (
    BLOCK_OUTPUT,
    LOOK_AHEAD,
    REMOVED,
    CoAssigningQueue,
    end_of_block,
    first_use,
    output_until_joined,
)
from distributed.rootish.tests.utils import (
    CHUNK_NBYTES,
    moved,
    policy_cluster,
    slots,
    watch,
)
from distributed.utils_test import async_poll_for, gen_test

FOUR_WORKERS = [("127.0.0.1", 1)] * 4
OFF = {"distributed.scheduler.rootish-co-assignment": False}


class Deal(SchedulerPlugin):
    """Note which worker got which task, in order."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.dealt: list[tuple[Any, str]] = []

    async def start(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    def transition(
        self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any
    ) -> None:
        if finish == "processing":
            ts = self.scheduler.tasks[key]
            if ts.prefix.name == self.prefix:
                assert ts.processing_on
                self.dealt.append((key, ts.processing_on.address))

    @property
    def workers(self) -> dict[Any, str]:
        return dict(self.dealt)


async def deal(s: Scheduler, prefix: str = "load") -> Deal:
    plugin = Deal(prefix)
    await plugin.start(s)
    s.add_plugin(plugin)
    return plugin


def load(*args: object) -> bytes:
    return bytes(CHUNK_NBYTES)


def combine(*chunks: bytes) -> bytes:
    return chunks[0]


def mean(*chunks: bytes) -> int:
    return sum(map(len, chunks)) // len(chunks)


def tree(leaves: int, width: int) -> dict[Any, Task]:
    """Make loads that are combined by ``width``, and what comes of that counted."""
    dsk: dict[Any, Task] = {}
    for n in range(leaves):
        dsk["load", n] = Task(("load", n), load, n)
    parts = []
    for n in range(leaves // width):
        key = ("combine", n)
        chunks = [TaskRef(("load", n * width + i)) for i in range(width)]
        dsk[key] = Task(key, combine, *chunks)
        dsk["count", n] = Task(("count", n), len, TaskRef(key))
        parts.append(TaskRef(("count", n)))
    dsk["total"] = Task("total", sum, List(*parts))
    return dsk


def split(dealt: Deal, families: Iterable[Iterable[int]]) -> int:
    """Count the families whose loads ran on different workers."""
    workers = dealt.workers
    return sum(len({workers["load", n] for n in family}) > 1 for family in families)


# -- Families ------------------------------------------------------------------------


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("on", [True, False])
def test_families_of_a_tree(on: bool, width: int) -> None:
    """Loads that are combined first run on one worker, whatever their number."""
    leaves = 32 * width
    families = [range(n, n + width) for n in range(0, leaves, width)]

    @policy_cluster(FOUR_WORKERS, config=None if on else OFF)
    async def run(c: Any, s: Any, *workers: Any) -> None:
        dealt = await deal(s)
        [total] = c.get(tree(leaves, width), ["total"], sync=False)
        assert await total == 32 * CHUNK_NBYTES
        assert len(set(dealt.workers.values())) == 4
        # What is sent out before there is a queue is dealt like cards
        assert (split(dealt, families) < len(families) / 2) is on
        assert (moved(workers) < leaves * CHUNK_NBYTES / 3) is on

    run()


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
    assert in_order == {CoAssigningQueue: False, HeapSet: True}


@pytest.mark.parametrize("on", [True, False])
def test_two_fields(on: bool) -> None:
    """Fields that are combined elementwise are read on one worker."""

    @policy_cluster(FOUR_WORKERS, config=None if on else OFF)
    async def run(c: Any, s: Any, *workers: Any) -> None:
        dealt = await deal(s)
        fields = [delayed(load)(n, dask_key_name=("load", n)) for n in range(128)]
        pairs = [
            delayed(len)(delayed(combine)(*fields[n : n + 2])) for n in range(0, 128, 2)
        ]
        assert await c.compute(delayed(sum)(pairs)) == 64 * CHUNK_NBYTES
        families = [range(n, n + 2) for n in range(0, 128, 2)]
        assert (split(dealt, families) < 32) is on

    run()


def test_stencil() -> None:
    """Chunks that use their neighbours are loaded in stretches."""
    counts = {}

    async def run(c: Any, s: Any, *workers: Any) -> None:
        dealt = await deal(s)
        chunks = [delayed(load)(n, dask_key_name=("load", n)) for n in range(96)]
        means = [delayed(mean)(*chunks[max(n - 1, 0) : n + 2]) for n in range(96)]
        assert await c.compute(delayed(sum)(means)) == 96 * CHUNK_NBYTES
        pairs = [range(n, n + 2) for n in range(95)]
        counts[isinstance(s.queued, CoAssigningQueue)] = split(dealt, pairs)

    policy_cluster(FOUR_WORKERS)(run)()
    policy_cluster(FOUR_WORKERS, config=OFF)(run)()
    assert counts[True] < 0.9 * counts[False], counts


class Handle:
    """A small object that stands for a file."""


def open_file(n: int) -> Handle:
    return Handle()


@pytest.mark.parametrize("on", [True, False])
def test_files_stay_with_their_worker(on: bool) -> None:
    """Where files are read step by step, each worker opens a part of them."""

    @policy_cluster(FOUR_WORKERS, config=None if on else OFF)
    async def run(c: Any, s: Any, *workers: Any) -> None:
        handles = c.map(open_file, range(32))
        await wait(handles)
        dealt = await deal(s)
        dsk: dict[Any, Task] = {}
        for step in range(16):
            for f, handle in enumerate(handles):
                key = ("load", step * 32 + f)
                dsk[key] = Task(key, load, TaskRef(handle.key), step)
            for part in range(8):
                first = step * 32 + part * 4
                key = ("combine", step * 8 + part)
                chunks = [TaskRef(("load", first + i)) for i in range(4)]
                dsk[key] = Task(key, combine, *chunks)
                dsk["count", key[1]] = Task(("count", key[1]), len, TaskRef(key))
        counts = [TaskRef(("count", n)) for n in range(128)]
        dsk["total"] = Task("total", sum, List(*counts))
        [total] = c.get(dsk, ["total"], sync=False)
        assert await total == 128 * CHUNK_NBYTES
        opened = {(key[1] % 32, worker) for key, worker in dealt.dealt}
        assert (len(opened) < 108) is on
        if on:
            assert s.queued.chosen["near"]

    run()


# -- Memory --------------------------------------------------------------------------


@pytest.mark.parametrize("marks", [True, False])
@policy_cluster(FOUR_WORKERS)
async def test_chunks_in_memory(c: Any, s: Any, *workers: Any, marks: bool) -> None:
    """Blocks do not lead a worker far ahead of the order."""
    seen = await watch(s, "load")
    dsk = tree(160, 4)
    if marks:
        for n in range(160):
            dsk["load", n] = Task(("load", n), load, n, _data_producer=True)
    [total] = c.get(dsk, ["total"], sync=False)
    await total
    assert seen.peak_chunks <= 3 * slots(s), (seen.peak_chunks, slots(s))


def fake(
    n: int, graph: int = 0, output: int | None = 1, who_has: Iterable[Any] = ()
) -> Any:
    """A task as far as the queue looks at it."""
    types = {} if output is None else {"bytes": 1}
    group = Fake(
        _types=types, _size=1, nbytes_total=output or 0, rootish_facts=GroupFacts()
    )
    return Fake(
        key=("load", graph, n),
        _state="queued",
        priority=(0, graph, n),
        group=group,
        prefix=group,
        dependents=set(),
        dependencies=set(),
        waiting_on=set(),
        who_has=set(who_has),
    )


class Fake(SimpleNamespace):
    """Has attributes, and is equal to itself alone."""

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self is other


def connect(user: Any, *inputs: Any) -> Any:
    for ts in inputs:
        ts.dependents.add(user)
        user.dependencies.add(ts)
        user.waiting_on.add(ts)
    return user


def test_output_until_joined() -> None:
    """Past tasks that only rename, what is made of a chunk counts."""
    chunk = fake(0, output=10)
    assert output_until_joined(chunk) == 1
    alias = connect(fake(1, output=10), chunk)
    assert output_until_joined(chunk) == 1
    for n, output in enumerate([30, 20, None]):
        connect(fake(2 + n, output=output), alias)
    assert output_until_joined(chunk) == 3 + 2 + 1
    # Next to nothing is made of it, but it is there itself
    small = fake(0, output=10)
    connect(fake(1, output=0), small)
    assert output_until_joined(small) == 1


@pytest.mark.parametrize(("output", "made"), [(30, 2.5), (10, 1.5), (None, 1.5)])
def test_chunks_that_are_merged_count_twice(output: int | None, made: float) -> None:
    """A join that keeps the size of its inputs is there beside them."""
    chunks = [fake(n, output=10) for n in range(3)]
    filled = []
    for n, ts in enumerate(chunks):
        mask = connect(fake(10 + n, output=5), ts)
        filled.append(connect(fake(20 + n, output=10), ts, mask))
    connect(fake(31, output=1), connect(fake(30, output=output), *filled))
    assert output_until_joined(chunks[0]) == made


def test_end_of_block() -> None:
    """Neighbours are those that come before the second join, in the same graph."""
    a, b, c = fake(0), fake(1), fake(2)
    assert end_of_block(a) == a.priority
    only = connect(fake(3), a)
    assert end_of_block(a) == a.priority
    pair = connect(fake(4), only, b)
    assert end_of_block(a) == pair.priority
    four = connect(fake(5), pair, c)
    assert end_of_block(a) == four.priority
    # Two joins are as far as neighbours are looked for
    connect(fake(6), four, fake(7))
    assert end_of_block(a) == four.priority
    # What is in memory already makes no join
    table = fake(8)
    scaled = connect(fake(9), table, d := fake(10))
    scaled.waiting_on.remove(table)
    assert end_of_block(d) == d.priority
    # What comes of it in another graph is as far away as the end of this one
    later = connect(fake(0, graph=1), d, a)
    connect(fake(1, graph=1), later, fake(2, graph=1))
    assert fake(10**6).priority < end_of_block(d) < later.priority


def test_first_use() -> None:
    a, b, c = fake(0), fake(1), fake(2)
    assert first_use(a) == a.priority
    alias = connect(fake(3), a)
    assert first_use(a) == a.priority
    pair = connect(fake(4), alias, b)
    connect(fake(9), a, c)
    assert first_use(a) == first_use(b) == pair.priority


# -- The queue -----------------------------------------------------------------------


class FakeState:
    """Free workers, as far as the queue looks at a scheduler."""

    def __init__(self, nworkers: int = 1) -> None:
        self.workers = [Fake(address=f"worker-{n}") for n in range(nworkers)]
        self.running = set(self.workers)
        self.idle_task_count = set(self.workers)
        self.next: Any = self.workers[0]

    def decide_worker_rootish_queuing_enabled(self) -> Any:
        return self.next


class Queue(CoAssigningQueue):
    """Keep the state of tasks in step, as transitions do."""

    def add(self, value: Any) -> None:
        value._state = "queued"
        super().add(value)

    def discard(self, value: Any) -> None:
        value._state = "released"
        super().discard(value)


def make(nworkers: int = 1) -> tuple[FakeState, Any]:
    state = FakeState(nworkers)
    return state, Queue(state)  # type: ignore[arg-type]


def take(state: FakeState, queue: Any, worker: int = 0) -> Any:
    state.next = state.workers[worker]
    ts = queue.peek()
    assert queue.peek() is ts
    assert queue.worker_for(ts) is state.workers[worker]
    queue.remove(ts)
    return ts


def pairs(number: int, graph: int = 0, **kwargs: Any) -> list[Any]:
    """Return loads of which each two are combined."""
    loads = []
    for n in range(number):
        two = [fake(3 * n, graph, **kwargs), fake(3 * n + 1, graph, **kwargs)]
        connect(fake(3 * n + 2, graph), *two)
        loads += two
    return loads


def test_own_then_first_then_help() -> None:
    state, queue = make(2)
    loads = pairs(2)
    for ts in reversed(loads):
        queue.add(ts)
    assert take(state, queue, 0) is loads[0]
    assert take(state, queue, 1) is loads[2]
    assert take(state, queue, 0) is loads[1]
    assert take(state, queue, 0) is loads[3]
    assert queue.chosen == {"own": 1, "first": 2, "near": 0, "help": 1}
    assert queue.choices == [
        (loads[0].key, "worker-0", "first"),
        (loads[2].key, "worker-1", "first"),
        (loads[3].key, "worker-0", "help"),
    ]
    with pytest.raises(KeyError):
        queue.peek()


def test_what_is_combined_first_is_not_torn() -> None:
    """However the blocks before ended."""
    state, queue = make(2)
    loads = pairs(8)
    connect(fake(100), *(next(iter(ts.dependents)) for ts in loads))
    # The first of the first pair is on its way already
    for ts in loads[1:]:
        queue.add(ts)
    assert take(state, queue, 0) is loads[1]
    assert take(state, queue, 1) is loads[4]
    assert [take(state, queue, 0) for _ in range(2)] == loads[2:4]
    assert [take(state, queue, 1) for _ in range(3)] == loads[5:8]


def test_large_family_has_several_blocks() -> None:
    state, queue = make(2)
    loads = [fake(n) for n in range(3 * BLOCK_OUTPUT)]
    connect(fake(100), *loads)
    for ts in loads:
        queue.add(ts)
    assert take(state, queue, 0) is loads[0]
    assert take(state, queue, 1) is loads[BLOCK_OUTPUT]


def test_uses_that_overlap_leave_a_task() -> None:
    """A block has at least one task, whatever the order of priority says."""
    state, queue = make()
    loads = [fake(0), fake(9), fake(11), fake(12), fake(13)]
    for n, ts in zip((10, 14, 15, 16, 17), loads):
        connect(fake(n), ts, fake(20 + n))
        queue.add(ts)
    connect(fake(100), *loads)
    assert [take(state, queue) for _ in loads] == loads


def test_nobody_is_free() -> None:
    state, queue = make()
    loads = pairs(2)
    for ts in loads:
        queue.add(ts)
    state.idle_task_count.clear()
    state.next = None
    assert queue.peek() is loads[0]


def test_worker_for_whom_it_was_chosen() -> None:
    """What peek found out is used once, by the task that it is about, and if true."""
    state, queue = make(3)
    loads = pairs(2)
    for ts in loads:
        queue.add(ts)
    ws = state.next = state.workers[1]
    ts = queue.peek()
    assert queue.worker_for(ts) is ws
    assert queue.worker_for(ts) is None
    assert queue.peek() is ts
    assert queue.worker_for(loads[-1]) is None
    assert queue.peek() is ts
    state.idle_task_count.remove(ws)
    assert queue.worker_for(ts) is None
    queue.peek()
    state.next = None
    queue.peek()
    state.idle_task_count.add(ws)
    assert queue.worker_for(ts) is None
    # Only the choice that was followed is told
    assert queue.choices == [(ts.key, "worker-1", "first")]


def test_more_urgent_graph_interrupts_blocks() -> None:
    state, queue = make(2)
    slow, urgent = pairs(4, graph=1), pairs(2, graph=0)
    for ts in slow:
        queue.add(ts)
    assert take(state, queue, 0) is slow[0]
    for ts in urgent:
        queue.add(ts)
    # Worker 1 has a block that is begun; it is helped before the next graph goes on
    assert take(state, queue, 1) is urgent[0]
    assert take(state, queue, 0) is urgent[2]
    assert take(state, queue, 0) is urgent[3]
    assert take(state, queue, 0) is urgent[1]
    assert take(state, queue, 0) is slow[1]


def test_blocks_of_much_output_are_short() -> None:
    state, queue = make(2)
    loads = pairs(2, output=1)
    for ts in loads:
        for n in range(BLOCK_OUTPUT):
            connect(fake(100 + n), ts)
        queue.add(ts)
    assert take(state, queue, 0) is loads[0]
    assert take(state, queue, 1) is loads[1]


def with_inputs_on(worker: Any, tasks: list[Any]) -> None:
    for ts in tasks:
        connect(ts, fake(-1, who_has=[worker]))


def test_near_is_bounded() -> None:
    """However many blocks are near, the first is not passed over for ever."""
    state, queue = make(2)
    far = pairs(1)
    near = [ts for ts in pairs(3 * LOOK_AHEAD) if ts.priority[2] > 2]
    with_inputs_on(state.workers[1], far)
    with_inputs_on(state.workers[0], near)
    for ts in far + near:
        queue.add(ts)
    taken = [take(state, queue, 0) for _ in range(LOOK_AHEAD + 2)]
    assert taken == near[:LOOK_AHEAD] + far
    assert queue.chosen["near"] >= LOOK_AHEAD / 2


def test_near_does_not_look_far_ahead() -> None:
    state, queue = make(2)
    loads = pairs(LOOK_AHEAD)
    far, near = loads[:LOOK_AHEAD], loads[LOOK_AHEAD:]
    with_inputs_on(state.workers[1], far)
    with_inputs_on(state.workers[0], near)
    for ts in loads:
        queue.add(ts)
    assert take(state, queue, 0) is far[0]
    # The first block is gone, and what comes after it within reach
    assert take(state, queue, 1) is far[2]
    assert take(state, queue, 0) is far[1]
    assert take(state, queue, 0) is near[0]


def test_order_is_kept_where_much_is_made() -> None:
    """Blocks of one task are not passed over for the sake of their inputs."""
    state, queue = make(2)
    loads = pairs(4)
    with_inputs_on(state.workers[1], loads[:4])
    with_inputs_on(state.workers[0], loads[4:])
    for ts in loads:
        for n in range(BLOCK_OUTPUT):
            connect(fake(100 + n), ts)
        queue.add(ts)
    assert [take(state, queue, 0) for _ in loads] == loads


def test_worker_that_is_gone_or_left_behind() -> None:
    state, queue = make(3)
    loads = pairs(20)
    for ts in loads:
        queue.add(ts)
    assert take(state, queue, 1) is loads[0]
    state.running.remove(state.workers[1])
    assert take(state, queue, 0) is loads[1]
    # Worker 2 begins a block, and does not come back
    assert take(state, queue, 2) is loads[2]
    taken = [take(state, queue, 0) for _ in range(20)]
    assert loads[3] in taken


def test_is_a_set_in_order() -> None:
    state, queue = make()
    loads = pairs(4)
    for ts in loads:
        queue.add(ts)
    take(state, queue)
    assert list(queue.peekn(3)) == loads[1:4]
    assert list(queue.sorted()) == loads[1:]
    assert set(queue) == set(loads[1:])
    assert queue.pop() is loads[1]
    assert queue.peekright() is loads[-1]
    assert queue.popright() is loads[-1]
    assert len(queue) == 5
    queue.clear()
    assert not queue
    assert not list(queue.sorted())
    for take_one in (queue.peek, queue.pop, queue.peekright, queue.popright):
        with pytest.raises(KeyError):
            take_one()


def test_order_of_arrival_does_not_matter() -> None:
    """Runs that overlap are merged, and tasks that left meanwhile are passed over."""
    state, queue = make()
    loads = pairs(12)
    for start in (8, 0, 1, 3, 2):
        for ts in loads[start::4]:
            queue.add(ts)
    for ts in loads[4::8]:
        queue.discard(ts)
    left = [ts for ts in loads if ts in queue]
    assert len(left) < len(loads)
    assert [take(state, queue) for _ in left] == left
    assert not queue


def test_cancelled_tasks_are_not_kept() -> None:
    """Those that will not be run do not wait for their turn; the others do."""
    state, queue = make(2)
    loads = pairs(4 * REMOVED)
    for ts in loads:
        queue.add(ts)
    for n in range(6):
        take(state, queue, n % 2)
    wanted = loads[-20:]
    for ts in loads[:-20]:
        if ts in queue:
            queue.remove(ts)
    kept = [queue._run, *(run for *_, run in queue._runs)]
    assert sum(map(len, kept)) <= REMOVED + len(wanted)
    assert [take(state, queue) for _ in wanted] == wanted
    assert not queue
    with pytest.raises(KeyError):
        queue.remove(wanted[0])


class SameKey(Fake):
    """Equal to every other task of its key, as tasks are."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SameKey) and self.key == other.key


def test_cancelled_and_submitted_again() -> None:
    """A block has a task that was forgotten, and another of that key is queued."""
    state, queue = make()
    old, new, first = (SameKey(**vars(fake(n))) for n in (1, 1, 0))
    connect(fake(2), first, old)
    last = fake(9)
    for ts in (first, old, last):
        queue.add(ts)
    assert take(state, queue) is first
    queue.remove(old)
    queue.add(new)
    queue._begin_runs_again()
    assert [take(state, queue) for _ in range(2)] == [new, last]


def test_pickle() -> None:
    """What comes out is a plain set in order, as of the base."""
    _, queue = make()
    queue.add(fake(2))
    queue.add(fake(1))
    state, *arguments = queue.__reduce__()
    assert [ts.priority[2] for ts in state(*arguments[0]).sorted()] == [1, 2]


@settings(deadline=None)
@given(st.randoms(use_true_random=False))
def test_nothing_is_lost(random: Random) -> None:
    """Every task comes out once, and none while a more urgent graph waits."""
    state, queue = make(3)
    waiting = [ts for graph in range(3) for ts in pairs(5, graph)]
    inside: list[Any] = []
    out: list[Any] = []
    while waiting or inside:
        what = random.random()
        if waiting and what < 0.5:
            ts = waiting.pop(random.randrange(len(waiting)))
            queue.add(ts)
            inside.append(ts)
        elif inside and what > 0.95:
            # Cancelled, and wanted again
            ts = inside.pop(random.randrange(len(inside)))
            queue.discard(ts)
            waiting.append(ts)
        elif inside:
            ts = take(state, queue, random.randrange(3))
            assert ts.priority[:2] == min(t.priority[:2] for t in inside)
            inside.remove(ts)
            out.append(ts)
        assert set(queue) == set(inside)
        assert len(queue) == len(inside)
    assert len(out) == len(set(out)) == 30


# -- Clusters ------------------------------------------------------------------------


def load_when(event: Event, worker: str, *args: object) -> bytes:
    """Load, but wait for the event on one worker."""
    if get_worker().address == worker:
        event.wait()
    return bytes(CHUNK_NBYTES)


def event_wait(event: Event) -> bytes:
    event.wait()
    return bytes(CHUNK_NBYTES)


@policy_cluster(FOUR_WORKERS)
async def test_no_worker_idles(c: Any, s: Any, *workers: Any) -> None:
    """No thread is free while a task is queued, whenever tasks have been given out."""
    give_out = s.stimulus_queue_slots_maybe_opened
    seen: list[tuple[int, int]] = []

    def give_out_and_look(**kwargs: Any) -> None:
        give_out(**kwargs)
        seen.append((len(s.queued), len(s.idle_task_count)))

    s.stimulus_queue_slots_maybe_opened = give_out_and_look
    [total] = c.get(tree(160, 4), ["total"], sync=False)
    assert await total == 40 * CHUNK_NBYTES
    assert any(queued for queued, _ in seen)
    assert not [one for one in seen if all(one)]


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
        timeout=20,
    )
    await async_poll_for(
        lambda: s.task_prefixes["load"].states["processing"] <= 2, timeout=20
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


@policy_cluster(far=False)
async def test_worker_leaves_with_a_block(
    c: Any, s: Any, a: Any, b: Any, monkeypatch: Any
) -> None:
    """A block is finished elsewhere when its worker leaves."""
    event = Event()
    dsk = tree(64, 4)
    monkeypatch.setattr(Started, "number", itertools.count())
    for n in range(64):
        dsk["load", n] = Task(("load", n), load_some, event, n)
    [total] = c.get(dsk, ["total"], sync=False)
    await async_poll_for(
        lambda: s.queued.chosen["own"] and s.workers[a.address].processing, timeout=20
    )
    assert s.queued
    await a.close(executor_wait=False)
    await event.set()
    assert await total == 16 * CHUNK_NBYTES


@policy_cluster(far=False)
async def test_priority_between_graphs(c: Any, s: Any, a: Any, b: Any) -> None:
    """What is more urgent runs before what is left of a block."""
    event = Event()
    slow = {("load", n): Task(("load", n), event_wait, event) for n in range(40)}
    urgent = {("urgent", n): Task(("urgent", n), load, n) for n in range(40)}
    first, second = await deal(s), await deal(s, "urgent")
    low = c.get(slow, list(slow), sync=False, priority=0)
    await async_poll_for(lambda: len(s.queued) == 40 - slots(s), timeout=10)
    high = c.get(urgent, list(urgent), sync=False, priority=1)
    await async_poll_for(lambda: len(s.queued) == 80 - slots(s), timeout=10)
    begun = len(first.dealt)
    await event.set()
    await wait(high)
    done = len(first.dealt) - begun
    assert len(second.dealt) == 40
    # Both workers may have gone on before the client heard of the last
    assert done <= 2 * slots(s)
    await wait(low)


# -- Setting -------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("on", [True, False])
def test_setting(policy: str, on: bool) -> None:
    """It may be turned off, and policies of the base keep the queue of the base."""

    @policy_cluster(config=None if on else OFF)
    async def run(c: Any, s: Any, a: Any, b: Any, policy: str) -> None:
        expected = CoAssigningQueue if on and policy == "producers" else HeapSet
        assert type(s.queued) is expected
        assert await c.submit(len, b"123") == 3

    run(policy=policy)


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_bad_setting(value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    # It would be left open
    monkeypatch.setattr(Scheduler, "start_http_server", lambda *args, **kwargs: None)

    @gen_test(config={"distributed.scheduler.rootish-co-assignment": value})
    async def start() -> None:
        with pytest.raises(ValueError, match="must be true or false") as info:
            Scheduler()
        assert repr(value) in str(info.value)

    start()
