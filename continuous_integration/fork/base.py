"""The base: the released ``distributed``, wherever a copy of it is."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from continuous_integration.fork import ForkError
from continuous_integration.fork.project import BUILD, Project


class Base(NamedTuple):
    """A copy of the base.

    Parameters
    ----------
    version
        Its version
    root
        Folder that holds the folder ``distributed``
    paths
        Its files, relative to `root`, in order
    """

    version: str
    root: Path
    paths: tuple[str, ...]

    def read(self, path: str) -> bytes:
        """Return the content of one of its files."""
        return (self.root / path).read_bytes()

    def text(self, path: str) -> str:
        """Return the text of one of its files."""
        return self.read(path).decode("utf-8")


def installed_distribution(version: str) -> importlib.metadata.Distribution:
    """Return the metadata of the base in this environment.

    Parameters
    ----------
    version
        The version that it has to have

    Raises
    ------
    ForkError
        If it is not installed, has another version, or is a fork itself
    """
    try:
        distribution = importlib.metadata.distribution("distributed")
    except importlib.metadata.PackageNotFoundError:
        raise ForkError(
            f"the base is not installed in the build environment; install "
            f"distributed=={version}, or build with build isolation"
        ) from None
    if "+" in distribution.version:
        raise ForkError(
            f"distributed {distribution.version} in the build environment is itself a "
            f"fork; build with build isolation, from an index that has the release "
            f"{version}"
        )
    if distribution.version != version:
        raise ForkError(
            f"the build environment has distributed {distribution.version} but the "
            f"base is {version}; install that, or build with build isolation"
        )
    return distribution


def installed_base(version: str) -> Base:
    """Return the base that is installed in this environment.

    Raises
    ------
    ForkError
        As :func:`installed_distribution`, or if its files are not what was installed
    """
    distribution = installed_distribution(version)
    paths = []
    for path in distribution.files or ():
        if path.parts[0] != "distributed" or path.suffix == ".pyc":
            continue
        content = Path(str(path.locate())).read_bytes()
        if path.hash is not None:
            digest = hashlib.new(path.hash.mode, content).digest()
            if base64.urlsafe_b64encode(digest).decode().rstrip("=") != path.hash.value:
                raise ForkError(
                    f"{path} was edited in the build environment; reinstall distributed"
                    f"=={version}, or build with build isolation"
                )
        paths.append(path.as_posix())
    if not paths:
        raise ForkError(
            f"distributed {version} in the build environment is an editable install; "
            "install the release, or build with build isolation"
        )
    root = Path(str(distribution.locate_file("")))
    return Base(version, root, tuple(sorted(paths)))


def folder_base(root: Path, version: str) -> Base:
    """Return the base that is in a folder, such as a checkout of its repository.

    Parameters
    ----------
    root
        Folder that holds the folder ``distributed``
    version
        For messages

    Raises
    ------
    ForkError
        If there is no ``distributed`` in it
    """
    if not (root / "distributed" / "__init__.py").is_file():
        raise ForkError(f"{root} has no distributed/__init__.py; it is not a base")
    paths = (
        path.relative_to(root).as_posix()
        for path in (root / "distributed").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    )
    return Base(version, root, tuple(sorted(paths)))


def storage(root: Path, version: str) -> Path:
    """Return the folder of the project that a copy of a base is kept in."""
    return root / BUILD / f"distributed-{version}"


def store(base: Base, root: Path) -> Base:
    """Keep a copy of a base in the project, for editable installs and comparisons.

    An existing copy is kept. Several processes may do so at once.
    """
    target = storage(root, base.version)
    if not (target / "distributed").is_dir():
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target) as temporary:
            for path in base.paths:
                copy = Path(temporary) / path
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(base.root / path, copy)
            try:
                (Path(temporary) / "distributed").rename(target / "distributed")
            except OSError:
                if not (target / "distributed").is_dir():
                    raise
    return folder_base(target, base.version)


def store_licence(version: str, root: Path) -> str:
    """Put the licence of the installed base into the project's build folder.

    Both licences are called ``LICENSE.txt``, and licence files lie in a wheel where
    they lie in the project.

    Returns
    -------
    str
        Its path relative to `root`
    """
    for path in installed_distribution(version).files or ():
        if path.name == "LICENSE.txt" and path.parent.name == "licenses":
            target = storage(root, version) / "LICENSE.txt"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(Path(str(path.locate())).read_bytes())
            return target.relative_to(root).as_posix()
    raise ForkError(
        f"distributed {version} comes without LICENSE.txt; see what it has now"
    )


def available_base(project: Project) -> Base:
    """Return the base from wherever there is a copy: the project, the environment.

    Raises
    ------
    ForkError
        If there is none
    """
    stored = storage(project.root, project.base)
    if (stored / "distributed").is_dir():
        return folder_base(stored, project.base)
    try:
        return installed_base(project.base)
    except ForkError:
        raise ForkError(
            f"no copy of distributed {project.base} at hand: run `pip install -e .` "
            "once, which keeps one, or run this where that release is installed"
        ) from None
