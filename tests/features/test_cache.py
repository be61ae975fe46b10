"""The hot cache: bounded, jittered, and honest about its memory."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.deadline import NS_PER_S
from tailrace.features.cache import ENTRY_BYTES, CacheLimits, HotCache, refresh_of, row_of

TTL_NS = 10 * NS_PER_S
STALE_NS = 60 * NS_PER_S


def cache_of(bytes_max: int = 1 << 20, draw: float = 0.5) -> HotCache:
    """Return a cache whose jitter is one number."""
    return HotCache(CacheLimits(bytes_max=bytes_max, ttl_ns=TTL_NS, stale_ns=STALE_NS), lambda: draw)


@given(
    st.integers(0, 5_000),
    st.lists(st.tuples(st.integers(0, 20), st.one_of(st.none(), st.binary(max_size=2_000)), st.integers(0, 5))),
)
def test_cache_never_passes_its_bytes(bytes_max: int, puts: list[tuple[int, bytes | None, int]]) -> None:
    """Whatever is put in, its size is the sum of what is there, within its limit; and what is there is the last put."""
    cache = cache_of(bytes_max)
    last: dict[bytes, bytes | None] = {}
    now_ns = 0
    for number, row, seconds in puts:
        now_ns += seconds * NS_PER_S
        key = b"key %d" % number
        last[key] = row
        cache.put(key, row, now_ns, TTL_NS)
        held = {key: entry for key in last if (entry := cache.get(key)) is not None}
        assert len(held) == len(cache)
        assert cache.bytes == sum(ENTRY_BYTES + len(key) + len(row_of(entry) or b"") for key, entry in held.items())
        assert cache.bytes <= bytes_max
        assert all(row_of(entry) == last[key] for key, entry in held.items())


def test_cache_drops_first_what_was_read_first() -> None:
    """Of too many rows those leave that were not read anew: a key that is used is, within its TTL."""
    cache = cache_of(3 * (ENTRY_BYTES + 2))
    for number in (1, 2, 3):
        cache.put(b"%d" % number, b"x", 0, TTL_NS)
    cache.put(b"1", b"y", 1, TTL_NS)
    cache.put(b"4", b"x", 2, TTL_NS)
    assert [cache.get(key) is not None for key in (b"1", b"2", b"3", b"4")] == [True, False, True, True]


def test_cache_takes_no_row_larger_than_itself() -> None:
    """One huge row does not push all others out, and leaves no old row of its key."""
    cache = cache_of(ENTRY_BYTES * 3)
    cache.put(b"1", b"x", 0, TTL_NS)
    cache.put(b"2", b"x", 0, TTL_NS)
    cache.put(b"2", bytes(ENTRY_BYTES * 3), 0, TTL_NS)
    assert cache.get(b"1") is not None
    assert cache.get(b"2") is None


@pytest.mark.parametrize(("draw", "refresh", "expires"), [(0.0, 0.5, 1.0), (1.0, 0.75, 0.9)])
def test_cache_times_are_jittered_and_never_past_the_ttl(draw: float, refresh: float, expires: float) -> None:
    """A row is read anew well before it expires, and expires no later than its TTL, each at a time of its own."""
    cache = cache_of(draw=draw)
    cache.put(b"1", b"x", 7, TTL_NS)
    entry = cache.get(b"1")
    assert entry is not None
    assert refresh_of(entry) == 7 + refresh * TTL_NS
    assert entry.expires_ns == 7 + expires * TTL_NS


def test_cache_entry_answers_for_a_store_only_so_long() -> None:
    """An expired row can be used for its stale time; that there was none, or a row that is older, is no answer."""
    cache = cache_of(draw=0.0)
    cache.put(b"1", b"x", 0, TTL_NS)
    cache.put(b"2", None, 0, TTL_NS)
    known, unknown = cache.get(b"1"), cache.get(b"2")
    assert known is not None
    assert unknown is not None
    assert cache.is_usable(known, TTL_NS + STALE_NS - 1)
    assert not cache.is_usable(known, TTL_NS + STALE_NS)
    assert not cache.is_usable(unknown, TTL_NS)


def test_cache_lets_go_of_what_is_too_old_for_anything() -> None:
    """Rows that nobody can be given leave as others come, without pressure: a forgotten entity's too."""
    cache = cache_of(draw=0.0)
    for number in range(10):
        cache.put(b"old %d" % number, b"x", 0, TTL_NS)
    for number in range(5):
        cache.put(b"new %d" % number, b"x", TTL_NS + STALE_NS, TTL_NS)
    assert len(cache) == 5
    assert all(cache.get(b"new %d" % number) for number in range(5))


def test_cache_survives_rows_that_are_outdated_at_once() -> None:
    """A TTL of a nanosecond keeps nothing, and is no fault."""
    cache = HotCache(CacheLimits(bytes_max=1 << 20, ttl_ns=1, stale_ns=0), lambda: 1.0)
    for number in range(5):
        cache.put(b"%d" % number, b"x", 0, 1)
    assert len(cache) == cache.bytes == 0


@pytest.mark.parametrize("rows", [1_000, 20_000, 22_000])  # the last just after the table has grown
def test_cache_takes_the_memory_that_it_says(rows: int) -> None:
    """What it counts is what the interpreter allots for it, within a fifth, or less."""
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        cache = HotCache(CacheLimits(bytes_max=1 << 30, ttl_ns=TTL_NS, stale_ns=STALE_NS))
        for number in range(rows):
            cache.put(b"{customer:%d}CustomerProfile:1a2b3c4d" % number, bytes(120), 10**15 + number, TTL_NS)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.8 < cache.bytes / (after - before) < 1.25
