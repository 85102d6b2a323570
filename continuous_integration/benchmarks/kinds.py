"""More kinds of computations, each after what users have reported or have in manuals.

They are workloads like those of :mod:`continuous_integration.benchmarks.workloads`,
and smaller: a hundred chunks or so tell a kind from others. Weights come from a few
numbers that are broadcast to every chunk, models are fit one step after the other,
loads are for some workers only, and a chunk is cut in more than two directions.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np
from dask import delayed

from continuous_integration.benchmarks.workloads import (
    CHUNK,
    open_handle,
    read,
    stack,
    workload,
    zarr_stores,
)

if TYPE_CHECKING:
    from distributed import Client

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


def _fold(start: float, numbers: range) -> Any:
    load, fit = delayed(load_part, pure=False), delayed(partial_fit, pure=False)
    model: Any = start
    for number in numbers:
        model = fit(model, load(number))
    return model


@workload("fold")
def fold(client: Client, folder: Path, prepared: None) -> Any:
    """Fit one model to 100 loads, one after the other (#7552)."""
    return _fold(0.0, range(100)).compute()


@workload("fold-two")
def fold_two(client: Client, folder: Path, prepared: None) -> Any:
    """Fit two models to 60 loads each, side by side."""
    return dask.compute(_fold(0.0, range(60)), _fold(1.0, range(60, 120)))


# Handles, and weights that are broadcast


def _from_handles(folder: Path) -> da.Array:
    """Return 120 chunks that are read through 8 opened handles."""
    chunks = []
    for path in zarr_stores(folder, 8, 30):
        handle = delayed(open_handle)(path)
        chunks += [delayed(read)(handle, step) for step in range(15)]
    return stack(chunks)


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


@workload(
    "handles-broadcast",
    write=lambda folder: zarr_stores(folder, 8, 30),
    modules=("zarr",),
)
def handles_broadcast(client: Client, folder: Path, prepared: None) -> Any:
    """Read through 8 opened handles, mean with weights that are one chunk of 4 KB."""
    array = _from_handles(folder)
    rows = np.cos(np.linspace(-1, 1, array.shape[1]))
    weights = da.from_array(rows, chunks=-1)[None, :, None]
    return broadcast_mean(array, weights).compute()


@workload(
    "handles-chunked-weights",
    write=lambda folder: zarr_stores(folder, 8, 30),
    modules=("zarr",),
)
def handles_chunked_weights(client: Client, folder: Path, prepared: None) -> Any:
    """Read through 8 opened handles, mean with a chunk of weights for each time."""
    array = _from_handles(folder)
    return broadcast_mean(array, _of_time(array)).compute()
