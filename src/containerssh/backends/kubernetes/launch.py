"""A pod of this server, from the request that creates it to the one that deletes it."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from containerssh.backends.kubernetes.client import PODS, KubernetesClient
from containerssh.backends.kubernetes.errors import APIError
from containerssh.backends.kubernetes.pod import LABEL_LAUNCH
from containerssh.backends.kubernetes.refusals import code_of, may_pass, user_words
from containerssh.core.codes import KubernetesCode
from containerssh.core.errors import BackendError, ContainerSSHError
from containerssh.core.messages import Event

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PAUSES = (0.3, 3.0)
_LOOKS_AFTER = (0.0, 1.0, 3.0)
_LONGEST_WAIT = 30.0
_UNKNOWN_TO_THE_API = 3.0
"""Seconds for which status 401 may be temporary: a token has just expired, or the API has just started."""


class PodError(BackendError):
    """The pod could not be created, or did not become ready."""

    default_user_message = "The pod could not be started."

    def __init__(
        self, explanation: str, *, user_message: str | None = None, reason: str = "", code: KubernetesCode | None = None
    ) -> None:
        super().__init__(code or KubernetesCode.POD_CREATE_FAILED, explanation, user_message=user_message)
        self.reason = reason
        """The cluster's reason, such as ``StartError``; empty if it gave none."""


def refused(error: APIError) -> PodError:
    """The error for a login whose pod the API has refused; the API's message is for the log only."""
    return PodError(error.explanation, user_message=user_words(error), reason=error.reason, code=code_of(error))


async def persist(once: Callable[[], Awaitable[T]], *, on_error: Callable[[APIError], None]) -> T:
    """
    The result of *once*, retried after errors that may pass; the caller limits the time.

    Raises:
        APIError: the cluster refused, or has not accepted the credentials for some seconds.
    """
    pause = _PAUSES[0]
    unknown_since: float | None = None
    while True:
        try:
            return await once()
        except APIError as exc:
            if exc.status == 401:
                now = asyncio.get_running_loop().time()
                unknown_since = unknown_since or now
                if now - unknown_since >= _UNKNOWN_TO_THE_API:
                    raise
            elif not may_pass(exc):
                raise
            on_error(exc)
            logger.debug(Event(exc.code, f"{exc.explanation}; trying again"))
            wait = min(exc.retry_after or pause, _LONGEST_WAIT)
        await asyncio.sleep(wait)
        pause = min(2 * pause, _PAUSES[1])


class OwnPod:
    """A pod that may or may not exist: the reply to the create request can be lost."""

    def __init__(self, client: KubernetesClient, namespace: str, name: str) -> None:
        self.client = client
        self.namespace = namespace
        self.name = name
        self.launch = secrets.token_hex(16)
        """The value of its label ``containerssh_launch``."""
        self.uid = ""
        self._attempt: asyncio.Task[dict[str, Any]] | None = None
        self._unknown = False

    async def create(self, body: Mapping[str, Any], *, on_error: Callable[[APIError], None]) -> dict[str, Any]:
        """
        Create the pod; retried after errors that may pass, the caller limits the time. If cancelled, the request
        continues, and :meth:`remove` waits for its result.

        Raises:
            PodError: the cluster refused, or another pod has the name.
        """
        logger.debug(Event(KubernetesCode.POD_CREATE, "Creating the pod", podName=self.name))
        try:
            pod = await persist(lambda: self._create(body), on_error=on_error)
        except APIError as exc:
            raise refused(exc) from exc
        self.uid = str(pod["metadata"]["uid"])
        return pod

    async def remove(self) -> None:
        """
        Ask the cluster to delete the pod; retried until it has accepted. The cluster then ends the pod by itself, after
        its grace period.

        Raises:
            APIError: the cluster refuses.
        """
        if self._attempt is not None:
            await asyncio.wait([self._attempt])
            await self._end_of_attempt()
        if self.uid:
            logger.debug(Event(KubernetesCode.POD_REMOVE, "Removing the pod", podName=self.name))
            await persist(self._delete, on_error=_drop)
            logger.debug(Event(KubernetesCode.POD_REMOVE_SUCCESSFUL, "The pod is being removed", podName=self.name))
        elif self._unknown:
            # The cluster may still be creating what it was asked for when the connection broke.
            for pause in _LOOKS_AFTER:
                await asyncio.sleep(pause)
                if await persist(self._find, on_error=_drop) is not None:
                    await persist(self._delete, on_error=_drop)
                    break

    def give_up(self) -> None:
        """Cancel an unanswered create request, because the server ends."""
        if self._attempt is not None:
            self._attempt.cancel()

    async def _create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        if self._unknown and (pod := await self._find()) is not None:
            return pod
        self._attempt = asyncio.create_task(self.client.create(PODS, self.namespace, body))
        try:
            return await asyncio.shield(self._attempt)
        except APIError as exc:
            self._unknown = self._unknown or exc.lost
            if exc.reason != "AlreadyExists":
                raise
            if (pod := await self._find()) is not None:
                return pod
            raise await self._taken(exc) from exc
        finally:
            if self._attempt.done():
                await self._end_of_attempt()

    async def _end_of_attempt(self) -> None:
        """Process the result of the create request."""
        attempt, self._attempt = self._attempt, None
        assert attempt is not None
        if attempt.cancelled():
            self._unknown = True
        elif (error := attempt.exception()) is None:
            self.uid = str(attempt.result()["metadata"]["uid"])
        elif not isinstance(error, APIError) or error.lost:
            self._unknown = True

    async def _find(self) -> dict[str, Any] | None:
        """The pod that an earlier attempt has created, if it exists."""
        try:
            pod = await self.client.get(PODS, self.namespace, self.name)
        except APIError as exc:
            if exc.status == 404:
                return None
            raise
        if (pod["metadata"].get("labels") or {}).get(LABEL_LAUNCH) != self.launch:
            return None
        self.uid = str(pod["metadata"]["uid"])
        return pod

    async def _taken(self, refused: APIError) -> APIError:
        """The error when another pod has the name; it may pass if that pod is being deleted."""
        try:
            pod = await self.client.get(PODS, self.namespace, self.name)
        except APIError as exc:
            leaving = exc.status == 404
        else:
            leaving = bool(pod["metadata"].get("deletionTimestamp"))
        return APIError(
            refused.doing,
            status=503 if leaving else 409,
            reason=refused.reason,
            message=f"{refused.message} (it is being deleted)" if leaving else refused.message,
        )

    async def _delete(self) -> None:
        try:
            await self.client.delete(PODS, self.namespace, self.name, uid=self.uid or None)
        except APIError as exc:
            # 409: the name belongs to another pod by now.
            if exc.status not in (404, 409):
                raise


def _drop(error: ContainerSSHError) -> None:
    del error
