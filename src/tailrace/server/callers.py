"""Who may call, by whatever it shows: a key, a token, a certificate. Looked at when a head is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tailrace.errors import ServingError
from tailrace.server.certified import Certified
from tailrace.server.key_file import read_keys
from tailrace.server.keys import Caller, Callers, Keys, shown_key
from tailrace.server.limiting.limiter import Limiter
from tailrace.server.options import ServeOptions
from tailrace.server.tokens.key_set import KeySet, check_source
from tailrace.server.tokens.tokens import TokenRules, Tokens, check_library

SIGNERS_S_MAX: Final = 2.0
"""How long a start waits for the keys of signers from a URL; without them tokens are answered 503."""


class KeysAndTokens:
    """Tells a token from a key by its form: it has two dots, which no key has. keys: None takes none."""

    def __init__(self, keys: Keys | None, tokens: Tokens) -> None:
        self._keys = keys
        self._tokens = tokens

    def caller(self, headers: Sequence[tuple[bytes, bytes]]) -> Caller:
        """Return who has sent these headers. Raises UnauthorizedError."""
        shown = shown_key(headers)
        if self._keys is None or shown.count(b".") == 2:
            return self._tokens.caller_of(shown)
        return self._keys.caller_of(shown)


class Asked(NamedTuple):
    """What tells callers. callers: None asks nobody. certified: those with a certificate. looks: once a second."""

    callers: Callers | None
    certified: Certified | None
    looks: Sequence[Callable[[], None]]


def check_callers(options: ServeOptions) -> None:
    """Raise SetupError where what callers are told by cannot be read."""
    if options.keys is not None:
        read_keys(Path(options.keys))
    if options.jwks is not None:
        check_library()
        check_source(options.jwks)


def callers_of(options: ServeOptions, count_failure: Callable[[type[ServingError]], None], limiter: Limiter) -> Asked:
    """Return what tells the callers of a server."""
    keys = None if options.keys is None else Keys(Path(options.keys), count_failure, limiter)
    tokens = _tokens_of(options, count_failure, limiter)
    looks = [each.look for each in (keys, tokens) if each is not None]
    callers: Callers | None = keys if tokens is None else KeysAndTokens(keys, tokens)
    if options.tls_client_ca is None:
        return Asked(callers, None, looks)
    certified = Certified(keys, callers, count_failure, limiter, options.body_bytes_max)
    return Asked(certified, certified, looks)


def _tokens_of(
    options: ServeOptions, count_failure: Callable[[type[ServingError]], None], limiter: Limiter
) -> Tokens | None:
    """Return what takes tokens, if any are taken."""
    if options.jwks is None or options.jwt_issuer is None or options.jwt_audience is None:
        return None
    signers = KeySet(options.jwks)
    signers.wait(SIGNERS_S_MAX)
    return Tokens(signers, TokenRules(options.jwt_issuer, options.jwt_audience), count_failure, limiter)
