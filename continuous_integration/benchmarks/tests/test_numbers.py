"""The command that replays with half and double of each number."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from continuous_integration.benchmarks import numbers, ratchet
from continuous_integration.benchmarks.numbers import (
    MODULE,
    means,
    variants,
)
from continuous_integration.benchmarks.ours import REPOSITORY

SOURCE = """
A = 2
B = 2**20
C = 0.2
DEFAULT_COUNT = 5
TOPIC = "rootish"
small = 1
D = len("x")
"""


def test_numbers_of_the_decision() -> None:
    """There are few of them, and all are found."""
    source = (REPOSITORY / MODULE).read_text(encoding="utf-8")
    found = {name for name, _, _ in variants(source)}
    assert "OUTPUT_PART" in found
    assert len(found) < 8


def test_change() -> None:
    *_, (_, _, text) = variants(SOURCE)
    changed = SOURCE.replace("C = 0.2", "C = 0.4")
    # But for brackets
    assert ast.unparse(ast.parse(text)) == ast.unparse(ast.parse(changed))


def test_variants() -> None:
    found = [(name, value) for name, value, _ in variants(SOURCE)]
    assert found == [
        *[("A", 1), ("A", 4), ("B", 2**19), ("B", 2**21), ("C", 0.1), ("C", 0.4)]
    ]


def test_means() -> None:
    place = {"workload": "w", "cluster": "4x1", "makespan": 1, "moved": 1e6}
    base = [place | {"peak": 1e6}, place | {"workload": "v", "peak": 4e6}]
    rows = [place | {"peak": 2e6}, place | {"workload": "v", "peak": 2e6}]
    assert list(means(rows, base)) == ["1.000", "", "1.000", "", "1.000", ""]


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All numbers as they are come first, then half and double of each."""
    seen = []

    def replay_once(contender: Any, names: Any, clusters: Any) -> list[ratchet.Row]:
        source = (contender.tree / MODULE).read_text(encoding="utf-8")
        seen.append(source)
        row = dict.fromkeys(numbers.METRICS, 1e6)
        return [row | {"workload": "w", "cluster": "4x1"}]

    class Made:
        def __enter__(self) -> list[ratchet.Contender]:
            fork = ratchet.Contender("fork", REPOSITORY)
            return [fork, ratchet.Contender("fork", self.tree)]

        def __init__(self, tree: Any) -> None:
            self.tree = tree

        def __exit__(self, *args: object) -> None: ...

    (tmp_path / MODULE).parent.mkdir(parents=True)
    monkeypatch.setattr(ratchet, "replay_once", replay_once)
    monkeypatch.setattr(ratchet, "made", lambda names: Made(tmp_path))
    result = CliRunner().invoke(numbers.command, ["w"], catch_exceptions=False)
    lines = result.output.splitlines()
    names = {name for name, _, _ in variants(seen[0])}
    assert len(lines) == 1 + 1 + 2 * len(names)
    assert seen[1] == seen[0]
    assert lines[1].startswith("as they are")
    assert all(found != seen[0] for found in seen[2:])
