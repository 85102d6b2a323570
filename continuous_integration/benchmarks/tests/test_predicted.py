from __future__ import annotations

from pathlib import Path
from typing import Any

import cloudpickle
import dask.array as da
import pytest
from click.testing import CliRunner
from dask._expr import FinalizeCompute
from dask.base import collections_to_expr

# Registers its workloads
from continuous_integration.benchmarks import (
    computations,  # noqa: F401
    predicted,
)
from continuous_integration.benchmarks.predicted import Run
from continuous_integration.benchmarks.workloads import Unavailable


def graph() -> bytes:
    """Eight chunks of 1 MiB, as they are submitted."""
    x = da.ones((8, 512, 256), chunks=(1, 512, 256)).map_blocks(abs)
    expr = FinalizeCompute(collections_to_expr([x - x.mean(axis=0)])).optimize()
    dumped: bytes = cloudpickle.dumps(expr)
    return dumped


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """Pretend to run workloads, and note which."""
    asked = []
    submitted = graph()

    def pretend(workload: Any, cluster: str, policy: str, *args: Any) -> Run:
        if workload.name == "zarr-4":
            raise Unavailable("there is no zarr")
        asked.append((workload.name, cluster, policy))
        if workload.name == "splits":
            return Run([1.0], None, {})
        peak = 16.0 if policy == "producers" else 1.0
        return Run([peak], submitted, {}, [("tcp://192.0.2.2:1", "one", {"GPU": 1})])

    monkeypatch.setattr(predicted, "run", pretend)
    return asked


def test_policies(
    run: list[tuple[str, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: dict[str, Any] = {}
    monkeypatch.setattr(
        predicted, "write_figures", lambda name, **kwargs: written.update(kwargs)
    )
    args = ["squares", "splits", "zarr-4", "--cluster", "4x1", "--runs", str(tmp_path)]
    result = CliRunner().invoke(predicted.command, [*args, "--figures", "predicted"])
    assert result.exit_code == 0, result.output
    assert run == [
        (name, "4x1", policy)
        for name in ("squares", "splits")
        for policy in ("producers", "marked")
    ]
    assert "producers: 1 of 1 are close" in result.output
    assert "marked: 0 of 1 are close" in result.output
    assert "more than one graph" in result.output
    assert written["head"] == ["workload", "producers, 4x1", "marked, 4x1"]
    [[name, ours, base]] = written["rows"]
    assert name == "squares"
    assert ours.startswith("16 → ")
    assert base.startswith("1 → ")
    assert written["values"] == {
        **{"close": "100%", "known": 1, "all": 1},
        **{"close.marked": "0%", "known.marked": 1, "all.marked": 1},
    }
    # What was measured is not measured again
    CliRunner().invoke(predicted.command, [*args, "--policy", "marked"])
    assert len(run) == 4


def test_all(run: list[tuple[str, str, str]], tmp_path: Path) -> None:
    """Without names all of them, in whatever format their files are."""
    runner = CliRunner()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predicted, "predict", lambda *args: "not predicted")
        result = runner.invoke(predicted.command, ["--runs", str(tmp_path)])
    assert result.exit_code == 0, result.output
    workloads = {name for name, *_ in run}
    assert workloads >= {"squares", "anomaly-netcdf", "anomaly-zarr", "netcdf-8"}
    assert len(run) == 4 * len(workloads)


def test_predicts_for_the_workers_that_it_ran_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from distributed.rootish import explanation

    asked = []
    original = explanation.Question.__init__

    def note(self: Any, collections: Any, workers: Any, options: Any) -> None:
        asked.append(workers)
        original(self, collections, workers, options)

    monkeypatch.setattr(explanation.Question, "__init__", note)
    facts = ("tcp://192.0.2.2:1", "one", {"GPU": 1.0})
    row = predicted.predict("x", "1x3", "marked", Run([8.0], graph(), {}, [facts]))
    assert not isinstance(row, str)
    assert row.known
    [[worker]] = asked
    assert (worker.nthreads, worker.names) == (3, ("tcp://192.0.2.2:1", "one"))
    assert worker.resources == {"GPU": 1.0}
    # Runs of before tell nothing of them
    predicted.predict("x", "2x3", "marked", Run([8.0], graph(), {}))
    assert len(asked[1]) == 2
