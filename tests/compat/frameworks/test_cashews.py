"""cashews: values, counters, patterns, locks, decorators, transactions, and its client-side cache.

Not here: tags and sliding rate limits, which need sets and sorted sets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.servers import RunningServer

pytestmark = [
    pytest.mark.needs_frameworks("cashews"),
    pytest.mark.filterwarnings(
        "ignore:Call to deprecated:DeprecationWarning"
    ),  # it follows an older redis-py
]

Scenario = Callable[[Any], Awaitable[None]]


async def values_and_expiry(cache: Any) -> None:
    await cache.set("key", {"a": [1, None, "Zoë"]}, expire=100)
    assert await cache.get("key") == {"a": [1, None, "Zoë"]}
    assert not await cache.set("key", "other", exist=False)
    assert 90 < await cache.get_expire("key") <= 100
    await cache.expire("key", 500)
    assert await cache.get_expire("key") > 400
    assert await cache.delete("key")
    assert not await cache.exists("key")


async def many_keys(cache: Any) -> None:
    await cache.set_many({f"key:{number}": number for number in range(50)}, expire=100)
    assert await cache.get_many("key:1", "key:49", "missing") == (1, 49, None)
    await cache.delete_many("key:1", "key:2")
    assert await cache.get_many("key:1", "key:3") == (None, 3)


async def counters(cache: Any) -> None:
    assert await cache.incr("counter", expire=100) == 1
    assert await cache.incr("counter", 5) == 6
    assert await cache.get_expire("counter") > 0


async def patterns(cache: Any) -> None:
    for number in range(120):
        await cache.set(f"user:{number}", number)
    await cache.set("other", 1)
    assert len({key async for key in cache.scan("user:*", batch_size=10)}) == 120
    assert dict([pair async for pair in cache.get_match("user:11*")]) == {
        f"user:{number}": number for number in (11, *range(110, 120))
    }
    await cache.delete_match("user:*")
    assert [key async for key in cache.scan("*")] == ["other"]


async def bits(cache: Any) -> None:
    assert tuple(await cache.incr_bits("bits", 1, 5, size=4, by=3)) == (3, 3)
    assert tuple(await cache.get_bits("bits", 0, 1, 5, size=4)) == (0, 3, 3)


async def locks(cache: Any) -> None:
    assert await cache.set_lock("door", "ann", expire=100)
    assert not await cache.set_lock("door", "bob", expire=100)
    assert await cache.is_locked("door")
    assert not await cache.unlock("door", "bob")
    assert await cache.unlock("door", "ann")
    inside = 0

    async def enter() -> None:
        nonlocal inside
        async with cache.lock("room", expire=100):
            inside += 1
            assert inside == 1
            await cache.ping()
            inside -= 1

    await asyncio.gather(*(enter() for _ in range(10)))


async def decorated_functions(cache: Any) -> None:
    calls: list[int] = []

    async def square(number: int) -> int:
        calls.append(number)
        return number * number

    cached = cache(ttl=100, key="square:{number}")(square)
    assert [await cached(number=4) for _ in range(3)] == [16, 16, 16]
    assert calls == [4]


async def rate_limits(cache: Any) -> None:
    from cashews.exceptions import RateLimitError

    async def visit() -> str:
        return "welcome"

    limited = cache.rate_limit(limit=3, period=100)(visit)
    assert [await limited() for _ in range(3)] == ["welcome"] * 3
    with pytest.raises(RateLimitError):
        await limited()


async def transactions(cache: Any) -> None:
    await cache.set("balance", 1)
    async with cache.transaction() as transaction:
        await cache.set("balance", 2)
        await transaction.rollback()
    assert await cache.get("balance") == 1
    async with cache.transaction():
        await cache.set("balance", 3)
        await cache.incr("visits")
    assert (await cache.get("balance"), await cache.get("visits")) == (3, 1)


SCENARIOS: tuple[Scenario, ...] = (
    values_and_expiry,
    many_keys,
    counters,
    patterns,
    bits,
    locks,
    decorated_functions,
    rate_limits,
    transactions,
)


async def opened(server: RunningServer, **options: Any) -> Any:
    from cashews import Cache

    cache = Cache()
    # Its client-side cache listens for invalidations as RESP2 sends them, which redis-py 8 must be told.
    cache.setup(f"{server.url}?protocol=2", pickle_type="json", **options)
    await cache.init()
    return cache


@pytest.mark.parametrize("client_side", [False, True], ids=["plain", "client-side cache"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_cashews(server: RunningServer, scenario: Scenario, client_side: bool) -> None:
    async def run() -> None:
        cache = await opened(server, client_side=client_side)
        try:
            await scenario(cache)
        finally:
            await cache.close()

    asyncio.run(run())


def test_client_side_cache_hears_of_foreign_writes(server: RunningServer) -> None:
    async def run() -> None:
        ours, theirs = await opened(server, client_side=True), await opened(server, client_side=True)
        try:
            await theirs.set("price", 1)
            assert await ours.get("price") == 1
            await theirs.set("price", 2)
            async with asyncio.timeout(10):
                while await ours.get("price") != 2:
                    await theirs.ping()
        finally:
            await ours.close()
            await theirs.close()

    asyncio.run(run())
