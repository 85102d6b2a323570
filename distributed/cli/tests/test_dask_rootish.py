from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import psutil
import pytest
from click.testing import CliRunner, Result
from dask import config
from dask._task_spec import DataNode, Task

import distributed
from distributed import Scheduler, rootish, wait
from distributed.cli import dask_rootish
from distributed.rootish import demo as rootish_demo
from distributed.rootish.demo import (
    POLICIES,
    SOURCES,
    ClusterSpec,
    DataSpec,
    DemoError,
    Run,
)
from distributed.rootish.tests.utils import SATURATION
from distributed.utils_test import (
    async_poll_for,
    captured_logger,
    gen_cluster,
    inc,
)

# netCDF4 and NumPy for Python 3.10; NumPy says that this warning is harmless.
pytestmark = pytest.mark.filterwarnings("ignore:numpy.ndarray size changed")

FIELD = rootish_demo.FIELD_NBYTES

#: Some seconds, with little more than one field in each chunk.
SMALLEST = ["--files", "5", "--chunks", "4", "--chunk-size", "64kiB"]

DASK_ROOTISH = (sys.executable, "-m", dask_rootish.__name__)

PNG = b"\x89PNG\r\n\x1a\n"


def dask(*args: str | Path) -> Result:
    return CliRunner().invoke(dask_rootish.main, [str(arg) for arg in args])


