"""A plan: what happens in a run, and when, as a list of events that can be printed, replayed and thinned out.

An event is (seconds, kind, arguments). `KINDS` maps a kind to the coroutine function or function that does
it; modules of workloads and faults register theirs. An event that makes no sense at its time (a host that
is down already, a client that is refused) does nothing, so every sub-list of a plan is a plan.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, Final, NamedTuple, TypeVar

import trio

from tests.cluster.checkers import Watch
from tests.cluster.world import World

Action = Callable[..., Awaitable[None] | None]
KINDS: Final[dict[str, Action]] = {}
_Action = TypeVar("_Action", bound=Action)


class Event(NamedTuple):
    at: float
    kind: str
    arguments: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.at:8.3f} {self.kind} {' '.join(map(str, self.arguments))}"


def kind(name: str) -> Callable[[_Action], _Action]:
    """Register the action of events of kind `name`; it is called with the world and the arguments."""

    def register(action: _Action) -> _Action:
        assert name not in KINDS, name
        KINDS[name] = action
        return action

    return register


async def play(world: World, events: list[Event], watch: Watch, *, look_every: float) -> None:
    """Let the events happen, looking at the invariants at intervals."""
    started = trio.current_time()
    looks_at = look_every
    for event in sorted(events, key=lambda event: event.at):
        while looks_at < event.at:
            await trio.sleep_until(started + looks_at)
            watch.look()
            looks_at += look_every
        await trio.sleep_until(started + event.at)
        world.tell(str(event))
        done = KINDS[event.kind](world, *event.arguments)
        if isawaitable(done):
            await done
