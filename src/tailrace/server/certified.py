"""Callers that are told by their certificates: by what the file of keys says of these, or by the authority alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from tailrace.errors import ServingError, UnauthorizedError
from tailrace.server.http.forms import HeadMemory
from tailrace.server.http.visitor import Visitor
from tailrace.server.key_file import Key
from tailrace.server.keys import BriefCaller, Caller, Callers, Keys, shows_key
from tailrace.server.limiting.limiter import Limiter
from tailrace.server.tls.peer import Peer

VISITORS_MAX: Final = 1_024
"""Certificates that are known again; the oldest makes room."""
FORMS_MAX: Final = 8
"""Heads remembered of one."""
_ALL: Final = ("pipelines/*", "streams/*")
_NEXT: Final = "ask who runs the server to let its certificate in"


class CertifiedCaller(BriefCaller):
    """Who has shown a certificate. keys: whose file says what it opens; None: it opens all."""

    def __init__(
        self, peer: Peer, key: Key, keys: Keys | None, count_failure: Callable[[type[ServingError]], None],
        limiter: Limiter | None,
    ) -> None:  # fmt: skip
        self._peer = peer
        self._keys = keys
        self._read = 0 if keys is None else keys.times_read
        super().__init__(key, count_failure, limiter, _end_of(peer, key))

    @property
    def holds(self) -> bool:
        """Whether the file still lets it in."""
        if self._keys is not None and self._read != self._keys.times_read:
            self._read = self._keys.times_read
            key = self._keys.of_certificate(self._peer.names)
            self.ends_s = _end_of(self._peer, key or self.key)
            self.settle(key)
        return self.is_known and self.key.revoked is None

    def fault(self, scope: str | None) -> ServingError | None:
        """Return why the certificate does not open what has a scope, None where it does; see `Caller`."""
        if not self.holds:
            return UnauthorizedError("the certificate is not let in any more", next=_NEXT)
        if time.time() >= self.ends_s:
            return UnauthorizedError("the certificate has expired", next=_NEXT)
        return super().fault(scope)


class Certified:
    """Tells callers by their certificates. others: by what a caller may show beside its own; None for nothing.

    keys: of the file that says what certificates open; None lets all in that the authority has signed.
    """

    def __init__(
        self, keys: Keys | None, others: Callers | None, count_failure: Callable[[type[ServingError]], None],
        limiter: Limiter | None, body_bytes_max: int,
    ) -> None:  # fmt: skip
        self.others = others
        self._keys = keys
        self._count_failure = count_failure
        self._limiter = limiter
        self._body_bytes_max = body_bytes_max
        self._visitors: dict[Peer, Visitor] = {}

    def caller(self, headers: Sequence[tuple[bytes, bytes]]) -> Caller:
        """Return who has sent these headers, without a certificate. Raises UnauthorizedError."""
        if self.others is not None and shows_key(headers):
            return self.others.caller(headers)
        raise UnauthorizedError("this needs a certificate of the caller", next="connect with one; " + _NEXT)

    def visitor_of(self, peer: Peer) -> Visitor:
        """Return what the connections of a certificate share."""
        visitor = self._visitors.get(peer)
        if visitor is None:
            if len(self._visitors) >= VISITORS_MAX:
                del self._visitors[next(iter(self._visitors))]
            heads = HeadMemory(self._body_bytes_max, self._count_failure, FORMS_MAX)
            visitor = self._visitors[peer] = Visitor(heads, OneCertified(self, peer))
        return visitor

    def caller_of(self, peer: Peer) -> CertifiedCaller:
        """Return who has a certificate. Raises UnauthorizedError for one that the file does not let in."""
        if self._keys is None:
            key: Key | None = Key(id=peer.number[7:19], name=peer.names[-1][:64], sha256=peer.number[7:], scopes=_ALL,
                                  created=datetime.now(UTC))  # fmt: skip
        else:
            key = self._keys.of_certificate(peer.names)
        if key is None:
            raise UnauthorizedError("the certificate is not let in", next=_NEXT)
        return CertifiedCaller(peer, key, self._keys, self._count_failure, self._limiter)


class OneCertified:
    """Tells callers on connections of one certificate: that one's, unless a key or a token is shown."""

    def __init__(self, certified: Certified, peer: Peer) -> None:
        self._certified = certified
        self._peer = peer
        self._caller: CertifiedCaller | None = None

    def caller(self, headers: Sequence[tuple[bytes, bytes]]) -> Caller:
        """Return who has sent these headers. Raises UnauthorizedError."""
        others = self._certified.others
        if others is not None and shows_key(headers):
            return others.caller(headers)
        if self._caller is None or self._caller.fault(None) is not None:
            self._caller = None
            self._caller = self._certified.caller_of(self._peer)
        return self._caller


def _end_of(peer: Peer, key: Key) -> float:
    """Return until when a caller is let in: as long as its certificate is good, and the file says."""
    return peer.ends_s if key.expires is None else min(peer.ends_s, key.expires.timestamp())
