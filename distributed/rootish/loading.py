"""What loads, and how much of it is in memory at once where it is held back."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol, TypeVar

from distributed.rootish.policy import (
    CONSUMER,
    FEW,
    NOT_COUNTED,
    PLACED,
    SMALL_PART,
    mean_output,
)

if TYPE_CHECKING:
    # Circular dependencies
    from collections.abc import Callable, Iterable

    from distributed.scheduler import SchedulerState, TaskGroup


class _Group(Protocol):
    """What is known of a task group."""

    @property
    def tasks(self) -> int: ...
    @property
    def brings_data(self) -> bool: ...


G = TypeVar("G", bound=_Group)

#: What is loaded at once where loading is held back, for each slot: the chunk that is
#: being loaded and the one that is being consumed.
CHUNKS_PER_SLOT = 2

#: What is not counted among the chunks: an output that is smaller than this part of the
#: largest.
SMALL = 0.01

#: Verdicts on tasks that are not held back, and may load all the same
MAY_LOAD = frozenset({PLACED, FEW, CONSUMER, NOT_COUNTED})


def count_slots(state: SchedulerState) -> int | None:
    """Return how many root-ish tasks the workers are given at once.

    Parameters
    ----------
    state
        Knows the workers and ``distributed.scheduler.worker-saturation``.

    Returns
    -------
    int or None
        None if the settings turn queuing off.
    """
    # Circular dependencies
    from distributed.scheduler import _task_slots_available

    saturation = state.WORKER_SATURATION
    if math.isinf(saturation):
        return None
    return sum(
        _task_slots_available(ws, saturation)
        + len(ws.processing)
        - len(ws.long_running)
        for ws in state.running
    )


def chunks_let_through(slots: int | None, nthreads: int) -> int:
    """Return how many chunks would be in memory at once if all loading were held back.

    Parameters
    ----------
    slots
        Root-ish tasks that the workers are given at once, None if there is no queue.
    nthreads
        Number of threads of all workers; without a queue, one counts as a slot.
    """
    return CHUNKS_PER_SLOT * (nthreads if slots is None else slots)


def let_loose(
    groups: Iterable[G],
    rootish: Callable[[G], bool | None],
    slots: int | None,
    nthreads: int,
) -> list[G]:
    """Return the groups that bring in data and are not held back, if too many.

    Too many are more tasks than would be let through if they were held back. There can
    be a group for each file, so that those of all groups count.

    Parameters
    ----------
    groups
        What is known of groups: ``brings_data``, and the number of ``tasks``.
    rootish
        Returns whether one is root-ish.
    slots, nthreads
        As for :func:`chunks_let_through`.
    """
    loose = [
        group
        for group in groups
        if group.brings_data and not (slots is not None and rootish(group))
    ]
    bound = chunks_let_through(slots, nthreads)
    return loose if sum(group.tasks for group in loose) > bound else []


def brings_data(tg: TaskGroup, output: float) -> bool:
    """Whether tasks of a group bring data into the cluster.

    Parameters
    ----------
    tg
        The group.
    output
        Mean output of its tasks in bytes.
    """
    verdict = tg.rootish_facts.verdict
    if verdict is None or not (verdict.rootish or verdict in MAY_LOAD):
        return False
    inputs = sum(other.nbytes_total for other in tg.dependencies if other is not tg)
    return inputs <= SMALL_PART * output * len(tg)


def find_loaders(groups: Iterable[TaskGroup]) -> set[TaskGroup]:
    """Return the groups that bring data into the cluster, as far as is known.

    What is small beside the chunks is a handle.

    Parameters
    ----------
    groups
        Those among which the chunks are.
    """
    outputs = {
        tg: output
        for tg in groups
        if (output := mean_output(tg)) is not None and brings_data(tg, output)
    }
    least = SMALL * max(outputs.values(), default=0)
    return {tg for tg, output in outputs.items() if output >= least}
