"""The API keys of a server: who calls, and what that caller may call. Looked at when a head is read, never again.

A caller is given endpoints of its own. The head that was read names them, so whatever remembers the head (a form, a
connection, a request whose body is still on its way) comes to them, and ends with them when the key is revoked:

    head ─▶ Admitted(caller, endpoint) ─▶ Endpoint        until the file says otherwise
                        └▶ 401, 403                        from the next look on, once a second
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import structlog

from tailrace.batch import Call
from tailrace.errors import ForbiddenError, ServingError, SetupError, UnauthorizedError
from tailrace.request.priority import Priority
from tailrace.server.endpoint import CallEndpoint, RateLimits
from tailrace.server.key_file import KEYS_MAX, Key, KeyReader
from tailrace.server.limiting.limiter import Limiter

KEY_BYTES: Final = 59
"""Of a whole key; what is longer or shorter is none, and is not hashed."""
_NO_DIGEST: Final = "0" * 64
_SCHEME: Final = b"bearer "


class Admitted(CallEndpoint):
    """An endpoint as one caller has it: at its priority, and within its limits.

    asked: the priority that its calls ask for. accept: the endpoint's own, `Limited`'s, or `_refuse`.
    """

    def __init__(self, endpoint: CallEndpoint, caller: Caller, asked: Priority | None) -> None:
        self.name, self.scope, self.budget_ns = endpoint.name, endpoint.scope, endpoint.budget_ns
        self._endpoint = self.within = endpoint
        self._caller = caller
        self._asked = asked
        self._key: Key | None = None
        self.settle()

    def settle(self) -> None:
        """Let calls in as far as the caller's key is now, or refuse them all."""
        caller = self._caller
        if self._key is not caller.key:
            self._key = key = caller.key
            self.within = self._endpoint.at_priority(key.level if self._asked is None else min(self._asked, key.level))
            if caller.limiter is not None:
                self.within = caller.limiter.of_key(self.within, key.id, key.limit)
        self.accept = self.within.accept if caller.fault(self.scope) is None else self._refuse

    def count_failure(self, error: ServingError) -> None:
        """Count a call that is answered with an error; see `CallEndpoint`."""
        self._endpoint.count_failure(error)

    def rate_limits(self) -> RateLimits:
        """Return what the caller may have; see `CallEndpoint`."""
        return self.within.rate_limits()

    def _refuse(self, call: Call, body: bytes, budget_ns: int) -> ServingError | None:
        """Refuse a call whose caller has lost its key since the head was read."""
        error = self._caller.fault(self.scope)
        if error is None:  # it has been given back in this second
            return self.within.accept(call, body, budget_ns)
        self._caller.count_failure(type(error))
        return error


class Caller:
    """Who has shown a key. key: as the file has it now, or had it last. is_known: whether it has it.

    is_over: whether it had expired when that was looked at last.
    count_failure: is called for each call that is refused after its head was read. limiter: holds it to its limits.
    """

    def __init__(
        self, key: Key, count_failure: Callable[[type[ServingError]], None], limiter: Limiter | None = None
    ) -> None:
        self.key = key
        self.count_failure = count_failure
        self.limiter = limiter
        self.is_known = True
        self.is_over = False
        self._admitted: dict[tuple[CallEndpoint, Priority | None], Admitted] = {}

    def admitted(self, endpoint: CallEndpoint, asked: Priority | None = None) -> Admitted:
        """Return an endpoint as this caller has it. Raises UnauthorizedError or ForbiddenError.

        asked: the priority that its calls ask for, if they do; they have no more than the key's.
        """
        if (error := self.fault(endpoint.scope)) is not None:
            raise error
        admitted = self._admitted.get((endpoint, asked))
        if admitted is None:
            admitted = self._admitted[endpoint, asked] = self._admit(endpoint, asked)
        return admitted

    def _admit(self, endpoint: CallEndpoint, asked: Priority | None) -> Admitted:
        return Admitted(endpoint, self, asked)

    @property
    def scopes(self) -> bytes:
        """What its key opens. Callers whose keys open other things share no answers."""
        return " ".join(sorted(set(self.key.scopes))).encode()

    def settle(self, key: Key | None) -> None:
        """Take in what the file says of the key now; None: nothing any more."""
        self.is_known = key is not None
        self.key = key or self.key
        self.is_over = self.key.expires is not None and self.key.expires <= datetime.now(UTC)
        for admitted in self._admitted.values():
            admitted.settle()

    def fault(self, scope: str | None) -> ServingError | None:
        """Return why the key does not open what has a scope, None where it does. scope None: what any key opens."""
        state = self.key.state(datetime.now(UTC)) if self.is_known else "revoked"
        if state != "active":
            what = "the key is revoked" if state == "revoked" else "the key has expired"
            return UnauthorizedError(what, next="ask who runs the server for another")
        if scope is not None and not self.key.may(scope):
            return ForbiddenError(f"the key is not for {scope}", next="ask who runs the server for one that is")
        return None


class BriefAdmitted(Admitted):
    """An endpoint as one has it who is believed for a time: each call is asked whether that is over."""

    def __init__(self, endpoint: CallEndpoint, caller: BriefCaller, asked: Priority | None) -> None:
        self._brief = caller
        super().__init__(endpoint, caller, asked)

    def settle(self) -> None:
        """Let calls in as far as the caller is believed."""
        super().settle()
        self._is_open = self._brief.fault(self.scope) is None
        self.accept = self._accept

    def _accept(self, call: Call, body: bytes, budget_ns: int) -> ServingError | None:
        """Take a call, unless its caller's time is over."""
        caller = self._brief
        if caller.holds and self._is_open and time.time() < caller.ends_s:  # what holds may have been settled anew
            return self.within.accept(call, body, budget_ns)
        return self._refuse(call, body, budget_ns)


