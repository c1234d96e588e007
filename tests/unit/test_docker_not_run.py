"""What a user reads when an engine could not start a program."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.backends.docker.engine_process import not_run

BEGIN = "OCI runtime exec failed: exec failed: "
PREFIX = "unable to start container process: "
CAUSE = "starting container process caused: "


@pytest.mark.parametrize(
    ("told", "read"),
    [
        (
            f'{BEGIN}{PREFIX}exec: "/no/such": stat /no/such: no such file or directory: unknown',
            "/no/such: no such file or directory",
        ),
        (f'{BEGIN}{PREFIX}exec: "/etc": permission denied: unknown', "/etc: permission denied"),
        (
            f'{BEGIN}container_linux.go:380: {CAUSE}exec: "bash": executable file not found in $PATH: unknown',
            "bash: executable file not found in $PATH",
        ),
        (f"{BEGIN}cannot exec in a stopped state: unknown", "The program could not be started."),
    ],
)
def test_the_reason_is_told_without_the_runtimes_own_words(told: str, read: str) -> None:
    assert not_run(told) == read


@given(st.text())
def test_any_words_of_an_engine_become_one_that_a_user_can_read(words: str) -> None:
    assert not_run(BEGIN + words)
