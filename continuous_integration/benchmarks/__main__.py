"""Command line of the benchmarks: ``python -m continuous_integration.benchmarks``."""

from __future__ import annotations

import csv
import gc
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import click

from continuous_integration.benchmarks import compare as comparing

# Registers its workloads
from continuous_integration.benchmarks import (
    computations,  # noqa: F401
    fidelity,
    generated,  # noqa: F401
    kinds,  # noqa: F401
    numbers,
    predicted,
    ratchet,
    recordings,
    robust,
    scale,
)
from continuous_integration.benchmarks.environments import (
    WORKLOAD_MODULES,
    Environment,
    environments,
    identities,
)
from continuous_integration.benchmarks.measure import (
    BUILD,
    POLICIES,
    measure,
    thin,
)
from continuous_integration.benchmarks.options import contender_options, together
from continuous_integration.benchmarks.plots import plot_histories, plot_ratios
from continuous_integration.benchmarks.progress import (
    execute_visibly,
    refuse_errors,
    say,
)
from continuous_integration.benchmarks.readers import READERS
from continuous_integration.benchmarks.workloads import LIMITS, WORKLOADS, Unavailable
from continuous_integration.figures import SCHEDULER, figures_option, write_figures
from continuous_integration.fork import ForkError

PACKAGE = "continuous_integration.benchmarks"

#: What a change of makes comparisons old
WORKLOAD_FILES = tuple(
    f"continuous_integration/benchmarks/{name}.py" for name in WORKLOAD_MODULES
)


class _Group(click.Group):
    """Turns our own errors into those of a command."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ForkError, Unavailable) as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure what schedulers hold in memory, move between workers, and cost."""


@main.command("list")
def list_() -> None:
    """List the workloads."""
    for workload in WORKLOADS.values():
        click.echo(f"{workload.name:20} {workload.title}")


def _check_names(
    ctx: click.Context, param: click.Parameter, names: tuple[str, ...]
) -> tuple[str, ...]:
    unknown = [name for name in names if name not in WORKLOADS]
    if unknown:
        raise click.BadParameter(
            f"no workload {', '.join(unknown)}: see the command 'list'"
        )
    return names


_cluster = together(
    click.argument("names", nargs=-1, metavar="[NAME]...", callback=_check_names),
    click.option("--workers", default=4, show_default=True, type=click.IntRange(1)),
    click.option("--threads", default=1, show_default=True, type=click.IntRange(1)),
    click.option("--processes", is_flag=True, help="Give each worker its own process."),
    click.option("--no-marks", is_flag=True, help="Strip the mark of every task."),
    click.option(
        "--folder",
        type=click.Path(file_okay=False, path_type=Path),
        default=BUILD / "data",
        help="Where the files of the workloads are.  [default: build/benchmarks/data]",
    ),
)


@main.command()
@_cluster
@click.option("--policy", type=click.Choice(POLICIES), help="Only the fork has it.")
@click.option("--repeats", default=1, show_default=True, type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True, help="One JSON object per run.")
def run(
    names: tuple[str, ...],
    workers: int,
    threads: int,
    processes: bool,
    policy: str | None,
    no_marks: bool,
    folder: Path,
    repeats: int,
    as_json: bool,
) -> None:
    """Run workloads here and now, with the distributed of this Python.

    Without names all of them. One row each: peaks of managed memory and of the memory
    of the processes above idle (MB), bytes moved (MB), seconds.
    """
    if not as_json:
        click.echo(
            f"{'workload':20} {'managed':>9} {'process':>9} {'moved':>9} {'seconds':>8}"
        )
    for name in names or WORKLOADS:
        for _ in range(repeats):
            history: list[tuple[float, float]] = []
            try:
                m = measure(
                    WORKLOADS[name],
                    folder,
                    workers=workers,
                    threads=threads,
                    processes=processes,
                    policy=policy,
                    marks=not no_marks,
                    history=history,
                )
            except Unavailable as error:
                if names:
                    raise
                click.echo(f"skipped: {error}", err=True)
                break
            if as_json:
                click.echo(json.dumps({**m.as_dict(), "history": thin(history)}))
            else:
                click.echo(
                    f"{name:20} {m.peak_managed:9.1f} {m.peak_process:9.1f} "
                    f"{m.moved:9.1f} {m.seconds:8.2f}"
                )


