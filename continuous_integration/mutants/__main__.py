"""Command line: ``python -m continuous_integration.mutants``."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path

import click

from continuous_integration.fork import ForkError
from continuous_integration.mutants.hunt import (
    PATIENCE,
    PRELOADED,
    Hunt,
    Outcome,
    preload,
)
from continuous_integration.mutants.modules import DEFAULT, TESTS, Module
from continuous_integration.mutants.mutate import Mutant
from continuous_integration.mutants.record import MODULES, ROOT, Recorded, read
from continuous_integration.upstream.git import run_git

#: Why mutants may survive, by their keys
LISTED = Path(__file__).with_name("survivors.json")


def changed_lines(root: Path, path: str, since: str) -> set[int]:
    """Return the lines of a file that a commit does not have like this.

    Parameters
    ----------
    root
        Folder of the project.
    path
        Of the file, relative to it.
    since
        The commit.

    Raises
    ------
    ForkError
        If there is no such commit.
    """
    diff = ("diff", "--unified=0", "--no-color", "--no-ext-diff", since, "--", path)
    result = run_git("-C", str(root), *diff)
    if result.returncode:
        raise ForkError(result.stderr.decode().strip())
    lines: set[int] = set()
    hunk = re.compile(r"^@@ -\S+ \+(\d+)(?:,(\d+))? @@", re.MULTILINE)
    for first, number in hunk.findall(result.stdout.decode("utf-8", "replace")):
        lines |= set(range(int(first), int(first) + int(number or 1)))
    return lines


def choose(modules: Iterable[Module], since: str | None) -> list[Mutant]:
    """Return the mutants to try.

    Parameters
    ----------
    modules
        What is looked at.
    since
        A commit, for mutants of lines that it does not have; None for all.
    """
    chosen: list[Mutant] = []
    for module in modules:
        if since is None:
            chosen += module.mutants
        elif lines := changed_lines(module.root, module.path, since):
            chosen += [
                mutant
                for mutant in module.mutants
                if not lines.isdisjoint(range(mutant.first, mutant.last + 1))
            ]
    return chosen


def record(
    root: Path, modules: Sequence[Module], tests: Sequence[str], jobs: int
) -> None:
    """Run tests, and note which lines each of them runs.

    Parameters
    ----------
    root
        Folder of the project.
    modules
        What is looked at.
    tests
        Files or folders.
    jobs
        How many processes run tests.
    """
    command = (
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"),
        *("-p", "continuous_integration.mutants.record", *tests),
    )
    if jobs > 1:
        command += (f"--numprocesses={jobs}",)
    paths = os.pathsep.join(module.path for module in modules)
    python = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, MODULES: paths, "PYTHONPATH": python.strip(os.pathsep)}
    subprocess.run(
        command, cwd=root, env=environment, stdout=sys.stderr.fileno(), check=False
    )


def known(
    root: Path, modules: Sequence[Module], tests: Sequence[str], jobs: int, again: bool
) -> Recorded:
    """Return which test runs what; if that is not known, find it out."""
    texts = {module.path: module.text for module in modules}
    if not again:
        try:
            return read(root, texts)
        except ForkError as error:
            click.echo(f"{error}; recording ...", err=True)
    record(root, modules, tests, jobs)
    return read(root, texts)


def hunt(
    hunter: Hunt, mutants: Sequence[Mutant], limit: float, verbose: bool
) -> list[Outcome]:
    """Try mutants with a bar of progress, and a line for each that is not noticed.

    Parameters
    ----------
    hunter
        Tries them.
    mutants
        What to try.
    limit
        Seconds after which no more are begun.
    verbose
        Whether there is a line for each that is noticed as well.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    outcomes = []
    end = time.monotonic() + limit
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True, highlight=False, soft_wrap=True),
    ) as progress:
        bar = progress.add_task("Mutants", total=len(mutants))
        tried = hunter.run(mutants, until=lambda: time.monotonic() > end)
        # Whoever has seen enough still wants to know what came out
        with closing(tried), suppress(KeyboardInterrupt):
            for outcome in tried:
                outcomes.append(outcome)
                progress.advance(bar)
                if verbose or not outcome.noticed:
                    progress.console.print(describe(outcome), markup=False)
    return outcomes


def describe(outcome: Outcome) -> str:
    """Return a line about what became of a mutant."""
    if outcome.noticed:
        what = f"{outcome.noticed} {outcome.how}"
    elif outcome.left:
        what = f"passes; {outcome.left} of {outcome.tests} tests were not tried"
    elif outcome.tests:
        what = f"survives {outcome.tests} tests"
    else:
        what = "survives: no test runs it"
    return f"{outcome.mutant}: {what} ({outcome.seconds:.1f} s)"


