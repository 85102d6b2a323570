"""Draw which worker loads which chunk, without and with co-assignment.

``python -m continuous_integration.benchmarks.deal PICTURE`` adds up a Zarr store over
time, twice, with the fork that is installed, and draws the chunks in the order of their
priority, coloured by the worker that loaded them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import dask
import dask.array as da

from continuous_integration.benchmarks.measure import BUILD, install, measure
from continuous_integration.benchmarks.plots import Deal, plot_deals
from continuous_integration.benchmarks.workloads import Workload, zarr_stores
from continuous_integration.figures import SCHEDULER, figures_option, write_figures
from distributed import SchedulerPlugin

if TYPE_CHECKING:
    from dask.typing import Key

    from distributed import Client, Scheduler

#: Chunks of the store
CHUNKS = 64
#: So many are combined at a time
WIDTH = 4


def total(client: Client, folder: Path, prepared: None) -> Any:
    """Add up a Zarr store over time."""
    [path] = zarr_stores(folder, 1, CHUNKS)
    return da.from_zarr(path).sum(axis=0, split_every=WIDTH).compute()


class Recorder(SchedulerPlugin):
    """Note the worker of every task whose group was queued.

    Attributes
    ----------
    workers
        Priority and worker of each task that went to one.
    queued
        Names of the groups that had a task in the queue.
    """

    def __init__(self) -> None:
        self.workers: dict[Key, tuple[Any, int, str]] = {}
        self.queued: set[str] = set()

    async def start(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    def transition(
        self, key: Key, start: str, finish: str, *args: Any, **kwargs: Any
    ) -> None:
        ts = self.scheduler.tasks[key]
        if finish == "queued":
            self.queued.add(ts.group.name)
        elif finish == "processing":
            assert ts.processing_on
            assert ts.priority
            # Workers of a local cluster are named by their number
            number = int(str(ts.processing_on.name))
            self.workers[key] = ts.priority, number, ts.group.name

    def deal(self) -> list[int]:
        """Return the worker of each task that was held back, by priority."""
        return [
            worker
            for _, worker, group in sorted(self.workers.values())
            if group in self.queued
        ]


def record(client: Client, folder: Path, recorder: Recorder) -> None:
    """Begin to record on the scheduler of a local cluster."""
    cluster: Any = client.cluster
    cluster.sync(install, recorder, cluster.scheduler)


@click.command()
@click.argument("picture", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=BUILD / "data",
    help="Where the files of the workloads are.  [default: build/benchmarks/data]",
)
@figures_option()
def main(picture: Path, folder: Path, figures: str | None) -> None:
    """Draw which of four workers loads which chunk."""
    deals = []
    for title, on in (("one by one", False), ("in families", True)):
        recorder = Recorder()
        work = Workload("deal", total, prepare=partial(record, recorder=recorder))
        with dask.config.set({"distributed.scheduler.rootish-co-assignment": on}):
            moved = measure(work, folder).moved
        deals.append(Deal(f"{title}: {moved:.0f} MB moved", recorder.deal()))
    plot_deals(deals, WIDTH, picture)
    for deal in deals:
        click.echo(f"{deal.title}\n  {' '.join(map(str, deal.workers))}")
    if figures:
        about = [*SCHEDULER, "continuous_integration/benchmarks/deal.py"]
        write_figures(figures, about=about, picture=picture)


if __name__ == "__main__":
    main()
