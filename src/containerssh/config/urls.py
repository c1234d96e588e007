"""Addresses that may hold secrets, as they can be shown."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

from containerssh.config.model import MASK

# Up to the last "@" of the authority (RFC 3986 section 3.2): passwords with one of their own are not cut in two.
_USERINFO = re.compile(r"(?<=://)[^/?#\s]+(?=@)")
_HOST = r"(?:\[[^\s\]]*\]|[^/?#\s@:\[]+)(?::[0-9]*)?"
# A password that should have been escaped, such as that of https://me:a/b@host: there is no host at the beginning.
_UNESCAPED = re.compile(rf"(?<=://)(?!{_HOST}(?:[/?#\s]|$))[^\s]*:[^\s]*[/?#][^\s]*(?=@)")
_QUERY = re.compile(r"(://[^\s?#]*\?)([^\s#]+)")
_FRAGMENT = re.compile(r"(://[^\s#]*#)([^\s]+)")
_FIELD = re.compile(r"([^&;=]*=)?([^&;]+)")


def parts_of(url: str) -> SplitResult:
    """The parts of *url*, all of them empty if it is none; its port is one or None."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return urlsplit("")
    return parts


def masked_url(text: str) -> str:
    """
    *text* with a mask in place of what may be secret in each URL in it: the user and the password, the values of a
    query, the fragment.
    """
    if "://" not in text:
        return text
    text = _UNESCAPED.sub(MASK, text)
    text = _USERINFO.sub(MASK, text)
    text = _FRAGMENT.sub(rf"\1{MASK}", text)
    return _QUERY.sub(_without_values, text)


def _without_values(found: re.Match[str]) -> str:
    return found[1] + _FIELD.sub(lambda field: f"{field[1] or ''}{MASK}", found[2])
