"""What of the fork goes into a pull request, in the form that upstream has."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from continuous_integration.fork import ForkError
from continuous_integration.fork.base import Base
from continuous_integration.fork.syntax import Source, find
from continuous_integration.fork.tree import fork_files, regressions
from continuous_integration.upstream.partial_pages import bring_up_to_date

#: Files of ours, or single definitions in them, that upstream does not need, and why
LEFT_OUT = {
    "distributed/cli/dask_rootish.py": "the demo",
    "distributed/cli/tests/test_dask_rootish.py": "tests of the demo",
    "distributed/dashboard/tests/test_rootish_browser.py": "needs a browser",
    "distributed/rootish/demo.py": "the demo",
    "distributed/rootish/tests/test_queue.py::test_nothing_is_lost": "needs hypothesis",
    "distributed/rootish/tests/test_files.py": "needs Zarr, xarray and Iris",
    "distributed/rootish/tests/test_random.py": "needs hypothesis and random_cases",
}

#: Upstream's tests also run where numpy is not installed, which these need
NEED_NUMPY = {"dask.array", "numpy"}

#: Where upstream's pages of documentation are
PAGES = "docs/source"


def code(root: Path, base: Base) -> dict[str, bytes]:
    """Return the modules, settings and tests that upstream does not have like this.

    Parameters
    ----------
    root
        Folder of this project
    base
        Upstream's files

    Returns
    -------
    dict
        Path -> content

    Raises
    ------
    ForkError
        If ours do not fit in
    """
    files = fork_files(root, base) | regressions(root, base)
    for name in LEFT_OUT:
        path, _, definition = name.partition("::")
        if path not in files:
            raise ForkError(
                f"{path}: is to be left out, but this project has no such file"
            )
        if not definition:
            del files[path]
            continue
        text = without(definition, files[path].decode("utf-8"), path)
        files[path] = text.encode("utf-8")
    for path, content in files.items():
        if path.endswith(".py") and "/tests/" in path:
            text = skipped_without_numpy(content.decode("utf-8"), path)
            files[path] = text.encode("utf-8")
    return files


def pages(folder: Path, base: Base) -> dict[str, bytes]:
    """Return upstream's pages of documentation, brought up to date.

    Parameters
    ----------
    folder
        Partial pages, each named as upstream's page
    base
        Upstream's files

    Raises
    ------
    ForkError
        If a page or a place in it is gone
    """
    files = {}
    for partial in sorted(folder.glob("*.rst")):
        path = f"{PAGES}/{partial.name}"
        if path not in base.paths:
            raise ForkError(f"{path}: upstream has no such page")
        text = bring_up_to_date(path, base.text(path), partial)
        files[path] = text.encode("utf-8")
    return files


def without(name: str, text: str, path: str) -> str:
    """Return the text of a module without one of its functions or classes.

    Raises
    ------
    ForkError
        If it has none of that name
    """
    source = Source(text, path)
    found = find(source.tree.body, name)
    if not found:
        raise ForkError(f"{path}: {name} is to be left out, but is not there")
    for node in found:
        first, last = source.commented_span(node)
        while first > 1 and not source.lines[first - 2].strip():
            first -= 1
        source.replace((first, last), [])
    return source.result()


def skipped_without_numpy(text: str, path: str) -> str:
    """Return the text of a test module that is skipped where numpy is not installed.

    The imports that need it go below all others, under a line that skips the module.
    """
    source = Source(text, path)
    imports = [
        n for n in source.tree.body if isinstance(n, (ast.Import, ast.ImportFrom))
    ]
    spans = [source.span(node) for node in imports if _modules(node) & NEED_NUMPY]
    if not spans:
        return text
    moved = [line for span in spans for line in source.text(span)]
    for span in spans:
        source.replace(span, [])
    skip = 'pytest.importorskip("numpy")'
    source.insert(source.span(imports[-1])[1] + 1, ["", skip, "", *moved])
    return source.result()


def _modules(node: ast.Import | ast.ImportFrom) -> set[str]:
    if isinstance(node, ast.ImportFrom):
        return {node.module or ""}
    return {alias.name for alias in node.names}


def tidy(root: Path, paths: Iterable[str], old: Iterable[str]) -> None:
    """Order imports and lay out lines as upstream's settings say.

    Parameters
    ----------
    root
        Folder of a checkout of upstream
    paths
        Modules of ours in it
    old
        Modules of upstream that we have changed. Their imports stay as they are.
    """
    ruff = (sys.executable, "-m", "ruff")
    ours = sorted(paths)
    if ours:
        _run(*ruff, "check", "--no-cache", "--select=I,F401", "--fix", *ours, cwd=root)
    if everything := [*ours, *sorted(old)]:
        _run(*ruff, "format", "--no-cache", *everything, cwd=root)


def formatted(root: Path, paths: Iterable[str]) -> list[str]:
    """Return those modules of a checkout that ruff would leave as they are."""
    ruff = (sys.executable, "-m", "ruff", "format", "--no-cache", "--check", "--quiet")
    return [
        path
        for path in paths
        if subprocess.run([*ruff, path], cwd=root, check=False).returncode == 0
    ]


def _run(*command: str, cwd: Path) -> None:
    result = subprocess.run(
        command,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode:
        raise ForkError(f"ruff finds fault:\n{result.stdout.strip()}")
