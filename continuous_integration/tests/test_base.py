"""Where the base is taken from, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from pathlib import Path

import pytest

from continuous_integration.fork import ForkError
from continuous_integration.fork.base import (
    available_base,
    folder_base,
    installed_base,
    storage,
    store,
    store_licence,
)
from continuous_integration.fork.project import (
    DIVERGENCE,
    Project,
    our_files,
    read_divergence,
    read_project,
)
from continuous_integration.fork.tree import fork_files
from continuous_integration.tests.conftest import ROOT


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only folder where something can be installed."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(folder)])
    return folder


def install(site: Path, version: str) -> None:
    """Install something that looks like a release of distributed."""
    info = site / f"distributed-{version}.dist-info"
    files = {
        "distributed/__init__.py": "",
        "distributed/core.py": "x = 1\n",
        "distributed/__pycache__/core.cpython-310.pyc": "",
        f"{info.name}/METADATA": f"Metadata-Version: 2.4\nName: distributed\n"
        f"Version: {version}\n",
        f"{info.name}/licenses/LICENSE.txt": "Theirs\n",
    }
    record = [f"{info.name}/RECORD,,"]
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text, encoding="utf-8", newline="\n")
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
        record.append(f"{path},sha256={digest.decode().rstrip('=')},{len(text)}")
    (info / "RECORD").write_text("\n".join(record) + "\n")


def test_installed(site: Path, tmp_path: Path) -> None:
    install(site, "1.0")
    base = installed_base("1.0")
    assert base.paths == ("distributed/__init__.py", "distributed/core.py")
    assert base.text("distributed/core.py") == "x = 1\n"
    stored = store(base, tmp_path)
    assert stored.root == storage(tmp_path, "1.0")
    assert stored.paths == base.paths
    assert store(base, tmp_path) == stored
    assert (tmp_path / store_licence("1.0", tmp_path)).read_text() == "Theirs\n"
    assert stored == folder_base(stored.root, "1.0")
    assert available_base(Project(tmp_path, "1.0", "", {}, ())) == stored
    assert available_base(Project(tmp_path / "other", "1.0", "", {}, ())) == base


def test_not_installed(site: Path) -> None:
    with pytest.raises(ForkError, match=r"not installed .* install distributed==1\.0"):
        installed_base("1.0")


def test_other_version(site: Path) -> None:
    install(site, "1.1")
    with pytest.raises(ForkError, match=r"has distributed 1\.1 but the base is 1\.0"):
        installed_base("1.0")


def test_fork(site: Path) -> None:
    install(site, "1.0+other.1")
    with pytest.raises(ForkError, match=r"1\.0\+other\.1 .* is itself a fork"):
        installed_base("1.0")


def test_edited(site: Path) -> None:
    install(site, "1.0")
    (site / "distributed" / "core.py").write_text("x = 2\n")
    with pytest.raises(ForkError, match=r"distributed/core\.py was edited"):
        installed_base("1.0")


def test_editable_release(site: Path) -> None:
    install(site, "1.0")
    (site / "distributed-1.0.dist-info" / "RECORD").write_text("")
    with pytest.raises(ForkError, match="is an editable install"):
        installed_base("1.0")


def test_no_base_at_hand(site: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ForkError, match=r"no copy of distributed 1\.0 at hand: run `pip"
    ):
        available_base(Project(tmp_path, "1.0", "1.0+rootish.1", {}, ()))


def test_folder_without_base(tmp_path: Path) -> None:
    with pytest.raises(ForkError, match="it is not a base"):
        folder_base(tmp_path, "1.0")


def test_errors_are_one_line(site: Path) -> None:
    for version in ("1.0+a", "1.1"):
        install(site, version)
        with pytest.raises(ForkError) as info:
            installed_base("1.0")
        assert "\n" not in str(info.value)


def write_project(root: Path, requires: list[str]) -> None:
    (root / "pyproject.toml").write_text(
        f"build-system.requires = {json.dumps(requires)}\n"
        "[tool.rootish]\nrelease = 7\nbases = ['0.10', '0.9']\n"
        "entry-points.x.y = 'z'\n"
    )


def test_project(tmp_path: Path) -> None:
    write_project(tmp_path, ["hatchling>=1", "distributed == 1.0"])
    project = read_project(tmp_path)
    bases = ("0.9", "0.10")
    entry_points = {"x": {"y": "z"}}
    assert project == Project(tmp_path, "1.0", "1.0+rootish.7", entry_points, bases)


def test_base_must_be_listed(tmp_path: Path) -> None:
    write_project(tmp_path, ["distributed==0.10"])
    read_project(tmp_path).check_base()
    write_project(tmp_path, ["distributed==1.0"])
    with pytest.raises(ForkError, match=r"1\.0 is not one of .* lists: 0\.9, 0\.10;"):
        read_project(tmp_path).check_base()


@pytest.mark.parametrize(
    "requires", [[], ["distributed>=1.0"], ["distributed"], ["distributed==1,>0.1"]]
)
def test_base_must_be_named(tmp_path: Path, requires: list[str]) -> None:
    write_project(tmp_path, requires)
    with pytest.raises(ForkError, match="must name the base in one line `dist"):
        read_project(tmp_path)


def test_base_is_named_once(project: Project) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert text.count(f"distributed=={project.base}") == 1
    # Beside that, only where all that it can be are listed
    assert text.count(project.base) == 2


def write_divergence(root: Path, content: object) -> None:
    (root / DIVERGENCE).parent.mkdir(parents=True)
    (root / DIVERGENCE).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"why": "x"}, "`how` must be one of replaces, extends"),
        ({"how": "removes", "why": "x"}, "`how` must be one of replaces, extends"),
        ({"how": "adds"}, "`why` is missing"),
        ({"how": "adds", "why": "x", "whom": "y"}, "unknown: whom"),
        ({"how": "extends", "why": "x", "base": "y"}, "`base` must be a list of"),
        ({"how": "adds", "why": "x", "keeps": "y"}, "`keeps` means nothing for `adds`"),
        ({"how": "extends", "why": "x", "after": "y"}, "`after` means nothing for"),
    ],
)
def test_divergence_is_checked(
    tmp_path: Path, entry: dict[str, str], message: str
) -> None:
    write_divergence(tmp_path, {"distributed/x.py": {"f": entry}})
    with pytest.raises(ForkError, match=f"distributed/x.py: f: {message}"):
        read_divergence(tmp_path)


def test_divergence_that_does_not_parse(tmp_path: Path) -> None:
    write_divergence(tmp_path, {})
    (tmp_path / DIVERGENCE).write_text("{")
    with pytest.raises(ForkError, match=f"{DIVERGENCE} cannot be read"):
        read_divergence(tmp_path)


@pytest.mark.parametrize(
    ("files", "divergence", "message"),
    [
        (
            {"new.py": "def f(:\n"},
            {},
            r"distributed/new\.py, line 1: does not parse",
        ),
        (
            {"new.py": ""},
            {"distributed/new.py": {"f": {"how": "adds", "why": "x"}}},
            r"new\.py: the base has no such file, so nothing is to be declared",
        ),
        (
            {},
            {"distributed/core.py": {"f": {"how": "adds", "why": "x"}}},
            r"distributed/core\.py: this project has no such file",
        ),
        (
            {},
            {"distributed/gone.py": {"f": {"how": "relies-on", "why": "x"}}},
            r"distributed/gone\.py: the base has no such file",
        ),
        (
            {},
            {"distributed/core.py": {"f": {"how": "relies-on", "why": "x"}}},
            r"distributed/core\.py: the base has no f",
        ),
        (
            {},
            {"distributed/core.py": {"x": {"how": "relies-on", "why": "x"}}},
            r"distributed/core\.py: the base's x changed since",
        ),
        (
            {"core.py": '"""Partial."""\ny = 1\n'},
            {},
            r"distributed/core\.py, line 2: y is not declared",
        ),
        ({"page.html": ""}, {}, r"page\.html: the base has such a file"),
    ],
)
def test_files_that_do_not_fit(
    tmp_path: Path, files: dict[str, str], divergence: object, message: str
) -> None:
    for folder in ("ours", "base"):
        (tmp_path / folder / "distributed").mkdir(parents=True)
    for name in ("__init__.py", "core.py", "page.html"):
        (tmp_path / "base" / "distributed" / name).write_text("x = 1\n")
    for name, text in files.items():
        (tmp_path / "ours" / "distributed" / name).write_text(text)
    write_divergence(tmp_path / "ours", divergence)
    with pytest.raises(ForkError, match=message) as info:
        fork_files(tmp_path / "ours", folder_base(tmp_path / "base", "1.0"))
    assert "\n" not in str(info.value)


def test_what_is_not_ours(tmp_path: Path) -> None:
    for path in (
        *("a.py", "b/c.txt", "tests/d.py", "b/tests/e.py", "__pycache__/f.pyc"),
        *(".g.swp", "h.py~", "#i#", "j.py.orig", "b/.hidden/k.py"),
    ):
        file = tmp_path / "distributed" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    found = [path for path, _ in our_files(tmp_path)]
    assert found == ["distributed/a.py", "distributed/b/c.txt"]
