"""What `kvd cluster status` shows of syncs that are under way, and what `kvd cluster cut` says where nothing is cut."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kvd.cli.client import why_unreachable
from kvd.cli.main import main
from kvd.commands.peers import _catch_up
from kvd.peering.report import Bootstrap, CatchUp
from tests.servers import kvd_server

ANSWER: dict[str, Any] = {
    "cluster": "c" * 32,
    "node": "a" * 32,
    "standing": "ready",
    "writable": 1,
    "refusal": None,
    "bootstrap": None,
    "clock_ok": 1,
    "clock_offset_ms": None,
    "held_origins": 0,
    "conflicts": 0,
    "divergences": 0,
    "gc_blocked_by": [],
    "groups": [],
    "members": [],
}


def test_status_shows_what_is_caught_up_with(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        CatchUp(group, bytes([number]) * 16, Bootstrap(fraction, 900, 40_000_000, 10.0, 10.0))
        for number, group, fraction in ((1, 0, 0.5), (2, 7, 0.25))
    ]
    told = [{name.decode(): value for name, value in _catch_up(one).items()} for one in found]
    for one in told:
        one["from"] = one["from"].decode()
    answer = {**ANSWER, "catching_up": told}
    monkeypatch.setattr("kvd.cli.cluster_online._ask", lambda *_arguments, **_options: answer)
    shown = CliRunner().invoke(main, ["cluster", "status"])
    assert shown.exit_code == 0, shown.output
    progress = "% of what was missed (40 MB, 4 MB/s, about 10 s to go)"
    assert f"catches up from 01010101, 50.0 {progress}\n" in shown.output
    assert f"catches up from 02020202, group 7, 25.0 {progress}\n" in shown.output


@pytest.mark.parametrize(("linked", "is_told"), [(0, True), (1, False)])
def test_who_joins_and_reaches_nobody_is_told_where_to_look(
    monkeypatch: pytest.MonkeyPatch, linked: int, is_told: bool
) -> None:
    unknown = dict.fromkeys(("rtt_us", "clock_offset_ms"))
    nothing = dict.fromkeys(("self", "lag_dots", "lag_ms", "queue_bytes", "behind", "blocks_gc"), 0)
    texts = {"id": "b" * 32, "state": "alive", "zone": "", "addresses": [], "groups": []}
    member = {**unknown, **nothing, **texts, "linked": linked}
    answer = {**ANSWER, "standing": "joining", "catching_up": [], "members": [member]}
    monkeypatch.setattr("kvd.cli.cluster_online._ask", lambda *_arguments, **_options: answer)
    shown = CliRunner().invoke(main, ["cluster", "status"])
    assert shown.exit_code == 0, shown.output
    assert ("none yet: see peers.join, the credential, and the log of this node" in shown.output) is is_told


@pytest.mark.parametrize(
    ("held", "told"),
    [
        (0, "this node holds nothing back. Ask one that does: `kvd cluster status --url URL`"),
        (
            2,
            "not held by a majority of the members, as far as it knows. Try again when more of them are linked",
        ),
    ],
)
def test_who_cuts_nothing_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch, held: int, told: str) -> None:
    answers = {"CUT": [], "STATUS": {**ANSWER, "held_origins": held}}
    monkeypatch.setattr("kvd.cli.cluster_online._ask", lambda _url, _command, verb: answers[verb])
    shown = CliRunner().invoke(main, ["cluster", "cut", "--yes"])
    assert shown.exit_code == 1
    assert told in shown.output


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("127.0.0.1:6379", "127.0.0.1:6379: it has no scheme; write redis://host:port"),
        ("http://x:1", "http://x:1: http is no scheme that is known here; write redis://host:port"),
    ],
)
def test_an_address_of_another_kind_is_told_how_to_be_written(url: str, told: str) -> None:
    assert CliRunner().invoke(main, ["cluster", "status", "--url", url]).stderr == f"kvd: {told}\n"


def test_a_port_that_closes_at_once_is_perhaps_another() -> None:
    """As the one for peers does."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def turn_away() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)

        one = threading.Thread(target=turn_away)
        one.start()
        url = f"redis://127.0.0.1:{server.getsockname()[1]}"
        said = CliRunner().invoke(main, ["cluster", "status", "--url", url]).stderr
        one.join()
    assert "is that the port for Redis clients?" in said


def test_a_daemon_with_a_password_says_where_it_is_to_be_written(tmp_path: Path) -> None:
    with kvd_server(tmp_path) as server, server.client() as client:
        client.config_set("requirepass", "geheim")
        said = CliRunner().invoke(main, ["cluster", "status", "--url", server.url]).stderr
        assert said.startswith("kvd: a password is needed; write redis://[user]:password@host:port, ")
        url = server.url.replace("//", "//:geheim@")
        assert "has no peers" in CliRunner().invoke(main, ["cluster", "status", "--url", url]).stderr


def test_what_is_wrong_with_tls_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        untrusted = ssl.SSLCertVerificationError(1, "certificate verify failed")
        untrusted.verify_message = "self-signed certificate"
        raise untrusted

    monkeypatch.setattr("kvd.cli.client._open", fail)
    said = CliRunner().invoke(main, ["cluster", "status", "--url", "rediss://x:1"]).stderr
    assert said == (
        "kvd: rediss://x:1: its certificate is not trusted (self-signed certificate); "
        "name your authority in SSL_CERT_FILE\n"
    )


def test_a_daemon_that_is_down_is_asked_after() -> None:
    assert why_unreachable(ConnectionRefusedError(111, "Connection refused")) == (
        "Connection refused; is the daemon running there?"
    )
