from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import numpy as np
import pytest
from dask.delayed import delayed

from distributed.client import wait
from distributed.rootish import POLICIES, Verdict, explain, tables
from distributed.rootish.loading import CHUNKS_PER_SLOT
from distributed.rootish.tests.utils import (
    KIB,
    MIB,
    SATURATION,
    hear_verdicts,
    policy_cluster,
)
from distributed.utils_test import gen_cluster

#: Slots of the clusters below: two workers with one thread each
SLOTS = 4

#: Rows that are not folded in a notebook
UNFOLDED = 5


@pytest.fixture(autouse=True)
def saturation() -> Iterator[None]:
    """Set what `explain` goes by when it is given no cluster."""
    with dask.config.set(SATURATION):
        yield


class Store:
    """An array that is read chunk by chunk."""

    shape = (40, 512, 512)
    dtype = np.dtype("f8")
    ndim = 3

    def __getitem__(self, index: tuple[slice, ...]) -> Any:
        return np.ones([len(range(*s.indices(n))) for s, n in zip(index, self.shape)])


def stores(n: int = 6) -> da.Array:
    """Stores with ten chunks of 8 MiB each."""
    return da.concatenate(
        [da.from_array(Store(), chunks=(4, 512, 512), name=f"s{i}-0") for i in range(n)]
    )


def weighted_mean(n: int = 6) -> da.Array:
    x = stores(n)
    weights = da.ones((len(x), 1, 1), chunks=(4, 1, 1))
    return (x * weights).sum(axis=0) / weights.sum()


def open_file(path: str) -> str:
    return path


def read(handle: str, i: int) -> Any:
    return np.ones((256, 512))


def through_handles(files: int = 8, chunks: int = 10) -> da.Array:
    """Chunks of 1 MiB."""
    handles = [delayed(open_file)(f"file-{i}") for i in range(files)]
    reads = [delayed(read)(handle, i) for handle in handles for i in range(chunks)]
    return da.stack([da.from_delayed(one, (256, 512), "f8") for one in reads]).sum(0)


def bias() -> da.Array:
    """Reads that are fused with something computed from other reads."""
    observed = da.random.random((240, 512, 512), chunks=(4, 512, 512)) + 1
    observed = observed.map_overlap(np.abs, depth=(1, 0, 0), boundary="none")
    return (stores() - observed).mean(axis=0)


def pencils() -> da.Array:
    return stores().rechunk((240, 64, 64), method="tasks").max(axis=0)


def loaders(explanation: Any) -> Any:
    return [group for group in explanation.groups if group.brings_data]


def rootish(group: Any) -> list[bool]:
    return [group.verdicts[policy].rootish for policy in POLICIES]


def test_stores() -> None:
    explanation = explain(weighted_mean(), nthreads=1, nworkers=2)
    assert explanation.policy == "producers"
    assert explanation.slots == SLOTS
    # One for each file
    groups = loaders(explanation)
    assert len(groups) == 6
    for group in groups:
        assert group.tasks == 10
        assert group.nbytes == 8 * MIB
        assert group.marked == 1
        assert (group.dependency_groups, group.dependency_tasks) == (1, 6)
        assert rootish(group) == [True, True, False]
        assert group.verdicts["producers"].reason == "producer"
    held = CHUNKS_PER_SLOT * SLOTS
    assert explanation.in_memory == {
        "producers": (held, held * 8 * MIB, 0),
        "marked": (held, held * 8 * MIB, 0),
        "heuristic": (60, 60 * 8 * MIB, 0),
    }
    assert not explanation.overproducing()
    # No group is larger than the cluster, all together are
    assert explanation.overproducing("heuristic") == groups
    # Every task is in one group
    assert len({group.name for group in explanation.groups}) == len(explanation.groups)


def test_handles() -> None:
    """Reads that nobody has marked: only the data flow tells."""
    explanation = explain(through_handles(), nthreads=1, nworkers=2)
    [group] = loaders(explanation)
    assert group.tasks == 80
    assert group.nbytes == MIB
    assert group.marked == 0
    assert rootish(group) == [True, False, False]
    with dask.config.set({"distributed.scheduler.rootish-policy": "marked"}):
        explanation = explain(through_handles(), nthreads=1, nworkers=2)
    assert explanation.policy == "marked"
    assert [group.tasks for group in explanation.overproducing()] == [80]
    # What is chosen by the settings says why
    assert "settings say" in str(explanation)


