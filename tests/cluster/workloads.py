"""What clients do: events that write or read on one host, and the checks that belong to a single read.

    register      unique values under a few keys, with values of several sizes
    txn           the same id under three keys, in one transaction; every read on a whole node that has nothing
                  half synced must find one id (I9)
    ttl           short and long expiries, extended, taken away, overwritten
    delete        as many deletions as writes, so that purging has something to do all the time
    flush         a database that is flushed now and then
    session       a client that goes from node to node with its token, and must not see its past again
    large         values that travel apart from their change

Sets and counters need data types that the store does not have yet (members of a collection, kinds 3 and 4);
opaque changes of such kinds are carried, which a scenario of its own shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Final

from storage.changes import VersionVector
from storage.keyspace import Keyspace
from storage.record import NEVER
from tests.cluster.history import Violation
from tests.cluster.plan import Event, kind
from tests.cluster.world import Host, World

DATABASE: Final = 0
FLUSHED_DATABASE: Final = 1
TXN_KEYS: Final = (b"x1", b"x2", b"x3")


@kind("set")
def put(world: World, name: str, key: str, value: str, size: int = 0) -> None:
    """Set a key to a value that nobody else writes."""
    body = value.encode().ljust(size, b".")
    done = world.hosts[name].write(lambda keyspace: keyspace.put(key.encode(), body))
    world.count("written" if done else "refused")


@kind("batch")
def batch(world: World, name: str, *pairs: str) -> None:
    """Set several keys in one tick, one of them perhaps twice."""
    operations = [_putter(pair) for pair in pairs]
    done = world.hosts[name].write(*operations)
    world.count("written" if done else "refused", len(pairs))


def _putter(pair: str) -> Callable[[Keyspace], object]:
    key, value = pair.split("=")
    return lambda keyspace: keyspace.put(key.encode(), value.encode())


@kind("del")
def delete(world: World, name: str, *keys: str) -> None:
    done = world.hosts[name].write(*(_deleter(key) for key in keys))
    world.count("deleted" if done else "refused")


def _deleter(key: str) -> Callable[[Keyspace], object]:
    return lambda keyspace: keyspace.delete(key.encode())


@kind("setex")
def put_expiring(world: World, name: str, key: str, value: str, ttl_ms: int) -> None:
    host = world.hosts[name]
    due = host.wall_ms() + ttl_ms
    done = host.write(lambda keyspace: keyspace.put(key.encode(), value.encode(), due))
    world.count("written" if done else "refused")


@kind("expire")
def expire(world: World, name: str, key: str, ttl_ms: int) -> None:
    """Set, or with -1 take away, the expiry of a key."""
    host = world.hosts[name]
    due = NEVER if ttl_ms < 0 else host.wall_ms() + ttl_ms
    done = host.write(lambda keyspace: keyspace.expire(key.encode(), due))
    world.count("expiries" if done else "refused")


@kind("txn")
def transaction(world: World, name: str, value: str) -> None:
    """Write one id under all keys of the transaction."""

    def write(keyspace: Keyspace) -> None:
        with keyspace.store.atomic():
            for key in TXN_KEYS:
                keyspace.put(key, value.encode())

    done = world.hosts[name].write(write)
    world.count("transactions" if done else "refused")


@kind("txn-read")
def read_transaction(world: World, name: str) -> None:
    """I9: all keys of a transaction show the same one."""
    host = world.hosts[name]
    if host.is_up and not host.is_stalled:
        check_transaction(host)


def look_at_transactions(host: Host, rows: Mapping[bytes, object]) -> None:
    """I9, after every tick that has touched one of the keys."""
    place = host.place
    if place + TXN_KEYS[0] in rows or place + TXN_KEYS[1] in rows or place + TXN_KEYS[2] in rows:
        check_transaction(host)


def check_transaction(host: Host) -> None:
    if not host.is_whole or host.is_partial:
        return
    found = host.read(*TXN_KEYS)
    host.world.count("read")
    if len(set(found)) > 1:
        raise Violation(f"I9: {host.name} shows parts of several transactions: {found}")


@kind("flush")
def flush(world: World, name: str) -> None:
    done = world.hosts[name].write(lambda keyspace: keyspace.flush(), database=FLUSHED_DATABASE)
    world.count("flushed" if done else "refused")


@kind("set-flushed")
def put_to_be_flushed(world: World, name: str, key: str, value: str) -> None:
    done = world.hosts[name].write(
        lambda keyspace: keyspace.put(key.encode(), value.encode()), database=FLUSHED_DATABASE
    )
    world.count("written" if done else "refused")


@kind("session")
def session(world: World, name: str, client: str, key: str, value: str) -> None:
    """Read, then write a greater number, on whichever node covers the client's token.

    A client stays in one namespace: on hosts that mean another by the same name it is another client.
    """
    host = world.hosts[name]
    if not host.is_whole or host.is_stalled:
        return
    client = f"{client} {host.place.hex()}"
    token, seen = world.sessions.get(client, (VersionVector(), 0))
    if not host.vector.covers(token):
        world.count("token not covered")
        return
    stored = host.read(key.encode())[0]
    found = 0 if stored is None else int(stored)
    if found < seen:
        raise Violation(f"session {client} reads {found} on {host.name} after {seen}")
    written = found + 1
    done = host.write(lambda keyspace: keyspace.put(key.encode(), str(written).encode()))
    world.count("sessions" if done else "refused")
    world.sessions[client] = (token.merged(host.vector), written if done else found)


# --- drawing

Draw = Callable[[Random, str, int], tuple[str, tuple[object, ...]]]
_SIZES: Final = (0, 0, 0, 0, 200, 1500)


def _draw_register(rng: Random, name: str, number: int) -> tuple[str, tuple[object, ...]]:
    if rng.random() < 0.2:
        pairs = [f"r{rng.randrange(8)}=v{number}.{index}" for index in range(rng.randrange(2, 5))]
        return "batch", (name, *pairs)
    return "set", (name, f"r{rng.randrange(8)}", f"v{number}", rng.choice(_SIZES))


def _draw_txn(rng: Random, name: str, number: int) -> tuple[str, tuple[object, ...]]:
    return ("txn", (name, f"t{number}")) if rng.random() < 0.6 else ("txn-read", (name,))


def _draw_ttl(rng: Random, name: str, number: int) -> tuple[str, tuple[object, ...]]:
    key = f"e{rng.randrange(5)}"
    ttl_ms = rng.choice((100, 500, 1500, 4000, 20_000))
    drawn = rng.random()
    if drawn < 0.5:
        return "setex", (name, key, f"v{number}", ttl_ms)
    if drawn < 0.75:
        return "expire", (name, key, ttl_ms)
    if drawn < 0.85:
        return "expire", (name, key, -1)
    return ("set", (name, key, f"v{number}")) if drawn < 0.93 else ("del", (name, key))


def _draw_delete(rng: Random, name: str, number: int) -> tuple[str, tuple[object, ...]]:
    key = f"d{rng.randrange(6)}"
    return ("del", (name, key)) if rng.random() < 0.5 else ("set", (name, key, f"v{number}"))


def _draw_flush(rng: Random, name: str, number: int) -> tuple[str, tuple[object, ...]]:
    if rng.random() < 0.15:
        return "flush", (name,)
    return "set-flushed", (name, f"f{rng.randrange(6)}", f"v{number}")


def _draw_session(rng: Random, name: str, number: int) -> tuple[str, tuple[object, ...]]:
    client = rng.randrange(3)
    return "session", (name, f"c{client}", f"s{client}", "")


def _draw_large(rng: Random, name: str, number: int) -> tuple[str, tuple[object, ...]]:
    if rng.random() < 0.3:
        return "del", (name, f"l{rng.randrange(3)}")
    return "set", (name, f"l{rng.randrange(3)}", f"v{number}", rng.choice((100, 66_000, 150_000)))


def _draw_larger(rng: Random, name: str, number: int) -> tuple[str, tuple[object, ...]]:
    """Draw what takes many windows of a connection, and now and then one of megabytes."""
    if rng.random() < 0.3:
        return "del", (name, f"l{rng.randrange(3)}")
    size = rng.choices((100, 66_000, 400_000, 2 << 20), (3, 3, 3, 1))[0]
    return "set", (name, f"l{rng.randrange(3)}", f"v{number}", size)


WORKLOADS: Final = {
    "register": _draw_register,
    "txn": _draw_txn,
    "ttl": _draw_ttl,
    "delete": _draw_delete,
    "flush": _draw_flush,
    "session": _draw_session,
    "large": _draw_large,
}
# What the seeds of the wider range draw from.
WIDER_WORKLOADS: Final = {**WORKLOADS, "large": _draw_larger}


def draw(
    rng: Random,
    weights: dict[str, float],
    names: list[str],
    count: int,
    end: float,
    *,
    workloads: Mapping[str, Draw] = WORKLOADS,
) -> list[Event]:
    """Draw `count` events of clients until `end`, from these workloads by their weight, in bursts or not."""
    found = []
    chosen = rng.choices(list(weights), list(weights.values()), k=count)
    at = 0.0
    for number, workload in enumerate(chosen):
        at += rng.expovariate(count / end) if rng.random() < 0.8 else 0.0
        name = rng.choice(names)
        kind_name, arguments = workloads[workload](rng, name, number)
        found.append(Event(min(at, end), kind_name, arguments))
    return found
