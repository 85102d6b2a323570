"""Which tasks are held back, and what becomes of memory, placement and transfers.

Every test but those of single functions runs a graph on a small cluster, and asserts
what matters: how many chunks were in memory at once, which workers were used, how many
bytes moved. Where another policy is known to be wrong, the test runs under it too, and
asserts that the same measure fails.
"""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from dask import delayed
from dask._task_spec import DataNode, List, Task, TaskRef
from dask.utils import key_split

from distributed import Event, Scheduler, Worker, wait
from distributed.collections import HeapSet
from distributed.core import Status
from distributed.rootish import policy as module_of_policies
from distributed.rootish.policy import (
    BESIDE,
    CONSUMER,
    COUNTED,
    FEW,
    HANDLE_BYTES,
    LOOKED_AT,
    NOT_COUNTED,
    PLACED,
    POLICIES,
    PRODUCER,
    SMALL_PART,
    STAND_IN,
    GroupFacts,
    Heuristic,
    Verdict,
    expected_output,
    larger_than_cluster,
    mean_output,
    within_count,
)
from distributed.rootish.tests.paper import Paper
from distributed.rootish.tests.utils import (
    CHUNK_NBYTES,
    CLUSTERS,
    KIB,
    MIB,
    Watch,
    moved,
    policy_cluster,
    reading_tasks,
    slots,
    watch,
)
from distributed.scheduler import TaskGroup, TaskPrefix, TaskState
from distributed.utils_test import (
    BlockedGatherDep,
    async_poll_for,
    gen_test,
    inc,
)

FOUR_WORKERS = CLUSTERS["4x1"]
NO_WORKERS: list[tuple[str, int]] = []


class Handle:
    """A small object that stands for a file."""

    def __init__(self, path: str):
        self.path = path


class PinnedHandle(Handle):
    """A handle that cannot leave the worker where it was made."""

    def __reduce__(self) -> Any:
        raise TypeError("this handle is pinned")


class Store:
    """What `da.from_array` reads from: knows its shape, and makes up its values."""

    dtype = np.dtype("f8")

    def __init__(self, *shape: int, name: str = ""):
        self.name = name  # tells stores of the same shape apart
        self.shape = shape
        self.ndim = len(shape)

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        sizes = (len(range(*i.indices(n))) for i, n in zip(index, self.shape))
        return np.ones(tuple(sizes))


def open_file(path: object) -> Handle:
    return Handle(str(path))


def open_pinned(path: object) -> PinnedHandle:
    return PinnedHandle(str(path))


def find_asset(item: int) -> dict[str, str]:
    return {"path": f"{item}.nc"}


def read(handle: Handle, i: int) -> bytes:
    assert isinstance(handle, Handle)
    return bytes(CHUNK_NBYTES)


def load(*args: object) -> bytes:
    return bytes(CHUNK_NBYTES)


def load_when(event: Event, *args: object) -> bytes:
    event.wait()
    return bytes(CHUNK_NBYTES)


def count_all(*args: object) -> int:
    return len(args)


def count_when(event: Event, *args: object) -> int:
    event.wait()
    return 1


def consume(chunk: object) -> int:
    return 1


def cut(chunk: bytes, i: int, n: int) -> bytes:
    size = len(chunk) // n
    return chunk[i * size : (i + 1) * size]


def total(tasks: list[Any]) -> Any:
    return delayed(sum)(tasks)


def reads_through(handles: list[Any], per_file: int) -> Any:
    """Read several chunks through each handle, and count them."""
    read_ = delayed(read, pure=True)
    consume_ = delayed(consume, pure=True)
    return total([consume_(read_(h, i)) for h in handles for i in range(per_file)])


def assert_chunks(
    seen: Watch, s: Scheduler, n: int, bounded: bool = True, more: int = 0
) -> None:
    """No more chunks than the slots make and their consumers use, out of ``n``."""
    assert seen.computed.total() == n, seen.computed
    bound = 2 * slots(s) + more
    assert n > 2 * bound, "too few chunks to tell"
    assert (seen.peak_chunks <= bound) is bounded, (seen.peak_chunks, bound)


# -- Loaders -------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize(
    ("policy", "bounded"),
    [("producers", True), ("marked", False), ("heuristic", False)],
)
@policy_cluster(CLUSTERS)
async def test_opened_handles(
    c: Any, s: Any, *workers: Any, policy: str, bounded: bool, depth: int
) -> None:
    """A handle is cheap to copy, at any depth of the graph."""
    # What one handle lets loose is more than may be in memory
    paths: list[Any] = list(range(5))
    if depth == 3:
        paths = [delayed(find_asset, pure=True)(path) for path in paths]
    handles = [delayed(open_file, pure=True)(path) for path in paths]
    seen = await watch(s, "read")
    assert await c.compute(reads_through(handles, 12)) == 60
    assert_chunks(seen, s, 60, bounded)


@pytest.mark.parametrize(
    ("policy", "bounded"),
    [("producers", True), ("marked", False), ("heuristic", False)],
)
@policy_cluster(CLUSTERS)
async def test_function_per_file(
    c: Any, s: Any, *workers: Any, policy: str, bounded: bool
) -> None:
    """Groups of one task, each of another name, that feed one group."""
    names = [f"load_{n}" for n in range(64)]
    seen = await watch(s, *names)
    chunks = [delayed(load)(n, dask_key_name=name) for n, name in enumerate(names)]
    future = c.compute(total([delayed(consume)(chunk) for chunk in chunks]))
    assert await future == 64
    assert_chunks(seen, s, 64, bounded)


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize(
    ("policy", "bounded"),
    [("producers", True), ("marked", False), ("heuristic", False)],
)
@policy_cluster()
async def test_small_group_per_file(
    c: Any, s: Any, a: Any, b: Any, policy: str, bounded: bool, opened: bool
) -> None:
    """Groups that the cluster could run at once, but not all of them."""
    files, per_file = 16, 4
    handles = c.map(open_file, range(files))
    await wait(handles)
    dsk: dict[Any, Any] = {}
    for f in range(files):
        token = f"{f:032x}"
        source = TaskRef(handles[f].key) if opened else f
        for i in range(per_file):
            chunk, used = (f"chunk-{token}", i), (f"consume-{token}", i)
            dsk[chunk] = Task(chunk, load, source, i)
            dsk[used] = Task(used, consume, TaskRef(chunk))
    keys = [key for key in dsk if key_split(key) == "consume"]
    seen = await watch(s, "chunk")
    futures = c.get(dsk, keys, sync=False)
    await wait(futures)
    assert len(next(iter(s.task_prefixes["chunk"].groups))) == per_file
    assert_chunks(seen, s, files * per_file, bounded)


@pytest.mark.parametrize(
    ("policy", "bounded"),
    [("producers", True), ("marked", False), ("heuristic", False)],
)
@policy_cluster(CLUSTERS)
async def test_keys_named_by_hand(
    c: Any, s: Any, *workers: Any, policy: str, bounded: bool
) -> None:
    """A name for every load makes a group of one task of each."""
    tokens = [f"{i:032x}" for i in range(40)]
    chunks = [delayed(load)(t, dask_key_name=(f"load-{t}", 0)) for t in tokens]
    seen = await watch(s, "load")
    assert await c.compute(total([delayed(consume)(chunk) for chunk in chunks])) == 40
    assert_chunks(seen, s, 40, bounded)


@pytest.mark.parametrize(
    ("policy", "held"), [("producers", True), ("marked", True), ("heuristic", False)]
)
@policy_cluster(far=False)
async def test_marked_task_on_its_own(
    c: Any, s: Any, a: Any, b: Any, policy: str, held: bool
) -> None:
    """A mark makes up for the number of tasks."""
    handle = await c.scatter(Handle("file"), workers=[a.address])
    event = Event()
    busy = c.map(load_when, [event] * 20, range(20))
    await async_poll_for(lambda: len(s.queued) == 20 - slots(s), timeout=60)
    task = Task("lone", load, TaskRef(handle.key), _data_producer=True)
    lone = c.get({"lone": task}, ["lone"], sync=False)
    await async_poll_for(lambda: "lone" in s.tasks, timeout=60)
    assert s.tasks["lone"].state == ("queued" if held else "processing")
    await event.set()
    await wait(busy + lone)


@pytest.mark.parametrize("policy", POLICIES)
@policy_cluster()
async def test_one_read_per_handle(c: Any, s: Any, a: Any, b: Any, policy: str) -> None:
    """Opening is held back already, and so is reading, unless by the other rules."""
    handles = [delayed(open_file, pure=True)(i) for i in range(40)]
    seen = await watch(s, "read")
    assert await c.compute(reads_through(handles, 1)) == 40
    assert_chunks(seen, s, 40)
    assert set(seen.computed) == {a.address, b.address}
    # No chunk, whatever becomes of the handles
    assert moved([a, b]) < CHUNK_NBYTES


@pytest.mark.parametrize(
    ("policy", "bounded"),
    [("producers", True), ("marked", False), ("heuristic", False)],
)
@policy_cluster()
async def test_map_over_files(
    c: Any, s: Any, a: Any, b: Any, policy: str, bounded: bool
) -> None:
    """The same with `Client.map`, whose keys are strings."""
    handles = c.map(open_file, range(8))
    await wait(handles)
    seen = await watch(s, "load_when")
    event = Event()
    chunks = c.map(load_when, [event] * 64, handles * 8, range(64))
    counts = c.map(consume, chunks)
    del chunks
    # No chunk is there before what consumes it
    await async_poll_for(lambda: len(s.tasks) >= 8 + 64 + 64, timeout=60)
    await event.set()
    assert sum(await c.gather(counts)) == 64
    assert_chunks(seen, s, 64, bounded)


@pytest.mark.parametrize("barrier", [False, True])
@pytest.mark.parametrize(
    ("policy", "bounded"),
    [("producers", True), ("marked", False), ("heuristic", False)],
)
@policy_cluster(CLUSTERS)
async def test_finished_paths_with_one_load_each(
    c: Any, s: Any, *workers: Any, policy: str, bounded: bool, barrier: bool
) -> None:
    """One load for each input, but the inputs are all there: nothing throttles them."""
    n = 200
    paths: list[Any] = c.map(str, range(n), key=[f"path-{i}" for i in range(n)])
    await wait(paths)
    if barrier:
        gate = delayed(len)(paths)
        chunks = [delayed(load)(path, gate) for path in paths]
    else:
        chunks = [delayed(load)(path) for path in paths]
    seen = await watch(s, "load")
    assert await c.compute(total([delayed(consume)(chunk) for chunk in chunks])) == n
    assert_chunks(seen, s, n, bounded)


