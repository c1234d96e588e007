"""The sections of the services beside SSH: ``configserver``, ``metrics``, ``geoip``, ``health``, ``audit``
(``config.md`` sections 4.2 and 4.4 to 4.7)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator

from containerssh.config.http import HTTPClientConfig, HTTPServerConfig
from containerssh.config.model import ConfigModel, Problem, Secret, default_for_zero
from containerssh.config.values import is_folder, is_missing


class ConfigServerConfig(HTTPClientConfig):
    """The configuration webhook, which may change the configuration of each login."""

    url: str = ""
    """The URL to ask; empty for none. It is used unchanged."""

    transmit_sensitive_metadata: bool = False
    """Also send the values that other webhooks marked as sensitive."""

    def problems(self) -> Iterator[Problem]:
        if self.url:
            yield from super().problems()


class MetricsConfig(HTTPServerConfig):
    """Metrics for Prometheus."""

    enable: bool = False
    """Whether they are served."""

    listen: str = "0.0.0.0:9100"
    """`host:port`; an IPv6 address stands in brackets."""

    path: str = "/metrics"
    """The path of the page."""

    def problems(self) -> Iterator[Problem]:
        if self.enable:
            yield from super().problems()
            if not self.path.startswith("/"):
                yield Problem("path", "must begin with /")


class GeoIPConfig(ConfigModel):
    """The country that a client connects from."""

    provider: Literal["dummy", "maxmind"] = "dummy"
    """`dummy`: no lookup; `maxmind`: looks the country up in a database file."""

    maxmind_geoip2_file: str = Field("/var/lib/GeoIP/GeoIP2-Country.mmdb", alias="maxmind-geoip2-file")
    """The database file, GeoIP2 or GeoLite2."""

    def problems(self) -> Iterator[Problem]:
        path = Path(self.maxmind_geoip2_file)
        if self.provider == "maxmind" and is_missing(path):
            yield Problem("maxmind-geoip2-file", f"{path}: No such file or directory")
        elif self.provider == "maxmind" and is_folder(path):
            yield Problem("maxmind-geoip2-file", f"{path}: Is a directory")


class HealthClientConfig(HTTPClientConfig):
    """What `--healthcheck` asks."""

    url: str = "http://127.0.0.1:7000/"
    """The address of the health service."""


class HealthConfig(HTTPServerConfig):
    """An HTTP endpoint that says whether the server is healthy."""

    enable: bool = False
    """Whether it is served."""

    listen: str = "0.0.0.0:7000"
    """`host:port`; an IPv6 address stands in brackets."""

    client: HealthClientConfig = HealthClientConfig.default()
    """What `--healthcheck` asks."""

    def problems(self) -> Iterator[Problem]:
        if self.enable:
            yield from super().problems()
            yield from (problem.under("client") for problem in self.client.problems())


class AuditFileConfig(ConfigModel):
    """Records in a folder."""

    directory: str = "/var/log/audit"
    """The folder."""


class AuditS3Metadata(ConfigModel):
    """The metadata of the objects."""

    ip: bool = Field(False, alias="ip")
    """The client's address."""

    username: bool = False
    """The user's name."""


class AuditS3Config(ConfigModel):
    """Records in object storage."""

    local: str = "/var/lib/audit"
    """A folder for records that are not uploaded yet."""

    access_key: Secret = SecretStr("")
    """The access key."""

    secret_key: Secret = SecretStr("")
    """The secret key."""

    bucket: str = ""
    """The bucket."""

    region: str = ""
    """Its region."""

    endpoint: str = ""
    """The endpoint of a service other than Amazon's."""

    cacert: str = ""
    """The CA certificates that the service's certificate is checked with: PEM text."""

    path_style_access: bool = False
    """Put the bucket's name into the path, as services other than Amazon's require it."""

    upload_part_size: Annotated[int, Field(ge=0)] = 5_242_880
    """Bytes in one part of an upload."""

    parallel_uploads: Annotated[int, Field(ge=0)] = 20
    """How many parts are uploaded at once."""

    acl: str = ""
    """The access list of the objects."""

    metadata: AuditS3Metadata = AuditS3Metadata.default()
    """The metadata of the objects."""

    _zeros = field_validator("upload_part_size", "parallel_uploads")(default_for_zero)

    def problems(self) -> Iterator[Problem]:
        yield from _folder_problems("local", self.local)
        needed = {
            "accessKey": self.access_key.get_secret_value(),
            "secretKey": self.secret_key.get_secret_value(),
            "bucket": self.bucket,
        }
        yield from (Problem(path, "must be set") for path, value in needed.items() if not value)
        if self.upload_part_size < 5_242_880:
            yield Problem("uploadPartSize", "must be at least 5242880")


class AuditInterceptConfig(ConfigModel):
    """What is recorded in addition to the events."""

    stdin: bool = False
    """Standard input."""

    stdout: bool = False
    """Standard output."""

    stderr: bool = False
    """Standard error."""

    passwords: bool = False
    """Passwords."""

    forwarding: bool = False
    """The content of forwarded connections."""


class AuditConfig(ConfigModel):
    """Records of what users do."""

    enable: bool = False
    """Whether anything is recorded."""

    format: Literal["none", "binary", "asciinema"] = "none"
    """`binary`, `asciinema` or `none`."""

    storage: Literal["none", "file", "s3"] = "none"
    """`file`, `s3` or `none`."""

    file: AuditFileConfig = AuditFileConfig.default()
    s3: AuditS3Config = Field(AuditS3Config.default(), alias="s3")
    intercept: AuditInterceptConfig = AuditInterceptConfig.default()

    def problems(self) -> Iterator[Problem]:
        if not self.enable:
            return
        if self.storage == "file":
            yield from (problem.under("file") for problem in _folder_problems("directory", self.file.directory))
        elif self.storage == "s3":
            yield from (problem.under("s3") for problem in self.s3.problems())


def _folder_problems(path: str, folder: str) -> Iterator[Problem]:
    if is_missing(Path(folder)):
        yield Problem(path, f"there is no folder {folder!r}")
