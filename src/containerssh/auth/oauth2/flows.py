"""The two flows: device authorization (RFC 8628), and a pasted authorization code (RFC 6749 section 4.1)."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
from collections.abc import Callable

from containerssh.auth.oauth2.answers import DeviceCode, OAuthRefusal, Token, checked_link
from containerssh.auth.oauth2.calls import until_answered
from containerssh.auth.oauth2.provider import Provider, Secrets, refused
from containerssh.core.codes import OAuth2Code
from containerssh.core.errors import AuthFailed, AuthUnavailable
from containerssh.core.handlers import Prompts
from containerssh.core.messages import Event
from containerssh.core.metadata import AuthAttempt
from containerssh.web.client import WebhookError

logger = logging.getLogger(__name__)

SLOWER = 5.0
"""The seconds by which ``slow_down`` increases the interval (RFC 8628 section 3.5)."""

_LONGEST_PAUSE = 60.0
_ANSWER_CHARACTERS = 8192
_CODE = re.compile(r"[\x21-\x7e]+")

_CREDENTIALS = frozenset({"invalid_client", "unauthorized_client", "incorrect_client_credentials"})


async def device_flow(provider: Provider, prompts: Prompts, device: DeviceCode, picture: Callable[[str], str]) -> Token:
    """
    Show the user code and poll until the user has decided in a browser; *picture* renders a link as a QR code, or
    returns an empty string.

    Raises:
        AuthFailed: the user denied the request, or did not decide in time.
        AuthUnavailable: the provider refuses this client.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + device.lifetime
    text = f"Please click the following link: {device.url}\n\nEnter the following code: {device.user_code}\n"
    await prompts.ask(text + picture(device.url))
    interval, backoff = device.interval, 0.0
    while True:
        slowed = False
        try:
            return await provider.poll(device)
        except OAuthRefusal as exc:
            backoff = 0.0
            match exc.error:
                case "authorization_pending":
                    logger.debug(Event(OAuth2Code.AUTHORIZATION_PENDING, "The user has not decided in the browser yet"))
                case "slow_down":
                    slowed = True
                    interval = max(interval + SLOWER, exc.interval or 0.0)
                case _:
                    raise _final(exc.error, provider) from exc
        except WebhookError as exc:
            if not exc.passing:
                raise
            # RFC 8628 section 3.5: back off while the provider is unreachable.
            backoff = min(max(2 * backoff, interval), _LONGEST_PAUSE)
            logger.debug(Event(provider.token_failed, f"The token endpoint will be asked again ({exc})"))
        pause = max(interval, backoff)
        if loop.time() + pause > deadline:
            if slowed:
                raise AuthUnavailable(
                    OAuth2Code.RATE_LIMIT,
                    "the provider asks for longer pauses than the code lives",
                    user_message="The identity provider limits how often it may be asked. Please try again later.",
                )
            await asyncio.sleep(deadline - loop.time())
            raise _expired()
        await asyncio.sleep(pause)


async def code_flow(provider: Provider, prompts: Prompts, attempt: AuthAttempt, values: Secrets) -> Token:
    """
    Show a link, and redeem the code that its page shows; *values* are this login's secrets.

    Raises:
        AuthFailed: the pasted text does not belong to this link, or the provider rejects the code.
        AuthUnavailable: the provider refuses this client.
    """
    link = checked_link(await until_answered(lambda: provider.link(attempt, values)), secure=False)
    text = f"Please click the following link to log in: {link}\n\n"
    (answer,) = await prompts.ask(text, [("Please paste the received code: ", False)])
    code = read_pasted(answer, values.state)
    try:
        # No retry: a code that was sent may have been used (RFC 6749 section 4.1.2).
        return await provider.redeem(code, values)
    except OAuthRefusal as exc:
        raise _final(exc.error, provider) from exc


def read_pasted(answer: str, state: str) -> str:
    """
    The code in ``state|code``, the text of the redirect page.

    Raises:
        AuthFailed: the text is malformed, or its state is not *state*.
    """
    given, bar, code = answer.strip().partition("|")
    if len(answer) > _ANSWER_CHARACTERS or not bar or not _CODE.fullmatch(code):
        raise refused("the pasted text is not a code", "This is not the code that the page shows.")
    if not hmac.compare_digest(given.encode(errors="replace"), state.encode()):
        raise refused(
            "the pasted code belongs to another login",
            "This code belongs to another login. Follow the link that was shown last.",
            OAuth2Code.STATE_MISMATCH,
        )
    return code


def _expired() -> AuthFailed:
    return refused("the device code expired", "The code has expired. Please log in again.", OAuth2Code.TIMEOUT)


def _final(error: str, provider: Provider) -> AuthFailed | AuthUnavailable:
    """The exception for an error that ends the flow."""
    if error == "access_denied":
        return refused("the user denied the login at the provider", "The login was denied in the browser.")
    if error == "expired_token":
        return _expired()
    if error in _CREDENTIALS:
        return AuthUnavailable(OAuth2Code.CREDENTIALS, f"the provider does not accept this server: {error}")
    if error in ("invalid_grant", "bad_verification_code", "incorrect_device_code"):
        return refused(
            f"the provider does not take the code: {error}",
            "The identity provider did not accept the code. Please log in again.",
            provider.token_failed,
        )
    return AuthUnavailable(provider.token_failed, f"the provider refused: {error}")
