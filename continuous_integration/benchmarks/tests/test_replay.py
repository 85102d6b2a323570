"""Replays of recordings, the floors of their graphs, and the figures that are held."""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from continuous_integration.benchmarks import ratchet
from continuous_integration.benchmarks.__main__ import main
from continuous_integration.benchmarks.floor import floor_of_bytes, floor_of_memory
from continuous_integration.benchmarks.ratchet import HEAD, REPOSITORY, worse
from continuous_integration.benchmarks.recordings import (
    Operation,
    Output,
    Recording,
    Release,
    Scatter,
    Submission,
    deal,
    make_node,
    write,
)
from continuous_integration.benchmarks.replay import Replay, cluster_of, simulation
from distributed import Scheduler

if TYPE_CHECKING:
    from dask.typing import Key

Cluster = simulation.Cluster


def submission(
    needs: Mapping[str, str],
    outputs: str,
    *,
    wait: bool = False,
    after: float = 0,
    kind: str = "task",
    **more: Any,
) -> Submission:
    """Submit tasks with the keys that they need; their order is that of the mapping."""
    wanted: list[Key] = [*outputs.split()]
    return Submission(
        wait,
        after,
        {key: make_node(kind, key, inputs.split()) for key, inputs in needs.items()},
        wanted,
        {key: n for n, key in enumerate(needs)},
        **more,
    )


def recording(ops: Sequence[Any], sizes: Mapping[Any, int], **more: Any) -> Recording:
    """Every task takes a second."""
    outputs = {key: Output(nbytes, 1.0) for key, nbytes in sizes.items()}
    return Recording("made-up", 2, 1, ["read"], list(ops), outputs, **more)


def played(recording: Recording, cluster: Any) -> tuple[Replay, dict[str, Any]]:
    async def play() -> tuple[Replay, dict[str, Any]]:
        scheduler = Scheduler(dashboard=False, dashboard_address=":0")
        try:
            replay = Replay(scheduler, recording, cluster)
            return replay, replay.play()
        finally:
            await scheduler.close()

    return asyncio.run(play())


# Floors

PAIRS = recording(
    [
        submission(
            {
                **{"r0": "", "r1": "", "p0": "r0 r1", "r2": "", "r3": ""},
                **{"p1": "r2 r3", "sum": "p0 p1"},
            },
            "sum",
        )
    ],
    dict.fromkeys(["r0", "r1", "r2", "r3"], 100)
    | dict.fromkeys(["p0", "p1", "sum"], 1),
)


def test_floor_of_memory_in_order() -> None:
    # The second pair, and the parts of both
    assert floor_of_memory(PAIRS, 1) == 100 + 100 + 2
    # With two threads the third is there before the pair of the first is
    assert floor_of_memory(PAIRS, 2) == 300 + 1


def test_floor_of_memory_where_consumers_come_last() -> None:
    """Chunks that are first in the order wait for what makes room."""
    needs = {"r0": "", "r1": "", "c0": "r0", "c1": "r1"}
    sizes = {"r0": 100, "r1": 100, "c0": 1, "c1": 1}
    assert floor_of_memory(recording([submission(needs, "c0 c1")], sizes), 1) == 102


def test_floor_of_memory_where_consumers_had_better_wait() -> None:
    needs = {"x": "", "r": "", "d": "x r", "c": "x", "e": "c d"}
    sizes = {"x": 100, "r": 10, "d": 1, "c": 40, "e": 1}
    # In order: x is there, c joins it, and d. Else r would be there, too
    assert floor_of_memory(recording([submission(needs, "e")], sizes), 1) == 141


def test_floor_of_memory_has_operations() -> None:
    sizes = {"big": 1000, "p": 50, "d": 30, "a": 5, "b": 7}
    ops = [
        submission({"big": "", "p": "big"}, "p"),
        Scatter(True, 0, {"d": 30}, {"d": [0]}),
        submission({"a": "p d"}, "a"),
        Release(True, 0, ["p", "d"]),
        submission({"b": "a"}, "b", wait=True),
    ]
    assert floor_of_memory(recording(ops, sizes), 1) == 1050
    # What was held when the measured part began counts, not what was held before
    assert floor_of_memory(recording(ops, sizes, prepared=1), 1) == 50 + 30 + 5
    assert floor_of_memory(recording(ops, sizes, prepared=4), 1) == 5 + 7


