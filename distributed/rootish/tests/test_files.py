"""The report: files opened lazily, concatenated and averaged with weights.

Real files, with tiny chunks, through the libraries that people open them with. In
https://github.com/dask/distributed/issues/8969 five of them were loaded whole where
four were not. What is asserted is how many chunks were in memory at once, and that the
policies which go by the number of files, or by marks, do fail where they are known to.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import dask
import dask.array as da
import numpy as np
import pytest
from dask.utils import key_split

from distributed.rootish.tests.utils import (
    marks_stripped,
    policy_cluster,
    reading_tasks,
    slots,
    watch,
)

pytestmark = pytest.mark.usefixtures("files_closed")

#: Two workers with two threads each, as in the report: opening eight files is not more
#: than they can do at once.
CLUSTER = [("127.0.0.1", 2)] * 2

#: Time steps in a chunk, and the size of a step: 64 KiB.
STEPS = 2
FIELD = (32, 128)

#: Libraries that read and write files keep threads of their own.
FILES = {"clean_kwargs": {"threads": False}}

NFILES = [4, 5, 8, 100]


def chunks_per_file(nfiles: int) -> int:
    """Enough for all files to overrun the bound clearly."""
    return max(2, 40 // nfiles)


class Case(NamedTuple):
    """A weighted mean over files, ready to be computed."""

    mean: da.Array
    expected: np.ndarray
    reads: str  # prefix of the tasks that read
    nchunks: int


def values(file: int, nfiles: int) -> np.ndarray:
    steps = STEPS * chunks_per_file(nfiles)
    time = np.arange(steps) + file * steps
    return np.broadcast_to(np.sin(time)[:, None, None], (steps, *FIELD))


def weights(ntimes: int) -> np.ndarray:
    return 1.5 + np.cos(np.arange(ntimes))


def weighted_mean(x: da.Array) -> da.Array:
    w = da.from_array(weights(x.shape[0]), chunks=(x.chunks[0],))[:, None, None]
    return (x * w).sum(axis=0) / w.sum()


def write_zarr(path: Path, data: np.ndarray, start: int) -> None:
    import zarr

    array = zarr.open_array(
        str(path),
        mode="w",
        shape=data.shape,
        chunks=(STEPS, *FIELD),
        dtype="f8",
    )
    array[:] = data


def write_netcdf(path: Path, data: np.ndarray, start: int) -> None:
    import netCDF4

    with netCDF4.Dataset(path, "w") as ds:
        for name, size in zip(("time", "y", "x"), data.shape):
            ds.createDimension(name, size)
        time = ds.createVariable("time", "f8", ("time",))
        time.units = "days since 2000-01-01"
        time.standard_name = "time"
        time[:] = np.arange(data.shape[0]) + start
        t = ds.createVariable("t", "f8", ("time", "y", "x"), fill_value=False)
        t[:] = data


def open_zarr(paths: list[str]) -> da.Array:
    return weighted_mean(da.concatenate([da.from_zarr(path) for path in paths]))


def open_xarray(engine: str, paths: list[str]) -> da.Array:
    import xarray

    ds = xarray.open_mfdataset(
        paths,
        engine=engine,
        chunks={"time": STEPS},
        combine="nested",
        concat_dim="time",
        join="override",
        data_vars="minimal",
        coords="minimal",
        compat="override",
    )
    w = xarray.DataArray(weights(ds.sizes["time"]), dims="time")
    return ds["t"].weighted(w).mean("time").data


def open_iris(paths: list[str]) -> da.Array:
    import iris
    from iris.cube import CubeList
    from iris.fileformats.netcdf.loader import CHUNK_CONTROL

    # Left alone, Iris takes a whole file of this size for one chunk
    with CHUNK_CONTROL.set("t", time=STEPS):
        cubes = CubeList(iris.load_cube(path, "t") for path in paths)
    return weighted_mean(cubes.concatenate_cube().core_data())


SOURCES: dict[str, tuple[Callable[..., None], Callable[[list[str]], da.Array]]] = {
    "zarr": (write_zarr, open_zarr),
    "netcdf4": (write_netcdf, lambda paths: open_xarray("netcdf4", paths)),
    "h5netcdf": (write_netcdf, lambda paths: open_xarray("h5netcdf", paths)),
    "iris": (write_netcdf, open_iris),
}
MODULES = {"iris": "iris", "h5netcdf": "h5netcdf", "netcdf4": "netCDF4", "zarr": "zarr"}


@pytest.fixture(scope="module")
def case(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str, int], Case]]:
    """Write and open files, once for all tests that use the same ones."""
    written: dict[tuple[Callable[..., None], int], list[str]] = {}
    opened: dict[tuple[str, int], Case] = {}

    def make(source: str, nfiles: int) -> Case:
        for module in {"zarr", "xarray", "netCDF4", MODULES[source]}:
            pytest.importorskip(module)
        if (source, nfiles) in opened:
            return opened[source, nfiles]
        write, open_ = SOURCES[source]
        data = [values(i, nfiles) for i in range(nfiles)]
        if (write, nfiles) not in written:
            folder = tmp_path_factory.mktemp(source)
            paths = [folder / f"{i:03d}.data" for i in range(nfiles)]
            for i, path in enumerate(paths):
                write(path, data[i], i * len(data[i]))
            written[write, nfiles] = [str(path) for path in paths]
        (mean,) = dask.optimize(open_(written[write, nfiles]))
        reads = reading_tasks(mean)
        assert len(reads) == nfiles * chunks_per_file(nfiles)
        (prefix,) = set(map(key_split, reads))
        everything = np.concatenate(data)
        w = weights(len(everything))
        expected = np.average(everything, axis=0, weights=w)
        opened[source, nfiles] = Case(mean, expected, prefix, len(reads))
        return opened[source, nfiles]

    yield make
    opened.clear()


@policy_cluster(CLUSTER, **FILES)
async def compute(
    c: Any, s: Any, a: Any, b: Any, *, policy: str, case: Case, bounded: bool
) -> None:
    seen = await watch(s, case.reads)
    # Optimised already: a second time gives the tasks other names
    result = await c.compute(case.mean, optimize_graph=False)
    np.testing.assert_allclose(result, case.expected)
    assert seen.computed.total() == case.nchunks
    assert (seen.peak_chunks <= 2 * slots(s)) is bounded, (seen.peak_chunks, slots(s))
    # What is not held back is what overruns
    assert (seen.peak_sent <= slots(s)) is bounded, (seen.peak_sent, slots(s))


Open = Callable[[str, int], Case]


@pytest.mark.parametrize("nfiles", NFILES)
@pytest.mark.parametrize("source", SOURCES)
def test_without_marks(case: Open, source: str, nfiles: int) -> None:
    """However many files there are, whoever opens them, and marked by nobody."""
    opened = case(source, nfiles)
    with marks_stripped():
        compute(policy="producers", case=opened, bounded=True)


@pytest.mark.parametrize(
    ("source", "nfiles"),
    [
        *itertools.product(["zarr"], NFILES),
        ("netcdf4", 8),
        ("h5netcdf", 8),
        ("iris", 8),
    ],
)
def test_with_marks(case: Open, source: str, nfiles: int) -> None:
    """A mark changes nothing for the worse."""
    compute(policy="producers", case=case(source, nfiles), bounded=True)


@pytest.mark.parametrize(
    ("source", "nfiles"),
    [("zarr", 4), ("zarr", 5), ("zarr", 8), ("h5netcdf", 8), ("iris", 8)],
)
def test_number_of_files_misleads_heuristic(
    case: Open, source: str, nfiles: int
) -> None:
    """The count alone takes four files for a loader, and five for none."""
    compute(policy="heuristic", case=case(source, nfiles), bounded=nfiles < 5)


@pytest.mark.parametrize(
    ("source", "nfiles", "marks"),
    [
        ("zarr", 4, False),
        ("zarr", 5, False),
        ("zarr", 8, True),
        ("zarr", 8, False),
        ("netcdf4", 8, True),
        ("netcdf4", 8, False),
    ],
)
def test_missing_marks_mislead_marked(
    case: Open, source: str, nfiles: int, marks: bool
) -> None:
    """Marks help, but without them there is only the number of files."""
    opened = case(source, nfiles)
    with contextlib.nullcontext() if marks else marks_stripped():
        compute(policy="marked", case=opened, bounded=marks or nfiles < 5)
