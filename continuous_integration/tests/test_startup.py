"""The start-up of an editable install, on a small project with a small base."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from continuous_integration.fork.startup import ForkFinder
from continuous_integration.fork.tree import KEPT_TIME, KEPT_TREES
from continuous_integration.tests.conftest import ROOT

FORK = "continuous_integration/fork"
TAG = sys.implementation.cache_tag


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a project whose fork of distributed has two modules."""
    root = tmp_path / "project"
    shutil.copytree(ROOT / FORK, root / FORK)
    (root / "continuous_integration/__init__.py").touch()
    (root / "pyproject.toml").write_text(
        'build-system.requires = ["distributed==1.0"]\n'
        "[tool.rootish]\nrelease = 1\nbases = []\nentry-points = {}\n"
    )
    divergence = {"distributed/core.py": {"f": {"how": "adds", "why": "a test"}}}
    (root / FORK / "divergence.json").write_text(json.dumps(divergence))
    base = root / "build/distributed-1.0/distributed"
    base.mkdir(parents=True)
    (base / "__init__.py").write_text("from distributed.core import f\n")
    (base / "core.py").write_text("x = 1\n")
    (base / "_version.py").write_text("__commit_id__ = commit_id = 'g123'\n")
    (root / "distributed").mkdir()
    write(root, 1)
    return root


def write(root: Path, result: int) -> None:
    """Write the partial module."""
    text = f'"""Partial."""\n\n\ndef f():\n    return {result}\n'
    (root / "distributed/core.py").write_text(text)


def finder(root: Path) -> ForkFinder:
    return ForkFinder(str(root), "1.0", "1.0+rootish.1")


