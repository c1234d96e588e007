"""The redirect page: it shows the code that the user pastes into the terminal (``auth.md`` section 3.6)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import mimetypes
import os
import re
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from containerssh.config.oauth2 import RedirectConfig
from containerssh.core.codes import AuthCode, OAuth2Code
from containerssh.core.errors import ConfigError
from containerssh.core.messages import Event
from containerssh.web.server import serving

logger = logging.getLogger(__name__)

_SHOWN_CHARACTERS = 8192
_FILE_BYTES = 16 * 1024 * 1024
_INDEX_BYTES = 1024 * 1024

_STYLE = """
:root { color-scheme: light dark; font: 1.1rem/1.5 system-ui, sans-serif; }
body { margin: 12vh auto; max-width: 40rem; padding: 0 1rem; }
code { border: 1px solid; border-radius: .4rem; display: block; overflow-wrap: anywhere; padding: 1rem; }
code { user-select: all; }
"""


def _document(body: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Log in</title>
<style>{_STYLE}</style>
</head>
<body>
{body}
</body>
</html>
"""


_PAGE = _document("""<h1>Almost there</h1>
<p>Copy this code, and paste it into the terminal where you began to log in:</p>
<p><code>{{ .Code }}</code></p>
<p>Give it to nobody: whoever asks you for it wants to log in as you.</p>""")

_REFUSED = _document("""<h1>No login</h1>
<p>The identity provider sent no code: the login was denied, or failed there. You can close this page.</p>""")

_ACTION = re.compile(r"(?:\s*\{\{-\s+|\{\{\s*)\.Code(?:\s+-\}\}\s*|\s*\}\})")
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_NOWHERE = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_OWN_POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; {_NOWHERE}"
_WEBROOT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    f"font-src 'self'; {_NOWHERE}"
)


class RedirectPage:
    """Serves the redirect page; see :func:`redirect_page`."""

    def __init__(self, config: RedirectConfig) -> None:
        self._root = Path(config.webroot) if config.webroot else None

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Answer a request: at ``/`` the page with ``state|code`` from the query, otherwise files of the webroot."""
        if request.method not in ("GET", "HEAD"):
            return _plain(405, "only GET is answered", {"Allow": "GET, HEAD"})
        path = request.path
        if path == "/":
            return await self._page(request)
        if path == "/index.html":
            return _plain(308, "", {"Location": "./"})
        content = await asyncio.to_thread(self._file, path) if self._root else None
        if content is None:
            return _plain(404, "there is no such page")
        kind, encoding = mimetypes.guess_type(path)
        headers = {**_HEADERS, "Content-Security-Policy": _WEBROOT_POLICY}
        if encoding:
            headers["Content-Encoding"] = encoding
        return web.Response(body=content, headers={**headers, "Content-Type": kind or "application/octet-stream"})

    async def _page(self, request: web.BaseRequest) -> web.Response:
        query = request.query
        text = f"{query.get('state', '')}|{query.get('code', '')}"
        if len(text) > _SHOWN_CHARACTERS:
            return _plain(414, "the code is too long")
        page, policy = _PAGE, _OWN_POLICY
        if self._root is not None:
            own = await asyncio.to_thread(read_index, self._root)
            if own is None:
                return _plain(500, "the page cannot be read")
            page, policy = own, _WEBROOT_POLICY
        elif "error" in query and "code" not in query:
            page = _REFUSED
        return web.Response(
            text=filled(page, text),
            content_type="text/html",
            charset="utf-8",
            headers={**_HEADERS, "Content-Security-Policy": policy},
        )

    def _file(self, path: str) -> bytes | None:
        """The file of the webroot at the decoded *path*; None if it does not exist or may not be served."""
        assert self._root is not None
        parts = path.split("/")[1:]
        if not all(parts) or any(part.startswith(".") or "\0" in part or "\\" in part for part in parts):
            return None
        try:
            root = self._root.resolve(strict=True)
            # Symbolic links, which mounted ConfigMaps consist of, are followed if they stay inside the webroot.
            target = root.joinpath(*parts).resolve(strict=True)
        except (OSError, RuntimeError, ValueError):
            return None
        return _read(target, _FILE_BYTES) if target.is_relative_to(root) else None


def read_index(root: Path) -> str | None:
    """The webroot's ``index.html``; None if it cannot be read or is not UTF-8."""
    content = _read(root / "index.html", _INDEX_BYTES)
    try:
        return None if content is None else content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def filled(page: str, code: str) -> str:
    """*page* with each ``{{ .Code }}`` replaced by *code*, escaped for text and attributes."""
    inert = "".join(char if re.match(r"[A-Za-z0-9._~-]", char) else f"&#{ord(char)};" for char in code)
    return _ACTION.sub(lambda _: inert, page)


def check_webroot(config: RedirectConfig) -> None:
    """Raises ConfigError if the webroot's page cannot be used."""
    if not config.webroot:
        return
    page = read_index(Path(config.webroot))
    if page is None:
        raise ConfigError(AuthCode.CONFIG_ERROR, f"{config.webroot}/index.html cannot be read, or is not UTF-8 text")
    rest = _ACTION.sub("", page)
    if "{{" in rest:
        found = rest[rest.index("{{") :][:40].splitlines()[0]
        text = f"{config.webroot}/index.html: only {{{{ .Code }}}} is understood, and there is {found!r}"
        raise ConfigError(AuthCode.CONFIG_ERROR, text)


@asynccontextmanager
async def redirect_page(config: RedirectConfig) -> AsyncIterator[list[tuple[str, int]]]:
    """
    Serve the page while the scope is open; yields the addresses.

    Raises:
        ConfigError: a TLS setting or the webroot's page cannot be used.
        BackendError: the address cannot be bound.
    """
    await asyncio.to_thread(check_webroot, config)
    async with serving(config, RedirectPage(config).answer) as addresses:
        where = ", ".join(f"{host}:{port}" for host, port in addresses)
        logger.info(Event(OAuth2Code.AVAILABLE, f"OAuth 2.0 redirect page available on {where}", url=config.listen))
        yield addresses


def _read(path: Path, most: int) -> bytes | None:
    try:
        # Opening a named pipe must not block.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > most:
                return None
            return file.read(most)
    except OSError:
        return None


def _plain(status: int, text: str, more: dict[str, str] | None = None) -> web.Response:
    policy = {"Content-Security-Policy": _OWN_POLICY}
    return web.Response(status=status, text=f"{text}\n", headers={**_HEADERS, **policy, **(more or {})})
