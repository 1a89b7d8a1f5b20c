"""Server commands whose replies must be those of Redis, byte for byte: the same requests to both."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Final

import pytest

from tests.kvd.harness import Client, InProcessServer, encode
from tests.kvd.redis_wire import ask_raw
from tests.servers import RunningServer
from tests.servers import redis_server as start_redis_server

pytestmark = pytest.mark.needs_redis

SAME: Final = """
CLIENT
CLIENT FOO
CLIENT MAINT_NOTIFICATIONS ON
CLIENT ID x
CLIENT INFO x
CLIENT GETNAME
CLIENT SETNAME name
CLIENT SETNAME 'a b'
CLIENT SETNAME ''
CLIENT SETNAME
CLIENT LIST foo
CLIENT LIST ID
CLIENT LIST ID 1000000 x
CLIENT LIST ID 1000000
CLIENT LIST ID -5
CLIENT LIST TYPE
CLIENT LIST TYPE foo
CLIENT LIST TYPE replica
CLIENT KILL
CLIENT KILL 1.1.1.1:1
CLIENT KILL ID
CLIENT KILL ID x
CLIENT KILL ID 0
CLIENT KILL ID 1000000
CLIENT KILL ID 1 FOO
CLIENT KILL TYPE foo
CLIENT KILL TYPE pubsub
CLIENT KILL TYPE master
CLIENT KILL USER nobody
CLIENT KILL ADDR 1.1.1.1:1 LADDR 1.1.1.1:2
CLIENT KILL SKIPME foo
CLIENT KILL FOO BAR
CLIENT NO-EVICT on
CLIENT NO-EVICT OFF
CLIENT NO-EVICT foo
CLIENT REPLY ON
CLIENT REPLY foo
CLIENT PAUSE x
CLIENT PAUSE -1
CLIENT PAUSE 1 foo
CLIENT PAUSE 1 WRITE x
CLIENT PAUSE 99999999999999999999
CLIENT UNPAUSE
CLIENT UNBLOCK 1000000
CLIENT UNBLOCK 1000000 ERROR
CLIENT UNBLOCK x
CLIENT UNBLOCK 1 foo
CLIENT UNBLOCK 1 TIMEOUT x
CLIENT TRACKINGINFO
COMMAND FOO
COMMAND COUNT x
COMMAND INFO get
COMMAND INFO foo mget config|get config|foo
COMMAND INFO mset object|encoding
COMMAND INFO time client|list
COMMAND DOCS foo
COMMAND LIST foo
COMMAND LIST FILTERBY
COMMAND LIST FILTERBY foo bar
COMMAND LIST FILTERBY MODULE foo
COMMAND LIST FILTERBY ACLCAT foo
COMMAND LIST FILTERBY PATTERN nothing*
COMMAND LIST FILTERBY PATTERN mge?
COMMAND GETKEYS
COMMAND GETKEYS foo bar
COMMAND GETKEYS get key
COMMAND GETKEYS get key more
COMMAND GETKEYS ping x
COMMAND GETKEYS mset a 1 b 2
COMMAND GETKEYS object encoding key
COMMAND GETKEYS object foo key
COMMAND GETKEYS object encoding
COMMAND GETKEYS config get x
COMMAND GETKEYS spublish channel message
COMMAND GETKEYS ssubscribe a b
COMMAND GETKEYS sunsubscribe
COMMAND GETKEYSANDFLAGS spublish channel message
COMMAND GETKEYSANDFLAGS mset a 1 b 2
COMMAND GETKEYSANDFLAGS set a 1
COMMAND GETKEYSANDFLAGS set a 1 GET
COMMAND GETKEYSANDFLAGS bitfield a GET u8 0
COMMAND GETKEYSANDFLAGS bitfield a SET u8 0 1
COMMAND GETKEYSANDFLAGS copy a b
COMMAND GETKEYSANDFLAGS rename a b
COMMAND GETKEYSANDFLAGS del a b
CONFIG
CONFIG FOO
CONFIG GET
CONFIG GET nothing
CONFIG GET maxmemory
CONFIG GET MAXMEMORY
CONFIG GET maxmemory-polic?
CONFIG GET databases
CONFIG GET client-output-buffer-limit
CONFIG GET slowlog-max-len slowlog-max-len
CONFIG SET
CONFIG SET a
CONFIG SET a b
CONFIG SET a b c
CONFIG SET maxclients abc
CONFIG SET slowlog-max-len 1 slowlog-max-len 2
CONFIG SET slowlog-max-len 7 foo bar
CONFIG GET slowlog-max-len
CONFIG SET slowlog-max-len 7 timeout x
CONFIG GET slowlog-max-len
CONFIG SET slowlog-max-len 7 timeout 0
CONFIG GET slowlog-max-len
CONFIG SET slowlog-max-len 128
CONFIG SET timeout -1
CONFIG SET databases 3
CONFIG SET slowlog-max-len x databases 3
CONFIG SET databases 3 foo bar
CONFIG SET foo bar databases 3
CONFIG SET appendfsync foo
CONFIG SET aclfile x
CONFIG SET protected-mode maybe
CONFIG SET proto-max-bulk-len foo
CONFIG SET notify-keyspace-events Q
CONFIG SET notify-keyspace-events KEA
CONFIG GET notify-keyspace-events
CONFIG SET notify-keyspace-events gxE$
CONFIG GET notify-keyspace-events
CONFIG SET notify-keyspace-events ''
CONFIG SET client-output-buffer-limit 'normal 1 2'
CONFIG SET client-output-buffer-limit 'foo 1 2 3'
CONFIG SET client-output-buffer-limit 'pubsub 1mb 2mb 3 replica 1 2 3'
CONFIG GET client-output-buffer-limit
CONFIG SET client-output-buffer-limit 'pubsub 33554432 8388608 60 slave 268435456 67108864 60'
CONFIG SET maxmemory 0
CONFIG SET maxmemory-policy noeviction
CONFIG RESETSTAT
CONFIG RESETSTAT x
CONFIG REWRITE
SLOWLOG
SLOWLOG FOO
SLOWLOG RESET
SLOWLOG LEN
SLOWLOG GET
SLOWLOG GET 0
SLOWLOG GET -1
SLOWLOG GET -2
SLOWLOG GET x
SLOWLOG GET 1 2
LATENCY
LATENCY FOO
LATENCY LATEST
LATENCY HISTORY foo
LATENCY GRAPH foo
LATENCY RESET
LATENCY RESET a b
LATENCY HISTOGRAM foo
INFO nothing
INFO cluster
TIME x
LASTSAVE x
BGSAVE foo
SHUTDOWN foo
SHUTDOWN SAVE NOSAVE
SHUTDOWN ABORT
SHUTDOWN ABORT NOW
ROLE
WAIT 0 0
WAIT -1 10
WAIT 0 -1
WAIT x 0
WAIT 1 x
REPLICAOF NO ONE
SLAVEOF no one
MODULE LIST
MODULE FOO
CLUSTER
CLUSTER FOO
CLUSTER INFO
CLUSTER NODES
CLUSTER SLOTS
CLUSTER KEYSLOT a
CLUSTER KEYSLOT
READONLY
READWRITE
ASKING
LOLWUT VERSION x
SCAN 0 MATCH
SCAN ''
SCAN x
SCAN 1x
SCAN ' 1'
SCAN +
SCAN +0
SCAN -0
SCAN 00000000000000000000000000
SCAN 18446744073709551616
SCAN 99999999999999999999
SCAN -18446744073709551616
SET small 9999
OBJECT REFCOUNT small
OBJECT FREQ small
SET large 10000
OBJECT REFCOUNT large
OBJECT REFCOUNT nothing
FLUSHALL
DEBUG
DEBUG FOO
DEBUG SLEEP
DEBUG SLEEP 0
DEBUG OBJECT nothing
DEBUG SET-ACTIVE-EXPIRE 0
DEBUG SET-ACTIVE-EXPIRE 1
DEBUG ERROR 'SOME text'
DEBUG QUICKLIST-PACKED-THRESHOLD 100
DEBUG CHANGE-REPL-ID
DEBUG PROTOCOL string
DEBUG PROTOCOL integer
DEBUG PROTOCOL double
DEBUG PROTOCOL null
DEBUG PROTOCOL array
DEBUG PROTOCOL set
DEBUG PROTOCOL map
DEBUG PROTOCOL verbatim
DEBUG PROTOCOL true
DEBUG PROTOCOL false
DEBUG PROTOCOL bignum
DEBUG PROTOCOL foo
MONITOR x
"""


def _requests() -> list[list[str]]:
    return [shlex.split(line) for line in SAME.strip().splitlines()]


@pytest.fixture(scope="module")
def debuggable_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    options = ("--enable-debug-command", "local")
    with start_redis_server(tmp_path_factory.mktemp("redis"), *options) as running:
        yield running


@pytest.mark.parametrize("proto", [2, 3])
def test_replies_are_those_of_redis(debuggable_redis: RunningServer, proto: int) -> None:
    ours = Client(InProcessServer())
    with debuggable_redis.connect() as sock:
        ask_raw(sock, "HELLO", proto)
        ours.raw(encode("HELLO", proto))
        differing = []
        for request in _requests():
            expected = ask_raw(sock, *request)
            got = ours.raw(encode(*request))
            if got != expected:
                differing.append(f"{shlex.join(request)}\n  kvd   {got!r}\n  redis {expected!r}")
    assert not differing, "\n".join(differing)


DIGESTS: Final = """
DEBUG DIGEST
DEBUG POPULATE
DEBUG POPULATE x
DEBUG POPULATE -1
DEBUG POPULATE 5 p -1
DEBUG POPULATE 5 p 1 x
DEBUG DIGEST x
DEBUG DIGEST-VALUE
DEBUG POPULATE 7
SET key:3 mine
DEBUG POPULATE 12 key 10
DEBUG POPULATE 300 'other prefix' 3
MGET key:0 key:3 key:11 key:12 'other prefix:0' 'other prefix:299'
DBSIZE
DEBUG DIGEST
SET number 12345
SET passing v EX 1000
DEBUG DIGEST-VALUE key:0 number missing passing
DEBUG DIGEST
SELECT 3
DEBUG DIGEST
SET a ''
DEBUG DIGEST-VALUE a
DEBUG DIGEST
PERSIST passing
SELECT 0
PERSIST passing
DEBUG DIGEST
FLUSHALL
"""


def test_digests_and_made_keys_are_those_of_redis(debuggable_redis: RunningServer) -> None:
    ours = Client(InProcessServer())
    with debuggable_redis.connect() as sock:
        ask_raw(sock, "FLUSHALL")
        for request in map(shlex.split, DIGESTS.strip().splitlines()):
            assert ours.raw(encode(*request)) == ask_raw(sock, *request), request
