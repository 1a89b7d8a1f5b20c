"""What the page asks of /api beyond keys and values: rights, histograms, search in any letters."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from typing import Any


def ask(url: str, method: str, path: str, body: Any = None, token: str = "") -> Any:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}{path}", data, headers, method=method)
    with urllib.request.urlopen(request) as response:
        return json.load(response)["result"]


def test_a_namespace_says_what_the_asker_may_do_there(url: str) -> None:
    shop = ask(url, "POST", "/api/namespaces", {"title": "shop"})
    assert shop["right"] == "admin"
    body = {"name": "n", "right": "write", "namespaces": ["shop"]}
    token = ask(url, "POST", "/api/tokens", body)["token"]
    assert ask(url, "GET", f"/api/namespaces/{shop['id']}", token=token)["right"] == "write"
    assert ask(url, "GET", "/api/session", token=token)["right"] is None


def test_figures_have_the_calls_by_time(url: str) -> None:
    ask(url, "GET", "/api/figures")
    found = ask(url, "GET", "/api/figures")
    assert sum(found["http_histogram"]) >= 1
    assert len(found["command_histogram"]) == 64


def test_search_knows_small_and_capital_letters_of_any_script(url: str) -> None:
    shop = ask(url, "POST", "/api/namespaces", {"title": "shop"})["id"]
    for key in ("ŁÓDŹ", "Oslo"):
        ask(url, "PUT", f"/api/namespaces/{shop}/values/{urllib.parse.quote(key)}", "x")
    found = ask(url, "GET", f"/api/namespaces/{shop}/search?text={urllib.parse.quote('łódź')}")
    assert [row["name"] for row in found] == ["ŁÓDŹ"]
