"""What all tests share: the services of a run, and what a test may ask for by a marker."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest
import pytest_asyncio

from containerssh.backends.docker.backend import DockerBackend
from containerssh.core.instance import Instance, open_instance
from tests.support.cluster import Cluster, running_cluster
from tests.support.container_backends import Place, User, logged_in
from tests.support.container_places import PLACES, opened_place
from tests.support.kdc import KDC, running_kdc
from tests.support.openssh import OpenSSH
from tests.support.podman import Podman, running_podman
from tests.support.registry import Registry, running_registry
from tests.support.services import Engine, end_engine_of, engine_of
from tests.support.tools import tool

# For make fuzz; a test that sets a number of its own keeps it, and gets another seed each time.
hypothesis.settings.register_profile("fuzz", max_examples=1_000, deadline=None)

_RUN = "CONTAINERSSH_TEST_RUN"
"""The variable that names a folder which all processes of a run share."""


def pytest_configure(config: pytest.Config) -> None:
    # A worker of several has it from the process that started it.
    if not hasattr(config, "workerinput"):
        # The path stays short for unix sockets' sake.
        run = Path(tempfile.mkdtemp(prefix="cs-run-"))
        os.environ[_RUN] = str(run)
        config.add_cleanup(lambda: end_engine_of(run))


@pytest.fixture(scope="session")
def docker_engine() -> Engine:
    """A Docker engine with the test images; started when none answers, and then ended with the run."""
    return engine_of(Path(os.environ[_RUN]))


@pytest.fixture(scope="session")
def engine(docker_engine: Engine) -> Engine:
    """The engine of tests that run on one only: Docker's."""
    return docker_engine


@pytest.fixture(scope="session")
def podman() -> Iterator[Podman]:
    """Podman's service as root, with the test images."""
    with running_podman() as running:
        yield running


@pytest.fixture(scope="session")
def podman_rootless() -> Iterator[Podman]:
    """Podman's service of an ordinary user, who is gone afterwards."""
    with running_podman(rootless=True) as running:
        yield running


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A Kubernetes of this run; skips the test where none was built."""
    with running_cluster() as running:
        yield running


@pytest.fixture(scope="module")
def kdc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KDC]:
    """Kerberos realms of one module's tests."""
    with running_kdc(tmp_path_factory.mktemp("kdc")) as running:
        yield running


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of :func:`cluster` for one test."""
    with cluster.namespace() as name:
        yield name


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A private registry with nothing in it yet."""
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    """An instance of the product with folders of its own."""
    with open_instance(tmp_path / "state", tmp_path / "run") as made:
        yield made


@pytest.fixture
async def backend(instance: Instance) -> AsyncIterator[DockerBackend]:
    """The docker backend of :func:`instance`."""
    made = DockerBackend(instance)
    yield made
    await made.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=PLACES)
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """Each container backend, for the tests that are the same for all of them; their loop is the module's."""
    async with opened_place(request) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def user(place: Place) -> AsyncIterator[User]:
    """One login of a module's tests at :func:`place`: starting a pod takes seconds."""
    async with logged_in(place) as made:
        yield made


@pytest.fixture
def openssh(tmp_path: Path) -> OpenSSH:
    return OpenSSH(tmp_path)


@pytest.fixture(autouse=True)
def _levels_of_loggers() -> Iterator[None]:
    """What a test set up in this process (``setup_logging`` does) is not in force in the next one."""
    loggers = [logging.getLogger(name) for name in ("containerssh", "asyncio", "asyncssh", "aiohttp", "aiohttp.access")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


def pytest_runtest_protocol() -> None:
    # What scripts/fuzz asks for: between two tests, where nothing can be taken for a failure.
    if time.time() > float(os.environ.get("FUZZ_UNTIL", "inf")):
        pytest.exit("the time for fuzzing is over", returncode=2)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.fail("this test needs root: run make test", pytrace=False)
    if item.get_closest_marker("oci"):
        tool("crun")
        tool("runc")
