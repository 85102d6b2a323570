"""One environment per contender, made with venv and pip and kept for the next time.

A *contender* is ``base`` (the release that the fork is built from), ``again`` (the same
environment once more: its ratios to ``base`` are the noise), ``fork`` (this tree),
``fork:SETTING=VALUE`` (this tree with a setting of ``distributed.scheduler``), or the
number of another release of distributed. Base and fork have the same libraries in the
same versions and differ in nothing but ``distributed``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import dask

from continuous_integration.benchmarks.ours import REPOSITORY
from continuous_integration.benchmarks.workloads import Unavailable
from continuous_integration.fork.project import our_files, read_project

#: What the workloads and their runner need beyond distributed.
REQUIREMENTS = (
    "click",
    "dask[array,dataframe]",
    "h5netcdf",
    "h5py",
    "netCDF4",
    "odc-stac",
    "psutil",
    "pystac",
    "rasterio",
    "stackstac",
    "xarray",
    "zarr",
)

#: What releases need so that their stack fits, beyond ``distributed==RELEASE``.
PINS: dict[str, tuple[str, ...]] = {
    "2024.12.0": ("dask==2024.12.0", "numpy<2.3", "pandas<3", "xarray<2025.7"),
}

_STAMP = "benchmarks.json"


@dataclass(frozen=True)
class Environment:
    """A Python that has a contender installed.

    Attributes
    ----------
    name : str
        Name of the contender.
    python : Path
        Its interpreter.
    identity : str
        Changes when what is installed changes; results of one identity are comparable.
    variables : tuple of (str, str)
        Environment variables that hold its settings.
    """

    name: str
    python: Path
    identity: str
    variables: tuple[tuple[str, str], ...] = ()


def identities(contenders: Iterable[Environment]) -> str:
    """Return a list of what the contenders are, as Markdown."""
    return "\n".join(f"- {one.name}: {one.identity}" for one in contenders)


def source_identity() -> str:
    """Return a short hash of all that goes into the fork's wheel."""
    paths = [path for path, _ in our_files(REPOSITORY)]
    paths.append("pyproject.toml")
    folder = REPOSITORY / "continuous_integration" / "fork"
    paths += sorted(
        str(path.relative_to(REPOSITORY))
        for path in folder.iterdir()
        if path.suffix in (".py", ".json")
    )
    return _hash({path: (REPOSITORY / path).read_bytes() for path in paths})


#: Modules that have workloads, or run them
WORKLOAD_MODULES = ("computations", "generated", "kinds", "measure", "workloads")


def measuring_identity() -> str:
    """Return a short hash of what measures: results of another are not comparable."""
    folder = Path(__file__).parent
    names = [
        f"{name}.py" for name in sorted((*WORKLOAD_MODULES, "graphs", "simulation"))
    ]
    return _hash({name: (folder / name).read_bytes() for name in names})


def _hash(contents: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(name.encode() + b"\0" + content + b"\0")
    return digest.hexdigest()[:12]


def clean_environ(**variables: str) -> dict[str, str]:
    """Return this process's environment variables without those that steer Python."""
    environ = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PYTHON", "VIRTUAL", "DASK_"))
    }
    return {**environ, **variables}


