"""What ``dask rootish demo`` runs: one mean over many files, under every policy.

The case is the one of `dask/distributed#8969
<https://github.com/dask/distributed/issues/8969>`_: files of one variable are opened
lazily, concatenated along time and averaged with weights. The data are real files in
a temporary folder, and the cluster consists of processes, so that what is measured
is what a user of a cluster would see.

Nothing here knows the command line (:mod:`distributed.cli.dask_rootish` does), and
nothing is printed: :func:`run_demo` tells a callable how far it is and returns the
measurements, :func:`make_table` and :func:`write_plot` show them.

The libraries that read and write files are imported where they are used. They come
with the extra ``demo``, and only those of the chosen sources are needed.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import logging
import math
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import dask
import psutil
from dask._task_spec import DataNode, Task
from dask.utils import format_bytes

from distributed import Client, LocalCluster, __version__
from distributed.diagnostics.memory_recorder import MemoryRecorder
from distributed.metrics import time

if TYPE_CHECKING:
    import dask.array as da
    import numpy as np
    from rich.table import Table
    from typing_extensions import Self

    #: Called with the number of steps done, of all steps, and what comes next.
    Report = Callable[[int, int, str], None]
    #: Seconds since the computation was submitted, and bytes at that time.
    History = tuple[tuple[float, int], ...]

#: The policies, in the order in which they came into being.
POLICIES = ("heuristic", "marked", "producers")

#: Name of the one variable in the files.
VARIABLE = "temperature"

#: Latitudes and longitudes of a field: 64 KiB in double precision.
GRID = (64, 128)

#: Bytes of one field, the smallest chunk that there can be.
FIELD_NBYTES = GRID[0] * GRID[1] * 8

#: Seconds between two looks at the memory of the worker processes.
SAMPLE_INTERVAL = 0.05


class DemoError(Exception):
    """Something that the user can do something about. The message is one line."""


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


@dataclass(frozen=True)
class DataSpec:
    """Size of the data set that the demo writes and reads.

    Parameters
    ----------
    files
        Number of files, or of stores.
    chunks
        Number of chunks in each file.
    chunk_size
        Bytes in a chunk. Chunks hold whole fields, so this is rounded down to a
        multiple of :data:`FIELD_NBYTES`.
    """

    files: int = 8
    chunks: int = 30
    chunk_size: int = 2**21

    def __post_init__(self) -> None:
        if self.files < 1 or self.chunks < 1:
            raise DemoError("There must be at least one file, with at least one chunk.")
        if self.chunk_size < FIELD_NBYTES:
            raise DemoError(
                f"A chunk cannot be smaller than one field, "
                f"{format_bytes(FIELD_NBYTES)}; asked for: {self.chunk_size} B."
            )

    @property
    def steps(self) -> int:
        """Number of time steps (fields) in a chunk."""
        return self.chunk_size // FIELD_NBYTES

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the variable in one file: time, latitude, longitude."""
        return (self.chunks * self.steps, *GRID)

    @property
    def chunk_shape(self) -> tuple[int, int, int]:
        """Shape of one chunk."""
        return (self.steps, *GRID)

    @property
    def chunk_nbytes(self) -> int:
        """Bytes in one chunk, after rounding."""
        return self.steps * FIELD_NBYTES

    @property
    def nbytes(self) -> int:
        """Bytes in all files."""
        return self.files * self.chunks * self.chunk_nbytes

    def __str__(self) -> str:
        return (
            f"{format_bytes(self.nbytes)}: {_count(self.files, 'file')} of "
            f"{_count(self.chunks, 'chunk')} of {format_bytes(self.chunk_nbytes)}"
        )


@dataclass(frozen=True)
class ClusterSpec:
    """Size of the cluster that the demo computes on.

    Parameters
    ----------
    workers
        Number of worker processes.
    threads
        Number of threads of each worker.
    marks
        Whether the scheduler may see which tasks are marked as data producers.
    """

    workers: int = 2
    threads: int = 2
    marks: bool = True

    def bound(self, data: DataSpec) -> float:
        """Bytes that the workers hold together if they load no more than they should.

        That is twice as many chunks as worker saturation lets in at once, with what
        is made of each: a sum over its time steps, one field.
        """
        saturation = float(dask.config.get("distributed.scheduler.worker-saturation"))
        if math.isinf(saturation):
            return math.inf
        slots = self.workers * max(math.ceil(saturation * self.threads), 1)
        return 2 * slots * (data.chunk_nbytes + FIELD_NBYTES)

    def __str__(self) -> str:
        marks = "" if self.marks else ", marks stripped"
        return (
            f"{_count(self.workers, 'worker')} with "
            f"{_count(self.threads, 'thread')} each{marks}"
        )


