"""Files that survive a crash at any moment: the old content or the new one, never a part."""

from __future__ import annotations

import errno
import os
import sys
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
    wrong = 0
    if path.exists() and not path.is_dir():
        wrong = errno.ENOTDIR
    elif not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        wrong = errno.EROFS if _is_read_only(path) else errno.EACCES
    if wrong:
        raise OSError(wrong, os.strerror(wrong), str(path))


def _is_read_only(path: Path) -> bool:
    """Tell whether the file system takes no writes from anybody. Windows does not say."""
    return sys.platform != "win32" and bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def sync_directory(path: Path) -> None:
    """Get a directory's entries onto the disk. Windows has no such call and does not need it."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
