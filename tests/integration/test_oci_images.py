"""Images from folders, layouts, archives and registries."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.backends.oci.bounded import run_bounded
from containerssh.backends.oci.image import ImageConfig, verify_layout
from containerssh.backends.oci.launcher import clean_environment, open_launcher
from containerssh.backends.oci.uses import Uses
from containerssh.core.errors import BackendError
from tests.support.oci import Told, config, image, login, needs_root, open_backend, run, short_folder
from tests.support.registry import running_registry

pytestmark = [needs_root, pytest.mark.root, pytest.mark.oci]

MIB = 1024 * 1024
IMAGE_CONFIG = {
    "Env": ["FROM_IMAGE=yes", "PATH=/bin:/opt"],
    "User": "demo",
    "WorkingDir": "/work",
    "Entrypoint": ["/bin/sh", "-c", 'FROM_ENTRYPOINT=yes exec "$@"', "--"],
    "Cmd": ["/bin/sh"],
}


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


def _layer(change: Callable[[tarfile.TarFile], None]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        change(tar)
    return data.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes = b"", **fields: Any) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    for field, value in fields.items():
        setattr(entry, field, value)
    tar.addfile(entry, io.BytesIO(content))


def make_layout(layout: Path, layers: list[bytes], image_config: dict[str, Any]) -> Path:
    """An OCI layout with one image, ``latest``."""
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(data: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    document = {
        "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
        "os": "linux",
        "config": image_config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(document).encode(), "config.v1+json"),
        "layers": [blob(gzip.compress(layer, 1), "layer.v1.tar+gzip") for layer in layers],
    }
    described = blob(json.dumps(manifest).encode(), "manifest.v1+json")
    described["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return layout


def demo_layout(layout: Path, image_config: dict[str, Any] | None = None, note: bytes = b"second") -> Path:
    """Two layers: the demo's files, and one that changes and removes some."""

    def second(tar: tarfile.TarFile) -> None:
        _add(tar, "note", note, mode=0o644)
        _add(tar, "bin/.wh.vi")
        _add(tar, "work", type=tarfile.DIRTYPE, mode=0o755, uid=1000, gid=1000)

    base = _layer(lambda tar: tar.add(image(), arcname=""))
    return make_layout(layout, [base, _layer(second)], IMAGE_CONFIG if image_config is None else image_config)


def skopeo(*arguments: str) -> None:
    subprocess.run(["skopeo", "copy", "--quiet", *arguments], check=True, timeout=60)


