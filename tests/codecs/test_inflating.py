"""Compressed bodies are inflated up to the limit, and refused with the reason where they are none."""

from __future__ import annotations

import gzip
import sys
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.codecs.inflating import CODINGS, inflate
from tailrace.errors import BodyTooLargeError, MalformedBodyError

zstd = pytest.importorskip("backports.zstd" if sys.version_info < (3, 14) else "compression.zstd")
LIMIT = 10_000
MEMBER = gzip.compress(b"{}", mtime=0)  # without the time, which the names of tests would have


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
    [b"", b"{}", MEMBER[:-1], MEMBER + b"x", MEMBER * 2, MEMBER[:-8] + bytes(8), zlib.compress(b"{}")],
)
def test_body_that_is_no_gzip_is_refused(body: bytes) -> None:
    """Cut short, with more behind it, with a wrong checksum, or of another form."""
    assert isinstance(inflate(body, LIMIT), MalformedBodyError)


@given(st.binary(max_size=200))
def test_any_bytes_have_an_answer(body: bytes) -> None:
    """Nothing is raised."""
    assert isinstance(inflate(body, LIMIT), bytes | MalformedBodyError | BodyTooLargeError)


@given(st.binary(max_size=LIMIT), st.integers(1, 9), st.booleans())
def test_zstd_is_read_as_gzip_is(content: bytes, level: int, told: bool) -> None:
    """At every level, up to the last byte of the limit, whether the frame tells how long its content is or not."""
    options = {zstd.CompressionParameter.compression_level: level, zstd.CompressionParameter.content_size_flag: told}
    body = zstd.compress(content, options=options)
    assert CODINGS[b"zstd"](body, LIMIT) == content
    if content:
        assert isinstance(CODINGS[b"zstd"](body, len(content) - 1), BodyTooLargeError)


def test_zstd_bomb_takes_no_more_than_the_limit() -> None:
    """A few kilobytes that unpack to a gigabyte; and a frame that asks for a window of a gigabyte is not begun."""
    writer = zstd.ZstdCompressor()
    bomb = b"".join(writer.compress(b"\0" * 2**20) for _ in range(1_024)) + writer.flush()
    wide = {zstd.CompressionParameter.window_log: 30, zstd.CompressionParameter.content_size_flag: False}
    small = zstd.ZstdCompressor(options=wide)
    window = small.compress(b"a") + small.flush()
    tracemalloc.start()
    try:
        assert isinstance(CODINGS[b"zstd"](bomb, LIMIT), BodyTooLargeError)
        refusal = CODINGS[b"zstd"](window, LIMIT)
        assert isinstance(refusal, MalformedBodyError)
        assert "memory" in refusal.what.lower()
        assert tracemalloc.get_traced_memory()[1] < 4 * LIMIT + len(bomb) + 200_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", zstd.compress(b"{}")[:-1], zstd.compress(b"{}") + b"x", zstd.compress(b"{}") * 2,
     b"\x50\x2a\x4d\x18\x02\0\0\0ab" + zstd.compress(b"{}"), MEMBER],
)  # fmt: skip
def test_body_that_is_no_zstd_is_refused(body: bytes) -> None:
    """Cut short, with more behind it, behind a frame to be skipped, or of another form."""
    assert isinstance(CODINGS[b"zstd"](body, LIMIT), MalformedBodyError)


@given(st.binary(max_size=200))
def test_any_bytes_have_an_answer_as_zstd(body: bytes) -> None:
    """Nothing is raised."""
    for sent in (body, zstd.compress(body)[:-2] + body):
        assert isinstance(CODINGS[b"zstd"](sent, LIMIT), bytes | MalformedBodyError | BodyTooLargeError)