def error_lines(result: Result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("Error")]


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch):
    """Show things as in a file, whatever terminal the tests run in."""
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def tmpdir_env(tmp_path, monkeypatch):
    """A folder for temporary files that should be empty in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


def fake_run(source: str, policy: str, managed: int = FIELD, result: float = 1) -> Run:
    return Run(
        source=source,
        policy=policy,
        managed=managed,
        process=2 * managed,
        moved=FIELD,
        seconds=1.5,
        managed_history=((0.1, 0), (0.5, managed), (1.5, 0)),
        process_history=((0.0, 0), (0.5, managed), (1.5, 0)),
        result=np.full(rootish_demo.GRID, result),
    )


# -- The command line ----------------------------------------------------------------


def test_choices_are_those_of_the_modules():
    """The command names them again, so as not to import the modules."""
    assert dask_rootish.POLICIES == POLICIES
    assert set(POLICIES) == set(rootish.POLICIES)
    assert tuple(SOURCES) == dask_rootish.SOURCES


def test_registered_as_dask_rootish():
    out = subprocess.check_output(
        [sys.executable, "-m", "dask", "rootish", "--help"], text=True
    )
    assert "Usage: dask rootish" in out or "dask rootish [OPTIONS]" in out
    assert "demo" in out


def test_import_is_light():
    """``dask`` imports the module for any of its commands."""
    code = (
        "import sys, click, distributed\n"
        "before = set(sys.modules)\n"
        "import distributed.cli.dask_rootish\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    out = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert out.split() == ["distributed.cli", "distributed.cli.dask_rootish"]


def test_help_names_every_option():
    result = dask("demo", "--help")
    assert result.exit_code == 0
    for param in dask_rootish.demo.params:
        assert param.opts[0] in result.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--policy", "guess"], "'guess' is not one of"),
        (["--source", "grib"], "'grib' is not one of"),
        (["--workers", "0"], "--workers"),
        (["--threads", "none"], "--threads"),
        (["--files", "0"], "--files"),
        (["--chunks", "-1"], "--chunks"),
        (["--chunk-size", "big"], "'big' is not a size"),
        (["--chunk-size", "10kB"], "A chunk cannot be smaller than one field"),
        (["--output", "plot.pdf"], "'plot.pdf' must be a folder or end in .png"),
        (["--no-such-option"], "--no-such-option"),
        (["surplus"], "surplus"),
    ],
)
def test_bad_values(args, message, monkeypatch):
    monkeypatch.delattr(rootish_demo, "run_demo")  # nothing is done
    result = dask("demo", *args)
    assert result.exit_code == 2
    (error,) = error_lines(result)
    assert message in error
    # Usage, a pointer to --help, an empty line, and this one
    assert result.stderr.splitlines()[-1] == error
    assert len(result.stderr.splitlines()) <= 4


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (".", "rootish-demo.png"),
        ("there", "there/rootish-demo.png"),
        ("new/folder", "new/folder/rootish-demo.png"),
        ("mine.png", "mine.png"),
        ("mine.PNG", "mine.PNG"),
        ("new/mine.png", "new/mine.png"),
        ("dotted.folder", "dotted.folder/rootish-demo.png"),
        ("folder.png", "folder.png/rootish-demo.png"),
    ],
)
def test_output(output, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("there", "dotted.folder", "folder.png"):
        Path(folder).mkdir()
    runs = [fake_run("zarr", "producers")]
    monkeypatch.setattr(rootish_demo, "run_demo", lambda *args, **kwargs: runs)
    result = dask("demo", "--output", output)
    assert result.exit_code == 0, result.output
    assert f"Memory over time: {expected}\n" in result.stdout
    assert Path(expected).read_bytes().startswith(PNG)


def test_output_by_default(tmpdir_env, tmp_path, monkeypatch):
    """Not where the user is, which may be among sources, and not over another one."""
    monkeypatch.chdir(tmp_path)
    runs = [fake_run("zarr", "producers")]
    monkeypatch.setattr(rootish_demo, "run_demo", lambda *args, **kwargs: runs)
    paths = set()
    for _ in range(2):
        result = dask("demo")
        assert result.exit_code == 0, result.output
        [line] = [x for x in result.stdout.splitlines() if x.startswith("Memory over")]
        path = Path(line.partition(": ")[2])
        assert path.is_relative_to(tmpdir_env)
        assert path.read_bytes().startswith(PNG)
        paths.add(path)
    assert len(paths) == 2
    assert list(tmp_path.iterdir()) == [tmpdir_env]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("file/plot.png", "cannot make 'file'"),
        ("file/folder", "cannot make 'file"),
        ("file", "'file' must be a folder or end in .png"),
        ("plot.jpg", "'plot.jpg' must be a folder or end in .png"),
        ("taken", "rootish-demo.png' cannot be written: "),
        ("full", "rootish-demo.png' cannot be written: No space left on device."),
    ],
)
def test_output_that_cannot_be_written(output, message, tmp_path, monkeypatch):
    """Said before anything is computed."""
    monkeypatch.delattr(rootish_demo, "run_demo")
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("taken/rootish-demo.png").mkdir(parents=True)
    Path("full").mkdir()
    really_open = Path.open

    # Who runs the tests may write anywhere
    def refuse(path, *args, **kwargs):
        if path.parent.name == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return really_open(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    result = dask("demo", "--output", output)
    assert result.exit_code == 2
    (error,) = error_lines(result)
    assert message in error


@pytest.mark.parametrize("before", [None, b"another picture"])
def test_output_is_only_tried(before, tmp_path, monkeypatch):
    """A run that fails leaves neither an empty picture nor takes one away."""

    def fail(*args, **kwargs):
        raise DemoError("no")

    monkeypatch.setattr(rootish_demo, "run_demo", fail)
    path = tmp_path / "plot.png"
    if before is not None:
        path.write_bytes(before)
    assert dask("demo", "--output", path).exit_code == 1
    assert (path.read_bytes() if path.exists() else None) == before


def test_missing_packages(monkeypatch, tmp_path):
    # What Python takes for a module that cannot be imported
    for module in ("iris", "zarr"):
        monkeypatch.setitem(sys.modules, module, None)
    assert rootish_demo.missing_packages(["netcdf"]) == []
    result = dask("demo", "--source", "iris", "--source", "zarr", "--output", tmp_path)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: Not installed: scitools-iris, zarr. ")
    assert "pip install 'distributed[demo] @ " in line


@pytest.mark.parametrize("module", ["numpy", "rich", "matplotlib"])
def test_missing_packages_of_every_source(module, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    result = dask("demo", "--source", "handles", "--output", tmp_path)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert f"Not installed: {module}. " in line


def test_different_results_fail(tmp_path, monkeypatch):
    runs = [
        fake_run("zarr", "marked"),
        fake_run("zarr", "producers", result=1 + 1e-12),
        fake_run("iris", "marked", result=1 + 1e-6),
    ]
    monkeypatch.setattr(rootish_demo, "run_demo", lambda *args, **kwargs: runs)
    result = dask("demo", "--output", tmp_path)
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: The result of iris under policy marked differs from that of zarr "
        "under policy marked.\n"
    )
    assert "All results are equal" not in result.stdout
    # What was measured is shown all the same.
    assert "producers (this fork)" in result.stdout
    assert (tmp_path / "rootish-demo.png").exists()


def test_the_same_twice_runs_once(tmp_path, monkeypatch):
    def run_demo(data, cluster, sources, policies, report):
        return [fake_run(source, policy) for source in sources for policy in policies]

    monkeypatch.setattr(rootish_demo, "run_demo", run_demo)
    twice = ["--source", "zarr", "--policy", "marked"] * 2
    result = dask("demo", *twice, "--output", tmp_path)
    assert result.exit_code == 0
    assert result.stdout.count("marked (") == 1


def test_demo(tmpdir_env, tmp_path):
    result = dask(
        "demo", *SMALLEST, "--source", "zarr", "--policy", "producers",
        "--workers", "1", "--threads", "1", "--output", tmp_path,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "1.25 MiB: 5 files of 4 chunks of 64.00 kiB" in result.stdout
    assert "1 worker with 1 thread each" in result.stdout
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert lines[lines.index("zarr") + 1].startswith("producers (this fork) ")
    assert "All results are equal.\n" in result.stdout
    assert (tmp_path / "rootish-demo.png").read_bytes().startswith(PNG)
    # Not a terminal: a line for every step
    progress = result.stderr.splitlines()
    assert progress[0] == "[0/7] Writing 0000.zarr"
    assert progress[5] == "[5/7] Starting a cluster, policy producers"
    assert progress[-1] == "[7/7] Done"
    assert not list(tmpdir_env.iterdir())


def test_error_leaves_nothing_behind(tmpdir_env, tmp_path, monkeypatch):
    def fail(paths, data):
        assert len(list(paths[0].parent.glob("*.zarr"))) == 5
        raise ValueError("out of luck\nand more of the same")

    # Before the workers are asked to do the same
    monkeypatch.setattr(rootish_demo, "_warm_up", print)
    broken = rootish_demo.Source(rootish_demo.ZARR, fail, {})
    monkeypatch.setattr(rootish_demo, "SOURCES", {**SOURCES, "zarr": broken})
    before = psutil.Process().children(recursive=True)
    result = dask(
        "demo", *SMALLEST, "--source", "zarr", "--policy", "marked",
        "--workers", "1", "--output", tmp_path,
    )  # fmt: skip
    assert result.exit_code == 1
    assert error_lines(result) == [
        "Error: Computing zarr, policy marked failed: ValueError: out of luck"
    ]
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert not list(tmpdir_env.iterdir())
    assert not [
        child
        for child in psutil.Process().children(recursive=True)
        if child not in before and "resource_tracker" not in " ".join(child.cmdline())
    ]


def test_no_room(tmpdir_env, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**30, 2**30, 2**20))
    result = dask("demo", *SMALLEST, "--output", tmp_path)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "takes 2.50 MiB" in line  # as Zarr and as NetCDF
    assert "only 1.00 MiB" in line
    assert str(tmpdir_env) in line
    assert not list(tmpdir_env.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="sends a signal to a group of processes")
@pytest.mark.parametrize(
    ("moment", "kill", "signum"),
    [
        # A terminal sends it to the workers too, a supervisor does not.
        ("Writing 0001", "killpg", signal.SIGINT),
        ("Starting", "killpg", signal.SIGINT),
        ("Computing", "killpg", signal.SIGINT),
        ("Computing", "kill", signal.SIGTERM),
    ],
)
def test_interrupt_leaves_nothing_behind(moment, kill, signum, tmpdir_env, tmp_path):
    args = ["--chunks", "40", "--source", "zarr", "--chunk-size", "64kiB"]
    with subprocess.Popen(
        [sys.executable, "-m", "dask", "rootish", "demo", *args, "--output", tmp_path],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stderr is not None
            before = ""
            while moment not in before:
                line = process.stderr.readline()
                assert line, before
                before += line
            getattr(os, kill)(process.pid, signum)
            _, after = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 128 + signum
    lines = [line for line in after.splitlines() if not line.startswith("[")]
    assert lines.pop(0) == "Stopping the workers and removing the data ..."
    assert lines == (["Aborted!"] if signum == signal.SIGINT else [])
    assert not list(tmpdir_env.iterdir())
    assert not list(tmp_path.glob("*.png"))
    wait_for_end_of_session(process.pid)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_in_a_finalizer(signum, tmp_path, monkeypatch):
    """Python drops the exception; the next step stops the demo all the same."""
    log = []
    told = []

    class Garbage:
        def __init__(self, what):
            self.what = what

        def __del__(self):
            self.what()

    def run_demo(data, cluster, sources, policies, report):
        report(0, 2, "First")
        Garbage(lambda: signal.raise_signal(signum))
        log.append("went on")
        Garbage(lambda: 1 / 0)
        report(1, 2, "Second")

    monkeypatch.setattr(sys, "unraisablehook", lambda lost: told.append(lost.exc_type))
    monkeypatch.setattr(rootish_demo, "run_demo", run_demo)
    result = dask("demo", "--output", tmp_path)
    assert log == ["went on"]
    assert result.exit_code == 128 + signum
    assert "Second" not in result.stderr
    # Other faults are told, as always
    assert told == [ZeroDivisionError]


def wait_for_end_of_session(sid: int) -> None:
    """Wait until the processes are gone that a leader of a session had started.

    Helpers of multiprocessing end by themselves, a moment after they notice that it
    has ended.
    """
    deadline = time.monotonic() + 60
    while True:
        left = []
        for process in psutil.process_iter(["status", "cmdline"]):
            with contextlib.suppress(ProcessLookupError):
                if (
                    os.getsid(process.pid) == sid
                    and process.info["status"] != psutil.STATUS_ZOMBIE
                ):
                    left.append(process.info["cmdline"])
        if not left:
            return
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("other_thread", [True, False])
def test_interrupts_are_deferred(signum, other_thread):
    """Also when there is a thread that does not block the signal."""
    log = []
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    handler = signal.signal(signum, lambda *args: log.append("handled"))
    try:
        if other_thread:
            thread.start()
        with rootish_demo._interrupts_deferred():
            os.kill(os.getpid(), signum)
            time.sleep(0.001)
            log.append("done")
        assert log == ["done", "handled"]
    finally:
        signal.signal(signum, handler)
        if other_thread:
            stop.set()
            thread.join()


# -- What it runs --------------------------------------------------------------------


def test_data_spec():
    data = DataSpec(files=3, chunks=4, chunk_size=3 * FIELD - 1)
    assert data.chunk_nbytes == 2 * FIELD
    assert data.shape == (8, *rootish_demo.GRID)
    assert data.nbytes == 3 * 4 * 2 * FIELD
    for bad in ({"files": 0}, {"chunks": 0}, {"chunk_size": FIELD - 1}):
        with pytest.raises(DemoError):
            DataSpec(**bad)


# An environment variable can only give text
@pytest.mark.parametrize("saturation", [1.0, 1.1, float("inf"), "inf"])
def test_bound(saturation):
    data = DataSpec(chunk_size=9 * FIELD)
    with config.set({"distributed.scheduler.worker-saturation": saturation}):
        bound = ClusterSpec(workers=4, threads=1).bound(data)
    slots = {1.0: 4, 1.1: 8}.get(saturation, float("inf"))
    assert bound == 2 * slots * 10 * FIELD


def small_data() -> DataSpec:
    return DataSpec(files=8, chunks=10, chunk_size=4 * FIELD)


@pytest.fixture(scope="module")
def runs():
    policies = ["heuristic", "producers"]
    with config.set(SATURATION):
        return rootish_demo.run_demo(small_data(), ClusterSpec(), policies=policies)


def test_runs_are_grouped_by_source(runs):
    assert [(run.source, run.policy) for run in runs] == [
        (source, policy) for source in SOURCES for policy in ("heuristic", "producers")
    ]


def test_results(runs):
    rootish_demo.check_results(runs)
    data = small_data()
    x = np.concatenate(
        [
            rootish_demo._chunk_values(data, file, chunk)
            for file in range(data.files)
            for chunk in range(data.chunks)
        ]
    )
    w = 1.5 + np.cos(np.linspace(0, 4 * np.pi, len(x)))
    np.testing.assert_allclose(runs[0].result, np.average(x, axis=0, weights=w))


def test_producers_is_bounded_and_heuristic_is_not(runs):
    with config.set(SATURATION):
        bound = ClusterSpec().bound(small_data())
    for run in runs:
        assert (run.managed <= bound) == (run.policy == "producers"), run


def test_measurements(runs):
    for run in runs:
        assert run.seconds > 0
        assert run.moved > 0
        times, managed = zip(*run.managed_history)
        assert list(times) == sorted(times)
        assert 0 < max(managed) <= run.managed
        assert times[0] >= 0
        assert run.process_history[0][1] == 0
        assert max(nbytes for _, nbytes in run.process_history) == run.process


def test_stripped_marks():
    marked = Task("x", print, _data_producer=True)
    with rootish_demo.stripped_marks():
        assert not marked.data_producer
        assert not DataNode("y", 1).data_producer
    assert marked.data_producer
    assert DataNode("y", 1).data_producer


def test_marks_are_stripped_in_the_scheduler():
    """Without marks ``marked`` is no better than the heuristic."""
    data, cluster = small_data(), ClusterSpec(marks=False)
    with config.set(SATURATION):
        (run,) = rootish_demo.run_demo(data, cluster, ["zarr"], ["marked"])
        assert run.managed > cluster.bound(data)


def test_handles_are_reopened_after_unpickling(tmp_path):
    import cloudpickle

    data = DataSpec(files=1, chunks=2, chunk_size=FIELD)
    path = tmp_path / "a.zarr"
    rootish_demo.ZARR.write(path, data, 0)
    pickled = cloudpickle.dumps(rootish_demo.open_handle(str(path)))
    assert len(pickled) < 1000
    chunk = rootish_demo.read_chunk(cloudpickle.loads(pickled), 1, data.steps)
    np.testing.assert_array_equal(chunk, rootish_demo._chunk_values(data, 0, 1))


@pytest.mark.parametrize("source", SOURCES)
def test_sources_have_the_chunks_asked_for(source, tmp_path):
    data = DataSpec(files=2, chunks=3, chunk_size=2 * FIELD)
    src = SOURCES[source]
    paths = src.format.paths(tmp_path, data)
    for i, path in enumerate(paths):
        src.format.write(path, data, i)
    x = src.open(paths, data)
    assert x.dtype == "f8"
    assert x.chunks == ((2,) * 6, (64,), (128,))


def test_process_memory():
    child = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    # Before it runs it has no memory of its own
    assert child.stdout is not None
    child.stdout.readline()
    with rootish_demo.ProcessMemory([os.getpid(), child.pid], interval=0.001) as memory:
        child.communicate(b"\n")
        while len(memory.history) < 10:
            time.sleep(0.001)
    assert memory.history[0][1] > memory.history[-1][1] > 0
    assert not memory._thread.is_alive()


def show_table(width: int, **options: object) -> list[str]:
    """Print a table with one run above the bound and two at it."""
    from rich.console import Console

    data, cluster = small_data(), ClusterSpec()
    with config.set(SATURATION):
        bound = int(cluster.bound(data))
        peaks = {"heuristic": 2**34, "marked": bound, "producers": bound}
        runs = [fake_run("zarr", policy, managed=peaks[policy]) for policy in POLICIES]
        table = rootish_demo.make_table(runs, data, cluster)
    console = Console(width=width, **options)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()


def test_table_tells_within_the_bound_from_outside():
    lines = show_table(80, force_terminal=True, color_system="standard")
    (heuristic,) = [line for line in lines if "heuristic" in line]
    (producers,) = [line for line in lines if "producers" in line]
    assert "\x1b[31m" in heuristic
    assert "\x1b[32m" not in heuristic
    assert "\x1b[32m" in producers
    assert "\x1b[31m" not in producers


@pytest.mark.parametrize("width", [60, 80])
def test_table_without_colors(width):
    lines = show_table(width, force_terminal=False)
    assert "\x1b" not in "".join(lines)
    assert "…" not in "".join(lines)
    assert max(map(len, lines)) <= width
    release = distributed.__version__.partition("+")[0]
    rows = {
        line.partition(")")[0]: line.split()
        for line in lines
        if line.startswith(POLICIES)
    }
    # On one line each, that is
    assert list(rows) == [
        "heuristic (up to 2024.12",
        f"marked (release {release}",
        "producers (this fork",
    ]
    exceeds = [any(cell.endswith("*") for cell in row) for row in rows.values()]
    assert exceeds == [True, False, False]
    assert "An asterisk marks" in " ".join(lines)


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_progress_on_a_terminal(term, capsys):
    """A dumb one gets lines, as a file does."""
    from rich.console import Console

    file = io.StringIO()
    console = Console(file=file, force_terminal=True, _environ={"TERM": term})
    with dask_rootish._progress(console) as report:
        report(1, 2, "Reading")
    assert ("[1/2] Reading\n" in capsys.readouterr().err) == (term == "dumb")
    assert ("Reading" in file.getvalue()) == (term == "xterm")


@pytest.mark.parametrize("n_sources", [1, 2, 3, 4])
def test_plot(n_sources, tmp_path):
    from matplotlib.image import imread

    runs = [
        fake_run(source, policy)
        for source in list(SOURCES)[:n_sources]
        for policy in POLICIES
    ]
    path = tmp_path / "plot.png"
    rootish_demo.write_plot(runs, small_data(), path)
    height, width, _ = imread(path).shape
    assert height > 100
    assert width > 100


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module ``things_to_explain`` in the current folder."""
    (tmp_path / "things_to_explain.py").write_text(
        "import dask.array as da\n"
        "from dask import delayed\n"
        "x = da.ones((64, 8), chunks=(1, 8)).sum()\n"
        "several = [x, x + 1]\n"
        "single = delayed(sum)([1, 2])\n"
        "class Inner:\n"
        "    x = x\n"
        "def make():\n"
        "    return x\n"
        "def fail():\n"
        "    raise RuntimeError('no data today')\n"
        "def read(handle, i):\n"
        "    return i\n"
        "handles = [delayed(open)(f'{i}') for i in range(8)]\n"
        "unmarked = [delayed(read)(h, i) for h in handles for i in range(9)]\n"
        "number = 5\n"
        "def leave():\n"
        "    raise SystemExit(3)\n"
        "def unchunked():\n"
        "    import numpy, xarray\n"
        "    return xarray.Dataset({'a': ('x', numpy.ones(3))})\n"
        "def squares():\n"
        "    y = da.ones((40, 512, 512), chunks=(1, 512, 512)) + 1\n"
        "    return ((y - y.mean(axis=0)) ** 2).mean()\n"
        "def pencils():\n"
        "    return da.ones((40, 64, 64), chunks=(1, 64, 64)).rechunk((40, 1, 1))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    yield "things_to_explain"
    sys.modules.pop("things_to_explain", None)


CLUSTER = ["--nworkers", "2", "--nthreads", "1"]


@pytest.mark.parametrize("name", ["x", "several", "make", "Inner.x", "single"])
def test_explain(module, name):
    result = dask("explain", f"{module}:{name}", *CLUSTER)
    assert result.exit_code == 0, result.output
    assert "on 2 workers with 2 threads" in result.stdout
    assert "producers (chosen)" in result.stdout


def test_explain_json(module):
    result = dask("explain", f"{module}:x", *CLUSTER, "--json")
    assert result.exit_code == 0, result.output
    explanation = json.loads(result.stdout)
    assert explanation["nthreads"] == [1, 1]
    assert explanation["groups"][0]["verdicts"]["producers"]["rootish"]


def test_explain_fails_on_overproduction(module):
    command = ["explain", f"{module}:unmarked", *CLUSTER, "--fail-on-overproduction"]
    with config.set(SATURATION):
        assert dask(*command).exit_code == 0
    with config.set({**SATURATION, "distributed.scheduler.rootish-policy": "marked"}):
        result = dask(*command)
        assert result.exit_code == dask_rootish.OVERPRODUCTION
        assert "not held back" in result.stdout
        # Without being asked to fail, it tells
        assert dask(*command[:-1]).exit_code == 0


def test_explain_fails_if_it_does_not_fit(module):
    command = ["explain", f"{module}:squares", *CLUSTER, "--fail", "--memory"]
    assert dask(*command, "1GiB").exit_code == 0
    result = dask(*command, "16MiB")
    assert result.exit_code == dask_rootish.TOO_LARGE
    assert "fits 16.00 MiB each" in result.stdout
    # Without being asked to fail, it tells
    command.remove("--fail")
    assert dask(*command, "16MiB").exit_code == 0


def test_explain_sizes(module):
    size = ["--size", "read=3MiB", "--json"]
    result = dask("explain", f"{module}:unmarked", *CLUSTER, *size)
    prediction = json.loads(result.stdout)["prediction"]
    assert prediction["policies"]["producers"]["peak"] > 72 * 3 * 2**20
    assert prediction["known"] is False  # nobody knows what is opened
    result = dask("explain", f"{module}:x", *CLUSTER, "--size", "read")
    assert result.exit_code == 2
    assert "NAME=SIZE" in result.stderr


def test_explain_without_prediction(module):
    result = dask("explain", f"{module}:x", *CLUSTER, "--no-predict", "--json")
    assert json.loads(result.stdout)["prediction"] is None


def test_explain_as_on_a_cluster(module):
    """There, arrays with so many pieces are rechunked by P2P."""
    result = dask("explain", f"{module}:pencils", *CLUSTER, "--json")
    assert result.exit_code == 0, result.output
    groups = [group["prefix"] for group in json.loads(result.stdout)["groups"]]
    assert "rechunk-transfer" in groups


@pytest.mark.parametrize(
    "options",
    [
        ["--fail", "--no-predict"],
        ["--fail"],
        ["--scheduler", "tcp://127.0.0.1:1", "--fail"],
        ["--scheduler", "tcp://127.0.0.1:1", "--memory", "1GiB"],
    ],
)
def test_explain_bad_options(module, options):
    target = [] if "--scheduler" in options else [f"{module}:x", *CLUSTER]
    assert dask("explain", *target, *options).exit_code == 2


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("things_to_explain:fail", "RuntimeError: no data today"),
        ("things_to_explain:leave", "SystemExit: 3"),
        ("things_to_explain:unchunked", "chunks="),
        ("things_to_explain:none", "no attribute 'none'"),
        ("things_to_explain:number", "got int"),
        ("no_such_module:x", "No module named 'no_such_module'"),
    ],
)
def test_explain_what_cannot_be_loaded(module, target, message):
    result = dask("explain", target, *CLUSTER)
    assert result.exit_code == 1
    [line] = error_lines(result)
    assert target in line
    assert message in line


