"""Commands for those who maintain the fork."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from continuous_integration.fork import ForkError, report, tree
from continuous_integration.fork.base import Base, available_base, folder_base, storage
from continuous_integration.fork.project import (
    Project,
    read_divergence,
    read_project,
    write_divergence,
)

ROOT = Path(__file__).resolve().parents[2]


class _Group(click.Group):
    """Turns the errors of the merge into those of a command."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ForkError as error:
            raise click.ClickException(str(error)) from None
        except ModuleNotFoundError as error:  # tomli, before Python 3.11
            raise click.ClickException(f"{error}; pip install '.[test]'") from None


@click.group(cls=_Group)
def main() -> None:
    """Compare the fork with the release of distributed that it is based on."""


def _base_option(function: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--base",
        "folder",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Folder with a package `distributed` to use for the base, such as a "
        "checkout of its repository.  [default: the release that pyproject.toml names]",
    )(function)


def _base(project: Project, folder: Path | None) -> Base:
    if folder is None:
        return available_base(project)
    return folder_base(folder, str(folder))


@main.command()
@click.option("--stat", is_flag=True, help="Print counts and reasons only.")
@_base_option
def diff(stat: bool, folder: Path | None) -> None:
    """Print all that the fork does to its base.

    Counts come first, then the reason for each name of the base that is touched, then a
    unified diff: the files of the base that change, followed by those that are added.
    """
    project = read_project(ROOT)
    base = _base(project, folder)
    found = report.differences(base, tree.fork_files(ROOT, base))
    lines = list(report.summary(project, read_divergence(ROOT), found))
    if not stat:
        for difference in found:
            lines += ["", *difference.lines]
    click.echo("\n".join(lines))


@main.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--yes", is_flag=True, help="Record without asking.")
@click.option(
    "--old",
    help="What was reviewed: a version kept in build/, or a folder with a package "
    "`distributed`.  [default: whichever kept version fits]",
)
@_base_option
def accept(
    names: tuple[str, ...], yes: bool, old: str | None, folder: Path | None
) -> None:
    """Review definitions of the base that changed, and record them as reviewed.

    Without NAMEs, all that the fork replaces, extends or relies on and whose
    fingerprint is not the one recorded, one after another.
    """
    project = read_project(ROOT)
    divergence = read_divergence(ROOT)
    known = {name for entries in divergence.values() for name in entries}
    for name in names:
        if name not in known:
            raise click.BadParameter(f"{name} is not declared in divergence.json")
    if old is None:
        older = report.kept_bases(ROOT)
    else:
        kept = storage(ROOT, old)
        older = [folder_base(kept if kept.is_dir() else Path(old), old)]
    count = 0
    for change in report.changes(_base(project, folder), divergence, older):
        if names and change.name not in names:
            continue
        click.echo("\n".join([f"{change.path}: {change.name}", *change.lines]))
        if yes or click.confirm("Record this as reviewed?"):
            divergence[change.path][change.name]["base"] = change.fingerprint
            count += 1
    if count:
        write_divergence(ROOT, divergence)
    click.echo(f"{count} recorded")


@main.command()
@click.argument("target", type=click.Path(file_okay=False, path_type=Path))
@_base_option
def merge(target: Path, folder: Path | None) -> None:
    """Write the merged package `distributed` into the folder TARGET.

    If TARGET is a checkout of the base's repository, merge into that: `git diff` there
    is then what a pull request would be, tests included.
    """
    project = read_project(ROOT)
    if (target / "distributed").exists():
        if folder is not None:
            raise click.UsageError("TARGET has a `distributed`; it is the base itself")
        base = folder_base(target, str(target))
        files = tree.fork_files(ROOT, base) | tree.regressions(ROOT, base)
        tree.write_tree(target, base._replace(paths=()), files)
    else:
        base = _base(project, folder)
        files = tree.fork_files(ROOT, base)
        files[tree.VERSION_FILE] = tree.version_module(project.version, base)
        tree.write_tree(target, base, files)
    click.echo(f"{len(files)} files of the fork written to {target}")


@main.command()
@_base_option
def typecheck(folder: Path | None) -> None:
    """Run mypy on the modules of the fork, as merged, and on its build."""
    base = _base(read_project(ROOT), folder)
    files = tree.fork_files(ROOT, base)
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary)
        tree.write_tree(target, base, files)
        # In the project itself, the partial modules would hide those of the base
        shutil.copytree(
            ROOT / "continuous_integration",
            target / "continuous_integration",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        shutil.copy(ROOT / "conftest.py", target)
        modules = [path for path in files if path.endswith(".py")]
        result = subprocess.run(
            [
                *(sys.executable, "-m", "mypy", "--no-error-summary"),
                f"--config-file={ROOT / 'pyproject.toml'}",
                f"--cache-dir={ROOT / '.mypy_cache'}",
                *(*modules, "continuous_integration", "conftest.py"),
            ],
            cwd=target,
            check=False,
            stdout=subprocess.PIPE,
            text=True,
        )
    # The base has settings of its own, and errors by ours
    ours = {
        difference.path: difference.added_lines
        for difference in report.differences(base, files)
        if not difference.is_new
    }
    errors = []
    for line in result.stdout.splitlines():
        path, number, *_ = (*line.split(":"), "")
        if path not in ours or (number.isdecimal() and int(number) in ours[path]):
            errors.append(line)
    click.echo("\n".join([*errors, f"{len(modules)} modules of the fork checked"]))
    if errors or result.returncode > 1:
        sys.exit(1)


if __name__ == "__main__":
    main(prog_name="python -m continuous_integration.fork")
