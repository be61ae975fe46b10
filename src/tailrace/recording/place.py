"""Where a server is that is recorded or asked, and how it is reached."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from tailrace.errors import SetupError


@dataclass(frozen=True, slots=True)
class Place:
    """A server's address. tls: what it is believed by, None where it speaks without."""

    host: str
    port: int
    tls: ssl.SSLContext | None

    @classmethod
    def of(cls, url: str, ca_file: str | None = None) -> Place:
        """Return where a URL leads. ca_file: of the authorities that are believed (PEM); None takes the system's.

        Raises SetupError for a URL that is none, or a file that is none of certificates.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SetupError("it is no URL of a server", where=url, next="write http://HOST:PORT")
        is_secret = parts.scheme == "https"
        return cls(parts.hostname, parts.port or (443 if is_secret else 80), tls_of(ca_file) if is_secret else None)


def tls_of(ca_file: str | None) -> ssl.SSLContext:
    """Return what believes the authorities of a file. Raises SetupError where it has none."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise SetupError(f"no certificates can be read: {error}", where=str(ca_file),
                         next="give a file of certificates in PEM") from None  # fmt: skip
