"""Try faults on real processes: ``python -m continuous_integration.faults``."""

from __future__ import annotations

import csv
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from continuous_integration.benchmarks.measure import POLICIES
from continuous_integration.faults import storage
from continuous_integration.faults.run import (
    Fault,
    Outcome,
    Scenario,
    Setting,
    observe,
)
from continuous_integration.faults.scenarios import SCENARIOS, reference
from continuous_integration.figures import SCHEDULER, figures_option, write_figures
from distributed.rootish.tables import text_table

#: Titles of the columns of :func:`row`
HEAD = ("scenario", "runs", "wrong", "did not end", "managed peak in bytes", "seen")


def row(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a row of the table.

    Parameters
    ----------
    outcomes
        All runs of one scenario.

    Returns
    -------
    list of str
        A cell for each of :data:`HEAD`. The peak is that which came nearest to its
        bound, which stands behind it.
    """
    peak = max((o.peak for o in outcomes), key=lambda p: p.nbytes / (p.bound or 1))
    seen: Counter[str] = sum((o.seen for o in outcomes), Counter())
    return [
        outcomes[0].scenario,
        str(len(outcomes)),
        str(sum(o.wrong for o in outcomes)),
        str(sum(o.unended for o in outcomes)),
        f"{peak.nbytes:,} of {peak.bound:,} ({_chunks(peak.nbytes)} of "
        f"{_chunks(peak.bound)} chunks)",
        ", ".join(f"{what}: {times}" for what, times in seen.items()),
    ]


def _chunks(nbytes: int) -> str:
    return f"{nbytes / storage.CHUNK_NBYTES:.1f}"


def repeat(
    scenario: Scenario, runs: int, setting: Setting, expected: object
) -> Iterator[Outcome]:
    """Play a scenario several times, and print what does not hold.

    Parameters
    ----------
    scenario
        What is to happen.
    runs
        How often.
    setting
        Under what.
    expected
        Result of the undisturbed run.
    """
    for number in range(1, runs + 1):
        outcome = observe(scenario, setting, expected)
        for complaint in outcome.complaints:
            click.echo(f"{scenario.name}, run {number}: {complaint}")
        yield outcome


_TITLES = "\n".join(f"{one.name:15} {one.title}" for one in SCENARIOS.values())


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"\b\nScenarios:\n{_TITLES}",
)
@click.argument("names", nargs=-1, metavar="[SCENARIO]...")
@click.option("--runs", default=1, show_default=True, type=click.IntRange(1))
@click.option(
    "--policy",
    type=click.Choice(POLICIES),
    default=POLICIES[0],
    show_default=True,
    help="Of the scheduler.",
)
@click.option("--no-marks", is_flag=True, help="Strip the mark of every task.")
@click.option("--timeout", default=120.0, show_default=True, help="Seconds a run.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the table there, too, as CSV.",
)
@figures_option()
def main(
    names: tuple[str, ...],
    runs: int,
    policy: str,
    no_marks: bool,
    timeout: float,
    output: Path | None,
    figures: str | None,
) -> None:
    """Play scenarios, all by default, and print what was seen.

    Fails if a result is wrong, if a run does not end, if more is in memory than may be,
    or if what was to go wrong did not.
    """
    for name in names:
        if name not in SCENARIOS:
            raise click.UsageError(
                f"there is no scenario {name!r}; there are {', '.join(SCENARIOS)}"
            )
    rows = []
    well = True
    with tempfile.TemporaryDirectory(prefix="faults-data-") as folder:
        setting = Setting(Path(folder), policy, not no_marks, timeout)
        storage.write(setting.data)
        try:
            expected = reference(setting)
        except Fault as error:
            raise click.ClickException(str(error)) from None
        for name in names or SCENARIOS:
            outcomes = list(repeat(SCENARIOS[name], runs, setting, expected))
            well &= not any(o.complaints for o in outcomes)
            rows.append(row(outcomes))
    click.echo(text_table(HEAD, rows, range(1, 5)))
    if output:
        with output.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([HEAD, *rows])
    if figures:
        write_figures(
            figures,
            about=[*SCHEDULER, "continuous_integration/faults"],
            note=f"Policy {policy}{', without marks' if no_marks else ''}.",
            head=HEAD,
            rows=rows,
        )
    sys.exit(not well)


if __name__ == "__main__":
    # Workers that stop say so in between
    os.environ["DASK_LOGGING__DISTRIBUTED"] = "critical"
    main()