@pytest.mark.parametrize("policy", POLICIES)
@policy_cluster()
async def test_scattered_numbers_with_one_task_each(
    c: Any, s: Any, a: Any, b: Any, policy: str
) -> None:
    """The same shape without a load: what is small stays where it is.

    Those that were queued before the first output was known may have gone anywhere.
    """
    numbers = await c.scatter(list(range(100)), hash=False)
    assert {w.address for w in s.workers.values()} == {a.address, b.address}
    seen = await watch(s, "inc")
    results = c.map(inc, numbers)
    await wait(results)
    assert seen.computed.total() == 100
    assert len([log for w in (a, b) for log in w.transfer_incoming_log]) <= slots(s)


@policy_cluster()
async def test_two_results_of_each_chunk(c: Any, s: Any, a: Any, b: Any) -> None:
    """What consumes is not held back, even if nothing is known of its output yet."""
    chunks = [delayed(load)(i) for i in range(40)]
    # One is done with all chunks before the other begins
    results = [total([delayed(f)(x) for x in chunks]) for f in (consume, len)]
    seen = await watch(s, "load")
    consumers = await watch(s, "consume", "len")
    await c.compute(total(results))
    assert_chunks(seen, s, 40)
    assert not consumers.queued


@policy_cluster()
async def test_two_groups_of_one_name(c: Any, s: Any, a: Any, b: Any) -> None:
    """What one group shows of its output holds for one that has not begun."""
    n = 60
    dsk: dict[Any, Any] = {}
    for group in (f"consume-{0:032x}", f"consume-{1:032x}"):
        for i in range(n):
            dsk["load", i] = Task(("load", i), bytes, 2**14)
            dsk[group, i] = Task((group, i), consume, TaskRef(("load", i)))
        parts = [TaskRef((group, i)) for i in range(n)]
        dsk["sum", group] = Task(("sum", group), len, List(*parts))
    seen = await watch(s, "load")
    await wait(c.get(dsk, [key for key in dsk if key[0] == "sum"], sync=False))
    # Those that came with the first chunks may have to wait
    assert_chunks(seen, s, n, more=slots(s))


@policy_cluster()
async def test_small_results_of_small_inputs(c: Any, s: Any, a: Any, b: Any) -> None:
    """However small an input is, to send it costs more than a number is worth."""
    names = await c.scatter([str(i) for i in range(25)], hash=False)
    # So much is known from the start that they make next to nothing, and quickly
    s._get_prefix_duration = lambda prefix: 0.001
    await c.submit(int, key=("length", -1))
    seen = await watch(s, "length")
    lengths = [
        c.submit(len, name, key=("length", 4 * i + j))
        for i, name in enumerate(names)
        for j in range(4)
    ]
    await wait(lengths)
    assert seen.computed.total() == 100
    # The first that the cluster could not run at once, while one worker has all inputs
    assert seen.queued <= {("length", 3)}
    assert "consumer" in seen.reasons


@policy_cluster(CLUSTERS)
async def test_edges_of_chunks(c: Any, s: Any, *workers: Any) -> None:
    """Padding makes small pieces in groups of large ones; they are no handles."""
    pieces = []
    for n in range(40):
        part = delayed(bytes)(4 * KIB if n % 2 else MIB, dask_key_name=("part", n))
        pieces += [
            delayed(cut)(part, i, 2, dask_key_name=("piece", 2 * n + i)) for i in (0, 1)
        ]
    seen = await watch(s, "piece")
    assert await c.compute(total([delayed(consume)(piece) for piece in pieces])) == 80
    # A few may come before the first large part, or before anything is known of them
    assert len(seen.queued) <= slots(s)


@policy_cluster(CLUSTERS)
async def test_chunks_that_are_everywhere(c: Any, s: Any, *workers: Any) -> None:
    """Copies that are there already cost nothing, however large they are."""
    chunks = [c.submit(bytes, MIB, key=("chunk", i)) for i in range(20)]
    await c.replicate(chunks)
    # So much is known from the start that it makes more data
    await c.submit(cut, bytes(MIB), 0, 2, key=("cut", -1))
    seen = await watch(s, "cut")
    cuts = [delayed(cut)(chunk, i, 2) for chunk in chunks for i in range(2)]
    assert await c.compute(total([delayed(consume)(part) for part in cuts])) == 40
    assert seen.queued
    assert seen.reasons == {"producer"}


@pytest.mark.parametrize(
    ("policy", "bounded"),
    [("producers", True), ("marked", False), ("heuristic", False)],
)
@policy_cluster(CLUSTERS)
async def test_reference_tables(
    c: Any, s: Any, *workers: Any, policy: str, bounded: bool
) -> None:
    """Tables larger than a chunk, computed, but each used by many loads."""
    tables = [delayed(bytes, pure=True)(2 * CHUNK_NBYTES + i) for i in range(6)]
    chunks = [delayed(load)(table, i) for table in tables for i in range(30)]
    seen = await watch(s, "load")
    assert await c.compute(total([delayed(consume)(chunk) for chunk in chunks])) == 180
    assert_chunks(seen, s, 180, bounded)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("scattered", [False, True])
@policy_cluster(CLUSTERS)
async def test_one_large_table(
    c: Any, s: Any, *workers: Any, policy: str, scattered: bool
) -> None:
    """However large an input is, it is cheap if all loads share it."""
    # Not worth a copy for their work
    s._get_prefix_duration = lambda prefix: 0.001
    if scattered:
        table = await c.scatter(bytes(4 * CHUNK_NBYTES))
    else:
        table = delayed(bytes, pure=True)(4 * CHUNK_NBYTES)
    chunks = [delayed(load)(table, i) for i in range(200)]
    seen = await watch(s, "load")
    assert await c.compute(total([delayed(consume)(chunk) for chunk in chunks])) == 200
    assert_chunks(seen, s, 200)
    assert len(seen.computed) == len(workers)


@pytest.mark.parametrize(
    ("policy", "bounded"),
    [("producers", True), ("marked", False), ("heuristic", False)],
)
@policy_cluster(far=False)
async def test_group_that_grows(
    c: Any, s: Any, a: Any, b: Any, policy: str, bounded: bool
) -> None:
    """Each task is judged by what there is of its group when it is submitted."""
    handles = c.map(open_file, range(8))
    await wait(handles)
    seen = await watch(s, "load_when")
    event = Event()
    counts = []
    for i in range(40):
        chunk = c.submit(load_when, event, handles[i % 8], i)
        counts.append(c.submit(consume, chunk, pure=False))
        del chunk
    await async_poll_for(lambda: len(s.tasks) >= 88, timeout=60)
    # The first few are not more than the cluster runs at once
    assert (seen.peak_sent <= 2 * slots(s)) is bounded
    assert (len(s.queued) >= 40 - 2 * slots(s)) is bounded
    await event.set()
    assert sum(await c.gather(counts)) == 40


@pytest.mark.parametrize(
    ("policy", "bounded"), [("producers", True), ("marked", True), ("heuristic", False)]
)
@policy_cluster(CLUSTERS)
async def test_marked_reads_with_shared_operand(
    c: Any, s: Any, *workers: Any, policy: str, bounded: bool
) -> None:
    """A computed mask that all reads use is soon everywhere."""
    mask = c.persist(da.ones((128, 128), chunks=-1) + 1)
    await wait(mask)
    shape, chunks = (16, 128, 128), (1, 128, 128)
    stores = [
        da.from_array(Store(*shape, name=str(i)), chunks=chunks) * mask
        for i in range(5)
    ]
    result = da.concatenate(stores)
    # Used twice, so that reading is not fused with what uses it
    (result,) = dask.optimize((result + result.sum(axis=1, keepdims=True)).sum())
    fused = {
        key_split(key)
        for key, task in result.__dask_graph__().items()
        if task.data_producer and len(task.dependencies) > 1
    }
    seen = await watch(s, *fused)
    assert await c.compute(result, optimize_graph=False) == 80 * 2 * (128**2 + 128**3)
    assert_chunks(seen, s, 80, bounded)


# -- Not loaders ---------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "beside"), [("producers", True), ("marked", False)])
@policy_cluster(CLUSTERS)
async def test_marked_reads_fused_with_computed_operand(
    c: Any, s: Any, *workers: Any, policy: str, beside: bool
) -> None:
    """What is marked but needs a chunk as large as its own runs where that chunk is."""
    shape, chunks = (24, 400, 400), (1, 400, 400)
    observed = c.persist(da.ones(shape, chunks=chunks) + 1)
    await wait(observed)
    (keys,) = [set(dask.core.flatten(observed.__dask_keys__()))]
    before = moved(workers)
    bias = (da.from_array(Store(*shape), chunks=chunks) - observed).sum()
    (bias,) = dask.optimize(bias)
    fused = [t for t in bias.__dask_graph__().values() if t.data_producer]
    assert any(t.dependencies & keys for t in fused)
    assert await c.compute(bias, optimize_graph=False) == -(400**2) * 24
    chunk = observed.blocks[0].nbytes
    assert (moved(workers) - before < chunk) is beside


def test_pencils_of_reads_fused_with_computed_operand() -> None:
    """The same, and what comes of it is cut where it is, too."""
    sent: dict[str, int] = {}

    @policy_cluster(FOUR_WORKERS)
    async def pencils(c: Any, s: Any, *workers: Any, policy: str) -> None:
        shape, chunks = (24, 400, 400), (1, 400, 400)
        observed = c.persist(da.ones(shape, chunks=chunks) + 1)
        await wait(observed)
        bias = da.from_array(Store(*shape), chunks=chunks) - observed
        bias = bias.rechunk((24, 50, 400), method="tasks").sum()
        before = moved(workers)
        assert await c.compute(bias) == -(400**2) * 24
        sent[policy] = moved(workers) - before

    for policy in ("marked", "producers"):
        pencils(policy=policy)
    assert sent["producers"] < 0.75 * sent["marked"], sent


@pytest.mark.parametrize(
    ("policy", "beside"),
    [("producers", True), ("marked", False), ("heuristic", False)],
)
@policy_cluster()
async def test_reads_fused_with_computed_operand(
    c: Any, s: Any, a: Any, b: Any, policy: str, beside: bool
) -> None:
    """A handle must not draw a read away from the chunk that it is combined with."""
    nbytes = 1280 * KIB
    handles, chunks = [], []
    for here, there in ((a, b), (b, a)):
        opened = c.map(open_file, range(5), workers=[there.address], pure=False)
        handles += opened * 2
        chunks += await c.scatter(
            [bytes(nbytes)] * 10, hash=False, workers=[here.address]
        )
    await wait(handles)
    keys = [("combine", i) for i in range(20)]
    await wait(c.map(lambda *args: None, chunks, handles, key=keys))
    assert (moved([a, b]) < nbytes) is beside


