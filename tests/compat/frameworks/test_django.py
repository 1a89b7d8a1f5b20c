"""Django's own Redis cache and the sessions on it, and django-redis in its place."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

import pytest

from tests.servers import RunningServer

pytestmark = pytest.mark.needs_frameworks("django", "django_redis")


@pytest.fixture(scope="module")
def _configured(shared_server: RunningServer) -> None:
    import django
    from django.conf import settings

    settings.configure(
        ALLOWED_HOSTS=["testserver"],
        CACHES={
            "default": {
                "BACKEND": "django.core.cache.backends.redis.RedisCache",
                "LOCATION": f"{shared_server.url}/1",
            },
            "django-redis": {
                "BACKEND": "django_redis.cache.RedisCache",
                "LOCATION": f"{shared_server.url}/2",
                "OPTIONS": {"CLIENT_CLASS": "django_redis.client.DefaultClient"},
            },
        },
        MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
        ROOT_URLCONF=_urls(),
        SECRET_KEY="compat",
        SESSION_ENGINE="django.contrib.sessions.backends.cache",
        USE_TZ=True,
    )
    django.setup()


def _urls() -> types.ModuleType:
    from django.http import HttpRequest, HttpResponse
    from django.urls import path

    def visit(request: HttpRequest) -> HttpResponse:
        request.session["visits"] = request.session.get("visits", 0) + 1
        return HttpResponse(str(request.session["visits"]))

    def leave(request: HttpRequest) -> HttpResponse:
        request.session.flush()
        return HttpResponse("gone")

    urls = types.ModuleType("urls")
    urls.__dict__["urlpatterns"] = [path("visit/", visit), path("leave/", leave)]
    return urls


@pytest.fixture(params=["default", "django-redis"])
def cache(_configured: None, server: RunningServer, request: pytest.FixtureRequest) -> Iterator[Any]:
    from django.core.cache import caches

    yield caches[request.param]
    caches.close_all()


def test_values_of_any_kind_are_kept(cache: Any) -> None:
    value = {"list": [1, 2.5, None], "text": "Zoë", "bytes": b"\x00\xff"}
    cache.set("key", value, timeout=100)
    assert cache.get("key") == value
    assert cache.get("missing", "default") == "default"
    cache.set("none", None)
    assert cache.get("none", "default") is None


def test_add_stores_only_what_is_new(cache: Any) -> None:
    assert cache.add("key", 1)
    assert not cache.add("key", 2)
    assert cache.get("key") == 1
    assert cache.get_or_set("other", lambda: "made", 100) == "made"
    assert cache.get_or_set("other", lambda: "again", 100) == "made"


def test_counters_count_and_missing_ones_are_errors(cache: Any) -> None:
    cache.set("counter", 10)
    assert cache.incr("counter") == 11
    assert cache.decr("counter", 5) == 6
    with pytest.raises(ValueError, match="not found"):
        cache.incr("missing")


def test_many_keys_at_once(cache: Any) -> None:
    cache.set_many({f"key{number}": number for number in range(100)}, timeout=100)
    assert cache.get_many([f"key{number}" for number in (5, 50, 500)]) == {"key5": 5, "key50": 50}
    cache.delete_many(["key5", "key6"])
    assert cache.has_key("key7")
    assert "key5" not in cache


def test_expiry_can_be_moved_and_removed(cache: Any) -> None:
    cache.set("key", "x", timeout=100)
    assert cache.touch("key", 1000)
    assert cache.touch("key", None)
    assert not cache.touch("missing", 10)
    cache.set("gone", "x", timeout=0)
    assert cache.get("gone") is None


def test_clear_empties_this_cache_alone(cache: Any, server: RunningServer) -> None:
    with server.client(db=7) as other:
        other.set("kept", "x")
        cache.set("key", "x")
        cache.clear()
        assert cache.get("key") is None
        assert other.get("kept") == b"x"


def test_versions_do_not_meet(cache: Any) -> None:
    cache.set("key", "one", version=1)
    cache.set("key", "two", version=2)
    assert (cache.get("key", version=1), cache.get("key", version=2)) == ("one", "two")
    cache.incr_version("key", version=2)
    assert cache.get("key", version=3) == "two"


@pytest.mark.usefixtures("cache")
def test_a_visitor_keeps_the_session_until_it_is_flushed() -> None:
    from django.test import Client

    first, second = Client(), Client()
    assert [first.get("/visit/").content for _ in range(3)] == [b"1", b"2", b"3"]
    assert second.get("/visit/").content == b"1"
    first.get("/leave/")
    assert first.get("/visit/").content == b"1"


@pytest.mark.usefixtures("_configured", "server")
def test_session_store_expires_and_cycles_its_key() -> None:
    from django.contrib.sessions.backends.cache import SessionStore

    store = SessionStore()
    store["user"] = 7
    store.set_expiry(100)
    store.create()
    old_key = store.session_key
    store.cycle_key()
    assert SessionStore(store.session_key)["user"] == 7
    assert not SessionStore().exists(old_key)


@pytest.fixture
def django_redis(_configured: None, server: RunningServer) -> Iterator[Any]:
    from django.core.cache import caches

    yield caches["django-redis"]
    caches.close_all()


def test_django_redis_lists_and_deletes_by_pattern(django_redis: Any) -> None:
    django_redis.set_many({f"user:{number}": number for number in range(50)})
    django_redis.set("other", 1)
    assert len(django_redis.keys("user:*")) == 50
    assert len(set(django_redis.iter_keys("user:*", itersize=7))) == 50
    assert django_redis.delete_pattern("user:*", itersize=7) == 50
    assert django_redis.keys("*") == ["other"]


def test_django_redis_knows_the_time_to_live(django_redis: Any) -> None:
    django_redis.set("key", "x", timeout=100)
    assert 90 < django_redis.ttl("key") <= 100
    assert django_redis.expire("key", 500)
    assert 400_000 < django_redis.pttl("key") <= 500_000
    assert django_redis.persist("key")
    assert django_redis.ttl("key") is None


def test_django_redis_sets_conditionally(django_redis: Any) -> None:
    assert django_redis.set("key", "first", nx=True, timeout=100)
    assert not django_redis.set("key", "second", nx=True)
    assert django_redis.get("key") == "first"
    assert django_redis.incr("fresh", ignore_key_check=True) == 1


def test_django_redis_locks(django_redis: Any) -> None:
    with django_redis.lock("door", timeout=30) as lock:
        assert lock.owned()
        assert not django_redis.lock("door", timeout=30).acquire(blocking=False)
    assert django_redis.lock("door", timeout=30).acquire(blocking=False)
