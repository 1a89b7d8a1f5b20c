"""Which node writes under which origin: for people who ask, nothing else depends on it.

Each node keeps one record of the cluster about its run, written once it has stamped anything:

    run:<node>   {"bulk": the origin of its bulk lane, if it has one}

The record's own stamp names the origin of its small lane. Those of earlier runs are told by the records
that say that they are closed (`stability`). So a run costs one small record, and an idle node none.
"""

from __future__ import annotations

from typing import Final

from replication.core import Core
from replication.messages import decode_record, encode_record
from replication.vectors import CLOSED
from storage.changes import Lane

RUN: Final = b"run:"


class Writers:
    """This node's record, and everybody's."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._recorded: tuple[bytes | None, bytes | None] = (None, None)
        self._nodes: dict[bytes, bytes] = {}  # by origin
        self._version = -1

    def is_due(self) -> bool:
        """Tell whether this node's record is not what it should be."""
        return self._origins() != self._recorded

    def record(self) -> None:
        """Write this node's record. Inside a tick."""
        _, bulk = origins = self._origins()
        if origins != self._recorded:
            self._recorded = origins
            encoded = encode_record({} if bulk is None else {"bulk": bulk})
            self._core.replica.put_system(RUN + self._core.identity.node, encoded)

    def writer_of(self, origin: bytes) -> bytes | None:
        """Return the node that writes, or wrote, under an origin; None if its record has not come yet."""
        if origin in self._recorded:
            return self._core.identity.node
        if self._version != self._core.replica.system_version:
            self._version = self._core.replica.system_version
            self._nodes = self._read()
        return self._nodes.get(origin)

    def _origins(self) -> tuple[bytes | None, bytes | None]:
        replica = self._core.replica
        return replica.origin(Lane.SMALL), replica.origin(Lane.BULK)

    def _read(self) -> dict[bytes, bytes]:
        replica = self._core.replica
        found = {name[len(CLOSED) :]: value for name, value, _ in replica.list_system(CLOSED)}
        for name, value, stamp in replica.list_system(RUN):
            found[stamp.origin] = name[len(RUN) :]
            try:
                bulk = decode_record(value).get("bulk")
            except ValueError:
                continue
            if isinstance(bulk, bytes):
                found[bulk] = name[len(RUN) :]
        return found
