"""What the SFTP server reports, which other programs in the container may have written instead."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from containerssh.agent.sftp import MAX_LINE, escaped, lines, parse_event, sftp_program
from containerssh.config.advice import advice
from containerssh.config.app import AppConfig
from containerssh.config.merge import overlay
from containerssh.config.sftp import SFTPConfig
from containerssh.core.codes import SFTPCode
from containerssh.core.errors import BackendError, ProtocolError
from containerssh.core.files import FileEvent, SFTPRules
from containerssh.core.streams import ByteReader

DIGEST = "0" * 64


class Chunks(ByteReader):
    """Bytes cut at places of the test's own choice."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = [chunk for chunk in chunks if chunk]

    async def read(self) -> bytes:
        return self._chunks.pop(0) if self._chunks else b""


async def collected(*chunks: bytes) -> list[bytes]:
    return [line async for line in lines(Chunks(*chunks))]


def test_a_closed_file_is_reported_with_its_figures() -> None:
    line = f'{{"event":"file","path":"/a\\udcff","read":0,"written":7,"created":true,"sha256":"{DIGEST}"}}'
    event = parse_event(line.encode())
    assert event == FileEvent("file", "/a\udcff", written=7, created=True, sha256=DIGEST)
    assert isinstance(event, FileEvent)
    assert os.fsencode(event.path) == b"/a\xff"