def test_floor_of_memory_minds_priorities_of_users_and_generations() -> None:
    needs = {"r0": "", "r1": "", "c0": "r0 r1"}
    sizes = {"r0": 100, "r1": 100, "c0": 1, "x": 10}

    def peak(**more: Any) -> int:
        ops = [submission(needs, "c0"), submission({"x": ""}, "x", **more)]
        return floor_of_memory(recording(ops, sizes), 1)

    assert peak(generation=1) == 201
    # Its place in the order of its graph is that of the first
    assert peak() == 211
    assert peak(annotations={"x": {"priority": 1}}, generation=1) == 211


@pytest.mark.parametrize(
    ("workers", "nbytes"),
    [
        (1, 0),
        # One of the parts
        (2, 1),
        # One pair is torn apart
        (3, 100 + 1),
        (4, 100 + 100 + 1),
    ],
)
def test_floor_of_bytes(workers: int, nbytes: int) -> None:
    assert floor_of_bytes(PAIRS, workers) == nbytes


def test_floor_of_bytes_has_operations() -> None:
    ops = [
        Scatter(False, 0, {"d": 50, "e": 20}, {"d": [3], "e": [0]}),
        submission({"a": "d e"}, "a"),
        submission({"b": "a e"}, "b"),
    ]
    sizes = {"d": 50, "e": 20, "a": 1, "b": 1}
    # To where most of it is; there the copy stays
    assert floor_of_bytes(recording(ops, sizes), 2) == 20
    assert floor_of_bytes(recording(ops, sizes), 3) == 0
    assert floor_of_bytes(recording(ops, sizes, prepared=2), 2) == 0


# Replays


def test_prepared_operations_do_not_count() -> None:
    ops = [
        submission({"big": "", "p": "big"}, "p"),
        submission({"q": "p"}, "q", wait=True),
    ]
    sizes = {"big": 1000, "p": 500, "q": 10}
    expected = {"peak": 510, "peak_worker": 510, "moved": 0, "makespan": 1}
    _, result = played(recording(ops, sizes, prepared=1), Cluster(workers=1))
    assert result.items() >= expected.items()
    _, result = played(recording(ops, sizes), Cluster(workers=1))
    assert (result["peak"], result["makespan"]) == (1500, 3)


@pytest.mark.parametrize(("wait", "makespan"), [(False, 1.25), (True, 2)])
def test_operations_wait_for_results_or_for_their_time(
    wait: bool, makespan: float
) -> None:
    ops = [
        submission({"a": ""}, "a"),
        submission({"b": ""}, "b", wait=wait, after=0.25),
    ]
    cluster = Cluster(workers=1, threads=2)
    _, result = played(recording(ops, {"a": 1, "b": 1}), cluster)
    assert result["makespan"] == makespan


def test_release() -> None:
    ops = [
        submission({"a": ""}, "a"),
        Release(True, 0, ["a"]),
        submission({"b": ""}, "b", wait=True),
    ]
    sizes = {"a": 100, "b": 50}
    _, result = played(recording(ops, sizes), Cluster(workers=1))
    assert result["peak"] == 100
    del ops[1]
    _, result = played(recording(ops, sizes), Cluster(workers=1))
    assert result["peak"] == 150


def test_scatter_and_restrictions_are_to_workers_by_their_numbers() -> None:
    def moved(annotations: dict[Key, dict[str, Any]]) -> int:
        ops = [
            Scatter(False, 0, {"d": 100}, {"d": [3]}),
            submission({"a": "d"}, "a", annotations=annotations),
        ]
        _, result = played(recording(ops, {"d": 100, "a": 1}), Cluster(workers=2))
        moved: int = result["moved"]
        assert result["peak"] == 101 + moved
        return moved

    assert moved({}) == 0
    assert moved({"a": {"worker_restrictions": [5]}}) == 0
    assert moved({"a": {"worker_restrictions": [4]}}) == 100


