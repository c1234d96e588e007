"""The Kubernetes API (https://kubernetes.io/docs/reference/kubernetes-api/), as far as logins need it."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast
from urllib.parse import urlencode

import aiohttp

from containerssh.backends.kubernetes.connections import Away, Connections, give_up, read_all, read_more
from containerssh.backends.kubernetes.credentials import Credentials
from containerssh.backends.kubernetes.errors import ERROR_LIMIT, APIError, broken, refusal
from containerssh.backends.kubernetes.exec_stream import RemoteStream
from containerssh.backends.kubernetes.limiter import Limiter
from containerssh.backends.kubernetes.opening import StreamOpener
from containerssh.backends.kubernetes.watch import (
    Known,
    Lines,
    WatchEvent,
    identity,
    is_expired,
    parse_event,
    version_of,
)
from containerssh.config.kubernetes_connection import KubernetesConnectionConfig
from containerssh.core.counters import counters
from containerssh.core.errors import ContainerSSHError, ProtocolError
from containerssh.core.metrics import BACKEND_ERRORS, BACKEND_REQUESTS
from containerssh.core.tasks import time_limit

_OBJECT_LIMIT = 16 << 20
_PAGE = 250
_PAGE_LIMIT = 64 << 20
_PAGES = 1000
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_WATCH_SECONDS = (240, 480)
"""Between these the server ends a watch, so that those of many logins do not end together."""
_PAUSES = (0.2, 10.0)
_RETRY_AFTER_LIMIT = 10.0
_RETRY_PAUSE = 0.1


@dataclass(frozen=True)
class Kind:
    """A kind of object; the core group's name is empty."""

    group: str
    version: str
    plural: str
    namespaced: bool = True


PODS = Kind("", "v1", "pods")
EVENTS = Kind("", "v1", "events")
SECRETS = Kind("", "v1", "secrets")
CONFIG_MAPS = Kind("", "v1", "configmaps")
NAMESPACES = Kind("", "v1", "namespaces", namespaced=False)
NODES = Kind("", "v1", "nodes", namespaced=False)
LEASES = Kind("coordination.k8s.io", "v1", "leases")


