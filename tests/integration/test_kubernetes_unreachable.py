"""A cluster that a login cannot even connect to has made no pod: there is nothing to remove, and nobody refused."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from containerssh.backends.kubernetes.backend import KubernetesBackend
from containerssh.backends.kubernetes.client import PODS
from containerssh.backends.kubernetes.errors import APIError
from containerssh.config.kubernetes import KubernetesConfig
from containerssh.core.errors import BackendError
from containerssh.core.instance import open_instance
from tests.support.docker import Seen, a_login
from tests.support.hostile_api import hostile
from tests.support.kubernetes import connected
from tests.support.pods import logged_in
from tests.support.webhook import Authority


@asynccontextmanager
async def refused(folder: Path, address: str, words: str) -> AsyncIterator[BackendError]:
    """The error of a login to the API at *address*, with *words* in its text."""
    section = {
        "connection": {"host": address},
        "pod": {"metadata": {"namespace": "guests"}, "spec": {"containers": [{"image": "any"}]}},
        "timeouts": {"podStart": "1s", "podStop": "20s"},
    }
    with open_instance(folder / "state", folder / "run") as instance:
        backend = KubernetesBackend(instance)
        try:
            with pytest.raises(BackendError, match=words) as error:
                async with logged_in(backend, a_login(), KubernetesConfig.model_validate(section), Seen()):
                    pytest.fail("there is no cluster")
            yield error.value
        finally:
            await backend.close()


async def test_an_api_that_is_not_trusted_is_told_at_once_and_not_searched_for_pods(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(*_: object) -> None:
        pytest.fail("nothing is sent to a server that is not trusted")

    async with hostile(answer, authority=Authority(tmp_path)) as (server, _):
        words = rf"creating the pod: .*\(127.0.0.1:{server.port}: .*CERTIFICATE_VERIFY_FAILED"
        async with refused(tmp_path, f"https://127.0.0.1:{server.port}", words) as error:
            assert error.user_message == "The cluster cannot be reached."
            assert "SSLContext" not in str(error)
    assert "could not be removed" not in caplog.text


async def test_where_nobody_listens_no_pod_is_searched_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as nobody:
        # Bound and not listening: whoever connects is refused.
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        words = rf"last problem: creating the pod: .*\(127.0.0.1:{port}: Connection refused"
        async with refused(tmp_path, f"https://127.0.0.1:{port}", words):
            pass
    assert "could not be removed" not in caplog.text
    assert "given up" not in caplog.text


async def test_an_address_of_ipv6_is_told_in_brackets() -> None:
    # Where there is no IPv6 at all, that is the reason that follows.
    async with connected({"host": "http://[::1]:9"}) as client:
        with pytest.raises(APIError, match=r"\(\[::1\]:9: "):
            await client.get(PODS, "default", "one")
