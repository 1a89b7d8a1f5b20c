"""Reads that come again and again in the same words, answered without reading the words again.

A hot key is read by heads that are equal byte for byte. The second such head within a second is kept with what
was found out about it (who may, which namespace, which record) and with the bytes of its answer. The
next one is answered by these bytes, after asking what may have changed since:

* the record is the same object, which `Keyspace.get` tells: a write makes another, and expiry none;
* the token's record is unchanged, or nothing is protected and the client is on this machine;
* the namespace is there, under the title that was asked for;
* nothing keeps clients from reading.

Everything kept is forgotten once a second, with the Date that stands in the answers. It is the difference
between 18 and 4 us a request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvd.web.access import TokenCredential

if TYPE_CHECKING:
    from kvd.server import Server
    from kvd.web.access import Gatekeeper
    from kvd.web.session import HttpSession
    from storage.record import Record
    from storage.store import Keyspace

# Longer heads and answers are not worth the memory: there are at most `KEPT_MAX` of them.
HEAD_BYTES_MAX: Final = 1024
ANSWER_BYTES_MAX: Final = 8192
KEPT_MAX: Final = 1024
_SEEN_MAX: Final = 8192


class Found:
    """What a read has found; a handler leaves it in `Exchange.state`."""

    __slots__ = ("key", "keyspace", "record", "title")

    def __init__(self, keyspace: Keyspace, title: str | None, key: bytes, record: Record) -> None:
        self.keyspace = keyspace
        self.title = title  # None: the namespace was named by its id
        self.key = key
        self.record = record


class HotReads:
    """The answers that are kept."""

    def __init__(self, server: Server, gatekeeper: Gatekeeper) -> None:
        self._server = server
        self._gatekeeper = gatekeeper
        self._second = 0
        self._seen: set[int] = set()
        self._kept: dict[bytes, tuple[Found, TokenCredential | None, bytes]] = {}

    def answer(self, session: HttpSession, head: bytes) -> bytes | None:
        """Return the answer to a head, if it is kept and still right."""
        # Hot.
        kept = self._kept.get(head)
        if kept is None:
            return None
        found, credential, encoded = kept
        server = self._server
        keyspace = found.keyspace
        if (
            server.store.now_ms // 1000 != self._second
            or server.scripts.running is not None
            or server.pause is not None
            or server.refuses_reads
            or keyspace.gone
            or (found.title is not None and keyspace.title != found.title)
        ):
            return None
        if credential is None:
            if not session.is_local or not self._gatekeeper.is_open:
                return None
        elif not credential.holds(server):
            return None
        if keyspace.get(found.key) is not found.record:
            return None
        keyspace.hits += 1
        return encoded

    def forget(self) -> None:
        """Forget all answers: something may be read no more."""
        self._kept.clear()

    def note(self, session: HttpSession, head: bytes, found: Found, encoded: bytes) -> None:
        """Take note of an answer that was given; keep it if its head was seen in this second already."""
        if len(head) > HEAD_BYTES_MAX or len(encoded) > ANSWER_BYTES_MAX:
            return
        second = self._server.store.now_ms // 1000
        if second != self._second:
            self._second = second
            self._kept.clear()
            self._seen.clear()
        mark = hash(head)
        if mark not in self._seen:
            if len(self._seen) < _SEEN_MAX:
                self._seen.add(mark)
            return
        credential = session.credential
        if self._gatekeeper.is_open:
            credential = None
        elif not isinstance(credential, TokenCredential):
            return  # what a user of the ACL may do can change without a sign
        if len(self._kept) < KEPT_MAX or head in self._kept:
            self._kept[head] = found, credential, encoded
