"""The certificate of a server and its key, as their files have them now; and whose certificates of callers it takes."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog

from tailrace.errors import SetupError

_AGAIN: Final = "name a certificate with its chain, and its key without a password, both in PEM"


class TlsFiles(NamedTuple):
    """Where they are, in PEM. client_ca: of who signs the certificates of callers; None asks callers for none."""

    cert: str
    key: str
    client_ca: str | None = None

    def read(self) -> ssl.SSLContext:
        """Return what makes a connection secret. Raises SetupError for files that cannot be read, or do not fit.

        TLS 1.2 at least, by ciphers with forward secrecy. No tickets: of several workers only the one that made it
        could read one. A caller without a certificate comes in, and is answered 401 where it needs one: a probe does
        not.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
        context.num_tickets = 0
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self.cert, self.key, _refuse_password)
        except OSError as error:  # ssl.SSLError is one
            raise SetupError(_told(error, "the certificate"), where=f"{self.cert}, {self.key}", next=_AGAIN) from None
        if self.client_ca is not None:
            self._ask_callers(context, self.client_ca)
        return context

    def _ask_callers(self, context: ssl.SSLContext, client_ca: str) -> None:
        """Have callers asked for a certificate; what the file says of revoked ones is held to."""
        try:
            context.load_verify_locations(client_ca)
        except OSError as error:
            what, step = _told(error, "the authorities of callers"), "name a file of certificates in PEM"
            raise SetupError(what, where=client_ca, next=step) from None
        context.verify_mode = ssl.CERT_OPTIONAL
        if context.cert_store_stats()["crl"]:
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF

    def stamp(self) -> tuple[Any, ...]:
        """Return what changes when one of the files is written; zeros for one that is gone."""
        return tuple(map(_stamp_of, filter(None, self)))


class Certificates:
    """What connections are made secret with, as the files have it now. context: of the next one.

    Raises SetupError where there is none to begin with. Files that do not fit later leave it as it was, and are tried
    again at each look.
    """

    def __init__(self, files: TlsFiles) -> None:
        self.files = files
        self._stamp = self._failed = files.stamp()
        self.context = files.read()
        self._log = structlog.get_logger()

    def look(self) -> None:
        """Once a second: read the files again if they are others. A pair is two files, and for a moment may not fit."""
        stamp = self.files.stamp()
        if stamp == self._stamp:
            return
        try:
            self.context = self.files.read()
        except SetupError as error:
            if stamp != self._failed:
                self._failed = stamp
                self._log.error("the certificate is as it was", error=str(error))
        else:
            self._stamp = self._failed = stamp
            self._log.info("the certificate was read again", file=str(Path(self.files.cert)))


def _refuse_password() -> str:
    """Say what OpenSSL is told instead of asking the terminal: nothing that opens a key."""
    return ""


def _told(error: OSError, what: str) -> str:
    """Return what is wrong with a file, without a word of what is in it."""
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "unreadable").lower().replace("_", " ")
        return f"{what} cannot be used: {reason}"
    return f"{what} cannot be read: {error.strerror or error}"


def _stamp_of(file: str) -> tuple[int, int, int]:
    try:
        found = os.stat(file)
    except OSError:
        return 0, 0, 0
    return found.st_mtime_ns, found.st_size, found.st_ino
