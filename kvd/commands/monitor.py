"""MONITOR: show this connection every command that the daemon runs, see `kvd.monitor_feed`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvd.commands.spec import Flag, Request, session_command
from protocol.replies import OK, ErrorReply, Reply

if TYPE_CHECKING:
    from kvd.session import Session


@session_command(
    "MONITOR",
    arity=1,
    flags=Flag.ADMIN | Flag.NOSCRIPT | Flag.LOADING | Flag.STALE,
    group="server",
    since="1.0.0",
    complexity="",
    summary="Show every command that clients send, as it is run.",
)
def monitor(session: Session, request: Request) -> Reply:
    if not session.may_suspend:
        raise ErrorReply("ERR MONITOR isn't allowed for DENY BLOCKING client")
    session.server.monitors.add(session)
    session.server.refresh_plain()
    return OK


COMMANDS: Final = (monitor,)
