from __future__ import annotations

import json
import re
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from click.testing import CliRunner
from dask._task_spec import Alias, DataNode, Task, TaskRef
from hypothesis import given
from hypothesis import strategies as st

from continuous_integration.benchmarks import recordings
from continuous_integration.benchmarks.__main__ import main
from continuous_integration.benchmarks.record import (
    Job,
    Recorder,
    RecordingError,
    Renaming,
    find_reads,
    jobs,
    median,
    record,
    record_often,
    structure,
)
from continuous_integration.benchmarks.recordings import (
    KINDS,
    Output,
    Recording,
    Release,
    Scatter,
    Submission,
    dumps,
    kind_of,
    loads,
    make_node,
    pack,
    pretend,
    token,
    unpack,
)
from distributed import Client, wait, worker_client
from distributed.rootish.policy import is_small_data
from distributed.utils import key_split_group

HASH = "f0e1d2c3b4a5968778695a4b3c2d1e0f"


def job(compute: Any, prepare: Any = lambda client, folder: None) -> Job:
    def nothing(*args: Any) -> None:
        return None

    return Job("test", nothing, nothing, prepare, compute, workers=2)


def submissions(recording: Recording) -> list[Submission]:
    return [op for op in recording.ops if isinstance(op, Submission)]


def canonical(recording: Recording) -> Recording:
    """Bring what has no order in an order."""

    def ops() -> Any:
        for op in recording.ops:
            if isinstance(op, Submission):
                tasks: Any = {
                    k: (kind_of(t), t.dependencies) for k, t in op.tasks.items()
                }
                yield replace(op, tasks=tasks, outputs=sorted(op.outputs, key=repr))
            elif isinstance(op, Release):
                yield replace(op, keys=sorted(op.keys, key=repr))
            else:
                yield op

    return replace(recording, ops=list(ops()))


# The format


@given(st.lists(st.integers(-3, 3)) | st.lists(st.integers()))
def test_integers_as_runs(values: list[int]) -> None:
    assert unpack(pack(values)) == values


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], ""),
        ([7], "7"),
        ([3, 3, 3, 3], "3*4"),
        ([0, 1, 2, 5, 5], "0:3 5*2"),
        ([0, 2, 4, 3], "0:6:2 3"),
        ([4, 3, 2], "4:1:-1"),
        ([1, 9], "1 9"),
    ],
)
def test_runs_are_short(values: list[int], text: str) -> None:
    assert pack(values) == text


names = st.sampled_from(["x", "load", "a-b", "#7", "x#7", "", "(", "<a b>", "0" * 40])
texts = st.builds("".join, st.lists(names | st.integers(0, 20).map(token), max_size=3))
parts = st.integers() | texts
keys = st.one_of(
    st.text(min_size=1),
    st.integers(),
    st.floats(allow_nan=False),
    texts.filter(bool),
    st.integers(0, 30).map(lambda n: f"load-{token(n)}"),
    st.tuples(texts, st.integers(0, 9), st.integers(0, 9)),
    st.tuples(texts, st.integers(0, 9)),
    st.tuples(texts, parts, st.tuples(parts)),
    st.tuples(texts),
).filter(lambda key: not isinstance(key, str) or key.isprintable())


