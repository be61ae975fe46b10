"""Signatures of what a server sends by itself, as Standard Webhooks 1.0.0 has them (standardwebhooks.com).

    webhook-id: ID
    webhook-timestamp: seconds since the epoch
    webhook-signature: v1,BASE64(HMAC-SHA256(secret, "ID.TIMESTAMP.BODY"))     one a secret, with blanks between

While a secret is changed there are two: the sender signs with both, and a receiver takes either.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping, Sequence
from typing import Final

SECRET_BEGIN: Final = "whsec_"
SECRET_BYTES_MIN: Final = 24
SECRET_BYTES_MAX: Final = 64
SECRETS_MAX: Final = 4
TOLERANCE_S: Final = 300
"""How far the time of a message may be from the receiver's."""
SIGNATURES_MAX: Final = 16
VERSION: Final = "v1"
WRITE_AS: Final = f"write {SECRET_BEGIN} and {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} random bytes in Base64"


class SignatureError(Exception):
    """A message that is not signed by who has the secret, or is not of now."""


def read_secrets(text: str) -> tuple[bytes, ...]:
    """Return the secrets in a text, with blanks between them. Raises ValueError, which shows nothing of them."""
    secrets = tuple(map(_read_secret, text.split()))
    if not 1 <= len(secrets) <= SECRETS_MAX:
        raise ValueError(f"{len(secrets)} secrets, and 1 to {SECRETS_MAX} are wanted: {WRITE_AS}")
    return secrets


def _read_secret(text: str) -> bytes:
    try:
        secret = base64.b64decode(text.removeprefix(SECRET_BEGIN), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"a secret is no Base64: {WRITE_AS}") from None
    if not text.startswith(SECRET_BEGIN) or not SECRET_BYTES_MIN <= len(secret) <= SECRET_BYTES_MAX:
        raise ValueError(f"a secret is none: {WRITE_AS}")
    return secret


def signed_headers(secrets: Sequence[bytes], message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """Return the three headers of a message, signed with each secret."""
    signatures = (_signature(secret, message_id, str(timestamp_s), body) for secret in secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": " ".join(f"{VERSION},{signature}" for signature in signatures),
    }


def verify_webhook(
    secret: str | Sequence[str], headers: Mapping[str, str], body: bytes, *, tolerance_s: float = TOLERANCE_S,
    now_s: float | None = None,
) -> str:  # fmt: skip
    """Return the id of a message that a server has signed; what came with the same id before is the same message.

    secret: as the server has it, or several of them. headers: of the request, by names of any case; of an entry of a
    Redis stream its fields. body: its bytes, as they came. tolerance_s: how far its time may be from now.
    Raises SignatureError for all that is not signed so, ValueError for a secret that is none.
    """
    secrets = read_secrets(secret if isinstance(secret, str) else " ".join(secret))
    fields = {name.lower(): value for name, value in headers.items()}
    message_id, timestamp, signatures = (fields.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature"))
    if not (message_id and timestamp and signatures):
        raise SignatureError("the message is not signed: webhook-id, -timestamp or -signature is missing")
    if not (message_id.isascii() and signatures.isascii()):  # some servers give what is no text as surrogates
        raise SignatureError("webhook-id or -signature is none that a server sends")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 16):
        raise SignatureError("webhook-timestamp is no number of seconds")
    if abs((time.time() if now_s is None else now_s) - int(timestamp)) > tolerance_s:
        raise SignatureError("the message is older, or newer, than is tolerated")
    shown = [part[3:].encode() for part in signatures.split()[:SIGNATURES_MAX] if part.startswith(f"{VERSION},")]
    wanted = [_signature(each, message_id, timestamp, body).encode() for each in secrets]
    found = [hmac.compare_digest(one, other) for one in shown for other in wanted]
    if not any(found):
        raise SignatureError("no signature is of this message and this secret")
    return message_id


def _signature(secret: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    signed = b"%b.%b.%b" % (message_id.encode(), timestamp.encode(), body)
    return base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
