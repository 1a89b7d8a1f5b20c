"""The same conversations with kvd and with redis-server, every byte of the answers compared.

A conversation is written as a play of clients ``a``, ``b`` and ``c``:

    a: SUBSCRIBE news       send, and take everything that is answered
    b! MULTI                send, and take one reply: for requests that are queued
    a?                      take what has come in meanwhile

``{a}`` stands for the id of client a. Where redis-server 7.0 answers otherwise than Redis 7.2, `_CHANGED_TEXTS`
turns the one into the other; there every user shows the flag sanitize-payload, which is therefore taken away.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.compat.wire import Connection, InProcessConnection, SocketConnection
from tests.kvd.harness import InProcessServer
from tests.servers import RunningServer

pytestmark = pytest.mark.needs_redis

_SENTINEL = b"that was all"

PLAYS = {
    "greetings": """
        a: PING
        a: PING hello
        a: PING too many
        a: ECHO x
        a: ECHO
        a: SELECT 15
        a: SELECT 16
        a: SELECT -1
        a: SELECT x
        a: SELECT 0
        a: HELLO 1
        a: HELLO 4
        a: HELLO x
        a: HELLO 2 AUTH
        a: HELLO 2 AUTH nobody nothing
        a: HELLO 2 SETNAME "a b"
        a: HELLO 2 SETNAME me FOO
        a: HELLO 3 FOO
        a: AUTH
        a: AUTH x
        a: AUTH default anything
        a: AUTH nobody x
        a: AUTH a b c
        a: RESET
        a: PING
        a: RESET now
        a: QUIT
    """,
    "transactions": """
        a: EXEC
        a: DISCARD
        a: UNWATCH
        a! MULTI
        a! SET k 1
        a! GET k
        a! INCR k
        a! GETRANGE k
        a! EXEC
        a! MULTI
        a! SET k 1
        a! INCR k
        a! GETRANGE k 0 x
        a! GET k
        a! EXEC
        a! MULTI
        a! MULTI
        a! WATCH k
        a! UNWATCH
        a! PING
        a! EXEC
        a! MULTI
        a! DISCARD
        a: GET k
        a! MULTI
        a! NOSUCH
        a! DISCARD
        a! MULTI
        a! EXEC extra
        a! EXEC
        a! MULTI
        a! SELECT 3
        a! SET k three
        a! EXEC
        a: GET k
        a: SELECT 0
        a: GET k
        a! MULTI
        a! EXEC
        a! MULTI
        a! RESET
        a: EXEC
    """,
    "watching": """
        a: SET k 1
        a: WATCH k
        b: SET k 2
        a! MULTI
        a! GET k
        a! EXEC
        a: WATCH k k other
        a! MULTI
        a! GET k
        a! EXEC
        a: WATCH missing
        b: SET missing 1
        b: DEL missing
        a! MULTI
        a! EXEC
        a: WATCH k
        a: SET k 3
        a! MULTI
        a! EXEC
        a: WATCH k
        b: EXPIRE k 1000
        a! MULTI
        a! EXEC
        a: WATCH k
        b: SELECT 1
        b: SET k elsewhere
        b: SELECT 0
        a! MULTI
        a! EXEC
        a: WATCH k
        b: FLUSHALL
        a! MULTI
        a! EXEC
        a: WATCH nothing
        b: FLUSHALL
        a! MULTI
        a! EXEC
        a: WATCH k
        b: SET k 1
        a: UNWATCH
        a! MULTI
        a! EXEC
        a: WATCH k
        b: SET k 1
        a! MULTI
        a! DISCARD
        a! MULTI
        a! EXEC
        a: WATCH
    """,
    "channels": """
        a: SUBSCRIBE one two one
        b: PUBLISH one hello
        b: PUBLISH two world
        b: PUBLISH three nobody
        a?
        a: PSUBSCRIBE o* t?o *
        b: PUBLISH three x
        b: PUBSUB CHANNELS t*
        b: PUBSUB CHANNELS nothing
        b: PUBSUB CHANNELS a b
        b: PUBSUB NUMSUB
        b: PUBSUB NUMSUB one two three
        b: PUBSUB NUMPAT
        b: PUBSUB NUMPAT x
        b: PUBSUB NOSUCH
        b: PUBSUB
        a: UNSUBSCRIBE two
        a: UNSUBSCRIBE never
        a: PUNSUBSCRIBE never
        a: PUNSUBSCRIBE o*
        b: PUBLISH three x
        a: UNSUBSCRIBE
        a: UNSUBSCRIBE
        a: PUNSUBSCRIBE t?o
        a: PUNSUBSCRIBE
        a: PUNSUBSCRIBE
        a: GET k
        b: PUBSUB NUMPAT
        b: SUBSCRIBE
        b: PUBLISH one
    """,
    "shard channels": """
        a: SSUBSCRIBE one two
        b: SPUBLISH one hello
        b: PUBLISH one not-this
        a: PSUBSCRIBE *
        b: SPUBLISH two hello
        b: PUBSUB SHARDNUMSUB one two three
        b: PUBSUB SHARDCHANNELS o*
        a: SUNSUBSCRIBE one
        a: SUNSUBSCRIBE
        a: SUNSUBSCRIBE
        a: PUNSUBSCRIBE *
        a: GET k
        b: SPUBLISH one
    """,
    "subscribers may not do much in RESP2": """
        a: SUBSCRIBE ch
        a: GET k
        a: SET k 1
        a: CLIENT ID x
        a: PING
        a: PING hello
        a: NOSUCH
        a! MULTI
        a! GET k
        a: RESET
        a: GET k
        b: PUBLISH ch x
        a?
    """,
    "publishing in a transaction": """
        a: SUBSCRIBE ch
        b! MULTI
        b! SET k 1
        b! PUBLISH ch one
        b! PUBLISH ch two
        b! EXEC
        a?
    """,
    "subscribing in a transaction": """
        a! MULTI
        a! SET k 1
        a! SUBSCRIBE ch
        a! EXEC
        b: PUBLISH ch x
        a?
    """,
    "subscribing to shard channels in a transaction": """
        a! MULTI
        a! SSUBSCRIBE news
        a! SUBSCRIBE news
        a! SUNSUBSCRIBE news
        a! EXEC
        b: SPUBLISH news x
        a?
    """,
    "keyspace events": """
        b: CONFIG SET notify-keyspace-events KEA
        a: PSUBSCRIBE __key*__:*
        b: SET k 1
        a?
        b: INCR k
        a?
        b: EXPIRE k 100
        a?
        b: PERSIST k
        a?
        b: APPEND k x
        a?
        b: DEL k
        a?
        b: SELECT 3
        b: SET k 1 EX 100
        a?
        b: RENAME k l
        a?
        b: SETRANGE l 0 x
        a?
        b: GETDEL l
        a?
        b: MSET a 1 b 2
        a?
        b: COPY a c
        a?
        b: GETEX c PX 100000
        a?
        b: EXPIRE c -1
        a?
        b: CONFIG SET notify-keyspace-events Kg
        b: SET k 1
        b: DEL k
        a?
        b: CONFIG SET notify-keyspace-events Em
        b: GET k
        b: EXISTS k
        a?
        b: CONFIG SET notify-keyspace-events En
        b: SET k 1
        b: SET k 2
        a?
        b: CONFIG SET notify-keyspace-events ""
        b: DEL k
        a?
    """,
    "tracking by default": """
        a: CLIENT TRACKING ON
        b: SET k 1
        a: GET k
        b: SET k 2
        a?
        b: SET k 3
        a?
        a: MGET k l m
        b: MSET l 1 m 2
        a?
        a: GET l
        a: SET l x
        a?
        a: GET l
        a: INCR n
        b: DEL l n
        a?
        a: GET l
        b: FLUSHALL
        a?
        a: EXISTS k
        b: EXPIRE k 100
        b: SET k 1
        a?
        a: TTL k
        b: EXPIRE k 100
        a?
        a! MULTI
        a! GET k
        a! EXEC
        b: APPEND k 1
        a?
        a: GET k
        a: CLIENT TRACKING OFF
        b: SET k 1
        a?
        a: CLIENT TRACKINGINFO
        a: CLIENT GETREDIR
    """,
    "tracking without one's own writes": """
        a: CLIENT TRACKING ON NOLOOP
        a: GET k
        a: SET k 1
        a?
        a: GET k
        b: SET k 2
        a?
        a: GET k
        a! MULTI
        a! SET k 3
        a! SET l 3
        a! EXEC
        a?
        a: GET k
        b! MULTI
        b! SET k 4
        b! EXEC
        a?
        a: CLIENT TRACKINGINFO
    """,
    "tracking on demand": """
        a: CLIENT TRACKING ON OPTIN
        a: GET k
        b: SET k 1
        a?
        a! CLIENT CACHING YES
        a! GET k
        b: SET k 2
        a?
        a! CLIENT CACHING YES
        a! PING
        a! GET k
        b: SET k 3
        a?
        a! CLIENT CACHING YES
        a! MULTI
        a! GET k
        a! GET l
        a! EXEC
        b: MSET k 4 l 4
        a?
        a: CLIENT CACHING NO
        a: CLIENT CACHING maybe
        a! CLIENT CACHING YES
        a! CLIENT TRACKINGINFO
        a: CLIENT TRACKING ON OPTOUT
        a: CLIENT TRACKING OFF
        a: CLIENT TRACKING ON OPTOUT
        a: GET k
        b: SET k 5
        a?
        a! CLIENT CACHING NO
        a! CLIENT TRACKINGINFO
        a! CLIENT CACHING NO
        a! GET k
        b: SET k 6
        a?
        a: CLIENT CACHING YES
    """,
    "tracking by prefix": """
        a: CLIENT TRACKING ON BCAST PREFIX user: PREFIX item:
        b: SET user:1 x
        a?
        b: SET other x
        a?
        b: MSET item:1 a user:2 b other c
        b: DEL item:1
        a?
        a: SET user:3 mine
        a?
        a: CLIENT TRACKING ON BCAST PREFIX u
        a: CLIENT TRACKING ON BCAST PREFIX user:1
        a: CLIENT TRACKING ON BCAST PREFIX x PREFIX xy
        a: CLIENT TRACKING ON BCAST PREFIX new: NOLOOP
        a: CLIENT TRACKINGINFO
        a: SET new:1 mine
        a?
        b: SET new:1 x
        b: SET user:1 y
        a?
        a: CLIENT TRACKING ON
        a: CLIENT TRACKING OFF
        a: CLIENT TRACKING ON BCAST
        a: CLIENT TRACKINGINFO
        b: SET anything x
        a?
        b: FLUSHALL
        a?
    """,
    "tracking through another connection": """
        c: SUBSCRIBE __redis__:invalidate
        a: CLIENT TRACKING ON REDIRECT {c}
        a: CLIENT TRACKINGINFO
        a: GET k
        b: SET k 1
        c?
        a?
        a: GET k
        b: FLUSHALL
        c?
        a: GET k
        c: UNSUBSCRIBE
        b: SET k 2
        c?
        a: GET k
        c: QUIT
        b: SET k 3
        a?
        a: CLIENT TRACKINGINFO
        a: CLIENT TRACKING ON
        a: CLIENT TRACKINGINFO
    """,
    "tracking by prefix through another connection": """
        c: SUBSCRIBE __redis__:invalidate
        a: CLIENT TRACKING ON REDIRECT {c} BCAST PREFIX p: NOLOOP
        b: MSET p:1 x p:2 y q z
        c?
        a: SET p:3 mine
        c?
    """,
    "tracking refused": """
        a: CLIENT TRACKING
        a: CLIENT TRACKING maybe
        a: CLIENT TRACKING ON REDIRECT
        a: CLIENT TRACKING ON REDIRECT x
        a: CLIENT TRACKING ON REDIRECT 999999
        a: CLIENT TRACKING ON REDIRECT {b} REDIRECT {b}
        a: CLIENT TRACKING ON REDIRECT 0
        a: CLIENT TRACKING ON PREFIX a
        a: CLIENT TRACKING ON BCAST OPTIN
        a: CLIENT TRACKING ON OPTIN OPTOUT
        a: CLIENT TRACKING ON WHATEVER
        a: CLIENT CACHING YES
        a: CLIENT TRACKINGINFO
        a: CLIENT TRACKING ON
        a: CLIENT CACHING YES
        a: CLIENT CACHING NO
    """,
    "users": """
        a: ACL WHOAMI
        a: ACL USERS
        a: ACL SETUSER default skip-sanitize-payload
        a: ACL LIST
        a: ACL GETUSER default
        a: ACL GETUSER nobody
        a: ACL SETUSER alice skip-sanitize-payload
        a: ACL GETUSER alice
        a: ACL LIST
        a: ACL SETUSER alice on >one >two ~key:* %R~r:* %W~w:* %RW~rw:* &ch:* +get
        a: ACL LIST
        a: ACL GETUSER alice
        a: ACL SETUSER alice <one (~x:* +set) (%R~y:* &* +get)
        a: ACL GETUSER alice
        a: ACL SETUSER alice clearselectors resetkeys resetchannels nopass allkeys allchannels
        a: ACL LIST
        a: ACL SETUSER alice reset skip-sanitize-payload
        a: ACL GETUSER alice
        a: ACL SETUSER bob skip-sanitize-payload allcommands -flushall
        a: ACL GETUSER bob
        a: ACL SETUSER bob nocommands +client|id
        a: ACL GETUSER bob
        a: ACL SETUSER bob nocommands +select|1 +select|2
        a: ACL GETUSER bob
        a: ACL DELUSER alice nobody
        a: ACL DELUSER default
        a: ACL USERS
        a: ACL CAT
        a: ACL CAT nosuch
        a: ACL CAT a b
        a: ACL GENPASS 0
        a: ACL GENPASS 4097
        a: ACL GENPASS x
        a: ACL LOG x
        a: ACL LOG 0
        a: ACL NOSUCH
        a: ACL
    """,
    "rules refused": """
        a: ACL SETUSER u +nosuch
        a: ACL SETUSER u -nosuch
        a: ACL SETUSER u +@nosuch
        a: ACL SETUSER u ~* ~a
        a: ACL SETUSER u &* &a
        a: ACL SETUSER u <nopassword
        a: ACL SETUSER u #short
        a: ACL SETUSER u !short
        a: ACL SETUSER u +client|id|x
        a: ACL SETUSER u +client|nosuch
        a: ACL SETUSER u -select|0
        a: ACL SETUSER u +get|
        a: ACL SETUSER u %X~a
        a: ACL SETUSER u %~a
        a: ACL SETUSER u (+get
        a: ACL SETUSER u (on)
        a: ACL SETUSER u nonsense
        a: ACL SETUSER u "~a b"
        a: ACL SETUSER u "&a b"
        a: ACL SETUSER "u v" on
        a: ACL SETUSER
        a: ACL USERS
    """,
    "what a user may do": """
        a: ACL SETUSER bob on >pw ~key:* %R~r:* %W~w:* &ch:* +@all -flushall -client|setname
        a: ACL DRYRUN bob get key:1
        a: ACL DRYRUN bob get other
        a: ACL DRYRUN bob get r:1
        a: ACL DRYRUN bob set r:1 x
        a: ACL DRYRUN bob set w:1 x
        a: ACL DRYRUN bob set w:1 x get
        a: ACL DRYRUN bob get w:1
        a: ACL DRYRUN bob append w:1 x
        a: ACL DRYRUN bob exists w:1
        a: ACL DRYRUN bob mset key:1 a other b
        a: ACL DRYRUN bob copy r:1 w:1
        a: ACL DRYRUN bob copy w:1 r:1
        a: ACL DRYRUN bob bitfield r:1 get u8 0
        a: ACL DRYRUN bob bitfield r:1 set u8 0 1
        a: ACL DRYRUN bob bitop and w:1 r:1 r:2
        a: ACL DRYRUN bob publish ch:1 x
        a: ACL DRYRUN bob publish other x
        a: ACL DRYRUN bob subscribe ch:1 other
        a: ACL DRYRUN bob psubscribe ch:*
        a: ACL DRYRUN bob psubscribe ch:1*
        a: ACL DRYRUN bob unsubscribe other
        a: ACL DRYRUN bob spublish other x
        a: ACL DRYRUN bob ssubscribe other
        a: ACL DRYRUN bob sunsubscribe other
        a: ACL DRYRUN bob flushall
        a: ACL DRYRUN bob client setname x
        a: ACL DRYRUN bob client getname
        a: ACL DRYRUN bob client
        a: ACL DRYRUN bob watch other
        a: ACL DRYRUN bob nosuch
        a: ACL DRYRUN bob get
        a: ACL DRYRUN nobody get x
        a: ACL DRYRUN default flushall
        a: ACL DRYRUN bob auth x
    """,
    "what a user may do by script": """
        a: ACL SETUSER bob on nopass ~key:* +@all -set
        a: ACL DRYRUN bob eval "return 1" 1 other
        a: ACL DRYRUN bob eval "return 1" 1 key:1
        a: ACL DRYRUN bob eval "return 1" 0
        b: AUTH bob x
        b: EVAL "return redis.call('get', KEYS[1])" 1 key:1
        b: EVAL "return redis.call('get', KEYS[1])" 1 other
        b: EVAL "return redis.call('ping')" 0
    """,
    "tracking by script": """
        a: CLIENT TRACKING ON
        a: EVAL "return redis.call('get', KEYS[1])" 1 k
        b: SET k 1
        a?
        a: GET k
        b: EVAL "return redis.call('incr', KEYS[1])" 1 k
        a?
    """,
    "publishing and watching by script": """
        a: SUBSCRIBE ch
        b: EVAL "return redis.call('publish', 'ch', 'x')" 0
        a?
        b: WATCH k
        c: EVAL "return redis.call('set', 'k', 'x')" 0
        b! MULTI
        b! EXEC
    """,
    "a user at work": """
        a: ACL SETUSER bob on >pw ~key:* &ch:* +@all -flushall -client|setname
        b: AUTH bob wrong
        b: AUTH bob pw
        b: ACL WHOAMI
        b: SET key:1 x
        b: FLUSHALL
        b: CLIENT SETNAME x
        b: GET other
        b: PUBLISH other x
        b: SUBSCRIBE other
        b! MULTI
        b! GET other
        b! EXEC
        b! MULTI
        b! GET key:1
        a: ACL SETUSER bob -get
        b! EXEC
        a: ACL SETUSER bob +get
        b! MULTI
        b! GET key:1
        b! PUBLISH ch:1 x
        b! GET key:1
        a: ACL SETUSER bob resetkeys ~other:* resetchannels
        b! EXEC
        a: ACL SETUSER bob off
        b: GET other:1
        c: AUTH bob pw
        a: ACL SETUSER bob on nopass
        c: AUTH bob whatever
        c: GET other:1
    """,
    "a password for everybody": """
        a: ACL SETUSER default resetpass >secret
        a: ACL SETUSER admin on nopass +@all ~* &*
        b: RESET
        b: GET k
        b: NOSUCH
        b: GET
        b: PING
        b: HELLO
        b: HELLO 2
        b: HELLO 2 AUTH default wrong
        b: AUTH wrong
        b: AUTH secret
        b: GET k
        b: RESET
        b: ACL WHOAMI
        b: MULTI
        b: AUTH default secret
        b: ACL WHOAMI
    """,
}


class _Actor:
    """One client, on either server."""

    def __init__(self, connection: Connection, proto: int) -> None:
        self._connection = connection
        self.one([b"HELLO", b"%d" % proto])
        self.id = int(self.one([b"CLIENT", b"ID"])[1:])

    def one(self, request: list[bytes]) -> bytes:
        self._connection.send(request)
        return self._connection.next_frame()

    def all(self, request: list[bytes]) -> list[bytes]:
        """Send a request, or nothing, and return every frame up to now."""
        if request:
            self._connection.send(request)
        if request == [b"QUIT"]:
            last = self._connection.next_frame()
            self._connection.close()
            return [last]
        self._connection.send([b"PING", _SENTINEL])
        frames: list[bytes] = []
        while True:
            frame = self._connection.next_frame()
            if _SENTINEL in frame:
                return frames
            if frame.startswith(b"-NOAUTH Authentication required.") and frames:
                return frames  # the answer to our own PING
            frames.append(frame)

    def close(self) -> None:
        self._connection.close()


def _perform(play: str, connect: Callable[[], Connection], proto: int) -> list[tuple[str, list[bytes]]]:
    """Return each line of a play with its answers, ids replaced by the names of their clients."""
    actors = {name: _Actor(connect(), proto) for name in "abc"}
    names = {b"%d" % actor.id: name.encode() for name, actor in actors.items()}
    transcript = []
    try:
        for line in filter(None, map(str.strip, play.splitlines())):
            frames = _speak(actors, line)
            transcript.append(
                (line, [_SHOWN_ID.sub(lambda found: _name(found, names), each) for each in frames])
            )
    finally:
        for actor in actors.values():
            actor.close()
    return transcript


def _speak(actors: dict[str, _Actor], line: str) -> list[bytes]:
    actor, mark = actors[line[0]], line[1]
    text = line[2:].format(**{name: each.id for name, each in actors.items()})
    request = [word.encode() for word in shlex.split(text)]
    return [actor.one(request)] if mark == "!" else actor.all(request)


# Where an answer shows the id of a client.
_SHOWN_ID = re.compile(rb"(?<=redirect\r\n:)\d+|(?<=redir-broken\r\n:)\d+")


def _name(found: re.Match[bytes], names: dict[bytes, bytes]) -> bytes:
    return names.get(found[0], found[0])


def _redis_connection(server: RunningServer) -> Connection:
    return SocketConnection(server.connect(timeout=10))


@pytest.fixture
def redis(redis_server: RunningServer) -> Iterator[RunningServer]:
    yield redis_server
    with redis_server.client(username="default", password="secret") as client:
        client.execute_command("ACL", "SETUSER", "default", "reset", "on", "nopass", "+@all", "~*", "&*")
        for name in client.execute_command("ACL", "USERS"):
            if name != b"default":
                client.execute_command("ACL", "DELUSER", name)
        client.config_set("notify-keyspace-events", "")
        client.flushall()


# How redis-server 7.0 writes what Redis 7.2 writes otherwise; the user in question is called bob.
_CHANGED_TEXTS: tuple[tuple[bytes, Any], ...] = (
    (b"-NOPERM this user has no permissions to run the", b"-NOPERM User bob has no permissions to run the"),
    (
        b"-NOPERM this user has no permissions to access one of the (key|channel)s[^\r]*",
        rb"-NOPERM No permissions to access a \1",
    ),
    (b"otherwise the HELLO AUTH <user>", b"otherwise the HELLO <proto> AUTH <user>"),
    # One byte shorter.
    (rb"\$(\d+)\r\nThis user has", lambda found: b"$%d\r\nUser bob has" % (int(found[1]) - 1)),
)


def _as_in_7_2(frame: bytes) -> bytes:
    for old, new in _CHANGED_TEXTS:
        frame = re.sub(old, new, frame)
    return frame


@pytest.mark.parametrize("proto", [2, 3], ids=["RESP2", "RESP3"])
@pytest.mark.parametrize("name", PLAYS)
def test_a_conversation_goes_as_with_redis(name: str, proto: int, redis: RunningServer) -> None:
    expected = _perform(PLAYS[name], lambda: _redis_connection(redis), proto)
    server = InProcessServer()
    actual = _perform(PLAYS[name], lambda: InProcessConnection(server), proto)
    for (line, wanted), (_, given) in zip(expected, actual, strict=True):
        assert given == [_as_in_7_2(frame) for frame in wanted], line