def entries(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def check(folder: Path, source: str, **changes: Any) -> list[str]:
    """Log in twice; the lines that the user was told."""
    told = Told()
    async with open_backend(folder) as (backend, _):
        for _ in range(2):
            async with backend.login(login(), config(image=source, **changes), told) as connection:
                done = await run(
                    connection, "cat /note; ls /bin/vi; pwd; id -un; echo $FROM_IMAGE $FROM_ENTRYPOINT; touch x"
                )
                assert done.stdout == "second/work\ndemo\nyes yes\n", done
                assert done.status == 0
    return told.lines


async def test_a_layout_is_unpacked_once_with_all_that_it_says(folder: Path) -> None:
    layout = demo_layout(folder / "layout")
    assert len(await check(folder, f"oci:{layout}:latest")) == 1
    assert await check(folder, f"oci:{layout}:latest") == []
    assert len(entries(folder / "state/oci/images/content")) == 1
    assert list((folder / "state/oci/images/scratch").glob("*/*")) == []


async def test_an_archive_is_unpacked_and_unpacked_again_when_it_changed(folder: Path) -> None:
    archive = folder / "image.tar"
    for note in (b"first", b"second"):
        layout = demo_layout(folder / f"layout-{note.decode()}", note=note)
        archive.unlink(missing_ok=True)
        skopeo(f"oci:{layout}:latest", f"docker-archive:{archive}:demo:latest")
        if note == b"first":
            async with (
                open_backend(folder) as (backend, _),
                backend.login(login(), config(image=str(archive)), Told()) as connection,
            ):
                assert (await run(connection, "cat /note")).stdout == "first"
    assert len(await check(folder, str(archive))) == 1
    assert len(await check(folder, f"docker-archive:{archive}:demo:latest")) <= 1


async def test_the_configuration_wins_over_the_image(folder: Path) -> None:
    layout = demo_layout(folder / "layout")
    wanted = config(image=f"oci:{layout}", user="root", workingDirectory="/tmp", env=["FROM_IMAGE=no"], entrypoint=[])
    async with open_backend(folder) as (backend, _), backend.login(login(), wanted, Told()) as connection:
        done = await run(connection, "id -un; pwd; echo $FROM_IMAGE$FROM_ENTRYPOINT")
    assert done.stdout.split() == ["root", "/tmp", "no"]


async def test_a_registry_is_asked_as_the_policy_says(folder: Path) -> None:
    layout = demo_layout(folder / "layout")
    (folder / "registry").mkdir()
    with running_registry(folder / "registry") as registry:
        name = f"{registry.address}/demo/image:v1"
        auth = {"username": registry.username, "password": registry.password}
        with pytest.raises(BackendError, match="Never"):
            await check(folder, name, imagePullPolicy="Never", auth=auth)
        credentials = f"--dest-creds={registry.username}:{registry.password}"
        skopeo("--dest-tls-verify=false", credentials, f"oci:{layout}:latest", f"docker://{name}")
        assert await check(folder, name, auth=auth) == [f"Pulling image {name}"]
        assert len(await check(folder, f"docker://{name}", imagePullPolicy="Always", auth=auth)) == 2
        with pytest.raises(BackendError, match="could not be fetched") as caught:
            await check(folder, name, auth={"username": "eve", "password": "guess"})
        assert registry.password not in str(caught.value)
    assert await check(folder, name, auth=auth) == []  # it is here, and the registry gone


async def test_an_image_that_is_not_there_is_an_error_in_the_tools_words(folder: Path) -> None:
    for source in (f"oci:{folder}/none", f"{folder}/none.tar"):
        with pytest.raises(BackendError, match="cannot be read"):
            await check(folder, source)
    (folder / "broken.tar").write_bytes(b"no tar")
    with pytest.raises(BackendError, match="could not be fetched"):
        await check(folder, f"{folder}/broken.tar")


def _break_layer(layout: Path) -> None:
    largest = max((layout / "blobs/sha256").iterdir(), key=lambda blob: blob.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[-20] ^= 1
    largest.write_bytes(data)


async def test_a_blob_that_is_not_what_its_digest_says_is_refused(folder: Path) -> None:
    layout = demo_layout(folder / "layout")
    _break_layer(layout)
    with pytest.raises(ValueError, match="other content"):
        verify_layout(layout)
    with pytest.raises(BackendError):
        await check(folder, f"oci:{layout}")
    assert not (folder / "state/oci/images/content").exists()


async def test_an_image_that_unpacks_to_more_than_it_may_is_given_up(folder: Path) -> None:
    zeros = _layer(lambda tar: _add(tar, "zeros", bytes(32 * MIB)))
    layout = make_layout(folder / "layout", [zeros], {})
    assert sum(blob.stat().st_size for blob in (layout / "blobs/sha256").iterdir()) < MIB
    with pytest.raises(BackendError, match=r"more than 8m .*imageSizeMax"):
        await check(folder, f"oci:{layout}", imageSizeMax="8m")
    images = folder / "state/oci/images"
    assert not (images / "content").exists()
    assert [entry for folder in (images / "scratch").iterdir() for entry in folder.iterdir()] == []


async def test_files_without_content_count_too(folder: Path) -> None:
    def fill(tar: tarfile.TarFile) -> None:
        for number in range(600):
            _add(tar, f"empty-{number}")

    layout = make_layout(folder / "layout", [_layer(fill)], {})
    with pytest.raises(BackendError, match=r"more than 8m .*imageSizeMax"):
        await check(folder, f"oci:{layout}", imageSizeMax="8m")


async def test_what_writes_too_much_is_killed_while_it_does(folder: Path) -> None:
    endless = f"while :; do head -c 1000000 /dev/zero; sleep 0.01; done > {folder}/file"
    async with asyncio.timeout(10), open_launcher() as launcher:
        with pytest.raises(BackendError, match="more than 32m"):
            await run_bounded(launcher, ["sh", "-c", endless], clean_environment(), folder, 32 * MIB)
        # Told to the helper after the order to kill it.
        await launcher.call("bound", folder=str(folder), most=2**60)
        size = (folder / "file").stat().st_size
        await asyncio.sleep(0.2)
        assert (folder / "file").stat().st_size == size


async def test_a_limit_does_not_disturb_what_stays_below_it(folder: Path) -> None:
    async with open_launcher() as launcher:
        for most in (0, MIB):
            ended = await run_bounded(launcher, ["sh", "-c", "echo word; exit 3"], clean_environment(), folder, most)
            assert (ended.status, ended.output) == (3, "word\n")


def _age(images: Path, days: int) -> None:
    for file in (images / "used").iterdir():
        os.utime(file, (time.time() - days * 86_400,) * 2)


async def test_an_unpacked_image_that_nobody_uses_is_removed_and_fetched_again(folder: Path) -> None:
    layout = demo_layout(folder / "layout")
    settings = config(image=f"oci:{layout}")
    images = folder / "state/oci/images"
    async with open_backend(folder) as (backend, _):
        async with backend.login(login(), settings, Told()) as connection:
            _age(images, 31)
            await backend.collect(settings)
            assert (await run(connection, "cat /note")).stdout == "second", "a container has it"
        _age(images, 29)
        await backend.collect(settings)
        assert len(entries(images / "content")) == 1
        _age(images, 31)
        await backend.collect(config(imageExpiry="0s"))
        assert len(entries(images / "content")) == 1
        await backend.collect(settings)
        for name in ("content", "names", "used"):
            assert entries(images / name) == [], name
        told = Told()
        async with backend.login(login(), settings, told) as connection:
            assert (await run(connection, "cat /note")).stdout == "second"
        assert len(told.lines) == 1


async def test_an_image_of_another_servers_container_is_not_removed(folder: Path) -> None:
    layout = demo_layout(folder / "layout")
    settings = config(image=f"oci:{layout}")
    images = folder / "state/oci/images"
    async with open_backend(folder) as (one, _), open_backend(folder) as (other, _):
        async with one.login(login(), settings, Told()):
            pass
        async with other.login(login(), settings, Told()):
            _age(images, 31)
            await one.collect(settings)
            assert len(entries(images / "content")) == 1


async def test_images_from_before_their_uses_were_kept_are_not_old(folder: Path) -> None:
    (folder / "content/abc").mkdir(parents=True)
    uses = Uses(folder)
    assert uses.unused(0.5) == []
    os.utime(folder / "used/content-abc", (0, 0))
    assert uses.unused(0.5) == [folder / "content/abc"]
    with pytest.raises(BackendError, match="just been removed"), uses.hold(folder / "content/gone/rootfs"):
        pass


async def test_an_image_cannot_write_outside_its_own_folder(folder: Path) -> None:
    victim = folder / "victim"
    victim.mkdir(mode=0o777)

    def hostile(tar: tarfile.TarFile) -> None:
        _add(tar, "out", type=tarfile.SYMTYPE, linkname=str(victim))
        _add(tar, "out/planted", b"x", mode=0o644)
        _add(tar, f"../../../../../../../..{victim}/climbed", b"x", mode=0o644)
        _add(tar, f"{victim}/absolute", b"x", mode=0o644)
        _add(tar, "etc", type=tarfile.SYMTYPE, linkname=str(victim))
        _add(tar, "proc", type=tarfile.SYMTYPE, linkname=str(victim))
        _add(tar, "dev", type=tarfile.SYMTYPE, linkname=str(victim))
        _add(tar, ".containerssh", type=tarfile.SYMTYPE, linkname=str(victim))

    def programs(tar: tarfile.TarFile) -> None:
        tar.add(image() / "bin", arcname="bin")

    layout = make_layout(folder / "layout", [_layer(programs), _layer(hostile)], {})
    async with open_backend(folder) as (backend, _):
        try:
            async with backend.login(login(), config(image=f"oci:{layout}"), Told()) as connection:
                await run(connection, "echo x > /out/more")
        except BackendError:
            pass  # as good: such an image need not start
    assert entries(victim) == []


@contextmanager
def overlay_of(lower: Path, folder: Path) -> Iterator[Path]:
    """*lower* on an overlay, such as a server in a container has for its own root: no owners can be shifted there."""
    for name in ("upper", "work", "merged"):
        (folder / name).mkdir(parents=True)
    options = f"lowerdir={lower},upperdir={folder}/upper,workdir={folder}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(folder / "merged")], check=True)
    try:
        yield folder / "merged"
    finally:
        subprocess.run(["umount", str(folder / "merged")], check=True)


@pytest.mark.parametrize("changes_too", [False, True])
async def test_a_shifted_copy_serves_where_mounts_cannot_shift(folder: Path, changes_too: bool) -> None:
    with overlay_of(image(), folder / "images") as root, overlay_of(folder, folder / "data") as data:
        more = {"dataDirectory": str(data / "oci")} if changes_too else {}
        async with open_backend(folder) as (backend, _):
            wanted = config(image=str(root), user="demo", **more)
            async with backend.login(login(), wanted, Told()) as connection:
                done = await run(connection, "id -un; touch ~/x; ls ~; touch /x; stat -c %U /bin/sh /home/demo")
            assert done.stdout.split() == ["demo", "x", "root", "demo"], done
            assert "denied" in done.stderr
            (root / "etc/new").write_text("changed")
            async with backend.login(login(), wanted, Told()) as connection:
                assert (await run(connection, "cat /etc/new; ls ~")).stdout == "changed"
        assert entries(root / "home/demo") == []


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["config", "Env", "User", "Entrypoint"]), inner)
        ),
    )
)
def test_any_document_is_an_image_configuration_or_a_value_error(document: object) -> None:
    try:
        parsed = ImageConfig.parse(document)
    except ValueError:
        return
    assert all(isinstance(name, str) and name for name in parsed.env)
    assert all(isinstance(word, str) for word in parsed.entrypoint)
