"""``dask rootish``: see what the scheduler takes for root-ish, and what that does.

``dask`` imports this module whatever it is asked to do, so what a sub-command needs
is imported when it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import operator
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from distributed.rootish.explanation import Explanation
    from distributed.rootish.monitor import RootishStatus

# Named here too, because the module that knows them is expensive to import. A test
# compares.
POLICIES = ("heuristic", "marked", "producers")
SOURCES = ("zarr", "netcdf", "iris", "handles")

PLOT_NAME = "rootish-demo.png"

#: Exit code of ``dask rootish explain --fail-on-overproduction``
OVERPRODUCTION = 3

#: Exit code of ``dask rootish explain --fail``
TOO_LARGE = 4

INSTALL_HINT = "pip install 'distributed[demo] @ git+https://…'"


@click.group(name="rootish")
@click.version_option(package_name="distributed")
def main() -> None:
    """See what the scheduler takes for root-ish, and what that does to memory."""


def _size(ctx: click.Context, param: click.Parameter, value: str) -> int:
    """Make a number of bytes of a size with or without a unit."""
    from dask.utils import parse_bytes

    try:
        return int(parse_bytes(value))
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is not a size such as 2MiB or 500kB."
        ) from None


def _plot_path(
    ctx: click.Context, param: click.Parameter, value: Path | None
) -> Path | None:
    """Make of a folder or a file the file to write, and see that it can be."""
    if value is None:
        return None
    is_file = value.suffix.lower() == ".png" and not value.is_dir()
    if not is_file and not value.is_dir() and (value.suffix or value.exists()):
        raise click.BadParameter(f"{str(value)!r} must be a folder or end in .png.")
    path = value if is_file else value / PLOT_NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise click.BadParameter(
            f"cannot make {str(path.parent)!r}: {e.strerror}."
        ) from e
    is_new = not path.exists()
    try:
        # What permissions say is not all that can be in the way
        with path.open("ab"):
            pass
    except OSError as e:
        raise click.BadParameter(
            f"{str(path)!r} cannot be written: {e.strerror}."
        ) from e
    if is_new:
        path.unlink()
    return path


@main.command(name="demo")
@click.option(
    "--source",
    "sources",
    type=click.Choice(SOURCES),
    multiple=True,
    default=SOURCES,
    help="Where the data come from: Zarr stores, NetCDF files through xarray or "
    "through Iris, or Zarr stores opened in one task and read in others. Can be given "
    "more than once.  [default: all]",
)
@click.option(
    "--policy",
    "policies",
    type=click.Choice(POLICIES),
    multiple=True,
    default=POLICIES,
    help="Value of the setting distributed.scheduler.rootish-policy. Can be given "
    "more than once.  [default: all]",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Number of worker processes.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Number of threads of each worker.",
)
@click.option(
    "--files",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Number of files. The heuristic fails from 5 on.",
)
@click.option(
    "--chunks",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Number of chunks in each file.",
)
@click.option(
    "--chunk-size",
    metavar="SIZE",
    default="2MiB",
    callback=_size,
    show_default=True,
    help="Size of a chunk, rounded down to a multiple of 64 KiB.",
)
@click.option(
    "--strip-marks",
    is_flag=True,
    help="Hide from the scheduler which tasks are marked as data producers.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    callback=_plot_path,
    help=f"Where to write the plot: a file that ends in .png, or a folder in which "
    f"it is called {PLOT_NAME}.  [default: a new folder for temporary files]",
)
def demo(
    sources: tuple[str, ...],
    policies: tuple[str, ...],
    workers: int,
    threads: int,
    files: int,
    chunks: int,
    chunk_size: int,
    strip_marks: bool,
    output: Path | None,
) -> None:
    """Average files that are larger than the cluster, under each policy.

    Writes real files into a temporary folder, starts a cluster of processes on this
    machine for each policy, and computes one weighted mean over all files with it.
    Prints how much memory that took, and plots it over time.

    The defaults take about a minute, 2 GB of memory, and 700 MB of disk.
    """
    # The same one twice would be computed twice and drawn over itself.
    sources = tuple(dict.fromkeys(sources))
    policies = tuple(dict.fromkeys(policies))

    from distributed.rootish import demo as rootish_demo

    missing = rootish_demo.missing_packages(sources)
    if missing:
        raise click.ClickException(
            f"Not installed: {', '.join(missing)}. The extra 'demo' brings what the "
            f"demo needs: {INSTALL_HINT}"
        )

    from rich.console import Console

    try:
        data = rootish_demo.DataSpec(files, chunks, chunk_size)
    except rootish_demo.DemoError as e:
        raise click.UsageError(str(e)) from e
    cluster = rootish_demo.ClusterSpec(workers, threads, marks=not strip_marks)
    try:
        with _stop_in_order() as go_on, _progress(Console(stderr=True)) as show:

            def report(done: int, total: int, what: str) -> None:
                go_on()
                show(done, total, what)

            runs = rootish_demo.run_demo(
                data,
                cluster,
                sources,
                policies,
                report=report,
            )
        Console().print(rootish_demo.make_table(runs, data, cluster))
        if output is None:
            # Whoever else runs this here has a file of the same name
            output = Path(tempfile.mkdtemp(prefix="dask-rootish-")) / PLOT_NAME
        rootish_demo.write_plot(runs, data, output)
        click.echo(f"Memory over time: {output}")
        rootish_demo.check_results(runs)
        click.echo("All results are equal.")
    except (rootish_demo.DemoError, OSError) as e:
        raise click.ClickException(str(e)) from e
    except KeyboardInterrupt:
        click.echo("Aborted!", err=True)
        sys.exit(128 + signal.SIGINT)


def _sizes(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> dict[str, int]:
    """Make sizes by name of pairs of a name and a size."""
    sizes = {}
    for value in values:
        name, equals, size = value.rpartition("=")
        if not (name and equals):
            raise click.BadParameter(f"{value!r} is not NAME=SIZE, such as read=2MiB.")
        sizes[name] = _size(ctx, param, size)
    return sizes


def _memory(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> int | None:
    """Make a number of bytes of a size, if there is one."""
    return None if value is None else _size(ctx, param, value)


@main.command(name="explain")
@click.argument("target", metavar="[PACKAGE.MODULE:OBJECT]", required=False)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Tell what this scheduler has decided so far instead, such as "
    "tcp://127.0.0.1:8786.",
)
@click.option(
    "--nworkers",
    type=click.IntRange(min=1),
    help="Number of workers.  [default: as LocalCluster starts here]",
)
@click.option(
    "--nthreads",
    type=click.IntRange(min=1),
    help="Number of threads of each worker.  [default: as LocalCluster starts here]",
)
@click.option(
    "--memory",
    metavar="SIZE",
    callback=_memory,
    help="Memory of each worker, such as 4GiB.  [default: as LocalCluster starts here, "
    "if the number of workers and threads is, too]",
)
@click.option(
    "--size",
    "sizes",
    metavar="NAME=SIZE",
    multiple=True,
    callback=_sizes,
    help="Size of the output of each task of a name, such as read=2MiB, where dask "
    "does not know it. Can be given more than once.",
)
@click.option(
    "--predict/--no-predict",
    default=None,
    help="Whether to predict what it takes.  [default: up to 100,000 tasks]",
)
@click.option(
    "--persist", is_flag=True, help="Results stay on the workers, as with persist."
)
@click.option(
    "--timeout",
    metavar="TIME",
    help="Time that it may take, such as 5m.  [default: 30s]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.option("--unfold", is_flag=True, help="Show each group in a row of its own.")
@click.option(
    "--fail",
    is_flag=True,
    help=f"Exit with {TOO_LARGE} if it does not fit the memory of the workers.",
)
@click.option(
    "--fail-on-overproduction",
    is_flag=True,
    help=f"Exit with {OVERPRODUCTION} if a group that brings in data is not held back.",
)
def explain(
    target: str | None,
    scheduler: str | None,
    nworkers: int | None,
    nthreads: int | None,
    memory: int | None,
    sizes: dict[str, int],
    predict: bool | None,
    persist: bool,
    timeout: str | None,
    as_json: bool,
    unfold: bool,
    fail: bool,
    fail_on_overproduction: bool,
) -> None:
    """Tell what a computation will take, and why, without running it.

    OBJECT is a collection of dask, a list or tuple of such, or a function that takes
    nothing and returns one. Modules are looked for in the current folder, too.

    With --scheduler, tell what is decided of the groups that a scheduler knows, and
    what became of its last computations.
    """
    if (target is None) == (scheduler is None):
        raise click.UsageError("Give either PACKAGE.MODULE:OBJECT or --scheduler.")
    explanation: Explanation | RootishStatus
    if scheduler is not None:
        if nworkers is not None or nthreads is not None:
            raise click.UsageError("--nworkers and --nthreads are the scheduler's own.")
        if fail or persist or sizes or (memory, predict, timeout) != (None,) * 3:
            raise click.UsageError(
                "--fail, --memory, --persist, --predict, --size and --timeout are for "
                "what has not run."
            )
        explanation = _ask(scheduler)
    else:
        assert target is not None
        if fail and predict is False:
            raise click.UsageError("--fail needs what --no-predict leaves out.")
        if fail and memory is None and (nworkers, nthreads) != (None, None):
            raise click.UsageError("--fail needs --memory.")
        explanation = _explain(
            target,
            nworkers=nworkers,
            nthreads=nthreads,
            memory=memory,
            sizes=sizes,
            predict=predict,
            persist=persist,
            timeout=timeout,
        )
        if fail and explanation.fits is None:
            raise click.ClickException(f"{target}: {'; '.join(explanation.notes)}")
    if as_json:
        click.echo(json.dumps(explanation.to_dict(), indent=2))
    else:
        _print(explanation.to_text(unfold=unfold))
    if fail and getattr(explanation, "fits", None) is False:
        sys.exit(TOO_LARGE)
    if fail_on_overproduction and explanation.overproducing():
        sys.exit(OVERPRODUCTION)


def _print(text: str) -> None:
    """Print text with whatever names a user has chosen, in whatever encoding."""
    encoding = sys.stdout.encoding or "utf-8"
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding))


def _ask(address: str) -> RootishStatus:
    """Ask a running scheduler."""
    import dask.config
    from dask.utils import parse_timedelta

    from distributed.core import rpc
    from distributed.rootish.monitor import ask_scheduler
    from distributed.security import Security
    from distributed.utils import TimeoutError as NoAnswer
    from distributed.utils import silence_logging_cmgr, wait_for

    timeout = dask.config.get("distributed.comm.timeouts.connect")

    async def ask() -> RootishStatus:
        security = Security().get_connection_args("client")
        # A client would be one more thing to be closed, and shown on the dashboard
        async with rpc(address, connection_args=security) as scheduler:
            # Whatever else listens there may never answer
            return await wait_for(ask_scheduler(scheduler), parse_timedelta(timeout))

    try:
        # What cannot be read is told in a line, and not where it was found out as well
        with silence_logging_cmgr(logging.CRITICAL + 1):
            return asyncio.run(ask())
    except NoAnswer:
        raise click.ClickException(
            f"{address}: no answer within {timeout}; is it the address of a scheduler?"
        ) from None
    except (OSError, RuntimeError) as e:
        raise click.ClickException(f"{address}: {_line(e)}") from e
    except Exception as e:
        # Anything can be at the other end, and send anything
        raise click.ClickException(
            f"{address}: no answer of a scheduler ({type(e).__name__}: {_line(e)})"
        ) from e


def _line(error: Exception) -> str:
    """Return what an error says, in one line that can be printed."""
    from distributed.rootish.tables import shorten

    return shorten(" ".join(str(error).split()), 300)


def _explain(target: str, **options: Any) -> Explanation:
    """Explain what is not running yet."""
    from distributed.rootish import explain

    collections = _load(target)
    try:
        return explain(*collections, **options)
    except (TimeoutError, TypeError, ValueError) as e:
        raise click.ClickException(f"{target}: {e}") from e


def _load(target: str) -> list[Any]:
    """Import what is to be explained, and call it if it is a function."""
    from dask.base import is_dask_collection

    from distributed.rootish.explanation import as_on_cluster

    module_name, colon, path = target.partition(":")
    if not (module_name and colon and path):
        raise click.BadParameter(
            f"{target!r} is not of the form PACKAGE.MODULE:OBJECT.",
            param_hint="PACKAGE.MODULE:OBJECT",
        )
    sys.path.insert(0, os.getcwd())
    try:
        with as_on_cluster():
            found = operator.attrgetter(path)(importlib.import_module(module_name))
            # Delayed objects can be called, too
            if callable(found) and not is_dask_collection(found):
                found = found()
    except (Exception, SystemExit) as e:
        # Whatever somebody else's code raises; what it exits with would say something
        # of the computation
        raise click.ClickException(f"{target}: {type(e).__name__}: {e}") from e
    return list(found) if isinstance(found, (list, tuple)) else [found]


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Callable[[int, int, str], None]]:
    """Show a bar in a terminal, and a line for every step elsewhere, as in a log."""
    # A dumb terminal cannot move the cursor
    if not console.is_terminal or console.is_dumb_terminal:
        yield lambda done, total, what: click.echo(f"[{done}/{total}] {what}", err=True)
        return

    from rich.progress import BarColumn, Progress, SpinnerColumn, TimeElapsedColumn

    with Progress(
        SpinnerColumn(),
        "{task.description}",
        BarColumn(),
        "{task.completed}/{task.total}",
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task("Starting", total=None)

        def report(done: int, total: int, what: str) -> None:
            progress.update(task, completed=done, total=total, description=what)

        yield report


@contextlib.contextmanager
def _stop_in_order() -> Iterator[Callable[[], None]]:
    """Let Ctrl-C or SIGTERM unwind the block once, without a second interruption.

    Cleaning up takes a moment, and who presses Ctrl-C again meanwhile would leave the
    data and the workers behind.

    Yields
    ------
    A function that is to be called now and then. It unwinds the block if that was asked
    for and did not happen: Python drops what is raised while a finalizer runs.
    """
    received: list[int] = []

    def go_on() -> None:
        if received:
            if received[0] == signal.SIGINT:
                raise KeyboardInterrupt
            sys.exit(128 + received[0])

    def interrupt(signum: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        click.echo("Stopping the workers and removing the data ...", err=True)
        received.append(signum)
        go_on()

    def unraisable(lost: sys.UnraisableHookArgs) -> None:
        """Say nothing of what the next call raises again."""
        if not (
            received and isinstance(lost.exc_value, KeyboardInterrupt | SystemExit)
        ):
            tell(lost)

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    tell, sys.unraisablehook = sys.unraisablehook, unraisable
    for each in before:
        signal.signal(each, interrupt)
    try:
        yield go_on
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        sys.unraisablehook = tell


if __name__ == "__main__":
    main()  # pragma: no cover
