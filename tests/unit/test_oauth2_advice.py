"""What ``config check`` remarks about logins with an identity provider."""

from __future__ import annotations

from typing import Any

import pytest

from containerssh.config.advice import advice
from containerssh.config.app import AppConfig


def remarks(provider: str, **more: Any) -> str:
    oauth2 = {"provider": provider, "clientId": "c", "clientSecret": "s", **more.pop("oauth2", {})}
    auth = {"keyboardInteractive": {"method": "oauth2", "oauth2": oauth2}, **more.pop("auth", {})}
    return "\n".join(f"{one.path}: {one.message}" for one in advice(AppConfig.model_validate({"auth": auth, **more})))


@pytest.mark.parametrize(
    ("provider", "more", "warned"),
    [
        ("oidc", {}, True),
        ("generic", {}, True),
        ("github", {}, False),
        ("github", {"oauth2": {"github": {"enforceUsername": False}}}, True),
        ("oidc", {"auth": {"authz": {"method": "webhook", "webhook": {"url": "https://h.example.org"}}}}, False),
    ],
)
def test_it_warns_where_nobody_compares_names(provider: str, more: dict[str, Any], warned: bool) -> None:
    assert ("under any name" in remarks(provider, **more)) is warned


def test_it_tells_of_a_grace_time_that_ends_logins_first() -> None:
    assert "ssh.loginGraceTime is shorter" in remarks("github", ssh={"loginGraceTime": "60s"})
    assert "ssh.loginGraceTime is shorter" not in remarks("github")
