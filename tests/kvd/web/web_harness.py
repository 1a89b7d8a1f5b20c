"""An HTTP client without sockets, over an in-process server: a tick a request, time where `Clock` says.

    web = Web()
    web.put("/k?urlencoded=true", b"value").status == 200

`Web.send` gives raw bytes to the session and returns the parsed answers of that tick and of those that the
session asks for (jobs). Answers are read by `http.client`'s rules, written out here because they
come as bytes.
"""

from __future__ import annotations

import json
from typing import Any

import attrs

from kvd.session import Endpoint
from kvd.settings import Settings
from kvd.web.front import Front
from kvd.web.router import find_route
from kvd.web.session import HttpSession
from storage.store import Keyspace
from tests.kvd.harness import InProcessServer

BASE = "/client/v4/accounts/0123456789abcdef0123456789abcdef/storage/kv/namespaces"


@attrs.frozen
class Answer:
    status: int
    reason: str
    headers: dict[str, str]  # by lower-case name; latin-1, as http.client reads them
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def result(self) -> Any:
        assert self.json["success"] is True, self.body
        return self.json["result"]

    @property
    def error(self) -> tuple[int, str]:
        """Code and message of an envelope that tells of one error."""
        found = self.json
        assert found["success"] is False
        assert found["result"] is None
        (error,) = found["errors"]
        return error["code"], error["message"]


def parse(data: bytes, *, is_head: bool = False) -> list[Answer]:
    """Return the answers that `data` is made of; fail if there is anything else."""
    answers = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, f"no head in {head[:200]!r}"
        status_line, *lines = head.split(b"\r\n")
        version, status, reason = status_line.split(b" ", 2)
        assert version == b"HTTP/1.1"
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.decode("latin-1").partition(": ")
            assert name.lower() not in headers, f"{name} twice"
            headers[name.lower()] = value
        body = b""
        if not (is_head or status in {b"100", b"204", b"304"}):
            if headers.get("transfer-encoding") == "chunked":
                body, data = _dechunk(data)
            else:
                size = int(headers["content-length"])
                body, data = data[:size], data[size:]
                assert len(body) == size
        answers.append(Answer(int(status), reason.decode("ascii"), headers, body))
    return answers


def _dechunk(data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        count = int(size, 16)
        body += data[:count]
        assert data[count : count + 2] == b"\r\n"
        data = data[count + 2 :]
        if not count:
            return body, data


class Web:
    """A server with one HTTP client, and what tests want of both."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        address: str = "127.0.0.1:5000",
        server: InProcessServer | None = None,
    ) -> None:
        self.server = server or InProcessServer(settings)
        if self.server.web is None:
            self.server.web = Front(self.server, find_route)
        self.front = self.server.web
        self.address = address
        self.session = self.connect()
        self.headers: dict[str, str] = {}

    def connect(self) -> HttpSession:
        return self.front.open(Endpoint(self.address, "127.0.0.1:8379"))

    # --- requests

    def raw(self, data: bytes, session: HttpSession | None = None) -> bytes:
        """Run a tick with this input, and as many more as the session's backlog asks for."""
        session = session or self.session
        output = self._tick(session, data)
        for _ in range(100_000):
            if not (session.backlog or session.resumed) or session.suspended or session.closing:
                return output
            output += self._tick(session, None)
        raise AssertionError("the backlog does not end")

    def _tick(self, session: HttpSession, data: bytes | None) -> bytes:
        server = self.server
        at_once = None
        server.store.begin(server.clock.now_ms)
        if data is None:
            session.run_backlog()
        else:
            session.active_at_ms = server.clock.now_ms
            at_once = session.answer(data)
            if at_once is None:
                session.receive(data)
        feeds = self.front.feeds
        changes = server.store.changes if feeds.active else []
        if server.store.dirty:
            server.store.commit()
        if feeds.active:
            feeds.committed(changes, server.store.applied)
        server.notifications.deliver()
        return (at_once or b"") + session.take_output()

    def send(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: dict[str, str | bytes] | None = None,
        *,
        chunked: bool = False,
    ) -> Answer:
        """Send one request and return its answer. The connection is kept, or replaced if it was closed."""
        if self.session.closing:
            self.session = self.connect()
        data = encode(method, target, body, {**self.headers, **(headers or {})}, chunked=chunked)
        (answer,) = parse(self.raw(data), is_head=method == "HEAD")
        return answer

    def get(self, target: str, **headers: str) -> Answer:
        return self.send("GET", target, headers=_names(headers))

    def put(self, target: str, body: bytes | str = b"", **headers: str) -> Answer:
        return self.send("PUT", target, _bytes(body), _names(headers))

    def post(self, target: str, body: Any = b"", **headers: str) -> Answer:
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        return self.send("POST", target, body, _names(headers))

    def delete(self, target: str, body: Any = None, **headers: str) -> Answer:
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        return self.send("DELETE", target, body, _names(headers))

    # --- shortcuts

    def create(self, title: str = "test") -> str:
        """Make a namespace by REST and return its id."""
        return str(self.post(BASE, {"title": title}).result["id"])

    def keyspace(self, name: str = "default") -> Keyspace:
        found = self.server.store.keyspaces.find(name)
        assert found is not None
        return found

    @property
    def now_seconds(self) -> int:
        return self.server.clock.now_ms // 1000


def encode(
    method: str,
    target: str | bytes,
    body: bytes | None = None,
    headers: dict[str, str | bytes] | None = None,
    *,
    chunked: bool = False,
) -> bytes:
    """Return a request as bytes. Header values that are text go out in UTF-8."""
    given = dict(headers or {})
    if "host" not in {name.lower() for name in given}:
        given = {"Host": "localhost", **given}
    if chunked:
        given["Transfer-Encoding"] = "chunked"
    elif body is not None:
        given.setdefault("Content-Length", str(len(body)))
    lines = [f"{method} ".encode() + _bytes(target) + b" HTTP/1.1"]
    lines += [name.encode() + b": " + _bytes(value) for name, value in given.items()]
    content = body or b""
    if chunked:
        parts = [content[start : start + 1000] for start in range(0, len(content), 1000)]
        content = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    return b"\r\n".join(lines) + b"\r\n\r\n" + content


def form(*parts: tuple[str, bytes], boundary: str = "xyz", types: dict[str, str] | None = None) -> bytes:
    """Return a multipart/form-data body."""
    out = b""
    for name, content in parts:
        kind = (types or {}).get(name)
        line = f"\r\nContent-Type: {kind}" if kind else ""
        out += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{line}\r\n\r\n'.encode()
            + content
            + b"\r\n"
        )
    return out + f"--{boundary}--\r\n".encode()


FORM = "multipart/form-data; boundary=xyz"


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def _names(headers: dict[str, str]) -> dict[str, str | bytes]:
    """Return headers given as keyword arguments: ``if_match`` is ``If-Match``."""
    return {name.replace("_", "-"): value for name, value in headers.items()}