def complaints(
    outcomes: Sequence[Outcome], listed: dict[str, str], modules: Sequence[Module]
) -> tuple[list[str], list[str]]:
    """Return what must not be, and what need not be listed any more.

    Parameters
    ----------
    outcomes
        Of the mutants that were tried.
    listed
        Reasons why mutants may survive, by their keys.
    modules
        What is looked at; of other modules nothing is said.
    """
    wrong = [
        describe(outcome)
        for outcome in outcomes
        if outcome.survives and not listed.get(outcome.mutant.key)
    ]
    there = {mutant.key for module in modules for mutant in module.mutants}
    noticed = {outcome.mutant.key: outcome for outcome in outcomes if outcome.noticed}
    paths = {module.path for module in modules}
    idle = []
    for key in listed:
        if key in noticed:
            idle.append(f"{key}: listed, but {noticed[key].noticed} notices")
        elif key.partition(" ")[0] in paths and key not in there:
            idle.append(f"{key}: listed, but there is no such mutant")
    return wrong, idle


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("modules", nargs=-1)
@click.option("--change", metavar="REF", help="Only of lines that this commit has not.")
@click.option("--jobs", "-j", default=os.cpu_count() or 1, type=click.IntRange(1))
@click.option(
    "--seconds",
    default=float("inf"),
    help="How long the tests of one mutant may take, as recorded.",
)
@click.option("--limit", default=float("inf"), help="Begin none after so many seconds.")
@click.option("--tests", multiple=True, default=TESTS, help="Files or folders.")
@click.option("--replay", multiple=True, help="A recording that may notice as well.")
@click.option("--record", "again", is_flag=True, help="Record the tests anew.")
@click.option("--grep", "-k", help="Only of which the name has this.")
@click.option("--json", "as_json", is_flag=True, help="Print outcomes as JSON.")
@click.option("--verbose", "-v", is_flag=True, help="Also tell who notices what.")
@click.option("--patience", default=PATIENCE, hidden=True)
@click.option("--root", default=ROOT, type=click.Path(path_type=Path), hidden=True)
@click.option("--listed", default=LISTED, type=click.Path(path_type=Path), hidden=True)
def main(
    modules: tuple[str, ...],
    change: str | None,
    jobs: int,
    seconds: float,
    limit: float,
    tests: tuple[str, ...],
    replay: tuple[str, ...],
    again: bool,
    grep: str | None,
    as_json: bool,
    verbose: bool,
    patience: float,
    root: Path,
    listed: Path,
) -> None:
    """Take out each clause and each number of MODULES in turn, and see who notices.

    MODULES are paths such as distributed/rootish/queue.py, by default those of decision
    and queue. Fails if a mutant survives that survivors.json does not list with a
    reason. Which tests run what is recorded first, and kept until a module or test
    changes.
    """
    if "PYTHONHASHSEED" not in os.environ:
        # The scheduler goes through sets; what survives is to do so again
        command = [sys.executable, "-m", "continuous_integration.mutants"]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        sys.exit(subprocess.call([*command, *sys.argv[1:]], env=environment))
    try:
        looked_at = [Module(root, path) for path in modules or DEFAULT]
        # With another order, those of the same function come at different times
        mutants = sorted(
            choose(looked_at, change), key=lambda m: sha256(m.key.encode()).digest()
        )
        mutants = [mutant for mutant in mutants if not grep or grep in str(mutant)]
        if not mutants:
            click.echo("No mutants")
            return
        # A number may be of use in others
        others = [Module(root, path) for path in DEFAULT if (root / path).is_file()]
        seen = [*looked_at, *(m for m in others if m.path not in modules and modules)]
        preload(PRELOADED if any(m.path in DEFAULT for m in seen) else ())
        recorded = known(root, seen, tests, jobs, again)
        hunter = Hunt(root, seen, recorded, jobs, seconds, replay, patience)
        hunter.check()
        outcomes = hunt(hunter, mutants, limit, verbose)
    except ForkError as error:
        raise click.ClickException(str(error)) from None
    content = json.loads(listed.read_text(encoding="utf-8"))
    wrong, idle = complaints(outcomes, content, looked_at)
    report(outcomes, len(mutants), wrong, idle, as_json)
    try:
        # A test that fails by chance has noticed nothing
        hunter.check(sorted({o.noticed for o in outcomes if o.noticed}))
    except ForkError as error:
        raise click.ClickException(str(error)) from None
    if wrong:
        sys.exit(1)


def report(
    outcomes: Sequence[Outcome],
    chosen: int,
    wrong: Sequence[str],
    idle: Sequence[str],
    as_json: bool,
) -> None:
    """Print what came out.

    Parameters
    ----------
    outcomes
        Of the mutants that were tried.
    chosen
        How many were to be.
    wrong, idle
        See :func:`complaints`.
    as_json
        Whether outcomes are printed as JSON, and the rest to standard error.
    """
    if as_json:
        rows = [outcome.as_json() for outcome in outcomes]
        click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
    for line in [*idle, *sorted(wrong)]:
        click.echo(line, err=as_json)
    how = Counter(outcome.how for outcome in outcomes)
    passed = how.pop("passes", 0)
    survive = sum(outcome.survives for outcome in outcomes)
    parts = [f"{number} {name}" for name, number in sorted(how.items())]
    noticed = f"{how.total()} are noticed" + (f" ({', '.join(parts)})" if parts else "")
    line = f"{len(outcomes)} mutants: {noticed}, {survive} survive"
    if survive:
        line += f", {survive - len(wrong)} of them listed with a reason"
    click.echo(line, err=as_json)
    if undecided := passed - survive:
        click.echo(f"{undecided} pass the tests that there was time for", err=as_json)
    if left := chosen - len(outcomes):
        click.echo(f"{left} more were left out, for lack of time", err=as_json)


if __name__ == "__main__":
    main()