@contextlib.contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM until the end of the block.

    Processes that are started in the block never see a Ctrl-C, which a terminal sends
    to all of its processes: only this one stops its workers, in good order.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in the main thread only
        return
    received: list[int] = []
    before = {
        signum: signal.signal(signum, lambda signum, frame: received.append(signum))
        for signum in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        with _sigint_blocked():
            yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        if received:
            signal.raise_signal(received[0])


@contextlib.contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Let threads and processes that are started in the block inherit a blocked SIGINT.

    This alone would not hold it back: threads that exist already receive it, and
    Python then calls the handler in the main thread.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # It unblocks the signal in the thread that first needs it.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# -- Writing -------------------------------------------------------------------------


def _chunk_values(data: DataSpec, file: int, chunk: int) -> np.ndarray:
    """Values of one chunk; the same for every format, and incompressible."""
    import numpy as np

    return np.random.default_rng((file, chunk)).random(data.chunk_shape)


def _write_zarr(path: Path, data: DataSpec, file: int) -> None:
    import zarr

    # Zarr writes in threads of its own, that would go on after an interruption and
    # fill the folder while it is removed.
    with _interrupts_deferred():
        array = zarr.open_array(
            str(path), mode="w", shape=data.shape, chunks=data.chunk_shape, dtype="f8"
        )
    for i in range(data.chunks):
        start = i * data.steps
        with _interrupts_deferred():
            array[start : start + data.steps] = _chunk_values(data, file, i)


def _write_netcdf(path: Path, data: DataSpec, file: int) -> None:
    import netCDF4
    import numpy as np

    axes = {
        "time": (
            np.arange(data.shape[0]) + file * data.shape[0],
            "days since 2000-01-01",
        ),
        "latitude": (np.linspace(-89, 89, GRID[0]), "degrees_north"),
        "longitude": (np.linspace(0, 359, GRID[1]), "degrees_east"),
    }
    with netCDF4.Dataset(path, "w") as ds:
        for name, (values, units) in axes.items():
            ds.createDimension(name, len(values))
            axis = ds.createVariable(name, "f8", (name,))
            axis.standard_name = name
            axis.units = units
            axis[:] = values
        # Contiguous: HDF5 keeps a cache of chunks for every open file, many times
        # what the scheduler lets in, and would hide it in the process memory.
        var = ds.createVariable(
            VARIABLE, "f8", tuple(axes), contiguous=True, fill_value=False
        )
        var.units = "K"
        for i in range(data.chunks):
            start = i * data.steps
            var[start : start + data.steps] = _chunk_values(data, file, i)


@dataclass(frozen=True)
class Format:
    """A way of storing the data set: the suffix of its files, and who writes one."""

    suffix: str
    write: Callable[[Path, DataSpec, int], None]

    def paths(self, folder: Path, data: DataSpec) -> list[Path]:
        """Where the files of the data set are, in the order of their times."""
        return [folder / f"{i:04d}{self.suffix}" for i in range(data.files)]


ZARR = Format(".zarr", _write_zarr)
NETCDF = Format(".nc", _write_netcdf)


# -- Opening -------------------------------------------------------------------------


def _open_zarr(paths: Sequence[Path], data: DataSpec) -> da.Array:
    import dask.array as da

    return da.concatenate([da.from_zarr(str(path)) for path in paths])


def _open_netcdf(paths: Sequence[Path], data: DataSpec) -> da.Array:
    import xarray

    ds = xarray.open_mfdataset(
        [str(path) for path in paths],
        combine="nested",
        concat_dim="time",
        chunks={"time": data.steps},
        engine="netcdf4",
        join="override",
        data_vars="minimal",
        coords="minimal",
        compat="override",
    )
    return ds[VARIABLE].data


def _open_iris(paths: Sequence[Path], data: DataSpec) -> da.Array:
    import iris
    from iris.cube import CubeList
    from iris.fileformats.netcdf.loader import CHUNK_CONTROL

    # Left alone, Iris joins chunks until they have the size that dask prefers: a
    # whole file here.
    with CHUNK_CONTROL.set(VARIABLE, time=data.steps):
        cubes = CubeList(iris.load_cube(str(path), VARIABLE) for path in paths)
    return cubes.concatenate_cube().core_data()


class StoreHandle:
    """An opened Zarr array that opens itself anew wherever it is unpickled.

    It stands for the small objects that users pass from the task which opens a file
    to those which read from it.

    Parameters
    ----------
    path
        Where the Zarr array is.
    """

    def __init__(self, path: str):
        import zarr

        self.path = path
        self.array = zarr.open_array(path, mode="r")

    def __reduce__(self) -> tuple[type[StoreHandle], tuple[str]]:
        return type(self), (self.path,)


def open_handle(path: str) -> StoreHandle:
    """Open the Zarr array at ``path``."""
    return StoreHandle(path)


def read_chunk(handle: StoreHandle, i: int, steps: int) -> np.ndarray:
    """Read the ``i``-th chunk of ``steps`` time steps through an opened handle."""
    import numpy as np

    return np.asarray(handle.array[i * steps : (i + 1) * steps])


def _open_handles(paths: Sequence[Path], data: DataSpec) -> da.Array:
    import dask.array as da

    # Pure, so that keys and with them the order of the tasks are always the same.
    read = dask.delayed(read_chunk, pure=True)
    handles = [dask.delayed(open_handle, pure=True)(str(path)) for path in paths]
    return da.concatenate(
        [
            da.from_delayed(read(handle, i, data.steps), data.chunk_shape, dtype="f8")
            for handle in handles
            for i in range(data.chunks)
        ]
    )


@dataclass(frozen=True)
class Source:
    """A way of getting at the data set.

    Parameters
    ----------
    format
        What its files are.
    open
        Opens them as one lazy array, with the chunks of the data set.
    packages
        What has to be installed: the name of each module, and that of the package
        which brings it.
    """

    format: Format
    open: Callable[[Sequence[Path], DataSpec], da.Array]
    packages: Mapping[str, str]


SOURCES: Mapping[str, Source] = {
    "zarr": Source(ZARR, _open_zarr, {"zarr": "zarr"}),
    "netcdf": Source(NETCDF, _open_netcdf, {"netCDF4": "netCDF4", "xarray": "xarray"}),
    "iris": Source(NETCDF, _open_iris, {"netCDF4": "netCDF4", "iris": "scitools-iris"}),
    "handles": Source(ZARR, _open_handles, {"zarr": "zarr"}),
}


def missing_packages(sources: Sequence[str]) -> list[str]:
    """Names of the packages that ``sources`` need and that are not installed."""
    needed = {"numpy": "numpy", "matplotlib": "matplotlib", "rich": "rich"}
    for source in sources:
        needed.update(SOURCES[source].packages)
    return [
        package
        for module, package in needed.items()
        if importlib.util.find_spec(module) is None
    ]


# -- Computing and measuring ---------------------------------------------------------


def weighted_mean(x: da.Array) -> da.Array:
    """Mean over time (the first axis) with a weight for every time step.

    Parameters
    ----------
    x
        Array whose first axis is time.

    Returns
    -------
    Array of one dimension less: one field.
    """
    import dask.array as da
    import numpy as np

    steps = np.linspace(0, 4 * np.pi, x.shape[0])
    w = da.from_array(1.5 + np.cos(steps), chunks=(x.chunks[0],))[:, None, None]
    return (x * w).sum(axis=0) / w.sum()


@dataclass(frozen=True)
class Run:
    """What one computation took. Memory is in bytes and summed over the workers.

    Parameters
    ----------
    source, policy
        What was computed, and under which policy.
    managed
        Peak of managed memory, seen by the scheduler at every transition.
    process
        Peak of the resident memory of the worker processes, above what they held
        just before.
    moved
        Bytes that the workers sent to each other.
    seconds
        From the opened array to the result.
    managed_history, process_history
        The same memory over time.
    result
        The field that was computed.
    """

    source: str
    policy: str
    managed: int
    process: int
    moved: int
    seconds: float
    managed_history: History = field(repr=False)
    process_history: History = field(repr=False)
    result: np.ndarray = field(repr=False, compare=False)


class ProcessMemory:
    """Sample the resident memory of some processes from a thread of this one.

    Parameters
    ----------
    pids
        The processes. Those that end meanwhile count as 0.
    interval
        Seconds between two samples.

    Attributes
    ----------
    history : list of (float, int)
        Time (seconds since the epoch) and bytes at that time. The first sample is
        taken on entry, the last on exit.
    """

    def __init__(self, pids: Sequence[int], interval: float = SAMPLE_INTERVAL):
        self.processes = [psutil.Process(pid) for pid in pids]
        self.interval = interval
        self.history: list[tuple[float, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="rootish-demo-memory", daemon=True
        )

    def _sample(self) -> None:
        total = 0
        for process in self.processes:
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        self.history.append((time(), total))

    def _run(self) -> None:
        while not self._stop.wait(self.interval):
            self._sample()

    def __enter__(self) -> Self:
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()


@contextlib.contextmanager
def stripped_marks() -> Iterator[None]:
    """Let no task in this process be marked as a data producer.

    The scheduler of a ``LocalCluster`` runs in the process that starts it, so this
    is what it sees, whatever the collections have marked.
    """
    with (
        mock.patch.object(Task, "data_producer", False),
        mock.patch.object(DataNode, "data_producer", False),
    ):
        yield


def _warm_up(source: str, path: Path, data: DataSpec) -> None:
    """Read one chunk on a worker, outside of the computation.

    What the libraries take when they are first used is not overproduction.
    """
    x = SOURCES[source].open([path], data)
    weighted_mean(x[: data.steps]).compute(scheduler="synchronous")


def _release_memory() -> None:
    """Give back to the system what the last computation left behind."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # only there is in glibc


def _bytes_sent(dask_worker: Any) -> int:
    return int(dask_worker.transfer_outgoing_bytes_total)


class Bench:
    """A cluster under one policy, and what it takes to measure computations on it.

    Use :func:`start_bench`.

    Parameters
    ----------
    client
        Client of the cluster.
    cluster
        A cluster whose scheduler runs in this process.
    policy
        The policy, to write it down with the measurements.
    """

    def __init__(self, client: Client, cluster: LocalCluster, policy: str):
        self.client = client
        self.cluster = cluster
        self.policy = policy
        self.recorder = MemoryRecorder(interval=0.01)
        cluster.sync(self._add_recorder)

    async def _add_recorder(self) -> None:
        scheduler = self.cluster.scheduler
        assert scheduler is not None
        await self.recorder.start(scheduler)
        scheduler.add_plugin(self.recorder)

    async def _reset_recorder(self) -> None:
        self.recorder.reset()

    def run(self, source: str, paths: Sequence[Path], data: DataSpec) -> Run:
        """Compute the weighted mean of one source, and measure it.

        Parameters
        ----------
        source
            Key of :data:`SOURCES`.
        paths
            Its files.
        data
            What is in them.
        """
        client = self.client
        client.run(_warm_up, source, paths[0], data)
        mean = weighted_mean(SOURCES[source].open(paths, data))
        client.run(_release_memory)
        pids = list(client.run(os.getpid).values())
        sent = sum(client.run(_bytes_sent).values())
        # On the event loop, so that no transition comes in between.
        self.cluster.sync(self._reset_recorder)
        with ProcessMemory(pids) as processes:
            start = time()
            result = client.compute(mean).result()
            stop = time()
        moved = sum(client.run(_bytes_sent).values()) - sent
        idle = processes.history[0][1]
        return Run(
            source=source,
            policy=self.policy,
            managed=self.recorder.peak_managed,
            process=max(nbytes for _, nbytes in processes.history) - idle,
            moved=moved,
            seconds=stop - start,
            managed_history=tuple(
                (t - start, nbytes) for t, nbytes in self.recorder.history
            ),
            process_history=tuple(
                (t - start, nbytes - idle) for t, nbytes in processes.history
            ),
            result=result,
        )


@contextlib.contextmanager
def start_bench(policy: str, cluster: ClusterSpec, folder: Path) -> Iterator[Bench]:
    """Start a cluster of processes under a policy, and stop it in the end.

    Parameters
    ----------
    policy
        Value of ``distributed.scheduler.rootish-policy``.
    cluster
        Size of the cluster.
    folder
        Where scheduler and workers may write.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            dask.config.set(
                {
                    "distributed.scheduler.rootish-policy": policy,
                    "temporary-directory": str(folder),
                }
            )
        )
        # A cluster that is interrupted while it starts leaves processes behind.
        with _interrupts_deferred():
            local = stack.enter_context(
                LocalCluster(
                    n_workers=cluster.workers,
                    threads_per_worker=cluster.threads,
                    processes=True,
                    # No dashboard, and a free port, since 8787 may be in use
                    dashboard_address="127.0.0.1:0",
                    scheduler_kwargs={"dashboard": False},
                    # An interruption cuts many conversations short, and each would
                    # be logged as an error. Real ones are raised.
                    silence_logs=logging.CRITICAL,
                )
            )
            client = stack.enter_context(Client(local))
        yield Bench(client, local, policy)


def run_demo(
    data: DataSpec,
    cluster: ClusterSpec,
    sources: Sequence[str] = tuple(SOURCES),
    policies: Sequence[str] = POLICIES,
    report: Report = lambda done, total, what: None,
) -> list[Run]:
    """Write the data set, and compute its mean from every source under every policy.

    The data are written into a temporary folder that is removed in the end, also
    when something goes wrong on the way.

    Parameters
    ----------
    data
        Size of the data set.
    cluster
        Size of the cluster.
    sources
        Keys of :data:`SOURCES`.
    policies
        Members of :data:`POLICIES`.
    report
        Is told before every step how many were done, how many there are, and what
        this one is.

    Returns
    -------
    One item for every source and policy, in the order of the sources.

    Raises
    ------
    DemoError
        If there is too little room for the data, or a step failed.
    """
    formats = list(dict.fromkeys(SOURCES[source].format for source in sources))
    total = len(formats) * data.files + len(policies) * (1 + len(sources))
    runs = []
    done = 0
    doing = "Starting"

    def step(what: str) -> None:
        nonlocal done, doing
        report(done, total, what)
        done += 1
        doing = what

    with contextlib.ExitStack() as stack:
        folder = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(
                    prefix="dask-rootish-demo-", ignore_cleanup_errors=True
                )
            )
        )
        check_room(folder, len(formats) * data.nbytes)
        if not cluster.marks:
            stack.enter_context(stripped_marks())
        try:
            for fmt in formats:
                for i, path in enumerate(fmt.paths(folder, data)):
                    step(f"Writing {path.name}")
                    fmt.write(path, data, i)
            for policy in policies:
                step(f"Starting a cluster, policy {policy}")
                with start_bench(policy, cluster, folder) as bench:
                    for source in sources:
                        step(f"Computing {source}, policy {policy}")
                        paths = SOURCES[source].format.paths(folder, data)
                        runs.append(bench.run(source, paths, data))
        except Exception as e:
            # Libraries fail in their own ways, and often at length.
            message = str(e).strip().partition("\n")[0]
            raise DemoError(f"{doing} failed: {type(e).__name__}: {message}") from e
        report(total, total, "Done")
    return sorted(runs, key=lambda run: sources.index(run.source))


