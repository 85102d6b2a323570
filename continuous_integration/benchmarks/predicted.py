"""``benchmarks predicted``: how close predictions are to runs on real workers.

Each workload runs on a local cluster of processes, under the policy of the fork and
under that of the base. What it submits is caught on the way to the scheduler, and
predicted afterwards for the workers that it ran on, so that both are of the same graph.
"""

from __future__ import annotations

import pickle
import statistics
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import click
import cloudpickle
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

#: That of the fork, and that of the base.
POLICIES = ("producers", "marked")

#: Ends of names: files were there before there were several policies.
_SUFFIXES = {"producers": "", "marked": "-marked"}

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
    """A workload on a cluster under a policy, predicted and measured.

    Attributes
    ----------
    workload, cluster, policy : str
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
    policy: str
    predicted: float
    measured: float
    known: bool
    assumed: list[str]

    @property
    def ratio(self) -> float:
        """Predicted to measured."""
        return self.predicted / max(self.measured, 1e-3)

    @property
    def close(self) -> bool:
        """Whether it is as close as it is to be."""
        return CLOSE[0] <= self.ratio <= CLOSE[1]


@dataclass(frozen=True)
class Run:
    """What was measured, and of which graph.

    Attributes
    ----------
    peaks : list of float
        Peak of managed memory in MB, of each run.
    graph : bytes or None
        What was submitted, pickled; None if that was more than one graph.
    persisted : dict
        Key -> bytes of what was there before.
    workers : list of tuple
        Address, name and resources of each worker; none if they were not noted.
    """

    peaks: list[float]
    graph: bytes | None
    persisted: dict[Any, float]
    workers: list[tuple[str, str, dict[str, float]]] = field(default_factory=list)


def run(
    workload: Workload, cluster: str, policy: str, folder: Path, repeats: int
) -> Run:
    """Run a workload on a local cluster of processes.

    Parameters
    ----------
    workload
        What to run.
    cluster
        Name of the cluster, such as ``4x1``.
    policy
        Value for ``distributed.scheduler.rootish-policy``.
    folder
        Where its files are, or are to be written.
    repeats
        Number of runs.
    """
    workers, threads = map(int, cluster.split("x"))
    caught: list[bytes] = []
    persisted: dict[Any, float] = {}
    found: list[tuple[str, str, dict[str, float]]] = []

    def compute(client: Client, folder: Path, prepared: Any) -> Any:
        original = Client._graph_to_futures

        def submit(self: Client, expr: Any, *args: Any, **kwargs: Any) -> Any:
            caught.append(cloudpickle.dumps(expr))
            return original(self, expr, *args, **kwargs)

        persisted.update(client.nbytes(summary=False))
        found.extend(
            (address, str(facts["name"]), facts["resources"])
            for address, facts in client.scheduler_info(-1)["workers"].items()
        )
        with mock.patch.object(Client, "_graph_to_futures", submit):
            return workload.compute(client, folder, prepared)

    peaks = []
    for _ in range(repeats):
        caught.clear()
        persisted.clear()
        found.clear()
        measured = measure(
            replace(workload, compute=compute),
            folder,
            workers=workers,
            threads=threads,
            processes=True,
            policy=policy,
        )
        peaks.append(measured.peak_managed)
        if len(caught) != 1:
            break
    graph = caught[0] if len(caught) == 1 else None
    return Run(peaks, graph, dict(persisted), found)


def predict(name: str, cluster: str, policy: str, measured: Run) -> Row | str:
    """Predict what was run.

    Parameters
    ----------
    name
        Name of the workload.
    cluster
        Name of the cluster, such as ``4x1``.
    policy
        Name of the policy.
    measured
        The graph, and what it took.

    Returns
    -------
    Row or str
        Or why there is none.
    """
    from distributed.rootish.explanation import Options, Question
    from distributed.rootish.prediction import Worker

    if measured.graph is None:
        return "more than one graph"
    number, threads = map(int, cluster.split("x"))
    workers = [
        Worker(threads, None, (address, name), resources)
        for address, name, resources in measured.workers
    ]
    question = Question(
        [], workers or [Worker(threads)] * number, Options(predict=True)
    )
    question.take(pickle.loads(measured.graph))
    question.persisted = dict(measured.persisted)
    prediction = question.answer().prediction
    if prediction is None or policy not in prediction.policies:
        return "; ".join(prediction.notes if prediction else question.notes)
    return Row(
        name,
        cluster,
        policy,
        prediction.policies[policy].peak / _MB,
        statistics.median(measured.peaks),
        prediction.known,
        [
            f"{one.prefix}: {one.nbytes:.0f} B x {one.tasks}, {one.why}"
            for one in prediction.assumptions
        ],
    )


@click.command("predicted")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--cluster", "clusters", multiple=True, default=CLUSTERS)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    type=click.Choice(POLICIES),
    default=POLICIES,
    show_default=True,
)
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1))
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=BUILD / "data",
    help="Where the files of the workloads are.  [default: build/benchmarks/data]",
)
@click.option(
    "--runs",
    type=click.Path(file_okay=False, path_type=Path),
    default=BUILD / "predicted",
    help="Where runs are kept; what is there is not run again.  "
    "[default: build/benchmarks/predicted]",
)
@figures_option()
def command(
    names: tuple[str, ...],
    clusters: tuple[str, ...],
    policies: tuple[str, ...],
    repeats: int,
    folder: Path,
    runs: Path,
    figures: str | None,
) -> None:
    """Compare predicted peaks with those of runs on real workers.

    Without names all workloads, under the policies of the fork and of the base.
    """
    workloads = {**OWN, **WORKLOADS}
    if unknown := [name for name in names if name not in workloads]:
        raise click.BadParameter(f"no workload {', '.join(unknown)}")
    runs.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, policy, cluster in product(names or workloads, policies, clusters):
        path = runs / f"{name}-{cluster}{_SUFFIXES[policy]}.pickle"
        if not path.exists():
            try:
                measured = run(workloads[name], cluster, policy, folder, repeats)
            except Unavailable as error:
                click.echo(f"skipped: {error}", err=True)
                continue
            path.write_bytes(pickle.dumps(vars(measured)))
        measured = Run(**pickle.loads(path.read_bytes()))
        row = predict(name, cluster, policy, measured)
        if isinstance(row, str):
            click.echo(f"{name:28} {cluster} {policy:9} {row}")
        else:
            click.echo(_line(row))
            rows.append(row)
    values: dict[str, Any] = {}
    for policy in policies:
        known = [row for row in rows if row.policy == policy and row.known]
        close = sum(row.close for row in known)
        click.echo(
            f"{policy}: {close} of {len(known)} are close, where sizes are known"
        )
        suffix = _SUFFIXES[policy].replace("-", ".")
        values |= {
            f"close{suffix}": f"{close / max(len(known), 1):.0%}",
            f"known{suffix}": len(known),
            f"all{suffix}": sum(row.policy == policy for row in rows),
        }
    if figures:
        found = {(row.workload, row.policy, row.cluster): row for row in rows}
        columns = [*product(policies, clusters)]
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
            values=values,
            head=["workload", *(f"{policy}, {cluster}" for policy, cluster in columns)],
            rows=[
                [name, *(_cell(found.get((name, *column))) for column in columns)]
                for name in dict.fromkeys(row.workload for row in rows)
            ],
        )


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    text = f"{row.measured:.3g} → {row.predicted:.3g} ({row.ratio:.2f})"
    return text if row.known else f"({text})"


def _line(row: Row) -> str:
    flag = "" if row.close else "  <--"
    known = "" if row.known else f"  unknown: {'; '.join(row.assumed[:3])}"
    return (
        f"{row.workload:28} {row.cluster} {row.policy:9} measured {row.measured:8.1f} "
        f"predicted {row.predicted:8.1f} ratio {row.ratio:5.2f}{flag}{known}"
    )
