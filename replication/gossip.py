"""What is to be passed on about members: each piece of news a bounded number of times.

Links lose nothing but themselves, and a new link starts with a full exchange. So a piece of news needs to
cross each link once at most, and it is remembered which peers have it: those it came from and those it was
sent to. With few links that is a flood. With many, each node tells only `retransmits` of them, chosen at
random, which still reaches everybody with high probability.

A record replaces what is queued about the same member. Only accusations by different members wait side
by side, because each counts.

Source: SWIM (Das, Gupta, Motivala 2002) §4.1; hashicorp/memberlist `queue.go`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Final

import attrs

from replication.core import Link
from replication.messages import MemberRecord, Members, State

FANOUT: Final = 3  # links that a flush uses; memberlist's number
RETRANSMIT_FACTOR: Final = 4  # memberlist's number
RETRANSMITS_MIN: Final = 8  # so that few members, and most partial views, are flooded
# About 6 KiB.
RECORDS_PER_MESSAGE: Final = 64


def retransmits(count: int) -> int:
    """Return how often each of `count` members passes a piece of news on."""
    return max(RETRANSMITS_MIN, RETRANSMIT_FACTOR * math.ceil(math.log10(count + 1)))


@attrs.define(eq=False)
class _News:
    record: MemberRecord
    left: int
    told: dict[bytes, None]


class Gossip:
    """The queue. Bounded by the table of members: a few entries for each at most."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._news: dict[bytes, dict[bytes, _News]] = {}  # member -> accuser -> news

    def __len__(self) -> int:
        return sum(len(entries) for entries in self._news.values())

    def put(self, record: MemberRecord, *, count: int, told: Sequence[bytes] = ()) -> None:
        """Queue a record that was news to this node; those in `told` have it already."""
        known: dict[bytes, None] = dict.fromkeys(told)
        known[record.node] = None  # what others think of it, it is told directly
        if record.state != State.SUSPECT:
            self._news[record.node] = {b"": _News(record, retransmits(count), known)}
            return
        entries = self._news.setdefault(record.node, {})
        if any(_is_other(entry.record, record) for entry in entries.values()):
            entries.clear()
        entries[record.accuser] = _News(record, retransmits(count), known)

    def forget(self, node: bytes) -> None:
        self._news.pop(node, None)

    def flush(self, links: Sequence[Link]) -> None:
        """Send what is queued to a few of `links`."""
        if not self._news or not links:
            return
        chosen = self._rng.sample(links, FANOUT) if len(links) > FANOUT else links
        for link in chosen:
            self._tell(link)
        nodes = [link.node for link in links]
        for node in list(self._news):
            entries = self._news[node]
            for accuser in [a for a, news in entries.items() if _is_spent(news, nodes)]:
                del entries[accuser]
            if not entries:
                del self._news[node]

    def _tell(self, link: Link) -> None:
        records = []
        for entries in self._news.values():
            for news in entries.values():
                if news.left > 0 and link.node not in news.told:
                    news.left -= 1
                    news.told[link.node] = None
                    records.append(news.record)
            if len(records) >= RECORDS_PER_MESSAGE:
                break
        if records:
            link.send(Members(tuple(records)))


def _is_other(queued: MemberRecord, record: MemberRecord) -> bool:
    return (queued.incarnation, queued.state) != (record.incarnation, record.state)


def _is_spent(news: _News, nodes: Sequence[bytes]) -> bool:
    return news.left <= 0 or all(node in news.told for node in nodes)
