"""What is read from a git checkout of upstream, which is never written to."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import click

from continuous_integration.upstream.git import run_git
from continuous_integration.upstream.partial_pages import bring_up_to_date

#: Where a checkout comes from.
URL = "https://github.com/dask/distributed"

#: Files beside the package that make its tests run as they do there.
SETTINGS = ("conftest.py", "pyproject.toml")

#: What else tests read, if the checkout has it.
_ALSO_READ = ("docs/source/prometheus.rst",)

#: The parts of upstream's pages that are ours.
PAGES = Path(__file__).with_name("docs")


class _GitError(Exception):
    """Its text is what git says is wrong, in one line."""


@dataclass(frozen=True)
class Checkout:
    """The commit that is checked out; what is not committed is left out.

    Attributes
    ----------
    folder : Path
        Its root.
    commit : str
        Hash of the commit.
    description : str
        The same for people: the last tag, and how far the commit is from it.
    paths : tuple of str
        The files that tests need, beside the package as installed: those below its
        ``tests`` folders, and a few more; with forward slashes.
    """

    folder: Path
    commit: str
    description: str
    paths: tuple[str, ...]

    @property
    def modules(self) -> list[str]:
        """The modules of tests."""
        return [path for path in self.paths if PurePosixPath(path).match("test_*.py")]

    def select(self, names: Sequence[str]) -> list[str]:
        """Return the modules that are meant; without names, all.

        Parameters
        ----------
        names
            Paths of modules, or how such paths end, from a folder on.

        Raises
        ------
        click.ClickException
            When there is none for a name.
        """
        chosen = set()
        for name in names:
            wanted = PurePosixPath(name.replace(os.sep, "/")).parts
            found = {
                path
                for path in self.modules
                if PurePosixPath(path).parts[-len(wanted) :] == wanted
            }
            if not found:
                raise click.ClickException(
                    f"no module of tests {name} in {self.folder}: give a path such as "
                    f"{self.modules[0]}"
                )
            chosen |= found
        return [path for path in self.modules if not names or path in chosen]


def _git(*arguments: str | Path) -> bytes:
    result = run_git(*map(str, arguments), LC_ALL="C")
    if result.returncode:
        raise _GitError(_reason(result.stderr.decode(errors="replace")))
    return result.stdout


def _reason(printed: str) -> str:
    """Return the line that says what is wrong; advice may come after it."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    fatal = [line.removeprefix("fatal: ") for line in lines if "fatal: " in line]
    return (fatal or lines[-1:] or ["without a word"])[0]


def clone(folder: Path, tag: str) -> None:
    """Clone one tag, without its history.

    Parameters
    ----------
    folder
        Where to; it must not exist.
    tag
        Name of the tag.

    Raises
    ------
    click.ClickException
        When it cannot be had.
    """
    if folder.exists():
        raise click.ClickException(
            f"{folder} is there already: use it without --clone, or name another folder"
        )
    try:
        _git("clone", "--quiet", "--depth=1", f"--branch={tag}", "--", URL, folder)
    except _GitError as error:
        raise click.ClickException(
            f"{URL} cannot be cloned: {error}; give a checkout of its tag {tag} that "
            "was made elsewhere"
        ) from None


def open_checkout(folder: Path) -> Checkout:
    """Look at a checkout.

    Parameters
    ----------
    folder
        Its root.

    Raises
    ------
    click.ClickException
        When it is not there, or not one of upstream.
    """
    if not folder.is_dir():
        raise click.ClickException(
            f"no folder {folder}: give a git checkout of {URL}, or add --clone to make "
            "one there"
        )
    refusal = f"{folder} is not the root of a git checkout of {URL}"
    try:
        commit = _git("-C", folder, "rev-parse", "HEAD").decode().strip()
        listing = _git("-C", folder, "ls-tree", "-r", "-z", "--name-only", "HEAD")
        described = _git("-C", folder, "describe", "--tags", "--always")
    except _GitError as error:
        raise click.ClickException(f"{refusal}: {error}") from None
    files = listing.decode().split("\0")
    paths = tuple(
        path
        for path in files
        if path in (*SETTINGS, *_ALSO_READ)
        or (path.startswith("distributed/") and "tests" in path.split("/")[1:-1])
    )
    checkout = Checkout(folder, commit, described.decode().strip(), paths)
    # This project has a folder `distributed` too, but the package is not complete
    needed = {"distributed/__init__.py", *SETTINGS}
    if not needed <= set(files) or not checkout.modules:
        raise click.ClickException(refusal)
    return checkout


def _remove(site: Path) -> None:
    for folder in sorted((site / "distributed").rglob("tests"), reverse=True):
        shutil.rmtree(folder)
    for name in (*SETTINGS, *_ALSO_READ):
        (site / name).unlink(missing_ok=True)
        # Not folders that something else is in
        with contextlib.suppress(OSError):
            for parent in list(PurePosixPath(name).parents)[:-1]:
                (site / parent).rmdir()


@contextlib.contextmanager
def laid_out(checkout: Checkout, sites: Sequence[Path]) -> Iterator[None]:
    """Keep copies of the tests beside installed packages for a while.

    What was left there when a process was killed goes first.

    Parameters
    ----------
    checkout
        Whose tests.
    sites
        Folders with a package ``distributed`` that has no tests.
    """
    what = ("archive", "--format=zip", checkout.commit, "--", *checkout.paths)
    try:
        archive = _git("--literal-pathspecs", "-C", checkout.folder, *what)
    except _GitError as error:
        raise click.ClickException(
            f"the tests in {checkout.folder} cannot be read: {error}"
        ) from None
    with contextlib.ExitStack() as stack:
        for site in sites:
            _remove(site)
            stack.callback(_remove, site)
            with zipfile.ZipFile(io.BytesIO(archive)) as file:
                file.extractall(site)
        yield


def document(site: Path, parts: Path = PAGES) -> None:
    """Let the pages that tests read say what the fork has them say.

    A test compares the metrics with the page that lists them, and the fork brings its
    own.

    Parameters
    ----------
    site
        Folder of the fork, with the tests beside it.
    parts
        Folder with the parts of pages that are ours.

    Raises
    ------
    ForkError
        If a part does not fit the page.
    """
    for name in _ALSO_READ:
        page, part = site / name, parts / PurePosixPath(name).name
        if page.exists() and part.exists():
            text = bring_up_to_date(name, page.read_text(encoding="utf-8"), part)
            page.write_text(text, encoding="utf-8")
