"""Checks that the tests run against this fork, not against what else may be there."""

from __future__ import annotations

from pathlib import Path

import pytest

import distributed


def pytest_configure(config: pytest.Config) -> None:
    """Refuse an environment where ``import distributed`` gives something else."""
    # A folder `distributed` without __init__.py, such as ours, is imported too
    if getattr(distributed, "__file__", None) is None:
        found = "nothing but the namespace package of this folder"
    elif "+rootish." not in distributed.__version__:
        found = f"the release {distributed.__version__}"
    else:
        return
    raise pytest.UsageError(
        f"`import distributed` finds {found}, not this fork; "
        f"run: pip install -e '{Path(__file__).parent}[test]'"
    )
