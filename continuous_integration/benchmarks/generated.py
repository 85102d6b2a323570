"""Computations on data that is generated: other numbers, other chunks, other graphs.

They are workloads like those of :mod:`continuous_integration.benchmarks.workloads`, but
were written to see whether what was measured on those holds for others of their kinds.
Numbers are packed or of single precision, chunks are tiles, levels or members of an
ensemble, and graphs are made of futures, file by file. No files are read:
:class:`Variable` stands for a variable of one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np
from dask import delayed

from continuous_integration.benchmarks.workloads import SIDE, workload

if TYPE_CHECKING:
    from distributed import Client

#: How long a read waits for its storage, in seconds.
WAIT = 0.005
#: How long work on one part of the data takes, in seconds.
WORK = 0.01


def generated(
    name: str, **fields: Any
) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register a computation that needs neither a client nor files.

    Parameters
    ----------
    name
        Name of the workload.
    **fields
        Other fields of a workload.
    """

    def register(compute: Callable[[], Any]) -> Callable[[], Any]:
        def run(client: Client, folder: Path, prepared: None) -> Any:
            return compute()

        run.__doc__ = compute.__doc__
        workload(name, **fields)(run)
        return compute

    return register


# Arrays


class Variable:
    """Stand for a variable of a file: an array-like object that is read in parts.

    Parameters
    ----------
    shape
        Of the variable.
    dtype
        Of its numbers.
    """

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self.shape, self.dtype, self.ndim = shape, np.dtype(dtype), len(shape)

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        time.sleep(WAIT)
        bounds = [part.indices(n)[:2] for part, n in zip(index, self.shape)]
        value = 1 + sum(start for start, _ in bounds) % 50
        part = np.empty([stop - start for start, stop in bounds], self.dtype)
        part[:] = value + np.arange(part.shape[-1]) % 7
        return part


def variable(
    name: str, chunks: Sequence[int], counts: Sequence[int], dtype: str = "float64"
) -> da.Array:
    """Return an array that is read in chunks of one shape.

    Parameters
    ----------
    name
        Of the array.
    chunks
        Shape of a chunk.
    counts
        How many chunks there are along each axis.
    dtype
        Of its numbers.
    """
    shape = tuple(size * count for size, count in zip(chunks, counts))
    return da.from_array(Variable(shape, dtype), chunks=tuple(chunks), name=name)


def days(name: str, number: int, dtype: str = "float64") -> da.Array:
    """Return so many days of a field, each of which is one chunk."""
    return variable(name, (1, SIDE, SIDE), (number, 1, 1), dtype)


def packed(name: str, number: int) -> da.Array:
    """Return so many days of a field that is packed into small integers."""
    return 0.01 * days(name, number, "int16") + 273.0


@generated("packed-chunked-weights")
def packed_chunked_weights() -> Any:
    """Unpack 72 days, mean with a chunk of weights for each of them."""
    field = packed("field", 72)
    weights = da.from_array(np.linspace(1, 2, 72), chunks=1)[:, None, None]
    full = da.broadcast_to(weights, field.shape, chunks=field.chunks)
    return ((field * weights).sum(axis=0) / full.sum(axis=0)).compute()


@generated("packed-valid-mean")
def packed_valid_mean() -> Any:
    """Unpack 72 days, mean of what is valid."""
    field = packed("field", 72)
    return da.nanmean(da.where(field > 274, field, np.nan), axis=0).compute()


@generated("packed-seasons")
def packed_seasons() -> Any:
    """Unpack 72 days, deviation from the mean of each of six seasons."""
    field = packed("field", 72)
    seasons = [field[number::6] for number in range(6)]
    anomalies = [season - season.mean(axis=0) for season in seasons]
    return da.stack([each.std(axis=0) for each in anomalies]).max(axis=0).compute()


@generated("correlation-index")
def correlation_index() -> Any:
    """Correlate each place with an index, the mean of another field."""
    field = days("field", 64)
    index = days("other", 64).mean(axis=(1, 2))
    anomaly = (index - index.mean())[:, None, None]
    return ((field * anomaly).mean(axis=0) / field.std(axis=0)).compute()


@generated("correlation")
def correlation() -> Any:
    """Correlate two packed fields over time."""
    left, right = packed("left", 48), packed("right", 48)
    product = (left * right).mean(axis=0) - left.mean(axis=0) * right.mean(axis=0)
    return (product / (left.std(axis=0) * right.std(axis=0))).compute()


