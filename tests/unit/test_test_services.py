"""The engine that the tests use: found when it answers, not taken for one when something else does."""

from __future__ import annotations

import base64
import http.client
import socket
import threading
from pathlib import Path

import pytest

from tests.support.registry import Registry
from tests.support.services import Engine, engine_answers, wait_until
from tests.support.tools import PACKAGES, tool


@pytest.mark.docker
def test_the_engine_has_the_images_and_answers(engine: Engine) -> None:
    assert engine_answers(engine.socket)
    assert engine.docker("run", "--rm", "--network", "none", "bb:latest", "echo", "hello") == "hello"


def test_the_registry_answers_to_its_user_only(registry: Registry) -> None:
    def status(user: str) -> int:
        connection = http.client.HTTPConnection(registry.address, timeout=10)
        credentials = base64.b64encode(f"{user}:{registry.password}".encode()).decode()
        connection.request("GET", "/v2/", headers={"Authorization": f"Basic {credentials}"})
        answer = connection.getresponse().status
        connection.close()
        return answer

    assert status(registry.username) == 200
    assert status("somebody") == 401


def test_no_socket_is_no_engine(tmp_path: Path) -> None:
    assert not engine_answers(tmp_path / "nothing.sock")


def test_a_listener_that_hangs_up_is_no_engine(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def hang_up() -> None:
            listener.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        assert not engine_answers(tmp_path / "s")
        thread.join()


def test_a_condition_that_never_holds_is_an_error_that_names_it() -> None:
    with pytest.raises(TimeoutError, match="rain"):
        wait_until(lambda: False, within=0.01, what="rain")


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_each_program_that_tests_run_is_installed(name: str) -> None:
    assert Path(tool(name)).exists()


def test_a_missing_program_fails_the_test_by_name() -> None:
    with pytest.raises(pytest.fail.Exception, match="no-such-program"):
        tool("no-such-program")
