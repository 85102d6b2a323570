"""``benchmarks replay``: replay all recordings, and hold the figures that came out.

The figures that are held, in ``replay.json`` beside this file, are those of the tree as
it is. ``--check`` replays and fails if anything has become worse, ``--accept`` writes
what came out, there and for the docs, and the commit says why.

A *contender* is ``base``, the release that the fork is built from; ``fork``, this tree;
``fork:SETTING=VALUE``, this tree with a setting of ``distributed.scheduler``; or
``commit:HASH``, what this repository was at a commit. All of them use the libraries of
this Python, and the simulator and the recordings of this tree.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import click

from continuous_integration.benchmarks import recordings
from continuous_integration.benchmarks.floor import floor_of_bytes, floor_of_memory
from continuous_integration.benchmarks.measure import BUILD
from continuous_integration.benchmarks.ours import REPOSITORY
from continuous_integration.benchmarks.replay import CLUSTERS
from continuous_integration.figures import SCHEDULER, write_figures
from continuous_integration.fork import ForkError
from continuous_integration.fork.base import available_base
from continuous_integration.fork.project import read_project
from continuous_integration.fork.tree import write_tree
from continuous_integration.upstream.git import run_git

#: What is held.
HELD_FILE = Path(__file__).with_name("replay.json")

#: Processes of :func:`replay_once`
PROCESSES = 2

#: Seeds of hashes. Where there is one worker for each of few threads, chance counts
#: most, and medians are taken; elsewhere the first must do.
SEEDS = ("0", "1", "2")
WITH_ALL_SEEDS = ("4x1", "2x2")

#: How Python hashes strings where what is held was replayed.
ALGORITHM = "siphash13"

#: What is held -> what is too little to count: a hundred kilobytes, a hundredth of a
#: second.
HELD = {"peak": 1e5, "peak_worker": 1e5, "moved": 1e5, "makespan": 0.01}

MB = 1e6

#: Clusters in the table of the docs.
SHOWN = ("4x1", "2x2")

#: What may become worse, as a part of what it was.
TOLERANCE = 0.02

HEAD = (
    *("workload", "cluster", "contender", "peak", "peak_worker", "chunks", "moved"),
    *("makespan", "lowest peak", "highest peak", "decisions"),
)

#: One row of the figures, by the names of :data:`HEAD`
Row = dict[str, Any]
#: workload, cluster, contender
Place = tuple[str, str, str]


@dataclass(frozen=True)
class Contender:
    """Something to replay with.

    Attributes
    ----------
    name : str
        Its name.
    tree : Path
        Folder that has its package ``distributed``.
    settings : tuple of str
        ``NAME=VALUE`` of ``distributed.scheduler``.
    """

    name: str
    tree: Path
    settings: tuple[str, ...] = ()


@contextmanager
def made(names: Iterable[str]) -> Iterator[list[Contender]]:
    """Make contenders, in folders that are gone afterwards.

    Parameters
    ----------
    names
        See the top of the module.

    Raises
    ------
    ForkError
        If one cannot be made, or a name is none.
    """
    with tempfile.TemporaryDirectory() as folder:
        yield [_make(name, Path(folder) / str(n)) for n, name in enumerate(names)]


def _make(name: str, folder: Path) -> Contender:
    if name == "base":
        write_tree(folder, available_base(read_project(REPOSITORY)), {})
        return Contender(name, folder)
    if fork := re.fullmatch("fork(?::([a-z-]+=.+))?", name):
        _merge(REPOSITORY, folder)
        return Contender(name, folder, (fork[1],) if fork[1] else ())
    if commit := re.fullmatch("commit:([0-9a-f]{4,40})", name):
        sources = folder.with_name(f"{folder.name}-sources")
        sources.mkdir()
        archive = run_git("-C", str(REPOSITORY), "archive", commit[1])
        if archive.returncode:
            raise ForkError(f"{name}: {archive.stderr.decode().strip()}")
        subprocess.run(
            ["tar", "--extract", f"--directory={sources}"],
            input=archive.stdout,
            check=True,
        )
        _merge(sources, folder)
        return Contender(name, folder)
    raise ForkError(
        f"no contender {name!r}: give base, fork, fork:SETTING=VALUE or commit:HASH"
    )


def _merge(sources: Path, folder: Path) -> None:
    """Let a tree, this one or an older one, merge itself with the base."""
    base = available_base(read_project(REPOSITORY)).root
    command = (sys.executable, "-m", "continuous_integration.fork", "merge")
    result = subprocess.run(
        [*command, str(folder), f"--base={base}"],
        cwd=sources,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise ForkError(f"cannot be merged: {result.stderr.strip()}")


#: Puts the contender first, and nothing that is installed may put itself before it
_BOOT = """
import json, sys
sys.path[:0], more = json.loads(sys.argv.pop(1))
sys.path += more
from continuous_integration.benchmarks.replay import main
main()
"""


def _replay(
    contender: Contender,
    seed: str,
    names: Sequence[str],
    clusters: Sequence[str],
    folder: Path,
) -> Iterator[Row]:
    """Yield what one process finds."""
    installed = [path for path in sys.path if path.endswith("-packages")]
    first = [str(contender.tree), str(REPOSITORY)]
    options = [f"--cluster={cluster}" for cluster in clusters]
    options += [f"--set={setting}" for setting in contender.settings]
    # Without `site`, an editable install of the fork does not come before it
    command = [sys.executable, "-S", "-c", _BOOT, json.dumps([first, installed])]
    process = subprocess.Popen(
        [*command, *options, f"--folder={folder}", *names],
        env={"PYTHONHASHSEED": seed, "PATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout
        assert process.stderr
        for line in process.stdout:
            row = json.loads(line)
            if "error" in row:
                place = "{workload}, {cluster}".format_map(row)
                raise ForkError(f"{place}, {contender.name}: {row['error']}")
            yield row | {"contender": contender.name}
        errors = process.stderr.read().strip()
    if process.returncode:
        raise ForkError(f"{contender.name} failed: {errors.splitlines()[-1]}")


def replay_once(
    contender: Contender,
    names: Sequence[str],
    clusters: Sequence[str],
    folder: Path = recordings.FOLDER,
) -> list[Row]:
    """Replay recordings on clusters with the first seed.

    Parameters
    ----------
    contender
        What is replayed with.
    names, clusters
        Which recordings, on what.
    folder
        Where the recordings are.
    """

    def part(some: Sequence[str]) -> list[Row]:
        return list(_replay(contender, SEEDS[0], some, clusters, folder))

    # Processes do the work, which threads wait for
    parts = [names[n::PROCESSES] for n in range(PROCESSES)]
    with ThreadPoolExecutor() as executor:
        return list(chain.from_iterable(executor.map(part, filter(None, parts))))


def replay_all(
    contenders: Sequence[Contender],
    names: Sequence[str],
    clusters: Sequence[str],
    folder: Path,
    advance: Callable[[], object] = lambda: None,
) -> list[Row]:
    """Replay recordings on clusters, with medians over seeds.

    Parameters
    ----------
    contenders
        What is replayed with.
    names, clusters
        Which recordings, on what.
    folder
        Where the recordings are.
    advance
        Called after each replay.

    Returns
    -------
    list of dict
        Rows, and for each recording and cluster one for the contender ``floor``.
    """
    found: dict[Place, list[Row]] = {}
    for contender in contenders:
        for seed in SEEDS:
            some = [c for c in clusters if seed == SEEDS[0] or c in WITH_ALL_SEEDS]
            for row in _replay(contender, seed, names, some, folder) if some else ():
                found.setdefault(_place(row), []).append(row)
                advance()
    rows = [_median(many) for many in found.values()]
    for name in names:
        recording = recordings.read(name, folder)
        rows += [_floor(recording, cluster) for cluster in clusters]
    order = {contender.name: n for n, contender in enumerate(contenders)}
    return sorted(
        rows,
        key=lambda row: (
            names.index(row["workload"]),
            clusters.index(row["cluster"]),
            order.get(row["contender"], len(order)),
        ),
    )


def _place(row: Row) -> Place:
    return row["workload"], row["cluster"], row["contender"]


def _median(rows: Sequence[Row]) -> Row:
    """Return the median of the runs of one place."""
    peaks = [row["peak"] for row in rows]
    middle = dict(rows[0])
    for metric in (*HELD, "chunks"):
        middle[metric] = statistics.median_low(row[metric] for row in rows)
    decisions = middle["decisions"].items()
    return middle | {
        "lowest peak": min(peaks),
        "highest peak": max(peaks),
        "decisions": ", ".join(f"{reason} {count}" for reason, count in decisions),
    }


def _floor(recording: recordings.Recording, cluster: str) -> Row:
    workers, threads = map(int, cluster.split("x"))
    peak = floor_of_memory(recording, workers * threads)
    return {
        **dict.fromkeys(HEAD, ""),
        "workload": recording.name,
        "cluster": cluster,
        "contender": "floor",
        "peak": peak,
        "moved": floor_of_bytes(recording, workers),
    }


def held(path: Path = HELD_FILE) -> list[Row]:
    """Return the rows that are held.

    Parameters
    ----------
    path
        Where they are.
    """
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [dict(zip(HEAD, row)) for row in rows]


def dump(rows: Iterable[Row]) -> str:
    """Return rows as JSON, one on a line.

    Parameters
    ----------
    rows
        What to write.
    """
    lines = (json.dumps([row[name] for name in HEAD]) for row in rows)
    return "[\n" + ",\n".join(lines) + "\n]\n"


def worse(rows: Iterable[Row], before: Iterable[Row]) -> list[tuple[str, ...]]:
    """Return what has become worse: by itself, or against the release.

    Parameters
    ----------
    rows
        What came out now.
    before
        What is held.

    Returns
    -------
    list of tuple of str
        Workload, cluster, metric, what it was, what it is, and the ratio; what became
        worst is first.
    """
    now = {_place(row): row for row in rows}
    then = {_place(row): row for row in before}
    found: list[tuple[float, tuple[str, ...]]] = []
    for place, row in now.items():
        workload, cluster, contender = place
        if contender != "fork":
            continue
        if place not in then:
            found.append((math.inf, (workload, cluster, "all", "not held", "", "")))
            continue
        base = workload, cluster, "base"
        for metric, little in HELD.items():
            pairs = [(metric, then[place][metric], row[metric], little)]
            if base in now and base in then and then[base][metric] > little:
                ratios = [
                    rows_[place][metric] / max(rows_[base][metric], little)
                    for rows_ in (then, now)
                ]
                # A ratio of what is little says little
                slack = little / then[base][metric]
                pairs.append((f"{metric} / release", *ratios, slack))
            for name, old, new, slack in pairs:
                if new > old * (1 + TOLERANCE) and new > old + slack:
                    ratio = new / old if old else math.inf
                    cells = (_number(old), _number(new), f"{ratio:.2f}")
                    found.append((ratio, (workload, cluster, name, *cells)))
    return [line for _, line in sorted(found, key=lambda pair: -pair[0])]


def _number(value: float) -> str:
    return f"{value / MB:.1f} MB" if value > 1e4 else f"{value:.3f}"


def show(rows: Sequence[Row], contenders: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a table for a terminal.

    Parameters
    ----------
    rows
        What came out.
    contenders
        Names of what was replayed with.
    """
    by_place = _by_place(rows)
    names = [*contenders, "floor"]
    yield (
        "managed memory at its peak and bytes moved in MB, seconds; "
        f"{', '.join(names)}; in brackets the spread of peaks over seeds"
    )
    for (workload, cluster), found in by_place.items():
        peaks = " ".join(f"{found[name]['peak'] / MB:7.1f}" for name in names)
        moved = " ".join(f"{found[name]['moved'] / MB:7.1f}" for name in names)
        times = " ".join(f"{found[name]['makespan']:6.2f}" for name in contenders)
        last = found[contenders[-1]]
        low, high = last["lowest peak"] / MB, last["highest peak"] / MB
        yield (
            f"{workload:22} {cluster:>5} | {peaks} ({low:.1f}-{high:.1f}) | {moved} | "
            f"{times} | {last['chunks']:3} chunks"
        )


