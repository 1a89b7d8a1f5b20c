"""The keyspaces of a store: sixteen that SELECT knows by number, and named namespaces.

A named namespace has a random id of 16 bytes, which also tells its group, shown as 32 hex digits, a title and a
policy. The registry of the named ones is ordinary records in a keyspace of its own (`layout.SYSTEM`: id -> title,
with the policy as metadata), so that it replicates like all records. It is read whole at open; the namespaces'
own records are not.

Deleting a namespace flushes it and marks its `Keyspace` as gone: a session that still holds it gets
`KeyspaceGone` from then on.

Other nodes' changes of the registry take effect when they are committed (`accept`, `committed`). Their
records may come before the registry tells of their namespace, or after it was deleted: such a namespace is
*hidden*. It has a `Keyspace` object that only replication and the sweep see (`obtain`), and becomes an
ordinary one with its title. Two nodes may give one title to two namespaces while they do not see each
other; both stay, and the title finds the one whose record is older.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import attrs

from storage.changes import COMMON_GROUP, draw_id
from storage.errors import (
    GroupIncomplete,
    GroupNotCarried,
    KeyspaceGone,
    RecordError,
    StorageError,
    TitleTaken,
    TitleTooLong,
)
from storage.keyspace import Keyspace
from storage.layout import CLUSTER, DATABASES, NAMESPACE_BYTES, SYSTEM, database_id
from storage.policy import DEFAULT_POLICY, Policy
from storage.record import EXPIRES_AT, METADATA, VALUE, VALUE_STAMP, Record
from storage.state import Limits
from storage.version import register_hlc

_SCAN_ROWS = 1024
_ID_HEX_DIGITS = 2 * NAMESPACE_BYTES


class Keyspaces:
    """The registry. `open_keyspace` makes the `Keyspace` object of a namespace.

    `groups` are the groups that this node carries beside the common one. The namespaces of others are there with
    their titles only: whoever reads or writes them gets `GroupNotCarried`.
    """

    def __init__(
        self,
        open_keyspace: Callable[[bytes, int | None, str | None], Keyspace],
        limits: Limits,
        entropy: Callable[[int], bytes],
        groups: frozenset[int] = frozenset(),
    ) -> None:
        self.groups = groups
        self.incomplete: Mapping[int, str] = {}  # groups whose records are not all here yet, and the reason
        self._open = open_keyspace
        self._limits = limits
        self._entropy = entropy
        self.system = open_keyspace(SYSTEM, None, None)
        self.cluster = open_keyspace(CLUSTER, None, None)
        self.cluster_version = 0  # grows with every change of the cluster's records, and more often
        self._cluster_version_committed = 0
        self._cluster_versions: dict[bytes, int] = {}  # of committed changes, by what their names begin with
        self._reverts = 0
        self.databases = [open_keyspace(database_id(index), index, None) for index in range(DATABASES)]
        self._named: dict[bytes, Keyspace] = {}
        self._hidden: dict[bytes, Keyspace] = {}
        self._before: list[tuple[Keyspace, str | None, Policy]] | None = (
            None  # if the tick changed the registry
        )
        self._closed: dict[bytes, Keyspace] = {}  # those that the tick has deleted
        self._accepted: dict[bytes, None] = {}  # ids whose records another node has changed in this tick
        self._fixed = {keyspace.id: keyspace for keyspace in (*self.databases, self.system, self.cluster)}

    def __iter__(self) -> Iterator[Keyspace]:
        """Iterate all keyspaces, the reserved ones included, hidden ones not."""
        yield self.system
        yield self.cluster
        yield from self.databases
        yield from self._named.values()

    def load(self) -> None:
        """Open the named keyspaces that the registry's records tell of. O(number of namespaces)."""
        for namespace, record in self._stored():
            self._show(namespace, record)

    def cluster_version_of(self, prefix: bytes) -> int:
        """Return a number that grows with each commit that changes cluster records of this prefix, colon included."""
        return self._cluster_versions.get(prefix, 0) + self._reverts

    def committed(self, rows: Iterable[bytes]) -> bool:
        """Take the registry as being on disk now, and do what other nodes' changes of it ask for.

        `rows` are the keys of the rows that the commit has written. Return whether the registry may have changed.
        """
        is_changed = self._before is not None or bool(self._accepted)
        self._before = None
        if self.cluster_version != self._cluster_version_committed:
            self._cluster_version_committed = self.cluster_version
            for prefix in {_prefix(key[len(CLUSTER) :]) for key in rows if key.startswith(CLUSTER)}:
                self._cluster_versions[prefix] = self._cluster_versions.get(prefix, 0) + 1
        if self._closed:
            self._closed = {}
        if self._accepted:
            accepted, self._accepted = self._accepted, {}
            for namespace in accepted:
                self._refresh(namespace)
        return is_changed

    def reverted(self) -> None:
        """Make the registry what it was before the tick."""
        self.cluster_version += 1
        self._reverts += 1
        self._accepted = {}
        for namespace in self._closed:
            self._hidden.pop(namespace, None)
        self._closed = {}
        if self._before is None:
            return
        before, self._before = self._before, None
        known = {keyspace.id for keyspace, _, _ in before}
        for created in [keyspace for keyspace in self._named.values() if keyspace.id not in known]:
            created.close()
        self._named = {keyspace.id: keyspace for keyspace, _, _ in before}
        for keyspace, title, policy in before:
            keyspace.title = title
            keyspace.follow(policy)
            if keyspace.gone and self.carries(keyspace.group):
                keyspace.reopen()

    def carries(self, group: int) -> bool:
        """Tell whether this node holds the records of a group."""
        return group == COMMON_GROUP or group in self.groups

    def check_carried(self, group: int) -> None:
        """Raise `GroupNotCarried` unless this node holds the records of a group."""
        if not self.carries(group):
            raise GroupNotCarried(group)

    def check_open(self, group: int) -> None:
        """Raise `GroupNotCarried`, or `GroupIncomplete` unless clients may read and write a group."""
        self.check_carried(group)
        if group in self.incomplete:
            raise GroupIncomplete(self.incomplete[group])

    def history_of(self, namespace: bytes) -> int | None:
        """Return how many past versions a named namespace keeps, 0 if there is none; None if that cannot be told."""
        keyspace = self._named.get(namespace)
        if keyspace is not None:
            return keyspace.history
        try:
            is_live = self.system.peek(namespace)[EXPIRES_AT] > 0
        except StorageError:
            is_live = True  # `kvd verify` names it
        return None if is_live else 0

    def by_id(self, namespace: bytes) -> Keyspace | None:
        """Return the keyspace with this id, whichever kind it is; None if it is hidden."""
        return self._fixed.get(namespace) or self._named.get(namespace)

    def opened(self, namespace: bytes) -> Keyspace | None:
        """Return the keyspace with this id if there is an object for it, hidden or not."""
        return self.by_id(namespace) or self._hidden.get(namespace)

    def obtain(self, namespace: bytes) -> Keyspace:
        """Return the keyspace with this id, to be changed; a hidden one if the registry does not tell of it."""
        if namespace == CLUSTER:
            self.cluster_version += 1
        found = self.opened(namespace)
        if found is None:
            found = self._hidden[namespace] = self._open(namespace, None, None)
            closed = self._closed.get(namespace)
            if closed is not None:
                found.succeed(closed)
        return found

    def accept(self, namespace: bytes) -> None:
        """Take note that another node's change of a registry record was applied."""
        self._accepted[namespace] = None

    def accept_flush(self) -> None:
        """Take note that another node's flush of the registry was applied."""
        self._accepted.update(dict.fromkeys(self._named))

    def find(self, name: bytes | str) -> Keyspace | None:
        """Return the named namespace with this id (16 bytes, or 32 hex digits) or, failing that, this title.

        Of several with the same title it is the one whose record in the registry is the oldest.
        """
        if isinstance(name, bytes):
            found = self._named.get(name)
            if found is not None:
                return found
            name = name.decode("utf-8", "replace")
        if len(name) == _ID_HEX_DIGITS:
            try:
                found = self._named.get(bytes.fromhex(name))
            except ValueError:
                found = None
            if found is not None:
                return found
        titled = [keyspace for keyspace in self._named.values() if keyspace.title == name]
        return min(titled, key=self._age) if len(titled) > 1 else next(iter(titled), None)

    def all(self) -> list[Keyspace]:
        """Return the named namespaces, by title."""
        return sorted(self._named.values(), key=lambda keyspace: (keyspace.title or "", keyspace.id))

    def create(self, title: str, policy: Policy = DEFAULT_POLICY, *, group: int = COMMON_GROUP) -> Keyspace:
        """Make a namespace with a fresh random id, in a group that this node carries. The title must be free."""
        self.check_carried(group)
        self._check_title(title)
        self._remember()
        namespace = draw_id(group, self._entropy)
        self.system.put(namespace, title.encode(), metadata=policy.encode())
        keyspace = self._open(namespace, None, title)
        keyspace.follow(policy)
        self._named[namespace] = keyspace
        return keyspace

    def rename(self, namespace: bytes, title: str) -> None:
        """Give the namespace another title, which must be free."""
        keyspace = self._existing(namespace)
        if keyspace.title == title:
            return
        self._check_title(title)
        self._remember()
        self.system.put(namespace, title.encode(), metadata=keyspace.policy.encode())
        keyspace.title = title

    def change(
        self, namespace: bytes, *, value_bytes_max: int | None, conflict_log: bool, history: int
    ) -> None:
        """Give the namespace another policy; whether it replicates stays as it is."""
        keyspace = self._existing(namespace)
        policy = attrs.evolve(
            keyspace.policy, value_bytes_max=value_bytes_max, conflict_log=conflict_log, history=history
        )
        if policy == keyspace.policy:
            return
        self._remember()
        self.system.put(namespace, (keyspace.title or "").encode(), metadata=policy.encode())
        keyspace.follow(policy)

    def delete(self, namespace: bytes) -> None:
        """Delete the namespace and all its records. Constant time."""
        keyspace = self._existing(namespace)
        self.check_open(keyspace.group)
        self._remember()
        keyspace.flush()
        self.system.delete(namespace)
        del self._named[namespace]
        self._closed[namespace] = keyspace
        keyspace.close()

    def _show(self, namespace: bytes, record: Record) -> None:
        """Let the namespace be what its record in the registry says."""
        if len(namespace) != NAMESPACE_BYTES:
            return
        keyspace = self._named.get(namespace)
        if keyspace is None:
            keyspace = self._hidden.pop(namespace, None) or self._open(namespace, None, None)
            self._named[namespace] = keyspace
            if not self.carries(keyspace.group):
                keyspace.close()
        keyspace.title = record[VALUE].decode("utf-8", "replace")
        keyspace.follow(Policy.decode(record[METADATA]))

    def _refresh(self, namespace: bytes) -> None:
        try:
            record = self.system.peek(namespace)
        except RecordError:
            return  # `kvd verify` names it
        if record[EXPIRES_AT]:
            self._show(namespace, record)
        elif namespace in self._named:
            self._named.pop(namespace).close()

    def _remember(self) -> None:
        """Keep what the registry is, if this is the tick's first change of it."""
        if self._before is None:
            self._before = [(keyspace, keyspace.title, keyspace.policy) for keyspace in self._named.values()]

    def _existing(self, namespace: bytes) -> Keyspace:
        keyspace = self._named.get(namespace)
        if keyspace is None:
            raise KeyspaceGone(namespace.hex())
        return keyspace

    def _check_title(self, title: str) -> None:
        size = len(title.encode())
        if not 1 <= size <= self._limits.title_bytes_max:
            raise TitleTooLong(size, self._limits.title_bytes_max)
        if any(keyspace.title == title for keyspace in self._named.values()):
            raise TitleTaken(title)

    def _age(self, keyspace: Keyspace) -> tuple[int, bytes]:
        """Return what sorts namespaces by the time of their records, everywhere alike."""
        stamp = self.system.peek(keyspace.id)[VALUE_STAMP]
        return (0 if stamp is None else register_hlc(stamp)), keyspace.id

    def _stored(self) -> Iterator[tuple[bytes, Record]]:
        after: bytes | None = None
        while True:
            found, after = self.system.scan(b"", after, _SCAN_ROWS)
            yield from found
            if after is None:
                return


def _prefix(name: bytes) -> bytes:
    """Return what a name has up to its first colon, colon included; all of it if it has none."""
    head, colon, _ = name.partition(b":")
    return head + colon
