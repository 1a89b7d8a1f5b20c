"""A whole cluster in one process, under virtual time: real stores, real replicators, everything else simulated.

A `World` has hosts; a host has a disk, a wall clock of its own, a place in the network and, while it is up, a
process: a `Store` over its disk, a `StoreReplica`, a `PeerNode`. A client is a call of `Host.write` or
`Host.read`, which does in one tick what the daemon's hub does. Every commit passes the world's `History`.

    seed ──▶ plan (a list of events) ──▶ World.play ──▶ checks, or a `Violation`

Chance is drawn from generators that are named by the seed and their purpose, one for each host and path: so
an event that is left out does not change what the others draw, and a failing plan can be shrunk.

Long constants are scaled down (`OPTIONS`, `GC_MIN_AGE`), so that a run of a minute purges dozens of times.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, reduce
from math import inf
from random import Random
from typing import Any, Final, TypeVar

import attrs
import structlog
import trio

from replication import messages as m
from replication.exchange import Exchange
from replication.handshake import Authenticator, Role, Transcript
from replication.messages import decode_record
from replication.node import PeerNode, StoreFailed
from replication.options import Options
from replication.rejoin import Standing
from replication.sync import Syncs
from storage import state as storage_state
from storage.changes import COMMON_GROUP, Change, Replica, VersionVector, Voided, draw_id, group_of
from storage.engine import Family
from storage.engine_memory import Image
from storage.errors import StorageError
from storage.keyspace import Keyspace
from storage.layout import FLOOR_PREFIX, after_prefix
from storage.record import EXPIRY, FLOOR, METADATA, VALUE, VALUE_STAMP, Record, decode, erase_below
from storage.replica import StoreReplica
from storage.store import Store, StoreOptions
from storage.version import unpack_register
from tests.cluster import clock
from tests.cluster.disk import Disk
from tests.cluster.history import Content, History, Stamp, Violation, Write
from tests.cluster.network import Path, SimNetwork

Result = TypeVar("Result")

CLUSTER: Final = bytes(range(16))
# The group that some hosts carry, and its one namespace.
GROUP: Final = 7
GROUPED_NAMESPACE: Final = draw_id(GROUP, bytes)
BASE_MS: Final = 1_800_000_000_000
TEMPLATE_AGE_MS: Final = 10_000.0  # longer than it takes to form one

# Scaled down, with the relations that the specification asks for.
GC_MIN_AGE: Final = 5.0
GC_ROUNDING_MS: Final = 200
OPTIONS: Final = Options(
    probe_interval=2.0,
    probe_timeout=0.8,
    members_interval=20.0,
    redial_max=2.0,
    max_offset=0.2,
    hold=2.0,
    clock_jump=1.0,
    start_gate=1.0,
    push_delay=0.01,
    queue_changes_max=400,
    queue_bytes_max=64 * 1024,
    queue_age_max=1.5,
    parked_changes_max=32,
    history_bytes_max=16 * 1024,
    vector_interval=0.4,
    relay_vectors_interval=2.0,
    sync_interval=5.0,
    sync_timeout=4.0,
    sync_batch_bytes=2048,
    sync_credit_bytes=6144,
    purge_interval=0.7,
    settle_interval=1.0,
    max_offline=3600.0,
    verify_interval=20.0,
    verify_retry=4.0,
)
SWEEP_INTERVAL: Final = 0.5
SWEEP_ROWS: Final = 64


class TrustingAuthenticator:
    """Proofs that anybody can make: the cryptography has tests of its own."""

    def prove(self, role: Role, transcript: Transcript) -> bytes:
        return hashlib.sha256(role.value + transcript.dialer.nonce + transcript.acceptor.nonce).digest()

    def verify(self, role: Role, transcript: Transcript, proof: bytes) -> bool:
        return proof == self.prove(role, transcript)


class SimNode(PeerNode):
    """A driver whose loop can be stopped for a while, as a process is by SIGSTOP."""

    def _tick(self) -> float:
        host = self.host
        assert isinstance(host, Host)
        if host.is_stalled:
            return trio.current_time() + 0.05
        return super()._tick()


@attrs.define
class Clock:
    """A host's wall clock: ms since the epoch are base + now * (1 + drift) + offset."""

    offset_ms: float = 0.0
    drift: float = 0.0

    def at(self, now: float) -> int:
        return int(BASE_MS + now * 1000 * (1 + self.drift) + self.offset_ms)

    def set_drift(self, drift: float, now: float) -> None:
        """Go on at another rate, without a step."""
        self.offset_ms += now * 1000 * (self.drift - drift)
        self.drift = drift


