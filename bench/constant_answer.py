"""A server that reads nothing and answers all the same, for what a client takes of its own core."""

from __future__ import annotations

import asyncio
from typing import Final, cast

import uvloop

BODY: Final = b'{"score":0.12345,"decision":"low","label":"abc"}'
ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


class Constant(asyncio.Protocol):
    """A connection: whatever comes in one piece is a request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer; a client that sends its head before its body is answered once, at its end."""
        if not data.endswith(b"\r\n\r\n"):
            self._transport.write(ANSWER)


async def main() -> None:
    """Serve on a free port, and say which."""
    server = await asyncio.get_running_loop().create_server(Constant, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