@pytest.mark.parametrize("target", ["x", "things_to_explain", ":x", "a.b:"])
def test_explain_bad_target(target):
    result = dask("explain", target)
    assert result.exit_code == 2
    [line] = error_lines(result)
    assert "PACKAGE.MODULE:OBJECT" in line


# -- dask rootish explain --scheduler ------------------------------------------------


async def ask(s: Scheduler, *options: str) -> Result:
    """Run the command beside the scheduler that it asks."""
    return await asyncio.to_thread(dask, "explain", "--scheduler", s.address, *options)


@gen_cluster(client=True, nthreads=[("", 1)], config=SATURATION)
async def test_explain_scheduler(c, s, a):
    futures = c.map(inc, range(20))
    await wait(futures)
    result = await ask(s)
    assert result.exit_code == 0, result.output
    assert "1 groups, 1 of them root-ish, under the policy producers" in result.stdout
    result = await ask(s, "--json")
    assert json.loads(result.stdout) == (await c.rootish()).to_dict()
    result = await ask(s, "--fail-on-overproduction")
    assert result.exit_code == 0, result.output


@gen_cluster(
    client=True,
    nthreads=[("", 1)],
    config={"distributed.scheduler.rootish-policy": "heuristic", **SATURATION},
)
async def test_explain_scheduler_fails_on_overproduction(c, s, a):
    futures = c.map(inc, range(20), workers=[a.address])
    await wait(futures)
    assert (await ask(s)).exit_code == 0
    result = await ask(s, "--fail-on-overproduction")
    assert result.exit_code == dask_rootish.OVERPRODUCTION


