"""The description of a pull request, with what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import Template

from continuous_integration.fork import ForkError
from continuous_integration.upstream.markdown import sections

TEMPLATE = Path(__file__).with_name("description.md")


def describe(
    root: Path, *, base: str, commit: str, counts: Sequence[str], checks: Sequence[str]
) -> str:
    """Return the description, in Markdown.

    What was measured comes from ``docs/results.rst`` and the figures that it shows.

    Parameters
    ----------
    root
        Folder of this project
    base
        Version of the release that was measured against
    commit
        Of upstream, that the branch starts from
    counts
        Lines of the table that counts files and lines
    checks
        What was checked, a line for each

    Raises
    ------
    ForkError
        If what was measured cannot be read
    """
    first, *rest = sections(root / "docs" / "results.rst")
    evidence = [f"### {first.title}", first.text]
    for section in rest:
        head = f"<details><summary>{section.title}</summary>"
        evidence += [head, section.text, "</details>"]
    template = Template(TEMPLATE.read_text(encoding="utf-8"))
    try:
        return template.substitute(
            base=base,
            commit=commit,
            counts="\n".join(counts),
            checks="\n".join(f"- {line}" for line in checks),
            evidence="\n\n".join(evidence),
        )
    except (KeyError, ValueError) as error:
        raise ForkError(f"{TEMPLATE.name}: cannot be filled in: {error}") from None