def test_each_kind_of_report_has_its_fields() -> None:
    assert parse_event(b'{"event":"rename","path":"/a","target":"/b"}') == FileEvent("rename", "/a", "/b")
    assert parse_event(b'{"event":"refused","operation":"open","path":"/a","reason":"no"}') == FileEvent(
        "refused", "/a", refused="open", reason="no"
    )
    changed = parse_event(b'{"event":"attributes","path":"/a","mode":420}')
    assert changed == FileEvent("attributes", "/a", attributes={"mode": 0o644})
    failed = parse_event(b'{"event":"failed","reason":"no\\nsuch folder"}')
    assert isinstance(failed, BackendError)
    assert failed.code is SFTPCode.FAILED
    assert failed.user_message == "The SFTP server ended: no\\nsuch folder"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'"file"',
        b'{"event":"file"}',
        b'{"event":["file"],"path":"/a"}',
        b'{"event":"other","path":"/a"}',
        b'{"event":"remove","path":"/a","more":1}',
        b'{"event":"remove","path":"/a","path":"/b"}',
        b'{"event":"remove","path":null}',
        b'{"event":"remove","path":"\\ud800"}',
        b'{"event":"remove","path":"/\xff"}',
        b'{"event":"file","path":"/a","read":true,"written":0}',
        b'{"event":"file","path":"/a","read":-1,"written":0}',
        b'{"event":"file","path":"/a","read":1.0,"written":0}',
        b'{"event":"file","path":"/a","read":18446744073709551616,"written":0}',
        b'{"event":"file","path":"/a","read":NaN,"written":0}',
        b'{"event":"file","path":"/a","read":0,"written":0,"sha256":"x"}',
        b'{"event":"file","path":"/a","read":0,"written":0,"sha256":"' + b"A" * 64 + b'"}',
        b"[" * 60000,
        b'{"event":"file","path":"/a","read":' + b"9" * 60000 + b',"written":0}',
    ],
)
def test_what_our_server_cannot_have_written_is_a_broken_protocol(line: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_event(line)
    assert caught.value.code is SFTPCode.REPORT_BROKEN


NAMES = st.sampled_from(["event", "path", "read", "written", "reason", "target"])
VALUES = st.none() | st.integers() | st.text() | st.sampled_from(["file", "rename", "failed"])
DOCUMENTS = st.recursive(VALUES, lambda inner: st.dictionaries(NAMES, inner) | st.lists(inner, max_size=3))


@pytest.mark.hypothesis
@given(st.binary(max_size=300) | DOCUMENTS.map(lambda value: json.dumps(value).encode()))
def test_no_line_is_anything_but_an_event_or_a_broken_protocol(line: bytes) -> None:
    try:
        event = parse_event(line)
    except ProtocolError:
        return
    assert isinstance(event, FileEvent | BackendError)


@pytest.mark.hypothesis
@given(st.binary(max_size=200))
def test_any_path_survives_the_report_and_is_one_printable_line_in_the_log(path: bytes) -> None:
    text = os.fsdecode(path)
    event = parse_event(json.dumps({"event": "remove", "path": text}).encode())
    assert isinstance(event, FileEvent)
    assert os.fsencode(event.path) == path
    assert escaped(event.path).isprintable()


@pytest.mark.hypothesis
@given(st.lists(st.binary(max_size=50).map(lambda line: line.replace(b"\n", b"")), max_size=40), st.integers(1, 9))
async def test_lines_are_the_same_however_they_are_cut(written: list[bytes], size: int) -> None:
    data = b"".join(line + b"\n" for line in written)
    assert await collected(*(data[at : at + size] for at in range(0, len(data), size))) == written


async def test_a_line_that_was_cut_off_is_left_out() -> None:
    assert await collected(b"whole\nha") == [b"whole"]


@pytest.mark.parametrize("chunks", [(b"x" * (MAX_LINE + 1) + b"\n",), (b"x" * MAX_LINE, b"x" * 10)])
async def test_a_line_beyond_the_limit_is_a_broken_protocol(chunks: tuple[bytes, ...]) -> None:
    with pytest.raises(ProtocolError):
        await collected(*chunks)


def test_rules_become_arguments() -> None:
    assert list(sftp_program(SFTPRules(digest=True), {}, report=False).argv) == ["agent", "sftp"]
    rules = SFTPRules(root="/data", upload_only=True, max_file_size=5, max_session_size=6, umask=0o27, digest=True)
    program = sftp_program(rules, {"A": "b"}, report=True)
    words = "agent sftp --upload-only --digest --events --root /data --max-file-size 5 --max-session-size 6 --umask 027"
    assert " ".join(program.argv) == words
    assert (program.agent, program.env) == (True, {"A": "b"})


@pytest.mark.parametrize(
    "section",
    [
        {"root": "relative"},
        {"root": "/" + "x" * 5000},
        {"umask": "9"},
        {"umask": "7777"},
        {"readOnly": True, "uploadOnly": True},
        {"maxFileSize": "-1"},
        {"server": "upstream"},
        {"what": 1},
    ],
)
def test_a_section_that_cannot_be_is_refused(section: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SFTPConfig.model_validate(section)


def test_rules_that_the_images_server_does_not_know_are_a_problem() -> None:
    config = SFTPConfig.model_validate({"server": "image", "readOnly": True})
    assert [problem.path for problem in config.problems()] == ["server"]
    assert list(SFTPConfig.model_validate({"server": "image"}).problems()) == []


def test_a_login_can_have_rules_of_its_own() -> None:
    config = overlay(AppConfig.model_validate({"docker": {}}), {"sftp": {"root": "/home/ada", "maxFileSize": "1m"}})
    assert config.sftp.rules == SFTPRules(root="/home/ada", max_file_size=1 << 20)


@pytest.mark.parametrize(
    ("security", "warned"),
    [
        ({}, True),
        ({"forceCommand": "internal-sftp"}, False),
        ({"shell": {"mode": "disable"}}, True),
        ({"shell": {"mode": "disable"}, "command": {"mode": "disable"}}, False),
        ({"defaultMode": "disable", "subsystem": {"mode": "enable"}}, False),
    ],
)
def test_rules_that_can_be_gone_round_are_warned_of(security: dict[str, object], warned: bool) -> None:
    config = AppConfig.model_validate({"sftp": {"readOnly": True}, "security": security})
    assert any(finding.path == "sftp" for finding in advice(config)) is warned
    assert not any(finding.path == "sftp" for finding in advice(AppConfig.model_validate({"security": security})))


def test_rules_without_the_subsystem_are_told_to_have_no_effect() -> None:
    sections = {"sftp": {"root": "/x"}, "security": {"defaultMode": "disable"}}
    found = [finding.message for finding in advice(AppConfig.model_validate(sections)) if finding.path == "sftp"]
    assert found == ["has no effect: security.subsystem refuses sftp"]
