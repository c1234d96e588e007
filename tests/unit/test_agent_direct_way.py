"""Whether an agent connects straight to the server, and what happens where it cannot."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from containerssh.agent.codec import Frame, FrameType
from containerssh.agent.direct import DirectListener, Invitation, direct_listener
from containerssh.agent.transport import FramedTransport
from containerssh.backends.kubernetes.direct import DirectWay, DirectWays
from containerssh.config.kubernetes_link import KubernetesAgentLinkConfig
from containerssh.core.errors import BackendError, ProtocolError
from containerssh.core.streams import ByteReader, ByteWriter
from tests.support.direct import Told, dial, on_each_loop, refused


@pytest.fixture
async def listener() -> AsyncIterator[DirectListener]:
    async with direct_listener("127.0.0.1", [0]) as found:
        yield found


class Script(ByteReader, ByteWriter):
    """An agent's first stream on which *said* has come."""

    def __init__(self, said: bytes) -> None:
        self.said = [b"\x00\x89containerssh\r\n" + said, b""]

    async def read(self) -> bytes:
        return self.said.pop(0)

    async def write(self, data: bytes) -> None:
        assert data[0] == FrameType.DIRECT

    async def write_eof(self) -> None:
        raise AssertionError


def error(text: bytes) -> bytes:
    return Frame(FrameType.ERROR, 0, b"\0\0" + len(text).to_bytes(4, "big") + text).encode()


def way(invitation: Invitation, mode: str, seconds: float = 5) -> DirectWay:
    config = KubernetesAgentLinkConfig.model_validate({"mode": mode, "timeout": int(seconds * 1e9)})
    return DirectWay(invitation, config, "here")


async def test_an_agent_that_cannot_connect_goes_on_as_it_began_unless_it_must_not(
    listener: DirectListener, caplog: pytest.LogCaptureFixture
) -> None:
    async with listener.invite("a") as invitation:
        script = Script(error(b"no\nway"))
        assert await way(invitation, "auto").move(FramedTransport(script, script), script) is None
        assert "no?way; its data goes through the API server" in caplog.text
        script = Script(error(b"no way"))
        with pytest.raises(BackendError, match="cannot reach here: no way"):
            await way(invitation, "direct").move(FramedTransport(script, script), script)


@on_each_loop
async def test_who_has_said_that_it_cannot_connect_cannot(listener: DirectListener) -> None:
    async with listener.invite("another"), listener.invite("a") as invitation:
        ticket = Told(invitation).ticket
        reader, writer = await dial(listener.port, ticket, invitation.identity)
        script = Script(error(b"no way"))
        assert await way(invitation, "auto").move(FramedTransport(script, script), script) is None
        with pytest.raises((OSError, AssertionError)):
            assert await reader.read(1)
        await refused(listener.port, ticket, invitation.identity)
        writer.transport.abort()


async def test_an_agent_of_an_older_version_is_only_good_enough_where_it_may_be(
    listener: DirectListener, caplog: pytest.LogCaptureFixture
) -> None:
    async with listener.invite("a") as invitation:
        await way(invitation, "auto").settle()
        assert "older one" in caplog.text
        with pytest.raises(BackendError, match="older one"):
            await way(invitation, "direct").settle()
        # Nobody could tell it of the ticket any more.
        assert not listener.is_waiting


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=64))
def test_whatever_an_agent_says_instead_ends_its_link_only(said: bytes) -> None:
    async def run() -> None:
        script = Script(said)
        async with direct_listener("127.0.0.1", [0]) as listener, listener.invite("a") as invitation:
            with pytest.raises((BackendError, ProtocolError)):
                await way(invitation, "direct", 0.001).move(FramedTransport(script, script), script)

    asyncio.run(run())


async def test_an_agent_that_claims_to_have_come_and_has_not_is_lost(
    listener: DirectListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("containerssh.backends.kubernetes.direct._ANSWER_LIMIT", timedelta(milliseconds=50))
    script = Script(Frame(FrameType.OK, 0).encode())
    async with listener.invite("a") as invitation:
        with pytest.raises(BackendError, match="did not say"):
            await way(invitation, "auto", 0.05).move(FramedTransport(script, script), script)


async def test_where_we_cannot_listen_the_api_server_is_the_way_if_that_is_good_enough(
    listener: DirectListener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    ways = DirectWays()
    taken = f"127.0.0.1:{listener.port}"
    async with ways.open(KubernetesAgentLinkConfig(mode="auto", listen=taken), "a") as found:
        assert found is None
    assert "cannot dial back" in caplog.text
    with pytest.raises(BackendError, match="cannot dial back"):
        async with ways.open(KubernetesAgentLinkConfig(mode="direct", listen=taken), "a"):
            pass
    await ways.close()


async def test_the_address_is_the_configured_one_else_the_environments_else_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ways = DirectWays()
    config = KubernetesAgentLinkConfig(mode="direct", listen="127.0.0.1:0", advertise="192.0.2.1")
    bare = config.model_copy(update={"advertise": ""})
    monkeypatch.delenv("CONTAINERSSH_ADVERTISE", raising=False)
    ports = set()
    for wanted, chosen in (("192.0.2.1", config), ("192.0.2.3", bare), ("192.0.2.2", bare)):
        async with ways.open(chosen, "192.0.2.3") as found:
            assert found is not None
            told = Told(found.invitation)
            assert told.host == wanted
            ports.add(told.port)
        monkeypatch.setenv("CONTAINERSSH_ADVERTISE", "192.0.2.2" if wanted == "192.0.2.3" else "")
    assert len(ports) == 1
    await ways.close()


@on_each_loop
async def test_each_process_takes_a_port_of_its_own(listener: DirectListener) -> None:
    async with direct_listener("127.0.0.1", [listener.port, 0]) as other:
        assert other.port != listener.port
    with pytest.raises(OSError):
        async with direct_listener("127.0.0.1", [listener.port]):
            pass
