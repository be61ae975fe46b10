"""One post of JSON to whoever is told of alerts: taken, refused or given up within some seconds, whatever they do."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

WHOLE: Final = 3
"""Times as long as one step of it a post may take: a step ends with each byte that comes."""


def post(url: str, body: bytes, timeout_s: float) -> bool | None:
    """Post JSON; return whether it was taken, or None where it is worth another try. What is answered is not read.

    A redirection is a refusal: who follows one asks there, and has posted nothing.
    """
    request = Request(url, body, {"Content-Type": "application/json", "User-Agent": "tailrace"}, method="POST")
    opened = _Opened()
    ending = threading.Timer(WHOLE * timeout_s, opened.end)
    ending.daemon = True
    ending.start()
    try:
        with build_opener(_Plain(opened), _Secure(opened), _Stays).open(request, timeout=timeout_s):
            return True
    except HTTPError as error:
        error.close()
        return None if error.code >= 500 or error.code in (408, 429) else False
    except (OSError, HTTPException, ValueError):
        return None
    finally:
        ending.cancel()


class _Opened:
    """The connection of a post, which may be ended by another thread."""

    def __init__(self) -> None:
        self._connection: HTTPConnection | None = None
        self._is_over = False

    def add(self, connection: HTTPConnection) -> HTTPConnection:
        """Take a connection; what is over ends it."""
        self._connection = connection
        if self._is_over:
            connection.timeout = 0.001
        return connection

    def end(self) -> None:
        """End it: whoever waits for it hears that it is gone."""
        self._is_over = True
        with suppress(OSError, AttributeError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]


class _Stays(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class _Plain(HTTPHandler):
    def __init__(self, opened: _Opened) -> None:
        super().__init__()
        self._opened = opened

    def http_open(self, req: Request) -> Any:
        return self.do_open(lambda host, **given: self._opened.add(HTTPConnection(host, **given)), req)


class _Secure(HTTPSHandler):
    def __init__(self, opened: _Opened) -> None:
        super().__init__()
        self._opened = opened

    def https_open(self, req: Request) -> Any:
        return self.do_open(lambda host, **given: self._opened.add(HTTPSConnection(host, **given)), req)
