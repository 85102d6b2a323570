"""Installs as users do them, with pip, into an environment of their own.

The tests build on one another, in this order: an environment takes a while to fill.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from continuous_integration.fork import releases
from continuous_integration.fork.project import Project, read_project
from continuous_integration.tests.conftest import ROOT, Dist, Environment, run

WHERE = """
import distributed, importlib.metadata
assert importlib.metadata.version("distributed") == distributed.__version__
print(distributed.__version__, distributed.__file__)
"""

#: Runs a task on a cluster of processes, and prints what they import
CLUSTER = """
from distributed import Client, LocalCluster

def where():
    import distributed
    return distributed.__file__

if __name__ == "__main__":
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        print(cluster.scheduler.rootish_policy is not None)
        print({where(), *client.run(where).values()} == {where()})
"""

#: Prints which tasks the scheduler held back under each policy, checking its own state
POLICIES = """
import dask
from dask._task_spec import Task, TaskRef
from dask.utils import key_split
from distributed import Client, LocalCluster
from distributed.diagnostics.plugin import SchedulerPlugin

def handle(i):
    return i

def read(i, j):
    return bytes(2**20)

def combine(*chunks):
    return len(chunks)

def graph():
    for i in range(8):
        yield Task(("handle", i), handle, i)
        for j in range(8):
            for name, mark in (("plain", False), ("marked", True)):
                key = (f"read-{name}", i, j)
                source = TaskRef(("handle", i))
                yield Task(key, read, source, j, _data_producer=mark)
                yield Task((f"sum-{name}", i, j), combine, TaskRef(key))

class Queued(SchedulerPlugin):
    def __init__(self):
        self.found = set()
    def transition(self, key, start, finish, *args, **kwargs):
        if finish == "queued":
            self.found.add(key_split(key))

