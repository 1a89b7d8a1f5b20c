"""The dashboard's tests: a daemon, and a headless Chromium that looks at it.

Without Chromium and its driver they are skipped; under ``KVD_REQUIRE_BROWSER=1`` they fail then.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dashboard.webdriver import PROGRAMS, Browser, running_browser
from tests.servers import RunningServer, kvd_server


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("needs_browser") is None:
        return
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if not missing:
        return
    reason = f"not installed: {', '.join(missing)} (on Debian: apt install chromium chromium-driver)"
    if os.environ.get("KVD_REQUIRE_BROWSER") == "1":
        pytest.fail(f"KVD_REQUIRE_BROWSER=1, but {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with kvd_server(tmp_path) as running:
        yield running


@pytest.fixture
def url(server: RunningServer, tmp_path: Path) -> str:
    """The address of the daemon's page."""
    port = json.loads((tmp_path / "ports.json").read_text())["http"]
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Browser]:
    """The dashboard, open; at the end nothing may have failed in it, nor been refused by its policy."""
    browser.look()
    browser.open(url)
    browser.run("sessionStorage.clear()")
    browser.open(f"{url}/")
    browser.find("h1")
    browser.complaints()
    yield browser
    serious = [text for text in browser.complaints() if "the server responded with a status of 4" not in text]
    browser.open("about:blank")
    assert not serious
