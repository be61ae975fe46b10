"""One answer of a server, fetched to be looked at."""

from __future__ import annotations

import urllib.error
import urllib.request

from machine import BenchError


def fetch_answer(url: str, body: bytes) -> bytes:
    """Post one body; return the body of the answer. Raises BenchError unless it is a 2xx."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        raise BenchError(f"{url}: {error.code} {error.read()[:500]!r} to {body!r}") from None
