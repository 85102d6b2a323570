"""Numbers in prose that look measured and come out of no file of figures.

A number with a unit, a percentage, "so many times", or a ratio with two decimals. Code
and literals are not looked at. What is no result, but a setting, the input of an
example, or a bound, is listed in ``ALLOWED``, page by page, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from continuous_integration.figures.pages import REGION, SPAN

UNITS = (
    "[kKMGT]i?B|bytes|ns|µs|ms|s|microseconds|milliseconds|seconds|minutes|hours|"
    "times|x|lines|passed|failed"
)
MEASURED = re.compile(
    rf"""
    (?<![\w.])
    (?: \d[\d,.]*\d? \s* (?: (?:{UNITS})\b | % )   # with a unit
      | \d{{1,2}}\.\d\d (?![\d.]*\d)               # a ratio
      | \d+(?:\.\d+)? \s+ (?: → | of | to ) \s+ \d+  # one and another
    )
    """,
    re.VERBOSE,
)

#: Page -> what stands there -> why it is no result.
ALLOWED: Mapping[str, Mapping[str, str]] = {
    "README.md": {"Python (3.10 or later)": "a version"},
    "docs/decision.rst": {
        "Outputs of up to 32 KiB": "a number of the decision",
        "at least 32 KiB": "a number of the decision",
        "bring in 1 MiB": "a number of the decision",
        "more than 32 KiB": "a number of the decision",
        ", 1 MiB": "a number of the decision",
        ", 32 KiB": "a number of the decision",
        ", 4.6": "a number of the queue",
        "(32 KiB or less)": "a number of the decision",
    },
    "docs/explain.rst": {
        "160 chunks of 2 MiB": "the input of the example",
        "between 0.75 and 1.33 times": "a bound of the comparison",
    },
    "docs/faults.rst": {
        "8 Zarr arrays of 12 chunks of 128 KiB": "the input of the scenarios",
        "limit of 640 MB": "a setting of the scenarios",
        "up to 87 %": "a setting of the scenarios",
        "30 s by default": "a default of the base",
    },
    "docs/howto.rst": {
        "512 MiB, in 128 chunks of 4 MiB": "the input of the example",
        "(The 4 MiB": "the input of the example",
    },
    "docs/maintain.rst": {
        "Python 3.10": "a version",
        "Python 3.11": "a version",
        "more than 2 %": "a bound of the ratchet",
    },
    "docs/replay.rst": {"between 0.8 and 1.25": "a bound of the comparison"},
    "docs/queue.rst": {
        "64 chunks of 2 MiB": "the input of the picture",
        "4.6 times the largest output": "a number of the queue",
        "counts as 1 MiB": "a number of the queue",
        "to send 1 MiB": "a number of the decision",
        "32 KiB or less": "a number of the decision",
        "0.2 seconds": "a number of the queue",
        "more than 32 KiB": "a number of the decision",
    },
    "docs/readers.rst": {"48 chunks of 128 KiB": "the input of the readers"},
    "continuous_integration/upstream/docs/scheduling-policies.rst": {
        "32 KiB": "a number of the decision",
        "1 MiB is assumed": "a number of the decision",
        "4.6 times the largest output": "a number of the queue",
    },
}

#: Directives whose content is prose.
_PROSE = {"list-table", "note", "warning"}


def strays(path: str, text: str) -> Iterator[str]:
    """Yield a line for each number that comes out of no file, and for idle exceptions.

    Parameters
    ----------
    path
        Of the page, from the project's folder.
    text
        The page.
    """
    prose = _markdown(text) if path.endswith(".md") else _rst(text)
    for phrase in ALLOWED.get(path, {}):
        pattern = r"\s+".join(map(re.escape, phrase.split()))
        prose, count = re.subn(pattern, _same_lines, prose)
        if not count:
            yield f"{path}: the exception {phrase!r} is not there any more"
    for found in MEASURED.finditer(prose):
        line = prose.count("\n", 0, found.start()) + 1
        what = " ".join(found[0].split())
        yield f"{path}:{line}: {what!r} comes out of no file of figures"


def _same_lines(match: re.Match[str]) -> str:
    """Return nothing, on as many lines."""
    return "\n" * match[0].count("\n")


def _markdown(text: str) -> str:
    for pattern in (
        REGION,
        SPAN,
        re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE),
        re.compile(r"`[^`]*`"),
    ):
        text = pattern.sub(_same_lines, text)
    return text


def _rst(text: str) -> str:
    lines = []
    skipped: int | None = None  # indentation of what begins a literal block
    for line in text.split("\n"):
        indentation = len(line) - len(line.lstrip())
        if skipped is not None and (not line.strip() or indentation > skipped):
            lines.append("")
            continue
        skipped = None
        directive = re.match(r"\s*\.\. ([\w-]+)::", line)
        comment = re.match(r"\s*\.\. (?!_|\[)", line)
        if directive:
            if directive[1] not in _PROSE:
                skipped = indentation
            line = ""
        elif comment or line.rstrip().endswith("::"):
            skipped = indentation
        lines.append("" if comment else line)
    # Literals, then roles and links
    return re.sub(
        r"``.+?``|:[\w:]+:`[^`]+`|`[^`]+`_", _same_lines, "\n".join(lines), flags=re.S
    )


def pages(root: Path) -> Iterator[Path]:
    """Yield what people read.

    Parameters
    ----------
    root
        Folder of the project.
    """
    upstream = root / "continuous_integration" / "upstream"
    yield root / "README.md"
    yield upstream / "description.md"
    for folder in (root / "docs", upstream / "docs"):
        yield from sorted(folder.glob("*.rst"))
