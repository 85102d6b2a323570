from __future__ import annotations

import operator
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import numpy as np
import pytest
from dask._expr import FinalizeCompute
from dask.base import collections_to_expr
from dask.core import flatten
from dask.delayed import delayed

from distributed.client import wait
from distributed.rootish.sizes import (
    AS_INPUT,
    BECOMES,
    GIVEN,
    HANDLE,
    NOTHING,
    SEEN,
    SMALL_HANDLE,
    UNKNOWN,
    Sizes,
    arrays,
    layers,
    row_bytes,
)
from distributed.rootish.tests.utils import KIB, MIB
from distributed.scheduler import _cull, _materialize_graph
from distributed.utils_test import gen_cluster


def sizes(*collections: Any, persist: bool = False, **options: Any) -> Sizes:
    """Return the sizes of what would be run."""
    expr = collections_to_expr(collections)
    if not persist:
        expr = FinalizeCompute(expr)
    expr = expr.optimize()
    tasks, _ = _materialize_graph(expr, False)
    tasks = _cull(tasks, set(flatten(expr.__dask_keys__())))
    given = {"given": {}, "seen": {}, "persisted": {}, **options}
    return Sizes(tasks, arrays(layers(expr)), rows=row_bytes(expr), **given)


def data(shape: tuple[int, ...] = (60, 64, 64), chunk: int = 10) -> da.Array:
    x = da.random.random(shape, chunks=(chunk, *shape[1:]))
    # What is not random is not repeated either
    return x.astype("f4")


def anomaly() -> da.Array:
    x = data()
    return ((x - x.mean(axis=0)) ** 2).mean(axis=0)


def deviation() -> da.Array:
    return data().std(axis=0)


def smallest() -> da.Array:
    return data().min(axis=(0, 1))


def pencils() -> da.Array:
    return data().rechunk((60, 16, 16), method="tasks").max(axis=0)


def neighbors() -> da.Array:
    return data().map_overlap(np.sin, depth=2, boundary="none")


def cuts() -> da.Array:
    return data()[5:43:3, 7, ::-2]


def picked() -> da.Array:
    return data()[[1, 17, 3, 55, 54]]


def stacked() -> da.Array:
    x = data()
    return da.stack([x, x.T.transpose(2, 1, 0)]).reshape(-1)


def ones() -> da.Array:
    return da.ones((60, 64, 64), chunks=(10, 64, 64))


def product() -> da.Array:
    x = data((64, 64), 16)
    return x @ x.T


def from_delayed() -> da.Array:
    parts = [delayed(np.ones)((64, 64)) for _ in range(5)]
    return da.stack([da.from_delayed(part, (64, 64), "f8") for part in parts]).sum(0)


