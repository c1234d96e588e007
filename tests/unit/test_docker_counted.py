"""Which requests to the engine the metrics count (observability.md section 6.2)."""

from __future__ import annotations

import pytest

from containerssh.backends.docker.engine_error import EngineError, count_request, counted
from containerssh.core.codes import DockerCode
from containerssh.core.counters import counters
from containerssh.core.metrics import BACKEND_ERRORS, BACKEND_REQUESTS


@pytest.mark.parametrize(
    ("code", "counts"),
    [
        (DockerCode.IMAGE_LISTING_FAILED, 1),
        (DockerCode.IMAGE_PULL_FAILED, 1),
        (DockerCode.CONTAINER_CREATE_FAILED, 1),
        (DockerCode.CONTAINER_START_FAILED, 1),
        (DockerCode.CONTAINER_ATTACH_FAILED, 1),
        (DockerCode.CONTAINER_REMOVE_FAILED, 1),
        (DockerCode.EXEC_CREATE_FAILED, 1),
        (DockerCode.EXEC_ATTACH_FAILED, 1),
        (DockerCode.CONTAINER_SIGNAL_FAILED, 0),
        (DockerCode.EXEC_RESIZE_FAILED, 0),
        (DockerCode.EXIT_CODE_FAILED, 0),
    ],
)
def test_what_starts_and_ends_containers_and_programs_is_counted(code: DockerCode, counts: int) -> None:
    requests, errors = (counters.value(name, backend="docker") for name in (BACKEND_REQUESTS, BACKEND_ERRORS))
    count_request(code)
    counted(EngineError(code, "refused", status=500))
    assert counters.value(BACKEND_REQUESTS, backend="docker") - requests == counts
    assert counters.value(BACKEND_ERRORS, backend="docker") - errors == counts
