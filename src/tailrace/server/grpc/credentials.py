"""What makes gRPC's connections secret: the server's certificate, as its files have it at each handshake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import structlog

from tailrace.errors import SetupError
from tailrace.server.options import ServeOptions
from tailrace.server.tls.certificates import TlsFiles


def credentials_of(options: ServeOptions) -> Any:
    """Return the credentials of a server, None for plain connections. Raises SetupError for files that do not fit."""
    return None if options.tls is None else credentials_by(options.tls)


def credentials_by(files: TlsFiles) -> Any:
    """Return the credentials that files have. Raises SetupError where they do not fit."""
    certificate = Certificate(files)
    return grpc.dynamic_ssl_server_credentials(
        certificate.configuration, certificate.renewed, require_client_authentication=files.client_ca is not None
    )


class Certificate:
    """The certificate as the files have it. Files that do not fit leave it as it was, and are tried again each time."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._stamp = self._failed = files.stamp()
        self.configuration = self._read()

    def renewed(self) -> Any:
        """Return the configuration of the next handshake where the files are others by now; else None, for the same.

        Called in a thread of gRPC's.
        """
        stamp = self._files.stamp()
        if stamp == self._stamp:
            return None
        try:
            self.configuration = self._read()
        except SetupError as error:
            if stamp != self._failed:
                self._failed = stamp
                structlog.get_logger().error("the certificate of gRPC is as it was", error=str(error))
            return None
        self._stamp = stamp
        return self.configuration

    def _read(self) -> Any:
        files = self._files
        files.read()  # which says what is wrong with them; the core says nothing
        pair = Path(files.key).read_bytes(), Path(files.cert).read_bytes()
        callers = None if files.client_ca is None else Path(files.client_ca).read_bytes()
        if callers is not None and b"BEGIN X509 CRL" in callers:
            raise SetupError(
                "gRPC's library holds to no list of revoked certificates",
                where=str(files.client_ca), next="revoke them in --keys FILE, or leave out --grpc-port",
            )  # fmt: skip
        return grpc.ssl_server_certificate_configuration([pair], callers)