class Host:
    """One machine; implements `replication.node.Host`."""

    def __init__(self, world: World, name: str, options: Options) -> None:
        self.world = world
        self.name = name
        self.cluster = CLUSTER
        self.address = f"{name}:1"
        self.options = options
        self.clock = Clock()
        self.rng = Random(f"{world.seed} host {name}")
        self._entropy_rng = Random(f"{world.seed} entropy {name}")
        self.disk = Disk(name)
        self.is_up = False
        self.is_stalled = False
        self.durability = "everysec"
        self.store: Store = None  # type: ignore[assignment]
        self._replica: StoreReplica = None  # type: ignore[assignment]
        self.node: SimNode = None  # type: ignore[assignment]
        self.standing: Standing | None = None
        self.boots = 0
        self.refusals = 0
        self.failures = 0
        self.dead_letters: list[tuple[Stamp, Change]] = []
        self.published: list[m.Publish] = []
        self.has_handed_over: bool | None = None
        # It began to carry a group after another host was rolled back: if from that one, it is from the past as well.
        self.began_in_past = False
        # Its disk lost what it had claimed: an image was restored, or it was deleted.
        self.rolled_back = False
        self.was_cut = False  # it has voided what it covered
        self.gave_way: VersionVector | None = None  # what it covered when it forgot what it had purged
        self.was_synced = False  # a sync has granted something in the tick under way, or since the last look
        self.seen_vector = VersionVector()
        self.claimed = VersionVector()  # everything that its disk was ever known to keep, of all groups
        self._scope: trio.CancelScope | None = None
        self._ended = trio.Event()
        self._decoded: dict[bytes, Registers] = {}

    def __repr__(self) -> str:
        return f"<Host {self.name} {self.standing or 'down'}>"

    # --- what the node asks of its process

    @property
    def replica(self) -> StoreReplica:
        return self._replica

    @property
    def member(self) -> bytes:
        """The id of the member that it is, or was when it last ran; empty before its first start."""
        return self.node.replicator.core.identity.node if self.boots else b""

    @property
    def replicas(self) -> dict[int, Replica]:
        """The store as each of the groups sees it that the node exchanges by now."""
        return {group: exchange.core.replica for group, exchange in self.node.replicator.exchanges.items()}

    def transact(self, work: Callable[[], Result]) -> Result:
        if not self.is_up:
            raise StoreFailed("the process has ended")
        store = self.store
        store.begin(self.wall_ms())
        result = work()
        self._commit()
        return result

    def _commit(self) -> None:
        store = self.store
        self.note()
        rows = store._txn.rows
        try:
            store.commit()
        except StorageError as error:
            self.failures += 1
            raise StoreFailed(str(error)) from error
        for look in self.world.after_tick:
            look(self, rows)

    def rotate(self) -> None:
        self._replica.rotate()

    async def sync(self) -> None:
        disk, store = self.disk, self.store
        mark = store._ledger.mark()
        disk.begin_sync()
        await trio.sleep(disk.sync_seconds)
        if not self.is_up or self.store is not store:
            raise StoreFailed("the process has ended")
        try:
            disk.sync()
        except StorageError as error:
            raise StoreFailed(str(error)) from error
        store._ledger.settle(mark)

    def wall_ms(self) -> int:
        return self.clock.at(trio.current_time())

    def publish(self, message: m.Publish) -> None:
        self.published.append(message)

    def dead_letter(self, stale: list[tuple[Any, Change]]) -> None:
        """Keep writes that are undone: of a disk that lost some, of a member that was removed while it wrote, or void."""
        for stamp, _ in stale:
            _, origin, seq = stamp
            writer = self.world.history.dots[origin, seq].host
            host = self.world.hosts[writer]
            has_lost = host.rolled_back or host.began_in_past or writer in self.world.expelled
            if not has_lost and not self._is_void(origin, seq):
                raise Violation(f"{writer} has lost nothing and {self.name} undoes writes of its: {stale}")
        self.dead_letters.extend(stale)

    def _is_void(self, origin: bytes, seq: int) -> bool:
        replicator = self.node.replicator
        limits = [replicator.cuts.of_group(group).get(origin) for group in replicator.exchanges]
        return any(limit is not None and seq > limit for limit in limits)

    def stood(self, standing: Standing) -> None:
        self.standing = standing

    # --- the process

    def start(self, *, founds: bool = False) -> bool:
        """Start the process; False if its disk does not let it. The node begins to talk in its own time."""
        assert not self.is_up
        self.boots += 1
        self.is_up = True
        self._decoded = {}
        self.seen_vector = VersionVector()
        options = StoreOptions(
            durability=self.durability,
            cache_bytes=1 << 20,
            gc_min_age_ms=int(self.world.gc_min_age * 1000),
            groups=frozenset(self.options.groups),
        )
        try:
            self._open(options, founds=founds)
        except (StorageError, StoreFailed):
            self.is_up = False  # the process says why and ends; whoever starts it tries again
            self.disk.kill()
            return False
        self.standing = self.node.replicator.rejoin.standing
        self._ended = trio.Event()
        self.world.nursery.start_soon(self._run)
        return True

    def _open(self, options: StoreOptions, *, founds: bool) -> None:
        self.store = Store(self.disk, options, now_ms=self.wall_ms(), entropy=self._entropy_rng.randbytes)
        self._replica = StoreReplica(self.store)
        self.node = SimNode(
            self,
            self.world.network.endpoint(self.name),
            self.world.authenticator(self),
            self.options,
            cluster=self.cluster,
            rng=Random(f"{self.world.seed} node {self.name} {self.boots}"),
            entropy=self._entropy_rng.randbytes,
            store_errors=(StorageError,),
        )
        for patch in self.world.patches:
            patch(self)
        replicator = self.node.replicator
        open_group = replicator._open_group

        def open_watched(group: int) -> None:
            open_group(group)
            self._watch_exchange(replicator.exchanges[group])

        replicator._open_group = open_watched  # type: ignore[method-assign]
        self._watch_exchange(replicator.exchanges[COMMON_GROUP])
        self.node.open(founds=founds)

    def _watch_exchange(self, exchange: Exchange) -> None:
        self._watch_syncs(exchange.syncs)
        self._watch_cuts(exchange.core.replica)
        self._watch_parting(exchange)

    def _watch_cuts(self, replica: Replica) -> None:
        """Take note that what the host covered is void: from then on it need not have what it had claimed."""
        cut = replica.cut

        def watched(limits: Mapping[bytes, int]) -> list[Voided]:
            self.rolled_back = self.was_cut = True
            self.seen_vector = VersionVector()
            self.world.kept.pop(self.name, None)
            return cut(limits)

        replica.cut = watched  # type: ignore[method-assign]

    def _watch_parting(self, exchange: Exchange) -> None:
        """Take note of what the host covers when it forgets what it has purged."""
        given_way = exchange.rejoin.parting.on_given_way

        def on_given_way() -> None:
            self.gave_way = exchange.core.replica.vector().merged(self.gave_way or {})
            given_way()

        exchange.rejoin.parting.on_given_way = on_given_way

    def _watch_syncs(self, syncs: Syncs) -> None:
        covered = syncs.on_covered

        def on_covered(raised: list[bytes], *rest: Any) -> None:
            self.was_synced = self.was_synced or bool(raised)
            covered(raised, *rest)

        syncs.on_covered = on_covered

    async def _run(self) -> None:
        ended = self._ended
        try:
            with trio.CancelScope() as scope:
                self._scope = scope
                if not self.is_up:
                    return
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._upkeep)
                    await self.node.run()
        finally:
            ended.set()

    async def _upkeep(self) -> None:
        """Do what the daemon does beside its clients: expiry, and with `everysec` a sync now and then."""
        interval = self.world.sweep_interval
        await trio.sleep(self.rng.random() * interval)
        while True:
            await trio.sleep(interval)
            if self.is_stalled:
                continue
            store = self.store
            if store.writable is not None:
                store.probe()
                continue
            self.sweep()
            if self.durability == "everysec" and self.disk.tail:
                self.node._make_durable(_nothing)

    def sweep(self) -> None:
        store = self.store
        store.begin(self.wall_ms())
        try:
            while store.sweep(SWEEP_ROWS) >= SWEEP_ROWS:
                store.begin(self.wall_ms())
        except StorageError:
            self.failures += 1

    async def stop(self, *, silently: bool = False) -> None:
        """End the process at this moment, whatever it was doing."""
        if not self.is_up:
            return
        self.is_up = False
        self.world.network.fail(self.name, silently=silently)
        if self._scope is not None:
            self._scope.cancel()
        await self._ended.wait()
        self._scope = None
        self.standing = None

    # --- clients

    def may_write(self) -> bool:
        if not self.is_up or self.is_stalled:
            return False
        if self.node.replicator.refusal(trio.current_time()) is not None:
            self.refusals += 1
            return False
        return True

    @property
    def place(self) -> bytes:
        """The namespace that clients mean by database 0: of the group that the host carries, if it carries one."""
        return GROUPED_NAMESPACE if GROUP in self.options.groups else bytes(16)

    def keyspace(self, database: int) -> Keyspace:
        """Return the keyspace that clients mean by a database."""
        return self.store.keyspace(database) if database else self.store.keyspaces.obtain(self.place)

    def may_write_to(self, database: int) -> bool:
        """Tell whether a client may write, to this database."""
        if not self.may_write():
            return False
        group = group_of(self.place)
        return bool(database) or not group or self.node.replicator.refusal_in(group) is None

    def write(self, *operations: Callable[[Keyspace], object], database: int = 0) -> bool:
        """Run a tick of clients; False if it was refused or failed."""
        if not self.may_write_to(database):
            return False
        store = self.store
        store.begin(self.wall_ms())
        keyspace = self.keyspace(database)
        for operation in operations:
            operation(keyspace)
        try:
            self._commit()
        except StoreFailed:
            return False
        self.node.committed()
        return True

    def read(self, *keys: bytes, database: int = 0) -> list[bytes | None]:
        """Return what a client would read of these keys, in one tick."""
        store = self.store
        store.begin(self.wall_ms())
        keyspace = self.keyspace(database)
        found: list[bytes | None] = []
        for key in keys:
            record = keyspace.get(key)
            found.append(None if record is None else record[VALUE])
        return found

    # --- operators

    def remove_member(self, node: bytes) -> bool:
        """Remove another member for good; False if that could not be written."""
        replicator = self.node.replicator
        try:
            return self.node._in_tick(lambda: replicator.roster.remove(node))
        except StoreFailed:
            return False

    # --- what the world looks at

    def note(self) -> None:
        """Tell history what is about to be committed."""
        txn = self.store._txn
        if not txn.rows and not txn.flushed:
            return
        origins = self.store.state.origins
        note = self.world.note
        for row_key, record in txn.rows.items():
            value_stamp, expiry, floor = record[VALUE_STAMP], record[EXPIRY], record[FLOOR]
            if value_stamp is not None:
                note(self, value_stamp, 0, row_key, (record[VALUE], record[METADATA]), origins)
            if expiry is not None:
                note(self, expiry[0], 1, row_key, (expiry[1], None), origins)
            if floor is not None:
                note(self, floor, 2, row_key, (None, None), origins)
        for keyspace, _ in txn.flushed:
            if keyspace.floor is not None:
                note(self, keyspace.floor, 5, keyspace.id, (None, None), origins)

    def registers(self) -> dict[bytes, Registers]:
        """Return what is committed, by place, with stamps that mean the same on all hosts."""
        disk = self.disk
        origins = self.store.state.origins
        floors = dict(disk.iterate(Family.META, FLOOR_PREFIX, after_prefix(FLOOR_PREFIX)))
        found: dict[bytes, Registers] = {}
        known = self._decoded
        for place, row in disk.iterate(Family.RECORDS):
            registers = known.get(row)
            if registers is None:
                registers = known[row] = registers_of(decode(row, origins), origins)
            namespace_floor = floors.get(FLOOR_PREFIX + place[:16])
            if namespace_floor is not None:
                floor = stamp_of(namespace_floor, origins)
                if any(stamp is not None and stamp < floor for stamp in registers.stamps):
                    erased = erase_below(decode(row, origins), namespace_floor, origins)
                    if erased[VALUE_STAMP] is None and erased[EXPIRY] is None and erased[FLOOR] is None:
                        continue
                    registers = registers_of(erased, origins)
            found[place] = registers
        return found

    def namespace_floors(self) -> dict[bytes, Stamp]:
        origins = self.store.state.origins
        rows = self.disk.iterate(Family.META, FLOOR_PREFIX, after_prefix(FLOOR_PREFIX))
        return {key[len(FLOOR_PREFIX) :]: stamp_of(register, origins) for key, register in rows if register}

    def note_claims(self) -> None:
        """Remember what the disk is known to keep."""
        durable = self.durable
        if not self.claimed.covers(durable):
            self.claimed = self.claimed.merged(durable)

    @property
    def vector(self) -> VersionVector:
        """What the host covers, of all groups."""
        return _all_of(map(self.store._ledger.vector, self.groups))

    @property
    def durable(self) -> VersionVector:
        return _all_of(map(self.store._ledger.durable, self.groups))

    @property
    def groups(self) -> tuple[int, ...]:
        """The groups that it is to carry, whether it exchanges them by now or not."""
        return COMMON_GROUP, *self.options.groups

    @property
    def is_partial(self) -> bool:
        """Whether it holds merged changes that are not covered."""
        return any(map(self.store._ledger.is_partial, self.groups))

    def keeps_addresses(self, count: int) -> bool:
        """Tell whether the data directory holds the addresses of so many other members."""
        stored = self.replica.get_local("members")
        rows = None if stored is None else decode_record(stored).get("members")
        return isinstance(rows, list) and len(rows) == count

    @property
    def is_whole(self) -> bool:
        if not self.is_up:
            return False
        exchanges = self.node.replicator.exchanges
        return len(exchanges) == len(self.groups) and all(
            exchange.rejoin.standing.is_whole for exchange in exchanges.values()
        )


