"""Text that peers chose, made safe for one line of a log, a terminal or an answer to a user."""

from __future__ import annotations

_LONGEST_LINE = 600
"""Characters; more than any sensible reason for an error has."""


def printable(text: str, substitute: str = "?") -> str:
    """*text* with *substitute* for each character that is not printable, such as line ends and control characters."""
    return "".join(character if character.isprintable() else substitute for character in text)


def one_line(text: str, limit: int = _LONGEST_LINE) -> str:
    """The words of *text*, separated by single spaces; at most *limit* characters."""
    return " ".join(printable(text[: 2 * limit], " ").split())[:limit]
