"""Measure what users run: the demo, and the example of staging in the docs.

``python -m continuous_integration.benchmarks.examples demo`` and ``... stage`` write
``docs/figures/demo.json`` and ``docs/figures/stage.json``. Neither may know of this
package, since the one is installed with the fork and the other is to be read.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from statistics import median

import click

from continuous_integration.benchmarks.matrix import POLICIES
from continuous_integration.figures import ROOT, SCHEDULER, write_figures
from distributed.rootish.demo import (
    SOURCES,
    ClusterSpec,
    DataSpec,
    Run,
    policy_title,
    run_demo,
)

MIB = 2**20


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure what users run, for the docs."""


@main.command()
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1))
def demo(repeats: int) -> None:
    """Run the demo as ``dask rootish demo`` does."""
    # As the command has it by default
    data, cluster = DataSpec(chunks=20), ClusterSpec()
    runs = [
        run
        for _ in range(repeats)
        for run in run_demo(data, cluster, list(SOURCES), POLICIES)
    ]
    write_figures(
        "demo",
        about=[*SCHEDULER, "distributed/rootish/demo.py"],
        note=f"{data}; {cluster}. Peak of managed memory / of process memory above "
        f"idle / data moved between the workers, in MiB; medians of {repeats}.",
        head=("source", *map(policy_title, POLICIES)),
        rows=table(runs),
    )


def table(runs: Iterable[Run]) -> list[list[str]]:
    """Return a row for each source of the demo, with a cell for each policy.

    Parameters
    ----------
    runs
        All of them, several of each.
    """
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.source, run.policy), []).append(run)
    return [
        [source, *(_cell(found[source, policy]) for policy in POLICIES)]
        for source in dict.fromkeys(source for source, _ in found)
    ]


def _cell(runs: Sequence[Run]) -> str:
    sizes = (
        median(getattr(run, what) for run in runs) / MIB
        for what in ("managed", "process", "moved")
    )
    return " / ".join(f"{size:.0f}" if size >= 20 else f"{size:.1f}" for size in sizes)


@main.command()
def stage() -> None:
    """Run ``docs/stage_example.py``, and keep what it prints and draws."""
    docs = ROOT / "docs"
    printed = subprocess.run(
        [sys.executable, "-B", "stage_example.py"],
        cwd=docs,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    (docs / "stage_example.txt").write_text(printed, encoding="utf-8", newline="\n")
    head, rows = measured(printed)
    picture = docs / "stage.png"
    write_figures(
        "stage",
        about=[*SCHEDULER, "docs/stage_example.py"],
        head=head,
        rows=rows,
        picture=picture,
    )
    picture.unlink()


def measured(printed: str) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of the table that the example ends with.

    Parameters
    ----------
    printed
        All that it printed.
    """
    head, *lines = printed.partition("[measured]\n")[2].strip("\n").split("\n")
    rows = [line.rsplit(maxsplit=3) for line in lines]
    return ["computation", *head.strip().split("  ")], rows


if __name__ == "__main__":
    main(prog_name="python -m continuous_integration.benchmarks.examples")
