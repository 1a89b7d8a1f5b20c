"""The daemon's log: formats, levels, rotation, and what happens when it cannot be written."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from kvd import logs
from kvd.settings import LogSettings

log = structlog.get_logger()


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    logs.sink.open("")
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


class FullDisk(io.StringIO):
    """A stream that refuses writes until there is `room`."""

    room = False

    def write(self, text: str) -> int:
        if not self.room:
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_json_is_one_object_a_line_with_context(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(format="json"))
    with structlog.contextvars.bound_contextvars(session_id=7):
        log.info("client closed", reason="line\nbreak", key=b"\xff")
    (line,) = capsys.readouterr().err.splitlines()
    event = json.loads(line)
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        "event": "client closed",
        "level": "info",
        "session_id": 7,
        "reason": "line\nbreak",
        "key": "b'\\xff'",
    }


def test_auto_means_json_where_nobody_reads_along(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings())
    log.info("hello")
    assert json.loads(capsys.readouterr().err)["event"] == "hello"


def test_auto_means_console_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    logs.configure(LogSettings())
    log.info("hello")
    assert "\x1b[" in terminal.getvalue()
    assert "hello" in terminal.getvalue()


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    logs.configure(LogSettings())
    log.info("hello")
    assert "\x1b[" not in terminal.getvalue()


def test_a_clients_name_cannot_forge_lines_or_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(format="console"))
    log.info("client named", name="x\r\n2026 [error] \x1b[2J\x9b")
    written = capsys.readouterr().err
    assert written.count("\n") == 1
    assert written.endswith(r"name='x\r\n2026 [error] \x1b[2J\x9b'" + "\n")


def test_less_important_events_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(format="json", level="warning"))
    log.info("no")
    log.warning("yes")
    logs.configure(LogSettings(format="json", level="debug"))
    log.debug("yes too")  # the same logger: levels change in a running daemon
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["yes", "yes too"]


@pytest.mark.parametrize("format", ["console", "json"])
def test_tracebacks_do_not_show_values(capsys: pytest.CaptureFixture[str], format: str) -> None:
    logs.configure(LogSettings(format="json" if format == "json" else "console"))
    value = str(6 * 7) + "confidential"
    try:
        len(value) / 0
    except ZeroDivisionError:
        log.exception("bug")
    written = capsys.readouterr().err
    assert "ZeroDivisionError" in written
    assert "42confidential" not in written


def test_a_moved_file_is_left_for_a_new_one(tmp_path: Path) -> None:
    file, moved = tmp_path / "kvd.log", tmp_path / "kvd.log.1"
    logs.configure(LogSettings(file=str(file)))
    log.info("one")
    file.rename(moved)
    log.info("two")
    logs.reopen()
    log.info("three")
    assert [json.loads(line)["event"] for line in moved.read_text().splitlines()] == ["one", "two"]
    assert [json.loads(line)["event"] for line in file.read_text().splitlines()] == ["three"]


def test_a_file_that_cannot_be_opened_leaves_the_old_one_in_use(tmp_path: Path) -> None:
    file = tmp_path / "kvd.log"
    logs.configure(LogSettings(file=str(file)))
    with pytest.raises(FileNotFoundError):
        logs.configure(LogSettings(file=str(tmp_path / "missing" / "kvd.log")))
    log.info("still here")
    assert "still here" in file.read_text()


def test_a_rotation_that_fails_leaves_the_old_file_in_use(tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    logs.configure(LogSettings(file=str(directory / "kvd.log")))
    moved = directory.rename(tmp_path / "moved")
    logs.reopen()
    (line,) = (moved / "kvd.log").read_text().splitlines()
    assert json.loads(line)["event"] == "log file not reopened, the old one stays in use"


def test_a_new_level_does_not_touch_the_file(tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    file = str(directory / "kvd.log")
    logs.configure(LogSettings(file=file))
    moved = directory.rename(tmp_path / "moved")
    logs.configure(LogSettings(file=file, level="debug"))
    log.debug("still here")
    assert "still here" in (moved / "kvd.log").read_text()


@pytest.mark.parametrize("settings", [LogSettings(format="json"), LogSettings(format="console")])
def test_a_full_disk_costs_lines_and_tells_how_many(
    monkeypatch: pytest.MonkeyPatch, settings: LogSettings
) -> None:
    stream = FullDisk()
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure(settings)
    log.info("lost")
    log.info("lost as well")
    stream.room = True
    log.info("here")
    notice, line = stream.getvalue().splitlines()
    assert "log lines were lost" in notice
    assert (json.loads(notice)["count"] if settings.format == "json" else int(notice[0])) == 2
    assert "here" in line
    assert logs.sink.lost_count == 0
