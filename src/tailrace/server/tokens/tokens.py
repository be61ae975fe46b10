"""Who shows a token (RFC 7519): checked when a head is read, and asked at each call only whether its time is over."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from tailrace.errors import ServingError, SetupError, UnauthorizedError, UnavailableError
from tailrace.server.key_file import SCOPE, SCOPES_MAX, Key
from tailrace.server.keys import BriefCaller
from tailrace.server.limiting.limiter import Limiter
from tailrace.server.tokens.key_set import KeySet
from tailrace.server.tokens.signers import Signer

TOKEN_BYTES_MAX: Final = 8_192
TOKENS_MAX: Final = 10_000
"""Tokens that were checked, to be known again; the oldest makes room."""
VAIN_SHARE: Final = 10
"""One part in so many of the loop's time goes to tokens that turn out to be bad: to check one takes 0.1 to 0.3 ms."""
VAIN_NS_MAX: Final = 2_000_000
"""Of that, what may be spent at once."""
LEEWAY_S: Final = 5.0
"""By which the clock of who signs may differ."""
LIFE_S_MAX: Final = 10 * 366 * 86_400.0
_NEXT: Final = "get another one from who signs them"
_SUBJECT_CHARS_MAX: Final = 64


class TokenRules(NamedTuple):
    """What a token must say. issuer, audience: who has signed it, and whom it is for."""

    issuer: str
    audience: str


class TokenCaller(BriefCaller):
    """Who has shown a token. What it says holds while its signer's key is in the set, and until its end."""

    def __init__(self, key: Key, ends_s: float, signer: Signer, tokens: Tokens) -> None:
        self._signer = signer
        self._tokens = tokens
        super().__init__(key, tokens.count_failure, tokens.limiter, ends_s)

    @property
    def holds(self) -> bool:
        """Whether the signer is still believed."""
        found = self._tokens.keys.signers.get(self._signer.id)
        return found is self._signer or (found is not None and found.text == self._signer.text)

    def fault(self, scope: str | None) -> ServingError | None:
        """Return why the token does not open what has a scope, None where it does; see `Caller`."""
        if time.time() >= self.ends_s:
            return UnauthorizedError("the token has expired", next=_NEXT)
        if not self.holds:
            return UnauthorizedError("the token's signer is not known any more", next=_NEXT)
        return super().fault(scope)


