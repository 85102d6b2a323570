"""Files of figures: what was measured, by which command, on which commit.

``docs/figures/NAME.json`` is an object with these fields:

``command``
    Makes the file anew.
``commit``
    What ``distributed/`` was when it was measured: the last commit that touched it, or
    what else the figures are about.
``clean``
    Whether these were as committed. Null if that is not known, because the
    commit was recorded afterwards.
``date``, ``machine``, ``base``
    When, on what (in words), and which release the fork was built on.
``about``
    Paths, as git takes them, whose change makes the figures old.
``note``
    What a reader has to know to read the table.
``values``
    Single figures by name, for sentences.
``head``, ``rows``
    A table; a row may have numbers or text.
``picture``
    Name of a file in the same folder, or nothing.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from continuous_integration.fork import ForkError
from continuous_integration.fork.project import read_project
from continuous_integration.upstream.git import run_git

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path("docs", "figures")

#: What decides which task runs when and where.
SCHEDULER = (
    "distributed/scheduler.py",
    "distributed/stealing.py",
    "distributed/rootish/policy.py",
    "distributed/rootish/families.py",
    "distributed/rootish/handles.py",
    "distributed/rootish/backpressure.py",
    "distributed/rootish/lanes.py",
    "distributed/rootish/queue.py",
)

Cell = str | int | float


@dataclass(frozen=True)
class Figures:
    """What one file holds; the module's docstring describes the fields."""

    command: str
    commit: str
    clean: bool | None
    date: str
    machine: str
    base: str
    about: Sequence[str]
    note: str = ""
    values: Mapping[str, Cell] = field(default_factory=dict)
    head: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    picture: str = ""

    def text(self, name: str) -> str:
        """Return a single figure as people read it.

        Parameters
        ----------
        name
            Of the figure.

        Raises
        ------
        ForkError
            If there is none of that name.
        """
        if name not in self.values:
            raise ForkError(f"there is no figure {name!r}")
        return readable(self.values[name])

    @property
    def source(self) -> str:
        """When and on what this was measured, a sentence."""
        known = {
            True: "",
            False: ", with changes that were not committed",
            None: " or shortly before it",
        }
        return (
            f"Measured on commit {self.commit[:9]}{known[self.clean]}, against "
            f"distributed {self.base}, {self.date}; {self.machine}."
        )


def readable(cell: Cell) -> str:
    """Return a figure as people read it: thousands of whole numbers are set apart.

    Parameters
    ----------
    cell
        Text stays as it is.
    """
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def path_of(name: str, root: Path = ROOT) -> Path:
    """Return the path of a file of figures.

    Parameters
    ----------
    name
        Of the file, without its ending.
    root
        Folder of the project.
    """
    return root / FOLDER / f"{name}.json"


def read(name: str, root: Path = ROOT) -> Figures:
    """Read a file of figures.

    Parameters
    ----------
    name
        Of the file, without its ending.
    root
        Folder of the project.

    Raises
    ------
    ForkError
        If there is no such file, or it is none of figures.
    """
    path = path_of(name, root)
    try:
        figures = Figures(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ForkError(f"{FOLDER.as_posix()}/{name}.json is missing") from None
    except (TypeError, ValueError) as error:
        raise ForkError(f"{path.name} cannot be read: {error}") from None
    if uneven := [row for row in figures.rows if len(row) != len(figures.head)]:
        raise ForkError(
            f"{path.name}: a row has not as many cells as the head: {uneven[0]}"
        )
    return figures


def write_figures(
    name: str,
    *,
    about: Sequence[str],
    note: str = "",
    values: Mapping[str, Cell] | None = None,
    head: Sequence[str] = (),
    rows: Sequence[Sequence[Cell]] = (),
    picture: Path | None = None,
    root: Path = ROOT,
) -> Path:
    """Write what was measured, with the commit that it was measured on.

    Parameters
    ----------
    name
        Of the file, without its ending.
    about
        Paths, as git takes them, whose change makes the figures old.
    note
        What a reader has to know to read the table; sentences.
    values
        Single figures by name.
    head, rows
        A table.
    picture
        A file to copy beside it, under the same name.
    root
        Folder of the project.

    Returns
    -------
    Path
        What was written.

    Raises
    ------
    ForkError
        If the project is not in git.
    """
    paths = ("distributed", *about)
    commit = _git(root, "log", "-1", "--format=%H", "--", *paths)
    if not commit:
        raise ForkError("figures need the commit that they were measured on")
    changes = _git(root, "status", "--porcelain", "--", *paths)
    figures = Figures(
        command=_command(),
        commit=commit,
        clean=not changes,
        date=time.strftime("%Y-%m-%d"),
        machine=machine(),
        base=read_project(root).base,
        about=about,
        note=note,
        values=values or {},
        head=head,
        rows=rows,
        picture=f"{name}{picture.suffix}" if picture else "",
    )
    path = path_of(name, root)
    path.parent.mkdir(parents=True, exist_ok=True)
    if picture:
        target = path.with_name(figures.picture)
        if picture.resolve() != target.resolve():
            shutil.copyfile(picture, target)
    path.write_text(dump(figures), encoding="utf-8", newline="\n")
    return path


def figures_option() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option of a command that can write what it measured.

    It is the parameter ``figures``, a name for :func:`write_figures` or None.
    """
    return click.option(
        "--figures",
        metavar="NAME",
        help=f"Write what was measured to {FOLDER.as_posix()}/NAME.json, for the docs.",
    )


def dump(figures: Figures) -> str:
    """Return figures as JSON with a row of the table on a line, for readable diffs.

    Parameters
    ----------
    figures
        What to write.
    """
    fields = []
    for key, value in asdict(figures).items():
        if key in ("rows", "values") and value:
            pairs = value.items() if key == "values" else ((None, row) for row in value)
            lines = [
                (f"{_json(one)}: " if one else "") + _json(what) for one, what in pairs
            ]
            begin, end = "{}" if key == "values" else "[]"
            text = f"{begin}\n  " + ",\n  ".join(lines) + f"\n {end}"
        else:
            text = _json(value)
        fields.append(f" {_json(key)}: {text}")
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def machine() -> str:
    """Return in words what this runs on."""
    import psutil

    gib = psutil.virtual_memory().total / 2**30
    python = ".".join(platform.python_version_tuple()[:2])
    return (
        f"{os.cpu_count()} cores, {gib:.0f} GiB, {platform.system()}, Python {python}"
    )


def _command() -> str:
    """Return the command that runs, as one types it."""
    spec = sys.modules["__main__"].__spec__
    module = spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).name
    arguments = [argument.replace(f"{ROOT}{os.sep}", "") for argument in sys.argv[1:]]
    return shlex.join(["python", "-m", module, *arguments])


def newer(figures: Figures, root: Path = ROOT) -> int | None:
    """Return how many commits have changed what figures are about, since.

    Parameters
    ----------
    figures
        What was measured.
    root
        Folder of the project.

    Returns
    -------
    int or None
        None if the history that is here does not tell.
    """
    try:
        count = _git(
            root, "rev-list", "--count", f"{figures.commit}..HEAD", "--", *figures.about
        )
    except ForkError:
        return None
    return int(count)


def _git(root: Path, *arguments: str) -> str:
    result = run_git("-C", str(root), *arguments)
    if result.returncode:
        raise ForkError(f"git {arguments[0]}: {result.stderr.decode().strip()}")
    return result.stdout.decode().strip()
