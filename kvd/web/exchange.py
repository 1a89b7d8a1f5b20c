"""One request on its way through the daemon: what is asked, by whom, with which body."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from kvd.web.errors import Dialect, Refused, as_text
from protocol.http_errors import TargetError
from protocol.http_targets import parse_query

if TYPE_CHECKING:
    from kvd.server import Server
    from kvd.web.access import Access
    from kvd.web.bodies import Body
    from kvd.web.feeds import Feed
    from kvd.web.front import Front
    from kvd.web.jobs import Job
    from kvd.web.session import HttpSession
    from protocol.http_requests import HttpRequest
    from protocol.http_responses import Response

Answer: TypeAlias = "Response | Job | Feed"
Handler: TypeAlias = Callable[["Exchange"], Any]

BodyT = TypeVar("BodyT", bound="Body")


class Held:
    """No answer yet: the request waits for the end of a pause, and is to be run again then."""


HELD: Final = Held()


class Exchange:
    """The context of a handler. `arguments` are what the router has cut from the path, still encoded."""

    __slots__ = (
        "_parameters",
        "access",
        "arguments",
        "body",
        "dialect",
        "front",
        "handler",
        "is_public",
        "kind",
        "refusal",
        "request",
        "server",
        "session",
        "started_ns",
        "state",
        "writes",
    )

    def __init__(self, front: Front, session: HttpSession, request: HttpRequest) -> None:
        self.front = front
        self.server: Server = front.server
        self.session = session
        self.request = request
        self.handler: Handler = _nothing
        self.dialect: Dialect = as_text
        self.writes = False
        self.is_public = False
        self.kind = "other"  # which interface, for the counters
        self.access: Access = front.nobody
        self.arguments: tuple[bytes, ...] = ()
        self.refusal: Refused | None = None  # found at the head, told after the body
        self.body: Body | None = None
        self.state: Any = None  # what the opening of a body leaves for the handler
        self.started_ns = 0
        self._parameters: dict[str, str] | None = None

    @property
    def is_head(self) -> bool:
        return self.request.method == b"HEAD"

    @property
    def parameters(self) -> dict[str, str]:
        """The query, form-decoded. Raise `Refused`."""
        if self._parameters is None:
            try:
                self._parameters = parse_query(self.request.query)
            except TargetError as error:
                raise Refused(400, str(error)) from None
        return self._parameters

    def parameter(self, name: str) -> str | None:
        """Return one parameter of the query; an empty one is as good as none."""
        return self.parameters.get(name) or None

    def header(self, name: bytes) -> bytes | None:
        return self.request.headers.get(name)

    def body_of(self, kind: type[BodyT]) -> BodyT:
        """Return the body, which was opened as `kind`; a request without one gets an error."""
        if not isinstance(self.body, kind):
            raise Refused(400, "the request has no body")
        return self.body

    def close(self) -> None:
        """Let go of the body and the refusal, which refer back to this: the collector would come late."""
        self.refusal = None
        if self.body is not None:
            self.body.close()
            self.body = self.request.body = self.state = None


def _nothing(exchange: Exchange) -> Any:
    raise AssertionError("the request was not routed")