class Tokens:
    """Tells callers by their tokens. Raises SetupError where the keys of signers, or what checks them, is not there."""

    def __init__(
        self, keys: KeySet, rules: TokenRules, count_failure: Callable[[type[ServingError]], None],
        limiter: Limiter | None = None,
    ) -> None:  # fmt: skip
        self.keys = keys
        self.count_failure = count_failure
        self.limiter = limiter
        self._rules = rules
        self._callers: dict[bytes, TokenCaller] = {}
        self._left_ns = VAIN_NS_MAX
        self._earned_ns = time.monotonic_ns()

    def caller_of(self, token: bytes) -> TokenCaller:
        """Return who shows a token. Raises UnauthorizedError, and UnavailableError before any signer is known."""
        if len(token) > TOKEN_BYTES_MAX:
            raise UnauthorizedError(f"the token is over {TOKEN_BYTES_MAX} bytes", next=_NEXT)
        digest = hashlib.sha256(token).digest()
        caller = self._callers.get(digest)
        if caller is None or not caller.holds:
            caller = self._check_within(token)
            if len(self._callers) >= TOKENS_MAX:
                del self._callers[next(iter(self._callers))]
            self._callers[digest] = caller
        return caller

    def look(self) -> None:
        """Once a second: take in what the signers' keys are."""
        self.keys.look()

    def _check_within(self, token: bytes) -> TokenCaller:
        """Return who shows a token that is not known, unless too many have been bad: then it is not looked at."""
        began_ns = time.monotonic_ns()
        self._left_ns = min(self._left_ns + (began_ns - self._earned_ns) // VAIN_SHARE, VAIN_NS_MAX)
        self._earned_ns = began_ns
        if self._left_ns <= 0:
            raise UnauthorizedError(
                "too many bad tokens come: this one was not looked at", next="try again in a second"
            )
        try:
            return self._check(token)
        except ServingError:
            self._left_ns -= time.monotonic_ns() - began_ns
            raise

    def _check(self, token: bytes) -> TokenCaller:
        """Return who shows a token that was not seen before. Its signer's key says how it is signed, not the token."""
        import jwt

        try:
            text = token.decode("ascii")
            head = jwt.get_unverified_header(text)
            signer, algorithm = self._signer_of(head.get("kid")), head.get("alg")
            if algorithm not in signer.algorithms:
                raise UnauthorizedError("the token is signed in a way that its signer has not", next=_NEXT)
            if "crit" in head or head.get("b64", True) is not True:
                raise UnauthorizedError("the token asks for what is not known here", next=_NEXT)
            claims = jwt.decode(
                text, signer.key, algorithms=[algorithm], audience=self._rules.audience, issuer=self._rules.issuer,
                leeway=LEEWAY_S, options={"require": ["exp", "iss", "aud"]},
            )  # fmt: skip
            return self._caller_of(claims, signer)
        except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, AttributeError, RecursionError) as error:
            raise UnauthorizedError(_told(error), next=_NEXT) from None

    def _signer_of(self, number: Any) -> Signer:
        """Return the signer that a token names; one that names none is the only one's. Raises UnauthorizedError."""
        signers = self.keys.signers
        if not signers:
            raise UnavailableError("it is not known yet who may sign tokens", next="try again in some seconds")
        if number is None and len(signers) == 1:
            return next(iter(signers.values()))
        signer = signers.get(number) if isinstance(number, str) else None
        if signer is None:
            self.keys.want()
            raise UnauthorizedError("the token's signer is not known", next=_NEXT)
        return signer

    def _caller_of(self, claims: Mapping[str, Any], signer: Signer) -> TokenCaller:
        """Return who the claims of a token that is good are of."""
        ends_s = min(float(claims["exp"]) + LEEWAY_S, time.time() + LIFE_S_MAX)
        subject = str(claims.get("sub", ""))
        number = hashlib.sha256(f"{claims['iss']}\0{subject}".encode()).hexdigest()
        key = Key(
            id=number[:12], name=subject[:_SUBJECT_CHARS_MAX], sha256=number, scopes=scopes_of(claims),
            created=datetime.now(UTC),
        )  # fmt: skip
        return TokenCaller(key, ends_s, signer, self)


def scopes_of(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a token opens: the words of `scope` (RFC 8693) and `scp` that are scopes here, as pipelines/fraud."""
    words: list[str] = []
    for name in ("scope", "scp"):
        found = claims.get(name, ())
        words += found.split() if isinstance(found, str) else [each for each in found if isinstance(each, str)]
    return tuple(dict.fromkeys(word for word in words if re.match(SCOPE, word)))[:SCOPES_MAX]


def check_library() -> None:
    """Raise SetupError where PyJWT, or what it checks signatures with, is not installed."""
    try:
        import cryptography
        import jwt
    except ImportError as error:
        raise SetupError("tokens need the package PyJWT", where="jwks", next="pip install 'tailrace[jwt]'") from error
    del cryptography, jwt


def _told(error: Exception) -> str:
    """Return what is wrong with a token, in words that have nothing of it."""
    import jwt

    if isinstance(error, jwt.ExpiredSignatureError):
        return "the token has expired"
    if isinstance(error, jwt.ImmatureSignatureError):
        return "the token is not valid yet"
    if isinstance(error, jwt.InvalidAudienceError):
        return "the token is for another audience"
    if isinstance(error, jwt.InvalidIssuerError):
        return "the token is of another issuer"
    if isinstance(error, jwt.MissingRequiredClaimError):
        return "the token lacks its issuer, its audience or its end"
    return "the token cannot be verified"
