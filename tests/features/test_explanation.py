"""Why a column is what it is: its parts, each with when it leaves the window."""

from __future__ import annotations

from read_rule import Happened
from stream_samples import BASE_NS, S, Store, payments, view_of

from tailrace.features.aggregates import count, distinct
from tailrace.features.explanation import explain


def test_explanation_has_every_event_or_tile_of_the_window() -> None:
    """The parts of a count are the count; each leaves when the window has passed it."""
    store = Store(view_of(payments("10m"), n=count(window="1h", delay="5m")))
    for second in range(0, 2_400, 100):
        store.push(Happened(BASE_NS + second * S, second, 1, 100, "a"))
    now = Happened(BASE_NS + 4_000 * S, None, 1, 0, "")
    (found,) = explain(store.codec, store.codec.states.unpack([1], store.rows_of(1)), now.at_ns)
    expected = store.ask(Happened(now.at_ns, 0, 1, 0, "")).column("n").tolist()
    assert [sum(part.value for part in found.parts)] == expected == [23]
    assert {part.event_id is None for part in found.parts} == {True, False}
    first = found.parts[0]
    assert first.leaves_ns is not None
    for at_ns, n in ((first.leaves_ns - S, 23), (first.leaves_ns, 23 - first.value)):
        assert store.ask(Happened(at_ns, 0, 1, 0, "")).column("n").tolist() == [n]


def test_explanation_of_distinct_values_is_of_values_and_no_hash() -> None:
    """Each value of the ledger stands for itself, when it was last seen, and each young event for its value."""
    store = Store(view_of(payments("10m"), kinds=distinct("channel", window="1h")))
    for second, channel in ((0, "a"), (10, "b"), (20, "a"), (1_000, "c"), (1_001, "c"), (1_002, ""), (1_003, "d")):
        store.push(Happened(BASE_NS + second * S, second, 1, 100, channel))
    states = store.codec.states.unpack([1], store.rows_of(1))
    (found,) = explain(store.codec, states, BASE_NS + 1_100 * S)
    parts = [((part.at_ns - BASE_NS) // S, part.event_id, part.value) for part in found.parts]
    assert parts == [(10, None, 1), (20, None, 1), (1_000, 1_000, 1), (1_001, 1_001, 1), (1_003, 1_003, 1)]
