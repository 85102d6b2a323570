"""What tests of workloads share: a cluster, and little data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from continuous_integration.benchmarks.workloads import WORKLOADS
from distributed import Client, LocalCluster

SIDE = 16


@contextmanager
def client_of(workers: int) -> Iterator[Client]:
    """Give a client of a cluster in this process, one thread for each worker."""
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=False,
            # Another test may have the port of the dashboard
            dashboard_address=":0",
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def small_fields(*modules: ModuleType) -> Iterator[pytest.MonkeyPatch]:
    """Let the workloads of modules have fields of 16 x 16 cells."""
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            patch.setattr(module, "SIDE", SIDE)
            patch.setattr(module, "CHUNK", (1, SIDE, SIDE))
        yield patch


def run(name: str, client: Client, folder: Path) -> Any:
    """Return what a workload gives; skip the test if a module is missing."""
    one = WORKLOADS[name]
    for module in one.modules:
        pytest.importorskip(module)
    one.write(folder)
    return one.compute(client, folder, one.prepare(client, folder))
