"""Ids of several parts: one text for each combination, and never the same for two."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.features.keys import CompositeFormat, KeyFormat, composite_id, row_name

PART = st.integers(-(2**63), 2**63 - 1) | st.text(max_size=12) | st.text('",|a1', max_size=6)
PARTS = st.lists(PART, min_size=2, max_size=4).map(tuple)
Parts = tuple[int | str, ...]


@given(PARTS, PARTS)
def test_composite_id_is_of_one_combination_only(one: Parts, other: Parts) -> None:
    """Two ids are equal only where all parts are, in value and in type."""
    assert (composite_id(one) == composite_id(other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a|b", "c"), ("a", "b|c")),
        (("a,b", "c"), ("a", "b,c")),
        (('a","b', "c"), ("a", 'b","c')),
        (("a", "b", "c"), ('a","b', "c")),
        ((1, "x"), ("1", "x")),
        ((1, 23), (12, 3)),
        (("", "a"), ("a", "")),
        (('"', ""), ("", '"')),
        ((1, 2), (2, 1)),
    ],
)
def test_composite_ids_that_would_collide_if_joined_carelessly_differ(one: Parts, other: Parts) -> None:
    """Separators and quotes within texts, numbers and their texts, empty parts, the order."""
    assert composite_id(one) != composite_id(other)


@given(PARTS)
def test_composite_id_is_a_line_of_csv(parts: Parts) -> None:
    """Whoever sees a key in a store can read the parts; texts are the quoted ones."""
    line = composite_id(parts)
    assert next(csv.reader([line], strict=True)) == list(map(str, parts))


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.text(max_size=8), st.text('",a', max_size=4))))
def test_composite_ids_of_columns_are_those_of_each_row(rows: list[tuple[int, str, str]]) -> None:
    """The batch gives what single calls give."""
    columns = [[row[place] for row in rows] for place in range(3)]
    assert CompositeFormat([int, str, str]).ids(columns) == list(map(composite_id, rows))


def test_composite_ids_of_columns_of_unequal_length_are_an_error() -> None:
    """Parts of two rows are never joined."""
    with pytest.raises(ValueError, match="zip"):
        CompositeFormat([int, int]).ids([[1, 2], [3]])


def test_key_of_a_composite_id_is_tagged_with_it() -> None:
    """A Redis Cluster places all rows of the combination by what the braces hold."""
    keys = KeyFormat("customer_at_terminal", row_name("Profile", 7))
    assert keys.key(composite_id((4021, 77))) == b'{customer_at_terminal:"4021,77"}Profile:00000007'
    assert keys.key(composite_id((4021, 'a"b'))) == b'{customer_at_terminal:"4021,"a""b""}Profile:00000007'


def test_composite_id_takes_integers_of_any_kind_and_nothing_like_them() -> None:
    """An int of NumPy is the same part; 1.9 is none."""
    assert composite_id((np.int64(17), "a")) == '17,"a"'  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        composite_id((1.9, "a"))  # type: ignore[arg-type]
