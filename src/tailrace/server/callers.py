"""Who may call, by whatever it shows: a key, a token. Looked at when a head is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tailrace.errors import ServingError
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


def check_callers(options: ServeOptions) -> None:
    """Raise SetupError where what callers are told by cannot be read."""
    if options.keys is not None:
        read_keys(Path(options.keys))
    if options.jwks is not None:
        check_library()
        check_source(options.jwks)


def callers_of(
    options: ServeOptions, count_failure: Callable[[type[ServingError]], None], limiter: Limiter
) -> tuple[Callers | None, list[Callable[[], None]]]:
    """Return what tells callers, None where nobody is asked, and what it has to do once a second."""
    keys = None if options.keys is None else Keys(Path(options.keys), count_failure, limiter)
    looks = [] if keys is None else [keys.look]
    if options.jwks is None or options.jwt_issuer is None or options.jwt_audience is None:
        return keys, looks
    signers = KeySet(options.jwks)
    signers.wait(SIGNERS_S_MAX)
    tokens = Tokens(signers, TokenRules(options.jwt_issuer, options.jwt_audience), count_failure, limiter)
    return KeysAndTokens(keys, tokens), [*looks, tokens.look]
