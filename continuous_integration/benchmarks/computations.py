"""The computations that people run on chunked data, each on Zarr and on NetCDF.

They are workloads like those of :mod:`continuous_integration.benchmarks.workloads`,
which are made from reported cases; these are made from what is in the manuals of xarray
and of dask. All read the same two fields, wind to the east and to the north, from
several files, opened by xarray: 72 days of one chunk of 2 MiB for each field.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np

from continuous_integration.benchmarks.workloads import (
    CHUNK,
    SIDE,
    limit_cache,
    load,
    make_frame,
    once,
    one_step,
    process,
    smooth,
    workload,
)

if TYPE_CHECKING:
    import xarray

    from distributed import Client

FILES = 6
#: Days in each file.
DAYS = 12

Computation = Callable[["Client", "xarray.Dataset"], Any]


# Files


def _paths(folder: Path, suffix: str) -> list[Path]:
    """Write the files where they are missing."""
    import pandas as pd
    import xarray

    paths = [folder / f"wind-{suffix}" / f"{n}.{suffix}" for n in range(FILES)]
    for n, path in enumerate(paths):
        with once(path) as target:
            if target is not None:
                steps = range(n * DAYS, (n + 1) * DAYS)
                east = np.concatenate([one_step(step) for step in steps])
                dimensions = ("time", "y", "x")
                dataset = xarray.Dataset(
                    {"u": (dimensions, east), "v": (dimensions, east[:, ::-1])},
                    {"time": pd.date_range("2020-01-01", periods=FILES * DAYS)[steps]},
                )
                if suffix == "zarr":
                    encoding = {"chunks": CHUNK, "compressors": None}
                    dataset.to_zarr(target, encoding={"u": encoding, "v": encoding})
                else:
                    encoding = {"chunksizes": CHUNK}
                    dataset.to_netcdf(target, encoding={"u": encoding, "v": encoding})
    return paths


def _open_zarr(folder: Path) -> xarray.Dataset:
    import xarray

    return xarray.concat(
        [xarray.open_zarr(path) for path in _paths(folder, "zarr")], "time"
    )


def _open_netcdf(folder: Path) -> xarray.Dataset:
    import xarray

    return xarray.open_mfdataset(
        _paths(folder, "nc"),
        engine="netcdf4",
        chunks={"time": 1},
        combine="nested",
        concat_dim="time",
    )


def on_files(name: str, **fields: Any) -> Callable[[Computation], Computation]:
    """Register a computation twice, on Zarr and on NetCDF.

    Parameters
    ----------
    name
        Beginning of the names of the workloads.
    **fields
        Other fields of a workload.
    """

    def register(computation: Computation) -> Computation:
        @workload(
            f"{name}-zarr",
            write=lambda folder: _paths(folder, "zarr"),
            modules=("xarray", "zarr"),
            **fields,
        )
        def on_zarr(client: Client, folder: Path, prepared: None) -> Any:
            with closing(_open_zarr(folder)) as dataset:
                return computation(client, dataset)

        @workload(
            f"{name}-netcdf",
            write=lambda folder: _paths(folder, "nc"),
            prepare=limit_cache,
            modules=("xarray", "netCDF4"),
            **fields,
        )
        def on_netcdf(client: Client, folder: Path, prepared: None) -> Any:
            with closing(_open_netcdf(folder)) as dataset:
                return computation(client, dataset)

        title = (computation.__doc__ or name).strip().rstrip(".")
        on_zarr.__doc__ = f"{title}, on Zarr."
        on_netcdf.__doc__ = f"{title}, on NetCDF."
        return computation

    return register


# Means and what is left of them


@on_files("weighted-mean")
def weighted_mean(client: Client, wind: xarray.Dataset) -> Any:
    """Mean over time and space, with weights of every cell."""
    import dask.array as da

    random = da.random.default_rng(0)
    weights = wind.u.copy(data=random.random(wind.u.shape, chunks=wind.u.chunks))
    return wind.u.weighted(weights).mean().compute()


@on_files("weighted-time")
def weighted_time(client: Client, wind: xarray.Dataset) -> Any:
    """Mean over time, with a weight for each day in a chunk of its own."""
    import xarray

    weights = xarray.DataArray(np.linspace(1, 2, FILES * DAYS), dims="time")
    return wind.u.weighted(weights.chunk(time=1)).mean("time").compute()


@on_files("weighted-rows")
def weighted_rows(client: Client, wind: xarray.Dataset) -> Any:
    """Mean over time and from north to south, with a weight for each row."""
    import xarray

    weights = xarray.DataArray(np.cos(np.linspace(-1, 1, wind.sizes["y"])), dims="y")
    return wind.u.weighted(weights).mean(("time", "y")).compute()


@on_files("weighted-field")
def weighted_field(client: Client, wind: xarray.Dataset) -> Any:
    """Mean over time, with weights that are read as well, as many as there is data."""
    return wind.u.weighted(wind.v).mean("time").compute()


@on_files("weighted-variance")
def weighted_variance(client: Client, wind: xarray.Dataset) -> Any:
    """Mean over time and rows, weighted by the inverse variance of another field."""
    weights = 1 / (wind.v.var("x") + 0.1)
    product = (wind.u * weights).sum(("time", "y"))
    return (product / weights.sum(("time", "y"))).compute()


@on_files("quadratic-mean")
def quadratic_mean(client: Client, wind: xarray.Dataset) -> Any:
    """Quadratic mean over time."""
    return np.sqrt((wind.u**2).mean("time")).compute()


@on_files("means")
def means(client: Client, wind: xarray.Dataset) -> Any:
    """Plain and quadratic means over time of two fields."""
    products = [wind.u, wind.v, wind.u**2, wind.v**2, wind.u * wind.v]
    return dask.compute(*[product.mean("time") for product in products])


@on_files("deviation")
def deviation(client: Client, wind: xarray.Dataset) -> Any:
    """Standard deviation over time."""
    return wind.u.std("time").compute()


@on_files("anomaly")
def anomaly(client: Client, wind: xarray.Dataset) -> Any:
    """Anomaly from the mean over time, its largest size."""
    return abs(wind.u - wind.u.mean("time")).max().compute()


@on_files("detrend")
def detrend(client: Client, wind: xarray.Dataset) -> Any:
    """Deviation over time from a linear trend, which is as large as the data."""
    import xarray

    days = xarray.DataArray(np.linspace(-1, 1, FILES * DAYS), dims="time")
    u = wind.u.drop_vars("time")
    slope = (u * days).sum("time") / float((days**2).sum())
    return (u - u.mean("time") - slope * days).std("time").compute()


@on_files("climatology")
def climatology(client: Client, wind: xarray.Dataset) -> Any:
    """Mean for each day of the week."""
    return wind.u.groupby("time.dayofweek").mean().compute()


@on_files("climatology-anomaly")
def climatology_anomaly(client: Client, wind: xarray.Dataset) -> Any:
    """Anomaly from the mean for each day of the week, its largest size."""
    by_day = wind.u.groupby("time.dayofweek")
    return abs(by_day - by_day.mean()).max().compute()


@on_files("resample")
def resample(client: Client, wind: xarray.Dataset) -> Any:
    """Mean of every week."""
    return wind.u.resample(time="7D").mean().compute()


# Neighbours


@on_files("rolling")
def rolling(client: Client, wind: xarray.Dataset) -> Any:
    """Largest mean of three days."""
    return wind.u.rolling(time=3).mean().max().compute()


@on_files("overlap")
def overlap(client: Client, wind: xarray.Dataset) -> Any:
    """map_overlap in time, then the mean."""
    return (
        wind.u.data.map_overlap(smooth, depth={0: 1}, boundary="nearest")
        .mean()
        .compute()
    )


@on_files("vorticity")
def vorticity(client: Client, wind: xarray.Dataset) -> Any:
    """Vorticity, padded at the edges, its mean size."""
    u = wind.u.pad(y=(0, 1), mode="edge").diff("y")
    v = wind.v.pad(x=(0, 1), mode="wrap").diff("x")
    return abs(v.data - u.data).mean().compute()


# All of the time axis at once


@on_files("quantile")
def quantile(client: Client, wind: xarray.Dataset) -> Any:
    """Quantile over time."""
    pencils = wind.u.chunk({"time": -1, "y": 128, "x": 128})
    return pencils.quantile(0.9, "time").compute()


def _pencils(wind: xarray.Dataset, method: str) -> Any:
    pencils = wind.u.data.rechunk({0: -1, 1: 128, 2: 128}, method=method)
    return pencils.std(axis=0).mean().compute()


@on_files("pencils-tasks")
def pencils_tasks(client: Client, wind: xarray.Dataset) -> Any:
    """Rechunk to pencils in time with tasks."""
    return _pencils(wind, "tasks")


@on_files("pencils-p2p")
def pencils_p2p(client: Client, wind: xarray.Dataset) -> Any:
    """Rechunk to pencils in time with P2P."""
    return _pencils(wind, "p2p")


# Two inputs


def make_matrix() -> np.ndarray:
    """Return a matrix that averages by four cells: 0.5 MB."""
    return np.kron(np.eye(SIDE // 4), np.full(4, 0.25))


def apply_matrix(field: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Regrid fields in both directions."""
    return np.asarray(matrix @ field @ matrix.T)


