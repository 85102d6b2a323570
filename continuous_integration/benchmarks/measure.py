"""Measure one workload: what it held, what it moved, how long it took.

A measurement is one computation on a fresh ``LocalCluster``. The scheduler is always in
this process, so that a plugin sees its books after every transition; the workers are
in this process (quick, managed memory and bytes moved are what counts) or in
processes of their own (process memory and time as users see them).

The same code measures the base as released, which has no ``MemoryRecorder``: the
recorder is then imported from this repository.
"""

from __future__ import annotations

import gc
import importlib
import logging
import multiprocessing
import os
import threading
import time
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import dask
import numpy as np
import psutil

from continuous_integration.benchmarks.ours import REPOSITORY, load_ours
from continuous_integration.benchmarks.workloads import WORKLOADS, Unavailable, Workload

POLICIES = ("producers", "marked", "heuristic")
#: Folder of what the benchmarks read and write.
BUILD = REPOSITORY / "build" / "benchmarks"

_MB = 1e6


@dataclass(frozen=True)
class Measurement:
    """What one run of one workload gave.

    Attributes
    ----------
    workload : str
        Name of the workload.
    version : str
        Version of ``distributed`` that ran it.
    policy : str or None
        Value of ``distributed.scheduler.rootish-policy``; None is the default.
    workers, threads : int
        Number of workers, and of threads on each.
    processes : bool
        Whether the workers had processes of their own.
    marks : bool
        False when every mark was stripped.
    peak_managed : float
        Largest managed memory at any transition, in MB (1e6 bytes).
    peak_process : float
        Largest resident memory of the processes that hold the workers, above what they
        had before the workload, in MB.
    moved : float
        Bytes that workers sent, in MB. P2P shuffles have a channel of their own, which
        this does not see.
    seconds : float
        Wall time of the computation, without what prepares it.
    result : float
        A number made from the result; equal (but for rounding) if results are equal.
    """

    workload: str
    version: str
    policy: str | None
    workers: int
    threads: int
    processes: bool
    marks: bool
    peak_managed: float
    peak_process: float
    moved: float
    seconds: float
    result: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a dict that JSON can hold."""
        return asdict(self)


def load_recorder() -> Any:
    """Return ``MemoryRecorder``, which the base does not have."""
    return load_ours("distributed/diagnostics/memory_recorder.py").MemoryRecorder


def fingerprint(result: Any) -> float:
    """Return a number that tells results apart, whatever they are made of.

    Parameters
    ----------
    result
        A number, an array, something of pandas or xarray that converts to an array, or
        a list, tuple or dict of those.

    Returns
    -------
    float
        Sum of all elements, each weighted by its position, so that a permutation shows.
        Elements that are not finite count as 0.

    Raises
    ------
    TypeError
        If the result is still to be computed: that would happen here, unmeasured.
    """
    if dask.is_dask_collection(result):
        raise TypeError(f"the workload returned {type(result).__name__}, not computed")
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, (list, tuple)):
        return float(sum((n + 1) * fingerprint(r) for n, r in enumerate(result)))
    values = np.asarray(result, dtype=float).ravel()
    weights = 1 + np.arange(values.size) % 7
    return float(np.sum(np.where(np.isfinite(values), values, 0) * weights))


def thin(
    history: Sequence[tuple[float, float]], points: int = 200
) -> list[tuple[float, float]]:
    """Return at most ``points`` of a history, the largest value of each stretch.

    Parameters
    ----------
    history
        Pairs (seconds, managed MB), in order.
    points
        How many to keep at most.
    """
    step = -(-len(history) // points) or 1
    stretches = (history[n : n + step] for n in range(0, len(history), step))
    return [max(stretch, key=lambda pair: pair[1]) for stretch in stretches]


def policy_setting(policy: str, version: str) -> dict[str, str]:
    """Return the configuration that chooses a policy.

    Raises
    ------
    Unavailable
        When this ``distributed``, of the given version, has no policies.
    """
    setting = "distributed.scheduler.rootish-policy"
    if dask.config.get(setting, None) is None:
        raise Unavailable(
            f"distributed {version} has no policies: leave --policy out or "
            "install the fork"
        )
    return {setting: policy}


@contextmanager
def without_marks() -> Iterator[None]:
    """Make every task of this process look as though nobody had marked it."""
    from dask import _task_spec

    unmarked = property(lambda self: False)
    with (
        mock.patch.object(_task_spec.Task, "data_producer", unmarked),
        mock.patch.object(_task_spec.DataNode, "data_producer", unmarked),
    ):
        yield


class _ProcessMemory:
    """Sample the resident memory of processes from a thread."""

    def __init__(self, pids: Collection[int], interval: float = 0.01):
        self.processes = [psutil.Process(pid) for pid in pids]
        self.interval = interval
        self.idle = self.peak = self.sample()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def sample(self) -> int:
        """Return the resident memory now, in bytes."""
        return sum(process.memory_info().rss for process in self.processes)

    def _run(self) -> None:
        while not self._stop.wait(self.interval):
            self.peak = max(self.peak, self.sample())

    def __enter__(self) -> _ProcessMemory:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._stop.set()
        self._thread.join()


def moved_by(client: Any) -> int:
    """Return how many bytes the workers of a client have sent, so far.

    Parameters
    ----------
    client
        It waits for their answers.
    """
    return sum(client.run(_moved).values())


def _moved(dask_worker: Any) -> int:
    return dask_worker.transfer_outgoing_bytes_total


async def install(recorder: Any, scheduler: Any) -> None:
    """Start a plugin of the scheduler, in its event loop.

    Parameters
    ----------
    recorder
        The plugin.
    scheduler
        The scheduler of a local cluster.
    """
    await recorder.start(scheduler)
    scheduler.add_plugin(recorder)


@contextmanager
def _preloaded() -> Iterator[None]:
    """Let new processes of workers come with the modules of all workloads, if forked.

    They are imported once for this process rather than in every worker.
    """
    from distributed.utils import get_mp_context

    context = get_mp_context()
    if context.get_start_method() == "forkserver":
        modules = {name for one in WORKLOADS.values() for name in one.modules}
        context.set_forkserver_preload(["distributed", "dask.array", *sorted(modules)])
    yield


def _import(*modules: str) -> int:
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    return os.getpid()


def measure(
    workload: Workload,
    folder: Path,
    *,
    workers: int = 4,
    threads: int = 1,
    processes: bool = False,
    policy: str | None = None,
    marks: bool = True,
    history: list[tuple[float, float]] | None = None,
) -> Measurement:
    """Run one workload on a fresh cluster and return what was measured.

    Parameters
    ----------
    workload
        What to run.
    folder
        Where its files are, or are to be written.
    workers, threads
        Number of workers, and of threads on each.
    processes
        Give each worker a process of its own.
    policy
        Value for ``distributed.scheduler.rootish-policy``; None leaves it alone.
    marks
        False to strip every mark.
    history
        A list to be filled with pairs (seconds, managed MB), to plot.

    Returns
    -------
    Measurement

    Raises
    ------
    Unavailable
        When a library that the workload needs is missing, or ``policy`` is given and
        this ``distributed`` has no policies.
    """
    import distributed
    from distributed import Client, LocalCluster

    workload.check()
    config: dict[str, Any] = {"distributed.comm.timeouts.connect": "60s"}
    if processes and "forkserver" in multiprocessing.get_all_start_methods():
        config["distributed.worker.multiprocessing-method"] = "forkserver"
    if policy is not None:
        config.update(policy_setting(policy, distributed.__version__))
    workload.write(folder)
    recorder = load_recorder()(interval=0.02)
    warnings.filterwarnings("ignore", message="Sending large graph")
    with (
        dask.config.set(config),
        nullcontext() if marks else without_marks(),
        _preloaded(),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            processes=processes,
            dashboard_address=":0",
            # Peaks are to be seen, not to be stopped by spilling or pausing. (Workers
            # in one process would also all see the memory of the whole process.)
            memory_limit=0,
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(workers)
        pids = client.run(_import, "dask.array", *workload.modules).values()
        with _ProcessMemory(set(pids)) as memory:
            prepared = workload.prepare(client, folder)
            cluster.sync(install, recorder, cluster.scheduler)
            before = moved_by(client)
            start = time.perf_counter()
            result = workload.compute(client, folder, prepared)
            seconds = time.perf_counter() - start
            moved = moved_by(client) - before
        approximation = fingerprint(result)
        del prepared, result
    if history is not None and recorder.history:
        origin = recorder.history[0][0]
        history.extend((t - origin, m / _MB) for t, m in recorder.history)
    return Measurement(
        workload=workload.name,
        version=distributed.__version__,
        policy=policy,
        workers=workers,
        threads=threads,
        processes=processes,
        marks=marks,
        peak_managed=recorder.peak_managed / _MB,
        peak_process=(memory.peak - memory.idle) / _MB,
        moved=moved / _MB,
        seconds=seconds,
        result=approximation,
    )
