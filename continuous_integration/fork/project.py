"""What ``pyproject.toml`` and ``divergence.json`` say about the fork."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypedDict

from continuous_integration.fork import ForkError

#: The one file that says what the fork does to each name of the base
DIVERGENCE = "continuous_integration/fork/divergence.json"

#: Folder of this project that holds what the build makes; git ignores it
BUILD = "build"

#: What can be done to a name of the base, and whether its fingerprint is recorded
HOWS = {
    "replaces": True,
    "extends": True,
    "relies-on": True,
    "adds": False,
    "appends": False,
}


class Entry(TypedDict, total=False):
    """What the fork does to one name of the base.

    A file's entries are keyed by qualified name, or by the statement for ``appends``.
    """

    #: A key of :data:`HOWS`
    how: str
    #: Why the fork needs it
    why: str
    #: Fingerprints of the base's definition that were reviewed; supported bases may
    #: have different ones
    base: list[str]
    #: Private name under which a replaced definition stays callable, beside its heir
    keeps: str
    #: Name of the base, in the same scope, that an added definition goes behind
    after: str


#: path of a file -> name -> what the fork does to it
Divergence = dict[str, dict[str, Entry]]


class Project(NamedTuple):
    """The settings of the build.

    Parameters
    ----------
    root
        Folder that holds ``pyproject.toml``
    base
        Version of the base
    version
        Version of the fork
    entry_points
        Entry points that the fork adds: group -> name -> object reference
    bases
        The versions that the fork was reviewed on, in order
    """

    root: Path
    base: str
    version: str
    entry_points: dict[str, dict[str, str]]
    bases: tuple[str, ...]

    def check_base(self) -> None:
        """Refuse a base that nobody has reviewed, before anything is made of it.

        Raises
        ------
        ForkError
            If the base is not among `bases`
        """
        if self.base not in self.bases:
            raise ForkError(
                f"distributed {self.base} is not one of the bases that pyproject.toml "
                f"lists: {', '.join(self.bases)}; require one of these, or review this "
                "one: `python -m continuous_integration.fork rebase "
                f"{self.base}`"
            )


def read_project(root: Path) -> Project:
    """Read the version of the base, which ``build-system.requires`` alone chooses.

    Parameters
    ----------
    root
        Folder that holds ``pyproject.toml``

    Raises
    ------
    ForkError
        If the base is not required with ``==`` and a full version
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:  # hatchling, pytest and mypy all bring it along there
        import tomli as tomllib
    # A run-time dependency of the base and of hatchling
    from packaging.requirements import Requirement
    from packaging.version import Version

    path = root / "pyproject.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ForkError(f"{path} cannot be read: {error}") from None
    requirements = [Requirement(r) for r in content["build-system"]["requires"]]
    specifiers = [
        s for r in requirements if r.name == "distributed" for s in r.specifier
    ]
    if len(specifiers) != 1 or specifiers[0].operator != "==":
        raise ForkError(
            f"{path}: build-system.requires must name the base in one line "
            "`distributed==VERSION`"
        )
    base = specifiers[0].version
    settings = content["tool"]["rootish"]
    return Project(
        root,
        base,
        f"{base}+rootish.{settings['release']}",
        settings["entry-points"],
        tuple(sorted(settings["bases"], key=Version)),
    )


def read_divergence(root: Path) -> Divergence:
    """Read and check :data:`DIVERGENCE`.

    Raises
    ------
    ForkError
        If it does not have the form that :class:`Entry` describes
    """
    try:
        content: Divergence = json.loads(
            (root / DIVERGENCE).read_text(encoding="utf-8")
        )
    except (OSError, ValueError) as error:
        raise ForkError(f"{DIVERGENCE} cannot be read: {error}") from None
    for path, entries in content.items():
        for name, entry in entries.items():
            where = f"{DIVERGENCE}: {path}: {name}"
            if entry.get("how") not in HOWS:
                raise ForkError(f"{where}: `how` must be one of {', '.join(HOWS)}")
            if unknown := set(entry) - set(Entry.__annotations__):
                raise ForkError(f"{where}: unknown: {', '.join(sorted(unknown))}")
            if not entry.get("why"):
                raise ForkError(f"{where}: `why` is missing; say why the fork needs it")
            if not isinstance(entry.get("base", []), list):
                raise ForkError(f"{where}: `base` must be a list of fingerprints")
            allowed = {"replaces": "keeps", "adds": "after", "appends": "after"}
            for option in ("keeps", "after"):
                if option in entry and allowed.get(entry["how"]) != option:
                    raise ForkError(
                        f"{where}: `{option}` means nothing for `{entry['how']}`"
                    )
    return content


def write_divergence(root: Path, content: Divergence) -> None:
    """Write :data:`DIVERGENCE` back, formatted as a person would."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (root / DIVERGENCE).write_text(text, encoding="utf-8", newline="\n")


def our_files(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield our files that go into the package, in order, with what ``stat`` says.

    Tests stay out; so does what editors and merge tools leave beside a file.

    Yields
    ------
    path
        Relative to the root, with forward slashes
    stat
        Of the file
    """
    yield from _walk(str(root), "distributed")


def _walk(root: str, folder: str) -> Iterator[tuple[str, os.stat_result]]:
    try:
        entries = sorted(os.scandir(f"{root}/{folder}"), key=lambda e: e.name)
    except FileNotFoundError:
        return
    for entry in entries:
        name = entry.name
        if name.startswith((".", "#")) or name in ("tests", "__pycache__"):
            continue
        path = f"{folder}/{name}"
        if entry.is_dir():
            yield from _walk(root, path)
        elif not name.endswith(("~", ".pyc", ".orig", ".rej", ".swp")):
            yield path, entry.stat()
