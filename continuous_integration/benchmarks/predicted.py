"""``benchmarks predicted``: how close predictions are to runs on real workers.

Each workload runs on a local cluster of processes. What it submits is caught on the way
to the scheduler, and predicted afterwards, so that both are of the same graph.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import click
import dask.array as da

from continuous_integration.benchmarks.measure import BUILD, measure
from continuous_integration.benchmarks.workloads import (
    WORKLOADS,
    Unavailable,
    Workload,
)
from continuous_integration.figures import SCHEDULER, figures_option, write_figures
from distributed import Client

#: A prediction is close if its ratio to a real run is between these.
CLOSE = (0.75, 1.33)

#: Workers and threads of each.
CLUSTERS = ("4x1", "2x2")

_MB = 1e6


def _days(steps: int) -> Any:
    import pandas as pd
    import xarray as xr

    shape = (steps, 400, 400)
    return xr.DataArray(
        da.random.random(shape, chunks=(10, 400, 400)),
        dims=("time", "y", "x"),
        coords={"time": pd.date_range("2000-01-01", periods=steps, freq="D")},
    )


def _squares(client: Client, folder: Path, prepared: None) -> Any:
    """Mean of the squares of anomalies, 640 MB."""
    x = _days(500)
    return float(((x - x.mean("time")) ** 2).mean().compute())


def _monthly(client: Client, folder: Path, prepared: None) -> Any:
    """Deviation of days from the means of their months."""
    x = _days(365)
    climatology = x.groupby("time.month").mean()
    return float((x.groupby("time.month") - climatology).std().compute())


OWN = {
    "squares": Workload("squares", _squares, modules=("xarray", "pandas")),
    "monthly": Workload("monthly", _monthly, modules=("xarray", "pandas")),
}


@dataclass(frozen=True)
class Row:
    """A workload on a cluster, predicted and measured.

    Attributes
    ----------
    workload, cluster : str
        Their names.
    predicted, measured : float
        Peak of managed memory in MB.
    known : bool
        Whether dask knew the sizes.
    assumed : list of str
        What it did not know, and how that was guessed.
    """

    workload: str
    cluster: str
    predicted: float
    measured: float
    known: bool
    assumed: list[str]

    @property
    def ratio(self) -> float:
        """Predicted to measured."""
        return self.predicted / max(self.measured, 1e-3)


def compare(workload: Workload, cluster: str, folder: Path, repeats: int) -> Row | None:
    """Run a workload and predict it.

    Parameters
    ----------
    workload
        What to run.
    cluster
        Name of the cluster, such as ``4x1``.
    folder
        Where its files are, or are to be written.
    repeats
        Number of runs; of what is measured the median counts.

    Returns
    -------
    Row or None
        None if it submits more than one graph.
    """
    from distributed.rootish.explanation import Options, Question
    from distributed.rootish.prediction import Worker

    workers, threads = map(int, cluster.split("x"))
    caught: list[Any] = []
    persisted: dict[Any, float] = {}

    def compute(client: Client, folder: Path, prepared: Any) -> Any:
        original = Client._graph_to_futures

        def submit(self: Client, expr: Any, *args: Any, **kwargs: Any) -> Any:
            caught.append(expr)
            return original(self, expr, *args, **kwargs)

        persisted.update(client.nbytes(summary=False))
        with mock.patch.object(Client, "_graph_to_futures", submit):
            return workload.compute(client, folder, prepared)

    peaks = []
    for _ in range(repeats):
        caught.clear()
        persisted.clear()
        measured = measure(
            replace(workload, compute=compute),
            folder,
            workers=workers,
            threads=threads,
            processes=True,
        )
        peaks.append(measured.peak_managed)
        if len(caught) != 1:
            return None
    question = Question([], [Worker(threads)] * workers, Options(predict=True))
    question.take(caught[0])
    question.persisted = persisted
    prediction = question.answer().prediction
    if prediction is None:
        return None
    return Row(
        workload.name,
        cluster,
        prediction.policies["producers"].peak / _MB,
        statistics.median(peaks),
        prediction.known,
        [
            f"{one.prefix}: {one.nbytes:.0f} B x {one.tasks}, {one.why}"
            for one in prediction.assumptions
        ],
    )


@click.command("predicted")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--cluster", "clusters", multiple=True, default=CLUSTERS)
@click.option("--repeats", default=1, show_default=True, type=click.IntRange(1))
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=BUILD / "data",
    help="Where the files of the workloads are.  [default: build/benchmarks/data]",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=BUILD / "predicted.jsonl",
    help="What was found; it is not measured again.  "
    "[default: build/benchmarks/predicted.jsonl]",
)
@figures_option()
def command(
    names: tuple[str, ...],
    clusters: tuple[str, ...],
    repeats: int,
    folder: Path,
    output: Path,
    figures: str | None,
) -> None:
    """Compare predicted peaks with those of runs on real workers.

    Without names all workloads.
    """
    workloads = {**OWN, **WORKLOADS}
    if unknown := [name for name in names if name not in workloads]:
        raise click.BadParameter(f"no workload {', '.join(unknown)}")
    output.parent.mkdir(parents=True, exist_ok=True)
    done: dict[tuple[str, str], Row | None] = {}
    if output.exists():
        for line in output.read_text("utf-8").splitlines():
            record = json.loads(line)
            key = record["workload"], record["cluster"]
            done[key] = Row(**record) if "predicted" in record else None
    with output.open("a", encoding="utf-8") as file:
        for name in names or workloads:
            for cluster in clusters:
                if (name, cluster) in done:
                    continue
                try:
                    row = compare(workloads[name], cluster, folder, repeats)
                except Unavailable as error:
                    click.echo(f"skipped: {error}", err=True)
                    continue
                done[name, cluster] = row
                record = {"workload": name, "cluster": cluster}
                if row is None:
                    click.echo(f"{name}: more than one graph")
                else:
                    record = dict(vars(row))
                    click.echo(_line(row))
                file.write(json.dumps(record) + "\n")
                file.flush()
    rows = [
        row
        for (name, cluster), row in done.items()
        if row and cluster in clusters and (not names or name in names)
    ]
    known = [row for row in rows if row.known]
    close = [row for row in known if CLOSE[0] <= row.ratio <= CLOSE[1]]
    click.echo(f"{len(close)} of {len(known)} are close, where sizes are known")
    if figures:
        share = f"{len(close) / max(len(known), 1):.0%}"
        write_figures(
            figures,
            about=[
                *SCHEDULER,
                *(
                    f"distributed/rootish/{name}.py"
                    for name in ("prediction", "simulation", "sizes")
                ),
            ],
            note="Managed memory at its peak, in MB: measured → predicted (ratio). "
            "Sizes of those in brackets are not all known.",
            values={"close": share, "known": len(known), "all": len(rows)},
            head=["workload", *clusters],
            rows=[
                [name, *(_cell(done.get((name, cluster))) for cluster in clusters)]
                for name in dict.fromkeys(row.workload for row in rows)
            ],
        )


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    text = f"{row.measured:.3g} → {row.predicted:.3g} ({row.ratio:.2f})"
    return text if row.known else f"({text})"


def _line(row: Row) -> str:
    flag = "" if CLOSE[0] <= row.ratio <= CLOSE[1] else "  <--"
    known = "" if row.known else f"  unknown: {'; '.join(row.assumed[:3])}"
    return (
        f"{row.workload:28} {row.cluster} measured {row.measured:8.1f} predicted "
        f"{row.predicted:8.1f} ratio {row.ratio:5.2f}{flag}{known}"
    )
