"""Logins without the server's own agent: programs by the cluster's exec, through the image's agent where it has one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

from containerssh.agent.upstream_forwards import upstream_forwards
from containerssh.backends.container import ContainerConnection
from containerssh.backends.kubernetes.start import Inside, execution_of
from containerssh.backends.plain import PlainConnection
from containerssh.config.kubernetes import KubernetesConfig
from containerssh.core.codes import KubernetesCode
from containerssh.core.handlers import ConnectionHandler


@asynccontextmanager
async def connection(inside: Inside, config: KubernetesConfig) -> AsyncIterator[ConnectionHandler]:
    """What answers a login's requests in a pod that is ready."""
    if inside.link is not None:
        yield ContainerConnection(inside.link, execution_of(config, inside))
        return
    execution, refusal = execution_of(config, inside), KubernetesCode.GUEST_AGENT_DISABLED
    execs = inside.execs
    if not execs.agent:
        # Only an agent takes variables, on its command line.
        yield PlainConnection(lambda: nullcontext(execs), execution, refusal, takes_variables=False)
        return
    async with upstream_forwards(execs.start, execs.agent) as forwards:
        yield PlainConnection(lambda: nullcontext(execs), execution, refusal, forwards)
