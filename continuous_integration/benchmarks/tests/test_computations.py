"""Every computation runs, on little data, and gives the same on Zarr and on NetCDF."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from continuous_integration.benchmarks import computations, workloads
from continuous_integration.benchmarks.measure import fingerprint
from continuous_integration.benchmarks.tests.utils import (
    client_of,
    run,
    small_fields,
)
from continuous_integration.benchmarks.workloads import WORKLOADS
from distributed import Client

ON_FILES = [
    name.removesuffix("-zarr")
    for name, one in WORKLOADS.items()
    if one.compute.__module__ == computations.__name__ and name.endswith("-zarr")
]

# What libraries say about each other is not ours to mend
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    # HDF5 does not bear several threads
    with client_of(1) as client:
        yield client


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with small_fields(computations, workloads):
        yield tmp_path_factory.mktemp("computations")


@pytest.mark.parametrize("name", ON_FILES)
def test_same_on_zarr_and_netcdf(name: str, client: Client, folder: Path) -> None:
    results = [
        fingerprint(run(f"{name}-{kind}", client, folder))
        for kind in ("zarr", "netcdf")
    ]
    assert results[0] != 0
    assert math.isclose(*results)


def test_pencils_are_the_same_however_they_are_made(
    client: Client, folder: Path
) -> None:
    pytest.importorskip("zarr")
    pytest.importorskip("xarray")
    WORKLOADS["pencils-p2p-zarr"].write(folder)
    tasks, p2p = (
        WORKLOADS[f"pencils-{method}-zarr"].compute(client, folder, None)
        for method in ("tasks", "p2p")
    )
    assert math.isclose(tasks, p2p)


def test_frames(client: Client, folder: Path) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("dask.dataframe")
    means = WORKLOADS["frame-groupby"].compute(client, folder, None)
    assert len(means) == 17
    np.testing.assert_allclose(means, np.arange(72).mean() / 2)
    sums = WORKLOADS["frame-merge"].compute(client, folder, None)
    per_group = 72 * 8 * np.bincount(np.arange(8000) % 17)
    np.testing.assert_allclose(sums, per_group * np.arange(17) / 17)


def test_tree_of_futures(client: Client, folder: Path) -> None:
    total = WORKLOADS["futures-tree"].compute(client, folder, None)
    assert (total == sum(range(128))).all()
