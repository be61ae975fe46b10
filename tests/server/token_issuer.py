"""Who signs tokens for tests."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

ISSUER: Final = "https://id.example"
AUDIENCE: Final = "tailrace"


class Issuer:
    """Signs tokens. file: its public keys."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.keys: dict[str, tuple[Any, str]] = {
            "e": (ec.generate_private_key(ec.SECP256R1()), "ES256"),
            "o": (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
            "r": (rsa.generate_private_key(public_exponent=65_537, key_size=2_048), "RS256"),
        }
        self.publish(*self.keys)

    def document(self, *numbers: str) -> dict[str, Any]:
        """Return the set of some keys."""
        return {"keys": [self._public(number) for number in numbers]}

    def publish(self, *numbers: str) -> None:
        """Write the set of some keys, whole."""
        draft = self.file.with_suffix(".draft")
        draft.write_text(json.dumps(self.document(*numbers)))
        draft.replace(self.file)

    def sign(self, number: str = "e", head: dict[str, Any] | None = None, **claims: Any) -> str:
        """Return a token; a claim of None is left out."""
        now = int(time.time())
        whole = {"iss": ISSUER, "aud": AUDIENCE, "sub": "checkout", "exp": now + 300, "iat": now,
                 "scope": "openid pipelines/log"} | claims  # fmt: skip
        key, algorithm = self.keys[number]
        said = {name: value for name, value in whole.items() if value is not None}
        return str(jwt.encode(said, key, algorithm, headers={"kid": number} | (head or {})))

    def pem(self, number: str) -> bytes:
        """Return a public key."""
        public = self.keys[number][0].public_key()
        return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def _public(self, number: str) -> dict[str, Any]:
        key, algorithm = self.keys[number]
        found = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key())
        return {**json.loads(found), "kid": number, "use": "sig"}
