from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import numpy as np
import pytest
from dask.delayed import delayed

import distributed.scheduler
from distributed import Client, Event, LocalCluster, get_client
from distributed.client import wait
from distributed.rootish import explain, explanation, prediction
from distributed.rootish.explanation import Explanation
from distributed.rootish.prediction import Played, spilling_limit
from distributed.rootish.tests.utils import KIB, MIB, SATURATION
from distributed.utils_test import captured_logger, gen_cluster

#: Four workers with one thread each
CLUSTER = {"nworkers": 4, "nthreads": 1}


@pytest.fixture(autouse=True)
def saturation() -> Iterator[None]:
    """Set what `explain` goes by when it is given no cluster."""
    with dask.config.set(SATURATION):
        yield


def played(explanation: Explanation, policy: str = "producers") -> Played:
    assert explanation.prediction is not None, explanation.notes
    return explanation.prediction.policies[policy]


def data() -> da.Array:
    """Forty chunks of 1 MiB."""
    return da.random.random((40, 256, 512), chunks=(1, 256, 512))


def squares() -> da.Array:
    x = data()
    return ((x - x.mean(axis=0)) ** 2).mean()


def read(handle: str, number: int) -> Any:
    return np.ones((256, 512))


def opened(path: str) -> str:
    return path


def through_handles() -> da.Array:
    """Eighty chunks of 1 MiB, of which only the data flow tells that they are read.

    They are weighted, so that what consumes them waits for something else, too.
    """
    handles = [delayed(opened)(f"file-{i}") for i in range(8)]
    reads = [delayed(read)(handle, i) for handle in handles for i in range(10)]
    blocks = [da.from_delayed(one, (256, 512), "f8") for one in reads]
    x = da.stack(blocks)
    weights = da.random.random(x.shape, chunks=x.chunks)
    return (x * weights).sum() / weights.sum()


def test_what_waits_for_a_mean() -> None:
    """Nothing is overproduced, and all of it is in memory all the same."""
    explanation = explain(squares(), **CLUSTER)
    assert not explanation.overproducing()
    one = played(explanation)
    assert 40 * MIB <= one.peak < 80 * MIB
    assert one.peak / 4 <= one.peak_worker <= one.peak
    holder = one.holders[0]
    assert holder.prefix == "random_sample"
    assert holder.nbytes >= 30 * MIB
    assert "mean_agg-aggregate" in holder.why
    assert "mean_agg-aggregate" in str(explanation)
    assert explanation.prediction is not None
    assert explanation.prediction.known


def test_policies() -> None:
    explanation = explain(through_handles(), **CLUSTER)
    ours, release = played(explanation), played(explanation, "marked")
    assert ours.peak < 30 * MIB
    assert release.peak > 1.5 * ours.peak
    assert list(explanation.prediction.policies) == ["producers", "marked"]
    with dask.config.set({"distributed.scheduler.rootish-policy": "heuristic"}):
        explanation = explain(data().sum(), **CLUSTER)
    assert list(explanation.prediction.policies) == ["heuristic", "producers", "marked"]


def test_fits() -> None:
    x = data().sum()
    assert explain(x, memory="1 GiB", **CLUSTER).fits is True
    assert explain(squares(), memory="10 MiB", **CLUSTER).fits is False
    assert "fits 10.00 MiB each" in str(explain(squares(), memory="10 MiB", **CLUSTER))
    # Nobody has said how much there is
    assert explain(x, **CLUSTER).fits is None
    # As LocalCluster starts on this machine
    assert explain(x).fits is not None
    assert explain(x, predict=False, memory="1 GiB", **CLUSTER).fits is None


def test_limit_is_where_workers_begin_to_spill() -> None:
    name = "distributed.worker.memory"
    assert spilling_limit(None) is None
    with dask.config.set({f"{name}.target": 0.5}):
        assert spilling_limit(1000) == 500
    off = {f"{name}.{what}": False for what in ("target", "spill", "pause")}
    with dask.config.set({**off, f"{name}.terminate": False}):
        assert spilling_limit(1000) == 1000


