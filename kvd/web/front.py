"""The front: from a request's head to its answer. One object a daemon.

`begin` is called when the head is there: it finds the route, who asks, and where the body goes. `run` is
called when the body is there, too. What was found wrong at the head is told by `run`, after the body was
received and dropped: see `bodies`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import attrs
import structlog
import trio

from kvd.dispatch import write_refusal
from kvd.web import errors
from kvd.web.access import BadCredentials, Gatekeeper
from kvd.web.bodies import Body
from kvd.web.errors import Dialect, Refused
from kvd.web.exchange import HELD, Answer, Exchange, Handler, Held
from kvd.web.feeds import PING_SECONDS, Feeds
from kvd.web.hot import HotReads
from kvd.web.jobs import Job, Pace
from kvd.web.session import HttpSession
from kvd.web.traffic import Traffic
from protocol.http_requests import HttpLimits
from protocol.http_responses import DateLine, Response
from protocol.replies import ErrorReply
from storage.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kvd.server import Server
    from kvd.session import Endpoint
    from protocol.http_errors import HttpError
    from protocol.http_requests import HttpRequest

log = structlog.get_logger()

# How late a wrong credential is answered, and how many such answers may be owed at once: above that the
# connection is closed instead, so that guessing fills nothing.
FAILURE_SECONDS: Final = 0.5
FAILURES_MAX: Final = 200
# A request that took longer is written to the log.
SLOW_SECONDS: Final = 1.0
_WATCH_SECONDS: Final = 1.0


@attrs.frozen
class Route:
    """What is done with a request.

    `open` is called at the head, to check what can be checked and to choose where the body goes; what it
    finds out it may leave in `Exchange.state`.
    """

    handler: Handler
    dialect: Dialect
    kind: str
    open: Callable[[Exchange], Body | None] | None = None
    is_public: bool = False
    writes: bool = False


def route_of(methods: Mapping[bytes, Route] | None, method: bytes) -> Route:
    """Return the route of a method among those of a path; HEAD goes where GET goes. Raise `Refused`, as REST v4 does."""
    if methods is None:
        raise Refused(404, "No route for that URI", errors.NO_ROUTE)
    found = methods.get(b"GET" if method == b"HEAD" else method)
    if found is None:
        allowed = b", ".join(sorted({*methods, b"HEAD"} if b"GET" in methods else methods))
        raise Refused(405, "Method not allowed", errors.AUTHENTICATION, b"Allow: %b\r\n" % allowed)
    return found


class Late:
    """An answer that is to come late."""

    def __init__(self, response: Response, seconds: float) -> None:
        self.response = response
        self.seconds = seconds


class Front:
    """Everything that HTTP sessions share."""

    def __init__(self, server: Server, find_route: Callable[[Exchange], Route]) -> None:
        self.server = server
        self.limits = HttpLimits()
        self.date = DateLine()
        self.gatekeeper = Gatekeeper(server)
        self.nobody = self.gatekeeper.nobody
        self.hot = HotReads(server, self.gatekeeper)
        self.feeds = Feeds(server)
        self.traffic = Traffic()
        self.pace = Pace(server)
        self.failures = 0  # late answers that are owed
        self._find_route = find_route

    def open(self, endpoint: Endpoint) -> HttpSession:
        """Open a session and enter it in the server's register."""
        session = HttpSession(self, endpoint)
        self.server.http_sessions[session.id] = session
        self.server.stats.connections_received += 1
        return session

    # --- a request

    def begin(self, session: HttpSession, request: HttpRequest) -> Exchange:
        """Route a request whose head is complete, find out who asks, and open its body."""
        exchange = Exchange(self, session, request)
        exchange.started_ns = time.perf_counter_ns()
        self.date.update(self.server.store.now_ms)
        try:
            route = self._find_route(exchange)
            exchange.handler = route.handler
            exchange.dialect = route.dialect
            exchange.kind = route.kind
            exchange.writes = route.writes
            exchange.is_public = route.is_public
            self.check_state(exchange)
            if not route.is_public:
                exchange.access = self.gatekeeper.admit(exchange)
            if route.open is not None:
                exchange.body = route.open(exchange)
        except Refused as refused:
            exchange.refusal = refused
        except Exception as error:  # noqa: BLE001 -- `translate` tells refusals from bugs
            exchange.refusal = self._translate(exchange, error)
        if exchange.body is None and request.content_length:
            exchange.body = Body()
        return exchange

    def run(self, exchange: Exchange) -> Answer | Late | Held:
        """Return the answer to a request whose body is there."""
        refusal = exchange.refusal
        if refusal is None:
            if self.server.pause is not None and self.must_wait(exchange):
                return HELD
            try:
                if exchange.body is not None:  # it took its time: much may have changed
                    self.check_again(exchange)
                answer: Answer = exchange.handler(exchange)
                return answer  # noqa: TRY300 -- hot: no else
            except Exception as error:  # noqa: BLE001 -- `translate` tells refusals from bugs
                refusal = self._translate(exchange, error)
        response = _refused(exchange, refusal)
        if isinstance(refusal, BadCredentials):
            return self._delay(response)
        return response

    def check_state(self, exchange: Exchange) -> None:
        """Refuse while the daemon is busy with a script, or cannot read or write; not what is public."""
        if exchange.is_public:
            return
        server = self.server
        if server.scripts.running is not None:
            raise errors.from_reply(server.scripts.busy_error())
        if exchange.writes:
            refusal = write_refusal(server)
        else:
            refusal = server.refusal if server.refuses_reads else None
        if refusal is not None:
            raise errors.from_reply(refusal)

    def check_again(self, exchange: Exchange) -> None:
        """Refuse what would be refused by now, for the daemon's state or because who asks is not admitted any more."""
        self.check_state(exchange)
        self.gatekeeper.check_again(exchange)

    def must_wait(self, exchange: Exchange) -> bool:
        """Tell whether CLIENT PAUSE holds this request. Health and the pages themselves are not held."""
        pause = self.server.pause
        return pause is not None and not exchange.is_public and (exchange.writes or not pause.writes_only)

    def run_held(self, exchange: Exchange) -> Answer | Late | Held:
        """Return the answer to a request that was held; what may have changed meanwhile is looked at again."""
        try:
            self.check_again(exchange)
        except (Refused, StorageError) as error:
            exchange.refusal = self._translate(exchange, error)
        return self.run(exchange)

    def failure(self, exchange: Exchange, error: Exception) -> Response:
        """Return the answer to a request whose handler raised."""
        return _refused(exchange, self._translate(exchange, error))

    def _translate(self, exchange: Exchange, error: Exception) -> Refused:
        """Return what the client is told. A bug ends the request, and gives up the whole tick's writes."""
        if isinstance(error, Refused):
            return error
        if isinstance(error, StorageError):
            return errors.from_storage(error)
        if isinstance(error, ErrorReply):
            return errors.from_reply(error)
        log.error("HTTP request failed unexpectedly", session_id=exchange.session.id, exc_info=error)
        self.server.stats.unexpected_errors += 1
        self.server.store.poison("an HTTP request failed unexpectedly")
        return Refused(500, "internal error; the server's log has the details", errors.UNAVAILABLE)

    def uncommitted(self, error: ErrorReply) -> bytes:
        """Return the answer to a request whose tick was not committed."""
        refused = errors.from_reply(error)
        response = errors.as_envelope(refused)
        response.reason = refused.text
        return response.encode(self.date)

    # --- late answers

    def _delay(self, response: Response) -> Response | Late:
        if self.failures >= FAILURES_MAX:
            response.close = True
            return response
        return Late(response, FAILURE_SECONDS)

    def answer_late(self, exchange: Exchange, late: Late) -> None:
        self.failures += 1
        self.server.spawn(self._answer_late, exchange, late)

    async def _answer_late(self, exchange: Exchange, late: Late) -> None:
        try:
            await trio.sleep(late.seconds)
        finally:
            self.failures -= 1
        exchange.session.answer_late(exchange, late.response)

    # --- accounts

    def count(self, exchange: Exchange, status: int) -> None:
        """Count an answered request."""
        elapsed = time.perf_counter_ns() - exchange.started_ns
        self.traffic.count(exchange.kind, exchange.request.method, status, elapsed)

    def count_malformed(self, error: HttpError) -> None:
        self.traffic.malformed += 1

    def note_job(self, exchange: Exchange, job: Job) -> None:
        """Write a long request to the log."""
        seconds = (time.perf_counter_ns() - exchange.started_ns) / 1e9
        if seconds >= SLOW_SECONDS:
            log.info(
                "long HTTP request",
                job=job.name,
                session_id=exchange.session.id,
                seconds=round(seconds, 3),
                body_bytes=0 if exchange.body is None else exchange.body.size,
            )

    # --- the clock

    async def watch(self) -> None:
        """Once a second: connections that make no progress; now and then: a sign of life to streams."""
        hub = self.server.hub
        assert hub is not None, "it serves these connections"
        pinged_at = trio.current_time()
        while True:
            await trio.sleep(_WATCH_SECONDS)
            now_ms = time.time_ns() // 1_000_000
            for session in list(self.server.http_sessions.values()):
                reason = None if session.closing else session.overdue(now_ms)
                if reason is not None:
                    session.time_out(reason)
            if trio.current_time() - pinged_at >= PING_SECONDS:
                pinged_at = trio.current_time()
                if self.feeds.active:
                    hub.exclusively(self.feeds.ping)


def _refused(exchange: Exchange, refusal: Refused) -> Response:
    """Return the answer. The frames that the refusal came through know it, and what was received: none is kept."""
    refusal.__traceback__ = refusal.__context__ = None
    return exchange.dialect(refusal)