class BriefCaller(Caller):
    """Who is believed until `ends_s`, of the clock on the wall, and while what it has shown holds."""

    def __init__(
        self, key: Key, count_failure: Callable[[type[ServingError]], None], limiter: Limiter | None, ends_s: float
    ) -> None:
        super().__init__(key, count_failure, limiter)
        self.ends_s = ends_s

    @property
    def holds(self) -> bool:
        """Whether what it has shown still counts."""
        return True

    def _admit(self, endpoint: CallEndpoint, asked: Priority | None) -> Admitted:
        return BriefAdmitted(endpoint, self, asked)


class Callers(Protocol):
    """Tells who calls."""

    def caller(self, headers: Sequence[tuple[bytes, bytes]]) -> Caller:
        """Return who has sent these headers. Raises UnauthorizedError."""
        ...


class Keys:
    """The keys of one file, as they are now. count_failure: is called for calls refused after their head was read.

    limiter: what holds callers to the limits of their keys.
    Raises SetupError where the file cannot be read. One that cannot be read later leaves the keys as they were, and is
    tried again at each look: what was not there for it, a file descriptor say, may be there then.
    """

    def __init__(
        self, path: Path, count_failure: Callable[[type[ServingError]], None], limiter: Limiter | None = None
    ) -> None:
        self._path = path
        self._count_failure = count_failure
        self._limiter = limiter
        self._callers: dict[str, Caller] = {}
        self._log = structlog.get_logger()
        self._stamp = self._failed = self._look_at_file()
        self._reader = KeyReader(path)
        self.times_read = 0
        self._take(self._reader.read())

    def caller(self, headers: Sequence[tuple[bytes, bytes]]) -> Caller:
        """Return who has sent these headers. Raises UnauthorizedError: not one key, or one that is not known."""
        return self.caller_of(shown_key(headers))

    def caller_of(self, shown: bytes) -> Caller:
        """Return who shows a key. Raises UnauthorizedError for one that is not known."""
        _, _, rest = shown.partition(b"_")
        key = self._keys.get(rest[:12].decode("latin-1"))
        digest = hashlib.sha256(shown).hexdigest() if len(shown) == KEY_BYTES else ""
        if not hmac.compare_digest(digest, _NO_DIGEST if key is None else key.sha256) or key is None:
            raise UnauthorizedError("the key is not known", next="ask who runs the server for one")
        caller = self._callers.get(key.sha256)
        if caller is None:
            caller = self._callers[key.sha256] = Caller(key, self._count_failure, self._limiter)
        return caller

    def look(self) -> None:
        """Once a second: read the file again if it is another, and end what keys have expired or are revoked."""
        stamp = self._look_at_file()
        if stamp != self._stamp:
            self._read(stamp)
        now = datetime.now(UTC)
        for caller in self._callers.values():
            expires = caller.key.expires
            if caller.is_known and expires is not None and (expires <= now) is not caller.is_over:
                caller.settle(caller.key)

    def _read(self, stamp: tuple[int, int, int]) -> None:
        """Take in what the file says now. One that cannot be read is told of once."""
        try:
            keys = {key.id: key for key in self._reader.read()}
        except SetupError as error:
            if stamp != self._failed:
                self._failed = stamp
                self._log.error("keys are as they were: the file cannot be read", error=str(error))
            return
        self._stamp = self._failed = stamp
        self._take(keys.values())
        for digest, caller in list(self._callers.items()):
            key = keys.get(caller.key.id)
            if key is caller.key and caller.is_known:  # as it was
                continue
            caller.settle(key if key is not None and key.sha256 == digest else None)
            if len(self._callers) > KEYS_MAX and not caller.is_known:
                del self._callers[digest]  # else it is kept, for the heads that lead to it: the key may be given back
        self._log.info("keys were read again", keys=len(keys))

    def of_certificate(self, names: Sequence[str]) -> Key | None:
        """Return what the file says of a certificate, by the first of its names that stands there."""
        return next((self._certified[name] for name in names if name in self._certified), None)

    def _take(self, keys: Iterable[Key]) -> None:
        """Know the keys, and apart from them the certificates, which are no secret and no key."""
        self.times_read += 1
        self._keys = {key.id: key for key in keys if key.certificate is None}
        self._certified: dict[str, Key] = {}
        for key in keys:
            if key.certificate is not None and (key.certificate not in self._certified or key.revoked is None):
                self._certified[key.certificate] = key

    def _look_at_file(self) -> tuple[int, int, int]:
        """Return what changes when the file is written; zeros where it is gone."""
        try:
            found = os.stat(self._path)
        except OSError:
            return 0, 0, 0
        return found.st_mtime_ns, found.st_size, found.st_ino


def shows_key(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Say whether these headers show a key or a token, good or not."""
    return any(
        name.lower() == b"x-api-key" or (name.lower() == b"authorization" and value[:7].lower() == _SCHEME)
        for name, value in headers
    )


def shown_key(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return the one key that is sent. Raises UnauthorizedError for none, or several: others may read another one."""
    shown = set()
    for name, value in headers:
        lower = name.lower()
        if lower == b"x-api-key":
            shown.add(value.strip())
        elif lower == b"authorization" and value[: len(_SCHEME)].lower() == _SCHEME:
            shown.add(value[len(_SCHEME) :].strip())
    if len(shown) != 1:
        what = "several keys were sent" if shown else "this needs a key"
        raise UnauthorizedError(what, next="send one, as Authorization: Bearer KEY or as X-API-Key: KEY")
    return shown.pop()
