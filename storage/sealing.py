"""Authenticated encryption of single values: AES-256-GCM, a subkey for each process, a counter for each value.

A sealed value:

    mark (1) FE ‖ key id (4) ‖ salt (16) ‖ number (4) ‖ ciphertext ‖ tag (16)

FE is not the first byte of any CBOR item, so that a sealed value is never taken for a plain one, nor the other way.

AES-GCM must never use a nonce twice with one key, and with random nonces of 96 bits a key is good for 2**32 values
only (Source: NIST SP 800-38D §8.3), which a store writes in days. So the keys of the file encrypt nothing:

* a *subkey* is derived from a key by HKDF-SHA256 (RFC 5869) with a random salt of 128 bits, drawn when the process
  starts, when the key changes, and after 2**32 values. What it is for (`purpose`) goes into the derivation, so that
  a value of one kind is no value of another;
* the nonce is the number of the value under its subkey, 8 zero bytes before it (§8.2.1, deterministic construction).
  A number is never used again: it lives in memory, and the next process has another salt. So a store that was
  copied, restored, or lost its last second may go on with the same key. (The image of a running process may not
  be resumed twice; that is told in docs/encryption.md.)

The value's place (the key of its row) is authenticated with it: a value that was moved to another key does not open.
What does not show is an old value of the same place put back, or a row taken away: who can write to the disk can
turn it back as a whole.

The only door to AES; `cryptography` costs 0.5 us a call and 0.1 ms a mebibyte on the machine where it was measured.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from storage.engine import Unopened
from storage.errors import Unopenable
from storage.keyring import ID_BYTES, KEY_BYTES, Key, Keyring

MARK: Final = b"\xfe"
SALT_BYTES: Final = 16
NUMBER_BYTES: Final = 4
TAG_BYTES: Final = 16
HEAD_BYTES: Final = len(MARK) + ID_BYTES + SALT_BYTES
OVERHEAD_BYTES: Final = HEAD_BYTES + NUMBER_BYTES + TAG_BYTES
CHECK_BYTES: Final = 16

_NUMBERS: Final = 2 ** (8 * NUMBER_BYTES)
_BODY: Final = HEAD_BYTES + NUMBER_BYTES
_ZEROS: Final = bytes(12 - NUMBER_BYTES)
_COPIED_BYTES_MAX: Final = 4096  # up to here a copy is cheaper than a view
# A process start leaves one subkey. This many are looked through quickly, and derived again if they were dropped.
_SUBKEYS_MAX: Final = 1024
_CHECK_INFO: Final = b"kvd key check 1"
_join: Final = b"".join

# (nonce, ciphertext with its tag, place) -> value
_Opener: TypeAlias = Callable[[bytes, bytes | memoryview, bytes], bytes]


def key_check(key: Key) -> bytes:
    """Return what tells a key from any other of the same id, and tells nothing else of it."""
    return _derive(key.secret, b"", _CHECK_INFO)[:CHECK_BYTES]


def key_id_of(value: bytes) -> bytes | None:
    """Return the id of the key that a value is sealed with; None: it is not sealed."""
    return value[1 : 1 + ID_BYTES] if value[:1] == MARK else None


class Sealer:
    """Seals and opens the values of one purpose, with the keys of one keyring.

    `allow_plain` lets values pass that are not sealed: while some are not yet, or not any more.
    """

    def __init__(
        self,
        purpose: bytes,
        keyring: Keyring,
        *,
        allow_plain: bool = False,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._info = b"kvd value 1 " + purpose
        self._entropy = entropy
        self._secrets: dict[bytes, bytes] = {}
        self._openers: dict[bytes, _Opener] = {}  # of subkeys, by the head of what they have sealed
        self.keys_seen: set[bytes] = set()  # ids of the keys of all values that were sealed or opened
        self._head = b""  # of what is sealed now: mark, key id, salt
        self._encrypt: Callable[[bytes, bytes, bytes], bytes]
        self._number = 0  # of the next value under its subkey
        self.allow_plain = allow_plain
        self.current: bytes | None = None
        self.adopt(keyring)

    def adopt(self, keyring: Keyring) -> None:
        """Go on with these keys. Those that were there before still open what they have sealed."""
        self._secrets |= {key.id: key.secret for key in keyring.keys}
        self.current = keyring.current
        self._number = _NUMBERS  # the next value draws a subkey

    def seal(self, place: bytes, value: bytes) -> bytes:
        """Return what is to be stored of the value at `place`."""
        return self.seal_all(((place, value),))[0][1]

    def seal_all(self, items: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Return (place, what is to be stored) for each (place, value)."""
        # Hot: once for every row of a commit.
        if self.current is None:
            return list(items)
        sealed: list[tuple[bytes, bytes]] = []
        add = sealed.append
        number = self._number
        for place, value in items:
            if number >= _NUMBERS:
                self._renew(self.current)
                number = 0
            self._number = number + 1  # before it is used, whatever happens
            tail = number.to_bytes(NUMBER_BYTES, "big")
            number += 1
            add((place, _join((self._head, tail, self._encrypt(_ZEROS + tail, value, place)))))
        return sealed

    def open(self, place: bytes, stored: bytes) -> bytes:
        """Return the value at `place`; an `Unopened` if it is not what was sealed there."""
        # Hot: once for every row that is read.
        decrypt = self._openers.get(stored[:HEAD_BYTES]) or self._find(stored)
        if decrypt is None:
            if stored[:1] != MARK:
                return stored if self.allow_plain else _unopened(place, "is not encrypted, as it has to be")
            key = stored[1 : 1 + ID_BYTES].hex()
            return _unopened(place, f"is encrypted with the key {key}, which is not there")
        nonce = _ZEROS + stored[HEAD_BYTES:_BODY]
        body = stored[_BODY:] if len(stored) <= _COPIED_BYTES_MAX else memoryview(stored)[_BODY:]
        try:
            return decrypt(nonce, body, place)
        except (InvalidTag, ValueError):
            key = stored[1 : 1 + ID_BYTES].hex()
            return _unopened(place, f"does not open with its key {key}: it was changed or moved")

    def _renew(self, key_id: bytes) -> None:
        """Draw a salt and derive the subkey for what is sealed from now on."""
        salt = self._entropy(SALT_BYTES)
        subkey = AESGCM(_derive(self._secrets[key_id], salt, self._info))
        self._head = MARK + key_id + salt
        self._encrypt = subkey.encrypt
        self._keep(self._head, subkey)

    def _find(self, stored: bytes) -> _Opener | None:
        """Return what opens a value that another process has sealed; None if it is not sealed, or its key not there."""
        key_id = key_id_of(stored)
        secret = None if key_id is None else self._secrets.get(key_id)
        if secret is None:
            return None
        head = stored[:HEAD_BYTES]
        return self._keep(head, AESGCM(_derive(secret, head[1 + ID_BYTES :], self._info)))

    def _keep(self, head: bytes, subkey: AESGCM) -> _Opener:
        if len(self._openers) >= _SUBKEYS_MAX:
            self._openers.clear()
        self._openers[head] = subkey.decrypt
        self.keys_seen.add(head[1 : 1 + ID_BYTES])
        return subkey.decrypt


def _unopened(place: bytes, reason: str) -> Unopened:
    found = Unopened(MARK)
    found.error = Unopenable(place, reason)
    return found


def _derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(secret)
