"""ACL users that all nodes share, if the setting ``peers.replicate_acl_users`` says so.

Each user that a command has made or changed is a record of the cluster: ``acl:<name>`` holds its line of
ACL LIST, passwords as hashes; an empty one says that the user was deleted. The last change of a user wins as
a whole. Users of the settings and the ACL file stay this node's own until a command changes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import structlog

from kvd import acl_file
from kvd.acl import DEFAULT, AclFileError
from storage.changes import Replica

if TYPE_CHECKING:
    from kvd.server import Server

log = structlog.get_logger()

PREFIX: Final = b"acl:"


class SharedUsers:
    """The records of shared users, and the running ACL."""

    def __init__(self, server: Server, replica: Replica) -> None:
        self._server = server
        self._replica = replica
        self._seen: dict[bytes, bytes] = {}  # name -> what was put into force last

    @property
    def are_shared(self) -> bool:
        return self._server.settings.peers.replicate_acl_users

    def changed(self, names: Iterable[bytes]) -> None:
        """Write down users that a command has changed or deleted, in its tick."""
        if not self.are_shared:
            return
        users = self._server.acl.users
        for name in names:
            line = bytes(users[name]) if name in users else b""
            self._seen[name] = line
            self._replica.put_system(PREFIX + name, line)

    def load(self) -> None:
        """Put those users into force whose records are not what they were; O(users)."""
        if not self.are_shared:
            return
        changed = False
        for record, line, _ in self._replica.list_system(PREFIX):
            name = record[len(PREFIX) :]
            if self._seen.get(name) != line:
                self._seen[name] = line
                changed = self._take(name, line) or changed
        if changed:
            self._server.acl.apply_to_sessions(self._server)

    def _take(self, name: bytes, line: bytes) -> bool:
        """Put one user into force; False if its record makes no sense here."""
        acl = self._server.acl
        if not line:
            return name != DEFAULT and acl.delete_user(name) is not None
        try:
            users = acl_file.parse([("the record of a shared user", line)], acl.table)
            user = users[name]
        except (AclFileError, KeyError) as error:
            log.error("shared user not taken", user=name.decode("utf-8", "replace"), problem=str(error))
            return False
        acl.assume_user(user)
        return True