@st.composite
def recorded(draw: Any) -> Recording:
    """Make a recording of anything that can be written down."""
    everything = draw(
        st.lists(keys, unique_by=lambda key: str(key), min_size=1, max_size=20)
    )
    outputs = {
        key: Output(draw(st.integers(0, 10)), draw(st.sampled_from([0.0, 1e-5, 0.25])))
        for key in everything
    }
    number = draw(st.integers(0, len(everything) - 1))
    scattered, tasks = everything[:number], everything[number:]
    cut = draw(st.integers(0, len(tasks)))
    ops: list[Any] = [
        Scatter(
            draw(st.booleans()),
            0.0,
            {key: outputs[key].nbytes for key in scattered},
            {key: draw(st.lists(st.integers(0, 3), max_size=2)) for key in scattered},
        )
    ]
    known = list(scattered)
    # The last task is submitted twice
    for graph in (tasks[:cut], tasks[cut:], tasks[-1:]):
        nodes = {}
        for key in graph:
            before = [one for one in known if one != key]
            some = st.lists(st.sampled_from(before), unique=True, max_size=4)
            needs = draw(some) if before else []
            kind = draw(st.sampled_from(KINDS))
            if kind == "alias":
                needs = needs[:1]
            nodes[key] = make_node(
                "task" if kind == "alias" and not needs else kind, key, needs
            )
            known.append(key)
        places = draw(st.permutations(range(len(graph))))
        annotation = st.sampled_from(
            [{}, {"retries": 2}, {"worker_restrictions": [0, 1]}, {"priority": 1.5}]
        )
        ops.append(
            Submission(
                draw(st.booleans()),
                draw(st.sampled_from([0.0, 0.12, 3e-5])),
                nodes,
                draw(st.lists(st.sampled_from(known), unique=True)) if known else [],
                dict(zip(graph, places)),
                {key: found for key in graph if (found := draw(annotation))},
                draw(st.sampled_from([0.0, 1.0])),
            )
        )
    released = draw(st.lists(st.sampled_from(everything), unique=True))
    ops.append(Release(draw(st.booleans()), 0.5, released))
    resources: list[dict[str, float]] = [{"GPU": 1.0}, {}]
    return Recording(
        "one", 2, 1, ["load"], ops, outputs, resources, {"dask": "1"}, prepared=1
    )


@given(recorded())
def test_round_trip(recording: Recording) -> None:
    again = loads(dumps(recording))
    assert canonical(again) == canonical(recording)
    assert dumps(again) == dumps(recording)


@pytest.mark.parametrize("kind", KINDS)
def test_tasks_are_to_the_scheduler_what_they_were(kind: str) -> None:
    needs: Any = {"alias": ["y"], "data": [], "stand-in": []}.get(kind, ["y", ("z", 1)])
    node = make_node(kind, "x", needs)
    assert node.key == "x"
    assert node.dependencies == set(needs)
    assert node.data_producer == (kind in ("marked", "data", "stand-in"))
    assert is_small_data(node) == (kind == "stand-in")
    assert kind_of(node) == kind


@pytest.mark.parametrize(
    ("node", "kind"),
    [
        (Task("x", len, TaskRef("y")), "task"),
        (Task("x", len, "y", _data_producer=True), "marked"),
        (Alias("x", "y"), "alias"),
        (DataNode("x", np.zeros(2**13)), "data"),
        (DataNode("x", np.zeros(2**11)), "stand-in"),
        (DataNode("x", [1, 2]), "stand-in"),
        (DataNode("x", Path("file")), "stand-in"),
        (None, "task"),
    ],
)
def test_kinds_of_real_tasks(node: Any, kind: str) -> None:
    assert kind_of(node) == kind
    assert is_small_data(node) == (kind == "stand-in")


def test_one_line_for_each_group_and_measurements_apart() -> None:
    tasks: dict[Any, Any] = {
        ("x", n, 0): make_node("marked", ("x", n, 0), []) for n in range(9)
    }
    tasks[("y", 0)] = make_node("task", ("y", 0), list(tasks))
    graph = Submission(
        True, 0.0, tasks, [("y", 0)], {k: n for n, k in enumerate(tasks)}
    )
    outputs: dict[Any, Output] = {key: Output(80, 0.123) for key in tasks}
    one = Recording("one", 2, 1, ["x"], [graph], outputs)
    lines = [json.loads(line) for line in dumps(one).splitlines()]
    assert lines[2:] == [
        {"op": "submission", "wait": True, "outputs": {"y": "0"}},
        {
            "group": "x",
            "tuples": ["x", "0:9", "0*9"],
            "kind": "marked",
            "order": "0:9",
        },
        {
            "group": "y",
            "tuples": ["y", "0"],
            "kind": "task",
            "needs": {"x": ["9", "0:9"]},
            "order": "9",
        },
        {"after": "0", "generation": "0"},
        {"measured": "x", "nbytes": "80*9", "seconds": "0.12*9"},
        {"measured": "y", "nbytes": "80", "seconds": "0.12"},
    ]
    slower: dict[Any, Output] = {key: Output(80, 0.2) for key in tasks}
    assert structure(replace(one, outputs=slower)) == structure(one)
    tasks[("y", 0)] = make_node("task", ("y", 0), [])
    assert structure(one) != [json.dumps(line) for line in lines[:-3]]


