"""Flask-Session and Flask-Limiter in an application, and limits, which Flask-Limiter stands on, alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.servers import RunningServer

pytestmark = pytest.mark.needs_frameworks("flask", "flask_session", "flask_limiter", "limits")


def application(**views: Callable[[], Any]) -> Any:
    from flask import Flask

    app = Flask("compat")
    app.config.update(TESTING=True, SECRET_KEY="compat")
    for name, view in views.items():
        app.add_url_rule(f"/{name}", name, view)
    return app


def test_flask_session_keeps_a_visitor_until_the_session_is_cleared(server: RunningServer) -> None:
    import flask
    from flask_session import Session

    def visit() -> str:
        flask.session["visits"] = flask.session.get("visits", 0) + 1
        return str(flask.session["visits"])

    def leave() -> str:
        flask.session.clear()
        return "gone"

    with server.client() as client:
        app = application(visit=visit, leave=leave)
        app.config.update(SESSION_TYPE="redis", SESSION_REDIS=client, SESSION_PERMANENT=True)
        Session(app)
        first, second = app.test_client(), app.test_client()
        assert [first.get("/visit").text for _ in range(3)] == ["1", "2", "3"]
        assert second.get("/visit").text == "1"
        (key, _) = sorted(client.keys("session:*"))
        assert client.ttl(key) > 3600
        first.get("/leave")
        assert len(client.keys("session:*")) == 1
        assert first.get("/visit").text == "1"


@pytest.mark.parametrize("strategy", ["fixed-window", "sliding-window-counter"])
def test_flask_limiter_refuses_what_is_too_much(server: RunningServer, strategy: str) -> None:
    from flask_limiter import Limiter
    from flask_limiter.util import get_remote_address

    app = application(page=lambda: "page", other=lambda: "other")
    limiter = Limiter(
        get_remote_address,
        app=app,
        storage_uri=server.url,
        strategy=strategy,
        default_limits=["3 per hour"],
        headers_enabled=True,
    )
    browser = app.test_client()
    answers = [browser.get("/page") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert [answer.headers["X-RateLimit-Remaining"] for answer in answers] == ["2", "1", "0", "0", "0"]
    assert browser.get("/other").status_code == 200
    limiter.reset()
    assert browser.get("/page").status_code == 200


@pytest.mark.parametrize("strategy", ["FixedWindowRateLimiter", "SlidingWindowCounterRateLimiter"])
def test_limits_counts_tests_and_clears(server: RunningServer, strategy: str) -> None:
    import limits
    from limits.storage import storage_from_string

    storage = storage_from_string(server.url)
    assert storage.check()
    limiter = getattr(limits.strategies, strategy)(storage)
    item = limits.parse("10/hour")
    assert limiter.hit(item, "ann", cost=4)
    assert limiter.get_window_stats(item, "ann").remaining == 6
    assert limiter.test(item, "ann", cost=6)
    assert limiter.hit(item, "ann", cost=6)
    assert not limiter.hit(item, "ann")
    assert limiter.hit(item, "bob")
    limiter.clear(item, "ann")
    assert limiter.hit(item, "ann")
    assert storage.reset() is not None
    storage.storage.close()


def test_limits_works_asynchronously(server: RunningServer) -> None:
    import asyncio

    import limits
    from limits.aio.storage import RedisStorage
    from limits.aio.strategies import FixedWindowRateLimiter

    async def run() -> list[bool]:
        storage = RedisStorage(f"async+{server.url}", implementation="redispy")
        limiter = FixedWindowRateLimiter(storage)
        item = limits.parse("3/hour")
        try:
            return [await limiter.hit(item, "ann") for _ in range(4)]
        finally:
            await storage.bridge.get_connection().aclose()

    assert asyncio.run(run()) == [True, True, True, False]
