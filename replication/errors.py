"""What replication raises: the peer was wrong, the network was wrong, or the caller.

ReplicationError
  RemoteProtocolError   the peer's bytes are no message, or one that it must not send; ends the connection
  LocalProtocolError    a message of ours cannot be sent: it is larger than a frame
  ConnectFailed         no connection could be made; every address that was tried, with its reason
  CredentialError       the cluster's secret or certificates cannot be used; says what mends it
"""

from __future__ import annotations


class ReplicationError(Exception):
    """The base of all that replication raises on purpose."""


class RemoteProtocolError(ReplicationError):
    """The peer broke the protocol. What it sent is dropped, and the connection with it."""


class LocalProtocolError(ReplicationError):
    """We were about to break the protocol; nothing was sent."""


class ConnectFailed(ReplicationError):
    """No connection with a usable peer could be made; try again later."""


class CredentialError(ReplicationError):
    """The credentials of the cluster are missing, unreadable, or not made for this."""