@main.command()
@_cluster
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1))
@contender_options()
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=BUILD / "compare.md",
    help="The table; beside it go what was measured (.jsonl), the medians (.json, "
    ".csv) and plots.  [default: build/benchmarks/compare.md]",
)
@click.option(
    "--check", is_flag=True, help="Fail if a median is beyond the workload's limit."
)
@figures_option()
@click.option(
    "--picture",
    "what",
    type=click.Choice(["ratios", "memory"]),
    help="Which picture goes with --figures.",
)
def compare(
    names: tuple[str, ...],
    workers: int,
    threads: int,
    processes: bool,
    no_marks: bool,
    folder: Path,
    repeats: int,
    names_: tuple[str, ...],
    parent: Path,
    fresh: bool,
    timeout: float,
    output: Path,
    check: bool,
    figures: str | None,
    what: str | None,
) -> None:
    """Run workloads with several distributed turn about, and compare medians.

    Without names all workloads. Each run has a cluster of its own, each repetition new
    processes throughout; what was measured before an interruption is not measured
    again.
    """
    contenders = environments(names_, parent, say)
    options = [
        *("--workers", str(workers), "--threads", str(threads)),
        *("--folder", str(folder.resolve()), "--json"),
        *(["--processes"] if processes else []),
        *(["--no-marks"] if no_marks else []),
    ]
    # Files first, so that no run of a contender pays for them
    for name in names or WORKLOADS:
        _write_files(name, folder, contenders[0], timeout)
    batches = comparing.turns(
        contenders,
        PACKAGE,
        [("run", name, *options) for name in names or WORKLOADS],
        repeats,
    )
    # Each by itself, so that an interruption loses one
    jobs = [[job] for batch in batches for job in batch]

    def describe(record: comparing.Record) -> str:
        return (
            f"{record['workload']:20} managed {record['peak_managed']:.0f}, process "
            f"{record['peak_process']:.0f}, moved {record['moved']:.0f} MB, "
            f"{record['seconds']:.2f} s"
        )

    path = output.with_suffix(".jsonl")
    with comparing.Servers() as servers:
        records = execute_visibly(jobs, path, fresh, timeout, describe, servers.run)
    limits = {
        name: {
            metric: limit
            for metric, limit in {**LIMITS, **WORKLOADS[name].limits}.items()
            # In one process, time is a matter of luck with locks
            if processes or metric != "seconds"
        }
        for name in WORKLOADS
    }
    text, complaints = comparing.table(records, [c.name for c in contenders], limits)
    where = "in processes of their own" if processes else "in one process"
    text = (
        f"{workers} workers x {threads} threads {where}, medians of {repeats}, ratios "
        f"to {contenders[0].name}; {comparing.machine()}\n\n"
        f"{identities(contenders)}\n\n{text}\n"
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    found = comparing.medians(records, comparing.METRICS)
    output.with_suffix(".json").write_text(
        json.dumps({"machine": comparing.machine(), "medians": found}, indent=1),
        encoding="utf-8",
    )
    everyone = [contender.name for contender in contenders]
    with output.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(
            comparing.summary(found, everyone)
        )
    if found and len(everyone) > 1:
        plot_ratios(records, everyone, output.with_name(f"{output.stem}-ratios.png"))
        plot_histories(
            records,
            everyone,
            comparing.telling(found),
            output.with_name(f"{output.stem}-memory.png"),
        )
    if figures:
        head, *rows = comparing.summary(found, everyone)
        write_figures(
            figures,
            about=[*SCHEDULER, *WORKLOAD_FILES],
            note=f"Workers x threads: {workers} x {threads}, {where}; medians of "
            f"{repeats}: {' → '.join(everyone)} (ratio of the last to the first).",
            head=head,
            rows=[*rows, comparing.means(found, everyone)],
            picture=output.with_name(f"{output.stem}-{what}.png") if what else None,
        )
    click.echo(text)
    for complaint in complaints:
        click.echo(complaint, err=True)
    click.echo(f"written to {output}, with plots and JSON beside it", err=True)
    if check and complaints:
        raise click.ClickException(f"{len(complaints)} complaints")


@main.command(hidden=True)
def serve() -> None:
    """Run one command after another, for those who measure many.

    Each line of the input is a JSON list of arguments. Each line of the output is a
    JSON object: what the command printed, or its error.
    """
    for line in sys.stdin:
        try:
            main.main(json.loads(line), standalone_mode=False)
        except click.ClickException as error:
            click.echo(json.dumps({"error": error.format_message()}))
        except Exception as error:
            # The next command may well work
            click.echo(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        sys.stdout.flush()
        gc.collect()


def _write_files(
    name: str, folder: Path, environment: Environment, timeout: float
) -> None:
    job = comparing.Job(
        environment, PACKAGE, ("write", name, "--folder", str(folder.resolve())), 0
    )
    [record] = comparing.run_together([job], timeout)
    if "error" in record:
        raise Unavailable(f"the files of {name} cannot be written: {record['error']}")


@main.command()
@click.argument("names", nargs=-1, metavar="[NAME]...", callback=_check_names)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=BUILD / "data",
    help="Where to write.  [default: build/benchmarks/data]",
)
def write(names: tuple[str, ...], folder: Path) -> None:
    """Write the files that workloads need, where they are missing."""
    for name in names or WORKLOADS:
        WORKLOADS[name].check()
        WORKLOADS[name].write(folder)
    click.echo(json.dumps({"folder": str(folder)}))


def _check_readers(
    ctx: click.Context, param: click.Parameter, names: tuple[str, ...]
) -> tuple[str, ...]:
    unknown = [name for name in names if name not in READERS]
    if unknown:
        raise click.BadParameter(
            f"no reader {', '.join(unknown)}: choose from {', '.join(READERS)}"
        )
    return names


@main.command()
@click.argument("names", nargs=-1, metavar="[NAME]...", callback=_check_readers)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=BUILD / "data",
    help="Where their files are, or are written.  [default: build/benchmarks/data]",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=BUILD / "readers.csv",
    help="The table.  [default: build/benchmarks/readers.csv]",
)
@figures_option()
def readers(
    names: tuple[str, ...], folder: Path, output: Path, figures: str | None
) -> None:
    """Show how each library's reads are judged, with the fork of this Python.

    Without names all of them, under each policy, with marks and with marks stripped.
    """
    from rich.progress import track

    from continuous_integration.benchmarks import matrix

    jobs = [
        (READERS[name], marks) for name in names or READERS for marks in (True, False)
    ]
    rows = []
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(matrix.HEAD)
        for reader, marks in track(jobs, "", transient=True):
            try:
                seen = [
                    matrix.observe(reader, folder, policy, marks)
                    for policy in matrix.POLICIES
                ]
            except Unavailable as error:
                if names:
                    raise
                click.echo(f"skipped: {error}", err=True)
                continue
            row = matrix.row(seen)
            writer.writerow(row)
            rows.append(row)
            click.echo(" | ".join(row))
    if figures:
        here = f"{PACKAGE.replace('.', '/')}/"
        write_figures(
            figures,
            about=[*SCHEDULER, f"{here}readers.py", f"{here}matrix.py"],
            note="Under each policy stands the largest number of chunks in memory, and "
            "why; more than is promised is in bold.",
            head=matrix.HEAD,
            rows=rows,
        )
    click.echo(f"written to {output}", err=True)


