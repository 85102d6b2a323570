"""More kinds of computations give what they are to give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from continuous_integration.benchmarks import kinds, workloads
from continuous_integration.benchmarks.tests.utils import (
    SIDE,
    run,
    small_fields,
)
from distributed import Client


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No time that only passes."""
    with small_fields(kinds, workloads) as patch:
        patch.setattr(kinds, "STEPS", (32, 8, 4))
        patch.setattr(kinds, "WAIT", 0)
        patch.setattr(kinds, "WORK", 0)
        yield tmp_path_factory.mktemp("kinds")


def test_folds(client: Client, folder: Path) -> None:
    def model(start: float, numbers: range) -> float:
        for number in numbers:
            start = start / 2 + number
        return start

    assert run("fold", client, folder) == model(0, range(100))
    pair = model(0, range(60)), model(1, range(60, 120))
    assert run("fold-two", client, folder) == pair


def test_running_mean(client: Client, folder: Path) -> None:
    state = 0.0
    for number in range(100):
        state = 0.9 * state + 0.1 * number
    np.testing.assert_allclose(run("running-mean", client, folder), state)


def test_boxes(client: Client, folder: Path) -> None:
    means, mean = run("boxes", client, folder)
    assert len(means) == 24
    # All of an image is the same
    np.testing.assert_allclose(means, [mean] * 24)


def test_masks(client: Client, folder: Path) -> None:
    land, sea = run("masks", client, folder)
    place = np.arange(SIDE * SIDE) % 3 == 0
    # The block at each time has one more everywhere
    np.testing.assert_allclose(land, place.sum() * np.arange(1, 121))
    np.testing.assert_allclose(sea, (~place).sum() * np.arange(1, 121))


def test_pairs(client: Client, folder: Path) -> None:
    assert run("pairs", client, folder) == sum(range(128))


def test_packed_weights(client: Client, folder: Path) -> None:
    mean = np.average(0.01 * np.arange(72) + 273, weights=np.linspace(1, 2, 72))
    np.testing.assert_allclose(run("packed-weights", client, folder), mean)


def test_columns(client: Client, folder: Path) -> None:
    expected = [
        (20 * tile + 19) / (np.arange(20 * tile, 20 * tile + 20).std() + 1)
        for tile in range(8)
    ]
    assert run("columns", client, folder) == pytest.approx(max(expected))


def test_weights_that_are_broadcast(client: Client, folder: Path) -> None:
    result = run("handles-chunked-weights", client, folder)
    data = np.concatenate(
        [workloads.one_step(n * 30 + step) for n in range(8) for step in range(15)]
    )
    weights = np.linspace(1, 2, len(data))
    np.testing.assert_allclose(result, np.average(data, 0, weights))
    # Those of rows are the same at each time
    np.testing.assert_allclose(run("handles-broadcast", client, folder), data.mean(0))


def test_anomaly_through_handles(client: Client, folder: Path) -> None:
    result = run("handles-anomaly", client, folder)
    data = np.concatenate(
        [workloads.one_step(n * 30 + step) for n in range(8) for step in range(8)]
    )
    assert result == pytest.approx(abs(data - data.mean(0)).max())


def test_weights_of_steps(client: Client, folder: Path) -> None:
    zarr = pytest.importorskip("zarr")
    result = run("zarr-12-array", client, folder)
    stores = kinds.step_stores(folder)
    data = np.concatenate([zarr.open_array(path, mode="r")[:] for path in stores])
    weights = np.linspace(1, 2, len(data))
    np.testing.assert_allclose(result, np.average(data, 0, weights))
    one, other = run("zarr-12-two-means", client, folder)
    np.testing.assert_allclose(one, result)
    np.testing.assert_allclose(other, np.average(data, 0, 3 - weights))


def test_pools(client: Client, folder: Path) -> None:
    assert run("pool-loads", client, folder) == sum(range(100))
    found = client.run(lambda dask_worker: dask_worker.state.total_resources)
    assert list(found.values()) == [{"CPU": 2}, {"CPU": 1, "GPU": 1}]
    mean = run("pool-array", client, folder)
    assert mean.shape == (128, 128)
    np.testing.assert_allclose(mean, np.arange(1, 101).mean())


def test_rechunk(client: Client, folder: Path) -> None:
    numbers = np.add.outer(np.arange(12), np.add.outer(np.arange(5), np.arange(2)))
    total = 16 * 2 * 4096 * (numbers + 1).sum()
    assert run("rechunk-adjacent", client, folder) == total
    # Four days, one after the other
    deviation = SIDE**2 * np.std(range(4))
    assert run("uint8-rechunk", client, folder) == pytest.approx(deviation)
    # The first day has no neighbor before it, the last none after it
    deviation = SIDE**2 * np.std([-0.5, *[0] * 118, 0.5])
    assert run("uint8-overlap", client, folder) == pytest.approx(deviation)


def test_pyramid(client: Client, folder: Path) -> None:
    levels = run("pyramid", client, folder)
    assert [level.shape for level in levels] == [(9, 1, 1)] * 4
    for level in levels:
        np.testing.assert_array_equal(level[:, 0, 0], np.arange(1, 81)[::9])
    assert not (folder / "pyramid").exists()


def test_neighbors(client: Client, folder: Path) -> None:
    numbers = np.add.outer(np.arange(4), np.add.outer(np.arange(4), np.arange(4)))
    assert run("overlap-3d", client, folder) == 64**3 * (numbers + 1).sum()
    highest = run("stencil-4d", client, folder)
    assert highest.shape == (16, 128, 128)
    # Far from the edges all neighbors are of one block
    assert highest[4, 32, 32] == pytest.approx(5)
    assert highest[12, 96, 96] == pytest.approx(8)
    # One of eight is of the block beside it
    assert highest[8, 32, 32] == pytest.approx(6 - 1 / 9)


def test_small_axis(client: Client, folder: Path) -> None:
    data = sum(number + step / 5 for number in range(40) for step in range(5))
    times = 40 * np.arange(1, 31).sum()
    mean = run("coords", client, folder)
    assert mean == pytest.approx(256 * 512 * data / times)


def test_join(client: Client, folder: Path) -> None:
    pytest.importorskip("pandas")
    result = run("broadcast-join", client, folder)
    keys = {key for n in range(60, 64) for key in kinds.load_rows(n, 20_000).a}
    left = [kinds.load_rows(number, 60_000) for number in range(60)]
    matched = sum(rows.b[rows.a.isin(keys)].sum() for rows in left)
    assert result == pytest.approx(matched)
