from __future__ import annotations

import shlex
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from containerssh.backends.commandline import arguments, is_blank, split


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("/bin/echo x", ("/bin/echo", "x")),
        ("  /bin/echo\tx  ", ("/bin/echo", "x")),
        ("./run me", ("./run", "me")),
        ("../run", ("../run",)),
        ("/bin/echo 'a  b' \"c d\"", ("/bin/echo", "a  b", "c d")),
        ("/bin/echo ''", ("/bin/echo", "")),
        (r"/bin/echo a\ b \"", ("/bin/echo", "a b", '"')),
        (r'/bin/echo "a\"b\\c\d"', ("/bin/echo", r'a"b\c\d')),
        ("/bin/echo ';|&<>$`*?'", ("/bin/echo", ";|&<>$`*?")),
        ('/bin/echo ";|&<>*?"', ("/bin/echo", ";|&<>*?")),
        ("'/bin/with blank' x", ("/bin/with blank", "x")),
    ],
)
def test_a_path_with_plain_words_is_executed_directly(command: str, argv: tuple[str, ...]) -> None:
    assert arguments(command) == argv


@pytest.mark.parametrize(
    "command",
    [
        "echo x",
        "bin/echo",
        ".hidden",
        "~/run",
        "$HOME/run",
        "/bin/echo a; /bin/echo b",
        "/bin/echo a && true",
        "/bin/ls | wc",
        "/bin/backup > file",
        "/bin/x 2>f",
        "/bin/x < f",
        "/bin/echo a\n/bin/echo b",
        "/bin/echo a\r",
        "/bin/echo $HOME",
        '/bin/echo "$HOME"',
        '/bin/echo "`id`"',
        "/bin/echo $(id)",
        "/bin/echo `id`",
        "/bin/echo *",
        "/bin/echo a?",
        "/bin/echo [ab]",
        "/bin/echo {a,b}",
        "/bin/echo ~",
        "/bin/echo # comment",
        "/bin/echo 'open",
        '/bin/echo "open',
        '/bin/echo "open\\',
        "/bin/echo open\\",
        "/bin/echo a\\\nb",
        "(/bin/echo)",
    ],
)
def test_everything_else_is_the_shells_unchanged(command: str) -> None:
    assert arguments(command) == ("/bin/sh", "-c", command)


@pytest.mark.parametrize("command", ["", " ", "\t\r\n "])
def test_a_command_without_words_is_blank(command: str) -> None:
    assert is_blank(command)


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12), min_size=1, max_size=5))
def test_quoted_words_come_back_as_they_were(words: list[str]) -> None:
    assert arguments("/bin/x " + shlex.join(words)) == ("/bin/x", *words)


@given(st.text(alphabet="ab \t'\"\\$;/.\n", max_size=25))
@example('"\\$"')
@settings(max_examples=50, deadline=None)
def test_where_we_split_we_split_as_a_shell_does(command: str) -> None:
    words = split(command)
    if words is not None:
        program = f"for word in {command}\ndo printf '%s\\0' \"$word\"; done"
        shown = subprocess.run(["/bin/sh", "-c", program], capture_output=True, text=True, check=True).stdout
        assert words == shown.split("\0")[:-1]
