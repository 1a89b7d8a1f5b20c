"""What the comparison with redis-server says: one strategy of hypothesis for each command.

`STEPS` maps a command's full name (``CONFIG GET`` for a subcommand) to a strategy of *steps*; a step is the
list of requests that have to be sent one after another. To let a command take part, add one entry: mostly a
call of `step` with the pieces that its requests are put together from.

Arguments are drawn from small pools, so that requests meet the same keys, and each pool holds what is wrong
as well: numbers that are none, times that have passed, options that exclude one another.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

from hypothesis import strategies as st

from kvd.commands.table import CommandTable
from kvd.crc64 import crc64

Request: TypeAlias = list[bytes]
Step: TypeAlias = list[Request]
# A piece of a request: fixed words, or a strategy of one word or of several.
Piece: TypeAlias = bytes | st.SearchStrategy[bytes | list[bytes]]

KEYS: Final = (b"a", b"b", b"c", b"user:1", b"user:2", b"user:10", b"us*r", b"", b"\x00\xff\r\n")
# Far enough away that no test lives to see it: 2100-01-01.
FUTURE_SECONDS: Final = 4_102_444_800
_I64_MAX: Final = (1 << 63) - 1

# Requests have to meet: most speak of the same few keys.
key = st.sampled_from((b"a",) * 6 + (b"b",) * 5 + (b"user:1",) * 4 + KEYS)


def mostly(usual: st.SearchStrategy[bytes], other: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """The usual four times out of five."""
    return st.one_of(usual, usual, usual, usual, other)


not_integers = st.sampled_from(
    [b"", b" 1", b"1 ", *b"x 1x +1 01 -0 1.0 1_0 9223372036854775808 -9223372036854775809".split(), b"1" * 40]
)
_near_zero = st.integers(-3, 12).map(b"%d".__mod__)
_limits = st.sampled_from([_I64_MAX, _I64_MAX - 1, -_I64_MAX - 1, 1 << 32, -(1 << 31), 100, 255, 256])
integer = mostly(st.one_of(_near_zero, _near_zero, _limits.map(b"%d".__mod__)), not_integers)
small = mostly(st.integers(-12, 70).map(b"%d".__mod__), integer)
decimal = st.one_of(
    st.sampled_from(
        [
            *b"0.1 -0.1 3.0e3 1e-5 5e20 -1.5 .5 7. inf -inf nan 0x1p3 1e 1e308".split(),
            *b"1e4932 1e5000 1e-4960 1.000000000000000055".split(),
        ]
    ),
    st.decimals(-1000, 1000, places=5).map(lambda number: str(number).encode()),
    st.decimals(-1, 1, places=19).map(lambda number: str(number).encode()),
    integer,
)
value = st.one_of(
    st.sampled_from(
        [b"", b"foo", b"foobar", b"\x00", b"\xff\xf0\x00", b"\xff\xff", b"x" * 44, b"y" * 45, b"ab" * 40]
    ),
    st.text("abc", max_size=14).map(str.encode),
    st.binary(max_size=24),
    integer,
    decimal,
)
pattern = st.one_of(
    st.sampled_from(
        [
            b"*",
            b"user:*",
            b"u*r*",
            b"?",
            b"[a-b]",
            b"[^a]",
            b"us\\*r",
            b"user:[1-2]",
            b"**",
            b"a",
            b"[",
            b"\\",
        ]
    ),
    st.text(alphabet="au*?[]^-\\:12r", max_size=8).map(str.encode),
)
junk = st.sampled_from([b"foo", b"", b"NX", b"KEEPTTL", b"\xff", b"*", b"0"])

# Whole times that never run out during a test, and all sorts of wrong ones. Even numbers for what counts
# from now, so that comparing two expiries (GT, LT) never hangs on a millisecond.
lifetime_seconds = st.sampled_from([b"100", b"1000", b"50000"])
wrong_lifetime = st.one_of(
    st.sampled_from([b"0", b"-1", b"%d" % _I64_MAX, b"%d" % (_I64_MAX // 1000)]), not_integers
)
lifetime_ms = st.sampled_from([b"100000", b"1000000", b"50000000"])
moment_seconds = st.integers(FUTURE_SECONDS, FUTURE_SECONDS + 5).map(b"%d".__mod__)
moment_ms = st.integers(FUTURE_SECONDS * 1000, FUTURE_SECONDS * 1000 + 5).map(b"%d".__mod__)


def either(*alternatives: Piece) -> st.SearchStrategy[list[bytes]]:
    """One of several pieces."""
    return st.one_of([_words(alternative) for alternative in alternatives])


def maybe(*pieces: Piece) -> st.SearchStrategy[list[bytes]]:
    """All pieces, or nothing."""
    return st.one_of(st.just([]), joined(*pieces))


def several(*pieces: Piece, least: int = 1, most: int = 3) -> st.SearchStrategy[list[bytes]]:
    """The pieces again and again."""
    return st.lists(joined(*pieces), min_size=least, max_size=most).map(_flat)


def shuffled(*options: st.SearchStrategy[list[bytes]], most: int = 3) -> st.SearchStrategy[list[bytes]]:
    """Some of the options in any order, the same one twice too."""
    return st.lists(st.one_of(options), max_size=most).map(_flat)


def joined(*pieces: Piece) -> st.SearchStrategy[list[bytes]]:
    """The words of all pieces, in order."""
    return st.tuples(*[_words(piece) for piece in pieces]).map(_flat)


def _words(piece: Piece) -> st.SearchStrategy[list[bytes]]:
    if isinstance(piece, bytes):
        return st.just(piece.split())
    return piece.map(lambda found: [found] if isinstance(found, bytes) else found)


def _flat(parts: Iterable[list[bytes]]) -> list[bytes]:
    return [word for part in parts for word in part]


def step(*pieces: Piece) -> st.SearchStrategy[Step]:
    """Steps of one request each."""
    return joined(*pieces).map(lambda request: [request])


def _then_look(requests: Step) -> Step:
    """Ask for the key: Redis counts a key that was born expired until someone asks for it."""
    return [*requests, [b"EXISTS", requests[0][1]]] if len(requests[0]) > 1 else requests


_relative = either(
    joined(b"EX", lifetime_seconds),
    joined(b"PX", lifetime_ms),
    joined(b"EXAT", moment_seconds),
    joined(b"PXAT", moment_ms),
)
_wrong_expiry = either(
    joined(st.sampled_from([b"EX", b"PX", b"EXAT", b"PXAT"]), wrong_lifetime), b"EX", b"EXAT 1", b"PXAT 1"
)
_set_options = shuffled(
    _words(b"NX"),
    _words(b"XX"),
    _words(b"GET"),
    _words(b"KEEPTTL"),
    _relative,
    _relative,
    _wrong_expiry,
    _words(junk),
)
_getex_options = shuffled(_words(b"PERSIST"), _relative, _wrong_expiry, _words(junk), most=2)
_conditions = shuffled(_words(b"NX"), _words(b"XX"), _words(b"GT"), _words(b"LT"), _words(b"ZZ"), most=2)
_unit = maybe(mostly(st.sampled_from([b"BYTE", b"BIT", b"bit"]), junk))
_field = joined(
    mostly(
        st.sampled_from([b"u1", b"u8", b"u63", b"i1", b"i8", b"i64", b"i5"]),
        st.sampled_from([b"u64", b"i65", b"x8", b"u0", b"u", b"I8"]),
    ),
    mostly(
        st.sampled_from([b"0", b"1", b"7", b"100", b"#0", b"#1", b"#3"]),
        st.sampled_from([b"-1", b"#-1", b"x", b"99999999999", b"#"]),
    ),
)
_overflow = joined(b"OVERFLOW", mostly(st.sampled_from([b"WRAP", b"SAT", b"FAIL", b"sat"]), junk))
_field_operation = either(
    joined(b"GET", _field),
    joined(b"SET", _field, integer),
    joined(b"INCRBY", _field, integer),
    joined(_overflow, b"SET", _field, integer),
    joined(_overflow, b"INCRBY", _field, integer),
    joined(b"SET", _field, st.sampled_from([b"200", b"-100", b"15"])),
    st.one_of(st.just([b"GET"]), _overflow, _words(junk)),
)


def sealed(body: bytes) -> bytes:
    """Return a DUMP payload of a version that every server reads."""
    body += (9).to_bytes(2, "little")
    return body + crc64(body).to_bytes(8, "little")


wrong_payloads = st.sampled_from([b"", b"short", sealed(b"\x00\x03foo")[:-1] + b"!", sealed(b"\x00\x3ffoo")])

# What both servers hold before a script begins: values to work on, and two keys that expire.
seeds = st.tuples(value, value, value, value).map(
    lambda values: [
        [b"MSET", b"a", values[0], b"b", values[1], b"user:1", values[2], b"c", values[3]],
        [b"PEXPIREAT", b"a", b"%d" % (FUTURE_SECONDS * 1000)],
        [b"COPY", b"b", b"b", b"DB", b"1"],
        [b"PEXPIREAT", b"user:1", b"%d" % (FUTURE_SECONDS * 1000 + 3)],
    ]
)

STRINGS: Final[dict[str, st.SearchStrategy[Step]]] = {
    "GET": step(b"GET", key),
    "SET": step(b"SET", key, value, _set_options).map(_then_look),
    "SETNX": step(b"SETNX", key, value),
    "SETEX": step(b"SETEX", key, mostly(lifetime_seconds, wrong_lifetime), value),
    "PSETEX": step(b"PSETEX", key, mostly(lifetime_ms, wrong_lifetime), value),
    "GETSET": step(b"GETSET", key, value),
    "GETDEL": step(b"GETDEL", key),
    "GETEX": step(b"GETEX", key, _getex_options),
    "MGET": step(b"MGET", several(key)),
    "MSET": step(b"MSET", several(key, value), maybe(key)),
    "MSETNX": step(b"MSETNX", several(key, value), maybe(key)),
    "APPEND": step(b"APPEND", key, value),
    "STRLEN": step(b"STRLEN", key),
    "GETRANGE": step(b"GETRANGE", key, integer, integer),
    "SUBSTR": step(b"SUBSTR", key, integer, integer),
    "SETRANGE": step(b"SETRANGE", key, small, value),
    "INCR": step(b"INCR", key),
    "DECR": step(b"DECR", key),
    "INCRBY": step(b"INCRBY", key, integer),
    "DECRBY": step(b"DECRBY", key, integer),
    "INCRBYFLOAT": step(b"INCRBYFLOAT", key, decimal),
    "LCS": step(
        b"LCS",
        key,
        key,
        shuffled(
            _words(b"LEN"),
            _words(b"IDX"),
            _words(b"WITHMATCHLEN"),
            joined(b"MINMATCHLEN", integer),
            _words(junk),
        ),
    ),
}

BITMAPS: Final[dict[str, st.SearchStrategy[Step]]] = {
    "SETBIT": step(b"SETBIT", key, small, st.sampled_from([b"0", b"1", b"2", b"x"])),
    "GETBIT": step(b"GETBIT", key, small),
    "BITCOUNT": step(b"BITCOUNT", key, maybe(small, maybe(small, _unit))),
    "BITPOS": step(
        b"BITPOS",
        key,
        either(st.sampled_from([b"0", b"1"]), integer),
        maybe(small, maybe(small, _unit)),
    ),
    "BITOP": step(b"BITOP", st.sampled_from([b"AND", b"or", b"XOR", b"NOT", b"foo"]), key, several(key)),
    "BITFIELD": step(b"BITFIELD", key, several(_field_operation, least=0)),
    "BITFIELD_RO": step(b"BITFIELD_RO", key, several(_field_operation, least=0)),
}

GENERIC: Final[dict[str, st.SearchStrategy[Step]]] = {
    "DEL": step(b"DEL", several(key)),
    "UNLINK": step(b"UNLINK", several(key)),
    "EXISTS": step(b"EXISTS", several(key)),
    "TOUCH": step(b"TOUCH", several(key)),
    "TYPE": step(b"TYPE", key),
    "KEYS": step(b"KEYS", pattern),
    "SCAN": step(
        b"SCAN 0 COUNT 1000",
        shuffled(
            joined(b"MATCH", pattern),
            joined(b"TYPE", st.sampled_from([b"string", b"STRING", b"list", b"foo"])),
            _words(junk),
            joined(b"COUNT", st.sampled_from([b"1000", b"0", b"x"])),
            most=2,
        ),
    ),
    "RANDOMKEY": step(b"RANDOMKEY"),
    "RENAME": step(b"RENAME", key, key),
    "RENAMENX": step(b"RENAMENX", key, key),
    "COPY": step(
        b"COPY",
        key,
        key,
        shuffled(
            _words(b"REPLACE"),
            joined(b"DB", st.sampled_from([b"0", b"1", b"16", b"-1", b"x"])),
            _words(junk),
            most=2,
        ),
    ),
    "MOVE": step(b"MOVE", key, mostly(st.just(b"1"), st.sampled_from([b"0", b"16", b"x", b"99999999999"]))),
    "DBSIZE": step(b"DBSIZE"),
    "FLUSHDB": step(b"FLUSHDB", maybe(st.sampled_from([b"SYNC", b"async", b"foo"]))),
    "FLUSHALL": step(b"FLUSHALL", maybe(st.sampled_from([b"SYNC", b"async", b"foo"]))),
    "OBJECT ENCODING": st.builds(
        lambda name, held: [[b"SET", name, held], [b"OBJECT", b"ENCODING", name]], key, value
    ),
    "OBJECT FREQ": step(b"OBJECT FREQ", key),
    "OBJECT IDLETIME": step(b"OBJECT IDLETIME", key),
    # What a transaction sets is held by its queue as well, until it ends; what INCR makes is not.
    "OBJECT REFCOUNT": st.builds(
        lambda name, held: [[b"SET", name, held], [b"INCR", name], [b"OBJECT", b"REFCOUNT", name]],
        key,
        st.sampled_from([b"0", b"9998", b"9999", b"-1", b"-2", b"%d" % (1 << 40)]),
    )
    | st.builds(lambda name: [[b"DEL", name], [b"OBJECT", b"REFCOUNT", name]], key),
    "OBJECT HELP": step(b"OBJECT HELP"),
    "MEMORY USAGE": step(b"MEMORY USAGE", key, maybe(b"SAMPLES", integer)),
    "DUMP": step(b"DUMP", key),
    "RESTORE": step(
        b"RESTORE",
        key,
        either(b"0", lifetime_ms, moment_ms, moment_ms, b"-1", not_integers),
        mostly(st.sampled_from([sealed(b"\x00\x03foo"), sealed(b"\x00\xc0{")]), wrong_payloads),
        shuffled(
            _words(b"REPLACE"),
            _words(b"ABSTTL"),
            joined(b"IDLETIME", integer),
            joined(b"FREQ", integer),
            _words(junk),
        ),
    ).map(_then_look),
}

EXPIRY: Final[dict[str, st.SearchStrategy[Step]]] = {
    "EXPIRE": step(b"EXPIRE", key, mostly(lifetime_seconds, wrong_lifetime), _conditions),
    "PEXPIRE": step(b"PEXPIRE", key, mostly(lifetime_ms, wrong_lifetime), _conditions),
    "EXPIREAT": step(b"EXPIREAT", key, mostly(moment_seconds, wrong_lifetime), _conditions),
    "PEXPIREAT": step(b"PEXPIREAT", key, mostly(moment_ms, wrong_lifetime), _conditions),
    "TTL": step(b"TTL", key),
    "PTTL": step(b"PTTL", key),
    "EXPIRETIME": step(b"EXPIRETIME", key),
    "PEXPIRETIME": step(b"PEXPIRETIME", key),
    "PERSIST": step(b"PERSIST", key),
}

TRANSACTIONS: Final[dict[str, st.SearchStrategy[Step]]] = {
    "MULTI": step(b"MULTI"),
    "EXEC": step(b"EXEC"),
    "DISCARD": step(b"DISCARD"),
    "WATCH": step(b"WATCH", several(key)),
    "UNWATCH": step(b"UNWATCH"),
}

channel = st.sampled_from([b"news", b"news:1", b"n*", b""])

PUBSUB: Final[dict[str, st.SearchStrategy[Step]]] = {
    "SUBSCRIBE": step(b"SUBSCRIBE", several(channel)),
    "UNSUBSCRIBE": step(b"UNSUBSCRIBE", several(channel)),
    "PSUBSCRIBE": step(b"PSUBSCRIBE", several(channel)),
    "PUNSUBSCRIBE": step(b"PUNSUBSCRIBE", several(channel)),
    "SSUBSCRIBE": step(b"SSUBSCRIBE", several(channel)),
    "SUNSUBSCRIBE": step(b"SUNSUBSCRIBE", several(channel)),
    "PUBLISH": step(b"PUBLISH", channel, value),
    "SPUBLISH": step(b"SPUBLISH", channel, value),
    "PUBSUB CHANNELS": step(b"PUBSUB CHANNELS", maybe(pattern)),
    "PUBSUB NUMSUB": step(b"PUBSUB NUMSUB", several(channel, least=0)),
    "PUBSUB NUMPAT": step(b"PUBSUB NUMPAT"),
    "PUBSUB SHARDCHANNELS": step(b"PUBSUB SHARDCHANNELS", maybe(pattern)),
    "PUBSUB SHARDNUMSUB": step(b"PUBSUB SHARDNUMSUB", several(channel, least=0)),
}

CONNECTION: Final[dict[str, st.SearchStrategy[Step]]] = {
    "PING": step(b"PING", maybe(value), maybe(junk)),
    "ECHO": step(b"ECHO", value),
    "SELECT": step(b"SELECT", st.sampled_from([b"0", b"1", b"0", b"1", b"16", b"-1", b"x"])),
    "AUTH": step(b"AUTH", maybe(st.just(b"default")), st.sampled_from([b"secret", b""])),
    "HELLO": step(b"HELLO", st.sampled_from([b"1", b"4", b"x"])),
    "CLIENT SETNAME": step(b"CLIENT SETNAME", st.sampled_from([b"one", b"two words", b"", b"\n"])),
    "CLIENT GETNAME": step(b"CLIENT GETNAME"),
    "CLIENT ID": step(b"CLIENT ID"),
    "CLIENT INFO": step(b"CLIENT INFO"),
    "CLIENT LIST": step(b"CLIENT LIST", maybe(either(b"TYPE normal", b"TYPE foo", b"ID x", b"foo"))),
    "CLIENT KILL": step(
        b"CLIENT KILL", either(b"ID 0", b"ID 999999999", b"ID x", b"foo", b"127.0.0.1:1", b"TYPE foo")
    ),
    "CLIENT NO-EVICT": step(b"CLIENT NO-EVICT", st.sampled_from([b"ON", b"OFF", b"foo"])),
    "CLIENT UNBLOCK": step(b"CLIENT UNBLOCK", either(b"0", b"999999999", b"x", b"1 foo", b"999999999 ERROR")),
    "CLIENT REPLY": step(b"CLIENT REPLY", st.sampled_from([b"ON", b"on", b"foo", b""])),
    "CLIENT PAUSE": step(b"CLIENT PAUSE", either(b"x", b"-1", b"1 foo", b"1 WRITE x")),
    "CLIENT UNPAUSE": step(b"CLIENT UNPAUSE"),
    "CLIENT TRACKINGINFO": step(b"CLIENT TRACKINGINFO"),
    "CLIENT GETREDIR": step(b"CLIENT GETREDIR"),
    "CLIENT CACHING": step(b"CLIENT CACHING", st.sampled_from([b"yes", b"no", b"foo"])),
    "RESET": step(b"RESET", maybe(junk)),
    "QUIT": step(b"QUIT", maybe(junk)),
}

SERVER: Final[dict[str, st.SearchStrategy[Step]]] = {
    "TIME": step(b"TIME"),
    "LASTSAVE": step(b"LASTSAVE"),
    "WAIT": step(b"WAIT 0", st.sampled_from([b"0", b"10", b"-1", b"x"])),
    "CONFIG GET": step(
        b"CONFIG GET", st.sampled_from([b"maxmemory", b"slowlog-max-len", b"no-such", b"maxmemory-pol*"])
    ),
    "CONFIG SET": step(
        b"CONFIG SET",
        several(
            either(
                b"slowlog-max-len 128",
                b"slowlog-max-len x",
                b"maxmemory 0",
                b"hash-max-listpack-entries 512",
                b"notify-keyspace-events Q",
                b"no-such 1",
                b"databases 3",
                b"appendfsync maybe",
                b"odd",
            )
        ),
    ),
    "CONFIG RESETSTAT": step(b"CONFIG RESETSTAT"),
    "COMMAND COUNT": step(b"COMMAND COUNT"),
    "COMMAND GETKEYS": step(
        b"COMMAND GETKEYS",
        either(
            joined(b"SET", key, value),
            joined(b"MSET", several(key, value)),
            joined(b"GET", key),
            joined(b"BITOP NOT", key, key),
            joined(b"LCS", key, key),
            joined(b"EVAL x", st.sampled_from([b"0", b"1", b"2", b"x"]), several(key)),
            joined(b"OBJECT ENCODING", key),
            joined(b"COPY", key, key),
            b"PING",
            b"nosuch a",
            b"GET",
        ),
    ),
    "COMMAND GETKEYSANDFLAGS": step(
        b"COMMAND GETKEYSANDFLAGS",
        either(
            joined(b"MSET", several(key, value)),
            joined(b"RENAME", key, key),
            joined(b"SPUBLISH", key, value),
            joined(b"EVAL x", st.sampled_from([b"0", b"1", b"2"]), several(key)),
            b"PING",
            b"nosuch a",
        ),
    ),
    "ROLE": step(b"ROLE"),
    "REPLICAOF": step(b"REPLICAOF", either(b"NO ONE", b"no one", b"NO")),
    "MODULE LIST": step(b"MODULE LIST", maybe(junk)),
    "READONLY": step(b"READONLY"),
    "ASKING": step(b"ASKING"),
    "ACL WHOAMI": step(b"ACL WHOAMI"),
    "ACL USERS": step(b"ACL USERS"),
    "SLOWLOG LEN": step(b"SLOWLOG LEN"),
    "SLOWLOG RESET": step(b"SLOWLOG RESET"),
    "LATENCY RESET": step(b"LATENCY RESET"),
}

# What a script's return value becomes, and what of the keyspace it sees and changes.
_SCRIPTS: Final = (
    b"return redis.call('GET', KEYS[1])",
    b"return redis.call('SET', KEYS[1], ARGV[1])",
    b"return redis.call('INCRBY', KEYS[1], ARGV[1])",
    b"return redis.pcall('INCRBY', KEYS[1], ARGV[1])",
    b"return {1, 2.7, 'three', {4, {5}}, false, true, nil, 8}",
    b"return redis.error_reply('ERR mine')",
    b"return redis.status_reply('fine')",
    b"return {ok='yes'}",
    b"return {err='ERR no'}",
    b"return #KEYS + #ARGV",
    b"return redis.sha1hex(ARGV[1] or '')",
    b"if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end",
    b"return cjson.decode('[1, 2, {\"a\": null}]')[2]",
    b"return cjson.encode({1, 2, 3})",
    b"return tostring(redis.call('TTL', KEYS[1]) < 0)",
    b"return redis.call('MGET', unpack(KEYS))",
    b"return tonumber('0x10')",
    b"return 3.99",
)
_script_arguments = either(
    joined(b"1", key, value),
    joined(b"1", key, value),
    joined(b"2", key, key, value),
    joined(b"1", key),
    b"0",
    b"x",
    b"-1",
)

SCRIPTING: Final[dict[str, st.SearchStrategy[Step]]] = {
    "EVAL": step(b"EVAL", st.sampled_from(_SCRIPTS).map(lambda text: [text]), _script_arguments),
    "EVAL_RO": step(b"EVAL_RO", st.sampled_from(_SCRIPTS).map(lambda text: [text]), _script_arguments),
    "EVALSHA": step(b"EVALSHA", st.sampled_from([b"0" * 40, b"short"]), _script_arguments),
    "EVALSHA_RO": step(b"EVALSHA_RO", st.sampled_from([b"0" * 40, b"short"]), _script_arguments),
    "SCRIPT LOAD": step(b"SCRIPT LOAD", st.sampled_from(_SCRIPTS).map(lambda text: [text])),
    "SCRIPT EXISTS": step(b"SCRIPT EXISTS", several(st.sampled_from([b"0" * 40, b"x"]))),
    "SCRIPT FLUSH": step(b"SCRIPT FLUSH", maybe(st.sampled_from([b"SYNC", b"ASYNC", b"foo"]))),
    "SCRIPT KILL": step(b"SCRIPT KILL"),
}

# What gives keys values and expiries, for the tests of other groups.
EXPIRING: Final = {name: STRINGS[name] for name in ("SET", "GETEX", "SETEX", "GETSET", "APPEND")}
DATA: Final = {**STRINGS, **BITMAPS, **GENERIC, **EXPIRY}
# Without BITCOUNT and BITPOS: whether they look for the key before or after their arguments differs
# between Redis 7.0 and 7.2, and with it whether there is an event for a missing key.
EVENTFUL: Final = {name: DATA[name] for name in DATA if name not in {"BITCOUNT", "BITPOS"}}
TABLES: Final = (STRINGS, BITMAPS, GENERIC, EXPIRY, TRANSACTIONS, PUBSUB, CONNECTION, SERVER, SCRIPTING)


def _wrong_lengths(name: str) -> st.SearchStrategy[Step]:
    """Requests of one command with too few arguments, or too many where there is a limit."""
    spec = CommandTable.standard().find([word.encode() for word in name.split(" ")])
    words = len(name.split(" "))
    counts = [count for count in range(words, abs(spec.arity) + 3) if not spec.accepts(count)]
    if not counts:
        return step(name.encode())
    return st.sampled_from(counts).flatmap(
        lambda count: step(name.encode(), several(value, least=count - words, most=count - words))
    )


# Requests that no command takes: of the wrong length, of an unknown name.
WRONG_REQUESTS: Final[dict[str, st.SearchStrategy[Step]]] = {
    "wrong length": st.sampled_from(sorted(DATA)).flatmap(_wrong_lengths),
    "unknown command": step(
        st.sampled_from([b"NOSUCH", b"no\r\nsuch", b"", b"x" * 200]), several(value, least=0)
    ),
    "unknown subcommand": step(st.sampled_from([b"OBJECT", b"MEMORY"]), junk, several(value, least=0)),
}
