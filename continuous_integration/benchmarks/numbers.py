"""``benchmarks numbers``: what half and double of each number do.

The recordings are replayed with each number changed, and with all numbers as they are.
A number is a constant of the modules that decide and queue.
"""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from continuous_integration.benchmarks import ratchet, recordings
from continuous_integration.benchmarks.ours import REPOSITORY
from continuous_integration.figures import SCHEDULER, figures_option, write_figures
from continuous_integration.mutants.modules import DEFAULT
from continuous_integration.mutants.mutate import mutants

#: Where the numbers are: in what decides and queues, without its callers in the base
MODULES = tuple(path for path in map(Path, DEFAULT) if path.parent.name == "rootish")

#: What is no number of ours but a default of the release
NOT_OURS = frozenset({"DEFAULT_COUNT"})

#: Clusters of the replays
CLUSTERS = ("4x1", "2x2")

#: Metric -> what is too little to count: see :data:`ratchet.HELD`
METRICS = {"peak": 1e4, "moved": 1e4, "makespan": 0.01}

HEAD = (
    *("number", "value"),
    *(f"{metric}, {cluster}" for metric in METRICS for cluster in CLUSTERS),
)


def variants(source: str) -> Iterator[tuple[str, float, str]]:
    """Yield name, value and the text of the module, for half and double of each.

    Parameters
    ----------
    source
        The text of the module as it is.
    """
    for mutant in mutants("", source):
        name = mutant.constant
        if name and name not in NOT_OURS:
            yield name, ast.literal_eval(mutant.text), mutant.apply(source)


def means(rows: Sequence[ratchet.Row], base: Sequence[ratchet.Row]) -> Iterator[str]:
    """Yield the geometric means of what came out against the release.

    Parameters
    ----------
    rows, base
        What came out, and for the release.
    """
    for metric in METRICS:
        for cluster in CLUSTERS:
            yield mean(rows, base, metric, cluster)


def mean(
    rows: Sequence[ratchet.Row], base: Sequence[ratchet.Row], metric: str, cluster: str
) -> str:
    """Return the geometric mean of what came out on a cluster against the release.

    Parameters
    ----------
    rows, base
        What came out, and for the release.
    metric
        One of :data:`METRICS`.
    cluster
        Number of workers, and of threads on each.

    Returns
    -------
    str
        Empty if there was too little of it for the release.
    """
    little = METRICS[metric]
    before = {
        row["workload"]: row[metric]
        for row in base
        if row["cluster"] == cluster and row[metric] > little
    }
    ratios = [
        max(row[metric], little) / before[row["workload"]]
        for row in rows
        if row["cluster"] == cluster and row["workload"] in before
    ]
    return f"{statistics.geometric_mean(ratios):.3f}" if ratios else ""


def write_means(
    figures: str, module: str, head: Sequence[str], rows: Sequence[tuple[str, ...]]
) -> None:
    """Write a table of geometric means for the docs.

    Parameters
    ----------
    figures
        Name of the file.
    module
        Name of the module beside this one that has made the table.
    head, rows
        The table.
    """
    write_figures(
        figures,
        about=[*SCHEDULER, f"continuous_integration/benchmarks/{module}"],
        note="Geometric means over all recordings, the fork's result divided by the "
        "release's.",
        head=head,
        rows=rows,
    )


@click.command("numbers")
@click.argument("names", nargs=-1, metavar="[RECORDING]...")
@figures_option()
def command(names: tuple[str, ...], figures: str | None) -> None:
    """Replay with half and double of each number of decision and queue.

    Without recordings all of them. Prints geometric means against the release.
    """
    names = names or tuple(recordings.names(recordings.FOLDER))
    template = "{:20} {:>12}" + " {:>13}" * (len(HEAD) - 2)
    click.echo(template.format(*HEAD))
    table: list[tuple[str, ...]] = []
    with ratchet.made(["base", "fork"]) as (base, fork):
        released = ratchet.replay_once(base, names, CLUSTERS)

        def replay(name: str, value: object = "") -> None:
            rows = ratchet.replay_once(fork, names, CLUSTERS)
            line = (name, str(value), *means(rows, released))
            click.echo(template.format(*line))
            table.append(line)

        replay("as they are")
        for module in MODULES:
            source = (REPOSITORY / module).read_text(encoding="utf-8")
            for name, value, text in variants(source):
                (fork.tree / module).write_text(text, encoding="utf-8")
                replay(name, value)
            (fork.tree / module).write_text(source, encoding="utf-8")
    if figures:
        write_means(figures, "numbers.py", HEAD, table)
