"""redis-py, asyncio: the same server seen through `redis.asyncio`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import redis.asyncio
from redis.exceptions import LockError, WatchError

from tests.servers import Client, RunningServer

Scenario = Callable[[Client, Client], Awaitable[None]]


@asynccontextmanager
async def two_clients(server: RunningServer, protocol: int) -> AsyncIterator[tuple[Client, Client]]:
    async with (
        redis.asyncio.Redis.from_url(server.url, protocol=protocol, decode_responses=True) as client,
        redis.asyncio.Redis.from_url(server.url, protocol=protocol, decode_responses=True) as other,
    ):
        yield client, other


async def pipelines(client: Client, _: Client) -> None:
    pipeline = client.pipeline(transaction=False)
    for number in range(2000):
        pipeline.set(f"key:{number}", number).get(f"key:{number}")
    replies = await pipeline.execute()
    assert replies[1::2] == [str(number) for number in range(2000)]


async def many_tasks_share_one_client(client: Client, _: Client) -> None:
    async def add(times: int) -> None:
        for _ in range(times):
            await client.incr("shared")

    async with asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(add(25))
    assert await client.get("shared") == "500"


async def transactions(client: Client, other: Client) -> None:
    await client.set("balance", 1)
    async with client.pipeline() as pipeline:
        await pipeline.watch("balance")
        await other.incr("balance")
        pipeline.multi()
        pipeline.set("balance", 100)
        with pytest.raises(WatchError):
            await pipeline.execute()
    async with client.pipeline() as pipeline:
        assert await pipeline.incr("balance").get("balance").execute() == [3, "3"]


async def subscriptions(client: Client, other: Client) -> None:
    async with client.pubsub() as pubsub:
        await pubsub.subscribe("news")
        await pubsub.psubscribe("ne?s")
        for kind in ("subscribe", "psubscribe"):
            assert (await pubsub.get_message(timeout=10))["type"] == kind
        assert await other.publish("news", "hello") == 2
        received = [await pubsub.get_message(timeout=10) for _ in range(2)]
        assert [(message["type"], message["data"]) for message in received] == [
            ("message", "hello"),
            ("pmessage", "hello"),
        ]


async def locks(client: Client, other: Client) -> None:
    lock = client.lock("door", timeout=30)
    assert await lock.acquire()
    assert not await other.lock("door", timeout=30).acquire(blocking=False)
    assert await lock.extend(10)
    await lock.release()
    async with other.lock("door", timeout=30, blocking_timeout=5) as theirs:
        assert await theirs.owned()
    with pytest.raises(LockError):
        await lock.release()


async def scripts(client: Client, _: Client) -> None:
    await client.script_flush()
    script = client.register_script("return {KEYS[1], ARGV[1], redis.call('INCR', KEYS[1])}")
    assert await script(keys=["n"], args=["x"]) == ["n", "x", 1]
    assert await script(keys=["n"], args=["x"]) == ["n", "x", 2]


async def scans(client: Client, _: Client) -> None:
    names = {f"user:{number}" for number in range(300)}
    await client.mset(dict.fromkeys(names, "x"))
    assert {name async for name in client.scan_iter("user:*", count=7)} == names


SCENARIOS: tuple[Scenario, ...] = (
    pipelines,
    many_tasks_share_one_client,
    transactions,
    subscriptions,
    locks,
    scripts,
    scans,
)


@pytest.mark.parametrize("protocol", [2, 3], ids=["RESP2", "RESP3"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_asyncio_client(server: RunningServer, scenario: Scenario, protocol: int) -> None:
    async def run() -> None:
        async with two_clients(server, protocol) as (client, other):
            await scenario(client, other)

    asyncio.run(run())
