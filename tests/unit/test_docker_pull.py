"""A pull's messages, the names that are pulled, and the credentials that go with them."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from containerssh.backends.docker.engine_error import EngineError, engine_words
from containerssh.backends.docker.images import registry_credentials
from containerssh.backends.docker.pull import PullProgress
from containerssh.backends.docker.reference import parse_reference
from containerssh.config.docker import DockerAuthConfig
from containerssh.core.errors import BackendError, ProtocolError


def line(**message: object) -> bytes:
    return json.dumps(message).encode() + b"\r\n"


def downloading(layer: str, current: int, total: int) -> bytes:
    return line(status="Downloading", id=layer, progressDetail={"current": current, "total": total})


def test_the_percentage_is_over_all_layers() -> None:
    progress = PullProgress()
    assert PullProgress().percent is None
    progress.feed(downloading("a", 50, 100) + downloading("b", 0, 100))
    assert progress.percent == 25
    progress.feed(line(status="Download complete", id="a", progressDetail={}) + downloading("b", 50, 100))
    assert progress.percent == 75
    assert not progress.error


def test_an_error_in_the_stream_is_noticed() -> None:
    """Upstream reads the stream to its end and believes that the image is there."""
    progress = PullProgress()
    progress.feed(line(errorDetail={"message": "toomanyrequests: slow down"}, error="toomanyrequests: slow down"))
    assert progress.error == "toomanyrequests: slow down"


def test_a_last_line_without_its_end_counts() -> None:
    progress = PullProgress()
    progress.feed(line(error="manifest unknown").strip())
    progress.end()
    assert progress.error == "manifest unknown"


@pytest.mark.parametrize("data", [b"<html>\n", b"[]\n", b"[" * 60_000 + b"\n", b"x" * 70_000, b"1" * 9999 + b"\n"])
def test_what_is_no_report_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        PullProgress().feed(data)


def test_the_layers_that_are_remembered_are_bounded() -> None:
    progress = PullProgress()
    for number in range(1500):
        progress.feed(downloading(f"layer-{number}", 1, 1))
    assert progress.percent == 100
    assert len(progress._layers) == 1000


VALUES = st.none() | st.integers() | st.text(max_size=10) | st.dictionaries(st.text(max_size=3), st.integers())
MESSAGES = st.dictionaries(st.sampled_from(["status", "id", "progressDetail", "error", "errorDetail", "x"]), VALUES)


@given(st.lists(MESSAGES, max_size=5), st.integers(0, 200))
def test_any_messages_are_taken_wherever_they_are_cut(messages: list[dict[str, object]], at: int) -> None:
    data = b"".join(line(**message) for message in messages)
    progress = PullProgress()
    progress.feed(data[:at])
    progress.feed(data[at:])
    progress.end()
    assert progress.percent is None or 0 <= progress.percent <= 100


@given(st.binary(max_size=200))
def test_any_bytes_are_a_report_or_a_protocol_error(data: bytes) -> None:
    progress = PullProgress()
    try:
        progress.feed(data)
        progress.end()
    except ProtocolError:
        return
    assert progress.percent is None or 0 <= progress.percent <= 100


@pytest.mark.parametrize(
    ("text", "repository", "tag"),
    [
        ("busybox", "docker.io/library/busybox", "latest"),
        ("busybox:1.36", "docker.io/library/busybox", "1.36"),
        ("containerssh/guest", "docker.io/containerssh/guest", "latest"),
        ("docker.io/busybox", "docker.io/library/busybox", "latest"),
        ("localhost/x/y:z", "localhost/x/y", "z"),
        ("registry.lab:5000/a/b/c", "registry.lab:5000/a/b/c", "latest"),
        ("[::1]:5000/a", "[::1]:5000/a", "latest"),
        ("r.lab/a:1@sha256:" + "0" * 64, "r.lab/a", "sha256:" + "0" * 64),
        ("sha256:" + "a" * 64, "", ""),
    ],
)
def test_an_images_name_is_completed_as_docker_does(text: str, repository: str, tag: str) -> None:
    reference = parse_reference(text)
    assert (reference.repository, reference.tag) == (repository, tag)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "UPPER",
        "../../containers/x",
        "a/../b",
        "a//b",
        "a b",
        "a?fromSrc=-",
        "a#b",
        "a%2e%2e",
        "x:" + "t" * 200,
        "é",
    ],
)
def test_what_names_no_image_never_reaches_a_path(text: str) -> None:
    with pytest.raises(BackendError):
        parse_reference(text)


@given(st.text(max_size=40))
def test_a_name_that_is_accepted_is_safe_in_a_path(text: str) -> None:
    try:
        reference = parse_reference(text)
    except BackendError:
        return
    assert reference.text.isascii()
    assert not set(reference.text) & set("?#% \\\r\n\0")
    assert not {"", ".", ".."} & set(reference.text.split("/"))


def decoded(auth: DockerAuthConfig) -> object:
    return json.loads(base64.urlsafe_b64decode(registry_credentials(auth)))


def test_credentials_are_url_safe() -> None:
    """Upstream's are standard base64, which the engine does not read when they hold a plus or a slash."""
    text = registry_credentials(DockerAuthConfig(username="u", password=SecretStr("\xff?>~" * 9)))
    assert set("-_") & set(text)
    assert not set("+/") & set(text)


def test_credentials_of_a_docker_config_file_are_split() -> None:
    both = base64.b64encode(b"user:pass:word").decode()
    assert decoded(DockerAuthConfig(auth=SecretStr(both))) == {"username": "user", "password": "pass:word"}
    with pytest.raises(EngineError):
        registry_credentials(DockerAuthConfig(auth=SecretStr("!!")))


def test_no_credentials_are_no_header() -> None:
    assert registry_credentials(None) == registry_credentials(DockerAuthConfig()) == ""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"message":"no such\\nimage \\u001b[31m"}', "no such image [31m"),
        (b'{"cause":"x","message":"podman says no","response":500}', "podman says no"),
        (b"<html>", ""),
        (b'{"message":3}', ""),
        (b"[" * 100_000, ""),
    ],
)
def test_the_engines_words_are_one_clean_line(body: bytes, words: str) -> None:
    assert engine_words(body) == words
