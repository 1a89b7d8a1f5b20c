"""LATENCY: what held up the clients, and how long each command takes.

Source: Redis 7.2 LATENCY and its subcommands.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from kvd.commands.help import help_command
from kvd.commands.spec import Arg, CommandSpec, Flag, Request, container, session_command
from kvd.latency_report import graph, report
from protocol.replies import ErrorReply, Reply, Verbatim

if TYPE_CHECKING:
    from kvd.session import Session

_ADMIN: Final = Flag.ADMIN | Flag.NOSCRIPT | Flag.LOADING | Flag.STALE
_ONE_NODE: Final = ("nondeterministic_output", "request_policy:all_nodes", "response_policy:special")

# The finest bucket of LATENCY HISTOGRAM: 1,024 ns, which it calls one microsecond.
_FIRST_BUCKET: Final = 10

latency = container(
    "LATENCY",
    arity=-2,
    group="server",
    since="2.8.13",
    complexity="Depends on subcommand.",
    summary="Look at what held up the clients.",
)


@session_command(
    "LATENCY|LATEST",
    arity=2,
    flags=_ADMIN,
    group="server",
    since="2.8.13",
    complexity="O(1)",
    summary="Return for each event its name, when it was last seen, how long it took then, and at most.",
    tips=_ONE_NODE,
)
def latency_latest(session: Session, request: Request) -> Reply:
    return [
        [name.encode(), *history.samples[-1], history.worst_ms]
        for name, history in session.server.latency.events.items()
    ]


@session_command(
    "LATENCY|HISTORY",
    arity=3,
    flags=_ADMIN,
    group="server",
    since="2.8.13",
    complexity="O(1)",
    summary="Return an event's samples, each a time in seconds and a duration in milliseconds.",
    tips=_ONE_NODE,
    arguments=(Arg("event"),),
)
def latency_history(session: Session, request: Request) -> Reply:
    history = session.server.latency.events.get(request[2].decode("utf-8", "replace"))
    return [] if history is None else [list(sample) for sample in history.samples]


@session_command(
    "LATENCY|RESET",
    arity=-2,
    flags=_ADMIN,
    group="server",
    since="2.8.13",
    complexity="O(1)",
    summary="Forget the samples of some events, or of all.",
    tips=("request_policy:all_nodes", "response_policy:all_succeeded"),
    arguments=(Arg("event", optional=True, multiple=True),),
)
def latency_reset(session: Session, request: Request) -> Reply:
    return session.server.latency.reset([name.decode("utf-8", "replace") for name in request[2:]])


@session_command(
    "LATENCY|GRAPH",
    arity=3,
    flags=_ADMIN,
    group="server",
    since="2.8.13",
    complexity="O(1)",
    summary="Draw an event's samples with characters.",
    tips=_ONE_NODE,
    arguments=(Arg("event"),),
)
def latency_graph(session: Session, request: Request) -> Reply:
    name = request[2].decode("utf-8", "replace")
    history = session.server.latency.events.get(name)
    if history is None:
        raise ErrorReply(f"ERR No samples available for event '{name}'")
    return Verbatim(graph(name, history, session.server.store.now_ms // 1000).encode())


@session_command(
    "LATENCY|DOCTOR",
    arity=2,
    flags=_ADMIN,
    group="server",
    since="2.8.13",
    complexity="O(1)",
    summary="Say in words what was slow, and what may help.",
    tips=_ONE_NODE,
)
def latency_doctor(session: Session, request: Request) -> Reply:
    return Verbatim(report(session.server).encode())


@session_command(
    "LATENCY|HISTOGRAM",
    arity=-2,
    flags=_ADMIN,
    group="server",
    since="7.0.0",
    complexity="O(N) where N is the number of commands with latency information being retrieved.",
    summary="Return how many calls of each command took at most so many microseconds.",
    tips=_ONE_NODE,
    arguments=(Arg("command", optional=True, multiple=True),),
)
def latency_histogram(session: Session, request: Request) -> Reply:
    table = session.server.table
    chosen = table.everything() if len(request) == 2 else _named(session, request[2:])
    return {
        spec.name.lower().encode(): {b"calls": spec.stats.calls, b"histogram_usec": _distribution(spec)}
        for spec in chosen
        if spec.stats.calls
    }


def _named(session: Session, names: Request) -> Iterator[CommandSpec]:
    """Yield the commands of those names that exist; a container stands for its subcommands."""
    for name in names:
        spec = session.server.table.named(name)
        if spec is not None:
            yield spec
            yield from spec.subcommands.values()


def _distribution(spec: CommandSpec) -> dict[int, int]:
    """Return microseconds -> calls that took no longer, for the buckets that have any of their own."""
    found: dict[int, int] = {}
    total = 0
    for exponent, calls in enumerate(spec.stats.histogram):
        if calls:
            total += calls
            found[(1 << max(exponent, _FIRST_BUCKET)) // 1000] = total
    return found


COMMANDS: Final = (
    latency,
    latency_latest,
    latency_history,
    latency_reset,
    latency_graph,
    latency_doctor,
    latency_histogram,
    help_command("LATENCY", group="server", since="2.8.13"),
)
