"""Show how far a command has come that runs many jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click

from continuous_integration.benchmarks.compare import (
    Job,
    Record,
    execute,
    run_together,
)


def say(message: str) -> None:
    """Tell people what is being done, when it takes long."""
    click.echo(message + " ...", err=True)


def _who(job: Job) -> str:
    return f"{job.environment.name} #{job.repeat + 1}"


def execute_visibly(
    batches: Sequence[Sequence[Job]],
    path: Path,
    fresh: bool,
    timeout: float,
    describe: Callable[[Record], str],
    run: Callable[[Sequence[Job], float], list[Record]] = run_together,
    announce: Callable[[Job], str] = _who,
) -> list[Record]:
    """Do batches of jobs with a bar of progress and a line for each job.

    Parameters
    ----------
    batches, path, timeout, run
        As for :func:`.compare.execute`.
    fresh
        Whether to forget what was done before.
    describe
        Makes the line of a record without error.
    announce
        Says what is being done, beside the bar.

    Raises
    ------
    click.ClickException
        When it is interrupted.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    if fresh:
        path.unlink(missing_ok=True)
    width = max(len(job.environment.name) for batch in batches for job in batch)
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True, highlight=False, soft_wrap=True),
    ) as progress:
        bar = progress.add_task("", total=sum(map(len, batches)))

        def started(job: Job) -> None:
            progress.update(bar, description=announce(job))

        def finished(job: Job, record: Record) -> None:
            text = record["error"] if "error" in record else describe(record)
            progress.console.print(
                f"{job.environment.name:{width}} #{job.repeat + 1}  {text}",
                markup=False,
            )
            progress.advance(bar)

        try:
            return execute(
                batches,
                path,
                timeout=timeout,
                started=started,
                finished=finished,
                run=run,
            )
        except KeyboardInterrupt:
            raise click.ClickException(
                "interrupted; the same command goes on from here"
            ) from None


def refuse_errors(records: Sequence[Record]) -> None:
    """Fail if runs did, for what needs all of them.

    Parameters
    ----------
    records
        Of all runs.

    Raises
    ------
    click.ClickException
        If there are some with an error.
    """
    failed = [record for record in records if "error" in record]
    if failed:
        raise click.ClickException(
            f"{len(failed)} runs failed, the first with: {failed[0]['error']}"
        )
