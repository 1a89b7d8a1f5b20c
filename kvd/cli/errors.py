"""How the command line fails: one clear line for what the user can mend, a traceback for our bugs.

Exit codes, the same for every verb:

    0   done
    1   the daemon or the database could not do it (port taken, disk full, damaged data)
    2   it was not even tried: a wrong flag, a wrong setting; for `verify`, a database that cannot be opened
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from typing import Final, NoReturn

import click

from kvd.config import ConfigError
from kvd.peering.errors import CannotJoin
from storage.errors import StorageError

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2

# What a user can do about an error of the operating system.
_MENDS: Final = {
    errno.EADDRINUSE: "stop the server that listens there, or give this one another place",
    errno.EADDRNOTAVAIL: "this machine does not have the address; see server.bind",
    errno.EACCES: "give the daemon's user the right to it, or choose another place",
    errno.EPERM: "give the daemon's user the right to it, or choose another place",
    errno.ENOENT: "check the path, and that its directory is there",
    errno.ENOTDIR: "name a directory",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENAMETOOLONG: "choose a shorter one",
    errno.ENOSPC: "free space on that disk",
    errno.EROFS: "that file system is mounted read-only; choose another place",
}


def fail_config(error: ConfigError) -> NoReturn:
    """Print every problem of the configuration and exit."""
    count = len(error.problems)
    click.echo(f"kvd: {count} problem{'s' if count != 1 else ''} in the configuration:", err=True)
    for problem in error.problems:
        click.echo(f"  {problem}", err=True)
    sys.exit(EXIT_USAGE)


def fail(error: Exception) -> NoReturn:
    """Print what the operator can do about `error` and exit; raise it again if that is nobody's part.

    Trio wraps what a nursery's task raised into groups; each leaf is one line.
    """
    leaves = list(_leaves(error))
    if not all(isinstance(leaf, StorageError | OSError | CannotJoin) for leaf in leaves):
        raise error
    for leaf in leaves:
        click.echo(f"kvd: {describe(leaf)}", err=True)
    sys.exit(EXIT_FAILED)


def describe(error: Exception) -> str:
    """Return one line for an expected error: what happened, to what, and the mend where we know one."""
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    place = f"{error.filename}: " if error.filename else ""
    mend = f"; {_MENDS[error.errno]}" if error.errno in _MENDS else ""
    return f"{place}{error.strerror}{mend}"


def _leaves(error: Exception) -> Iterator[Exception]:
    if isinstance(error, ExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
