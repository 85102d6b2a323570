"""The simulation of what grows, and its comparison with workers that are real."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dask
import pytest
from click.testing import CliRunner

from continuous_integration.benchmarks import scale
from continuous_integration.benchmarks.__main__ import main
from continuous_integration.benchmarks.compare import Job
from continuous_integration.benchmarks.environments import Environment
from continuous_integration.benchmarks.graphs import GRAPHS
from continuous_integration.benchmarks.simulation import Cluster, run

SLOW_SCHEDULER = Cluster(20, 2, delay=0.002, busy=0.002, stealing=0.1)


def simulate(policy: str, tasks: int, cluster: Cluster = SLOW_SCHEDULER) -> Any:
    with dask.config.set({"distributed.scheduler.rootish-policy": policy}):
        return asyncio.run(
            run("files", tasks=tasks, groups=tasks // 10, marks=False, cluster=cluster)
        )


def test_what_a_worker_holds_does_not_grow_with_the_graph() -> None:
    """It does where loads are not held back: files are small beside the cluster."""
    chunk = GRAPHS["files"](10, 4, False).kinds["read"].nbytes
    # Two chunks for each of its three slots, and two families of eight
    bound = (2 * 3 + 2 * 8) * chunk
    for tasks in (1_000, 4_000):
        assert simulate("producers", tasks)["peak_chunks"] <= bound
    small, large = (simulate("marked", n)["peak_chunks"] for n in (1_000, 4_000))
    assert bound < 2 * small < large


def test_scheduler_that_is_busy_takes_time() -> None:
    idle, busy = (
        simulate("producers", 500, Cluster(4, 1, delay=0.002, busy=seconds))
        for seconds in (0.0, 0.01)
    )
    # At least one message for each task
    assert busy["makespan"] >= busy["tasks"] * 0.01 > idle["makespan"]


def test_bytes_are_what_links_carry() -> None:
    figures = simulate("producers", 500, Cluster(20, 2))
    # Workers hold chunks, and the scheduler hears of it and of all else at once
    assert 0 < figures["peak_chunks"] <= figures["peak_worker"] <= figures["peak"]
    assert figures["moved"] > figures["transfers"]


def test_workers_hold_more_than_the_scheduler_knows() -> None:
    """Messages, which take time, tell it what was made, and them what to drop.

    Where loads are held back, there is little of either.
    """
    figures = simulate("marked", 500)
    assert figures["peak_chunks"] > figures["peak_worker"]


@pytest.mark.parametrize("name", GRAPHS)
def test_stealing(name: str) -> None:
    cluster = Cluster(6, 1, delay=0.002, busy=0.0002, stealing=0.02)
    figures = asyncio.run(run(name, tasks=300, groups=12, marks=False, cluster=cluster))
    assert figures["makespan"] > 0


def test_sweeps() -> None:
    sweeps = scale.sweeps(100_000)
    assert [size.tasks for size in sweeps["tasks, 1,000 workers"]] == [10_000, 100_000]
    assert [size.groups for size in sweeps["groups"]] == [10, 100, 1_000, 10_000]
    assert {size.tasks for size in sweeps["workers"]} == {100_000}
    assert (
        max(s.tasks for sizes in scale.sweeps(10**6).values() for s in sizes) == 10**6
    )


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is simulated is in the table, and in the pictures."""

    def environments(names: Sequence[str], *args: object) -> list[Environment]:
        return [Environment(name, Path(), name) for name in names]

    def execute(
        batches: Sequence[Sequence[Job]],
        path: Path,
        fresh: bool,
        timeout: float,
        describe: Callable[[dict[str, Any]], str],
    ) -> list[dict[str, Any]]:
        record = {
            **{"graph": "files", "tasks": 10, "groups": 10, "workers": 10},
            **{"peak_chunks": 2e6, "peak": 3e6, "moved": 0, "total": 100.0},
            "makespan": 1.0,
        }
        assert describe(record)
        return [dict(record) for _ in batches]

    monkeypatch.setattr(scale, "environments", environments)
    monkeypatch.setattr(scale, "execute_visibly", execute)
    written: dict[str, Any] = {}
    monkeypatch.setattr(
        scale, "write_figures", lambda name, **fields: written.update({name: fields})
    )
    output = tmp_path / "scale.csv"
    options = ["--graph", "files", "--largest", "10000", "--output", str(output)]
    options += ["--figures", "grown"]
    result = CliRunner().invoke(main, ["scale", *options])
    assert result.exit_code == 0, result.output
    head, *rows = csv.reader(output.read_text().splitlines())
    assert tuple(head) == scale.HEAD
    sizes = {size for sizes in scale.sweeps(10_000).values() for size in sizes}
    assert len(rows) == len(sizes) * len(scale.CONTENDERS)
    assert rows[0][4:] == [scale.CONTENDERS[0], "2.0", "3.0", "0.0", "1.0", "100.0"]
    grown = written["grown"]
    assert grown["head"] == scale.HEAD
    assert [list(map(str, row)) for row in grown["rows"]] == rows
    assert grown["picture"].is_file()
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {"scale-peak-chunks.png", "scale-total.png"}


def test_command_says_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale, "environments", lambda *args: [])
    monkeypatch.setattr(
        scale, "execute_visibly", lambda *args: [{"error": "out of memory"}]
    )
    result = CliRunner().invoke(main, ["scale", "--output", str(tmp_path / "a.csv")])
    assert result.exit_code == 1
    message = "Error: 1 runs failed, the first with: out of memory"
    assert result.output.splitlines()[-1] == message


def test_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real workers hold and move what the simulation says, more or less."""
    written: dict[str, Any] = {}
    monkeypatch.setattr(
        scale, "write_figures", lambda name, **fields: written.update({name: fields})
    )
    output = tmp_path / "check.csv"
    options = ["--graph", "fields", "--tasks", "60", "--groups", "10"]
    options += ["--workers", "1", "--repeats", "1", "--output", str(output)]
    options += ["--figures", "close"]
    result = CliRunner().invoke(main, ["scale-check", *options])
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(output.read_text().splitlines()))
    close = written["close"]
    assert [dict(zip(close["head"], row)) for row in close["rows"]] == rows
    values = [close["values"][f"peak.{x}"] for x in ("least", "median", "most")]
    assert values == sorted(values)
    assert [row["policy"] for row in rows] == ["producers", "marked", "heuristic"]
    for row in rows:
        # One worker: nothing is moved; two fields and their product
        assert row["moved, real"] == row["moved, simulated"] == "0.0"
        for how in ("real", "simulated"):
            assert 3 * 2.1 <= float(row[f"peak, {how}"]) <= 60
