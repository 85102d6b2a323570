"""Take pictures of the dashboard's page on what is held back, while something runs.

``python -m continuous_integration.benchmarks.page FOLDER`` compares what is read
through opened files with observations that are kept in memory, on the fork that is
installed. It takes a picture in the middle of that, one afterwards, and one in the
middle of the same under a policy that does not hold the reads back. It needs a browser.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import dask
import numpy as np
from dask import delayed

from continuous_integration.benchmarks.workloads import SIDE
from continuous_integration.browser import find_browser, running_browser
from continuous_integration.fork import ForkError
from distributed import Client, LocalCluster, Scheduler, wait

if TYPE_CHECKING:
    from playwright.async_api import Browser

FILES = 6
STEPS = 40
OBSERVATIONS = 12
#: How long it takes to read a chunk, in seconds
LATENCY = 0.1
#: Of the window, in pixels
WIDTH, HEIGHT = 1400, 600

#: Name of a picture -> policy, and whether it is taken afterwards
PICTURES = {
    "rootish-page": ("producers", False),
    "rootish-page-afterwards": ("producers", True),
    "rootish-page-wrong": ("marked", False),
}


def open_file(number: int) -> str:
    """Stand for an opened file."""
    return f"model-{number}.nc"


def read_model(file: str, step: int) -> np.ndarray:
    """Read a chunk of 2 MiB."""
    time.sleep(LATENCY)
    return np.full((SIDE, SIDE), float(step))


def observe(month: int) -> np.ndarray:
    """Make a chunk of what is kept."""
    return np.full((SIDE, SIDE), float(month))


def climatology(months: list[np.ndarray]) -> np.ndarray:
    """Average over the year."""
    return np.mean(months, axis=0)


def anomaly(model: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Take the average off a chunk."""
    time.sleep(LATENCY / 2)
    return model - normal


def bias(model: np.ndarray, observed: np.ndarray) -> float:
    """Compare two chunks."""
    time.sleep(LATENCY / 2)
    return float(np.abs(model - observed).mean())


def mean(biases: list[float]) -> float:
    """Average over a file."""
    return float(np.mean(biases))


def analysis(observed: Sequence[Any]) -> list[Any]:
    """Return what is computed while the picture is taken.

    Parameters
    ----------
    observed
        Futures of the observations.
    """
    normal = delayed(climatology)(observed)
    means = []
    for number in range(FILES):
        file = delayed(open_file)(number)
        chunks = (delayed(read_model)(file, step) for step in range(STEPS))
        biases = [
            delayed(bias)(delayed(anomaly)(chunk, normal), observed[n % OBSERVATIONS])
            for n, chunk in enumerate(chunks)
        ]
        means.append(delayed(mean)(biases))
    return means


async def half_read(scheduler: Scheduler) -> None:
    """Wait until half of the chunks have been read."""

    def left() -> int:
        prefix = scheduler.task_prefixes.get("read_model")
        if prefix is None:
            return FILES * STEPS
        return sum(prefix.states[s] for s in ("waiting", "queued", "processing"))

    while left() > FILES * STEPS / 2:
        await asyncio.sleep(LATENCY)


async def forgotten(scheduler: Scheduler) -> None:
    """Wait until nothing is known of any task."""
    while scheduler.task_groups:
        await asyncio.sleep(LATENCY)


async def take_pictures(folder: Path, names: Sequence[str]) -> None:
    """Compute, and take the pictures in the middle of it and afterwards.

    Parameters
    ----------
    folder
        Where the files are written, each a PNG.
    names
        Those of :data:`PICTURES`.

    Raises
    ------
    ForkError
        If there is no browser.
    """
    path = find_browser()
    folder.mkdir(parents=True, exist_ok=True)
    async with running_browser(path) as browser:
        for name in names:
            policy, afterwards = PICTURES[name]
            setting = "distributed.scheduler.rootish-policy"
            with dask.config.set({setting: policy}):
                await _take_picture(browser, folder / f"{name}.png", afterwards)


async def _take_picture(browser: Browser, picture: Path, afterwards: bool) -> None:
    """Compute on a cluster of its own, and take a picture."""
    async with (
        LocalCluster(
            n_workers=4,
            threads_per_worker=1,
            processes=False,
            dashboard_address="127.0.0.1:0",
            asynchronous=True,
        ) as cluster,
        Client(cluster, asynchronous=True) as client,
    ):
        scheduler = cluster.scheduler
        page = await browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        await page.goto(f"http://127.0.0.1:{scheduler.http_server.port}/rootish")
        observed = client.map(observe, range(OBSERVATIONS))
        await wait(observed)
        means = client.compute(analysis(observed))
        if afterwards:
            await client.gather(means)
            del observed, means
            await forgotten(scheduler)
        else:
            await half_read(scheduler)
        # Drawn after the page has looked at that
        await page.locator(".slick-row code", has_text="read_model").wait_for()
        if afterwards:
            await page.get_by_text("What became of").wait_for()
        await page.screenshot(path=picture)
        await page.close()


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--only",
    "names",
    type=click.Choice(list(PICTURES)),
    multiple=True,
    default=list(PICTURES),
    help="Which picture to take. Can be given more than once.  [default: all]",
)
def main(folder: Path, names: Sequence[str]) -> None:
    """Take pictures of the dashboard's page on what is held back."""
    try:
        asyncio.run(take_pictures(folder, names))
    except ForkError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
