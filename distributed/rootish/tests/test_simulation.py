"""What a simulation does, on graphs small enough to be played by hand."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from dask._task_spec import Task, TaskRef

from distributed.rootish.simulation import (
    REQUEST_NBYTES,
    Cluster,
    Graph,
    SimulationError,
)
from distributed.rootish.tests.utils import SATURATION, Noted, Output, simulated
from distributed.utils_test import gen_test

if TYPE_CHECKING:
    from dask.typing import Key

#: Nothing takes time but tasks and what is moved.
ONE = Cluster(workers=1)
TWO = Cluster(workers=2, bandwidth=1000, latency=0.5)

#: Nothing is queued.
NO_QUEUE = {"distributed.scheduler.worker-saturation": math.inf}


def graph(needs: Mapping[str, str], outputs: str, **more: Any) -> Graph:
    """Tasks and the keys that they need; their order is that of the mapping."""
    tasks: dict[Key, Task] = {
        key: Task(key, sum, *map(TaskRef, inputs.split()))
        for key, inputs in needs.items()
    }
    more = {"order": {key: n for n, key in enumerate(tasks)}, **more}
    return Graph(tasks, outputs.split(), **more)


# Order and memory


@gen_test()
async def test_most_urgent_first() -> None:
    needs = dict.fromkeys("abcd", "")
    order = {"a": 3, "b": 1, "c": 2, "d": 0}
    async with simulated(ONE) as sim:
        sim.submit(graph(needs, "a b c d", order=order))
        sim.run()
    assert list(sim.spans) == ["d", "b", "c", "a"]
    assert sim.spans["c"] == (0, 2, 3)


@gen_test()
async def test_order_is_that_of_dask_unless_it_is_given() -> None:
    """Depth first: what was read is used before more is read."""
    needs = {"x": "", "y": "", "z": "", "u": "x", "v": "y", "w": "z"}
    async with simulated(ONE) as sim:
        sim.submit(graph(needs, "u v w", order=None))
        sim.run()
    first, _, third, *_ = sim.spans
    # A task has started before the scheduler hears of the one before it
    assert third == {"x": "u", "y": "v", "z": "w"}[str(first)]


@pytest.mark.parametrize("policy", ["producers", "marked"])
def test_peak_of_a_reduction(policy: str) -> None:
    config = {"distributed.scheduler.rootish-policy": policy}

    @gen_test(config=config)
    async def test() -> None:
        needs = {"a": "", "b": "", "c": "", "d": "", "sum": "a b c d"}
        async with simulated(TWO, {"sum": Output(10)}) as sim:
            annotations = sim.runs_on(a=0, b=0, c=1, d=1, sum=0)
            sim.submit(graph(needs, "sum", annotations=annotations))
            sim.run()
            # Two are on either worker; two copies and the sum join those on the first
            assert (sim.peak, sim.peak_worker) == (610, 410)
            assert (sim.moved, sim.transfers) == (200, 2)
            assert sim.nbytes == 10

    test()


@gen_test(config={"distributed.scheduler.rootish-policy": "heuristic"})
async def test_peak_of_a_worker_that_reads_ahead() -> None:
    needs = {"open": "", "a": "open", "p": "a", "b": "open", "q": "b", "c": "open"}
    needs |= {"r": "c", "sum": "p q r"}
    sizes = {key: Output(1) for key in ("p", "q", "r", "sum")} | {"open": Output(0)}
    async with simulated(ONE, sizes) as sim:
        sim.submit(graph(needs, "sum"))
        sim.run()
        assert list(sim.spans) == ["open", *"abpqcr", "sum"]
        # Two chunks and a part of the first
        assert sim.peak == sim.peak_worker == 201
        assert sim.nbytes == 1
        assert sim.now == 8


@gen_test()
async def test_threads() -> None:
    async with simulated(Cluster(workers=1, threads=2)) as sim:
        sim.submit(graph(dict.fromkeys("abc", ""), "a b c"))
        sim.run()
    assert [span.start for span in sim.spans.values()] == [0, 0, 1]


@gen_test(config=SATURATION)
async def test_queued_is_the_most_that_waited() -> None:
    many = {f"a-{n}": "" for n in range(8)}
    async with simulated(ONE) as sim:
        marked = graph(many, " ".join(many))
        marked.tasks = {
            key: Task(key, sum, _data_producer=True) for key in marked.tasks
        }
        sim.submit(marked)
        sim.run()
    # One worker has two slots
    assert sim.queued == 6
    assert sim.now == 8


# Transfers


@gen_test()
async def test_transfer_takes_latency_and_bandwidth() -> None:
    async with simulated(TWO, {"a": Output(1000)}) as sim:
        annotations = sim.runs_on(a=0, b=1)
        sim.submit(graph({"a": "", "b": "a"}, "b", annotations=annotations))
        sim.run()
    assert sim.spans == {"a": (0, 0, 1), "b": (1, 2.5, 3.5)}
    assert (sim.moved, sim.transfers) == (1000, 1)


@gen_test()
async def test_keys_of_one_peer_come_together() -> None:
    cluster = Cluster(workers=3, bandwidth=100, latency=0.5)
    async with simulated(cluster) as sim:
        needs = {"a": "", "b": "", "c": "", "all": "a b c"}
        annotations = sim.runs_on(a=0, b=0, c=1, all=2)
        sim.submit(graph(needs, "all", annotations=annotations))
        sim.run(lambda: bool(sim.fleet[2].asked))
        # The second of the worker that has two is finished at two seconds
        assert sim.now == 2
        assert len(sim.fleet[2].asked) == 2
        sim.run()
    # Both are asked at once, and their answers share one link
    assert sim.spans["all"].start == 2 + 0.5 + 3 * 1


@gen_test()
async def test_one_request_to_a_peer_at_a_time() -> None:
    nbytes = REQUEST_NBYTES * 3 // 5
    cluster = Cluster(workers=2, bandwidth=nbytes, latency=0.5)
    async with simulated(cluster, dict.fromkeys("ab", Output(nbytes))) as sim:
        needs = {"a": "", "b": "", "all": "a b"}
        annotations = sim.runs_on(a=0, b=0, all=1)
        sim.submit(graph(needs, "all", annotations=annotations))
        sim.run()
    # Together they are too much for one request
    assert sim.spans["all"].start == 2 + (0.5 + 1) + (0.5 + 1)
    assert sim.transfers == 2


@gen_test()
async def test_most_urgent_input_is_fetched_first() -> None:
    cluster = Cluster(workers=3, bandwidth=100, latency=0.5)
    async with simulated(cluster) as sim:
        needs = {"a": "", "b": "", "v": "b", "u": "a"}
        annotations = sim.runs_on(a=0, b=1, u=2, v=2)
        sim.fleet[2].paused = True
        sim.submit(graph(needs, "u v", annotations=annotations))
        sim.sleep(2)
        sim.fleet[2].paused = False
        sim._proceed(sim.fleet[2])
        sim.run()
    # Both can be asked for at the same time, and share one link
    assert sim.spans["v"].start == 2 + 0.5 + 1
    assert sim.spans["u"].start == 2 + 0.5 + 2


# Messages and tasks take time


@pytest.mark.parametrize(
    ("option", "start", "end"),
    [
        # There and back, twice
        ({"delay": 0.25}, 1.75, 3),
        # The second batch of the scheduler waits for its time
        ({"batch": 10}, 10, 11),
        # The first report goes at once, and the second waits
        ({"batch_workers": 10}, 1, 11),
        # Two messages
        ({"busy": 0.5}, 1.5, 3),
        # Two tasks
        ({"overhead": 0.25}, 1.25, 2.5),
        ({}, 1, 2),
    ],
)
def test_costs(option: dict[str, float], start: float, end: float) -> None:
    @gen_test()
    async def test() -> None:
        async with simulated(Cluster(workers=1, **option)) as sim:
            sim.submit(graph({"a": "", "b": "a"}, "b"))
            sim.run(sim.done)
        assert sim.spans["b"].start == start
        assert sim.now == end

    test()


@gen_test()
async def test_messages_wait_for_a_busy_scheduler() -> None:
    async with simulated(Cluster(workers=2, busy=0.5)) as sim:
        annotations = sim.runs_on(a=0, b=1)
        sim.submit(graph({"a": "", "b": ""}, "a b", annotations=annotations))
        sim.run()
    assert [span.stop for span in sim.spans.values()] == [1, 1]
    assert sim.now == 2


# Where tasks run


@gen_test()
async def test_resources_bound_what_runs_at_once() -> None:
    cluster = Cluster(workers=2, threads=3, resources=({}, {"R": 2}))
    async with simulated(cluster) as sim:
        needs = dict.fromkeys(["a", "b", "c"], "")
        annotations = {"resources": {key: {"R": 1} for key in needs}}
        sim.submit(graph(needs, "a b c", annotations=annotations))
        sim.run()
    assert sim.spans == {"a": (1, 0, 1), "b": (1, 0, 1), "c": (1, 1, 2)}


@gen_test()
async def test_lack_of_a_resource_holds_up_nothing_else() -> None:
    cluster = Cluster(workers=1, threads=2, resources=({"R": 1},))
    async with simulated(cluster) as sim:
        annotations = {"resources": {key: {"R": 1} for key in "ab"}}
        needs = dict.fromkeys("abc", "")
        sim.submit(graph(needs, "a b c", annotations=annotations))
        sim.run()
    assert sim.spans == {"a": (0, 0, 1), "c": (0, 0, 1), "b": (0, 1, 2)}


@gen_test()
async def test_restrictions() -> None:
    async with simulated(TWO) as sim:
        annotations = sim.runs_on(a=1, b=1, c=0)
        needs = dict.fromkeys("abc", "")
        sim.submit(graph(needs, "a b c", annotations=annotations))
        sim.run()
    assert {key: span.worker for key, span in sim.spans.items()} == {
        "a": 1,
        "b": 1,
        "c": 0,
    }


@pytest.mark.parametrize(("stealing", "end"), [(None, 20), (0.125, 11)])
def test_stealing_moves_work_to_idle_workers(
    stealing: float | None, end: float
) -> None:
    @gen_test(config=NO_QUEUE)
    async def test() -> None:
        cluster = Cluster(workers=1, stealing=stealing)
        async with simulated(cluster) as sim:
            many = {f"a-{n}": "" for n in range(20)}
            sim.submit(graph(many, " ".join(many)))
            sim.sleep(1.5)
            sim.join("tcp://192.0.2.1:1", 1)
            sim.run()
        assert len(sim.spans) == 20
        where = {span.worker for span in sim.spans.values()}
        assert where == ({0, 1} if stealing else {0})
        assert max(span.stop for span in sim.spans.values()) <= end

    test()


# Memory of workers


@pytest.mark.parametrize(("replicas", "copies"), [(None, 2), (3, 1)])
def test_memory_manager_drops_copies(replicas: float | None, copies: int) -> None:
    @gen_test()
    async def test() -> None:
        cluster = Cluster(workers=2, bandwidth=1000, latency=0.5, replicas=replicas)
        async with simulated(cluster, {"b": Output(10)}) as sim:
            annotations = sim.runs_on(a=0, b=1)
            sim.submit(graph({"a": "", "b": "a"}, "a b", annotations=annotations))
            sim.run(sim.done)
            assert sim.nbytes == 210
            sim.sleep(1)
            assert sum("a" in worker.data for worker in sim.fleet) == copies
            assert sim.nbytes == copies * 100 + 10

    test()


@gen_test()
async def test_memory_manager_copies_what_is_to_leave() -> None:
    """It has no task that waits for it."""
    async with simulated(TWO) as sim:
        sim.scatter("a", "value", 100, [sim.fleet[0]])
        amm = sim.scheduler.extensions["amm"]

        class Copy:
            def run(self) -> Iterator[tuple[str, Any, None]]:
                yield "replicate", sim.scheduler.tasks["a"], None

        amm.policies = {Copy()}
        Copy.manager = amm  # type: ignore[attr-defined]
        sim._after(0, amm.run_once)
        sim.run(lambda: sim.nbytes == 200)
        assert [worker.data for worker in sim.fleet] == [{"a": "value"}] * 2
        assert sim.now == 0.5 + 0.1
        assert sim.nbytes == 200


@gen_test()
async def test_spilling() -> None:
    """It keeps what was used last, and writes and reads take their time."""
    many = {key: "" for key in "abcdefghij"}
    cluster = Cluster(workers=1, memory_limit=1000, pause=None, disk=100)
    used = []

    class Watched(dict[Any, Any]):
        def __setitem__(self, key: Any, value: Any) -> None:
            super().__setitem__(key, value)
            used.append(worker.nbytes - sum(worker.spilled.values()))

    async with simulated(cluster) as sim:
        [worker] = sim.fleet
        worker.data = Watched()
        sim.submit(graph(many, " ".join(many)))
        sim.run()
        # It holds seven, and what it writes after the last one delays its report
        assert worker.spilled == dict.fromkeys("abc", 100)
        assert sim.spans["j"].stop == 10
        assert sim.now == 11
        assert max(used) == 700
        assert sim.nbytes == worker.nbytes == 1000

        sim.submit(graph({"z": "a"}, "z"))
        sim.run()
        assert sim.spans["z"] == (0, 11, 11 + 1 + 1)
        # In the place of what is read, and of the output, the next ones are written
        assert worker.spilled == dict.fromkeys("bcde", 100)
        sim.release("bcdefghij")
        assert not worker.spilled
        assert worker.nbytes == 200


@pytest.mark.parametrize("op", ["free-keys", "remove-replicas"])
def test_paused_worker_starts_nothing_and_goes_on_later(op: str) -> None:
    @gen_test()
    async def test() -> None:
        cluster = Cluster(workers=1, memory_limit=1000, spill=None, pause=0.5)
        async with simulated(cluster, dict.fromkeys("abc", Output(300))) as sim:
            [worker] = sim.fleet
            sim.submit(graph(dict.fromkeys("abc", ""), "a b c"))
            sim.sleep(10)
            assert list(sim.spans) == ["a", "b"]
            assert worker.paused
            [ws] = sim.scheduler.workers.values()
            assert ws.status.name == "paused"
            message = {"op": op, "keys": ["a"], "stimulus_id": "test"}
            sim.scheduler.stream_comms[worker.address].send(message)
            sim._deliver()
            sim.sleep(0.5)
            assert ws.status.name == "running"
            sim.run(lambda: "c" in sim.spans)
            assert sim.spans["c"] == (0, 10, 11)

    test()


@gen_test()
async def test_copy_that_is_removed_was_the_only_one() -> None:
    """The scheduler took it for one of several: it is told, and has it made again."""
    async with simulated(ONE, {"a": Output(100)}) as sim:
        sim.submit(graph({"a": ""}, "a"))
        sim.run()
        before = sim.spans["a"]
        [worker] = sim.fleet
        message = {"op": "remove-replicas", "keys": ["a", "b"], "stimulus_id": "test"}
        sim.scheduler.stream_comms[worker.address].send(message)
        sim._deliver()
        assert not worker.data
        sim.run(lambda: sim.spans["a"] != before)
        assert worker.data == {"a": None}


@gen_test()
async def test_memory_without_a_limit() -> None:
    async with simulated(ONE, {"a": Output(2**40)}) as sim:
        sim.submit(graph({"a": ""}, "a"))
        sim.run()
        assert sim.peak == 2**40
        assert not sim.fleet[0].spilled
        assert not sim.fleet[0].paused


class Typed(NamedTuple):
    """What a task gives, of which the type is known as well."""

    nbytes: int
    seconds: float
    typename: str


@gen_test()
async def test_types_of_outputs() -> None:
    typed = Typed(1, 1.0, "netCDF4.Dataset")
    async with simulated(ONE, {"a": typed, "b": Output(1)}) as sim:
        sim.submit(graph({"a": "", "b": ""}, "a b"))
        sim.run()
        assert sim.scheduler.tasks["a"].type == "netCDF4.Dataset"
        assert sim.scheduler.tasks["b"].type == "float"


# What clients do


@gen_test()
async def test_scatter() -> None:
    async with simulated(TWO) as sim:
        sim.scatter("data", "value", 50, sim.fleet[1:])
        assert sim.done()
        assert sim.told == {"client": {"data": "memory"}}
        assert (sim.nbytes, sim.fleet[1].data) == (50, {"data": "value"})
        task = graph({"a": "data"}, "a")
        sim.submit(task)
        sim.run()
        assert sim.spans["a"].worker == 1
        assert sim.moved == 0
        assert sim.peak == 150


@gen_test()
async def test_release() -> None:
    async with simulated(TWO) as sim:
        sim.submit(graph({"a": "", "b": "a"}, "a b"))
        sim.submit(graph({"a": ""}, "a"), client="other")
        sim.run()
        assert sim.nbytes == 200
        sim.release("ab")
        # Somebody else still wants it
        assert sim.nbytes == 100
        assert sim.told == {"client": {}, "other": {"a": "memory"}}
        sim.release(["a"], "other")
        assert not sim.scheduler.tasks
        assert not any(worker.data for worker in sim.fleet)
        assert sim.nbytes == 0
        assert sim.peak == 200


@gen_test()
async def test_what_is_released_is_not_run() -> None:
    async with simulated(ONE) as sim:
        sim.submit(graph({"a": "", "b": "", "c": ""}, "a b c"))
        sim.sleep(0.5)
        # One is running, and what comes of it is thrown away
        sim.release(["a", "c"])
        sim.run()
    assert sim.spans == {"b": (0, 1, 2)}
    assert sim.peak == 100


@gen_test()
async def test_time_passes_as_far_as_it_is_asked_to() -> None:
    async with simulated(ONE) as sim:
        sim.submit(graph({"a": "", "b": "a", "c": "b"}, "c"))
        assert not sim.done()
        sim.run(lambda: "b" in sim.spans)
        assert (sim.now, sim.done()) == (2, False)
        sim.sleep(0.5)
        assert sim.now == 2.5
        sim.run()
        assert (sim.now, sim.done()) == (3, True)
        sim.sleep(7)
        assert sim.now == 10
        sim.submit(graph({"d": ""}, "d"))
        sim.run(sim.done)
        assert sim.spans["d"] == (0, 10, 11)


@gen_test()
async def test_rounds_do_not_go_on_for_ever() -> None:
    async with simulated(Cluster(workers=2, stealing=0.1, replicas=2)) as sim:
        sim.submit(graph({"a": ""}, "a"))
        sim.run()
        assert 1 <= sim.now < 1.5


@gen_test()
async def test_meter_is_around_each_call_of_the_scheduler() -> None:
    calls = []

    @contextlib.contextmanager
    def meter() -> Iterator[None]:
        calls.append(sim.now)
        yield

    async with simulated(ONE, meter=meter) as sim:
        sim.submit(graph({"a": "", "b": "a"}, "b"))
        sim.run()
        sim.release("b")
    assert calls == [0, 1, 2, 2]


# What goes wrong


@pytest.mark.parametrize("stealing", [None, 0.1])
def test_standstill(stealing: float | None) -> None:
    """Whether or not something happens again and again."""

    @gen_test()
    async def test() -> None:
        async with simulated(Cluster(workers=2, stealing=stealing)) as sim:
            needs = {"a": "", "b": "a"}
            annotations = {"workers": {"b": ["tcp://192.0.2.9:9"]}}
            sim.submit(graph(needs, "b", annotations=annotations))
            with pytest.raises(SimulationError, match="stands still: 'b' is pending"):
                sim.run()
            assert list(sim.spans) == ["a"]

    test()


@gen_test()
async def test_worker_that_leaves() -> None:
    async with simulated(TWO) as sim:
        sim.submit(graph({"a": "", "b": "a"}, "b"))
        sim.run(lambda: bool(sim.spans))
        [span] = sim.spans.values()
        leaver = sim.fleet[span.worker]
        # It has begun with the second, and takes the output of the first with it
        sim.sleep(0.5)
        sim.leave(leaver)
        assert (len(sim.fleet), sim.nbytes) == (1, 0)
        sim.run()
        assert sim.spans == {"a": (0, 1.5, 2.5), "b": (0, 2.5, 3.5)}
        assert sim.peak == sim.peak_worker == 200
        # What it was to say is not heard
        assert not leaver.outbox.messages


@gen_test()
async def test_what_was_asked_of_a_worker_that_leaves_is_fetched_elsewhere() -> None:
    cluster = Cluster(workers=3, bandwidth=1000, latency=0.5)
    async with simulated(cluster) as sim:
        first, second, _ = sim.fleet
        sim.scatter("a", None, 100, [first, second])
        sim.submit(graph({"b": "a"}, "b", annotations=sim.runs_on(b=2)))
        sim.sleep(0.1)
        sim.leave(first)
        sim.run()
        assert list(sim.spans) == ["b"]
        assert sim.moved == 100


@gen_test(config={"distributed.scheduler.allowed-failures": 0})
async def test_failure() -> None:
    async with simulated(TWO) as sim:
        sim.submit(graph({"a": ""}, "a"))
        sim.sleep(0.5)
        sim.leave(next(w for w in sim.fleet if w.jobs), expected=False)
        with pytest.raises(SimulationError, match="gave up: 'a' is erred"):
            sim.run()


@gen_test()
async def test_unknown_message() -> None:
    async with simulated(ONE) as sim:
        [address] = sim.workers
        sim.scheduler.stream_comms[address].send({"op": "dance"})
        with pytest.raises(SimulationError, match="knows no 'dance'"):
            sim.submit(graph({"a": ""}, "a"))


@gen_test()
async def test_refused_worker() -> None:
    async with simulated(ONE) as sim:
        sim._joined = 0
        with pytest.raises(SimulationError, match=r"cannot register.*name taken"):
            sim.join("tcp://192.0.2.1:1", 1)
        assert len(sim.workers) == 1


@gen_test()
async def test_same_again() -> None:
    def play(sim: Noted) -> tuple[Any, ...]:
        needs: dict[str, str] = {}
        for n in range(40):
            needs[f"read-{n}"] = ""
            needs[f"scale-{n}"] = f"read-{n}"
        needs["sum"] = " ".join(f"scale-{n}" for n in range(40))
        sim.submit(graph(needs, "sum"))
        sim.run()
        return sim.spans, sim.peak, sim.peak_worker, sim.moved, sim.now

    cluster = Cluster(4, 2, 1e3, 0.01, delay=0.01, batch=0.02, busy=0.001, stealing=0.1)
    results = []
    for _ in range(2):
        async with simulated(cluster) as sim:
            results.append(play(sim))
    assert results[0] == results[1]
    assert len(results[0][0]) == 81
