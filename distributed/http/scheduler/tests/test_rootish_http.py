"""Prometheus metrics of what is held back."""

from __future__ import annotations

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client.parser import text_string_to_metric_families
from tornado.httpclient import AsyncHTTPClient

from distributed import Event, wait
from distributed.rootish import make_policy
from distributed.rootish.queue import WAITS
from distributed.rootish.tests.utils import SATURATION, TWO_WORKERS
from distributed.scheduler import DEFAULT_EXTENSIONS, Scheduler
from distributed.utils_test import async_poll_for, gen_cluster, inc

#: Two for each thread
SLOTS = 4
TASKS = 20

Samples = dict[tuple[str, ...], float]


def load(i: int, event: Event) -> int:
    event.wait()
    return i


def waiting(**numbers: int) -> Samples:
    """Return the values of all reasons for waiting; those that are not given are 0."""
    return {(f"reason={reason}",): numbers.get(reason, 0) for reason in WAITS}


async def fetch(s: Scheduler) -> dict[str, Samples]:
    """Return our metrics: name -> values of the labels -> value."""
    url = f"http://localhost:{s.http_server.port}/metrics"
    text = (await AsyncHTTPClient().fetch(url)).body.decode()
    assert "dask_scheduler_workers" in text
    found: dict[str, Samples] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("dask_rootish_"):
                labels = tuple(f"{k}={v}" for k, v in sorted(sample.labels.items()))
                found.setdefault(sample.name, {})[labels] = sample.value
    return found


@gen_cluster(client=True, nthreads=TWO_WORKERS, config=SATURATION)
async def test_prometheus(c, s, a, b):
    nothing = {
        "dask_rootish_queued_tasks": {(): 0},
        "dask_rootish_waiting_tasks": waiting(),
    }
    assert await fetch(s) == nothing
    few = c.submit(inc, 1, key=("few", 0))
    await wait(few)
    event = Event("go", client=c)
    loads = c.map(
        load, range(TASKS), event=event, key=[("load", i) for i in range(TASKS)]
    )
    await async_poll_for(lambda: len(s.queued) == TASKS - SLOTS, timeout=5)
    no, yes = ("reason=few", "rootish=false"), ("reason=producer", "rootish=true")
    found = await fetch(s)
    assert found["dask_rootish_groups"] == {no: 1, yes: 1}
    assert found["dask_rootish_queued_tasks"] == {(): TASKS - SLOTS}
    assert found["dask_rootish_waiting_tasks"] == waiting(order=TASKS - SLOTS)
    assert found["dask_rootish_decisions_total"] == {no: 1, yes: TASKS}

    # Groups are forgotten, decisions are not
    await event.set()
    await wait(loads)
    decisions = (await fetch(s))["dask_rootish_decisions_total"]
    del few, loads
    await async_poll_for(lambda: not s.tasks, timeout=5)
    assert await fetch(s) == {**nothing, "dask_rootish_decisions_total": decisions}

    # The policy is that which the scheduler has now
    s.rootish_policy = make_policy(s)
    assert await fetch(s) == nothing


@gen_cluster(
    client=True,
    nthreads=TWO_WORKERS,
    scheduler_kwargs={
        "extensions": {k: v for k, v in DEFAULT_EXTENSIONS.items() if k != "rootish"}
    },
)
async def test_prometheus_without_the_extension(c, s, a, b):
    await c.submit(inc, 1)
    assert await fetch(s) == {}