def test_persist() -> None:
    """Results stay where they are, or are put together."""
    x = data() + 1
    kept = played(explain(x, persist=True, **CLUSTER))
    assert 40 * MIB <= kept.peak < 55 * MIB
    assert kept.holders[0].why == "kept: it is a result"
    together = played(explain(x, **CLUSTER))
    assert together.peak_worker >= 80 * MIB
    assert together.moved >= 25 * MIB


def test_curve() -> None:
    one = played(explain(squares(), **CLUSTER))
    times, nbytes = zip(*one.curve)
    assert list(times) == sorted(times)
    assert times[0] == 0
    assert times[-1] == 1
    assert max(nbytes) == one.peak
    # The result is all that is left
    assert nbytes[-1] < KIB


def test_same_each_time() -> None:
    """As long as keys are the same; what puts results together has new ones."""
    x = squares()
    first, second = (played(explain(x, persist=True, **CLUSTER)) for _ in range(2))
    assert first.peak == second.peak
    assert first.moved == second.moved


def test_sizes_are_asked_for() -> None:
    parts = [delayed(read)("x", n) for n in range(40)]
    # What brings in nothing that is known is asked for
    explanation = explain(*parts, **CLUSTER)
    assert explanation.prediction is not None
    assert not explanation.prediction.known
    assert 'sizes={"read": ' in str(explanation)
    explanation = explain(*parts, sizes={"read": "3 MiB"}, **CLUSTER)
    assert explanation.prediction.known
    assert played(explanation).peak >= 120 * MIB
    assert "read gives 3.00 MiB each, as given" in str(explanation)
    # The verdicts go by it, too
    [group] = explanation.groups
    assert group.nbytes == 3 * MIB
    explanation = explain(*parts, sizes={"raed": 1}, **CLUSTER)
    assert "nothing is called raed" in str(explanation)
    with pytest.raises(ValueError, match="many"):
        explain(*parts, sizes={"read": "many"}, **CLUSTER)


def test_restrictions() -> None:
    """Workers and resources that nobody has are taken to be there."""
    with dask.annotate(workers=["far-away"]):
        x = da.ones((8, 1024), chunks=(1, 1024)) + 1
    with dask.annotate(resources={"GPU": 1}):
        y = x + 1
    with dask.config.set({"optimization.fuse.active": False}):
        explanation = explain(x.sum(), y.sum(), **CLUSTER)
    assert played(explanation).peak
    assert "far-away" in str(explanation)
    assert "GPU" in str(explanation)


def test_large_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explanation, "LIMIT", 50)
    x = data().sum()
    large = explain(x, **CLUSTER)
    assert large.prediction is None
    assert "predict=True" in str(large)
    assert "<svg" not in large._repr_html_()
    assert large.groups
    with pytest.raises(ValueError, match="more than 50"):
        large.plot()
    assert played(explain(x, predict=True, **CLUSTER))
    assert "predict=True" not in str(explain(x, predict=False, **CLUSTER))


def test_no_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    x = data().sum()
    # The graph is known, and then there is no time left
    monkeypatch.setattr(explanation.Question, "left", lambda self: 0.0)
    question = explanation.Question([x], [prediction.Worker(1)], explanation.Options())
    question.find_graph()
    late = question.answer()
    assert late.prediction is None
    assert any("within 30 s" in note for note in late.notes)
    question.options = explanation.Options(predict=True, timeout="1 s")
    with pytest.raises(TimeoutError, match="timeout="):
        question.answer()
    # Of the one that is chosen there is a prediction, of the other there is none
    original = prediction.play

    def play(plan: prediction.Plan, policy: str, *args: Any) -> Any:
        if policy == "marked":
            raise prediction.TooLong
        return original(plan, policy, *args)

    question.options = explanation.Options()
    with monkeypatch.context() as patch:
        patch.setattr(explanation.Question, "left", lambda self: 9.0)
        patch.setattr(prediction, "play", play)
        half = question.answer()
    assert list(half.prediction.policies) == ["producers"]
    assert "marked: not predicted for want of time" in str(half)
    # Who asks for it, and sets no time, gets it
    question.options = explanation.Options(predict=True)
    assert question.answer().prediction is not None


