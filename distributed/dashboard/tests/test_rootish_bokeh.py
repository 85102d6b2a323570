"""The dashboard's page on what is held back, without a browser."""

from __future__ import annotations

import asyncio
import html
import itertools
import json
import math
import re
from typing import Any

import pytest

pytest.importorskip("bokeh")

from bokeh.models import ColumnDataSource
from bokeh.models.widgets import HTMLTemplateFormatter
from dask._task_spec import Task
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from distributed import Event, wait
from distributed.dashboard.components import rootish as page
from distributed.dashboard.components.rootish import RootishGroups
from distributed.rootish import tables
from distributed.rootish.loading import CHUNKS_PER_SLOT
from distributed.rootish.monitor import RootishMonitor
from distributed.rootish.queue import WAITS
from distributed.rootish.tables import ADVICE, NAME
from distributed.rootish.tests.utils import SATURATION, TWO_WORKERS
from distributed.scheduler import DEFAULT_EXTENSIONS, Scheduler
from distributed.utils_test import async_poll_for, gen_cluster, inc
from distributed.worker import Worker

#: Two for each thread
SLOTS = 4
TASKS = 20
CHUNK = 2**20

#: One after the other, as time goes on
CLICKS = itertools.count()

two_workers = gen_cluster(client=True, nthreads=TWO_WORKERS, config=SATURATION)

OTHER_EXTENSIONS = {k: v for k, v in DEFAULT_EXTENSIONS.items() if k != "rootish"}


def load(i: int, event: Event | None = None) -> bytes:
    if event is not None:
        event.wait()
    return bytes(CHUNK)


def keys(group: str, n: int = TASKS) -> list[Any]:
    return [(group, i) for i in range(n)]


def rows(component: RootishGroups) -> dict[str, dict[str, Any]]:
    """Return what is shown of each group, in the order that it is shown in."""
    data = component.source.data
    return {
        name: {column: values[n] for column, values in data.items()}
        for n, name in enumerate(data["name"])
    }