@pytest.mark.parametrize("policy", POLICIES)
@policy_cluster(far=False, config={"distributed.scheduler.work-stealing": True})
async def test_large_inputs_do_not_bury_a_worker(
    c: Any, s: Any, a: Any, b: Any, policy: str
) -> None:
    """A worker that has more than its share of the work gets help from the other."""
    event = Event()
    await event.set()
    # So much is known from the start that they bring nothing in, and take long
    first = c.submit(count_when, event, key=("count", -1))
    await wait(first)
    s.task_prefixes["count"].duration_average = 1
    await event.clear()
    chunks = await c.scatter([bytes(MIB + 1)] * 24, hash=False, workers=[a.address])
    handles = c.map(open_file, range(8), workers=[b.address])
    await wait(handles)
    seen = await watch(s, "count")
    keys = [("count", i) for i in range(24)]
    futures = c.map(count_when, [event] * 24, chunks, handles * 3, key=keys)
    await async_poll_for(lambda: seen.peak_sent == 24, timeout=60)
    helper = s.workers[b.address]
    await async_poll_for(lambda: len(helper.processing) >= 2, timeout=60)
    await event.set()
    await wait(futures)


@pytest.mark.parametrize(("edge", "bound"), [(64 * KIB, True), (900 * KIB, False)])
def test_the_largest_input_binds(edge: int, bound: bool) -> None:
    """An edge draws no task away from its chunk; what is as large leaves a choice."""
    s = Paper(2)
    busy, idle = s.all
    busy._occupancy_cache = 1.0
    idle._occupancy_cache = 0.001
    chunk, other = s.send(s.add("chunk", 0), busy), s.send(s.add("other", 1), idle)
    ts = s.add("stencil", 2, chunk, other)
    s.finish(chunk, nbytes=MIB)
    s.finish(other, nbytes=edge)
    assert s.rootish_policy.place(ts) is (busy if bound else idle)


def test_who_is_done_with_an_input_does_not_count() -> None:
    """What is left of a chunk that many have used goes to those that still need it."""
    s = Paper(2)
    busy, idle = s.all
    busy._occupancy_cache = 1.0
    idle._occupancy_cache = 0.001
    cut, chunk = s.send(s.add("cut", 0), busy), s.send(s.add("chunk", 1), idle)
    sums = [s.add("sum", 2 + n, chunk) for n in range(2)]
    ts = s.add("subtract", 4, chunk, cut)
    s.finish(cut, chunk, nbytes=MIB)
    assert s.rootish_policy.place(ts) is busy
    s.finish(*map(s.send, sums), nbytes=100)
    assert s.rootish_policy.place(ts) is idle


@policy_cluster(far=False)
async def test_handles_do_not_bind(c: Any, s: Any, a: Any, b: Any) -> None:
    """Of inputs that are next to nothing, the larger does not matter."""
    event = Event()
    table = await c.scatter(bytes(HANDLE_BYTES - KIB), workers=[a.address])
    number = await c.scatter(1, workers=[b.address])
    futures = c.map(load_when, [event] * 4, [table] * 4, [number] * 4, range(4))
    await async_poll_for(
        lambda: sum(len(ws.processing) for ws in s.workers.values()) == 4, timeout=60
    )
    assert all(ws.processing for ws in s.workers.values())
    await event.set()
    await wait(futures)


@pytest.mark.parametrize("policy", POLICIES)
@policy_cluster(far=False)
async def test_modest_input_does_not_bind(
    c: Any, s: Any, a: Any, b: Any, policy: str
) -> None:
    """It is quicker to fetch 100 kB than to wait for a busy worker."""
    event = Event()
    chunks = await c.scatter([bytes(100 * KIB)] * 20, hash=False, workers=[a.address])
    numbers = await c.scatter(list(range(20)), hash=False, workers=[b.address])
    futures = c.map(load_when, [event] * 20, chunks, numbers)
    await async_poll_for(
        lambda: sum(len(ws.processing) for ws in s.workers.values()) >= 4, timeout=60
    )
    here, there = (len(s.workers[w.address].processing) for w in (a, b))
    assert abs(here - there) <= 1, (here, there)
    await event.set()
    await wait(futures)


def test_of_several_holders_the_first_to_start() -> None:
    """All inputs are looked at once, and the choice is that of the base."""
    random = Random(0)
    s = Paper(4)
    for n, ws in enumerate(s.all):
        ws._occupancy_cache = 0.004 * (4 - n)
    chunks = []
    for n in range(12):
        chunk = s.send(s.add("chunk", n))
        s.finish(chunk, nbytes=random.randrange(900 * KIB, MIB))
        s.remove_all_replicas(chunk)
        for ws in random.sample(s.all, random.choice([1, 1, 2, 3])):
            s.add_replica(chunk, ws)
        chunks.append(chunk)
    chosen = set()
    for n in range(100):
        ts = s.add("combine", 100 + n, *random.sample(chunks, random.randrange(2, 9)))
        for dts in ts.dependencies:
            dts.waiters = {ts}
        ws = s.rootish_policy.place(ts)
        assert ws
        chosen.add(ws)
        holders = {ws for dts in ts.dependencies for ws in dts.who_has or ()}
        assert s.worker_objective(ts, ws) == min(
            s.worker_objective(ts, holder) for holder in holders
        )
    assert chosen == set(s.all)


@pytest.mark.parametrize(
    ("policy", "beside"), [("producers", True), ("marked", False), ("heuristic", True)]
)
@policy_cluster(CLUSTERS)
async def test_marked_but_only_passes_on(
    c: Any, s: Any, *workers: Any, policy: str, beside: bool
) -> None:
    """`from_delayed` of computed chunks is marked, and brings nothing in."""
    chunks = await c.scatter([bytes(640 * KIB)] * 24, hash=False)
    dsk = {
        ("pass", i): Task(("pass", i), consume, TaskRef(chunk.key), _data_producer=True)
        for i, chunk in enumerate(chunks)
    }
    futures = c.get(dsk, list(dsk), sync=False)
    await wait(futures)
    assert (moved(workers) == 0) is beside


@pytest.mark.parametrize(
    ("policy", "beside"), [("producers", True), ("marked", False), ("heuristic", False)]
)
@policy_cluster(CLUSTERS)
async def test_few_big_chunks_cut_into_many(
    c: Any, s: Any, *workers: Any, policy: str, beside: bool
) -> None:
    """The first half of a rechunk: no worker fetches a big chunk to cut it."""
    big = c.map(lambda i: bytes(8 * MIB), range(3), key=[("big", i) for i in range(3)])
    await wait(big)
    cuts = [delayed(cut)(chunk, i, 16) for chunk in big for i in range(16)]
    seen = await watch(s, "cut")
    assert await c.compute(total([delayed(consume)(x) for x in cuts])) == 48
    assert seen.computed.total() == 48
    assert (moved(workers) < 8 * MIB) is beside


@pytest.mark.parametrize(
    ("policy", "frugal"), [("producers", True), ("marked", False), ("heuristic", False)]
)
@policy_cluster(CLUSTERS)
async def test_rechunk(
    c: Any, s: Any, *workers: Any, policy: str, frugal: bool
) -> None:
    """Pieces have to meet, but no big chunk has to be copied."""
    x = c.persist(da.ones((3, 1024, 512), chunks=(1, -1, -1)) + 1)
    await wait(x)
    pencils = x.rechunk((3, 64, 512), method="tasks")
    assert await c.compute(pencils.sum()) == 2 * x.size
    assert (moved(workers) < x.nbytes) is frugal


@pytest.mark.parametrize("policy", POLICIES)
@policy_cluster(CLUSTERS)
async def test_cuts_of_small_tiles(c: Any, s: Any, *workers: Any, policy: str) -> None:
    """Data that is as small as some handles is still data."""
    tiles = c.map(lambda i: bytes(48 * KIB), range(40))
    await wait(tiles)
    cuts = [delayed(cut)(tile, i, 8) for tile in tiles for i in range(8)]
    assert await c.compute(total([delayed(consume)(x) for x in cuts])) == 320
    # Before anything is known of them, a few may go anywhere
    assert moved(workers) < (slots(s) + 1) * 48 * KIB


def _elementwise(x: da.Array) -> da.Array:
    return (x + 1).map_blocks(np.sqrt)


def _alias(x: da.Array) -> da.Array:
    return da.concatenate([x, x + 1])


def _reduction(x: da.Array) -> da.Array:
    return x.sum(axis=0, keepdims=True, split_every=2)


@pytest.mark.parametrize("shape", [_elementwise, _alias, _reduction])
@pytest.mark.parametrize("policy", POLICIES)
@policy_cluster()
async def test_computations_run_beside_their_data(
    c: Any, s: Any, a: Any, b: Any, policy: str, shape: Any
) -> None:
    """What is computed from data in memory goes where that data is."""
    x = c.persist(da.ones((512, 1024), chunks=128) + 1, workers=[a.address])
    await wait(x)
    y = c.persist(shape(x))
    await wait(y)
    # Before anything is known of them, a few may go anywhere
    assert moved([a, b]) < (slots(s) + 1) * x.blocks[0, 0].nbytes


@pytest.mark.parametrize("policy", POLICIES)
@policy_cluster(FOUR_WORKERS)
async def test_replicas_do_not_spread(
    c: Any, s: Any, *workers: Any, policy: str
) -> None:
    """That most workers hold a chunk is no reason to send it to the last one."""
    addresses = [w.address for w in workers]
    chunks = await c.scatter([bytes(900 * KIB)] * 10, hash=False, workers=addresses[:1])
    await c.replicate(chunks, workers=addresses[:3])
    before = moved(workers)
    cuts = [delayed(cut)(chunk, i, 2) for chunk in chunks for i in range(2)]
    seen = await watch(s, "cut")
    assert await c.compute(total([delayed(consume)(x) for x in cuts])) == 20
    assert seen.computed.total() == 20
    assert addresses[3] not in seen.computed
    assert moved(workers) - before < 900 * KIB