def test_loose_restrictions_and_resources() -> None:
    annotations: dict[Key, dict[str, Any]] = {
        "a": {"host_restrictions": ["192.0.2.99"], "loose_restrictions": True},
        "b": {"resource_restrictions": {"R": 1}},
        "c": {"resource_restrictions": {"R": 1}},
    }
    one = recording(
        [submission(dict.fromkeys("abc", ""), "a b c", annotations=annotations)],
        {"a": 1, "b": 1, "c": 1},
        resources=[{}, {"R": 1}],
    )
    replay, result = played(one, cluster_of("2x2", one))
    # One of those that need it after the other
    assert 2 < result["makespan"] < 2.1
    first, second = replay.workers.values()
    assert {"b", "c"} <= set(second.data) <= {"a", "b", "c"}
    assert "R" not in first.resources


def test_all_resources_are_there_on_any_cluster() -> None:
    pool: list[dict[str, float]] = [{"CPU": 1}, {"CPU": 1}, {"CPU": 1}, {"GPU": 1}]
    annotations: dict[Key, dict[str, Any]] = {
        "a": {"resource_restrictions": {"CPU": 1}},
        "b": {"resource_restrictions": {"CPU": 1}},
        "c": {"resource_restrictions": {"GPU": 1}},
    }
    one = recording(
        [submission({"a": "", "b": "", "c": "a b"}, "c", annotations=annotations)],
        {"a": 1, "b": 1, "c": 1},
        resources=pool,
    )
    for name in ("1x1", "2x2", "3x1", "8x1"):
        replay, result = played(one, cluster_of(name, one))
        # Two loads, side by side if there is room, and then their user
        assert math.ceil(result["makespan"]) == (4 if name == "1x1" else 3)
        [holder] = [w for w in replay.workers.values() if "c" in w.data]
        assert holder.resources["GPU"] == 1
    assert deal(pool, 4) == pool
    assert deal(pool, 2) == [{"CPU": 2}, {"CPU": 1, "GPU": 1}]
    assert deal(pool, 5) == [*pool, {"CPU": 1}]
    assert deal([], 2) == [{}, {}]


def test_priorities_of_users_and_generations() -> None:
    def first(**more: Any) -> set[Key]:
        ops = [
            submission({"x": "", "y": ""}, "x y"),
            submission({"z": ""}, "z", **more),
            # By then one has finished after the first
            Release(False, 2.5, []),
        ]
        seen: list[set[Key]] = []
        one = recording(ops, {"x": 1, "y": 1, "z": 1})

        class Seen(Replay):
            def _do(self, op: Operation) -> None:
                seen.append({key for w in self.workers.values() for key in w.data})
                super()._do(op)

        async def play() -> None:
            scheduler = Scheduler(dashboard=False, dashboard_address=":0")
            try:
                Seen(scheduler, one, Cluster(workers=1)).play()
            finally:
                await scheduler.close()

        asyncio.run(play())
        return seen[-1]

    assert first(generation=1) == {"x", "y"}
    assert first(annotations={"z": {"priority": 1}}, generation=1) == {"x", "z"}
    # Its place in the order of its graph is before that of the second
    assert first() == {"x", "z"}


@pytest.mark.parametrize(("queueable", "queued"), [(True, 6), (False, 0)])
def test_tasks_of_a_shuffle_are_not_queued(queueable: bool, queued: int) -> None:
    keys = [f"a-{n}" for n in range(8)]
    annotations: dict[Key, Any] = {key: {"queueable": queueable} for key in keys}
    one = recording(
        [
            submission(
                dict.fromkeys(keys, ""),
                " ".join(keys),
                kind="marked",
                annotations=annotations,
            )
        ],
        dict.fromkeys(keys, 100),
    )
    replay, _ = played(one, Cluster(workers=1))
    assert replay.queued == queued


def test_chunks_are_reads_in_memory_at_once() -> None:
    reads: list[Key] = [("read", n) for n in range(3)]
    needs: dict[Key, list[Key]] = {"open": [], reads[0]: ["open"], "part": reads[:1]}
    for read in reads[1:]:
        needs[read] = ["open"]
    needs["sum"] = [*reads[1:], "part"]
    tasks = {key: make_node("task", key, inputs) for key, inputs in needs.items()}
    op = Submission(False, 0, tasks, ["sum"], {key: n for n, key in enumerate(tasks)})
    sizes: dict[Key, int] = dict.fromkeys(tasks, 100)
    _, result = played(recording([op], sizes), Cluster(workers=1))
    # When the last is read, one is used already
    assert result["chunks"] == 2
    assert sum(result["decisions"].values()) > 0


