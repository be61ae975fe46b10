"""Post each line of standard input to a URL with aiohttp, one after the other on one connection, each in a trace."""

import asyncio
import json
import secrets
import sys

import aiohttp


async def main() -> None:
    """Send them."""
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        for line in sys.stdin:
            trace = {"traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"}
            async with session.post(sys.argv[1], json=json.loads(line), headers=trace) as answer:
                await answer.read()


asyncio.run(main())