@gen_cluster(nthreads=[])
async def test_explain_scheduler_of_a_release(s):
    del s.handlers["rootish"]
    with captured_logger("distributed.core"):
        result = await ask(s)
    assert result.exit_code == 1
    [line] = error_lines(result)
    assert s.address in line
    assert "keeps no verdicts" in line


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nonsense", "missing port"),
        ("no-scheme://127.0.0.1:80", "unknown address scheme"),
    ],
)
def test_explain_bad_address(address, message):
    result = dask("explain", "--scheduler", address)
    assert result.exit_code == 1
    [line] = error_lines(result)
    assert address in line
    assert message in line


def test_explain_what_does_not_answer():
    """Such as the port of another program."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with config.set({"distributed.comm.timeouts.connect": "500ms"}):
            result = dask("explain", "--scheduler", address)
    assert result.exit_code == 1
    [line] = error_lines(result)
    assert f"{address}: " in line
    assert "500ms" in line


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        bytes(1000),
        b"\xff" * 1000,
        # A message of one frame that cannot be read
        (21).to_bytes(8, "little")
        + (1).to_bytes(8, "little")
        + (5).to_bytes(8, "little")
        + b"\xc1" * 5,
        # A message of one frame that is no dictionary
        (17).to_bytes(8, "little")
        + (1).to_bytes(8, "little")
        + (1).to_bytes(8, "little")
        + b"\x01",
    ],
    ids=["http", "zeros", "ones", "unreadable", "number"],
)
def test_explain_what_sends_garbage(garbage):
    """It is told in a line what is wrong, and nothing of where that was found out."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.sendall(garbage)
                        # Until the other side has had enough
                        while connection.recv(1000):
                            pass

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        # In a process of its own: what it logs is not that of the tests
        result = subprocess.run(
            [*DASK_ROOTISH, "explain", "--scheduler", address],
            env={**os.environ, "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "2s"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert result.returncode == 1
    assert not result.stdout
    [line] = result.stderr.splitlines()
    assert line.startswith(f"Error: {address}: ")


@pytest.mark.parametrize(
    "answer",
    [
        ["a list"],
        "text",
        {"groups": []},
        {"groups": 5, "policy": "", "nthreads": 1, "slots": 1, "queued": 0},
        {"groups": [{}], "policy": "", "nthreads": 1, "slots": 1, "queued": 0},
    ],
)
@gen_cluster(nthreads=[])
async def test_explain_what_is_no_verdict(s, answer):
    """Such as that of a version that has others."""
    s.handlers["rootish"] = lambda: answer
    result = await ask(s)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    [line] = result.stderr.splitlines()
    assert line.startswith(f"Error: {s.address}: no answer of a scheduler (TypeError: ")


@gen_cluster(client=True, nthreads=[("", 1)], config=SATURATION)
async def test_explain_scheduler_of_another_version(c, s, a):
    """What it does not say is left out, and what it says beyond that."""
    await wait(c.map(inc, range(20)))
    status = s.extensions["rootish"].status().to_dict()
    del status["computations"]
    status["news"] = status["groups"][0]["news"] = 1
    s.handlers["rootish"] = lambda: status
    result = await ask(s)
    assert result.exit_code == 0, result.output
    assert "1 groups, 1 of them root-ish" in result.stdout


@gen_cluster(client=True, nthreads=[("", 1)], config=SATURATION)
async def test_explain_scheduler_afterwards(c, s, a):
    await c.gather(c.map(inc, range(20)))
    await async_poll_for(lambda: not s.task_groups, timeout=10)
    result = await ask(s)
    assert result.exit_code == 0, result.output
    assert "0 groups" in result.stdout
    assert "20 tasks" in result.stdout
    assert "It brings in far more than it frees" in result.stdout
    result = await ask(s, "--json")
    [past] = json.loads(result.stdout)["computations"]
    assert past["tasks"] == 20


@gen_cluster(client=True, nthreads=[("", 1)], config=SATURATION)
async def test_explain_scheduler_unfolded(c, s, a):
    names = [f"read-{n:032x}" for n in range(30)]
    futures = [c.submit(inc, n, key=(name, 0)) for n, name in enumerate(names)]
    await wait(futures)
    result = await ask(s)
    # The first few were judged before the others were there
    assert re.search(r"^read \(2\d groups\) ", result.stdout, re.MULTILINE)
    assert names[-1][-6:] not in result.stdout
    result = await ask(s, "--unfold")
    for name in names:
        assert name[-6:] in result.stdout


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_any_name_can_be_printed(encoding):
    """Whatever a user calls it, and wherever it is printed to."""
    code = (
        "import sys\n"
        "from distributed.cli.dask_rootish import _print\n"
        "_print('\\ud800 \\u044f')\n"
    )
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    output = subprocess.check_output([sys.executable, "-c", code], env=env)
    assert b"\\ud800" in output


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["module:x", "--scheduler", "tcp://127.0.0.1:8786"],
        ["--scheduler", "tcp://127.0.0.1:8786", "--nworkers", "2"],
        ["--scheduler", "tcp://127.0.0.1:8786", "--nthreads", "2"],
    ],
)
def test_explain_one_of_two(options):
    result = dask("explain", *options)
    assert result.exit_code == 2
    [line] = error_lines(result)
    assert "--" in line
