"""Reads that may run on one worker only, and a slow analysis on the other."""

import time

import dask
import numpy as np
from dask import delayed

from distributed import Client, LocalCluster

ARCHIVE, COMPUTE = 0, 1


@delayed
def read(day):
    """Return a field of 2 MiB, as if it came from an archive."""
    time.sleep(0.02)
    return np.full((512, 512), float(day))


@delayed
def analyse(field):
    """Take longer than it takes to read."""
    time.sleep(0.08)
    return field.mean()


@delayed
def total(numbers):
    """Return the sum."""
    return sum(numbers)


def analyse_days(days):
    """Read on the worker that sees the archive, and analyse on the other."""
    with dask.annotate(workers=[ARCHIVE]):
        fields = [read(day) for day in days]
    with dask.annotate(workers=[COMPUTE]):
        results = [analyse(field) for field in fields]
    return total(results)


def all_days():
    """Return what is made of 160 days."""
    return analyse_days(range(160))


def main(policy):
    """Compute all days under a policy, and look at the scheduler on the way."""
    # The limit is only there to be compared with: so little would pause the workers
    reactions = ("target", "spill", "pause", "terminate")
    with (
        dask.config.set(
            {f"distributed.worker.memory.{name}": False for name in reactions}
            | {"distributed.scheduler.rootish-policy": policy}
        ),
        LocalCluster(
            n_workers=2,
            threads_per_worker=2,
            memory_limit="64MiB",
            processes=False,
            dashboard_address=None,
        ) as cluster,
        Client(cluster) as client,
    ):
        future = client.compute(all_days())
        time.sleep(2)
        print(client.rootish(), end="\n\n", flush=True)
        future.result()


if __name__ == "__main__":
    main("marked")
    main("producers")
