"""The log of a role: its form, its file, and that no secret stands in it."""

from __future__ import annotations

import logging
import queue
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3
from watchdog.observers.api import ObservedWatch
from watchdog.observers.inotify import InotifyEmitter

from changelog.errors import ConfigError
from changelog.node import logs
from changelog.node.logs import start_logging
from changelog.node.settings import Settings

KEY = "hxb_" + "Ab3-_" * 8 + "xyz"


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Settings with secrets; the handlers that a test installs are taken away after it."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers = []
    yield Settings(data_dir=tmp_path, secret_key="unmistakable-secret", log_level="DEBUG")
    for handler in root.handlers:
        handler.close()
    root.handlers, root.level = before, level


def test_a_line_has_the_time_in_utc_and_the_level(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    start_logging(settings, "server")
    logging.getLogger("any").info("Full sync completed: %d records", 165)
    on_stderr = capsys.readouterr().err
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \[INFO\] Full sync completed: 165 records\n", on_stderr)
    assert (settings.data_dir / "log" / "server.log").read_text() == on_stderr


def test_a_watch_that_was_ended_is_no_error(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    start_logging(settings, "pi")
    emitter = InotifyEmitter(queue.Queue(), ObservedWatch(str(settings.data_dir), recursive=False))
    emitter.queue_events(0.1)  # as its thread does when it was stopped in between
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "message",
    [
        f"key {KEY} used",
        "the session is signed with unmistakable-secret",
        "Authorization: Bearer QWxhZGRpbjpvcGVu",
        "{'password': 'open sesame', 'user': 'anna'}",
        'X-API-Key="abcdefgh"',
        "https://anna:pony@pi:5001/api",
        "password=pony&user=anna",
    ],
)
def test_no_secret_stands_in_a_message(settings: Settings, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    start_logging(settings, "pi")
    logging.warning("%s", message)
    line = capsys.readouterr().err
    assert "***" in line
    assert not re.search(r"Ab3-_|unmistakable|QWxh|sesame|abcdefgh|pony", line)


def test_no_secret_stands_in_a_traceback(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    start_logging(settings, "pi")
    try:
        raise ValueError(f"the key {KEY} is bad")
    except ValueError:
        logging.exception("failed")
    text = capsys.readouterr().err
    assert "Traceback" in text and "ValueError: the key hxb_*** is bad" in text


def test_a_head_that_breaks_off_is_not_worth_a_traceback_of_the_client_library(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    start_logging(settings, "server")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            client, _ = server.accept()
            with client:
                client.recv(4_096)
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nLast-Mod")

        thread = threading.Thread(target=answer)
        thread.start()
        urllib3.PoolManager().request("GET", f"http://127.0.0.1:{server.getsockname()[1]}/", retries=False)
        thread.join()
    assert "Traceback" not in capsys.readouterr().err


def test_a_message_cannot_forge_a_second_line(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    start_logging(settings, "pi")
    logging.info("bad payload %s", "x\n2026-01-01T00:00:00Z [INFO] all is well\r")
    assert capsys.readouterr().err.count("\n") == 1


def test_the_level_is_that_of_the_settings(settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start_logging(Settings(data_dir=tmp_path, log_level="WARNING"), "pi")
    logging.info("routine")
    logging.warning("trouble")
    assert capsys.readouterr().err.endswith("[WARNING] trouble\n")


def test_the_file_is_rotated_and_the_oldest_is_dropped(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LOG_BYTES", 1000)
    start_logging(settings, "pi")
    for number in range(200):
        logging.info("line %d %s", number, "x" * 60)
    files = sorted(path.name for path in (settings.data_dir / "log").iterdir())
    assert files == ["pi.log", *(f"pi.log.{number}" for number in range(1, logs.LOG_FILES + 1))]
    assert "line 199" in (settings.data_dir / "log" / "pi.log").read_text()


def test_a_file_that_another_process_rotated_is_opened_anew(settings: Settings) -> None:
    start_logging(settings, "pi")
    path = settings.data_dir / "log" / "pi.log"
    logging.info("before")
    path.rename(path.with_suffix(".old"))
    logging.info("after")
    assert path.read_text().endswith("after\n") and path.with_suffix(".old").read_text().endswith("before\n")


def test_a_log_file_that_cannot_be_written_is_refused(settings: Settings) -> None:
    with pytest.raises(ConfigError, match=r"LOG_FILE=/proc/drover/pi\.log cannot be written"):
        start_logging(Settings(log_file=Path("/proc/drover/pi.log")), "pi")
