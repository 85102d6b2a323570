"""More kinds of computations, each after what users have reported or have in manuals.

They are workloads like those of :mod:`continuous_integration.benchmarks.workloads`,
and smaller: a hundred chunks or so tell a kind from others. Weights come from a few
numbers that are broadcast to every chunk, models are fit one step after the other,
loads are for some workers only, and a chunk is cut in more than two directions.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np
from dask import delayed

from continuous_integration.benchmarks.workloads import (
    CHUNK,
    SIDE,
    from_handles,
    from_stores,
    smooth,
    workload,
    write_stores,
    zarr_stores,
)
from distributed import wait

if TYPE_CHECKING:
    from distributed import Client, Worker

#: How long a load waits for its storage, in seconds.
WAIT = 0.005
#: How long a model or a GPU works on one chunk, in seconds.
WORK = 0.04


# Models


def load_part(number: int) -> np.ndarray:
    """Bring 2 MiB into the cluster."""
    time.sleep(WAIT)
    return np.full(CHUNK, float(number))


def partial_fit(model: float, part: np.ndarray) -> float:
    """Fit a model to one more part of the data."""
    time.sleep(WORK)
    return model / 2 + float(part[0, 0, 0])


def _fold(
    start: float | None, numbers: range, function: Callable[..., Any] = partial_fit
) -> Any:
    load, step = delayed(load_part, pure=False), delayed(function, pure=False)
    state: Any = start
    for number in numbers:
        state = step(state, load(number))
    return state


@workload("fold")
def fold(client: Client, folder: Path, prepared: None) -> Any:
    """Fit one model to 100 loads, one after the other (#7552)."""
    return _fold(0.0, range(100)).compute()


@workload("fold-two")
def fold_two(client: Client, folder: Path, prepared: None) -> Any:
    """Fit two models to 60 loads each, side by side."""
    return dask.compute(_fold(0.0, range(60)), _fold(1.0, range(60, 120)))


@workload("folds")
def folds(client: Client, folder: Path, prepared: None) -> Any:
    """Fit eight models to 20 loads each, side by side, as to validate them."""
    models = [_fold(float(n), range(20 * n, 20 * (n + 1))) for n in range(8)]
    return dask.compute(*models)


def blend(state: np.ndarray | None, part: np.ndarray) -> np.ndarray:
    """Take one more part into a mean that forgets what is long ago."""
    return part if state is None else 0.9 * state + 0.1 * part


@workload("running-mean")
def running_mean(client: Client, folder: Path, prepared: None) -> Any:
    """Follow a running mean, which is as large as a load, through 100 of them."""
    return _fold(None, range(100), blend).compute()


# Handles, and weights that are broadcast


def _through_handles(name: str) -> Callable[..., Any]:
    """Register a workload that reads through 8 opened handles."""
    return workload(
        name, write=lambda folder: zarr_stores(folder, 8, 30), modules=("zarr",)
    )


def broadcast_mean(array: da.Array, weights: da.Array) -> da.Array:
    """Return the mean over time, of weights that have as many dimensions.

    Weights are summed at the size of the data, as where some of it may be missing.
    """
    full = da.broadcast_to(weights, array.shape, chunks=array.chunks)
    return (array * weights).sum(axis=0) / full.sum(axis=0)


def _of_time(array: da.Array) -> da.Array:
    """Return a weight for each time, in chunks like those of an array."""
    weights = np.linspace(1, 2, array.shape[0])
    return da.from_array(weights, chunks=(array.chunks[0],))[:, None, None]


@_through_handles("handles-broadcast")
def handles_broadcast(client: Client, folder: Path, prepared: None) -> Any:
    """Read through 8 opened handles, mean with weights that are one chunk of 4 KB."""
    array = from_handles(folder, 15)
    rows = np.cos(np.linspace(-1, 1, array.shape[1]))
    weights = da.from_array(rows, chunks=-1)[None, :, None]
    return broadcast_mean(array, weights).compute()


@_through_handles("handles-chunked-weights")
def handles_chunked_weights(client: Client, folder: Path, prepared: None) -> Any:
    """Read through 8 opened handles, mean with a chunk of weights for each time."""
    array = from_handles(folder, 15)
    return broadcast_mean(array, _of_time(array)).compute()


@_through_handles("handles-anomaly")
def handles_anomaly(client: Client, folder: Path, prepared: None) -> Any:
    """Read through 8 opened handles, largest anomaly from the mean over time."""
    array = from_handles(folder, 8)
    return abs(array - array.mean(axis=0)).max().compute()


@_through_handles("handles-outputs")
def handles_outputs(client: Client, folder: Path, prepared: None) -> Any:
    """Read through 8 opened handles, mean over time and quadratic mean of each day."""
    array = from_handles(folder, 10)
    return dask.compute(array.mean(axis=0), (array**2).mean(axis=(1, 2)))


@_through_handles("handles-changes")
def handles_changes(client: Client, folder: Path, prepared: None) -> Any:
    """Read through 8 opened handles, deviation of the changes from day to day."""
    array = from_handles(folder, 10)
    return (array[1:] - array[:-1]).std(axis=0).compute()


@_through_handles("handles-padded")
def handles_padded(client: Client, folder: Path, prepared: None) -> Any:
    """Read through 8 opened handles, smooth chunks that are padded on all sides."""
    array = from_handles(folder, 4)
    smoothed = array.map_overlap(smooth, depth=(1, 4, 4), boundary="periodic")
    return smoothed.mean(axis=0).compute()


# Pools of workers


async def _have(
    resources: Mapping[str, Mapping[str, float]], dask_worker: Worker
) -> None:
    await dask_worker.set_resources(**resources[dask_worker.address])


def _give(client: Client, pool: list[dict[str, float]]) -> None:
    """Give workers the resources of a pool, as far as they go."""
    from continuous_integration.benchmarks.recordings import deal

    workers = list(client.nthreads())
    client.run(_have, dict(zip(workers, deal(pool, len(workers)))))


def infer(part: np.ndarray) -> float:
    """Stand for what a GPU does with a part of the data."""
    time.sleep(WORK)
    return float(part[0, 0, 0])


def _one_gpu(client: Client, folder: Path) -> None:
    _give(client, [*({"CPU": 1.0} for _ in range(3)), {"GPU": 1.0}])


@workload("pool-loads", prepare=_one_gpu)
def pool_loads(client: Client, folder: Path, prepared: None) -> Any:
    """Three CPU workers load what one GPU worker uses (#9164)."""
    loads = client.map(load_part, range(100), resources={"CPU": 1})
    results = client.map(infer, loads, resources={"GPU": 1})
    del loads
    return client.gather(client.submit(sum, results))


def add_parts(parts: list[np.ndarray]) -> float:
    """Add up some parts of the data."""
    return float(sum(part[0, 0, 0] for part in parts))


@workload("bound-loads")
def bound_loads(client: Client, folder: Path, prepared: None) -> Any:
    """Load each part on the worker that has its file, eight of them combined."""
    workers = list(client.nthreads())
    parts = []
    for number in range(160):
        with dask.annotate(workers=[workers[number % len(workers)]]):
            parts.append(delayed(load_part, pure=False)(number))
    sums = [delayed(add_parts)(parts[n : n + 8]) for n in range(0, 160, 8)]
    return delayed(sum)(sums).compute(optimize_graph=False)


def first_value(part: np.ndarray) -> float:
    """Make next to nothing of a part, at once."""
    return float(part[0, 0, 0])


@workload("two-consumers", prepare=_one_gpu)
def two_consumers(client: Client, folder: Path, prepared: None) -> Any:
    """Loads by one function: every third is for one slow GPU worker, all others not."""
    parts = client.map(load_part, range(240))
    slow = client.map(infer, parts[::3], resources={"GPU": 1})
    quick = client.map(first_value, parts[1::3] + parts[2::3])
    del parts
    return client.gather(client.submit(sum, slow + quick))


def add_pair(part: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Add one part of the data to another."""
    return part + other


@workload("pairs")
def pairs(client: Client, folder: Path, prepared: None) -> Any:
    """Add up by pairs, one task after the other, and keep the futures meanwhile."""
    parts = client.map(load_part, range(128))
    while len(parts) > 1:
        parts = [
            client.submit(add_pair, *pair)
            for pair in zip(parts[::2], parts[1::2], strict=True)
        ]
    return client.gather(client.submit(first_value, parts[0]))


def load_packed(number: int) -> np.ndarray:
    """Bring 512 KiB into the cluster: small integers that stand for floats."""
    time.sleep(WAIT)
    return np.full((SIDE, SIDE), number, "int16")


@workload("packed-weights")
def packed_weights(client: Client, folder: Path, prepared: None) -> Any:
    """Delayed reads of packed integers, mean with weights that are read and split."""
    planes = [
        da.from_delayed(delayed(load_packed)(number), (SIDE, SIDE), "int16")
        for number in range(72)
    ]
    array = 0.01 * da.stack(planes) + 273
    weights = da.from_delayed(delayed(np.linspace)(1, 2, 72), (72,), "float64")
    weights = weights.rechunk(1)
    total = (array * weights[:, None, None]).sum(axis=0)
    return (total / weights.sum()).compute()


def load_block(block_info: Any = None) -> np.ndarray:
    """Return a block of whatever shape, after some time."""
    time.sleep(WAIT)
    place = block_info[None]
    value = 1 + sum(place["chunk-location"])
    return np.full(place["chunk-shape"], value, place["dtype"])


def blocks(*chunks: tuple[int, ...], dtype: str = "float64") -> da.Array:
    """Return an array of blocks that are loaded."""
    return da.map_blocks(load_block, chunks=chunks, dtype=dtype)


def _four_of_pool(client: Client, folder: Path) -> None:
    _give(client, [{"POOL": 1.0} for _ in range(4)])


@workload("pool-array", prepare=_four_of_pool)
def pool_array(client: Client, folder: Path, prepared: None) -> Any:
    """Load chunks on a pool of workers, overlap in time, mean (#6360)."""
    with dask.annotate(resources={"POOL": 1}):
        loaded = blocks((16,) * 100, (128,), (128,))
    smoothed = loaded.map_overlap(smooth, depth={0: 1}, boundary="none")
    # Tasks that are fused or rewritten may lose what holds for them
    with dask.config.set({"optimization.fuse.active": False}):
        return smoothed.mean(axis=0).compute(optimize_graph=False)


# Zarr stores


#: Shape of one chunk of 2 MiB that has many steps in time.
STEPS = (32, 128, 64)


def step_stores(folder: Path) -> list[str]:
    """Write 12 Zarr stores of 10 chunks of 32 steps each; return their paths."""
    steps, *field = STEPS
    shape = 10 * steps, *field

    def fill(array: Any, n: int) -> None:
        days = np.arange(10 * steps)[:, None, None]
        array[:] = np.sin(n + days + np.linspace(0, 6, field[1]))

    paths = [folder / "zarr-steps" / f"{n}.zarr" for n in range(12)]
    return write_stores(paths, shape, STEPS, fill)


@workload("zarr-12-array", write=step_stores, modules=("zarr",))
def zarr_12_array(client: Client, folder: Path, prepared: None) -> Any:
    """12 Zarr stores, mean over time with a chunk of 256 B of weights for each."""
    array = from_stores(step_stores(folder))
    return broadcast_mean(array, _of_time(array)).compute()


@workload("zarr-12-two-means", write=step_stores, modules=("zarr",))
def zarr_12_two_means(client: Client, folder: Path, prepared: None) -> Any:
    """12 Zarr stores, two means over time, each with weights of its own."""
    array = from_stores(step_stores(folder))
    weights = _of_time(array)
    return dask.compute(
        broadcast_mean(array, weights), broadcast_mean(array, 3 - weights)
    )


# Rechunks


@workload("rechunk-adjacent")
def rechunk_adjacent(client: Client, folder: Path, prepared: None) -> Any:
    """Rechunk with tasks, each chunk to some of those about its place."""
    array = blocks((16,) * 12, (2,) * 5, (4096,) * 2)
    wider = array.rechunk((12, 5, 8192), method="tasks")
    return wider.sum().compute()


def _persist_bytes(client: Client, folder: Path) -> da.Array:
    planes = client.persist(blocks((1,) * 120, (SIDE,), (SIDE,), dtype="uint8"))
    wait(planes)
    return planes


def to_float(block: np.ndarray) -> np.ndarray:
    """Make floats of bytes, after some time."""
    time.sleep(WAIT)
    return block.astype("float64")


def center(block: np.ndarray) -> np.ndarray:
    """Subtract the mean over time."""
    return np.asarray(block - block.mean(axis=0))


@workload("uint8-rechunk", prepare=_persist_bytes)
def uint8_rechunk(client: Client, folder: Path, prepared: da.Array) -> Any:
    """Persisted bytes become eight times as many floats, then rechunk by four."""
    floats = da.map_blocks(to_float, prepared, dtype="float64")
    by_four = floats.rechunk((4, SIDE, SIDE), method="tasks")
    centered = da.map_blocks(center, by_four, dtype="float64")
    return centered.std(axis=0).sum().compute()


@workload("uint8-overlap", prepare=_persist_bytes)
def uint8_overlap(client: Client, folder: Path, prepared: da.Array) -> Any:
    """Persisted bytes become floats, of which each needs the one before and after."""
    floats = da.map_blocks(to_float, prepared, dtype="float64")
    centered = da.map_overlap(
        center, floats, depth={0: 1}, boundary="none", dtype="float64"
    )
    return centered.std(axis=0).sum().compute()


@workload("pyramid", modules=("zarr",))
def pyramid(client: Client, folder: Path, prepared: None) -> Any:
    """Write planes and three coarser levels of them to Zarr (ome-zarr-py#192)."""
    import zarr

    # Not a new folder each time: tasks are named after it
    store = folder / "pyramid"
    shutil.rmtree(store, ignore_errors=True)
    paths = [str(store / str(number)) for number in range(4)]
    level = blocks((1,) * 80, (SIDE,), (2 * SIDE,), dtype="float32")
    written = []
    try:
        for number, path in enumerate(paths):
            if number:
                level = da.coarsen(np.mean, level, {1: 2, 2: 2})
            shape = (5 if number else 4, SIDE // 2, SIDE // 2)
            chunks = level.rechunk(shape, method="tasks")
            written.append(chunks.to_zarr(path, compute=False))
        dask.compute(*written)
        return [zarr.open_array(path, mode="r")[::9, ::32, ::32] for path in paths]
    finally:
        shutil.rmtree(store, ignore_errors=True)


# Neighbors in more than two directions


def same(block: np.ndarray) -> np.ndarray:
    """Return a block as it is."""
    return block


@workload("overlap-3d")
def overlap_3d(client: Client, folder: Path, prepared: None) -> Any:
    """Overlap in three directions: a chunk is cut 26 times (dask/dask#3671)."""
    cube = blocks(*[(64,) * 4] * 3)
    return cube.map_overlap(same, depth=2, boundary="none").sum().compute()


@workload("boxes")
def boxes(client: Client, folder: Path, prepared: None) -> Any:
    """Cut 24 regions out of each of 40 images: the mean of each, and of all."""
    images = blocks((1,) * 40, (SIDE,), (SIDE,))
    side = SIDE // 4
    means = [
        images[:, row : row + side, column : column + side].mean((1, 2))
        for row in range(0, 3 * side, side * 3 // 4)
        for column in range(0, 3 * side, side // 2)
    ]
    return dask.compute(means, images.mean((1, 2)))


@workload("masks")
def masks(client: Client, folder: Path, prepared: None) -> Any:
    """Means over land and over sea: two masks that the graph brings with it."""
    field = blocks((1,) * 120, (SIDE,), (SIDE,))
    land = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 3 == 0
    means = [da.where(mask, field, 0).sum((1, 2)) for mask in (land, ~land)]
    return dask.compute(*means)


def spread(parts: list[np.ndarray]) -> np.ndarray:
    """Return the standard deviation over all parts, at each place."""
    return np.concatenate(parts).std(axis=0) + 1


def largest(part: np.ndarray, scale: np.ndarray) -> float:
    """Return the largest value of a part, standardized."""
    return float((part / scale).max())


@workload("columns")
def columns(client: Client, folder: Path, prepared: None) -> Any:
    """Standardize eight tiles over time, each of 20 parts."""
    load = delayed(load_part, pure=False)
    results = []
    for tile in range(8):
        parts = [load(20 * tile + time) for time in range(20)]
        scale = delayed(spread)(parts)
        results += [delayed(largest)(part, scale) for part in parts]
    return delayed(max)(results).compute(optimize_graph=False)


def stencil(block: np.ndarray) -> np.ndarray:
    """Average the neighbors of each cell, in each direction."""
    result = block.copy()
    for axis in range(block.ndim):
        result += np.roll(block, 1, axis) + np.roll(block, -1, axis)
    return result / (2 * block.ndim + 1)


@workload("stencil-4d")
def stencil_4d(client: Client, folder: Path, prepared: None) -> Any:
    """Stencil in time and space, its largest value at each place."""
    field = blocks((8,) * 5, (8,) * 2, (64,) * 2, (64,) * 2)
    around = field.map_overlap(stencil, depth=1, boundary="none")
    return around.max(axis=0).compute()


# A small axis beside the data


def open_index(number: int) -> dict[str, Any]:
    """Open a file: its name and the index of what is in it, 20 kB."""
    time.sleep(WAIT)
    return {"number": number, "index": b"x" * 20_000}


def read_variable(file: Mapping[str, Any], name: str, step: int = 0) -> np.ndarray:
    """Read the times of a file, or one step of its data."""
    time.sleep(WAIT)
    if name == "time":
        return np.arange(1.0, 31)
    return np.full((256, 512), file["number"] + step / 5)


def total(times: list[np.ndarray]) -> float:
    """Add up the times of all files."""
    return float(sum(part.sum() for part in times))


def weigh(data: np.ndarray, times: np.ndarray, whole: float) -> float:
    """Return the part that a step has in the mean."""
    return float(data.sum() * times[0] / whole)


@workload("coords")
def coords(client: Client, folder: Path, prepared: None) -> Any:
    """Read the times of 40 files, then their data with the same function."""
    opening, reading, adding, weighing = (
        delayed(one, pure=False) for one in (open_index, read_variable, sum, weigh)
    )
    files = [opening(number) for number in range(40)]
    times = [reading(file, "time") for file in files]
    whole = delayed(total, pure=False)(times)
    parts = [
        weighing(reading(file, "t", step), axis, whole)
        for file, axis in zip(files, times)
        for step in range(5)
    ]
    while len(parts) > 1:
        parts = [adding(parts[n : n + 4]) for n in range(0, len(parts), 4)]
    return parts[0].compute()


# Data frames


def load_rows(number: int, rows: int) -> Any:
    """Return rows of a table with keys, 24 B each, after some time."""
    import pandas as pd

    random = np.random.default_rng(number)
    time.sleep(WAIT)
    values = {name: random.random(rows) for name in ("b", "c")}
    return pd.DataFrame({"a": random.integers(0, 40_000, rows), **values})


@workload("broadcast-join", modules=("dask.dataframe", "pandas"))
def broadcast_join(client: Client, folder: Path, prepared: None) -> Any:
    """Join each partition with all of a smaller table (dask/dask#7143)."""
    import dask.dataframe as dd

    meta = load_rows(0, 1)
    # There are no strings to convert
    with dask.config.set({"dataframe.convert-string": False}):
        left = dd.from_map(load_rows, range(60), rows=60_000, meta=meta)
        right = dd.from_map(load_rows, range(60, 64), rows=20_000, meta=meta)
        joined = left.merge(right.drop_duplicates("a"), on="a", broadcast=True)
        return joined.b_x.sum().compute()
