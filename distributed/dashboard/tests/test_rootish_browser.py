"""The dashboard's page on what is held back, in a browser."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
from dask._task_spec import Task
from playwright.async_api import expect

from continuous_integration.browser import find_browser, running_browser
from continuous_integration.fork import ForkError
from distributed import Event, wait
from distributed.rootish.tables import ADVICE
from distributed.rootish.tests.utils import SATURATION, TWO_WORKERS
from distributed.utils_test import async_poll_for, gen_cluster, inc

#: Two for each thread
SLOTS = 4
TASKS = 20

#: What the columns of numbers are, from the left
TASKS_, WAITING, QUEUED, PROCESSING, MEMORY = range(2, 7)
BYTES, WAITS, REASON = range(7, 10)

HOSTILE = [
    "a<script>window.hacked = 1</script>",
    "b<img src=x onerror='window.hacked = 1'>",
    'c" onmouseover="window.hacked = 1" x=\'',
    "d<%= window.hacked = 1 %>",
]

#: Patience with a slow machine, in milliseconds
PATIENCE = 60_000

in_browser = gen_cluster(
    client=True,
    nthreads=TWO_WORKERS,
    scheduler_kwargs={"dashboard": True},
    config=SATURATION,
    timeout=200,
)


@pytest.fixture(scope="module")
def browser():
    """Return which browser there is; it is an error if there is none."""
    try:
        return find_browser()
    except ForkError as error:
        pytest.fail(str(error), pytrace=False)


@asynccontextmanager
async def opened(s, browser, path):
    """Open a page, and see that no script fails on it."""
    async with running_browser(browser) as running:
        page = await running.new_page(viewport={"width": 1400, "height": 600})
        page.set_default_timeout(PATIENCE)
        errors = []
        page.on("pageerror", lambda error: errors.append(error))
        await page.goto(f"http://localhost:{s.http_server.port}/{path}")
        yield page
        assert not errors


def cell(page, group, column):
    """Find a cell in the row of a group."""
    name = page.locator("code").get_by_text(group, exact=True)
    row = page.locator(".slick-row").filter(has=name)
    return row.locator(".slick-cell").nth(column)


def load(i, event):
    event.wait()
    return i


@in_browser
async def test_page(c, s, a, b, browser):
    """It is there while something is computed, and goes along with it."""
    event = Event("go", client=c)
    loads = c.map(
        load, range(TASKS), event=event, key=[("load", i) for i in range(TASKS)]
    )
    async with opened(s, browser, "status") as page:
        await page.get_by_role("link", name="Rootish", exact=True).first.click()
        await expect(page).to_have_title("Dask: Root-ish", timeout=PATIENCE)

        async def show(column, text):
            shown = cell(page, "load", column)
            await expect(shown).to_have_text(text, timeout=PATIENCE)

        await show(1, "yes")
        await show(TASKS_, f"{TASKS}")
        await show(QUEUED, f"{TASKS - SLOTS}")
        await show(PROCESSING, f"{SLOTS}")
        await show(MEMORY, "0")
        await show(WAITS, f"{TASKS - SLOTS} order")
        parts = cell(page, "load", WAITS).locator(".parts > div")
        widths = [(await part.bounding_box())["width"] for part in await parts.all()]
        assert widths[0] > 50
        assert not any(widths[1:])
        reason = cell(page, "load", REASON)
        await expect(reason).to_contain_text(
            "It brings in far more than it frees, and may run anywhere.",
            timeout=PATIENCE,
        )
        await expect(reason).to_contain_text(ADVICE["producer"].text)
        await event.set()
        await wait(loads)
        await show(QUEUED, "0")
        await show(WAITS, "")
        await show(PROCESSING, "0")
        await show(MEMORY, f"{TASKS}")
        # There is a bar, with a tick
        assert (await cell(page, "load", BYTES).locator(".bar").bounding_box())[
            "width"
        ] > 50
        await expect(cell(page, "load", BYTES).locator(".tick")).to_be_visible()


@pytest.mark.parametrize("path", ["rootish", "individual-rootish"])
@in_browser
async def test_names_are_text(c, s, a, b, browser, path):
    """Whatever a group is called, it is shown as it is, and nothing of it runs."""
    futures = [c.submit(inc, 1, key=(name, 0)) for name in HOSTILE]
    await wait(futures)
    async with opened(s, browser, path) as page:
        names = page.locator(".slick-row code")
        await expect(names).to_have_count(len(HOSTILE), timeout=PATIENCE)
        assert sorted(await names.all_inner_texts()) == sorted(HOSTILE)
        for name in await names.all():
            assert await name.get_attribute("title") == await name.inner_text()
            await name.hover()
        assert await page.locator(".slick-row").locator("script, img").count() == 0
        assert await page.evaluate("window.hacked") is None


@in_browser
async def test_rows_unfold(c, s, a, b, browser):
    """What is folded unfolds when it is clicked, and folds again."""
    names = [f"load-{n:032x}" for n in range(TASKS)]
    dsk = {(name, 0): Task((name, 0), inc, 1) for name in names}
    futures = c.get(dsk, list(dsk), sync=False)
    await wait(futures)
    async with opened(s, browser, "rootish") as page:
        rows = page.locator(".slick-row code")
        folded = rows.get_by_text("load", exact=True)
        await expect(folded.first).to_be_visible(timeout=PATIENCE)
        count = await folded.count()
        await folded.first.click()
        part = rows.get_by_text(names[-1][:8]).first
        await expect(part).to_be_visible(timeout=PATIENCE)
        await folded.first.click()
        await expect(part).to_be_hidden(timeout=PATIENCE)
        assert await folded.count() == count


@in_browser
async def test_afterwards(c, s, a, b, browser):
    """What became of a computation is shown, and of others when they are clicked."""
    for name in ("first", "second"):
        await c.gather(c.map(inc, range(TASKS), key=[(name, i) for i in range(TASKS)]))
        await async_poll_for(lambda: not s.task_groups, timeout=10)
    async with opened(s, browser, "rootish") as page:
        group = page.locator(".slick-row code")
        await expect(group).to_have_text(["second"], timeout=PATIENCE)
        heads = page.locator(".slick-column-name")
        await expect(heads.get_by_text("Most bytes in memory")).to_be_visible()
        await expect(heads.get_by_text("Queued", exact=True)).to_be_hidden()
        # At the peak, there may have been nothing else
        past = page.locator(".slick-row span[title=first]").first
        await past.click()
        await expect(group).to_have_text(["first"], timeout=PATIENCE)
        kept = c.map(inc, range(TASKS), key=[("now", i) for i in range(TASKS)])
        await wait(kept)
        # A row that comes while another is clicked moves what is chosen
        rows = page.locator(".slick-row span[title=now]")
        await expect(rows.first).to_be_visible(timeout=PATIENCE)
        await past.click()
        await expect(group).to_have_text(["now"], timeout=PATIENCE)
        await expect(heads.get_by_text("Queued", exact=True)).to_be_visible()