async def get(s: Scheduler, path: str) -> HTTPResponse:
    url = f"http://localhost:{s.http_server.port}/{path}"
    return await AsyncHTTPClient().fetch(url)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Let no update take any time, so that none is left out."""
    monkeypatch.setattr(page, "thread_time", lambda: 0)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[RootishMonitor]:
    """Get an element whenever the extension is asked."""
    asked = []
    status = RootishMonitor.status

    def ask(self):
        asked.append(self)
        return status(self)

    monkeypatch.setattr(RootishMonitor, "status", ask)
    return asked


@two_workers
async def test_rows(c, s, a, b):
    """Each group has its verdict, in words, and how far it is."""
    few = c.submit(inc, 1, key=("few", 0))
    await wait(few)
    event = Event("go", client=c)
    loads = c.map(load, range(TASKS), event=event, key=keys("load"))
    later = c.submit(len, loads[-1], key=("later", 0))
    await async_poll_for(
        lambda: (
            "later" in s.task_groups
            and s.task_groups["load"].states["processing"] == SLOTS
        ),
        timeout=5,
    )
    component = RootishGroups(s)
    assert not rows(component)
    component.update()
    shown = rows(component)
    states = ("tasks", "waiting", "queued", "processing", "memory")
    assert {
        name: (row["verdict"], *(row[state] for state in states))
        for name, row in shown.items()
    } == {
        "load": ("yes", TASKS, 0, TASKS - SLOTS, SLOTS, 0),
        "later": ("undecided", 1, 1, 0, 0, 0),
        "few": ("no", 1, 0, 0, 0, 1),
    }
    assert list(shown)[-1] == "few"
    assert (
        shown["load"]["reason"]
        == "It brings in far more than it frees, and may run anywhere."
    )
    assert shown["later"]["reason"] == "Not decided yet."
    assert shown["load"]["bytes"] == "?"
    assert shown["load"]["waits"].endswith(" order")
    assert shown["later"]["waits"] == ""
    summary = component.summary.text
    assert f"Policy <b>producers</b> &middot; {SLOTS} slots" in summary
    assert f"{TASKS - SLOTS} tasks queued" in summary
    assert "3 groups, 1 of them root-ish" in summary
    assert "left out" not in summary

    await event.set()
    await wait([*loads, later])
    component.update()
    row = rows(component)["load"]
    assert (row["queued"], row["processing"], row["memory"]) == (0, 0, TASKS)
    assert "0 tasks queued" in component.summary.text


@two_workers
async def test_bytes(c, s, a, b):
    """A bar is as long as its bytes are, and of another colour beyond the tick."""
    component = RootishGroups(s)
    loads = c.map(load, range(TASKS), key=keys("load"))
    other = c.submit(load, 0, key=("few", 0))
    await wait([*loads, other])
    component.update()
    chunk = s.tasks["few", 0].nbytes
    shown = rows(component)
    allowed = CHUNKS_PER_SLOT * SLOTS
    assert shown["load"]["nbytes"] == TASKS * chunk
    assert shown["load"]["bytes"] == f"{TASKS}.00 MiB of {allowed}.00 MiB"
    assert shown["load"]["filled"] == 100
    assert shown["load"]["limit"] == pytest.approx(99 * allowed / TASKS)
    assert shown["load"]["over"] == "over"
    assert shown["load"]["limited"] == ""
    assert shown["few"]["bytes"] == "1.00 MiB"
    assert shown["few"]["filled"] == pytest.approx(100 / TASKS)
    assert shown["few"]["over"] == ""
    assert shown["few"]["limited"] == "unlimited"

    # What is left is allowed: the tick is where the bar can end
    kept = loads[: allowed // 2]
    del loads, other
    await async_poll_for(lambda: len(s.tasks) == len(kept), timeout=5)
    component.update()
    [row] = rows(component).values()
    assert row["filled"] == pytest.approx(50)
    assert row["limit"] == pytest.approx(99)
    assert row["over"] == ""


@two_workers
async def test_waits(c, s, a, b):
    """What queued tasks wait for, in words and as parts of a bar."""
    event = Event("go", client=c)
    loads = c.map(load, range(TASKS), event=event, key=keys("load"))
    few = SLOTS // 2
    more = c.map(
        load,
        range(TASKS // 2),
        event=event,
        key=keys("more", TASKS // 2),
        priority=-1,
    )
    later = c.map(len, loads[:few], key=keys("later", few))
    total = TASKS + TASKS // 2 + few
    await async_poll_for(lambda: len(s.tasks) == total, timeout=5)
    component = RootishGroups(s)
    component.update()
    shown = rows(component)
    queued = TASKS - SLOTS
    assert (shown["load"]["waits"], shown["load"]["order"]) == (f"{queued} order", 100)
    part = 100 * (TASKS // 2) / queued
    assert shown["more"]["order"] == pytest.approx(part)
    assert shown["later"]["waits"] == ""
    assert not any(shown["later"][reason] for reason in WAITS)
    assert f"{queued + TASKS // 2} tasks wait for a thread." in component.summary.text

    await event.set()
    await wait([*loads, *more, *later])
    component.update()
    assert {row["waits"] for row in rows(component).values()} == {""}
    assert "wait for" not in component.summary.text


@two_workers
async def test_most_important_first(c, s, a, b, monkeypatch):
    """Active groups first, then those with the most bytes. The rest is counted."""
    names = ["smallest", "small", "middle", "large", "largest"]
    futures = [c.submit(bytes, n * CHUNK, key=(k, 0)) for n, k in enumerate(names)]
    await wait(futures)
    event = Event("go", client=c)
    active = c.submit(load, 0, event=event, key=("active", 0))
    await async_poll_for(lambda: "active" in s.task_groups, timeout=5)
    component = RootishGroups(s)
    component.update()
    assert list(rows(component)) == ["active", *reversed(names)]

    monkeypatch.setattr(page, "MAX_ROWS", 3)
    capped = RootishGroups(s)
    capped.update()
    assert list(rows(capped)) == ["active", "largest", "large"]
    assert "6 groups, " in capped.summary.text
    assert "3 groups are left out" in capped.summary.text
    await event.set()
    await wait(active)


@two_workers
async def test_rows_keep_their_place(c, s, a, b):
    """What is allowed decides on the place of a loader, not what is there just now."""
    event = Event("go", client=c)
    loads = c.map(load, range(2 * SLOTS), key=keys("load", 2 * SLOTS))
    await wait(loads)
    del loads[1:]
    more = c.submit(load, 0, key=("more", 0)), c.submit(load, 1, key=("more", 1))
    await wait(more)
    await async_poll_for(lambda: len(s.tasks) == 3, timeout=5)
    component = RootishGroups(s)
    component.update()
    shown = rows(component)
    assert shown["load"]["nbytes"] < shown["more"]["nbytes"]
    assert list(shown) == ["load", "more"]
    await event.set()


@two_workers
async def test_no_news_no_work(c, s, a, b, looks):
    """Only transitions, and workers that come and go, are a reason to look."""
    component = RootishGroups(s)
    component.update()
    component.update()
    assert len(looks) == 1
    await c.submit(inc, 1)
    component.update()
    assert len(looks) == 2
    await async_poll_for(lambda: not s.tasks, timeout=5)
    component.update()
    component.update()
    assert len(looks) == 3
    async with Worker(s.address, nthreads=1):
        await async_poll_for(lambda: len(s.running) == 3, timeout=5)
        component.update()
        assert len(looks) == 4
        assert f"{SLOTS + 2} slots" in component.summary.text
        component.update()
        assert len(looks) == 4


@two_workers
async def test_slow_looks_are_rare(c, s, a, b, looks, monkeypatch):
    """With very many groups, the page takes no more than its part of the time."""
    slow = 3 * page.SHARE * page.INTERVAL / 1000
    clock = itertools.count()
    monkeypatch.setattr(page, "thread_time", lambda: slow * next(clock))
    component = RootishGroups(s)
    for n in range(9):
        await c.submit(inc, n)
        component.update()
    assert len(looks) == math.ceil(9 / 4)


@two_workers
async def test_names_are_escaped(c, s, a, b):
    """A key is in no text that is HTML; templates escape it."""
    name = "x<img src=x onerror=alert(1)>"
    await wait(c.submit(inc, 1, key=(name, 0)))
    component = RootishGroups(s)
    component.update()
    data = component.source.data
    assert list(data["name"]) == [name]
    assert name not in component.summary.text
    templates = {
        column.field: column.formatter.template
        for column in component.table.columns
        if isinstance(column.formatter, HTMLTemplateFormatter)
    }
    for field in ("name", "reason"):
        assert "=" not in set(re.findall(r"<%(.) (?!wrong|linked)", templates[field]))
    # The others have nothing but what the page itself has made
    for field in set().union(
        *(re.findall(r"<%= (\w+)", t) for t in templates.values())
    ):
        column = "verdict" if field == "value" else field
        assert name not in map(str, data[column])


def click(source: ColumnDataSource, place: int) -> None:
    """Click a row, as a browser tells it."""
    source.tags = [source.data["id"][place], next(CLICKS)]


@two_workers
async def test_groups_of_one_name_are_one_row(c, s, a, b):
    """It unfolds when it is clicked, and folds again."""
    names = [f"load-{n:032x}" for n in range(3 * page.MAX_PARTS)]
    futures = [c.submit(load, n, key=(name, 0)) for n, name in enumerate(names)]
    other = c.submit(inc, 1, key=("other", 0))
    await wait([*futures, other])
    component = RootishGroups(s)
    component.update()
    # The first few were judged before the others were there
    folded = [name for name in component.source.data["name"] if name != "other"]
    assert set(folded) == {"load"}
    assert len(folded) <= 2
    tasks = list(component.source.data["tasks"])
    row = tasks.index(max(tasks))
    assert f"{max(tasks)} groups" in component.source.data["unfold"][row]

    click(component.source, row)
    shown = component.source.data["name"]
    assert len(shown) == len(folded) + 1 + page.MAX_PARTS
    assert {name[-10:] for name in shown[row + 1 :][: page.MAX_PARTS]} <= {
        name[-10:] for name in names
    }
    click(component.source, row)
    assert len(component.source.data["name"]) == len(folded) + 1


@two_workers
async def test_computations_of_the_past(c, s, a, b):
    """The last is shown when nothing else is there, and others when clicked."""
    component = RootishGroups(s)
    for name in ("first", "second"):
        await c.gather(c.map(load, range(TASKS), key=keys(name)))
        await async_poll_for(lambda: not s.task_groups, timeout=5)
    component.update()
    assert list(component.past.data["title"]) == ["second", "first"]
    assert list(component.past.data["tasks"]) == [TASKS, TASKS]
    assert list(component.past.data["made"]) == ["20.00 MiB"] * 2
    assert list(component.past.data["outcome"]) == ["", ""]
    assert list(rows(component)) == ["second"]
    assert "What became of the computation" in component.summary.text
    click(component.past, 1)
    assert list(rows(component)) == ["first"]
    kept = c.map(load, range(TASKS), key=keys("now"))
    await wait(kept)
    component.update()
    assert list(rows(component)) == ["first"]
    # The same one has a new place
    click(component.past, 2)
    assert list(rows(component)) == ["now"]
    assert "What became" not in component.summary.text
    # The page changes after a row was clicked, and before that is known here
    clicked = component.past.data["id"][1]
    await c.gather(c.map(load, range(TASKS), key=keys("third")))
    await async_poll_for(lambda: len(component.scheduler.task_groups) == 1, timeout=5)
    component.update()
    assert component.past.data["title"][1] != "second"
    component.past.tags = [clicked, 1]
    assert list(rows(component)) == ["second"]
    # It is not there any more
    component.past.tags = ["gone", 2]
    assert list(rows(component)) == ["now"]


@gen_cluster(
    client=True,
    nthreads=TWO_WORKERS,
    config={**SATURATION, "distributed.scheduler.rootish-policy": "heuristic"},
)
async def test_what_is_wrong_comes_with_what_to_do(c, s, a, b):
    """While it is there, and afterwards."""
    name = "x<b>load"
    futures = c.map(load, range(TASKS), key=keys(name), workers=[a.address])
    await wait(futures)
    component = RootishGroups(s)

    def see():
        component.update()
        assert rows(component)[name]["wrong"] == "wrong"
        assert rows(component)[name]["advice"] == ADVICE["placed"].text
        text = component.summary.text
        assert "Not held back" in text
        assert html.escape(name) in text
        assert name not in text
        assert html.escape(ADVICE["placed"].text) in text
        assert component.past.data["outcome"][0] == name

    see()
    del futures
    await async_poll_for(lambda: not s.task_groups, timeout=5)
    see()


@pytest.mark.parametrize("where", ["", "https://example.org/blob/1/docs/"])
@two_workers
async def test_link(c, s, a, b, where, monkeypatch):
    """There is one if there is an address."""
    monkeypatch.setattr(tables, "_documentation", lambda: where)
    await wait(c.submit(inc, 1, key=("few", 0)))
    component = RootishGroups(s)
    component.update()
    row = rows(component)["few"]
    if where:
        assert row["link"].startswith(f"{where}howto.rst#which-setting-do-i-change")
        assert row["linked"] == ""
    else:
        assert (row["link"], row["linked"]) == ("", "none")


@gen_cluster(client=True, nthreads=[], scheduler_kwargs={"dashboard": True})
async def test_many_groups(c, s):
    """However many there are, and whatever they are called, the page is small."""
    hostile = ["y" * 5000, "a\x1b[2J\x00b\nc\u202ed"]
    names = [f"load-{n:032x}" for n in range(3000)] + hostile
    dsk = {(name, 0): Task((name, 0), inc, 1) for name in names}
    futures = c.get(dsk, list(dsk), sync=False)
    await async_poll_for(lambda: len(s.task_groups) == len(names), timeout=20)
    component = RootishGroups(s)
    component.update()
    shown = list(component.source.data["name"])
    assert len(shown) == 3
    assert all(len(name) <= NAME and name.isprintable() for name in shown)
    click(component.source, shown.index("load"))
    assert len(component.source.data["name"]) == 3 + page.MAX_PARTS
    size = len(json.dumps(component.source.data, default=lambda x: x.tolist()))
    assert size < 100_000
    assert len((await get(s, "rootish")).body) < 100_000
    assert len((await get(s, "metrics")).body) < 200_000
    del futures


@gen_cluster(
    client=True, nthreads=TWO_WORKERS, scheduler_kwargs={"extensions": OTHER_EXTENSIONS}
)
async def test_without_the_extension(c, s, a, b):
    component = RootishGroups(s)
    await wait(c.submit(inc, 1))
    component.update()
    assert not rows(component)
    assert "no extension" in component.summary.text


@gen_cluster(
    scheduler_kwargs={"dashboard": True, "extensions": OTHER_EXTENSIONS}, nthreads=[]
)
async def test_pages_without_the_extension(s):
    for path in ("rootish", "individual-rootish"):
        assert (await get(s, path)).code == 200


@gen_cluster(scheduler_kwargs={"dashboard": True}, nthreads=[])
async def test_urls(s):
    """The page is in the menu of all pages, and the plot is in the lists of plots."""
    assert (await get(s, "individual-rootish")).code == 200
    plots = json.loads((await get(s, "individual-plots.json")).body)
    assert plots["Individual Rootish"] == "/individual-rootish"
    for path in ("rootish", "status"):
        text = (await get(s, path)).body.decode()
        menu = re.findall(r'<li>\s*<a href="([a-z]+)">(\w+)</a>', text)
        names = [name for _, name in menu]
        assert menu.count(("rootish", "Rootish")) == 1
        assert names.index("Rootish") == names.index("Groups") + 1
        assert 'href="individual-rootish"' in text


@gen_cluster(
    client=True,
    scheduler_kwargs={"dashboard": True},
    config={
        "distributed.scheduler.dashboard.bokeh-application": {
            "allow_websocket_origin": ["*"],
            "check_unused_sessions_milliseconds": 10,
            "unused_session_lifetime_milliseconds": 10,
        }
    },
)
async def test_closed_page_costs_nothing(c, s, a, b, looks, monkeypatch):
    monkeypatch.setattr(page, "INTERVAL", 1)
    [bokeh] = (
        app for app in s.http_application.applications if hasattr(app, "get_sessions")
    )
    await get(s, "rootish")
    assert looks
    await async_poll_for(lambda: not bokeh.get_sessions("/rootish"), timeout=10)
    looks.clear()
    await wait(c.submit(inc, 1))
    # A hundred times what an open page would need
    await asyncio.sleep(100 * page.INTERVAL / 1000)
    assert not looks
