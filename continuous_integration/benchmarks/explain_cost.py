"""Measure what it costs to explain a graph before it runs.

``python -m continuous_integration.benchmarks.explain_cost`` explains graphs with the
fork that is installed, and compares with what the graph costs anyway: to be optimised,
and to be materialised, which the scheduler does before anything runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import click
import dask.array as da
from dask.base import collections_to_expr

from continuous_integration.figures import SCHEDULER, figures_option, write_figures
from distributed.rootish import explain
from distributed.scheduler import _materialize_graph


def array_of(tasks: int) -> da.Array:
    """Make an array whose weighted mean takes this many tasks, more or less."""
    x = da.ones((tasks * 2 // 3, 8), chunks=(1, 8))
    return (x * da.arange(len(x), chunks=1)[:, None]).sum(axis=0, split_every=4)


def stores_of(tasks: int) -> da.Array:
    """Make an array of a hundred stores, each with a group of its own."""
    chunks = max(tasks // 490, 1)
    stores = [
        da.ones((chunks, 8), chunks=(1, 8), name=f"store{n}-0") for n in range(100)
    ]
    return da.concatenate(stores).map_overlap(lambda block: block, 1).sum(axis=0)


GRAPHS: Mapping[str, Callable[[int], object]] = {
    "array": array_of,
    "stores": stores_of,
}

HEAD = ("graph", "tasks", "groups", "optimised and materialised", "explained", "ratio")


@click.command()
@click.option("--tasks", type=click.IntRange(1), default=1_000_000, show_default=True)
@click.option(
    "--graph", "graphs", type=click.Choice(list(GRAPHS)), multiple=True, default=GRAPHS
)
@click.option(
    "--predict",
    is_flag=True,
    help="Also predict what it takes, in wall time.",
)
@figures_option()
def main(
    tasks: int, graphs: tuple[str, ...], predict: bool, figures: str | None
) -> None:
    """Compare CPU times."""
    rows = []
    for name in graphs:
        collection = GRAPHS[name](tasks)
        start = time.process_time()
        graph, _ = _materialize_graph(
            collections_to_expr([collection]).optimize(), False
        )
        anyway = time.process_time() - start
        number = len(graph)
        del graph
        start = time.process_time()
        explanation = explain(collection, nthreads=2, nworkers=4, predict=False)
        took = time.process_time() - start
        click.echo(
            f"{name}: {number} tasks in {len(explanation.groups)} groups; optimised "
            f"and materialised in {anyway:.1f} s, explained in {took:.1f} s "
            f"({took / anyway:.2f})"
        )
        if predict:
            start = time.perf_counter()
            explanation = explain(collection, nthreads=2, nworkers=4, predict=True)
            took_all = time.perf_counter() - start
            assert explanation.prediction is not None
            policies = ", ".join(explanation.prediction.policies)
            click.echo(f"{name}: predicted for {policies} in {took_all:.1f} s")
        times = f"{anyway:.1f}", f"{took:.1f}", f"{took / anyway:.2f}"
        rows.append((name, number, len(explanation.groups), *times))
    if figures:
        write_figures(
            figures,
            about=["distributed/rootish/explanation.py", *SCHEDULER],
            note="CPU time in seconds.",
            head=HEAD,
            rows=rows,
        )


if __name__ == "__main__":
    main()
