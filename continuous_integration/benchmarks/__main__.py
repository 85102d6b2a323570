"""Command line of the benchmarks; see ``python -m continuous_integration.benchmarks``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from continuous_integration.benchmarks.measure import POLICIES, REPOSITORY, measure
from continuous_integration.benchmarks.workloads import WORKLOADS, Unavailable

BUILD = REPOSITORY / "build" / "benchmarks"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure what schedulers hold in memory, move between workers, and cost."""


@main.command("list")
def list_() -> None:
    """List the workloads."""
    for workload in WORKLOADS.values():
        click.echo(f"{workload.name:20} {workload.title}")


@main.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--workers", default=4, show_default=True, type=click.IntRange(1))
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1))
@click.option("--processes", is_flag=True, help="Give each worker its own process.")
@click.option("--policy", type=click.Choice(POLICIES), help="Only the fork has them.")
@click.option("--no-marks", is_flag=True, help="Strip the mark of every task.")
@click.option("--repeats", default=1, show_default=True, type=click.IntRange(1))
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=BUILD / "data",
    help="Where the files of the workloads are.  [default: build/benchmarks/data]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per run.")
def run(
    names: tuple[str, ...],
    workers: int,
    threads: int,
    processes: bool,
    policy: str | None,
    no_marks: bool,
    repeats: int,
    folder: Path,
    as_json: bool,
) -> None:
    """Run workloads here and now, with the distributed of this Python.

    Without names all of them. One row each: peaks of managed memory and of the memory
    of the processes above idle (MB), bytes moved (MB), seconds.
    """
    unknown = [name for name in names if name not in WORKLOADS]
    if unknown:
        raise click.BadParameter(
            f"no workload {', '.join(unknown)}: see the command 'list'",
            param_hint="NAME",
        )
    if not as_json:
        click.echo(
            f"{'workload':20} {'managed':>9} {'process':>9} {'moved':>9} {'seconds':>8}"
        )
    for name in names or WORKLOADS:
        for _ in range(repeats):
            try:
                m = measure(
                    WORKLOADS[name],
                    folder,
                    workers=workers,
                    threads=threads,
                    processes=processes,
                    policy=policy,
                    marks=not no_marks,
                )
            except Unavailable as error:
                if names:
                    raise click.ClickException(str(error)) from None
                click.echo(f"skipped: {error}", err=True)
                break
            if as_json:
                click.echo(json.dumps(m.as_dict()))
            else:
                click.echo(
                    f"{name:20} {m.peak_managed:9.1f} {m.peak_process:9.1f} "
                    f"{m.moved:9.1f} {m.seconds:8.2f}"
                )


if __name__ == "__main__":
    main(prog_name="python -m continuous_integration.benchmarks")