@main.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1))
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=BUILD / "data",
    help="Where the files of the workloads are, or are written.  "
    "[default: build/benchmarks/data]",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=recordings.FOLDER,
    help="Where to write.  [default: continuous_integration/benchmarks/recordings]",
)
def record(names: tuple[str, ...], repeats: int, folder: Path, output: Path) -> None:
    """Record workloads, to be replayed: graphs, and what each task takes and gives.

    Without names all workloads, readers (reader-NAME) and sources of the demo
    (demo-NAME). Each runs a few times on real workers, on a machine that should have
    nothing else to do; of durations the medians are written.
    """
    from continuous_integration.benchmarks import record as recording

    jobs = recording.jobs()
    if unknown := [name for name in names if name not in jobs]:
        raise click.BadParameter(f"nothing to record has the name {', '.join(unknown)}")
    for name in names or jobs:
        try:
            found, alike = recording.record_often(name, folder, repeats)
        except (Unavailable, recording.RecordingError) as error:
            if names:
                raise click.ClickException(f"{name}: {error}") from None
            click.echo(f"skipped: {name}: {error}", err=True)
            continue
        path = recordings.write(found, output)
        click.echo(
            f"{name:28} {len(found.outputs):5} tasks, {path.stat().st_size:6} bytes, "
            f"reads: {', '.join(found.reads[:3])}{' ...' if found.reads[3:] else ''}"
            + ("" if alike == repeats else f"; only {alike} of {repeats} runs alike")
        )