def test_types_of_groups() -> None:
    """Each has the type that most of its outputs are of, if any is known."""
    names = ["numpy.ndarray", "float", "float"]
    outputs: dict[Any, Output] = {
        ("x", n): Output(8, 0.5, name) for n, name in enumerate(names)
    }
    outputs["y-1"] = Output(8, 0.5)
    nodes = {key: make_node("task", key, []) for key in outputs}
    graph = Submission(
        True, 0.0, nodes, ["y-1"], {key: n for n, key in enumerate(nodes)}
    )
    text = dumps(Recording("one", 2, 1, [], [graph], outputs))
    assert '{"types": {"x": "float"}}' in text.splitlines()
    found = {key: output.typename for key, output in loads(text).outputs.items()}
    assert found == {key: "" if key == "y-1" else "float" for key in outputs}


# Names


@pytest.mark.parametrize(
    ("key", "new"),
    [
        ((f"x-{HASH}", 1, 2), (f"x-{token(0)}", 1, 2)),
        (f"load-{HASH}", f"load-{token(0)}"),
        ("load-9a3e9d68-5d4c-4b1a-9c44-000000000001", f"load-{token(0)}"),
        (HASH, token(0)),
        ("load_7", "load_7"),
        (("x", (f"y-{HASH}", 3)), ("x", (f"y-{token(0)}", 3))),
        (3, 3),
        # Its prefix would change
        (f"a{HASH}", f"a{HASH}"),
    ],
)
def test_hashes_are_numbered(key: Any, new: Any) -> None:
    assert Renaming()(key) == new


def test_hashes_are_numbered_in_order_of_appearance() -> None:
    rename = Renaming()
    other = 4 * HASH[:8]
    found = [rename(key) for key in [(f"x-{HASH}", 0), f"y-{other}", (f"z-{HASH}", 1)]]
    assert found == [(f"x-{token(0)}", 0), f"y-{token(1)}", (f"z-{token(0)}", 1)]


@given(st.lists(keys | st.sampled_from([(f"x-{HASH}", 1), f"y-{HASH}"]), unique=True))
def test_numbering_keeps_prefixes_and_groups(many: list[Any]) -> None:
    rename = Renaming()
    groups: dict[Any, Any] = {}
    for key in many:
        try:
            group = key_split_group(key)
        except (IndexError, UnicodeDecodeError, re.error):
            continue  # The scheduler does not bear it
        new = rename(key)
        assert dask.utils.key_split(new) == dask.utils.key_split(key)
        assert groups.setdefault(group, key_split_group(new)) == key_split_group(new)
    assert len(set(map(repr, groups.values()))) == len(groups)


# The recorder


def give(nbytes: int, *inputs: Any) -> np.ndarray:
    return np.zeros(nbytes, dtype="uint8")


def graph() -> dict[Any, Any]:
    return {
        "path": DataNode("path", Path("file")),
        "array": DataNode("array", np.zeros(10)),
        ("read", 0): Task(
            ("read", 0), give, 1000, TaskRef("path"), _data_producer=True
        ),
        ("read", 1): Task(
            ("read", 1), give, 3000, TaskRef("path"), _data_producer=True
        ),
        "alias": Alias("alias", ("read", 1)),
        7: Task(7, give, 70, TaskRef("alias"), TaskRef("array")),
        "end": Task("end", give, 20, TaskRef(("read", 0)), TaskRef(7)),
    }