def _check_names(
    ctx: click.Context, param: click.Parameter, names: tuple[str, ...]
) -> tuple[str, ...]:
    known = recordings.names(ctx.params["folder"])
    if unknown := [name for name in names if name not in known]:
        raise click.BadParameter(f"no recording {', '.join(unknown)}")
    return names or tuple(known)


def _check_clusters(
    ctx: click.Context, param: click.Parameter, clusters: tuple[str, ...]
) -> tuple[str, ...]:
    for cluster in clusters:
        if not re.fullmatch("[1-9][0-9]*x[1-9][0-9]*", cluster):
            raise click.BadParameter(f"{cluster!r} is not of the form 4x2")
    return clusters


@click.command("replay")
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=recordings.FOLDER,
    is_eager=True,
    help="Where the recordings are.",
)
@click.argument("names", nargs=-1, metavar="[NAME]...", callback=_check_names)
@click.option(
    "--cluster",
    "clusters",
    multiple=True,
    default=CLUSTERS,
    callback=_check_clusters,
    help="Workers and threads; give it several times.  "
    f"[default: {', '.join(CLUSTERS)}]",
)
@click.option(
    "--contender",
    "contenders",
    multiple=True,
    default=("base", "fork"),
    help="base, fork, fork:SETTING=VALUE or commit:HASH; give it several times.  "
    "[default: base, fork]",
)
@click.option(
    "--check",
    is_flag=True,
    help="Fail if the last contender is worse than what is held.",
)
@click.option(
    "--against",
    metavar="CONTENDER",
    help="Fail if the last contender is worse than this one.",
)
@click.option("--accept", is_flag=True, help="Hold what came out from now on.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=BUILD / "replay.json",
    help="Where everything is written.  [default: build/benchmarks/replay.json]",
)
def command(
    folder: Path,
    names: tuple[str, ...],
    clusters: tuple[str, ...],
    contenders: tuple[str, ...],
    check: bool,
    against: str | None,
    accept: bool,
    output: Path,
) -> None:
    """Replay recordings of real workloads, the same to the bit each time.

    Without names all of them.
    """
    from rich.progress import Progress

    if accept and (contenders != ("base", "fork") or clusters != CLUSTERS):
        raise click.UsageError("--accept takes no other contenders or clusters")
    if against and against not in contenders:
        contenders = (against, *contenders)
    count = sum(len(SEEDS) if c in WITH_ALL_SEEDS else 1 for c in clusters)
    with made(contenders) as trees, Progress(transient=True) as progress:
        task = progress.add_task("", total=count * len(names) * len(contenders))
        rows = replay_all(
            trees, names, clusters, folder, lambda: progress.advance(task)
        )
    for line in show(rows, contenders):
        click.echo(line)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(dump(rows), encoding="utf-8")
    if accept:
        _accept(rows)
    if (check or against) and sys.hash_info.algorithm != ALGORITHM:
        click.echo(
            f"nothing is compared: this Python hashes by {sys.hash_info.algorithm}, "
            f"and what is held was replayed with {ALGORITHM} (Python 3.11 and later)"
        )
        return
    last = _with_release(rows, contenders[-1])
    if against:
        _complain(worse(last, _with_release(rows, against)), against)
    if check:
        _complain(worse(last, held()), "what is held")


