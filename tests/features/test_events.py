"""Events as columns: ids that order them and tell them apart, and times that always fit."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.features.events import ID_BYTES_MAX, TIME_NS_MAX, event_checks, event_ids, event_times


def objects(*values: Any) -> Any:
    """Return a column of objects."""
    column = np.empty(len(values), object)
    column[:] = values
    return column


def test_whole_ids_are_their_own_checks() -> None:
    """An int64 is kept as it is."""
    ids = event_ids(np.array([-(2**63), 0, 2**63 - 1]))
    assert ids.tolist() == event_checks(ids).tolist() == [-(2**63), 0, 2**63 - 1]


@given(st.lists(st.text(), unique=True, max_size=20))
def test_text_ids_are_told_apart(texts: list[str]) -> None:
    """No two texts have the same id or check: not with a NUL at the end, nor half a surrogate pair."""
    ids = event_ids(objects(*texts))
    assert len(set(ids.tolist())) == len(texts)
    assert len(set(event_checks(ids).tolist())) == len(texts)


@pytest.mark.parametrize(("one", "other"), [("a", "a\0"), ("a\0", "a\0\0"), ("\ud800", "\ud801"), ("", "\0")])
def test_text_ids_that_an_array_would_confuse_are_told_apart(one: str, other: str) -> None:
    """NumPy drops the zeros at a text's end, and UTF-8 has no half of a pair."""
    ids = event_ids(objects(one, other))
    assert ids[0] != ids[1]
    assert len(set(event_checks(ids).tolist())) == 2


@given(st.lists(st.text(st.characters(min_codepoint=1, exclude_categories=["Cs"]), max_size=40), max_size=20))
def test_text_ids_are_in_the_order_of_their_bytes(texts: list[str]) -> None:
    """Events of one time are in the order of their ids."""
    ids = event_ids(objects(*texts))
    assert ids[np.argsort(ids, kind="stable")].tolist() == sorted(text.encode() for text in texts)


def test_long_text_id_is_bounded() -> None:
    """One of a megabyte costs no more than one of a line, and is still itself."""
    ids = event_ids(objects("x" * 1_000_000, "x" * 1_000_001, "x" * ID_BYTES_MAX, "é" * 200))
    assert ids.dtype.itemsize <= ID_BYTES_MAX
    assert len(set(ids.tolist())) == 4


def test_no_events_have_no_ids() -> None:
    """A column without a row gives none, of the type that it is to have."""
    assert event_ids(objects()).tolist() == []
    assert event_checks(event_ids(objects())).tolist() == []


def test_times_are_nanoseconds_whatever_they_came_as() -> None:
    """Datetimes and seconds say the same, before 1970 too; of seconds the microsecond is exact."""
    moments = [datetime(2018, 8, 1, 12, 30, 1, 250_001, UTC), datetime(1911, 2, 3, 4, 5, 6, 999_999, UTC)]
    expected = [1_533_126_601_250_001_000, -1_859_054_093_000_001_000]
    assert (
        event_times(np.array([moment.replace(tzinfo=None) for moment in moments], "datetime64[us]")).tolist()
        == expected
    )
    assert event_times(np.array([each / 1e9 for each in expected])).tolist() == expected
    assert event_times(np.array([-3, 0, 7])).tolist() == [-3 * 10**9, 0, 7 * 10**9]


@pytest.mark.parametrize("column", [
    np.array([np.nan, -np.inf, np.inf, -1e300, 1e300, 1e18]),
    np.array(["NaT", "0001-01-01", "9999-12-31T23:59:59.999999", "1500-01-01", "2300-01-01", "2300-01-02"],
             "datetime64[us]"),
])  # fmt: skip
def test_times_that_no_stream_has_are_far_off(column: Any) -> None:
    """What is no time, or does not fit, is far in the past or future: late or refused, never another time."""
    assert np.abs(event_times(column)).tolist() == [TIME_NS_MAX // 1_000 * 1_000] * 6
    assert (event_times(column) > 0).tolist() == [False, False, True, False, True, True]
