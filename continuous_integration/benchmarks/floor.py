"""How little memory and network a computation can do with: two limits, by its graph.

The *floor of memory* is the lowest peak of a cluster that starts tasks in the order of
priority, as soon as a thread is free, and in which messages and transfers take no time.
Two readings of that order are tried, and the lower peak counts: the order alone, and
the order among tasks that free more than they make, and then among the others. (Work
that frees memory may be due at the very end, such as the sum of weights that were read
for something else. A scheduler that holds loads back does it when a thread is free.)
It is no lower bound: in another order, or with threads that wait, less can do.

The *floor of bytes* is what has to be moved if the order of those other tasks, which
bring data in, is cut into one stretch for each worker, all as long, and whatever frees
memory runs where most of its inputs are. It is no lower bound either: cuts elsewhere
may tear less apart. It is what is left if neighbors are always together.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from continuous_integration.benchmarks.recordings import (
    Output,
    Recording,
    Release,
    Scatter,
    Submission,
)

if TYPE_CHECKING:
    from dask.typing import Key


def _rank(submission: Submission, key: Key) -> tuple[Any, ...]:
    urgency = submission.annotations.get(key, {}).get("priority", 0)
    return -urgency, submission.generation, submission.priorities[key]


def _grows(
    submission: Submission,
    key: Key,
    sizes: Mapping[Key, Output],
    users: Mapping[Key, int],
) -> bool:
    """Whether a task makes more than its share of its inputs."""
    needs = submission.tasks[key].dependencies
    # The order of a set has no say in the last digit
    return sizes[key].nbytes > math.fsum(sizes[n].nbytes / users[n] for n in needs)


def _users(recording: Recording) -> Counter[Key]:
    """Return how many tasks use each output."""
    return Counter(
        need
        for op in recording.ops
        if isinstance(op, Submission)
        for node in op.tasks.values()
        for need in node.dependencies
    )


def floor_of_memory(recording: Recording, threads: int) -> int:
    """Return the lowest peak with so many threads, in bytes.

    Parameters
    ----------
    recording
        What is computed. What is held when the computation that is measured begins
        counts, and not what was held before.
    threads
        Number of threads of the whole cluster.
    """
    return min(_peak(recording, threads, first) for first in (False, True))


def _peak(recording: Recording, threads: int, consumers_first: bool) -> int:
    sizes = recording.outputs
    number_of_users = _users(recording)
    held: set[Key] = set()
    wanted: set[Key] = set()
    users: defaultdict[Key, dict[Key, None]] = defaultdict(dict)
    missing: dict[Key, set[Key]] = {}
    needs: dict[Key, tuple[Key, ...]] = {}
    ranks: dict[Key, tuple[Any, ...]] = {}
    ready: list[tuple[Any, int, Key]] = []
    running: list[tuple[float, int, Key]] = []
    count = itertools.count()
    now = 0.0
    nbytes = peak = 0

    def hold(key: Key) -> None:
        nonlocal nbytes, peak
        held.add(key)
        nbytes += sizes[key].nbytes
        peak = max(peak, nbytes)

    def drop(key: Key) -> None:
        nonlocal nbytes
        if key in held and key not in wanted and not users[key]:
            held.discard(key)
            nbytes -= sizes[key].nbytes

    def run_all() -> None:
        nonlocal now
        while ready or running:
            while ready and len(running) < threads:
                _, _, key = heapq.heappop(ready)
                heapq.heappush(running, (now + sizes[key].seconds, next(count), key))
            now, _, key = heapq.heappop(running)
            hold(key)
            for user in list(users[key]):
                missing[user].discard(key)
                if not missing[user]:
                    heapq.heappush(ready, (ranks[user], next(count), user))
            for need in needs[key]:
                users[need].pop(key, None)
                drop(need)
            drop(key)

    for number, op in enumerate(recording.ops):
        if op.wait or number == recording.prepared:
            run_all()
        if number == recording.prepared:
            peak = nbytes
        if isinstance(op, Release):
            wanted.difference_update(op.keys)
            for key in op.keys:
                drop(key)
        elif isinstance(op, Scatter):
            wanted.update(op.data)
            for key in op.data:
                hold(key)
        else:
            wanted.update(op.outputs)
            for key, node in op.tasks.items():
                needs[key] = tuple(node.dependencies)
                missing[key] = {need for need in needs[key] if need not in held}
                for need in needs[key]:
                    users[need][key] = None
            for key in op.tasks:
                last = consumers_first and _grows(op, key, sizes, number_of_users)
                ranks[key] = (last, *_rank(op, key))
            for key in op.tasks:
                if not missing[key]:
                    heapq.heappush(ready, (ranks[key], next(count), key))
    run_all()
    return peak


def floor_of_bytes(recording: Recording, workers: int) -> int:
    """Return what is moved if every worker has one stretch of the order, in bytes.

    Parameters
    ----------
    recording
        What is computed. What is moved before the computation that is measured does
        not count.
    workers
        Number of workers.
    """
    sizes = recording.outputs
    users = _users(recording)
    where: defaultdict[Key, set[int]] = defaultdict(set)
    moved = 0
    for number, op in enumerate(recording.ops):
        if number == recording.prepared:
            moved = 0
        if isinstance(op, Scatter):
            for key, numbers in op.workers.items():
                where[key] = {n % workers for n in numbers}
        elif isinstance(op, Submission):
            order = sorted(op.tasks, key=partial(_rank, op))
            grows = [key for key in order if _grows(op, key, sizes, users)]
            # Stretches take the same time; where tasks take none, they count
            whole = sum(sizes[key].seconds + 1e-9 for key in grows)
            passed = 0.0
            stretch: dict[Key, int] = {}
            for key in grows:
                stretch[key] = min(int(passed / whole * workers), workers - 1)
                passed += sizes[key].seconds + 1e-9
            for key in order:
                needs = op.tasks[key].dependencies
                held: Counter[int] = Counter()
                if key not in stretch:
                    for need in needs:
                        held.update(dict.fromkeys(where[need], sizes[need].nbytes))
                # Dependencies are a set: of workers that hold as much the first counts
                worker = max(held or [stretch.get(key, 0)], key=lambda n: (held[n], -n))
                where[key] = {worker}
                for need in needs:
                    if worker not in where[need]:
                        where[need].add(worker)
                        moved += sizes[need].nbytes
    return moved
