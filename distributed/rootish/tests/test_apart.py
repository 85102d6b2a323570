from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from dask._task_spec import Alias, DataNode, Task
from dask.delayed import delayed

from distributed.rootish import apart, explain
from distributed.rootish.apart import Apart, Bare
from distributed.rootish.explanation import Explanation
from distributed.rootish.policy import is_small_data
from distributed.rootish.prediction import few_collections
from distributed.rootish.tests.utils import SATURATION

#: Four workers with one thread each
CLUSTER = {"nworkers": 4, "nthreads": 1}


@pytest.fixture(autouse=True)
def all_apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take every graph for a large one, and this machine for one with two cores."""
    monkeypatch.setattr(apart, "LEAST", 0)
    monkeypatch.setattr(apart, "CPU_COUNT", 2)
    with dask.config.set(SATURATION):
        yield


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Remember the processes that were started."""
    started: list[Any] = []
    begin = Apart.__init__

    def note(self: Apart) -> None:
        begin(self)
        if self._process is not None:
            started.append(self._process)

    monkeypatch.setattr(Apart, "__init__", note)
    return started


def has_ended(process: Any) -> bool:
    """Whether a process has ended, and somebody has taken note of it."""
    process.wait(30)
    return process.stdin.closed or process.stdin is None


def graph() -> da.Array:
    x = da.random.default_rng(1).random((80, 256, 512), chunks=(1, 256, 512))
    return x.sum() + x.max()


def peaks(explanation: Explanation) -> dict[str, int]:
    assert explanation.prediction is not None, explanation.notes
    policies = explanation.prediction.policies
    return {policy: played.peak for policy, played in policies.items()}


def test_same_as_here(monkeypatch: pytest.MonkeyPatch, ended: list[Any]) -> None:
    """Settings go with the graph, too: this one decides what is held back."""
    x = graph()
    there = peaks(explain(x, **CLUSTER))
    assert len(ended) == 1
    assert ended[0].returncode == 0
    assert list(there) == ["producers", "marked"]
    # Where two tasks are as urgent, either may be first
    assert peaks(explain(x, **CLUSTER)) == pytest.approx(there, rel=0.01)
    assert len(ended) == 2
    with dask.config.set({"distributed.scheduler.worker-saturation": "inf"}):
        assert peaks(explain(x, **CLUSTER))["marked"] > 1.2 * there["marked"]
    monkeypatch.setattr(apart, "LEAST", 1_000_000)
    # Ties may be broken differently
    assert peaks(explain(x, **CLUSTER)) == pytest.approx(there, rel=0.5)
    assert len(ended) == 3


def test_small_graphs_are_played_here(
    monkeypatch: pytest.MonkeyPatch, ended: list[Any]
) -> None:
    monkeypatch.setattr(apart, "LEAST", 1_000)
    peaks(explain(graph(), **CLUSTER))
    assert not ended


def test_one_core(monkeypatch: pytest.MonkeyPatch, ended: list[Any]) -> None:
    """There, two processes would only get in each other's way."""
    monkeypatch.setattr(apart, "CPU_COUNT", 1)
    assert len(peaks(explain(graph(), **CLUSTER))) == 2
    assert not ended


@pytest.mark.parametrize("program", ["no/such/python", None, "", "fails"])
def test_without_an_answer(
    monkeypatch: pytest.MonkeyPatch, program: str | None
) -> None:
    """Python may be part of something else, or the environment a strange one."""
    if program == "fails":
        monkeypatch.setattr(apart, "_PROGRAM", "print('a banner')")
    else:
        monkeypatch.setattr(sys, "executable", program)
    assert list(peaks(explain(graph(), **CLUSTER))) == ["producers", "marked"]


class Unknown:
    """A key, or a part of it, that another process cannot have."""

    def __reduce__(self) -> Any:
        raise TypeError("somebody has forbidden this")

    def __repr__(self) -> str:
        return "<unknown>"


