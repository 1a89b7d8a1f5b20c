"""Hypothesis strategies for every message, within the limits that a peer accepts."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import strategies as st

from replication import messages as m
from replication.shapes import HLC_MAX, SEQ_MAX
from storage.changes import GROUP_MAX, Change, Run, VersionVector

ids: Final = st.binary(min_size=16, max_size=16)
counts: Final = st.integers(0, SEQ_MAX)
dots: Final = st.integers(1, SEQ_MAX)
hlcs: Final = st.integers(0, HLC_MAX)
places: Final = st.binary(min_size=16, max_size=40)
cursors: Final = st.binary(max_size=40)
names: Final = st.text(max_size=m.NAME_CHARS_MAX)
texts: Final = st.text(max_size=m.TEXT_CHARS_MAX)
addresses: Final = st.lists(st.text(max_size=60), max_size=m.ADDRESSES_MAX).map(tuple)
codes: Final = st.integers(0, 65535)
flags: Final = st.booleans()
vectors: Final = st.dictionaries(ids, counts, max_size=8).map(VersionVector)


@st.composite
def changes(draw: st.DrawFn, seq: int) -> Change:
    """Draw a change with this sequence, whatever its kind and content: only the form is checked."""
    return Change(
        seq=seq,
        hlc=draw(hlcs),
        kind=draw(codes),
        place=draw(places),
        content=draw(st.none() | st.binary(max_size=200) | counts),
        metadata=draw(st.none() | st.binary(max_size=20)),
        sub=draw(st.binary(max_size=20)),
        prev_hlc=draw(st.just(0) | hlcs),
        prev_origin=draw(st.none() | ids),
        group_end=draw(st.just(0) | st.integers(seq, SEQ_MAX)),
    )


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """Draw a run as a Push carries it."""
    after = draw(st.integers(0, SEQ_MAX - 1))
    upto = draw(st.integers(after + 1, min(after + 100, SEQ_MAX)))
    seqs = draw(st.lists(st.integers(after + 1, upto), unique=True, max_size=6).map(sorted))
    return Run(draw(ids), after, upto, [draw(changes(seq)) for seq in seqs])


@st.composite
def place_runs(draw: st.DrawFn) -> Run:
    """Draw a run without bounds, in any order, as a walk of the key space gives it."""
    return Run(draw(ids), 0, 0, [draw(changes(seq)) for seq in draw(st.lists(dots, max_size=4))])


any_runs: Final = st.lists(runs() | place_runs(), max_size=3).map(tuple)

member_records: Final = st.builds(
    m.MemberRecord,
    node=ids,
    incarnation=counts,
    state=st.sampled_from(m.State),
    boot=ids,
    addresses=addresses,
    dialable=flags,
    zone=names,
    software=names,
    since_hlc=hlcs,
    accuser=st.just(b"") | ids,
)
members: Final = st.lists(member_records, max_size=4).map(tuple)
hellos: Final = st.builds(
    m.Hello,
    version=codes,
    cluster=ids,
    node=ids,
    boot=ids,
    nonce=st.binary(min_size=m.NONCE_BYTES, max_size=m.NONCE_BYTES),
    wall_ms=counts,
    hlc=hlcs,
    incarnation=counts,
    dialable=flags,
    addresses=addresses,
    zone=names,
    software=names,
    joining=flags,
    kinds=st.lists(codes, max_size=8).map(tuple),
)


@st.composite
def pieces(draw: st.DrawFn) -> m.BodyData:
    data = draw(st.binary(max_size=300))
    total = draw(st.integers(len(data), m.BODY_BYTES_MAX))
    return m.BodyData(draw(ids), draw(dots), draw(st.integers(0, total - len(data))), total, data)


@st.composite
def pulls(draw: st.DrawFn) -> m.Pull:
    after = draw(st.integers(0, SEQ_MAX - 1))
    return m.Pull(draw(ids), after, draw(st.integers(after + 1, SEQ_MAX)))


digests: Final = st.lists(st.binary(min_size=18, max_size=18), max_size=5).map(b"".join)

BY_TYPE: Final[dict[type[Any], st.SearchStrategy[Any]]] = {
    m.Hello: hellos,
    m.Auth: st.builds(m.Auth, st.binary(min_size=m.PROOF_BYTES, max_size=m.PROOF_BYTES)),
    m.Welcome: st.builds(m.Welcome, st.text(max_size=60), members),
    m.Reject: st.builds(m.Reject, codes, texts, counts),
    m.Bye: st.builds(m.Bye, texts),
    m.Ping: st.builds(m.Ping, counts, counts, hlcs),
    m.Pong: st.builds(m.Pong, counts, counts, counts, hlcs, st.integers(0, 255)),
    m.PingRequest: st.builds(m.PingRequest, counts, ids),
    m.PingResult: st.builds(m.PingResult, counts, flags, counts),
    m.Members: st.builds(m.Members, members, flags, flags),
    m.Vector: st.builds(
        m.Vector, ids, ids, counts, flags, vectors, vectors, vectors, hlcs, counts, ids, hlcs, flags
    ),
    m.Push: st.builds(m.Push, runs(), flags, flags),
    m.Pull: pulls(),
    m.LinkMode: st.builds(m.LinkMode, flags),
    m.Sealed: st.builds(m.Sealed, vectors, flags),
    m.SyncRequest: st.builds(m.SyncRequest, counts, flags, vectors, vectors, hlcs, cursors, counts),
    m.SyncStart: st.builds(m.SyncStart, counts, vectors, vectors, hlcs, counts),
    m.SyncBatch: st.builds(m.SyncBatch, counts, any_runs, cursors, cursors),
    m.SyncEnd: st.builds(m.SyncEnd, counts, vectors, vectors, hlcs, counts),
    m.SyncFail: st.builds(m.SyncFail, counts, codes, counts),
    m.Credit: st.builds(m.Credit, counts, counts),
    m.BodyGet: st.builds(m.BodyGet, ids, dots, places, st.integers(0, m.BODY_BYTES_MAX), counts),
    m.BodyData: pieces(),
    m.BodyMiss: st.builds(m.BodyMiss, ids, dots),
    m.DigestRequest: st.builds(m.DigestRequest, counts, vectors),
    m.Digest: st.builds(m.Digest, counts, flags, digests, flags),
    m.BucketRequest: st.builds(m.BucketRequest, counts, st.lists(codes, max_size=9).map(tuple)),
    m.Bucket: st.builds(m.Bucket, counts, any_runs, flags),
    m.CellsRequest: st.builds(m.CellsRequest, counts, st.lists(places, max_size=4).map(tuple)),
    m.Cells: st.builds(m.Cells, counts, any_runs),
    m.Publish: st.builds(m.Publish, ids, ids, counts, st.binary(max_size=40), st.binary(max_size=300), flags),
    m.GroupOpen: st.builds(m.GroupOpen),
}
BY_TYPE[m.Grouped] = st.builds(m.Grouped, st.integers(1, GROUP_MAX), st.one_of(list(BY_TYPE.values())))
any_message: Final = st.one_of(list(BY_TYPE.values()))
