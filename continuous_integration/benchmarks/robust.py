"""``benchmarks robust``: what holds of the recordings, and of others like them.

They are replayed as they are, and varied: with tasks that take ten times as long, tasks
that take longer or shorter by chance, outputs of mixed sizes, and on clusters of other
shapes. A rule that leans on how long something takes, or on one size for all tasks of a
group, shows here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import click

from continuous_integration.benchmarks import ratchet, recordings
from continuous_integration.benchmarks.numbers import (
    CLUSTERS,
    METRICS,
    mean,
    write_means,
)
from continuous_integration.benchmarks.recordings import Output, Recording
from continuous_integration.figures import figures_option

#: Makes another output of a recorded one
Vary = Callable[[Output, Random], Output]


def slower(output: Output, random: Random) -> Output:
    """Let a task take ten times as long, so that messages take next to no time."""
    return output._replace(seconds=10 * output.seconds)


def jitter(output: Output, random: Random) -> Output:
    """Let a task take longer or shorter: one in three half as long, or twice."""
    return output._replace(seconds=output.seconds * random.lognormvariate(0, 0.7))


def mixed(output: Output, random: Random) -> Output:
    """Let an output be smaller or larger: a third of what it was, up to four times."""
    factor = random.choice((0.3, 0.6, 1, 1, 2, 4))
    return output._replace(nbytes=int(factor * output.nbytes))


#: What is varied -> how, and on which clusters it is replayed
VARIATIONS: dict[str, tuple[Vary | None, tuple[str, ...]]] = {
    "as recorded": (None, (*CLUSTERS, "1x4", "16x1", "4x16")),
    "ten times as long": (slower, CLUSTERS),
    "jitter": (jitter, CLUSTERS),
    "mixed sizes": (mixed, CLUSTERS),
}

#: Peaks above this part of the release's are counted.
WORSE = 1.05

HEAD = ("recordings", "cluster", *METRICS, f"peaks above {WORSE}", "the worst")


def varied(recording: Recording, vary: Vary) -> Recording:
    """Return a recording with other outputs, the same each time.

    Parameters
    ----------
    recording
        What was recorded.
    vary
        Makes another output of one.
    """
    random = Random(recording.name)
    outputs = {key: vary(output, random) for key, output in recording.outputs.items()}
    return replace(recording, outputs=outputs)


def lines(
    rows: Sequence[ratchet.Row], base: Sequence[ratchet.Row], clusters: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    """Yield what a table has of each cluster, but for what was varied.

    Parameters
    ----------
    rows, base
        What came out, and for the release.
    clusters
        On which of them.
    """
    before = {(row["workload"], row["cluster"]): row["peak"] for row in base}
    for cluster in clusters:
        peaks = {
            row["workload"]: row["peak"] / before[row["workload"], cluster]
            for row in rows
            if row["cluster"] == cluster and before[row["workload"], cluster]
        }
        worse = sum(ratio > WORSE for ratio in peaks.values())
        worst = max(peaks, key=lambda name: peaks[name])
        yield (
            cluster,
            *(mean(rows, base, metric, cluster) for metric in METRICS),
            f"{worse} of {len(peaks)}",
            f"{worst} {peaks[worst]:.2f}",
        )


@click.command("robust")
@click.argument("names", nargs=-1, metavar="[RECORDING]...")
@figures_option()
def command(names: tuple[str, ...], figures: str | None) -> None:
    """Replay recordings that are varied, and on clusters of other shapes.

    Without recordings all of them. Prints geometric means against the release.
    """
    names = names or tuple(recordings.names(recordings.FOLDER))
    template = "{:18} {:8}" + " {:>9}" * len(METRICS) + " {:>17}  {}"
    click.echo(template.format(*HEAD))
    table: list[tuple[str, ...]] = []
    with ratchet.made(["base", "fork"]) as (base, fork):
        for title, (vary, clusters) in VARIATIONS.items():
            with tempfile.TemporaryDirectory() as folder:
                for name in names:
                    recording = recordings.read(name)
                    if vary:
                        recording = varied(recording, vary)
                    recordings.write(recording, Path(folder))
                before, now = (
                    ratchet.replay_once(contender, names, clusters, Path(folder))
                    for contender in (base, fork)
                )
            for line in lines(now, before, clusters):
                table.append((title, *line))
                click.echo(template.format(*table[-1]))
    if figures:
        write_means(figures, "robust.py", HEAD, table)
