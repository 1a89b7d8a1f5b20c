"""From settings to a node among peers: credentials, network, and what becomes of their mistakes."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import trio

from kvd.peering.errors import CannotJoin
from kvd.peering.options import peer_options
from kvd.peering.peers import Peers
from kvd.settings import PeersSettings, Settings
from replication.carriers import GroupGivenUp
from replication.errors import CredentialError
from replication.node import StoreFailed
from replication.rejoin import CLUSTER_SETTING, HasOwnData, WrongCluster
from replication.security import BundleCredentials, Credentials, SecretCredentials
from replication.tcp import TcpNetwork
from replication.transport import Handler, format_address
from storage.expiry import Apart

if TYPE_CHECKING:
    from kvd.hub import Hub
    from kvd.server import Server
    from storage.store import Store

log = structlog.get_logger()


def open_peers(settings: Settings, server: Server, hub: Hub) -> Peers | None:
    """Return this node among its peers, not yet listening; None for a single node. Raise `CannotJoin`."""
    wanted = settings.peers
    if wanted.port < 0:
        _stay_apart(server.store)
        return None
    allowed = tuple(ipaddress.ip_network(network) for network in wanted.allow)
    try:
        credentials = read_credentials(wanted)
        network = _Network(credentials, listen=format_address(wanted.bind, wanted.port), allow=allowed)
        peers = Peers(server, hub, network, credentials, peer_options(settings, wanted.port), allowed)
        server.peers = peers
        peers.open(founds=not wanted.join)
    except (CredentialError, WrongCluster, HasOwnData, GroupGivenUp, StoreFailed) as error:
        raise CannotJoin(str(error)) from error
    return peers


class _Network(TcpNetwork):
    """The network of a daemon, which says where it cannot listen."""

    async def listen(
        self, handler: Handler, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> None:
        try:
            await super().listen(handler, task_status=task_status)
        except OSError as error:
            text = f"cannot listen for peers at {format_address(self._host, self._port)} (peers.port): {error.strerror}"
            raise OSError(error.errno, text) from error


def _stay_apart(store: Store) -> None:
    """See that a member which runs without its peers purges no deletion that they have yet to hear of.

    What it purged they could not be told apart from what they must keep: each had to join anew.
    """
    if store.local_value(CLUSTER_SETTING) is not None:
        store.sweeper.purging = Apart()
        log.warning(
            "this data directory belongs to a cluster, but peers are off: deletions are kept until they are on",
            hint="start with --peer-port to rejoin, or make it a cluster of its own with `kvd cluster reseed`",
        )


def read_credentials(wanted: PeersSettings) -> Credentials:
    """Return what proves that this node belongs to its cluster. Raise `CredentialError`."""
    if wanted.secret_file:
        return SecretCredentials(Path(wanted.secret_file))
    further = [Path(file) for file in (wanted.key_file, wanted.ca_file) if file]
    return BundleCredentials(Path(wanted.cert_file), *further)
