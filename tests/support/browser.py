"""A real browser, driven as a person would use it: pages are opened, fields filled in, buttons clicked."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.tools import tool

_START_LIMIT = 60.0
_LIMIT = 30.0


class Browser:
    """One page of a browser that shows nothing on a screen; made by :func:`browsing`."""

    def __init__(self, page: aiohttp.ClientWebSocketResponse) -> None:
        self._page = page
        self._numbers = itertools.count(1)

    async def open(self, url: str) -> None:
        """Go to *url*."""
        await self._say("Page.navigate", url=url)

    async def text(self) -> str:
        """What the page says to who reads it."""
        return str(await self.evaluate("document.body ? document.body.innerText : ''"))

    async def until(self, condition: str) -> None:
        """Wait until *condition*, in the page's language, is true; a page that is being left counts as false."""
        try:
            async with asyncio.timeout(_LIMIT):
                while True:
                    with suppress(PageError):
                        if await self.evaluate(f"document.readyState === 'complete' && Boolean({condition})"):
                            return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            where = await self.evaluate("location.href")
            raise AssertionError(f"not {condition} at {where}: {await self.text()}") from None

    async def fill(self, name: str, text: str) -> None:
        """Type *text* into the field called *name*, key by key."""
        await self.evaluate(f"document.querySelector({json.dumps(f'input[name={name}]')}).focus()")
        await self._say("Input.insertText", text=text)

    async def click(self, selector: str) -> None:
        """Press the mouse button on what *selector* finds."""
        place = await self.evaluate(
            f"(() => {{const found = document.querySelector({json.dumps(selector)}); found.scrollIntoView();"
            " const box = found.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2];})()"
        )
        button: dict[str, Any] = {"x": place[0], "y": place[1], "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            await self._say("Input.dispatchMouseEvent", type=kind, **button)

    async def evaluate(self, expression: str) -> Any:
        """
        The value of *expression* in the page.

        Raises:
            PageError: it has none.
        """
        answer = await self._say("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise PageError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    async def _say(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._page.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(_LIMIT):
            while True:
                answer = await self._page.receive_json()
                if answer.get("id") != number:
                    continue
                if "error" in answer:
                    raise PageError(str(answer["error"]))
                found: dict[str, Any] = answer["result"]
                return found


class PageError(Exception):
    """The page could not do what was asked of it."""


@asynccontextmanager
async def browsing(folder: Path) -> AsyncIterator[Browser]:
    """A browser with an empty profile in *folder*, until the end of the scope."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    profile = folder / "profile"
    process = await asyncio.create_subprocess_exec(
        tool("chromium"),
        *(*options, f"--user-data-dir={profile}", "--remote-debugging-port=0", "--window-size=900,1200", "about:blank"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env={"HOME": str(folder), "PATH": os.environ["PATH"], "LC_ALL": "C"},
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(_START_LIMIT):
            while not (found := _port(profile)):
                assert process.returncode is None, "the browser has ended"
                await asyncio.sleep(0.05)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{found}") as session:
            async with session.get("/json/list") as answer:
                pages = [page for page in await answer.json(content_type=None) if page["type"] == "page"]
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as page:
                yield Browser(page)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _port(profile: Path) -> int:
    """Where it listens, once it does."""
    try:
        return int((profile / "DevToolsActivePort").read_text().splitlines()[0])
    except (FileNotFoundError, IndexError):
        return 0
