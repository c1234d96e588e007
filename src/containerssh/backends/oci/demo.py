"""A minimal image built from the host's static busybox, for ``containerssh demo`` and tests."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from secrets import token_hex

from containerssh.backends.oci.trees import remove
from containerssh.core.codes import OCICode
from containerssh.core.errors import BackendError
from containerssh.core.instance import make_private

_FOLDERS = {
    "bin": 0o755,
    "dev": 0o755,
    "etc": 0o755,
    "home": 0o755,
    "home/demo": 0o755,
    "proc": 0o555,
    "root": 0o700,
    "run": 0o755,
    "sys": 0o555,
    "tmp": 0o1777,
    "usr": 0o755,
    "var": 0o755,
    "var/tmp": 0o1777,
}
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\ndemo:x:1000:1000:demo:/home/demo:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\ntty:x:5:\ndemo:x:1000:\nnogroup:x:65534:\n",
    "etc/os-release": 'NAME="ContainerSSH demo"\nID=containerssh-demo\nPRETTY_NAME="ContainerSSH demo (busybox)"\n',
    "etc/profile": "export PS1='\\u@\\h:\\w\\$ '\n",
}


def demo_image(state: Path) -> Path:
    """
    Create the root file system below *state* if it is missing; its path is used as ``oci.image``. Blocks briefly.

    Raises:
        BackendError: there is no static busybox.
        OSError: the files cannot be written.
    """
    place = state / "demo-image"
    if (place / "bin/busybox").exists():
        return place
    busybox = _static_busybox()
    make_private(state)
    fresh = state / f".demo-image-{token_hex(4)}"
    fresh.mkdir(mode=0o755)
    try:
        _fill(fresh, busybox)
        try:
            fresh.rename(place)
        except OSError:
            if not (place / "bin/busybox").exists():  # otherwise another process has created it
                raise
    finally:
        remove(str(fresh))
    return place


def demo_archive(image: Path) -> bytes:
    """The image as a tar archive for an engine; all files belong to root."""

    def owned(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 1000 if entry.name == "./home/demo" else 0
        entry.uname = entry.gname = ""
        return entry

    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        archive.add(image, ".", filter=owned)
    return target.getvalue()


def _static_busybox() -> Path:
    found = shutil.which("busybox", path="/bin:/usr/bin:/sbin:/usr/sbin:" + os.environ.get("PATH", os.defpath))
    # A dynamically linked program names its loader in the first page of the file.
    if found is None or b"/ld-" in Path(found).read_bytes()[:4096]:
        raise BackendError(OCICode.IMAGE_FAILED, "the demo needs a static busybox: apt install busybox-static")
    return Path(found)


def _fill(root: Path, busybox: Path) -> None:
    for name, mode in _FOLDERS.items():
        (root / name).mkdir()
        (root / name).chmod(mode)
    for name, text in _FILES.items():
        (root / name).write_text(text)
        (root / name).chmod(0o644)
    program = root / "bin/busybox"
    shutil.copyfile(busybox, program)
    program.chmod(0o755)
    listed = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True, timeout=10).stdout
    for applet in listed.split():
        if applet != "busybox" and "/" not in applet:
            (root / "bin" / applet).symlink_to("busybox")
    root.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(root / "home/demo", 1000, 1000)
