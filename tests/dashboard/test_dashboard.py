"""The dashboard from end to end: a person's ways through it, by mouse, keyboard and phone."""

from __future__ import annotations

import base64
import json
import urllib.request
from pathlib import Path
from typing import Any, Final

import pytest

from tests.dashboard.webdriver import ARROW_DOWN, ENTER, ESCAPE, Browser
from tests.servers import RunningServer, wait_until

pytestmark = pytest.mark.needs_browser

PIXEL: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def ask(url: str, method: str, path: str, body: Any = None, token: str = "") -> Any:
    """Return the result of a request to the daemon itself."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"{url}{path}", data, headers, method=method)
    with urllib.request.urlopen(request) as response:
        return json.load(response)["result"]


@pytest.fixture
def shop(url: str) -> str:
    """The id of a namespace."""
    return str(ask(url, "POST", "/api/namespaces", {"title": "shop"})["id"])


def put(url: str, namespace: str, key: str, value: bytes) -> None:
    ask(url, "PUT", f"/api/namespaces/{namespace}/values/{key}", value)


def details(url: str, namespace: str, key: str) -> Any:
    return ask(url, "GET", f"/api/namespaces/{namespace}/keys/{key}")


def go(page: Browser, address: str, heading: str) -> None:
    page.run("location.hash = arguments[0]", address)
    page.find("h1", heading)


def test_namespaces_are_made_renamed_and_deleted(page: Browser, url: str) -> None:
    go(page, "#/namespaces", "Namespaces")
    page.click("button", "New namespace")
    page.fill("Title", "carts")
    page.press(ENTER)
    page.find("h1", "carts")
    page.click(".crumb a")
    page.click("button", "Rename carts")
    page.fill("Title", "baskets")
    page.click("dialog button", "Rename")
    page.click("button", "Delete baskets")
    page.fill("Type", "wrong")
    page.click("dialog .danger")
    page.find("dialog [role=alert]", "not what was asked for")
    page.fill("Type", "baskets")
    page.click("dialog .danger")
    page.find("p", "There are no namespaces yet")
    assert ask(url, "GET", "/api/namespaces") == []


def test_a_key_is_added_edited_and_deleted(page: Browser, url: str, shop: str) -> None:
    go(page, f"#/namespaces/{shop}", "shop")
    page.click("button", "New key")
    page.fill("Key", "user/7 ż")
    page.type("aside .value", '{"a":12345678901234567890}')
    page.fill("Metadata", '{"tag": "x: y"}')
    page.choose("Expires", "after")
    page.click("aside button", "Add")
    page.find("aside h2", "user/7 ż")
    found = details(url, shop, "user%2F7%20%C5%BC")
    assert (found["value"], found["metadata_text"]) == ('{"a":12345678901234567890}', '{"tag":"x: y"}')
    assert found["expiration"] is not None
    assert page.value("aside .value") == '{\n  "a": 12345678901234567890\n}'

    page.choose("Expires", "never")
    page.click("aside button", "Save")
    wait_until(lambda: details(url, shop, "user%2F7%20%C5%BC")["expiration"] is None, "saved without expiry")
    assert details(url, shop, "user%2F7%20%C5%BC")["value"] == '{"a":12345678901234567890}', "as it was"

    page.wait_gone(".toast")
    page.click("aside button", "Delete…")
    page.click("dialog .danger")
    page.wait_gone("aside")
    assert ask(url, "GET", f"/api/namespaces/{shop}/keys") == []


def test_a_value_is_edited_as_hex(page: Browser, url: str, shop: str) -> None:
    put(url, shop, "raw", b"\x00\xffkvd")
    go(page, f"#/namespaces/{shop}", "shop")
    page.click("button.key", "raw")
    page.find(".hex")
    assert page.value(".hex textarea") == "00 ff 6b 76 64"
    page.type(".hex textarea", "00 fe 6b 7", clear=True)
    page.click("aside button", "Save")
    page.find(".toast.failed", "pairs")
    page.type(".hex textarea", "6")
    page.click("aside button", "Save")
    wait_until(lambda: details(url, shop, "raw")["size"] == 4, "saved")
    assert base64.b64decode(details(url, shop, "raw")["value"]) == b"\x00\xfekv"


def test_invalid_json_is_not_saved_as_json(page: Browser, url: str, shop: str) -> None:
    put(url, shop, "config", b"{}")
    go(page, f"#/namespaces/{shop}", "shop")
    page.click("button.key", "config")
    page.type("aside .value", "}")
    page.click("aside button", "Save")
    page.find(".toast.failed", "no valid JSON")
    assert details(url, shop, "config")["value"] == "{}"


def test_a_picture_is_shown_and_replaced_by_a_file(
    page: Browser, url: str, shop: str, tmp_path: Path
) -> None:
    put(url, shop, "logo", PIXEL)
    go(page, f"#/namespaces/{shop}", "shop")
    page.click("button.key", "logo")
    page.find("figcaption", "image/png, 1 ")
    file = tmp_path / "note.txt"
    file.write_bytes(b"no picture")
    page.type("input[type=file]", str(file))
    page.find("aside .value")
    page.click("aside button", "Save")
    wait_until(lambda: details(url, shop, "logo")["value"] == "no picture", "saved")


def test_what_another_has_written_is_not_lost_without_a_question(page: Browser, url: str, shop: str) -> None:
    put(url, shop, "a", b"first")
    go(page, f"#/namespaces/{shop}", "shop")
    page.click("button.key", "a")
    page.type("aside .value", " mine")
    put(url, shop, "a", b"theirs")
    page.click("aside button", "Save")
    page.find("dialog", "Somebody has changed this key")
    assert details(url, shop, "a")["value"] == "theirs"
    page.click("dialog .danger")
    wait_until(lambda: details(url, shop, "a")["value"] == "first mine", "written over")


def test_keys_are_found_by_prefix_by_search_and_in_pages(page: Browser, url: str, shop: str) -> None:
    entries: list[dict[str, Any]] = [{"key": f"k:{number:03}", "value": ""} for number in range(150)]
    entries.append({"key": "other", "value": "", "metadata": {"city": "Łódź"}})
    ask(url, "PUT", f"/client/v4/accounts/a/storage/kv/namespaces/{shop}/bulk", entries)
    go(page, f"#/namespaces/{shop}", "shop")
    page.find(".pager", "1 to 100")
    page.click("button", "Next")
    page.find("button.key", "other")
    page.click("button", "Previous")
    page.find("button.key", "k:000")
    page.press("/")
    page.press("łódź")
    page.press(ENTER)
    page.find(".pager", "1 found")
    page.find("button.key", "other")
    go(page, f"#/namespaces/{shop}?prefix=k:14", "shop")
    page.find(".pager", "1 to 10")
    page.click("button", "Delete all keys with this prefix")
    page.fill("Type", "k:14")
    page.click("dialog .danger")
    page.find(".pager", "No keys here")
    assert len(ask(url, "GET", f"/api/namespaces/{shop}/keys?limit=1000")) == 141


def test_all_can_be_done_with_the_keyboard(page: Browser, url: str, shop: str) -> None:
    put(url, shop, "a", b"1")
    put(url, shop, "b", b"2")
    page.press("gn")
    page.find("h1", "Namespaces")
    go(page, f"#/namespaces/{shop}", "shop")
    page.press(f"j{ARROW_DOWN}{ENTER}")
    page.find("aside h2", "b")
    page.press(ESCAPE)
    page.wait_gone("aside")
    assert page.run("return document.activeElement.textContent") == "b", "the focus is back where it was"
    page.press("n")
    page.find("aside h2", "New key")
    page.press(ESCAPE)
    page.press("?")


def test_login_by_token_shows_what_the_token_may(page: Browser, url: str, shop: str) -> None:
    admin = ask(url, "POST", "/api/tokens", {"name": "root", "right": "admin"})["token"]
    body = {"name": "guest", "right": "read", "namespaces": ["shop"]}
    guest = ask(url, "POST", "/api/tokens", body, admin)["token"]
    page.run("location.reload()")
    page.fill("API token", "kvd_wrong")
    page.press(ENTER)
    page.find("[role=alert]", "not accepted")
    page.fill("API token", guest)
    page.press(ENTER)
    page.find("h1", "Namespaces")
    assert not page.is_there("a", "Members")
    page.click("td a", "shop")
    page.find("h1", "shop")
    assert not page.is_there("button", "New key")
    page.click("button", "Log out")
    page.fill("API token", admin)
    page.press(ENTER)
    page.click("a", "Tokens")
    page.click("button", "Revoke guest")
    page.click("dialog .danger")
    wait_until(lambda: len(ask(url, "GET", "/api/tokens", token=admin)) == 1, "revoked")
    page.click("button", "New token")
    page.fill("Name", "third")
    page.click("dialog button", "Create")
    page.find("dialog", "not shown again")
    assert page.value("dialog .mono").startswith("kvd_")


def test_who_makes_the_first_token_goes_on_with_it(page: Browser, url: str) -> None:
    go(page, "#/tokens", "Tokens")
    page.click("button", "New token")
    page.fill("Name", "root")
    page.choose("Right", "admin")
    page.click("dialog button", "Create")
    page.find("dialog", "not shown again")
    page.click("dialog button", "Done")
    page.find("button", "Log out")
    page.find("td", "root")
    assert page.run("return document.documentElement.scrollHeight") <= page.run("return innerHeight")


def test_charts_follow_what_the_daemon_does(page: Browser, server: RunningServer) -> None:
    page.find("h1", "Overview")
    with server.client() as client:

        def drawn() -> bool:
            client.set("a", "1")
            client.get("a")
            return "L" in str(page.run("return document.querySelector('.line').getAttribute('d')"))

        wait_until(drawn, "a line of two samples")
    label = page.run("return document.querySelector('.plot svg').getAttribute('aria-label')")
    assert label.startswith("Operations a second: Redis ")
    page.click("a", "Members")
    page.find("article", "this node")


@pytest.mark.parametrize("width", [320, 390, 800])
def test_nothing_is_wider_than_a_phone(page: Browser, url: str, shop: str, width: int) -> None:
    put(url, shop, "long" * 60, b"x" * 5000)
    page.look(width=width, height=800, is_phone=True)
    for address, heading in (
        ("#/overview", "Overview"),
        ("#/namespaces", "Namespaces"),
        (f"#/namespaces/{shop}", "shop"),
    ):
        go(page, address, heading)
        assert page.run("return document.documentElement.scrollWidth") <= width
    page.click("button.key", "longlong")
    page.find("aside .value")
    assert page.run("return document.documentElement.scrollWidth") <= width


def test_what_is_stored_cannot_become_part_of_the_page(page: Browser, url: str, shop: str) -> None:
    put(
        url,
        shop,
        "%3Cimg%20src=x%20onerror=document.title='gone'%3E",
        b"<script>document.title='gone'</script>",
    )
    put(
        url,
        shop,
        "svg",
        b"<svg xmlns='http://www.w3.org/2000/svg' onload='top.document.title=1'><script>1</script></svg>",
    )
    go(page, f"#/namespaces/{shop}", "shop")
    page.click("button.key", "<img")
    page.find("aside .value")
    page.press(ESCAPE)
    page.click("button.key", "svg")
    page.find(".picture img")
    assert page.run("return document.title").startswith("shop ")


def test_every_control_has_a_name(page: Browser, url: str, shop: str) -> None:
    put(url, shop, "a", b"1")
    script = """return [...document.querySelectorAll('input, select, textarea, button, a')].filter((each) =>
        each.checkVisibility() && !(each.labels?.length || each.getAttribute('aria-label') || each.textContent.trim()))
        .map((each) => each.outerHTML)"""
    for address, heading in (
        ("#/overview", "Overview"),
        ("#/tokens", "Tokens"),
        (f"#/namespaces/{shop}", "shop"),
    ):
        go(page, address, heading)
        assert page.run(script) == []
    page.click("button.key", "a")
    page.find("aside .value")
    assert page.run(script) == []
