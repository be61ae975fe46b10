"""Keys: one for each (entity, id, view), and never the same for two."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.features.keys import KEY_BYTES_MAX, TOMBSTONE, KeyFormat, entity_checks, row_name

IDS = st.integers(-(2**63), 2**63 - 1) | st.text(max_size=600)
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)


def test_key_is_tagged_with_the_entity() -> None:
    """The braces hold what a Redis Cluster places by; a text stands in quotes."""
    keys = KeyFormat("customer", row_name("Profile", 0x1A2B3C))
    assert keys.key(123) == b"{customer:123}Profile:001a2b3c"
    assert keys.key("c-é") == '{customer:"c-é"}Profile:001a2b3c'.encode()
    assert KeyFormat("customer", TOMBSTONE).key(123) == b"{customer:123}:forgotten"


ROWS = NAMES | st.builds(row_name, NAMES, st.integers(0, 2**32 - 1)) | st.just(TOMBSTONE)


@given(st.tuples(NAMES, IDS, ROWS), st.tuples(NAMES, IDS, ROWS))
def test_key_is_of_one_entity_and_row_only(one: tuple[str, int | str, str], other: tuple[str, int | str, str]) -> None:
    """Two keys are equal only where entity, id, and view with schema are."""
    first, second = (KeyFormat(entity, row).key(entity_id) for entity, entity_id, row in (one, other))
    assert (first == second) == (one == other)


@given(st.text(max_size=30), st.text(max_size=30))
def test_key_of_a_text_cannot_spell_another_key(one: str, other: str) -> None:
    """Quotes and braces in a text do not make it another entity's."""
    first, second = KeyFormat("a", "V"), KeyFormat("a", "W")
    assert first.key(f'{one}"}}W') != second.key(one)
    assert first.key(one) == first.key(other) or one != other


@given(st.lists(st.integers(-(2**63), 2**63 - 1)) | st.lists(st.text(max_size=600)) | st.lists(IDS))
def test_keys_of_many_are_the_keys_of_each(ids: list[int | str]) -> None:
    """The batch gives what single calls give."""
    keys = KeyFormat("terminal", "Risk")
    assert keys.keys(ids) == [keys.key(each) for each in ids]


@given(st.text(min_size=0, max_size=2_000))
def test_key_of_a_long_text_stays_under_the_limit(text: str) -> None:
    """A text that would be too long for LMDB stands as its digest."""
    assert len(KeyFormat("customer", "Profile").key(text)) <= KEY_BYTES_MAX


def test_keys_take_half_a_surrogate_pair() -> None:
    """What is no valid text still has a key of its own."""
    keys = KeyFormat("customer", "Profile")
    assert len(set(keys.keys(["\ud800", "\ud801", "?"]))) == 3
    assert len(set(entity_checks(["\ud800", "\ud801", "?"]))) == 3


@given(st.lists(st.integers(-(2**63), 2**63 - 1), unique=True))
def test_entity_checks_of_ints_are_the_ints(ids: list[int]) -> None:
    """An int64 id is its own check."""
    assert entity_checks(ids) == ids


def test_entity_checks_of_texts_differ() -> None:
    """A hundred thousand similar texts have as many checks."""
    ids = [f"c{index}" for index in range(100_000)]
    assert len(set(entity_checks(ids))) == len(ids)


@given(st.lists(IDS, max_size=8))
def test_entity_checks_of_a_mixture_are_the_checks_of_each(ids: list[int | str]) -> None:
    """Ints and texts in one list get the checks they would have alone."""
    assert entity_checks(ids) == [entity_checks([each])[0] for each in ids]


def test_key_takes_integers_of_any_kind_and_nothing_like_them() -> None:
    """An int of NumPy is the same entity; 1.9 is not entity 1."""
    keys = KeyFormat("customer", "Profile")
    assert keys.key(np.int64(17)) == keys.key(17)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        keys.key(1.9)  # type: ignore[arg-type]