# What is held


def row(contender: str = "fork", **metrics: Any) -> dict[str, Any]:
    some = {"peak": 100e6, "peak_worker": 50e6, "moved": 20e6, "makespan": 10.0}
    return {"workload": "w", "cluster": "4x1", "contender": contender, **some} | metrics


def test_what_is_a_little_worse_is_no_complaint() -> None:
    base, fork = row("base"), row()
    assert not worse([base, fork], [base, fork])
    assert not worse([base, row(peak=101.9e6)], [base, fork])
    [(*place, metric, old, new, ratio), (*_, relative, _, _, _)] = worse(
        [base, row(peak=102.1e6)], [base, fork]
    )
    assert (*place, metric, old, new, ratio) == (
        *("w", "4x1", "peak", "100.0 MB", "102.1 MB", "1.02"),
    )
    assert relative == "peak / release"


def test_little_is_no_complaint() -> None:
    """Whatever the ratio."""
    before = row(peak=1e5, moved=0, makespan=0.01)
    assert not worse([row(peak=1.99e5, moved=0.99e5, makespan=0.019)], [before])
    lines = worse([row(peak=2.01e5, moved=1.01e5, makespan=0.021)], [before])
    assert [line[2] for line in lines] == ["moved", "makespan", "peak"]


def test_ratio_to_the_release_counts_by_itself() -> None:
    """The same figures are worse where the release has become better."""
    before = [row("base"), row()]
    [line] = worse([row("base", moved=10e6), row()], before)
    assert line == ("w", "4x1", "moved / release", "1.000", "2.000", "2.00")
    # A release that moves nothing is nothing to compare with
    before = [row("base", moved=0), row(moved=1e4)]
    assert not worse([row("base", moved=0), row(moved=2e4)], before)


def test_what_is_new_is_a_complaint() -> None:
    [line] = worse([row("base"), row()], [row("base")])
    assert line[:4] == ("w", "4x1", "all", "not held")
    assert not worse([row("base")], [])


def test_what_got_better_or_was_not_replayed_is_no_complaint() -> None:
    better = row(peak=1e6, peak_worker=1e6, moved=0, makespan=1.0)
    assert not worse([row("base"), better], [row("base"), row()])
    assert not worse([], [row()])


def test_worst_is_first() -> None:
    lines = worse([row(peak=200e6, moved=60e6)], [row()])
    assert [line[2] for line in lines] == ["moved", "peak"]


def test_median_over_seeds() -> None:
    runs = [
        row(peak=peak, chunks=chunks, decisions={"many": 3})
        for peak, chunks in ((3.0, 1), (1.0, 9), (2.0, 5))
    ]
    found = ratchet._median(runs)
    assert (found["peak"], found["chunks"]) == (2, 5)
    assert (found["lowest peak"], found["highest peak"]) == (1, 3)
    assert found["decisions"] == "many 3"


# The command


def invoke(*options: str, code: int = 0, folder: Path | None = None) -> str:
    arguments = ["replay", *options]
    if folder:
        arguments.append(f"--output={folder / 'replay.json'}")
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code, result.output
    return result.output


def run_module(name: str, *options: str, **environment: str) -> str:
    return subprocess.check_output(
        [sys.executable, "-m", name, *options],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        text=True,
    )


ONE = ("zarr-8", "--cluster", "8x1", "--contender", "base", "--contender")


