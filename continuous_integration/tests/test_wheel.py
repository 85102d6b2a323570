"""The wheel and the sdist, compared with the base and with this project."""

from __future__ import annotations

import base64
import csv
import email
import email.message
import hashlib
import io
import re
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

from continuous_integration.fork.base import Base
from continuous_integration.fork.project import Project, our_files
from continuous_integration.fork.tree import VERSION_FILE, fork_files
from continuous_integration.tests.conftest import Dist, run


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def info(files: dict[str, bytes], name: str) -> str:
    """Return a file of the folder ``.dist-info``."""
    (path,) = (
        p
        for p in files
        if p.partition("/")[0].endswith(".dist-info") and p.partition("/")[2] == name
    )
    return files[path].decode()


def metadata(files: dict[str, bytes]) -> email.message.Message:
    return email.message_from_string(info(files, "METADATA"))


def requirements(files: dict[str, bytes]) -> set[str]:
    """Return what is needed at run time, without any extra."""
    found = metadata(files).get_all("Requires-Dist", [])
    return {r.replace(" ", "") for r in found if "extra ==" not in r}


def entry_points(files: dict[str, bytes]) -> dict[str, dict[str, str]]:
    parser = ConfigParser()
    parser.read_string(info(files, "entry_points.txt"))
    return {group: dict(parser[group]) for group in parser.sections()}


@pytest.fixture(scope="module")
def ours(dist: Dist) -> dict[str, bytes]:
    return contents(dist.wheel)


@pytest.fixture(scope="module")
def theirs(base_wheel: Path) -> dict[str, bytes]:
    return contents(base_wheel)


def test_name_and_version(ours: dict[str, bytes], project: Project, dist: Dist) -> None:
    release, _, local = project.version.partition("+")
    assert release == project.base
    assert re.fullmatch(r"rootish\.\d+", local)
    fields = metadata(ours)
    assert fields["Name"] == "distributed"
    assert fields["Version"] == project.version
    assert dist.wheel.name == f"distributed-{project.version}-py3-none-any.whl"
    namespace: dict[str, object] = {}
    exec(ours[VERSION_FILE], namespace)
    assert namespace["__version__"] == project.version
    assert namespace["version"] == project.version
    numbers = tuple(map(int, project.base.split(".")))
    assert namespace["__version_tuple__"] == (*numbers, local)


def test_version_module_has_the_names_of_the_base(
    ours: dict[str, bytes], theirs: dict[str, bytes]
) -> None:
    namespaces: list[dict[str, object]] = [{}, {}]
    for namespace, files in zip(namespaces, (ours, theirs), strict=True):
        exec(files[VERSION_FILE], namespace)
    names = [{n for n in namespace if n != "__all__"} for namespace in namespaces]
    assert names[0] >= names[1] - {"__annotations__", "__conditional_annotations__"}
    assert namespaces[0]["__commit_id__"] == namespaces[1]["__commit_id__"]


def test_dependencies(ours: dict[str, bytes], theirs: dict[str, bytes]) -> None:
    assert requirements(ours) == requirements(theirs)
    assert len(requirements(ours)) > 10


@pytest.mark.parametrize(
    "field", ["Requires-Python", "License-Expression", "Classifier"]
)
def test_fields_of_the_base(
    ours: dict[str, bytes], theirs: dict[str, bytes], field: str
) -> None:
    found = metadata(ours).get_all(field)
    assert found
    assert found == metadata(theirs).get_all(field)


def test_entry_points(ours: dict[str, bytes], theirs: dict[str, bytes]) -> None:
    expected = entry_points(theirs)
    expected["dask_cli"]["rootish"] = "distributed.cli.dask_rootish:main"
    assert entry_points(ours) == expected


def test_extras(ours: dict[str, bytes]) -> None:
    assert metadata(ours).get_all("Provides-Extra") == [
        "demo",
        "docs",
        "readers",
        "test",
    ]