@pytest.mark.parametrize(
    "make",
    [
        anomaly,
        deviation,
        smallest,
        pencils,
        neighbors,
        cuts,
        picked,
        stacked,
        ones,
        product,
        from_delayed,
    ],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("persist", [True, False])
def test_arrays(make: Any, persist: bool) -> None:
    """What is said of each task is what it gives."""
    told: dict[Any, int] = {}

    @gen_cluster(client=True)
    async def run(c: Any, s: Any, a: Any, b: Any) -> None:
        x = make()
        expr = collections_to_expr([x])
        expr = (expr if persist else FinalizeCompute(expr)).optimize()
        tasks, _ = _materialize_graph(expr, False)
        keys = list(flatten(expr.__dask_keys__()))
        tasks = _cull(tasks, set(keys))
        found = Sizes(tasks, arrays(layers(expr)), {}, {}, {}, {})
        assert all(one.known for one in found.assumptions)
        # Nothing is released as long as it is wanted
        futures = c.get(tasks, list(tasks), sync=False)
        await wait(futures)
        told.update({key: s.tasks[key].nbytes for key in tasks})
        for key, nbytes in told.items():
            assert found.nbytes[key] == pytest.approx(nbytes, rel=0.05, abs=KIB), key

    run()
    assert told


def test_xarray() -> None:
    xr = pytest.importorskip("xarray")
    pd = pytest.importorskip("pandas")
    x = xr.DataArray(
        data(),
        dims=("time", "y", "x"),
        coords={"time": pd.date_range("2000-01-01", periods=60)},
    )
    months = x.groupby("time.month")
    found = sizes(months - months.mean())
    assert all(one.known for one in found.assumptions)
    [result] = [n for key, n in found.nbytes.items() if str(key).startswith("final")]
    assert result == pytest.approx(x.nbytes, rel=0.01)


def test_stores() -> None:
    """What is written elsewhere leaves nothing."""
    zarr = pytest.importorskip("zarr")
    target = zarr.create_array(
        zarr.storage.MemoryStore(), shape=(60, 64, 64), chunks=(10, 64, 64), dtype="f4"
    )
    found = sizes(da.store(data(), target, compute=False))
    assert not [
        key
        for key, nbytes in found.nbytes.items()
        if "store" in str(key) and nbytes > KIB
    ]


def read(handle: str, number: int) -> bytes:
    return bytes(number)


def test_unknown() -> None:
    found = sizes(*[delayed(len)(delayed(read)("file", n)) for n in range(4)])
    whys = {one.prefix: (one.why, one.known) for one in found.assumptions}
    assert whys == {"read": (NOTHING, False), "len": (AS_INPUT, False)}
    assert set(found.nbytes.values()) == {UNKNOWN}


def test_given() -> None:
    reads = [delayed(read)("file", n) for n in range(4)]
    found = sizes(*[delayed(len)(one) for one in reads], given={"read": 3 * MIB})
    assert {found.nbytes[one.key] for one in reads} == {3 * MIB}
    whys = {one.prefix: (one.why, one.nbytes) for one in found.assumptions}
    assert whys == {"read": (GIVEN, 3 * MIB), "len": (AS_INPUT, 3 * MIB)}
    assert not found.unused
    # The name of a group
    [key] = [one.key for one in reads[:1]]
    name = {"read-x": 1, "nothing": 1}
    assert sizes(reads[0], given=name).unused == ["nothing", "read-x"]
    assert key.startswith("read-")


def test_given_is_believed_before_chunks() -> None:
    x = da.ones((4, 4), chunks=2).map_blocks(abs, name="mine")
    assert set(sizes(x, persist=True, given={"mine": 5}).nbytes.values()) == {5}


def test_seen() -> None:
    x = delayed(read)("file", 1)
    found = sizes(x, seen={"read": 7 * KIB, "other": 1})
    assert found.nbytes[x.key] == 7 * KIB
    assert [one.why for one in found.assumptions] == [SEEN]
    assert sizes(x, seen={"read": 7}, given={"read": 8}).nbytes[x.key] == 8


def test_handles() -> None:
    """What many read from is a handle, what one makes an array of is that."""
    handle = delayed(open)("file")
    reads = [delayed(read)(handle, n) for n in range(4)]
    blocks = [da.from_delayed(one, (64,), "f8") for one in reads]
    found = sizes(da.concatenate(blocks).sum())
    assert found.nbytes[handle.key] == HANDLE
    # It may as well be a table, so that is said
    assert [one.why for one in found.assumptions if not one.known] == [SMALL_HANDLE]
    alone = delayed(open)("other")
    both = delayed(operator.add)(alone, delayed(read)("y", 1))
    made = da.from_delayed(both, (8,), "f8").map_overlap(np.sin, 1)
    found = sizes(made, persist=True)
    assert [one.why for one in found.assumptions] == [BECOMES, BECOMES]


def test_what_was_sent_tells_nothing() -> None:
    """The output of a transfer is tiny, whatever it has sent."""
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    dd = pytest.importorskip("dask.dataframe")

    def make(number: int) -> Any:
        return pd.DataFrame({"k": np.arange(9), "x": 1.0})

    frame = dd.from_map(make, range(4), meta=make(0))
    with dask.config.set({"dataframe.shuffle.method": "p2p"}):
        found = sizes(frame.shuffle("k"))
    assert NOTHING in [one.why for one in found.assumptions]
    with dask.config.set({"dataframe.shuffle.method": "p2p"}):
        found = sizes(frame.shuffle("k"), given={"make": 3 * MIB})
    unpacked = [n for key, n in found.nbytes.items() if "p2pshuffle" in str(key)]
    assert len(unpacked) == 4
    # Whatever one more column does
    assert 2 * MIB < min(unpacked) < 6 * MIB


def test_persisted() -> None:
    x = da.ones((8, 8), chunks=4, name="there")
    found = sizes((x + 1).sum(), persisted={("there", 0, 0): 5 * KIB})
    assert found.nbytes["there", 0, 0] == 5 * KIB


def test_bags() -> None:
    bag = db.from_sequence([b"x" * KIB] * 100, npartitions=10).map(len).frequencies()
    found = sizes(bag)
    # What is in the graph is known, what is made of it follows
    assert not [one for one in found.assumptions if one.why == NOTHING]
    assert max(found.nbytes.values()) < 100 * KIB


def test_data_frames() -> None:
    pd = pytest.importorskip("pandas")
    dd = pytest.importorskip("dask.dataframe")
    frame = pd.DataFrame({"k": np.arange(40_000) % 7, "x": 1.0, "y": 2.0})
    found = sizes(dd.from_pandas(frame, npartitions=4).assign(z=1.0).shuffle("k"))
    partition = frame.memory_usage().sum() / 4
    total: dict[str, float] = {}
    for key, nbytes in found.nbytes.items():
        name = str(key[0] if isinstance(key, tuple) else key).rpartition("-")[0]
        total[name] = max(total.get(name, 0), nbytes)
    assert total["frompandas"] == pytest.approx(partition, rel=0.05)
    # One more column
    assert total["assign"] == pytest.approx(partition * 4 / 3, rel=0.2)
    assert total["p2pshuffle" if "p2pshuffle" in total else "assign"] > partition
    means = sizes(dd.from_pandas(frame, npartitions=4).groupby("k").x.mean())
    assert min(means.nbytes.values()) < partition / 20
