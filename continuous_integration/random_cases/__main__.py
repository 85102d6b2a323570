"""Play many random cases: ``python -m continuous_integration.random_cases``."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter

import click

from continuous_integration.figures import SCHEDULER, figures_option, write_figures
from continuous_integration.random_cases import (
    Case,
    play,
    quiet,
    random_case,
    script,
    shrink,
)


def fault(case: Case) -> str | None:
    """Return what kind of fault a case ends with, None if it has none.

    Parameters
    ----------
    case
        It is played.
    """
    try:
        play(case)
    except Exception as error:
        return _kind(error)
    return None


def _kind(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:24]}"


class _Fails:
    """Whether a case has the same kind of fault."""

    def __init__(self, kind: str):
        self.kind = kind

    def __call__(self, case: Case) -> bool:
        return fault(case) == self.kind


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--cases", default=1_000, type=click.IntRange(1))
@click.option("--first", default=0, help="Number of the first case.")
@click.option("--seconds", default=float("inf"), help="Stop after so long.")
@figures_option()
def main(cases: int, first: int, seconds: float, figures: str | None) -> None:
    """Play cases, number by number, until one fails; print what was counted.

    A case that fails is printed as a small script. A number stands for the same case
    everywhere.
    """
    if "PYTHONHASHSEED" not in os.environ:
        # The scheduler goes through sets; a failure is to be seen again
        again = [sys.executable, "-m", "continuous_integration.random_cases"]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        sys.exit(subprocess.call([*again, *sys.argv[1:]], env=environment))
    quiet()
    counts: Counter[str] = Counter()
    start = time.monotonic()
    for number in range(first, first + cases):
        if time.monotonic() - start > seconds:
            break
        case = random_case(number)
        try:
            play(case, counts)
        except Exception as error:
            _report(counts, start)
            click.echo(f"Case {number} fails: {type(error).__name__}: {error}"[:1000])
            click.echo(script(shrink(case, _Fails(_kind(error)))))
            sys.exit(1)
    _report(counts, start)
    if figures:
        write_figures(
            figures,
            about=[*SCHEDULER, "continuous_integration/random_cases"],
            head=["what", "number"],
            rows=[
                [name, count]
                for name, count in sorted(counts.items())
                if not name.startswith(("event", "queued beside"))
            ],
        )


def _report(counts: Counter[str], start: float) -> None:
    counts["stranded"] += 0
    for name, count in sorted(counts.items()):
        click.echo(f"{count:>12,}  {name}")
    click.echo(f"{time.monotonic() - start:>12,.0f}  seconds")


if __name__ == "__main__":
    main()