def compute_graph(client: Client, folder: Path, prepared: Any) -> None:
    client.get(graph(), ["end", 7])


def test_graph_is_recorded() -> None:
    found = record(job(compute_graph), Path())
    real = graph()
    computed, released = found.ops
    assert isinstance(computed, Submission)
    assert computed.tasks.keys() == real.keys()
    for key, node in computed.tasks.items():
        assert node.dependencies == real[key].dependencies
        assert type(node) is type(real[key])
        assert node.data_producer == real[key].data_producer
        assert is_small_data(node) == is_small_data(real[key])
        if isinstance(node, Task):
            assert node.func is pretend
    assert set(computed.outputs) == {"end", 7}
    assert computed.priorities == dask.order.order(real)
    assert computed.annotations == {}
    assert computed.generation == 0
    assert isinstance(released, Release)
    assert set(released.keys) == {"end", 7}
    assert computed.wait
    assert released.wait
    sizes = {key: output.nbytes for key, output in found.outputs.items()}
    assert sizes.keys() == real.keys()
    assert sizes["array"] == np.zeros(10).nbytes
    assert [sizes[("read", n)] for n in (0, 1)] == [1000, 3000]
    assert [sizes["alias"], sizes[7], sizes["end"]] == [3000, 70, 20]
    assert all(output.seconds > 0 for output in found.outputs.values())
    assert found.reads == ["read"]
    assert found.workers == 2
    assert canonical(loads(dumps(found))).ops[0].wait


def test_only_durations_differ_between_runs() -> None:
    one, other = (record(job(compute_graph), Path()) for _ in range(2))
    assert structure(one) == structure(other)
    slow = {key: output._replace(seconds=9.0) for key, output in one.outputs.items()}
    unlike = replace(one, workers=3, outputs=slow)
    slowed = replace(one, outputs=slow)
    found, alike = median([one, slowed, unlike, slowed])
    assert alike == 3
    assert found == slowed


def test_no_policy_changes_what_is_recorded() -> None:
    found = [
        structure(record(jobs()["reader-delayed"], Path(), policy))
        for policy in ("marked", "producers")
    ]
    assert found[0] == found[1]


def test_what_holds_for_some_tasks_is_recorded() -> None:
    def compute(client: Client, folder: Path, prepared: Any) -> None:
        second = list(client.scheduler_info()["workers"])[1]
        futures = [
            client.submit(give, 1, key="worker", workers=[second]),
            client.submit(
                give, 1, key="loose", workers=[second], allow_other_workers=True
            ),
            client.submit(
                give, 1, key="host", workers=["far"], allow_other_workers=True
            ),
            client.submit(give, 1, key="more", retries=2, priority=3),
            client.submit(dict, key="actor", actor=True),
        ]
        wait(futures)
        client.submit(give, 1, key="gpu", resources={"GPU": 1})

    found = record(job(compute), Path())
    annotations = {}
    for op in submissions(found):
        annotations.update(op.annotations)
    assert annotations == {
        "worker": {"worker_restrictions": [1]},
        "loose": {"worker_restrictions": [1], "loose_restrictions": True},
        "host": {"host_restrictions": ["far"], "loose_restrictions": True},
        "more": {"retries": 2, "priority": 3},
        "actor": {"actor": True},
        "gpu": {"resource_restrictions": {"GPU": 1}},
    }
    # There is no such worker: it never ran
    assert "gpu" in found.outputs


def test_resources_that_workers_get_while_it_is_prepared() -> None:
    async def have(address: str, dask_worker: Any) -> None:
        if dask_worker.address == address:
            await dask_worker.set_resources(GPU=2)

    def prepare(client: Client, folder: Path) -> None:
        client.run(have, list(client.nthreads())[1])

    def compute(client: Client, folder: Path, prepared: Any) -> None:
        client.submit(give, 1, resources={"GPU": 1}).result()

    assert record(job(compute, prepare), Path()).resources == [{}, {"GPU": 2}]


