"""Play a scenario against real processes, and see whether it was as it should be."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import dask
import numpy as np

from continuous_integration.benchmarks.measure import (
    REPOSITORY,
    install,
    without_marks,
)
from continuous_integration.faults import storage
from continuous_integration.faults.storage import CHUNK_NBYTES, Calm, Notes
from distributed import Client, Future, LocalCluster
from distributed.cluster_dump import DEFAULT_CLUSTER_DUMP_EXCLUDE
from distributed.diagnostics.memory_recorder import MemoryRecorder
from distributed.utils import get_mp_context, silence_logging_cmgr

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.scheduler import TaskState

T = TypeVar("T")

#: Modules that workers need; they are imported once where processes can be forked.
PRELOAD = ["distributed", "dask.array", "zarr", "continuous_integration.faults.storage"]

#: How long workers may take to tell what they know, in seconds.
DUMP_TIMEOUT = 30


class Fault(AssertionError):
    """Something that must hold does not."""


class Unended(Fault):
    """A run did not come to its end."""


class Peak(NamedTuple):
    """The largest managed memory of a part of a run, and what it may be, in bytes."""

    nbytes: int
    bound: int


class Recorder(MemoryRecorder):
    """See what becomes of chunks and of workers; a plugin of the scheduler.

    Attributes
    ----------
    loaded : Counter
        How often each chunk came into memory, by key.
    erred : Counter
        How often a task failed for good, by key.
    pids : dict of str to int
        Processes of all workers that there ever were, by address.
    removed : list of str
        Addresses of workers that went.
    statuses : list of (str, str)
        Addresses and statuses of workers, whenever one paused or went on.
    on_load : callable, optional
        Called with the scheduler and each task that brought a chunk into memory.
    """

    def __init__(self) -> None:
        super().__init__(prefixes=["chunk"])
        self.loaded: Counter[Any] = Counter()
        self.erred: Counter[Any] = Counter()
        self.pids: dict[str, int] = {}
        self.removed: list[str] = []
        self.on_load: Callable[[Scheduler, TaskState], None] | None = None

    async def start(self, scheduler: Scheduler) -> None:
        await super().start(scheduler)
        for address in scheduler.workers:
            self.add_worker(scheduler, address)

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        self.pids[worker] = scheduler.workers[worker].pid

    def remove_worker(
        self, scheduler: Scheduler, worker: str, *, stimulus_id: str, **kwargs: Any
    ) -> None:
        self.removed.append(worker)

    def transition(
        self, key: Any, start: Any, finish: Any, *args: Any, **kwargs: Any
    ) -> None:
        super().transition(key, start, finish, *args, **kwargs)
        if finish == "erred":
            self.erred[key] += 1
        if is_chunk(key) and (start, finish) == ("processing", "memory"):
            self.loaded[key] += 1
            if self.on_load:
                self.on_load(self.scheduler, self.scheduler.tasks[key])


def is_chunk(key: Any) -> bool:
    """Return whether a key is that of a task which reads a chunk."""
    return isinstance(key, tuple) and str(key[0]).startswith("chunk-")


@dataclass(frozen=True)
class Setting:
    """Under what all scenarios run.

    Attributes
    ----------
    data : Path
        Folder of the files.
    policy : str
        Value of ``distributed.scheduler.rootish-policy``.
    marks : bool
        False to strip the mark of every task.
    timeout : float
        A run that takes longer, in seconds, does not end.
    dumps : Path
        Folder for what scheduler and workers know when a run does not end.
    """

    data: Path
    policy: str = "producers"
    marks: bool = True
    timeout: float = 120.0
    dumps: Path = REPOSITORY / "build/faults"


async def _call(function: Callable[[Scheduler], T], scheduler: Scheduler) -> T:
    return function(scheduler)


@dataclass
class Run:
    """One run of a scenario: what it runs with, and what was seen.

    Attributes
    ----------
    setting : Setting
        See there.
    notes : Notes
        What workers tell.
    seen : Counter
        What happened how often.
    peaks : list of Peak
        One for each part of the run.
    recorder : Recorder
        Plugin of the scheduler.
    client : Client
        Only while there is a cluster; so are the next two.
    local : LocalCluster
        The cluster.
    future : Future
        What was submitted last.
    """

    setting: Setting
    notes: Notes
    seen: Counter[str] = field(default_factory=Counter)
    peaks: list[Peak] = field(default_factory=list)
    recorder: Recorder = field(default_factory=Recorder)
    client: Client = field(init=False)
    local: LocalCluster = field(init=False)
    future: Future[Any] = field(init=False)

    def __post_init__(self) -> None:
        self._deadline = time.monotonic() + self.setting.timeout
        self._bound = 0

    # The cluster

    @contextlib.contextmanager
    def cluster(
        self, workers: int = 2, threads: int = 2, memory_limit: int = 0
    ) -> Iterator[None]:
        """Run a cluster with a process and a nanny for each worker.

        Parameters
        ----------
        workers, threads
            Number of workers, and of threads on each.
        memory_limit
            Of each worker, in bytes; 0 for none.
        """
        with (
            dask.config.set(config(self.setting.policy)),
            LocalCluster(
                n_workers=workers,
                threads_per_worker=threads,
                processes=True,
                dashboard_address=":0",
                memory_limit=memory_limit,
                silence_logs=logging.CRITICAL,
            ) as self.local,
            Client(self.local) as self.client,
        ):
            if workers:
                self.client.wait_for_workers(workers, timeout=self.setting.timeout)
            self.local.sync(install, self.recorder, self.local.scheduler)
            self.bound(workers, threads)
            try:
                yield
            finally:
                # Whoever waits would be waited for
                self.notes.open(storage.ALL)
                self.end_part()

    def ask(self, function: Callable[[Scheduler], T]) -> T:
        """Call a function with the scheduler, in its event loop, and return its answer.

        Parameters
        ----------
        function
            It must not change anything.
        """
        return self.local.sync(_call, function, self.local.scheduler)

    def address(self, pid: int) -> str:
        """Return the address of the worker that has a process.

        Raises
        ------
        Fault
            If there never was any.
        """
        for address, known in self.recorder.pids.items():
            if known == pid:
                return address
        raise Fault(f"process {pid} was no worker")

    # Memory

    def bound(self, workers: int, threads: int, more: int = 0) -> None:
        """Say how much may be in memory from now on: two chunks for each slot.

        Parameters
        ----------
        workers, threads
            Size of the cluster.
        more
            Bytes that are there already.
        """
        self._bound = 2 * slots(workers, threads) * CHUNK_NBYTES + more

    def end_part(self, peak: int | None = None) -> None:
        """Take down the peak of managed memory so far, and begin anew.

        Parameters
        ----------
        peak
            Where it was measured elsewhere.
        """
        nbytes = self.recorder.peak_managed if peak is None else peak
        self.peaks.append(Peak(nbytes, self._bound))
        self.recorder.peak_managed = 0

    # The computation

    def submit(self, trouble: Calm, retries: int = 0) -> None:
        """Begin to compute, with storage in some trouble."""
        collection = storage.reduce(storage.arrays(self.setting.data, trouble))
        self.future = self.client.compute(collection, retries=retries)

    def until(
        self, what: str, happens: Callable[[], Any], *, after_end: bool = False
    ) -> None:
        """Wait until something happens.

        Parameters
        ----------
        what
            What it is, for people.
        happens
            Returns something true when it has happened.
        after_end
            Whether it may happen when all is computed.

        Raises
        ------
        Unended
            If it does not.
        Fault
            If all is computed and it has not happened.
        """
        while not happens():
            if not after_end and self.future.done():
                # It may have happened in between
                if happens():
                    break
                raise Fault(f"the computation ended before {what}")
            self._not_late(what)
            time.sleep(storage.LOOK)

    def _not_late(self, what: str) -> None:
        if time.monotonic() > self._deadline:
            state = self._state()
            raise Unended(f"did not end: waited for {what}; {state}; {self._dump()}")

    def _state(self) -> str:
        if not hasattr(self, "local"):
            return "of the scheduler nothing is known"
        states = self.ask(lambda s: Counter(str(ts.state) for ts in s.tasks.values()))
        workers = self.ask(lambda s: Counter(w.status.name for w in s.workers.values()))
        return f"tasks: {_counts(states)}; workers: {_counts(workers)}"

    def _dump(self) -> str:
        """Write down what scheduler and workers know, and return what was written."""
        scheduler = self.local.scheduler if hasattr(self, "local") else None
        if scheduler is None:
            return "nothing is dumped"
        self.setting.dumps.mkdir(parents=True, exist_ok=True)
        file = self.setting.dumps / f"{time.strftime('%Y%m%d-%H%M%S')}.msgpack.gz"
        try:
            self.local.sync(
                scheduler.dump_cluster_state_to_url,
                url=str(file),
                exclude=DEFAULT_CLUSTER_DUMP_EXCLUDE,
                format="msgpack",
                callback_timeout=DUMP_TIMEOUT,
            )
        except Exception as error:
            # A worker may not answer; the run is to be told of all the same
            return f"no dump: {type(error).__name__}: {error}"
        return f"dump: {file.name}"

    def result(self) -> Any:
        """Wait for what was submitted.

        Raises
        ------
        Unended
            If it does not come.
        Fault
            If it is an error.
        """
        self.until("the result", self.future.done)
        if self.future.status != "finished":
            error = self.future.exception(timeout=self.setting.timeout)
            raise Fault(f"the result is an error: {type(error).__name__}: {error}")
        left = max(1, self._deadline - time.monotonic())
        return self.future.result(timeout=left)


def slots(workers: int, threads: int) -> int:
    """Return how many root-ish tasks worker saturation allows at once."""
    saturation = dask.config.get("distributed.scheduler.worker-saturation")
    return workers * max(int(-(-saturation * threads // 1)), 1)


def config(policy: str) -> dict[str, Any]:
    """Return the configuration of all clusters, and have their processes forked.

    Parameters
    ----------
    policy
        Value of ``distributed.scheduler.rootish-policy``.
    """
    settings: dict[str, Any] = {
        "distributed.scheduler.rootish-policy": policy,
        # So long a worker tries to reach one that is dead, if it hears of the data that
        # this had before it hears of its death
        "distributed.comm.timeouts.connect": "10s",
    }
    if "forkserver" in multiprocessing.get_all_start_methods():
        settings["distributed.worker.multiprocessing-method"] = "forkserver"
        with dask.config.set(settings):
            get_mp_context().set_forkserver_preload(PRELOAD)
    return settings


# -- What comes of it ----------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """Something that goes wrong, in a way that a cluster must bear.

    Attributes
    ----------
    name : str
        Name on the command line.
    play : callable
        Called with a :class:`Run`; makes it happen and returns the result.
    must : mapping of str to int
        What must be seen at least how often: the proof that it happened.
    """

    name: str
    play: Callable[[Run], Any]
    must: Mapping[str, int]

    @property
    def title(self) -> str:
        """First line of the docstring."""
        return (self.play.__doc__ or self.name).strip().splitlines()[0]


@dataclass(frozen=True)
class Outcome:
    """What came of one run.

    Attributes
    ----------
    scenario : str
        Its name.
    wrong : bool
        Whether the result is not that of the undisturbed run.
    unended : bool
        Whether there was none in time.
    complaints : tuple of str
        What did not hold, a line each; none if all is well.
    peak : Peak
        That which came nearest to its bound, or exceeds it most.
    seen : Counter
        What happened how often.
    """

    scenario: str
    wrong: bool
    unended: bool
    complaints: tuple[str, ...]
    peak: Peak
    seen: Counter[str]


def observe(scenario: Scenario, setting: Setting, expected: Any) -> Outcome:
    """Play a scenario once.

    Parameters
    ----------
    scenario
        What is to happen.
    setting
        Under what.
    expected
        Result of the undisturbed run.
    """
    complaints: list[str] = []
    wrong = unended = False
    with (
        tempfile.TemporaryDirectory(prefix="faults-") as folder,
        nullcontext() if setting.marks else without_marks(),
        silence_logging_cmgr(logging.CRITICAL),
    ):
        run = Run(setting, Notes(Path(folder)))
        try:
            result = scenario.play(run)
        except Unended as error:
            unended = True
            complaints.append(str(error))
        except Fault as error:
            complaints.append(str(error))
        except Exception as error:
            # Of the machinery, or of what it calls; it is a line like the others
            complaints.append(f"{type(error).__name__}: {error}")
        else:
            wrong = not np.array_equal(result, expected)
            if wrong:
                complaints.append(f"wrong result: {_differences(result, expected)}")
            complaints += [
                f"not seen: {what}: {run.seen[what]} times instead of {least}"
                for what, least in scenario.must.items()
                if run.seen[what] < least
            ]
    peak = max(run.peaks, key=lambda p: p.nbytes / p.bound, default=Peak(0, 0))
    if peak.nbytes > peak.bound:
        complaints.append(f"memory: {peak.nbytes:,} bytes, at most {peak.bound:,}")
    lines = (" ".join(complaint.split()) for complaint in complaints)
    return Outcome(scenario.name, wrong, unended, tuple(lines), peak, run.seen)


def _differences(result: Any, expected: Any) -> str:
    if np.shape(result) != np.shape(expected):
        return f"of shape {np.shape(result)} instead of {np.shape(expected)}"
    [places] = np.nonzero(np.asarray(result) != np.asarray(expected))
    first = places[0]
    return (
        f"{len(places)} of {len(expected)} numbers, the first {result[first]} "
        f"instead of {expected[first]}"
    )


def _counts(counter: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in counter.items()) or "none"