def test_matrix_product() -> None:
    """Blocks that meet all others have to travel; not more than in the base."""
    sent: dict[str, int] = {}

    @policy_cluster(FOUR_WORKERS)
    async def multiply(c: Any, s: Any, *workers: Any, policy: str) -> None:
        x = c.persist(da.ones((512, 512), chunks=128) + 1)
        await wait(x)
        y = c.persist(x @ x.T)
        await wait(y)
        sent[policy] = moved(workers)

    for policy in ("marked", "producers"):
        multiply(policy=policy)
    assert sent["producers"] < 2 * sent["marked"], sent


@policy_cluster(CLUSTERS)
async def test_scattered_object_under_many_tasks(c: Any, s: Any, *workers: Any) -> None:
    """One large object is worth a copy on every worker, for the work alone."""
    s._get_prefix_duration = lambda prefix: 0.005
    x = await c.scatter(bytes(4 * MIB), workers=[workers[0].address])
    # So much is known from the start that it is not for their output
    await c.submit(int, key=("consume", -1))
    n = 1000
    seen = await watch(s, "consume")
    futures = c.map(
        lambda i, x: i, range(n), x=x, key=[("consume", i) for i in range(n)]
    )
    assert sum(await c.gather(futures)) == sum(range(n))
    assert len(seen.computed) == len(workers)
    assert min(seen.computed.values()) > n / 4 / len(workers)


@pytest.mark.parametrize("policy", POLICIES)
@policy_cluster(CLUSTERS)
async def test_few_splits_with_many_fits(
    c: Any, s: Any, *workers: Any, policy: str
) -> None:
    """Workers without a split are worth a copy of one, for the work alone."""
    s._get_prefix_duration = lambda prefix: 0.1
    splits = await c.scatter([bytes(4 * MIB)] * 3, hash=False)
    await c.submit(int, key=("consume", -1))
    seen = await watch(s, "consume")
    keys = [("consume", i) for i in range(201)]
    await wait(c.map(consume, splits * 67, key=keys))
    assert seen.computed.total() == 201
    assert len(seen.computed) == len(workers)
    assert min(seen.computed.values()) > 201 / 3 / len(workers)


@policy_cluster(FOUR_WORKERS)
async def test_scattered_object_under_quick_tasks(
    c: Any, s: Any, *workers: Any
) -> None:
    """It is not worth a copy if all is done before the copy has arrived."""
    s._get_prefix_duration = lambda prefix: 1e-6
    x = await c.scatter(bytes(16 * MIB), workers=[workers[0].address])
    futures = c.map(
        lambda i, x: i, range(100), x=x, key=[("quick", i) for i in range(100)]
    )
    await wait(futures)
    # Before anything is known of them, the first few may go anywhere
    late = [s.tasks[("quick", i)] for i in range(50, 100)]
    assert all(next(iter(ts.who_has)).address == workers[0].address for ts in late)


# -- Over time -----------------------------------------------------------------------


def step(x: object, *args: object) -> bytes:
    """One function for everything, as some pipelines have it."""
    return bytes(CHUNK_NBYTES)


@pytest.mark.parametrize(
    ("policy", "right"), [("producers", True), ("marked", False), ("heuristic", False)]
)
@policy_cluster()
async def test_prefix_with_other_inputs(
    c: Any, s: Any, a: Any, b: Any, policy: str, right: bool
) -> None:
    """What was true of a name yesterday says nothing about today's inputs."""

    async def chunks_through_handles(token: str) -> bool:
        handles = [delayed(open_file)(f"{token}{i}") for i in range(5)]
        chunks = [delayed(step)(h, i) for h in handles for i in range(12)]
        seen = await watch(s, "step")
        assert await c.compute(total([delayed(consume)(x) for x in chunks])) == 60
        assert seen.computed.total() == 60
        s.remove_plugin("watch step")
        return seen.peak_chunks <= 2 * slots(s)

    async def bytes_of_big_inputs() -> bool:
        big = await c.scatter([bytes(2 * MIB)] * 20, hash=False)
        before = moved([a, b])
        await wait(c.map(step, big, pure=False))
        return moved([a, b]) - before < 2 * MIB

    # Two groups of one name, one after the other, and back
    bounded = await chunks_through_handles("first")
    assert await bytes_of_big_inputs()
    assert bounded is right
    assert await chunks_through_handles("second") is right


@pytest.mark.parametrize(
    ("policy", "bounded"),
    [("producers", True), ("marked", False), ("heuristic", False)],
)
@policy_cluster(CLUSTERS)
async def test_group_that_depends_on_itself(
    c: Any, s: Any, *workers: Any, policy: str, bounded: bool
) -> None:
    """Loading and scaling by one function, so that the group is its own input."""
    handles = [delayed(open_file)(i) for i in range(5)]
    loads = [delayed(step)(h, i) for h in handles for i in range(20)]
    scaled = [delayed(step)(x) for x in loads]
    seen = await watch(s, "step")
    assert await c.compute(total([delayed(consume)(x) for x in scaled])) == 100
    # A chunk, and what is made of it
    assert seen.computed.total() == 200
    assert (seen.peak_chunks <= 4 * slots(s)) is bounded, seen.peak_chunks


@policy_cluster(CLUSTERS)
async def test_handles_of_a_group_that_loads(c: Any, s: Any, *workers: Any) -> None:
    """Handles and data of one name: the handles are not taken for cuts of the data."""
    loaded = [c.submit(bytes, MIB, key=("step", i)) for i in range(20)]
    handles = [c.submit(open_file, i, key=("step", 20 + i)) for i in range(50)]
    await wait(loaded + handles)
    seen = await watch(s, "step")
    loads = [
        delayed(step)(handle, i, dask_key_name=("step", 100 + 2 * n + i))
        for n, handle in enumerate(handles)
        for i in range(2)
    ]
    assert await c.compute(total([delayed(consume)(chunk) for chunk in loads])) == 100
    assert len(seen.queued) > 50
    assert "consumer" not in seen.reasons


@policy_cluster(NO_WORKERS, far=False)
async def test_cluster_starts_empty_grows_and_shrinks(c: Any, s: Any) -> None:
    """Slots follow the workers, and what is queued waits for them."""
    seen = await watch(s, "load_when")
    event = Event()
    chunks = [delayed(load_when)(event, i) for i in range(64)]
    result = c.compute(total([delayed(consume)(chunk) for chunk in chunks]))
    await async_poll_for(lambda: len(s.tasks) == 64 + 64 + 1, timeout=60)
    assert not any(ts.state == "processing" for ts in s.tasks.values())

    def running() -> int:
        return s.task_prefixes["load_when"].states["processing"]

    async with Worker(s.address, nthreads=1) as a:
        await async_poll_for(lambda: running() == slots(s) == 2, timeout=60)
        async with Worker(s.address, nthreads=2) as b:
            await async_poll_for(lambda: running() == slots(s) == 5, timeout=60)
            assert len(b.state.tasks) >= 3
            queued = len(s.queued)
            assert queued
            # Tasks of a worker that leaves go back to where they came from
            async with Worker(s.address, nthreads=1) as d:
                await async_poll_for(lambda: running() == slots(s) == 7, timeout=60)
                await d.close(executor_wait=False)
            await async_poll_for(lambda: running() == slots(s) == 5, timeout=60)
            await event.set()
            assert await result == 64
            assert set(seen.computed) == {a.address, b.address}
    assert seen.peak_sent <= 7
    assert seen.peak_chunks <= 14


@policy_cluster([("127.0.0.1", 1)], far=False)
async def test_cluster_outgrows_what_is_queued(c: Any, s: Any, a: Any) -> None:
    """New workers take from the queue, even if there is less than they can run."""
    event = Event()
    handles = c.map(open_file, range(3))
    await wait(handles)
    chunks = [delayed(load_when)(event, h, i) for h in handles for i in range(5)]
    result = c.compute(total([delayed(consume)(chunk) for chunk in chunks]))
    await async_poll_for(lambda: len(s.queued) == 15 - slots(s), timeout=60)
    async with Worker(s.address, nthreads=8) as b:
        await async_poll_for(lambda: len(s.queued) == 15 - slots(s) == 4, timeout=60)
        assert len(s.workers[a.address].processing) == 2
        assert len(s.workers[b.address].processing) == 9
        await event.set()
        assert await result == 15


@pytest.mark.parametrize(
    ("policy", "bounded"),
    [("producers", True), ("marked", False), ("heuristic", False)],
)
@policy_cluster(far=False)
async def test_worker_retires_while_tasks_are_queued(
    c: Any, s: Any, a: Any, b: Any, policy: str, bounded: bool
) -> None:
    """What it held moves on; queued reads go to the worker that is left."""
    event = Event()
    handles = c.persist([delayed(open_file)(i) for i in range(8)])
    await wait(handles)
    chunks = [delayed(load_when)(event, h, i) for h in handles for i in range(5)]
    seen = await watch(s, "load_when")
    result = c.compute(total([delayed(consume)(chunk) for chunk in chunks]))
    await async_poll_for(lambda: seen.peak_sent >= slots(s), timeout=60)
    await s.retire_workers([b.address])
    assert list(s.workers) == [a.address]
    await event.set()
    assert await result == 40
    assert (seen.peak_sent <= 4) is bounded


@policy_cluster(far=False)
async def test_worker_dies_while_tasks_are_queued(
    c: Any, s: Any, a: Any, b: Any
) -> None:
    """Lost chunks and handles are made again, and no more of them at once."""
    event = Event()
    handles = c.persist([delayed(open_file)(i) for i in range(8)])
    await wait(handles)
    chunks = [delayed(load_when)(event, h, i) for h in handles for i in range(5)]
    kept = c.persist(chunks[:3])
    await event.set()
    await wait(kept)
    await event.clear()
    seen = await watch(s, "load_when")
    result = c.compute(total([delayed(consume)(chunk) for chunk in chunks]))
    await async_poll_for(lambda: s.queued and not s.idle_task_count, timeout=60)
    await b.close(executor_wait=False)
    await async_poll_for(lambda: len(s.workers) == 1, timeout=60)
    await event.set()
    assert await result == 40
    assert seen.peak_sent <= 4
    assert seen.peak_chunks <= 3 + 2 * 4


