"""Command line of the figures: ``python -m continuous_integration.figures``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import click

from continuous_integration.figures import files, pages, prose
from continuous_integration.figures.files import FOLDER, ROOT, Figures
from continuous_integration.fork import ForkError
from continuous_integration.fork.report import current_counts

#: What is quick is made anew, and must be as in its file.
QUICK: Mapping[str, Callable[[Path], Mapping[str, files.Cell]]] = {
    "fork": current_counts,
}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Put figures into what people read, and see that none is stale."""


@main.command()
def write() -> None:
    """Write the figures between the comments of README.md and description.md anew."""
    for page in prose.pages(ROOT):
        if page.suffix == ".md":
            text = page.read_text(encoding="utf-8")
            try:
                new = pages.markdown(text)
            except ForkError as error:
                raise click.ClickException(f"{page.name}: {error}") from None
            if new != text:
                page.write_text(new, encoding="utf-8", newline="\n")
                click.echo(f"{page.relative_to(ROOT)} written")


@main.command()
def check() -> None:
    """Fail if a figure is not what its file says, or comes out of no file.

    Files that are older than the code that they are about are listed.
    """
    complaints = list(wrong(ROOT))
    for line in [*complaints, *older(ROOT)]:
        click.echo(line)
    if complaints:
        raise click.ClickException(f"{len(complaints)} complaints")


def wrong(root: Path) -> Iterator[str]:
    """Yield a line for everything that must not be.

    Parameters
    ----------
    root
        Folder of the project.
    """
    known = {path.stem for path in (root / FOLDER).glob("*.json")}
    used: set[str] = set()
    for page in prose.pages(root):
        path = page.relative_to(root).as_posix()
        text = page.read_text(encoding="utf-8")
        is_markdown = page.suffix == ".md"
        shown, single = pages.used(text, is_markdown)
        used |= shown | {reference.partition(".")[0] for reference in single}
        try:
            for name in sorted(shown):
                files.read(name, root)
            for reference in sorted(single):
                pages.figure(reference, root)
            if is_markdown and pages.markdown(text, root) != text:
                yield (
                    f"{path}: not as in the files of figures; "
                    "python -m continuous_integration.figures write"
                )
        except ForkError as error:
            yield f"{path}: {error}"
        if is_markdown and re.search(r"^ *<!--figure ", text, re.MULTILINE):
            yield f"{path}: a line that begins with a figure is HTML, not Markdown"
        yield from prose.strays(path, text)
    for name in sorted(known - used):
        yield f"{FOLDER.as_posix()}/{name}.json: no page has it"
    for name, make in QUICK.items():
        if name in known and (now := make(root)) != files.read(name, root).values:
            command = files.read(name, root).command
            yield f"{FOLDER.as_posix()}/{name}.json: it is {now} now; {command}"


def older(root: Path) -> Iterator[str]:
    """Yield a line for each file that is older than the code that it is about.

    Parameters
    ----------
    root
        Folder of the project.
    """
    unknown = []
    for path in sorted((root / FOLDER).glob("*.json")):
        try:
            figures = files.read(path.stem, root)
        except ForkError as error:
            yield str(error)
            continue
        if path.stem in QUICK:
            continue
        count = files.newer(figures, root)
        if count is None:
            unknown.append(path.stem)
        elif count or figures.clean is False:
            yield _older(path.stem, figures, count)
    if unknown:
        yield (
            "the history that is here does not tell whether these are older than the "
            f"code (git fetch --unshallow brings it): {', '.join(unknown)}"
        )


def _older(name: str, figures: Figures, count: int) -> str:
    why = [f"{count} commits since {figures.commit[:9]}"] if count else []
    if figures.clean is False:
        why.append("measured on changes that were not committed")
    return f"older: {name}: {', '.join(why)}\n    {figures.command}"


if __name__ == "__main__":
    main(prog_name="python -m continuous_integration.figures")
