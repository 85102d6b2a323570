"""The fork beside a release: scheduler, workers and client need not be of one kind.

One side runs here, the other in an environment with the base as released.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import operator
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dask.array as da
import pytest

from continuous_integration.tests.conftest import Environment, run
from distributed import Client, Future


def compute(client: Client) -> tuple[int, list[Future[str]]]:
    """Load through more handles than the release counts; return sum and chunks.

    Of functions that are everywhere, since nothing here can be imported by workers.
    """
    handles = client.map(str, range(6))
    chunks = [
        client.submit(operator.mul, handles[i % 6], 100_000 + i, key=("load", i))
        for i in range(30)
    ]
    return client.submit(sum, client.map(len, chunks)).result(timeout=60), chunks


TOTAL = sum(100_000 + i for i in range(30))

#: What a client of the release runs, given the address of a scheduler
RELEASED_CLIENT = f"""
from __future__ import annotations
import operator, sys
from distributed import Client
{inspect.getsource(compute)}
with Client(sys.argv[1]) as client:
    print(compute(client)[0], hasattr(client, "rootish"))
"""


@pytest.fixture(scope="module")
def released(base_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Return an environment with the base as released."""
    environment = Environment(tmp_path_factory.mktemp("released"))
    environment.pip("install", "--quiet", base_wheel)
    return environment


@contextlib.contextmanager
def started(python: str | Path, what: str, *options: str | Path) -> Iterator[None]:
    """Run a scheduler or a worker."""
    command = [python, "-m", f"distributed.cli.dask_{what}", *options]
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=Path(__file__).parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
        assert process.poll() is None, f"the {what} stopped by itself"
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def cluster(
    scheduler: str | Path, workers: list[str | Path], folder: Path
) -> Iterator[str]:
    """Run a scheduler and workers, each by a Python, and yield its address."""
    file = folder / "scheduler.json"
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            started(
                *(scheduler, "scheduler", "--scheduler-file", file),
                *("--port", "0", "--host", "127.0.0.1", "--no-dashboard"),
            )
        )
        deadline = time.monotonic() + 60
        while not file.exists() or not file.read_text():
            assert time.monotonic() < deadline, "the scheduler does not start"
            time.sleep(0.05)
        address = json.loads(file.read_text())["address"]
        for python in workers:
            stack.enter_context(
                started(
                    *(python, "worker", address, "--nthreads", "1"),
                    *("--no-dashboard", "--local-directory", folder),
                )
            )
        yield str(address)


@pytest.mark.filterwarnings("ignore:.*Mismatched versions")
def test_released_client_and_workers(released: Environment, tmp_path: Path) -> None:
    """A scheduler of the fork serves them as it serves its own."""
    workers: list[str | Path] = [released.python, released.python]
    with (
        cluster(sys.executable, workers, tmp_path) as address,
        Client(address) as client,
    ):
        client.wait_for_workers(2, timeout=60)
        printed = run(released.python, "-c", RELEASED_CLIENT, address)
        assert printed.split() == [str(TOTAL), "False"]

        total, chunks = compute(client)
        assert total == TOTAL
        status = client.rootish()
        [group] = [each for each in status.groups if each.prefix == "load"]
        assert group.rootish
        assert len(chunks) == group.tasks == 30


@pytest.mark.filterwarnings("ignore:.*Mismatched versions")
def test_released_scheduler(released: Environment, tmp_path: Path) -> None:
    """What needs the scheduler of the fork says so; the rest works."""
    workers: list[str | Path] = [sys.executable, released.python]
    with cluster(released.python, workers, tmp_path) as address:
        with Client(address) as client:
            client.wait_for_workers(2, timeout=60)
            assert compute(client)[0] == TOTAL
            with pytest.raises(RuntimeError) as error:
                client.rootish()
            assert f"{address} keeps no verdicts" in str(error.value)
            assert "\n" not in str(error.value)
            explanation = client.explain_rootish(da.ones(100, chunks=1).sum())
            assert explanation.nthreads == (1, 1)

        message = run(
            *(sys.executable, "-m", "distributed.cli.dask_rootish"),
            *("explain", "--scheduler", address),
            code=1,
        )
        assert f"{address} keeps no verdicts" in message
        assert "Traceback" not in message
