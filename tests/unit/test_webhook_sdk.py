"""Requests and answers of webhooks written in Python, without a network."""

from __future__ import annotations

import base64
import json
import tomllib
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from importlib import resources
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.auth.fields import question, read_object, read_text, read_values
from containerssh.auth.interview import read_prompt, read_state
from containerssh.cli.testauthconfigserver import main
from containerssh.core.metadata import AuthAttempt
from containerssh.webhook import (
    Answer,
    AuthorizationRequest,
    ConfigAnswer,
    ConfigRequest,
    InteractiveAnswer,
    InteractiveRequest,
    InvalidRequest,
    PasswordRequest,
    Prompt,
    PublicKeyRequest,
    Question,
    SocketAddress,
    Value,
    read_request,
    write_answer,
)
from containerssh.webhook.openapi import published
from containerssh.webhook.wire import LARGEST_REQUEST, MOST_ENTRIES
from tests.support.openapi import body_schema, problems

DOCUMENT = json.loads(resources.files("containerssh.webhook").joinpath("openapi.json").read_text("utf-8"))
ASKED: dict[str, Any] = {
    "remoteAddress": "[2001:db8::1]:4711",
    "connectionId": "0123456789abcdef0123456789abcdef",
    "clientVersion": "SSH-2.0-x",
    "username": "alice",
    "passwordBase64": "/wA=",
}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
variables = st.dictionaries(
    st.from_regex("[A-Z_]+", fullmatch=True),
    st.builds(Value, st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), st.booleans()),
    max_size=3,
)
files = st.dictionaries(
    st.from_regex("/[a-z/]*", fullmatch=True), st.builds(Value, st.binary(max_size=8), st.booleans())
)
addresses = st.builds(SocketAddress.of, st.ip_addresses().map(str), st.integers(0, 65535))
attempts = st.builds(
    AuthAttempt,
    addresses,
    st.uuids().map(lambda found: found.hex),
    st.dictionaries(texts, st.builds(Value, texts, st.booleans()), max_size=3),
    variables,
    files,
    texts,
    texts,
)


def test_the_published_document_is_that_of_the_types() -> None:
    current = resources.files("containerssh.webhook").joinpath("openapi.json").read_text("utf-8")
    assert current == published(), "write it anew: python -m containerssh.webhook.openapi"


@given(attempts, st.binary(max_size=20))
def test_what_the_gateway_asks_is_read_to_the_byte_and_is_as_documented(attempt: AuthAttempt, password: bytes) -> None:
    said = question(attempt, passwordBase64=base64.b64encode(password).decode())
    assert problems(DOCUMENT, body_schema(DOCUMENT, "/password"), said) == []
    asked = read_request(PasswordRequest, json.dumps(said).encode())
    assert asked.password == password
    for name in attempt.__dataclass_fields__:
        assert getattr(asked, name) == getattr(attempt, name)


@given(st.booleans(), texts, variables, files)
def test_what_a_webhook_answers_arrives_at_the_gateway(
    success: bool, name: str, environment: dict[str, Value[str]], contents: dict[str, Value[bytes]]
) -> None:
    answer = Answer(success=success, authenticated_username=name, environment=environment, files=contents)
    said = json.loads(write_answer(answer))
    assert problems(DOCUMENT, body_schema(DOCUMENT, "/password", 200), said) == []
    told = read_object(said)
    values = read_values(told)
    assert (told["success"], read_text(told, "authenticatedUsername")) == (success, name)
    assert (values.environment, values.files) == (environment, contents)


@given(attempts, st.integers(0, 10), texts, st.lists(texts, max_size=16))
def test_a_question_about_answers_is_read_to_the_letter(
    attempt: AuthAttempt, number: int, state: str, answers: list[str]
) -> None:
    said = {**question(attempt), "round": number, "state": state, "answers": answers}
    assert problems(DOCUMENT, body_schema(DOCUMENT, "/interactive"), said) == []
    asked = read_request(InteractiveRequest, json.dumps(said).encode())
    assert (asked.round, asked.state, list(asked.answers)) == (number, state, answers)
    first = read_request(InteractiveRequest, json.dumps({**question(attempt), "round": 0}).encode())
    assert (first.state, list(first.answers)) == ("", [])