def test_description(ours: dict[str, bytes], checkout: Path) -> None:
    text = (checkout / "README.md").read_text(encoding="utf-8")
    assert metadata(ours).get_payload() == text


def test_licences(
    ours: dict[str, bytes],
    theirs: dict[str, bytes],
    project: Project,
    checkout: Path,
) -> None:
    paths = metadata(ours).get_all("License-File")
    their_path = f"build/distributed-{project.base}/LICENSE.txt"
    assert paths == ["LICENSE.txt", their_path]
    assert info(ours, "licenses/LICENSE.txt") == (checkout / "LICENSE.txt").read_text()
    assert info(ours, f"licenses/{their_path}") == info(theirs, "licenses/LICENSE.txt")


def test_files_that_are_not_ours_are_those_of_the_base(
    ours: dict[str, bytes], theirs: dict[str, bytes], checkout: Path
) -> None:
    own = {path for path, _ in our_files(checkout)} | {VERSION_FILE}
    names = {name for name in theirs if name.startswith("distributed/")}
    assert len(names) > 200
    assert {name: ours[name] for name in names - own} == {
        name: theirs[name] for name in names - own
    }
    assert {n for n in ours if n.startswith("distributed/")} == names | own
    assert "distributed/py.typed" in ours


def test_files_that_are_ours(
    ours: dict[str, bytes], base: Base, checkout: Path
) -> None:
    merged = fork_files(checkout, base)
    assert {path: ours[path] for path in merged} == merged
    assert set(merged) == {path for path, _ in our_files(checkout)}
    assert b"make_policy(self)" in ours["distributed/scheduler.py"]


def test_configuration_is_that_of_the_base_and_ours(
    ours: dict[str, bytes], theirs: dict[str, bytes]
) -> None:
    path = "distributed/distributed.yaml"
    changed, original = (yaml.safe_load(files[path]) for files in (ours, theirs))
    scheduler = changed["distributed"]["scheduler"]
    assert scheduler.pop("rootish-policy") == "producers"
    assert scheduler.pop("rootish-co-assignment") is True
    assert scheduler.pop("rootish-waiting") == 2
    assert scheduler.pop("rootish-warning-interval") == "60s"
    assert scheduler.pop("rootish-history") == 10
    assert changed == original
    original_lines = theirs[path].splitlines()
    assert [
        li for li in ours[path].splitlines() if li in original_lines
    ] == original_lines


def test_record(ours: dict[str, bytes]) -> None:
    rows = {path: row for path, *row in csv.reader(io.StringIO(info(ours, "RECORD")))}
    assert set(rows) == set(ours)
    for path, (digest, size) in rows.items():
        if not path.endswith("/RECORD"):
            expected = base64.urlsafe_b64encode(hashlib.sha256(ours[path]).digest())
            assert digest == f"sha256={expected.decode().rstrip('=')}"
            assert int(size) == len(ours[path])


def test_nothing_else_is_inside(ours: dict[str, bytes]) -> None:
    assert {path.partition("/")[0].partition("-")[0] for path in ours} == {
        "distributed"
    }
    for path in ours:
        assert not path.endswith(".pyc")
        assert "/tests/" not in path


def test_sdist_holds_our_files_only(dist: Dist, checkout: Path) -> None:
    with tarfile.open(dist.sdist) as archive:
        names = {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}
    tracked = set(run("git", "ls-files", cwd=checkout).splitlines())
    assert names - tracked == {"PKG-INFO"}
    assert tracked - names <= {".gitattributes", ".gitignore"}
    assert {"LICENSE.txt", "distributed/scheduler.py", "pyproject.toml"} <= names


def test_wheel_from_sdist_is_that_from_git(
    dist: Dist, checkout: Path, tmp_path: Path
) -> None:
    run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
        *("--wheel-dir", tmp_path, f"git+{checkout.as_uri()}"),
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert contents(wheel) == contents(dist.wheel)
    assert wheel.read_bytes() == dist.wheel.read_bytes()