@generated("lag")
def lag() -> Any:
    """Mean product of each packed day and the fifth day after it."""
    field = packed("field", 72)
    return (field[5:] * field[:-5]).mean(axis=0).compute()


@generated("cloud-mask")
def cloud_mask() -> Any:
    """Mean over time of three bands, where a mask of each image allows it."""
    bands = variable("bands", (1, 1, SIDE, SIDE), (24, 3, 1, 1), "uint16")
    quality = days("quality", 24, "uint8")
    clear = (quality % 3 == 0)[:, None]
    masked = da.where(clear, bands.astype("float32"), np.nan)
    return da.nanmean(masked, axis=0).compute()


@generated("flat-field")
def flat_field() -> Any:
    """Divide 64 images by the mean of 12 others, mean of all."""
    flat = days("flat", 12, "uint16").mean(axis=0)
    return (days("image", 64, "uint16") / (flat + 1)).mean(axis=0).compute()


@generated("largest-three")
def largest_three() -> Any:
    """Keep the largest three values at each place."""
    return da.topk(days("field", 72), 3, axis=0).compute()


@generated("merge-days")
def merge_days() -> Any:
    """Merge twelve days into one chunk with tasks, then deviation."""
    merged = days("field", 72).rechunk((12, SIDE, SIDE), method="tasks")
    return merged.std(axis=0).compute()


@generated("spectrum")
def spectrum() -> Any:
    """Rechunk to pencils in time with tasks, then Fourier transform."""
    field = variable("field", (4, 256, 256), (16, 2, 2))
    pencils = field.rechunk((-1, 64, 64), method="tasks")
    return abs(da.fft.rfft(pencils, axis=0)).mean(axis=(1, 2)).compute()


def _tiles(number: int) -> da.Array:
    """Return so many times 32 steps of a field, in 3 x 3 tiles."""
    return variable("tiles", (32, 128, 128), (number, 3, 3))


@generated("many-results")
def many_results() -> Any:
    """Four results from tiles, over time and over space."""
    field = _tiles(8)
    return dask.compute(
        field.mean(axis=0), field.std(axis=0), field.min(axis=(1, 2)), field.max()
    )


@generated("changes-tiles")
def changes_tiles() -> Any:
    """Mean size of the changes from step to step, in tiles."""
    return abs(da.diff(_tiles(10), axis=0)).mean(axis=0).compute()


@generated("transport")
def transport() -> Any:
    """Mean product of what two fields on levels have beyond their means along rows."""
    wind, heat = (
        variable(name, (1, 8, 128, 128), (24, 4, 1, 1)) for name in ("wind", "heat")
    )
    eddies = [field - field.mean(axis=3, keepdims=True) for field in (wind, heat)]
    return (eddies[0] * eddies[1]).mean(axis=(0, 3)).compute()


@generated("ensemble-spread")
def ensemble_spread() -> Any:
    """Deviation of eight members at twelve times, its mean over time."""
    ensemble = variable("ensemble", (1, 1, SIDE, SIDE), (8, 12, 1, 1))
    return ensemble.std(axis=0).mean(axis=0).compute()


@generated("bias-seasons")
def bias_seasons() -> Any:
    """Mean size of the bias against the mean observation of each of five seasons."""
    model, observed = days("model", 60), days("observed", 60, "float32")
    biases = [
        abs(model[number::5] - observed[number::5].mean(axis=0)).mean(axis=0)
        for number in range(5)
    ]
    return da.stack(biases).mean(axis=0).compute()


# Futures and delayed functions


def open_file(number: int) -> dict[str, Any]:
    """Open a file."""
    time.sleep(WAIT)
    return {"number": number, "header": b"x" * 500}


def read_step(file: dict[str, Any], step: int) -> np.ndarray:
    """Read one step of a file, 1 MiB."""
    return read_part(file["number"] + step)


