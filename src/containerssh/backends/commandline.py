"""Conversion of the command of an ``exec`` request into an argument list (``ssh.md`` section 7.2)."""

from __future__ import annotations

from collections.abc import Iterator

SHELL = ("/bin/sh", "-c")

_SPECIAL = frozenset(";&|<>()$`*?[]{}~#!\n\r")
_SPECIAL_IN_QUOTES = frozenset("$`")
_BLANKS = " \t"
_PATHS = ("/", "./", "../")


def is_blank(command: str) -> bool:
    """Whether *command* is blank, which requests the shell."""
    return not command.strip(" \t\r\n")


def arguments(command: str) -> tuple[str, ...]:
    """
    The argument list to execute. A command that consists of a path and plain or quoted words is executed directly, so
    that it works in an image without a shell; anything else is passed to the shell.
    """
    words = split(command)
    if words and words[0].startswith(_PATHS):
        return tuple(words)
    return (*SHELL, command)


def split(command: str) -> list[str] | None:
    """The words of *command* as a shell would split them; None if it uses other shell syntax."""
    words: list[str] = []
    word: list[str] | None = None
    characters = iter(command)
    for character in characters:
        if character in _BLANKS:
            if word is not None:
                words.append("".join(word))
            word = None
            continue
        word = [] if word is None else word
        if character == "'":
            quoted = _single_quoted(characters)
        elif character == '"':
            quoted = _double_quoted(characters)
        elif character == "\\":
            quoted = next(characters, None)
            if quoted == "\n":
                return None
        else:
            quoted = None if character in _SPECIAL else character
        if quoted is None:
            return None
        word.append(quoted)
    if word is not None:
        words.append("".join(word))
    return words


def _single_quoted(characters: Iterator[str]) -> str | None:
    text: list[str] = []
    for character in characters:
        if character == "'":
            return "".join(text)
        text.append(character)
    return None


def _double_quoted(characters: Iterator[str]) -> str | None:
    text: list[str] = []
    for character in characters:
        if character == '"':
            return "".join(text)
        if character in _SPECIAL_IN_QUOTES:
            return None
        if character == "\\":
            escaped = next(characters, None)
            if escaped is None or escaped == "\n":
                return None
            # Inside double quotes, a backslash is literal unless it precedes a special character.
            text.append(escaped if escaped in '$`"\\' else "\\" + escaped)
            continue
        text.append(character)
    return None
