"""The Kubernetes API (https://kubernetes.io/docs/reference/kubernetes-api/), as far as logins need it."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import Any, cast

import aiohttp

from containerssh.backends.kubernetes.connections import Away, Connections, give_up, read_all, read_more
from containerssh.backends.kubernetes.credentials import Credentials
from containerssh.backends.kubernetes.errors import ERROR_LIMIT, REFUSAL_SECONDS, APIError, broken, refusal
from containerssh.backends.kubernetes.exec_stream import RemoteStream
from containerssh.backends.kubernetes.kinds import Kind, Target, named, singular, way_to
from containerssh.backends.kubernetes.limiter import Limiter
from containerssh.backends.kubernetes.opening import StreamOpener
from containerssh.backends.kubernetes.watch import (
    Known,
    Lines,
    Passing,
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
_LIST_LIMIT = 256 << 20
"""Bytes of all pages of a list whose objects are kept whole."""
_PAGES = 1000
_LIST_TRIES = 3
_WATCH_SECONDS = (240, 480)
"""Between these the server ends a watch, so that those of many logins do not end together."""
_PAUSES = (0.2, 10.0)
_RETRY_AFTER_LIMIT = 10.0
_RETRY_PAUSE = 0.1
_WATCH_FAILURES = 3
"""After so many in a row only a new list is sure to lead on."""


PODS = Kind("", "v1", "pods")
EVENTS = Kind("", "v1", "events")
LEASES = Kind("coordination.k8s.io", "v1", "leases")


Objects = list[dict[str, Any]]
Keep = Callable[[dict[str, Any]], dict[str, Any]]


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
        """Create an object; it, as the API has completed it. Fields that the API does not know are refused."""
        doing = f"creating {singular(kind)}"
        # By default the API leaves them out: of a misspelt securityContext or affinity nothing would remain.
        target = way_to(kind, namespace, query={"fieldValidation": "Strict"})
        with _counted() if kind == PODS else nullcontext():
            return _object(await self._ask(doing, "POST", target, body))

    async def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any]:
        """An object as it is."""
        return await self._object(f"looking at {singular(kind)} {name}", "GET", kind, namespace, name, body=None)

    async def list(
        self,
        kind: Kind,
        namespace: str,
        *,
        label_selector: str = "",
        field_selector: str = "",
        keep: Keep | None = None,
    ) -> tuple[Objects, str]:
        """
        All objects that fit, and the resourceVersion that they were in. An empty *namespace* means all of them. There
        may be 256 MiB of them; *keep* says what of each is worth keeping, where there may be more.
        """
        for number in range(_LIST_TRIES):
            try:
                query = {"limit": str(_PAGE), **_selectors(label_selector, field_selector)}
                return await self._pages(f"listing {kind.plural}", kind, namespace, query, keep)
            except APIError as exc:
                # So much was changed between two pages that the rest of the list is not there any more.
                if not is_expired(exc) or number + 1 == _LIST_TRIES:
                    raise
        raise AssertionError("the last try returns or raises")

    async def _pages(
        self,
        doing: str,
        kind: Kind,
        namespace: str,
        query: dict[str, str],
        keep: Keep | None,
    ) -> tuple[Objects, str]:
        items: Objects = []
        size = 0
        for _ in range(_PAGES):
            data = await self._ask(doing, "GET", way_to(kind, namespace, query=query), limit=_PAGE_LIMIT)
            size += len(data)
            if keep is None and size > _LIST_LIMIT:
                raise broken(f"{doing}: the API server's list is longer than {_LIST_LIMIT >> 20} MiB")
            page = _parse(data)
            found = page.get("items")
            if not isinstance(found, list | None) or not all(isinstance(item, dict) for item in found or ()):
                raise broken(f"{doing}: the API server's answer is not a list")
            for item in found or ():
                identity(item)
                items.append(item if keep is None else keep(item))
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
        target = way_to(kind, namespace, named(name))
        await self._ask(f"deleting {singular(kind)} {name}", "DELETE", target, body)

    async def replace(self, kind: Kind, namespace: str, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Put *body* in an object's place; its resourceVersion must be the newest one (else: status 409)."""
        return await self._object(f"replacing {singular(kind)} {name}", "PUT", kind, namespace, name, body=body)

    async def patch(
        self, kind: Kind, namespace: str, name: str, merge_patch: Mapping[str, Any], *, part: str = ""
    ) -> dict[str, Any]:
        """Change fields of an object (RFC 7386), or of its *part* (``status``); it as it is then."""
        doing = f"changing {singular(kind)} {name}"
        return await self._object(doing, "PATCH", kind, namespace, name, part, body=merge_patch)

    async def version(self) -> dict[str, Any]:
        """What the server says of itself: ``gitVersion`` and so on."""
        data = await self._ask("asking for the version", "GET", lambda access: f"{access.base}/version")
        return _parse(data)

    # -- watching ----------------------------------------------------------------------------------------

    async def watch(
        self, kind: Kind, namespace: str, *, label_selector: str = "", field_selector: str = "", from_now: bool = False
    ) -> AsyncGenerator[WatchEvent]:
        """
        All objects that fit, as ADDED, and then what becomes of them, for ever: after a cut it goes on, with nothing
        told twice and nothing missed but what was undone meanwhile. Use it in ``aclosing``. With *from_now* it tells,
        and remembers, nothing of what there is already; what happened in a cut may be missed.

        The first list fails as :meth:`list` does; later on only a refusal that lasts is raised.
        """
        known, query = (Passing() if from_now else Known()), _selectors(label_selector, field_selector)
        for event in await self._begin(known, kind, namespace, query):
            yield event
        pause, failures = _PAUSES[0], 0
        while True:
            began = asyncio.get_running_loop().time()
            if failures >= _WATCH_FAILURES:
                known.version = ""
            try:
                if not known.version:
                    for event in await self._begin(known, kind, namespace, query):
                        yield event
                async with aclosing(self._watch_once(kind, namespace, query, known)) as events:
                    async for event in events:
                        pause, failures = _PAUSES[0], 0
                        yield event
                failures = 0
            except APIError as exc:
                failures += 1
                if is_expired(exc):
                    known.version = ""
                elif not (exc.passing or exc.status == 401):
                    raise
            except ProtocolError:
                # A cut in the middle of something; a new list is sure to be right.
                known.version = ""
            if asyncio.get_running_loop().time() - began < pause:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  spreads requests, hides nothing
                pause = min(2 * pause, _PAUSES[1])

    async def _begin(self, known: Known, kind: Kind, namespace: str, query: Mapping[str, str]) -> Iterator[WatchEvent]:
        if isinstance(known, Passing):
            asked = {"limit": "1", **query}
            known.version = version_of(
                _parse(await self._ask(f"looking for {kind.plural}", "GET", way_to(kind, namespace, query=asked)))
            )
            return iter(())
        return known.replace(
            *await self.list(
                kind,
                namespace,
                label_selector=query.get("labelSelector", ""),
                field_selector=query.get("fieldSelector", ""),
            )
        )

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
        target = way_to(kind, namespace, query=asked)
        lines = Lines()
        deadline = asyncio.get_running_loop().time() + seconds + self._timeout.total_seconds()
        async with self._request(doing, "GET", target) as response:
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
        target = way_to(PODS, namespace, named(pod), verb, query=asked)
        with _counted():
            stream = await self._open(doing, target, stdin=stdin, stderr=stderr, tty=tty)
        try:
            yield stream
        finally:
            await stream.close()

    async def _open(self, doing: str, target: Target, *, stdin: bool, stderr: bool, tty: bool) -> RemoteStream:
        """Streams, from a server that may be busy."""
        deadline = asyncio.get_running_loop().time() + self._timeout.total_seconds()
        while True:
            await self._limiter.take()
            try:
                async with self._soon(doing):
                    return await self._streams.open(doing, target, stdin=stdin, stderr=stderr, tty=tty)
            except APIError as exc:
                await _come_back(exc, deadline)

    # -- exchanges ---------------------------------------------------------------------------------------

    async def _object(
        self, doing: str, method: str, kind: Kind, namespace: str, name: str | None = None, part: str = "", *, body: Any
    ) -> dict[str, Any]:
        steps = () if name is None else (named(name), part)
        return _object(await self._ask(doing, method, way_to(kind, namespace, *steps), body))

    async def _ask(
        self, doing: str, method: str, target: Target, body: Any = None, limit: int = _OBJECT_LIMIT
    ) -> bytes:
        async with self._soon(doing), self._request(doing, method, target, body) as response, Away(doing):
            return await read_all(response, limit, doing)

    @asynccontextmanager
    async def _request(
        self, doing: str, method: str, target: Target, body: Any = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A good answer whose body is yet to be read; waits for a server that is busy, and renews credentials once."""
        renewed = False
        deadline = asyncio.get_running_loop().time() + self._timeout.total_seconds()
        while True:
            await self._limiter.take()
            access = await self._credentials.access()
            async with self._soon(doing), Away(doing):
                response = await self._http.request(access, method, target(access), body)
            async with response:
                if 200 <= response.status < 300:
                    try:
                        yield response
                    finally:
                        give_up(response)
                    return
                said = await _beginning(response.content, ERROR_LIMIT)
            error = refusal(doing, response.status, said, retry_after=response.headers.get("Retry-After"))
            if error.status == 401 and not renewed and self._credentials.refused(access):
                renewed = True
                continue
            await _come_back(error, deadline)

    def _soon(self, doing: str) -> AbstractAsyncContextManager[None]:
        def late() -> ContainerSSHError:
            return APIError(doing, status=0, message=f"no answer within {self._timeout.total_seconds():g} s")

        return time_limit(self._timeout, late)


async def _beginning(content: aiohttp.StreamReader, most: int) -> bytes:
    """The first *most* bytes of a refusal, in however many pieces they come; less if it breaks off or stalls."""
    said = b""
    with suppress(aiohttp.ClientError, OSError):
        async with asyncio.timeout(REFUSAL_SECONDS):
            while len(said) < most and (more := await content.read(most - len(said))):
                said += more
    return said


async def _come_back(error: APIError, deadline: float) -> None:
    """Wait for as long as a server that is busy wants; raises *error* if it is something else, or that is too long."""
    pause = error.retry_after
    if error.status != 429 or pause is None or pause > _RETRY_AFTER_LIMIT:
        raise error
    if asyncio.get_running_loop().time() + pause > deadline:
        raise error
    await asyncio.sleep(max(pause, _RETRY_PAUSE))


@contextmanager
def _counted() -> Iterator[None]:
    """For metrics: what a login asks for."""
    counters.add(BACKEND_REQUESTS, backend="kubernetes")
    try:
        yield
    except ContainerSSHError:
        counters.add(BACKEND_ERRORS, backend="kubernetes")
        raise


def _object(body: bytes) -> dict[str, Any]:
    """The object that *body* is; raises ProtocolError."""
    found = _parse(body)
    identity(found)
    return found


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
