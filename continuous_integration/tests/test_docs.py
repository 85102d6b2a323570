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
FOUR = ("--nworkers", "4", "--nthreads", "1")


@pytest.mark.parametrize(
    ("command", "output"),
    [
        (
            (*EXPLAIN, "explain_example:mean", *FOUR, "--no-predict"),
            "explain_example.txt",
        ),
        (
            (*EXPLAIN, "restricted_example:all_days", *CLUSTER, "--no-predict"),
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


def test_prediction() -> None:
    """The order of sets, and with it what is moved, is another each time."""
    command = (*EXPLAIN, "predict_example:squares", *FOUR, "--memory", "64MiB")
    printed = run(sys.executable, "-B", *command, cwd=DOCS)
    page = (DOCS / "predict_example.txt").read_text(encoding="utf-8")
    for policy in ("producers", "marked"):
        peaks = [
            float(found[1])
            for text in (printed, page)
            if (found := re.search(rf"^{policy}.*? ([\d.]+) MiB .* no$", text, re.M))
        ]
        assert len(peaks) == 2
        assert peaks[0] == pytest.approx(peaks[1], rel=0.25)
    why = r"random_sample +mean_chunk waits for mean_agg-aggregate"
    assert re.search(why, printed)
    assert re.search(why, page)


def without_hashes(text: str) -> str:
    """Return a text without what is different whenever a graph is made."""
    return re.sub(r"-[0-9a-f]{32}", "", text)
