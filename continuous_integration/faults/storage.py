"""Zarr stores, and storage that gets into trouble when a worker reads from it.

What happens on workers is told to others by files, since a worker may be dead a moment
later: see :class:`Notes`.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import functools
import itertools
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import psutil

#: More files than the count of dependencies bears.
FILES = 8
#: Chunks in each file.
STEPS = 12
#: Chunks in all files.
CHUNKS = FILES * STEPS
#: Side of a quadratic chunk of int64.
SIDE = 128
CHUNK_NBYTES = SIDE * SIDE * 8

#: A reader that nobody lets go on gives up after so many seconds.
PATIENCE = 120.0
#: The gate that opens all gates.
ALL = "all"
#: The gate of reads that begin while another has taken memory.
MEANWHILE = "meanwhile"
#: The gate that is opened when storage is well again.
REPAIRED = "repaired"
#: Seconds between two looks at a file.
LOOK = 0.01


class Chunk(NamedTuple):
    """A chunk, by the number of its file and its place there."""

    file: int
    step: int

    @classmethod
    def numbered(cls, number: int) -> Chunk:
        """Return the chunk with a number, counted over all files."""
        return cls(*divmod(number, STEPS))

    @classmethod
    def of(cls, key: tuple[Any, ...]) -> Chunk:
        """Return the chunk that a task reads, by its key."""
        return cls(int(key[0].rpartition("-")[2]), key[1])

    @property
    def key(self) -> tuple[Any, ...]:
        """Key of the task that reads it."""
        return (f"chunk-{self.file:02}", self.step, 0, 0)

    def __str__(self) -> str:
        return f"{self.file:02}-{self.step:02}"


@dataclass(frozen=True)
class Notes:
    """Notes that workers leave in a folder, and gates at which they wait.

    Attributes
    ----------
    folder : Path
        It exists, and all processes see it.
    """

    folder: Path

    def write(self, event: str, about: object = "") -> int:
        """Note that something happened in this process.

        Parameters
        ----------
        event, about
            What happened to what.

        Returns
        -------
        int
            How often it had happened before, in whatever process.
        """
        draft = self.folder / f"draft.{os.getpid()}.{threading.get_ident()}"
        draft.write_text(str(os.getpid()))
        for n in itertools.count():
            # Fails if it is there, and nobody sees it without its content
            with contextlib.suppress(FileExistsError):
                os.link(draft, self.folder / f"{event}.{about}.{n}")
                break
        # They are one file: to write the next draft would empty this note
        draft.unlink()
        return n

    def pids(self, event: str, about: object = "") -> list[int]:
        """Return the processes that noted something, in that order.

        Parameters
        ----------
        event, about
            What happened to what.
        """
        pids = []
        for n in itertools.count():
            try:
                pids.append(int((self.folder / f"{event}.{about}.{n}").read_text()))
            except FileNotFoundError:
                break
        return pids

    def open(self, gate: object) -> None:
        """Let those go on who wait at a gate, or come to it later."""
        (self.folder / f"gate.{gate}").touch()

    def is_open(self, gate: object) -> bool:
        """Return whether a gate is open."""
        return (self.folder / f"gate.{gate}").exists()

    def wait(self, gate: object) -> None:
        """Wait until a gate is open.

        Raises
        ------
        TimeoutError
            If nobody opens it.
        """
        deadline = time.monotonic() + PATIENCE
        while not (self.is_open(gate) or self.is_open(ALL)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody opened the gate {gate}")
            time.sleep(LOOK)


# What can happen


@dataclass(frozen=True)
class Calm:
    """Storage that is well.

    Attributes
    ----------
    notes : Notes
        Every read is noted there.
    """

    notes: Notes

    def read(self, chunk: Chunk, file: str) -> None:
        """Do what happens when a chunk is read, before it is.

        Parameters
        ----------
        chunk
            The chunk.
        file
            Name of the file that has it.
        """
        self.meet(chunk, file, self.notes.write("read", chunk))

    def meet(self, chunk: Chunk, file: str, before: int) -> None:
        """Do what is special; ``before`` is how often the chunk was read already."""


@dataclass(frozen=True)
class Stages(Calm):
    """After so many reads, whichever they are, others wait at the gate of a stage.

    Attributes
    ----------
    stops : tuple of int
        Number of the first read in the stages 1, 2, ...; at 0 there is a gate, too.
    """

    stops: tuple[int, ...]

    def meet(self, chunk: Chunk, file: str, before: int) -> None:
        stage = bisect.bisect_right(self.stops, self.notes.write("turn"))
        self.notes.write("stage", stage)
        self.notes.wait(stage)


@dataclass(frozen=True)
class Fails(Calm):
    """The first reads of some chunks fail.

    Attributes
    ----------
    times : dict
        How many reads of a chunk fail. Those after the gate :data:`REPAIRED` was
        opened do not.
    """

    times: dict[Chunk, int]

    def meet(self, chunk: Chunk, file: str, before: int) -> None:
        repaired = self.notes.is_open(REPAIRED)
        if before < self.times.get(chunk, 0) and not repaired:
            self.notes.write("failed", chunk)
            raise OSError(errno.EIO, os.strerror(errno.EIO), file)


@dataclass(frozen=True)
class Swells(Calm):
    """The first read of a chunk takes memory until its process has so much.

    It keeps that until the gate of the chunk is opened. Reads that begin after it wait
    until the gate :data:`MEANWHILE` is opened.
    """

    chunk: Chunk
    nbytes: int

    def meet(self, chunk: Chunk, file: str, before: int) -> None:
        if chunk == self.chunk and before == 0:
            self.notes.write("swelling", chunk)
            process = psutil.Process()
            taken = []
            while process.memory_info().rss < self.nbytes:
                # Not zeros: those are no memory before someone writes
                taken.append(np.ones(2**20))
            self.notes.write("swollen", chunk)
            self.notes.wait(chunk)
        elif self.notes.pids("swelling", self.chunk):
            self.notes.wait(MEANWHILE)


# The data


def write(folder: Path) -> None:
    """Write the files into a folder.

    Of whole numbers, so that sums are the same in whatever order.
    """
    import zarr

    rng = np.random.default_rng(0)
    shape = (STEPS, SIDE, SIDE)
    for path in _paths(folder):
        array = zarr.open_array(
            str(path), mode="w", shape=shape, chunks=(1, *shape[1:]), dtype="int64"
        )
        array[:] = rng.integers(0, 1000, shape)


def _paths(folder: Path) -> list[Path]:
    return [folder / f"{n:02}.zarr" for n in range(FILES)]


@functools.cache
def _opened(path: str) -> Any:
    """Open a Zarr array, once in each process."""
    import zarr

    return zarr.open_array(path, mode="r")


class Storage:
    """A Zarr array, read through storage that may be in trouble.

    Parameters
    ----------
    path
        Of the Zarr store; its name is a number.
    trouble
        What happens to reads.
    """

    dtype = np.dtype("int64")
    shape = (STEPS, SIDE, SIDE)
    ndim = 3

    def __init__(self, path: Path, trouble: Calm):
        self.path = path
        self.trouble = trouble

    def __getitem__(self, index: Any) -> Any:
        chunk = Chunk(int(self.path.stem), index[0].start)
        self.trouble.read(chunk, str(self.path / f"c/{chunk.step}/0/0"))
        return _opened(str(self.path))[index]


def arrays(folder: Path, trouble: Calm) -> list[da.Array]:
    """Return one array of dask for each file.

    Parameters
    ----------
    folder
        Where the files are.
    trouble
        What happens to reads.
    """
    return [
        da.from_array(
            Storage(path, trouble),
            chunks=(1, SIDE, SIDE),
            name=f"chunk-{int(path.stem):02}",
            meta=np.empty((0, 0, 0), dtype="int64"),
        )
        for path in _paths(folder)
    ]


def reduce(parts: Iterable[da.Array]) -> da.Array:
    """Use every chunk twice, so that reads are tasks of their own.

    Parameters
    ----------
    parts
        What :func:`arrays` returned, or some of it.

    Returns
    -------
    dask.array.Array
        The sum of each chunk, which tells when one stands in the place of another, and
        the sum of all squares, for which the chunks are combined.
    """
    data = da.concatenate(list(parts))
    squares = (data * data).sum()
    return da.concatenate([data.sum(axis=(1, 2)), squares[None]])


def true_result(folder: Path) -> Any:
    """Return what :func:`reduce` must give for all files, without dask.

    Parameters
    ----------
    folder
        Where the files are.
    """
    data = np.concatenate([_opened(str(path))[:] for path in _paths(folder)])
    return np.append(data.sum(axis=(1, 2)), (data * data).sum())
