"""Commands for those who maintain the fork."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from continuous_integration.figures import figures_option, write_figures
from continuous_integration.fork import ForkError, releases, report, tree
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
@figures_option()
@_base_option
def diff(stat: bool, figures: str | None, folder: Path | None) -> None:
    """Print all that the fork does to its base.

    Counts come first, then the reason for each name of the base that is touched, then a
    unified diff: the files of the base that change, followed by those that are added.
    """
    project = read_project(ROOT)
    base = _base(project, folder)
    found = report.differences(base, tree.fork_files(ROOT, base))
    divergence = read_divergence(ROOT)
    lines = list(report.summary(project, divergence, found))
    if not stat:
        for difference in found:
            lines += ["", *difference.lines]
    click.echo("\n".join(lines))
    if figures:
        values = report.counts(found, divergence)
        write_figures(figures, about=["distributed"], values=values)


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
    fingerprint is not recorded, one after another. What was recorded before stays, for
    the other bases; see `drop`.
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
            entry = divergence[change.path][change.name]
            entry.setdefault("base", []).append(change.fingerprint)
            count += 1
    if count:
        write_divergence(ROOT, divergence)
    click.echo(f"{count} recorded")


def _version(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    # One that pip reads otherwise, such as `1.*`, could not be kept under its name
    if value == "newest" or re.fullmatch(r"\d+(\.\d+)+", value):
        return value
    raise click.BadParameter(f"{value!r} is not the number of a release")


@main.command()
@click.argument("version", metavar="VERSION|newest", callback=_version)
@click.option("--issue", is_flag=True, help="File what is to be done, too.")
def rebase(version: str, issue: bool) -> None:
    """Make another release of distributed the base.

    It is fetched from the package index and named in pyproject.toml. If the fork cannot
    be made from it yet, what stands in the way is printed, and the command fails. With
    --issue that is also put into an issue of the repository, with `gh`; the open one
    for the same release is renewed.
    """
    project = read_project(ROOT)
    base = releases.download(None if version == "newest" else version, ROOT)
    releases.choose(ROOT, base.version, {*project.bases, base.version})
    click.echo(f"pyproject.toml names distributed {base.version} as the base")
    lines = list(releases.problems(ROOT, base))
    if not lines:
        click.echo("The fork can be made from it: run `pip install -e .`")
        return
    click.echo("\n".join(lines))
    if issue:
        command = "python -m continuous_integration.fork"
        steps = f"    {command} rebase {base.version}\n    {command} accept"
        text = "\n".join([*(f"- {line}" for line in lines), "", steps, ""])
        title = f"The fork cannot be made from distributed {base.version}"
        click.echo(releases.tell(title, text))
    raise ForkError(
        f"the fork cannot be made from distributed {base.version} yet; see "
        "`python -m continuous_integration.fork accept`"
    )


@main.command()
@click.argument("version")
def drop(version: str) -> None:
    """Support a release as a base no longer.

    Fingerprints that no other base has are removed.
    """
    project = read_project(ROOT)
    bases = [v for v in project.bases if v != version]
    if version == project.base:
        raise click.UsageError(f"{version} is the base; `rebase` to another one first")
    if len(bases) == len(project.bases):
        raise click.UsageError(f"{version} is not among {', '.join(project.bases)}")
    divergence = read_divergence(ROOT)
    copies = [releases.download(v, ROOT) for v in bases]
    count = releases.forget(divergence, copies)
    releases.choose(ROOT, project.base, bases)
    write_divergence(ROOT, divergence)
    click.echo(f"Left: {', '.join(bases)}; {count} fingerprints removed")


@main.command()
def release() -> None:
    """Raise the number at the end of the fork's version by one."""
    head, _, number = read_project(ROOT).version.rpartition(".")
    releases.number(ROOT, int(number) + 1)
    click.echo(f"pyproject.toml makes this {head}.{int(number) + 1}")


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
        name, number, *_ = (*line.split(":"), "")
        path = Path(name).as_posix()
        if path not in ours or (number.isdecimal() and int(number) in ours[path]):
            errors.append(line)
    click.echo("\n".join([*errors, f"{len(modules)} modules of the fork checked"]))
    if errors or result.returncode > 1:
        sys.exit(1)


if __name__ == "__main__":
    main(prog_name="python -m continuous_integration.fork")
