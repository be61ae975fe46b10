"""The public keys of who signs tokens, as a set of them says (RFC 7517). Only what signs without a shared secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from tailrace.errors import SetupError

SET_BYTES_MAX: Final = 1 << 20
SIGNERS_MAX: Final = 100
RSA_BITS_MIN: Final = 2_048
_OF_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
ALGORITHMS: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    ("RSA", ""): _OF_RSA,
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
"""By kind and curve: how a key may sign. The key says it, never the token: one that names another way is refused."""


class Signer(NamedTuple):
    """One key. id: as tokens name it, or empty. algorithms: how it signs. text: the key. key: what checks by it."""

    id: str
    algorithms: tuple[str, ...]
    text: bytes
    key: Any


class _Set(msgspec.Struct):
    """The content of a set."""

    keys: list[dict[str, Any]]


def read_signers(content: bytes, where: str) -> dict[str, Signer]:
    """Return the signers of a set by their ids. Raises SetupError for no set, or one without a key of use.

    Secrets, keys to encrypt with and kinds that are not known here are passed over.
    """
    step = "name a JSON Web Key Set with public keys"
    if len(content) > SET_BYTES_MAX:
        raise SetupError(f"the set is over {SET_BYTES_MAX} bytes", where=where, next=step)
    try:
        keys = msgspec.json.decode(content, type=_Set).keys
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise SetupError("this is no JSON Web Key Set", where=where, next=step) from None
    signers = [signer for key in keys[:SIGNERS_MAX] if (signer := _signer_of(key)) is not None]
    if not signers:
        raise SetupError("the set has no key that can check a token", where=where, next=step)
    return {signer.id: signer for signer in signers}


def _signer_of(found: Mapping[str, Any]) -> Signer | None:
    """Return the signer that a member of a set is; None for one that is of no use here."""
    import jwt

    kind, curve, number = found.get("kty"), found.get("crv", ""), found.get("kid", "")
    if not all(isinstance(each, str) for each in (kind, curve, number)) or found.get("use", "sig") != "sig":
        return None
    algorithms = ALGORITHMS.get((str(kind), "" if kind == "RSA" else curve), ())
    if (only := found.get("alg")) is not None:
        algorithms = tuple(each for each in algorithms if each == only)
    if not algorithms:
        return None
    public = {name: value for name, value in found.items() if name in {"kty", "crv", "n", "e", "x", "y"}}
    try:
        key = jwt.PyJWK.from_dict(public, algorithm=algorithms[0]).key
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if kind == "RSA" and key.key_size < RSA_BITS_MIN:
        return None
    return Signer(number, algorithms, msgspec.json.encode(public, order="sorted"), key)
