"""Checks of everything that a data directory promises, for `kvd verify` and for tests.

The promises, each checked against the whole of the data:

* every row, member, past version, chunk and meta row decodes, and a row is written in its one canonical form; what is
  encrypted opens with its key, in its place, and that key is among those in use;
* the counts of each keyspace are those of its rows;
* every row with an effective expiry has an expiry deadline at or before it, every row with a floor or
  without a value has a purge deadline;
* every dot that a register carries is named by the change log, for the row that carries it, and no
  dot is carried twice; the chunks of an origin do not overlap;
* no row is older than its keyspace's floor, no member older than its key's or its keyspace's, no stamp has
  an unknown origin or a clock ahead of the log's last one, and the wall clock is not behind that;
* a key has no more past versions than its namespace's bound, each of them in its canonical form, and only while it
  has a row;
* what was written here lies in namespaces that exist, unless other nodes write here too: then a namespace
  may have been deleted by one while another wrote.

The engine has checksums of its own and reports damaged blocks while it is read. Memory is bounded:
what has to be matched is split by hash into passes of at most `_PASS_ROWS` rows each.
Nothing is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import attrs

from storage.changelog import Chunk, decode_chunk
from storage.engine import Engine, Family
from storage.engine_rocksdb import RocksEngine
from storage.engine_sealed import SealedEngine, reading
from storage.errors import DamagedFiles, RecordError, StorageError
from storage.history import Past, decode_past, encode_past, read_bounds
from storage.incoming import Place
from storage.keyring import Keyring
from storage.layout import (
    BODYLESS_PREFIX,
    CLUSTER,
    COUNT_PREFIX,
    DATABASES,
    EXPIRY_KIND,
    FLOOR_PREFIX,
    META_FORMAT,
    NAMESPACE_BYTES,
    SYSTEM,
    after_prefix,
    database_id,
    parse_change_key,
    parse_deadline,
    parse_history_key,
    place_of,
    place_prefix,
)
from storage.members import decode_member, parse_place
from storage.opening import FOREIGN, NOBODY, check_format, read_count, read_found
from storage.record import (
    EXPIRES_AT,
    FLOOR,
    NEVER,
    VALUE,
    VALUE_STAMP,
    Record,
    decode,
    encode,
    erase_below,
    registers,
)
from storage.version import (
    DOT_BYTES,
    REGISTER_BYTES,
    STAMP_BYTES,
    dot_bytes,
    hlc_ms,
    is_newer,
    register_dot,
    register_hlc,
)

_PASS_ROWS = 1_000_000
_CLOCK_SLACK_MS = 60_000
_RESERVED = 2  # namespaces
_NO_COUNTS = (0, 0, 0, 0)


@attrs.frozen
class Finding:
    """One broken promise: where it was found, and what is wrong."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@attrs.define
class Summary:
    """How much was looked at."""

    keys: int = 0
    dead_rows: int = 0
    members: int = 0
    versions: int = 0
    namespaces: int = 0
    deadlines: int = 0
    chunks: int = 0
    dots: int = 0
    findings: int = 0


@attrs.define
class _Needs:
    """What the rows of one pass need to be matched by: filled from rows, emptied by what matches."""

    expiry: dict[bytes, int] = attrs.field(factory=dict)  # row key -> the latest time of its deadline
    purge: set[bytes] = attrs.field(factory=set)  # row keys
    dots: set[bytes] = attrs.field(
        factory=set
    )  # dot ‖ key of the row that carries it, or namespace of a floor


@contextlib.contextmanager
def open_verifier(data_dir: Path, *, now_ms: int, keyring: Keyring | None = None) -> Iterator[Verifier]:
    """Open the data directory, which nobody else may use meanwhile, and yield its verifier.

    Raise `Missing`, `Locked`, `EncryptionError` or what else keeps it from being opened.
    """
    engine = RocksEngine(data_dir, create=False)
    try:
        yield Verifier(reading(engine, keyring), now_ms=now_ms)
    finally:
        engine.close()