def test_what_lies_in_memory_before() -> None:
    def prepare(client: Client, folder: Path) -> Any:
        scattered = client.scatter(np.zeros(5000, dtype="uint8"))
        dropped = client.submit(give, 1, key="dropped")
        persisted = client.submit(give, 400, dropped, key="persisted")
        del dropped
        wait(persisted)
        return scattered, persisted

    def compute(client: Client, folder: Path, prepared: Any) -> None:
        scattered, persisted = prepared
        dask.delayed(give)(2, scattered, persisted, dask_key_name="end").compute()

    found = record(job(compute, prepare), Path())
    scatter, dropped, persist, dropping, computed, released = found.ops
    assert isinstance(scatter, Scatter)
    assert isinstance(dropped, Submission)
    assert isinstance(persist, Submission)
    assert isinstance(dropping, Release)
    assert isinstance(computed, Submission)
    assert isinstance(released, Release)
    assert found.prepared == 4
    [(key, nbytes)] = scatter.data.items()
    assert key == f"ndarray-{token(0)}"
    assert nbytes == 5000
    assert scatter.workers[key] in ([0], [1])
    assert persist.tasks.keys() == {"persisted"}
    # Nothing is submitted twice
    assert computed.tasks.keys() == {"end"}
    assert computed.tasks["end"].dependencies == {key, "persisted"}
    assert set(released.keys) == {key, "persisted", "end"}
    assert found.outputs[key].nbytes == 5000
    assert found.outputs["persisted"].nbytes == 400
    assert [op.wait for op in found.ops] == [True, False, False, False, True, True]


def test_dropped_futures_are_released_with_the_last_that_uses_them() -> None:
    def compute(client: Client, folder: Path, prepared: Any) -> None:
        first = client.submit(give, 1, key="first")
        second = client.submit(give, 1, first, key="second")
        third = client.submit(give, 1, second, key="third")
        del first, second
        third.result()

    found = record(job(compute), Path())
    what: list[Any] = [
        op.keys if isinstance(op, Release) else list(op.tasks)
        for op in found.ops
        if not isinstance(op, Scatter)
    ]
    assert [(type(op), op.wait, keys) for op, keys in zip(found.ops, what)] == [
        (Submission, True, ["first"]),
        (Submission, False, ["second"]),
        (Release, False, ["first"]),
        (Submission, False, ["third"]),
        (Release, False, ["second"]),
        (Release, True, ["third"]),
    ]


GO = threading.Event()


def wait_for_go() -> None:
    GO.wait()


def test_waiting_for_one_is_not_waiting_for_all() -> None:
    def compute(client: Client, folder: Path, prepared: Any) -> None:
        GO.clear()
        slow = client.submit(wait_for_go, key="slow")
        client.submit(give, 1, key="fast").result()
        last = client.submit(give, 1, key="last")
        last.result()
        GO.set()
        slow.result()

    found = record(job(compute), Path())
    assert [
        op.wait and op.keys if isinstance(op, Release) else op.wait for op in found.ops
    ] == [True, False, False, False, ["slow", "last"]]


def test_computed_again_is_recorded_again() -> None:
    def compute(client: Client, folder: Path, prepared: Any) -> None:
        for _ in range(2):
            dask.delayed(give)(1, dask_key_name="one").compute()
            while client.run_on_scheduler(count_tasks):
                pass  # The client releases it in its own time

    found = record(job(compute), Path())
    assert [set(op.tasks) for op in submissions(found)] == [{"one"}, {"one"}]
    assert [set(op.tasks) for op in submissions(loads(dumps(found)))] == 2 * [{"one"}]


def test_tasks_that_submit_tasks_are_refused() -> None:
    def compute(client: Client, folder: Path, prepared: Any) -> None:
        client.submit(submit_more).result()

    with pytest.raises(RecordingError, match="a task submits tasks"):
        record(job(compute), Path())


