"""Counters of the whole daemon, as INFO and the metrics show them."""

from __future__ import annotations

from typing import Final

# How many code words of errors are kept apart, and how much of one: a script may make up any.
# Source: Redis 7.2 `errorstats`, which stops telling words apart at the same number.
_ERROR_CODES_MAX: Final = 128
_ERROR_CODE_CHARS_MAX: Final = 64
# What would end a line of INFO or a name in it. Source: Redis 7.2 `getSafeInfoString`.
_UNSAFE: Final = str.maketrans("#:\r\n", "____")


class ServerStats:
    """Totals since the start or CONFIG RESETSTAT. Plain integers, written by one thread."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin again from zero."""
        self.ticks = 0
        self.ticks_failed = 0
        self.input_bytes = 0
        self.output_bytes = 0
        self.reads = 0  # times that a socket gave input
        self.writes = 0  # times that one was given output
        self.sweep_seconds = 0.0  # spent on what has expired
        self.connections_received = 0
        self.connections_rejected = 0
        self.output_limit_closed = 0
        self.query_limit_closed = 0
        self.evicted_clients = 0
        self.expired_keys = 0
        self.acl_denied_auth = 0
        self.acl_denied_cmd = 0
        self.acl_denied_key = 0
        self.acl_denied_channel = 0
        self.errors = 0
        self.unexpected_errors = 0
        self.loop_stall_seconds = 0.0  # the longest time that nothing else got a turn
        self.error_codes: dict[str, int] = {}

    def count_error(self, text: str) -> None:
        """Count an error reply by its code word."""
        self.errors += 1
        code = text[:_ERROR_CODE_CHARS_MAX].split(" ", 1)[0]
        if code not in self.error_codes:
            code = _showable(code)
        if code in self.error_codes or len(self.error_codes) < _ERROR_CODES_MAX:
            self.error_codes[code] = self.error_codes.get(code, 0) + 1


def _showable(code: str) -> str:
    """Return a code word as INFO and the metrics can show it; what is not UTF-8 came as surrogate escapes."""
    return code.translate(_UNSAFE).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
