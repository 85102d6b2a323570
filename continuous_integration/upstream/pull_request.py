"""``pull-request``: the fork as a branch of upstream, and its description."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import click

from continuous_integration.fork import ForkError, report
from continuous_integration.fork.base import Base, available_base
from continuous_integration.fork.project import (
    BUILD,
    Divergence,
    our_files,
    read_divergence,
    read_project,
)
from continuous_integration.fork.report import FileDifference
from continuous_integration.upstream import contribution, linters
from continuous_integration.upstream.checkout import PAGES
from continuous_integration.upstream.description import describe
from continuous_integration.upstream.git import run_git

ROOT = Path(__file__).resolve().parents[2]

#: What upstream's repository has, and this project's does not
MARKS = ("distributed/__init__.py", "distributed/scheduler.py", "pyproject.toml")

CODE_MESSAGE = """\
Decide what is root-ish by the flow of data

A task is root-ish when running it brings data into the cluster and it does
not matter where it runs. The scheduler knows the sizes of the inputs when it
asks, and what the group has brought in so far, and weighs the price of copies
against that: loads are recognised whoever wrote them, and tasks that consume
as much as they make stay beside their inputs. The rule as it was, marks and
counts of dependencies, stays as a policy.

All of them go through one queue. It keeps their order, gives tasks whose
outputs meet to one worker, waits for the consumers of what is loaded, and
knows which workers may run a restricted task.
"""

PAGES_MESSAGE = """\
Document which tasks are root-ish, and the order of the queue
"""


@click.command("pull-request")
@click.argument(
    "checkout", type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option(
    "--branch", default="rootish-by-data", show_default=True, help="Branch to make."
)
@click.option("--force", is_flag=True, help="Make the branch anew if it is there.")
@click.option(
    "--check",
    is_flag=True,
    help="First run upstream's linters and type checks on the files of the branch. "
    "They are installed, in the versions that upstream names, into build/upstream.",
)
@click.option(
    "--description",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for the description.  [default: build/upstream/BRANCH.md]",
)
def pull_request(
    checkout: Path, branch: str, force: bool, check: bool, description: Path | None
) -> None:
    """Make a branch for a pull request in CHECKOUT, a checkout of upstream's main.

    The branch starts at the commit that is checked out. It has a commit with the merged
    modules, the settings and the tests, and one with the documentation. What is checked
    out stays as it is. If upstream has changed a definition that the fork replaces,
    extends or relies on, the command shows the difference and makes nothing.
    """
    target = description or ROOT / BUILD / "upstream" / f"{branch.replace('/', '-')}.md"
    try:
        make_branch(checkout, branch, force=force, check=check, description=target)
    except (ForkError, OSError) as error:
        raise click.ClickException(str(error)) from None
    except ModuleNotFoundError as error:  # docutils, tomli
        raise click.ClickException(f"{error}; pip install '.[test]'") from None


def make_branch(
    checkout: Path, branch: str, *, force: bool, check: bool, description: Path
) -> None:
    """Make the branch and write its description, or raise and leave all as it was.

    Parameters
    ----------
    checkout
        Folder of a checkout of upstream's main branch
    branch
        Name of the branch
    force
        Whether it may exist already
    check
        Whether upstream's linters have to pass
    description
        File to write

    Raises
    ------
    ForkError
        If the checkout is not one of upstream, is not clean, has the branch, or if the
        fork does not fit
    """
    project = read_project(ROOT)
    divergence = read_divergence(ROOT)
    start = check_checkout(checkout, divergence)
    check_branch(checkout, branch, force)
    with tempfile.TemporaryDirectory() as temporary:
        copy = _Copy(checkout, start, Path(temporary).resolve())
        base = Base(start[:9], copy.folder, tuple(_files(checkout)))
        refuse_conflicts(base, divergence)
        code = contribution.code(ROOT, base)
        pages = contribution.pages(PAGES, base)
        modules = [path for path in code if path.endswith(".py")]
        new = [path for path in modules if path not in base.paths]
        old = contribution.formatted(copy.folder, set(modules) - set(new))
        copy.write(code)
        contribution.tidy(copy.folder, new, old)
        copy.add(code, CODE_MESSAGE)
        copy.write(pages)
        copy.add(pages, PAGES_MESSAGE)
        checks = ["Upstream's linters were not run."]
        if check:
            tools = ROOT / BUILD / "upstream"
            paths = sorted([*code, *pages])
            checks = linters.run_hooks(copy.folder, paths, tools, click.echo)
    counts = [
        *count(checkout, start, copy.commit),
        "",
        f"names: {report.names(divergence)}",
    ]
    text = describe(ROOT, base=project.base, commit=start, counts=counts, checks=checks)
    description.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=description.parent) as temporary:
        written = Path(temporary) / "description"
        written.write_text(text, encoding="utf-8", newline="\n")
        options = ["--force"] if force else []
        _git(checkout, "branch", "--no-track", *options, branch, copy.commit)
        written.replace(description)
    lines = [*counts, "", *checks] if check else counts
    click.echo("\n".join(lines))
    click.echo(f"\nbranch {branch} in {checkout}, from {start[:9]}")
    click.echo(f"description in {description}")


def check_checkout(checkout: Path, divergence: Divergence) -> str:
    """Return the commit that is checked out, if a branch can start there.

    Raises
    ------
    ForkError
        If it is not a clean checkout of upstream without the fork's modules
    """
    try:
        top = _git(checkout, "rev-parse", "--show-toplevel").strip()
        commit = _git(checkout, "rev-parse", "--verify", "HEAD^{commit}").strip()
    except ForkError as error:
        raise ForkError(f"{checkout} is not a git checkout: {error}") from None
    if Path(top).resolve() != checkout.resolve():
        raise ForkError(f"{checkout} is inside of the checkout {top}; give that")
    paths = set(_files(checkout))
    if missing := [path for path in MARKS if path not in paths]:
        raise ForkError(
            f"{checkout} is not a checkout of upstream: it has no {missing[0]}"
        )
    for path, _ in our_files(ROOT):
        if path not in divergence and path in paths:
            raise ForkError(
                f"{checkout} has {path} already; check out upstream's main branch"
            )
    changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    if changed:
        raise ForkError(
            f"{checkout} is not clean ({changed.splitlines()[0].strip()}); commit or "
            "stash that first, it would not be in the branch"
        )
    return commit


def check_branch(checkout: Path, branch: str, force: bool) -> None:
    """Refuse a name that no new branch can have.

    Raises
    ------
    ForkError
        If it is not valid, is taken, or is checked out
    """
    try:
        _git(checkout, "check-ref-format", "--branch", branch)
    except ForkError:
        raise ForkError(f"{branch!r} cannot be the name of a branch") from None
    full = f"refs/heads/{branch}"
    if not _git(checkout, "for-each-ref", "--format=%(refname)", full):
        return
    if not force:
        raise ForkError(
            f"{checkout} has a branch {branch}; give another --branch, or --force to "
            "make it anew"
        )
    if f"branch {full}" in _git(checkout, "worktree", "list", "--porcelain").split(
        "\n"
    ):
        raise ForkError(f"the branch {branch} is checked out; check out another first")


def refuse_conflicts(base: Base, divergence: Divergence) -> None:
    """Stop at definitions that differ from those that the fork was written for.

    Raises
    ------
    ForkError
        If there are any, with their names and what changed since the release
    """
    try:
        older = [available_base(read_project(ROOT)), *report.kept_bases(ROOT)]
    except ForkError:
        older = []
    found = list(report.changes(base, divergence, older))
    if found:
        parts = [line for c in found for line in ("", f"{c.path}: {c.name}", *c.lines)]
        raise ForkError(
            "upstream has changed what the fork builds on: "
            + ", ".join(change.name for change in found)
            + "\n".join(["", *parts])
        )


def count(checkout: Path, start: str, end: str) -> Iterator[str]:
    """Yield the lines of a table that counts what a branch changes.

    Parameters
    ----------
    checkout
        Folder of the checkout
    start, end
        Commit that the branch starts from, and its last
    """
    diff = ("diff", "--no-renames", "-z", start, end)
    new = _git(checkout, *diff, "--name-only", "--diff-filter=A").split("\0")
    found = []
    for line in _git(checkout, *diff, "--numstat").split("\0")[:-1]:
        added, removed, path = line.split("\t")
        found.append(FileDifference(path, path in new, [], int(added), int(removed)))
    changed = [d for d in found if not d.is_new]
    added_files = [d for d in found if d.is_new]
    yield from report.table(
        {
            "files of upstream that change": changed,
            "  modules": [d for d in changed if d.path.endswith(".py")],
            "  settings": [d for d in changed if d.path.endswith(".yaml")],
            "  documentation": [d for d in changed if d.path.endswith(".rst")],
            "files that are added": added_files,
            "  of these tests": [d for d in added_files if "/tests/" in d.path],
        }
    )


class _Copy:
    """The files of a commit in a folder of their own, and commits that follow it.

    Nothing is written to the checkout that the commit is from but objects, which git
    throws away when no branch needs them.

    Parameters
    ----------
    checkout
        Folder of the checkout
    commit
        What to start from
    temporary
        Empty folder
    """

    def __init__(self, checkout: Path, commit: str, temporary: Path):
        self.folder = temporary / "distributed"
        self.commit = commit
        self._variables = {
            "GIT_DIR": _git(checkout, "rev-parse", "--absolute-git-dir").strip(),
            "GIT_INDEX_FILE": str(temporary / "index"),
            "GIT_WORK_TREE": str(self.folder),
        }
        self.folder.mkdir()
        self._git("read-tree", commit)
        self._git("checkout-index", "--all")

    def _git(self, *arguments: str) -> str:
        return _git(self.folder, *arguments, **self._variables)

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files, for :meth:`add` to commit."""
        for path, content in files.items():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_bytes(content)

    def add(self, paths: Iterable[str], message: str) -> None:
        """Commit files as they are in the folder now."""
        self._git("add", "--", *paths)
        tree = self._git("write-tree").strip()
        options = ("-p", self.commit, "-m", message.strip())
        self.commit = self._git("commit-tree", tree, *options).strip()


def _files(folder: Path) -> list[str]:
    return _git(folder, "ls-files", "-z").split("\0")[:-1]


def _git(folder: Path, *arguments: str, **variables: str) -> str:
    """Run git in a folder and return what it prints."""
    result = run_git("-C", str(folder), *arguments, **variables)
    if result.returncode:
        said = result.stderr.decode(errors="replace").strip().splitlines()
        raise ForkError(f"git {arguments[0]}: {(said or ['without a word'])[-1]}")
    return result.stdout.decode()
