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
monitor
    What the scheduler has decided so far.
explanation
    What it would decide, before a run.
demo
    What ``dask rootish demo`` runs.
"""

from __future__ import annotations

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
    *collections: Any, nthreads: int | None = None, nworkers: int | None = None
) -> Explanation:
    """Tell, without a cluster, which groups of a computation are root-ish, and why.

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

    Returns
    -------
    Explanation
        It is printed as a table, has one for notebooks, and ``to_dict``.

    Raises
    ------
    TypeError
        If one is no collection.
    ValueError
        If there are no collections, or the cluster has no threads.

    Examples
    --------
    >>> import dask.array as da
    >>> x = da.ones((100, 1000), chunks=(1, 1000))
    >>> print(explain(x.mean(axis=0), nthreads=2, nworkers=4))  # doctest: +SKIP
    """
    from distributed.deploy.utils import nprocesses_nthreads
    from distributed.rootish.explanation import explain as explain_on

    if nthreads is None and nworkers is None:
        nworkers, nthreads = nprocesses_nthreads()
    return explain_on(
        collections,
        [1 if nthreads is None else nthreads] * (1 if nworkers is None else nworkers),
    )
