from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import psutil
import pytest
from click.testing import CliRunner

from continuous_integration.benchmarks import compare, environments
from continuous_integration.benchmarks.__main__ import main
from continuous_integration.benchmarks.graphs import GRAPHS
from continuous_integration.benchmarks.measure import (
    POLICIES,
    fingerprint,
    load_recorder,
    measure,
    thin,
    without_marks,
)
from continuous_integration.benchmarks.simulation import Cluster, run
from continuous_integration.benchmarks.workloads import (
    CHUNK,
    LIMITS,
    WORKLOADS,
    Unavailable,
    Workload,
    once,
    workload,
)


def environment(name: str, identity: str = "1") -> environments.Environment:
    return environments.Environment(name, Path(sys.executable), identity)


def record(job: compare.Job, **measured: Any) -> dict[str, Any]:
    return {
        "key": list(job.key),
        "contender": job.environment.name,
        "repeat": job.repeat,
        **measured,
    }


# Workloads


def test_registry_holds_each_workload_under_its_name() -> None:
    assert len(WORKLOADS) >= 26
    for name, one in WORKLOADS.items():
        assert one.name == name
        assert one.title.endswith("."), name
        assert set(one.limits) <= set(LIMITS)
    with pytest.raises(ValueError, match="two workloads with the name 'zarr-8'"):
        workload("zarr-8")(lambda client, folder, prepared: None)


def test_missing_library_is_named() -> None:
    one = Workload("one", lambda client, folder, prepared: 1, modules=("no_such",))
    with pytest.raises(Unavailable, match="one needs no_such"):
        one.check()


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "data"

    def fail() -> None:
        with once(path) as target:
            assert target
            target.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not path.exists()
    with once(path) as target:
        assert target
        target.write_text("whole")
    assert path.read_text() == "whole"
    with once(path) as target:
        assert target is None


# Measuring


def _prepare(client: Any, folder: Path) -> da.Array:
    return client.persist(da.ones((4, *CHUNK[1:]), chunks=CHUNK))


def _add_and_reduce(client: Any, folder: Path, prepared: da.Array) -> Any:
    return (da.ones(prepared.shape, chunks=CHUNK) + prepared).sum(axis=0).compute()


def test_measure(tmp_path: Path) -> None:
    written: list[Path] = []
    one = Workload("one", _add_and_reduce, _prepare, written.append)
    history: list[tuple[float, float]] = []
    m = measure(one, tmp_path, workers=2, threads=1, history=history)
    assert written == [tmp_path]
    # Four chunks of 2 MiB are there before, and what is made of one at least
    assert m.peak_managed > 4 * 2**21 / 1e6
    assert m.moved > 0
    assert m.seconds > 0
    assert m.result == pytest.approx(8 * fingerprint(da.ones(CHUNK[1:]).compute()))
    assert history
    assert json.loads(json.dumps(m.as_dict()))["workload"] == "one"


def test_measure_in_processes(tmp_path: Path) -> None:
    m = measure(WORKLOADS["splits"], tmp_path, workers=2, threads=1, processes=True)
    # At least one of the splits of 16 MB is in the memory of a worker's process
    assert m.peak_process > 16
    assert m.result == sum(1000 * split * n for split in range(3) for n in range(67))


@pytest.mark.parametrize("policy", POLICIES)
def test_policies(policy: str, tmp_path: Path) -> None:
    def read(client: Any, folder: Path, prepared: None) -> int:
        setting = "distributed.scheduler.rootish-policy"
        return client.run_on_scheduler(lambda: POLICIES.index(dask.config.get(setting)))

    m = measure(Workload("one", read), tmp_path, policy=policy, workers=1)
    assert m.policy == policy
    assert m.result == POLICIES.index(policy)


def test_without_marks() -> None:
    graph = GRAPHS["files"](100, 4, True).tasks
    assert any(task.data_producer for task in graph.values())
    with without_marks():
        assert not any(task.data_producer for task in graph.values())
    assert any(task.data_producer for task in graph.values())


def test_fingerprint_tells_order_and_values() -> None:
    for kind in (list, np.array):
        assert fingerprint(kind([1, 2])) != fingerprint(kind([2, 1]))
    assert fingerprint({"a": [1, math.nan]}) == fingerprint([[1, 0]])


def test_fingerprint_computes_nothing() -> None:
    with pytest.raises(TypeError, match="returned Array, not computed"):
        fingerprint([da.ones(3)])


