"""The script engine of one daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.replies import ErrorReply

if TYPE_CHECKING:
    from kvd.server import Server

BUSY = "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."


class ScriptEngine:
    """Compiles, caches and runs scripts. One script runs at a time, in one Lua state."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.running: object | None = None  # the script that has run longer than its time limit

    def busy_error(self) -> ErrorReply:
        """Return what every other client is told while a script runs for too long."""
        return ErrorReply(BUSY)