def _run(*command: str | Path) -> str:
    result = subprocess.run(
        [str(part) for part in command],
        env=clean_environ(PIP_DISABLE_PIP_VERSION_CHECK="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode:
        last = (result.stdout.strip().splitlines() or ["without a word"])[-1]
        raise Unavailable(f"`{' '.join(map(str, command))}` failed: {last}")
    return result.stdout


def _read_stamp(folder: Path) -> dict[str, str]:
    try:
        content = json.loads((folder / _STAMP).read_text())
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in content.items()}


def _interpreter(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _venv(folder: Path, *options: str) -> Path:
    if folder.exists():
        shutil.rmtree(folder)
    _run(sys.executable, "-m", "venv", *options, folder)
    return _interpreter(folder)


def _folder(parent: Path, name: str) -> Path:
    return parent / f"{name}-py{sys.version_info.major}.{sys.version_info.minor}"


def site_packages(python: Path) -> Path:
    """Return the folder in which an interpreter has its libraries."""
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(_run(python, "-c", where).strip())


def _release_folder(release: str, parent: Path) -> Path:
    return _folder(parent, f"release-{release}")


def release_environment(
    release: str,
    parent: Path,
    report: Callable[[str], None],
    libraries: Sequence[str] = REQUIREMENTS,
) -> tuple[Path, str]:
    """Return interpreter and identity of an environment with a release from PyPI.

    Parameters
    ----------
    release
        Version of distributed.
    parent
        Folder of the environments.
    report
        Called with what is being done, when it takes long.
    libraries
        Requirements of what is to run there.
    """
    folder = _release_folder(release, parent)
    requirements = sorted(
        {f"distributed=={release}", *libraries, *PINS.get(release, ())}
    )
    stamp = _read_stamp(folder)
    if stamp.get("requirements") != " ".join(requirements):
        report(f"installing distributed {release} and the libraries that go with it")
        python = _venv(folder)
        _run(python, "-m", "pip", "install", "--quiet", *requirements)
        lines = _run(python, "-m", "pip", "freeze", "--quiet").splitlines()
        stamp = {
            "requirements": " ".join(requirements),
            "frozen": "\n".join(x for x in lines if re.match(r"[\w.-]+==", x)),
        }
        (folder / _STAMP).write_text(json.dumps(stamp, indent=1))
    frozen = _hash({"frozen": stamp["frozen"].encode()})
    return _interpreter(folder), f"{release} {frozen}"


def fork_environment(parent: Path, report: Callable[[str], None]) -> tuple[Path, str]:
    """Return interpreter and identity of an environment with this tree's fork.

    It holds the fork alone, and a line that puts the libraries of the base's
    environment behind it. Each state of the tree has an environment of its own, so that
    an edit does not change what is being measured.
    """
    project = read_project(REPOSITORY)
    base, identity = release_environment(project.base, parent, report)
    source = source_identity()
    wanted = {"libraries": identity, "source": source}
    folder = _folder(parent, f"fork-{source}")
    if _read_stamp(folder) != wanted:
        report("building and installing the fork from this tree")
        python = _venv(folder, "--without-pip")
        pip = (base, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps")
        _run(*pip, REPOSITORY)
        libraries = site_packages(base)
        (site_packages(python) / "libraries.pth").write_text(f"{libraries}\n")
        (folder / _STAMP).write_text(json.dumps(wanted, indent=1))
    return _interpreter(folder), f"{project.version} {source} {identity}"


def separate_fork_environment(
    parent: Path, report: Callable[[str], None], libraries: Sequence[str]
) -> tuple[Path, str]:
    """Return interpreter and identity of an environment with this tree's fork.

    It has libraries of its own, in the versions that the base's environment has, and so
    also their programs and data files. There is one such environment; when the tree
    has changed, its fork is installed anew.

    Parameters
    ----------
    parent
        Folder of the environments.
    report
        Called with what is being done, when it takes long.
    libraries
        Requirements of what is to run there.
    """
    project = read_project(REPOSITORY)
    _, identity = release_environment(project.base, parent, report, libraries)
    source = source_identity()
    wanted = {"libraries": identity, "source": source}
    folder = _folder(parent, "fork")
    python = _interpreter(folder)
    install = (python, "-m", "pip", "install", "--quiet", "--no-deps")
    if _read_stamp(folder).get("libraries") != identity:
        report("installing the same libraries for the fork")
        frozen = _read_stamp(_release_folder(project.base, parent))["frozen"]
        _venv(folder)
        _run(*install, *frozen.splitlines())
    if _read_stamp(folder) != wanted:
        report("building and installing the fork from this tree")
        # What is there is neither the one nor the other until this is done
        (folder / _STAMP).write_text(json.dumps({"libraries": identity}))
        _run(*install, "--force-reinstall", REPOSITORY)
        (folder / _STAMP).write_text(json.dumps(wanted, indent=1))
    return python, f"{project.version} {source} {identity}"


@contextlib.contextmanager
def alone(parent: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Wait until no other process makes environments in the same folder.

    Parameters
    ----------
    parent
        Folder of the environments.
    report
        Called when there is another.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with (parent / "lock").open("w") as file:
        try:
            import fcntl
        except ImportError:  # There is no such lock on Windows
            pass
        else:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report(f"waiting for another process that uses {parent}")
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def environments(
    contenders: Sequence[str],
    parent: Path,
    report: Callable[[str], None] = lambda message: None,
) -> list[Environment]:
    """Return an environment for each contender, made if need be.

    Parameters
    ----------
    contenders
        ``base``, ``again``, ``fork``, ``fork:SETTING=VALUE``, or numbers of releases of
        distributed.
    parent
        Folder of the environments.
    report
        Called with what is being done, when it takes long.

    Raises
    ------
    Unavailable
        When one cannot be made, or a contender is none of these.
    """
    with alone(parent, report):
        return [_environment(name, parent, report) for name in contenders]


def _environment(name: str, parent: Path, report: Callable[[str], None]) -> Environment:
    variables: tuple[tuple[str, str], ...] = ()
    if fork := re.fullmatch(r"fork(?::([a-z-]+)=(.+))?", name):
        if fork[1]:
            variables = ((_variable(fork[1]), fork[2]),)
        python, identity = fork_environment(parent, report)
    elif name in ("base", "again"):
        release = read_project(REPOSITORY).base
        python, identity = release_environment(release, parent, report)
    elif re.fullmatch(r"\d{4}\.\d+\.\d+", name):
        python, identity = release_environment(name, parent, report)
    else:
        raise Unavailable(
            f"no contender {name!r}: give base, again, fork, fork:SETTING=VALUE or a "
            "release such as 2024.12.0"
        )
    return Environment(name, python, identity, variables)


def _variable(setting: str) -> str:
    """Return the environment variable of a setting of ``distributed.scheduler``."""
    path = f"distributed.scheduler.{setting}"
    if dask.config.get(path, None) is None:
        raise Unavailable(f"there is no setting {path}")
    return "DASK_" + path.replace(".", "__").replace("-", "_").upper()
