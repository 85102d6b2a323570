"""Pictures of what was compared: ratios at a glance, and memory over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from continuous_integration.benchmarks.compare import METRICS, Record, medians, ratio

#: Smaller ratios are drawn here: how many times less than next to nothing is no news.
SMALLEST = 1 / 32

#: Colours that people who see colours differently can tell apart, one per contender.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")


def _figure(width: float, height: float, **options: Any) -> tuple[Any, Any]:
    # Without pyplot, which would look for a screen
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(squeeze=False, **options)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without a date, so that the same numbers give the same file
    figure.savefig(path, dpi=100, metadata={"Software": None})


def plot_ratios(
    records: Sequence[Record], contenders: Sequence[str], path: Path
) -> None:
    """Draw the ratios of all medians to those of the first contender.

    Parameters
    ----------
    records
        What was measured.
    contenders
        Names; the ratios are those to the first.
    path
        File to write, PNG.
    """
    first, others = contenders[0], contenders[1:]
    found = medians(records, METRICS)
    names = [name for name, by_contender in found.items() if first in by_contender]
    figure, axes = _figure(11, 1.5 + 0.2 * len(names), ncols=len(METRICS), sharey=True)
    for axis, (metric, (heading, slack)) in zip(axes[0], METRICS.items()):
        for other, colour in zip(others, COLOURS[1:]):
            points = [
                (quotient, row)
                for row, name in enumerate(names)
                if other in found[name]
                and (
                    quotient := ratio(
                        found[name][other][metric], found[name][first][metric], slack
                    )
                )
            ]
            axis.scatter(
                [max(quotient, SMALLEST) for quotient, _ in points],
                [row for _, row in points],
                s=18,
                color=colour,
                label=other,
            )
        axis.axvline(1, color="grey", linewidth=0.8)
        axis.set_xscale("log")
        low, high = axis.get_xlim()
        axis.set_xlim(min(low, 0.5), max(high, 2))
        # Powers of two are easier to read than those of ten
        ticks = [
            2.0**n
            for n in range(
                math.ceil(math.log2(axis.get_xlim()[0])),
                math.floor(math.log2(axis.get_xlim()[1])) + 1,
            )
        ]
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks], rotation=90, size=7)
        axis.minorticks_off()
        axis.set_title(heading.split(" (")[0], size=9)
        axis.grid(axis="both", linewidth=0.3)
        axis.set_axisbelow(True)
    axes[0][0].set_yticks(range(len(names)), names, size=7)
    axes[0][0].set_ylim(len(names) - 0.5, -0.5)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper right")
    figure.suptitle(f"Ratio to {first}: left of the line is less", x=0.01, ha="left")
    _save(figure, path)


def plot_histories(
    records: Sequence[Record],
    contenders: Sequence[str],
    names: Sequence[str],
    path: Path,
) -> None:
    """Draw managed memory over time, one panel for each workload.

    Of several runs the one is drawn whose peak is the median.

    Parameters
    ----------
    records
        What was measured.
    contenders
        Names, in the order of their colours.
    names
        Workloads.
    path
        File to write, PNG.
    """
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure, axes = _figure(3.7 * columns, 2.5 * rows + 0.5, nrows=rows, ncols=columns)
    for axis, name in zip(axes.flat, names):
        for contender, colour in zip(contenders, COLOURS):
            runs = sorted(
                (
                    record
                    for record in records
                    if record.get("workload") == name
                    and record["contender"] == contender
                    and record.get("history")
                ),
                key=lambda record: float(record["peak_managed"]),
            )
            if runs:
                seconds, managed = zip(*runs[(len(runs) - 1) // 2]["history"])
                axis.plot(
                    seconds, managed, color=colour, label=contender, linewidth=1.2
                )
        axis.set_title(name, size=9)
        axis.set_ylim(bottom=0)
        axis.set_xlim(left=0)
        axis.tick_params(labelsize=8)
        axis.grid(linewidth=0.3)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for row in axes:
        row[0].set_ylabel("managed memory (MB)", size=8)
    for axis in axes[-1]:
        axis.set_xlabel("time (s)", size=8)
    figure.legend(
        *axes.flat[0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=len(contenders),
    )
    _save(figure, path)


class Deal(NamedTuple):
    """Which worker got which task.

    Attributes
    ----------
    title
        What to write above it.
    workers
        Number of the worker of each task, in the order of their priority.
    """

    title: str
    workers: Sequence[int]


def plot_deals(deals: Sequence[Deal], width: int, path: Path) -> None:
    """Draw tasks in the order of their priority, coloured by worker.

    Parameters
    ----------
    deals
        One row for each.
    width
        So many neighbours are combined; families are set apart.
    path
        File to write, PNG.
    """
    figure, axes = _figure(11, 0.8 * len(deals) + 0.7, nrows=len(deals), sharex=True)
    for axis, deal in zip(axes.flat, deals):
        for worker in sorted(set(deal.workers)):
            places = [n for n, one in enumerate(deal.workers) if one == worker]
            axis.bar(
                [place + place // width for place in places],
                1,
                width=1,
                color=COLOURS[worker % len(COLOURS)],
                edgecolor="white",
                label=f"worker {worker}",
            )
        axis.set_title(deal.title, size=9, loc="left")
        axis.set_axis_off()
        axis.margins(x=0)
    figure.legend(
        *axes.flat[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(COLOURS),
        fontsize=8,
    )
    _save(figure, path)


class Line(NamedTuple):
    """What a contender gave, against what grows.

    Attributes
    ----------
    contender
        Its name.
    points
        Pairs (size, figure).
    """

    contender: str
    points: Sequence[tuple[float, float]]


def plot_lines(lines: Sequence[tuple[str, str, Line]], label: str, path: Path) -> None:
    """Draw figures against sizes, both logarithmic.

    Parameters
    ----------
    lines
        Row and column of the panel, and what to draw there.
    label
        What the figures are.
    path
        File to write, PNG.
    """
    rows = list(dict.fromkeys(row for row, _, _ in lines))
    columns = list(dict.fromkeys(column for _, column, _ in lines))
    contenders = list(dict.fromkeys(line.contender for _, _, line in lines))
    figure, axes = _figure(
        2.7 * len(columns) + 0.5,
        1.9 * len(rows) + 0.6,
        nrows=len(rows),
        ncols=len(columns),
        sharex="col",
        sharey="row",
    )
    for row, column, line in lines:
        axis = axes[rows.index(row)][columns.index(column)]
        axis.plot(
            *zip(*line.points),
            color=COLOURS[contenders.index(line.contender)],
            label=line.contender,
            marker="o",
            markersize=3,
            linewidth=1.2,
        )
    for axis in axes.flat:
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.tick_params(labelsize=8)
        axis.grid(linewidth=0.3)
    for row, axis in zip(rows, axes[:, 0]):
        axis.set_ylabel(row, size=9)
    for column, axis in zip(columns, axes[-1]):
        axis.set_xlabel(column, size=9)
    figure.suptitle(label, size=10)
    figure.legend(
        *axes.flat[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(contenders),
        fontsize=8,
    )
    _save(figure, path)