@attrs.frozen
class Registers:
    """The registers of one place, comparable between hosts."""

    value: Stamp | None
    content: Content
    expiry: Stamp | None
    expires_at_ms: int | None
    floor: Stamp | None

    @property
    def stamps(self) -> tuple[Stamp | None, Stamp | None, Stamp | None]:
        return self.value, self.expiry, self.floor


def _all_of(vectors: Iterable[VersionVector]) -> VersionVector:
    """Return the entries of several groups' vectors, which have no origin in common."""
    return reduce(VersionVector.merged, vectors)


def _trust(host: Host) -> Authenticator:
    return TrustingAuthenticator()


def plain_path(path: Path) -> None:
    """Make a path one of a quiet local network."""
    path.delay, path.jitter, path.spikes, path.bandwidth = 0.002, 0.003, 0.0, inf


def stamp_of(register: bytes, origins: list[bytes]) -> Stamp:
    hlc, number, seq, _ = unpack_register(register)
    return hlc, origins[number], seq


def registers_of(record: Record, origins: list[bytes]) -> Registers:
    value, expiry, floor = record[VALUE_STAMP], record[EXPIRY], record[FLOOR]
    return Registers(
        None if value is None else stamp_of(value, origins),
        (record[VALUE], record[METADATA]),
        None if expiry is None else stamp_of(expiry[0], origins),
        None if expiry is None else expiry[1],
        None if floor is None else stamp_of(floor, origins),
    )


