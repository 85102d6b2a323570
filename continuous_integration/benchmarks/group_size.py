"""From which size on is a group worth holding back? (dask/distributed#7273)

A group that is a little larger than the number of threads can be sent out whole, or be
held back. ``python -m continuous_integration.benchmarks.group_size`` runs groups of
between one and two loads for each thread both ways, with the fork that is installed, and
prints medians.
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

from continuous_integration.benchmarks.measure import measure
from continuous_integration.benchmarks.workloads import CHUNK, Workload, load

if TYPE_CHECKING:
    from distributed import Client


def mean_of_loads(client: Client, folder: Path, prepared: None, loads: int) -> Any:
    """Average as many loads along time."""
    chunks = [
        da.from_delayed(delayed(load)(number), CHUNK, float) for number in range(loads)
    ]
    return da.concatenate(chunks).mean(axis=0).compute()


@click.command()
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True)
def main(repeats: int) -> None:
    """Compare bounds of one and of two tasks for each thread."""
    row = "{:>9} {:>7} {:>5} {:>12} {:>9}"
    click.echo(
        row.format("cluster", "threads", "loads", "held back", "") + "   medians"
    )
    click.echo(row.format("", "", "", "above", "managed") + "     moved")
    for workers, threads in ((2, 8), (4, 4)):
        total = workers * threads
        for loads in (total + 2, total * 3 // 2, total * 2):
            work = Workload("group-size", partial(mean_of_loads, loads=loads))
            runs: dict[int, list[Any]] = {1: [], 2: []}
            for _ in range(repeats):
                for bound, measured in runs.items():
                    with mock.patch("distributed.rootish.TASKS_PER_THREAD", bound):
                        measured.append(
                            measure(work, Path(), workers=workers, threads=threads)
                        )
            for bound, measured in runs.items():
                managed = median(m.peak_managed for m in measured)
                moved = median(m.moved for m in measured)
                click.echo(
                    row.format(
                        f"{workers} x {threads}",
                        total,
                        loads,
                        f"{bound} a thread",
                        f"{managed:.1f} MB",
                    )
                    + f" {moved:6.1f} MB"
                )


if __name__ == "__main__":
    main()
