"""The keyspaces of a store: sixteen that SELECT knows by number, and named namespaces.

A named namespace has a random id of 16 bytes, shown as 32 hex digits, and a title. The registry of
the named ones is ordinary records in a keyspace of its own (`layout.SYSTEM`: id -> title), so that it
will replicate like all records. It is read whole at open; the namespaces' own records are not.

Deleting a namespace flushes it and marks its `Keyspace` as gone: a session that still holds it gets
`KeyspaceGone` from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from storage.errors import KeyspaceGone, TitleTaken, TitleTooLong
from storage.keyspace import Keyspace
from storage.layout import DATABASES, NAMESPACE_BYTES, SYSTEM, database_id
from storage.record import VALUE
from storage.state import Limits

_SCAN_ROWS = 1024
_ID_HEX_DIGITS = 2 * NAMESPACE_BYTES


class Keyspaces:
    """The registry. `open_keyspace` makes the `Keyspace` object of a namespace."""

    def __init__(
        self,
        open_keyspace: Callable[[bytes, int | None, str | None], Keyspace],
        limits: Limits,
        entropy: Callable[[int], bytes],
    ) -> None:
        self._open = open_keyspace
        self._limits = limits
        self._entropy = entropy
        self.system = open_keyspace(SYSTEM, None, None)
        self.databases = [open_keyspace(database_id(index), index, None) for index in range(DATABASES)]
        self._named: dict[bytes, Keyspace] = {}
        self._before: list[tuple[Keyspace, str | None]] | None = None  # with titles, if the tick changed them
        self._fixed = {keyspace.id: keyspace for keyspace in (*self.databases, self.system)}

    def __iter__(self) -> Iterator[Keyspace]:
        """Iterate all keyspaces, the system's included."""
        yield self.system
        yield from self.databases
        yield from self._named.values()

    def load(self) -> None:
        """Open the named keyspaces that the registry's records tell of. O(number of namespaces)."""
        for namespace, title in self._stored_titles():
            self._named[namespace] = self._open(namespace, None, title)

    def committed(self) -> None:
        """Take the registry as being on disk now."""
        self._before = None

    def reverted(self) -> None:
        """Make the registry what it was before the tick."""
        if self._before is None:
            return
        before, self._before = self._before, None
        known = {keyspace.id for keyspace, _ in before}
        for created in [keyspace for keyspace in self._named.values() if keyspace.id not in known]:
            created.close()
        self._named = {keyspace.id: keyspace for keyspace, _ in before}
        for keyspace, title in before:
            keyspace.title = title
            if keyspace.gone:
                keyspace.reopen()

    def by_id(self, namespace: bytes) -> Keyspace | None:
        """Return the keyspace with this id, whichever kind it is."""
        return self._fixed.get(namespace) or self._named.get(namespace)

    def find(self, name: bytes | str) -> Keyspace | None:
        """Return the named namespace with this id (16 bytes, or 32 hex digits) or, failing that, this title."""
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
        return next((keyspace for keyspace in self.all() if keyspace.title == name), None)

    def all(self) -> list[Keyspace]:
        """Return the named namespaces, by title."""
        return sorted(self._named.values(), key=lambda keyspace: (keyspace.title or "", keyspace.id))

    def create(self, title: str) -> Keyspace:
        """Make a namespace with a fresh random id. The title must be free."""
        self._check_title(title)
        self._remember()
        namespace = self._entropy(NAMESPACE_BYTES)
        self.system.put(namespace, title.encode())
        keyspace = self._open(namespace, None, title)
        self._named[namespace] = keyspace
        return keyspace

    def rename(self, namespace: bytes, title: str) -> None:
        """Give the namespace another title, which must be free."""
        keyspace = self._existing(namespace)
        if keyspace.title == title:
            return
        self._check_title(title)
        self._remember()
        self.system.put(namespace, title.encode())
        keyspace.title = title

    def delete(self, namespace: bytes) -> None:
        """Delete the namespace and all its records. Constant time."""
        keyspace = self._existing(namespace)
        self._remember()
        keyspace.flush()
        self.system.delete(namespace)
        del self._named[namespace]
        keyspace.close()

    def _remember(self) -> None:
        """Keep what the registry is, if this is the tick's first change of it."""
        if self._before is None:
            self._before = [(keyspace, keyspace.title) for keyspace in self._named.values()]

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

    def _stored_titles(self) -> Iterator[tuple[bytes, str]]:
        after: bytes | None = None
        while True:
            found, after = self.system.scan(b"", after, _SCAN_ROWS)
            for namespace, record in found:
                yield namespace, record[VALUE].decode("utf-8", "replace")
            if after is None:
                return
