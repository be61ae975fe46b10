"""Signatures of results: those of Standard Webhooks, and nothing else is taken."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tailrace.client import SignatureError, verify_webhook
from tailrace.signature import SECRETS_MAX, read_secrets, signed_headers

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + "QUJD" * 10
BODY = b'{"test": 2432232314}'
SENT_S = 1_614_265_330


def headers(secret: str = SECRET, body: bytes = BODY) -> dict[str, str]:
    """Return the headers of a message that was sent at `SENT_S`."""
    return signed_headers(read_secrets(secret), "msg_p5jXN8AQM9LWM0D4loKWxJek", SENT_S, body)


def test_signature_is_that_of_standard_webhooks() -> None:
    """The vector of its own libraries' tests."""
    assert headers()["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_message_that_is_signed_is_taken_whatever_the_case_of_its_headers() -> None:
    """Its id comes back."""
    shown = {name.title(): value for name, value in headers().items()}
    assert verify_webhook(SECRET, shown, BODY, now_s=SENT_S + 299) == "msg_p5jXN8AQM9LWM0D4loKWxJek"


def test_old_and_new_secret_are_taken_while_one_is_changed() -> None:
    """Signed with both, by a receiver that has either; signed with one, by a receiver that has both."""
    both = headers(f"{OTHER} {SECRET}")
    for secret in (SECRET, OTHER):
        verify_webhook(secret, both, BODY, now_s=SENT_S)
        verify_webhook([OTHER, SECRET], headers(secret), BODY, now_s=SENT_S)


@pytest.mark.parametrize(
    ("change", "body", "now_s"),
    [
        ({}, BODY + b" ", SENT_S),
        ({}, BODY, SENT_S + 301),
        ({}, BODY, SENT_S - 301),
        ({"webhook-id": "another"}, BODY, SENT_S),
        ({"webhook-timestamp": str(SENT_S + 1)}, BODY, SENT_S),
        ({"webhook-timestamp": "now"}, BODY, SENT_S),
        ({"webhook-timestamp": "١٢٣"}, BODY, SENT_S),
        ({"webhook-timestamp": "9" * 5_000}, BODY, SENT_S),
        ({"webhook-signature": ""}, BODY, SENT_S),
        ({"webhook-signature": "v1,"}, BODY, SENT_S),
        ({"webhook-signature": "v1,é"}, BODY, SENT_S),
        ({"webhook-signature": "v1,\udcff"}, BODY, SENT_S),
        ({"webhook-id": "\udcff"}, BODY, SENT_S),
        ({"webhook-signature": "v1a,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="}, BODY, SENT_S),
    ],
)
def test_message_that_is_not_signed_so_is_refused(change: dict[str, str], body: bytes, now_s: float) -> None:
    """Another body, id or time, one that is old or new, no signature, or one of another kind."""
    with pytest.raises(SignatureError):
        verify_webhook(SECRET, headers() | change, body, now_s=now_s)


def test_message_of_another_secret_is_refused() -> None:
    """Who has another secret signs nothing that is taken."""
    with pytest.raises(SignatureError):
        verify_webhook(OTHER, headers(), BODY, now_s=SENT_S)


@pytest.mark.parametrize("text", ["", "secret", "whsec_", "whsec_QUJD", "whsec_*", SECRET[6:], " ".join([SECRET] * 5)])
def test_what_is_no_secret_is_told_without_showing_it(text: str) -> None:
    """Too short, no Base64, without its beginning, none, or more than are taken."""
    assert SECRETS_MAX < 5
    with pytest.raises(ValueError, match="whsec_ and 24 to 64") as raised:
        read_secrets(text)
    assert text[6:] not in str(raised.value) or not text[6:]


def test_receiver_needs_nothing_of_the_server() -> None:
    """The client's part imports neither an engine nor a model's library."""
    code = "import sys, tailrace.client; sys.exit(any(n.startswith('tailrace.server') for n in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
