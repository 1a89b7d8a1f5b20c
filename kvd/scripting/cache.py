"""The script cache: scripts by the SHA-1 of their text, bounded in number and bytes.

Scripts that came with SCRIPT LOAD stay until SCRIPT FLUSH. Those that came with EVAL are dropped when there
are too many: clients that put values into script texts would otherwise fill the memory with scripts that
nobody runs again. Source: Redis 7.4, where EVAL's scripts are evicted above 500.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import attrs

from kvd.scripting.source import Script
from protocol.replies import ErrorReply

EVAL_SCRIPTS_MAX: Final = 500
# What a script takes here and in Lua whatever its length.
_OVERHEAD_BYTES: Final = 512


@attrs.define(eq=False)
class CachedScript:
    """A script in the cache. `is_compiled` tells whether the current Lua state has it."""

    digest: bytes  # 40 lower-case hex digits
    script: Script
    is_loaded: bool  # came with SCRIPT LOAD, so it stays
    is_compiled: bool = False

    @property
    def size(self) -> int:
        return len(self.script.code) + _OVERHEAD_BYTES


class ScriptCache:
    """Scripts by digest. `on_drop` is called for each that is evicted."""

    def __init__(self, bytes_max: int, on_drop: Callable[[CachedScript], None]) -> None:
        self.bytes_max = bytes_max
        self.bytes = 0
        self._on_drop = on_drop
        self._loaded: dict[bytes, CachedScript] = {}
        self._loaded_bytes = 0
        self._evaluated: OrderedDict[bytes, CachedScript] = OrderedDict()  # least recently used first

    def __len__(self) -> int:
        return len(self._loaded) + len(self._evaluated)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._loaded or digest in self._evaluated

    def get(self, digest: bytes) -> CachedScript | None:
        """Return a script, which then counts as used, or None."""
        found = self._evaluated.get(digest)
        if found is None:
            return self._loaded.get(digest)
        self._evaluated.move_to_end(digest)
        return found

    def add(self, entry: CachedScript) -> None:
        """Take a new script for which there is room, and drop others for it."""
        self.bytes += entry.size
        if entry.is_loaded:
            self._loaded[entry.digest] = entry
            self._loaded_bytes += entry.size
        else:
            self._evaluated[entry.digest] = entry
        while self._evaluated and (len(self._evaluated) > EVAL_SCRIPTS_MAX or self.bytes > self.bytes_max):
            _, dropped = self._evaluated.popitem(last=False)
            self.bytes -= dropped.size
            self._on_drop(dropped)

    def keep(self, entry: CachedScript) -> None:
        """Let a script that came with EVAL stay until the cache is flushed."""
        if entry.is_loaded:
            return
        self.check_room(attrs.evolve(entry, is_loaded=True))
        del self._evaluated[entry.digest]
        self._loaded[entry.digest] = entry
        self._loaded_bytes += entry.size
        entry.is_loaded = True

    def check_room(self, entry: CachedScript) -> None:
        """Raise `ErrorReply` if a script cannot be kept."""
        # Loaded scripts may take half, so that there is always room for those of EVAL.
        half = self.bytes_max // 2
        if entry.size > half:
            raise ErrorReply(
                f"ERR the script is larger than a script may be ({half - _OVERHEAD_BYTES} bytes)"
            )
        if entry.is_loaded and self._loaded_bytes + entry.size > half:
            raise ErrorReply(
                f"ERR the script cache is full: loaded scripts may take {half} bytes, and SCRIPT FLUSH "
                "empties it; values belong into arguments, not into the text of scripts"
            )

    def entries(self) -> list[CachedScript]:
        """Return all scripts."""
        return [*self._loaded.values(), *self._evaluated.values()]

    def clear(self) -> None:
        """Forget all scripts, without `on_drop`."""
        self._loaded.clear()
        self._evaluated.clear()
        self.bytes = self._loaded_bytes = 0