def check_room(folder: Path, nbytes: int) -> None:
    """Raise :class:`DemoError` if ``folder`` has no room for ``nbytes``."""
    free = shutil.disk_usage(folder).free
    if free < nbytes:
        raise DemoError(
            f"The data set takes {format_bytes(nbytes)}, but there are only "
            f"{format_bytes(free)} in {folder.parent}; ask for fewer --files or set "
            "TMPDIR to another folder."
        )


def check_results(runs: Sequence[Run]) -> None:
    """Raise :class:`DemoError` if two runs differ by more than rounding.

    The data are the same in every format, and so are the chunks.
    """
    import numpy as np

    for run in runs[1:]:
        if not np.allclose(run.result, runs[0].result, rtol=1e-9, atol=0):
            raise DemoError(
                f"The result of {run.source} under policy {run.policy} differs from "
                f"that of {runs[0].source} under policy {runs[0].policy}."
            )


# -- Showing -------------------------------------------------------------------------


def policy_title(policy: str) -> str:
    """Name a policy together with where it comes from.

    Parameters
    ----------
    policy
        Member of :data:`POLICIES`.

    Returns
    -------
    Such as ``producers (this fork)``.
    """
    release = __version__.partition("+")[0]
    origins = {
        "heuristic": "up to 2024.12",
        "marked": f"release {release}",
        "producers": "this fork",
    }
    return f"{policy} ({origins[policy]})"


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if part >= whole / 100 else "< 1%"


