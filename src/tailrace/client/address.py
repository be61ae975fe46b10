"""Where a server is: a host and port, or a Unix socket."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from tailrace.errors import SetupError


class Address(NamedTuple):
    """A server's address. path: of its Unix socket, or empty. url: as it is told in errors. is_secret: by TLS."""

    url: str
    host: str
    port: int
    path: str = ""
    is_secret: bool = False

    @property
    def host_header(self) -> str:
        """The `Host` of a request."""
        if self.path:
            return "localhost"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address_of(url: str) -> Address:
    """Return the address in "http://host:port", "https://host:port" or "unix:/path". Raises SetupError for all else."""
    if any(each <= " " or each == "\x7f" for each in url):  # urlsplit would leave out some of them
        raise SetupError("an address with spaces or control characters", where=repr(url), next="leave them out")
    if url.startswith("unix:") and len(url) > 5:
        return Address(url, "", 0, url[5:])
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise SetupError(str(error), where=url, next="write http(s)://host:port or unix:/path") from None
    if parts.username or parts.password:  # the URL is told in errors
        raise SetupError("a URL with a password", where="url", next="send keys with Options(headers=…)")
    named = (parts.hostname or "").replace("_", "-")
    if parts.scheme not in ("http", "https") or not named or parts.path.strip("/") or parts.query or parts.fragment:
        raise SetupError("not an address of a server", where=url, next="write http(s)://host:port or unix:/path")
    if not named.isascii() or not all(each.isalnum() or each in "-.:%" for each in named):
        raise SetupError("a host's name is letters, digits, dots", where=url, next="write http://host:port")
    return Address(url, parts.hostname or "", port, is_secret=parts.scheme == "https")