def read_part(number: int, nbytes: int = 2**20) -> np.ndarray:
    """Read one part of the data."""
    time.sleep(WAIT)
    return np.full(nbytes // 8, float(number))


def double(part: np.ndarray) -> np.ndarray:
    """Work on one part."""
    time.sleep(WORK)
    return 2 * part


def every_fourth(part: np.ndarray) -> np.ndarray:
    """Find features of a part, a quarter of it."""
    time.sleep(WORK)
    return part[::4].copy()


def piece(part: np.ndarray, number: int) -> np.ndarray:
    """Cut one of eight pieces out of a part."""
    size = len(part) // 8
    return part[number * size : (number + 1) * size].copy()


def add(*parts: np.ndarray) -> np.ndarray:
    """Add up parts."""
    return np.asarray(sum(parts))


def join(*parts: np.ndarray) -> np.ndarray:
    """Join parts to one."""
    return np.concatenate(parts)


def score(*parts: np.ndarray) -> float:
    """Make one number of parts."""
    time.sleep(WORK)
    return float(sum(part.mean() for part in parts))


def total(*scores: float) -> float:
    """Add up numbers."""
    return sum(scores)


def _task(function: Callable[..., Any], *args: Any) -> Any:
    return delayed(function, pure=False)(*args)


def _reads(number: int, first: int = 0) -> list[Any]:
    return [_task(read_part, first + n) for n in range(number)]


@generated("file-means")
def file_means() -> Any:
    """Mean of the 20 steps of each of 16 files, by one function for each file."""
    files = [_task(open_file, number) for number in range(16)]
    means = [
        _task(add, *[_task(read_step, file, step) for step in range(20)])
        for file in files
    ]
    return _task(add, *means).compute()


@generated("file-features")
def file_features() -> Any:
    """Work on the 12 steps of each of 24 files, mean of each file."""
    files = [_task(open_file, number) for number in range(24)]
    means = [
        _task(add, *[_task(double, _task(read_step, file, step)) for step in range(12)])
        for file in files
    ]
    return _task(add, *means).compute()


@generated("small-files")
def small_files() -> Any:
    """Join 20 of 400 small files each, and work on what comes out."""
    reads = [_task(read_part, number, 2**18) for number in range(400)]
    joined = [_task(join, *reads[n : n + 20]) for n in range(0, 400, 20)]
    return _task(total, *[_task(score, part) for part in joined]).compute()


@generated("cross-validation")
def cross_validation() -> Any:
    """Fit a model to five of six folds of 20 parts each, and score it on the other."""
    features = [_task(every_fourth, read) for read in _reads(120)]
    folds = [_task(join, *features[number::6]) for number in range(6)]
    scores = []
    for fold in folds:
        others = [other for other in folds if other is not fold]
        scores.append(_task(score, _task(join, *others), fold))
    return _task(total, *scores).compute()


@generated("days-months")
def days_months() -> Any:
    """Mean of eight hours, of ten days and of six months."""
    months = []
    for month in range(6):
        hours = _reads(80, 80 * month)
        daily = [_task(add, *hours[n : n + 8]) for n in range(0, 80, 8)]
        months.append(_task(add, *daily))
    return _task(add, *months).compute()


@generated("anomalies-by-tile")
def anomalies_by_tile() -> Any:
    """Mean of the ten parts of each of twelve tiles, and what each has beyond it."""
    results = []
    for tile in range(12):
        parts = _reads(10, 10 * tile)
        mean = _task(add, *parts)
        results.append(_task(add, *[_task(add, part, mean) for part in parts]))
    return _task(add, *results).compute()


@generated("windows")
def windows() -> Any:
    """Work on 100 parts, and add up each three that follow each other."""
    parts = [_task(double, read) for read in _reads(100)]
    sums = [_task(add, *parts[n : n + 3]) for n in range(98)]
    by_ten = [_task(add, *sums[n : n + 10]) for n in range(0, 98, 10)]
    return _task(add, *by_ten).compute()


@generated("exchange")
def exchange() -> Any:
    """Cut each of 64 parts into eight pieces, and join those of one number."""
    parts = _reads(64)
    joined = [
        _task(join, *[_task(piece, part, number) for part in parts])
        for number in range(8)
    ]
    return _task(total, *[_task(score, part) for part in joined]).compute()


@generated("shared-forcing")
def shared_forcing() -> Any:
    """Step eight members forward with the same ten forcings."""
    forcings = _reads(10, 100)
    members = _reads(8)
    for forcing in forcings:
        members = [_task(double, _task(add, member, forcing)) for member in members]
    return _task(add, *members).compute()
