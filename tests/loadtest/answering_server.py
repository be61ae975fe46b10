"""A small HTTP/1.1 server for the load generator's tests: run as a script, prints its port, serves until it is ended.

What it does is said by the path: /echo answers the body, /refuse answers 503, /missing 404, /alternate answers 200 and
503 in turn, /chunked answers in chunks, /silent never answers, /break/N closes the connection at its Nth request,
unanswered, /goodbye answers and says that it closes.
"""

from __future__ import annotations

import asyncio
import itertools

SERVED = itertools.count()


def write_answer(status: int, body: bytes, extra: bytes = b"") -> bytes:
    """Return an answer framed by Content-Length."""
    return b"HTTP/1.1 %d Said\r\ncontent-length: %d\r\n%s\r\n%s" % (status, len(body), extra, body)


class Answering(asyncio.Protocol):
    """One connection: requests with Content-Length or none, pipelined or not."""

    def __init__(self) -> None:
        self.buffer = b""
        self.asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport to answer on."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every whole request."""
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            line, *fields = self.buffer[:end].split(b"\r\n")
            lengths = [int(field.split(b":")[1]) for field in fields if field.lower().startswith(b"content-length")]
            stop = end + 4 + sum(lengths)
            if len(self.buffer) < stop:
                return
            body, self.buffer = self.buffer[end + 4 : stop], self.buffer[stop:]
            self.asked += 1
            self.answer(line.split(b" ")[1].decode(), body)

    def answer(self, path: str, body: bytes) -> None:
        """Do what the path says."""
        match path.strip("/").split("/"):
            case ["echo"]:
                self.transport.write(write_answer(200, body))
            case ["refuse"]:
                self.transport.write(write_answer(503, b"no time"))
            case ["missing"]:
                self.transport.write(write_answer(404, b"no such path"))
            case ["alternate"]:
                self.transport.write(write_answer(503 if next(SERVED) % 2 else 200, b"{}"))
            case ["chunked"]:
                self.transport.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
            case ["goodbye"]:
                self.transport.write(write_answer(200, b"{}", b"connection: close\r\n"))
                self.transport.close()
            case ["break", nth] if self.asked >= int(nth):
                self.transport.abort()
            case ["break", _]:
                self.transport.write(write_answer(200, b"{}"))
            case _:
                return


async def serve() -> None:
    """Listen on a free port, say which, and serve."""
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - how its starter learns the port
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