def test_graph_is_not_known_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def slow(*args: Any) -> Any:
        release.wait(60)
        raise RuntimeError

    monkeypatch.setattr(explanation, "collections_to_expr", slow)
    try:
        with pytest.raises(TimeoutError, match=r"optimizes it.*timeout="):
            explain(data(), timeout="10 ms", **CLUSTER)
    finally:
        release.set()


def test_large_graphs_take_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """To write a graph down is work that ends; only who sets a time is told so."""
    monkeypatch.setattr(explanation, "TIMEOUT", 0.0)
    original = explanation._materialize_graph
    begun = threading.Event()

    def slow(*args: Any) -> Any:
        begun.set()
        time.sleep(0.2)
        return original(*args)

    monkeypatch.setattr(explanation, "_materialize_graph", slow)
    question = explanation.Question(
        [data()], [prediction.Worker(1)], explanation.Options()
    )
    finding = question.start(None, question.find_graph)
    assert begun.wait(60)
    while not finding.done():
        assert question.patience() == 1
    finding.result()
    question.options = explanation.Options(timeout=0)
    with pytest.raises(TimeoutError, match="materializes it"):
        question.patience()


def test_errors_of_the_graph_are_raised() -> None:
    class Broken(type(da.ones(1))):  # type: ignore[misc]
        def __dask_graph__(self) -> Any:
            raise ZeroDivisionError("no graph")

        dask = property(__dask_graph__)

    x = da.ones(3)
    broken = object.__new__(Broken)
    broken.__dict__.update(getattr(x, "__dict__", {}))
    with pytest.raises(ZeroDivisionError, match="no graph"):
        explain(broken, **CLUSTER)


def test_to_dict() -> None:
    plain = explain(squares(), memory="1 GiB", **CLUSTER).to_dict()
    found = json.loads(json.dumps(plain))["prediction"]
    one = found["policies"]["producers"]
    assert one["peak"] > 40 * MIB
    assert one["holders"][0]["prefix"] == "random_sample"
    assert found["memory_limit"] == 2**30
    assert found["known"] is True
    assert explain(data(), predict=False, **CLUSTER).to_dict()["prediction"] is None


def test_html() -> None:
    x = delayed(read)("x", 1, dask_key_name="<b>bold</b>")
    html = explain(x, data().sum(), persist=True, **CLUSTER)._repr_html_()
    assert "<b>bold" not in html
    start = html.index("<svg")
    svg = ET.fromstring(html[start : html.index("</svg>") + len("</svg>")])
    lines = svg.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 2
    for line in lines:
        for point in line.attrib["points"].split():
            x_, y_ = map(float, point.split(","))
            assert 0 <= x_ <= 480
            assert 0 <= y_ <= 170


def test_plot() -> None:
    pytest.importorskip("matplotlib").use("Agg")
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    assert explain(squares(), **CLUSTER).plot(ax) is ax
    assert [line.get_label() for line in ax.lines] == ["producers", "marked"]
    assert max(ax.lines[0].get_ydata()) > 40


def test_nothing_of_it_is_seen() -> None:
    """Neither the log nor what a scheduler of the same process uses changes."""
    before = {
        name: getattr(distributed.scheduler, name)
        for name in ("BatchedSend", "deserialize", "offload")
    }
    seen = []

    class Watching(dict[Any, Any]):
        """Looks around while the scheduler is given the graph."""

        def items(self) -> Any:
            seen.append({name: getattr(distributed.scheduler, name) for name in before})
            return super().items()

    config = dask.config.get("distributed")
    with captured_logger("distributed.scheduler", level=logging.INFO) as log:
        logging.getLogger("distributed.scheduler").info("before")
        original = prediction._placed

        def placed(*args: Any) -> Any:
            annotations, notes = original(*args)
            return Watching(annotations), notes

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prediction, "_placed", placed)
            explain(data().sum(), **CLUSTER)
        logging.getLogger("distributed.scheduler").info("after")
    assert log.getvalue().split() == ["before", "after"]
    assert seen
    assert all(names == before for names in seen)
    assert dask.config.get("distributed") == config
    assert not [
        one for one in distributed.Scheduler._instances if one.status.name != "closed"
    ]


