"""How each reader is judged under each policy, and what that lets into memory.

``python -m continuous_integration.benchmarks readers`` runs every reader of
:mod:`continuous_integration.benchmarks.readers` under the three policies, with marks
and with marks stripped, and prints a table. What it counts does not depend on the speed
of the machine: workers hear from the scheduler only when they have nothing left to do,
so that whatever is sent out at once is in memory at once.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
from dask.base import is_dask_collection
from dask.utils import key_split

from continuous_integration.benchmarks.measure import REPOSITORY, without_marks
from continuous_integration.benchmarks.readers import Reader
from distributed import Client, LocalCluster, rootish
from distributed.utils import key_split_group

# The tests are not installed
rootish.__path__.append(str(REPOSITORY / "distributed" / "rootish"))

from distributed.rootish.tests.utils import (  # noqa: E402
    FarWorker,
    Watch,
    slots,
)

#: From the oldest to the one of this fork.
POLICIES = ("heuristic", "marked", "producers")
WORKERS = 2
THREADS = 2


class Reads(Watch):  # type: ignore[misc]
    """Watch the tasks of all prefixes whose names match a regular expression.

    Chunks count as long as a task waits for them. What a client alone has not let go of
    yet, having submitted one task after the other, is not for the scheduler to bound.
    """

    peak_chunks: int

    def __init__(self, pattern: str):
        super().__init__()
        self.pattern = re.compile(pattern)
        self.groups: set[str] = set()

    def update_graph(self, scheduler: Any, *, tasks: Iterable[Any], **_: Any) -> None:
        """Find the prefixes in what was submitted."""
        for key in tasks:
            if self.pattern.fullmatch(name := key_split(key)):
                self.prefixes |= {name}
                self.groups.add(key_split_group(key))

    def transition(
        self, key: Any, start: Any, finish: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Count the chunks."""
        before = self.peak_chunks
        super().transition(key, start, finish, *args, **kwargs)
        if self.peak_chunks > before:
            needed = sum(
                ts.state == "memory" and bool(ts.waiters)
                for ts in self.scheduler.tasks.values()
                if ts.prefix.name in self.prefixes
            )
            self.peak_chunks = max(before, needed)


#: Columns of :func:`row`.
HEAD = ("reader", "marks", "tasks that read and their groups", *POLICIES)


@dataclass(frozen=True)
class Observation:
    """How one reader fared under one policy.

    Attributes
    ----------
    reader : str
        Its name.
    policy : str
        Value of ``distributed.scheduler.rootish-policy``.
    marks : bool
        False when every mark was stripped.
    prefixes : tuple of str
        Names of the task prefixes that read.
    groups : int
        Number of task groups of these prefixes.
    tasks : int
        Number of tasks of these groups that ran.
    reasons : tuple of str
        Names of the reasons of the verdicts, the most frequent first.
    rootish : bool
        Whether most of the tasks were root-ish.
    peak_chunks : int
        Largest number of chunks in memory at any transition.
    slots : int
        Root-ish tasks that worker saturation allows at once.
    """

    reader: str
    policy: str
    marks: bool
    prefixes: tuple[str, ...]
    groups: int
    tasks: int
    reasons: tuple[str, ...]
    rootish: bool
    peak_chunks: int
    slots: int

    @property
    def bounded(self) -> bool:
        """Whether no more chunks were in memory than the fork promises."""
        return self.peak_chunks <= 2 * self.slots


async def _watch(scheduler: Any, reads: Reads) -> None:
    await reads.start(scheduler)
    scheduler.add_plugin(reads)


async def _slots(scheduler: Any) -> int:
    return slots(scheduler)


def observe(
    reader: Reader, folder: Path, policy: str, marks: bool = True
) -> Observation:
    """Run a reader on a cluster of two workers with two threads each.

    Parameters
    ----------
    reader
        What to run.
    folder
        Where its files are, or are to be written.
    policy
        Value of ``distributed.scheduler.rootish-policy``.
    marks
        False to strip every mark.

    Raises
    ------
    Unavailable
        When a library that the reader needs is missing.
    """
    reader.check()
    settings = {
        "distributed.scheduler.rootish-policy": policy,
        "distributed.scheduler.validate": True,
        # So that tasks run where the decision put them
        "distributed.scheduler.work-stealing": False,
    }
    reads = Reads(reader.reads)
    with (
        dask.config.set(settings),
        nullcontext() if marks else without_marks(),
        LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=THREADS,
            processes=False,
            worker_class=FarWorker,
            dashboard_address=None,
            memory_limit=0,
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        cluster.sync(_watch, cluster.scheduler, reads)
        results = reader.open(client, folder)
        if is_dask_collection(results[0]):
            dask.compute(*results)
        else:
            client.gather(results)
        allowed = cluster.sync(_slots, cluster.scheduler)
    verdicts = Counter(verdict.reason for verdict in reads.verdicts)
    rootish = sum(verdict.rootish for verdict in reads.verdicts)
    return Observation(
        reader=reader.name,
        policy=policy,
        marks=marks,
        prefixes=tuple(sorted(reads.prefixes)),
        groups=len(reads.groups),
        tasks=reads.computed.total(),
        reasons=tuple(reason for reason, _ in verdicts.most_common()),
        rootish=2 * rootish > len(reads.verdicts),
        peak_chunks=reads.peak_chunks,
        slots=allowed,
    )


def row(seen: Sequence[Observation]) -> list[str]:
    """Return a row of the table.

    Parameters
    ----------
    seen
        One observation for each policy, in the order of :data:`HEAD`, of one reader.

    Returns
    -------
    list of str
        Under each policy the largest number of chunks in memory, in bold if it is more
        than the fork promises, and the reasons.
    """
    first = seen[0]
    return [
        first.reader,
        "with" if first.marks else "without",
        f"{first.tasks} {' '.join(first.prefixes)} / {first.groups}",
        *(
            (f"{one.peak_chunks}" if one.bounded else f"**{one.peak_chunks}**")
            + f" {', '.join(one.reasons)}"
            for one in seen
        ),
    ]
