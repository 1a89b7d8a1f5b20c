"""Which node writes under which origin: for people who ask, nothing else depends on it.

Each node keeps one record of the cluster about its run, written once it has stamped anything:

    run:<node>   {"bulk": the origin of its bulk lane, if it has one, "others": [those of the other groups it carries]}

The record's own stamp names the origin of its small lane. Those of earlier runs are told by the records
that say that they are closed (`stability`). So a run costs one small record, and an idle node none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from replication.core import Core
from replication.messages import decode_record, encode_record
from replication.vectors import CLOSED
from storage.changes import Lane, Replica

RUN: Final = b"run:"
# Of the small and the bulk lane of the common group, and all of the other groups.
_Origins: TypeAlias = tuple[bytes | None, bytes | None, tuple[bytes, ...]]


class Writers:
    """This node's record, and everybody's."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.others: Callable[[], Sequence[Replica]] = _nobody  # the store as the other groups'
        self._recorded: _Origins = (None, None, ())
        self._nodes: dict[bytes, bytes] = {}  # by origin
        self._version = -1

    def is_due(self) -> bool:
        """Tell whether this node's record is not what it should be."""
        return self._origins() != self._recorded

    def record(self) -> None:
        """Write this node's record. Inside a tick."""
        _, bulk, others = origins = self._origins()
        if origins != self._recorded:
            self._recorded = origins
            fields: dict[str, Any] = {} if bulk is None else {"bulk": bulk}
            if others:
                fields["others"] = list(others)
            self._core.replica.put_system(RUN + self._core.identity.node, encode_record(fields))

    def writer_of(self, origin: bytes) -> bytes | None:
        """Return the node that writes, or wrote, under an origin; None if its record has not come yet."""
        small, bulk, others = self._recorded
        if origin in {small, bulk, *others}:
            return self._core.identity.node
        if self._version != self._core.replica.system_version:
            self._version = self._core.replica.system_version
            self._nodes = self._read()
        return self._nodes.get(origin)

    def _origins(self) -> _Origins:
        replica = self._core.replica
        others = [other.origin(lane) for other in self.others() for lane in (Lane.SMALL, Lane.BULK)]
        drawn = tuple(origin for origin in others if origin is not None)
        return replica.origin(Lane.SMALL), replica.origin(Lane.BULK), drawn

    def _read(self) -> dict[bytes, bytes]:
        replica = self._core.replica
        found = {name[len(CLOSED) :]: value for name, value, _ in replica.list_system(CLOSED)}
        for name, value, stamp in replica.list_system(RUN):
            node = name[len(RUN) :]
            found[stamp.origin] = node
            found |= dict.fromkeys(_origins_in(value), node)
        return found


def _origins_in(value: bytes) -> list[bytes]:
    """Return the origins that a record names. What makes no sense names none."""
    try:
        record = decode_record(value)
    except ValueError:
        return []
    others = record.get("others")
    named = [record.get("bulk"), *(others if isinstance(others, list) else ())]
    return [origin for origin in named if isinstance(origin, bytes)]


def _nobody() -> Sequence[Replica]:
    return ()
