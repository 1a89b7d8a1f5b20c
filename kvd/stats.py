"""Counters of the whole daemon, as INFO and the metrics show them."""

from __future__ import annotations


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
        """Count an error reply by its code word. At most 128 different words are kept apart.

        Source: Redis 7.2 `errorstats`, which stops telling words apart at the same number.
        """
        self.errors += 1
        code = text.split(" ", 1)[0]
        if code in self.error_codes or len(self.error_codes) < 128:
            self.error_codes[code] = self.error_codes.get(code, 0) + 1
