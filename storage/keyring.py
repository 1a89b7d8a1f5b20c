"""The file that holds the keys for encryption at rest: which key is used to write, and which ones to read.

One key a line, its id of 8 hex digits and its 256 bits in base64; the first line is the key that is written with,
the others still open what was written with them. What follows a ``#`` is for people:

    3f9a1c2e Xk2v0Yw…43 digits…=   # made 2026-11-25
    07d1b5aa 9sQk…                 # made 2025-11-20

The word ``plain`` stands for no key. Among the others it means that values which are not encrypted are read, too: a
database that is to become encrypted has some. Without it they are refused, whatever the database says of itself, so
that nobody who can write to its disk can put any there. As the first line it means: write without
encryption, and still read what is encrypted. That is the way out of it.

Ids are drawn, so that two files of one installation do not give one id to two keys; what is encrypted names its
key by the id.

The file is refused if anybody but its owner may use it, as ssh does with its keys. One that belongs to root may be
read by a group, since that is how service managers hand secrets to a daemon (systemd's credentials, Kubernetes).
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import attrs

from storage.errors import KeyFileError

KEY_BYTES: Final = 32
ID_BYTES: Final = 4

_FILE_BYTES_MAX: Final = 64 * 1024
_PLAIN: Final = "plain"
_match_line: Final = re.compile(r"([0-9a-f]{8})[ \t]+([A-Za-z0-9+/]{43}=)").fullmatch
_MAKE: Final = "make it with `kvd encryption-key new`, or restore it from where you keep it"
_LOOK: Final = "each line is an id of 8 hex digits and 32 bytes in base64, or, once, the word plain"


@attrs.frozen
class Key:
    """One key of 256 bits. It is never shown."""

    id: bytes = attrs.field(validator=attrs.validators.min_len(ID_BYTES))
    secret: bytes = attrs.field(repr=False)
    comment: str = ""

    @property
    def name(self) -> str:
        return self.id.hex()


@attrs.frozen
class Keyring:
    """The keys of one file. `current` is the id of what is written with; None: nothing is encrypted any more."""

    keys: tuple[Key, ...]
    current: bytes | None
    plain: bool = False  # whether values that are not encrypted are read, too

    def get(self, key_id: bytes) -> Key | None:
        return next((key for key in self.keys if key.id == key_id), None)


def new_keyring(*, plain: bool = False, entropy: Callable[[int], bytes] = os.urandom) -> Keyring:
    """Return a keyring with one new key."""
    key = _draw((), entropy)
    return Keyring((key,), key.id, plain)


def rotated(keyring: Keyring, *, entropy: Callable[[int], bytes] = os.urandom) -> Keyring:
    """Return the keyring with a new key in front."""
    key = _draw(keyring.keys, entropy)
    return Keyring((key, *keyring.keys), key.id, keyring.plain)


def without(keyring: Keyring, key_id: bytes) -> Keyring:
    """Return the keyring without a key, which must not be the one that is written with."""
    if keyring.get(key_id) is None:
        raise ValueError(f"there is no key {key_id.hex()}")
    if key_id == keyring.current:
        raise ValueError(f"{key_id.hex()} is the key that is written with; make another one first")
    return attrs.evolve(keyring, keys=tuple(key for key in keyring.keys if key.id != key_id))


def without_plain(keyring: Keyring) -> Keyring:
    """Return the keyring that reads nothing but what is encrypted."""
    if not keyring.plain:
        raise ValueError("plain is not among the keys")
    if keyring.current is None:
        raise ValueError("nothing is encrypted; make a key first")
    return attrs.evolve(keyring, plain=False)


def disused(keyring: Keyring) -> Keyring:
    """Return the keyring with which nothing is encrypted any more."""
    return attrs.evolve(keyring, current=None, plain=True)


def load_keyring(path: Path) -> Keyring:
    """Return the keys of a file. Raise `KeyFileError`."""
    try:
        with path.open("rb") as file:
            _check_mode(path, os.fstat(file.fileno()))
            content = file.read(_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise KeyFileError(str(path), "does not exist", _MAKE) from None
    except OSError as error:
        raise KeyFileError(str(path), f"cannot be read ({error.strerror})", "see its permissions") from error
    if len(content) > _FILE_BYTES_MAX:
        raise KeyFileError(
            str(path), f"is larger than {_FILE_BYTES_MAX} bytes", "it is not what it should be"
        )
    return parse_keyring(content, source=str(path))


def parse_keyring(content: bytes, *, source: str) -> Keyring:
    """Return the keys of a file's content. Raise `KeyFileError`; no message repeats what a line holds."""
    keys: dict[bytes, Key] = {}
    plain = is_disused = False
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        text, _, comment = (part.strip() for part in line.partition("#"))
        if text == _PLAIN and not plain:
            plain, is_disused = True, not keys
        elif text:
            key = _parse_key(text, comment)
            if key is None:
                raise KeyFileError(source, f"makes no sense in line {number}", _LOOK)
            if key.id in keys:
                raise KeyFileError(source, f"has the id {key.name} twice", "every key needs its own")
            keys[key.id] = key
    if not keys:
        raise KeyFileError(source, "holds no key", _MAKE)
    current = None if is_disused else next(iter(keys))
    return Keyring(tuple(keys.values()), current, plain)


def format_keyring(keyring: Keyring) -> bytes:
    """Return the content of the file that holds `keyring`."""
    lines = [
        "# The keys that kvd encrypts its data with. Whoever has them can read the data; without them nobody can.",
        "# The first line is what is written with; the others are still needed for what was written with them.",
        "# plain: without encryption.",
        *_lines(keyring),
    ]
    return ("\n".join(lines) + "\n").encode()


def _lines(keyring: Keyring) -> Iterable[str]:
    if keyring.current is None:
        yield _PLAIN
    for key in sorted(keyring.keys, key=lambda each: each.id != keyring.current):
        comment = f"  # {key.comment}" if key.comment else ""
        yield f"{key.name} {base64.b64encode(key.secret).decode()}{comment}"
    if keyring.plain and keyring.current is not None:
        yield _PLAIN


def _draw(others: Iterable[Key], entropy: Callable[[int], bytes]) -> Key:
    taken = {key.id for key in others}
    key_id = entropy(ID_BYTES)
    while key_id in taken:
        key_id = entropy(ID_BYTES)
    return Key(key_id, entropy(KEY_BYTES), f"made {datetime.now(UTC).date().isoformat()}")


def _parse_key(text: str, comment: str) -> Key | None:
    found = _match_line(text)
    if found is None:
        return None
    try:
        return Key(bytes.fromhex(found[1]), base64.b64decode(found[2], validate=True), comment)
    except binascii.Error:
        return None


def _check_mode(path: Path, status: os.stat_result) -> None:
    """Refuse a file that others may use."""
    if os.name == "nt":
        return  # it has no such modes
    is_handed = status.st_uid == 0 != os.geteuid()
    allowed = stat.S_IRWXU | (stat.S_IRGRP if is_handed else 0)
    mode = stat.S_IMODE(status.st_mode)
    if mode & ~allowed:
        raise KeyFileError(
            str(path), f"may be used by others than its owner (mode {mode:04o})", f"chmod 600 {path}"
        )