class KubernetesClient:
    """
    Talks to one API server for all logins; connections are kept and used again. Close it at the end.

    Every method raises :class:`APIError` with the API's reason (status 0: no answer came), ConfigError when what the
    configuration names cannot be used, and ProtocolError when the answer cannot be understood. No request waits longer
    than *timeout* for its answer; streams and watches then last as long as they do.

    This one asks as often as it is told to. :meth:`for_login` gives a view with the configured rate of requests, which
    upstream counts for each login too.
    """

    def __init__(self, config: KubernetesConnectionConfig, timeout: timedelta) -> None:
        self._config = config
        self._timeout = timeout
        self._limiter = Limiter(None, 0)
        self._credentials = Credentials(config)
        self._streams = StreamOpener(self._credentials)
        self._http = Connections()

    def for_login(self) -> KubernetesClient:
        """The same client for one login, with a rate limit of its own; it need not be closed."""
        view = KubernetesClient.__new__(KubernetesClient)
        view.__dict__.update(self.__dict__)
        view._limiter = Limiter(self._config.qps, self._config.burst)
        return view

    @property
    def by_spdy(self) -> bool:
        """Whether programs are reached by SPDY, since the server refused WebSockets."""
        return self._streams.by_spdy

    async def close(self) -> None:
        """Close the connections; watches and streams end with their scopes."""
        await self._http.close()

    # -- objects -----------------------------------------------------------------------------------------

    async def create(self, kind: Kind, namespace: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object; it, as the API has completed it."""
        doing = f"creating {_one(kind)}"
        with _counted() if kind == PODS else nullcontext():
            return await self._object(doing, "POST", kind, namespace, body=body)

    async def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any]:
        """An object as it is."""
        return await self._object(f"looking at {_one(kind)} {name}", "GET", kind, namespace, name)

    async def list(
        self, kind: Kind, namespace: str, *, label_selector: str = "", field_selector: str = ""
    ) -> tuple[list[dict[str, Any]], str]:
        """All objects that fit, and the resourceVersion that they were in. An empty *namespace* means all of them."""
        doing = f"listing {kind.plural}"
        query = {"limit": str(_PAGE), **_selectors(label_selector, field_selector)}
        items: list[dict[str, Any]] = []
        for _ in range(_PAGES):
            data = await self._exchange(doing, "GET", kind, namespace, query=query, limit=_PAGE_LIMIT)
            page = _parse(data)
            found = page.get("items")
            if not isinstance(found, list | None) or not all(isinstance(item, dict) for item in found or ()):
                raise broken(f"{doing}: the API server's answer is no list")
            for item in found or ():
                identity(item)
                items.append(item)
            metadata = page.get("metadata")
            rest = metadata.get("continue") if isinstance(metadata, dict) else None
            if not rest:
                return items, version_of(page)
            query["continue"] = str(rest)
        raise broken(f"{doing}: the API server's list has no end")

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, grace_period: int | None = None, uid: str | None = None
    ) -> None:
        """
        Delete an object, or with *uid* that very one (else: APIError with status 409). The *grace_period* is in
        seconds; returns at once, a pod may still be stopping.
        """
        body: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace_period is not None:
            body["gracePeriodSeconds"] = grace_period
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        await self._exchange(f"deleting {_one(kind)} {name}", "DELETE", kind, namespace, _named(name), body=body)

    async def replace(self, kind: Kind, namespace: str, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Put *body* in an object's place; its resourceVersion must be the newest one (else: status 409)."""
        return await self._object(f"replacing {_one(kind)} {name}", "PUT", kind, namespace, name, body=body)

    async def patch(self, kind: Kind, namespace: str, name: str, merge_patch: Mapping[str, Any]) -> dict[str, Any]:
        """Change fields of an object (RFC 7386); it as it is then."""
        return await self._object(f"changing {_one(kind)} {name}", "PATCH", kind, namespace, name, body=merge_patch)

    async def version(self) -> dict[str, Any]:
        """What the server says of itself: ``gitVersion`` and so on."""
        access = await self._credentials.access()
        return _parse(await self._ask("asking for the version", "GET", f"{access.base}/version"))

    # -- watching ----------------------------------------------------------------------------------------

    async def watch(
        self, kind: Kind, namespace: str, *, label_selector: str = "", field_selector: str = ""
    ) -> AsyncGenerator[WatchEvent]:
        """
        All objects that fit, as ADDED, and then what becomes of them, for ever: after a cut it goes on, with nothing
        told twice and nothing missed but what was undone meanwhile. Use it in ``aclosing``.

        The first list fails as :meth:`list` does; later on only a refusal that lasts is raised.
        """
        known, query = Known(), _selectors(label_selector, field_selector)
        items, version = await self.list(kind, namespace, label_selector=label_selector, field_selector=field_selector)
        for event in known.replace(items, version):
            yield event
        del items
        pause = _PAUSES[0]
        while True:
            began = asyncio.get_running_loop().time()
            try:
                if not known.version:
                    items, version = await self.list(
                        kind, namespace, label_selector=label_selector, field_selector=field_selector
                    )
                    for event in known.replace(items, version):
                        yield event
                async with aclosing(self._watch_once(kind, namespace, query, known)) as events:
                    async for event in events:
                        pause = _PAUSES[0]
                        yield event
            except APIError as exc:
                if is_expired(exc):
                    known.version = ""
                elif not exc.passing:
                    raise
            except ProtocolError:
                # A cut in the middle of something; a new list is sure to be right.
                known.version = ""
            if asyncio.get_running_loop().time() - began < pause:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  spreads requests, hides nothing
                pause = min(2 * pause, _PAUSES[1])

    async def _watch_once(
        self, kind: Kind, namespace: str, query: Mapping[str, str], known: Known
    ) -> AsyncGenerator[WatchEvent]:
        doing = f"watching {kind.plural}"
        seconds = random.randint(*_WATCH_SECONDS)  # noqa: S311  spreads requests, hides nothing
        asked = {
            **query,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": known.version,
            "timeoutSeconds": str(seconds),
        }
        path = await self._path(kind, namespace)
        lines = Lines()
        deadline = asyncio.get_running_loop().time() + seconds + self._timeout.total_seconds()
        async with self._request(doing, "GET", f"{path}?{urlencode(asked)}") as response:
            while data := await read_more(response, deadline, doing):
                for line in lines.feed(data):
                    for event in known.take(parse_event(line, doing)):
                        yield event

    # -- programs ----------------------------------------------------------------------------------------

    def exec(
        self,
        namespace: str,
        pod: str,
        container: str,
        command: Sequence[str],
        *,
        stdin: bool = True,
        stderr: bool = True,
        tty: bool = False,
    ) -> AbstractAsyncContextManager[RemoteStream]:
        """Run *command* in a container that runs; the scope of its streams. It outlives them if it does not end."""
        query = [("command", word) for word in command]
        return self._stream("exec", namespace, pod, container, query, stdin=stdin, stderr=stderr, tty=tty)

    def attach(
        self,
        namespace: str,
        pod: str,
        container: str,
        *,
        stdin: bool = True,
        stderr: bool = True,
        tty: bool = False,
    ) -> AbstractAsyncContextManager[RemoteStream]:
        """
        The streams of a container's main program; *tty* as the pod's spec says. Its exit status is in the pod only.
        """
        return self._stream("attach", namespace, pod, container, [], stdin=stdin, stderr=stderr, tty=tty)

    @asynccontextmanager
    async def _stream(
        self,
        verb: str,
        namespace: str,
        pod: str,
        container: str,
        query: Sequence[tuple[str, str]],
        *,
        stdin: bool,
        stderr: bool,
        tty: bool,
    ) -> AsyncIterator[RemoteStream]:
        asked = [("container", container), ("stdout", "true"), *query]
        wanted = {"stdin": stdin, "stderr": stderr and not tty, "tty": tty}
        asked += [(name, "true") for name, value in wanted.items() if value]
        doing = f"{'starting a program in' if verb == 'exec' else 'attaching to'} the pod {pod}"
        await self._limiter.take()
        path = f"{await self._path(PODS, namespace, _named(pod))}/{verb}?{urlencode(asked)}"
        with _counted():
            async with self._soon(doing):
                stream = await self._streams.open(doing, path, stdin=stdin, stderr=stderr, tty=tty)
        try:
            yield stream
        finally:
            await stream.close()

    # -- exchanges ---------------------------------------------------------------------------------------

    async def _object(
        self, doing: str, method: str, kind: Kind, namespace: str, name: str | None = None, *, body: Any = None
    ) -> dict[str, Any]:
        path = "" if name is None else _named(name)
        found = _parse(await self._exchange(doing, method, kind, namespace, path, body=body))
        identity(found)
        return found

    async def _exchange(
        self,
        doing: str,
        method: str,
        kind: Kind,
        namespace: str,
        name: str = "",
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        limit: int = _OBJECT_LIMIT,
    ) -> bytes:
        path = await self._path(kind, namespace, name)
        return await self._ask(doing, method, f"{path}?{urlencode(query)}" if query else path, body, limit)

    async def _path(self, kind: Kind, namespace: str, name: str = "") -> str:
        access = await self._credentials.access()
        path = access.path(kind.group, kind.version)
        if kind.namespaced and namespace:
            path += f"/namespaces/{_named(namespace)}"
        return f"{path}/{kind.plural}" + (f"/{name}" if name else "")

    async def _ask(self, doing: str, method: str, target: str, body: Any = None, limit: int = _OBJECT_LIMIT) -> bytes:
        async with self._soon(doing), self._request(doing, method, target, body) as response, Away(doing):
            return await read_all(response, limit, doing)

    @asynccontextmanager
    async def _request(
        self, doing: str, method: str, target: str, body: Any = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A good answer whose body is yet to be read; waits for a server that is busy, and renews credentials once."""
        renewed = False
        deadline = asyncio.get_running_loop().time() + self._timeout.total_seconds()
        while True:
            await self._limiter.take()
            access = await self._credentials.access()
            async with self._soon(doing), Away(doing):
                response = await self._http.request(access, method, target, body)
            async with response:
                if 200 <= response.status < 300:
                    try:
                        yield response
                    finally:
                        give_up(response)
                    return
                async with self._soon(doing), Away(doing):
                    said = await response.content.read(ERROR_LIMIT)
            error = refusal(doing, response.status, said, retry_after=response.headers.get("Retry-After"))
            if error.status == 401 and not renewed and self._credentials.refused(access):
                renewed = True
                continue
            pause = error.retry_after
            if error.status != 429 or pause is None or pause > _RETRY_AFTER_LIMIT:
                raise error
            if asyncio.get_running_loop().time() + pause > deadline:
                raise error
            await asyncio.sleep(max(pause, _RETRY_PAUSE))

    def _soon(self, doing: str) -> AbstractAsyncContextManager[None]:
        def late() -> ContainerSSHError:
            return APIError(doing, status=0, message=f"no answer within {self._timeout.total_seconds():g} s")

        return time_limit(self._timeout, late)


@contextmanager
def _counted() -> Iterator[None]:
    """For metrics: what a login asks for."""
    counters.add(BACKEND_REQUESTS, backend="kubernetes")
    try:
        yield
    except ContainerSSHError:
        counters.add(BACKEND_ERRORS, backend="kubernetes")
        raise


def _parse(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise broken("the API server's answer cannot be understood")
    return cast(dict[str, Any], found)


def _selectors(label: str, field: str) -> dict[str, str]:
    return {name: value for name, value in (("labelSelector", label), ("fieldSelector", field)) if value}


def _one(kind: Kind) -> str:
    return f"the {kind.plural.removesuffix('s')}"


def _named(name: str) -> str:
    """A name that is one step of a path: an empty one would stand for all objects."""
    if not _NAME.fullmatch(name):
        raise APIError(f"using the name {name!r}", status=422, reason="Invalid", message="it is no name for an object")
    return name
