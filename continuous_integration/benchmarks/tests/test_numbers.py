"""The command that replays with half and double of each number."""

from __future__ import annotations

import ast
import operator
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from continuous_integration.benchmarks import numbers, ratchet
from continuous_integration.benchmarks.numbers import (
    MODULES,
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


def numbers_of(folder: Path) -> list[str]:
    """Return the names of all numbers."""
    found: list[str] = []
    for module in MODULES:
        source = (folder / module).read_text(encoding="utf-8")
        found += dict.fromkeys(name for name, _, _ in variants(source))
    return found


def test_numbers_of_decision_and_queue() -> None:
    """There are few of them, and all are found."""
    found = numbers_of(REPOSITORY)
    assert {"SMALL_PART", "FAMILY_OUTPUT", "LOOKED_AT"} < {*found}
    assert len(found) <= 6


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
        seen.append(
            [(contender.tree / module).read_text("utf-8") for module in MODULES]
        )
        row = dict.fromkeys(numbers.METRICS, 1e6)
        return [row | {"workload": "w", "cluster": "4x1"}]

    class Made:
        def __enter__(self) -> list[ratchet.Contender]:
            fork = ratchet.Contender("fork", REPOSITORY)
            return [fork, ratchet.Contender("fork", self.tree)]

        def __init__(self, tree: Any) -> None:
            self.tree = tree

        def __exit__(self, *args: object) -> None: ...

    for module in MODULES:
        (tmp_path / module).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / module, tmp_path / module)
    monkeypatch.setattr(ratchet, "replay_once", replay_once)
    monkeypatch.setattr(ratchet, "made", lambda names: Made(tmp_path))
    result = CliRunner().invoke(numbers.command, ["w"], catch_exceptions=False)
    lines = result.output.splitlines()
    _, asis, *changed = seen
    assert len(lines) == 1 + 1 + 2 * len(numbers_of(REPOSITORY))
    assert asis == seen[0]
    assert lines[1].startswith("as they are")
    # One module at a time
    differ = [sum(map(operator.ne, found, asis)) for found in changed]
    assert differ == [1] * len(changed)