@main.command()
@click.option("--pairs", default=20, show_default=True, type=click.IntRange(4))
@click.option(
    "--graph",
    "graphs",
    multiple=True,
    default=("files",),
    show_default=True,
    help="Give it several times for several graphs.",
)
@click.option("--tasks", default=100_000, show_default=True, type=click.IntRange(1))
@click.option("--groups", default=1_000, show_default=True, type=click.IntRange(1))
@click.option("--workers", default=10, show_default=True, type=click.IntRange(1))
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1))
@click.option(
    "--marks",
    type=click.Choice(["with", "without", "both"]),
    default="both",
    show_default=True,
    help="Whether reads carry the mark of a data producer.",
)
@contender_options()
@click.option("--limit", type=float, help="Fail if an upper end is above it.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=BUILD / "cost.md",
    help="The table; what was measured is kept beside it with the ending .jsonl.  "
    "[default: build/benchmarks/cost.md]",
)
@figures_option()
def cost(
    pairs: int,
    graphs: tuple[str, ...],
    tasks: int,
    groups: int,
    workers: int,
    threads: int,
    marks: str,
    names_: tuple[str, ...],
    parent: Path,
    fresh: bool,
    timeout: float,
    limit: float | None,
    output: Path,
    figures: str | None,
) -> None:
    """Compare the CPU time that schedulers take per task, without a network.

    Each pair of runs gives a ratio; the table has their geometric mean and its 95 %
    confidence interval.
    """
    from continuous_integration.benchmarks.graphs import GRAPHS

    for graph in graphs:
        if graph not in GRAPHS:
            raise click.BadParameter(
                f"no graph {graph!r}: choose from {', '.join(sorted(GRAPHS))}",
                param_hint="--graph",
            )
    if len(names_) < 2:
        raise click.BadParameter("give at least two", param_hint="--contender")
    contenders = environments(names_, parent, say)
    size = ("--tasks", tasks, "--groups", groups)
    cluster = ("--workers", workers, "--threads", threads)
    switches = {"with": ["--marks"], "without": ["--no-marks"]}.get(
        marks, ["--marks", "--no-marks"]
    )
    variants = [
        tuple(map(str, ("--graph", graph, *size, *cluster, switch)))
        for graph in graphs
        for switch in switches
    ]
    batches = comparing.turns(contenders, f"{PACKAGE}.simulation", variants, pairs)
    jobs = [job for batch in batches for job in batch]
    records = execute_visibly(
        batches,
        output.with_suffix(".jsonl"),
        fresh,
        timeout,
        lambda record: (
            f"{record['graph']}{'' if record['marks'] else ' without marks'}: "
            f"{record['total']:.1f} microseconds per task"
        ),
    )
    refuse_errors(records)
    first = contenders[0].name
    head = ["graph", "tasks", "groups", f"{first} (µs per task)"]
    rows = []
    worst = 0.0
    for variant in variants:
        # One list per contender, in the order of the pairs
        by_name: dict[str, list[comparing.Record]] = {c.name: [] for c in contenders}
        for job, record in zip(jobs, records):
            if job.arguments == variant:
                by_name[job.environment.name].append(record)
        reference = [record["total"] for record in by_name[first]]
        example = by_name[first][0]
        row = [
            f"{example['graph']}{'' if example['marks'] else ', no marks'}",
            str(example["tasks"]),
            str(example["groups"]),
            f"{statistics.median(reference):.1f}",
        ]
        for contender in contenders[1:]:
            totals = [record["total"] for record in by_name[contender.name]]
            mean, low, high = comparing.interval(
                [one / other for one, other in zip(totals, reference)]
            )
            if contender.name != "again":
                worst = max(worst, high)
            row += [
                f"{statistics.median(totals):.1f}",
                f"{mean:.4f} ({low:.4f} to {high:.4f})",
            ]
        rows.append(row)
    for contender in contenders[1:]:
        head += [contender.name, "ratio (95 %)"]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    how = (
        f"CPU time of the scheduler per task, {pairs} pairs, {workers} workers x "
        f"{threads} threads (simulated)"
    )
    text = (
        f"{how}; {comparing.machine()}\n\n"
        f"{identities(contenders)}\n\n| {' | '.join(head)} |\n"
        f"|---{'|---:' * (len(head) - 1)}|\n" + "\n".join(lines) + "\n"
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    click.echo(text)
    click.echo(f"written to {output}", err=True)
    if figures:
        write_figures(
            figures,
            about=[*SCHEDULER, "continuous_integration/benchmarks/graphs.py"],
            note=f"{how}: medians, and the mean of the pairs' ratios.",
            head=head,
            rows=rows,
        )
    if limit is not None and worst > limit:
        raise click.ClickException(
            f"the upper end of an interval is {worst:.4f}, more than {limit:g}"
        )


main.add_command(ratchet.command)
main.add_command(numbers.command)
main.add_command(robust.command)
main.add_command(fidelity.command)
main.add_command(predicted.command)
main.add_command(scale.command)
main.add_command(scale.check)


if __name__ == "__main__":
    main(prog_name=f"python -m {PACKAGE}")
