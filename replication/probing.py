"""Who answers: probes of members, one after the other in a shuffled round.

    every interval      PING to the next member of the round, over its link, else by dialling it
    after the timeout   nothing: ask three others (PINGREQ) to do the same
    end of interval     still nothing: accuse it

What counts as an answer is any sign of life on the link, not only the PONG: a peer that reads slowly is
slow, not dead. A relay answers in any case, also that it failed; relays that do not even do that make this
node doubt itself (`health`), not them.

The round holds those that this node has a link with, and those it should have one with (`wants`). In a
partial view the others are watched by their own neighbours: to probe them would mean to build up a TLS
connection every second. A member that cannot be dialled is probed by those it keeps links with.

A link whose peer shows no sign of life for `SILENCE_INTERVALS` is dropped, whatever others say about the
peer: in a one-way partition the peer lives and the link is useless.

Departs from the spec (section 4) in that a link that breaks is a reason to probe at once, a heard accusation as
well, and that above a full mesh two members are probed in each interval: with 8 links of 100
members the first failed probe would otherwise come seconds later than in a full mesh.

Source: SWIM (Das, Gupta, Motivala 2002) §3.1, §4.3; Lifeguard (2018) §IV.A for the relays' answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import attrs

from replication.core import Core, Link
from replication.health import Health
from replication.messages import Ping, PingRequest, PingResult, Pong

PROBES_MAX: Final = 256  # under way, all kinds together
SILENCE_INTERVALS: Final = 10
# A relay answers before its asker gives up.
RELAY_TIMEOUT_SHARE: Final = 0.8
RTT_WEIGHT: Final = 0.25  # of the newest sample in the mean


class Judge(Protocol):
    """Whoever acts on what probes find: `membership`."""

    def targets(self) -> list[bytes]:
        """Return the members to be probed in a round, in an order that does not depend on hashes."""
        ...

    def is_target(self, node: bytes) -> bool: ...

    def dial(self, node: bytes) -> bool:
        """Begin to connect with a member; False if that cannot be."""
        ...

    def accuse(self, node: bytes, now: float) -> None:
        """Take note that a probe of this member has failed."""
        ...


@attrs.define(eq=False)
class _Probe:
    number: int
    node: bytes
    link: Link | None
    sent_at: float
    sent_ms: int
    seen_bytes: int  # what the link had received when the ping left
    direct_until: float
    until: float
    accuses: bool  # else only the time is measured, or it is another's probe
    is_lost: bool = False  # it is certain that nothing will come the direct way
    is_indirect: bool = False
    asked: dict[bytes, bool] = attrs.Factory(dict)  # relay -> whether it has answered that it failed
    asker: tuple[Link, int] | None = None  # whom to tell; its number


@attrs.define(eq=False)
class _Silence:
    link: Link
    since: float
    seen_bytes: int


class Prober:
    """The probes under way."""

    def __init__(self, core: Core, health: Health, judge: Judge) -> None:
        self._core = core
        self._health = health
        self._judge = judge
        self._probes: dict[int, _Probe] = {}
        self._number = 0
        self._round: list[bytes] = []
        self._next_round: float | None = None
        self._silences: dict[int, _Silence] = {}  # by the link's number
        self._rtt: dict[bytes, float] = {}
        self.per_interval = 1
        self.on_round_trip: Callable[[Link, Ping, Pong, float, float], None] = _ignore_round_trip

    # --- inputs

    def tick(self, now: float) -> float:
        """Judge what is due and begin the next probe."""
        for probe in list(self._probes.values()):
            self._look_at(probe, now)
        if self._next_round is None:
            # The members of a cluster that starts at once do not probe in step.
            self._next_round = now + self._core.rng.random() * self._interval()
        elif now >= self._next_round:
            self._next_round = now + self._interval()
            self._begin_round(now)
        return min([self._next_round, *(_due(probe) for probe in self._probes.values())])

    def delay(self, seconds: float) -> None:
        """Wait longer for everything: this node itself stood still."""
        for probe in self._probes.values():
            probe.direct_until += seconds
            probe.until += seconds
        for silence in self._silences.values():
            silence.since += seconds

    def on_link_up(self, link: Link, now: float) -> None:
        """Greet with a ping, and answer the probes that waited for the connection."""
        for probe in self._probes_of(link.node):
            if probe.link is None:
                self._succeed(probe, 0.0)
        self._begin(link.node, now, accuses=False)

    def on_link_down(self, link: Link, now: float, *, is_accident: bool) -> None:
        """Look for another way for the probes that went over the link; if it was closed well, they are answered."""
        self._silences.pop(link.number, None)
        for probe in list(self._probes.values()):
            if probe.asker is not None and probe.asker[0] is link:
                del self._probes[probe.number]
            elif probe.link is link and not is_accident:
                self._succeed(probe, None)
            elif probe.link is link:
                probe.link = None
                if not self._judge.dial(probe.node):
                    self._lose(probe, now)
            elif link.node in probe.asked:
                del probe.asked[link.node]
                self._conclude_early(probe, now)

    def on_dial_failed(self, node: bytes, now: float) -> None:
        for probe in self._probes_of(node):
            if probe.link is None:
                self._lose(probe, now)

    def on_ping(self, link: Link, message: Ping, now: float) -> None:
        wall_ms = self._core.wall_ms()
        hlc = self._core.replica.hlc
        link.send(Pong(message.number, wall_ms, wall_ms, hlc, self._health.score))

    def on_pong(self, link: Link, message: Pong, now: float) -> None:
        self._silences.pop(link.number, None)
        probe = self._probes.get(message.number)
        if probe is None or probe.link is not link:
            return
        rtt = max(0.0, now - probe.sent_at)
        mean = self._rtt.get(link.node)
        self._rtt[link.node] = rtt if mean is None else mean + (rtt - mean) * RTT_WEIGHT
        self.on_round_trip(link, Ping(probe.number, probe.sent_ms, 0), message, rtt, now)
        self._succeed(probe, rtt)

    def on_ping_request(self, link: Link, message: PingRequest, now: float) -> None:
        """Probe a member for another."""
        asker = (link, message.number)
        if message.target == self._core.identity.node:
            link.send(PingResult(message.number, is_alive=True))
        elif not self._begin(message.target, now, accuses=False, asker=asker):
            link.send(PingResult(message.number, is_alive=False))

    def on_ping_result(self, link: Link, message: PingResult, now: float) -> None:
        probe = self._probes.get(message.number)
        if probe is None or link.node not in probe.asked:
            return
        if message.is_alive:
            self._succeed(probe, None)
        else:
            probe.asked[link.node] = True
            self._conclude_early(probe, now)

    # --- questions

    def rtt(self, node: bytes) -> float | None:
        """Return the mean round trip to a member that was ever linked; None if it was never measured."""
        return self._rtt.get(node)

    def forget(self, node: bytes) -> None:
        self._rtt.pop(node, None)

    # --- the round

    def _interval(self) -> float:
        return self._core.options.probe_interval * self._health.multiplier

    def _begin_round(self, now: float) -> None:
        self._look_for_silence(now)
        for _ in range(self.per_interval):
            node = self._next_target()
            if node is None:
                self._health.improve()  # nobody is there who could say otherwise
                return
            self.probe(node, now)

    def _next_target(self) -> bytes | None:
        while self._round:
            node = self._round.pop()
            if self._judge.is_target(node):
                return node
        self._round = self._judge.targets()
        self._core.rng.shuffle(self._round)
        return self._round.pop() if self._round else None

    def probe(self, node: bytes, now: float) -> None:
        """Begin to probe a member unless that is under way; its failure is an accusation."""
        if not any(probe.accuses for probe in self._probes_of(node)):
            self._begin(node, now, accuses=True)

    def _begin(
        self, node: bytes, now: float, *, accuses: bool, asker: tuple[Link, int] | None = None
    ) -> bool:
        if len(self._probes) >= PROBES_MAX:
            return False
        link = self._core.links.get(node)
        if link is not None and not link.is_open:
            link = None
        is_dialled = link is None and self._judge.dial(node)
        if link is None and not is_dialled and not accuses:
            return False
        probe = self._new_probe(node, link, now, accuses=accuses, asker=asker)
        if link is not None:
            link.send(Ping(probe.number, probe.sent_ms, self._core.replica.hlc))
        elif not is_dialled:
            self._lose(probe, now)
        return True

    def _new_probe(
        self, node: bytes, link: Link | None, now: float, *, accuses: bool, asker: tuple[Link, int] | None
    ) -> _Probe:
        self._number += 1
        timeout = self._core.options.probe_timeout * self._health.multiplier
        if asker is not None:  # whose patience is not known to be longer than usual
            timeout = min(
                self._core.options.probe_timeout,
                self._core.options.probe_interval - self._core.options.probe_timeout,
            )
            timeout *= RELAY_TIMEOUT_SHARE
        probe = _Probe(
            number=self._number,
            node=node,
            link=link,
            sent_at=now,
            sent_ms=self._core.wall_ms(),
            seen_bytes=0 if link is None else link.received_bytes,
            direct_until=now + timeout,
            until=now + (self._interval() if accuses else timeout),
            accuses=accuses,
            asker=asker,
        )
        self._probes[probe.number] = probe
        self._core.hurry()
        return probe

    # --- the life of a probe

    def _probes_of(self, node: bytes) -> list[_Probe]:
        return [probe for probe in self._probes.values() if probe.node == node]

    def _look_at(self, probe: _Probe, now: float) -> None:
        if probe.number not in self._probes or now < _due(probe):
            return
        if probe.link is not None and probe.link.received_bytes > probe.seen_bytes:
            self._succeed(probe, None)
        elif now >= probe.until:
            self._note_silence(probe)
            self._fail(probe, now)
        else:
            self._note_silence(probe)
            self._ask_others(probe, now)

    def _succeed(self, probe: _Probe, rtt: float | None) -> None:
        del self._probes[probe.number]
        if probe.accuses:
            self._health.improve()
        if probe.asker is not None:
            link, number = probe.asker
            link.send(PingResult(number, is_alive=True, rtt_us=round((rtt or 0.0) * 1e6)))

    def _lose(self, probe: _Probe, now: float) -> None:
        """Give the direct way up."""
        probe.is_lost = True
        if not probe.accuses:
            self._fail(probe, now)
        elif not probe.is_indirect:
            self._ask_others(probe, now)
        else:
            self._conclude_early(probe, now)

    def _ask_others(self, probe: _Probe, now: float) -> None:
        probe.is_indirect = True
        relays = [link for node, link in self._core.links.items() if node != probe.node and link.is_open]
        count = self._core.options.indirect_probes
        chosen = self._core.rng.sample(relays, count) if len(relays) > count else relays
        for link in chosen:
            probe.asked[link.node] = False
            link.send(PingRequest(probe.number, probe.node))

    def _conclude_early(self, probe: _Probe, now: float) -> None:
        """Fail at once if the direct way is lost and all relays have said no."""
        if probe.is_lost and probe.asked and all(probe.asked.values()):
            self._fail(probe, now)

    def _fail(self, probe: _Probe, now: float) -> None:
        del self._probes[probe.number]
        if probe.asker is not None:
            link, number = probe.asker
            link.send(PingResult(number, is_alive=False))
        if not probe.accuses:
            return
        silent = sum(not answered for answered in probe.asked.values())
        self._health.worsen(silent if probe.asked else 1)
        self._judge.accuse(probe.node, now)

    # --- silent links

    def _note_silence(self, probe: _Probe) -> None:
        link = probe.link
        if link is not None and link.is_open and probe.asker is None:
            self._silences.setdefault(link.number, _Silence(link, probe.sent_at, probe.seen_bytes))

    def _look_for_silence(self, now: float) -> None:
        """Ask silent links again; drop those that stay silent."""
        # Not multiplied by this node's health: what came in counts whether it was dealt with or not.
        patience = SILENCE_INTERVALS * self._core.options.probe_interval
        for number, silence in list(self._silences.items()):
            link = silence.link
            if not link.is_open or link.received_bytes > silence.seen_bytes:
                del self._silences[number]
            elif now - silence.since > patience:
                del self._silences[number]
                self._core.count("links_silent_total")
                link.drop("it is silent")
            elif self._core.links.get(link.node) is link:
                self._begin(link.node, now, accuses=False)


def _due(probe: _Probe) -> float:
    if probe.accuses and not probe.is_indirect:
        return probe.direct_until
    return probe.until


def _ignore_round_trip(_link: Link, _ping: Ping, _pong: Pong, _rtt: float, _now: float) -> None:
    """Stand in for the callback."""
