"""Distinct values: exact up to a number, then an estimate with the error that is stated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from read_rule import Happened
from stream_samples import BASE_NS, S, Store, payments, view_of

from tailrace.features.aggregates import distinct
from tailrace.features.distinct import ERROR, VALUES_MAX, Ledger, count_distinct, distinct_of_ranges, value_hashes

NEVER = np.iinfo(np.int64).min


def empty(entities: int = 1) -> Ledger:
    """Return a ledger in which nothing was seen."""
    nothing = np.zeros(entities, np.intp)
    return Ledger(nothing, nothing, np.zeros(0, np.int64), np.zeros(0, np.uint32), np.zeros(0, np.uint8))


def extended(ledger: Ledger, hashes: Any, at_s: Any = 0, oldest_ns: int = NEVER, rows: Any = 0) -> Ledger:
    """Return a ledger with more values, seen at some second."""
    count = len(hashes)
    return ledger.extended(
        np.broadcast_to(np.asarray(rows, np.intp), (count,)),
        np.broadcast_to(np.asarray(at_s, np.int64) * S, (count,)),
        np.asarray(hashes, np.uint32),
        np.full(len(ledger.begins), oldest_ns),
    )


def estimate(ledger: Ledger, since_s: int = -(10**9)) -> list[int]:
    """Return how many values each entity's ledger says were seen since a time."""
    rows = np.repeat(np.arange(len(ledger.begins)), ledger.ends - ledger.begins)
    seen = ledger.at >= since_s * S
    return count_distinct(rows[seen], ledger.hashes[seen], ledger.depths[seen], len(ledger.begins)).tolist()


def hashes_of(seed: int, count: int) -> Any:
    """Return the hashes of so many distinct values."""
    return value_hashes(np.arange(count) + seed * 10**12).astype(np.uint32)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(0, 40)), max_size=80), st.data())
def test_ledger_is_the_same_in_whatever_groups_values_come(
    seen: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    """Each value once, with when it was last seen: in any order, and in any groups."""
    rows, at_s, hashes = (np.array([each[place] for each in seen], np.int64) for place in range(3))
    order = np.array(data.draw(st.permutations(range(len(seen)))), np.intp)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(seen)), max_size=4)))
    ledger = empty(3)
    for begin, end in zip([0, *cuts], [*cuts, len(seen)], strict=True):
        part = order[begin:end]
        ledger = extended(ledger, hashes[part], at_s[part], rows=rows[part])
    for since_s in (0, 11, 30):
        expected = [
            len({value for row, at, value in seen if row == each and value and at >= since_s}) for each in range(3)
        ]
        assert estimate(ledger, since_s) == expected


def test_ledger_forgets_what_no_window_reaches() -> None:
    """A value that was last seen before the oldest window goes; one that was seen again stays."""
    ledger = extended(extended(empty(), [5, 6, 7], 10), [6], 20)
    assert estimate(extended(ledger, [], oldest_ns=10 * S)) == [3]
    assert estimate(extended(ledger, [], oldest_ns=11 * S)) == [1]
    assert len(extended(ledger, [], oldest_ns=21 * S)) == 0


def test_ledger_is_exact_up_to_its_size_and_never_longer() -> None:
    """The last value that fits is counted, the next makes a sample."""
    hashes = hashes_of(0, VALUES_MAX + 1)
    full = extended(empty(), hashes[:VALUES_MAX])
    assert estimate(full) == [VALUES_MAX]
    assert not full.depths.any()
    more = extended(full, hashes[VALUES_MAX:])
    assert VALUES_MAX // 3 < len(more) <= VALUES_MAX
    assert estimate(more)[0] == pytest.approx(VALUES_MAX, rel=4 * ERROR)


def test_ledger_of_one_entity_leaves_that_of_another_alone() -> None:
    """A flood of one entity's values makes no other's count an estimate."""
    hashes = hashes_of(0, 50_000)
    ledger = extended(empty(2), np.concatenate((hashes[:300], hashes)), rows=[0] * 300 + [1] * 50_000)
    assert estimate(ledger)[0] == 300


def test_error_is_what_is_stated() -> None:
    """Over many entities, the mean error is none, and its spread is no more than the standard error stated."""
    assert pytest.approx(0.0375) == ERROR
    errors = []
    for seed in range(40):
        count = int(3_000 * 1.12**seed)
        ledger = empty()
        for part in np.array_split(hashes_of(seed + 1, count), 5):
            ledger = extended(ledger, part)
        errors.append(estimate(ledger)[0] / count - 1)
    assert abs(np.mean(errors)) < 3 * ERROR / 40**0.5
    assert np.sqrt(np.mean(np.square(errors))) < 1.3 * ERROR
    assert max(map(abs, errors)) < 4 * ERROR


def test_error_of_a_shorter_window_is_what_is_stated() -> None:
    """In which a tenth of the values was seen: that of the whole divided by the root of a tenth."""
    errors = []
    for seed in range(40):
        ledger = extended(empty(), hashes_of(seed + 1, 20_000), np.repeat(np.arange(10), 2_000))
        errors.append(estimate(ledger, 9)[0] / 2_000 - 1)
    assert np.sqrt(np.mean(np.square(errors))) < 1.3 * ERROR / 0.1**0.5
    assert abs(np.mean(errors)) < 3 * ERROR / (0.1 * 40) ** 0.5