def _mib(nbytes: int) -> str:
    mib = nbytes / 2**20
    return f"{mib:.1f}" if mib < 99.95 else f"{mib:.0f}"


def make_table(runs: Sequence[Run], data: DataSpec, cluster: ClusterSpec) -> Table:
    """Show the measurements, a section for each source.

    It fits into 60 columns, and says without colors what it says with them.

    Parameters
    ----------
    runs
        Those of one source must follow each other.
    data
        What they read.
    cluster
        What they ran on.
    """
    from rich import box
    from rich.table import Table

    bound = cluster.bound(data)
    table = Table(
        title=f"Weighted mean over\n{data}",
        caption=(
            f"\n{cluster}. Memory is the peak of the sum over the workers, for "
            "processes above what they held before."
        ),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        title_style="bold",
        padding=0,
        show_edge=False,
    )
    if math.isfinite(bound):
        table.caption = (
            f"{table.caption} An asterisk marks managed memory above "
            f"{format_bytes(int(bound))}, twice what the workers may load at once."
        )
    table.add_column("policy")
    table.add_column("managed\n(MiB) ", justify="right")
    table.add_column("of\ndata", justify="right")
    table.add_column("process\n(MiB)", justify="right")
    table.add_column("moved\n(MiB)", justify="right")
    table.add_column("time\n(s)", justify="right")
    for i, run in enumerate(runs):
        if i == 0 or runs[i - 1].source != run.source:
            table.add_section()
            table.add_row(f"[bold]{run.source}[/]")
        style, mark = ("green", " ") if run.managed <= bound else ("red", "*")
        table.add_row(
            policy_title(run.policy),
            f"[{style}]{_mib(run.managed)}{mark}[/]",
            f"[{style}]{_percent(run.managed, data.nbytes)}[/]",
            _mib(run.process),
            _mib(run.moved),
            f"{run.seconds:.1f}",
        )
    return table


