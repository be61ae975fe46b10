"""The stored state: it comes back as it went, and nothing else is taken for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from read_rule import Happened
from stream_samples import BASE_NS, DAY_S, S, Store, payments, random_events, view_of

from tailrace.batch import Degraded, Provenance
from tailrace.features.aggregates import count, distinct, last, mean
from tailrace.features.keys import entity_checks
from tailrace.features.states import HEAD, HEAD_BYTES
from tailrace.features.view_rows import ViewRows

COLUMNS: dict[str, Any] = {
    "n": count(window="5m"),
    "m": mean("amount", window="1h", decimals=2),
    "latest": last("amount", window="1d", where="channel != 'b'"),
    "kinds": distinct("channel", window="1d"),
    "ever": count(window="lifetime"),
}
VIEWS = {text: view_of(payments("10m", text=text), **COLUMNS) for text in (False, True)}


def filled(text: bool, seed: int = 1, begin_ns: int = BASE_NS) -> Store:
    """Return a store with a state that has tiles, events and ledgers."""
    store = Store(VIEWS[text])
    events = random_events(seed, 60, 45.0, text=text, begin_ns=begin_ns, entities=1)
    for begin in range(0, 60, 4):
        store.push(*events[begin : begin + 4])
    return store


def state_of(store: Store) -> bytes:
    """Return the only state of a store."""
    (value,) = (value for key, value in store.rows.items() if key.startswith(b"{customer"))
    return value


def asked_of(store: Store, stored: list[bytes | None], entity: int | str) -> ViewRows:
    """Return the rows for one entity under whose key each value was found."""
    now = Happened(BASE_NS + 3_600 * S, "z" if isinstance(entity, str) else 0, entity, 100, "a")
    count_ = len(stored)
    return store.codec.unpack([entity] * count_, stored, 0, None, store.events([now] * count_))


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    text=st.booleans(),
    begin_ns=st.sampled_from([BASE_NS, -5 * S, -4_000_000_000 * S, 4_294_967_296 * S, 5_500_000_000 * S]),
)
def test_state_is_packed_as_it_was_unpacked(seed: int, text: bool, begin_ns: int) -> None:
    """Whatever century its tiles are of, beside entities of which nothing is known."""
    store = filled(text, seed, begin_ns)
    layout, stored = store.codec.states, state_of(store)
    checks = entity_checks(["c-9", "c-0", "c-8"] if text else [9, 0, 8])
    states = layout.unpack(checks, [None, stored, None])
    assert states.found.tolist() == [False, True, False]
    assert not states.errors.any()
    assert len(states.tiles)
    assert len(states.events)
    assert all(len(ledger) for ledger in states.tiles.ledgers)
    assert (states.tiles.at < states.heads["horizon"][1]).all()
    assert (states.tiles.at >= begin_ns // S * S).all()
    packed = layout.pack(states.heads, states.tiles, states.events, states.checks)
    assert packed[1] == stored


def test_state_has_a_head_of_a_fixed_size() -> None:
    """By its first bytes a store tells whether it was changed; a view without `distinct` has nothing more."""
    assert HEAD_BYTES == HEAD.itemsize == 48
    store = Store(view_of(payments("10m"), n=count(window="5m"), m=mean("amount", window="5m", decimals=2)))
    store.push(Happened(BASE_NS, 1, 1, 100, "a"))
    assert len(state_of(store)) == HEAD_BYTES + 8 + 8 + 4 + 8 + 4


@pytest.mark.parametrize("text", [False, True])
def test_state_that_is_cut_is_refused(text: bool) -> None:
    """Wherever it ends too early, or too late: defaults, an error that is counted, and neighbours that stay right."""
    store = filled(text)
    stored = state_of(store)
    entity = "c-0" if text else 0
    broken: list[bytes | None] = [stored[:end] for end in range(len(stored))]
    rows = asked_of(store, [stored, *broken, stored + b"\0", stored], entity)
    right = asked_of(store, [stored], entity)
    assert rows.errors == len(stored) + 1
    assert rows.provenance.tolist() == [Provenance.FRESH, *[Provenance.DEFAULT] * (len(stored) + 1), Provenance.FRESH]
    assert rows.degraded is not None
    assert set(rows.degraded[1:-1].tolist()) == {Degraded.STORE_ERROR}
    assert rows.degraded[[0, -1]].tolist() == [0, 0]
    nothing = asked_of(store, [None], entity)
    for name in rows.data.dtype.names or ():
        if not name.startswith("$"):
            assert rows.data[name][[0, -1]].tolist() == right.data[name].tolist() * 2
            assert set(rows.data[name][1:-1].tolist()) == set(nothing.data[name].tolist())


def test_state_of_another_entity_is_refused() -> None:
    """A value that came back under a wrong key is nobody's."""
    store = filled(False)
    rows = asked_of(store, [state_of(store)], 1)
    assert rows.errors == 1
    assert rows.provenance.tolist() == [Provenance.DEFAULT]


