"""What MONITOR shows: one line a command, in Redis's format, to every session that asked for it.

    1339518083.107412 [0 127.0.0.1:60866] "get" "key"
    1339518087.877697 [0 lua] "get" "key"

Source: Redis 7.2 `replicationFeedMonitors`. Administrative commands are not shown, secrets are
replaced (`kvd.redaction`), and a monitor that does not read is closed at its output limit.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from kvd.commands.spec import CommandSpec, Flag, Request
from kvd.redaction import redacted

if TYPE_CHECKING:
    from kvd.session import Session

# Source: Redis sdscatrepr, which MONITOR's readers parse.
_ESCAPES: Final = {
    byte: bytes([byte]) if 0x20 <= byte < 0x7F else b"\\x%02x" % byte for byte in range(256)
} | {
    ord("\\"): b"\\\\",
    ord('"'): b'\\"',
    ord("\n"): b"\\n",
    ord("\r"): b"\\r",
    ord("\t"): b"\\t",
    ord("\a"): b"\\a",
    ord("\b"): b"\\b",
}


def feed_monitors(session: Session, spec: CommandSpec, request: Request) -> None:
    """Show one request of `session` to all monitors."""
    if Flag.ADMIN in spec.flags:
        return
    line = b"+" + _line(session, redacted(request)) + b"\r\n"
    for monitor in list(session.server.monitors):
        if monitor is session:
            monitor.push_after_reply(line)
        else:
            monitor.hear(line)


def _line(session: Session, request: Request) -> bytes:
    index = session.keyspace.index
    title = session.keyspace.title if index is None else index
    caller = "lua" if session.is_script else session.endpoint.address
    if session.endpoint.is_unix and not session.is_script:
        caller = f"unix:{session.endpoint.address.removesuffix(':0')}"
    microseconds = time.time_ns() // 1000
    stamp = f"{microseconds // 1_000_000}.{microseconds % 1_000_000:06d}"
    words = b" ".join(quoted(argument) for argument in request)
    return f"{stamp} [{title} {caller}] ".encode() + words


def quoted(argument: bytes) -> bytes:
    """Return `argument` in double quotes, with everything escaped that is not printable ASCII."""
    return b'"' + b"".join(map(_ESCAPES.__getitem__, argument)) + b'"'
