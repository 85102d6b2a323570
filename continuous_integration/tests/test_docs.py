"""What the pages show is what the scripts beside them print."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

import pytest

from continuous_integration.tests.conftest import ROOT, run

DOCS = ROOT / "docs"
EXPLAIN = ("-m", "distributed.cli.dask_rootish", "explain")
CLUSTER = ("--nworkers", "2", "--nthreads", "2")


@pytest.mark.parametrize(
    ("command", "output"),
    [
        (
            (*EXPLAIN, "explain_example:mean", "--nworkers", "4", "--nthreads", "1"),
            "explain_example.txt",
        ),
        (
            (*EXPLAIN, "restricted_example:all_days", *CLUSTER),
            "restricted_explained.txt",
        ),
        (("settings_example.py",), "settings_example.txt"),
    ],
)
def test_output(command: Sequence[str], output: str) -> None:
    # Without bytecode, lest files appear among the pages
    printed = run(sys.executable, "-B", *command, cwd=DOCS)
    assert without_hashes(printed) == without_hashes(
        (DOCS / output).read_text(encoding="utf-8")
    )


def without_hashes(text: str) -> str:
    """Return a text without what is different whenever a graph is made."""
    return re.sub(r"-[0-9a-f]{32}", "", text)
