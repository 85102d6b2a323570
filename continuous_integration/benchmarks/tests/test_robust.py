"""The command that replays recordings which are varied."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
from click.testing import CliRunner

from continuous_integration.benchmarks import recordings, robust
from continuous_integration.benchmarks.robust import (
    HEAD,
    jitter,
    lines,
    mixed,
    slower,
    varied,
)

NAME = "demo-zarr"


@pytest.mark.parametrize(
    ("vary", "field"), [(slower, "seconds"), (jitter, "seconds"), (mixed, "nbytes")]
)
def test_one_thing_varies(vary: robust.Vary, field: str) -> None:
    """In the same way each time, and not in the same way for all tasks."""
    recording = recordings.read(NAME)
    found = varied(recording, vary)
    assert found == varied(recording, vary) != recording
    factors = []
    for key, before in recording.outputs.items():
        after = found.outputs[key]
        assert before._replace(**{field: getattr(after, field)}) == after
        if getattr(before, field) > 100 or field == "seconds":
            factors.append(getattr(after, field) / getattr(before, field))
    if vary is slower:
        assert factors == pytest.approx([10] * len(factors))
    else:
        assert len({round(factor, 1) for factor in factors}) > 4
        assert 0.7 < statistics.median(factors) < 1.4


def test_lines() -> None:
    """Means and what is worse, of each cluster for itself."""

    def row(workload: str, cluster: str, peak: float) -> dict[str, Any]:
        place = {"workload": workload, "cluster": cluster}
        return place | {"peak": peak, "moved": 1e6, "makespan": 2}

    base = [row(name, "4x1", 1e6) for name in "abc"] + [row("a", "2x2", 1e6)]
    rows = [row("a", "4x1", 1e6), row("b", "4x1", 2e6), row("c", "4x1", 0.5e6)]
    rows.append(row("a", "2x2", 0.9e6))
    assert list(lines(rows, base, ["2x2", "4x1"])) == [
        ("2x2", "0.900", "1.000", "1.000", "0 of 1", "a 0.90"),
        ("4x1", "1.000", "1.000", "1.000", "1 of 3", "b 2.00"),
    ]


def test_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is varied is replayed, with the release and the fork."""
    some: dict[str, tuple[robust.Vary | None, tuple[str, ...]]]
    some = {"jitter": (jitter, ("1x4",))}
    some["as recorded"] = (None, ("1x4", "2x2"))
    monkeypatch.setattr(robust, "VARIATIONS", some)
    result = CliRunner().invoke(robust.command, [NAME], catch_exceptions=False)
    head, *found = result.output.splitlines()
    assert head.split()[:3] == [*HEAD[:2], "peak"]
    assert [line.split()[0] for line in found] == ["jitter", "as", "as"]
    # Time differs where it is varied, and memory is bounded all the same
    times = [line.split()[-6] for line in found[:2]]
    assert times[0] != times[1]
    assert all(NAME in line for line in found)