@policy_cluster()
async def test_inputs_of_unknown_size(c: Any, s: Any, a: Any, b: Any) -> None:
    """Asked too early, the policy takes a task for a consumer, and for no longer."""
    event = Event()
    big = [
        delayed(lambda event, i: event.wait() and bytes(8 * MIB))(event, i)
        for i in range(3)
    ]
    cuts = [delayed(cut)(chunk, i, 16) for chunk in big for i in range(16)]
    result = c.compute(total([delayed(consume)(x) for x in cuts]))
    await async_poll_for(lambda: len(s.tasks) == 3 + 48 + 48 + 1, timeout=60)
    waiting = [ts for ts in s.tasks.values() if ts.prefix.name == "cut"]
    assert len(waiting) == 48
    for ts in waiting:
        assert ts.state == "waiting"
        assert s.rootish_policy.verdict(ts) is CONSUMER
    await event.set()
    assert await result == 48
    assert moved([a, b]) < 8 * MIB


@policy_cluster(
    [("127.0.0.1", 1)],
    far=False,
    config={
        "distributed.scheduler.worker-saturation": 1.0,
        # Lest a worker that is paused is resumed
        "distributed.worker.memory.pause": False,
    },
)
async def test_worker_goes_that_the_other_waits_for(c: Any, s: Any, b: Any) -> None:
    """The queue is asked for more when the only tasks are taken back."""
    async with BlockedGatherDep(s.address, nthreads=1) as a:
        x = c.submit(inc, 1, key="x", workers=[b.address])
        y = c.submit(inc, x, key="y", workers=[a.address])
        await a.in_gather_dep.wait()
        b.status = Status.paused
        await async_poll_for(lambda: len(s.running) == 1, timeout=60)
        loads = c.map(inc, range(8), key=[("load", n) for n in range(8)])
        await async_poll_for(lambda: len(s.queued) == 8, timeout=60)
        # Nobody else may make `x`, so that `y` must wait for it
        await b.close()
        assert await c.gather(loads) == list(range(1, 9))
        assert s.tasks["x"].state == "no-worker"
        del y


# -- Actors, settings ----------------------------------------------------------------


class Counter:
    n = 0

    def increment(self) -> int:
        self.n += 1
        return self.n


@policy_cluster()
async def test_actors_are_not_queued(c: Any, s: Any, a: Any, b: Any) -> None:
    """An actor stays, so that there is nothing to wait for."""
    seen = await watch(s, "Counter")
    actors = await c.gather(
        c.map(
            lambda i: Counter(),
            range(20),
            actor=True,
            key=[f"Counter-{i}" for i in range(20)],
        )
    )
    assert [await actor.increment() for actor in actors] == [1] * 20
    assert not seen.queued
    assert set(seen.verdicts) == {PLACED}


@pytest.mark.parametrize("policy", POLICIES)
@policy_cluster(far=False, config={"distributed.scheduler.worker-saturation": "inf"})
async def test_no_queue(c: Any, s: Any, a: Any, b: Any, policy: str) -> None:
    """With an infinite saturation everything is sent out."""
    event = Event()
    handles = c.map(open_file, range(3))
    await wait(handles)
    chunks = [delayed(load_when)(event, h, i) for h in handles for i in range(16)]
    seen = await watch(s, "load_when")
    result = c.compute(total([delayed(consume)(chunk) for chunk in chunks]))
    await async_poll_for(lambda: seen.peak_sent == 48, timeout=60)
    await event.set()
    assert await result == 48
    assert set(seen.computed) == {a.address, b.address}


def increase(number: int) -> int:
    return number + 1


@policy_cluster(far=False, config={"distributed.scheduler.worker-saturation": "inf"})
async def test_no_queue_is_the_release(c: Any, s: Any, a: Any, b: Any) -> None:
    """Where nothing is held back, the release's count says where a task goes."""
    numbers = [
        *await c.scatter(list(range(0, 40, 2)), workers=[a.address]),
        *await c.scatter(list(range(1, 40, 2)), workers=[b.address]),
    ]
    seen = await watch(s, "increase")
    more = c.map(increase, numbers)
    await wait(more)
    assert set(seen.verdicts) == {NOT_COUNTED}
    assert sum(s.tasks[f.key].who_has == {s.workers[a.address]} for f in more) == 20
    # Few groups and tasks that they depend on: the release spreads them side by side
    event = Event()
    futures = c.compute([delayed(load_when)(event, None, i) for i in range(16)])
    await async_poll_for(lambda: len(s.task_prefixes) == 3, timeout=60)
    [tg] = s.task_prefixes["load_when"].groups
    assert tg.rootish_facts.verdict is COUNTED
    await event.set()
    await wait(futures)


OFF = {
    "distributed.scheduler.rootish-taskgroup": 0,
    "distributed.scheduler.rootish-taskgroup-dependencies": 0,
}
RAISED = {
    "distributed.scheduler.rootish-taskgroup": 10,
    "distributed.scheduler.rootish-taskgroup-dependencies": 10,
}


@policy_cluster(FOUR_WORKERS, config=OFF)
async def test_settings_at_0_leave_tasks_where_their_data_is(
    c: Any, s: Any, *workers: Any
) -> None:
    """Nothing is spread for the sake of its number, as in the base."""
    s._get_prefix_duration = lambda prefix: 0.005
    x = await c.scatter(bytes(4 * MIB), workers=[workers[0].address])
    # So much is known from the start that it is not for their output
    await c.submit(int, key=("lone", -1))
    seen = await watch(s, "lone")
    await wait(
        c.map(lambda i, x: i, range(100), x=x, key=[("lone", i) for i in range(100)])
    )
    assert seen.computed == {workers[0].address: 100}


@policy_cluster(config=OFF)
async def test_settings_at_0_do_not_queue_for_one_number(
    c: Any, s: Any, a: Any, b: Any
) -> None:
    """Tasks that share one small input go out at once, as in the base."""
    event = Event()
    x = c.submit(int)
    await wait(x)
    futures = c.map(lambda i, x, event: event.wait(), range(100), x=x, event=event)
    await async_poll_for(lambda: len(s.tasks) == 101, timeout=60)
    assert not s.queued
    await event.set()
    await wait(futures)


@pytest.mark.parametrize(
    ("policy", "bounded"),
    [("producers", True), ("marked", False), ("heuristic", False)],
)
@policy_cluster(config=OFF)
async def test_settings_at_0_hold_loads_back(
    c: Any, s: Any, a: Any, b: Any, policy: str, bounded: bool
) -> None:
    """What brings data in does so whatever its number."""
    handles = [delayed(open_file, pure=True)(i) for i in range(3)]
    seen = await watch(s, "read")
    assert await c.compute(reads_through(handles, 16)) == 48
    assert_chunks(seen, s, 48, bounded)


@pytest.mark.parametrize("policy", ["producers", "marked", "heuristic"])
@pytest.mark.parametrize("raised", [False, True])
def test_settings_raised(policy: str, raised: bool) -> None:
    """What the user asks to be held back is held back, in spite of its inputs."""

    @policy_cluster(config=RAISED if raised else None)
    async def run(c: Any, s: Any, a: Any, b: Any, *, policy: str) -> None:
        big = [delayed(bytes)(4 * MIB, dask_key_name=("big", i)) for i in range(8)]
        cuts = [delayed(cut)(chunk, i, 6) for chunk in big for i in range(6)]
        seen = await watch(s, "cut")
        assert await c.compute(total([delayed(consume)(x) for x in cuts])) == 48
        assert bool(seen.queued) is raised
        assert (seen.peak_sent <= slots(s)) is raised

    run(policy=policy)


