"""What a watch makes of an API server's events, and what errors say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.backends.kubernetes.errors import APIError, refusal, status_error
from containerssh.backends.kubernetes.watch import Bookmark, Known, Lines, WatchEvent, is_expired, parse_event
from containerssh.core.errors import ProtocolError


def pod(uid: str, version: int, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"uid": uid, "resourceVersion": str(version), **metadata}}


def told(events: Any) -> list[tuple[str, str]]:
    return [(event.type, event.object["metadata"]["uid"]) for event in events]


@given(st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line and line.strip() == line)), st.data())
def test_lines_arrive_however_they_are_cut(lines: list[bytes], data: st.DataObject) -> None:
    text = b"".join(line + b"\n" for line in lines)
    splitter = Lines(limit=1000)
    found: list[bytes] = []
    while text:
        size = data.draw(st.integers(1, len(text)))
        found += splitter.feed(text[:size])
        text = text[size:]
    assert found == [line for line in lines if line]


def test_a_line_without_an_end_is_given_up() -> None:
    splitter = Lines(limit=1000)
    with pytest.raises(ProtocolError):
        for _ in range(11):
            list(splitter.feed(b"x" * 100))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
EVENT = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR", "OTHER"]) | JSON,
        "object": st.fixed_dictionaries(
            {},
            optional={
                "metadata": st.fixed_dictionaries({}, optional={"uid": JSON, "resourceVersion": JSON}) | JSON,
                "code": JSON,
                "reason": JSON,
                "message": JSON,
                "details": st.fixed_dictionaries({}, optional={"causes": JSON, "retryAfterSeconds": JSON}) | JSON,
            },
        )
        | JSON,
    },
)


@given(st.lists(EVENT.map(lambda event: json.dumps(event).encode()) | st.binary(max_size=40), max_size=6))
def test_any_line_is_an_event_or_an_error_of_ours(lines: list[bytes]) -> None:
    known, errors = Known(), []
    for line in lines:
        try:
            list(known.take(parse_event(line, "watching pods")))
        except (APIError, ProtocolError) as error:
            errors.append(error.explanation)
    assert all(text.isprintable() and len(text) < 1000 for text in errors)


@given(st.integers(200, 599), st.binary(max_size=300) | EVENT.map(lambda event: json.dumps(event).encode()))
def test_any_refusal_can_be_told_in_one_line(status: int, body: bytes) -> None:
    error = refusal("creating the pod", status, body, retry_after="12")
    assert error.status == status
    assert error.explanation.isprintable()
    assert error.explanation.startswith("creating the pod: ")
    assert len(error.explanation) < 700


def test_a_refusal_has_the_apis_reason_and_its_causes() -> None:
    body = {
        "kind": "Status",
        "reason": "Invalid",
        "message": "two\nlines",
        "details": {"causes": [{"reason": "FieldValueInvalid", "message": "no"}, 7], "retryAfterSeconds": 3},
    }
    error = refusal("creating the pod", 422, json.dumps(body).encode())
    assert (error.reason, error.message, error.causes) == ("Invalid", "two lines", {"FieldValueInvalid": "no"})
    assert error.retry_after == 3
    assert not error.passing
    assert refusal("x", 503, b"<html>busy</html>").explanation == "x: status 503"
    assert refusal("x", 503, b"").passing


def test_what_was_told_is_not_told_again() -> None:
    known = Known()
    assert told(known.replace([pod("a", 1), pod("b", 2)], "2")) == [("ADDED", "a"), ("ADDED", "b")]
    assert told(known.take(WatchEvent("ADDED", pod("a", 1)))) == []
    assert told(known.take(WatchEvent("MODIFIED", pod("a", 3)))) == [("MODIFIED", "a")]
    assert known.version == "3"
    assert told(known.take(Bookmark("9"))) == []
    assert known.version == "9"
    assert told(known.take(WatchEvent("DELETED", pod("b", 10)))) == [("DELETED", "b")]
    assert told(known.take(WatchEvent("DELETED", pod("b", 10)))) == []
    assert told(known.replace([pod("a", 3), pod("c", 11)], "11")) == [("ADDED", "c")]
    assert told(known.replace([pod("c", 12)], "12")) == [("MODIFIED", "c"), ("DELETED", "a")]


def test_an_object_that_vanished_in_a_cut_keeps_its_labels() -> None:
    known = Known()
    list(known.replace([pod("a", 1, name="x", labels={"k": "v"}, managedFields=[{}])], "1"))
    (gone,) = known.replace([], "2")
    assert gone.object["metadata"] == {"uid": "a", "resourceVersion": "1", "name": "x", "labels": {"k": "v"}}


def test_a_pod_that_the_watch_has_never_told_is_gone_when_a_later_list_lacks_it() -> None:
    known = Known()
    assert told(known.replace([pod("a", 1)], "1")) == [("ADDED", "a")]
    known.expect(pod("b", 2, name="x"))
    before = known.keys()
    # Created after the list was taken, and told by the create request before the list arrived.
    known.expect(pod("c", 3))
    (gone,) = known.replace([pod("a", 1)], "2", before)
    assert (gone.type, gone.object["metadata"]["name"]) == ("DELETED", "x")
    assert told(known.take(WatchEvent("ADDED", pod("c", 3)))) == [("MODIFIED", "c")]
    assert told(known.take(WatchEvent("DELETED", pod("c", 4)))) == [("DELETED", "c")]


@given(st.data())
def test_whatever_happens_in_cuts_the_watcher_ends_up_with_what_there_is(data: st.DataObject) -> None:
    """Objects come, change and go; the watch is cut, resumes, and begins anew; it may be told of objects beforehand."""
    known, there, seen, version = Known(), dict[str, int](), set[str](), 0
    history: list[WatchEvent] = []

    def take(events: Any) -> None:
        for event in events:
            uid = event.object["metadata"]["uid"]
            if event.type == "DELETED":
                seen.remove(uid)
            else:
                assert (uid in seen) is (event.type == "MODIFIED")
                seen.add(uid)

    for step in data.draw(st.lists(st.sampled_from(["come", "change", "go", "resume", "list", "expect"]), max_size=30)):
        version += 1
        uid = data.draw(st.sampled_from(sorted(there))) if there else ""
        if step == "come":
            there[str(version)] = version
            history.append(WatchEvent("ADDED", pod(str(version), version)))
        elif step == "change" and uid:
            there[uid] = version
            history.append(WatchEvent("MODIFIED", pod(uid, version)))
        elif step == "go" and uid:
            del there[uid]
            history.append(WatchEvent("DELETED", pod(uid, version)))
        elif step == "expect" and uid:
            known.expect(pod(uid, there[uid]))
            seen.add(uid)
        elif step == "resume" and known.version:
            for event in history:
                take(known.take(event))
            history.clear()
        elif step == "list":
            take(known.replace([pod(one, at) for one, at in there.items()], str(version), known.keys()))
            history.clear()
    take(known.replace([pod(one, at) for one, at in there.items()], str(version), known.keys()))
    assert seen == set(there) == known.keys()


def test_an_old_version_is_told_apart_from_other_errors() -> None:
    assert is_expired(status_error("x", {"code": 410, "reason": "Expired"}))
    assert not is_expired(status_error("x", {"code": 403, "reason": "Forbidden"}))
    assert status_error("x", {"code": "what"}).status == 500
