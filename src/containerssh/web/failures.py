"""Messages about failed requests, for administrators."""

from __future__ import annotations

import os

import aiohttp

from containerssh.core.errors import describe, reason_of


def words_for(error: Exception) -> str:
    """
    One line about *error*, an exception of aiohttp or of the operating system, for a log that names the URL.

    The library's own texts repeat the address and hold more than a log should: a URL's password, an answer's headers.
    """
    match error:
        case aiohttp.InvalidURL():
            return "not a usable URL"
        case aiohttp.ServerDisconnectedError():
            return "the server closed the connection"
        case aiohttp.ClientConnectorCertificateError(certificate_error=cause):
            return f"the server's certificate is not trusted: {getattr(cause, 'verify_message', None) or cause}"
        case aiohttp.ClientConnectorDNSError(host=host, os_error=cause):
            return f"no address of {host} is known: {reason_of(cause)}"
        case aiohttp.ClientSSLError(os_error=cause):
            return f"no TLS: {reason_of(cause)}"
        case aiohttp.ClientConnectorError(os_error=OSError(errno=int(number))) if number > 0:
            # The event loop's message repeats the address.
            return os.strerror(number)
        case _:
            return describe(error)
