"""A zoo of root file systems: with glibc, with musl, with one static program, with a whole Debian."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path

from tests.support.services import Engine, busybox_archive
from tests.support.tools import tool

PROBE = "/bin/probe"
"""In each of :data:`ZOO`; see ``probe.c``."""

_SOURCE = Path(__file__).with_name("probe.c")
_VERSION = sha256(_SOURCE.read_bytes() + Path(__file__).read_bytes()).hexdigest()[:12]
"""Another one when the images would be others."""
_DEBIAN_LIMIT = 300
_DEBIAN_PACKAGES = "python3,openssh-client,xauth"
_NOT_NEEDED = ("usr/share/doc", "usr/share/locale", "usr/share/man", "var/cache/apt", "var/lib/apt/lists")


def cache_folder() -> Path:
    """Where things that take long are kept between runs."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "containerssh-test"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@cache
def go_program(source: Path, *flags: str) -> Path:
    """
    The program built from the Go module *source*. Its modules come from the module proxy at the first time, and Go's
    own cache makes later ones quick.
    """
    program = cache_folder() / source.name
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local"}
    with program.with_suffix(".lock").open("w") as lock:
        # Another process of the tests may be building it too.
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run([tool("go"), "build", *flags, "-o", program, "."], cwd=source, env=environment, check=True)
    return program


def _compiled(root: Path, *command: str) -> None:
    target = root / PROBE.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([*command, "-O1", "-o", target, _SOURCE], check=True)


def _with_libraries(root: Path, program: str = PROBE) -> None:
    """The libraries that *program* is linked against, and the loader, at their places."""
    listed = subprocess.run(
        [tool("ldd"), root / program.lstrip("/")], capture_output=True, text=True, check=True
    ).stdout
    for path in map(Path, re.findall(r"(/\S+) \(0x", listed)):
        target = root / str(path).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path.resolve(), target)
        target.chmod(0o755)


def _scratch(root: Path) -> None:
    _compiled(root, tool("musl-gcc"), "-static")


def _distroless(root: Path) -> None:
    _compiled(root, tool("gcc"))
    _with_libraries(root)
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/sbin/nologin\n")


def _musl(root: Path) -> None:
    """As Alpine is: busybox, and programs that are linked against musl."""
    _busybox(root)
    _compiled(root, tool("musl-gcc"))
    (root / "lib").mkdir(exist_ok=True)
    (loader,) = Path("/lib").glob("ld-musl-*.so.1")
    shutil.copyfile(loader.resolve(), root / "lib" / loader.name)
    (root / "lib" / loader.name).chmod(0o755)


def _busybox(root: Path) -> None:
    subprocess.run([tool("tar"), "-xf", "-", "-C", root], input=busybox_archive(), check=True)
    _compiled(root, tool("musl-gcc"), "-static")


def _debian(root: Path) -> None:
    """Debian's own smallest system with a few programs. It takes half a minute and is kept."""
    kept = cache_folder() / "debian-bookworm-programs.tar"
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
            fresh = Path(name) / "root"
            subprocess.run(
                [tool("debootstrap"), "--variant=minbase", f"--include={_DEBIAN_PACKAGES}", "bookworm", fresh],
                stdout=subprocess.DEVNULL,
                timeout=_DEBIAN_LIMIT,
                check=True,
            )
            left_out = [f"--exclude=./{path}/*" for path in (*_NOT_NEEDED, "dev")]
            packed = kept.with_suffix(f".{os.getpid()}")
            subprocess.run([tool("tar"), "-C", fresh, *left_out, "-cf", packed, "."], check=True)
            packed.rename(kept)
    subprocess.run([tool("tar"), "-xpf", kept, "-C", root], check=True)
    _compiled(root, tool("gcc"))


def _tools(root: Path) -> None:
    """Busybox, and this machine's rsync and git."""
    _busybox(root)
    for name in ("rsync", "git"):
        program = f"/usr/bin/{name}"
        shutil.copyfile(Path(tool(name)).resolve(), root / program.lstrip("/"))
        (root / program.lstrip("/")).chmod(0o755)
        _with_libraries(root, program)
    for name in ("git-upload-pack", "git-receive-pack"):
        (root / "usr/bin" / name).symlink_to("git")


ZOO: Mapping[str, Callable[[Path], None]] = {
    "busybox": _busybox,
    "musl": _musl,
    "debian": _debian,
    "distroless": _distroless,
    "scratch": _scratch,
    "tools": _tools,
}
"""What fills the folder of each root file system."""


@cache
def zoo_folder(name: str) -> Path:
    """The root file system *name*, made once in a run."""
    root = Path(tempfile.mkdtemp(prefix=f"cs-zoo-{name}-", dir="/var/tmp"))
    _remember(root)
    root.chmod(0o755)
    ZOO[name](root)
    return root


def zoo_image(engine: Engine, name: str) -> str:
    """An image of the root file system *name*, which the engine has afterwards."""
    image = f"containerssh-test/zoo-{name}:{_VERSION}"
    if not engine.has_image(image):
        engine.docker("import", "-", image, stdin=_archive_of(zoo_folder(name)))
    return image


def _remember(root: Path) -> None:
    import atexit

    atexit.register(shutil.rmtree, root, ignore_errors=True)


def _archive_of(folder: Path) -> bytes:
    """The same as a tar archive; everything belongs to root."""
    command: list[str | Path] = [
        tool("tar"),
        "-C",
        folder,
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "-cf",
        "-",
        ".",
    ]
    return subprocess.run(command, capture_output=True, check=True).stdout