def _with_release(rows: Iterable[Row], contender: str) -> list[Row]:
    """Return the rows of the release, and those of a contender as the fork's."""
    names = {"base": "base", contender: "fork"}
    return [
        row | {"contender": names[row["contender"]]}
        for row in rows
        if row["contender"] in names
    ]


def _complain(lines: Sequence[tuple[str, ...]], before: str) -> None:
    """Print what has become worse, and fail if anything has."""
    for line in lines:
        click.echo("  ".join(line))
    if lines:
        raise click.ClickException(
            f"{len(lines)} figures are worse by more than {TOLERANCE:.0%} than "
            f"{before}. If that is wanted: --accept, and the commit says why"
        )
    click.echo(f"nothing is worse than {before}")


def _accept(rows: Sequence[Row]) -> None:
    """Put what came out in the place of what was held before."""
    places = {(row["workload"], row["cluster"]) for row in rows}
    known = set(recordings.names())
    others = [
        row
        for row in (held(HELD_FILE) if HELD_FILE.exists() else ())
        if row["workload"] in known and (row["workload"], row["cluster"]) not in places
    ]
    every = sorted(
        [*others, *rows],
        key=lambda row: (row["workload"], CLUSTERS.index(row["cluster"])),
    )
    HELD_FILE.write_text(dump(every), encoding="utf-8", newline="\n")
    path = write_figures(
        "replay",
        about=ABOUT,
        note="Release → fork (floor), in MB; workers x threads.",
        values=means(every),
        head=("workload", *(f"{m}, {c}" for c in SHOWN for m in ("peak", "moved"))),
        rows=list(table(every)),
    )
    click.echo(f"written to {HELD_FILE.name} and {path.relative_to(REPOSITORY)}")