class World:
    """All hosts, the network between them, and the history of what was written."""

    def __init__(
        self, seed: int | str, *, options: Options = OPTIONS, gc_min_age: float = GC_MIN_AGE
    ) -> None:
        self.seed = seed
        self.options = options
        self.gc_min_age = gc_min_age
        self.rng = Random(f"{seed} world")
        self.network = SimNetwork(seed)
        self.network.shape = self._shape
        self.history = History()
        self.hosts: dict[str, Host] = {}
        self.authenticator: Callable[[Host], Authenticator] = _trust
        self.watch: Any = None  # the `checkers.Watch` of this run, if it has one
        # Called after each commit of a host that is whole, or half-way there, with the rows that it wrote.
        self.after_tick: list[Callable[[Host, Mapping[bytes, Record]], None]] = []
        self.sweep_interval = SWEEP_INTERVAL
        self.patches: list[Callable[[Host], None]] = []  # applied to each new process
        self.nursery: trio.Nursery = None  # type: ignore[assignment]
        self.gone: dict[str, None] = {}  # hosts that will never come back
        self.removed: dict[bytes, None] = {}  # members that an operator has removed
        self.expelled: dict[str, None] = {}  # hosts whose member was removed while they ran
        self.sessions: dict[str, tuple[VersionVector, int]] = {}  # client -> token, number seen last
        self._latest_ms = 0
        self.images: dict[str, Image] = {}  # copies of data directories
        self.to_remove: dict[bytes, None] = {}  # members that are dead, and that an operator has to remove
        self.default_path: Callable[[Path], None] = plain_path
        self.kept: dict[str, VersionVector] = {}  # what must be there when a host comes back
        self.counts: dict[str, int] = {}
        self.log: list[str] | None = None
        self.digest: Any = None

    # --- building

    def add(self, name: str, **changes: Any) -> Host:
        options = attrs.evolve(self.options, **{"addresses": (f"{name}:1",), **changes})
        host = self.hosts[name] = Host(self, name, options)
        return host

    def found(self, count: int, *, offset_ms: float = 0.0, **changes: Any) -> list[Host]:
        """Add `count` hosts and start them: the first founds the cluster, the others join it."""
        names = [f"n{index}" for index in range(count)]
        hosts = [self.add(name, **({} if name == "n0" else {"join": ("n0:1",)}), **changes) for name in names]
        for host in hosts:
            host.clock.offset_ms = offset_ms
            host.start(founds=host.name == "n0")
        return hosts

    def resume(
        self,
        template: Template,
        durability: Sequence[str] = (),
        carriers: Sequence[str] = (),
        **changes: Any,
    ) -> list[Host]:
        """Add the hosts of a template and start them: a cluster that was shut down as a whole.

        `carriers` carry the group from now on.
        """
        self.history = template.history.copy()
        names = [f"n{index}" for index in range(len(template.images))]
        for index, (name, image) in enumerate(zip(names, template.images, strict=True)):
            groups = (GROUP,) if name in carriers else ()
            host = self.add(name, join=("n0:1", "n1:1"), groups=groups, **changes)
            host.durability = durability[index] if durability else "everysec"
            host.disk.put_back(image)
            host.start()
        return list(self.hosts.values())

    def _shape(self, path: Path) -> None:
        self.default_path(path)

    def up(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.is_up]

    # --- time

    def now(self) -> float:
        return trio.current_time()

    def latest_ms(self) -> int:
        """Return the greatest that any clock has ever shown, as far as it was asked before each step."""
        self._latest_ms = max(self._latest_ms, *(host.wall_ms() for host in self.hosts.values()))
        return self._latest_ms

    def base_ms(self) -> int:
        """Return what a perfect clock shows."""
        return BASE_MS + int(trio.current_time() * 1000)

    def watch_network(self) -> None:
        """Observe everything that is read from the network, for the hash of the run."""
        self.digest = hashlib.blake2b(digest_size=16)
        self.network.observe = self._observe

    def _observe(self, now: float, source: str, target: str, data: bytes) -> None:
        self.digest.update(f"{now:.6f} {source} {target} {len(data)} ".encode())
        self.digest.update(data)

    async def wait_until(self, condition: Callable[[], bool], seconds: float, *, step: float = 0.25) -> bool:
        deadline = trio.current_time() + seconds
        while not condition():
            if trio.current_time() >= deadline:
                return False
            await trio.sleep(step)
        return True

    def is_formed(self, count: int) -> bool:
        """Tell whether there are `count` whole members, each linked with each."""
        whole = [host for host in self.hosts.values() if host.is_whole]
        return len(whole) == count and all(
            len(host.node.replicator.core.links) == count - 1 for host in whole
        )

    def is_converged(self) -> bool:
        """Tell whether all that are up are whole and cover the same, durably."""
        up = self.up()
        return all(host.is_whole for host in up) and all(
            self._is_converged_in(group) for group in self.groups()
        )

    def _is_converged_in(self, group: int) -> bool:
        replicas = [host.replicas[group] for host in self.carriers(group)]
        # With durability `no` a disk is synced when a peer asks: one that is alone may have less on it for ever.
        return len(replicas) < 2 or all(
            replica.vector() == replicas[0].vector() == replica.durable() for replica in replicas
        )

    def groups(self) -> list[int]:
        """Return the groups that any host is to carry."""
        return sorted({group for host in self.hosts.values() for group in host.groups})

    def carriers(self, group: int) -> list[Host]:
        """Return the hosts that are up and exchange a group."""
        return [host for host in self.up() if group in host.replicas]

    def is_partial(self) -> bool:
        """Tell whether any host holds merged changes that are not covered."""
        return any(host.is_partial for host in self.up())

    def is_at_rest(self) -> bool:
        """Tell whether all cover the same and hold nothing more, and nobody asks for a value that it has dropped."""
        return (
            self.is_converged()
            and not self.is_partial()
            and not any(replica.bodyless() for host in self.up() for replica in host.replicas.values())
        )

    # --- history

    def note(
        self, host: Host, register: bytes, kind: int, place: bytes, content: Content, origins: list[bytes]
    ) -> None:
        stamp = stamp_of(register, origins)
        write = Write(stamp, kind, place, content, host.name, trio.current_time())
        if self.history.note(write) is None:
            return
        own = {origin for group in host.groups for origin in host.store._ledger.own(group)}
        current = {host.store._txn.origin, *(lane.origin for lane in host.store._txn.lanes)}
        if stamp[1] not in own and unpack_register(register)[1] not in current:
            raise Violation(f"{host.name} holds what nobody wrote: {write}")

    def count(self, what: str, amount: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + amount

    def tell(self, text: str) -> None:
        if self.log is not None:
            self.log.append(f"{trio.current_time():9.3f} {text}")


@attrs.frozen
class Template:
    """The disks of a cluster at rest, and what was written on them."""

    images: list[Image]
    history: History


@lru_cache
def template(count: int) -> Template:
    """Return a cluster of `count` members that was formed shortly before `BASE_MS`, where each run begins."""
    found: list[Template] = []

    async def form(world: World) -> None:
        hosts = world.found(count, offset_ms=-TEMPLATE_AGE_MS)
        assert await world.wait_until(lambda: world.is_formed(count), 60)
        assert await world.wait_until(world.is_converged, 30)
        assert await world.wait_until(lambda: all(host.keeps_addresses(count - 1) for host in hosts), 10)
        for host in hosts:
            await host.stop()
        assert all(host.wall_ms() < BASE_MS for host in hosts)
        found.append(Template([host.disk.image() for host in hosts], world.history))

    simulate(f"template {count}", form)
    return found[0]


def simulate(seed: int | str, scenario: Callable[[World], Any], **arguments: Any) -> World:
    """Run `scenario(world)` in a world of its own."""
    world = World(seed, **arguments)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            world.nursery = nursery
            await scenario(world)
            for host in world.up():
                await host.stop()
            nursery.cancel_scope.cancel()

    with scaled(), quiet(), unhurried_collector():
        clock.run(main, int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:8], "big"))
    return world


@contextmanager
def scaled() -> Iterator[None]:
    """Round the times at which deletions may be purged less than for people."""
    before = storage_state._MINUTE_MS
    storage_state._MINUTE_MS = GC_ROUNDING_MS
    try:
        yield
    finally:
        storage_state._MINUTE_MS = before


@contextmanager
def unhurried_collector() -> Iterator[None]:
    """Look for cycles less often: the simulation makes little of them, and in a large world there is much to look at."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 50, 1000)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def quiet() -> Iterator[None]:
    """Log nothing: a simulated minute logs as much as a real one."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    try:
        yield
    finally:
        structlog.configure(**before)


def _nothing() -> None:
    """Stand in for what would be done after a sync."""
