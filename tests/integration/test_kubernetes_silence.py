"""What a user hears while the cluster's API is away."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from containerssh.backends.kubernetes.backend import KubernetesBackend
from containerssh.config.kubernetes import KubernetesConfig
from containerssh.core.errors import BackendError
from containerssh.core.instance import open_instance
from tests.support.docker import Seen, a_login
from tests.support.pods import logged_in


async def test_a_user_who_waits_for_an_api_that_is_away_is_told_once(tmp_path: Path) -> None:
    seen = Seen()
    with socket.socket() as nobody, open_instance(tmp_path / "state", tmp_path / "run") as instance:
        # Bound and not listening: whoever connects is refused.
        nobody.bind(("127.0.0.1", 0))
        address = f"https://127.0.0.1:{nobody.getsockname()[1]}"
        pod: dict[str, Any] = {
            # Nothing was made, so nothing has to be removed from a cluster that is away.
            "mode": "persistent",
            "metadata": {"namespace": "guests", "name": "lab"},
            "spec": {"containers": [{"name": "shell", "image": "any"}]},
        }
        section = {"connection": {"host": address}, "pod": pod, "timeouts": {"podStart": "2s", "podStop": "1s"}}
        backend = KubernetesBackend(instance)
        try:
            with pytest.raises(BackendError, match=r"not ready within 2 s; last problem: .*not available"):
                async with logged_in(backend, a_login(), KubernetesConfig.model_validate(section), seen):
                    pytest.fail("there is no cluster")
        finally:
            await backend.close()
    assert seen.lines == ["The cluster does not answer; trying again"]