def _by_place(rows: Iterable[Row]) -> dict[tuple[str, str], dict[str, Row]]:
    """Return rows by contender, for each workload and cluster."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        place = row["workload"], row["cluster"]
        found.setdefault(place, {})[row["contender"]] = row
    return found


def table(rows: Iterable[Row]) -> Iterator[list[str]]:
    """Yield the rows of a table for the docs.

    Parameters
    ----------
    rows
        What came out.
    """
    found = _by_place(rows)
    for name in dict.fromkeys(workload for workload, _ in found):
        cells = []
        for cluster in SHOWN:
            place = found[name, cluster]
            for metric in ("peak", "moved"):
                base, fork, floor = (
                    f"{place[who][metric] / MB:.3g}"
                    for who in ("base", "fork", "floor")
                )
                cells.append(f"{base} → {fork} ({floor})")
        yield [name, *cells]


def means(rows: Iterable[Row]) -> dict[str, str]:
    """Return geometric means over all workloads and clusters.

    Parameters
    ----------
    rows
        What came out.

    Returns
    -------
    dict
        ``peak``, ``moved`` and ``makespan``: of the fork over the release, where that
        moves more than a megabyte; ``floor``: of the fork's peak over the floor.
    """
    ratios: dict[str, list[float]] = {}
    for place in _by_place(rows).values():
        base, fork, floor = place["base"], place["fork"], place["floor"]
        ratios.setdefault("peak", []).append(fork["peak"] / base["peak"])
        ratios.setdefault("makespan", []).append(fork["makespan"] / base["makespan"])
        ratios.setdefault("floor", []).append(fork["peak"] / floor["peak"])
        if base["moved"] > MB:
            # What is next to nothing would count for more than all the others
            moved = max(fork["moved"], MB / 10) / base["moved"]
            ratios.setdefault("moved", []).append(moved)
    return {
        name: f"{statistics.geometric_mean(many):.2f}" for name, many in ratios.items()
    }


#: A change of these makes the figures old.
ABOUT = (
    *SCHEDULER,
    "distributed/rootish/simulation.py",
    "continuous_integration/benchmarks/recordings",
    "continuous_integration/benchmarks/replay.py",
    "continuous_integration/benchmarks/floor.py",
)
