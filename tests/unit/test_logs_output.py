"""Where log lines go, and what happens when they cannot."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from containerssh.config.log import LogConfig
from containerssh.core.codes import CoreCode, LogCode, SSHCode
from containerssh.core.errors import ConfigError
from containerssh.core.messages import Event, log_labels, log_threshold
from containerssh.logs import output
from containerssh.logs.formats import FORMATS
from containerssh.logs.output import Descriptor, Destination, LogFile, Writer
from containerssh.logs.setup import LogHandler, LogSetup, setup_logging

logger = logging.getLogger("containerssh.ssh.test")


@contextmanager
def logging_to(file: Path, **more: Any) -> Iterator[LogSetup]:
    logs = setup_logging(LogConfig.model_validate({"destination": "file", "file": str(file), **more}))
    try:
        yield logs
    finally:
        logs.close()


def messages(file: Path) -> list[str]:
    return [json.loads(line)["message"] for line in file.read_text().splitlines()]


def say(shown: str, level: int = logging.WARNING) -> None:
    logger.log(level, Event(SSHCode.CONNECTED, shown))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class FaultyDestination(Destination):
    """A fake: fails, or blocks, when told."""

    def __init__(self) -> None:
        self.error: OSError | None = None
        self.may_write = threading.Event()
        self.may_write.set()
        self.written = b""

    def write(self, data: bytes) -> None:
        self.may_write.wait(20)
        if self.error:
            raise self.error
        self.written += data


def lost(count: int, reason: str) -> bytes:
    return f"lost {count}: {reason}\n".encode()


def test_lines_arrive_whole_and_in_order(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with logging_to(file):
        for number in range(2000):
            say(f"{number}")
    assert messages(file) == [str(number) for number in range(2000)]
    assert stat.S_IMODE(file.stat().st_mode) & 0o037 == 0


def test_lines_of_many_threads_stay_whole(tmp_path: Path) -> None:
    def say_often() -> None:
        for _ in range(50):
            say("x" * 3000)

    file = tmp_path / "log"
    with logging_to(file):
        threads = [threading.Thread(target=say_often) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert messages(file) == ["x" * 3000] * 200


def test_the_file_is_appended_to(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text('{"message": "before"}\n')
    with logging_to(file):
        say("after")
    assert messages(file) == ["before", "after"]


def test_the_level_decides_and_a_scope_may_have_its_own(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with logging_to(file, level="notice"):
        say("hidden", logging.INFO)
        with log_threshold(logging.DEBUG):
            say("shown", logging.DEBUG)
        with log_threshold(logging.ERROR):
            say("too low for this scope", logging.WARNING)
        say("shown too", logging.WARNING)
    assert messages(file) == ["shown", "shown too"]


def test_libraries_do_not_tell_what_clients_sent(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with logging_to(file, level="debug"):
        logging.getLogger("asyncssh").info("secret")
        logging.getLogger("asyncssh.sftp").debug("secret")
        logging.getLogger("aiohttp.access").warning("secret")
        logging.getLogger("asyncio").warning("worth knowing")
    assert messages(file) == ["worth knowing"]


def test_labels_are_those_of_the_scope_that_logged(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with logging_to(file, format="text"):
        with log_labels(connectionId="abc"):
            say("one")
        say("two")
    one, two = file.read_text().splitlines()
    assert one.endswith("\twarning\tone (connectionId=abc module=ssh)")
    assert two.endswith("\twarning\ttwo (module=ssh)")


def test_a_message_that_cannot_be_shown_costs_nothing_but_itself() -> None:
    destination = FaultyDestination()
    writer = Writer(destination, lost)
    handler = LogHandler(logging.INFO, FORMATS["text"], writer)
    handler.handle(logging.LogRecord("containerssh.x", logging.ERROR, "/a/b.py", 7, "%d", ("no number",), None))
    handler.handle(logging.LogRecord("containerssh.x", logging.ERROR, "/a/b.py", 8, "%s", ("next",), None))
    writer.close()
    first, second = destination.written.decode().splitlines()
    assert "\tA log message could not be shown (TypeError, logged at b.py:7) (" in first
    assert "\tnext (" in second


def test_a_renamed_file_is_left_behind_on_request(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with logging_to(file) as logs:
        say("old")
        logs.flush()
        file.rename(tmp_path / "log.1")
        say("old still")
        logs.flush()
        logs.reopen()
        say("new")
    assert messages(tmp_path / "log.1") == ["old", "old still"]
    assert messages(file) == ["new"]


def test_a_vanished_folder_ends_nothing_and_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    with logging_to(folder / "log") as logs:
        say("before")
        logs.flush()
        folder.rename(tmp_path / "moved")
        logs.reopen()
        say("after")
        logs.flush()
    assert messages(tmp_path / "moved" / "log") == ["before", "after"]
    assert LogCode.ROTATE_FAILED in capfd.readouterr().err


def test_a_folder_that_comes_back_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_REOPEN_EVERY", 0.0)
    folder = tmp_path / "logs"
    folder.mkdir()
    with logging_to(folder / "log") as logs:
        folder.rename(tmp_path / "moved")
        logs.reopen()
        logs.flush()
        folder.mkdir()
        say("after")
    assert messages(folder / "log") == ["after"]


def test_a_full_disk_ends_nothing_and_is_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    with logging_to(Path("/dev/full")) as logs:
        for _ in range(5):
            say("lost")
            logs.flush()
    assert capfd.readouterr().err.count(LogCode.WRITE_FAILED) == 1


def test_lost_lines_are_counted_when_writing_works_again() -> None:
    destination = FaultyDestination()
    writer = Writer(destination, lost)
    destination.error = OSError(28, "No space left on device")
    for line in (b"1\n", b"2\n"):
        writer.put(line)
        writer.flush(10)
    destination.error = None
    for line in (b"3\n", b"4\n"):
        writer.put(line)
        writer.flush(10)
    writer.close()
    assert destination.written == b"lost 2: No space left on device\n3\n4\n"


def test_a_destination_that_is_stuck_holds_up_nobody_and_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "MOST_WAITING", 1000)
    destination = FaultyDestination()
    destination.may_write.clear()
    writer = Writer(destination, lost)
    start = time.monotonic()
    for _ in range(1000):
        writer.put(b"x" * 99 + b"\n")
    assert time.monotonic() - start < 5
    destination.may_write.set()
    writer.flush(10)
    writer.put(b"end\n")
    writer.close()
    lines = destination.written.decode().splitlines()
    kept = lines.count("x" * 99)
    assert 10 <= kept <= 30
    assert f"lost {1000 - kept}: the destination accepts no more" in lines
    assert lines[-1] == "end"


def test_closing_does_not_wait_for_ever() -> None:
    destination = FaultyDestination()
    destination.may_write.clear()
    writer = Writer(destination, lost)
    writer.put(b"x\n")
    start = time.monotonic()
    writer.close(within=0.1)
    assert time.monotonic() - start < 5
    destination.may_write.set()


def test_a_line_cut_short_by_a_full_disk_does_not_swallow_the_next(tmp_path: Path) -> None:
    class HalfFull(Descriptor):
        """A fake: the disk fills up in the middle of a line."""

        full = True

        def _write_some(self, view: memoryview) -> int:
            if not self.full:
                return super()._write_some(view)
            if len(view) <= 4:
                raise OSError(28, "No space left on device")
            return super()._write_some(view[:4])

    file = tmp_path / "log"
    with file.open("wb") as opened:
        destination = HalfFull(opened.fileno())
        with pytest.raises(OSError, match="No space"):
            destination.write(b"first one\n")
        destination.full = False
        destination.write(b"second\n")
    assert file.read_bytes() == b"first on\nsecond\n"


def test_output_that_somebody_made_non_blocking_is_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    got = bytearray()

    def read() -> None:
        while data := os.read(reader, 65536):
            got.extend(data)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        Descriptor(writer).write(b"x" * 1_000_000)
    finally:
        os.close(writer)
        thread.join(10)
        os.close(reader)
    assert len(got) == 1_000_000


def test_a_named_pipe_that_nobody_reads_does_not_hold_up_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError) as caught:
        LogFile(tmp_path / "pipe")
    assert caught.value.code == LogCode.FILE_OPEN_FAILED


@pytest.mark.parametrize("name", ["missing/log", ".", "nul\0"])
def test_a_file_that_cannot_be_opened_is_told_at_the_start(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        setup_logging(LogConfig.model_validate({"destination": "file", "file": f"{tmp_path}/{name}"}))
    assert caught.value.code == LogCode.FILE_OPEN_FAILED


def test_another_destination_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="syslog"):
        setup_logging(LogConfig.model_validate({"destination": "syslog"}))


PROGRAM = """
import logging, os, sys
from containerssh.config.log import LogConfig
from containerssh.core.codes import CoreCode
from containerssh.core.messages import Event
from containerssh.logs.setup import setup_logging
setup_logging(LogConfig())
logger = logging.getLogger("containerssh.app")
for number in range(500):
    logger.warning(Event(CoreCode.CONFIG_FILE, f"{number}"))
logger.critical(Event(CoreCode.CONFIG_ERROR, "the end"))
{end}
"""


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise RuntimeError", "os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_nothing_is_lost_when_the_process_ends(end: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM.replace("{end}", end)], capture_output=True, timeout=60)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["message"] for line in lines] == [*map(str, range(500)), "the end"]
    assert lines[-1]["level"] == "crit"
    assert lines[-1]["code"] == CoreCode.CONFIG_ERROR


def test_standard_output_that_nobody_reads_any_more_ends_nothing() -> None:
    program = PROGRAM.replace("{end}", "print('alive', file=sys.stderr)")
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(60) == 0
    assert b"alive" in errors


def test_closing_twice_is_fine(tmp_path: Path) -> None:
    logs = setup_logging(LogConfig.model_validate({"destination": "file", "file": str(tmp_path / "log")}))
    logs.close()
    logs.close()
    say("nobody listens")
    assert (tmp_path / "log").read_text() == ""
