"""API tokens: who may do what over HTTP, kept as records that all nodes share.

A token is ``kvd_<id>_<secret>``: 12 hex digits that name it, and 256 random bits that only its owner has.
The cluster's reserved namespace holds for each id one record (``token:<id>``, a JSON text) with the SHA-256 of
the secret; a random secret of that size needs neither salt nor a slow hash. Tokens therefore hold on all nodes
once the record has come, and a revoked one ends as fast as any write travels.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Final

import attrs

from storage.record import VALUE, Record

if TYPE_CHECKING:
    from storage.store import Keyspace, Store

PREFIX: Final = b"token:"
RIGHTS: Final = ("read", "write", "admin")
READ, WRITE, ADMIN = range(3)
# More tokens than this make a list that nobody looks through.
TOKENS_MAX: Final = 10_000
NAME_CHARACTERS_MAX: Final = 128

_match_token: Final = re.compile(rb"kvd_([0-9a-f]{12})_([A-Za-z0-9_-]{20,100})").fullmatch
_ROWS: Final = 100
# Compared with where there is no token of that id, so that it takes as long.
_NOBODY: Final = "0" * 64


@attrs.frozen
class Token:
    """What is known of one token; the secret is not."""

    id: str
    name: str
    digest: str  # SHA-256 of the secret, hex
    right: int  # READ, WRITE (and read) or ADMIN (everything)
    namespaces: frozenset[bytes] | None  # ids; None: all
    created_ms: int
    expires_ms: int | None

    def encode(self) -> bytes:
        """Return the record's text."""
        named = None if self.namespaces is None else sorted(each.hex() for each in self.namespaces)
        return json.dumps(
            {
                "name": self.name,
                "digest": self.digest,
                "right": RIGHTS[self.right],
                "namespaces": named,
                "created_ms": self.created_ms,
                "expires_ms": self.expires_ms,
            }
        ).encode()

    def has_expired(self, now_ms: int) -> bool:
        return self.expires_ms is not None and self.expires_ms <= now_ms


def decode(token_id: str, text: bytes) -> Token | None:
    """Return the token that a record tells of; None if the record makes no sense."""
    try:
        found = json.loads(text)
        named = found["namespaces"]
        expires_ms = found["expires_ms"]
        return Token(
            id=token_id,
            name=str(found["name"]),
            digest=str(found["digest"]),
            right=RIGHTS.index(found["right"]),
            namespaces=None if named is None else frozenset(bytes.fromhex(each) for each in named),
            created_ms=int(found["created_ms"]),
            expires_ms=None if expires_ms is None else int(expires_ms),
        )
    except (ValueError, TypeError, KeyError):
        return None


class Tokens:
    """The tokens of a store. Reads and writes are part of the tick."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._looked_at: int | None = None  # the version of the records at the last look; None: look again
        self._found: bytes | None = None  # the name of a record that there was then

    @property
    def _records(self) -> Keyspace:
        return self._store.keyspaces.cluster

    @property
    def exist(self) -> bool:
        """Whether there is any token, expired ones too.

        Every request asks, so it is looked up only after some token has changed, here or on another node. That costs
        O(revoked tokens) if the one that was found before is gone.
        """
        version = self._store.keyspaces.cluster_version_of(PREFIX)
        if version != self._looked_at:
            if self._found is None or self._records.get(self._found) is None:
                self._found = next((rows[0][0] for rows in self._rows() if rows), None)
            self._looked_at = version
        return self._found is not None

    def _rows(self) -> Iterator[list[tuple[bytes, Record]]]:
        """Yield the records of tokens, some at a time; none where all of some were revoked."""
        after: bytes | None = None
        while True:
            rows, after = self._records.scan(PREFIX, after, _ROWS)
            yield rows
            if after is None:
                return

    def create(
        self,
        name: str,
        right: int,
        namespaces: frozenset[bytes] | None = None,
        expires_ms: int | None = None,
    ) -> tuple[Token, str]:
        """Make a token; return it and the text that its owner gets, which nobody can see again."""
        token_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        digest = hashlib.sha256(secret.encode()).hexdigest()
        token = Token(token_id, name, digest, right, namespaces, self._store.now_ms, expires_ms)
        self._records.put(PREFIX + token_id.encode(), token.encode())
        self._looked_at = None
        return token, f"kvd_{token_id}_{secret}"

    def revoke(self, token_id: str) -> bool:
        """End a token; False if there is none."""
        self._looked_at = None
        return self._records.delete(PREFIX + token_id.encode("ascii", "replace"))

    def pages(self) -> Iterator[list[Token]]:
        """Yield all tokens, some at a time, in the order of their ids; others may write between two pages."""
        for rows in self._rows():
            found = (decode(key[len(PREFIX) :].decode("ascii", "replace"), row[VALUE]) for key, row in rows)
            yield [token for token in found if token is not None]

    def list(self) -> list[Token]:
        """Return all tokens, the oldest first. O(tokens)."""
        return sorted(chain.from_iterable(self.pages()), key=lambda token: token.created_ms)

    def record_of(self, token_id: bytes) -> Record | None:
        """Return what is stored for a token: another object once it has changed."""
        return self._records.get(PREFIX + token_id)

    def check(self, text: bytes) -> Token | None:
        """Return the token that `text` is, unless it is none, was revoked or has expired.

        Takes as long for a wrong secret as for an unknown id.
        """
        match = _match_token(text)
        token_id, secret = (match[1], match[2]) if match is not None else (b"", text)
        record = self.record_of(token_id) if token_id else None
        token = None if record is None else decode(token_id.decode(), record[VALUE])
        digest = hashlib.sha256(secret).hexdigest()
        is_right = hmac.compare_digest(digest, _NOBODY if token is None else token.digest)
        if token is None or not is_right or token.has_expired(self._store.now_ms):
            return None
        return token
