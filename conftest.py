"""Runs the tests on this fork with its own settings, not on what else may be there."""

from __future__ import annotations

import gc
import importlib
import os
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent

#: Beginnings of the names of environment variables that change what is tested: the
#: settings of dask, and what a git that runs a hook works on
FOREIGN = ("DASK_", "GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add an option to test as upstream does, which has no such file as this."""
    parser.addoption(
        "--keep-settings",
        action="store_true",
        help="Leave the settings that the environment has.",
    )


def forget_settings() -> None:
    """Leave out what the user's environment and files say, here and in processes."""
    for name in list(os.environ):
        if name.startswith(FOREIGN):
            del os.environ[name]
    import dask.config

    dask.config.refresh(paths=[])


def pytest_configure(config: pytest.Config) -> None:
    """Set the settings, and refuse an environment with another ``distributed``."""
    # Importing it reads some of them
    if not config.getoption("keep_settings"):
        forget_settings()
    import distributed

    # Without an install, our folder `distributed` is imported, as a namespace package
    if getattr(distributed, "__file__", None) is None:
        found = "nothing but the folder of that name in this project"
    elif "+rootish." not in distributed.__version__:
        found = f"the release {distributed.__version__}"
    elif distributed.__version__ != (version := metadata.version("distributed")):
        found = f"{distributed.__version__}, and its metadata that of {version}"
    else:
        # For a test module in `distributed/cli/tests`, pytest imports `distributed.cli`
        # from the folder above it, which is ours, unless it is imported already
        for tests in ROOT.glob("distributed/**/tests"):
            importlib.import_module(".".join(tests.parent.relative_to(ROOT).parts))
        # What tests share is not installed, and tests in other folders come before it
        rootish = importlib.import_module("distributed.rootish")
        rootish.__path__.append(str(ROOT / "distributed" / "rootish"))
        return
    raise pytest.UsageError(
        f"`import distributed` finds {found}, not this fork; "
        f"run: pip install -e '{ROOT}[test]'"
    )


@pytest.fixture
def files_closed() -> None:
    """Close what other tests left open now, not while a thread reads.

    HDF5 does not bear it, and xarray takes no lock when a file is garbage.
    """
    gc.collect()
