"""The readers: the ways in which people bring chunked data into a cluster.

Each reader writes a few small files, opens them lazily with a library as released, and
consumes the chunks so that each one has to be in memory: twice, so that the read does
not fuse with what uses it. :mod:`continuous_integration.benchmarks.matrix` runs them
and says how they were judged.

The decorator :func:`reader` registers a function under its name; a new reader is one
function here. Libraries are imported where they are needed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import dask
import dask.array as da
import numpy as np
from dask import delayed
from dask.utils import SerializableLock

from continuous_integration.benchmarks.workloads import (
    WEST_NORTH,
    once,
    require,
    stac_item,
)

if TYPE_CHECKING:
    from distributed import Client

#: Files that each reader opens: more than the count of dependencies bears.
FILES = 6
#: Chunks in each file.
STEPS = 8
#: Side of a quadratic chunk of float64 of 128 KiB.
SIDE = 128
CHUNK = (1, SIDE, SIDE)


@dataclass(frozen=True)
class Reader:
    """A way to bring chunks into a cluster.

    Attributes
    ----------
    name : str
        Name on the command line.
    open : callable
        Called with a client and the folder of the files; returns what is to be
        computed, as a list of collections or of futures.
    reads : str
        Regular expression for the whole names of the task prefixes whose tasks bring
        the chunks in.
    chunks : int
        Number of such tasks.
    modules : tuple of str
        Modules beyond dask.array that it needs.
    """

    name: str
    open: Callable[[Client, Path], list[Any]]
    reads: str
    chunks: int = FILES * STEPS
    modules: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """First line of the docstring."""
        return (self.open.__doc__ or self.name).strip().splitlines()[0]

    def check(self) -> None:
        """Raise :exc:`Unavailable` if a module is missing."""
        require(self.name, self.modules)


READERS: dict[str, Reader] = {}

_Open = Callable[["Client", Path], list[Any]]


def reader(name: str, reads: str, **fields: Any) -> Callable[[_Open], _Open]:
    """Register the decorated function as the reader ``name``.

    Parameters
    ----------
    name
        Name on the command line.
    reads
        See :class:`Reader`.
    **fields
        Other fields of :class:`Reader`.
    """

    def register(open_: _Open) -> _Open:
        if name in READERS:
            raise ValueError(f"there are two readers with the name {name!r}")
        READERS[name] = Reader(name, open_, reads, **fields)
        return open_

    return register


# What consumes the chunks


def twice(array: Any) -> list[Any]:
    """Reduce an array of dask or xarray twice, so that reads do not fuse."""
    data = array if isinstance(array, da.Array) else array.data
    # In one collection: several are optimised each by itself, and read twice
    return [da.stack([data.sum(), (data * data).sum()])]


def block(number: int) -> np.ndarray:
    """Return one chunk of data."""
    return np.sin(number + np.arange(SIDE * SIDE)).reshape(CHUNK)


# Files


def _data(number: int) -> np.ndarray:
    """Return the data of one file."""
    return np.concatenate([block(number * STEPS + step) for step in range(STEPS)])


def _write(
    folder: Path, kind: str, write: Callable[[Path, int], None], files: int = FILES
) -> list[Path]:
    """Write the files of one kind where they are missing; return their paths."""
    paths = [folder / f"readers-{kind}" / f"{n:02}.{kind}" for n in range(files)]
    for n, path in enumerate(paths):
        with once(path) as target:
            if target is not None:
                write(target, n)
    return paths


def _zarr(folder: Path, zarr_format: Literal[2, 3]) -> list[Path]:
    import zarr

    def write(path: Path, number: int) -> None:
        array = zarr.create_array(
            str(path),
            shape=(STEPS, SIDE, SIDE),
            chunks=CHUNK,
            dtype="float64",
            zarr_format=zarr_format,
        )
        array[:] = _data(number)

    return _write(folder, f"zarr{zarr_format}", write)


def _netcdf(folder: Path) -> list[Path]:
    import netCDF4

    def write(path: Path, number: int) -> None:
        with netCDF4.Dataset(path, "w") as dataset:
            for name, size in zip(("time", "y", "x"), (STEPS, SIDE, SIDE)):
                dataset.createDimension(name, size)
            time = dataset.createVariable("time", "f8", ("time",))
            time.units = "days since 2000-01-01"
            time.standard_name = "time"
            time[:] = number * STEPS + np.arange(STEPS)
            variable = dataset.createVariable(
                "t", "f8", ("time", "y", "x"), chunksizes=CHUNK, fill_value=False
            )
            variable[:] = _data(number)

    return _write(folder, "nc", write)


def _xarray_zarr(folder: Path) -> list[Path]:
    def write(path: Path, number: int) -> None:
        dataset(number).to_zarr(path, encoding={"t": {"chunks": CHUNK}})

    def dataset(number: int) -> Any:
        import xarray

        time = number * STEPS + np.arange(STEPS)
        return xarray.Dataset(
            {"t": (("time", "y", "x"), _data(number))}, {"time": time}
        )

    return _write(folder, "xarray-zarr", write)


def _images(folder: Path) -> list[Path]:
    """Write one image for each chunk."""
    from PIL import Image

    def write(path: Path, number: int) -> None:
        pixels = (block(number)[0] * 100 + 100).astype("uint8")
        Image.fromarray(np.tile(pixels, (3, 3))).save(path, format="png")

    return _write(folder, "png", write, FILES * STEPS)


def _geotiffs(folder: Path) -> list[Path]:
    """Write tiled images of ``STEPS`` chunks each."""
    import rasterio
    from rasterio.transform import from_origin

    def write(path: Path, number: int) -> None:
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            width=SIDE * 4,
            height=SIDE * (STEPS // 4),
            count=1,
            dtype="float64",
            crs="EPSG:32631",
            transform=from_origin(*WEST_NORTH, 10, 10),
            tiled=True,
            blockxsize=SIDE,
            blockysize=SIDE,
        ) as image:
            image.write(_data(number).reshape(SIDE * (STEPS // 4), SIDE * 4), 1)

    return _write(folder, "tif", write)


def _stac_items(folder: Path) -> list[dict[str, Any]]:
    """Return the images as STAC items."""
    shape = SIDE * (STEPS // 4), SIDE * 4
    return [
        stac_item(n, path, shape, (3.0, 45.1, 3.1, 45.2))
        for n, path in enumerate(_geotiffs(folder))
    ]


# Functions that run on workers


def load(number: int) -> np.ndarray:
    """Bring one chunk in."""
    return block(number)


def load_block(block_info: Any = None) -> np.ndarray:
    """Bring in the chunk at the place that dask tells."""
    return block(block_info[None]["chunk-location"][0])


def load_frame(number: int) -> Any:
    """Bring in a partition of a data frame, of the size of a chunk."""
    import pandas as pd

    size = SIDE * SIDE // 2
    return pd.DataFrame({"a": np.arange(size) % 7, "b": np.full(size, float(number))})


def load_records(number: int) -> list[float]:
    """Bring in a partition of a bag."""
    return [float(number)] * (SIDE * SIDE // 4)


def open_zarr(path: str) -> Any:
    """Open a Zarr array."""
    import zarr

    return zarr.open_array(path, mode="r")


def read_step(handle: Any, step: int) -> np.ndarray:
    """Read one chunk through something that was opened."""
    return np.asarray(handle[step : step + 1])


def count(records: Iterable[Any]) -> int:
    """Consume a partition of a bag."""
    return sum(1 for _ in records)


def square_sum(chunk: np.ndarray) -> float:
    """Consume a chunk."""
    return float((chunk * chunk).sum())


# dask.array


def _from_array(variables: Iterable[Any]) -> list[Any]:
    # One lock for all: it is HDF5 that bears no second thread, not the file
    lock = SerializableLock()
    arrays = [da.from_array(one, chunks=CHUNK, lock=lock) for one in variables]
    return twice(da.concatenate(arrays))


@cache
def _open_netcdf4(folder: Path) -> list[Any]:
    """Open the files with netCDF4, once.

    A file that is forgotten is closed in whichever thread forgets it, without a lock:
    while others are read they must be kept.
    """
    import netCDF4

    return [netCDF4.Dataset(path) for path in _netcdf(folder)]


@reader("from-zarr-2", "from-zarr", modules=("zarr",))
def from_zarr_2(client: Client, folder: Path) -> list[Any]:
    """dask.array.from_zarr, Zarr format 2."""
    return twice(da.concatenate([da.from_zarr(p) for p in _zarr(folder, 2)]))


@reader("from-zarr-3", "from-zarr", modules=("zarr",))
def from_zarr_3(client: Client, folder: Path) -> list[Any]:
    """dask.array.from_zarr, Zarr format 3."""
    return twice(da.concatenate([da.from_zarr(p) for p in _zarr(folder, 3)]))


@reader("from-array-h5py", "array", modules=("h5py", "netCDF4"))
def from_h5py(client: Client, folder: Path) -> list[Any]:
    """dask.array.from_array on datasets of h5py."""
    import h5py

    return _from_array(h5py.File(path, mode="r")["t"] for path in _netcdf(folder))


@reader("from-array-netcdf4", "array", modules=("netCDF4",))
def from_netcdf4(client: Client, folder: Path) -> list[Any]:
    """dask.array.from_array on variables of netCDF4."""
    return _from_array(dataset["t"] for dataset in _open_netcdf4(folder))


@reader("from-delayed", "load-from-value")
def from_delayed(client: Client, folder: Path) -> list[Any]:
    """dask.array.from_delayed."""
    loads = [delayed(load)(number) for number in range(FILES * STEPS)]
    return twice(
        da.concatenate([da.from_delayed(one, CHUNK, dtype="float64") for one in loads])
    )


@reader("map-blocks", "load_block")
def map_blocks(client: Client, folder: Path) -> list[Any]:
    """dask.array.map_blocks without inputs."""
    chunks = ((1,) * (FILES * STEPS), SIDE, SIDE)
    return twice(da.map_blocks(load_block, chunks=chunks, dtype="float64"))


@reader("from-npy-stack", "from-npy-stack")
def from_npy_stack(client: Client, folder: Path) -> list[Any]:
    """dask.array.from_npy_stack."""
    path = folder / "readers-npy"
    with once(path) as target:
        if target is not None:
            data = np.concatenate([_data(number) for number in range(FILES)])
            with dask.config.set(scheduler="synchronous"):
                da.to_npy_stack(target, da.from_array(data, chunks=CHUNK))
    return twice(da.from_npy_stack(path))


@reader("image-imread", "imread", modules=("skimage",))
def imread(client: Client, folder: Path) -> list[Any]:
    """dask.array.image.imread."""
    from dask.array.image import imread

    _images(folder)
    return twice(imread(str(folder / "readers-png" / "*.png")).astype("float64"))


@reader("random", "random")
def random(client: Client, folder: Path) -> list[Any]:
    """dask.array.random."""
    shape = (FILES * STEPS, SIDE, SIDE)
    return twice(da.random.default_rng(0).random(shape, chunks=CHUNK))


# xarray


@reader("xarray-open-zarr", "open_dataset-t", modules=("xarray", "zarr"))
def xarray_open_zarr(client: Client, folder: Path) -> list[Any]:
    """xarray.open_zarr, concatenated."""
    import xarray

    datasets = [xarray.open_zarr(path) for path in _xarray_zarr(folder)]
    return twice(xarray.concat(datasets, "time").t)


def _open_mfdataset(folder: Path, **options: Any) -> list[Any]:
    import xarray

    arguments = {
        "engine": "netcdf4",
        "chunks": {"time": 1},
        "combine": "nested",
        "concat_dim": "time",
        **options,
    }
    return twice(xarray.open_mfdataset(_netcdf(folder), **arguments).t)


@reader("open-mfdataset-netcdf4", "open_dataset-t", modules=("xarray", "netCDF4"))
def mfdataset_netcdf4(client: Client, folder: Path) -> list[Any]:
    """xarray.open_mfdataset, engine netcdf4."""
    return _open_mfdataset(folder)


@reader(
    "open-mfdataset-h5netcdf",
    "open_dataset-t",
    modules=("xarray", "h5netcdf", "netCDF4"),
)
def mfdataset_h5netcdf(client: Client, folder: Path) -> list[Any]:
    """xarray.open_mfdataset, engine h5netcdf."""
    return _open_mfdataset(folder, engine="h5netcdf")


@reader(
    "open-mfdataset-parallel",
    "open_dataset-t",
    modules=("xarray", "h5netcdf", "netCDF4"),
)
def mfdataset_parallel(client: Client, folder: Path) -> list[Any]:
    """xarray.open_mfdataset, parallel=True, engine h5netcdf."""
    # With engine netcdf4 the process crashes now and then: xarray asks for attributes
    # of what it opens without its lock, and HDF5 does not bear two threads
    return _open_mfdataset(folder, engine="h5netcdf", parallel=True)


def keep_one(dataset: Any) -> Any:
    """Preprocess a dataset."""
    return dataset[["t"]]


@reader("open-mfdataset-preprocess", "open_dataset-t", modules=("xarray", "netCDF4"))
def mfdataset_preprocess(client: Client, folder: Path) -> list[Any]:
    """xarray.open_mfdataset with preprocess."""
    return _open_mfdataset(folder, preprocess=keep_one)


@reader("open-mfdataset-by-coords", "open_dataset-t", modules=("xarray", "netCDF4"))
def mfdataset_by_coords(client: Client, folder: Path) -> list[Any]:
    """xarray.open_mfdataset, combine="by_coords"."""
    return _open_mfdataset(folder, combine="by_coords", concat_dim=None)


def scale(dataset: Any) -> Any:
    """Do something to the part of a dataset that is one chunk."""
    return dataset * 2


@reader("xarray-map-blocks", "concatenate", modules=("xarray", "netCDF4"))
def xarray_map_blocks(client: Client, folder: Path) -> list[Any]:
    """xarray.map_blocks over files."""
    import xarray

    dataset = xarray.open_mfdataset(
        _netcdf(folder), chunks={"time": 1}, combine="nested", concat_dim="time"
    )
    return twice(xarray.map_blocks(scale, dataset, template=dataset).t)


# Others that read arrays


@reader("iris", "array-concatenate", modules=("iris", "netCDF4"))
def iris_weighted_collapse(client: Client, folder: Path) -> list[Any]:
    """Iris: load, concatenate, weighted collapse."""
    import iris
    from iris.analysis import MEAN
    from iris.cube import CubeList
    from iris.fileformats.netcdf.loader import CHUNK_CONTROL

    with CHUNK_CONTROL.set("t", time=1):
        cubes = CubeList(iris.load_cube(str(path), "t") for path in _netcdf(folder))
    cube = cubes.concatenate_cube()
    weights = da.ones(cube.shape, chunks=cube.lazy_data().chunks)
    return [cube.collapsed("time", MEAN, weights=weights).lazy_data()]


@reader("rioxarray", "open_rasterio-getitem", modules=("rioxarray", "rasterio"))
def rioxarray_open(client: Client, folder: Path) -> list[Any]:
    """rioxarray.open_rasterio, concatenated."""
    import rioxarray
    import xarray

    images: list[Any] = [
        rioxarray.open_rasterio(path, chunks={"x": SIDE, "y": SIDE})
        for path in _geotiffs(folder)
    ]
    return twice(xarray.concat(images, "time"))


@reader("stackstac", "fetch_raster_window", modules=("stackstac", "rasterio"))
def stackstac_stack(client: Client, folder: Path) -> list[Any]:
    """stackstac.stack over STAC items."""
    import stackstac

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = stackstac.stack(
            _stac_items(folder),
            epsg=32631,
            resolution=10,
            chunksize=SIDE,
            # Without these two it fails on NumPy 2
            rescale=False,
            fill_value=np.float64("nan"),
        )
    return twice(images)


@reader("odc-stac", "t", modules=("odc.stac", "pystac"))
def odc_load(client: Client, folder: Path) -> list[Any]:
    """odc.stac.load over STAC items."""
    import odc.stac
    import pystac

    items = [pystac.Item.from_dict(item) for item in _stac_items(folder)]
    dataset = odc.stac.load(
        items,
        bands=["t"],
        chunks={"x": SIDE, "y": SIDE},
        crs="EPSG:32631",
        resolution=10,
        dtype="float64",
    )
    return twice(dataset.t)


@reader("dask-image", "array", modules=("dask_image",))
def dask_image(client: Client, folder: Path) -> list[Any]:
    """dask_image.imread.imread."""
    from dask_image.imread import imread

    _images(folder)
    return twice(imread(str(folder / "readers-png" / "*.png")).astype("float64"))


@reader(
    "virtual-zarr",
    "open_dataset-t",
    modules=("virtualizarr", "kerchunk", "xarray", "h5py", "netCDF4"),
)
def virtual_zarr(client: Client, folder: Path) -> list[Any]:
    """VirtualiZarr: a virtual Zarr store over NetCDF files."""
    import obstore
    import virtualizarr
    import xarray
    from virtualizarr.parsers import HDFParser
    from virtualizarr.registry import ObjectStoreRegistry

    references = folder / "readers-virtual" / "references.json"
    paths = _netcdf(folder)
    with once(references) as target:
        if target is not None:
            store = obstore.store.LocalStore()
            virtual = virtualizarr.open_virtual_mfdataset(
                [f"file://{path}" for path in paths],
                registry=ObjectStoreRegistry({"file://": store}),
                parser=HDFParser(),
                combine="nested",
                concat_dim="time",
            )
            virtual.vz.to_kerchunk(str(target), format="json")
    dataset = xarray.open_dataset(
        str(references), engine="kerchunk", chunks={"time": 1}
    )
    return twice(dataset.t)


@reader("icechunk", "open_dataset-t", modules=("icechunk", "xarray", "zarr"))
def icechunk_store(client: Client, folder: Path) -> list[Any]:
    """icechunk: arrays in a repository, through xarray."""
    import icechunk
    import xarray

    path = folder / "readers-icechunk"
    with once(path) as target:
        if target is not None:
            storage = icechunk.local_filesystem_storage(str(target))
            session = icechunk.Repository.create(storage).writable_session("main")
            for number in range(FILES):
                xarray.Dataset({"t": (("time", "y", "x"), _data(number))}).to_zarr(
                    session.store,
                    group=str(number),
                    encoding={"t": {"chunks": CHUNK}},
                    zarr_format=3,
                    consolidated=False,
                )
            session.commit("Write")
    storage = icechunk.local_filesystem_storage(str(path))
    store = icechunk.Repository.open(storage).readonly_session("main").store
    datasets = [
        xarray.open_zarr(store, group=str(number), consolidated=False)
        for number in range(FILES)
    ]
    return twice(xarray.concat(datasets, "time").t)


# Bags and data frames


def _texts(folder: Path) -> list[Path]:
    def write(path: Path, number: int) -> None:
        line = f"{number:07}\n"
        path.write_text(line * (STEPS * 2**17 // len(line)))

    return _write(folder, "txt", write)


def _counts(bag: Any) -> list[Any]:
    # As partitions, since a bag fuses whatever it can
    return [delayed(max)([delayed(count)(part) for part in bag.to_delayed()])]


@reader("bag-read-text", ".*read-block.*", modules=("fsspec",))
def read_text(client: Client, folder: Path) -> list[Any]:
    """dask.bag.read_text with several blocks for each file."""
    import dask.bag as db

    return _counts(db.read_text(_texts(folder), blocksize=2**17))


@reader("bag-from-delayed", "load_records.*")
def bag_from_delayed(client: Client, folder: Path) -> list[Any]:
    """dask.bag.from_delayed."""
    import dask.bag as db

    loads = [delayed(load_records)(number) for number in range(FILES * STEPS)]
    return _counts(db.from_delayed(loads))


def _frames(folder: Path, kind: str) -> list[Path]:
    def write(path: Path, number: int) -> None:
        frame = load_frame(number)
        if kind == "csv":
            frame.to_csv(path, index=False)
        else:
            frame.to_parquet(path)

    return _write(folder, kind, write, FILES * STEPS)


def _frame_twice(frame: Any) -> list[Any]:
    return [(frame.a * frame.b).sum() + (frame.a + frame.b).max()]


@reader("read-parquet", "read_parquet", modules=("dask.dataframe", "pandas", "pyarrow"))
def read_parquet(client: Client, folder: Path) -> list[Any]:
    """dask.dataframe.read_parquet."""
    import dask.dataframe as dd

    _frames(folder, "parquet")
    return _frame_twice(dd.read_parquet(folder / "readers-parquet"))


@reader("read-csv", "read-csv", modules=("dask.dataframe", "pandas"))
def read_csv(client: Client, folder: Path) -> list[Any]:
    """dask.dataframe.read_csv."""
    import dask.dataframe as dd

    _frames(folder, "csv")
    return _frame_twice(dd.read_csv(folder / "readers-csv" / "*.csv"))


@reader("dataframe-from-delayed", "load_frame", modules=("dask.dataframe", "pandas"))
def frame_from_delayed(client: Client, folder: Path) -> list[Any]:
    """dask.dataframe.from_delayed."""
    import dask.dataframe as dd

    loads = [delayed(load_frame)(number) for number in range(FILES * STEPS)]
    return _frame_twice(dd.from_delayed(loads, meta=load_frame(0)))


@reader("dataframe-from-map", "load_frame", modules=("dask.dataframe", "pandas"))
def frame_from_map(client: Client, folder: Path) -> list[Any]:
    """dask.dataframe.from_map."""
    import dask.dataframe as dd

    frame = dd.from_map(load_frame, range(FILES * STEPS), meta=load_frame(0))
    return _frame_twice(frame)


# By hand


@reader("delayed", "load")
def by_delayed(client: Client, folder: Path) -> list[Any]:
    """dask.delayed, one load for each chunk."""
    loads = [delayed(load)(number) for number in range(FILES * STEPS)]
    return [delayed(max)([delayed(square_sum)(one) for one in loads])]


@reader("delayed-handles", "read_step", modules=("zarr",))
def by_delayed_handles(client: Client, folder: Path) -> list[Any]:
    """dask.delayed, reads through opened handles."""
    handles = [delayed(open_zarr)(str(path)) for path in _zarr(folder, 3)]
    reads = [delayed(read_step)(one, n) for one in handles for n in range(STEPS)]
    return [delayed(max)([delayed(square_sum)(one) for one in reads])]


@reader("client-map", "load")
def by_map(client: Client, folder: Path) -> list[Any]:
    """client.map over numbers of chunks."""
    loads = client.map(load, range(FILES * STEPS))
    return [client.submit(max, client.map(square_sum, loads))]


@reader("client-submit", "read_step", modules=("zarr",))
def by_submit(client: Client, folder: Path) -> list[Any]:
    """client.submit, one read after the other, through opened handles."""
    handles = [client.submit(open_zarr, str(path)) for path in _zarr(folder, 3)]
    sums = [
        client.submit(square_sum, client.submit(read_step, one, n))
        for one in handles
        for n in range(STEPS)
    ]
    return [client.submit(max, sums)]