def test_as_many_as_the_cluster_runs() -> None:
    """A large cluster loads all of it at once, and that is no overproduction."""
    explanation = explain(through_handles(), nthreads=8, nworkers=32)
    assert not explanation.overproducing("marked")
    [group] = [group for group in explanation.groups if "read" in group.name]
    assert group.verdicts["producers"].reason == "few"


def test_one_queue_for_all_groups() -> None:
    """Of two groups that are held back, no more is loaded than of one."""
    both = explain(stores(6).sum(), through_handles(), nthreads=1, nworkers=2)
    assert len(loaders(both)) == 7
    held = CHUNKS_PER_SLOT * SLOTS
    assert both.in_memory["producers"] == (held, held * 8 * MIB, 0)
    assert both.in_memory["marked"] == (held + 80, held * 8 * MIB + 80 * MIB, 0)


@pytest.mark.parametrize("policy", list(POLICIES))
@pytest.mark.parametrize(
    "make", [weighted_mean, through_handles, bias, pencils], ids=lambda f: f.__name__
)
@policy_cluster(
    far=False,
    config={
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
    },
)
async def test_verdicts_are_those_of_the_scheduler(
    c: Any, s: Any, a: Any, b: Any, make: Any, policy: str
) -> None:
    seen: defaultdict[str, Counter[Verdict]] = defaultdict(Counter)
    hear_verdicts(s, lambda ts, verdict: seen[ts.group.name].update([verdict]))
    x = make()
    explanation = explain(x, nthreads=1, nworkers=2, persist=True)
    await wait(c.persist(x))
    assert explanation.policy == policy
    assert {group.name for group in explanation.groups} == set(s.task_groups)
    for group in explanation.groups:
        verdicts = seen[group.name]
        # How long tasks take tells what is tiny from what is not; nobody knows yet
        if not verdicts or (group.nbytes is not None and group.nbytes < KIB):
            continue
        most = max(verdicts.values())
        assert any(
            verdict.rootish == group.verdicts[policy].rootish
            for verdict, number in verdicts.items()
            if number == most
        ), (group, verdicts)


@gen_cluster(client=True)
async def test_persisted(c: Any, s: Any, a: Any, b: Any) -> None:
    """What is in memory already is an input like others."""
    x = c.persist(da.ones((64, 1024), chunks=(1, 1024)))
    await wait(x)
    explanation = explain((x + 1).sum(), nthreads=1, nworkers=2)
    groups = {group.name: group for group in explanation.groups}
    assert groups[x.name].nbytes == 8 * 1024
    assert not any(group.brings_data for group in explanation.groups)


@pytest.mark.parametrize("annotation", [{"workers": ["a"]}, {"resources": {"GPU": 1}}])
def test_restricted(annotation: dict[str, Any]) -> None:
    """What nobody needs goes at once to where it is bound."""
    with dask.annotate(**annotation):
        x = da.ones((64, 8), chunks=(1, 8))
        explanation = explain(x, nthreads=1, nworkers=2, persist=True)
    [group] = explanation.groups
    assert group.verdicts["producers"].reason == "placed"
    assert rootish(group) == [False, False, False]
    assert explanation.overproducing() == [group]


def test_restricted_of_unknown_size() -> None:
    """What has nothing upstream that loads, loads."""
    with dask.annotate(workers=["a"]):
        chunks = [delayed(bytes)(i) for i in range(64)]
        lengths = [delayed(len)(chunk) for chunk in chunks]
    explanation = explain(*lengths, nthreads=1, nworkers=2)
    assert {group.prefix: group.brings_data for group in explanation.groups} == {
        "bytes": True,
        "len": False,
    }


def test_restricted_consumers() -> None:
    """What takes as much as it makes brings nothing in, wherever it may run.

    What loads for it is held back, as its graph says who needs it.
    """
    with (
        dask.config.set({"optimization.fuse.active": False}),
        dask.annotate(workers=["a"]),
    ):
        loads = stores(1)
        explanation = explain(
            (loads + 1).map_overlap(np.sin, 1), nthreads=1, nworkers=2
        )
    reads = loaders(explanation)
    assert sum(group.tasks for group in reads) == 10
    assert {group.verdicts["producers"].reason for group in reads} == {"producer"}
    assert {group.verdicts["heuristic"].rootish for group in reads} == {False}


@gen_cluster(client=True)
async def test_p2p(c: Any, s: Any, a: Any, b: Any) -> None:
    """What a P2P rechunk unpacks was loaded before."""
    x = da.ones((64, 64), chunks=(1, 64)).rechunk((64, 1), method="p2p")
    explanation = explain(x, nthreads=1, nworkers=2)
    assert sum(group.tasks for group in loaders(explanation)) == 64
    reasons = {group.verdicts["producers"].reason for group in explanation.groups}
    assert reasons & {"counted", "not-counted"}


