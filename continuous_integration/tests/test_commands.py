"""``python -m continuous_integration.fork``, on this project and its base."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from continuous_integration.fork import __main__, report
from continuous_integration.fork.base import Base, folder_base, store
from continuous_integration.fork.project import DIVERGENCE, Project, our_files
from continuous_integration.fork.tree import VERSION_FILE, fork_files
from continuous_integration.tests.conftest import ROOT

SCHEDULER = "distributed/scheduler.py"


def run(*arguments: str, code: int = 0, answers: str = "") -> str:
    result: Result = CliRunner().invoke(__main__.main, arguments, input=answers)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def copy(
    tmp_path: Path, base: Base, project: Project, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Return a copy of this project for a command to change."""
    root = tmp_path / "project"
    ignore = shutil.ignore_patterns("__pycache__", "tests", "benchmarks")
    for folder in ("distributed", "continuous_integration"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", root)
    store(base, root)
    monkeypatch.setattr(__main__, "ROOT", root)
    return root


def edit_base(copy: Path, project: Project, old: str, new: str) -> None:
    path = copy / "build" / f"distributed-{project.base}" / SCHEDULER
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8", newline="\n")


def test_diff_gives_the_fork(copy: Path, base: Base, tmp_path: Path) -> None:
    """The diff, applied to the base, gives the fork."""
    target = tmp_path / "target"
    shutil.copytree(base.root / "distributed", target / "distributed")
    patch = tmp_path / "patch"
    patch.write_text(run("diff") + "\n", encoding="utf-8", newline="\n")
    subprocess.run(["git", "init", "--quiet"], cwd=target, check=True)
    apply = ["git", "-c", "core.autocrlf=false", "apply", str(patch)]
    subprocess.run(apply, cwd=target, check=True)
    for path, content in fork_files(copy, base).items():
        assert (target / path).read_bytes() == content


def test_diff_counts(copy: Path) -> None:
    text = run("diff")
    head, _, body = text.partition("\n--- ")
    body = f"--- {body}"
    added = len(re.findall(r"^\+(?!\+\+ b/)", body, flags=re.MULTILINE))
    removed = len(re.findall(r"^-(?!-- (a/|/dev/null))", body, flags=re.MULTILINE))
    files = len(re.findall(r"^\+\+\+ b/", body, flags=re.MULTILINE))
    total = re.search(r"^total +(\d+) +(\d+) +(\d+)$", head, flags=re.MULTILINE)
    assert total is not None
    assert [int(n) for n in total.groups()] == [files, added, removed]
    assert files == len(list(our_files(copy)))
    divergence = json.loads((copy / DIVERGENCE).read_text(encoding="utf-8"))
    hows = [e["how"] for entries in divergence.values() for e in entries.values()]
    names = re.search(r"^names: (.*)$", head, flags=re.MULTILINE)
    assert names is not None
    assert names[1] == (
        f"{hows.count('replaces')} replaced, {hows.count('extends')} extended, "
        f"{hows.count('adds')} added, {hows.count('appends')} statements appended, "
        f"{hows.count('relies-on')} relied on"
    )
    assert run("diff", "--stat") == head.rstrip("\n") + "\n"


def test_counts_of_the_readme(copy: Path) -> None:
    """They are those that the command prints, and leave out no file of the base."""
    text = run("diff", "--stat")
    counts = report.current_counts(copy)
    table = [line.split()[-3:] for line in text.splitlines()[3:5]]
    added = sum(n for name, n in counts.items() if name.endswith(".added"))
    changed = sum(n for name, n in counts.items() if name.endswith(".changed"))
    assert table[0] == [str(counts["files"]), str(added), str(changed)]
    assert table[1][0] == str(counts["python"])
    plus_minus = f"+{counts['scheduler.added']} -{counts['scheduler.changed']}"
    assert f"  {SCHEDULER}: changed, {plus_minus}\n" in text
    section = text.partition(f"\n{SCHEDULER}\n")[2].partition("\n\n")[0]
    assert section.count("  replaces ") == counts["replaced"] > 0
    assert section.count("  extends ") == counts["extended"] > 0


# The nine of the design, one for inputs that cannot be sent, and two constructors that
# are extended
@pytest.mark.parametrize(
    ("decision", "definitions", "lines"), [(True, 9 + 1 + 2, 150 + 25), (False, 3, 140)]
)
def test_divergence_is_within_the_budget(
    base: Base, decision: bool, definitions: int, lines: int
) -> None:
    """The design allows nine definitions and 150 lines for decision and queue.

    What shows it, in other modules, has to do with much less.
    """

    def counts(path: str) -> bool:
        is_decision = path == "distributed/scheduler.py"
        return path.endswith(".py") and is_decision is decision

    divergence = json.loads((ROOT / DIVERGENCE).read_text(encoding="utf-8"))
    hows = [
        entry["how"]
        for path, entries in divergence.items()
        for entry in entries.values()
        if counts(path)
    ]
    assert hows.count("replaces") + hows.count("extends") <= definitions
    found = report.differences(base, fork_files(ROOT, base))
    changed = [d for d in found if counts(d.path) and not d.is_new]
    assert sum(d.added + d.removed for d in changed) <= lines


def test_merge_into_a_folder(copy: Path, base: Base, tmp_path: Path) -> None:
    run("merge", str(tmp_path / "target"))
    merged = fork_files(copy, base)
    for path in {*base.paths, *merged} - {VERSION_FILE}:
        content = merged.get(path) or base.read(path)
        assert (tmp_path / "target" / path).read_bytes() == content


def test_merge_into_a_checkout(copy: Path, base: Base, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(base.root / "distributed", checkout / "distributed")
    (copy / "distributed/tests").mkdir()
    (copy / "distributed/tests/test_ours.py").write_text("x = 1\n")
    run("merge", str(checkout))
    merged = folder_base(checkout, "merged")
    changed = {
        path
        for path in merged.paths
        if path not in base.paths or merged.read(path) != base.read(path)
    }
    expected = {*fork_files(copy, base), "distributed/tests/test_ours.py"}
    assert changed == expected
    # Once is enough
    assert "Error: " in run("merge", str(checkout), code=1)


def test_accept(copy: Path, base: Base, project: Project) -> None:
    assert run("accept") == "0 recorded\n"
    old = "        # Check explicitly marked data producer tasks\n"
    edit_base(copy, project, old, "        self.something_new()\n")
    for command in (("diff",), ("merge", str(copy / "x")), ("typecheck",)):
        text = run(*command, code=1)
        message = f"Error: {SCHEDULER}: the base's SchedulerState.is_rootish changed"
        assert text.startswith(message)
        assert "python -m continuous_integration.fork accept" in text
        assert text.count("\n") == 1
    options = ("accept", "--old", str(base.root))
    text = run(*options, answers="n\n")
    # The difference of the definition alone, a few lines of it
    assert "\n+        self.something_new()\n" in text
    assert "_transition_queued_processing" not in text
    assert f"--- {SCHEDULER} of {base.root}" in text
    assert text.endswith("0 recorded\n")
    assert run("diff", code=1)
    assert run(*options, "SchedulerState.__init__") == "0 recorded\n"
    before = json.loads((copy / DIVERGENCE).read_text(encoding="utf-8"))
    assert run(*options, answers="y\n").endswith("1 recorded\n")
    after = json.loads((copy / DIVERGENCE).read_text(encoding="utf-8"))
    # The base that was there before stays as good as this one
    new = after[SCHEDULER]["SchedulerState.is_rootish"]["base"].pop()
    assert before == after
    assert new not in before[SCHEDULER]["SchedulerState.is_rootish"]["base"]
    assert run("diff")
    assert run("diff", "--base", str(base.root))


def test_accept_compares_with_a_kept_base(copy: Path, project: Project) -> None:
    kept = copy / "build" / f"distributed-{project.base}"
    shutil.copytree(kept, kept.with_name("distributed-0.1"))
    edit_base(copy, project, "def is_rootish(self, ts:", "def is_rootish(self, t, ts:")
    text = run("accept", "--yes")
    assert f"--- {SCHEDULER} of 0.1\n+++ {SCHEDULER} of {project.base}" in text
    assert "-    def is_rootish(self, ts: TaskState) -> bool:" in text
    assert text.endswith("1 recorded\n")


def test_accept_a_name_that_is_new(copy: Path) -> None:
    path = copy / DIVERGENCE
    divergence = json.loads(path.read_text(encoding="utf-8"))
    divergence["distributed/core.py"] = {
        "Server.identity": {"how": "relies-on", "why": "x"}
    }
    path.write_text(json.dumps(divergence), encoding="utf-8")
    assert "the base's Server.identity changed" in run("diff", code=1)
    text = run("accept", "Server.identity", "--yes")
    assert text.startswith("distributed/core.py: Server.identity\n    def identity(")
    assert run("diff", "--stat")
    assert run("accept") == "0 recorded\n"
    assert "Server.walk is not declared" in run("accept", "Server.walk", code=2)


def test_added_lines(base: Base) -> None:
    found = report.differences(base, fork_files(ROOT, base))
    (scheduler,) = (d for d in found if d.path == SCHEDULER)
    lines = fork_files(ROOT, base)[SCHEDULER].decode().split("\n")
    added = [lines[number - 1] for number in sorted(scheduler.added_lines)]
    assert added == [line[1:] for line in scheduler.lines[2:] if line[0] == "+"]
    assert len(added) == scheduler.added > 10


def test_help_names_every_command() -> None:
    text = run("--help")
    for command in (
        *("accept", "diff", "drop", "merge"),
        *("rebase", "release", "typecheck"),
    ):
        assert f"\n  {command} " in text
