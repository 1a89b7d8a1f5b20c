"""A member that has turned hostile: after its handshake it says whatever the protocol has a form for.

A peer that is authenticated is trusted to relay what anybody wrote, so what it relays is data: newer values, deletions
with proper stamps, departures of members. What it cannot do is stop the node that listens, fill its memory, take it along into
a future that has not come, or reach what was written before without a newer stamp.

    hostile ──▶ victim ──▶ honest        all messages, with numbers that are awaited, just missed, or absurd
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from types import FunctionType, MethodType, ModuleType
from typing import Any, Final

import attrs
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replication import messages as m
from replication.core import Link
from replication.replicator import Replicator
from replication.shapes import HLC_MAX, SEQ_MAX
from storage.changes import CLUSTER_NAMESPACE, Change, Kind, Lane, Run, VersionVector, draw_id
from storage.layout import SYSTEM, database_id
from tests.cluster.history import Content
from tests.cluster.scenario import form, put, value
from tests.cluster.world import OPTIONS, Host, World, simulate, template
from tests.replication.strategies import BY_TYPE

KEPT: Final = {f"kept{number}": b"kept %d" % number for number in range(6)}
STRANGERS: Final = (*(bytes([number]) * 16 for number in (0xA1, 0xA2, 0xA3)), draw_id(7, bytes))
RECORDS: Final = (b"member:", b"gone:", b"closed:", b"run:", b"carries:", b"cut:", b"users", b"")
CLOCKS: Final = frozenset({"hlc", "horizon", "settled_hlc", "head_hlc", "since_hlc"})
# What a byte that was sent may take in memory: an empty map takes a hundred.
BYTES_A_BYTE: Final = 200
SLACK_BYTES: Final = 4 << 20

# What of the victim's messages has a number that an answer has to bear.
ASKED_BY: Final[Mapping[type[Any], type[Any]]] = {
    m.Pong: m.Ping,
    m.PingResult: m.PingRequest,
    m.SyncStart: m.SyncRequest,
    m.SyncBatch: m.SyncRequest,
    m.SyncEnd: m.SyncRequest,
    m.SyncFail: m.SyncRequest,
    m.Credit: m.SyncStart,
    m.Digest: m.DigestRequest,
    m.Bucket: m.BucketRequest,
    m.Cells: m.CellsRequest,
}
# What ends a link at once, so that nothing after it would be looked at.
ENDINGS: Final = (m.Hello, m.Auth, m.Welcome, m.Reject, m.Bye, m.GroupOpen, m.Grouped)
# What carries records or claims, and is sent more often.
TELLING: Final = (m.Push, m.Vector, m.SyncStart, m.SyncBatch, m.SyncEnd, m.BodyData, m.Cells)

_going_on: Final = [strategy for cls, strategy in BY_TYPE.items() if cls not in ENDINGS]
_telling: Final = [BY_TYPE[cls] for cls in TELLING]
_ending: Final = [BY_TYPE[cls] for cls in ENDINGS]
steps: Final = st.lists(
    st.tuples(
        st.integers(0, 40).flatmap(
            lambda drawn: st.one_of(_ending if not drawn else _telling if drawn % 2 else _going_on)
        ),
        st.integers(0, 2**32 - 1),
    ),
    min_size=25,
    max_size=60,
)


@attrs.define(eq=False)
class Aim:
    """Makes of a message of the right form one that means something to the victim, or nearly."""

    world: World
    victim: Host
    hostile: Host
    honest: Host
    heard: dict[type[Any], Any]  # what the victim has sent last, by type
    rng: Random = attrs.field(factory=Random)

    def at(self, message: Any) -> Any:
        """Return the message with its fields aimed, one by one."""
        if isinstance(message, m.Grouped):
            return attrs.evolve(message, message=self.at(message.message))
        changed = {
            field.name: self._field(message, field.name, getattr(message, field.name))
            for field in attrs.fields(type(message))
        }
        if isinstance(message, m.Pull):
            changed["after"], changed["upto"] = sorted((message.after, message.upto))
        if isinstance(message, m.Push) and isinstance(changed["run"], Run) and not changed["run"].upto:
            changed["run"] = message.run
        if isinstance(message, m.BodyData):
            changed |= self._piece(message)
        return attrs.evolve(message, **changed)

    def _piece(self, piece: m.BodyData) -> dict[str, Any]:
        asked = self.heard.get(m.BodyGet)
        if asked is None or self.rng.random() < 0.3:
            return {}
        total = max(piece.total, asked.offset + len(piece.data))
        return {"origin": asked.origin, "seq": asked.seq, "offset": asked.offset, "total": total}

    def _field(self, message: Any, name: str, found: Any) -> Any:
        if name == "number":
            return self._number(type(message), found)
        if name in CLOCKS:
            return self.clock(found)
        if isinstance(found, Run):
            return self.run(found)
        if isinstance(found, m.MemberRecord):
            return attrs.evolve(found, node=self.identity(), boot=self.identity(), accuser=self.identity())
        if isinstance(found, tuple):
            return tuple(self._field(message, "", one) for one in found)
        if isinstance(found, Mapping):
            # What an operator has voided is data as well: only of strangers.
            origins = STRANGERS if name == "cuts" else self._origins()
            return VersionVector({self.rng.choice(origins): self._seq() for _ in found})
        if isinstance(found, bytes) and name in {"origin", "prev_origin"}:
            return self.rng.choice(self._origins())
        if isinstance(found, bytes) and len(found) == 16 and name not in {"sealed_xor", "data"}:
            return self.identity()
        return found

    def _number(self, cls: type[Any], found: int) -> int:
        asked = self.heard.get(ASKED_BY.get(cls, cls))
        awaited = found if asked is None else asked.number
        return self.rng.choice((awaited, awaited, awaited, awaited + 1, found, 0, SEQ_MAX))

    def identity(self) -> bytes:
        nodes = [host.node.replicator.core.identity for host in (self.victim, self.hostile, self.honest)]
        return self.rng.choice(
            [*(one.node for one in nodes), *(one.boot for one in nodes), *STRANGERS, bytes(16)]
        )

    def _origins(self) -> Sequence[bytes]:
        return (*self.victim.vector, *STRANGERS)

    def _seq(self) -> int:
        return self.rng.choice((0, 1, 2, 3, 100, 2**32, SEQ_MAX - 1, SEQ_MAX))

    def clock(self, found: int) -> int:
        now_ms = self.victim.wall_ms()
        hold_ms = int(self.victim.options.hold * 1000)
        ahead = self.rng.choice((-3_600_000, -10, 0, hold_ms - 100, hold_ms + 100, 86_400_000))
        return self.rng.choice((found, 0, 1, HLC_MAX, (now_ms + ahead) << 16))

    def run(self, run: Run) -> Run:
        """Aim a run at an origin, mostly so that it joins what the victim covers."""
        # Mostly of a stranger: what is of the victim itself, or of another group, ends the link.
        origin = self.rng.choice(STRANGERS[:3] if self.rng.random() < 0.8 else self._origins())
        changes = [self.change(change) for change in run.changes]
        if not run.upto:
            return Run(origin, 0, 0, changes)
        shift = self.victim.vector[origin] - run.after if self.rng.random() < 0.7 else 0
        if not 0 <= run.after + shift <= run.upto + shift <= SEQ_MAX:
            shift = 0
        shifted = [
            change._replace(
                seq=change.seq + shift,
                group_end=min(change.group_end + shift, SEQ_MAX) if change.group_end else 0,
            )
            for change in changes
        ]
        return Run(origin, run.after + shift, run.upto + shift, shifted)

    def change(self, change: Change) -> Change:
        """Aim a change at what clients or members use; at what is kept only with a stamp that must not win."""
        kind = self.rng.choice((*Kind, *Kind, change.kind))
        place, hlc = self._place(kind), self.clock(change.hlc)
        now_ms = self.victim.wall_ms()
        is_kept = place == bytes(16) or (place[:16] == bytes(16) and place[16:].startswith(b"kept"))
        if is_kept:
            far_ms = now_ms + int(self.victim.options.hold * 1000) + 60_000
            hlc = self.rng.choice((0, 1, 1000 << 16, far_ms << 16, HLC_MAX))
        known = kind in {Kind.VALUE, Kind.EXPIRY, Kind.FLOOR, Kind.NAMESPACE_FLOOR}
        if known and self.rng.random() < 0.8:
            change = change._replace(metadata=None, sub=b"")
        return change._replace(kind=kind, place=place, hlc=hlc, content=self._content(kind, change.content))

    def _place(self, kind: int) -> bytes:
        if kind == Kind.NAMESPACE_FLOOR:
            return self.rng.choice((database_id(0), database_id(1), *STRANGERS))
        return self.rng.choice(
            (
                *(database_id(0) + key.encode() for key in KEPT),
                *(database_id(0) + b"h%d" % number for number in range(3)),
                database_id(1) + b"h",
                STRANGERS[0] + b"h",
                SYSTEM + self.identity(),
                CLUSTER_NAMESPACE + self.rng.choice(RECORDS) + self.identity(),
                CLUSTER_NAMESPACE + self.rng.choice(RECORDS) + self.identity() + b"\xff" * 8,
            )
        )

    def _content(self, kind: int, found: Any) -> Any:
        if kind == Kind.EXPIRY:
            return self.rng.choice((None, 0, self.victim.wall_ms() + 500, SEQ_MAX, found))
        if kind == Kind.VALUE:
            return self.rng.choice((found, b"v", m.encode_record({"state": "left"}), 2**17, 2**40, SEQ_MAX))
        return self.rng.choice((None, found))


class Attack:
    """Three hosts of which one is hostile, and what is looked at meanwhile."""

    def __init__(self, world: World, hosts: Sequence[Host]) -> None:
        self.world = world
        self.victim, self.honest, self.hostile = hosts
        self.sent_bytes = 0
        self.heard: dict[type[Any], Any] = {}
        self.is_mute = False
        self.answers: dict[type[Any], Callable[[Any], Any]] = {}
        self.aim = Aim(world, self.victim, self.hostile, self.honest, self.heard)
        self.weight = weight(self.victim.node.replicator)
        for host in hosts:
            host.rolled_back = True  # what is undone is looked at below
        pytest.MonkeyPatch().setattr(world, "note", _accept)  # it lives for one run
        replicator = self.hostile.node.replicator
        original = replicator.on_messages

        def on_messages(link: Link, messages: Sequence[m.Message], now: float) -> None:
            if link.node == self.victim.member:
                for one in messages:
                    if type(one) in self.answers:
                        link.send(self.answers[type(one)](one))
                self.heard.update((type(message), message) for message in messages)
                if self.is_mute:
                    messages = [one for one in messages if isinstance(one, (m.Vector, m.Members, m.Ping))]
            original(link, messages, now)

        replicator.on_messages = on_messages  # type: ignore[method-assign]

    @property
    def link(self) -> Link | None:
        """The hostile end of its link with the victim."""
        return self.hostile.node.replicator.core.links.get(self.victim.member)

    def send(self, message: Any, seed: int) -> None:
        """Say one thing; now and then let the victim ask for something, or clients write."""
        rng = self.aim.rng = Random(seed)
        self.is_mute = rng.random() < 0.7
        link = self.link
        back = self.victim.node.replicator.core.links.get(self.hostile.member)
        if rng.random() < 0.2 and back is not None:
            self.victim.node.replicator.syncs.want(back)
            self.victim.node._hurry()
        if rng.random() < 0.1:
            self.victim.node.verify(self.hostile.member, _ignore)
        if link is None:
            return
        aimed = self.aim.at(message)
        frame = link.framed(aimed)
        self.sent_bytes += len(frame)
        link.send_control_frame(frame)

    def look(self) -> None:
        """Check what holds at every moment."""
        victim = self.victim
        assert victim.is_up
        latest_ms = victim.wall_ms() + int(victim.options.hold * 1000)
        assert victim.replica.hlc >> 16 <= latest_ms, "the clock was taken along"
        assert victim.replica.horizon() >> 16 <= latest_ms, "the purge horizon was taken along"
        for held in victim.registers().values():
            for stamp in held.stamps:
                assert stamp is None or stamp[0] >> 16 <= latest_ms, f"{held} is from the future"
        grown = weight(victim.node.replicator) - self.weight
        assert grown <= BYTES_A_BYTE * self.sent_bytes + SLACK_BYTES, f"{grown} for {self.sent_bytes}"

    def check_kept(self) -> None:
        for host in (self.victim, self.honest):
            found = {key: value(host, key) for key in KEPT}
            assert found == KEPT, f"{host} holds {found}"


def _accept(
    host: Host, register: bytes, kind: int, place: bytes, content: Content, origins: list[bytes]
) -> None:
    """Take anything in: a member that lies writes what nobody wrote."""


def _ignore(_: object) -> None:
    """Do not wait for the outcome."""


def weight(root: Replicator) -> int:
    """Return about how many bytes the machines of a node hold, without its store."""
    seen: set[int] = set()
    total = 0
    todo: list[Any] = [root]
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, (type, ModuleType, FunctionType, MethodType)):
            continue
        seen.add(id(one))
        if isinstance(one, (bytes, bytearray, str)):
            total += len(one)
        elif isinstance(one, Mapping):
            total += 100 * len(one)
            todo += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple, set, frozenset, deque)):
            total += 16 * len(one)
            todo += one
        elif type(one).__module__.startswith("replication."):
            todo += _parts(one)
    return total


def _parts(one: Any) -> Iterator[Any]:
    for name in ("__dict__", *(slot for cls in type(one).__mro__ for slot in getattr(cls, "__slots__", ()))):
        if name not in {"__weakref__", "_core", "core", "log"}:
            found = getattr(one, name, None)
            yield list(found.values()) if name == "__dict__" and found else found


async def begin(world: World) -> Attack:
    """Form a cluster, write what has to stay, and let one of its members turn hostile."""
    hosts = await form(world, 3)
    for key, content in KEPT.items():
        assert put(hosts[len(key) % 2], key, content)
    assert await world.wait_until(world.is_converged, 20)
    return Attack(world, hosts)


def attack(script: Sequence[tuple[Any, int]], *, seed: int = 1) -> Counter[str]:
    """Let a hostile member play a script; return what the victim has counted."""

    async def story(world: World) -> None:
        attacked = await begin(world)
        victim, honest, hostile = attacked.victim, attacked.honest, attacked.hostile
        for index, (message, chance) in enumerate(script):
            attacked.send(message, chance)
            if chance % 3 == 0:
                await trio.sleep((chance >> 8) % 600 / 1000)
                attacked.look()
            if index % 8 == 0:
                put(honest, "news", str(index))
        await trio.sleep(3)
        attacked.look()
        await hostile.stop()
        world.gone[hostile.name] = None
        await trio.sleep(10)
        attacked.look()
        attacked.check_kept()
        counted.update(victim.node.replicator.core.counters)

    counted: Counter[str] = Counter()
    template(3)
    simulate(f"hostile {seed}", story, options=OPTIONS)
    return counted


def say(
    answers: Callable[[Attack], Sequence[Any]], asks: Callable[[Attack], object], wanted: type[Any]
) -> None:
    """Let the victim ask, and answer at once, all in one read."""

    async def story(world: World) -> None:
        attacked = await begin(world)
        attacked.is_mute = True
        asks(attacked)
        assert await world.wait_until(lambda: wanted in attacked.heard, 20, step=0.001)
        link = attacked.link
        assert link is not None
        frames = [link.framed(message) for message in answers(attacked)]
        link.send_control_frame(b"".join(frames))
        await trio.sleep(3)
        attacked.look()
        await attacked.hostile.stop()
        attacked.check_kept()

    template(3)
    simulate("says", story)


def ask_for_sync(attacked: Attack) -> None:
    victim = attacked.victim
    victim.node.replicator.syncs.want(victim.node.replicator.core.links[attacked.hostile.member])
    victim.node._hurry()


def test_a_batch_with_an_empty_run_of_another_group_ends_the_link_and_nothing_else() -> None:
    def answers(attacked: Attack) -> list[Any]:
        number = attacked.heard[m.SyncRequest].number
        astray = Run(draw_id(7, bytes), 0, 0, ())
        return [m.SyncStart(number, {}, {}, 0), m.SyncBatch(number, (astray,))]

    say(answers, ask_for_sync, m.SyncRequest)


def test_cells_that_name_own_writes_of_the_future_end_the_link_and_nothing_else() -> None:
    """The first writes a winner anew, so the origin is in use in just this tick; the second is of that origin."""

    def answers(attacked: Attack) -> list[Any]:
        number = attacked.heard[m.CellsRequest].number
        victim = attacked.victim
        own = victim.replica.origin(Lane.SMALL)
        assert own is not None
        change = Change(1, victim.wall_ms() << 16, Kind.VALUE, database_id(0) + b"h", b"v")
        beyond = Run(own, 0, 0, [change._replace(seq=SEQ_MAX)])
        return [m.Cells(number, (Run(STRANGERS[0], 0, 0, [change]),)), m.Cells(number, (beyond,))]

    def verify(attacked: Attack) -> None:
        attacked.victim.node.verify(attacked.hostile.member, _ignore)
        attacked.answers = {
            m.DigestRequest: lambda asked: m.Digest(asked.number, True, b"\0" * 18),
            m.BucketRequest: lambda asked: m.Bucket(
                asked.number, (Run(STRANGERS[0], 0, 0, [Change(1, 1, Kind.VALUE, database_id(0) + b"h")]),)
            ),
        }

    say(answers, verify, m.CellsRequest)


HURRIED: Final = settings(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)


@settings(HURRIED, max_examples=8)
@given(steps)
def test_whatever_a_member_says_the_node_goes_on_with_what_it_has(script: list[tuple[Any, int]]) -> None:
    attack(script)


@pytest.mark.soak
@settings(HURRIED, max_examples=1500)
@given(steps)
def test_whatever_a_member_says_at_length(script: list[tuple[Any, int]]) -> None:
    attack(script)
