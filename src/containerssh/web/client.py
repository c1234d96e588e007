"""An HTTP client for services that the administrator runs (``webhooks.md`` section 1).

Such a service is trusted to identify users, and for nothing else: the size, types and duration of its responses are
checked.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from urllib.parse import urlsplit, urlunsplit

import aiohttp
from yarl import URL

from containerssh.config.http import HTTPClientConfig
from containerssh.core.codes import HTTPCode
from containerssh.core.errors import BackendError
from containerssh.core.messages import Code, Event, LabelValue
from containerssh.web.failures import words_for

logger = logging.getLogger(__name__)

_SMALL_BODY = 64 * 1024
# One compressed byte can expand to a thousand.
_SMALL_PACKED_BODY = 256
_LARGE_AT_ONCE = 4
"""How many large responses of an endpoint may be received at the same time; others wait."""

MAX_REDIRECTS = 10

_CONNECTIONS = 512
"""Connections per endpoint. When as many logins wait for a slow webhook, the next one waits for them."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TO_GET = frozenset({301, 302, 303})


class WebhookError(BackendError):
    """There was no usable response."""

    def __init__(
        self,
        code: Code,
        explanation: str,
        /,
        *,
        passing: bool,
        user_message: str | None = None,
        **labels: LabelValue,
    ) -> None:
        super().__init__(code, explanation, user_message=user_message, **labels)
        self.passing = passing
        """Whether a retry may succeed."""


@dataclass(frozen=True)
class Answer:
    """An HTTP response, whatever its status."""

    status: int
    body: bytes

    def json(self) -> object:
        """
        The body as JSON; what follows the first value is ignored, as upstream does.

        Raises:
            WebhookError: it is no JSON, or has duplicate keys.
        """
        try:
            text = self.body.decode("utf-8-sig").lstrip(" \t\r\n")
            return _DECODER.raw_decode(text)[0]
        except _TwiceGivenError as exc:
            raise WebhookError(
                HTTPCode.CLIENT_DECODE_FAILED, "the answer has the same key twice", passing=False
            ) from exc
        except (ValueError, RecursionError) as exc:
            # Not the text of exc: that of a UnicodeDecodeError contains the body.
            raise WebhookError(
                HTTPCode.CLIENT_DECODE_FAILED, f"the answer is not JSON ({type(exc).__name__})", passing=True
            ) from None


class _TwiceGivenError(ValueError):
    pass


def _unambiguous(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _TwiceGivenError
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_unambiguous)


def encode_json(fields: Mapping[str, object]) -> bytes:
    """
    *fields* as upstream writes them: one line, HTML's special characters escaped.

    Raises:
        WebhookError: a text in it is not Unicode.
    """
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        raise WebhookError(
            HTTPCode.CLIENT_ENCODE_FAILED, "a text in the request is not valid UTF-8", passing=False
        ) from None


