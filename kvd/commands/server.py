"""The server as such: its clock, its modules (none), its art.

Source: Redis 7.2 TIME, MODULE LIST, LOLWUT.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final

import kvd
from kvd.commands.arguments import parse_integer
from kvd.commands.help import help_command
from kvd.commands.spec import Arg, Flag, Request, container, session_command
from protocol.replies import Reply, Verbatim

if TYPE_CHECKING:
    from kvd.session import Session


@session_command(
    "TIME",
    arity=1,
    flags=Flag.LOADING | Flag.STALE | Flag.FAST,
    group="server",
    since="2.6.0",
    complexity="O(1)",
    summary="Return the server's clock: seconds since the epoch, and microseconds of the second.",
    tips=("nondeterministic_output",),
)
def time_(session: Session, request: Request) -> Reply:
    seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    return [b"%d" % seconds, b"%d" % microseconds]


module = container(
    "MODULE",
    arity=-2,
    group="server",
    since="4.0.0",
    complexity="Depends on subcommand.",
    summary="Look at loaded modules; kvd loads none.",
)


@session_command(
    "MODULE|LIST",
    arity=2,
    flags=Flag.ADMIN | Flag.NOSCRIPT,
    group="server",
    since="4.0.0",
    complexity="O(N) where N is the number of loaded modules.",
    summary="Return the loaded modules: none.",
    tips=("nondeterministic_output_order",),
)
def module_list(session: Session, request: Request) -> Reply:
    return []


# --- LOLWUT

_SIZED_VERSIONS: Final = {5, 6}  # whose art takes sizes; that of the others takes whatever it is told
_COLUMNS: Final = (66, 1, 200)  # default, least, most
_ROWS: Final = (12, 1, 100)
_STROKES: Final = "\u2571\u2572"


@session_command(
    "LOLWUT",
    arity=-1,
    flags=Flag.READONLY | Flag.FAST,
    group="server",
    since="5.0.0",
    complexity="",
    summary="Draw a maze, and tell the version.",
    arguments=(Arg("version", "integer", "VERSION", optional=True),),
)
def lolwut(session: Session, request: Request) -> Reply:
    """``LOLWUT [VERSION n [columns] [rows]]``: every version draws the same kind of maze."""
    sizes: Request = []
    if len(request) > 2 and request[1].upper() == b"VERSION" and parse_integer(request[2]) in _SIZED_VERSIONS:
        sizes = request[3:]
    columns = _size(sizes[:1], *_COLUMNS)
    rows = _size(sizes[1:2], *_ROWS)
    maze = ["".join(random.choices(_STROKES, k=columns)) for _ in range(rows)]
    compatible = session.server.settings.compat.redis_version
    version = f"Redis ver. {compatible}, as kvd {kvd.__version__} speaks it"
    return Verbatim("\n".join([*maze, "", version, ""]).encode())


def _size(given: Request, default: int, least: int, most: int) -> int:
    return min(max(parse_integer(given[0]), least), most) if given else default


COMMANDS: Final = (time_, module, module_list, help_command("MODULE", group="server", since="5.0.0"), lolwut)
