"""One HTTP client: bytes in, answers out, no socket and no await. The twin of `kvd.session.Session`.

    receive ─▶ HttpReader ─▶ Front.serve ─▶ Response            answered in this tick
                                         ├▶ Job                 a slice a tick, see `jobs`
                                         └▶ Feed                answered until the client goes, see `feeds`

Requests of one connection are answered in their order, so while a job or a feed is on, or an answer has to
come late, what the client sends meanwhile waits unread in the reader.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import structlog

from kvd.web.exchange import Held
from kvd.web.feeds import Feed
from kvd.web.hot import Found
from kvd.web.jobs import Job
from protocol.http_errors import HttpError
from protocol.http_requests import HttpReader, HttpRequest
from protocol.http_responses import CONTINUE, Response
from storage.errors import StorageError

if TYPE_CHECKING:
    from kvd.acl import User
    from kvd.session import Endpoint, Transport
    from kvd.web.access import Credential
    from kvd.web.bodies import Body
    from kvd.web.exchange import Exchange
    from kvd.web.front import Front
    from protocol.http_requests import BodySink
    from protocol.replies import ErrorReply

log = structlog.get_logger()

# As of RESP sessions: what one client gets done in a tick, so that the others have their turn.
TICK_OUTPUT_BYTES_MAX: Final = 1 << 20
TICK_NANOSECONDS_MAX: Final = 10_000_000
# HTTP clients wait for answers, so few bytes are enough to keep a connection busy.
PAUSE_BYTES: Final = 1 << 20


class HttpSession:
    """The state of one client."""

    pause_bytes = PAUSE_BYTES

    def __init__(self, front: Front, endpoint: Endpoint) -> None:
        self.front = front
        self.server = front.server
        self.endpoint = endpoint
        self.is_local = endpoint.is_local
        self.id = self.server.next_session_id()
        self.connected_at_ms = time.time_ns() // 1_000_000
        self.active_at_ms: int = self.connected_at_ms
        self.out: list[bytes] = []
        self.suspended = False
        self.resumed = False
        self.held_bytes = 0
        self.input_bytes = 0  # what `_charge_input` has entered for this session
        self.closing = False
        self.close_reason: str | None = None
        self.transport: Transport | None = None
        self.on_output: Any = _ignore
        self.credential: Credential | None = None  # that was right on this connection
        self.known_host: bytes | None = None
        self.job: Job | None = None
        self.feed: Feed | None = None
        self.backlog = False
        self._reader = HttpReader(front.limits, self._open_body)
        self._was_read = False  # the last request was a read of the kind that `hot` keeps
        self._may_know = False  # and nothing else waits: the next one may be known
        self._exchange: Exchange | None = None  # whose body, or job, is going on
        self._is_held = False  # it waits, until a pause is over
        self._head_since_ms = 0  # when an incomplete head began
        self._out_bytes = 0
        self._ends_ns = 0  # when this tick's share of time is over
        self._standing: list[int] = []  # which elements of `out` depend on the commit

    @property
    def subscription_count(self) -> int:
        return int(self.feed is not None)

    @property
    def buffered_bytes(self) -> int:
        """Bytes of input that are not read yet."""
        return self._reader.pending_bytes

    @property
    def user(self) -> User | None:
        """The user of the ACL whose password the client has shown; None for a token, or nothing."""
        return None if self.credential is None else self.credential.user

    @property
    def last_method(self) -> bytes:
        """The method of the last request; nothing before the first."""
        return self._reader.head.partition(b" ")[0]

    @property
    def in_request(self) -> bool:
        """Whether a request has begun and is not answered."""
        reader = self._reader
        return reader.in_head or reader.in_body or self.suspended or self.job is not None

    # --- input

    def answer(self, data: bytes) -> bytes | None:
        """Return the answer to a read that came a moment ago in the same words. See `Driven.answer`."""
        if self.out or self.closing or self.server.store.dirty:
            return None
        return self._known_answer(data)

    def _known_answer(self, data: bytes) -> bytes | None:
        if not self._may_know:
            return None
        try:
            encoded = self.front.hot.answer(self, data)
        except StorageError:
            return None  # the usual way tells the client why
        if encoded is not None:
            self.front.traffic.known += 1
        return encoded

    def receive(self, data: bytes) -> None:
        """Take bytes from the client and run what is complete. Never raises for what the client sent."""
        if self.closing:
            return
        known = self._known_answer(data)
        if known is not None:
            self._standing.append(len(self.out))
            self.out.append(known)
            return
        reader = self._reader
        reader.feed(data)
        if self.suspended:
            self.held_bytes += len(data)
            self.backlog = True
        elif not self.backlog:
            self._run()
        if self.input_bytes or reader.pending_bytes or reader.in_body:
            self._charge_input()

    def _charge_input(self) -> None:
        """Enter in the books of all sessions what this one keeps: half a request, a body."""
        held = self._reader.pending_bytes
        if self._exchange is not None and self._exchange.body is not None:
            held += self._exchange.body.held_bytes
        self.server.input_bytes += held - self.input_bytes
        self.input_bytes = held

    def run_backlog(self) -> None:
        """Go on with a job, or with requests that were held back."""
        if self.suspended or self.closing:
            return
        self.resumed = False
        self.backlog = False
        self._ends_ns = 0
        body = self._body_behind()
        if self._is_held and self._exchange is not None:
            self._is_held = False
            exchange, self._exchange = self._exchange, None
            self._take(exchange, self.front.run_held(exchange))
        elif self.job is not None:
            self._advance(self.job)
        elif body is not None:
            body.go_on()
        if self.job is not None or self._body_behind() is not None:
            self.backlog = True
        elif self._may_go_on():
            self._run()
        if self.input_bytes:
            self._charge_input()

    def _body_behind(self) -> Body | None:
        """Return the body that is to be read on with before more of it is received."""
        body = None if self._exchange is None else self._exchange.body
        return body if body is not None and body.is_behind else None

    def _run(self) -> None:
        reader = self._reader
        self._may_know = self._was_read = False
        while not self.closing:
            request = reader.next()
            if request is None or not self._may_go_on():  # its head was refused already
                break
            exchange, self._exchange = self._exchange, None
            if exchange is None:
                exchange = self.front.begin(self, request)
            self._take(exchange, self.front.run(exchange))
            if (
                self.job is not None
                or not self._may_go_on()
                or (reader.pending_bytes and self._has_done_enough())
            ):
                self.backlog = self.job is not None or bool(reader.pending_bytes)
                return
        if reader.error is not None and not self.closing:
            self._end_after(reader.error)
        if reader.in_body:
            self.backlog = self._body_behind() is not None
        self._may_know = self._was_read and not (reader.pending_bytes or reader.in_body or self.closing)
        self._head_since_ms = (self._head_since_ms or self.active_at_ms) if reader.in_head else 0

    def _may_go_on(self) -> bool:
        return not (self.suspended or self.closing)

    def _has_done_enough(self) -> bool:
        if self._out_bytes > TICK_OUTPUT_BYTES_MAX:
            return True
        now = time.perf_counter_ns()
        if not self._ends_ns:
            self._ends_ns = now + TICK_NANOSECONDS_MAX
        return now > self._ends_ns

    def _open_body(self, request: HttpRequest) -> BodySink:
        self._exchange = exchange = self.front.begin(self, request)
        body = exchange.body
        assert body is not None, "whoever announces a body gets one opened"
        if request.expects_continue:
            if exchange.refusal is None:
                self._push(CONTINUE)
            else:
                self._refuse_early(exchange)
        return body

    def _refuse_early(self, exchange: Exchange) -> None:
        """Answer a client that waits to be told whether it should send its body: it should not."""
        exchange.request.keep_alive = False
        self._exchange = None
        self._take(exchange, self.front.run(exchange))

    def _end_after(self, error: HttpError) -> None:
        """Answer what is no request, and close: where the next one would start is not known."""
        self.front.count_malformed(error)
        log.info(
            "HTTP request refused", address=self.endpoint.address, status=error.status, reason=error.text
        )
        body = error.text.encode() + b"\n"
        response = Response(error.status, _TEXT, body, reason=error.text, close=True)
        self._push(response.encode(self.front.date, keep_alive=False))
        self.close_after_reply("malformed request")

    # --- answers

    def _take(self, exchange: Exchange, answer: Any) -> None:
        if answer.__class__ is Response:
            self._answer(exchange, answer)
        elif isinstance(answer, Job):
            self._exchange = exchange
            self.job = answer
            self._advance(answer)
        elif isinstance(answer, Feed):
            self._exchange = exchange
            self.feed = answer
            self._push(answer.begin())
            self.suspend()
        elif isinstance(answer, Held):
            self._exchange = exchange
            self._is_held = True
            self._wait_for_pause()
        else:
            self.suspend()
            self.front.answer_late(exchange, answer)

    def _wait_for_pause(self) -> None:
        pause = self.server.pause
        assert pause is not None, "it is why this waits"
        pause.hold(self)

    def _answer(self, exchange: Exchange, response: Response) -> None:
        request = exchange.request
        keep_alive = request.keep_alive and not response.close
        encoded = response.encode(
            self.front.date, head_only=exchange.is_head, keep_alive=keep_alive, is_1_1=request.is_1_1
        )
        if response.stands_on_commit:
            self._standing.append(len(self.out))
        if exchange.state.__class__ is Found and keep_alive and response.status == 200:
            self._was_read = True
            if not exchange.is_head:
                self.front.hot.note(self, self._reader.head, exchange.state, encoded)
        self._push(encoded)
        self.front.count(exchange, response.status)
        if exchange.body is not None:
            exchange.close()
        if not keep_alive:
            self.close_after_reply("answered")

    def answer_late(self, exchange: Exchange, response: Response) -> None:
        """Give the answer that suspended the session."""
        if self.closing or not self.suspended:
            return  # the client has gone meanwhile
        self._answer(exchange, response)
        self.release()

    def _advance(self, job: Job) -> None:
        """Let the job do a slice, and finish if that was its last."""
        exchange = self._exchange
        assert exchange is not None
        if self.front.must_wait(exchange):
            self._wait_for_pause()
            return
        try:
            self.front.check_again(exchange)
            data = next(job.steps)
        except StopIteration as end:
            self._finish(job, exchange, end.value)
            return
        except Exception as error:  # noqa: BLE001 -- `failure` tells refusals from bugs
            refusal = self.front.failure(exchange, error)
            if job.wrote_head:
                self.abort("failed in the middle of an answer")
            else:
                self._finish(job, exchange, refusal)
            return
        if data:
            self._push(data)

    def _finish(self, job: Job, exchange: Exchange, response: Response | None) -> None:
        self.job = None
        self._exchange = None
        self.front.note_job(exchange, job)
        if response is not None:
            self._answer(exchange, response)
            return
        self.front.count(exchange, 200)
        exchange.close()
        if not exchange.request.keep_alive:
            self.close_after_reply("answered")

    def push(self, data: bytes) -> None:
        """Send bytes of a feed; after the commit that they tell of."""
        self._push(data)
        self.on_output(self)

    def _push(self, data: bytes) -> None:
        self.out.append(data)
        self._out_bytes += len(data)

    def suspend(self) -> None:
        """Hold everything that the client sends from now on."""
        self.suspended = True
        self.held_bytes = 0
        self.backlog = bool(self._reader.pending_bytes)

    def release(self) -> None:
        """End the suspension."""
        if self.suspended:
            self.suspended = False
            self.resumed = True
            self.on_output(self)

    def take_output(self) -> bytes:
        """Return the bytes gathered since the last call. Only after the commit they depend on."""
        out = self.out
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self._standing.clear()
        self._out_bytes = 0
        self._ends_ns = 0
        return data

    def refuse_uncommitted(self, error: ErrorReply) -> None:
        """Replace the answers that stood on a commit which failed; end a job that did."""
        response = self.front.uncommitted(error)
        job, exchange = self.job, self._exchange
        if job is not None and exchange is not None:
            self._stop_work()
            if job.wrote_head:
                self.abort("a commit failed in the middle of an answer")
                return
            self._charge_input()
            self._push(response)
            self.front.count(exchange, 503)
        for position in self._standing:
            self.out[position] = response

    # --- ends

    def overdue(self, now_ms: int) -> str | None:
        """Return why the connection is to be closed for want of progress, or None."""
        settings = self.server.settings.http
        silent_ms = now_ms - self.active_at_ms
        if self._reader.in_head and not self.suspended and not self.backlog:
            since_ms = self._head_since_ms or self.active_at_ms
            return "slow head" if now_ms - since_ms > settings.head_seconds * 1000 else None
        if self._reader.in_body:
            return "slow body" if silent_ms > settings.body_seconds * 1000 else None
        if self.in_request:
            return None
        return "idle" if silent_ms > settings.idle_seconds * 1000 else None

    def time_out(self, reason: str) -> None:
        """Close a connection that is overdue; one in the middle of a request is told so."""
        if reason != "idle":
            response = Response(408, _TEXT, b"Request Timeout\n", close=True)
            self._push(response.encode(self.front.date, keep_alive=False))
        self.close_after_reply(reason)

    def close_after_reply(self, reason: str | None = None) -> None:
        """Run nothing more, and close the connection once what is queued has been sent."""
        self.closing = True
        self.close_reason = self.close_reason or reason
        self._stop_work()
        self.on_output(self)

    def abort(self, reason: str) -> None:
        """Close at once: an answer that cannot be finished must not look finished."""
        self.close_after_reply(reason)
        if self.transport is not None:
            self.transport.close(reason)

    def kill(self, reason: str) -> None:
        """Close the connection at once, whatever it still waits for or has not read."""
        self.abort(reason)

    def end(self) -> None:
        """Forget the session everywhere; the connection is gone."""
        self.closing = True
        self._stop_work()
        self._reader.close()
        if self.server.pause is not None:
            self.server.pause.forget(self)
        self.server.input_bytes -= self.input_bytes
        self.input_bytes = 0
        self.server.http_sessions.pop(self.id, None)

    def _stop_work(self) -> None:
        self.suspended = False
        self.backlog = False
        exchange, self._exchange = self._exchange, None
        self._is_held = False
        job, self.job = self.job, None
        if job is not None:
            job.steps.close()
        if exchange is not None:
            exchange.close()
        feed, self.feed = self.feed, None
        if feed is not None:
            feed.end()


_TEXT: Final = b"Content-Type: text/plain; charset=utf-8\r\n"


def _ignore(session: HttpSession) -> None:
    """Stand in for a driver that looks at `out` by itself."""
