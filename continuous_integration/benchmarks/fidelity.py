"""``benchmarks replay-check``: how close replays are to runs on real workers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from continuous_integration.benchmarks.ratchet import CLUSTERS, MB, Row, held
from continuous_integration.figures import SCHEDULER, figures_option, write_figures

#: A replay is close if its ratio to a real run is between these.
CLOSE = (0.8, 1.25)

#: Bytes are compared where so much is moved, in MB.
MUCH = 20

#: workload -> contender -> what was measured -> median, as ``compare`` writes it
Medians = Mapping[str, Mapping[str, Mapping[str, float]]]

#: What is compared: title -> name in a replay, name in a real run
METRICS = {"peak": ("peak", "peak_managed"), "moved": ("moved", "moved")}


def ratios(
    rows: list[Row], cluster: str, real: Medians
) -> Iterator[tuple[str, str, str, float, float]]:
    """Yield what was replayed and what was real.

    Parameters
    ----------
    rows
        What is held of replays.
    cluster
        On which both ran.
    real
        Medians of runs on real workers, of ``base`` and ``fork``.

    Yields
    ------
    tuple
        Workload, contender, title of what is compared, both in MB.
    """
    for row in rows:
        workload, contender = row["workload"], row["contender"]
        if row["cluster"] == cluster and contender in real.get(workload, ()):
            for title, (name, measured) in METRICS.items():
                seen = real[workload][contender][measured]
                if title != "moved" or max(seen, row[name] / MB) > MUCH:
                    yield workload, contender, title, row[name] / MB, seen


def _clusters(
    ctx: click.Context, param: click.Parameter, pairs: tuple[str, ...]
) -> dict[str, Medians]:
    found = {}
    for pair in pairs:
        cluster, _, path = pair.partition("=")
        if cluster not in CLUSTERS or not Path(path).is_file():
            raise click.BadParameter(f"{pair!r} is not CLUSTER=FILE, as 4x1=real.json")
        found[cluster] = json.loads(Path(path).read_text("utf-8"))["medians"]
    return found


@click.command("replay-check")
@click.argument("real", nargs=-1, required=True, callback=_clusters)
@figures_option()
def command(real: dict[str, Medians], figures: str | None) -> None:
    """Compare what is held of replays with runs on real workers.

    Each REAL is a cluster and what ``compare --processes`` has written (.json) of the
    same, with the contenders base and fork, such as 4x1=build/benchmarks/real.json.
    """
    rows = held()
    cells: dict[str, dict[str, str]] = {}
    seen: dict[str, list[bool]] = {title: [] for title in METRICS}
    for cluster, medians in real.items():
        for workload, contender, title, played, measured in ratios(
            rows, cluster, medians
        ):
            ratio = played / max(measured, 1e-3)
            seen[title].append(CLOSE[0] <= ratio <= CLOSE[1])
            column = f"{title}, {cluster}, {contender}"
            cells.setdefault(workload, {})[column] = (
                f"{measured:.3g} → {played:.3g} ({ratio:.2f})"
            )
    columns = [
        f"{title}, {cluster}, {contender}"
        for cluster in real
        for title in METRICS
        for contender in ("base", "fork")
    ]
    table = [
        [workload, *(found.get(column, "") for column in columns)]
        for workload, found in cells.items()
    ]
    for line in table:
        click.echo(" | ".join(line))
    values: dict[str, str | int | float] = {
        title: f"{sum(many) / len(many):.0%}" for title, many in seen.items() if many
    }
    for title, share in values.items():
        click.echo(f"{title}: {share} within {CLOSE[0]} to {CLOSE[1]} times the real")
    if figures:
        write_figures(
            figures,
            about=[*SCHEDULER, "distributed/rootish/simulation.py"],
            note="Real → replayed (ratio), in MB; bytes where more than "
            f"{MUCH} MB are moved.",
            values=values,
            head=["workload", *columns],
            rows=table,
        )