@pytest.mark.parametrize("policy", ["producer", "", None, ["producers"], 5])
def test_unknown_policy(policy: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused when the scheduler starts, with the names that there are."""
    # It would be left open
    monkeypatch.setattr(Scheduler, "start_http_server", lambda *args, **kwargs: None)

    @gen_test(config={"distributed.scheduler.rootish-policy": policy})
    async def start() -> None:
        with pytest.raises(ValueError, match="producers, marked, heuristic") as info:
            Scheduler()
        assert repr(policy) in str(info.value)
        assert "\n" not in str(info.value)

    start()


@pytest.mark.parametrize("setting", ["taskgroup", "taskgroup-dependencies"])
@pytest.mark.parametrize("value", ["10", None, True, float("nan"), []])
def test_count_that_is_no_number(
    setting: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused by its own name, whatever the policy."""
    monkeypatch.setattr(Scheduler, "start_http_server", lambda *args, **kwargs: None)
    name = f"distributed.scheduler.rootish-{setting}"

    @gen_test(config={name: value})
    async def start() -> None:
        with pytest.raises(ValueError, match=f"`{name}` must be a number; got"):
            Scheduler()

    start()


@pytest.mark.parametrize("policy", POLICIES)
@policy_cluster()
async def test_policy_of_setting(c: Any, s: Any, a: Any, b: Any, policy: str) -> None:
    assert s.rootish_policy.name == policy
    assert s.validate


@pytest.mark.parametrize("mark", [True, False])
def test_inputs_are_still_to_come(mark: bool) -> None:
    """Their sizes are not known, and a mark is all that there is to go by."""
    s = Paper(1)
    handle = s.add("open", 0)
    reads = [s.add("read", 1 + n, handle) for n in range(8)]
    reads[0].run_spec = Task(reads[0].key, load, _data_producer=mark)
    assert s.rootish_policy.verdict(reads[0]) is (PRODUCER if mark else CONSUMER)


@pytest.mark.parametrize("users", [1, 2])
@pytest.mark.parametrize("is_data", [True, False])
def test_mark_of_one_task(users: int, is_data: bool) -> None:
    """It counts as one of many, but for data in the graph that several tasks need."""
    s = Paper(2)
    ts = s.add("one", 0)
    for n in range(users):
        s.add("use", 1 + n, ts)
    ts.run_spec = (
        DataNode(ts.key, np.zeros(2**13))
        if is_data
        else Task(ts.key, load, _data_producer=True)
    )
    expected = FEW if is_data and users > 1 else PRODUCER
    assert s.rootish_policy.verdict(ts) is expected


@policy_cluster(config=RAISED)
async def test_settings_raised_beyond_what_is_asked(
    c: Any, s: Any, a: Any, b: Any
) -> None:
    """What the defaults take in already is decided by bytes as before."""
    big = [delayed(bytes)(4 * MIB, dask_key_name=("big", i)) for i in range(3)]
    cuts = [delayed(cut)(chunk, i, 16) for chunk in big for i in range(16)]
    seen = await watch(s, "cut")
    assert await c.compute(total([delayed(consume)(x) for x in cuts])) == 48
    assert not seen.queued


# -- Where a task runs that is not held back ------------------------------------------


def test_placed_beside_its_input() -> None:
    """On the one worker that has it, unless that takes no tasks."""
    s = Paper(3)
    first, second, _ = s.all
    chunk = s.send(s.add("load", 0), first)
    s.finish(chunk, nbytes=CHUNK_NBYTES)
    ts = s.add("use", 1, chunk)
    assert s.rootish_policy.place(ts) is first
    s.pause(first)
    assert s.rootish_policy.place(ts) is None
    chunk.who_has = {first, second}
    assert s.rootish_policy.place(ts) is second


@pytest.mark.parametrize("inputs", [1, 2])
def test_placed_where_it_starts_first(inputs: int) -> None:
    """Of workers that have its inputs, on the least busy."""
    s = Paper(3)
    first, second, _ = s.all
    chunks = [s.send(s.add("load", n), first) for n in range(inputs)]
    s.finish(*chunks, nbytes=CHUNK_NBYTES)
    for chunk in chunks:
        chunk.who_has = {first, second}
    ts = s.add("use", 9, *chunks)
    for busy, other in ((first, second), (second, first)):
        running = s.add("other", 10)
        busy.add_to_processing(running)
        assert s.rootish_policy.place(ts) is other
        busy.remove_from_processing(running)


@pytest.mark.parametrize("nworkers", [1, 2, 3])
def test_placed_where_less_is_queued(nworkers: int) -> None:
    """What waits for few workers is work of these, each with its share."""
    s = Paper(3)
    third, first, second = s.all
    chunks = [s.send(s.add("load", n), ws) for n, ws in enumerate((first, second))]
    s.finish(*chunks, nbytes=CHUNK_NBYTES)
    ts = s.add("use", 9, *chunks)
    first.nbytes += 1
    assert s.rootish_policy.place(ts) is second
    some = (second, third, first)[:nworkers]
    for n in range(3):
        load = s.add("load", 10 + n)
        load.worker_restrictions = {ws.address for ws in some}
        s.enqueue(load)
    assert s.rootish_policy.place(ts) is (second if nworkers == 3 else first)
    for n in range(2):
        load = s.add("load", 20 + n)
        load.worker_restrictions = {first.address}
        s.enqueue(load)
    assert s.rootish_policy.place(ts) is (first if nworkers == 1 else second)
    # They take as long as those that have come last
    longer = s.add("process", 30)
    longer.prefix.duration_average = 100
    longer.worker_restrictions = {ws.address for ws in some}
    s.enqueue(longer)
    assert s.rootish_policy.place(ts) is (second if nworkers == 3 else first)


def test_placed_beside_the_data_rather_than_the_handle() -> None:
    """However large the handle, if many use it."""
    s = Paper(2)
    first, second = s.all
    handle = s.send(s.add("open", 0), first)
    chunk = s.send(s.add("load", 1), second)
    s.finish(handle, nbytes=2 * CHUNK_NBYTES)
    s.finish(chunk, nbytes=CHUNK_NBYTES)
    uses = [s.add("use", 2 + n, handle, *[chunk][n:]) for n in range(8)]
    assert s.rootish_policy.place(uses[0]) is second
    # Where its worker is not there, the base chooses
    chunk.who_has = None
    assert s.rootish_policy.place(uses[0]) is None


@pytest.mark.parametrize("kind", ["actor", "worker", "host", "resource", None])
def test_the_base_places_what_is_restricted(kind: str | None) -> None:
    """Nor is it held back where the policy does not say so."""
    s = Paper(2)
    chunk = s.send(s.add("load", 0))
    s.finish(chunk, nbytes=CHUNK_NBYTES)
    ts = s.add("use", 1, chunk)
    loads = [s.add("lone", 2 + n) for n in range(9)]
    for each in (ts, loads[0]):
        if kind == "actor":
            each.actor = True
        elif kind:
            asked_for = {"nobody": 1.0} if kind == "resource" else {"nobody"}
            setattr(each, f"{kind}_restrictions", asked_for)
    assert s.rootish_policy.place(ts) is (None if kind else s.all[0])
    assert s.rootish_policy.verdict(loads[0]) is (PLACED if kind else PRODUCER)
    # Which actors are for the heuristic is not asked
    if kind != "actor":
        verdict = Heuristic(s).verdict(loads[0])
        assert verdict is (PLACED if kind else COUNTED)


# -- Handles that cannot be pickled --------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
@policy_cluster([("127.0.0.1", 2)])
async def test_pinned_handles_on_one_worker(
    c: Any, s: Any, a: Any, policy: str
) -> None:
    """There is nowhere to send them."""
    handles = [delayed(open_pinned, pure=True)(i) for i in range(8)]
    assert await c.compute(reads_through(handles, 5)) == 40


@pytest.mark.parametrize("policy", POLICIES)
@policy_cluster(far=False)
async def test_pinned_handles_on_several_workers(
    c: Any, s: Any, a: Any, b: Any, policy: str
) -> None:
    """The counts leave reads from many handles beside them.

    By bytes they may run anywhere, until a worker fails to get a handle.
    """
    handles = [delayed(open_pinned, pure=True)(i) for i in range(8)]
    assert await c.compute(reads_through(handles, 5)) == 40


# -- What the base relies on ---------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
@policy_cluster(far=False)
async def test_p2p_rechunk(c: Any, s: Any, a: Any, b: Any, policy: str) -> None:
    """Tasks that unpack a shuffle keep the verdict of the base."""
    x = da.from_array(Store(64, 64), chunks=(4, 64))
    y = x.rechunk((64, 4), method="p2p")
    seen = await watch(s, "rechunk")
    z = await c.compute(y)
    np.testing.assert_array_equal(z, 1)
    assert seen.computed.total() == 16
    assert not seen.queued
    first = [v for v in seen.verdicts if v.rootish]
    assert len(first) == 16
    if policy == "producers":
        assert set(first) == {COUNTED}


@policy_cluster()
async def test_stores_are_not_held_up(c: Any, s: Any, a: Any, b: Any) -> None:
    """`from_array` makes one task per store. Reads must not wait for it to be dealt.

    Otherwise what is combined with them is made meanwhile, and fills memory.
    """
    shape, chunks = (4, 64, 256), (1, 64, 256)
    stores = [da.from_array(Store(*shape, name=str(i)), chunks) for i in range(24)]
    x = da.concatenate(stores)
    # Used twice, so that reading is not fused with what uses it
    (result,) = dask.optimize((x + x.sum(axis=1, keepdims=True)).sum())
    literals = await watch(s, "original-array")
    reads = await watch(s, *map(key_split, reading_tasks(result)))
    assert await c.compute(result, optimize_graph=False) > 0
    assert literals.computed.total() == 24
    assert not literals.queued
    assert_chunks(reads, s, 96)
    assert set(reads.computed) == {a.address, b.address}


@policy_cluster()
async def test_data_in_the_graph_is_held_back(c: Any, s: Any, a: Any, b: Any) -> None:
    """An array that was put into the graph is data, however many tasks wait for it."""
    array = np.ones((64, 64, 256))
    x = da.from_array(array, chunks=(1, 64, 256))
    (result,) = dask.optimize((x + x.sum(axis=1, keepdims=True)).sum())
    chunks = await watch(s, key_split(x.name))
    assert await c.compute(result, optimize_graph=False) == 65 * array.size
    assert_chunks(chunks, s, 64)


@policy_cluster()
async def test_small_data_in_the_graph_is_not_held_back(
    c: Any, s: Any, a: Any, b: Any
) -> None:
    """Indices that cut chunks up: each of many chunks needs some of them."""
    tasks: dict[Any, Any] = {
        (name, n): DataNode((name, n), np.zeros(size))
        for name, size in (("index", 2**11), ("table", 2**13), ("once", 2**11))
        for n in range(20)
    }
    for n in range(20):
        keys = [(name, i) for name in ("index", "table") for i in (n, (n + 1) % 20)]
        key = ("sum", n)
        tasks[key] = Task(key, count_all, *map(TaskRef, [*keys, ("once", n)]))
    names = ["index", "table", "once"]
    watched = [await watch(s, name) for name in names]
    results = c.get(tasks, [("sum", n) for n in range(20)], sync=False)
    assert await c.gather(results) == [5] * 20
    assert [bool(seen.queued) for seen in watched] == [False, True, True]


@policy_cluster()
async def test_few_tables_in_the_graph_are_not_held_back(
    c: Any, s: Any, a: Any, b: Any
) -> None:
    """A mask that all chunks need: they would be loaded while it waits."""
    mask = DataNode("mask", np.zeros(2**16))
    tasks: dict[Any, Any] = {"mask": mask}
    for n in range(20):
        tasks["chunk", n] = Task(("chunk", n), load, n)
        tasks["sum", n] = Task(
            ("sum", n), count_all, TaskRef("mask"), TaskRef(("chunk", n))
        )
    masks, chunks = [await watch(s, name) for name in ("mask", "chunk")]
    results = c.get(tasks, [("sum", n) for n in range(20)], sync=False)
    assert await c.gather(results) == [2] * 20
    assert chunks.queued
    assert not masks.queued


# -- The decision itself -------------------------------------------------------------


VERDICTS = [v for v in vars(module_of_policies).values() if isinstance(v, Verdict)]


@pytest.mark.parametrize("verdict", VERDICTS, ids=lambda v: v.reason)
def test_verdicts_explain_themselves(verdict: Verdict) -> None:
    sentence = verdict.explanation
    assert sentence[0].isupper()
    assert sentence.endswith(".")
    assert sentence.count(".") == 1
    assert "\n" not in sentence
    assert verdict.reason == verdict.reason.lower()
    assert isinstance(verdict.rootish, bool)


def test_verdicts_are_told_apart() -> None:
    assert len({v.reason for v in VERDICTS}) == len(VERDICTS)
    assert len({v.explanation for v in VERDICTS}) == len(VERDICTS)


def make_state(**settings: Any) -> Any:
    """As much of a scheduler as the policy looks at: two workers, four threads."""
    return SimpleNamespace(
        **{
            "total_nthreads": 4,
            "rootish_tg_threshold": 5,
            "rootish_tg_dependencies_threshold": 5,
            "bandwidth": 1e8,
            "_get_prefix_duration": lambda prefix: 0.01,
            **settings,
        }
    )


def make_group(prefix: TaskPrefix, n: int, state: Any = "waiting") -> TaskGroup:
    tg = TaskGroup(f"{prefix.name}-{len(prefix.groups)}", prefix)
    for i in range(n):
        key = (tg.name, i)
        TaskState(key, Task(key, load), state, tg, False)
    return tg


@pytest.mark.parametrize(
    ("ntasks", "ngroups", "ndeps", "expected"),
    [
        (9, 0, 0, True),
        (8, 0, 0, False),
        (9, 4, 1, True),
        (9, 1, 4, True),
        (9, 5, 1, False),
        (9, 1, 5, False),
    ],
)
def test_within_count(ntasks: int, ngroups: int, ndeps: int, expected: bool) -> None:
    """Fewer than five groups with fewer than five tasks, under more than eight."""
    tg = make_group(TaskPrefix("load"), ntasks)
    for _ in range(ngroups):
        tg.dependencies.add(make_group(TaskPrefix("open"), ndeps))
    assert within_count(make_state(), tg) is expected
    off = make_state(rootish_tg_threshold=0)
    assert not within_count(off, tg)
    raised = make_state(rootish_tg_threshold=10, rootish_tg_dependencies_threshold=10)
    assert within_count(raised, tg) is (ntasks > 8)
    assert within_count(raised, tg, limit=5) is expected


def any_task(tg: TaskGroup) -> TaskState:
    return TaskState("any", Task("any", load), "waiting", tg, False)


def made_of(s: Paper, source: str, name: str, nbytes: int, users: int = 3) -> TaskState:
    """Return one of twenty tasks, each of which shares an input in memory."""
    tasks = []
    for n in range(20):
        chunk = s.send(s.add(source, n))
        tasks.append(s.add(name, 100 + n, chunk))
        for i in range(users - 1):
            s.add(name, 1000 + users * n + i, chunk)
        s.finish(chunk, nbytes=nbytes)
    return tasks[0]


def test_handle_that_several_groups_use() -> None:
    """It is shared by all of them, however few tasks each has."""
    s = Paper(2)
    handles = [s.add("open", n, nbytes=100) for n in range(20)]
    handles[0].group.rootish_facts.verdict = PRODUCER
    reads = [
        s.add(f"read-{group:032x}", 1000 * (group + 1) + n, handle)
        for group in range(9)
        for n, handle in enumerate(handles)
    ]
    s.enqueue(*handles[1:])
    s.finish(s.send(handles[0]), nbytes=100)
    assert s.rootish_policy.verdict(reads[0]) is PRODUCER


@pytest.mark.parametrize(("boxes", "verdict"), [(6, CONSUMER), (3, BESIDE)])
def test_small_parts_of_what_other_groups_use(boxes: int, verdict: Verdict) -> None:
    """They occupy as many workers as have inputs of their own group."""
    s = Paper(4)
    chunks = [s.send(s.add("load", n)) for n in range(boxes)]
    means = [
        s.add(f"mean-{group:032x}", 1000 * (group + 1) + 10 * n + i, chunk, nbytes=8)
        for group in range(5)
        for n, chunk in enumerate(chunks)
        for i in range(5)
    ]
    s.finish(*chunks, nbytes=MIB)
    assert s.rootish_policy.verdict(means[0]) is verdict


@pytest.mark.parametrize(
    ("held_back", "nbytes", "loads"),
    [(True, 2 * MIB, False), (True, 100, True), (False, 2 * MIB, True)],
)
def test_cuts_of_chunks(held_back: bool, nbytes: int, loads: bool) -> None:
    """What was loaded is no handle, however small the share of a cut."""
    s = Paper(2)
    ts = made_of(s, "load", "cut", nbytes, users=24)
    [chunk] = ts.dependencies
    if held_back:
        assert s.rootish_policy.is_rootish(chunk)
    assert s.rootish_policy.verdict(ts) is (PRODUCER if loads else CONSUMER)


def test_larger_than_cluster() -> None:
    """Small groups of one prefix add up, until they are done with."""

    def larger(tg: TaskGroup, total_nthreads: int = 4) -> bool:
        return larger_than_cluster(any_task(tg), total_nthreads)

    prefix = TaskPrefix("load")
    assert larger(make_group(TaskPrefix("big"), 9))
    first = make_group(prefix, 7)
    assert not larger(first)
    last = make_group(prefix, 1)
    assert larger(first)
    assert larger(last)
    assert not larger(last, total_nthreads=6)


@pytest.mark.parametrize("done", ["memory", "erred", "forgotten"])
def test_larger_than_cluster_counts_what_is_to_be_done(done: Any) -> None:
    prefix = TaskPrefix("load")
    make_group(prefix, 100, done)
    ts = any_task(make_group(prefix, 7))
    assert not larger_than_cluster(ts, 4)


@pytest.mark.parametrize(("ngroups", "larger"), [(8, False), (9, True)])
def test_larger_than_cluster_counts_what_feeds_one_group(
    ngroups: int, larger: bool
) -> None:
    consumers = make_group(TaskPrefix("consume"), 1)
    for n in range(ngroups):
        load = make_group(TaskPrefix(f"load_{n}"), 1)
        consumers.dependencies.add(load)
        ts = any_task(load)
        dts = any_task(consumers)
        dts.add_dependency(ts)
    assert larger_than_cluster(ts, 4) is larger


def finish(tg: TaskGroup, nbytes: int) -> None:
    tg.add_type("bytes")
    tg.update_nbytes(nbytes)


def test_mean_output_of_tasks_that_are_run_again() -> None:
    """Which says their type each time, and their size once."""
    prefix = TaskPrefix("load")
    tg = make_group(prefix, 4)
    assert mean_output(tg) is None
    for _ in range(4):
        finish(tg, MIB)
    for _ in range(4):
        tg.add_type("bytes")
    assert mean_output(tg) == mean_output(prefix) == MIB


def weigh(
    s: Paper,
    nbytes: int,
    output: int | None = None,
    users: int = 1,
    kept: bool = False,
    wanted: bool = False,
    others: int | None = None,
    many: bool = True,
    number: int = 20,
    user: str = "process",
) -> Verdict:
    """Judge one of many tasks with inputs of the same kind.

    Parameters
    ----------
    s
        Knows the workers.
    nbytes
        Of an input.
    output
        What a task makes, as far as is known.
    users
        How many tasks use an input.
    kept
        Whether a client keeps it.
    wanted
        Whether a client wants what the task makes.
    others
        What others of its group hold, if that is not the same.
    many
        Whether the input is one of many.
    number
        How many tasks there are.
    user
        Name of the other tasks that use an input.
    """
    tasks = []
    for n in range(number):
        dts = s.send(s.add("load", n))
        tasks.append(s.add("process", 10_000 + n, dts, nbytes=output))
        if kept:
            dts.who_wants = {s.client}
        for i in range(users - 1):
            s.add(user, 20_000 + users * n + i, dts)
        s.finish(dts, nbytes=nbytes if others is None or not n else others)
    [first, *_] = tasks
    [dts] = first.dependencies
    if wanted:
        first.who_wants = {s.client}
    dts.group.rootish_facts.verdict = PRODUCER if many else FEW
    assert dts.nbytes == nbytes
    return s.rootish_policy.verdict(first)


@pytest.mark.parametrize(
    ("output", "users", "expected"),
    [
        # Of an input of 1 MiB, a task frees a fifth of what it brings in, or less
        (5 * MIB, 1, CONSUMER),
        (5 * MIB + 1, 1, PRODUCER),
        (MIB, 5, CONSUMER),
        (MIB, 6, BESIDE),
        # Its share of three copies is a fifth of that, or less
        (MIB, 15, BESIDE),
        (MIB, 16, PRODUCER),
    ],
)
def test_brings_in_more_than_it_frees(
    output: int, users: int, expected: Verdict
) -> None:
    """A fifth of the output is the bound on what is freed, and on copies."""
    assert SMALL_PART == 1 / 5
    assert weigh(Paper(4), MIB, output, users) is expected


@pytest.mark.parametrize("users", [6, 16, LOOKED_AT, 2 * LOOKED_AT])
def test_what_others_need_as_well_is_freed(users: int) -> None:
    """A chunk with many quick users is freed by the one that copies it, too."""
    assert weigh(Paper(4), MIB, MIB, users, user="other") is CONSUMER


def test_one_that_copies_what_many_others_use() -> None:
    """Not all users are looked at, and the one that copies may not be among them."""
    s = Paper(2)
    copies = []
    for n in range(20):
        chunk = s.send(s.add("load", n))
        copies.append(s.add("copy", 100 + n, chunk, nbytes=MIB))
        for i in range(3 * LOOKED_AT):
            s.add("count", 1000 + 100 * n + i, chunk)
        s.finish(chunk, nbytes=MIB)
    assert {s.rootish_policy.verdict(ts) for ts in copies} == {CONSUMER}


def test_guesses_are_not_counted_as_known() -> None:
    """Tables were taken for what is consumed until one was known to become far more."""
    s = Paper(2)
    tables = [s.send(s.add("table", n)) for n in range(20)]
    tasks = [s.add("decode", 100 + n, dts) for n, dts in enumerate(tables)]
    s.finish(*tables, nbytes=MIB)
    tables[0].group.rootish_facts.verdict = FEW
    assert {s.rootish_policy.verdict(ts) for ts in tasks} == {CONSUMER}
    tasks[0].group.add_type("bytes")
    tasks[0].group.update_nbytes(20 * MIB)
    assert s.rootish_policy.verdict(tasks[1]).rootish


@pytest.mark.parametrize(
    ("chunks", "of_collection", "expected"),
    [(5, True, CONSUMER), (4, True, PRODUCER), (5, False, PRODUCER)],
)
def test_edges_in_a_group_of_chunks(
    chunks: int, of_collection: bool, expected: Verdict
) -> None:
    """The mean output of a group that pads chunks is not that of an edge."""
    s = Paper(2)
    sources = [s.send(s.add("load", n)) for n in range(chunks)]
    edges = [s.send(s.add("cut", 100 + n)) for n in range(20 - chunks)]
    tasks = [s.add("pad", 200 + n, dts) for n, dts in enumerate(sources + edges)]
    s.finish(*sources, nbytes=MIB)
    s.finish(*edges, nbytes=4 * KIB)
    tasks[0].group.add_type("bytes")
    tasks[0].group.update_nbytes(MIB)
    if not of_collection:
        for ts in tasks:
            ts.key = str(ts.key)
    verdicts = [s.rootish_policy.verdict(ts) for ts in tasks]
    assert verdicts[:chunks] == [CONSUMER] * chunks
    assert verdicts[-1] is expected


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("kept", [True, False])
def test_what_a_client_keeps_is_not_freed(kept: bool, wanted: bool) -> None:
    """Persisted data that grows when it is decoded waits beside it.

    If the client wants what is decoded as well, waiting would save nothing.
    """
    expected = BESIDE if kept and not wanted else CONSUMER
    assert weigh(Paper(4), MIB, 2 * MIB, kept=kept, wanted=wanted) is expected


@pytest.mark.parametrize("nworkers", [4, 8, 100])
def test_bytes_that_become_eight_times_as_many(nworkers: int) -> None:
    """They may be decoded anywhere, however many workers there are."""
    s = Paper(nworkers)
    assert weigh(s, MIB, 8 * MIB, kept=True, number=3 * nworkers) is PRODUCER


def test_a_single_worker_may_get_company() -> None:
    assert weigh(Paper(1), MIB, 2 * MIB, kept=True) is BESIDE


@pytest.mark.parametrize(
    ("nbytes", "many", "users", "rest", "expected"),
    [
        (HANDLE_BYTES, True, 1, None, PRODUCER),
        # Data, which a task may consume
        (HANDLE_BYTES + 1, True, 1, None, CONSUMER),
        # A large table that there is only one of
        (HANDLE_BYTES + 1, False, 1, None, PRODUCER),
        # They arrive one by one, and are consumed as they do
        (1, True, 4, "queued", CONSUMER),
        (1, True, 4, "processing", CONSUMER),
        (1, True, 4, "waiting", CONSUMER),
        # Objects that stand for data do so, too, but are not held back
        (1, False, 3, "processing", PRODUCER),
        # Handles, each with many users
        (1, True, 5, "queued", PRODUCER),
    ],
)
def test_nothing_is_known_of_the_output(
    nbytes: int, many: bool, users: int, rest: Any, expected: Verdict
) -> None:
    s = Paper(2)
    if rest:
        s.move(s.add("load", 9999), rest)
    assert weigh(s, nbytes, None, users, many=many) is expected
    assert s.task_groups["process"].rootish_facts.guessed


@pytest.mark.parametrize(
    ("others", "expected"), [(None, PRODUCER), (4 * MIB, CONSUMER)]
)
def test_small_input_of_a_group_of_large_ones(
    others: int | None, expected: Verdict
) -> None:
    """What is made of an edge is as small, whatever its group makes in the mean."""
    assert weigh(Paper(2), 4 * KIB, MIB, others=others) is expected


@pytest.mark.parametrize(("files", "expected"), [(9, COUNTED), (10, CONSUMER)])
def test_raised_settings_have_a_bound(files: int, expected: Verdict) -> None:
    """What has more dependencies than the user asked for is judged by its bytes."""
    with dask.config.set(RAISED):
        s = Paper(2)
    loads = [s.send(s.add(f"load-{n}", n)) for n in range(files)]
    tasks = [s.add("scale", 100 + n, loads[n % files], nbytes=MIB) for n in range(20)]
    s.finish(*loads, nbytes=MIB)
    assert s.rootish_policy.verdict(tasks[0]) is expected


def test_dump_of_a_group() -> None:
    """It has what is known, in plain types, and nothing that is private."""
    facts = GroupFacts()
    assert facts._to_dict()["verdict"] is None
    facts.change(CONSUMER)
    facts.change(PRODUCER)
    dump = facts._to_dict(exclude=["guessed"])
    assert dump["verdict"]["reason"] == "producer"
    assert dump["decisions"] == {"consumer": 1, "producer": 1}
    assert "guessed" not in dump
    assert not any(name.startswith("_") for name in dump)


@pytest.mark.parametrize(
    ("output", "expected"), [(HANDLE_BYTES, CONSUMER), (HANDLE_BYTES + 1, PRODUCER)]
)
def test_small_outputs_are_not_held_back(output: int, expected: Verdict) -> None:
    assert weigh(Paper(2), 10, output) is expected


@pytest.mark.parametrize(
    ("verdict", "expected"), [(STAND_IN, PRODUCER), (FEW, CONSUMER)]
)
def test_reduced_as_it_is_loaded(verdict: Verdict, expected: Verdict) -> None:
    """It is not bound to where an object of the graph happens to be."""
    s = Paper(2)
    stores = [s.send(s.add("store", n)) for n in range(4)]
    means = [s.add("mean", 9 + n, stores[n % 4], nbytes=100) for n in range(40)]
    s.finish(*stores, nbytes=100)
    stores[0].group.rootish_facts.verdict = verdict
    assert s.rootish_policy.verdict(means[0]) is expected


@pytest.mark.parametrize(("name", "expected"), [("use", PRODUCER), ("load", CONSUMER)])
def test_small_input_of_its_own_group(name: str, expected: Verdict) -> None:
    """It counts as what it is: the step before may make less than others."""
    s = Paper(2)
    before, other = (s.send(s.add(name, n)) for n in range(2))
    tasks = [s.add("use", 2 + n, *[before][n // 3 :], nbytes=MIB) for n in range(9)]
    s.finish(before, nbytes=KIB)
    s.finish(other, nbytes=8 * MIB)
    assert s.rootish_policy.verdict(tasks[0]) is expected


def test_what_others_of_the_name_make_is_expected() -> None:
    prefix = TaskPrefix("load")
    first, second = make_group(prefix, 4), make_group(prefix, 4)
    assert expected_output(any_task(first)) is None
    finish(first, MIB)
    assert expected_output(any_task(second)) == expected_output(any_task(first)) == MIB
    finish(second, 100)
    assert expected_output(any_task(second)) == 100


def test_in_doubt() -> None:
    """A queued task is judged again if little was known, or others are no loads."""
    facts = GroupFacts()
    facts.change(PRODUCER)
    assert not facts.in_doubt
    facts.guessed = True
    assert facts.in_doubt
    facts.guessed = False
    facts.change(CONSUMER)
    assert facts.in_doubt


# -- What was sent in error -----------------------------------------------------------


def in_memory(s: Paper, number: int) -> list[TaskState]:
    """Return users of outputs of 1 MiB that a client keeps, one of each."""
    inputs = [s.send(s.add("kept", n)) for n in range(number)]
    ready = [s.add("convert", number + n, dts) for n, dts in enumerate(inputs)]
    s.finish(*inputs, nbytes=MIB)
    for dts in inputs:
        dts.who_wants = {s.client}
        dts.group.rootish_facts.verdict = PRODUCER
    return ready


def send_all(s: Paper, tasks: list[TaskState]) -> None:
    """Send tasks that are no loads, as far as is known."""
    for ts in tasks:
        assert s.rootish_policy.verdict(ts) is CONSUMER
        s.send(ts)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (8 * MIB, True),
        # Their inputs are expensive to move
        (MIB, False),
        # They are worth nothing
        (HANDLE_BYTES, False),
    ],
)
def test_data_in_memory_becomes_larger(output: int, expected: bool) -> None:
    """Nothing is known of it when all of it is ready: what does not run comes back."""
    s = Paper(2)
    tasks = in_memory(s, 20)
    send_all(s, tasks)
    assert not s.rootish_policy.overdue()
    s.finish(tasks[0], nbytes=output)
    assert s.rootish_policy.overdue() == (tasks[2:] if expected else [])
    assert not s.rootish_policy.overdue()


def test_few_are_not_called_back() -> None:
    """The cluster runs them at once, or will do so soon."""
    s = Paper(2)
    tasks = in_memory(s, 20)
    send_all(s, tasks[: 2 * 2 + 1])
    s.finish(tasks[0], nbytes=8 * MIB)
    assert not s.rootish_policy.overdue()


def test_small_outputs_come_first() -> None:
    """A function reads the axes of files, then the chunks: these are held back."""
    s = Paper(2)
    handles = [s.send(s.add("open", n)) for n in range(4)]
    reads = [s.add("read", 9 + n, handles[n % 4], nbytes=240) for n in range(40)]
    s.finish(*handles, nbytes=100)
    send_all(s, reads[:20])
    s.finish(reads[0], nbytes=240)
    assert not s.rootish_policy.overdue()
    s.finish(reads[1], nbytes=MIB)
    assert s.rootish_policy.verdict(reads[20]) is PRODUCER
    assert s.rootish_policy.overdue() == reads[3:20]


@pytest.mark.parametrize("output", [100, 2 * MIB])
def test_few_large_inputs_of_much_work(output: int) -> None:
    """What makes little of them comes back, once, so that idle workers may help.

    What cuts them up stays beside them.
    """
    s = Paper(4)
    splits = [s.send(s.add("split", n)) for n in range(2)]
    fits = [s.add("fit", 2 + n, splits[n % 2]) for n in range(40)]
    s.finish(*splits, nbytes=20 * MIB)
    for split in splits:
        split.group.rootish_facts.verdict = FEW
    send_all(s, fits)
    assert not s.rootish_policy.overdue()
    s.finish(fits[0], nbytes=output)
    is_small = output < MIB
    assert s.rootish_policy.overdue() == (fits[2:] if is_small else [])
    assert not s.rootish_policy.overdue()
    assert s.rootish_policy.verdict(fits[-1]) is (BESIDE if is_small else CONSUMER)
    assert bool(s.rootish_policy.unsure) is is_small


def test_nothing_is_kept_of_groups_that_are_done() -> None:
    s = Paper(2)
    tasks = in_memory(s, 8)
    send_all(s, tasks)
    assert s.rootish_policy.unsure
    s.finish(*tasks, nbytes=100)
    assert not s.rootish_policy.overdue()
    assert not s.rootish_policy.unsure


def test_nothing_is_called_back_without_the_queue() -> None:
    """Nor kept in mind for that."""
    s = Paper(2)
    tasks = in_memory(s, 20)
    s.queued = HeapSet(key=lambda ts: ts.priority)
    send_all(s, tasks)
    assert not s.rootish_policy.unsure


def grow(event: Event, chunk: bytes) -> bytes:
    event.wait()
    return 8 * chunk


@policy_cluster()
async def test_persisted_data_becomes_larger(c: Any, s: Any, a: Any, b: Any) -> None:
    """Once the first is done, no more are sent than there are slots."""
    event = Event()
    kept = c.map(lambda i: bytes(64 * KIB), range(40))
    await wait(kept)
    seen = await watch(s, "grow")
    grown = [delayed(grow)(event, chunk) for chunk in kept]
    sums = c.compute([delayed(len)(chunk) for chunk in grown])
    await async_poll_for(lambda: seen.peak_sent == 40, timeout=60)
    assert not seen.queued
    await event.set()
    assert await c.gather(sums) == [512 * KIB] * 40
    # Some may have run before those were called back
    assert len(seen.queued) > 20
