"""Counters of the whole daemon, as INFO and the metrics show them."""

from __future__ import annotations


class ServerStats:
    """Totals since the start or CONFIG RESETSTAT. Plain integers, written by one thread."""

    __slots__ = (
        "acl_denied_auth",
        "acl_denied_channel",
        "acl_denied_cmd",
        "acl_denied_key",
        "connections_received",
        "connections_rejected",
        "error_codes",
        "errors",
        "evicted_clients",
        "expired_keys",
        "input_bytes",
        "keyspace_hits",
        "keyspace_misses",
        "output_bytes",
        "output_limit_closed",
        "query_limit_closed",
        "ticks",
        "ticks_failed",
        "unexpected_errors",
    )

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)
        self.error_codes: dict[str, int] = {}

    def count_error(self, text: str) -> None:
        """Count an error reply by its code word. At most 128 different words are kept apart.

        Source: Redis 7.2 `errorstats`, which stops telling words apart at the same number.
        """
        self.errors += 1
        code = text.split(" ", 1)[0]
        if code in self.error_codes or len(self.error_codes) < 128:
            self.error_codes[code] = self.error_codes.get(code, 0) + 1
