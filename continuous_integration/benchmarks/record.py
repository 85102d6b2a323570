"""Run a workload once on real workers, and record what a replay needs.

Schedulers that decide differently get the same graphs: what is recorded is what clients
ask for, which no decision changes. So there is one recording of each workload. It is
made with the policy ``producers``, under which the least is in memory and moved at
once, so that durations are those of the tasks rather than of a full machine.

See :mod:`continuous_integration.benchmarks.recordings` for what is written.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import random
import re
import statistics
import tempfile
import threading
import uuid
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import dask
from dask.utils import key_split

# Registers its workloads
from continuous_integration.benchmarks import computations, generated, kinds  # noqa: F401
from continuous_integration.benchmarks.environments import alone
from continuous_integration.benchmarks.measure import install, policy_setting
from continuous_integration.benchmarks.progress import say
from continuous_integration.benchmarks.readers import READERS
from continuous_integration.benchmarks.recordings import (
    Operation,
    Output,
    Recording,
    Release,
    Scatter,
    Submission,
    dumps,
    kind_of,
    loads,
    make_node,
    token,
)
from continuous_integration.benchmarks.workloads import (
    WORKLOADS,
    once,
    require,
)
from distributed import Client, LocalCluster, SchedulerPlugin
from distributed.client import FutureState
from distributed.metrics import time
from distributed.rootish import demo
from distributed.utils import key_split_group

if TYPE_CHECKING:
    from dask.typing import Key

    from distributed import Scheduler
    from distributed.scheduler import TaskState

#: Prefixes that bring data in, where sizes do not tell: a dataset that was opened has
#: the size of all that is in it, one function may do every step, and weights and trends
#: that are broadcast get as large as the data.
READS = {
    "detrend-netcdf": "open_dataset-u",
    "detrend-zarr": "open_dataset-u",
    "handles-anomaly": "read-from-value",
    "handles-broadcast": "from-value-read-concatenate",
    "handles-chunked-weights": "from-value-read-concatenate",
    "open-dataset": "from-value",
    "uint8-overlap": "to_float",
    "uint8-rechunk": "to_float",
    "zarr-12-array": "from-zarr-concatenate",
    "zarr-12-two-means": "from-zarr-concatenate",
    "run-step": "run_step",
}

#: Inputs of a read are at most this part of what it gives, in bytes.
HANDLES = 0.25


class RecordingError(Exception):
    """Something happened that a recording cannot hold."""


class Recorder(SchedulerPlugin):
    """Record what the client of a scheduler asks for, and what tasks take and give.

    Register it before anything is submitted, within :meth:`watch_client`.

    Attributes
    ----------
    ops : list of Submission, Scatter or Release
        What came so far, with the keys that the scheduler knows.
    outputs : dict of key to list of Output
        What each task gave, as often as it ran.
    """

    name = "rootish-recorder"

    def __init__(self) -> None:
        self.ops: list[Operation] = []
        self.outputs: defaultdict[Key, list[Output]] = defaultdict(list)
        self._waited = True
        self._barrier = 0
        self._used: dict[Key, int] = {}
        self._dropped: defaultdict[int, list[Key]] = defaultdict(list)
        self._known: set[Key] = set()
        self._wanted: set[Key] = set()
        self._error: str | None = None
        self._last = 0.0

    async def start(self, scheduler: Scheduler) -> None:
        """See what the scheduler's own hooks do not tell."""
        self.scheduler = scheduler
        self.workers = {address: n for n, address in enumerate(scheduler.workers)}
        streams, handlers = scheduler.stream_handlers, scheduler.handlers
        update = streams["update-graph"]

        async def updated(submitting_task: Key | None = None, **message: Any) -> None:
            if submitting_task is not None:
                self._error = "a task submits tasks: the graph depends on when it runs"
            before = len(self.ops)
            await update(submitting_task=submitting_task, **message)
            if len(self.ops) == before:
                self._error = "the scheduler did not take a graph"

        streams["update-graph"] = updated
        self._wrap("update_data", self._scattered, (streams, "update-data"))
        self._wrap("update_data", self._scattered, (handlers, "update_data"))
        self._wrap(
            "client_releases_keys", self._released, (streams, "client-releases-keys")
        )

    def _wrap(
        self, name: str, see: Callable[..., None], handler: tuple[dict[str, Any], str]
    ) -> None:
        """Call ``see`` before a method of the scheduler.

        Messages find the method among the handlers, the scheduler itself by its name.
        """
        method = getattr(type(self.scheduler), name).__get__(self.scheduler)

        def seen(*args: Any, **kwargs: Any) -> Any:
            see(*args, **kwargs)
            return method(*args, **kwargs)

        handlers, op = handler
        handlers[op] = seen
        setattr(self.scheduler, name, seen)

    @contextmanager
    def watch_client(self) -> Iterator[None]:
        """Notice when a client of this process has waited for something."""
        wait = FutureState.wait

        async def waited(state: FutureState, *args: Any, **kwargs: Any) -> None:
            await wait(state, *args, **kwargs)
            self._waited = True

        with mock.patch.object(FutureState, "wait", waited):
            yield

    def pause(self) -> int:
        """Let the client have waited now; return the number of operations so far."""
        self._waited = True
        return len(self.ops)

    def finish(self, prepared: int = 0) -> tuple[list[Operation], int]:
        """Return the operations, with those releases that nobody had waited for.

        How soon a future goes when the client drops it is a matter of chance. Each is
        released with the last submission that uses it here, which is the soonest.

        Parameters
        ----------
        prepared
            Number of operations up to some point.

        Returns
        -------
        (list of Submission, Scatter or Release, int)
            The operations, and how many of them there are up to that point.

        Raises
        ------
        RecordingError
            If something happened that cannot be recorded.
        """
        if self._error:
            raise RecordingError(self._error)
        ops: list[Operation] = []
        count = 0
        for place, op in enumerate(self.ops):
            ops.append(op)
            if dropped := self._dropped[place]:
                if isinstance(op, Release):
                    op.keys += dropped
                else:
                    ops.append(Release(False, 0.0, dropped))
            if place < prepared:
                count = len(ops)
        return ops, count

    def _when(self) -> dict[str, Any]:
        """Return when an operation comes that comes now."""
        now = time()
        after = now - self._last if self.ops else 0.0
        self._last = now
        # By chance all may be there while the client submits one task after the other
        waited, self._waited = self._waited, False
        if waited:
            self._barrier = len(self.ops)
        tasks = self.scheduler.tasks
        there = all(key in tasks and tasks[key].who_has for key in self._wanted)
        return {"wait": waited and there, "after": after}

    def update_graph(
        self,
        scheduler: Scheduler,
        *,
        keys: set[Key],
        tasks: Sequence[Key],
        **kwargs: Any,
    ) -> None:
        """Record a graph."""
        new = [scheduler.tasks[key] for key in tasks if key not in self._known]
        priorities = {ts.key: ts.priority or (0, 0, 0) for ts in new}
        op = Submission(
            **self._when(),
            tasks={
                ts.key: make_node(
                    kind_of(ts.run_spec), ts.key, [dts.key for dts in ts.dependencies]
                )
                for ts in new
            },
            outputs=list(keys),
            priorities={key: int(place) for key, (_, _, place) in priorities.items()},
            annotations={
                ts.key: found for ts in new if (found := self._annotations(ts))
            },
            generation=max(
                (one for _, one, _ in priorities.values()), default=scheduler.generation
            ),
        )
        used = keys.union(*(node.dependencies for node in op.tasks.values()))
        self._used.update(dict.fromkeys(used, len(self.ops)))
        self.ops.append(op)
        self._known |= op.tasks.keys()
        self._wanted |= keys

    def _annotations(self, ts: TaskState) -> dict[str, Any]:
        """Return what holds for some tasks only."""
        workers = ts.worker_restrictions or ()
        found = {
            "worker_restrictions": sorted(self.workers[address] for address in workers),
            "host_restrictions": sorted(ts.host_restrictions or ()),
            "resource_restrictions": dict(ts.resource_restrictions or {}),
            "loose_restrictions": ts.loose_restrictions,
            "actor": bool(ts.actor),
            "retries": ts.retries,
            "priority": -ts.priority[0] if ts.priority else 0,
        }
        return {name: value for name, value in found.items() if value}

    def _scattered(
        self,
        *,
        who_has: Mapping[Key, Sequence[str]],
        nbytes: Mapping[Key, int],
        **_: Any,
    ) -> None:
        workers = {
            key: [self.workers[self.scheduler.coerce_address(one)] for one in addresses]
            for key, addresses in who_has.items()
        }
        self.ops.append(Scatter(**self._when(), data=dict(nbytes), workers=workers))
        for key, size in nbytes.items():
            self.outputs[key].append(Output(size, 0.0))
        self._known |= workers.keys()
        self._wanted |= workers.keys()

    def _released(self, keys: Sequence[Key], *args: Any, **kwargs: Any) -> None:
        released = [key for key in keys if key in self._wanted]
        if not released:
            return
        if self._waited:
            self.ops.append(Release(**self._when(), keys=released))
        else:
            for key in released:
                place = max(self._barrier, self._used.get(key, 0))
                self._dropped[place].append(key)
        self._wanted.difference_update(released)

    def transition(
        self,
        key: Key,
        start: str,
        finish: str,
        *args: Any,
        startstops: Sequence[Mapping[str, Any]] = (),
        **kwargs: Any,
    ) -> None:
        """Record an output."""
        if finish == "forgotten":
            self._known.discard(key)
        elif finish == "erred":
            self._error = f"the task {key!r} failed"
        elif start == "processing" and finish == "memory":
            seconds = sum(
                step["stop"] - step["start"]
                for step in startstops
                if step["action"] == "compute"
            )
            ts = self.scheduler.tasks[key]
            self.outputs[key].append(Output(ts.get_nbytes(), seconds, ts.type or ""))
            if not ts._queueable:
                for op in self.ops:
                    if isinstance(op, Submission) and key in op.tasks:
                        op.annotations.setdefault(key, {})["queueable"] = False


