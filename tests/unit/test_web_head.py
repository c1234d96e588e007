import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.web.head import HEADERS_LIMIT, parse_head


def test_names_are_lower_case_and_repeated_headers_are_joined() -> None:
    head = parse_head(b"HTTP/1.1 101 UPGRADED\r\nUpgrade:tcp\r\nX-A: 1 \r\nx-a:\t2\r\n\r\n")
    assert (head.status, head.is_final) == (101, True)
    assert head.headers == {"upgrade": "tcp", "x-a": "1, 2"}


@pytest.mark.parametrize(
    ("data", "keeps_alive"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.1 200\r\nConnection: Upgrade, CLOSE\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", True),
    ],
)
def test_whether_the_connection_can_be_used_again(data: bytes, keeps_alive: bool) -> None:
    assert parse_head(data).keeps_alive is keeps_alive


@pytest.mark.parametrize(("status", "final"), [(100, False), (103, False), (101, True), (204, True), (500, True)])
def test_interim_responses_are_not_final(status: int, final: bool) -> None:
    assert parse_head(b"HTTP/1.1 %d x\r\n\r\n" % status).is_final is final


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "is not HTTP"),
        (b"HTTP/1.1 600 x\r\n\r\n", "is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nA : 1\r\n\r\n", "malformed header"),
        (b"HTTP/1.1 200 OK\r\nA: 1\nB: 2\r\n\r\n", "malformed header"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: 1\r\n" * HEADERS_LIMIT + b"\r\n", "too many headers"),
    ],
)
def test_what_is_no_head_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_head(data)


@given(st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nA: "]), st.binary(max_size=200))
def test_any_bytes_are_a_head_or_refused(beginning: bytes, data: bytes) -> None:
    try:
        head = parse_head(beginning + data + b"\r\n\r\n")
    except ValueError:
        return
    assert 100 <= head.status <= 599
    assert all(name == name.lower() and "\n" not in value for name, value in head.headers.items())
