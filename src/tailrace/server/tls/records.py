"""One side of a TLS connection without its socket: bytes as they are sent become bytes as they are meant, and back."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Final

RECORD_BYTES: Final = 16_384
"""The most that one record holds (RFC 8446 §5.1), so one read of so much takes a record whole."""


class Records:
    """The server's side of one connection, made with a context.

    has_ended: whether the other side has said that nothing follows. is_partial: whether a part of a record has come.
    put, get: take in what has come, and give what one record means; of the latter no more than it is asked for.
    seal, take: the same for what goes. incoming: what of `put` is in no record that was read.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self.has_ended = self.is_partial = False
        self.incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, outgoing, server_side=True)
        self.put, self.get = self.incoming.write, self.tls.read
        self.seal, self.take = self.tls.write, outgoing.read

    def shake(self) -> bool:
        """Go on with the handshake; return whether it is done. Raises ssl.SSLError. Takes 0.1 to 1 ms of computing."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def open(self) -> bytes:
        """Return what is meant by what has come, as far as its records are whole. Raises ssl.SSLError for no TLS."""
        parts = []
        try:
            while self.incoming.pending or self.tls.pending():
                if not (part := self.get(RECORD_BYTES)):
                    self.has_ended = True
                    break
                parts.append(part)
            self.is_partial = False
        except ssl.SSLWantReadError:
            self.is_partial = True
        return b"".join(parts)

    def goodbye(self) -> bytes:
        """Return how it is said that nothing follows."""
        with suppress(ssl.SSLError):  # the other side has not said so yet
            self.tls.unwrap()
        return self.take()
