"""The Kubernetes API (https://kubernetes.io/docs/reference/kubernetes-api/), as far as logins need it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import timedelta
from typing import Any

from containerssh.backends.kubernetes.connections import Connections
from containerssh.backends.kubernetes.credentials import Credentials
from containerssh.backends.kubernetes.exchange import Exchange, counted, parse
from containerssh.backends.kubernetes.exec_stream import RemoteStream
from containerssh.backends.kubernetes.kinds import Kind, named, singular, way_to
from containerssh.backends.kubernetes.limiter import Limiter
from containerssh.backends.kubernetes.listing import Keep, Objects, list_objects, selectors
from containerssh.backends.kubernetes.opening import StreamOpener
from containerssh.backends.kubernetes.streams import program_streams
from containerssh.backends.kubernetes.watch import Known, WatchEvent, identity
from containerssh.backends.kubernetes.watching import watch_objects
from containerssh.config.kubernetes_connection import KubernetesConnectionConfig

PODS = Kind("", "v1", "pods")
EVENTS = Kind("", "v1", "events")
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
        credentials = Credentials(config)
        self._streams = StreamOpener(credentials)
        self._http = Connections()
        self._exchange = Exchange(credentials, self._http, Limiter(None, 0), timeout)

    def for_login(self) -> KubernetesClient:
        """The same client for one login, with a rate limit of its own; it need not be closed."""
        view = KubernetesClient.__new__(KubernetesClient)
        view.__dict__.update(self.__dict__)
        view._exchange = self._exchange.limited(Limiter(self._config.qps, self._config.burst))
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
        with counted() if kind == PODS else nullcontext():
            return _object(await self._exchange.ask(doing, "POST", target, body))

    async def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any]:
        """An object as it is."""
        doing = f"looking at {singular(kind)} {name}"
        return _object(await self._exchange.ask(doing, "GET", way_to(kind, namespace, named(name))))

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
        query = selectors(label_selector, field_selector)
        return await list_objects(self._exchange, kind, namespace, query, keep)

    async def delete(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        *,
        grace_period: int | None = None,
        uid: str | None = None,
        version: str | None = None,
    ) -> None:
        """
        Delete an object, or with *uid* that very one, with *version* only if that is its resourceVersion still (else:
        APIError with status 409). The *grace_period* is in seconds; returns at once, a pod may still be stopping.
        """
        body: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace_period is not None:
            body["gracePeriodSeconds"] = grace_period
        wanted = {"uid": uid, "resourceVersion": version}
        if preconditions := {name: value for name, value in wanted.items() if value is not None}:
            body["preconditions"] = preconditions
        target = way_to(kind, namespace, named(name))
        await self._exchange.ask(f"deleting {singular(kind)} {name}", "DELETE", target, body)

    async def replace(self, kind: Kind, namespace: str, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Put *body* in an object's place; its resourceVersion must be the newest one (else: status 409)."""
        doing = f"replacing {singular(kind)} {name}"
        return _object(await self._exchange.ask(doing, "PUT", way_to(kind, namespace, named(name)), body))

    async def patch(
        self, kind: Kind, namespace: str, name: str, merge_patch: Mapping[str, Any], *, part: str = ""
    ) -> dict[str, Any]:
        """Change fields of an object (RFC 7386), or of its *part* (``status``); it as it is then."""
        doing = f"changing {singular(kind)} {name}"
        target = way_to(kind, namespace, named(name), part)
        return _object(await self._exchange.ask(doing, "PATCH", target, merge_patch))

    async def version(self) -> dict[str, Any]:
        """What the server says of itself: ``gitVersion`` and so on."""
        return parse(await self._exchange.ask("asking for the version", "GET", lambda access: f"{access.base}/version"))

    def watch(
        self,
        kind: Kind,
        namespace: str,
        *,
        label_selector: str = "",
        field_selector: str = "",
        known: Known | None = None,
    ) -> AsyncGenerator[WatchEvent]:
        """
        All objects that fit, as ADDED, and then what becomes of them, for ever: after a cut it goes on, with nothing
        told twice and nothing missed but what was undone meanwhile. Use it in ``aclosing``.

        With what another watch has *known* it goes on where that one ended. With a :class:`Passing` it tells, and
        remembers, nothing of what there is already; what happened in a cut may be missed.

        The first list fails as :meth:`list` does; later on only a refusal that lasts is raised.
        """
        query = selectors(label_selector, field_selector)
        return watch_objects(self._exchange, kind, namespace, query, Known() if known is None else known)

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
        return program_streams(
            self._exchange, self._streams, "exec", PODS, namespace, pod, container, command,
            stdin=stdin, stderr=stderr, tty=tty,
        )  # fmt: skip

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
        return program_streams(
            self._exchange, self._streams, "attach", PODS, namespace, pod, container,
            stdin=stdin, stderr=stderr, tty=tty,
        )  # fmt: skip


def _object(body: bytes) -> dict[str, Any]:
    """The object that *body* is; raises ProtocolError."""
    found = parse(body)
    identity(found)
    return found