def test_count_is_exact_again_after_a_flood() -> None:
    """Values that come when the flood has left the windows are not sampled as it was."""
    ledger = extended(empty(), hashes_of(1, 1_000_000), 0)
    assert ledger.depths.min() >= 9
    ledger = extended(ledger, hashes_of(2, 500), 100, oldest_ns=50 * S)
    assert estimate(ledger) == [500]


def test_value_that_is_sampled_and_seen_again_counts_once() -> None:
    """What is kept as an event tells for itself, and the sample for the others alone."""
    store = Store(view_of(payments("10m"), kinds=distinct("amount", window="1d")))
    number = 0
    for second in (0, 1, 2, 2_000, 2_001, 2_002):
        events = [Happened(BASE_NS + second * S, number + cents, 1, cents, "") for cents in range(0, 4_000, 3)]
        number += 4_000
        store.push(*events)
    states = store.codec.states.unpack([1], store.rows_of(1))
    assert states.tiles.ledgers[0].depths.max() > 0
    assert store.ask(Happened(BASE_NS + 2_003 * S, 0, 1, 0, "")).column("kinds").tolist() == [1_334]


def test_million_distinct_values_of_one_entity_are_bounded() -> None:
    """Through states, in batches that move the horizon: a small value, and a count within the error."""
    view = view_of(payments("10m"), day=distinct("amount", window="1d"), hour=distinct("amount", window="1h"))
    store = Store(view)
    batch, count = 4_000, 1_000_000
    for begin in range(0, count, batch):
        at_ns = BASE_NS + begin // batch * 300 * S
        decoded = [
            view.spec.stream.schema(payment_id=number, customer_id=1, amount=float(number), channel="", time=at_ns / S)
            for number in range(begin, begin + batch)
        ]
        store.applier.apply(store._decoded.columns(decoded))
    largest = max(len(value) for value in store.rows.values())
    assert largest < 110_000
    rows = store.ask(Happened(BASE_NS + count // batch * 300 * S, 0, 1, 0, ""))
    assert rows.column("day").tolist()[0] == pytest.approx(count, rel=3 * ERROR)
    assert rows.column("hour").tolist()[0] == pytest.approx(12 * batch, rel=3 * ERROR / (12 * batch / count) ** 0.5)


@settings(max_examples=50)
@given(st.lists(st.one_of(st.integers(-(2**63), 2**63 - 1)), unique=True, min_size=1, max_size=50))
def test_whole_numbers_are_told_apart(values: list[int]) -> None:
    """All 64 bits of them, where a float would hold 53."""
    assert len(set(value_hashes(np.array(values, np.int64)).tolist())) == len(values)


def test_neighbours_are_told_apart() -> None:
    """Two ids over 2^53 that are the same as floats have hashes of their own."""
    one, other = value_hashes(np.array([2**53, 2**53 + 1])).tolist()
    assert one != other


def test_nothing_has_no_hash() -> None:
    """A null of each type, and what is no number, do not count; zero and minus zero are one value."""
    assert np.isnan(value_hashes(np.array([np.nan, np.inf, -np.inf]))).all()
    assert np.isnan(value_hashes(np.array(["NaT"], "datetime64[us]"))).all()
    assert np.isnan(value_hashes(np.array([""], object))).all()
    assert len(set(value_hashes(np.array([0.0, -0.0])).tolist())) == 1
    assert value_hashes(np.array([], object)).tolist() == []


def test_hashes_are_spread_over_all_bits() -> None:
    """Of texts, whole numbers, floats and times alike: what the sample rests on."""
    columns: list[Any] = [
        np.array([f"user-{number}" for number in range(20_000)], object),
        np.arange(20_000),
        np.arange(20_000) / 100,
        np.arange(20_000).astype("datetime64[s]"),
    ]
    for column in columns:
        hashes = value_hashes(column).astype(np.uint32)
        assert len(np.unique(hashes)) > 19_990
        for bit in range(32):
            assert abs((hashes >> np.uint32(bit) & np.uint32(1)).mean() - 0.5) < 0.02


@given(st.lists(st.integers(0, 6), max_size=40), st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_distinct_values_of_ranges_are_those_of_each_range(values: list[int], seed: int) -> None:
    """Of any ranges, with a further value and without; 0 is no value."""
    random = np.random.default_rng(seed)
    hashes = np.array(values, np.uint32)
    begins = random.integers(0, len(values) + 1, 20)
    ends = np.minimum(begins + random.integers(0, len(values) + 1, 20), len(values))
    own = random.integers(0, 8, 20).astype(np.uint32)
    ranges = [set(values[begin:end]) for begin, end in zip(begins, ends, strict=True)]
    assert distinct_of_ranges(hashes, begins, ends).tolist() == [len(each - {0}) for each in ranges]
    with_own = [len((each | {further}) - {0}) for each, further in zip(ranges, own.tolist(), strict=True)]
    assert distinct_of_ranges(hashes, begins, ends, own).tolist() == with_own