def start(root: Path, code: str) -> subprocess.Popen[str]:
    """Run code in a Python that starts as in an editable install."""
    # In this environment, there is an editable install of the real thing
    prelude = (
        f"import sys; sys.path.insert(0, {str(root / FORK)!r}); import startup;"
        f"startup.install({str(root)!r}, '1.0', '1.0+rootish.1');"
        "del sys.path[0];"
    )
    return subprocess.Popen(
        [sys.executable, "-c", prelude + code],
        cwd=root,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTHON")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(process: subprocess.Popen[str]) -> str:
    """Return what a process prints."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out.strip()


def error(process: subprocess.Popen[str]) -> str:
    """Return the last line of the traceback that a process ends with."""
    _, err = process.communicate()
    assert process.returncode == 1
    return err.splitlines()[-1]


RESULT = "import distributed; print(distributed.f())"


def test_edits_take_effect(root: Path) -> None:
    assert output(start(root, RESULT)) == "1"
    write(root, 23)
    assert output(start(root, RESULT)) == "23"
    (root / "distributed/extra.py").write_text("y = 45\n")
    assert output(start(root, "import distributed.extra as e; print(e.y)")) == "45"
    (root / "distributed/extra.py").unlink()
    last = error(start(root, "import distributed.extra"))
    assert last == "ModuleNotFoundError: No module named 'distributed.extra'"
    base = (root / "build/distributed-1.0/distributed/core.py").read_text()
    assert base == "x = 1\n"


def test_version(root: Path) -> None:
    code = (
        "import distributed._version as v;"
        "print(v.__version__, v.version_tuple, v.commit_id)"
    )
    assert output(start(root, code)) == "1.0+rootish.1 (1, 0, 'rootish.1') g123"


def test_nothing_is_done_when_nothing_changed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = finder(root).tree()

    def fail(self: ForkFinder, folder: str) -> str:
        raise AssertionError("merged again")

    monkeypatch.setattr(ForkFinder, "merge", fail)
    assert finder(root).tree() == tree
    write(root, 2)
    with pytest.raises(AssertionError, match="merged again"):
        finder(root).tree()


def test_start_counts_as_use_of_a_tree(root: Path) -> None:
    tree = finder(root).tree()
    os.utime(tree, (1, 1))
    output(start(root, RESULT))
    assert os.path.getmtime(tree) > 1


def test_same_content_gives_the_same_tree(root: Path) -> None:
    first = finder(root).tree()
    write(root, 2)
    second = finder(root).tree()
    assert second != first
    write(root, 1)
    assert finder(root).tree() == first


def test_modules_that_did_not_change_are_not_compiled_again(root: Path) -> None:
    (root / "distributed/extra.py").write_text("y = 1\n")
    code = "import distributed.extra as e, distributed.core as c; print(e.__file__)"
    first = Path(output(start(root, code)))
    write(root, 2)
    second = Path(output(start(root, code)))
    assert second != first
    # One of the base, one of ours
    for name in ("__init__", "extra"):
        for path in (f"{name}.py", f"__pycache__/{name}.{TAG}.pyc"):
            times = [(f.parent / path).stat().st_mtime_ns for f in (first, second)]
            assert times[0] == times[1], path
    path = f"__pycache__/core.{TAG}.pyc"
    assert (first.parent / path).read_bytes() != (second.parent / path).read_bytes()


def test_processes_that_start_at_once(root: Path) -> None:
    processes = [start(root, RESULT) for _ in range(6)]
    assert {output(process) for process in processes} == {"1"}
    assert len([p for p in (root / "build/merged").iterdir() if p.is_dir()]) == 1


def test_incomplete_trees_of_other_processes_are_left_alone(root: Path) -> None:
    write(root, 2)
    incomplete = root / "build/merged/.incomplete/distributed"
    incomplete.mkdir(parents=True)
    # Newer than all others, so that files would be taken over from it
    (incomplete / "__init__.py").write_text("from distributed.core import f\n")
    os.utime(incomplete / "__init__.py", (1, 1))
    os.utime(incomplete.parent, (2**31, 2**31))
    tree = Path(finder(root).tree())
    assert (tree / "distributed/__init__.py").stat().st_mtime != 1
    os.utime(incomplete.parent, (1, 1))
    for number in range(100, 101 + KEPT_TREES):
        write(root, number)
        finder(root).tree()
    assert incomplete.is_dir()


def test_stale_trees_are_removed(root: Path) -> None:
    trees = []
    for number in range(KEPT_TREES + 2):
        write(root, number)
        trees.append(Path(finder(root).tree()))
        os.utime(trees[-1], (number, number))
    assert [tree.is_dir() for tree in trees] == [False] * 2 + [True] * KEPT_TREES
    # What was used a moment ago may be in use
    trees = trees[2:]
    os.utime(trees[0])
    for number in range(100, 100 + KEPT_TREES):
        write(root, number)
        finder(root).tree()
    assert trees[0].is_dir()
    assert not trees[1].is_dir()
    assert KEPT_TIME > 60


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("distributed/core.py", '"""P."""\ndef f(:\n', "line 2: does not parse"),
        ("distributed/core.py", '"""P."""\ng = 1\n', "g is not declared"),
        (f"{FORK}/divergence.json", "{", "cannot be read"),
        (f"{FORK}/merge.py", "def f(:\n", "SyntaxError"),
        ("pyproject.toml", "[", "pyproject.toml cannot be read"),
        (
            "pyproject.toml",
            'build-system.requires = ["distributed==1.1"]\n'
            "[tool.rootish]\nrelease = 1\nbases = []\nentry-points = {}\n",
            "says distributed 1.1+rootish.1, but 1.0+rootish.1 is installed; run `pip",
        ),
    ],
)
def test_what_cannot_be_merged(root: Path, path: str, text: str, message: str) -> None:
    (root / path).write_text(text)
    last = error(start(root, RESULT))
    expected = f"ImportError: the editable install of distributed in {root}"
    assert last.startswith(expected)
    assert message in last
    # Whoever does not import distributed notices nothing
    assert output(start(root, "import json; print(1)")) == "1"
    # It is not looked up elsewhere instead, and nothing is left behind
    code = f"""
try:
    {RESULT}
except ImportError:
    import sys
    print([n for n in sys.modules if n.startswith(("distributed", "continuous"))])
    print({str(root)!r} in sys.path)
"""
    assert output(start(root, f"exec({code!r})")) == "[]\nFalse"


def test_project_that_is_gone(root: Path) -> None:
    code = f"import shutil; shutil.rmtree({str(root)!r}); {RESULT}"
    last = error(start(root, code))
    assert last.startswith("ImportError: distributed was installed with `pip inst")
    assert "which is gone; install it again" in last


def test_copy_of_the_base_that_is_gone(root: Path) -> None:
    shutil.rmtree(root / "build")
    last = error(start(root, RESULT))
    assert "the copy of the base, is gone; run `pip install -e .` again" in last


def test_only_distributed_is_found(root: Path) -> None:
    assert finder(root).find_spec("json") is None
    assert finder(root).find_spec("distributed_other") is None
    assert not (root / "build/merged").exists()


def test_the_module_of_the_same_name_is_left_alone(root: Path) -> None:
    code = (
        "import sys, types; m = sys.modules['continuous_integration'] = "
        "types.ModuleType('continuous_integration'); import distributed;"
        "print(sys.modules['continuous_integration'] is m)"
    )
    assert output(start(root, code)) == "True"


def test_start_imports_little(root: Path) -> None:
    code = (
        f"import sys; sys.path.append({str(root / FORK)!r});"
        "before = set(sys.modules); import startup;"
        "startup.install('/nowhere', '1.0', '1.0+rootish.1');"
        "print(*sorted(set(sys.modules) - before))"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert set(result.stdout.split()) <= {"__future__", "startup"}
