"""Answers of webhooks: whatever they hold, they are understood or refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.auth.fields import question, read_object, read_text, read_values
from containerssh.core.metadata import AuthAttempt, SocketAddress, Value
from containerssh.web.client import Answer, WebhookError, encode_json

TREES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(codec=None), max_size=10)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(
                st.sampled_from(
                    ["success", "Success", "metadata", "environment", "files", "value", "VALUE", "sensitive", "/x", "A"]
                ),
                st.text(st.characters(codec=None), max_size=5),
            ),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=20,
)


@given(st.binary(max_size=300))
def test_any_bytes_are_json_or_refused(body: bytes) -> None:
    try:
        found = Answer(200, body).json()
    except WebhookError:
        return
    json.dumps(found)


@given(TREES)
def test_any_answer_is_understood_or_refused(tree: object) -> None:
    try:
        answer = read_object(Answer(200, json.dumps(tree).encode()).json())
        values = read_values(answer)
        name = read_text(answer, "authenticatedUsername")
    except WebhookError:
        return
    name.encode()
    for variable, value in {**values.metadata, **values.environment}.items():
        variable.encode()
        value.value.encode()
    for variable, value in values.environment.items():
        assert variable
        assert "=" not in variable
        assert "\0" not in variable + value.value
    assert all(path.startswith("/") and "\0" not in path for path in values.files)


@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b'{"a":' * 100_000, b'{"a":' + b"9" * 10_000 + b"}", b"\xff", b"", b"{", b"nul", b"\xef\xbb\xbf"],
    ids=["lists", "objects", "number", "no UTF-8", "empty", "cut off", "word", "mark"],
)
def test_bodies_that_parsers_choke_on_are_refused(body: bytes) -> None:
    with pytest.raises(WebhookError):
        Answer(200, body).json()


def test_what_follows_the_answer_is_ignored_as_upstream_does() -> None:
    assert Answer(200, b'\xef\xbb\xbf \n{"a": 1}\n{"a": 2} trailing').json() == {"a": 1}


def test_half_a_surrogate_pair_does_not_get_further() -> None:
    answer = read_object(Answer(200, b'{"environment": {"A": {"value": "x\\ud800y"}}}').json())
    assert read_values(answer).environment == {"A": Value("x\ufffdy")}


def test_too_many_entries_are_refused() -> None:
    entries: dict[str, object] = {f"N{number}": {} for number in range(10_001)}
    with pytest.raises(WebhookError, match="entries"):
        read_values({"metadata": entries})


@given(st.text(st.characters(codec=None), max_size=60), st.text(st.characters(codec="utf-8"), max_size=60))
def test_any_client_version_and_any_name_that_is_text_can_be_asked_about(version: str, name: str) -> None:
    attempt = AuthAttempt(SocketAddress("192.0.2.1", 1), "0" * 32, client_version=version, username=name)
    body = encode_json(question(attempt))
    assert body.endswith(b"}\n")
    assert b"<" not in body
    assert json.loads(body)["username"] == name
