"""One-time codes as a second factor: each counts once, and guessing is limited."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Protocol

from containerssh.auth.totp import TOTP
from containerssh.config.codes import CodesConfig
from containerssh.core.codes import AuthCode
from containerssh.core.errors import AuthFailed, AuthUnavailable, ConfigError
from containerssh.core.handlers import Prompts
from containerssh.core.instance import make_private
from containerssh.core.messages import Event, LabelValue
from containerssh.core.metadata import AuthAttempt, Login

logger = logging.getLogger(__name__)

_LOCK_WAIT = 5.0


class CodeLedger:
    """
    Which codes were used, and how often somebody was wrong: a file that all processes of a server share, and that
    outlives them. It knows no names and no secrets.
    """

    def __init__(
        self,
        path: Path,
        config: CodesConfig,
        *,
        clock: Callable[[], float] = time.time,
        patience: float = _LOCK_WAIT,
    ) -> None:
        """
        *patience* is how many seconds to wait for other processes.

        Raises:
            ConfigError: the file cannot be made or used.
        """
        self._path = path
        self._config = config
        self._clock = clock
        self._patience = patience
        try:
            make_private(path.parent)
            with closing(self._open()) as database:
                database.execute(
                    "CREATE TABLE IF NOT EXISTS secrets"
                    " (name BLOB PRIMARY KEY, used INTEGER, wrong INTEGER, since REAL) WITHOUT ROWID"
                )
        except (OSError, sqlite3.Error) as exc:
            raise ConfigError(AuthCode.CONFIG_ERROR, f"Cannot use {path}: {exc}") from exc

    def redeem(self, totp: TOTP, code: str) -> None:
        """
        Use up *code*. Blocks; for a thread.

        Raises:
            AuthFailed: it is wrong, was used, or too many were wrong.
            AuthUnavailable: the file cannot be used.
        """
        try:
            with closing(self._open()) as database:
                # Written before it is answered, and by one process at a time: nobody else can use the same code.
                database.execute("BEGIN IMMEDIATE")
                problem = self._judge(database, totp, code)
                database.execute("COMMIT")
        except sqlite3.Error as exc:
            raise AuthUnavailable(AuthCode.BACKEND_ERROR, f"cannot use {self._path}: {exc}") from exc
        if problem:
            raise AuthFailed(AuthCode.FAILED, problem)

    def _judge(self, database: sqlite3.Connection, totp: TOTP, code: str) -> str:
        """What is wrong; empty if the code is right."""
        now = self._clock()
        query = "SELECT used, wrong, since FROM secrets WHERE name = ?"
        used, wrong, since = database.execute(query, (totp.name,)).fetchone() or (-1, 0, now)
        if not 0 <= now - since < self._config.wrong_within.total_seconds():
            wrong, since = 0, now
        steps = totp.steps(code, now, self._config.drift)
        if wrong >= self._config.max_wrong:
            return "too many wrong codes"
        problem = "" if steps and max(steps) > used else "the code was used already" if steps else "wrong code"
        if problem:
            wrong += 1
        else:
            used, wrong = max(steps), 0
        database.execute("REPLACE INTO secrets VALUES (?, ?, ?, ?)", (totp.name, used, wrong, since))
        return problem

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=self._patience, isolation_level=None)


class CodeUsers(Protocol):
    """Knows secrets."""

    async def code_of(self, username: str) -> TOTP | None:
        """What this user's codes are computed from; None for one who has none, or does not exist."""
        ...


class CodeAuthenticator:
    """Asks for a code; only ever after another method."""

    def __init__(self, users: CodeUsers, ledger: CodeLedger) -> None:
        self._users = users
        self._ledger = ledger

    async def authenticate_interactive(self, attempt: AuthAttempt, prompts: Prompts, undo: AsyncExitStack) -> Login:
        """
        The user *attempt* names, if the code is right. It vouches for no name.

        Raises:
            AuthFailed: it is not.
            AuthUnavailable: the codes that were used are not known.
        """
        labels: dict[str, LabelValue] = {
            "connectionId": attempt.connection_id,
            "username": attempt.username,
            "authtype": "keyboard-interactive",
        }
        (answer,) = await prompts.ask("", [("Verification code: ", False)])
        totp = await self._users.code_of(attempt.username)
        try:
            await asyncio.to_thread(self._redeem, totp, answer.strip().replace(" ", ""))
        except AuthFailed as exc:
            logger.debug(Event(AuthCode.FAILED, f"Code refused: {exc}", **labels))
            raise
        logger.debug(Event(AuthCode.SUCCESSFUL, "Code accepted", **labels))
        return Login.of(attempt, "")

    def _redeem(self, totp: TOTP | None, code: str) -> None:
        if totp is None:
            raise AuthFailed(AuthCode.FAILED, "the user has no secret for codes")
        self._ledger.redeem(totp, code)


@asynccontextmanager
async def open_codes(users: CodeUsers, state: Path, config: CodesConfig) -> AsyncIterator[CodeAuthenticator]:
    """
    An authenticator that remembers in the folder *state*.

    Raises:
        ConfigError: the folder cannot be used.
    """
    yield CodeAuthenticator(users, await asyncio.to_thread(CodeLedger, state / "codes" / "used.sqlite", config))
