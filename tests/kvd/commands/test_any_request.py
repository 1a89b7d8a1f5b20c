"""Whatever a client sends, a data command answers or refuses; it never fails."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvd.commands.table import CommandTable
from tests.kvd.harness import Client, InProcessServer

_NAMES = sorted(
    spec.name.encode()
    for spec in CommandTable.standard().everything()
    if spec.data_handler is not None or spec.name in {"KEYS", "SCAN"}
)
_WORDS = (
    b"0 1 -1 2 255 -2147483649 4294967296 4611686018427387904 9223372036854775807 -9223372036854775808 "
    b"9223372036854775808 1e400 nan inf -inf 0x1p16000 1.5 * *a*a*b [ \\ #1 u8 i64 u63 i1 "
    b"EX PX EXAT PXAT NX XX GT LT KEEPTTL GET SET PERSIST MATCH COUNT TYPE LEN IDX MINMATCHLEN WITHMATCHLEN "
    b"BYTE BIT AND OR XOR NOT INCRBY OVERFLOW WRAP SAT FAIL REPLACE ABSTTL IDLETIME FREQ DB SAMPLES META PREFIX "
    b'LIMIT CURSOR SYNC ASYNC string {} "x" title'
).split()
_arguments = st.one_of(st.sampled_from([b"key", b"other", b"", b"\x00", *_WORDS]), st.binary(max_size=12))
_requests = st.tuples(st.sampled_from(_NAMES), st.lists(_arguments, max_size=9))


@settings(max_examples=300, deadline=None)
@given(requests=st.lists(_requests, min_size=1, max_size=30))
def test_any_arguments_are_answered_or_refused(requests: list[tuple[bytes, list[bytes]]]) -> None:
    server = InProcessServer()
    client = Client(server)
    for name, arguments in requests:
        client.send(*name.split(b"|"), *arguments)
        assert server.stats.unexpected_errors == 0, (name, arguments)


def test_only_errors_on_purpose_leave_a_handler() -> None:
    """Every command at every length of request, over missing keys and over a string."""
    server = InProcessServer()
    client = Client(server)
    for name in _NAMES:
        for count in range(8):
            client.send("SET", "key", "12")
            client.send(*name.split(b"|"), *[b"key"] * count)
            assert server.stats.unexpected_errors == 0, (name, count)