# Names


@contextmanager
def seeded_names() -> Iterator[None]:
    """Let what gets a random name get the same one in every run.

    The order of a graph depends on names where all else is equal. Threads that run
    tasks, or talk to others, take names from elsewhere, so that they are of no account.
    """
    generator, uuid4 = random.Random(0), uuid.uuid4

    def seeded() -> uuid.UUID:
        thread = threading.current_thread().name
        if thread.startswith(("MainThread", "Dask-Offload")):
            return uuid.UUID(int=generator.getrandbits(128), version=4)
        return uuid4()

    with mock.patch.object(uuid, "uuid4", seeded):
        yield


_HASH = re.compile("[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Renaming:
    """Number the hashes in keys, in order of appearance.

    What was one group stays one. A name that would get another prefix stays as it is.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def _name(self, text: str) -> str:
        renamed = _HASH.sub(
            lambda match: token(self._numbers.setdefault(match[0], len(self._numbers))),
            text,
        )
        return renamed if key_split(renamed) == key_split(text) else text

    def __call__(self, key: Any) -> Any:
        """Return the new key."""
        if isinstance(key, tuple):
            return tuple(self(part) for part in key)
        if isinstance(key, str):
            return self._name(key)
        return key


def _renamed(recording: Recording) -> Recording:
    """Return a recording with stable keys, in a stable order."""
    rename = Renaming()
    names: dict[Key, Key] = {}
    for op in recording.ops:
        if isinstance(op, Submission):
            names.update(
                (k, rename(k)) for k in sorted(op.tasks, key=op.priorities.__getitem__)
            )
        elif isinstance(op, Scatter):
            names.update((key, rename(key)) for key in op.data)
    if len(set(names.values())) < len(names):
        raise RecordingError(
            "two keys differ in nothing but a hash that looks numbered"
        )
    places = {key: place for place, key in enumerate(names)}

    def anew(mapping: Mapping[Key, Any]) -> dict[Key, Any]:
        return {
            names[key]: mapping[key] for key in sorted(mapping, key=places.__getitem__)
        }

    def every(keys: Sequence[Key]) -> list[Key]:
        return [names[key] for key in sorted(keys, key=places.__getitem__)]

    ops: list[Operation] = []
    for op in recording.ops:
        if isinstance(op, Submission):
            nodes = {
                key: make_node(
                    kind_of(node), names[key], every(list(node.dependencies))
                )
                for key, node in op.tasks.items()
            }
            ops.append(
                replace(
                    op,
                    tasks=anew(nodes),
                    outputs=every(op.outputs),
                    priorities=anew(op.priorities),
                    annotations=anew(op.annotations),
                )
            )
        elif isinstance(op, Scatter):
            ops.append(replace(op, data=anew(op.data), workers=anew(op.workers)))
        else:
            ops.append(replace(op, keys=every(op.keys)))
    return replace(recording, ops=ops, outputs=anew(recording.outputs))


# What was measured


def _outputs(recorder: Recorder) -> dict[Key, Output]:
    """Return an output for each task, also for those that did not run."""
    found = {
        key: Output(
            int(statistics.median_low(one.nbytes for one in many)),
            statistics.median(one.seconds for one in many),
            many[0].typename,
        )
        for key, many in recorder.outputs.items()
    }
    by_group: defaultdict[str, list[Output]] = defaultdict(list)
    for key, output in found.items():
        by_group[key_split_group(key)].append(output)
    for op in recorder.ops:
        for key in op.tasks if isinstance(op, Submission) else ():
            if key not in found:
                like = by_group.get(key_split_group(key)) or list(found.values())
                found[key] = Output(
                    int(statistics.median_low(one.nbytes for one in like)),
                    statistics.median(one.seconds for one in like),
                    like[0].typename,
                )
    return found


def find_reads(recording: Recording) -> list[str]:
    """Return the names of the prefixes that bring data in.

    They are those of the computation (not of what prepares it) with marked tasks, or
    with inputs so small beside what they give that they are handles; of these the ones
    that give the most, and those that give more than half of that.

    Parameters
    ----------
    recording
        Its own ``reads`` do not matter.
    """
    nodes = {
        key: node
        for op in recording.ops[recording.prepared :]
        if isinstance(op, Submission)
        for key, node in op.tasks.items()
    }
    unpacked = {
        key
        for op in recording.ops
        if isinstance(op, Submission)
        for key, annotation in op.annotations.items()
        if not annotation.get("queueable", True)
    }
    prefixes: defaultdict[str, list[Key]] = defaultdict(list)
    for key, node in nodes.items():
        if kind_of(node) in ("task", "marked") and key not in unpacked:
            prefixes[key_split(key)].append(key)
    given: dict[str, float] = {}
    for prefix, keys in prefixes.items():
        total = sum(recording.outputs[key].nbytes for key in keys)
        needed = {one for key in keys for one in nodes[key].dependencies}
        inputs = sum(recording.outputs[one].nbytes for one in needed)
        marked = any(kind_of(nodes[key]) == "marked" for key in keys)
        if marked or inputs <= HANDLES * total:
            given[prefix] = total
    most = max(given.values(), default=0)
    return sorted(prefix for prefix, total in given.items() if 2 * total > most)


def median(recordings: Sequence[Recording]) -> tuple[Recording, int]:
    """Return a recording with the medians of the durations of several.

    Parameters
    ----------
    recordings
        Those that differ from the first in more than durations do not count.

    Returns
    -------
    (Recording, int)
        The first with these durations, and how many counted.
    """
    first = recordings[0]
    alike = [one for one in recordings if structure(one) == structure(first)]
    outputs = {
        key: output._replace(
            seconds=statistics.median(one.outputs[key].seconds for one in alike)
        )
        for key, output in first.outputs.items()
    }
    return replace(first, outputs=outputs), len(alike)


def structure(recording: Recording) -> list[str]:
    """Return the lines of a recording that hold no measurement."""
    lines = dumps(recording).splitlines()
    return [line for line in lines if not line.startswith(('{"after', '{"measured'))]


# What to run


@dataclass(frozen=True)
class Job:
    """Something to record.

    Attributes
    ----------
    name : str
        Name of the recording.
    check : callable
        Raises :exc:`Unavailable` if a library is missing.
    write : callable
        Writes files that are missing into a folder.
    prepare : callable
        Called with client and folder; what it does is not part of the computation.
    compute : callable
        Called with client, folder, and what ``prepare`` returned.
    workers, threads : int
        What it runs on.
    reads : str or None
        Regular expression for the prefixes that bring data in, where that is known.
    """

    name: str
    check: Callable[[], None]
    write: Callable[[Path], Any]
    prepare: Callable[[Client, Path], Any]
    compute: Callable[[Client, Path, Any], Any]
    workers: int = 4
    threads: int = 1
    reads: str | None = None


def _nothing(*args: Any) -> None:
    return None


def _compute_reader(name: str, client: Client, folder: Path, prepared: None) -> Any:
    results = READERS[name].open(client, folder)
    if dask.is_dask_collection(results[0]):
        return dask.compute(*results)
    return client.gather(results)


def _write_demo(source: str, folder: Path) -> list[Path]:
    data, kind = demo.DataSpec(), demo.SOURCES[source].format
    paths = kind.paths(folder / f"demo-{kind.suffix[1:]}", data)
    for number, path in enumerate(paths):
        with once(path) as target:
            if target is not None:
                kind.write(target, data, number)
    return paths


def _compute_demo(source: str, client: Client, folder: Path, prepared: None) -> Any:
    array = demo.SOURCES[source].open(_write_demo(source, folder), demo.DataSpec())
    return client.compute(demo.weighted_mean(array)).result()


def jobs() -> dict[str, Job]:
    """Return all that can be recorded: name -> job."""
    found = [
        Job(
            one.name,
            one.check,
            one.write,
            one.prepare,
            one.compute,
            reads=READS.get(one.name),
        )
        for one in WORKLOADS.values()
    ]
    for one in READERS.values():
        compute = partial(_compute_reader, one.name)
        name = f"reader-{one.name}"
        found.append(Job(name, one.check, _nothing, _nothing, compute, 2, 2, one.reads))
    for source, spec in demo.SOURCES.items():
        name = f"demo-{source}"
        check = partial(require, name, tuple(spec.packages))
        write, compute = partial(_write_demo, source), partial(_compute_demo, source)
        found.append(Job(name, check, write, _nothing, compute, 2, 2))
    return {job.name: job for job in found}


def record(job: Job, folder: Path, policy: str | None = "producers") -> Recording:
    """Run something on workers in this process, and return what was recorded.

    Parameters
    ----------
    job
        What to run.
    folder
        Where its files are, or are to be written.
    policy
        Value of ``distributed.scheduler.rootish-policy``; None leaves it alone, as is
        needed on the base.

    Raises
    ------
    Unavailable
        When a library that it needs is missing.
    RecordingError
        When something happened that cannot be recorded.
    """
    import distributed

    job.check()
    job.write(folder)
    recorder = Recorder()
    setting = policy_setting(policy, distributed.__version__) if policy else {}
    warnings.filterwarnings("ignore", message="Sending large graph")
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "60s", **setting}),
        LocalCluster(
            n_workers=job.workers,
            threads_per_worker=job.threads,
            processes=False,
            dashboard_address=":0",
            memory_limit=0,
            silence_logs=logging.ERROR,
        ) as cluster,
        recorder.watch_client(),
        Client(cluster) as client,
        seeded_names(),
    ):
        client.wait_for_workers(job.workers)
        cluster.sync(install, recorder, cluster.scheduler)
        prepared_ = job.prepare(client, folder)
        resources = [dict(ws.resources) for ws in cluster.scheduler.workers.values()]
        before = recorder.pause()
        result = job.compute(client, folder, prepared_)
        del prepared_, result
        gc.collect()
    ops, prepared = recorder.finish(before)
    submissions = [op for op in ops if isinstance(op, Submission)]
    for op in reversed(submissions):
        op.generation -= submissions[0].generation
    recording = _renamed(
        Recording(
            name=job.name,
            workers=job.workers,
            threads=job.threads,
            reads=[],
            ops=ops,
            outputs=_outputs(recorder),
            resources=resources if any(resources) else [],
            versions={
                "distributed": distributed.__version__,
                "dask": dask.__version__,
            },
            prepared=prepared,
        )
    )
    if job.reads is None:
        reads = find_reads(recording)
    else:
        prefixes = {key_split(key) for key in recording.outputs}
        reads = sorted(one for one in prefixes if re.fullmatch(job.reads, one))
    return replace(recording, reads=reads)


@contextmanager
def _same_path(folder: Path) -> Iterator[Path]:
    """Give a path to a folder that is the same wherever the folder is.

    Names of tasks that read files are hashes of their paths. Others who record wait.
    """
    parent = Path(tempfile.gettempdir()) / "dask-rootish"
    folder.mkdir(parents=True, exist_ok=True)
    with alone(parent, say):
        path = parent / "recorded"
        path.unlink(missing_ok=True)
        path.symlink_to(folder.resolve(), target_is_directory=True)
        yield path


def _run(name: str, folder: Path) -> str:
    return dumps(record(jobs()[name], folder))


def record_often(name: str, folder: Path, repeats: int) -> tuple[Recording, int]:
    """Record something several times, each time in a new process.

    The processes are alike, down to the order of sets, so that the recordings are; and
    they find the folder under the same path.

    Parameters
    ----------
    name
        Name of what to run.
    folder
        Where its files are, or are to be written.
    repeats
        How often.

    Returns
    -------
    (Recording, int)
        See :func:`median`.
    """
    jobs()[name].check()
    known = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if known else "spawn")
    if known:
        modules = {module for one in WORKLOADS.values() for module in one.modules}
        context.set_forkserver_preload([__name__, "dask.array", *sorted(modules)])
    texts = []
    with mock.patch.dict(os.environ, PYTHONHASHSEED="0"), _same_path(folder) as path:
        for _ in range(repeats):
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                texts.append(pool.submit(_run, name, path).result())
    return median([loads(text) for text in texts])