@given(
    texts,
    st.lists(
        st.builds(Question, st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.booleans()), max_size=16
    ),
    texts,
)
def test_what_is_to_be_asked_arrives_at_the_gateway(instruction: str, questions: list[Question], state: str) -> None:
    answer = InteractiveAnswer(success=False, prompt=Prompt(instruction=instruction, questions=questions), state=state)
    said = json.loads(write_answer(answer))
    assert problems(DOCUMENT, body_schema(DOCUMENT, "/interactive", 200), said) == []
    told = read_object(said)
    prompt = read_prompt(told)
    assert prompt is not None
    assert (prompt.instruction, read_state(told)) == (instruction, state)
    assert list(prompt.questions) == [(asked.text, asked.echo) for asked in questions]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Question(""),
        lambda: Question("x" * 4097),
        lambda: Prompt(instruction="x" * 4097),
        lambda: Prompt(questions=[Question("?")] * 17),
        lambda: InteractiveAnswer(success=True, prompt=Prompt()),
        lambda: InteractiveAnswer(success=False, state="x" * 65_537),
    ],
)
def test_what_the_gateway_would_not_ask_is_refused_where_it_is_written(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"characters|questions|prompt"):
        make()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, "round is missing"),
        ({"round": -1}, "round is not a count"),
        ({"round": True}, "round is not a count"),
        ({"round": 1.0}, "round is not a count"),
        ({"round": 1, "answers": "x"}, "answers is not a list"),
        ({"round": 1, "answers": [1]}, "an entry of answers is not text"),
        ({"round": 1, "answers": ["x"] * (MOST_ENTRIES + 1)}, "answers has more than"),
        ({"round": 1, "state": None}, "state is not text"),
    ],
)
def test_a_round_that_cannot_be_is_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{problem}"):
        read_request(InteractiveRequest, json.dumps(ASKED | change).encode())


KINDS = [PasswordRequest, PublicKeyRequest, AuthorizationRequest, ConfigRequest, InteractiveRequest]


@pytest.mark.parametrize("kind", KINDS)
@given(
    st.one_of(
        st.binary(),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*ASKED, "metadata", "files"]), inner),
        ).map(lambda value: json.dumps(value).encode()),
        st.fixed_dictionaries(
            {key: st.sampled_from([value, value, value, 1, None, "\ud800", ""]) for key, value in ASKED.items()}
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_noise_is_read_or_refused_and_nothing_else(kind: type[PasswordRequest], body: bytes) -> None:
    with suppress(InvalidRequest):
        asked = read_request(kind, body)
        assert len(asked.connection_id) == 32
        assert asked.username.encode().decode() == asked.username


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"remoteAddress": "example.org:22"}, "remoteAddress is not an address with a port"),
        ({"remoteAddress": "1.2.3.4:65536"}, "remoteAddress is not an address with a port"),
        ({"remoteAddress": "[1.2.3.4]:5"}, "remoteAddress is not an IP address"),
        ({"remoteAddress": "[fe80::1%a\nb]:5"}, "remoteAddress is not an IP address"),
        ({"remoteAddress": "[1.2.3.4.5]:1"}, "remoteAddress is not an IP address"),
        ({"connectionId": "x" * 32}, "connectionId has another form"),
        ({"connectionId": "a" * 32 + "\n"}, "connectionId has another form"),
        ({"username": 1}, "username is not text"),
        ({"username": "\ud800"}, "username holds what is not a character"),
        ({"passwordBase64": "s3cret!"}, "passwordBase64 is not in base64"),
        ({"metadata": []}, "metadata is not an object"),
        ({"metadata": {"a": "b"}}, "an entry of metadata is not an object"),
        ({"metadata": {"a": {"value": "b", "sensitive": 0}}}, "sensitive in metadata is neither"),
        ({"files": {"/a": {"value": "?"}}}, "a value in files is not in base64"),
        ({"metadata": {str(n): {} for n in range(MOST_ENTRIES + 1)}}, "metadata has more than"),
    ],
)
def test_a_request_that_cannot_be_names_its_field_and_no_value(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{problem}") as caught:
        read_request(PasswordRequest, json.dumps(ASKED | change).encode())
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("missing", ASKED)
def test_a_request_without_a_field_is_refused(missing: str) -> None:
    body = json.dumps({key: value for key, value in ASKED.items() if key != missing}).encode()
    with pytest.raises(InvalidRequest, match=f"{missing} is missing"):
        read_request(PasswordRequest, body)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b'{"a":' * 1_000_000,
        b'{"username": "a", "username": "b"}',
        b'{"username": NaN}',
        b"1" * 10_000,
        b"\xff",
        b"",
        b" " * (LARGEST_REQUEST + 1),
    ],
    ids=["lists", "objects", "twice", "NaN", "number", "no UTF-8", "empty", "large"],
)
def test_a_body_that_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read_request(PasswordRequest, body)