#: Colours that can be told apart with any kind of colour vision (Okabe and Ito).
_COLOURS = {"heuristic": "#D55E00", "marked": "#0072B2", "producers": "#009E73"}


def write_plot(runs: Sequence[Run], data: DataSpec, path: Path) -> None:
    """Plot the memory of the cluster over time: a panel per source, a line per policy.

    Parameters
    ----------
    runs
        The measurements.
    data
        What they read; its size is the dashed line.
    path
        Where to write the picture (PNG).
    """
    # The object-oriented interface needs no display, and leaves the backend alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sources = list(dict.fromkeys(run.source for run in runs))
    columns = min(len(sources), 2)
    rows = math.ceil(len(sources) / columns)
    # One panel is wide enough for the title, but not for a legend in one line
    width, legend = (10, 1.2) if columns > 1 else (6.5, 1.6)
    figure = Figure(figsize=(width, legend + 2.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    mib = 2**20
    for ax in axes[len(sources) :]:
        ax.set_visible(False)
    for ax, source in zip(axes, sources):
        ax.axhline(data.nbytes / mib, color="0.4", linestyle="--", linewidth=1)
        ax.annotate(
            "data set",
            (1, data.nbytes / mib),
            xycoords=("axes fraction", "data"),
            xytext=(-4, -3),
            textcoords="offset points",
            ha="right",
            va="top",
            color="0.4",
            fontsize="small",
        )
        for run in runs:
            if run.source == source:
                times, nbytes = zip(*run.managed_history)
                colour = _COLOURS.get(run.policy)
                values = [n / mib for n in nbytes]
                title = policy_title(run.policy)
                ax.plot(times, values, color=colour, label=title)
                ax.fill_between(times, values, color=colour, alpha=0.15, linewidth=0)
        ax.set_title(source)
        ax.set_xlim(left=0)
        ax.set_ylim(bottom=0)
        ax.spines[["top", "right"]].set_visible(False)
        if ax.get_subplotspec().is_first_col():
            ax.set_ylabel("managed memory (MiB)")
        ax.set_xlabel("seconds")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(labels) if columns > 1 else 1,
        frameon=False,
        title="distributed.scheduler.rootish-policy",
    )
    figure.suptitle(f"Weighted mean over {data}")
    figure.savefig(path, dpi=120)
