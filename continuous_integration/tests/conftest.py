"""What the tests of the build share: the project, its base, what is built from them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import NamedTuple

import pytest

from continuous_integration.fork.base import Base, available_base
from continuous_integration.fork.project import Project, read_project

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, cwd: Path | None = None, code: int = 0) -> str:
    """Run a command without the environment of the tests, and return what it prints.

    What it logs on the standard error does not count, unless it is to fail.

    Parameters
    ----------
    command
        Program and arguments
    cwd
        Folder to run it in, by default one where nothing can be imported from
    code
        Exit code that it must have
    """
    foreign = ("DASK_", "PYTHON", "VIRTUAL", "COLUMNS")
    env = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd or Path(__file__).parent,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    output = result.stdout + result.stderr
    assert result.returncode == code, f"{command}\n{output}"
    return output if code else result.stdout


@pytest.fixture(scope="session")
def project() -> Project:
    """Return the settings of the project."""
    return read_project(ROOT)


@pytest.fixture(scope="session")
def base(project: Project) -> Base:
    """Return the files of the base."""
    return available_base(project)


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a git repository with the files that are tracked here, as they are now.

    What else lies about does not belong to the project.
    """
    target = tmp_path_factory.mktemp("checkout") / "project"
    for path in run("git", "ls-files", "-z", cwd=ROOT).split("\0")[:-1]:
        if (ROOT / path).exists():  # Else it was removed, but not yet from the index
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, target / path)
    settings = ("user.name=test", "user.email=test@example.org", "commit.gpgsign=false")
    git = ("git", *(part for one in settings for part in ("-c", one)))
    run(*git, "init", "--quiet", cwd=target)
    run(*git, "add", "--all", cwd=target)
    run(*git, "commit", "--quiet", "--message=Test", cwd=target)
    return target


class Dist(NamedTuple):
    """An sdist, and the wheel that was built from it."""

    sdist: Path
    wheel: Path


@pytest.fixture(scope="session")
def dist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Dist:
    """Build an sdist, and a wheel from that, as `python -m build` does."""
    target = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", target, checkout)
    (sdist,) = target.glob("*.tar.gz")
    (wheel,) = target.glob("*.whl")
    return Dist(sdist, wheel)


@pytest.fixture(scope="session")
def base_wheel(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel of the base from the package index, with its metadata."""
    target = tmp_path_factory.mktemp("base")
    requirement = f"distributed=={project.base}"
    run(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
        *("--only-binary=:all:", "--dest", target, requirement),
    )
    (wheel,) = target.glob("*.whl")
    return wheel


class Environment:
    """A virtual environment of this Python, with pip in it.

    Parameters
    ----------
    folder
        Where it goes
    """

    def __init__(self, folder: Path):
        venv.create(folder, with_pip=True, symlinks=os.name != "nt")
        self.python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"

    def pip(self, *arguments: str | Path) -> str:
        """Run pip, and return what it prints."""
        return run(self.python, "-m", "pip", *arguments)

    def run(self, code: str, returncode: int = 0) -> str:
        """Run Python code, and return what it prints."""
        return run(self.python, "-c", code, code=returncode).strip()


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Return an environment to install the fork into, again and again."""
    return Environment(tmp_path_factory.mktemp("environment"))
