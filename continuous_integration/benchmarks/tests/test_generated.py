"""Computations on generated data give what they are to give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest

from continuous_integration.benchmarks import generated
from continuous_integration.benchmarks.tests.utils import SIDE, run
from distributed import Client


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Small fields, and no time that only passes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generated, "SIDE", SIDE)
        patch.setattr(generated, "WAIT", 0)
        patch.setattr(generated, "WORK", 0)
        yield tmp_path_factory.mktemp("generated")


def read(array: da.Array) -> Any:
    """Return all of an array, in this process."""
    return array.compute(scheduler="synchronous")


def test_variable() -> None:
    """Chunks differ, and so do the numbers in them."""
    variable = generated.Variable((4, 8), "int16")
    part = variable[1:3, 4:]
    assert part.dtype == "int16"
    np.testing.assert_array_equal(part, [[6, 7, 8, 9]] * 2)
    array = generated.variable("field", (2, 8), (2, 1))
    assert read(array).shape == (4, 8)
    assert len(np.unique(read(array)[:, 0])) == 2


def test_packed_data(client: Client, folder: Path) -> None:
    field = read(generated.packed("field", 72))
    np.testing.assert_allclose(
        run("packed-chunked-weights", client, folder),
        np.average(field, axis=0, weights=np.linspace(1, 2, 72)),
    )
    np.testing.assert_allclose(
        run("lag", client, folder), (field[5:] * field[:-5]).mean(axis=0)
    )


def test_correlations(client: Client, folder: Path) -> None:
    # Both fields are the same
    np.testing.assert_allclose(run("correlation", client, folder), np.ones([SIDE] * 2))
    field = read(generated.days("field", 64))
    index = field.mean(axis=(1, 2))
    anomaly = (index - index.mean())[:, None, None]
    expected = (field * anomaly).mean(axis=0) / field.std(axis=0)
    np.testing.assert_allclose(run("correlation-index", client, folder), expected)


def test_tiles(client: Client, folder: Path) -> None:
    mean, deviation, least, most = run("many-results", client, folder)
    assert mean.shape == deviation.shape == (384, 384)
    assert least.shape == (256,)
    assert (least <= mean.max()).all()
    assert most >= mean.max()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("file-means", sum(n + step for n in range(16) for step in range(20))),
        ("file-features", 2 * sum(n + step for n in range(24) for step in range(12))),
        ("days-months", sum(range(480))),
        ("anomalies-by-tile", 11 * sum(range(120))),
        ("windows", 2 * sum(n + (n + 1) + (n + 2) for n in range(98))),
        (
            "shared-forcing",
            sum(2**10 * member for member in range(8))
            + 8 * sum(2 ** (10 - n) * (100 + n) for n in range(10)),
        ),
    ],
)
def test_sums_of_parts(
    client: Client, folder: Path, name: str, expected: float
) -> None:
    """All numbers of a part are the same."""
    np.testing.assert_allclose(run(name, client, folder), expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("small-files", sum(sum(range(n, n + 20)) / 20 for n in range(0, 400, 20))),
        ("exchange", 8 * sum(range(64)) / 64),
        ("cross-validation", 12 * sum(range(120)) / 120),
    ],
)
def test_scores_of_parts(
    client: Client, folder: Path, name: str, expected: float
) -> None:
    assert run(name, client, folder) == pytest.approx(expected)