def test_bags_and_delayed() -> None:
    """Nothing is known of the sizes."""
    bag = db.from_sequence(range(100), npartitions=50).map(str)
    explanation = explain(bag, delayed(sum)([1, 2]), nthreads=1, nworkers=2)
    assert {group.nbytes for group in loaders(explanation)} == {None}
    held = CHUNKS_PER_SLOT * SLOTS
    assert explanation.in_memory["producers"] == (held, 0, held)
    assert f"{held} chunks of unknown size" in str(explanation)


def test_data_frames() -> None:
    pytest.importorskip("pandas")
    dd = pytest.importorskip("dask.dataframe")
    import pandas as pd

    df = dd.from_pandas(pd.DataFrame({"x": range(100)}), npartitions=50)
    explanation = explain(df.x.sum(), nthreads=1, nworkers=2)
    assert sum(group.tasks for group in explanation.groups) > 50
    json.dumps(explanation.to_dict())


def test_xarray() -> None:
    xr = pytest.importorskip("xarray")
    data = xr.Dataset({"a": (("t", "y", "x"), stores())}).mean("t")
    groups = loaders(explain(data, nthreads=1, nworkers=2))
    assert sum(group.tasks for group in groups) == 60


def test_iris() -> None:
    iris_cube = pytest.importorskip("iris.cube")
    cube = iris_cube.Cube(stores())
    groups = loaders(explain(cube.core_data().mean(axis=0), nthreads=1, nworkers=2))
    assert sum(group.tasks for group in groups) == 60


@pytest.mark.parametrize("thing", [1, "x", np.ones(3), [1], None])
def test_not_a_collection(thing: object) -> None:
    with pytest.raises(TypeError, match=type(thing).__name__):
        explain(stores(), thing)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="at least one"):
        explain()
    with pytest.raises(ValueError, match="needs a worker"):
        explain(stores(), nworkers=0)
    with pytest.raises(ValueError, match="a thread"):
        explain(stores(), nthreads=0)
    with pytest.raises(ValueError, match="producers, marked, heuristic"):
        explain(stores()).overproducing("none")


def test_cluster_of_this_machine() -> None:
    assert sum(explain(stores()).nthreads) == dask.system.CPU_COUNT
    assert explain(stores(), nworkers=3).nthreads == (1, 1, 1)
    assert explain(stores(), nthreads=3).nthreads == (3,)


def test_no_queue() -> None:
    with dask.config.set({"distributed.scheduler.worker-saturation": "inf"}):
        explanation = explain(weighted_mean(), nthreads=1, nworkers=2)
    assert explanation.slots is None
    assert explanation.in_memory["producers"].chunks == 60
    # There is no bound that it would be over
    assert explanation.overproducing()


def test_to_dict() -> None:
    explanation = explain(through_handles(), nthreads=1, nworkers=2)
    plain = json.loads(json.dumps(explanation.to_dict()))
    assert plain["nthreads"] == [1, 1]
    assert plain["slots"] == SLOTS
    assert plain["overproducing"] == []
    assert len(plain["groups"]) == len(explanation.groups)
    [group] = [group for group in plain["groups"] if group["brings_data"]]
    assert group["verdicts"]["producers"]["rootish"] is True
    assert group["verdicts"]["producers"]["explanation"]
    assert plain["in_memory"]["marked"]["chunks"] == 80


def test_html(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are text, and what does not bring in data is folded away."""
    hostile = da.from_delayed(
        delayed(read)("x", 1, dask_key_name="<script>alert(1)</script>"), (9, 9), "f8"
    )
    monkeypatch.setattr(tables, "UNFOLDED", UNFOLDED)
    x = through_handles()
    for _ in range(UNFOLDED):
        x = x.T.rechunk((128, 128)).map_overlap(np.abs, depth=1)
    html = explain(hostile, x, nthreads=1, nworkers=2, persist=True)._repr_html_()
    assert "<script>" not in html
    assert "alert(1)&lt;/script" in html
    assert "<details>" in html
    unfolded = re.split(r"<details><summary>\d+ more rows", html)[0]
    assert "read-" in unfolded
    # Above it are what is predicted, and what was assumed
    groups = unfolded.rpartition("<table>")[2]
    assert groups.count("<tr>") == UNFOLDED + 1
    short = explain(da.ones(3), nthreads=1, nworkers=2)._repr_html_()
    assert "<details>" not in short