def test_recorder_is_there() -> None:
    assert load_recorder().__name__ == "MemoryRecorder"


# Comparing


def test_turns_go_back_and_forth() -> None:
    a, b = environment("base"), environment("fork")
    batches = compare.turns([a, b], "module", [["x"], ["y"]], 2)
    assert [
        (job.repeat, job.arguments[0], job.environment.name)
        for batch in batches
        for job in batch
    ] == [
        (0, "x", "base"),
        (0, "x", "fork"),
        (0, "y", "base"),
        (0, "y", "fork"),
        (1, "x", "fork"),
        (1, "x", "base"),
        (1, "y", "fork"),
        (1, "y", "base"),
    ]
    assert len({job.key for batch in batches for job in batch}) == 8


def test_execute_goes_on_after_an_interruption(tmp_path: Path) -> None:
    path = tmp_path / "results" / "out.jsonl"
    batches = compare.turns([environment("base")], "module", [["x"]], 4)
    done: list[int] = []

    def run(batch: Any, timeout: float) -> list[dict[str, Any]]:
        [job] = batch
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(job.repeat)
        if job.repeat == 1:
            return [record(job, error="broken")]
        return [record(job, value=job.repeat)]

    with pytest.raises(KeyboardInterrupt):
        compare.execute(batches, path, run=run)
    assert done == [0, 1]
    with path.open("a") as file:
        file.write('{"key": ["torn')
    with path.open("a") as file:
        file.write("\n")

    done = [-1]
    records = compare.execute(batches[:2], path, run=run)
    # What failed is tried again, what was measured is not
    assert done == [-1, 1]
    assert [one.get("value") for one in records] == [0, None]

    changed = compare.turns([environment("base", "2")], "module", [["x"]], 1)
    done = []
    compare.execute(changed, path, run=run)
    assert done == [0], "another identity is another contender"


