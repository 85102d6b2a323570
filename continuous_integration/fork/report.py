"""Differences between the fork and its base, and between two bases."""

from __future__ import annotations

import difflib
import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from continuous_integration.fork.base import (
    Base,
    available_base,
    folder_base,
    storage,
)
from continuous_integration.fork.merge import changed_names
from continuous_integration.fork.project import (
    BUILD,
    Divergence,
    Project,
    read_divergence,
    read_project,
)
from continuous_integration.fork.syntax import Source, find, fingerprint
from continuous_integration.fork.tree import VERSION_FILE, fork_files


class FileDifference(NamedTuple):
    """What the fork does to one file.

    Parameters
    ----------
    path
        Of the file
    is_new
        Whether the base has no such file
    lines
        Of the unified diff, without line ends
    added, removed
        Numbers of lines
    """

    path: str
    is_new: bool
    lines: list[str]
    added: int
    removed: int

    @property
    def added_lines(self) -> set[int]:
        """Numbers of the lines in the fork's file that the base's does not have."""
        found = set()
        number = 0
        for line in self.lines[2:]:
            if hunk := re.match(r"@@ -\S+ \+(\d+)", line):
                number = int(hunk[1])
            elif line[0] != "-":
                if line[0] == "+":
                    found.add(number)
                number += 1
        return found


def differences(base: Base, files: Mapping[str, bytes]) -> list[FileDifference]:
    """Compare the files of the fork with those of the base.

    Parameters
    ----------
    base
        The base
    files
        What the fork has for them, see :func:`.tree.fork_files`

    Returns
    -------
    list
        Modules of the base first, then its other files: that is the divergence
    """
    result = []
    for path in sorted(files):
        is_new = path not in base.paths
        lines = list(
            difflib.unified_diff(
                [] if is_new else _lines(base.text(path)),
                _lines(files[path].decode("utf-8")),
                "/dev/null" if is_new else f"a/{path}",
                f"b/{path}",
                lineterm="",
            )
        )
        counts = Counter(line[0] for line in lines[2:])
        result.append(FileDifference(path, is_new, lines, counts["+"], counts["-"]))
    return sorted(result, key=lambda d: (d.is_new, not d.path.endswith(".py")))


def summary(
    project: Project, divergence: Divergence, found: list[FileDifference]
) -> Iterator[str]:
    """Yield the lines of the table of counts, and each name with its reason."""
    python = [d for d in found if d.path.endswith(".py")]
    yield f"distributed {project.version} against its base {project.base}"
    yield ""
    yield from table(
        {
            "files of the base that change": [d for d in found if not d.is_new],
            "  of these Python": [d for d in python if not d.is_new],
            "files that are added": [d for d in found if d.is_new],
            "total": found,
        }
    )
    yield ""
    yield f"names: {names(divergence)}"
    for path, entries in divergence.items():
        yield ""
        yield path
        for name, entry in entries.items():
            yield from textwrap.wrap(
                f"{entry['how']} {name}: {entry['why']}",
                initial_indent="  ",
                subsequent_indent="    ",
                width=88,
                break_on_hyphens=False,
            )
    yield ""
    yield "files"
    for d in found:
        kind = "added" if d.is_new else "changed"
        yield f"  {d.path}: {kind}, +{d.added} -{d.removed}"
    yield f"  {VERSION_FILE}: written by the build"


def table(rows: Mapping[str, Sequence[FileDifference]]) -> Iterator[str]:
    """Yield the lines of a table that counts files and lines, a row for each title."""
    yield f"{'':32}{'files':>6}{'+':>7}{'-':>6}"
    for title, part in rows.items():
        added, removed = sum(d.added for d in part), sum(d.removed for d in part)
        yield f"{title:32}{len(part):6}{added:7}{removed:6}"


