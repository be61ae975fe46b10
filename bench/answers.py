"""One answer of a server, fetched to be looked at: what is degraded, or no answer, is no figure."""

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


def check_whole(url: str, body: bytes) -> None:
    """Raise BenchError unless Tailrace answers with nothing degraded: a default in a feature's place costs less."""
    asked = urllib.request.Request(url, body, {"Content-Type": "application/json", "X-Trace": "1"})
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            told, timing = answer.read(), answer.headers["Server-Timing"] or ""
    except urllib.error.HTTPError as error:
        raise BenchError(f"{url}: {error.code} {error.read()[:500]!r} to {body!r}") from None
    if not timing or "degraded" in timing:
        raise BenchError(f"{url}: {told[:500]!r}, {timing or 'without a trace'}, to {body!r}")