# -- The same graph as will run ------------------------------------------------------


_numbers = itertools.count(4_000)


def frame() -> Any:
    """Four partitions, and other ones each time: dask remembers divisions."""
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    dd = pytest.importorskip("dask.dataframe")
    numbers = np.arange(next(_numbers))
    whole = pd.DataFrame({"k": numbers[::-1] % 1_009, "x": numbers * 1.0})
    return dd.from_pandas(whole, npartitions=4, sort=False)


def test_shuffles_as_on_a_cluster() -> None:
    explanation = explain(frame().shuffle("k"), **CLUSTER)
    assert any("shuffle-barrier" in group.name for group in explanation.groups)
    assert "P2P" in str(explanation)
    assert dask.config.get("dataframe.shuffle.method", None) is None


@pytest.mark.parametrize("disk", [True, False])
def test_says_what_shuffles_do(disk: bool) -> None:
    """They send and keep what is no managed memory, and is in no figure."""
    x = da.random.random((32, 512, 256), chunks=(1, 512, 256))
    with dask.config.set({"distributed.p2p.storage.disk": disk}):
        cut = x.rechunk((32, 128, 32), method="p2p")
        explanation = explain(cut.max(axis=0), **CLUSTER)
    prediction = explanation.prediction
    assert prediction.shuffled == pytest.approx(32 * MIB, rel=0.01)
    assert prediction.to_dict()["shuffled"] == prediction.shuffled
    where = "on disk" if disk else "in memory"
    note = f"shuffles send about 24.00 MiB between workers, and keep 32.00 MiB {where}"
    assert note in str(explanation)
    assert note in explanation._repr_html_()
    # Both ends of a shuffle of a data frame are there
    table = explain(frame().shuffle("k"), **CLUSTER).prediction
    assert table.shuffled >= 16 * len(frame())
    without = explain(x.max(axis=0), **CLUSTER).prediction
    assert without.shuffled == 0
    assert not any("P2P" in note for note in without.notes)


def test_says_what_it_has_computed() -> None:
    explanation = explain(frame().set_index("k"), **CLUSTER)
    assert any(note.startswith("computed, to know") for note in explanation.notes)
    explanation = explain(frame().x.sum(), **CLUSTER)
    assert not any(note.startswith("computed") for note in explanation.notes)


@gen_cluster(client=True, nthreads=[("", 1)] * 2)
async def test_inside_an_event_loop(c: Any, s: Any, a: Any, b: Any) -> None:
    """The client cannot answer while its own thread waits; it is not asked."""
    explanation = explain(frame().set_index("k"), **CLUSTER)
    assert any("shuffle-barrier" in group.name for group in explanation.groups)
    assert not s.tasks


@gen_cluster(client=True, nthreads=[("", 1)] * 2)
async def test_the_cluster_computes_meanwhile(c: Any, s: Any, a: Any, b: Any) -> None:
    """What has to be computed waits for a thread, and graphs come in all the same."""
    go_on = await Event("go-on")

    def slow(part: Any) -> Any:
        Event("go-on").wait()
        return part

    df = frame()
    df = df.map_partitions(slow, meta=df._meta)
    asked = asyncio.ensure_future(c.explain_rootish(df.set_index("k")))
    while not any("slow" in str(key) for key in s.tasks):
        await asyncio.sleep(0.01)
    # To unpack a graph takes the one thread that there is for it
    future = c.compute(da.ones(3, chunks=1).sum())
    while future.key not in s.tasks:
        await asyncio.sleep(0.01)
    assert not asked.done()
    await go_on.set()
    assert await future == 3
    explanation = await asked
    assert any("computed" in note for note in explanation.notes)
    assert any("shuffle-barrier" in group.name for group in explanation.groups)