def queued(policy):
    settings = {
        "distributed.scheduler.rootish-policy": policy,
        "distributed.scheduler.validate": True,
    }
    plugin = Queued()
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": False}
    with (
        dask.config.set(settings),
        LocalCluster(**options, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        assert cluster.scheduler.validate
        cluster.scheduler.add_plugin(plugin)
        tasks = {task.key: task for task in graph()}
        keys = [key for key in tasks if key[0].startswith("sum-")]
        assert client.get(tasks, keys) == [1] * len(keys)
    return sorted(plugin.found)

for policy in ("producers", "marked", "heuristic"):
    print(policy, *queued(policy))
"""

#: Opened handles are eight, so counting them does not help; only some reads are marked
HELD_BACK = [
    "producers handle read-marked read-plain",
    "marked handle read-marked",
    "heuristic handle",
]


def check(environment: Environment, project: Project) -> Path:
    """Check that the fork is installed, all of it, and return where it is."""
    version, path = environment.run(WHERE).split(" ", 1)
    assert version == project.version
    assert "No broken requirements" in environment.pip("check")
    scheduler = Path(path).with_name("scheduler.py").read_text(encoding="utf-8")
    assert "_is_rootish_marked" in scheduler
    assert Path(path).with_name("client.py").exists()
    return Path(path)


def test_folder(environment: Environment, checkout: Path, project: Project) -> None:
    environment.pip("install", "--quiet", checkout)
    path = check(environment, project)
    assert path.is_relative_to(environment.python.parents[1])


def test_cluster(environment: Environment, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(CLUSTER)
    assert run(environment.python, script).split() == ["True", "True"]


def test_policies(environment: Environment) -> None:
    assert environment.run(POLICIES).splitlines() == HELD_BACK


def test_dask_keeps_the_fork(environment: Environment, project: Project) -> None:
    environment.pip("install", "--quiet", "dask[distributed]")
    check(environment, project)


def test_git(environment: Environment, checkout: Path, project: Project) -> None:
    environment.pip("uninstall", "--quiet", "--yes", "distributed")
    environment.pip("install", "--quiet", f"git+{checkout.as_uri()}")
    check(environment, project)
    assert "checkout" in environment.run(
        "import importlib.metadata as m;"
        "print(m.distribution('distributed').read_text('direct_url.json'))"
    )


def test_wheel(environment: Environment, dist: Dist, project: Project) -> None:
    environment.pip("install", "--quiet", "--force-reinstall", "--no-deps", dist.wheel)
    check(environment, project)


def test_editable(environment: Environment, checkout: Path, project: Project) -> None:
    environment.pip("install", "--quiet", "--editable", checkout)
    path = check(environment, project)
    assert path.is_relative_to(checkout / "build" / "merged")
    # A folder `distributed` without `__init__.py` is in the current one
    code = "import distributed; print(distributed.__file__)"
    assert run(environment.python, "-c", code, cwd=checkout).strip() == str(path)
    environment.pip("install", "--quiet", "dask[distributed]")
    assert check(environment, project) == path


def test_editable_cluster(environment: Environment, tmp_path: Path) -> None:
    test_cluster(environment, tmp_path)


def test_editable_edit_of_a_partial_module(
    environment: Environment, checkout: Path, project: Project
) -> None:
    module = checkout / "distributed" / "scheduler.py"
    before = module.read_text(encoding="utf-8")
    old = '"""Whether ``ts`` is held back'
    assert before.count(old) == 1
    module.write_text(before.replace(old, '"""EDITED'), encoding="utf-8")
    code = (
        "from distributed.scheduler import SchedulerState as S;"
        "import inspect; print(S.is_rootish.__doc__, inspect.getsource(S.is_rootish))"
    )
    try:
        assert environment.run(code).count("EDITED") == 2
        module.write_text(before + "\ndef broken(:\n", encoding="utf-8")
        message = environment.run("import distributed", 1).splitlines()[-1]
        assert message.startswith(
            "ImportError: the editable install of distributed in "
        )
        assert f"line {before.count(chr(10)) + 2}: does not parse" in message
        # Everything else in the environment goes on working
        assert "distributed" in environment.pip("list")
        assert environment.run("import dask; print(1)") == "1"
    finally:
        module.write_text(before, encoding="utf-8")
    check(environment, project)


def test_commands_in_an_editable_install(
    environment: Environment, checkout: Path, project: Project
) -> None:
    # With the extra `test`, that is. Python 3.11 has it in its standard library.
    environment.pip("install", "--quiet", "tomli; python_version < '3.11'")
    command = (environment.python, "-m", "continuous_integration.fork", "diff")
    text = run(*command, cwd=checkout)
    assert text.startswith(f"distributed {project.version} against its base")
    assert "+++ b/distributed/scheduler.py" in text


def test_back_to_the_release(environment: Environment, project: Project) -> None:
    release = f"distributed=={project.base}"
    environment.pip("install", "--quiet", "--force-reinstall", "--no-deps", release)
    version, path = environment.run(WHERE).split(" ", 1)
    assert version == project.base
    assert "build" not in Path(path).parts


PROJECT = read_project(ROOT)


@pytest.mark.timeout(900)  # Installs twice, for the build and for good
@pytest.mark.parametrize("base", sorted({*PROJECT.bases} - {PROJECT.base}))
def test_other_base(base: str, checkout: Path, tmp_path: Path) -> None:
    """The same tree, on another release."""
    copy = tmp_path / "project"
    shutil.copytree(checkout, copy)
    rebase = (sys.executable, "-m", "continuous_integration.fork", "rebase", base)
    run(*rebase, cwd=copy)
    environment = Environment(tmp_path / "environment")
    environment.pip("install", "--quiet", copy)
    check(environment, read_project(copy))
    assert f"dask=={base}\n" in environment.pip("freeze")
    assert environment.run(POLICIES).splitlines() == HELD_BACK


def test_base_that_is_not_listed(checkout: Path, tmp_path: Path) -> None:
    """Its definitions may be those that were reviewed; nobody has tried it."""
    copy = tmp_path / "project"
    shutil.copytree(checkout, copy)
    releases.choose(copy, PROJECT.base, {*PROJECT.bases} - {PROJECT.base})
    text = run(sys.executable, "-m", "pip", "wheel", "--no-deps", copy, code=1)
    (message,) = (line for line in text.splitlines() if "distributed-rootish: " in line)
    assert f"{PROJECT.base} is not one of the bases" in message
    assert f"fork rebase {PROJECT.base}`" in message
    assert "Traceback" not in text


def test_fork_is_refused_as_its_own_base() -> None:
    # The fork is what is installed in the environment that the tests run in
    text = run(
        *(sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps"),
        ROOT,
        code=1,
    )
    (message,) = (line for line in text.splitlines() if "distributed-rootish: " in line)
    assert "is itself a fork; build with build isolation" in message
    assert "Traceback" not in text
