"""The files of the fork, in memory or in a folder."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from continuous_integration.fork import ForkError
from continuous_integration.fork.base import Base
from continuous_integration.fork.fragments import merge_fragment
from continuous_integration.fork.merge import check_fingerprints, merge_module
from continuous_integration.fork.project import (
    DIVERGENCE,
    Divergence,
    our_files,
    read_divergence,
)
from continuous_integration.fork.syntax import Source

#: The one file that differs from the base's without being in this project
VERSION_FILE = "distributed/_version.py"

#: Merged trees that an editable install keeps, and for how long (in seconds) it keeps
#: those beyond: running processes may still import from them
KEPT_TREES = 5
KEPT_TIME = 3600


def fork_files(root: Path, base: Base) -> dict[str, bytes]:
    """Return the files of the fork that the base does not have, or not like this.

    :data:`VERSION_FILE` is not among them.

    Parameters
    ----------
    root
        Folder of the project
    base
        What to merge into

    Returns
    -------
    dict
        Path -> content

    Raises
    ------
    ForkError
        If the fork cannot be made from this base
    """
    divergence = read_divergence(root)
    theirs = set(base.paths)
    check_base(base, divergence)
    files = {}
    for path, _ in our_files(root):
        content = (root / path).read_bytes()
        declared = divergence.get(path, {})
        if path not in theirs:
            if declared:
                raise ForkError(
                    f"{DIVERGENCE}: {path}: the base has no such file, so nothing is "
                    "to be declared for it"
                )
            if path.endswith(".py"):
                Source(content.decode("utf-8"), path)
            files[path] = content
            continue
        if path.endswith(".py"):
            merge = merge_module
        elif path.endswith(".yaml"):
            merge = merge_fragment
        else:
            raise ForkError(
                f"{path}: the base has such a file, and this kind cannot merge"
            )
        text = merge(path, base.text(path), content.decode("utf-8"), declared)
        files[path] = text.encode("utf-8")
    for path, entries in divergence.items():
        if path not in files and any(e["how"] != "relies-on" for e in entries.values()):
            raise ForkError(f"{DIVERGENCE}: {path}: this project has no such file")
    return files


def regressions(root: Path, base: Base) -> dict[str, bytes]:
    """Return our tests and what they share, for a checkout of the base's repository.

    Raises
    ------
    ForkError
        If the base has one of that name
    """
    files = {}
    for path in sorted((root / "distributed").rglob("tests/*.py")):
        name = path.relative_to(root).as_posix()
        if name in base.paths:
            raise ForkError(f"{name}: the base has a test module of that name")
        files[name] = path.read_bytes()
    return files


def check_base(base: Base, divergence: Divergence) -> None:
    """Check the fingerprints of everything that is replaced, extended or relied on.

    Raises
    ------
    ForkError
        If a definition of the base is gone, or changed since it was reviewed
    """
    for path, declared in divergence.items():
        if path.endswith(".py") and path in base.paths:
            check_fingerprints(Source(base.text(path), path), declared)
        elif any(entry["how"] == "relies-on" for entry in declared.values()):
            raise ForkError(f"{path}: the base has no such file; see {DIVERGENCE}")


def version_module(version: str, base: Base) -> bytes:
    """Return :data:`VERSION_FILE`, with the names that the base's has."""
    # The fork's own commit would make a wheel depend on where it is built from
    commit = re.search(rb"commit_id = '(\w+)'", base.read(VERSION_FILE))
    commit_id = commit[1].decode() if commit else "unknown"
    release, _, local = version.partition("+")
    parts: tuple[int | str, ...] = tuple(map(int, release.split(".")))
    if local:
        parts = (*parts, local)
    return f'''"""The version of this fork of distributed, written by its build."""

from __future__ import annotations

__version__ = version = "{version}"
__version_tuple__ = version_tuple = {parts!r}

#: Of the base
__commit_id__ = commit_id = "{commit_id}"
'''.encode()


def write_tree(target: Path, base: Base, ours: Mapping[str, bytes]) -> None:
    """Write the whole package, the base's files with the fork's over them."""
    for path in base.paths:
        if path not in ours:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(base.root / path, target / path)
    for path, content in ours.items():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_bytes(content)


def editable_tree(root: Path, base: Base, version: str, folder: Path) -> Path:
    """Make the merged tree that an editable install imports from, unless it is there.

    Any number of processes may do so at once: a tree is renamed into its place when
    it is complete.

    Parameters
    ----------
    root
        Folder of the project
    base
        The copy of the base that the install keeps
    version
        Of the fork, as installed
    folder
        Where the trees are

    Returns
    -------
    pathlib.Path
        The tree, named after its content
    """
    ours = fork_files(root, base)
    ours[VERSION_FILE] = version_module(version, base)
    digest = hashlib.sha256(base.version.encode())
    for path, content in sorted(ours.items()):
        digest.update(f"\n{path} {len(content)}\n".encode())
        digest.update(content)
    tree = folder / digest.hexdigest()[:16]
    if tree.is_dir():
        return tree
    folder.mkdir(parents=True, exist_ok=True)
    older = _by_use(folder)
    temporary = Path(tempfile.mkdtemp(prefix=".", dir=folder))
    try:
        write_tree(temporary, base, ours)
        if older:
            _take_over(older[-1], temporary)
        os.chmod(temporary, 0o755)
        try:
            temporary.rename(tree)
        except OSError:
            if not tree.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for stale in older[: -KEPT_TREES + 1]:
        with suppress(FileNotFoundError):
            if stale.stat().st_mtime < time.time() - KEPT_TIME:
                shutil.rmtree(stale, ignore_errors=True)
    return tree


def _by_use(folder: Path) -> list[Path]:
    """Return the merged trees, the one that was used last at the end."""
    found = []
    for tree in folder.iterdir():
        # Hidden ones are not complete: other processes are making them
        if not tree.name.startswith("."):
            with suppress(FileNotFoundError):
                if (tree / "distributed").is_dir():
                    found.append((tree.stat().st_mtime, tree))
    return [tree for _, tree in sorted(found)]


def _take_over(older: Path, newer: Path) -> None:
    """Give files that did not change their old times, and the bytecode made from them.

    Otherwise every edit would cost a compilation of the whole package.
    """
    for path in newer.rglob("*.py"):
        old = older / path.relative_to(newer)
        if not old.is_file() or old.read_bytes() != path.read_bytes():
            continue
        shutil.copystat(old, path)
        for compiled in (old.parent / "__pycache__").glob(f"{old.stem}.*.pyc"):
            (path.parent / "__pycache__").mkdir(exist_ok=True)
            shutil.copy2(compiled, path.parent / "__pycache__" / compiled.name)