def names(divergence: Divergence) -> str:
    """Return how many names of the base are replaced, extended, and so on."""
    hows = Counter(
        e["how"] for entries in divergence.values() for e in entries.values()
    )
    return ", ".join(
        f"{hows[how]} {title}"
        for how, title in [
            ("replaces", "replaced"),
            ("extends", "extended"),
            ("adds", "added"),
            ("appends", "statements appended"),
            ("relies-on", "relied on"),
        ]
    )


#: What is counted apart from the others, and where it is.
_PARTS = {
    "scheduler": ("distributed/scheduler.py",),
    "stealing": ("distributed/stealing.py",),
    "visible": (
        "distributed/client.py",
        "distributed/dashboard/scheduler.py",
        "distributed/http/scheduler/prometheus/core.py",
    ),
    "settings": ("distributed/distributed.yaml", "distributed/distributed-schema.yaml"),
}


def current_counts(root: Path) -> dict[str, int]:
    """Return the counts that the README has, of the fork as it is.

    Parameters
    ----------
    root
        Folder of the project
    """
    base = available_base(read_project(root))
    found = differences(base, fork_files(root, base))
    return counts(found, read_divergence(root))


def counts(found: list[FileDifference], divergence: Divergence) -> dict[str, int]:
    """Return the counts that the README has.

    Parameters
    ----------
    found
        Differences to the base
    divergence
        What becomes of which name
    """
    touched = [d for d in found if not d.is_new]
    hows = Counter(
        e["how"] for e in divergence.get("distributed/scheduler.py", {}).values()
    )
    result = {
        "files": len(touched),
        "python": sum(d.path.endswith(".py") for d in touched),
        "replaced": hows["replaces"],
        "extended": hows["extends"],
    }
    for part, paths in _PARTS.items():
        of_it = [d for d in touched if d.path in paths]
        result[f"{part}.added"] = sum(d.added for d in of_it)
        result[f"{part}.changed"] = sum(d.removed for d in of_it)
    return result


class Change(NamedTuple):
    """A definition of the base that differs from those that were reviewed.

    Parameters
    ----------
    path, name
        Where it is
    fingerprint
        That it has now
    lines
        Its difference to one that was reviewed, or all of it if no copy of such is at
        hand
    """

    path: str
    name: str
    fingerprint: str
    lines: list[str]


def changes(base: Base, divergence: Divergence, older: list[Base]) -> Iterator[Change]:
    """Yield the definitions of a base that have to be reviewed.

    Parameters
    ----------
    base
        The base to use
    divergence
        With the fingerprints of the definitions that were reviewed
    older
        Copies of other bases. The first one where the fingerprint of a definition fits
        is what it is compared with.

    Raises
    ------
    ForkError
        If the base has no definition of some name
    """
    for path, declared in divergence.items():
        if not path.endswith(".py") or path not in base.paths:
            continue
        source = Source(base.text(path), path)
        for name in changed_names(source, declared):
            new = _definition(source, name)
            now = fingerprint(find(source.tree.body, name))
            lines = new
            for other in older:
                if path not in other.paths:
                    continue
                old = Source(other.text(path), path)
                nodes = find(old.tree.body, name)
                if nodes and fingerprint(nodes) in declared[name].get("base", ()):
                    titles = f"{path} of {other.version}", f"{path} of {base.version}"
                    lines = list(
                        difflib.unified_diff(
                            _definition(old, name), new, *titles, lineterm=""
                        )
                    )
                    break
            yield Change(path, name, now, lines)


def kept_bases(root: Path) -> list[Base]:
    """Return the copies of bases that the project's build folder keeps."""
    prefix = storage(root, "").name
    return [
        folder_base(folder, folder.name[len(prefix) :])
        for folder in sorted((root / BUILD).glob(f"{prefix}*"), reverse=True)
        if (folder / "distributed").is_dir()
    ]


def _lines(text: str) -> list[str]:
    # Not `splitlines`, see `Source`; what is behind the last line end is not a line
    return text.removesuffix("\n").split("\n")


def _definition(source: Source, name: str) -> list[str]:
    nodes = find(source.tree.body, name)
    return [line for node in nodes for line in source.text(source.span(node))]
