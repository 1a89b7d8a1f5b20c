"""aiocache over redis.asyncio: values, counters, decorators and locks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.servers import RunningServer

pytestmark = [
    pytest.mark.needs_frameworks("aiocache"),
    pytest.mark.filterwarnings(
        "ignore:Call to deprecated:DeprecationWarning"
    ),  # it follows an older redis-py
]

Scenario = Callable[[Any], Awaitable[None]]


async def values_and_expiry(cache: Any) -> None:
    await cache.set("key", {"a": [1, None, "Zoë"]}, ttl=100)
    assert await cache.get("key") == {"a": [1, None, "Zoë"]}
    assert await cache.get("missing", default="none") == "none"
    assert await cache.expire("key", 500)
    assert await cache.exists("key")
    assert await cache.delete("key") == 1
    assert not await cache.exists("key")


async def adding_twice_is_an_error(cache: Any) -> None:
    await cache.add("key", "first", ttl=100)
    with pytest.raises(ValueError, match="already exists"):
        await cache.add("key", "second")
    assert await cache.get("key") == "first"


async def many_keys(cache: Any) -> None:
    await cache.multi_set([(f"key{number}", number) for number in range(50)], ttl=100)
    assert await cache.multi_get(["key1", "key49", "missing"]) == [1, 49, None]


async def counters(cache: Any) -> None:
    assert await cache.increment("counter", 5) == 5
    assert await cache.increment("counter", -2) == 3


async def clearing_a_namespace(cache: Any) -> None:
    await cache.set("kept", "x")
    await cache.set("key", "x", namespace="other:")
    await cache.clear(namespace="other:")
    assert await cache.exists("kept")
    assert not await cache.exists("key", namespace="other:")


async def a_crowd_behind_one_lock(cache: Any) -> None:
    from aiocache.lock import RedLock

    computed = 0

    async def value() -> Any:
        nonlocal computed
        async with RedLock(cache, "expensive", lease=30):
            found = await cache.get("expensive")
            if found is None:
                computed += 1
                found = "value"
                await cache.set("expensive", found)
            return found

    assert await asyncio.gather(*(value() for _ in range(20))) == ["value"] * 20
    assert computed == 1


async def optimistic_locks(cache: Any) -> None:
    from aiocache.lock import OptimisticLock, OptimisticLockError

    await cache.set("key", "old")
    async with OptimisticLock(cache, "key") as lock:
        await cache.set("key", "foreign")
        with pytest.raises(OptimisticLockError):
            await lock.cas("mine")
    assert await cache.get("key") == "foreign"
    async with OptimisticLock(cache, "key") as lock:
        await lock.cas("mine")
    assert await cache.get("key") == "mine"


SCENARIOS: tuple[Scenario, ...] = (
    values_and_expiry,
    adding_twice_is_an_error,
    many_keys,
    counters,
    clearing_a_namespace,
    a_crowd_behind_one_lock,
    optimistic_locks,
)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_aiocache(server: RunningServer, scenario: Scenario) -> None:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        from aiocache import RedisCache
        from aiocache.serializers import JsonSerializer

        async with RedisCache(
            endpoint=server.host, port=server.port, namespace="main:", serializer=JsonSerializer()
        ) as cache:
            yield cache

    async def run() -> None:
        async with opened() as cache:
            await scenario(cache)

    asyncio.run(run())
