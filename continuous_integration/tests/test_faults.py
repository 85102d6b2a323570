"""Real faults on real processes, each scenario once, and that they can fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from continuous_integration.faults import __main__, storage
from continuous_integration.faults.run import (
    Fault,
    Outcome,
    Peak,
    Run,
    Scenario,
    Setting,
    observe,
)
from continuous_integration.faults.scenarios import (
    SCENARIOS,
    reference,
)
from continuous_integration.faults.storage import CHUNKS, Calm, Chunk, Notes
from distributed.cluster_dump import DumpArtefact


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    data = tmp_path_factory.mktemp("data")
    storage.write(data)
    return Setting(data)


@pytest.fixture(scope="module")
def expected(setting: Setting) -> Any:
    return reference(setting)


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name: str, setting: Setting, expected: Any) -> None:
    outcome = observe(SCENARIOS[name], setting, expected)
    assert not outcome.complaints
    assert not outcome.wrong
    assert not outcome.unended
    assert 0 < outcome.peak.nbytes <= outcome.peak.bound


# That what is wrong is seen


def played(play: Any, setting: Setting, expected: Any, **must: int) -> Outcome:
    return observe(Scenario("tried", play, must), setting, expected)


def test_wrong_result(setting: Setting) -> None:
    expected = storage.true_result(setting.data)

    def swapped(run: Run) -> Any:
        result = expected.copy()
        result[[3, 4]] = result[[4, 3]]
        return result

    outcome = played(swapped, setting, expected)
    assert outcome.wrong
    [complaint] = outcome.complaints
    assert complaint == (
        f"wrong result: 2 of {CHUNKS + 1} numbers, the first {expected[4]} "
        f"instead of {expected[3]}"
    )
    outcome = played(lambda run: expected[1:], setting, expected)
    assert outcome.wrong
    assert "of shape (96,) instead of (97,)" in outcome.complaints[0]


def test_undisturbed_run_that_is_wrong(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = storage.true_result(setting.data)
    monkeypatch.setattr(storage, "true_result", lambda folder: result + 1)
    with pytest.raises(Fault, match="undisturbed run is wrong"):
        reference(setting)


def test_fault_that_does_not_happen(setting: Setting) -> None:
    """Nobody is killed, and all is well; that is not what was to be tried."""
    expected = storage.true_result(setting.data)

    def calm(run: Run) -> Any:
        run.seen["killed"] += 1
        return expected

    outcome = played(calm, setting, expected, killed=2)
    assert not outcome.wrong
    assert outcome.complaints == ("not seen: killed: 1 times instead of 2",)


def test_run_that_does_not_end(setting: Setting, tmp_path: Path) -> None:
    """The error of a run that hangs says where its tasks are, and more is dumped."""

    def hangs(run: Run) -> Any:
        with run.cluster(workers=1, threads=1):
            run.submit(storage.Stages(run.notes, (0,)))
            return run.result()

    dumps = tmp_path / "dumps"
    outcome = played(hangs, replace(setting, timeout=4, dumps=dumps), None)
    assert outcome.unended
    [complaint] = outcome.complaints
    assert complaint.startswith("did not end: waited for the result; tasks: ")
    assert " queued" in complaint
    [file] = dumps.iterdir()
    assert complaint.endswith(f"workers: 1 running; dump: {file.name}")
    state = DumpArtefact.from_url(str(file))
    [running] = state.worker_tasks_in_state("executing")
    assert running["key"][0].startswith("chunk-")


def test_memory_above_the_bound(setting: Setting, expected: Any) -> None:
    """A rule that takes nothing for root-ish loads all of it."""
    outcome = observe(
        SCENARIOS["undisturbed"], replace(setting, policy="heuristic"), expected
    )
    assert not outcome.wrong
    assert outcome.peak.nbytes > outcome.peak.bound
    assert outcome.complaints == (
        f"memory: {outcome.peak.nbytes:,} bytes, at most {outcome.peak.bound:,}",
    )


def test_what_ends_too_early(setting: Setting) -> None:
    def expects(run: Run) -> Any:
        with run.cluster(workers=1, threads=1):
            run.submit(Calm(run.notes))
            run.until("a kill", lambda: run.recorder.removed)

    outcome = played(expects, setting, None)
    assert not outcome.unended
    assert outcome.complaints == ("the computation ended before a kill",)


def test_result_that_is_an_error(setting: Setting) -> None:
    def fails(run: Run) -> Any:
        with run.cluster(workers=1, threads=1):
            run.submit(storage.Fails(run.notes, {Chunk(3, 5): 1}))
            return run.result()

    [complaint] = played(fails, setting, None).complaints
    file = setting.data / "03.zarr" / "c/5/0/0"
    assert complaint.startswith("the result is an error: OSError: [Errno ")
    assert complaint.endswith(f": '{file}'")


# Parts


def test_notes(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    assert [notes.write("read", Chunk(1, 2)) for _ in range(3)] == [0, 1, 2]
    assert notes.write("read", Chunk(1, 3)) == 0
    assert len(notes.pids("read", Chunk(1, 2))) == 3
    assert notes.pids("written") == []
    # To write it again would empty the note
    assert not list(tmp_path.glob("draft*"))


def test_chunk() -> None:
    for number in range(CHUNKS):
        chunk = Chunk.numbered(number)
        assert Chunk.of(chunk.key) == chunk
    assert Chunk.numbered(CHUNKS - 1) == (storage.FILES - 1, storage.STEPS - 1)


def outcome(**fields: Any) -> Outcome:
    well: Mapping[str, Any] = {
        "scenario": "tried",
        "wrong": False,
        "unended": False,
        "complaints": (),
        "peak": Peak(storage.CHUNK_NBYTES, 4 * storage.CHUNK_NBYTES),
        "seen": Counter({"killed": 2}),
    }
    return Outcome(**{**well, **fields})


def test_row() -> None:
    """A row has the peak that is nearest to its bound, not the largest."""
    peak = Peak(2 * storage.CHUNK_NBYTES, 16 * storage.CHUNK_NBYTES)
    cells = __main__.row(
        [
            outcome(wrong=True),
            outcome(unended=True, peak=peak),
            outcome(unended=True, peak=Peak(0, 0), seen=Counter()),
        ]
    )
    assert cells == [
        *("tried", "3", "1", "2"),
        "131,072 of 524,288 (1.0 of 4.0 chunks)",
        "killed: 4",
    ]


def test_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It fails if anything is wrong, in a line for each complaint."""
    outcomes = [outcome(), outcome(wrong=True, complaints=("wrong result: x",))]

    def invoke(*arguments: str, code: int) -> str:
        left = iter(outcomes)
        monkeypatch.setattr(__main__, "reference", lambda setting: np.ones(1))
        monkeypatch.setattr(__main__, "observe", lambda *args: next(left))
        result = CliRunner().invoke(__main__.main, arguments)
        assert result.exit_code == code, result.output
        return result.output

    assert "undisturbed" in invoke("--help", code=0)
    table = tmp_path / "table.csv"
    written = {}
    monkeypatch.setattr(
        __main__, "write_figures", lambda name, **fields: written.update({name: fields})
    )
    text = invoke("killed-all", "--output", str(table), "--figures", "bad", code=0)
    assert written["bad"]["rows"] == [__main__.row(outcomes[:1])]
    assert text.splitlines()[1].split()[:4] == ["tried", "1", "0", "0"]
    assert table.read_text(encoding="utf-8").startswith("scenario,runs,wrong,")
    text = invoke("killed-all", "--runs", "2", code=1)
    assert text.startswith("killed-all, run 2: wrong result: x\nscenario")
    assert "there is no scenario 'killed'; there are " in invoke("killed", code=2)
