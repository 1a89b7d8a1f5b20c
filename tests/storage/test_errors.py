"""Every message says what happened and what mends it."""

from __future__ import annotations

import inspect

import pytest

from storage import errors
from storage.errors import StorageError

MESSAGES: dict[StorageError, tuple[str, str]] = {
    errors.Locked("/d"): ("/d is in use by another process", "stop that process"),
    errors.Missing("/d"): ("no kvd data in /d", "check the path"),
    errors.DamagedFiles("/d", "why"): ("/d is damaged (why)", "restore a backup"),
    errors.Parted("/d", 7, 5): (
        "/d holds other writes than kvd knows of (5 instead of 7)",
        "then restart kvd",
    ),
    errors.RecordError("why"): ("cannot be read (why)", "delete the key or restore it"),
    errors.Unopenable(bytes(16) + b"k", "does not open"): (
        f"cannot be read (b'k' of namespace {bytes(16).hex()} does not open)",
        "delete the key or restore it",
    ),
    errors.KeyFileError("/k", "holds no key", "make one"): ("file /k holds no key", "; make one"),
    errors.KeyMissing("/d", ["ab"]): ("encrypted with the key ab, which is not there", "Nothing was changed"),
    errors.WrongKey("/d", "ab"): ("the key ab is not the one", "put the right one"),
    errors.PlainValues("/d"): ("/d is not encrypted", "`kvd encryption-key plain`"),
    errors.NewerFormat("/d", 9, 1): ("/d has format 9", "use the kvd version that wrote it"),
    errors.NoSpace("/d"): ("no space left on the disk of /d", "free at least 128 MiB"),
    errors.Unavailable("/d", "why"): ("writing to /d failed (why)", "check the disk"),
    errors.Aborted("why"): ("given up (why)", "try again"),
    errors.Closed(): ("the store is closed", "opened again"),
    errors.KeyTooLong(5, 4): ("key of 5 bytes", "limit of 4 bytes (storage.key_bytes_max)"),
    errors.ValueTooLong(5, 4): (
        "value of 5 bytes",
        "limit of 4 bytes (storage.value_bytes_max, or MAXVALUE of its namespace)",
    ),
    errors.MetadataTooLong(5, 4): ("metadata of 5 bytes", "limit of 4 bytes (storage.metadata_bytes_max)"),
    errors.TitleTooLong(0, 4): ("title of 0 bytes", "between 1 and 4 bytes"),
    errors.KeyspaceGone("ab"): ("the namespace ab does not exist", "use one of those"),
    errors.GroupNotCarried(3): ("does not carry group 3", "or add the group to peers.groups"),
    errors.GroupIncomplete("group 3 catches up"): ("group 3 catches up", "use another node that carries it"),
    errors.TitleTaken("t"): ("title 't' exists already", "choose another title"),
}


@pytest.mark.parametrize("error", MESSAGES, ids=lambda error: type(error).__name__)
def test_a_message_says_what_happened_and_what_mends_it(error: StorageError) -> None:
    happened, mend = MESSAGES[error]
    text = str(error)
    assert happened in text
    assert mend in text
    assert "\n" not in text


def test_every_error_that_can_be_raised_is_looked_at() -> None:
    families = {
        StorageError,
        errors.Corrupt,
        errors.EncryptionError,
        errors.LimitError,
        errors.KeyspaceError,
    }
    defined = {
        kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, StorageError)
    }
    assert defined - families == {type(error) for error in MESSAGES}
