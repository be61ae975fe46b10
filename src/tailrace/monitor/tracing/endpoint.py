"""Where traces are sent: an address and headers, as OpenTelemetry writes them in its settings."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from tailrace.errors import SetupError

PATH: Final = "/v1/traces"
_PORTS: Final = {"http": 80, "https": 443}
_NEXT: Final = "write http://HOST:4318, of a collector that takes OTLP over HTTP"
_TOKEN: Final = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


class TraceEndpoint(NamedTuple):
    """Where spans are posted. headers: beside those of each request."""

    is_secure: bool
    host: str
    port: int
    path: str
    headers: dict[str, str]

    @classmethod
    def of(cls, url: str, headers: str = "") -> TraceEndpoint:
        """Return what a base address and headers say. headers: `name=value,…`, percent-encoded.

        The path is `/v1/traces` below the address, which may end with it. Raises SetupError.
        """
        try:
            parts = urlsplit(url)
            port = (parts.port or _PORTS[parts.scheme]) if parts.scheme in _PORTS else 0
        except ValueError:
            parts, port = urlsplit(""), 0
        if not (port and parts.hostname) or parts.query or parts.fragment or parts.username:
            raise SetupError(f"{url!r} is no address that traces can be sent to", where="traces", next=_NEXT)
        path = parts.path.rstrip("/")
        path = path if path.endswith(PATH) else path + PATH
        if any(ord(each) <= 0x20 or ord(each) > 0x7E for each in path):
            raise SetupError(f"{url!r} has a path with what has to be encoded", where="traces", next=_NEXT)
        return cls(parts.scheme == "https", parts.hostname, port, path, read_headers(headers))


def read_headers(text: str) -> dict[str, str]:
    """Return headers by name. Raises SetupError; it does not tell their values, which may be secrets."""
    found: dict[str, str] = {}
    for place, part in enumerate(each for each in text.split(",") if each.strip()):
        name, sign, value = part.partition("=")
        name, value = name.strip(), unquote(value.strip())
        if not sign or not name or not _TOKEN.issuperset(name) or any(not " " <= each <= "~" for each in value):
            raise SetupError(
                f"header {place + 1} cannot be read", where="traces_headers",
                next="write name=value,name=value, with what is no plain character as %20",
            )  # fmt: skip
        found[name] = value
    return found
