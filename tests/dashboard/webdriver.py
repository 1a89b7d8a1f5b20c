"""A small WebDriver client: what the dashboard's tests need of a headless Chromium, over the standard library.

Each wait has a deadline, and says in words what it waited for. Source: W3C WebDriver; ChromeDriver for the
sizes of a phone.
"""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.servers import wait_until

PROGRAMS: Final = ("chromium", "chromedriver")
_ELEMENT: Final = "element-6066-11e4-a52e-4f735466cecf"
_SECONDS: Final = 20.0
_FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,860",
)
ENTER: Final = "\ue007"
ESCAPE: Final = "\ue00c"
ARROW_DOWN: Final = "\ue015"


class WebDriverError(AssertionError):
    """The browser could not do it."""


class Browser:
    """One browser with one page."""

    def __init__(self, base: str, session: str) -> None:
        self._base = f"{base}/session/{session}"

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return _call(method, f"{self._base}{path}", body)

    def open(self, url: str) -> None:
        self.call("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what a function body returns in the page."""
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def find(self, css: str, text: str = "") -> dict[str, str]:
        """Return the first visible element that matches, and whose text or label holds `text`; wait for it."""
        found: list[dict[str, str]] = []

        def looked() -> bool:
            found[:] = self.run(_FIND, css, text)
            return bool(found)

        wait_until(looked, f"{css!r} with {text!r} on {self.text('body')!r}", seconds=_SECONDS)
        return found[0]

    def is_there(self, css: str, text: str = "") -> bool:
        return bool(self.run(_FIND, css, text))

    def wait_gone(self, css: str, text: str = "") -> None:
        wait_until(lambda: not self.is_there(css, text), f"{css!r} with {text!r} goes", seconds=_SECONDS)

    def click(self, css: str, text: str = "") -> None:
        """Click an element with the mouse, as soon as nothing covers it."""
        deadline = time.monotonic() + _SECONDS
        while True:
            try:
                self.call("POST", f"/element/{self.find(css, text)[_ELEMENT]}/click", {})
            except WebDriverError:
                if time.monotonic() > deadline:
                    raise
            else:
                return

    def type(self, css: str, text: str, *, clear: bool = False) -> None:
        element = self.find(css)[_ELEMENT]
        if clear:
            self.call("POST", f"/element/{element}/clear", {})
        self.call("POST", f"/element/{element}/value", {"text": text})

    def fill(self, label: str, text: str) -> None:
        """Write into the control that has this label."""
        element = self.run(_CONTROL, label)
        assert element is not None, f"no control is labelled {label!r}"
        self.call("POST", f"/element/{element[_ELEMENT]}/clear", {})
        self.call("POST", f"/element/{element[_ELEMENT]}/value", {"text": text})

    def choose(self, label: str, value: str) -> None:
        """Choose an option of the select that has this label."""
        self.run(_CHOOSE, label, value)

    def press(self, keys: str) -> None:
        """Press keys one after the other, wherever the focus is."""
        strokes = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    def text(self, css: str) -> str:
        return str(self.run("return document.querySelector(arguments[0])?.innerText ?? ''", css))

    def value(self, css: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).value", css))

    def screenshot(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(self.call("GET", "/screenshot")))

    def look(
        self, *, width: int = 1280, height: int = 860, scheme: str = "light", is_phone: bool = False
    ) -> None:
        """Make the page of this size, and light or dark."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=is_phone,
        )
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.devtools("Emulation.setEmulatedMedia", features=[feature])

    def complaints(self) -> list[str]:
        """Return what the page wrote as errors since the last call: scripts that failed, refused contents."""
        log = self.call("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in log if entry["level"] == "SEVERE"]


_FIND: Final = """
const [css, text] = arguments;
return [...document.querySelectorAll(css)].filter((each) => each.checkVisibility()
  && `${each.innerText ?? each.textContent} ${each.getAttribute('aria-label') ?? ''}`.includes(text)).slice(0, 1);
"""
_CONTROL: Final = """
const labels = [...document.querySelectorAll('label')].filter((each) => each.checkVisibility());
return document.getElementById(labels.findLast((each) => each.innerText.startsWith(arguments[0]))?.htmlFor);
"""
_CHOOSE: Final = """
const labels = [...document.querySelectorAll('label')].filter((each) => each.checkVisibility());
const select = document.getElementById(labels.findLast((each) => each.innerText === arguments[0]).htmlFor);
select.value = arguments[1];
select.dispatchEvent(new Event('change'));
"""


def _call(method: str, url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)["value"]
    except urllib.error.HTTPError as error:
        with error:
            raise WebDriverError(json.load(error)["value"]["message"].splitlines()[0]) from None


@contextlib.contextmanager
def running_browser(directory: Path) -> Iterator[Browser]:
    """Run a Chromium with a fresh profile in `directory`; it goes with the block."""
    driver = shutil.which("chromedriver")
    assert driver is not None, "the marker needs_browser has asked for it"
    log_file = directory / "chromedriver.log"
    with (
        log_file.open("wb") as log,
        subprocess.Popen([driver, "--port=0"], stdout=log, stderr=log, cwd=directory) as process,
    ):
        try:
            base = f"http://127.0.0.1:{_port(log_file)}"
            made = _call("POST", f"{base}/session", _capabilities(directory / "profile"))
            browser = Browser(base, made["sessionId"])
            try:
                yield browser
            finally:
                browser.call("DELETE", "")
        finally:
            process.terminate()


def _capabilities(profile: Path) -> dict[str, Any]:
    options = {"binary": shutil.which("chromium"), "args": [*_FLAGS, f"--user-data-dir={profile}"]}
    always = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
    return {"capabilities": {"alwaysMatch": always}}


def _port(log_file: Path) -> int:
    found: list[int] = []

    def started() -> bool:
        _, marker, rest = log_file.read_text().partition("started successfully on port ")
        if marker and "\n" in rest:
            found.append(int(rest.split("\n")[0].rstrip(".")))
        return bool(found)

    wait_until(started, "chromedriver opens its port")
    return found[0]
