"""Images: a folder is used directly; any other source is fetched and unpacked once, into a content-addressed store."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from containerssh.backends.oci.bounded import run_bounded
from containerssh.backends.oci.launcher import Ended, Launcher, clean_environment
from containerssh.backends.oci.uses import Uses, collect
from containerssh.config.oci import ImageKind, OCIAuth, OCIConfig, OCIPullPolicy, parse_image
from containerssh.core.codes import OCICode
from containerssh.core.errors import BackendError
from containerssh.core.instance import make_private
from containerssh.core.messages import Event

logger = logging.getLogger(__name__)

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_LARGEST_JSON = 4 * 1024 * 1024
_MOST_LAYERS = 512
_LOCK_PAUSE = 0.05
_POLICIES = ("/etc/containers/policy.json", "~/.config/containers/policy.json")


@dataclass(frozen=True)
class ImageConfig:
    """An image's configuration: how to run it."""

    env: Mapping[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    user: str = ""
    working_directory: str = ""

    @classmethod
    def parse(cls, document: object) -> ImageConfig:
        """
        Parse an image's configuration document (OCI image specification, ``config.md``).

        Raises:
            ValueError: a field has an unexpected type.
        """
        config = document.get("config") if isinstance(document, dict) else None
        if config is None:
            return cls()
        if not isinstance(config, dict):
            raise ValueError("config is not an object")
        env = dict(entry.partition("=")[::2] for entry in _texts(config, "Env") if not entry.startswith("="))
        user, folder = config.get("User") or "", config.get("WorkingDir") or ""
        if not isinstance(user, str) or not isinstance(folder, str) or "\0" in user + folder:
            raise ValueError("User or WorkingDir is not text")
        # JSON can contain a lone surrogate, which cannot be encoded: raises a ValueError.
        (user + folder).encode()
        return cls(env, _texts(config, "Entrypoint"), user, folder)


def _texts(config: dict[str, Any], key: str) -> tuple[str, ...]:
    texts = config.get(key) or []
    if not isinstance(texts, list) or not all(isinstance(text, str) and "\0" not in text for text in texts):
        raise ValueError(f"{key} is not a list of texts")
    "".join(texts).encode()
    return tuple(texts)


@dataclass(frozen=True)
class Image:
    """An unpacked image, ready to be the lower layer of a container's root."""

    root: Path
    config: ImageConfig = ImageConfig()
    content: str = ""
    """The digest of its content; empty for a folder, which may change."""


class ImageStore:
    """The unpacked images of one data folder, which several servers may share."""

    def __init__(self, folder: Path, instance_id: str, launcher: Launcher) -> None:
        self._folder = folder
        self._instance_id = instance_id
        self._launcher = launcher
        self._known: dict[Path, ImageConfig] = {}
        self.uses = Uses(folder)

    @property
    def scratch_folder(self) -> Path:
        """The folder in which this instance unpacks images."""
        return self._folder / "scratch" / self._instance_id

    async def get(self, config: OCIConfig, tell: Callable[[str], None]) -> Image:
        """
        The configured image, fetched if necessary; *tell* receives a line for the user if that takes a while.

        Raises:
            BackendError: the image does not exist, cannot be fetched, or is corrupt.
        """
        kind, source, name = parse_image(config.image)
        if kind is ImageKind.FOLDER:
            return _folder_image(Path(source))
        if kind is ImageKind.REGISTRY:
            return await self._from_registry(source, config, tell)
        key = _fingerprint(kind, Path(source), name)
        if image := self._by_name(key):
            return image
        tell(f"Unpacking image {config.image}")
        return await self._fetch(key, f"{kind}:{source}{':' + name if name else ''}", config)

    async def shifted(self, image: Image, base: int, size: int) -> Image:
        """
        A copy of *image* with shifted owners, where mounts cannot shift them; renewed when the image has changed.

        Raises:
            BackendError: the image cannot be copied.
        """
        signature = image.content or await asyncio.to_thread(_tree_signature, image.root)
        key = hashlib.sha256(f"{signature} {base} {size}".encode()).hexdigest()
        place = self._folder / "shifted" / key
        if not _is_there(place):
            async with self._lock(key):
                if not _is_there(place):
                    await self._copy_shifted(image.root, place, base, size)
        self.uses.touch(place)
        return Image(place, image.config, image.content)

    async def collect(self, longer_than: timedelta) -> None:
        """Remove unpacked images that no server of this machine has used for *longer_than*."""
        seconds = longer_than.total_seconds()
        if not self.uses.unused(seconds):
            return
        async with self._scratch() as scratch:
            taken = await collect(self.uses, self._folder, scratch, seconds, self._moved)
        for place in taken:
            self._known.pop(place, None)
            text = "Removed an unpacked image that nobody has used for long"
            logger.info(Event(OCICode.IMAGE_REMOVED, text, image=str(place)))

    async def _moved(self, source: Path, target: Path) -> bool:
        # In the helper: moving a folder takes the right to write to it.
        return (await self._launcher.call("rename", src=str(source), dst=str(target))).status == 0

    async def _copy_shifted(self, root: Path, place: Path, base: int, size: int) -> None:
        make_private(place.parent)
        async with self._scratch() as scratch:
            copy = scratch / "rootfs"
            ended = await self._launcher.call("copy", source=str(root), target=str(copy))
            if ended.status == 0:
                ended = await self._launcher.call("shift", folder=str(copy), base=base, size=size)
            if ended.status == 0:
                # In the helper: moving a folder takes the right to write to it.
                ended = await self._launcher.call("rename", src=str(copy), dst=str(place))
            _succeeded(ended, f"{root} could not be copied")

    async def _from_registry(self, reference: str, config: OCIConfig, tell: Callable[[str], None]) -> Image:
        who = config.auth.username if config.auth else ""
        key = hashlib.sha256(f"docker {reference} {who}".encode()).hexdigest()
        policy = config.image_pull_policy
        if policy is not OCIPullPolicy.ALWAYS and (image := self._by_name(key)):
            return image
        if policy is OCIPullPolicy.NEVER:
            text = f"image {reference} is not here, and imagePullPolicy is Never"
            raise BackendError(OCICode.IMAGE_FAILED, text, image=reference)
        tell(f"Pulling image {reference}")
        again = policy is OCIPullPolicy.ALWAYS
        return await self._fetch(key, f"docker://{reference}", config, config.auth, again=again)

    def _by_name(self, key: str) -> Image | None:
        """The image unpacked for *key* (the hash of a source, not of the content)."""
        try:
            content = (self._folder / "names" / key).read_text()
        except FileNotFoundError:
            return None
        return self._by_content(content)

    def _by_content(self, content: str) -> Image | None:
        place = self._folder / "content" / content
        if not _DIGEST.fullmatch(f"sha256:{content}") or not place.is_dir():
            return None
        if place not in self._known:
            self._known[place] = ImageConfig.parse(_read_json(place / "config.json"))
        self.uses.touch(place)
        return Image(place / "rootfs", self._known[place], content)

    async def _fetch(
        self, key: str, source: str, config: OCIConfig, auth: OCIAuth | None = None, *, again: bool = False
    ) -> Image:
        async with self._lock(key):
            if not again and (image := self._by_name(key)):
                return image
            logger.info(Event(OCICode.IMAGE_UNPACK, f"Fetching image {source}", image=source))
            async with self._scratch() as scratch:
                content = await self._copy_layout(source, scratch, config.image_size_max, auth)
                if self._by_content(content) is None:
                    await self._unpack(scratch, content, source, config.image_size_max)
            make_private(self._folder / "names")
            name = self._folder / "names" / key
            fresh = name.with_name(f".{key}-{secrets.token_hex(4)}")
            fresh.write_text(content)
            fresh.rename(name)
        image = self._by_content(content)
        if image is None:
            raise BackendError(OCICode.IMAGE_FAILED, f"image {source} vanished from the store", image=source)
        return image

    async def _copy_layout(self, source: str, scratch: Path, most: int, auth: OCIAuth | None) -> str:
        """Copy *source* to an OCI layout in *scratch*; return the digest of its configuration."""
        argv = [_tool("skopeo"), *_policy_options(), "copy", "--quiet"]
        if _is_loopback(source):
            argv.append("--src-tls-verify=false")
        if auth:
            argv += ["--src-authfile", str(_write_auth(scratch, source, auth))]
        layout = scratch / "layout"
        ended = await self._run([*argv, source, f"oci:{layout}:image"], scratch, most)
        _succeeded(ended, f"image {source} could not be fetched")
        try:
            content = await asyncio.to_thread(verify_layout, layout)
            document = _read_json(layout / "blobs/sha256" / content)
            ImageConfig.parse(document)
        except (OSError, ValueError) as exc:
            raise BackendError(OCICode.IMAGE_FAILED, f"image {source} is broken", image=source) from exc
        return content

    async def _unpack(self, scratch: Path, content: str, source: str, most: int) -> None:
        fresh = scratch / "content"
        fresh.mkdir(mode=0o700)
        argv = [_tool("umoci"), "raw", "unpack", "--image", f"{scratch / 'layout'}:image", str(fresh / "rootfs")]
        _succeeded(await self._run(argv, scratch, most), f"image {source} could not be unpacked")
        shutil.copyfile(scratch / "layout/blobs/sha256" / content, fresh / "config.json")
        make_private(self._folder / "content")
        try:
            fresh.rename(self._folder / "content" / content)
        except OSError:
            if self._by_content(content) is None:  # otherwise another server has unpacked it, under another name
                raise

    async def _run(self, argv: list[str], scratch: Path, most: int) -> Ended:
        environment = clean_environment() | {"TMPDIR": str(scratch), "HOME": str(scratch)}
        return await run_bounded(self._launcher, argv, environment, scratch, most)

    @asynccontextmanager
    async def _scratch(self) -> AsyncIterator[Path]:
        """A temporary folder on the store's file system; after a crash, the reaper removes it."""
        make_private(self.scratch_folder)
        scratch = self.scratch_folder / secrets.token_hex(8)
        scratch.mkdir(mode=0o700)
        try:
            yield scratch
        finally:
            await asyncio.shield(self._launcher.call("remove", folder=str(scratch)))

    @asynccontextmanager
    async def _lock(self, key: str) -> AsyncIterator[None]:
        """A lock between servers for the work on *key*."""
        make_private(self._folder / "locks")
        descriptor = os.open(self._folder / "locks" / key, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(_LOCK_PAUSE)
            yield
        finally:
            os.close(descriptor)


def _is_there(place: Path) -> bool:
    return place.exists()


def _tree_signature(root: Path) -> str:
    from containerssh.backends.oci.trees import signature

    return signature(root)


def _folder_image(root: Path) -> Image:
    if not root.is_dir():
        raise BackendError(OCICode.IMAGE_FAILED, f"image {root} is not a folder", image=str(root))
    return Image(root)


def _fingerprint(kind: ImageKind, source: Path, name: str) -> str:
    """A fingerprint that changes when the layout or archive changes."""
    file = source / "index.json" if kind is ImageKind.LAYOUT else source
    try:
        found = file.stat()
    except OSError as exc:
        raise BackendError(OCICode.IMAGE_FAILED, f"image {source} cannot be read", image=str(source)) from exc
    state = (kind, source, name, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
    return hashlib.sha256("\0".join(map(str, state)).encode(errors="surrogateescape")).hexdigest()


def _policy_options() -> list[str]:
    """skopeo requires a signature policy: use the system's if it exists, otherwise accept all images."""
    there = any(Path(policy).expanduser().exists() for policy in _POLICIES)
    return [] if there else ["--insecure-policy"]


def _tool(name: str) -> str:
    if path := shutil.which(name, path=clean_environment()["PATH"]):
        return path
    text = f"{name} is needed for images that are not a folder: apt install {name}"
    raise BackendError(OCICode.IMAGE_FAILED, text)


def _succeeded(ended: Ended, what: str) -> None:
    if ended.status != 0:
        raise BackendError(OCICode.IMAGE_FAILED, f"{what}: {ended.last_words}")


def _registry(source: str) -> str:
    first, slash, _ = source.removeprefix("docker://").partition("/")
    return first if slash and (set(first) & {".", ":"} or first == "localhost") else "docker.io"


def _is_loopback(source: str) -> bool:
    """Whether the registry runs on this machine; like Docker, such a registry may use plain HTTP."""
    host = _registry(source).partition(":")[0]
    return source.startswith("docker://") and (host == "localhost" or host.startswith("127."))


def _write_auth(scratch: Path, source: str, auth: OCIAuth) -> Path:
    secret = b64encode(f"{auth.username}:{auth.password.get_secret_value()}".encode()).decode()
    file = scratch / "auth.json"
    file.touch(mode=0o600)
    file.write_text(json.dumps({"auths": {_registry(source): {"auth": secret}}}))
    return file


def verify_layout(layout: Path) -> str:
    """
    Verify the digest of every blob of the single image in the layout; return the digest of its configuration.

    Raises:
        OSError, ValueError: a blob is missing, differs from its digest, or has an unexpected type.
    """
    index = _read_json(layout / "index.json")
    manifests = index.get("manifests") if isinstance(index, dict) else None
    if not isinstance(manifests, list) or len(manifests) != 1:
        raise ValueError("the layout does not hold one image")
    manifest = _read_json(_verified(layout, manifests[0]))
    if not isinstance(manifest, dict) or not isinstance(layers := manifest.get("layers"), list):
        raise ValueError("the manifest is not one of an image")
    if len(layers) > _MOST_LAYERS:
        raise ValueError(f"the image has more than {_MOST_LAYERS} layers")
    for layer in layers:
        _verified(layout, layer)
    return _verified(layout, manifest.get("config")).name


def _verified(layout: Path, descriptor: object) -> Path:
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    match = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if match is None:
        raise ValueError("a digest is missing, or not SHA-256")
    path = layout / "blobs/sha256" / match.group(1)
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != match.group(1):
            raise ValueError(f"blob {digest} has other content")
    return path


def _read_json(path: Path) -> object:
    with path.open("rb") as file:
        data = file.read(_LARGEST_JSON + 1)
    if len(data) > _LARGEST_JSON:
        raise ValueError(f"{path.name} is too long")
    try:
        return json.loads(data)
    except RecursionError as exc:
        raise ValueError(f"{path.name} is nested too deeply") from exc
