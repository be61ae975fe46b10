"""What a caller is told that is beyond its limit."""

from __future__ import annotations

import pytest

from tailrace.client.answer import Answer
from tailrace.client.failure import error_of
from tailrace.errors import RateLimitedError


@pytest.mark.parametrize(("retry_after", "seconds"), [(b"7", 7), (b"", 1), (b"Wed, 21 Oct 2026 07:28:00 GMT", 1)])
def test_error_says_when_to_ask_again(retry_after: bytes, seconds: int) -> None:
    """The seconds of Retry-After; one where there are none."""
    body = b'{"status":429,"title":"Rate limited","type":"urn:tailrace:rate-limited","detail":"the key may ask 5/s"}'
    error = error_of(Answer(429, True, retry_after, body), "http://a")
    assert isinstance(error, RateLimitedError)
    assert (error.what, error.retry_after_s, error.status) == ("the key may ask 5/s", seconds, 429)