def test_what_cannot_be_sent(ended: list[Any]) -> None:
    x = graph()
    with dask.config.set({"unknown": Unknown()}):
        assert len(peaks(explain(x, **CLUSTER))) == 2
    assert len(ended) == 1
    assert has_ended(ended[0])


def test_functions_and_data_stay_here(ended: list[Any]) -> None:
    values = delayed(sum)([delayed(Unknown)() for _ in range(5)])
    there = peaks(explain(values, **CLUSTER))
    assert len(there) == 2
    assert ended[0].returncode == 0


def test_gives_up_with_who_asks(
    monkeypatch: pytest.MonkeyPatch, ended: list[Any]
) -> None:
    """A process that hangs ends when there is no time left."""
    monkeypatch.setattr(apart, "_PROGRAM", "import time; time.sleep(1000)")
    explanation = explain(graph(), timeout="3s", **CLUSTER)
    assert list(peaks(explanation)) == ["producers"]
    assert explanation.prediction is not None
    assert "marked: not predicted for want of time" in explanation.prediction.notes[-1]
    assert has_ended(ended[0])


def test_errors_end_it(monkeypatch: pytest.MonkeyPatch, ended: list[Any]) -> None:
    def fail(*args: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("distributed.rootish.prediction._durations", fail)
    monkeypatch.setattr(apart, "_PROGRAM", "import time; time.sleep(1000)")
    with pytest.raises(ZeroDivisionError):
        explain(graph(), **CLUSTER)
    assert has_ended(ended[0])


def test_simulations_that_fail_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        apart,
        "_PROGRAM",
        apart._PROGRAM.replace(
            "main(",
            "from distributed.rootish import prediction, simulation\n"
            "def play(*args):\n"
            "    raise simulation.SimulationError('it stands still')\n"
            "prediction.play = play\nmain(",
        ),
    )
    explanation = explain(graph(), **CLUSTER)
    assert list(peaks(explanation)) == ["producers"]
    assert explanation.prediction is not None
    assert "marked: not predicted, it stands still" in explanation.prediction.notes


def test_packed() -> None:
    class Handle:
        pass

    tasks = {
        "data": DataNode("data", np.ones(2**13)),
        "text": DataNode("text", "a path"),
        "load": Task("load", len, Alias("text"), _data_producer=True),
        "sum": Task("sum", sum, Alias("load"), Alias("data")),
    }
    packed = apart._pack(tasks).unpack()
    assert list(packed) == list(tasks)
    for key, node in tasks.items():
        other = packed[key]
        assert other.key == key
        assert other.dependencies == node.dependencies
        assert other.data_producer == node.data_producer
        assert is_small_data(other) == is_small_data(node)
    assert isinstance(packed["sum"], Bare)
    for key in ("data", "text"):
        assert isinstance(packed[key], DataNode)
        assert packed[key].value is not tasks[key].value


def test_few_collections() -> None:
    """From several threads at once; the one that began first does not end last."""
    before = gc.get_threshold()
    begun, go_on = threading.Event(), threading.Event()

    def other() -> None:
        with few_collections:
            begun.set()
            go_on.wait(30)

    thread = threading.Thread(target=other)
    with few_collections:
        assert gc.get_threshold()[2] > 100_000
        thread.start()
        assert begun.wait(30)
    assert gc.get_threshold()[2] > 100_000
    go_on.set()
    thread.join()
    assert gc.get_threshold() == before


def test_few_collections_while_predicting(monkeypatch: pytest.MonkeyPatch) -> None:
    before = gc.get_threshold()
    seen = []
    monkeypatch.setattr(
        "distributed.rootish.explanation._array_sizes",
        lambda graphs: seen.append(gc.get_threshold()) or {},
    )
    explain(graph(), **CLUSTER)
    assert seen[0] != before
    assert gc.get_threshold() == before


def test_collections_that_somebody_has_set_meanwhile() -> None:
    before = gc.get_threshold()
    try:
        with few_collections:
            gc.set_threshold(10, 20, 30)
        assert gc.get_threshold() == (10, 20, 30)
    finally:
        gc.set_threshold(*before)
