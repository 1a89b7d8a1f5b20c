"""INFO, see `kvd.info`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvd import info
from kvd.commands.spec import Arg, Flag, Request, session_command
from protocol.replies import Reply, Verbatim

if TYPE_CHECKING:
    from kvd.session import Session


@session_command(
    "INFO",
    arity=-1,
    flags=Flag.LOADING | Flag.STALE,
    group="server",
    since="1.0.0",
    complexity="O(1)",
    summary="Tell about the daemon, its clients, memory, statistics and data, by sections.",
    categories=frozenset({"dangerous"}),
    tips=("nondeterministic_output", "request_policy:all_shards", "response_policy:special"),
    history=(("7.0.0", "Several sections may be asked for."),),
    arguments=(Arg("section", optional=True, multiple=True),),
)
def info_(session: Session, request: Request) -> Reply:
    wanted = [name.decode("utf-8", "replace") for name in request[1:]] or ["default"]
    return Verbatim(info.render(session.server, wanted).encode())


COMMANDS: Final = (info_,)
