"""Server commands against a running daemon: what only sockets, timers and a disk can show."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.kvd.redis_wire import ask
from tests.servers import RunningServer, kvd_server, wait_until


def test_killing_a_client_closes_its_socket(daemon: RunningServer) -> None:
    admin = daemon.client()
    with daemon.connect() as victim:
        number = ask(victim, "CLIENT", "ID")
        assert admin.client_kill_filter(_id=number) == 1
        assert victim.recv(1) == b""
    assert [entry["id"] for entry in admin.client_list()] == [str(admin.client_id())]


def test_killing_a_client_that_does_not_read_closes_it_too(daemon: RunningServer) -> None:
    admin = daemon.client()
    admin.set("large", b"x" * (1 << 20))
    with daemon.connect(receive_buffer=4096) as victim:
        number = ask(victim, "CLIENT", "ID")
        victim.sendall(b"GET large\r\n" * 20)
        wait_until(lambda: int(admin.client_list(client_id=[number])[0]["omem"]) > 0, "output waits")
        assert admin.client_list(client_id=[number])[0]["events"] == "rw"
        assert admin.client_kill_filter(_id=number) == 1
    assert admin.client_list(client_id=[number]) == []


def test_a_client_that_kills_itself_is_answered_first(daemon: RunningServer) -> None:
    with daemon.connect() as sock:
        assert ask(sock, "CLIENT", "KILL", "ID", ask(sock, "CLIENT", "ID"), "SKIPME", "no") == 1
        assert sock.recv(1) == b""


def test_a_pause_ends_in_time_and_in_order(daemon: RunningServer) -> None:
    expected = b"+OK\r\n:2\r\n$2\r\n12\r\n"
    with daemon.connect() as sock:
        before = time.monotonic()
        daemon.client().client_pause(300, all=False)
        assert ask(sock, "GET", "key") is None
        sock.sendall(b"SET key 1\r\nAPPEND key 2\r\nGET key\r\n")
        received = b""
        while len(received) < len(expected):
            received += sock.recv(100)
    assert received == expected
    assert time.monotonic() - before >= 0.3


def test_a_checkpoint_can_be_served(daemon: RunningServer, tmp_path: Path) -> None:
    client = daemon.client()
    for number in range(1000):
        client.set(f"key:{number}", number)
    assert client.save() is True
    client.flushall()
    (checkpoint,) = (tmp_path / "data" / "checkpoints").iterdir()
    restored = tmp_path / "restored"
    restored.mkdir()
    (restored / "data").symlink_to(checkpoint)
    with kvd_server(restored) as copy:
        assert copy.client().dbsize() == 1000
        assert copy.client().get("key:7") == b"7"
    assert client.dbsize() == 0


def test_shutdown_ends_the_process_and_keeps_the_data(tmp_path: Path) -> None:
    with kvd_server(tmp_path) as server:
        client = server.client()
        client.set("key", "value")
        with server.connect() as sock:
            sock.sendall(b"SHUTDOWN\r\n")
            assert sock.recv(1) == b""
        assert server.process.wait(30) == 0
    with kvd_server(tmp_path) as server:
        assert server.client().get("key") == b"value"


def test_settings_that_were_rewritten_hold_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "kvd.toml"
    file.write_text("# mine\n[log]\nslowlog_max_len = 5 # few\n")
    with kvd_server(tmp_path, "--config", str(file)) as server:
        client = server.client()
        assert client.config_get("slowlog-max-len") == {"slowlog-max-len": "5"}
        client.config_set("slowlog-max-len", 9, "timeout", 300)
        client.config_rewrite()
    assert (
        file.read_text()
        == "# mine\n[log]\nslowlog_max_len = 9 # few\n\n[server]\nidle_timeout_seconds = 300\n"
    )
    with kvd_server(tmp_path, "--config", str(file)) as server:
        assert server.client().config_get("timeout") == {"timeout": "300"}


def test_waitaof_returns_once_the_write_is_on_the_disk(daemon: RunningServer) -> None:
    client = daemon.client()
    client.set("key", "value")
    assert client.waitaof(1, 0, 0) == [1, 0]


def test_info_tells_rates_and_the_port(daemon: RunningServer) -> None:
    client = daemon.client()
    pipeline = client.pipeline(transaction=False)
    for _ in range(5000):
        pipeline.ping()
    pipeline.execute()
    wait_until(lambda: client.info("stats")["instantaneous_ops_per_sec"] > 0, "a rate is shown")
    info = client.info("everything")
    assert info["tcp_port"] == daemon.port
    assert info["process_id"] == daemon.pid
    assert info["total_commands_processed"] > 5000
    assert info["total_net_input_bytes"] > 5000 * len("PING")
    assert info["total_net_output_bytes"] > 5000 * len("+PONG")
    assert info["used_memory_rss"] == pytest.approx(daemon.resident_bytes(), rel=0.2)
    assert info["storage_keys"] == 0


def test_a_slow_command_is_logged_with_its_arguments(daemon: RunningServer) -> None:
    client = daemon.client()
    client.execute_command("DEBUG", "SLEEP", "0.02")
    entry = client.slowlog_get(1)[0]
    assert entry["command"] == b"DEBUG SLEEP 0.02"
    assert entry["duration"] >= 20_000


def test_a_monitor_sees_the_commands_of_others(daemon: RunningServer) -> None:
    client = daemon.client()
    with client.monitor() as monitor:
        client.set("key", "value")
        shown = next(seen for seen in monitor.listen() if seen["command"].startswith("SET"))
    assert shown["command"] == "SET key value"
    assert shown["client_type"] == "tcp"
