"""Each backend reports under its own message codes, as in 0.6."""

from __future__ import annotations

import logging
from typing import cast

import pytest

from containerssh.agent.process import Program
from containerssh.backends.container import ContainerSession, Execution
from containerssh.backends.docker import plain as docker
from containerssh.backends.host_addresses import no_addresses
from containerssh.backends.kubernetes import start as kubernetes
from containerssh.backends.kubernetes.client import KubernetesClient
from containerssh.backends.kubernetes.execs import Execs
from containerssh.backends.kubernetes.injection import Place
from containerssh.backends.programs import RunningProgram
from containerssh.config.docker import DockerConfig
from containerssh.config.kubernetes import KubernetesConfig
from containerssh.core.codes import DockerCode
from containerssh.core.errors import BackendError, ContainerSSHError, Rejected
from containerssh.core.messages import Event
from tests.support.agent import MemoryChannel

INSIDE = kubernetes.Inside(None, Execs(Place(cast(KubernetesClient, None), "", "", ""), ""), {}, no_addresses)
EXECUTIONS = {
    "DOCKER": docker.execution_of(DockerConfig()),
    "KUBERNETES": kubernetes.execution_of(KubernetesConfig(), INSIDE),
}


class NoPrograms:
    async def start(self, program: Program) -> RunningProgram:
        del program
        raise BackendError(DockerCode.EXEC, "no program starts here")


@pytest.mark.parametrize(("backend", "execution"), EXECUTIONS.items())
async def test_the_codes_of_a_session_name_its_backend(
    backend: str, execution: Execution, caplog: pytest.LogCaptureFixture
) -> None:
    session = ContainerSession(NoPrograms(), execution, MemoryChannel())
    # What a client may ask for at any time is no error of the server's: it is refused, and logged for debugging only.
    with pytest.raises(Rejected) as unknown:
        await session.run_subsystem("nosuch")
    with pytest.raises(ContainerSSHError) as early:
        await session.send_signal("TERM")
    assert unknown.value.code == f"{backend}_SUBSYSTEM_NOT_SUPPORTED"
    assert early.value.code == f"{backend}_PROGRAM_NOT_RUNNING"
    with caplog.at_level(logging.DEBUG, "containerssh"), pytest.raises(BackendError):
        await session.run_shell()
    events = [record.msg for record in caplog.records if isinstance(record.msg, Event)]
    assert [event.code for event in events] == [f"{backend}_EXEC"]
    assert execution.codes.already_running == f"{backend}_PROGRAM_ALREADY_RUNNING"
    assert execution.codes.signal_failed == f"{backend}_EXEC_SIGNAL_FAILED"