def test_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is green with what is held, and red where the fork co-assigns nothing."""
    invoke(*ONE, "fork", folder=tmp_path)
    rows = [
        dict(zip(HEAD, row))
        for row in json.loads((tmp_path / "replay.json").read_text())
    ]
    assert [row["contender"] for row in rows] == ["base", "fork", "floor"]
    monkeypatch.setattr(ratchet, "held", lambda: rows)
    assert "nothing is worse" in invoke(*ONE, "fork", "--check", folder=tmp_path)
    setting = "fork:rootish-co-assignment=false"
    output = invoke(*ONE, setting, "--check", code=1, folder=tmp_path)
    assert "zarr-8  8x1  moved  " in output
    assert "worse by more than 2% than what is held" in output


def test_accept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not replayed stays, as long as it is recorded."""
    values = {**dict.fromkeys(HEAD, ""), "peak": 4e6, "moved": 8e6, "makespan": 2.0}
    before = [
        values | {"workload": name, "cluster": cluster, "contender": contender}
        for name in ("bias", "gone", "demo-zarr")
        for cluster in ("4x1", "2x2")
        for contender in ("base", "fork", "floor")
    ]
    written: dict[str, Any] = {}

    def write_figures(name: str, **fields: Any) -> Path:
        written.update(fields)
        return REPOSITORY / name

    path = tmp_path / "held.json"
    path.write_text(ratchet.dump(before))
    monkeypatch.setattr(ratchet, "HELD_FILE", path)
    monkeypatch.setattr(ratchet, "write_figures", write_figures)
    now = [row for row in before if row["workload"] == "demo-zarr"]
    fork = {"peak": 1e6, "moved": 0, "makespan": 1.0}
    ratchet._accept([r | (fork if r["contender"] == "fork" else {}) for r in now])
    rows = ratchet.held(path)
    assert {row["workload"] for row in rows} == {"bias", "demo-zarr"}
    assert len(rows) == 2 * 2 * 3
    assert written["rows"] == [
        ["bias", *["4 → 4 (4)", "8 → 8 (8)"] * 2],
        ["demo-zarr", *["4 → 1 (4)", "8 → 0 (8)"] * 2],
    ]
    # Half of the places are at a quarter of the peak, and at next to no bytes
    assert written["values"] == {
        **{"peak": "0.50", "makespan": "0.71", "floor": "0.50"},
        "moved": f"{(0.1 / 8) ** 0.5:.2f}",
    }
    output = invoke("demo-zarr", "--cluster", "8x1", "--accept", code=2)
    assert "takes no other contenders or clusters" in output


def test_same_to_the_bit(tmp_path: Path) -> None:
    """Whatever seed the command was started with."""
    outputs = []
    for seed in "12":
        path = tmp_path / seed
        printed = run_module(
            *("continuous_integration.benchmarks", "replay", "bias", "--cluster=8x1"),
            *("--contender=fork", f"--output={path}"),
            PYTHONHASHSEED=seed,
        )
        outputs.append((printed, path.read_text()))
    assert outputs[0] == outputs[1]
    assert "bias" in outputs[0][0]


def test_configuration_of_this_machine_has_no_say() -> None:
    outputs = {
        run_module(
            *("continuous_integration.benchmarks.replay", "bias", "--cluster=8x1"),
            PYTHONHASHSEED="0",
            DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION=saturation,
        )
        for saturation in ("inf", "1.0")
    }
    assert len(outputs) == 1


def test_contender_of_a_commit(tmp_path: Path) -> None:
    commit = subprocess.check_output(
        ["git", "rev-parse", "HEAD"], cwd=REPOSITORY, text=True
    ).strip()
    name = f"commit:{commit[:12]}"
    with ratchet.made([name]) as [contender]:
        version = (contender.tree / "distributed" / "_version.py").read_text()
        assert "+rootish" in version
    assert not contender.tree.exists()
    output = invoke(
        "demo-zarr", "--cluster=8x1", f"--contender={name}", folder=tmp_path
    )
    assert f"; {name}, floor;" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["no-such"], "no recording no-such"),
        (["bias", "--contender=other"], "no contender 'other': give base, fork"),
        (["bias", "--contender=commit:0000000"], "commit:0000000: fatal"),
        (["bias", "--contender=fork", "--cluster=4"], "'4' is not of the form 4x2"),
    ],
)
def test_errors_are_one_line(options: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["replay", *options])
    assert result.exit_code in (1, 2)
    line = result.output.strip().splitlines()[-1]
    assert line.startswith("Error: ")
    assert message in line


def test_standstill_is_one_line(tmp_path: Path) -> None:
    """It says which recording stands still, where, and with what."""
    annotations: dict[Key, Any] = {"a": {"resource_restrictions": {"R": 1}}}
    op = submission({"a": ""}, "a", annotations=annotations)
    write(recording([op], {"a": 1}), tmp_path)
    output = invoke(
        *(f"--folder={tmp_path}", "made-up", "--cluster=2x1", "--contender=fork"),
        code=1,
    )
    assert output.splitlines()[-1] == (
        "Error: made-up, 2x1, fork: the scheduler stands still: 'a' is pending"
    )
