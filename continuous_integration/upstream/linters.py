"""Upstream's linters and type checks, in the versions that its pre-commit hooks name.

pre-commit clones each tool's repository; the same tools come from the package index,
and run in an environment of their own.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from continuous_integration.fork import ForkError

CONFIG = ".pre-commit-config.yaml"

#: Hook -> package, and how the hook runs it
TOOLS = {
    "codespell": ("codespell", ["codespell_lib"]),
    "mypy": ("mypy", ["mypy"]),
    "ruff-check": ("ruff", ["ruff", "check", "--force-exclude"]),
    "ruff-format": ("ruff", ["ruff", "format", "--diff", "--force-exclude"]),
}

#: Arguments of hooks with which they would mend what they find
_MENDING = {"--fix", "--exit-non-zero-on-fix", "--write-changes", "-w"}


class Hook(NamedTuple):
    """A hook of upstream's, as far as it can run here.

    Parameters
    ----------
    name
        Its name
    version
        Of the tool
    requirements
        What is to be installed for it; empty if it is none of :data:`TOOLS`
    arguments
        Of the Python that has these
    files
        Pattern of the files that it is for
    """

    name: str
    version: str
    requirements: tuple[str, ...]
    arguments: tuple[str, ...]
    files: str


def read_hooks(checkout: Path) -> list[Hook]:
    """Return upstream's hooks.

    Raises
    ------
    ForkError
        If they cannot be read
    """
    try:
        content = yaml.safe_load((checkout / CONFIG).read_text(encoding="utf-8"))
        return [
            _hook(hook, str(repository["rev"]).removeprefix("v"))
            for repository in content["repos"]
            for hook in repository["hooks"]
        ]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ForkError(f"{CONFIG} cannot be read: {error}") from None


def _hook(hook: dict[str, Any], version: str) -> Hook:
    name = hook["id"]
    package, command = TOOLS.get(name, ("", []))
    if not package:
        return Hook(name, version, (), (), "")
    # In place of a branch in a repository, its newest release
    extra = [
        re.sub(r"^git\+https://.*/([\w-]+?)(\.git)?(@.*)?$", r"\1", requirement)
        for requirement in hook.get("additional_dependencies", [])
    ]
    arguments = [a for a in hook.get("args", []) if a not in _MENDING]
    # What the hooks say of themselves; `types_or` can only be met halfway
    kinds = r"\.(rst|md)$" if package == "codespell" else r"\.pyi?$"
    files = f"(?=.*{kinds}){hook.get('files', '')}"
    return Hook(
        name,
        version,
        (f"{package}=={version}", *extra),
        ("-m", *command, *arguments),
        files,
    )


def run_hooks(
    checkout: Path,
    paths: Sequence[str],
    parent: Path,
    report: Callable[[str], None],
) -> list[str]:
    """Run upstream's hooks on some of its files.

    Parameters
    ----------
    checkout
        Folder of the checkout
    paths
        The files in it
    parent
        Folder for the environment of the tools, which is kept
    report
        Called with what is being done, when it takes long

    Returns
    -------
    list of str
        What passed, or could not run, a line for each hook

    Raises
    ------
    ForkError
        If any fail, with what they print
    """
    hooks = read_hooks(checkout)
    python = _environment(hooks, parent, report)
    lines, faults = [], []
    for hook in hooks:
        title = f"{hook.name} {hook.version}"
        files = [path for path in paths if re.search(hook.files, path)]
        if not hook.arguments:
            lines.append(f"{title}: not run, it is not known here")
        elif files:
            report(f"running {title}")
            result = _run(python, *hook.arguments, *files, cwd=checkout)
            lines.append(f"{title}: passed on {len(files)} files")
            if result.returncode:
                faults.append(f"{title} finds fault:\n{result.stdout.strip()}")
    if faults:
        raise ForkError("\n\n".join(faults))
    return lines


def _environment(
    hooks: Sequence[Hook], parent: Path, report: Callable[[str], None]
) -> Path:
    """Return the interpreter of an environment with the tools, made if need be."""
    requirements = sorted({r for hook in hooks for r in hook.requirements})
    digest = hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:12]
    folder = parent / f"linters-{digest}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    complete = folder / "complete"
    if complete.exists() or not requirements:
        return python
    report(f"installing {', '.join(requirements)}")
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True, symlinks=os.name != "nt")
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    result = _run(python, *pip, *requirements, cwd=folder)
    if result.returncode:
        last = (result.stdout.strip().splitlines() or ["without a word"])[-1]
        raise ForkError(f"upstream's linters cannot be installed: {last}")
    complete.touch()
    return python


def _run(python: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    variables = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [str(python), *arguments],
        cwd=cwd,
        env={**variables, "RUFF_NO_CACHE": "true", "MYPY_CACHE_DIR": os.devnull},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
