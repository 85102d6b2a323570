"""The workloads: what users run, at a size that two cores bear.

A workload is a function that takes a client, a folder with files and what was prepared,
and computes something. The decorator :func:`workload` registers it under its name. Its
docstring says which row of the design's tables it is, and how the released base fared
there when the table was made: peak of managed memory and bytes moved between workers,
in MB, on 4 workers of 1 thread in one process unless it says otherwise.

Files are written once and reused. Where a row is about stores, the files are real;
where it is about futures and graphs, a load is an array of 2 MiB and a short sleep that
stands for the wait for storage.

Functions that run on workers are module-level functions of this module, so that workers
in other processes can import them. Libraries that not every user has are imported where
they are needed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from dask import delayed

from distributed import wait

if TYPE_CHECKING:
    from distributed import Client

#: Side of a quadratic chunk of float64 that has 2 MiB.
SIDE = 512
#: Where images begin, in metres.
WEST_NORTH = (500_000, 5_000_000)
#: Shape of one chunk: one step in time.
CHUNK = (1, SIDE, SIDE)
#: How long a synthetic load waits for its storage, in seconds.
LATENCY = 0.01
#: The largest ratio to the base as released that the fork may have.
LIMITS = {"peak_managed": 1.10, "moved": 1.10, "seconds": 1.05}


class Unavailable(Exception):
    """A workload or an option cannot be had in this environment."""


def require(name: str, modules: Iterable[str]) -> None:
    """Raise :exc:`Unavailable` if something needs modules that are missing."""
    missing = [m for m in modules if importlib.util.find_spec(m.split(".")[0]) is None]
    if missing:
        raise Unavailable(f"{name} needs {', '.join(missing)}: pip install it")


def _nothing(client: Client, folder: Path) -> Any:
    return None


def _no_files(folder: Path) -> None:
    return None


@dataclass(frozen=True)
class Workload:
    """A named computation.

    Attributes
    ----------
    name : str
        Name on the command line.
    compute : callable
        Called with client, folder and what ``prepare`` returned; what it does is
        measured, and what it returns is compared between runs.
    prepare : callable
        Called with client and folder before; not measured.
    write : callable
        Called with the folder before there is a cluster; writes what files are missing.
    modules : tuple of str
        Modules beyond dask.array that it needs; imported beforehand.
    limits : dict of str to float
        The largest ratio to the base as released that the fork may have, by the name of
        what is measured, where it is not that of :data:`LIMITS`.
    """

    name: str
    compute: Callable[[Client, Path, Any], Any]
    prepare: Callable[[Client, Path], Any] = _nothing
    write: Callable[[Path], Any] = _no_files
    modules: tuple[str, ...] = ()
    limits: dict[str, float] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """First line of the docstring."""
        return (self.compute.__doc__ or self.name).strip().splitlines()[0]

    def check(self) -> None:
        """Raise :exc:`Unavailable` if a module is missing."""
        require(self.name, self.modules)


WORKLOADS: dict[str, Workload] = {}


def workload(
    name: str, **fields: Any
) -> Callable[[Callable[[Client, Path, Any], Any]], Callable[[Client, Path, Any], Any]]:
    """Register the decorated function as the workload ``name``.

    Parameters
    ----------
    name
        Name on the command line.
    **fields
        Other fields of :class:`Workload`.
    """

    def register(
        compute: Callable[[Client, Path, Any], Any],
    ) -> Callable[[Client, Path, Any], Any]:
        if name in WORKLOADS:
            raise ValueError(f"there are two workloads with the name {name!r}")
        WORKLOADS[name] = Workload(name, compute, **fields)
        return compute

    return register


# Files


@contextmanager
def once(path: Path) -> Iterator[Path | None]:
    """Give a path to write to if ``path`` does not exist yet, else None.

    What was written takes its final name when the block ends without an error, so that
    an interruption leaves nothing that looks complete.
    """
    if path.exists():
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial-{path.name}")
    if partial.is_dir():
        shutil.rmtree(partial)
    partial.unlink(missing_ok=True)
    yield partial
    os.utime(partial, (0, 0))
    partial.rename(path)


def one_step(step: int) -> np.ndarray:
    """Return the data of one time step, a smooth field, float64 of 2 MiB."""
    x = np.linspace(0, 1, SIDE)
    return np.add.outer(x, np.sin(step + 6 * x))[None]


def write_stores(
    paths: list[Path],
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    fill: Callable[[Any, int], None],
) -> list[str]:
    """Write Zarr stores of float64 that are not there yet; return their paths.

    Parameters
    ----------
    paths
        Where they are to be.
    shape, chunks
        Of each.
    fill
        Writes the data of one, given its array and its number.
    """
    import zarr

    for n, path in enumerate(paths):
        with once(path) as target:
            if target is not None:
                array = zarr.create_array(
                    str(target),
                    shape=shape,
                    chunks=chunks,
                    dtype="float64",
                    # Not compressed: the size of the files is that of the data.
                    compressors=None,
                )
                fill(array, n)
    return [str(path) for path in paths]


def zarr_stores(folder: Path, stores: int, steps: int) -> list[str]:
    """Write ``stores`` Zarr stores of ``steps`` chunks each; return their paths."""

    def fill(array: Any, n: int) -> None:
        for step in range(steps):
            array[step] = one_step(n * steps + step)[0]

    paths = [folder / f"zarr-{stores}x{steps}" / f"{n}.zarr" for n in range(stores)]
    return write_stores(paths, (steps, SIDE, SIDE), CHUNK, fill)


def netcdf_files(folder: Path, files: int, steps: int) -> list[str]:
    """Write ``files`` NetCDF files of ``steps`` chunks each; return their paths."""
    import netCDF4

    paths = [folder / f"netcdf-{files}x{steps}" / f"{n}.nc" for n in range(files)]
    for n, path in enumerate(paths):
        with once(path) as target:
            if target is not None:
                with netCDF4.Dataset(target, "w") as dataset:
                    dataset.createDimension("time", steps)
                    dataset.createDimension("y", SIDE)
                    dataset.createDimension("x", SIDE)
                    time_ = dataset.createVariable("time", "f8", ("time",))
                    time_[:] = n * steps + np.arange(steps)
                    variable = dataset.createVariable(
                        "t", "f8", ("time", "y", "x"), chunksizes=CHUNK
                    )
                    for step in range(steps):
                        variable[step] = one_step(n * steps + step)[0]
    return [str(path) for path in paths]


def stac_item(
    number: int,
    path: Path,
    shape: tuple[int, int],
    bbox: tuple[float, float, float, float],
) -> dict[str, Any]:
    """Describe an image that begins at :data:`WEST_NORTH`, for stackstac and odc-stac.

    Parameters
    ----------
    number
        Its day, from 0.
    path
        The image.
    shape
        Rows and columns, of 10 m each.
    bbox
        West, south, east and north, in degrees.
    """
    west, north = WEST_NORTH
    x0, y0, x1, y1 = bbox
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": f"image-{number}",
        "collection": "images",
        "geometry": {
            "type": "Polygon",
            "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]],
        },
        "bbox": list(bbox),
        "properties": {
            "datetime": f"2020-01-{number + 1:02}T00:00:00Z",
            "proj:epsg": 32631,
            "proj:code": "EPSG:32631",
            "proj:shape": list(shape),
            "proj:transform": [10, 0, west, 0, -10, north, 0, 0, 1],
        },
        "assets": {"t": {"href": str(path), "type": "image/tiff", "roles": ["data"]}},
        "links": [],
        "stac_extensions": [
            "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
        ],
    }


def geotiffs(folder: Path, files: int) -> list[dict[str, Any]]:
    """Write GeoTIFFs of 4 chunks each; return them as STAC items."""
    import rasterio
    from rasterio.transform import from_origin

    side = 2 * SIDE
    west, north = WEST_NORTH
    items = []
    for n in range(files):
        path = folder / f"geotiff-{files}" / f"{n}.tif"
        with once(path) as target:
            if target is not None:
                with rasterio.open(
                    target,
                    "w",
                    driver="GTiff",
                    width=side,
                    height=side,
                    count=1,
                    dtype="float32",
                    crs="EPSG:32631",
                    transform=from_origin(west, north, 10, 10),
                    tiled=True,
                    blockxsize=SIDE,
                    blockysize=SIDE,
                ) as image:
                    data = np.tile(one_step(n)[0], (2, 2)).astype("float32")
                    image.write(data, 1)
        items.append(stac_item(n, path, (side, side), (3.0, 45.0, 3.2, 45.2)))
    return items


# Functions that run on workers


def open_handle(path: str) -> Any:
    """Open a Zarr array."""
    import zarr

    return zarr.open_array(path, mode="r")


def read(handle: Any, step: int) -> np.ndarray:
    """Read one chunk through something that was opened."""
    return np.asarray(handle[step : step + 1])


def load(number: int, *others: Any) -> np.ndarray:
    """Bring 2 MiB into the cluster, whatever the other arguments are."""
    time.sleep(LATENCY)
    return np.full(CHUNK, float(number))


def stack(parts: list[Any], shape: tuple[int, ...] = CHUNK) -> da.Array:
    """Return an array along time of the given delayed chunks."""
    return da.concatenate(
        [da.from_delayed(part, shape=shape, dtype="float64") for part in parts]
    )


def weighted_mean(array: da.Array) -> Any:
    """Return the mean, weighted by chunked weights of half the size of the data.

    The weights come from tasks of their own and are needed twice, so that nothing fuses
    with the reads: this is the shape of the report.
    """
    random = da.random.default_rng(0)
    weights = random.random(array.shape, chunks=array.chunks, dtype="float32")
    return ((array * weights).sum() / weights.sum()).compute()


# The tables of section 1


def from_stores(paths: Iterable[str]) -> da.Array:
    """Return an array along time of whole Zarr stores."""
    import zarr

    # Opened here, so that old releases of dask take arrays of zarr 3 too
    return da.concatenate([da.from_zarr(zarr.open_array(p, mode="r")) for p in paths])


def from_handles(folder: Path, steps: int) -> da.Array:
    """Return the first chunks, so many, of each of 8 opened handles."""
    chunks = []
    for path in zarr_stores(folder, 8, 30):
        handle = delayed(open_handle)(path)
        chunks += [delayed(read)(handle, step) for step in range(steps)]
    return stack(chunks, CHUNK)


def _one_zarr(folder: Path, number: int) -> da.Array:
    """Return a whole store: nothing fuses with the reads of several together."""
    import zarr

    return da.from_zarr(zarr.open_array(zarr_stores(folder, 2, 96)[number], mode="r"))


@workload("zarr-4", write=lambda folder: zarr_stores(folder, 4, 60), modules=("zarr",))
def zarr_4(client: Client, folder: Path, prepared: None) -> Any:
    """4 Zarr stores, weighted mean.

    Release: peak 24 on 2 workers x 2 threads (2024.12.0: 18).
    """
    return weighted_mean(from_stores(zarr_stores(folder, 4, 60)))


@workload("zarr-8", write=lambda folder: zarr_stores(folder, 8, 30), modules=("zarr",))
def zarr_8(client: Client, folder: Path, prepared: None) -> Any:
    """8 Zarr stores, weighted mean: the report.

    Release: peak 24 on 2 workers x 2 threads (2024.12.0: 493).
    """
    return weighted_mean(from_stores(zarr_stores(folder, 8, 30)))


def limit_cache(client: Client, folder: Path) -> None:
    """Let netCDF keep 4 MiB for each open file."""
    import netCDF4

    # By default 64 MiB for each open file, which is all of it: the memory of the
    # processes would show netCDF's cache and nothing else
    client.run(netCDF4.set_chunk_cache, 4 * 2**20)


@workload(
    "netcdf-8",
    prepare=limit_cache,
    write=lambda folder: netcdf_files(folder, 8, 30),
    modules=("xarray", "netCDF4"),
)
def netcdf_8(client: Client, folder: Path, prepared: None) -> Any:
    """8 NetCDF files through xarray open_mfdataset, weighted mean.

    Release: peak 27 on 2 workers x 2 threads (2024.12.0: 572).
    """
    import xarray

    with xarray.open_mfdataset(
        netcdf_files(folder, 8, 30), chunks={"time": 1}, engine="netcdf4"
    ) as dataset:
        return weighted_mean(dataset.t.data)


@workload(
    "handles",
    write=lambda folder: zarr_stores(folder, 8, 30),
    modules=("zarr",),
    limits={"peak_managed": 0.2},
)
def handles(client: Client, folder: Path, prepared: None) -> Any:
    """Read through 8 opened handles, weighted mean. Release: 332 / 412."""
    return weighted_mean(from_handles(folder, 30))


@workload(
    "stackstac",
    write=lambda folder: geotiffs(folder, 24),
    modules=("stackstac", "rasterio"),
    limits={"peak_managed": 0.35},
)
def stackstac_mean(client: Client, folder: Path, prepared: None) -> Any:
    """stackstac.stack(...).mean("time") over 24 GeoTIFFs. Release: 128 / 352."""
    import stackstac

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = stackstac.stack(
            geotiffs(folder, 24),
            epsg=32631,
            resolution=10,
            chunksize=SIDE // 2,
            # Without these two it fails on NumPy 2.
            rescale=False,
            fill_value=np.float64("nan"),
        )
    return images.mean("time").compute()


@workload(
    "odc-stac",
    write=lambda folder: geotiffs(folder, 24),
    modules=("odc.stac", "pystac"),
)
def odc_stac_mean(client: Client, folder: Path, prepared: None) -> Any:
    """odc.stac.load(...).mean("time") over 24 GeoTIFFs."""
    import odc.stac
    import pystac

    west, north = WEST_NORTH
    metres = 10 * 2 * SIDE
    dataset = odc.stac.load(
        [pystac.Item.from_dict(item) for item in geotiffs(folder, 24)],
        bands=["t"],
        chunks={"x": SIDE // 2, "y": SIDE // 2},
        crs="EPSG:32631",
        resolution=10,
        x=(west, west + metres),
        y=(north - metres, north),
        dtype="float64",
    )
    return dataset.t.mean("time").compute()


def process(block: np.ndarray) -> np.ndarray:
    """Stand for a step that prepares observations."""
    time.sleep(LATENCY)
    return block * 1.01


@workload(
    "bias",
    write=lambda folder: zarr_stores(folder, 2, 96),
    modules=("zarr",),
    limits={"moved": 0.3},
)
def bias(client: Client, folder: Path, prepared: None) -> Any:
    """Bias of a model against observations less their mean. Release: 315 / 486.

    What the design's observations went through is not known; here they are all in
    memory before the first is compared, and the read of the model is fused with that.
    """
    model, observed = _one_zarr(folder, 0), _one_zarr(folder, 1)
    anomaly = da.map_blocks(process, observed, dtype="float64")
    return abs(model - (anomaly - anomaly.mean())).mean().compute()


def pencils(array: da.Array, side: int = 128) -> da.Array:
    """Rechunk with tasks to chunks that hold the whole time axis."""
    return array.rechunk({0: -1, 1: side, 2: side}, method="tasks")


@workload(
    "rechunk-tasks",
    write=lambda folder: zarr_stores(folder, 6, 32),
    modules=("zarr",),
    limits={"peak_managed": 0.5, "moved": 0.5},
)
def rechunk_tasks(client: Client, folder: Path, prepared: None) -> Any:
    """6 stores, rechunk(method="tasks") to pencils. Release: 1368 / 1600."""
    return pencils(from_stores(zarr_stores(folder, 6, 32))).std(axis=0).mean().compute()


# The table of shapes in section 4


def _persist_observations(client: Client, folder: Path) -> da.Array:
    array = da.random.default_rng(1).random((96, SIDE, SIDE), chunks=CHUNK)
    array = client.persist(array)
    wait(array)
    return array


@workload(
    "persisted",
    prepare=_persist_observations,
    write=lambda folder: zarr_stores(folder, 2, 96),
    modules=("zarr",),
)
def persisted(client: Client, folder: Path, prepared: da.Array) -> Any:
    """Store minus persisted observations, mean. Release: 336 / 181."""
    return (_one_zarr(folder, 0) - prepared).mean().compute()


@workload(
    "persisted-pencils",
    prepare=_persist_observations,
    write=lambda folder: zarr_stores(folder, 2, 96),
    modules=("zarr",),
)
def persisted_pencils(client: Client, folder: Path, prepared: da.Array) -> Any:
    """Store minus persisted observations, then pencils in time. Release: 1189 / 926."""
    return pencils(_one_zarr(folder, 0) - prepared).std(axis=0).mean().compute()


def make_frame(number: int) -> Any:
    """Return a data frame of 128 KB."""
    import pandas as pd

    return pd.DataFrame({"a": np.arange(8000) % 17, "b": np.full(8000, number / 2)})


def _submit_frames(client: Client, folder: Path) -> Any:
    frames = client.map(make_frame, range(200))
    wait(frames)
    return frames


@workload(
    "dd-from-futures", prepare=_submit_frames, modules=("dask.dataframe", "pandas")
)
def dd_from_futures(client: Client, folder: Path, prepared: Any) -> Any:
    """dd.from_delayed(futures), mean by group. Release: 32 / 6.4."""
    import dask.dataframe as dd

    frame = dd.from_delayed(prepared, meta=make_frame(0))
    return (frame.b + frame.a).sum().compute()


def make_split(number: int) -> np.ndarray:
    """Return 16 MB."""
    return np.full(2_000_000, float(number))


def fit(split: np.ndarray, parameter: int) -> float:
    """Stand for fitting a model: half of the time waits, and little comes out."""
    time.sleep(0.02)
    return float(split[:1000].sum()) * parameter


@workload("splits")
def splits(client: Client, folder: Path, prepared: None) -> Any:
    """3 computed splits of 16 MB, 201 model fits. Release: 144 / 144."""
    parts = [delayed(make_split)(number) for number in range(3)]
    fits = [delayed(fit)(part, n) for part in parts for n in range(67)]
    return delayed(sum)(fits).compute()


def read_block(dataset: Any, step: int) -> np.ndarray:
    """Read one block of a dataset of xarray."""
    return np.asarray(dataset.t[step : step + 1].values)


@workload(
    "open-dataset",
    write=lambda folder: netcdf_files(folder, 8, 30),
    modules=("xarray", "h5netcdf", "netCDF4"),
)
def open_dataset(client: Client, folder: Path, prepared: None) -> Any:
    """4 delayed(xr.open_dataset), 120 block loads. Release: 775 / 867."""
    import xarray

    chunks = []
    for path in netcdf_files(folder, 8, 30)[:4]:
        # Not netcdf4: xarray opens with it outside its lock, and HDF5 may crash
        dataset = delayed(xarray.open_dataset)(path, engine="h5netcdf")
        chunks += [delayed(read_block)(dataset, step) for step in range(30)]
    return weighted_mean(stack(chunks))


@workload("named-loads")
def named_loads(client: Client, folder: Path, prepared: None) -> Any:
    """Load with a dask_key_name each: one group per file. Release: 412 / 177."""
    return weighted_mean(
        stack([delayed(load)(n, dask_key_name=f"load_{n}") for n in range(200)])
    )


def make_table(number: int, nbytes: int) -> np.ndarray:
    """Return a table of the given size."""
    return np.full(nbytes // 8, float(number))


def _tables(number: int, nbytes: int, loads: int) -> Any:
    chunks = []
    for n in range(number):
        table = delayed(make_table)(n, nbytes)
        chunks += [delayed(load)(n * loads + i, table) for i in range(loads)]
    return weighted_mean(stack(chunks))


@workload("handles-40k")
def handles_40k(client: Client, folder: Path, prepared: None) -> Any:
    """6 handles of 40 KB, 30 loads each. Release: 290 / 306."""
    return _tables(6, 40_000, 30)


def open_h5(path: str) -> Any:
    """Open a file with h5py."""
    import h5py

    return h5py.File(path, mode="r")


def read_h5(file: Any, step: int) -> np.ndarray:
    """Read one chunk of a file opened with h5py."""
    return np.asarray(file["t"][step : step + 1])


@workload(
    "h5py-files",
    # NetCDF 4 is HDF5.
    write=lambda folder: netcdf_files(folder, 8, 30),
    modules=("h5py", "netCDF4"),
)
def h5py_files(client: Client, folder: Path, prepared: None) -> Any:
    """6 delayed(h5py.File), 30 reads each. Release: 325 / 110."""
    chunks = []
    for path in netcdf_files(folder, 8, 30)[:6]:
        file = delayed(open_h5)(path)
        chunks += [delayed(read_h5)(file, step) for step in range(30)]
    return weighted_mean(stack(chunks))


def make_path(number: int) -> str:
    """Return a path that takes 76 bytes of memory."""
    return f"data/model/run-a/{number:07}.nc"


def _finish_paths(client: Client, folder: Path) -> list[Any]:
    paths = [delayed(make_path)(n).persist() for n in range(200)]
    wait(paths)
    return paths


def load_path(path: str) -> np.ndarray:
    """Load the chunk that a path names."""
    return load(int(path[-10:-3]))


@workload("paths", prepare=_finish_paths)
def paths(client: Client, folder: Path, prepared: list[Any]) -> Any:
    """200 finished path tasks of 76 bytes, one load each. Release: 406 / 182."""
    return weighted_mean(stack([delayed(load_path)(path) for path in prepared]))


def pass_on(path: str, barrier: None) -> str:
    """Return the path once the barrier is there."""
    return path


def stand_still(paths: list[str]) -> None:
    """Wait for all paths."""


@workload("paths-barrier")
def paths_barrier(client: Client, folder: Path, prepared: None) -> Any:
    """200 path tasks behind one barrier task, one load each. Release: 416."""
    made = [delayed(make_path)(n) for n in range(200)]
    barrier = delayed(stand_still)(made)
    return weighted_mean(
        stack([delayed(load_path)(delayed(pass_on)(path, barrier)) for path in made])
    )


@workload("tables-6")
def tables_6(client: Client, folder: Path, prepared: None) -> Any:
    """6 reference tables of 1.3 MB, 30 loads each. Release: 328."""
    return _tables(6, 1_300_000, 30)


def run_step(step: str, *args: Any) -> np.ndarray:
    """Do what a step of a workflow names: load or scale."""
    if step == "load":
        return load(args[0])
    return np.asarray(args[0] * 2)


def load_step(number: int) -> np.ndarray:
    """Do what run_step does to load."""
    return load(number)


def scale_step(block: np.ndarray) -> np.ndarray:
    """Do what run_step does to scale."""
    return np.asarray(block * 2)


def five(*blocks: np.ndarray) -> float:
    """Combine five blocks, wherever they are, to a number."""
    return float(sum(block.mean() for block in blocks))


def by_five(blocks: list[Any]) -> Any:
    """Combine blocks by five, and what comes out of that."""
    combine = delayed(five)
    parts = [combine(*blocks[n : n + 5]) for n in range(0, len(blocks), 5)]
    return delayed(sum)(parts).compute()


@workload("run-step")
def one_function(client: Client, folder: Path, prepared: None) -> Any:
    """One function for every step, a group that depends on itself. Release: 78."""
    step = delayed(run_step)
    return by_five([step("scale", step("load", n)) for n in range(200)])


@workload("run-step-named")
def named_functions(client: Client, folder: Path, prepared: None) -> Any:
    """Give each step a function name of its own. Release: 44."""
    loads = [delayed(load_step)(n) for n in range(200)]
    return by_five([delayed(scale_step)(block) for block in loads])


class Loader:
    """A function for one file, with a name of its own."""

    def __init__(self, number: int):
        self.__name__ = f"load_file_{number}"
        self.number = number

    def __call__(self) -> np.ndarray:
        return load(self.number)


@workload("function-per-file")
def function_per_file(client: Client, folder: Path, prepared: None) -> Any:
    """Use a different function name for every file. Release: 82."""
    loads = [delayed(Loader(n), pure=False)() for n in range(200)]
    return by_five([delayed(scale_step)(block) for block in loads])


@workload("tables-4")
def tables_4(client: Client, folder: Path, prepared: None) -> Any:
    """4 reference tables of 1.3 MB, 30 loads each. Release: 39 / 150."""
    return _tables(4, 1_300_000, 30)


@workload("table-8mb")
def table_computed(client: Client, folder: Path, prepared: None) -> Any:
    """200 loads that all use one computed 8 MB table. Release: 59 / 215."""
    return _tables(1, 8_000_000, 200)


def _scatter_table(client: Client, folder: Path) -> Any:
    return client.scatter(make_table(0, 8_000_000))


@workload("table-8mb-scattered", prepare=_scatter_table)
def table_scattered(client: Client, folder: Path, prepared: Any) -> Any:
    """200 loads that all use one scattered 8 MB table. Release: 59 / 215."""
    return weighted_mean(stack([delayed(load)(n, prepared) for n in range(200)]))


def make_mask() -> np.ndarray:
    """Return a 2-D mask of 0.5 MB."""
    rows = np.arange(SIDE, dtype="int16")
    return (np.add.outer(rows, rows) % 3 == 0).astype("int16")


def smooth(block: np.ndarray) -> np.ndarray:
    """Average neighbours in time."""
    result = block.copy()
    result[1:-1] = (block[:-2] + block[1:-1] + block[2:]) / 3
    return result


@workload(
    "mask-overlap",
    write=lambda folder: zarr_stores(folder, 2, 96),
    modules=("zarr",),
)
def mask_overlap(client: Client, folder: Path, prepared: None) -> Any:
    """where(computed 2-D mask, read) then overlap, 96 reads. Release: 50 / 180."""
    mask = da.from_delayed(delayed(make_mask)(), (SIDE, SIDE), dtype="int16")
    read = _one_zarr(folder, 0).astype("float32")
    chosen = da.where(mask, read, np.float32(0))
    return chosen.map_overlap(smooth, depth={0: 1}, boundary="nearest").mean().compute()


def make_tile(number: int) -> np.ndarray:
    """Return a computed tile of 51 KB."""
    time.sleep(LATENCY / 2)
    return np.full((80, 80), float(number))


def cut(tile: np.ndarray, number: int) -> np.ndarray:
    """Return a part of a tile."""
    return tile[number * 10 : number * 10 + 10].copy()


@workload("tile-cuts")
def tile_cuts(client: Client, folder: Path, prepared: None) -> Any:
    """8 cuts of each computed 51 KB tile. Release: 22 / 0."""
    tiles = [delayed(make_tile)(n) for n in range(400)]
    cuts = [delayed(cut)(tile, n) for tile in tiles for n in range(8)]
    done = client.compute(cuts)
    wait(done)
    return len(done)


def small_work(array: np.ndarray, number: int) -> float:
    """Work for 5 ms."""
    time.sleep(0.005)
    return float(array[number])


def _scatter_array(client: Client, folder: Path) -> Any:
    return client.scatter(np.arange(4_000_000, dtype="float64"))


@workload("scattered", prepare=_scatter_array)
def scattered(client: Client, folder: Path, prepared: Any) -> Any:
    """One scattered 32 MB array, 1,000 tasks of 5 ms. Release: 2.0 seconds."""
    tasks = [client.submit(small_work, prepared, n) for n in range(1000)]
    return client.gather(client.submit(sum, tasks))
