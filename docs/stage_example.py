"""A computation that keeps what it loads, and the same in stages.

Prints what is in stage_example.txt, and draws stage.png beside this file.
"""

import tempfile
import time
from pathlib import Path

import dask.array as da
import xarray as xr
from matplotlib.figure import Figure

from distributed import Client, LocalCluster
from distributed.diagnostics import MemorySampler
from distributed.rootish import explain

MIB = 2**20


def warm_at_once(t):
    """Return how often it is five degrees warmer than on average."""
    return (t > t.mean("time") + 5).sum("time")


def warm_by_mean(t, path):
    """Return the same, with the mean from a Zarr store."""
    mean = xr.open_zarr(path)["mean"].load()
    return (t > mean + 5).sum("time")


def warm_in_two_stages(t, path):
    """Compute the mean, write it to a Zarr store, and go on from there."""
    t.mean("time").to_dataset(name="mean").to_zarr(path, zarr_format=2)
    return warm_by_mean(t, path).compute()


def write_temperature(path):
    """Write 512 MiB of random temperatures, in chunks of 4 MiB."""
    t = da.random.default_rng(1).normal(15, 8, (1024, 256, 256), chunks=(8, 256, 256))
    xr.Dataset({"temperature": (("time", "lat", "lon"), t)}).to_zarr(
        path, zarr_format=2
    )


def show(title, *lines):
    """Print a section of the output."""
    print(f"[{title}]", *lines, "", sep="\n", flush=True)


def measure(compute):
    """Run a function on a new cluster.

    Returns what it returns, and memory over time as pairs of seconds and MiB: what
    worker processes take above idle, and what the scheduler counts ("managed").
    """
    sampler = MemorySampler()
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=2, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        # What workers import is not to count
        client.run(lambda: [__import__(name) for name in ("xarray", "zarr")])
        time.sleep(1)
        start = time.time()
        with (
            sampler.sample("process", measure="process", interval=0.1),
            sampler.sample("managed", measure="managed", interval=0.1),
        ):
            result = compute(client)
    curves = {}
    for measured, samples in sampler.samples.items():
        idle = samples[0][1] if measured == "process" else 0
        curves[measured] = [
            (now - start, (nbytes - idle) / MIB) for now, nbytes in samples
        ]
    return result, curves


def watch(client, computation, loader):
    """Compute, and print what the scheduler says when most of the chunks are loaded."""
    future = client.compute(computation)
    while True:
        time.sleep(0.05)
        status = client.rootish()
        loaded = sum(g.states["memory"] for g in status.groups if g.prefix == loader)
        if loaded > 100 or future.done():
            break
    show("running at once", status)
    return future.result()


def main(folder):
    """Explain, measure and draw."""
    write_temperature(folder / "temperature.zarr")
    t = xr.open_zarr(folder / "temperature.zarr").temperature
    mean = folder / "mean.zarr"
    cluster = {"nworkers": 2, "nthreads": 2}

    show("explain at once", explain(warm_at_once(t), **cluster))
    show("explain stage 1", explain(t.mean("time"), **cluster))
    loader = "open_dataset-temperature"
    runs = {
        "warm, at once": lambda client: watch(client, warm_at_once(t), loader),
        "warm, in two stages": lambda client: warm_in_two_stages(t, mean),
    }
    measured = {name: measure(compute) for name, compute in runs.items()}

    show("explain stage 2", explain(warm_by_mean(t, mean), **cluster))
    lines = [f"{'':30}managed MiB  process MiB  seconds"]
    for name, (_, curves) in measured.items():
        managed, process = (
            max(nbytes for _, nbytes in curves[m]) for m in ("managed", "process")
        )
        seconds = curves["managed"][-1][0]
        lines.append(f"{name:30}{managed:11.0f}  {process:11.0f}  {seconds:7.1f}")
    show("measured", *lines)
    warm, warm_staged = (result for result, _ in measured.values())
    assert warm.equals(warm_staged)
    draw([curves for _, curves in measured.values()])


def draw(runs):
    """Draw memory over time."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    panel = figure.subplots()
    for how, colour, curves in zip(
        ("at once", "in stages"), ("#0072B2", "#E69F00"), runs
    ):
        panel.plot(*zip(*curves["process"]), color=colour, label=how)
        panel.plot(*zip(*curves["managed"]), ":", color=colour, label=f"{how}, managed")
    panel.axhline(512, color="grey", linewidth=0.8, label="size of the data")
    panel.set_title("Days warmer than the mean plus 5 degrees", size=10)
    panel.set(xlabel="time (s)", ylabel="memory of both workers (MiB)")
    panel.set_ylim(bottom=0)
    figure.legend(loc="outside right center")
    figure.savefig(Path(__file__).with_name("stage.png"), dpi=100)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
