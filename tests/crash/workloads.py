"""Writers that know what the store must hold after a crash.

A workload writes states 1, 2, 3 ... one after another, each of which can be told from all others by
reading. It remembers which states were sent and which were acknowledged; after a crash the store must
hold one state between the two, whole:

    lost        the store holds a state before the last one acknowledged
    half there  the store holds no state at all: a part of one and a part of another
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.servers import Client, RunningServer

FAR_FUTURE: Final = 4_000_000_000  # seconds since the epoch


class Workload:
    """One writer, one connection, one group of keys. Subclasses say how a state is written and read."""

    step = 1  # states that one request, or one pipeline, goes on

    def __init__(self, name: str) -> None:
        self.name = name
        self.sent = 0
        self.acknowledged = 0

    def write(self, client: Client, state: int) -> None:
        """Bring the store to `state`; return once that is acknowledged."""
        raise NotImplementedError

    def holds(self, client: Client, state: int) -> bool:
        """Tell whether the store holds exactly `state`; state 0 is: never written."""
        raise NotImplementedError

    def run(self, client: Client) -> None:
        """Write until the connection breaks."""
        with contextlib.suppress(redis.ConnectionError):
            while True:
                self.sent += self.step
                self.write(client, self.sent)
                self.acknowledged = self.sent

    def settle(self, client: Client) -> None:
        """Assert that the store holds a state that it may hold, and go on from there."""
        for state in range(self.acknowledged, self.sent + 1):
            if self.holds(client, state):
                self.acknowledged = self.sent = state
                return
        raise AssertionError(
            f"{type(self).__name__} {self.name}: acknowledged {self.acknowledged}, sent {self.sent}, "
            f"the store holds {self.describe(client)}"
        )

    def describe(self, client: Client) -> str:
        keys = sorted(client.scan_iter(f"{self.name}*", count=1000))[-20:]
        return str({key: client.get(key)[:40] for key in keys})


class Overwrites(Workload):
    """SET of one key."""

    def write(self, client: Client, state: int) -> None:
        client.set(self.name, state)

    def holds(self, client: Client, state: int) -> bool:
        return bool(client.get(self.name) == (str(state) if state else None))


class NewKeys(Workload):
    """SET of a new key each time: all of them must be there, not the last one alone."""

    def write(self, client: Client, state: int) -> None:
        client.set(f"{self.name}:{state}", state)

    def holds(self, client: Client, state: int) -> bool:
        keys = [f"{self.name}:{number}" for number in range(1, state + 2)]
        stored = [value for key in range(0, len(keys), 1000) for value in client.mget(keys[key : key + 1000])]
        return stored == [*map(str, range(1, state + 1)), None]


class Counter(Workload):
    """INCR: a write that was applied twice shows as well."""

    def write(self, client: Client, state: int) -> None:
        assert client.incr(self.name) == state

    def holds(self, client: Client, state: int) -> bool:
        return int(client.get(self.name) or 0) == state


class PipelinedCounter(Counter):
    """Ten INCR in one pipeline: acknowledged together, each a state of its own."""

    step = 10

    def write(self, client: Client, state: int) -> None:
        pipeline = client.pipeline(transaction=False)
        for _ in range(self.step):
            pipeline.incr(self.name)
        assert pipeline.execute()[-1] == state


class Toggled(Workload):
    """SET and DEL in turn: a deletion is a write like any other."""

    def write(self, client: Client, state: int) -> None:
        if state % 2:
            client.set(self.name, state)
        else:
            client.delete(self.name)

    def holds(self, client: Client, state: int) -> bool:
        return bool(client.get(self.name) == (str(state) if state % 2 else None))


class WithExpiry(Workload):
    """SET with EXAT: value and expiry are two registers of one record."""

    def write(self, client: Client, state: int) -> None:
        client.set(self.name, state, exat=FAR_FUTURE + state)

    def holds(self, client: Client, state: int) -> bool:
        expected = (str(state), FAR_FUTURE + state) if state else (None, -2)
        return bool((client.get(self.name), client.expiretime(self.name)) == expected)


class LargeValues(Workload):
    """SET of values that live in files of their own, and that fill memory buffers soon."""

    _COPIES: Final = 15_000  # of eight digits: 120 kB

    def write(self, client: Client, state: int) -> None:
        client.set(self.name, self._value(state))

    def holds(self, client: Client, state: int) -> bool:
        return bool(client.get(self.name) == (self._value(state) if state else None))

    def _value(self, state: int) -> str:
        return f"{state:08}" * self._COPIES


class SeveralKeys(Workload):
    """What writes several keys at once: the same number must stand in all of them."""

    def __init__(self, name: str, count: int) -> None:
        super().__init__(name)
        self.keys = [f"{name}:{number}" for number in range(count)]

    def holds(self, client: Client, state: int) -> bool:
        return bool(client.mget(self.keys) == [str(state) if state else None] * len(self.keys))


class Transactions(SeveralKeys):
    """SETs between MULTI and EXEC."""

    def write(self, client: Client, state: int) -> None:
        pipeline = client.pipeline(transaction=True)
        for key in self.keys:
            pipeline.set(key, state)
        pipeline.execute()


class MultipleSets(SeveralKeys):
    """MSET."""

    def write(self, client: Client, state: int) -> None:
        client.mset(dict.fromkeys(self.keys, state))


class Scripts(SeveralKeys):
    """A script with a SET of every key."""

    _SCRIPT: Final = "for _, key in ipairs(KEYS) do redis.call('SET', key, ARGV[1]) end"

    def write(self, client: Client, state: int) -> None:
        client.eval(self._SCRIPT, len(self.keys), *self.keys, state)


def all_workloads() -> list[Workload]:
    """Return fresh writers of every kind, a few of the cheap kinds."""
    return [
        *(Overwrites(f"overwrites-{number}") for number in range(2)),
        *(Counter(f"counter-{number}") for number in range(2)),
        NewKeys("new-keys"),
        PipelinedCounter("pipelined"),
        Toggled("toggled"),
        WithExpiry("expiry"),
        LargeValues("large"),
        Transactions("transaction", 2),
        MultipleSets("mset", 20),
        Scripts("script", 3),
    ]


@contextlib.contextmanager
def writing(server: RunningServer, workloads: Sequence[Workload]) -> Iterator[None]:
    """Run all workloads, each in a thread, while the block runs; the block ends the server.

    Raises what a writer met that was not the end of its connection.
    """
    failures: list[BaseException] = []

    def run(workload: Workload) -> None:
        try:
            with client_of(server) as client:
                workload.run(client)
        except redis.ConnectionError:
            return  # killed before it could connect
        except BaseException as error:  # noqa: BLE001 - raised below, in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=run, args=(workload,)) for workload in workloads]
    for thread in threads:
        thread.start()
    try:
        yield
    except BaseException:
        server.kill()  # or the writers would go on
        raise
    finally:
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


def client_of(server: RunningServer) -> Any:
    """Return a client that never sends a request twice."""
    return server.client(decode_responses=True, retry=Retry(NoBackoff(), 0), socket_timeout=60)


def acknowledged(workloads: Sequence[Workload]) -> int:
    """Return how many states all workloads together have got acknowledged."""
    return sum(workload.acknowledged for workload in workloads)


def settle_all(server: RunningServer, workloads: Sequence[Workload]) -> None:
    """Assert for every workload that the store holds what it may hold."""
    with client_of(server) as client:
        for workload in workloads:
            workload.settle(client)
