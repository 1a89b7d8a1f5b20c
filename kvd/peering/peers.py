"""The daemon's side of replication: the store, the hub and the clients, as a node's `Host` sees them.

    clients ─ hub's tick ─ commit ──▶ Peers.committed ──▶ node: pushes what is fresh
    node: a peer's messages ──▶ Peers.transact ─ a tick of its own ─ commit ──▶ events, invalidations, waiters

Whatever replication does with records is a tick between two of the hub's, with one commit; nobody sees half of
it. A commit that fails is raised as `StoreFailed`, as are errors of replication's own: the tick is undone, the
links are closed, and what was lost comes again by a sync. A daemon with clients must not end for a peer.

*Waiters* are commands that answer once something is known (WAIT, KV.SYNCTO): each is a condition that is
looked at when a peer has claimed more or this node covers more, and otherwise ten times a second.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, cast

import attrs
import structlog
import trio

import kvd
from kvd.peering import dead_letters
from kvd.peering.alarms import Alarms
from kvd.peering.applied import Applied
from kvd.peering.options import peer_options
from kvd.peering.users import SharedUsers
from replication.carriers import GroupGivenUp
from replication.messages import CHANNEL_BYTES_MAX, PUBLISH_BYTES_MAX, Publish
from replication.node import PeerNode, StoreFailed
from replication.options import Options
from replication.rejoin import HasOwnData, Standing, WrongCluster
from replication.security import Credentials
from replication.topology import Network as AddressRange
from replication.transport import Network, parse_address
from storage.changes import COMMON_GROUP, Change, Lane, Stamp, VersionVector, group_of
from storage.errors import StorageError
from storage.replica import StoreReplica

if TYPE_CHECKING:
    from kvd.hub import Hub
    from kvd.server import Server

log = structlog.get_logger()

Result = TypeVar("Result")

# How often it is looked whether clients may write, and at waiters that nothing has woken.
_LOOK_SECONDS: Final = 0.1
_CONFLICTS_REMEMBERED: Final = 1024


@attrs.define(eq=False)
class _Waiter:
    is_over: Callable[[], bool]
    try_to_answer: Callable[[], bool]  # True once there is nothing left to do


class Peers:
    """Implements `replication.node.Host`."""

    def __init__(
        self,
        server: Server,
        hub: Hub,
        network: Network,
        credentials: Credentials,
        options: Options,
        allowed: Sequence[AddressRange] = (),
    ) -> None:
        self.server = server
        self._hub = hub
        self._replica = StoreReplica(server.store)
        self.credentials = credentials
        self.node = PeerNode(
            self,
            network,
            credentials.authenticator,
            options,
            cluster=credentials.cluster,
            rng=random.Random(),
            entropy=os.urandom,
            software=f"kvd {kvd.__version__}",
            allowed=allowed,
            store_errors=(StorageError,),
        )
        self.replicator = self.node.replicator
        self.applied = Applied(server)
        self._alarms = Alarms(server.store, self.replicator.exchanges)
        self.users = SharedUsers(server, self._replica)
        self._carries_more = bool(options.groups)
        self._waiters: list[_Waiter] = []
        self._system_version = self._replica.system_version

    # --- life

    def open(self, *, founds: bool) -> None:
        """Find out what this node is in its cluster. Raises what `Rejoin.open` raises."""
        self.node.open(founds=founds)
        self.users.load()
        self.look()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Talk to peers until cancelled; started once their port is open."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.node.run)
            self._learn_port()
            nursery.start_soon(self._look_periodically)
            task_status.started()

    @property
    def port(self) -> int:
        """Return the port that is listened at."""
        return parse_address(self.node.address)[1]

    def _learn_port(self) -> None:
        """Let others know the port, if it was left to the system to choose."""
        settings = self.server.settings
        if settings.peers.port == 0:
            core = self.replicator.core
            core.options = peer_options(settings, self.port)
            for address in core.options.addresses:
                self.replicator.topology.on_self(address)

    async def stop(self) -> None:
        """Send what is fresh, and say goodbye on every link."""
        await self.node.stop()

    async def _look_periodically(self) -> None:
        while True:
            await trio.sleep(_LOOK_SECONDS)
            self.look()
            self._alarms.look(trio.current_time())
            if self._waiters:
                self._look_at_waiters()

    def look(self) -> None:
        """See whether clients may read and write at this moment."""
        try:
            refusal = self.replicator.refusal(trio.current_time())
        except StorageError:
            return  # the store cannot be read at this moment: what held before holds
        self.server.refuse(refusal, reads=self.standing.is_catching_up)
        self._look_at_groups()

    def _look_at_groups(self) -> None:
        """See which groups are not all here: clients may neither read nor write those."""
        if self._carries_more:
            found = {
                group: self.replicator.refusal_in(group) for group in self.replicator.core.options.groups
            }
            closed = {group: why.removeprefix("LOADING ") for group, why in found.items() if why is not None}
            self.server.close_groups(closed)

    @property
    def cluster(self) -> bytes:
        return self.credentials.cluster

    @property
    def standing(self) -> Standing:
        return self.replicator.rejoin.standing

    # --- Host

    @property
    def replica(self) -> StoreReplica:
        return self._replica

    def transact(self, work: Callable[[], Result]) -> Result:
        """Run `work` as a tick and commit it. Raise `StoreFailed`, then nothing of it has happened."""
        try:
            result = self._hub.transact(work)
        except StorageError as error:
            raise StoreFailed(str(error)) from error
        except (StoreFailed, WrongCluster, HasOwnData, GroupGivenUp):
            raise
        except Exception as error:
            log.exception("replication failed unexpectedly, its links begin anew")
            self.server.stats.unexpected_errors += 1
            raise StoreFailed("replication failed unexpectedly") from error
        if self._carries_more:
            self._look_at_groups()
        if self._waiters:
            self._look_at_waiters()
        return result

    def rotate(self) -> None:
        self._replica.rotate()

    async def sync(self) -> None:
        try:
            await trio.to_thread.run_sync(self.server.store.sync)
        except StorageError as error:
            raise StoreFailed(str(error)) from error

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def publish(self, message: Publish) -> None:
        pubsub = self.server.pubsub
        if message.sharded:
            pubsub.publish_shard(message.channel, message.payload)
        else:
            pubsub.publish(message.channel, message.payload)

    def dead_letter(self, stale: list[tuple[Stamp, Change]]) -> None:
        path = Path(self.server.settings.storage.data_dir) / dead_letters.FILE
        try:
            keyring = self.server.store.keyring
            dead_letters.keep(path, stale, self._replica.body, now_ms=self.wall_ms(), keyring=keyring)
        except OSError as error:
            raise StoreFailed(f"dead letters cannot be kept: {error}") from error
        log.warning("writes are undone that nobody else has seen", count=len(stale), kept_in=str(path))

    def stood(self, standing: Standing) -> None:
        self.look()

    # --- what clients do

    def committed(self) -> None:
        """Take note that a tick has been committed: of clients, or of other nodes' writes."""
        if self.server.store.applied:
            self.applied.tell(self.server.store.applied)
        if self._system_version != self._replica.system_version:
            self._load_users()
        if self._replica.has_fresh or (self._carries_more and any(one.has_fresh for one in self.replicas())):
            self.node.committed()

    def _load_users(self) -> None:
        version = self._replica.system_version
        try:
            self.users.load()
        except StorageError as error:
            log.error("shared users cannot be read, the next commit tries again", error=str(error))
        else:
            self._system_version = version

    def spread(self, channel: bytes, payload: bytes, *, sharded: bool) -> None:
        """Let a published message reach the subscribers of the other nodes, unless it is to stay here."""
        peers = self.server.settings.peers
        if peers.publish == "local":
            return
        if len(channel) > CHANNEL_BYTES_MAX or len(payload) > PUBLISH_BYTES_MAX:
            return  # it does not fit into a frame
        prefixes = peers.publish_local_prefixes
        if prefixes and channel.startswith(tuple(prefix.encode() for prefix in prefixes)):
            return
        self.replicator.publish(channel, payload, sharded=sharded)

    def replicas(self) -> list[StoreReplica]:
        """Return the store as each group that is exchanged, the common one first."""
        return [cast("StoreReplica", one.core.replica) for one in self.replicator.exchanges.values()]

    def written(self, *groups: int) -> dict[bytes, int]:
        """Return a vector that covers everything written on this node so far, this tick's included.

        A superset of what one connection has written, and that costs writes nothing. With `groups`: written there.
        """
        found: dict[bytes, int] = {}
        for replica in self.replicas():
            if not groups or replica.group in groups:
                found |= _written_in(replica)
        return found

    def seen(self) -> dict[bytes, int]:
        """Return a vector that covers everything that could be read here now, this tick's writes included.

        Origins that all members cover to their end are left out. What an unfinished sync has brought is readable,
        though not covered yet, so it counts as well.
        """
        seen: dict[bytes, int] = {}
        for replica in self.replicas():
            sealed = self.replicator.exchanges[replica.group].vectors.sealed
            found = replica.vector().merged(replica.uncovered()).merged(_written_in(replica))
            seen |= {origin: seq for origin, seq in found.items() if sealed.get(origin) != seq}
        return seen

    def covers(self, vector: Mapping[bytes, int]) -> bool:
        """Tell whether this node has all of `vector` that is of groups which it carries."""
        # One that is not exchanged yet has nothing.
        carried = dict.fromkeys(self.replicator.core.options.groups, VersionVector())
        carried |= {replica.group: replica.vector() for replica in self.replicas()}
        return all(
            carried[group][origin] >= seq
            for origin, seq in vector.items()
            if (group := group_of(origin)) in carried
        )

    def having_written(self, group: int) -> Callable[[], int]:
        """Return a function that counts who carries a group, and durably has what was written there until now.

        And what was written in the common group, which belongs to every namespace.
        """
        return partial(self.replicator.covering, self.written(COMMON_GROUP, group), group)

    def covering_theirs(self, vector: Mapping[bytes, int]) -> int:
        """Return how many other members durably have all of `vector` that is of groups which they carry."""
        return self.replicator.covering_theirs(vector)

    def offset(self) -> int:
        """Return a number that grows with every write, here or elsewhere, that this node has."""
        return sum(sum(replica.vector().values()) for replica in self.replicas())

    def writer_of(self, origin: bytes) -> bytes | None:
        """Return the node that writes, or wrote, under an origin, as far as this node has been told."""
        if any(origin in replica.own_origins() for replica in self.replicas()):
            return self._replica.node_id
        return self.replicator.writers.writer_of(origin)

    def groups_shared_with(self, node: bytes) -> list[int]:
        """Return the groups that this node and another member carry, the common one first."""
        theirs = self.replicator.carried.of(node)
        return [group for group in self.replicator.exchanges if group == COMMON_GROUP or group in theirs]

    def is_stable(self, origin: bytes, seq: int) -> bool:
        """Tell whether every member that carries its group durably has a write."""
        exchange = self.replicator.exchanges.get(group_of(origin))
        return exchange is not None and exchange.stability.stable()[origin] >= seq

    def held(self) -> list[bytes]:
        """Return the origins that wait here, because their clock is far ahead."""
        exchanges = self.replicator.exchanges.values()
        return [origin for exchange in exchanges for origin in exchange.dissemination.held]

    def conflict_count(self, place: bytes) -> int:
        """Return how many of the remembered conflicts were about one key."""
        return sum(conflict.place == place for conflict in self._replica.conflicts(_CONFLICTS_REMEMBERED))

    def others(self) -> int:
        """Return how many other members there are."""
        return len(self.replicator.roster.members()) - 1

    def ask_for_claims(self) -> None:
        """Have the others say soon what they have: somebody waits."""
        self.node.ask_for_claims()

    # --- waiting

    def wait_for(self, is_over: Callable[[], bool], try_to_answer: Callable[[], bool]) -> None:
        """Call `try_to_answer` whenever more is known, until it returns True or `is_over` does."""
        self._waiters.append(_Waiter(is_over, try_to_answer))

    def _look_at_waiters(self) -> None:
        self._waiters = [waiter for waiter in self._waiters if not _is_answered(waiter)]


def _is_answered(waiter: _Waiter) -> bool:
    """Tell whether a waiter has nothing left to do, which it may have just done."""
    try:
        return waiter.is_over() or waiter.try_to_answer()
    except StorageError:
        return False  # the store cannot be read at this moment: it is looked at again


def _written_in(replica: StoreReplica) -> dict[bytes, int]:
    """Return a vector that covers what this node has written in one group."""
    origins = dict.fromkeys((*replica.own_origins(), replica.origin(Lane.SMALL), replica.origin(Lane.BULK)))
    return {origin: seq for origin in origins if origin is not None and (seq := replica.covered(origin))}
