"""Modules of this repository, for programs that run beside any distributed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


def load_ours(path: str) -> Any:
    """Return a module of this repository, whichever distributed is installed.

    Parameters
    ----------
    path
        Of the module, from the root of the repository. It needs no other module of
        ours.
    """
    name = path.removesuffix(".py").replace("/", "_")
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, REPOSITORY / path)
        assert spec
        assert spec.loader
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]
