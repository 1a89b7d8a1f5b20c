"""Take screenshots of the dashboard with some data: python -m tests.dashboard.shots DIRECTORY."""

from __future__ import annotations

import json
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Final

from tests.dashboard.webdriver import Browser, running_browser
from tests.servers import RunningServer, kvd_server, wait_until

_CART: Final = {
    "user": 7,
    "items": [{"sku": "tea-green", "count": 2}, {"sku": "cup", "count": 1}],
    "total": "18.40",
}
_SAMPLES: Final = 45


def _request(url: str, method: str, path: str, body: bytes | None = None) -> Any:
    request = urllib.request.Request(
        f"{url}{path}", body, {"Content-Type": "application/octet-stream"}, method=method
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)["result"]


def fill(server: RunningServer, url: str) -> str:
    """Write namespaces and keys; return the id of the one to look at."""
    ids: dict[str, str] = {}
    for title in ("shop", "sessions", "flags"):
        ids[title] = _request(url, "POST", "/api/namespaces", json.dumps({"title": title}).encode())["id"]
    entries = [
        {"key": f"cart:{number:05}", "value": json.dumps(_CART), "expiration_ttl": 3600 * (number + 2)}
        | (
            {"metadata": {"city": ("Łódź", "Porto", "Oslo")[number % 3], "items": number % 5}}
            if number % 2
            else {}
        )
        for number in range(160)
    ]
    entries += [
        {"key": f"product:{name}", "value": f"A {name}."} for name in ("tea-green", "tea-black", "cup", "pot")
    ]
    shop = ids["shop"]
    base = f"/client/v4/accounts/a/storage/kv/namespaces/{shop}"
    _request(url, "PUT", f"{base}/bulk", json.dumps(entries).encode())
    icon = Path(__file__).parents[2] / "kvd/web/static/icon.svg"
    _request(url, "PUT", f"{base}/values/{urllib.parse.quote('picture:logo.svg')}", icon.read_bytes())
    return shop


def _load(server: RunningServer, page: Browser) -> None:
    """Give the charts something to draw."""
    with server.client() as client:
        deadline = time.monotonic() + _SAMPLES
        turn = 0
        while time.monotonic() < deadline:
            turn += 1
            with client.pipeline(transaction=False) as pipe:
                for number in range(40 + turn % 23 * 3):
                    pipe.set(f"k{number}", "x" * 200) if number % 4 == 0 else pipe.get(f"k{number * 2 % 90}")
                pipe.execute()
            time.sleep(0.04)
    assert page.is_there("h1")


def main(directory: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch, kvd_server(Path(scratch)) as server:
        port = json.loads((Path(scratch) / "ports.json").read_text())["http"]
        url = f"http://127.0.0.1:{port}"
        shop = fill(server, url)
        with running_browser(Path(scratch)) as page:
            page.look()
            page.open(f"{url}/")
            page.find("h1", "Overview")
            _load(server, page)
            _shoot(page, directory, f"#/namespaces/{shop}?prefix=cart:")


def _shoot(page: Browser, directory: Path, keys: str) -> None:
    def open_first() -> None:
        page.click("button.key")
        page.find("aside h2")

    page.screenshot(directory / "overview-light.png")
    page.look(scheme="dark")
    page.screenshot(directory / "overview-dark.png")
    for scheme in ("light", "dark"):
        page.look(scheme=scheme)
        page.run("location.hash = arguments[0]", keys)
        open_first()
        wait_until(lambda: page.value("aside .value"), "the value is shown")
        page.screenshot(directory / f"keys-{scheme}.png")
        page.press("\ue00c")
    page.look(width=390, height=844, is_phone=True)
    page.screenshot(directory / "phone-keys.png")
    open_first()
    page.screenshot(directory / "phone-entry.png")
    page.press("\ue00c")
    for name in ("overview", "namespaces", "tokens", "members"):
        page.look(width=390, height=844, is_phone=True)
        page.run("location.hash = arguments[0]", f"#/{name}")
        page.find("h1", name.capitalize())
        page.screenshot(directory / f"phone-{name}.png")
        page.look()
        page.screenshot(directory / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