@on_files("regrid")
def regrid(client: Client, wind: xarray.Dataset) -> Any:
    """Regrid with one computed matrix of weights, mean over time."""
    import dask.array as da

    matrix = da.from_delayed(
        dask.delayed(make_matrix)(), (SIDE // 4, SIDE), dtype="float64"
    )
    regridded = da.map_blocks(
        apply_matrix,
        wind.u.data,
        # As one argument of every block
        dask.delayed(matrix),
        dtype="float64",
        chunks=(wind.u.chunks[0], SIDE // 4, SIDE // 4),
        meta=np.empty((0, 0, 0)),
    )
    return regridded.mean(axis=0).compute()


@on_files("bias")
def bias(client: Client, wind: xarray.Dataset) -> Any:
    """Mean size of the bias against observations that were processed."""
    observed = wind.v.data.map_blocks(process, dtype="float64")
    return abs(wind.u.data - observed).mean(axis=0).compute()


# More than one use


@on_files("outputs")
def outputs(client: Client, wind: xarray.Dataset) -> Any:
    """Three results from one input."""
    u = wind.u
    return dask.compute(u.mean("time"), u.max(("y", "x")), (u > 0.5).sum())


@on_files("persist")
def persist(client: Client, wind: xarray.Dataset) -> Any:
    """Persist a field and use it twice."""
    u = wind.u.persist()
    return u.mean("time").compute(), u.std("time").compute()


@on_files("to-zarr")
def to_zarr(client: Client, wind: xarray.Dataset) -> Any:
    """Write the speed of the wind to a Zarr store."""
    import zarr

    folder = tempfile.mkdtemp()
    try:
        speed = np.sqrt(wind.u.data**2 + wind.v.data**2)
        speed.to_zarr(f"{folder}/speed.zarr")
        return zarr.open_array(f"{folder}/speed.zarr", mode="r")[::10, ::10, ::10]
    finally:
        shutil.rmtree(folder)


# Without files


def load_frame(number: int) -> Any:
    """Return a data frame of 1 MB after some time."""
    import pandas as pd

    return pd.concat([make_frame(number)] * 8, ignore_index=True)


def _frame() -> Any:
    import dask.dataframe as dd

    return dd.from_map(load_frame, range(72), meta=load_frame(0))


@workload("frame-groupby", modules=("dask.dataframe", "pandas"))
def frame_groupby(client: Client, folder: Path, prepared: None) -> Any:
    """Mean of groups of a data frame."""
    return _frame().groupby("a").b.mean().compute().sort_index()


@workload("frame-describe", modules=("dask.dataframe", "pandas"))
def frame_describe(client: Client, folder: Path, prepared: None) -> Any:
    """Describe the columns of a data frame: six computations use each of them."""
    return _frame().describe().compute()


@workload("frame-merge", modules=("dask.dataframe", "pandas"))
def frame_merge(client: Client, folder: Path, prepared: None) -> Any:
    """Merge of a data frame with a shuffled one, summed by group."""
    import dask.dataframe as dd
    import pandas as pd

    names = pd.DataFrame({"a": np.arange(17), "weight": np.arange(17) / 17})
    right = dd.from_pandas(names, npartitions=4)
    merged = _frame().merge(right, on="a")
    return merged.groupby("a").weight.sum().compute().sort_index()


def add(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Add two blocks."""
    return np.asarray(left + right)


@workload("futures-tree")
def futures_tree(client: Client, folder: Path, prepared: None) -> Any:
    """Tree reduction with futures, submitted level by level."""
    level = client.map(load, range(128))
    while len(level) > 1:
        level = client.map(add, level[::2], level[1::2])
    return level[0].result()
