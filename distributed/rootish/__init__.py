"""Which tasks the scheduler holds back, which worker gets the next, and why.

Each question has a module of its own; what a module imports stands above it.

tables
    Names and tables for people.
policy
    Which tasks are root-ish.
families
    Which of the tasks that are held back belong on one worker.
handles
    Which inputs are better left where they are.
backpressure
    Which of them wait until what was loaded has been consumed.
lanes
    What waits for the same workers, and the families that it makes.
queue
    When they are given out, in which order, and to whom.
simulation
    A scheduler that is real, with workers that pretend, in virtual time.
loading
    What loads, and how much of it is let through.
history
    What became of computations.
sizes
    How large the output of each task will be.
prediction
    What a computation will take, by simulation.
monitor
    What the scheduler has decided so far.
explanation
    What it would decide, and what that will take, before a run.
demo
    What ``dask rootish demo`` runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distributed.rootish.policy import (
    POLICIES,
    GroupFacts,
    Heuristic,
    Marked,
    Producers,
    RootishPolicy,
    Verdict,
    larger_than_cluster,
    make_policy,
    within_count,
)

if TYPE_CHECKING:
    from distributed.rootish.explanation import Explanation

__all__ = [
    "POLICIES",
    "GroupFacts",
    "Heuristic",
    "Marked",
    "Producers",
    "RootishPolicy",
    "Verdict",
    "explain",
    "larger_than_cluster",
    "make_policy",
    "within_count",
]


def explain(
    *collections: Any,
    nthreads: int | None = None,
    nworkers: int | None = None,
    memory: str | float | None = None,
    sizes: Mapping[str, str | float] | None = None,
    predict: bool | None = None,
    persist: bool = False,
    timeout: str | float | None = None,
) -> Explanation:
    """Tell, without a cluster, what a computation will take, and what is root-ish.

    The graph is not run. To know it, dask may have to compute something, as the
    partitions of a data frame that is sorted; what that was is said.

    Parameters
    ----------
    *collections
        Collections of dask that are to be computed at once: arrays, data frames, bags,
        delayed objects, xarray objects. Of an Iris cube, ``cube.core_data()``.
    nthreads
        Number of threads of each worker.
    nworkers
        Number of workers. If neither is given, they are those that ``LocalCluster``
        starts on this machine; if one is, the other is 1.
    memory
        Memory of each worker, such as ``"4 GiB"``. If neither this nor workers or
        threads are given, it is that which ``LocalCluster`` gives them.
    sizes
        Name of a group or its prefix -> size of the output of each of its tasks, such
        as ``{"read": "2 MiB"}``, where dask does not know it.
    predict
        Whether to predict what the computation takes. By default that is done for
        graphs of up to 100,000 tasks.
    persist
        Whether results are to stay on the workers, as with ``persist``, rather than to
        be put together, as with ``compute``.
    timeout
        Time that it may take to know the graph and to predict, such as ``"5 minutes"``.
        By default that is half a minute, but for what ``predict=True`` takes.

    Returns
    -------
    Explanation
        It is printed as a table, has one for notebooks, ``plot``, and ``to_dict``.

    Raises
    ------
    TypeError
        If one is no collection.
    ValueError
        If there are no collections, or the cluster has no threads.
    TimeoutError
        If the graph is not known in time, or what was asked for not predicted.

    Examples
    --------
    >>> import dask.array as da
    >>> x = da.ones((100, 1000), chunks=(1, 1000))
    >>> print(explain(x.mean(axis=0), nthreads=2, nworkers=4))  # doctest: +SKIP
    """
    from distributed.rootish.explanation import Options, explain_here

    return explain_here(
        collections,
        nthreads,
        nworkers,
        memory,
        Options(sizes, predict, persist, timeout),
    )
