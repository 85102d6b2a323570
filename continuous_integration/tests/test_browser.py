"""Where the browser of tests and pictures comes from."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from continuous_integration import browser
from continuous_integration.fork import ForkError


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Have no browser, and note the commands that should get one."""
    commands: list[list[str]] = []
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(browser, "_installed", lambda: False)
    monkeypatch.setattr(subprocess, "run", lambda args, **_: commands.append(args))
    return commands


@pytest.mark.parametrize("name", browser.NAMES)
def test_that_of_the_system_is_first(
    name: str, downloads: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", {name: f"/usr/bin/{name}"}.get)
    monkeypatch.setattr(browser, "_installed", lambda: True)
    assert browser.find_browser() == f"/usr/bin/{name}"
    assert not downloads


def test_that_of_playwright_is_next(
    downloads: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser, "_installed", lambda: True)
    assert browser.find_browser() is None
    assert not downloads


def test_one_is_downloaded(
    downloads: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser, "_installed", lambda: bool(downloads))
    assert browser.find_browser() is None
    [command] = downloads
    assert command[1:] == ["-m", "playwright", "install", "chromium"]


def test_none_can_be_had(downloads: list[list[str]]) -> None:
    with pytest.raises(ForkError, match="install Chromium") as raised:
        browser.find_browser()
    assert "\n" not in str(raised.value)
    assert len(downloads) == 1
