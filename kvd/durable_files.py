"""Files that survive a crash at any moment: the old content or the new one, never a part."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def replace_file(path: Path, content: bytes, *, mode: int) -> None:
    """Put `content` in the place of `path`, which need not exist, and get it onto the disk.

    A file that is there keeps its permissions; a new one gets `mode`. Raises OSError, then the old
    file is in place.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with new.open("wb") as file:
            new.chmod(path.stat().st_mode & 0o777 if path.exists() else mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def check_directory(path: Path) -> None:
    """Raise OSError, which names `path`, unless it is a directory that this user may work in."""
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def sync_directory(path: Path) -> None:
    """Get a directory's entries onto the disk. Windows has no such call and does not need it."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
