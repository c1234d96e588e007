"""The whole configuration (``config.md`` section 2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from containerssh.config.auth import AuthConfig
from containerssh.config.docker import DockerConfig
from containerssh.config.kubernetes import KubernetesConfig
from containerssh.config.log import LogConfig
from containerssh.config.model import ConfigModel, Problem
from containerssh.config.oci import OCIConfig
from containerssh.config.security import SecurityConfig
from containerssh.config.services import AuditConfig, ConfigServerConfig, GeoIPConfig, HealthConfig, MetricsConfig
from containerssh.config.sftp import SFTPConfig
from containerssh.config.ssh import SSHConfig
from containerssh.config.sshproxy import SSHProxyConfig

Backend = Literal["docker", "oci", "auto", "kubernetes", "sshproxy"]


class AppConfig(ConfigModel):
    """The configuration of a server."""

    ssh: SSHConfig = Field(SSHConfig.default(), alias="ssh")
    """The SSH server itself."""

    configserver: ConfigServerConfig = Field(ConfigServerConfig.default(), alias="configserver")
    """The configuration webhook."""

    auth: AuthConfig = AuthConfig.default()
    """Who may log in."""

    log: LogConfig = LogConfig.default()
    """What is logged."""

    metrics: MetricsConfig = MetricsConfig.default()
    """Metrics for Prometheus."""

    geoip: GeoIPConfig = Field(GeoIPConfig.default(), alias="geoip")
    """Which country clients come from."""

    health: HealthConfig = HealthConfig.default()
    """An HTTP endpoint that says whether the server is healthy."""

    audit: AuditConfig = AuditConfig.default()
    """Records of what users do."""

    security: SecurityConfig = SecurityConfig.default()
    """What a login may do."""

    sftp: SFTPConfig = SFTPConfig.default()
    """SFTP."""

    backend: Backend = "docker"
    """What runs the containers: `docker`, `oci`, `kubernetes`, or `auto` for whichever of the first two works."""

    docker: DockerConfig = DockerConfig.default()
    """The docker backend."""

    oci: OCIConfig = Field(OCIConfig.default(), alias="oci")
    """The oci backend."""

    kubernetes: KubernetesConfig = KubernetesConfig.default()
    """The kubernetes backend."""

    sshproxy: SSHProxyConfig = Field(SSHProxyConfig.default(), alias="sshproxy")
    """The sshproxy backend."""

    def problems(self) -> Iterator[Problem]:
        """What keeps a server from starting. What the config server may still change is left to each login."""
        for name in ("ssh", "configserver", "auth", "log", "metrics", "geoip", "audit", "health"):
            section: ConfigModel = getattr(self, name)
            yield from (problem.under(name) for problem in section.problems())
        if not self.configserver.url:
            yield from self.login_problems()

    def login_problems(self) -> Iterator[Problem]:
        """What keeps a login from being served: `security` and the block of the chosen backend."""
        yield from (problem.under("security") for problem in self.security.problems())
        yield from (problem.under("sftp") for problem in self.sftp.problems())
        if self.backend != "auto":
            section: ConfigModel = getattr(self, self.backend)
            yield from (problem.under(self.backend) for problem in section.problems())