def _write_module(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    (folder / "contestant.py").write_text(text)
    monkeypatch.setattr(compare, "REPOSITORY", folder)
    return "contestant"


def test_run_together_takes_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One works at a time, and each of them needs the other to go on."""
    module = _write_module(
        tmp_path,
        monkeypatch,
        """
import json, pathlib, sys
me, other = sys.argv[1:]
for n in range(3):
    pathlib.Path(f"{me}{n}").touch()
    while not pathlib.Path(f"{other}{n}").exists():
        pass
print(json.dumps({"who": me}))
""",
    )
    jobs = [
        compare.Job(environment(me), module, (me, other), 0)
        for me, other in ("ab", "ba")
    ]
    awake: set[int] = set()
    turns = []
    suspend, resume = psutil.Process.suspend, psutil.Process.resume

    def resumed(process: psutil.Process) -> None:
        assert not any(psutil.pid_exists(pid) for pid in awake - {process.pid})
        awake.add(process.pid)
        turns.append(process.pid)
        resume(process)

    def suspended(process: psutil.Process) -> None:
        awake.discard(process.pid)
        suspend(process)

    monkeypatch.setattr(psutil.Process, "resume", resumed)
    monkeypatch.setattr(psutil.Process, "suspend", suspended)
    monkeypatch.setattr(compare, "TURN", 0.01)
    records = compare.run_together(jobs, timeout=60)
    assert [one["who"] for one in records] == ["a", "b"]
    assert len(set(turns)) == 2
    assert turns[:4] == turns[:2] * 2


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("raise ValueError('no such thing')", "ValueError: no such thing"),
        ("print(1 / 3); raise SystemExit(3)", "0.3333333333333333"),
        ("print('hello')", "hello"),
        ("", "it printed nothing"),
        ("import time; time.sleep(3600)", "took longer than 1 seconds"),
    ],
)
def test_run_together_says_what_went_wrong(
    text: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = _write_module(tmp_path, monkeypatch, text)
    timeout = 1 if "sleep" in text else 60
    job = compare.Job(environment("base"), module, (), 0)
    [one] = compare.run_together([job], timeout=timeout)
    assert one["error"] == error
    assert json.loads(json.dumps(one)) == {**one, "key": list(one["key"])}


SERVER = """
import json, os, sys
assert sys.argv[1:] == ["serve"]
for line in sys.stdin:
    command, *rest = json.loads(line)
    if command == "die":
        raise SystemExit("broken for good")
    if command == "hang":
        import time
        time.sleep(3600)
    print("a warning")
    print(json.dumps({command: rest, "pid": os.getpid()}), flush=True)
"""


def test_servers_stay_for_one_repetition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = _write_module(tmp_path, monkeypatch, SERVER)
    jobs = [
        compare.Job(environment(name), module, ("run", word), repeat)
        for repeat in range(2)
        for word in ("this", "that")
        for name in ("base", "fork")
    ]
    with compare.Servers() as servers:
        records = [one for job in jobs for one in servers.run([job], 60)]
    assert [one["run"] for one in records[:4]] == [["this"]] * 2 + [["that"]] * 2
    assert [one["key"] for one in records] == [job.key for job in jobs]
    base, fork, *more = (one["pid"] for one in records)
    assert more[:2] == [base, fork]
    assert len({base, fork, *more[2:]}) == 4
    assert not any(psutil.pid_exists(pid) for pid in (base, fork, *more))


@pytest.mark.parametrize(
    ("command", "error"),
    [("die", "broken for good"), ("hang", "took longer than 1 seconds")],
)
def test_servers_outlive_a_run_that_fails(
    command: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = _write_module(tmp_path, monkeypatch, SERVER)
    bad, good = (
        compare.Job(environment("base"), module, (word,), 0) for word in (command, "go")
    )
    with compare.Servers() as servers:
        [one] = servers.run([bad], 1 if command == "hang" else 60)
        assert one["error"] == error
        [one] = servers.run([good], 60)
        assert one["go"] == []


def test_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """One command after another, whatever becomes of the one before."""

    def fail(folder: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setitem(WORKLOADS, "bias", replace(WORKLOADS["bias"], write=fail))
    commands = [["run", "no-such", "--json"], ["write", "scattered"], ["write", "bias"]]
    given = "".join(json.dumps(command) + "\n" for command in commands)
    result = CliRunner().invoke(main, ["serve"], input=given)
    assert result.exit_code == 0
    unknown, written, full = map(json.loads, result.stdout.splitlines())
    assert "no workload no-such" in unknown["error"]
    assert list(written) == ["folder"]
    assert full["error"] == "OSError: disk full"


def test_table_has_medians_ratios_and_complaints() -> None:
    contenders = [environment("base"), environment("fork")]
    batches = compare.turns(contenders, "module", [["run", "w"]], 3)
    jobs = list(itertools.chain(*batches))
    values = {"base": [100, 300, 200], "fork": [50, 52, 1000]}
    records = [
        record(
            job,
            workload="w",
            peak_managed=values[job.environment.name][job.repeat],
            peak_process=1.0,
            moved=300 if job.environment.name == "fork" else 200,
            seconds=1.0,
            result=1.0,
        )
        for job in jobs
    ]
    records.append(record(jobs[0], error="broken"))
    limits = {"w": {"peak_managed": 0.5, "moved": 1.15}}
    text, complaints = compare.table(records, ["base", "fork"], limits)
    row = [cell.strip() for cell in text.splitlines()[-1].strip("|").split("|")]
    assert row[:4] == ["w", "200", "52", "0.26"]
    assert row[4:7] == ["1", "1", ""], "next to nothing has no ratio"
    assert row[7:10] == ["200", "300", "**1.50**"]
    assert len(complaints) == 2
    assert "moved of fork is 300" in complaints[0]
    assert "failed: broken" in complaints[1]


def measured(contender: str, repeat: int = 0, **metrics: Any) -> dict[str, Any]:
    job = compare.Job(environment(contender), "module", ("run", "w"), repeat)
    fields = {**dict.fromkeys(compare.METRICS, 10.0), "result": 1.0, "workload": "w"}
    return record(job, **{**fields, **metrics})


def test_table_asks_nobody_to_be_steadier_than_the_base() -> None:
    records = [
        measured("base", seconds=10.0),
        measured("again", seconds=11.0),
        measured("fork", seconds=11.5),
    ]
    for limit, ncomplaints in ((1.0, 1), (1.05, 0)):
        limits = {"w": {"seconds": limit}}
        _, complaints = compare.table(records, ["base", "again", "fork"], limits)
        assert len(complaints) == ncomplaints
    # Whichever of the two was slower
    records[1]["seconds"] = 100 / 11
    _, complaints = compare.table(
        records, ["base", "again", "fork"], {"w": {"seconds": 1.05}}
    )
    assert not complaints


def test_summary() -> None:
    found = compare.medians(
        [
            measured("base", moved=200.0, peak_managed=0.5),
            measured("fork", moved=50.0, peak_managed=0.25),
            # Nobody else has run this one
            measured("base", workload="lonely"),
        ],
        compare.METRICS,
    )
    head, row = compare.summary(found, ["base", "fork"])
    assert head[0] == "workload"
    assert row == ["w", "0.5 → 0.25", "10 → 10", "200 → 50 (0.25)", "10 → 10 (1.00)"]


def test_means() -> None:
    """Of the ratios that are shown, of workloads that all have run."""
    records = [
        measured("base", moved=200.0, peak_managed=0.5),
        measured("fork", moved=50.0, peak_managed=0.25),
        measured("base", workload="other", moved=200.0, peak_managed=100.0),
        measured("fork", workload="other", moved=200.0, peak_managed=50.0),
        measured("base", workload="lonely"),
    ]
    row = compare.means(compare.medians(records, compare.METRICS), ["base", "fork"])
    assert row == ["geometric mean of the ratios", "0.50", "", "0.50", "1.00"]


def test_telling() -> None:
    found = {
        name: {"base": {"peak_managed": 100.0}, "fork": {"peak_managed": peak}}
        for name, peak in (("same", 100.0), ("less", 10.0), ("more", 500.0))
    }
    assert compare.telling(found, 2) == ["less", "more"]


@pytest.mark.parametrize("length", [0, 1, 199, 200, 201, 1000])
def test_thin_keeps_peaks(length: int) -> None:
    history = [(float(n), float(n % 17)) for n in range(length)]
    few = thin(history)
    assert len(few) <= 200
    assert few == sorted(few)
    assert set(few) <= set(history)
    assert max((y for _, y in few), default=0) == max(
        (y for _, y in history), default=0
    )


def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from continuous_integration.benchmarks.plots import plot_histories, plot_ratios

    records = [
        measured(name, repeat, history=[(0.0, 1.0), (1.0, 2.0 + repeat)])
        for name in ("base", "fork")
        for repeat in range(3)
    ]
    records.append(measured("base", workload="lonely"))
    for path in (tmp_path / "ratios.png", tmp_path / "again" / "ratios.png"):
        plot_ratios(records, ["base", "fork"], path)
        assert path.read_bytes().startswith(b"\x89PNG")
    plot_histories(records, ["base", "fork"], ["w", "lonely"], tmp_path / "memory.png")
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")


def test_deal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture has one place for each chunk, without and with co-assignment."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("zarr")

    from continuous_integration.benchmarks import deal

    monkeypatch.setattr(deal, "CHUNKS", 24)
    written = {}
    monkeypatch.setattr(
        deal, "write_figures", lambda name, **fields: written.update({name: fields})
    )
    picture = tmp_path / "deal.png"
    options = ["--folder", str(tmp_path), "--figures", "dealt"]
    ran = CliRunner().invoke(deal.main, [str(picture), *options])
    assert ran.exit_code == 0, ran.output
    assert written["dealt"]["picture"] == picture
    assert picture.read_bytes().startswith(b"\x89PNG")
    one_by_one, workers, in_families, families = ran.output.splitlines()
    assert one_by_one.startswith("one by one")
    assert in_families.startswith("in families")
    for row in (workers, families):
        assert set(row.split()) == {"0", "1", "2", "3"}
        assert len(row.split()) == 24


def test_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are pictures, and the computation in each comes to its end."""
    from continuous_integration.benchmarks import page

    monkeypatch.setattr(page, "STEPS", 8)
    made = tmp_path / "made"
    ran = CliRunner().invoke(page.main, [str(made)])
    assert ran.exit_code == 0, ran.output
    pictures = {picture.stem: picture.read_bytes() for picture in made.iterdir()}
    assert set(pictures) == set(page.PICTURES)
    assert all(picture.startswith(b"\x89PNG") for picture in pictures.values())


def test_table_sees_different_results() -> None:
    jobs = [
        compare.Job(environment(name), "module", ("run", "w"), 0)
        for name in ("base", "fork")
    ]
    records = [
        record(
            job,
            workload="w",
            **dict.fromkeys(compare.METRICS, 1.0),
            result=float(number),
        )
        for number, job in enumerate(jobs)
    ]
    _, complaints = compare.table(records, ["base", "fork"], {})
    assert complaints == ["w: the results differ: {'base': 0.0, 'fork': 1.0}"]


def test_interval() -> None:
    mean, low, high = compare.interval([0.9, 1 / 0.9] * 10)
    assert mean == pytest.approx(1)
    assert low == pytest.approx(1 / high)
    # scipy.stats.t.ppf(0.975, 19) is 2.0930
    error = math.log(1 / 0.9) * math.sqrt(20 / 19) / math.sqrt(20)
    assert math.log(high) == pytest.approx(2.0930 * error, rel=1e-4)
    # and for 3 degrees of freedom 3.1824
    _, _, high = compare.interval([0.9, 1 / 0.9] * 2)
    error = math.log(1 / 0.9) * math.sqrt(4 / 3) / math.sqrt(4)
    assert math.log(high) == pytest.approx(3.1824 * error, rel=1e-2)
    with pytest.raises(ValueError, match="at least 4"):
        compare.interval([1, 1, 1])


def test_unknown_contender(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no contender 'nobody'"):
        environments.environments(["nobody"], tmp_path)


def test_environments_have_what_workloads_need() -> None:
    given = {re.split(r"\W", one)[0].lower() for one in environments.REQUIREMENTS}
    # It comes with dask[dataframe]
    given |= {"pandas"}
    for one in WORKLOADS.values():
        missing = {module.partition(".")[0].lower() for module in one.modules} - given
        assert not missing, one.name


def test_contender_with_a_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the fork, in processes that have the setting."""
    monkeypatch.setattr(
        environments,
        "fork_environment",
        lambda parent, report: (Path(sys.executable), "1"),
    )
    names = ["fork", "fork:rootish-policy=marked"]
    fork, marked = environments.environments(names, tmp_path)
    assert (fork.python, fork.identity) == (marked.python, marked.identity)
    module = _write_module(
        tmp_path,
        monkeypatch,
        """
import dask, json, distributed
print(json.dumps({"policy": dask.config.get("distributed.scheduler.rootish-policy")}))
""",
    )
    jobs = [compare.Job(one, module, (), 0) for one in (fork, marked)]
    assert jobs[0].key != jobs[1].key
    records = compare.run_together(jobs, timeout=60)
    assert [one["policy"] for one in records] == ["producers", "marked"]
    with pytest.raises(
        Unavailable, match=r"no setting distributed\.scheduler\.rootish$"
    ):
        environments.environments(["fork:rootish=1"], tmp_path)


def test_failed_install_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"-c print.* failed: sorry$"):
        environments._run(
            sys.executable, "-c", "print('no\\nsorry'); raise SystemExit(1)"
        )


def test_identity_follows_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("distributed/a.py", "continuous_integration/fork/b.py"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("1")
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.setattr(environments, "REPOSITORY", tmp_path)
    before = environments.source_identity()
    assert environments.source_identity() == before
    (tmp_path / "distributed" / "a.py").write_text("2")
    assert environments.source_identity() != before


# Cost of the scheduler


@pytest.mark.parametrize("marks", [True, False])
@pytest.mark.parametrize("name", GRAPHS)
def test_cost(name: str, marks: bool) -> None:
    figures = asyncio.run(
        run(name, tasks=600, groups=20, marks=marks, cluster=Cluster(3, 2))
    )
    assert figures["tasks"] == pytest.approx(600, rel=0.3)
    assert figures["groups"] == pytest.approx(20, rel=0.3)
    assert figures["total"] > 0
    assert figures["makespan"] > 0


def test_simulation_is_deterministic() -> None:
    def once() -> dict[str, Any]:
        figures = asyncio.run(
            run("files", tasks=400, groups=16, marks=True, cluster=Cluster(3, 1))
        )
        return {k: figures[k] for k in ("tasks", "queued", "transfers", "makespan")}

    assert once() == once()


# Commands


def test_list() -> None:
    result = CliRunner().invoke(main, ["list"])
    assert result.exit_code == 0
    assert "8 Zarr stores, weighted mean" in result.output


def test_run_prints_json(tmp_path: Path) -> None:
    options = ["--workers", "2", "--json", "--folder", str(tmp_path)]
    result = CliRunner().invoke(main, ["run", "splits", *options])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output.splitlines()[-1])["workload"] == "splits"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nothing"], "no workload nothing: see the command 'list'"),
        (["compare", "zarr-8", "--contender", "nobody"], "no contender 'nobody'"),
        (["cost", "--graph", "nothing"], "no graph 'nothing': choose from"),
        (["cost", "--contender", "base"], "give at least two"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code != 0
    assert message in result.output.splitlines()[-1]