@gen_cluster(client=True, nthreads=[("", 1)])
async def test_timeout_on_a_busy_cluster(c: Any, s: Any, a: Any) -> None:
    go_on = await Event("go-on")
    block = c.submit(lambda: Event("go-on").wait())
    with pytest.raises(TimeoutError, match=r"computes .* on the cluster.*timeout="):
        await c.explain_rootish(frame().set_index("k"), timeout="1 s")
    await go_on.set()
    await wait(block)
    # What was asked for is still computed, and then nobody wants it
    while any(ts.who_wants for ts in s.tasks.values() if ts.key != block.key):
        await asyncio.sleep(0.01)


@gen_cluster(client=True, nthreads=[("", 1)] * 2)
async def test_sizes_of_a_run_before(c: Any, s: Any, a: Any, b: Any) -> None:
    parts = [delayed(bytes)(2 * MIB + n) for n in range(4)]
    futures = c.compute(parts)
    await wait(futures)
    explanation = await c.explain_rootish(*[delayed(bytes)(3 + n) for n in range(4)])
    [one] = explanation.prediction.assumptions
    assert one.why == "as in a run before"
    assert one.nbytes == pytest.approx(2 * MIB, rel=0.01)
    del futures


@gen_cluster(client=True, nthreads=[("", 1)] * 2)
async def test_sizes_of_a_run_that_is_forgotten(c: Any, s: Any, a: Any, b: Any) -> None:
    """The last one counts, and those that made nothing do not."""
    for size in (5 * MIB, 2 * MIB):
        await c.gather(c.compute([delayed(bytes)(size + n) for n in range(4)]))
        while s.task_groups:
            await asyncio.sleep(0.01)
    again = [delayed(bytes)(3 + n) for n in range(4)]
    failed = c.compute(delayed(bytes)(-1))
    with pytest.raises(ValueError, match="negative"):
        await failed
    failed.release()
    while s.task_groups:
        await asyncio.sleep(0.01)
    explanation = await c.explain_rootish(*again)
    prediction = explanation.prediction
    [one] = prediction.assumptions
    start = (await c.rootish()).computations[1].start
    assert one.why.startswith("as on average in the computation of 20")
    assert one.why.endswith(f"{datetime.fromtimestamp(start):%H:%M:%S}")
    assert one.nbytes == pytest.approx(2 * MIB, rel=0.01)
    assert prediction.known
    assert one.why in str(explanation)
    # What somebody says counts more, and what is still there
    given = await c.explain_rootish(*again, sizes={"bytes": "1 MiB"})
    assert given.prediction.assumptions[0].why == "as given"
    futures = c.compute([delayed(bytes)(MIB + n) for n in range(4)])
    await wait(futures)
    explanation = await c.explain_rootish(*again)
    assert explanation.prediction.assumptions[0].why == "as in a run before"


@gen_cluster(client=True, nthreads=[("", 1)] * 2)
async def test_what_is_there_counts(c: Any, s: Any, a: Any, b: Any) -> None:
    x = c.persist(da.random.random((8, 1024, 128), chunks=(1, 1024, 128)))
    await wait(x)
    explanation = await c.explain_rootish((x + 1).sum())
    assert played(explanation).peak >= 8 * MIB
    assert explanation.fits is True
    assert explanation.prediction.memory_limit == a.memory_manager.memory_limit


@gen_cluster(client=True, nthreads=[("", 1)])
async def test_from_a_worker(c: Any, s: Any, a: Any) -> None:
    """What has to be computed for the answer needs the thread of who asks."""

    def task() -> Any:
        df = frame()
        peaks = []
        for one in (
            explain(df.set_index("k"), nworkers=2, nthreads=1),
            get_client().explain_rootish(df.set_index("k")),
        ):
            peaks.append(one.prediction.policies["producers"].peak)
        return peaks

    here, there = await c.submit(task)
    assert here
    assert there


# -- Whatever there is to be explained -----------------------------------------------


def blocks() -> da.Array:
    return da.random.random((40, 64, 64), chunks=(4, 64, 64))


def months() -> Any:
    xr = pytest.importorskip("xarray")
    pd = pytest.importorskip("pandas")
    times = pd.date_range("2000-01-01", periods=40, freq="5D")
    return xr.DataArray(blocks(), dims=("time", "y", "x"), coords={"time": times})


