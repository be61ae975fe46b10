"""The page of one decision, served by the real admin server on a loop of a thread; what explains is a test's own."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from console_server import Counted

from tailrace.server.admin import AdminServer
from tailrace.server.console.explain_page import explain_pages
from tailrace.server.console.explaining import COMMAND, Explaining
from tailrace.server.options import ServeOptions


def printing(text: str) -> tuple[str, ...]:
    """Return a command that prints a document, whatever it is asked."""
    return (sys.executable, "-S", "-c", f"print({text!r})")


@contextmanager
def explained(
    log: str | None, command: Sequence[str] = COMMAND, releases: str = "releases", token: str | None = None
) -> Iterator[str]:
    """Serve the page; yield the server's address."""
    loop = asyncio.new_event_loop()
    explaining = Explaining(ServeOptions(files=("a.py",), log=log), releases, command)
    admin = AdminServer(Counted(), token, None, lambda gates: explain_pages(explaining, gates))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(admin.open("127.0.0.1", 0), loop).result(10)
        yield f"http://127.0.0.1:{admin.address[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(_close(admin, explaining), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _close(admin: AdminServer, explaining: Explaining) -> None:
    explaining.close()
    admin.close()
    for transport in list(asyncio.get_running_loop()._transports.values()):  # type: ignore[attr-defined]
        transport.abort()
    await asyncio.sleep(0.05)