class Verifier:
    """One verification. Iterate `run` to its end; then `summary` is complete."""

    def __init__(self, engine: Engine, *, now_ms: int, pass_rows: int = _PASS_ROWS) -> None:
        self._engine = engine.reader() if isinstance(engine, SealedEngine) else engine
        self._now_ms = now_ms
        self._pass_rows = pass_rows
        self._origins: list[bytes] = []
        self._hlc = 0
        self._lanes: list[int] = []
        self._shared = False  # whether other nodes write here too
        self._namespaces: set[bytes] = {SYSTEM, CLUSTER, *(database_id(index) for index in range(DATABASES))}
        self._floors: dict[bytes, bytes] = {}
        self._counts: dict[bytes, tuple[int, int, int, int]] = {}
        self.summary = Summary()

    def run(self) -> Iterator[Finding]:
        """Yield what is wrong. Damage that keeps a part from being read ends that part with a finding.

        Raise `NewerFormat` for data that this version must not judge.
        """
        for finding in self._run():
            self.summary.findings += 1
            yield finding

    def _run(self) -> Iterator[Finding]:
        stored = self._engine.get(Family.META, META_FORMAT)
        if stored is None:
            yield Finding("meta", "there is no format row, so this is not a kvd data directory")
            return
        try:
            check_format(self._engine.path, stored)
            found = read_found(self._engine)
        except DamagedFiles as error:
            yield Finding("meta", str(error))
            return
        self._origins, self._lanes, self._hlc = found.origins, found.lanes, found.hlc
        self._shared = any(
            lane == FOREIGN and origin != NOBODY
            for lane, origin in zip(self._lanes, self._origins, strict=True)
        )
        for name, check in (
            ("meta", self._check_meta),
            ("change log", self._check_chunks),
            ("records", self._check_rows),
            ("members", self._check_members),
            ("history", self._check_history),
            ("counts", self._check_counts),
            ("deadlines and change log", self._check_matches),
            ("keys", self._check_keys),
        ):
            try:
                yield from check()
            except StorageError as error:
                yield Finding(name, str(error))

    # Meta rows, and the registry, because rows are judged by them.

    def _check_meta(self) -> Iterator[Finding]:
        ahead_ms = hlc_ms(self._hlc) - self._now_ms
        if ahead_ms > _CLOCK_SLACK_MS:
            yield Finding("clock", f"the newest stamp is {ahead_ms} ms ahead of the wall clock")
        self._namespaces.update(self._named_namespaces())
        self.summary.namespaces = len(self._namespaces) - DATABASES - _RESERVED
        for key, register in self._engine.iterate(Family.META, FLOOR_PREFIX, after_prefix(FLOOR_PREFIX)):
            namespace = key[len(FLOOR_PREFIX) :]
            where = f"floor of namespace {namespace.hex()}"
            if len(register) != REGISTER_BYTES:
                yield Finding(where, f"it has {len(register)} bytes instead of {REGISTER_BYTES}")
                continue
            self._floors[namespace] = register
            yield from self._check_register(where, register)
        for key, stamp in self._engine.iterate(Family.META, BODYLESS_PREFIX, after_prefix(BODYLESS_PREFIX)):
            if len(stamp) != STAMP_BYTES:
                where = _row_name(key[len(BODYLESS_PREFIX) :])
                yield Finding(where, f"the stamp of its dropped value has {len(stamp)} bytes")

    def _named_namespaces(self) -> Iterator[bytes]:
        for key, row in self._engine.iterate(Family.RECORDS, SYSTEM, after_prefix(SYSTEM)):
            try:
                exists = decode(row, self._origins)[VALUE] is not None
            except RecordError:
                exists = True  # `_check_rows` tells that the row is damaged; its records are not to blame
            if exists:
                yield key[NAMESPACE_BYTES:]

    def _check_register(self, where: str, register: bytes) -> Iterator[Finding]:
        number, seq = register_dot(register)
        if not self._knows(number) or seq == 0:
            yield Finding(where, f"its dot ({number}, {seq}) has no known origin")
        if register_hlc(register) > self._hlc:
            yield Finding(where, "its stamp is newer than the newest one in the change log")

    def _knows(self, number: int) -> bool:
        return 0 < number < len(self._origins) and self._origins[number] != NOBODY

    # The change log by itself.

    def _check_chunks(self) -> Iterator[Finding]:
        last = (0, 0)  # origin number, last seq; clock values may go back, where a cut gave dots back
        for key, value in self._engine.iterate(Family.CHANGES):
            number, first_seq = parse_change_key(key)
            where = f"chunk of origin {number} from {first_seq} on"
            self.summary.chunks += 1
            try:
                chunk = decode_chunk(value)
            except RecordError as error:
                yield Finding(where, str(error))
                continue
            self.summary.dots += len(chunk.places)
            if not self._knows(number):
                yield Finding(where, "its origin is unknown")
            if number == last[0] and first_seq <= last[1]:
                yield Finding(where, "it does not follow the chunk before it")
            last = (number, first_seq + len(chunk.places) - 1)

    # Each row by itself.

    def _check_rows(self) -> Iterator[Finding]:
        for key, row in self._engine.iterate(Family.RECORDS):
            where = _row_name(key)
            if key[:NAMESPACE_BYTES] not in self._namespaces and not self._shared:
                yield Finding(where, "its namespace does not exist")
                continue
            try:
                record = decode(row, self._origins)
            except RecordError as error:
                yield Finding(where, str(error))
                continue
            self._count(key, record)
            yield from self._check_row(where, key, row, record)

    def _count(self, key: bytes, record: Record) -> None:
        is_dead = record[VALUE] is None
        self.summary.dead_rows += is_dead
        self.summary.keys += not is_dead
        counts = self._counts.get(key[:NAMESPACE_BYTES], _NO_COUNTS)
        found = (
            not is_dead,
            not is_dead and record[EXPIRES_AT] != NEVER,
            record[FLOOR] is not None,
            is_dead and record[VALUE_STAMP] is not None,
        )
        one, two, three, four = (told + one for told, one in zip(counts, found, strict=True))
        self._counts[key[:NAMESPACE_BYTES]] = (one, two, three, four)

    def _check_row(self, where: str, key: bytes, row: bytes, record: Record) -> Iterator[Finding]:
        unknown = False
        for register in registers(record):
            for finding in self._check_register(where, register):
                unknown = True
                yield finding
        if unknown:
            return  # its stamps cannot be compared
        if encode(record) != row:
            yield Finding(where, "it is not in its canonical form")
        floor = record[FLOOR]
        if floor is not None and erase_below(record, floor, self._origins) != record:
            yield Finding(where, "it holds what its own deletion should have removed")
        floor = self._floors.get(key[:NAMESPACE_BYTES])
        if floor is not None and erase_below(record, floor, self._origins) != record:
            yield Finding(where, "it is older than the last flush of its namespace")

    # Members.

    def _check_members(self) -> Iterator[Finding]:
        for row_key, row in self._engine.iterate(Family.MEMBERS):
            self.summary.members += 1
            try:
                place, _, _ = parse_place(row_key)
                member = decode_member(row)
            except RecordError as error:
                yield Finding(f"member {row_key!r}", str(error))
                continue
            where = f"member of {_row_name(place)}"
            unknown = False
            for finding in self._check_register(where, member[0]):
                unknown = True
                yield finding
            if unknown:
                continue
            for floor in (self._floors.get(place[:NAMESPACE_BYTES]), self._floor_of(place)):
                if floor is not None and is_newer(floor, member[0], self._origins):
                    yield Finding(where, "it is older than what deleted it")

    def _floor_of(self, place: bytes) -> bytes | None:
        row = self._engine.get(Family.RECORDS, place)
        try:
            return None if row is None else decode(row, self._origins)[FLOOR]
        except RecordError:
            return None  # told by `_check_rows`

    # Past versions.

    def _check_history(self) -> Iterator[Finding]:
        bounds = read_bounds(self._engine)
        prefix, count = b"", 0
        for row_key, row in self._engine.iterate(Family.HISTORY):
            self.summary.versions += 1
            try:
                found, _ = parse_history_key(row_key)
            except ValueError as error:
                yield Finding(f"past version {row_key!r}", str(error))
                continue
            place = place_of(found)
            if found != prefix:
                prefix, count = found, 0
                yield from self._check_past_of(place)
            count += 1
            if count == bounds.get(place[:NAMESPACE_BYTES], 0) + 1:
                yield Finding(
                    f"past of {_row_name(place)}", "it has more versions than the namespace may have"
                )
            yield from self._check_past(f"past version of {_row_name(place)}", row)

    def _check_past_of(self, place: bytes) -> Iterator[Finding]:
        """Check that there is a key, once for all of its versions."""
        where = f"past of {_row_name(place)}"
        if place[:NAMESPACE_BYTES] not in self._namespaces and not self._shared:
            yield Finding(where, "its namespace does not exist")
        elif self._engine.get(Family.RECORDS, place) is None:
            yield Finding(where, "there is no such record")

    def _check_past(self, where: str, row: bytes) -> Iterator[Finding]:
        try:
            past = decode_past(row, self._origins)
        except RecordError as error:
            yield Finding(where, str(error))
            return
        yield from self._check_register(where, past.register)
        if encode_past(past) != row or not _is_plain(past):
            yield Finding(where, "it is not in its canonical form")

    # Encryption keys: what the other checks have read by now.

    def _check_keys(self) -> Iterator[Finding]:
        if isinstance(self._engine, SealedEngine):
            for key_id in self._engine.unlisted():
                yield Finding("keys", f"values need the key {key_id.hex()}, which is not told to be in use")

    # Counts.

    def _check_counts(self) -> Iterator[Finding]:
        rows = self._engine.iterate(Family.META, COUNT_PREFIX, after_prefix(COUNT_PREFIX))
        stored = {key[len(COUNT_PREFIX) :] for key, _ in rows}
        for namespace in sorted(stored | set(self._counts)):
            told = read_count(self._engine, namespace) or _NO_COUNTS
            true = self._counts.get(namespace, _NO_COUNTS)
            if told != true:
                yield Finding(
                    f"counts of namespace {namespace.hex()}",
                    f"stored are {_describe(told)}; there are {_describe(true)}",
                )

    # Rows against deadlines and change log, pass by pass.

    def _check_matches(self) -> Iterator[Finding]:
        rows = self.summary.keys + self.summary.dead_rows + self.summary.members
        passes = rows // self._pass_rows + 1
        for part in range(passes):
            needs = self._collect_needs(part, passes)
            self._match_deadlines(needs, count=part == 0)
            self._match_chunks(needs)
            for key in sorted(needs.expiry):
                yield Finding(_row_name(key), "its expiry has no deadline, so it will not be swept")
            for key in sorted(needs.purge):
                yield Finding(_row_name(key), "its deletion has no deadline, so it will not be purged")
            for named in sorted(needs.dots):
                number, seq = register_dot(bytes(8) + named[:DOT_BYTES] + bytes(12))
                yield Finding(
                    _row_name(named[DOT_BYTES:]),
                    f"the change log does not name it for its dot ({number}, {seq})",
                )

    def _collect_needs(self, part: int, passes: int) -> _Needs:
        needs = _Needs()
        for key, row in self._engine.iterate(Family.RECORDS):
            if crc32(key) % passes != part:
                continue
            if key[:NAMESPACE_BYTES] not in self._namespaces and not self._shared:
                continue  # told by `_check_rows`
            try:
                record = decode(row, self._origins)
            except RecordError:
                continue  # told by `_check_rows`
            if record[VALUE] is not None and record[EXPIRES_AT] != NEVER:
                needs.expiry[key] = record[EXPIRES_AT]
            if record[VALUE] is None or record[FLOOR] is not None:
                needs.purge.add(key)
            needs.dots.update(register[8:20] + key for register in registers(record))
        for row_key, row in self._engine.iterate(Family.MEMBERS):
            if crc32(row_key) % passes == part:
                with contextlib.suppress(RecordError):
                    needs.dots.add(decode_member(row)[0][8:20] + row_key)
        if part == 0:
            needs.dots.update(floor[8:20] + namespace for namespace, floor in self._floors.items())
        return needs

    def _match_deadlines(self, needs: _Needs, *, count: bool) -> None:
        for key, _ in self._engine.iterate(Family.DEADLINES):
            due_ms, kind, row_key = parse_deadline(key)
            self.summary.deadlines += count
            if kind != EXPIRY_KIND:
                needs.purge.discard(row_key)
            elif due_ms <= needs.expiry.get(row_key, -1):
                del needs.expiry[row_key]

    def _match_chunks(self, needs: _Needs) -> None:
        for key, value in self._engine.iterate(Family.CHANGES):
            number, first_seq = parse_change_key(key)
            for index, place in enumerate(_places(value)):
                row_key = _row_key(place)
                if row_key:
                    needs.dots.discard(dot_bytes(number, first_seq + index) + row_key)


