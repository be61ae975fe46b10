"""Scores taken apart and put together are the same scores of the same rows."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.inference.scored import Scored, gathered, has_scores, joined

Rows = list[tuple[int, bool]]

ROWS = st.lists(st.tuples(st.sampled_from([0, 8, 16]), st.booleans()), min_size=1, max_size=20)
"""Of each row why it is degraded, and whether it failed."""


def scored_of(rows: Rows, classes: int) -> Scored:
    """Return scores that differ by row and class."""
    count = len(rows)
    scores = np.arange(float(count * classes)).reshape((count, classes) if classes > 1 else count)
    degraded = np.array([reason for reason, _ in rows], np.uint8)
    failed = np.array([is_failed for _, is_failed in rows], bool)
    return Scored(scores, degraded if degraded.any() else None, failed if failed.any() else None)


def assert_same(found: Scored, expected: Scored) -> None:
    """Assert that two are equal; that nothing is degraded or failed is said by None."""
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if other is not None:
            np.testing.assert_array_equal(one, other)


@given(ROWS, st.sampled_from([1, 3]), st.data())
def test_parts_that_are_joined_are_the_whole(rows: Rows, classes: int, data: Any) -> None:
    """Wherever they are cut."""
    whole = scored_of(rows, classes)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(rows)))) | {0, len(rows)})
    parts = [whole.part(start, end) for start, end in pairwise(cuts)]
    assert_same(joined(parts), whole)


@given(ROWS, st.sampled_from([1, 3]), st.data())
def test_parts_that_are_gathered_are_the_whole(rows: Rows, classes: int, data: Any) -> None:
    """Whichever rows each of them has."""
    whole = scored_of(rows, classes)
    owners = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows))))
    places = [(owners == owner).nonzero()[0] for owner in range(3) if (owners == owner).any()]
    parts = [scored_of([rows[place] for place in where], classes) for where in places]
    parts = [part._replace(scores=whole.scores[where]) for part, where in zip(parts, places, strict=True)]
    assert_same(gathered(len(rows), places, parts), whole)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([1.0, np.nan, np.inf, -np.inf, 0.0], [True, False, False, False, True]),
        ([[1.0, 2.0], [1.0, np.nan], [np.inf, 2.0]], [True, False, False]),
    ],
)
def test_row_has_a_score_where_all_of_it_is_finite(scores: Any, expected: list[bool]) -> None:
    """One class without a number is no score."""
    assert has_scores(np.array(scores)).tolist() == expected
