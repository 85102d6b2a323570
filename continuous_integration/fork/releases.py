"""Releases of ``distributed``: got from the package index, and chosen as the base."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from continuous_integration.fork import ForkError
from continuous_integration.fork.base import Base, folder_base, storage, store
from continuous_integration.fork.project import HOWS, Divergence, read_divergence
from continuous_integration.fork.report import changes
from continuous_integration.fork.syntax import Source, find, fingerprint
from continuous_integration.fork.tree import fork_files

#: The command line of GitHub
GH = ("gh",)


def download(version: str | None, root: Path) -> Base:
    """Return the copy of a release that the project keeps, fetched if there is none.

    Parameters
    ----------
    version
        Of the release; None for the newest that this Python can run
    root
        Folder of the project

    Raises
    ------
    ForkError
        If the package index does not have it
    """
    if version is not None:
        kept = storage(root, version)
        if (kept / "distributed").is_dir():
            return folder_base(kept, version)
    requirement = "distributed" if version is None else f"distributed=={version}"
    with tempfile.TemporaryDirectory() as temporary:
        _run(
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
            *("--only-binary=:all:", "--dest", temporary, requirement),
        )
        (wheel,) = Path(temporary).glob("*.whl")
        found = wheel.name.split("-")[1]
        if "+" in found:
            raise ForkError(
                f"pip offers distributed {found}, a fork; it needs an index that has "
                "the release"
            )
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(temporary)
        return store(folder_base(Path(temporary), found), root)


def choose(root: Path, version: str, bases: Iterable[str]) -> None:
    """Write into ``pyproject.toml`` what the base is, and what else it can be.

    Parameters
    ----------
    root
        Folder of the project
    version
        Of the base
    bases
        Versions of all supported bases

    Raises
    ------
    ForkError
        If the two places cannot be found; nothing is written then
    """
    # A run-time dependency of the base
    from packaging.version import Version

    listed = ", ".join(f'"{v}"' for v in sorted(bases, key=Version))
    _write(
        root,
        {
            r"""(?<=["']distributed==)[^"']+(?=["'])""": version,
            r"(?<=^bases = )\[.*\]$": f"[{listed}]",
        },
    )


def number(root: Path, release: int) -> None:
    """Write the number of a release of the fork into ``pyproject.toml``.

    Raises
    ------
    ForkError
        If its place cannot be found
    """
    _write(root, {r"(?<=^release = )\d+$": str(release)})


def _write(root: Path, values: Mapping[str, str]) -> None:
    """Put values in the place of what matches a pattern in ``pyproject.toml``."""
    path = root / "pyproject.toml"
    text = path.read_text(encoding="utf-8")
    for pattern, value in values.items():
        text, count = re.subn(pattern, value, text, flags=re.MULTILINE)
        if count != 1:
            raise ForkError(
                f"{path} must have one `distributed==VERSION`, one line `bases = "
                "[VERSION, ...]` and one `release = NUMBER`; change it by hand"
            )
    path.write_text(text, encoding="utf-8", newline="\n")


def problems(root: Path, base: Base) -> Iterator[str]:
    """Yield what keeps the fork from being made of a base, a line for each thing."""
    fits = True
    try:
        for change in changes(base, read_divergence(root), []):
            fits = False
            yield f"{change.path}: {change.name} was not reviewed as it is"
        if fits:
            fork_files(root, base)
    except ForkError as error:
        yield str(error)


def forget(divergence: Divergence, bases: Iterable[Base]) -> int:
    """Remove the fingerprints that none of the bases has.

    Returns
    -------
    int
        How many
    """
    copies = list(bases)
    count = 0
    for path, entries in divergence.items():
        recorded = {n: e["base"] for n, e in entries.items() if HOWS[e["how"]]}
        if not recorded:
            continue
        modules = [Source(b.text(path), path) for b in copies if path in b.paths]
        for name, known in recorded.items():
            there = {fingerprint(find(module.tree.body, name)) for module in modules}
            count += len(set(known) - there)
            known[:] = [one for one in known if one in there]
    return count


def tell(title: str, text: str) -> str:
    """Open an issue in the repository, or renew the open one of that title.

    Parameters
    ----------
    title, text
        Of the issue

    Returns
    -------
    str
        Where it is

    Raises
    ------
    ForkError
        If GitHub's command line, ``gh``, is not there or fails
    """
    search = ("--state", "open", "--search", f'in:title "{title}"')
    found = _run(*GH, "issue", "list", *search, "--json", "number,title")
    numbers = [i["number"] for i in json.loads(found) if i["title"] == title]
    command = ("edit", str(numbers[0])) if numbers else ("create",)
    options = ("--title", title, "--body-file", "-")
    return _run(*GH, "issue", *command, *options, given=text).strip()


def _run(*command: str, given: str = "") -> str:
    """Run a command, and return what it prints."""
    try:
        result = subprocess.run(
            command, input=given, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise ForkError(f"{command[0]} cannot be run: {error.strerror}") from None
    if result.returncode:
        said = (result.stderr or result.stdout).strip() or "without a word"
        errors = [li for li in said.splitlines() if li.startswith("ERROR: ")]
        last = (errors or said.splitlines())[-1].removeprefix("ERROR: ")
        name = " ".join((Path(command[0]).stem, *command[1:]))
        raise ForkError(f"`{name}` failed: {last}")
    return result.stdout