def test_lost_graphs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder, "_annotations", None)
    with pytest.raises(RecordingError, match="did not take a graph"):
        record(job(compute_graph), Path())


def count_tasks(dask_scheduler: Any) -> int:
    return len(dask_scheduler.tasks)


def submit_more() -> Any:
    with worker_client() as client:
        return client.submit(give, 1).result()


def fail() -> None:
    raise ValueError


def test_failed_tasks_are_refused() -> None:
    def compute(client: Client, folder: Path, prepared: Any) -> None:
        wait(client.submit(fail, key="failed"))

    with pytest.raises(RecordingError, match="the task 'failed' failed"):
        record(job(compute), Path())


def test_reads_are_marked_or_have_handles_only_and_give_the_most() -> None:
    def reads(*tasks: tuple[str, str, list[str], int]) -> list[str]:
        nodes: Any = {key: make_node(kind, key, needs) for kind, key, needs, _ in tasks}
        outputs: Any = {key: Output(nbytes, 0.0) for _, key, _, nbytes in tasks}
        op: Any = Submission(True, 0.0, nodes, [], dict.fromkeys(nodes, 0))
        return find_reads(Recording("one", 1, 1, [], [op], outputs))

    handle: Any = ("task", "open-1", [], 50)
    assert reads(handle, ("task", "read-1", ["open-1"], 1000)) == ["read"]
    assert reads(("task", "read-1", [], 900), ("task", "cut-1", ["read-1"], 900)) == [
        "read"
    ]
    assert reads(
        ("task", "read-1", [], 900),
        ("task", "weights-1", [], 450),
        ("marked", "load-1", ["read-1"], 900),
    ) == ["load", "read"]
    assert reads(("stand-in", "original-1", [], 10**6), handle) == ["open"]


# The recordings


def test_recordings_in_the_repository_are_small_and_up_to_date() -> None:
    paths = sorted(recordings.FOLDER.glob("*.jsonl"))
    assert sorted(path.stem for path in paths) == recordings.names()
    assert sum(path.stat().st_size for path in paths) < 8e6
    # Of the one, each read computes something with the client of its worker
    assert {path.stem for path in paths} == jobs().keys() - {"reader-virtual-zarr"}
    for path in paths:
        found = recordings.read(path.stem)
        assert dumps(found) == path.read_text(encoding="utf-8"), path
        assert found.name == path.stem
        # Of the one, there is nothing but results and what was scattered
        assert bool(found.reads) == (path.stem != "scattered"), path
        known: set[Any] = set()
        for op in found.ops:
            if isinstance(op, Submission):
                new = op.tasks.keys()
                needed = {
                    one for node in op.tasks.values() for one in node.dependencies
                }
                assert needed <= known | new, path
                assert set(op.outputs) <= known | new, path
                assert op.priorities.keys() == new, path
                known |= new
            else:
                known |= set(op.data) if isinstance(op, Scatter) else set()
        assert found.outputs.keys() == known, path


def test_command_writes_one_recording_and_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Others may be recording
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    other = tmp_path / "other.jsonl"
    other.touch()
    arguments = ["record", "--output", str(tmp_path), "--folder", str(tmp_path)]
    runner = CliRunner()
    result = runner.invoke(main, [*arguments, "--repeats", "2", "reader-client-map"])
    assert result.exit_code == 0, result.output
    assert "97 tasks" in result.output
    assert "alike" not in result.output
    found = recordings.read("reader-client-map", tmp_path)
    assert found.reads == ["load"]
    assert (found.workers, found.threads) == (2, 2)
    assert other.exists()
    result = runner.invoke(main, [*arguments, "no-such"])
    assert result.exit_code == 2
    assert "nothing to record has the name no-such" in result.output


def test_names_do_not_depend_on_folder_or_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    # Random names, and hashes of paths
    for name in ("reader-xarray-open-zarr", "reader-from-delayed"):
        one, other = (
            record_often(name, tmp_path / folder, 1)[0] for folder in ("one", "other")
        )
        assert structure(one) == structure(other)
