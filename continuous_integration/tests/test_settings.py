"""What the environment says does not reach the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from continuous_integration.tests.conftest import ROOT

#: Passes with our defaults, here and in processes; dask is imported before the settings
#: are forgotten, by a plugin
TEST = """
import os, subprocess, sys
import dask

def test():
    assert dask.config.get("y", "nothing") == "nothing"
    policy = dask.config.get("distributed.scheduler.rootish-policy")
    assert (policy, "GIT_DIR" in os.environ) == ("producers", False)
    code = "import dask, distributed; print(dask.config.get('x', 'nothing'))"
    assert subprocess.check_output([sys.executable, "-c", code]) == b"nothing\\n"
"""


@pytest.mark.parametrize(
    ("options", "outcome"), [([], "passed"), (["--keep-settings"], "failed")]
)
def test_settings(options: list[str], outcome: str, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]")
    (tmp_path / "settings.yaml").write_text("y: something")
    settings = {
        "DASK_CONFIG": str(tmp_path / "settings.yaml"),
        "DASK_DISTRIBUTED__SCHEDULER__ROOTISH_POLICY": "marked",
        "DASK_X": "something",
        "GIT_DIR": str(tmp_path / "nowhere"),
    }
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "dask", "-p", "conftest", *options],
        cwd=tmp_path,
        env={**os.environ, **settings, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"1 {outcome} in" in result.stdout
