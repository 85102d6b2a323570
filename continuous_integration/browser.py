"""A browser without a window, for tests and pictures of pages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from continuous_integration.fork import ForkError

if TYPE_CHECKING:
    from playwright.async_api import Browser

#: What Chromium and Chrome are called by those who package them
NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
)


def system_browser() -> str | None:
    """Return the browser that the system has, if any."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def _installed() -> bool:
    """Whether Playwright has a browser of its own."""
    # It knows the path only while it runs, and it cannot run in an event loop
    code = (
        "from playwright.sync_api import sync_playwright\n"
        "with sync_playwright() as p: print(p.chromium.executable_path)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    return result.returncode == 0 and os.path.exists(result.stdout.strip())


def find_browser() -> str | None:
    """Find a browser, and let Playwright download one if there is none.

    Returns
    -------
    str or None
        Path of the system's browser. None stands for Playwright's own.

    Raises
    ------
    ForkError
        If there is none and none can be had.
    """
    if path := system_browser():
        return path
    if not _installed():
        command = [sys.executable, "-m", "playwright", "install", "chromium"]
        subprocess.run(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        if not _installed():
            raise ForkError(
                "there is no browser: install Chromium (on Debian, `apt-get install "
                "chromium`), or let `python -m playwright install chromium` download it"
            )
    return None


@asynccontextmanager
async def running_browser(path: str | None) -> AsyncIterator[Browser]:
    """Run a browser.

    Parameters
    ----------
    path
        What :func:`find_browser` has returned.
    """
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path)
        try:
            yield browser
        finally:
            await browser.close()
