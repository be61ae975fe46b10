"""Who the other side of a connection is, by its certificate: only ever one that an authority of callers has signed."""

from __future__ import annotations

import hashlib
import re
import ssl
from typing import Any, Final, NamedTuple, cast

CERTIFICATE: Final = r"^(CN=|DNS:|URI:|email:)[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?\Z|^SHA256:[0-9a-f]{64}\Z"
"""How a caller's certificate is named: by one of its names, or by the digest of the whole."""
_KINDS: Final = ("DNS", "URI", "email")


class Peer(NamedTuple):
    """A caller. names: what its certificate may be called, the closest first. ends_s: until when that is good."""

    names: tuple[str, ...]
    ends_s: float

    @property
    def number(self) -> str:
        """The digest of its certificate."""
        return self.names[0]


def peer_of(tls: ssl.SSLObject) -> Peer | None:
    """Return who is at the other side of a connection whose handshake is done; None for one without a certificate."""
    whole = tls.getpeercert(binary_form=True)
    if whole is None:
        return None
    found = cast(dict[str, Any], tls.getpeercert())
    names = [f"SHA256:{hashlib.sha256(whole).hexdigest()}"]
    names += [f"{kind}:{name}" for kind, name in found.get("subjectAltName", ()) if kind in _KINDS]
    names += [f"CN={value}" for part in found.get("subject", ()) for kind, value in part if kind == "commonName"]
    usable = tuple(name for name in names if re.match(CERTIFICATE, name))
    return Peer(usable, float(ssl.cert_time_to_seconds(found["notAfter"])))
