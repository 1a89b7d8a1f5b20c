"""The hub over real sockets: ticks, group commit, back-pressure, limits, and the other kinds of connection."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest
import trio
import trustme

from kvd import connection as connection_module
from kvd import housekeeping
from kvd.listeners import PlainListener, TlsListener, open_tcp, open_unix, refusal
from kvd.poller import SelectorPoller
from kvd.session import Endpoint
from kvd.settings import Settings
from storage.errors import NoSpace
from tests.kvd.harness import encode
from tests.kvd.live import (
    Running,
    ask,
    plain_socket,
    receive_exactly,
    receive_to_end,
    running,
    settings_with,
    until,
)


@pytest.fixture
async def live() -> AsyncIterator[Running]:
    async with running() as one:
        yield one


async def test_a_pipeline_is_answered_in_order(live: Running) -> None:
    async with await live.connect() as stream:
        await stream.send_all(
            b"".join(encode("SET", f"k{i}", i) + encode("GET", f"k{i}") for i in range(500))
        )
        expected = b"".join(b"+OK\r\n$%d\r\n%d\r\n" % (len(str(i)), i) for i in range(500))
        assert await receive_exactly(stream, len(expected)) == expected


async def test_a_request_may_arrive_a_byte_at_a_time(live: Running) -> None:
    async with await live.connect() as stream:
        for byte in encode("SET", "key", "value"):
            await stream.send_all(bytes([byte]))
        assert await receive_exactly(stream, 5) == b"+OK\r\n"


async def test_reads_and_writes_of_sockets_are_counted(live: Running) -> None:
    """The last GET is answered at once, by a way of its own."""
    async with await live.connect() as stream:
        await ask(stream, "SET", "a", "1", expect=b"+OK\r\n")
        await ask(stream, "GET", "a", expect=b"$1\r\n1\r\n")
        await ask(stream, "GET", "a", expect=b"$1\r\n1\r\n")
        assert (live.server.stats.reads, live.server.stats.writes) == (3, 3)


async def test_the_portable_selector_serves_as_well() -> None:
    async with running(poller=SelectorPoller()) as live, await live.connect() as stream:
        await ask(stream, "SET", "a", "1", expect=b"+OK\r\n")
        await ask(stream, "GET", "a", expect=b"$1\r\n1\r\n")


async def test_clients_that_are_ready_together_share_one_commit(live: Running) -> None:
    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(await live.connect()) for _ in range(20)]
        for stream in streams:
            await ask(stream, "PING", expect=b"+PONG\r\n")
        commits = live.server.store.commits
        # Without a checkpoint in between, all of this is in the sockets before the hub's next tick.
        for number, stream in enumerate(streams):
            plain_socket(stream).send(encode("SET", f"k{number}", "v"))
        for stream in streams:
            assert await receive_exactly(stream, 5) == b"+OK\r\n"
        assert live.server.store.commits == commits + 1


async def test_no_reply_of_a_failed_commit_gets_out(live: Running) -> None:
    async with await live.connect() as writer, await live.connect() as reader:
        await ask(writer, "SET", "a", "old", expect=b"+OK\r\n")
        live.engine.fail_next(NoSpace("disk"))
        await writer.send_all(
            encode("SET", "a", "new") + encode("GET", "a") + encode("PING") + encode("MULTI")
        )
        answer = (await receive_exactly(writer, 16)) + await writer.receive_some()
        lines = answer.split(b"\r\n")
        assert lines[0].startswith(b"-MISCONF no space left")
        assert lines[1].startswith(b"-MISCONF")
        assert lines[2:4] == [b"+PONG", b"+OK"]
        await ask(reader, "GET", "a", expect=b"$3\r\nold\r\n")


async def test_writes_are_refused_and_reads_go_on_until_the_disk_has_space(live: Running) -> None:
    async with await live.connect() as stream:
        await ask(stream, "SET", "a", "1", expect=b"+OK\r\n")
        live.engine.fail_next(NoSpace("disk"), 2)  # the commit, and the first probe
        await stream.send_all(encode("SET", "a", "2"))
        assert (await stream.receive_some()).startswith(b"-MISCONF")
        await stream.send_all(encode("APPEND", "a", "2"))
        assert (await stream.receive_some()).startswith(b"-MISCONF")
        await ask(stream, "GET", "a", expect=b"$1\r\n1\r\n")
        live.server.spawn(housekeeping.watch, live.server, live.hub)
        await until(lambda: live.server.store.writable is None, "the probe succeeds")
        await ask(stream, "SET", "a", "2", expect=b"+OK\r\n")
        await ask(stream, "GET", "a", expect=b"$1\r\n2\r\n")


async def test_replies_of_one_tick_are_bounded_and_none_is_lost(live: Running) -> None:
    value = b"x" * 200_000
    async with await live.connect() as stream:
        await ask(stream, "SET", "big", value, expect=b"+OK\r\n")
        await stream.send_all(encode("GET", "big") * 100)
        one = b"$%d\r\n%b\r\n" % (len(value), value)
        assert await receive_exactly(stream, len(one) * 100) == one * 100


async def test_a_client_that_does_not_read_is_paused_and_gets_everything_later(
    live: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "PAUSE_BYTES", 100_000)
    value = b"x" * 50_000
    one = b"$%d\r\n%b\r\n" % (len(value), value)
    async with await live.connect_small() as stream, await live.connect() as other:
        await ask(other, "SET", "big", value, expect=b"+OK\r\n")
        with trio.move_on_after(0.5):
            for _ in range(400):
                await stream.send_all(encode("GET", "big") * 10)
        assert live.hub.unsent_bytes < 100_000 + 2 * 1024 * 1024
        await ask(other, "PING", expect=b"+PONG\r\n")
        assert await receive_exactly(stream, len(one) * 300) == one * 300


async def test_a_subscriber_that_does_not_read_is_closed_at_its_limit() -> None:
    clients = attrs.evolve(Settings().clients, output_pubsub_hard_bytes=200_000)
    async with running(attrs.evolve(Settings(), clients=clients)) as live:
        slow = await live.connect_small()
        publisher = await live.connect()
        async with slow, publisher:
            await slow.send_all(encode("SUBSCRIBE", "news"))
            await receive_exactly(slow, 10)
            await until(lambda: live.server.pubsub.channels, "the subscription")
            payload = b"x" * 50_000
            for _ in range(200):
                await publisher.send_all(encode("PUBLISH", "news", payload))
                await publisher.receive_some()
                if live.server.stats.output_limit_closed:
                    break
            assert live.server.stats.output_limit_closed == 1
            assert live.hub.unsent_bytes == 0


async def test_a_protocol_error_is_told_and_the_connection_closed(live: Running) -> None:
    async with await live.connect() as stream:
        await stream.send_all(encode("SET", "a", "1") + b"*1\r\n:5\r\n")
        assert await receive_to_end(stream) == b"+OK\r\n-ERR Protocol error: expected '$', got ':'\r\n"
    await until(lambda: not live.server.sessions, "the session ends")


async def test_quit_answers_and_closes(live: Running) -> None:
    async with await live.connect() as stream:
        await stream.send_all(encode("QUIT") + encode("SET", "a", "1"))
        assert await receive_to_end(stream) == b"+OK\r\n"
    assert live.server.store.keyspace(0).count == 0


async def test_a_client_above_maxclients_is_told_so() -> None:
    async with running(settings_with(maxclients=1)) as live, await live.connect() as first:
        await ask(first, "PING", expect=b"+PONG\r\n")
        async with await live.connect() as second:
            assert await receive_to_end(second) == b"-ERR max number of clients reached\r\n"
        await ask(first, "PING", expect=b"+PONG\r\n")
        assert live.server.stats.connections_rejected == 1


@pytest.mark.parametrize(
    ("address", "let_in"),
    [
        ("127.0.0.1:5", True),
        ("[::1]:5", True),
        ("[::ffff:127.0.0.1]:5", True),
        ("192.0.2.7:5", False),
        ("[2001:db8::1]:5", False),
    ],
)
async def test_protected_mode_lets_in_this_machine_only(live: Running, address: str, let_in: bool) -> None:
    refused = refusal(live.server, Endpoint(address, "127.0.0.1:6379"))
    assert (refused is None) == let_in


async def test_idle_clients_are_closed_and_subscribers_stay(live: Running) -> None:
    async with await live.connect() as idle, await live.connect() as subscriber:
        await ask(idle, "PING", expect=b"+PONG\r\n")
        await subscriber.send_all(encode("SUBSCRIBE", "news"))
        await receive_exactly(subscriber, 10)
        for session in live.server.sessions.values():
            session.active_at_ms -= 10_000
        live.hub.close_idle(5)
        assert await receive_to_end(idle) == b""
        assert len(live.server.sessions) == 1


async def test_what_other_tasks_push_goes_out_without_a_request(live: Running) -> None:
    async with await live.connect() as subscriber:
        await subscriber.send_all(encode("SUBSCRIBE", "news"))
        await receive_exactly(subscriber, len(b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"))
        live.server.pubsub.publish(b"news", b"hello")
        expected = b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n"
        assert await receive_exactly(subscriber, len(expected)) == expected


async def test_a_client_that_vanishes_leaves_nothing_behind(live: Running) -> None:
    stream = await live.connect()
    await ask(stream, "SUBSCRIBE", "news", expect=b"*3\r\n")
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset, not close
    await stream.aclose()
    await until(lambda: not live.server.sessions, "the session ends")
    assert not live.hub.sockets
    assert not live.server.pubsub.channels


async def test_a_unix_socket_serves_and_replaces_a_dead_one(live: Running, tmp_path: Path) -> None:
    path = str(tmp_path / "kvd.sock")
    open_unix(path, 0o700, 10).close()  # what a killed process leaves behind
    listener = PlainListener(open_unix(path, 0o750, 10), live.server)
    live.hub.add_listener(listener)
    assert (await trio.Path(path).stat()).st_mode & 0o777 == 0o750
    async with await trio.open_unix_socket(path) as stream:
        await ask(stream, "SET", "a", "1", expect=b"+OK\r\n")
        with pytest.raises(OSError, match="another process answers there"):
            open_unix(path, 0o700, 10)
    live.hub.remove_listener(listener)
    listener.close()


def test_a_unix_socket_does_not_replace_a_file(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(OSError, match="a file that is no socket"):
        open_unix(str(path), 0o700, 10)
    assert path.read_text() == "data"


def test_a_path_that_is_too_long_for_a_unix_socket_says_how_long_it_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    most = 107 if sys.platform == "linux" else 103
    open_unix("x" * most, 0o700, 10).close()
    with pytest.raises(OSError, match=f"has {most + 1} bytes, the system allows {most}") as caught:
        open_unix("x" * (most + 1), 0o700, 10)
    assert caught.value.errno == errno.ENAMETOOLONG


def test_a_taken_port_is_named_in_the_error() -> None:
    settings = attrs.evolve(Settings().server, bind=("127.0.0.1",))
    (sock,) = open_tcp(settings, 0)
    port = sock.getsockname()[1]
    with sock, pytest.raises(OSError, match=f"cannot listen on 127.0.0.1 port {port}"):
        open_tcp(settings, port)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_files(authority: trustme.CA, tmp_path: Path) -> dict[str, str]:
    issued = authority.issue_cert("localhost")
    files = {name: str(tmp_path / f"{name}.pem") for name in ("cert", "key", "ca")}
    issued.cert_chain_pems[0].write_to_path(files["cert"])
    issued.private_key_pem.write_to_path(files["key"])
    authority.cert_pem.write_to_path(files["ca"])
    return files


async def _tls_stream(
    authority: trustme.CA, port: int, *, shows: bool = False
) -> trio.SSLStream[trio.SocketStream]:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if shows:
        authority.issue_cert("client@example.org").configure_cert(context)
    transport = await trio.open_tcp_stream("127.0.0.1", port)
    return trio.SSLStream(transport, context, server_hostname="localhost", https_compatible=True)


async def test_tls_clients_share_the_tick_and_its_commit(
    authority: trustme.CA, tls_files: dict[str, str]
) -> None:
    settings = settings_with(
        bind=("127.0.0.1",), tls_cert_file=tls_files["cert"], tls_key_file=tls_files["key"]
    )
    async with running(settings) as live:
        listener = TlsListener(live.hub, live.server, open_tcp(settings.server, 0))
        live.server.spawn(listener.run)
        async with await _tls_stream(authority, listener.port) as secure, await live.connect() as plain:
            await ask(secure, "SET", "a", "1", expect=b"+OK\r\n")
            await ask(plain, "GET", "a", expect=b"$1\r\n1\r\n")
            value = b"y" * 300_000
            await secure.send_all(encode("SET", "big", value) + encode("GET", "big") * 20)
            one = b"$%d\r\n%b\r\n" % (len(value), value)
            assert await receive_exactly(secure, 5 + 20 * len(one)) == b"+OK\r\n" + one * 20
            await secure.send_all(encode("QUIT"))
            assert await receive_to_end(secure) == b"+OK\r\n"
        await until(lambda: not live.server.sessions, "both sessions end")


@pytest.mark.skipif(sys.platform != "linux", reason="the names of the options are Linux's")
@pytest.mark.parametrize(
    ("seconds", "probes"), [(60, (60, 20, 3)), (2, (2, 1, 3)), (2**31 - 1, (32767, 10922, 3)), (0, None)]
)
async def test_the_kernel_probes_silent_clients(
    authority: trustme.CA, tls_files: dict[str, str], seconds: int, probes: tuple[int, int, int] | None
) -> None:
    settings = settings_with(
        bind=("127.0.0.1",),
        tls_cert_file=tls_files["cert"],
        tls_key_file=tls_files["key"],
        tcp_keepalive_seconds=seconds,
    )
    async with running(settings) as live:
        listener = TlsListener(live.hub, live.server, open_tcp(settings.server, 0))
        live.server.spawn(listener.run)
        async with await _tls_stream(authority, listener.port) as secure, await live.connect() as plain:
            await ask(secure, "PING", expect=b"+PONG\r\n")
            await ask(plain, "PING", expect=b"+PONG\r\n")
            (connection,) = live.hub.sockets.values()
            (over_tls,) = live.hub.streams
            assert isinstance(over_tls._stream, trio.SSLStream)
            with socket.socket(fileno=os.dup(connection.fd)) as duplicate:
                for sock in (duplicate, over_tls._stream.transport_stream.socket):
                    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == (probes is not None)
                    options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
                    found = tuple(sock.getsockopt(socket.IPPROTO_TCP, option) for option in options)
                    assert probes in {None, found}


async def test_tls_can_demand_a_client_certificate(authority: trustme.CA, tls_files: dict[str, str]) -> None:
    settings = settings_with(
        bind=("127.0.0.1",),
        tls_cert_file=tls_files["cert"],
        tls_key_file=tls_files["key"],
        tls_ca_file=tls_files["ca"],
        tls_auth_clients="yes",
    )
    async with running(settings) as live:
        listener = TlsListener(live.hub, live.server, open_tcp(settings.server, 0))
        live.server.spawn(listener.run)
        async with await _tls_stream(authority, listener.port, shows=True) as shown:
            await ask(shown, "PING", expect=b"+PONG\r\n")
        stranger = await _tls_stream(authority, listener.port)
        with contextlib.suppress(trio.BrokenResourceError):  # TLS 1.3 lets it send before it is refused
            await stranger.send_all(encode("PING"))
            assert await receive_to_end(stranger) == b""
        await trio.aclose_forcefully(stranger)
        assert live.server.stats.connections_received == 1


async def test_plain_bytes_on_the_tls_port_harm_nobody(
    authority: trustme.CA, tls_files: dict[str, str]
) -> None:
    settings = settings_with(
        bind=("127.0.0.1",), tls_cert_file=tls_files["cert"], tls_key_file=tls_files["key"]
    )
    async with running(settings) as live:
        listener = TlsListener(live.hub, live.server, open_tcp(settings.server, 0))
        live.server.spawn(listener.run)
        async with await trio.open_tcp_stream("127.0.0.1", listener.port) as confused:
            await confused.send_all(encode("PING"))
            assert b"PONG" not in await receive_to_end(confused)
        async with await _tls_stream(authority, listener.port) as secure:
            await ask(secure, "PING", expect=b"+PONG\r\n")


async def test_a_bug_in_a_command_gives_up_its_tick_and_not_the_daemon(
    live: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(keyspace: object, request: object) -> None:
        live.server.store.keyspace(0).put(b"half", b"done")
        raise RuntimeError("a bug")

    spec = live.server.table.specs[b"STRLEN"]
    monkeypatch.setattr(spec, "data_handler", broken)
    live.server.table.plain.pop(b"STRLEN")
    async with await live.connect() as stream:
        await stream.send_all(encode("STRLEN", "a"))
        assert (await stream.receive_some()).startswith(b"-")
        await ask(stream, "GET", "half", expect=b"$-1\r\n")
    assert live.server.stats.unexpected_errors == 1


async def test_all_of_a_tick_with_a_long_script_are_answered() -> None:
    settings = attrs.evolve(Settings(), scripting=attrs.evolve(Settings().scripting, time_limit_ms=1))
    async with running(settings) as live, contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(await live.connect()) for _ in range(9)]
        for stream in streams:
            await ask(stream, "PING", expect=b"+PONG\r\n")
        # All of it is in the sockets before the next tick; the script stands between the others.
        for number, stream in enumerate(streams):
            request = (
                encode("EVAL", "for i = 1, 3000000 do end return 7", 0) if number == 4 else encode("PING")
            )
            plain_socket(stream).send(request)
        for number, stream in enumerate(streams):
            reply = await stream.receive_some()
            assert reply == b":7\r\n" if number == 4 else reply[:5] in {b"+PONG", b"-BUSY"}