class HTTPClient:
    """Requests to one configured endpoint over kept-alive connections; see :func:`open_http_client`."""

    def __init__(self, config: HTTPClientConfig, session: aiohttp.ClientSession) -> None:
        self._config = config
        self._session = session
        self._authorization = _basic_auth(URL(config.url))
        self._ssl = config.ssl_context() or True
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)
        self.url = _without_user(config.url)
        """The endpoint's URL for the log, without user name and password."""

    async def post(self, path: str, fields: Mapping[str, object]) -> Answer:
        """
        Post *fields* as JSON to the endpoint's URL with *path* appended; the configured timeout covers it all.

        Raises:
            WebhookError: no HTTP answer came, it was too large, or it was a redirect that may not be followed.
        """
        return await self._limited("POST", path, encode_json(fields))

    async def get(self, path: str = "") -> Answer:
        """As :meth:`post`, without a body."""
        return await self._limited("GET", path, None)

    async def exchange(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """
        One request to any *url*, with the endpoint's TLS settings, limits and timeout. Redirects are not followed. The
        credentials in the endpoint's URL are not sent.

        Raises:
            WebhookError: no HTTP answer came, or it was too large.
        """
        limit = self._config.timeout.total_seconds()
        try:
            target = URL(url)
        except ValueError as exc:
            raise WebhookError(HTTPCode.CLIENT_CONNECTION_FAILED, "not a usable URL", passing=False) from exc
        labels: dict[str, LabelValue] = {"endpoint": self.url, "method": method, "url": _plain(target)}
        logger.debug(Event(HTTPCode.CLIENT_REQUEST, f"HTTP {method} request to {_plain(target)}", **labels))
        try:
            async with asyncio.timeout(limit) as scope:
                status, _, content = await self._once(method, target, body, authorized=False, more=headers)
        except TimeoutError:
            if not scope.expired():
                raise
            raise WebhookError(
                HTTPCode.CLIENT_CONNECTION_FAILED,
                f"{method} {_plain(target)}: no complete answer within {limit:g} s",
                passing=True,
            ) from None
        logger.debug(
            Event(HTTPCode.CLIENT_RESPONSE, f"HTTP response with status {status}", statusCode=status, **labels)
        )
        return Answer(status, content)

    async def _limited(self, method: str, path: str, body: bytes | None) -> Answer:
        limit = self._config.timeout.total_seconds()
        try:
            async with asyncio.timeout(limit) as scope:
                return await self._follow(method, path, body)
        except TimeoutError:
            if not scope.expired():
                raise
            raise WebhookError(
                HTTPCode.CLIENT_CONNECTION_FAILED,
                f"{method} {self.url}{path}: no complete answer within {limit:g} s",
                passing=True,
            ) from None

    async def _follow(self, method: str, path: str, body: bytes | None) -> Answer:
        start = url = URL(_joined(self.url, path))
        labels: dict[str, LabelValue] = {"endpoint": self.url, "path": path}
        for _ in range(MAX_REDIRECTS + 1):
            labels |= {"method": method, "url": _plain(url)}
            logger.debug(Event(HTTPCode.CLIENT_REQUEST, f"HTTP {method} request to {_plain(url)}", **labels))
            authorized = _same_origin(url, start)
            status, location, content = await self._once(method, url, body, authorized=authorized)
            logger.debug(
                Event(HTTPCode.CLIENT_RESPONSE, f"HTTP response with status {status}", statusCode=status, **labels)
            )
            if status not in _REDIRECTS or location is None:
                return Answer(status, content)
            url = self._redirected(url, location)
            logger.debug(Event(HTTPCode.CLIENT_REDIRECT, "HTTP redirect", redirect=_plain(url), **labels))
            if status in _TO_GET:
                method, body = "GET", None
        raise WebhookError(
            HTTPCode.CLIENT_CONNECTION_FAILED, f"more than {MAX_REDIRECTS} redirects from {self.url}", passing=False
        )

    def _redirected(self, url: URL, location: str) -> URL:
        if not self._config.allow_redirects:
            raise WebhookError(
                HTTPCode.CLIENT_REDIRECTS_DISABLED,
                f"{self.url} answered with a redirect, and allowRedirects is off",
                passing=False,
            )
        try:
            target = url.join(URL(location)).with_user(None)
        except ValueError:
            target = URL()
        if target.scheme not in ("http", "https") or not target.host:
            problem = "to something that is not an http or https URL"
        elif url.scheme == "https" and target.scheme == "http":
            problem = "from https to http, which would send the question in clear text"
        else:
            return target
        raise WebhookError(
            HTTPCode.CLIENT_REDIRECTS_DISABLED, f"{self.url} answered with a redirect {problem}", passing=False
        )

    async def _once(
        self,
        method: str,
        url: URL,
        body: bytes | None,
        *,
        authorized: bool,
        more: Mapping[str, str] | None = None,
    ) -> tuple[int, str | None, bytes]:
        """Status, ``Location`` and body of one exchange."""
        headers = {"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": "ContainerSSH"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if authorized and self._authorization:
            headers["Authorization"] = self._authorization
        headers |= more or {}
        for last_try in (False, True):
            use = SimpleNamespace(reused=False, answered=False)
            try:
                async with self._session.request(
                    method,
                    url,
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                    ssl=self._ssl,
                    trace_request_ctx=use,
                ) as response:
                    use.answered = True
                    content = await _read(response, self._config.max_answer_bytes, self._large)
                    return response.status, response.headers.get("Location"), content
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as exc:
                # The server closed an idle connection just as it was reused, which is no error of the server.
                if last_try or use.answered or not use.reused:
                    raise _connection_failed(method, url, exc) from None
            except (aiohttp.ClientError, OSError) as exc:
                raise _connection_failed(method, url, exc) from None
        raise AssertionError("the second try returns or raises")


@asynccontextmanager
async def open_http_client(config: HTTPClientConfig) -> AsyncIterator[HTTPClient]:
    """
    A client for the endpoint, for the lifetime of the server; its connections are closed at the end.

    Proxies named in the environment are not used, cookies are not kept.
    """

    async def reused(_: object, context: SimpleNamespace, __: object) -> None:
        context.trace_request_ctx.reused = True

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(reused)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        trace_configs=[trace],
    ) as session:
        yield HTTPClient(config, session)


async def _read(response: aiohttp.ClientResponse, most: int, large: asyncio.Semaphore) -> bytes:
    """
    The body of at most so many bytes, unpacked bit by bit, so that a small answer cannot become a large one in memory;
    it takes a place of *large* once it is no small one, so that many logins together do not hold much more than one.
    """
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip", ""):
        raise WebhookError(
            HTTPCode.CLIENT_DECODE_FAILED, f"the answer has the unknown encoding {encoding[:40]!r}", passing=False
        )
    unpack = _Gunzip() if "gzip" in encoding else None
    body = bytearray()
    received = 0
    small = _SMALL_BODY if unpack is None else _SMALL_PACKED_BODY
    async with AsyncExitStack() as places:
        async for chunk in response.content.iter_chunked(64 * 1024):
            if received <= small < received + len(chunk):
                await places.enter_async_context(large)
            received += len(chunk)
            body += chunk if unpack is None else unpack.feed(chunk, most + 1 - len(body))
            if max(received, len(body)) > most:
                raise WebhookError(
                    HTTPCode.CLIENT_DECODE_FAILED, f"the answer has more than {most} bytes", passing=False
                )
    if unpack is not None and received and not unpack.complete:
        raise WebhookError(HTTPCode.CLIENT_DECODE_FAILED, "the compressed answer is cut off", passing=True)
    return bytes(body)


class _Gunzip:
    """Unpacks a gzip stream (RFC 1952), which may have several members."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)

    def feed(self, data: bytes, limit: int) -> bytes:
        """What *data* adds, no more than *limit* bytes: once that many came, the stream is of no more use."""
        out = bytearray()
        while data and len(out) < limit:
            if self._member.eof:
                self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)
            try:
                out += self._member.decompress(data, limit - len(out))
            except zlib.error as exc:
                raise WebhookError(
                    HTTPCode.CLIENT_DECODE_FAILED, "the compressed answer is damaged", passing=True
                ) from exc
            data = self._member.unused_data
        return bytes(out)

    @property
    def complete(self) -> bool:
        return self._member.eof


def _connection_failed(method: str, url: URL, exc: Exception) -> WebhookError:
    distrusted = isinstance(exc, aiohttp.ClientConnectorCertificateError)
    text = f"{method} {_plain(url)} failed: {words_for(exc)}"
    return WebhookError(HTTPCode.CLIENT_CONNECTION_FAILED, text, passing=not distrusted)


def _basic_auth(url: URL) -> str | None:
    if url.user is None and url.password is None:
        return None
    pair = f"{url.user or ''}:{url.password or ''}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _joined(base: str, path: str) -> str:
    """*base* with *path* appended to its path, before the query."""
    if not path:
        return base
    parts = urlsplit(base)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + path))


def _plain(url: URL) -> str:
    """*url* for the log, without a query, which may contain a secret."""
    return str(url.with_user(None).with_query(None).with_fragment(None))


def _same_origin(one: URL, other: URL) -> bool:
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)