def parquet() -> Any:
    dd = pytest.importorskip("dask.dataframe")
    folder = tempfile.mkdtemp()
    pd = pytest.importorskip("pandas")
    for n in range(3):
        part = pd.DataFrame({"k": np.arange(50), "x": 1.0})
        part.to_parquet(os.path.join(folder, f"{n}.parquet"))
    return dd.read_parquet(folder)


def cube() -> Any:
    cubes = pytest.importorskip("iris.cube")
    return cubes.Cube(blocks()).core_data()


def tree() -> Any:
    leaves = [delayed(float)(n) for n in range(16)]
    while len(leaves) > 1:
        leaves = [delayed(max)(a, b) for a, b in zip(leaves[::2], leaves[1::2])]
    return leaves[0]


COLLECTIONS: dict[str, Callable[[], Any]] = {
    "mean": lambda: blocks().mean(),
    "anomaly": lambda: blocks() - blocks().mean(axis=0),
    "rechunk": lambda: blocks().rechunk((40, 8, 8)).max(axis=0),
    "rechunk-p2p": lambda: blocks().rechunk((40, 8, 8), method="p2p").max(axis=0),
    "overlap": lambda: blocks().map_overlap(np.sin, 1).std(),
    "product": lambda: da.random.random((80, 80), chunks=20) @ da.ones((80, 9)),
    "unknown-chunks": lambda: blocks()[blocks() > 0.5].sum(),
    "handles": through_handles,
    "set-index": lambda: frame().set_index("k"),
    "merge": lambda: frame().merge(frame(), on="k"),
    "groupby": lambda: frame().groupby("k").x.mean(),
    "sort": lambda: frame().sort_values("k"),
    "read-parquet": lambda: parquet().x.sum(),
    "parquet-index": lambda: parquet().set_index("x"),
    "bag": lambda: db.range(100, npartitions=5).map(str).frequencies(),
    "bag-groupby": lambda: db.range(100, npartitions=5).foldby(lambda n: n % 3, max),
    "delayed": lambda: delayed(sum)([delayed(int)(n) for n in range(9)]),
    "delayed-tree": tree,
    "xarray": lambda: months().groupby("time.month").mean(),
    "xarray-anomaly": lambda: (
        months().groupby("time.month") - months().groupby("time.month").mean()
    ),
    "dataset": lambda: months().to_dataset(name="a").resample(time="10D").mean(),
    "iris": lambda: cube().mean(axis=0),
}


def is_answer(explanation: Explanation) -> bool:
    """Whether it can be shown, and says what it would take."""
    assert explanation.groups
    assert played(explanation).peak > 0
    assert played(explanation, "marked").peak > 0
    assert json.dumps(explanation.to_dict())
    return "<svg" in explanation._repr_html_() and "predicted" in str(explanation)


@pytest.mark.parametrize("name", COLLECTIONS)
def test_collections(name: str) -> None:
    assert is_answer(explain(COLLECTIONS[name](), **CLUSTER))


@pytest.mark.parametrize("name", COLLECTIONS)
@gen_cluster(client=True, nthreads=[("", 1)] * 2)
async def test_collections_async(c: Any, s: Any, a: Any, b: Any, name: str) -> None:
    x = COLLECTIONS[name]()
    asked = asyncio.ensure_future(c.explain_rootish(x))
    # It computes meanwhile
    assert await c.submit(max, 1, 2) == 2
    assert is_answer(await asked)


def ask_there(name: str) -> bool:
    """Ask from a worker."""
    return is_answer(get_client().explain_rootish(COLLECTIONS[name]()))


def test_collections_on_a_local_cluster() -> None:
    """With a client that blocks, and from tasks, in one process.

    One after the other: Python 3.11 may fail if several threads parse at once, as
    `inspect.signature` does for functions that are built in (python/cpython#106905).
    """
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=False,
            dashboard_address=":0",
        ) as cluster,
        Client(cluster) as client,
    ):
        for name, make in COLLECTIONS.items():
            assert client.submit(ask_there, name).result(), name
            assert is_answer(client.explain_rootish(make())), name
