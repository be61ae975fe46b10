"""Compressed bodies are inflated up to the limit, and refused with the reason where they are none."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.codecs.inflating import inflate
from tailrace.errors import BodyTooLargeError, MalformedBodyError

LIMIT = 10_000


@given(st.binary(max_size=LIMIT), st.integers(0, 9))
def test_content_is_what_was_compressed(content: bytes, level: int) -> None:
    """At every level, up to the last byte of the limit."""
    assert inflate(gzip.compress(content, level), LIMIT) == content
    if content:
        assert isinstance(inflate(gzip.compress(content, level), len(content) - 1), BodyTooLargeError)


def test_bomb_takes_no_more_than_the_limit() -> None:
    """A megabyte that unpacks to a gigabyte."""
    deflate = zlib.compressobj(9, wbits=31)
    bomb = b"".join(deflate.compress(b"\0" * 2**20) for _ in range(1_024)) + deflate.flush()
    tracemalloc.start()
    try:
        assert isinstance(inflate(bomb, LIMIT), BodyTooLargeError)
        assert tracemalloc.get_traced_memory()[1] < 4 * LIMIT + len(bomb) + 200_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", gzip.compress(b"{}")[:-1], gzip.compress(b"{}") + b"x", gzip.compress(b"{}") * 2,
     gzip.compress(b"{}")[:-8] + bytes(8), zlib.compress(b"{}")],
)  # fmt: skip
def test_body_that_is_no_gzip_is_refused(body: bytes) -> None:
    """Cut short, with more behind it, with a wrong checksum, or of another form."""
    assert isinstance(inflate(body, LIMIT), MalformedBodyError)


@given(st.binary(max_size=200))
def test_any_bytes_have_an_answer(body: bytes) -> None:
    """Nothing is raised."""
    assert isinstance(inflate(body, LIMIT), bytes | MalformedBodyError | BodyTooLargeError)
