"""Large values: fetched in pieces, named by the dot that wrote them.

A value over `INLINE_BYTES_MAX` does not travel in its change. Whoever wants the change asks the peer that
sent it for the body, piece by piece, some pieces ahead so that a long way does not slow it down. The dot
is the body's name: nothing has to be hashed to write it, and a body can only be superseded, never change.
A body that was superseded meanwhile is a miss; what superseded it comes by the next sync.

A fetch has one source. When that is lost, or sends nothing more, what has come of the body is kept (`begun`), and the
next fetch of it goes on from there, whoever is asked then: by the sync that follows, as a rule. The bodies of a
transaction that are whole by then are not kept; the sync brings them one by one.

Bounds: `bodies_max` bodies at a time, `body_bytes_max` bytes of them in memory, with those that were begun, which give
way; the rest waits in order. The same bounds hold for the bodies that are kept from one piece to the next for those
who ask.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

import attrs

from replication.begun import Begun, Name
from replication.core import Core, Link
from replication.messages import BODY_BYTES_MAX, BodyData, BodyGet, BodyMiss
from storage.changes import Change, Run

_PIECES_AHEAD: Final = 8
# Pieces that a peer may ask of this node before it has taken the earlier ones, in each group.
_BULK_BYTES_MAX: Final = 4 * 1024 * 1024

# How long a body is kept whose next piece nobody asks for.
_KEEP_SECONDS: Final = 5.0

Done = Callable[[Run | None], None]


@attrs.define(eq=False)
class _Fetch:
    """One run whose bodies are fetched, one after the other."""

    link: Link
    run: Run
    session: int
    done: Done
    waiting: list[Change]
    size: int  # of all its bodies
    resumes: bool
    found: dict[int, bytes] = attrs.field(factory=dict)  # by seq
    buffer: bytearray = attrs.field(factory=bytearray)
    asked: int = 0
    progress_at: float = 0.0

    @property
    def change(self) -> Change:
        return self.waiting[0]

    @property
    def name(self) -> Name:
        """The name of the body that is being fetched."""
        change = self.change
        assert isinstance(change.content, int)
        return (self.run.origin, change.seq, change.place, change.content)

    def is_like(self, other: _Fetch) -> bool:
        """Tell whether both wait for the same body from the same peer, as a push and a sync do at once."""
        return (
            self.link is other.link
            and self.resumes
            and other.resumes
            and bool(self.waiting and other.waiting)
            and self.name == other.name
        )


@attrs.define(eq=False)
class _Kept:
    """A body that is being sent: reading it anew for each piece would cost the square of its size."""

    body: bytes
    asked_at: float


class Bodies:
    """Fetches bodies for this node, and serves those of its own store."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._active: list[_Fetch] = []
        self._queue: deque[_Fetch] = deque()
        self._begun = Begun()
        self._kept: OrderedDict[tuple[int, int, bytes, int, bytes], _Kept] = OrderedDict()
        # Reads a body from the snapshot of a sync session: (link, session, origin, seq, place).
        self.read_session: Callable[[Link, int, bytes, int, bytes], bytes | None] = _no_session
        self.limit: Callable[[bytes], int | None] = _no_limit  # up to where an origin counts, if it was cut

    @property
    def in_flight(self) -> int:
        return sum(fetch.size for fetch in self._active)

    def fetch(
        self,
        link: Link,
        run: Run,
        *,
        session: int,
        done: Done,
        waiting: list[Change] | None = None,
        resumes: bool = True,
    ) -> None:
        """Fetch what `run` lacks from `link`'s peer; call `done` with the whole run, or None, in a tick.

        `waiting` names the changes whose bodies are wanted, if not those that would win. Without `resumes` all of
        them is this peer's: members may hold different bytes under one name.
        """
        if waiting is None:
            waiting = self._core.replica.needs_body(run)
        sizes = [change.content for change in waiting if isinstance(change.content, int)]
        if max(sizes, default=0) > BODY_BYTES_MAX:
            link.drop("a value that is larger than any may be")
            done(None)
            return
        self._queue.append(_Fetch(link, run, session, done, waiting, sum(sizes), resumes))
        self._start()

    def on_link_down(self, link: Link) -> None:
        """Give up what was to come over `link`."""
        lost = [fetch for fetch in [*self._active, *self._queue] if fetch.link is link]
        for fetch in lost:
            self._end(fetch, None)
        for key in [key for key in self._kept if key[0] == link.number]:
            del self._kept[key]

    def cancel(self, link: Link, session: int) -> None:
        """Forget the fetches of a sync session that has ended."""
        for fetch in [*self._active, *self._queue]:
            if fetch.link is link and fetch.session == session:
                self._forget(fetch)
        self._start()

    def on_data(self, link: Link, piece: BodyData) -> None:
        """Take a piece in. Inside a tick.

        Whoever waits for just this one gets it: pieces may still come in that a fetch asked for which was given up. A
        dot's body is the same for all of them.
        """
        for fetch in self._active:
            named = (fetch.run.origin, fetch.change.seq, len(fetch.buffer))
            if fetch.link is link and named == (piece.origin, piece.seq, piece.offset):
                self._take(fetch, piece)
                return

    def _take(self, fetch: _Fetch, piece: BodyData) -> None:
        missing = piece.total - len(fetch.buffer)
        if not 0 < len(piece.data) <= missing or piece.total != fetch.change.content:
            fetch.buffer = bytearray()  # something is wrong: what has come before may be of another body
            self._end(fetch, None)
            return
        fetch.buffer += piece.data
        fetch.progress_at = self._core.now
        self._core.count("body_bytes_total", len(piece.data))
        if len(fetch.buffer) < piece.total:
            self._ask(fetch)
            return
        body, fetch.buffer = bytes(fetch.buffer), bytearray()
        alike = [one for one in self._queue if one.is_like(fetch)]
        for one in [*alike, fetch]:  # this one last: they may not begin meanwhile
            if one in self._queue or one in self._active:  # not cancelled by what the one before has led to
                self._go_on(one, body)

    def _go_on(self, fetch: _Fetch, body: bytes) -> None:
        """Take a whole body in, and fetch the next."""
        fetch.found[fetch.change.seq] = body
        fetch.waiting.pop(0)
        if not fetch.waiting:
            self._end(fetch, _with_bodies(fetch.run, fetch.found))
        elif fetch in self._active:
            self._begin(fetch)

    def on_miss(self, link: Link, miss: BodyMiss) -> None:
        """A body was superseded. Inside a tick."""
        for fetch in self._active:
            if fetch.link is link and fetch.run.origin == miss.origin and fetch.change.seq == miss.seq:
                self._end(fetch, None)
                return

    def on_get(self, link: Link, get: BodyGet) -> None:
        """Send a piece of a body of this store."""
        if link.bulk_bytes > _BULK_BYTES_MAX * (1 + len(self._core.options.groups)):
            link.drop("it asks for more pieces than it takes")
            return
        body = self._body(link, get)
        if body is None or get.offset >= len(body):
            link.send(BodyMiss(get.origin, get.seq))
            return
        piece = body[get.offset : get.offset + self._core.options.body_piece_bytes]
        link.send_bulk(BodyData(get.origin, get.seq, get.offset, len(body), piece))

    def _body(self, link: Link, get: BodyGet) -> bytes | None:
        """Return the body that a piece is asked of, from what is kept or the store."""
        key = (link.number, get.session, get.origin, get.seq, get.place)
        kept = self._kept.pop(key, None)
        if kept is not None:
            body: bytes | None = kept.body
        elif get.session:
            body = self.read_session(link, get.session, get.origin, get.seq, get.place)
        else:
            body = self._core.replica.body(get.origin, get.seq, get.place)
        if body is not None and get.offset + self._core.options.body_piece_bytes < len(body):
            self._kept[key] = _Kept(body, self._core.now)
            self._trim()
        return body

    def _trim(self) -> None:
        """Keep no more than the bounds allow: the body that was asked of last, and others beside it."""
        options, kept = self._core.options, self._kept
        size = sum(len(one.body) for one in kept.values())
        while len(kept) > 1 and (len(kept) > options.bodies_max or size > options.body_bytes_max):
            _, oldest = kept.popitem(last=False)
            size -= len(oldest.body)

    def tick(self, now: float) -> float:
        """Forget what nobody asks for any more; return when to be called again."""
        for key in [key for key, kept in self._kept.items() if now - kept.asked_at > _KEEP_SECONDS]:
            del self._kept[key]
        self._begun.forget(now, self._is_void)
        return now + (_KEEP_SECONDS if self._kept or self._begun else 60.0)

    def _is_void(self, origin: bytes, seq: int) -> bool:
        limit = self.limit(origin)
        return limit is not None and seq > limit

    def tick_in_store(self, now: float) -> None:
        """Give up what makes no progress. Inside a tick, which the caller opens if `stalled` says so."""
        for fetch in self.stalled(now):
            self._end(fetch, None)

    def stalled(self, now: float) -> list[_Fetch]:
        timeout = self._core.options.sync_timeout
        return [fetch for fetch in self._active if now - fetch.progress_at > timeout]

    def _start(self) -> None:
        while (fetch := self._next()) is not None:
            self._queue.remove(fetch)
            self._active.append(fetch)
            fetch.progress_at = self._core.now
            if fetch.waiting:
                self._begin(fetch)
            else:
                self._end(fetch, fetch.run)

    def _next(self) -> _Fetch | None:
        """Return the first that may begin, if there is room: what its peer sends already is not asked for twice."""
        options, active = self._core.options, self._active
        if len(active) >= options.bodies_max:
            return None
        fetch = next((one for one in self._queue if not any(map(one.is_like, active))), None)
        if fetch is not None and active and self.in_flight + fetch.size > options.body_bytes_max:
            return None
        return fetch

    def _begin(self, fetch: _Fetch) -> None:
        """Fetch the next body, from where an earlier fetch of it has come to."""
        if fetch.resumes:
            fetch.buffer = self._begun.take(fetch.name)
        self._make_room()
        fetch.asked = len(fetch.buffer)
        self._ask(fetch)

    def _make_room(self) -> None:
        """Let what was begun give way to what is under way."""
        self._begun.trim(self._core.options.body_bytes_max - self.in_flight)

    def _ask(self, fetch: _Fetch) -> None:
        """Ask for pieces until enough are on their way."""
        change = fetch.change
        assert isinstance(change.content, int)
        piece = self._core.options.body_piece_bytes
        limit = min(change.content, len(fetch.buffer) + _PIECES_AHEAD * piece)
        while fetch.asked < limit:
            get = BodyGet(fetch.run.origin, change.seq, change.place, fetch.asked, fetch.session)
            fetch.link.send(get)
            fetch.asked += piece

    def _end(self, fetch: _Fetch, run: Run | None) -> None:
        self._forget(fetch)
        fetch.done(run)
        self._start()

    def _forget(self, fetch: _Fetch) -> None:
        if fetch in self._active:
            self._active.remove(fetch)
            if fetch.buffer and fetch.resumes:
                self._begun.keep(fetch.name, fetch.buffer, self._core.now)
                self._make_room()
        elif fetch in self._queue:
            self._queue.remove(fetch)


def _with_bodies(run: Run, found: dict[int, bytes]) -> Run:
    changes = [
        change._replace(content=found[change.seq]) if change.seq in found else change
        for change in run.changes
    ]
    return run._replace(changes=changes)


def _no_limit(origin: bytes) -> int | None:
    return None


def _no_session(link: Link, session: int, origin: bytes, seq: int, place: bytes) -> bytes | None:
    return None
