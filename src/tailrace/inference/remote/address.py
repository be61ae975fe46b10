"""Where a remote model is, as its URL says it, and the head of the requests that go there. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl

_TARGET: Final = re.compile(r"/[!-~]*")
"""What a request line can hold."""


@dataclass(frozen=True, slots=True)
class RemoteAddress:
    """A server, and a path on it: `http://host[:port]/path`, https:// for TLS. Raises ValueError for what is none.

    A URL may hold no password and no query: neither is a model's, and a URL is shown.
    """

    url: str
    host: str
    port: int
    path: str
    is_tls: bool

    @staticmethod
    def parse(url: str) -> RemoteAddress:
        """Return the address in a URL."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("not an address: write http://host:port/path, or https://…")
        if parts.username is not None or parts.password is not None:
            raise ValueError("the URL holds a password: put an Authorization header into an environment variable, "
                             "and name that: authorization=")  # fmt: skip
        if parts.query or parts.fragment or not _TARGET.fullmatch(parts.path or "/"):
            raise ValueError("the URL has more than a path of visible ASCII: leave out ?, # and what follows")
        parts.hostname.encode("idna")  # what no resolver takes raises here
        is_tls = parts.scheme == "https"
        port = parts.port or (443 if is_tls else 80)
        return RemoteAddress(url, parts.hostname, port, parts.path.rstrip("/"), is_tls)

    @property
    def authority(self) -> str:
        """The host and port, as a Host header has them."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def tls(self) -> ssl.SSLContext | None:
        """Return how to make a connection safe; None where it is plain. The authorities are the system's."""
        if not self.is_tls:
            return None
        import ssl

        return ssl.create_default_context()

    def head(self, path: str, content_type: str, authorization: str | None) -> bytes:
        """Return the head of a POST, but for its length, which comes last."""
        lines = [
            f"POST {path} HTTP/1.1",
            f"Host: {self.authority}",
            f"Content-Type: {content_type}",
            "Accept-Encoding: identity",
            *([] if authorization is None else [f"Authorization: {authorization}"]),
            "Content-Length: ",
        ]
        return "\r\n".join(lines).encode("latin-1")
