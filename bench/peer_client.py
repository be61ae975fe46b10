"""What httpx or aiohttp takes of the core a call, asked for by a line of stdin: in a venv of theirs, by its Python."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable

import aiohttp
import httpx


def main(url: str, calls: int) -> None:
    """Answer each line, `httpx` or `aiohttp`, with the µs of a call."""
    request = {f"f{i}": i * 1.5 for i in range(24)}
    client = httpx.Client()
    runner = asyncio.Runner()

    async def open_session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    session = runner.run(open_session())

    def by_httpx() -> None:
        for _ in range(calls):
            client.post(url, json=request).json()

    async def by_aiohttp() -> None:
        for _ in range(calls):
            async with session.post(url, json=request) as answer:
                await answer.json()

    ways: dict[str, Callable[[], None]] = {"httpx": by_httpx, "aiohttp": lambda: runner.run(by_aiohttp())}
    for line in sys.stdin:
        began_ns = time.process_time_ns()
        ways[line.strip()]()
        print(json.dumps((time.process_time_ns() - began_ns) / calls / 1_000), flush=True)
    runner.run(session.close())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
