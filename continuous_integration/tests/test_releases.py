"""Other releases as the base: ``rebase``, ``accept`` and ``drop``."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from continuous_integration.fork import __main__, releases
from continuous_integration.fork.base import storage
from continuous_integration.fork.project import (
    DIVERGENCE,
    read_divergence,
    read_project,
)
from continuous_integration.tests.conftest import ROOT

MODULE = "distributed/core.py"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project that relies on a function of its base, 1.0."""
    root = tmp_path / "project"
    (root / DIVERGENCE).parent.mkdir(parents=True)
    (root / "pyproject.toml").write_text(
        'build-system.requires = ["hatchling>=1", "distributed==1.0"]\n\n'
        '[tool.rootish]\nrelease = 1\nbases = ["0.9", "1.0"]\nentry-points = {}\n'
    )
    declared = {MODULE: {"f": {"how": "relies-on", "why": "a test"}}}
    (root / DIVERGENCE).write_text(json.dumps(declared))
    monkeypatch.setattr(__main__, "ROOT", root)
    for version in ("0.9", "1.0"):
        keep(root, version, "1")
    run("accept", "--yes")
    return root


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of wheels that is all that pip can find."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", str(folder / "none"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def keep(root: Path, version: str, result: str) -> None:
    """Put a release among the copies that the project keeps."""
    for path, text in files(result).items():
        target = storage(root, version) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


def publish(index: Path, version: str, result: str) -> None:
    """Put the wheel of a release into the index."""
    info = f"distributed-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: distributed\nVersion: {version}\n"
    tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    name = f"distributed-{version}-py3-none-any.whl"
    with zipfile.ZipFile(index / name, "w") as archive:
        for path, text in files(result).items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", tag)
        archive.writestr(f"{info}/RECORD", "")


def files(result: str) -> dict[str, str]:
    return {"distributed/__init__.py": "", MODULE: f"def f():\n    return {result}\n"}


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(__main__.main, arguments)
    assert result.exit_code == code, result.output
    return result.output


def fingerprints(root: Path) -> list[str]:
    content: Any = json.loads((root / DIVERGENCE).read_text())
    found: list[str] = content[MODULE]["f"]["base"]
    return found


def test_rebase(root: Path, index: Path) -> None:
    before = (root / "pyproject.toml").read_text()
    publish(index, "0.10", "1")
    text = run("rebase", "0.10")
    assert text == (
        "pyproject.toml names distributed 0.10 as the base\n"
        "The fork can be made from it: run `pip install -e .`\n"
    )
    project = read_project(root)
    assert project.base == "0.10"
    assert project.bases == ("0.9", "0.10", "1.0")
    assert run("diff", "--stat").startswith("distributed 0.10+rootish.1 against")
    # And back, without the index
    (index / "distributed-0.10-py3-none-any.whl").unlink()
    run("rebase", "1.0")
    after = (root / "pyproject.toml").read_text()
    assert after == before.replace('"0.9", ', '"0.9", "0.10", ')
    run("rebase", "0.10")


def test_release(root: Path) -> None:
    before = (root / "pyproject.toml").read_text()
    assert run("release") == "pyproject.toml makes this 1.0+rootish.2\n"
    after = (root / "pyproject.toml").read_text()
    assert after == before.replace("release = 1\n", "release = 2\n")
    assert read_project(root).version == "1.0+rootish.2"


def test_rebase_on_a_changed_definition(root: Path, index: Path) -> None:
    publish(index, "1.1", "1")
    publish(index, "1.2", "2")
    text = run("rebase", "newest", code=1)
    assert text.startswith("pyproject.toml names distributed 1.2 as the base\n")
    assert f"\n{MODULE}: f was not reviewed as it is\n" in text
    assert text.endswith("see `python -m continuous_integration.fork accept`\n")
    old = fingerprints(root)
    text = run("accept", "--yes")
    assert f"--- {MODULE} of 1.0\n+++ {MODULE} of 1.2\n" in text
    assert "\n-    return 1\n+    return 2\n" in text
    assert len(old) == 1
    assert len(fingerprints(root)) == 2
    assert fingerprints(root)[0] == old[0]
    # One tree for all of them
    for version in ("0.9", "1.0", "1.1", "1.2"):
        run("rebase", version)
        run("diff")


def test_drop(root: Path, index: Path) -> None:
    publish(index, "1.1", "2")
    run("rebase", "1.1", code=1)
    run("accept", "--yes")
    assert "Left: 1.0, 1.1; 0 fingerprints removed" in run("drop", "0.9")
    assert len(fingerprints(root)) == 2
    assert "Left: 1.1; 1 fingerprints removed" in run("drop", "1.0")
    assert len(fingerprints(root)) == 1
    assert read_project(root).bases == ("1.1",)
    run("diff")
    assert "1.1 is the base; `rebase` to another" in run("drop", "1.1", code=2)
    assert "1.0 is not among 1.1" in run("drop", "1.0", code=2)


def test_definition_that_is_gone(root: Path) -> None:
    keep(root, "1.1", "1")
    (storage(root, "1.1") / MODULE).write_text("")
    text = run("rebase", "1.1", code=1)
    assert f"\n{MODULE}: the base has no f, which " in text
    (storage(root, "1.1") / MODULE).unlink()
    assert f"\n{MODULE}: the base has no such file; " in run("rebase", "1.1", code=1)


@pytest.mark.parametrize("version", ["1.*", "2", "1.0+rootish.1", ">1.0", "latest"])
def test_what_is_not_the_number_of_a_release(root: Path, version: str) -> None:
    before = (root / "pyproject.toml").read_text()
    assert f"'{version}' is not the number of" in run("rebase", version, code=2)
    assert (root / "pyproject.toml").read_text() == before


def test_release_that_does_not_exist(root: Path, index: Path) -> None:
    before = (root / "pyproject.toml").read_text()
    text = run("rebase", "1.5", code=1)
    assert text.startswith("Error: `python")
    assert "No matching distribution found for distributed==1.5" in text
    assert text.count("\n") == 1
    publish(index, "1.5+rootish.1", "1")
    assert "pip offers distributed 1.5+rootish.1, a fork" in run(
        "rebase", "1.5", code=1
    )
    assert (root / "pyproject.toml").read_text() == before


def test_project_that_names_it_otherwise(root: Path) -> None:
    path = root / "pyproject.toml"
    text = path.read_text().replace("distributed==1.0", "distributed == 1.0")
    path.write_text(text)
    assert "must have one `distributed==VERSION`" in run("rebase", "0.9", code=1)
    assert path.read_text() == text


#: Stands in for GitHub's command line: keeps the issues in the file that it is given
GH = """
import json, sys
store, _, command, *arguments = sys.argv[1:]
with open(store) as file:
    issues = json.load(file)
options = dict(zip(arguments[-4::2], arguments[-3::2]))
if command == "list":
    # Like the real one, it finds titles that are similar
    print(json.dumps([{k: i[k] for k in ("number", "title")} for i in issues]))
else:
    if command == "create":
        issues.append({"number": len(issues) + 1})
    number = int(arguments[0]) if command == "edit" else len(issues)
    issues[number - 1].update(title=options["--title"], body=sys.stdin.read())
    with open(store, "w") as file:
        json.dump(issues, file)
    print(f"issues/{number}")
"""


def test_issue(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "issues.json"
    store.write_text("[]")
    gh = (sys.executable, "-c", GH, str(store))
    monkeypatch.setattr(releases, "GH", gh)
    keep(root, "1.1", "2")
    keep(root, "1.2", "3")
    run("rebase", "1.0", "--issue")
    assert json.loads(store.read_text()) == []
    for version, number in (("1.1", 1), ("1.2", 2), ("1.1", 1), ("1.2", 2)):
        text = run("rebase", version, "--issue", code=1)
        assert f"\nissues/{number}\nError: " in text
    issues = json.loads(store.read_text())
    assert [issue["title"] for issue in issues] == [
        "The fork cannot be made from distributed 1.1",
        "The fork cannot be made from distributed 1.2",
    ]
    assert issues[0]["body"].startswith(f"- {MODULE}: f was not reviewed as it is\n\n")
    assert "continuous_integration.fork rebase 1.1\n" in issues[0]["body"]
    store.unlink()
    text = run("rebase", "1.1", "--issue", code=1)
    assert f"\n{MODULE}: f was not reviewed" in text
    assert "failed: FileNotFoundError: " in text.splitlines()[-1]
    monkeypatch.setattr(releases, "GH", (str(tmp_path / "gh"),))
    text = run("rebase", "1.1", "--issue", code=1).splitlines()[-1]
    assert text.startswith(f"Error: {tmp_path / 'gh'} cannot be run: ")


def test_every_base(tmp_path: Path) -> None:
    """Each can be merged; test_install.py builds and runs them."""
    versions = read_project(ROOT).bases
    bases = [releases.download(version, tmp_path) for version in versions]
    for base in bases:
        assert list(releases.problems(ROOT, base)) == []
    # And nothing is recorded that none of them has
    assert releases.forget(read_divergence(ROOT), bases) == 0