def test_state_of_another_schema_or_layout_is_refused() -> None:
    """A changed view begins anew, and a packed row is no state."""
    store, other = filled(False), Store(view_of(payments("10m"), n=count(window="5m")))
    stored = state_of(store)
    assert asked_of(other, [stored], 0).errors == 1
    assert asked_of(store, [bytes([1]) + stored[1:], b"", b"x" * 500], 0).errors == 3


def test_state_that_cannot_be_read_begins_anew() -> None:
    """The next event of its entity is counted from nothing, and the entity is served again."""
    store = filled(False)
    (key,) = (key for key in store.rows if key.startswith(b"{customer"))
    store.rows[key] = store.rows[key][:-1]
    store.push(Happened(BASE_NS + 3_600 * S, 10**6, 0, 100, "a"))
    rows = store.ask(Happened(BASE_NS + 3_601 * S, 0, 0, 0, ""))
    assert rows.column("ever").tolist() == [1]
    assert rows.provenance.tolist() == [Provenance.FRESH]


@pytest.mark.parametrize("place", ["tiles", "events", "id_bytes", "values"])
def test_state_whose_counts_are_wrong_is_refused(place: str) -> None:
    """Counts that do not fit its length, however large, are never followed."""
    store = filled(True)
    stored = state_of(store)
    head: Any = np.frombuffer(bytearray(stored), store.codec.states._head, 1)
    for wrong in (0, 1, 2**32 - 1):
        changed = head.copy()
        changed[place] = wrong
        broken = changed.tobytes() + stored[head.itemsize :]
        assert broken == stored or asked_of(store, [broken], "c-0").errors == 1


def test_state_whose_ids_cannot_be_all_there_is_refused() -> None:
    """Its length is right, but some bytes of the ids are said to be events."""
    store = filled(True)
    stored = state_of(store)
    layout = store.codec.states
    head: Any = np.frombuffer(bytearray(stored), layout._head, 1).copy()
    moved = head["id_bytes"][0] // layout._event.itemsize
    assert moved
    head["events"] += moved
    head["id_bytes"] -= moved * layout._event.itemsize
    assert asked_of(store, [head.tobytes() + stored[head.itemsize :]], "c-0").errors == 1


def test_tile_older_than_what_seconds_hold_is_as_old_as_they_hold() -> None:
    """A lifetime of over 136 years keeps its first tile before all others, out of the window of a year."""
    store = Store(view_of(payments("10m"), n=count(window="lifetime"), y=count(window="365d")))
    begin_ns = BASE_NS - (2**32 + 100 * DAY_S) * S
    events = [Happened(begin_ns, -1, 1, 100, "a"), *(Happened(BASE_NS + k * 700 * S, k, 1, 100, "a") for k in range(9))]
    for event in events:
        store.push(event)
    rows = store.ask(Happened(BASE_NS + 9_000 * S, 99, 1, 0, ""))
    assert rows.column("n").tolist() == [10]
    assert rows.column("y").tolist() == [9]


def test_state_is_small() -> None:
    """A month of two payments a day, and a value each: what the design promises of a customer, and 9 bytes a value."""
    columns: dict[str, Any] = {}
    for window in ("5m", "1h", "1d", "7d", "30d"):
        columns |= {f"n_{window}": count(window=window), f"m_{window}": mean("amount", window=window, decimals=2)}
    events = random_events(3, 60, DAY_S / 2, entities=1)
    sizes = []
    for more in ({}, {"kinds": distinct("amount", window="30d")}):
        store = Store(view_of(payments("10m"), **columns, **more))
        for event in events:
            store.push(event)
        sizes.append(len(state_of(store)))
    assert sizes[0] <= 1_024
    assert sizes[1] - sizes[0] <= 9 * 60 + 4 + 4 * 5
