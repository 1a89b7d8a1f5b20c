"""What storage raises: one class for each thing that an operator or a client can do about it.

Every message is one sentence that says what happened, and one that says what mends it. The
engine's own exceptions never leave `engine_rocksdb`; they are translated there, with `from`.

    StorageError
      Locked            another process has the data directory open
      Missing           there is no data directory where one was expected
      Corrupt           what is on disk cannot be trusted
          Parted          memory and disk differ after a failed sync
        RecordError     one row cannot be read; the rest of the store is not affected
          Unopenable      because it does not decrypt
      NewerFormat       written by a later kvd
      EncryptionError   the keys do not fit to the data, or cannot be used; nothing was changed
        KeyFileError, KeyMissing, WrongKey, PlainValues
      NoSpace           the disk is full
      Unavailable       the disk or the engine failed; `Store.probe` tries again
      Aborted           the tick's writes were given up; nothing of them was stored
      Closed            used after `close`
      LimitError        the client asked for more than the settings allow
        KeyTooLong, ValueTooLong, MetadataTooLong, TitleTooLong
      KeyspaceError     a namespace is missing, gone, or its title is taken
        KeyspaceGone, GroupNotCarried, GroupIncomplete, TitleTaken
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_SHOWN_PLACE_BYTES: Final = 16 + 128


class StorageError(Exception):
    """The base of all that storage raises on purpose."""


class Locked(StorageError):
    def __init__(self, path: str) -> None:
        super().__init__(
            f"the data directory {path} is in use by another process; "
            "stop that process, or give this one a data directory of its own"
        )


class Missing(StorageError):
    def __init__(self, path: str) -> None:
        super().__init__(f"there is no kvd data in {path}; check the path of the data directory")


class Corrupt(StorageError):
    """What is on disk contradicts itself; nothing was changed."""


class DamagedFiles(Corrupt):
    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"the data in {path} is damaged ({reason}); restore a backup, or copy the directory away and start empty"
        )


class Parted(Corrupt):
    def __init__(self, path: str, known: int, found: int) -> None:
        super().__init__(
            f"after a sync that failed {path} holds other writes than kvd knows of ({found} instead of {known}); "
            "check the disk, then restart kvd: it goes on from what is there"
        )


class RecordError(Corrupt):
    """One row cannot be decoded. Reading its key fails; deleting the key or flushing removes it."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the stored record cannot be read ({reason}); delete the key or restore it from a backup"
        )


class Unopenable(RecordError):
    """A row does not decrypt: somebody changed or moved it on the disk, or the disk did."""

    def __init__(self, place: bytes, reason: str) -> None:
        self.place = place  # namespace (16) ‖ key
        key = repr(place[16:]) if len(place) <= _SHOWN_PLACE_BYTES else f"{place[16:_SHOWN_PLACE_BYTES]!r}..."
        super().__init__(f"{key} of namespace {place[:16].hex()} {reason}")


class NewerFormat(StorageError):
    def __init__(self, path: str, found: int, known: int) -> None:
        super().__init__(
            f"the data in {path} has format {found}, this kvd knows formats up to {known}; "
            "use the kvd version that wrote it, or a later one"
        )


class EncryptionError(StorageError):
    """The keys do not fit to the data, or cannot be used. Nothing was changed."""


class KeyFileError(EncryptionError):
    def __init__(self, path: str, reason: str, mend: str) -> None:
        super().__init__(f"the encryption key file {path} {reason}; {mend}")


class KeyMissing(EncryptionError):
    def __init__(self, path: str, ids: Sequence[str]) -> None:
        keys = f"the key{'s' if len(ids) > 1 else ''} {', '.join(ids)}"
        super().__init__(
            f"the data in {path} is encrypted with {keys}, which {'are' if len(ids) > 1 else 'is'} not there; "
            "name the file that holds it in storage.encryption_key_file. Nothing was changed"
        )


class WrongKey(EncryptionError):
    def __init__(self, path: str, key_id: str) -> None:
        super().__init__(
            f"the key {key_id} is not the one that the data in {path} is encrypted with; "
            "put the right one into storage.encryption_key_file. Nothing was changed"
        )


class PlainValues(EncryptionError):
    def __init__(self, path: str) -> None:
        super().__init__(
            f"the data in {path} is not encrypted, or not all of it; if that is as you know it, have it encrypted: "
            "`kvd encryption-key plain` lets the key file say so. Nothing was changed"
        )


class NoSpace(StorageError):
    def __init__(self, path: str) -> None:
        super().__init__(
            f"no space left on the disk of {path}; free at least 128 MiB, "
            "writes are accepted again by themselves then"
        )


class Unavailable(StorageError):
    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"writing to {path} failed ({reason}); check the disk and its permissions, "
            "writes are accepted again by themselves once it works"
        )


class Aborted(StorageError):
    def __init__(self, reason: str) -> None:
        super().__init__(f"the writes were given up ({reason}); nothing of them was stored, try again")


class Closed(StorageError):
    def __init__(self) -> None:
        super().__init__("the store is closed; it must be opened again before it is used")


class LimitError(StorageError):
    """The client asked for more than the settings allow; nothing was written."""


class KeyTooLong(LimitError):
    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"key of {size} bytes exceeds the limit of {limit} bytes (storage.key_bytes_max)")


class ValueTooLong(LimitError):
    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"value of {size} bytes exceeds the limit of {limit} bytes "
            "(storage.value_bytes_max, or MAXVALUE of its namespace)"
        )


class MetadataTooLong(LimitError):
    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"metadata of {size} bytes exceeds the limit of {limit} bytes (storage.metadata_bytes_max)"
        )


class TitleTooLong(LimitError):
    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"namespace title of {size} bytes is not between 1 and {limit} bytes")


class KeyspaceError(StorageError):
    """A named namespace is not as the caller thought; nothing was written."""


class KeyspaceGone(KeyspaceError):
    def __init__(self, id_hex: str) -> None:
        super().__init__(f"the namespace {id_hex} does not exist; list the namespaces and use one of those")


class GroupNotCarried(KeyspaceError):
    """The records of a namespace are on other nodes only."""

    def __init__(self, group: int) -> None:
        super().__init__(
            f"this node does not carry group {group}; use a node that does, or add the group to peers.groups"
        )
        self.group = group


class GroupIncomplete(KeyspaceError):
    """The records of a namespace are not all here yet; it passes. `why` is what fetches them."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{why}; try again later, or use another node that carries it")


class TitleTaken(KeyspaceError):
    def __init__(self, title: str) -> None:
        super().__init__(f"a namespace with the title {title!r} exists already; choose another title")
