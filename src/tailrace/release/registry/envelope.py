"""A version's record, signed: a DSSE envelope (Dead Simple Signing Envelope, v1) with Ed25519.

    {"payloadType": "application/vnd.tailrace.version+json", "payload": BASE64,
     "signatures": [{"keyid": SHA256 of the public key, "sig": BASE64}]}

The record has the sha256 of every file, its name and its number: a signature vouches for all of them, so that whoever
can write to the bucket can neither alter a version nor pass one off as another. It vouches for no alias, tag or hold.
Keys are PEM files, as OpenSSL makes them.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tailrace.errors import RegistryError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PAYLOAD_TYPE: Final = "application/vnd.tailrace.version+json"
_KEY_BYTES_MAX: Final = 64 * 1024
_SIGNATURES_MAX: Final = 16
_MAKE_KEYS: Final = (
    "make a pair: openssl genpkey -algorithm ed25519 -out sign.pem; openssl pkey -in sign.pem -pubout -out trusted.pem"
)


class _Signature(msgspec.Struct, frozen=True):
    keyid: str
    sig: str


class _Envelope(msgspec.Struct, frozen=True, rename="camel"):
    payload_type: str
    payload: str
    signatures: tuple[_Signature, ...]


class Signer:
    """Signs with a private key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.key_id = _key_id(key.public_key())

    @classmethod
    def read(cls, path: Path) -> Signer:
        """Return the signer of a PEM file. Raises RegistryError for any other file."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        key = _read_key(path, private=True)
        if not isinstance(key, Ed25519PrivateKey):
            raise RegistryError("it is no private key of Ed25519", where=str(path), next=_MAKE_KEYS)
        return cls(key)

    def sign(self, payload: bytes) -> bytes:
        """Return the signature of a payload."""
        return self._key.sign(_signed_bytes(payload))


class Trust:
    """The public keys of those who may register versions. Without one, every version is taken, signed or not."""

    def __init__(self, keys: Mapping[str, Ed25519PublicKey] | None = None) -> None:
        self._keys = dict(keys or {})

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Trust:
        """Return the trust in the public keys of PEM files. Raises RegistryError for any other file."""
        if not paths:
            return cls()
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        keys = {}
        for path in paths:
            key = _read_key(path, private=False)
            if not isinstance(key, Ed25519PublicKey):
                raise RegistryError("it is no public key of Ed25519", where=str(path), next=_MAKE_KEYS)
            keys[_key_id(key)] = key
        return cls(keys)

    @property
    def is_required(self) -> bool:
        """Whether a version must be signed."""
        return bool(self._keys)

    def signer_of(self, payload: bytes, signatures: Sequence[tuple[str, bytes]]) -> str:
        """Return the id of a trusted key that has signed a payload; "" where none has."""
        from cryptography.exceptions import InvalidSignature

        for key_id, signature in signatures:
            key = self._keys.get(key_id)
            if key is not None:
                try:
                    key.verify(signature, _signed_bytes(payload))
                except InvalidSignature:
                    continue
                return key_id
        return ""


def seal(payload: bytes, signer: Signer | None) -> bytes:
    """Return an envelope around a payload, signed where there is a signer."""
    signatures = () if signer is None else (_Signature(signer.key_id, b64encode(signer.sign(payload)).decode()),)
    envelope = _Envelope(PAYLOAD_TYPE, b64encode(payload).decode(), signatures)
    return msgspec.json.format(msgspec.json.encode(envelope), indent=1) + b"\n"


def unseal(content: bytes, trust: Trust) -> tuple[bytes, str, str]:
    """Return the payload of an envelope, the id of a trusted key that has signed it, and that which it claims.

    Where no key is trusted nothing is verified: then the first is "", and the second what anyone may have written.

    Raises ValueError for what is no envelope; PermissionError where a signature is required, and there is no good one.
    """
    try:
        envelope = msgspec.json.decode(content, type=_Envelope)
        payload = b64decode(envelope.payload, validate=True)
        signatures = [(each.keyid, b64decode(each.sig, validate=True)) for each in envelope.signatures]
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"it is no signed record: {error}") from error
    if envelope.payload_type != PAYLOAD_TYPE or len(signatures) > _SIGNATURES_MAX:
        raise ValueError(f"it is no record of a version, but {envelope.payload_type!r}")
    if not trust.is_required:
        return payload, "", signatures[0][0] if signatures else ""
    if key_id := trust.signer_of(payload, signatures):
        return payload, key_id, key_id
    if not signatures:
        raise PermissionError("it is not signed, and a trusted key is required")
    raise PermissionError(f"no trusted key has signed it as it is; it names the key {signatures[0][0][:12]}…")


def _signed_bytes(payload: bytes) -> bytes:
    """Return what is signed: DSSE's pre-authentication encoding of the type and the payload."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _key_id(key: Ed25519PublicKey) -> str:
    """Return the sha256 of a public key's DER form, in hex."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _read_key(path: Path, *, private: bool) -> Any:
    """Return the key in a PEM file. Raises RegistryError, which never shows what is in the file."""
    try:
        from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
    except ImportError as error:
        raise RegistryError(
            "signatures need the package cryptography", next="pip install 'tailrace[registry]'"
        ) from error
    try:
        with path.open("rb") as file:
            content = file.read(_KEY_BYTES_MAX)
        return load_pem_private_key(content, None) if private else load_pem_public_key(content)
    except OSError as error:
        raise RegistryError(
            f"the key cannot be read: {error.strerror}", where=str(path), next="name the key's PEM file"
        ) from error
    except (ValueError, TypeError) as error:  # TypeError: it is encrypted
        kind = "private" if private else "public"
        raise RegistryError(
            f"it is no {kind} key in PEM form without a password", where=str(path), next=_MAKE_KEYS
        ) from error
