"""Measure from which size on a group is worth holding back (dask/distributed#7273).

A group that is a little larger than the number of threads can be sent out whole, or be
held back. ``python -m continuous_integration.benchmarks.group_size`` runs groups of
between one and two loads for each thread both ways, with the fork that is installed,
and prints medians: loads that need nothing, and reads through two opened handles.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from unittest import mock

import click
import dask.array as da
from dask import delayed

from continuous_integration.benchmarks.measure import Measurement, measure
from continuous_integration.benchmarks.workloads import CHUNK, Workload, load
from continuous_integration.figures import SCHEDULER, figures_option, write_figures

if TYPE_CHECKING:
    from distributed import Client

#: What is tried
NUMBER = "distributed.rootish.policy.TASKS_PER_THREAD"


def mean_of_loads(client: Client, folder: Path, prepared: None, loads: int) -> Any:
    """Average as many loads along time."""
    return _mean([delayed(load)(number) for number in range(loads)])


def mean_of_reads(client: Client, folder: Path, prepared: None, loads: int) -> Any:
    """Average as many reads through two handles along time."""
    handles = [delayed(str)(number) for number in (-1, -2)]
    return _mean([delayed(load)(n, handles[2 * n // loads]) for n in range(loads)])


def _mean(loads: list[Any]) -> Any:
    chunks = [da.from_delayed(chunk, CHUNK, float) for chunk in loads]
    return da.concatenate(chunks).mean(axis=0).compute()


HEAD = (
    *("workload", "cluster", "loads", "held back above"),
    *("managed MB", "moved MB", "s"),
)


@click.command()
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True)
@figures_option()
def main(repeats: int, figures: str | None) -> None:
    """Compare bounds of one and of two tasks for each thread."""
    template = "{:>14} {:>8} {:>5} {:>17} {:>12} {:>9} {:>8}"
    click.echo(template.format(*HEAD))
    rows = []
    for compute in (mean_of_loads, mean_of_reads):
        for workers, threads in ((2, 8), (4, 4)):
            total = workers * threads
            for loads in (total + 2, total * 3 // 2, total * 2):
                work = Workload("group-size", partial(compute, loads=loads))
                runs: dict[int, list[Measurement]] = {1: [], 2: []}
                for _ in range(repeats):
                    for bound, measured in runs.items():
                        with mock.patch(NUMBER, bound):
                            measured.append(
                                measure(work, Path(), workers=workers, threads=threads)
                            )
                for bound, measured in runs.items():
                    row = (
                        compute.__name__,
                        f"{workers} x {threads}",
                        loads,
                        f"{bound} for a thread",
                        f"{median(m.peak_managed for m in measured):.1f}",
                        f"{median(m.moved for m in measured):.1f}",
                        f"{median(m.seconds for m in measured):.2f}",
                    )
                    click.echo(template.format(*row))
                    rows.append(row)
    if figures:
        write_figures(
            figures,
            about=[*SCHEDULER, "continuous_integration/benchmarks/group_size.py"],
            note=f"Medians of {repeats}, in one process, so that seconds say little.",
            head=HEAD,
            rows=rows,
        )


if __name__ == "__main__":
    main()
