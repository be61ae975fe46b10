"""Who is at the other side of a secret connection of gRPC, by what its core has read of the certificate."""

from __future__ import annotations

import hashlib
import re
import ssl
from math import inf
from typing import Any, Final

from tailrace.server.tls.peer import CERTIFICATE, Peer

_KINDS: Final = ((b"peer_dns", "DNS:"), (b"peer_uri", "URI:"), (b"peer_email", "email:"), (b"x509_common_name", "CN="))


def peer_of(context: dict[bytes, Any] | None) -> Peer | None:
    """Return who a call's authentication context tells; None for nobody.

    The core tells no end of a certificate: it has looked at it when the connection was made, which lasts `grpc_age_s`.
    """
    if not context or not (whole := context.get(b"x509_pem_cert")):
        return None
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(whole[0].decode("ascii"))).hexdigest()
    names = [f"SHA256:{digest}"]
    for kind, prefix in _KINDS:
        names += [prefix + found.decode("utf-8", "replace") for found in context.get(kind, ())]
    return Peer(tuple(name for name in names if re.match(CERTIFICATE, name)), inf)
