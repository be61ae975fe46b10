"""A proxy before Redis that hands replies on in small pieces, or late."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress


class RedisProxy:
    """Listens on a free port. piece_bytes: of replies a send; delay_s: how late each is, may be changed."""

    def __init__(self, port: int, *, piece_bytes: int = 1 << 16) -> None:
        self._target = port
        self._piece_bytes = piece_bytes
        self.delay_s = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.pieces = 0
        self._start(self._accept)

    def close(self) -> None:
        """End all connections and threads."""
        for sock in [self._listener, *self._sockets]:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join()

    def _start(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                server = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [client, server]
                self._start(self._ask, client, server)
                self._start(self._reply, server, client)

    @staticmethod
    def _ask(client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                server.sendall(data)

    def _reply(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                time.sleep(self.delay_s)
                with suppress(BlockingIOError):  # what came meanwhile goes along, no later than it must
                    data += server.recv(1 << 16, socket.MSG_DONTWAIT)
                for begin in range(0, len(data), self._piece_bytes):
                    client.sendall(data[begin : begin + self._piece_bytes])
                    self.pieces += 1
