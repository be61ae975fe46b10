"""What a client makes its connections secret with: whose word it takes for a server's name, and who it says it is."""

from __future__ import annotations

import ssl

from tailrace.client.options import Options
from tailrace.errors import SetupError


def tls_context(options: Options) -> ssl.SSLContext:
    """Return what connections to https:// are made with: TLS 1.2 at least, and a server whose name is proved.

    Raises SetupError for files that cannot be read, or do not fit; it quotes nothing of them.
    """
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
    except OSError as error:
        raise SetupError(
            f"cannot read authorities: {error.strerror or error}", where=f"ca_file: {options.ca_file}",
            next="name a file of certificates in PEM",
        ) from None  # fmt: skip
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if options.client_cert is not None:
        try:
            context.load_cert_chain(options.client_cert, options.client_key, lambda: "")
        except OSError as error:
            raise SetupError(
                f"cannot read a certificate and its key: {error.strerror or error}",
                where=f"client_cert: {options.client_cert}", next="name both in PEM, the key without a password",
            ) from None  # fmt: skip
    return context
