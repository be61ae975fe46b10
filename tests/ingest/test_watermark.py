"""The watermark: how far a stream has come, by what its events say."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.ingest.watermark import NEVER_NS, SILENT_NS, Behind, Watermark, read_watermark, watermark_key

TIMES = st.lists(st.integers(-(2**62), 2**62), max_size=12)


def test_watermark_is_never_before_three_times_have_come() -> None:
    """Nothing is late for the first events."""
    assert Watermark().at_ns == Watermark().advanced([5, 9]).at_ns == NEVER_NS
    assert Watermark().advanced([5, 9, 7]).at_ns == 5


def test_one_event_with_a_wrong_date_makes_no_other_late() -> None:
    """Not when it comes again and again, either."""
    watermark = Watermark().advanced([10, 11, 12])
    for _ in range(5):
        watermark = watermark.advanced([10**18, 10**18])
    assert watermark.at_ns == 11


@given(TIMES, TIMES, TIMES)
def test_watermarks_join_in_any_order(one: list[int], other: list[int], third: list[int]) -> None:
    """However many appliers see whichever events: what they know together is the same, and never less."""
    alone = Watermark().advanced([*one, *other, *third])
    joined = Watermark().advanced(third).joined(Watermark().advanced(other).advanced(one), 0)
    assert joined.newest_ns == alone.newest_ns
    assert joined.advanced(joined.newest_ns).newest_ns == joined.newest_ns
    assert joined.at_ns >= Watermark().advanced(one).at_ns


@given(TIMES)
def test_watermark_comes_back_from_the_store(times: list[int]) -> None:
    """As it went."""
    watermark = Watermark().advanced(times)
    assert read_watermark(msgspec.json.encode(watermark)).newest_ns == watermark.newest_ns


@pytest.mark.parametrize("stored", [None, b"", b"{", b"[1]", b'{"newest_ns":["a"]}'])
def test_watermark_that_cannot_be_read_begins_anew(stored: bytes | None) -> None:
    """It costs lateness for a while, and no event."""
    assert read_watermark(stored).at_ns == NEVER_NS


def test_watermark_has_a_key_of_its_own() -> None:
    """One a stream; in a cluster, it and its tombstone are in one slot."""
    assert watermark_key("payments") != watermark_key("labels")
    assert b"{payments}" in watermark_key("payments")


def test_partition_that_is_behind_holds_the_watermark() -> None:
    """Until it has caught up, or is silent for too long; where it was once, it never goes back to."""
    held = Watermark().advanced([100, 101, 102], {"p/0": Behind(102, 0), "p/1": Behind(NEVER_NS, 0)}, 0)
    assert held.at_ns == NEVER_NS
    moved = held.advanced([10, 11], {"p/1": Behind(11, 5)}, 5)
    assert moved.at_ns == 11
    assert moved.advanced([], {"p/1": None}, 6).at_ns == 100
    assert moved.advanced([], {}, 5 + SILENT_NS).at_ns == 100
    assert moved.advanced([], {"p/1": None}, 6).advanced([12], {"p/1": Behind(12, 7)}, 7).at_ns == 100


def test_joined_watermarks_know_of_a_partition_what_was_heard_last() -> None:
    """Another process's word of its partition holds the watermark here too."""
    here = Watermark().advanced([100, 101, 102], {"p/0": Behind(50, 3)}, 3)
    there = Watermark().advanced([60, 61], {"p/0": Behind(70, 9), "p/1": Behind(61, 9)}, 9)
    assert here.joined(there, 9).behind == {"p/0": Behind(70, 9), "p/1": Behind(61, 9)}
    assert here.joined(there, 9).at_ns == 61