def _places(value: bytes) -> list[Place]:
    """Return the places of a chunk; none if it cannot be decoded, which `_check_chunks` tells."""
    try:
        chunk: Chunk = decode_chunk(value)
    except RecordError:
        return []
    return chunk.places


def _row_key(place: Place) -> bytes | None:
    """Return the key of the row that a place names; of a flush, its namespace."""
    if not isinstance(place, list):
        return place
    return place[0] if len(place) == 1 else place_prefix(place[0]) + place[1]


def _is_plain(past: Past) -> bool:
    """Tell whether a past version holds nothing but what was its own."""
    value, expires_at_ms, metadata, _, expiry, floor = past.record
    if value is None:
        return metadata is None and past.record[VALUE_STAMP] is None and expiry is None
    return floor is None and (expiry is None) == (expires_at_ms == NEVER)


def _describe(counts: tuple[int, int, int, int]) -> str:
    return (
        f"{counts[0]} keys, {counts[1]} with an expiry, {counts[2]} deletions and {counts[3]} dropped values"
    )


def _row_name(key: bytes) -> str:
    """Return how a row is called in findings."""
    namespace, user_key = key[:NAMESPACE_BYTES], key[NAMESPACE_BYTES:]
    return f"record {user_key!r} of namespace {namespace.hex()}"