def test_fields_that_are_not_known_do_not_matter() -> None:
    asked = read_request(PasswordRequest, json.dumps(ASKED | {"later": [1]}).encode())
    assert asked.remote_address == SocketAddress("2001:db8::1", 4711)
    assert asked.password == b"\xff\0"


def test_secrets_are_not_in_a_repr() -> None:
    asked = read_request(PasswordRequest, json.dumps(ASKED | {"passwordBase64": "aGlkZGVu"}).encode())
    answer = ConfigAnswer(config={"a": "hidden"}, files={"/x": Value(b"hidden")}, metadata={"b": Value("hidden", True)})
    answered = read_request(InteractiveRequest, json.dumps(ASKED | {"round": 1, "answers": ["hidden"]}).encode())
    assert "hidden" not in repr(asked) + repr(answer) + repr(answered)


@pytest.mark.parametrize("success", [1, "true", None])
def test_only_true_is_a_yes(success: Any) -> None:
    with pytest.raises(TypeError):
        Answer(success=success)


@pytest.mark.parametrize("name", ["", "A=B", "A\0"])
def test_an_impossible_variable_is_refused_where_it_is_written(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a variable"):
        Answer(success=True, environment={name: Value("x")})


@pytest.mark.parametrize("path", ["", "etc/x", "/a\0"])
def test_a_file_without_an_absolute_path_is_refused_where_it_is_written(path: str) -> None:
    with pytest.raises(ValueError, match="not an absolute path"):
        ConfigAnswer(files={path: Value(b"")})


def test_durations_become_what_upstream_reads() -> None:
    config = {
        "docker": {"timeouts": {"httpRequest": timedelta(seconds=1.5)}},
        "security": {"maxLoginTime": timedelta(seconds=90)},
        "list": [timedelta(microseconds=1)],
    }
    said = json.loads(write_answer(ConfigAnswer(config=config, overlay=True)))
    assert problems(DOCUMENT, body_schema(DOCUMENT, "/config", 200), said) == []
    assert said == {
        "config": {
            "docker": {"timeouts": {"httpRequest": "1500000us"}},
            "security": {"maxLoginTime": 90_000_000_000},
            "list": [1000],
        },
        "configMode": "overlay",
    }


@pytest.mark.parametrize("config", [{"a": object()}, {"a": float("nan")}, {"a": "\ud800"}, {"a": {1: 2}}])
def test_a_configuration_that_json_does_not_have_is_an_error(config: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        write_answer(ConfigAnswer(config=config))


def test_the_test_server_is_a_command() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    name = "containerssh-testauthconfigserver"
    assert EntryPoint(name, project["scripts"][name], "console_scripts").load() is main
