"""The Workers in examples/workers, each started by the command that its README names, against the daemon."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import attrs
import pytest

from tests.compat.web.runtime import WORKERD, free_port, listening, ports
from tests.servers import ROOT, RunningServer, kvd_server, wait_until

pytestmark = [pytest.mark.needs_node, pytest.mark.slow]

EXAMPLES = ROOT / "examples" / "workers"
NAMES = sorted(config.parent.name for config in EXAMPLES.glob("*/workerd.capnp"))


@attrs.frozen
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Visitor:
    """Somebody with a browser: keeps the cookies that a Worker sets."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.cookies: dict[str, str] = {}

    def ask(
        self, path: str, method: str = "GET", body: str | dict[str, str] | None = None, **headers: str
    ) -> Answer:
        """Send a request; a dict as body is a form, and names of headers have _ for -."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookies:
            given["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if isinstance(body, dict):
            body, given["Content-Type"] = urlencode(body), "application/x-www-form-urlencoded"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, given)
            response = connection.getresponse()
            answer = Answer(response.status, response.headers, response.read())
        finally:
            connection.close()
        self._keep_cookies(answer)
        return answer

    def _keep_cookies(self, answer: Answer) -> None:
        for line in answer.headers.get_all("Set-Cookie", []):
            for name, morsel in SimpleCookie(line).items():
                self.cookies[name] = morsel.value
                if morsel["max-age"] == "0":
                    del self.cookies[name]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with kvd_server(tmp_path_factory.mktemp("kvd")) as running:
        yield running


@contextlib.contextmanager
def example(name: str, directory: Path, kvd: str, **environment: str) -> Iterator[Visitor]:
    """Run an example with the command that its README names; give its first visitor."""
    port = free_port()
    command: list[str | Path] = [
        sys.executable,
        EXAMPLES / "run.py",
        name,
        "--kvd",
        kvd,
        "--listen",
        f"127.0.0.1:{port}",
    ]
    with listening([*command, "--workerd", WORKERD], port, directory / "run.log", **environment):
        yield Visitor(port)


def address(daemon: RunningServer) -> str:
    return f"127.0.0.1:{ports(daemon)['http']}"


@pytest.fixture
def visitor(request: pytest.FixtureRequest, daemon: RunningServer, tmp_path: Path) -> Iterator[Visitor]:
    name, environment = request.param if isinstance(request.param, tuple) else (request.param, {})
    with example(name, tmp_path, address(daemon), **environment) as running:
        yield running


def of_example(name: str, **environment: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("visitor", [(name, environment)], indirect=True, ids=[name])


def in_redis(daemon: RunningServer, namespace: str, *command: Any) -> Any:
    """Return what a Redis client is told about what the Worker wrote."""
    with daemon.client(decode_responses=True) as redis:
        redis.execute_command("KV.NS", "USE", namespace)
        return redis.execute_command(*command)


def test_sessions_survive_the_worker_and_the_daemon(tmp_path: Path) -> None:
    with kvd_server(tmp_path) as server, example("sessions", tmp_path, address(server)) as ada:
        stranger = Visitor(ada.port)
        assert ada.ask("/").status == 401
        assert ada.ask("/login", "POST", {"name": "Ada"}).text == "Welcome, Ada.\n"
        assert ada.ask("/").json["name"] == "Ada"
        assert stranger.ask("/", Cookie="session=00000000-0000-0000-0000-000000000000").status == 401
        server.kill()
    with kvd_server(tmp_path) as server, example("sessions", tmp_path, address(server)) as again:
        again.cookies = ada.cookies
        assert again.ask("/").json["name"] == "Ada"
        (key,) = in_redis(server, "sessions", "KEYS", "session:*")
        assert 3590 <= in_redis(server, "sessions", "TTL", key) <= 3600
        kept = dict(again.cookies)
        assert again.ask("/logout", "POST").status == 200
        again.cookies = kept  # a copy of the cookie does not bring the session back
        assert again.ask("/").status == 401


@of_example("rate-limit", LIMIT="5")
def test_the_request_above_the_limit_is_refused(visitor: Visitor, daemon: RunningServer) -> None:
    for number in range(5):
        answer = visitor.ask("/", X_Api_Key="busy")
        assert (answer.status, answer.headers["RateLimit-Remaining"]) == (200, str(4 - number))
    refused = visitor.ask("/", X_Api_Key="busy")
    assert refused.status == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    assert visitor.ask("/", X_Api_Key="other").status == 200
    assert 0 < in_redis(daemon, "rate-limit", "TTL", "limit:busy") <= 60
    in_redis(daemon, "rate-limit", "DEL", "limit:busy")
    assert visitor.ask("/", X_Api_Key="busy").status == 200


@of_example("feature-flags")
def test_a_flag_is_on_for_names_and_for_a_growing_share(visitor: Visitor) -> None:
    users = [f"user{number}" for number in range(60)]

    def share(percent: int) -> set[str]:
        body = json.dumps({"percent": percent, "users": ["ada"]})
        assert visitor.ask("/flags/new-checkout", "PUT", body).status == 200
        return {user for user in [*users, "ada"] if visitor.ask(f"/?user={user}").json["new-checkout"]}

    assert share(0) == {"ada"}
    some, more, everybody = share(30), share(70), share(100)
    assert {"ada"} < some < more < everybody == {*users, "ada"}
    assert visitor.ask("/flags").json == {"new-checkout": {"percent": 100, "users": ["ada"]}}
    assert visitor.ask("/flags/new-checkout", "PUT", '{"percent": 101}').status == 400
    assert visitor.ask("/flags/new-checkout", "DELETE").status == 204
    assert visitor.ask("/?user=ada").json == {}


@of_example("cart")
def test_a_cart_belongs_to_one_visitor_and_is_billed(visitor: Visitor, daemon: RunningServer) -> None:
    visitor.ask("/cart/tea", "PUT", "3")
    bill = visitor.ask("/cart/teapot", "PUT", "1").json
    assert [line["item"] for line in bill["lines"]] == ["tea", "teapot"]
    assert bill["total"] == 36.2
    assert visitor.ask("/cart/gold", "PUT", "1").status == 404
    assert visitor.ask("/cart/tea", "PUT", "0").status == 400
    assert Visitor(visitor.port).ask("/cart").json == {"lines": [], "total": 0}
    in_redis(daemon, "cart", "SET", "price:tea", "4.00")
    assert visitor.ask("/cart/teapot", "DELETE").json["total"] == 12
    assert visitor.ask("/cart").json["total"] == 12
    key = f"cart:{visitor.cookies['cart']}"
    assert 7 * 86400 - 60 < in_redis(daemon, "cart", "TTL", key) <= 7 * 86400


@of_example("verification-codes")
def test_a_code_is_good_once_and_for_five_attempts(
    visitor: Visitor, daemon: RunningServer, tmp_path: Path
) -> None:
    def code() -> str:
        assert visitor.ask("/send", "POST", {"email": "Ada@example.org"}).status == 202
        log = (tmp_path / "run.log").read_text()
        return str(re.findall(r"To: ada@example\.org \| Your code is (\d{6})\.", log)[-1])

    def check(attempt: str) -> int:
        return visitor.ask("/check", "POST", {"email": "ada@example.org", "code": attempt}).status

    right = code()
    wrong = "000000" if right != "000000" else "000001"
    lives_until = in_redis(daemon, "verification-codes", "EXPIRETIME", "code:ada@example.org")
    assert check(wrong) == 403
    assert in_redis(daemon, "verification-codes", "EXPIRETIME", "code:ada@example.org") == lives_until
    assert (check(right), check(right)) == (200, 403)

    right = code()
    assert [check(wrong if right != wrong else "999999") for _ in range(5)] == [403] * 5
    assert check(right) == 403
    assert visitor.ask("/send", "POST", {"email": "nobody"}).status == 400


@of_example("cached-api", FRESH_SECONDS="0", API_SECONDS="0.2")
def test_a_stale_answer_is_served_and_refreshed(visitor: Visitor, daemon: RunningServer) -> None:
    first = visitor.ask("/weather/berlin?a=1&b=2")
    assert first.headers["X-Cache"] == "miss"
    wait_until(
        lambda: in_redis(daemon, "cached-api", "EXISTS", "/weather/berlin?a=1&b=2"), "the answer is stored"
    )
    stale = visitor.ask("/weather/berlin?b=2&a=1")
    assert (stale.headers["X-Cache"], stale.headers["Content-Type"]) == ("stale", "application/json")
    assert stale.json == first.json

    def latest() -> Any:
        return visitor.ask("/weather/berlin?a=1&b=2").json

    wait_until(lambda: latest()["at"] > first.json["at"], "the refreshed answer is served")
    missing = visitor.ask("/weather/atlantis")
    assert missing.status == 404
    assert not in_redis(daemon, "cached-api", "EXISTS", "/weather/atlantis")


@of_example("cached-api", FRESH_SECONDS="600", API_SECONDS="0")
def test_a_fresh_answer_does_not_ask_the_api(visitor: Visitor, daemon: RunningServer) -> None:
    first = visitor.ask("/weather/paris")
    wait_until(lambda: in_redis(daemon, "cached-api", "EXISTS", "/weather/paris"), "the answer is stored")
    for _ in range(3):
        answer = visitor.ask("/weather/paris")
        assert (answer.headers["X-Cache"], answer.json) == ("hit", first.json)
    assert 86400 - 60 < in_redis(daemon, "cached-api", "TTL", "/weather/paris") <= 86400


@of_example("token-gateway")
def test_the_gateway_lets_in_who_has_a_token_and_only_where_it_may(
    visitor: Visitor, daemon: RunningServer
) -> None:
    admin = "Bearer change me"
    assert visitor.ask("/reports/2026").status == 401
    assert visitor.ask("/reports/2026", Authorization="Bearer tok_guessed").status == 401
    assert visitor.ask("/-/tokens", "POST", "{}", Authorization="Bearer tok_guessed").status == 403
    grant = json.dumps({"owner": "ada", "paths": ["/reports"]})
    made = visitor.ask("/-/tokens", "POST", grant, Authorization=admin)
    token = made.json["token"]
    assert (made.status, len(token)) == (201, 36)
    bearer = f"Bearer {token}"
    reached = visitor.ask("/reports/2026", Authorization=bearer, X_Consumer="root").json
    assert reached == {"path": "/reports/2026", "consumer": "ada", "sawToken": False}
    assert visitor.ask("/reports-of-others", Authorization=bearer).status == 403
    assert visitor.ask("/salaries", Authorization=bearer).status == 403
    assert not any(token in key for key in in_redis(daemon, "token-gateway", "KEYS", "*"))
    assert visitor.ask(f"/-/tokens/{token}", "DELETE", Authorization=admin).status == 204
    assert visitor.ask("/reports/2026", Authorization=bearer).status == 401


@of_example("ab-test")
def test_a_visitor_keeps_the_page_that_was_drawn(visitor: Visitor, daemon: RunningServer) -> None:
    seen = set()
    for _ in range(40):  # that all forty see the same page happens once in 10^12 runs
        newcomer = Visitor(visitor.port)
        first = newcomer.ask("/")
        seen.add(first.headers["X-Variant"])
        assert first.text == newcomer.ask("/").text == newcomer.ask("/").text
        assert f"<title>{first.headers['X-Variant'].upper()}</title>" in first.text
    assert seen == {"a", "b"}
    experiment = {"name": "greeting", "weights": {"a": 0, "b": 1}}
    in_redis(daemon, "ab-test", "SET", "experiment", json.dumps(experiment))
    assert {Visitor(visitor.port).ask("/").headers["X-Variant"] for _ in range(10)} == {"b"}
    assert visitor.ask("/", Cookie="greeting=a").headers["X-Variant"] == "b"  # a variant that is out


@of_example("site")
def test_the_site_has_types_etags_and_a_page_for_what_is_missing(
    visitor: Visitor, daemon: RunningServer
) -> None:
    types = {
        "/": "text/html; charset=utf-8",
        "/style.css": "text/css; charset=utf-8",
        "/icon.svg": "image/svg+xml",
    }
    for path, kind in types.items():
        answer = visitor.ask(path)
        file = EXAMPLES / "site" / "public" / (path[1:] or "index.html")
        assert (answer.status, answer.headers["Content-Type"]) == (200, kind)
        assert answer.body == file.read_bytes()
        assert visitor.ask(path, If_None_Match=answer.headers["ETag"]).status == 304
    missing = visitor.ask("/nowhere")
    assert (missing.status, missing.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
    assert missing.body == (EXAMPLES / "site" / "public" / "404.html").read_bytes()
    assert visitor.ask("/", "POST", "x").status == 405
    etag = visitor.ask("/").headers["ETag"]
    in_redis(daemon, "site", "SET", "index.html", "new")
    in_redis(daemon, "site", "SET", "a page.html", "with a space")
    answer = visitor.ask("/", If_None_Match=etag)
    assert (answer.status, answer.text) == (200, "new")
    assert visitor.ask("/a%20page").text == "with a space"


# Source: the code of the IBM 029 keypunch: the rows of a column that are punched.
PUNCHES: dict[str, set[int]] = {
    **{str(digit): {digit} for digit in range(10)},
    "L": {11, 3},
    "O": {11, 6},
    "G": {12, 7},
    " ": set(),
    "=": {6, 8},
    ".": {12, 3, 8},
}


def punched(card: str) -> list[set[int]]:
    """Return the rows that are punched, for each column of a card shown as text."""
    lines = card.splitlines()
    body = [line[4:-4] for line in lines[2:14]]
    rows = dict(zip((12, 11, *range(10)), body, strict=True))
    return [{row for row, line in rows.items() if line[column] == "█"} for column in range(len(body[0]))]


@of_example("logarithms")
@pytest.mark.parametrize("number", [1, 7, 10, 2303, 9999])
def test_a_logarithm_is_punched_computed_once_and_right(
    visitor: Visitor, daemon: RunningServer, number: int
) -> None:
    in_redis(daemon, "logarithms", "DEL", f"{number:04}")
    first = visitor.ask(f"/{number}")
    assert first.headers["X-Table"] == "miss"
    wait_until(lambda: in_redis(daemon, "logarithms", "EXISTS", f"{number:04}"), "the entry is stored")
    second = visitor.ask(f"/{number}")
    assert (second.headers["X-Table"], second.body) == ("hit", first.body)

    logarithm = f"{math.log10(number):.7f}"
    assert in_redis(daemon, "logarithms", "GET", f"{number:04}") == logarithm
    assert visitor.ask(f"/{number}", Accept="application/json").json == {
        "number": number,
        "logarithm": float(logarithm),
    }
    text = f"LOG {number:04} = {logarithm}"
    assert text in first.text
    assert punched(first.text) == [PUNCHES[one] for one in text]


@of_example("logarithms")
def test_a_browser_gets_the_card_as_a_picture(visitor: Visitor) -> None:
    picture = visitor.ask("/7", Accept="text/html,application/xhtml+xml")
    assert picture.headers["Content-Type"] == "image/svg+xml"
    # "LOG 0007 = 0.8450980": two holes for each of "LOG" and "=", three for ".", one for a digit.
    assert picture.text.count("<rect ") == 2 * 3 + 2 + 3 + 12
    for path in ("/0", "/10000", "/1.5", "/", "/x"):
        assert visitor.ask(path).status == 400


def test_every_example_is_described_and_short() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    for name in NAMES:
        worker = (EXAMPLES / name / "worker.mjs").read_text()
        assert f"({name}/worker.mjs)" in readme
        assert 40 <= worker.count("\n") <= 120
        assert " localhost:8787/" in worker.partition("\n\n")[0]
        assert f'"{name}"' in Path(__file__).read_text(), f"{name} has no test"


def test_the_command_starts_a_daemon_if_none_answers(tmp_path: Path) -> None:
    kvd = f"127.0.0.1:{free_port()}"
    environment = {"KVD_STORAGE__DATA_DIR": str(tmp_path / "data"), "KVD_SERVER__PORT": "0"}
    with example("logarithms", tmp_path, kvd, **environment) as visitor:
        assert visitor.ask("/100").headers["X-Table"] == "miss"
        wait_until(lambda: visitor.ask("/100").headers["X-Table"] == "hit", "the entry is stored")
    with example("logarithms", tmp_path, kvd, **environment) as visitor:
        assert visitor.ask("/100").headers["X-Table"] == "hit"


def test_a_daemon_that_asks_for_a_token_is_told_in_one_line(tmp_path: Path) -> None:
    with kvd_server(tmp_path) as server:
        url = f"http://{address(server)}"
        token = [sys.executable, "-m", "kvd", "token", "create", "--right", "admin", "--url", url]
        subprocess.run(token, check=True, stdout=subprocess.PIPE)
        command = [sys.executable, str(EXAMPLES / "run.py"), "sessions", "--kvd", address(server)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert line.startswith(
        f"kvd: {url}: a token is needed, or this one is wrong; see --token-file and KVD_TOKEN"
    )
