"""The daemon's own log: structlog, to standard error or to a file, as lines for people or as JSON.

One sink for the whole process. It must never take the daemon down: a full disk or a reader that
has gone away costs log lines, not service. Lost lines are counted, and the count is the first
thing written when the sink works again.

Keys and values never appear in the log. So that no traceback brings them in through the back door,
tracebacks are plain, without the local variables that richer formatters show.

`configure` may be called again at any time (CONFIG SET loglevel); loggers that modules made at
import follow, because structlog looks the configuration up at each call. Logging is not on the path
of a request, so that look-up costs nothing that matters.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Final, TextIO

import structlog

from kvd.settings import LogSettings

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class Sink:
    """Where lines go: standard error, or a file that can be opened anew."""

    def __init__(self) -> None:
        self.lost_count = 0
        self.path = ""  # empty: standard error
        self.notice: Callable[[int], str] = _plain_notice  # how lost lines are told, once that is possible
        self._file: TextIO | None = None

    @property
    def is_terminal(self) -> bool:
        return self._file is None and sys.stderr is not None and sys.stderr.isatty()

    def open(self, path: str) -> None:
        """Write to the file at `path` from now on, or to standard error if it is empty.

        Raises OSError when the file cannot be opened; the sink then stays as it was.
        """
        file = open(path, "a", encoding="utf-8", errors="backslashreplace") if path else None  # noqa: SIM115, PTH123
        self.close()
        self.path, self._file = path, file

    def close(self) -> None:
        if self._file is None:
            return
        try:
            self._file.close()
        except OSError:  # what was still in its buffer is lost
            self.lost_count += 1
        self._file = None

    def write(self, line: str) -> None:
        """Write one line, or count it as lost."""
        stream = self._file if self._file is not None else sys.stderr
        try:
            if self.lost_count:
                stream.write(self.notice(self.lost_count) + "\n")
            stream.write(line + "\n")
            stream.flush()
        except (OSError, ValueError):  # a full disk, a closed pipe, a closed stream
            self.lost_count += 1
        else:
            self.lost_count = 0


def _plain_notice(count: int) -> str:
    return f"{count} log lines were lost: the log could not be written"


def _json_notice(count: int) -> str:
    return json.dumps({"event": "log lines were lost", "count": count, "level": "warning"})


class _SinkLogger:
    """What structlog calls with a finished line; every level ends in the same place."""

    def __init__(self, sink: Sink) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = sink.write
        self.exception = self.msg = self.log = sink.write


sink: Final = Sink()


def configure(settings: LogSettings) -> None:
    """Let every logger of the process write as `settings` say.

    Raises OSError when the log file cannot be opened.
    """
    if settings.file != sink.path:
        sink.open(settings.file)
    console = settings.format == "console" or (settings.format == "auto" and sink.is_terminal)
    sink.notice = _plain_notice if console else _json_notice
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *(_console() if console else _json()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[settings.level]),
        logger_factory=lambda *_: _SinkLogger(sink),
        cache_logger_on_first_use=False,
    )


def reopen() -> None:
    """Open the log file anew, after a log rotation has moved it away. If that fails, the old one stays."""
    try:
        sink.open(sink.path)
    except OSError as error:
        structlog.get_logger().error("log file not reopened, the old one stays in use", error=str(error))


def _console() -> list[structlog.typing.Processor]:
    renderer = structlog.dev.ConsoleRenderer(
        colors=sink.is_terminal and "NO_COLOR" not in os.environ,
        exception_formatter=structlog.dev.plain_traceback,
        # Quoted and escaped, so that a client's name can neither forge a line nor move the cursor.
        repr_native_str=True,
    )
    return [renderer]


def _json() -> list[structlog.typing.Processor]:
    return [structlog.processors.JSONRenderer(default=repr)]
