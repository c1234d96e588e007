"""A log message is one line, whatever is in it."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Iterator
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.core.codes import AuthCode, CoreCode, GeneralCode, SSHCode
from containerssh.core.errors import BackendError
from containerssh.core.messages import ALERT, EMERGENCY, NOTICE, Event, LabelValue, log_labels
from containerssh.logs.formats import FORMATS, LONGEST_LINE, Entry, ljson, text

ANY_TEXT = st.text(st.characters(codec=None), max_size=200)
LABELS = st.dictionaries(
    st.from_regex(r"[a-zA-Z]{1,12}", fullmatch=True),
    st.one_of(ANY_TEXT, st.integers(), st.floats(), st.booleans()),
    max_size=5,
)


def record(message: object, level: int = logging.INFO, name: str = "containerssh.ssh.server") -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 1, message, (), None)


def entry(shown: str, **labels: LabelValue) -> Entry:
    return Entry(1714557600, "info", "SSH_CONNECTED", shown, labels)


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    yield monkeypatch
    monkeypatch.undo()
    time.tzset()


def test_ljson_is_upstreams_object_in_upstreams_order(zone: pytest.MonkeyPatch) -> None:
    zone.setenv("TZ", "Europe/Berlin")
    time.tzset()
    made = Entry(1714557601.9, "notice", CoreCode.CONFIG_FILE, "Using <a&b>", {"module": "core", "b": 1, "a": True})
    assert ljson(made) == (
        b'{"timestamp":"2024-05-01T12:00:01+02:00","level":"notice","code":"CORE_CONFIG_FILE",'
        b'"message":"Using \\u003ca\\u0026b\\u003e","details":{"a":true,"b":1,"module":"core"}}\n'
    )


def test_universal_time_is_written_as_go_does(zone: pytest.MonkeyPatch) -> None:
    zone.setenv("TZ", "UTC")
    time.tzset()
    assert text(Entry(1714557602, "info", "X", "message", {})) == b"2024-05-01T10:00:02Z\tinfo\tmessage\n"


def test_text_has_tabs_and_labels_with_proper_values() -> None:
    line = text(entry("User came.", exitCode=0, ok=False, username="foo bar", path="/x", empty="")).decode()
    stamp, level, message = line.rstrip("\n").split("\t")
    assert datetime.fromisoformat(stamp).tzinfo is not None
    assert level == "info"
    assert message == 'User came. (empty="" exitCode=0 ok=false path=/x username="foo bar")'


def test_a_value_cannot_pose_as_another_label() -> None:
    line = text(entry("x", username='a) (b" connectionId=1')).decode()
    assert line.endswith('(username="a) (b\\" connectionId=1")\n')


@pytest.mark.parametrize(
    ("character", "in_json", "in_text"),
    [
        ("\n", r"\n", r"\x0a"),
        ("\r", r"\r", r"\x0d"),
        ("\x1b", r"\u001b", r"\x1b"),
        ("\0", r"\u0000", r"\x00"),
        ("\x7f", r"\u007f", r"\x7f"),
        ("\x9b", r"\u009b", r"\x9b"),
        ("\u2028", r"\u2028", r"\u2028"),
        ("\u202e", r"\u202e", r"\u202e"),
        ("\u200b", r"\u200b", r"\u200b"),
        ("\ufeff", r"\ufeff", r"\ufeff"),
        ("\U000e0041", r"\udb40\udc41", r"\U000e0041"),
        ("\udcff", r"\\xff", r"\xff"),
        ("\ud800", "\ufffd", "\ufffd"),
        ("ö", "ö", "ö"),
        ("\\", r"\\", "\\"),
        ("\u65e5", "\u65e5", "\u65e5"),
    ],
)
def test_what_cannot_be_seen_is_escaped(character: str, in_json: str, in_text: str) -> None:
    made = entry(f"a{character}b")
    assert f'"message":"a{in_json}b"' in ljson(made).decode()
    assert text(made).decode().split("\t")[2].startswith(f"a{in_text}b")


@given(ANY_TEXT, LABELS)
def test_any_message_is_one_line_of_visible_characters(shown: str, labels: dict[str, LabelValue]) -> None:
    made = Entry(1714557600, "info", "X", shown, labels)
    for name, format_ in FORMATS.items():
        line = format_(made).decode()
        assert line.endswith("\n")
        body = line[:-1].replace("\t", "", 2) if name == "text" else line[:-1]
        assert body.isprintable()
        assert len(body.splitlines()) == 1


@given(ANY_TEXT, LABELS)
def test_any_message_comes_back_from_json(shown: str, labels: dict[str, LabelValue]) -> None:
    found = json.loads(ljson(Entry(1714557600, "info", "X", shown, labels)))
    assert list(found) == ["timestamp", "level", "code", "message", "details"]
    if not re.search("[\ud800-\udfff]", shown):
        assert found["message"] == shown
    assert list(found["details"]) == sorted(labels)
    for name, value in labels.items():
        if isinstance(value, bool | int):
            assert found["details"][name] is value or found["details"][name] == value


@pytest.mark.parametrize("format_", FORMATS.values())
@pytest.mark.parametrize("character", ["a", "\x01", "\U000e0041", "\u65e5"])
def test_a_long_message_is_cut_to_one_line_of_limited_length(format_: object, character: str) -> None:
    assert callable(format_)
    huge = character * (1 << 20)
    line = format_(Entry(0, "info", "X", huge, {f"label{i}": huge for i in range(20)}))
    assert 1000 < len(line) <= LONGEST_LINE
    assert line.count(b"\n") == 1


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (logging.DEBUG, "debug"),
        (logging.INFO, "info"),
        (NOTICE, "notice"),
        (logging.WARNING, "warning"),
        (logging.ERROR, "error"),
        (logging.CRITICAL, "crit"),
        (ALERT, "alert"),
        (EMERGENCY, "emerg"),
    ],
)
def test_levels_have_upstreams_names(level: int, name: str) -> None:
    assert Entry.of(record(Event(SSHCode.CONNECTED, "x"), level)).level == name


def test_labels_of_the_scope_win_over_those_of_the_message() -> None:
    with log_labels(connectionId="right", remoteAddr="192.0.2.1"):
        made = Entry.of(record(Event(SSHCode.CONNECTED, "x", connectionId="wrong", channelId=0)))
    assert made.labels == {"module": "ssh", "connectionId": "right", "remoteAddr": "192.0.2.1", "channelId": 0}
    assert made.code == "SSH_CONNECTED"


@pytest.mark.parametrize(
    ("logger", "module"),
    [
        ("containerssh.auth.webhook", "auth"),
        ("containerssh.backends.docker.pull", "backend"),
        ("containerssh.web.health", "health"),
        ("containerssh.web.metrics", "metrics"),
        ("containerssh.endpoints", "service"),
        ("containerssh.app", None),
        ("containerssh.web.client", None),
    ],
)
def test_the_module_label_is_upstreams(logger: str, module: str | None) -> None:
    made = Entry.of(record(Event(AuthCode.REQUEST, "x"), name=logger))
    assert made.labels.get("module") == module


def test_the_module_that_logs_counts_and_not_the_scope_it_was_called_in() -> None:
    with log_labels(module="ssh"):
        made = [
            Entry.of(record(Event(AuthCode.REQUEST, "x"), name=f"containerssh.{name}")) for name in ("auth.x", "app")
        ]
    assert [entry.labels["module"] for entry in made] == ["auth", "ssh"]


def test_a_librarys_message_has_its_logger_as_module() -> None:
    made = Entry.of(logging.LogRecord("aiohttp.server", logging.ERROR, "", 1, "Error %s", ("\n",), None))
    assert (made.code, made.text, made.labels) == (GeneralCode.UNKNOWN_ERROR, "Error \n", {"module": "aiohttp.server"})


def test_an_exception_is_shown_by_place_and_without_source_text() -> None:
    try:
        int("two\nlines")  # a-secret-in-the-source
    except ValueError:
        failed = logging.LogRecord(
            "containerssh.app", logging.ERROR, "", 1, Event(SSHCode.EXIT, "x"), (), sys.exc_info()
        )
    made = Entry.of(failed)
    assert made.text == "x (ValueError: invalid literal for int() with base 10: 'two\\nlines')"
    assert re.fullmatch(r"unit/test_logs_formats\.py:\d+ test_an_exception_\w+", str(made.labels["trace"]))
    for format_ in FORMATS.values():
        line = format_(made)
        assert line.count(b"\n") == 1
        assert b"a-secret" not in line


def test_an_error_can_be_the_message() -> None:
    error = BackendError(SSHCode.EXIT, "it failed", channelId=3)
    error.__cause__ = OSError("no route")
    made = Entry.of(record(error))
    assert (made.code, made.text, made.labels["channelId"]) == ("SSH_EXIT", "it failed (no route)", 3)
    plain = Entry.of(record(KeyError("x")))
    assert (plain.code, plain.text) == (GeneralCode.UNKNOWN_ERROR, "An unexpected error has happened. ('x')")
