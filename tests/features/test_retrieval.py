"""Retrieval: one fetch a batch, defaults when the store is late or gone, never another entity's values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from view_samples import WALL_NS, Address, Profile, address_rows, profile_rows, run_now

from tailrace.batch import Degraded, Provenance
from tailrace.errors import StoreError
from tailrace.features.retrieval import Retrieval
from tailrace.features.rows import RowCodec
from tailrace.features.stores.lmdb import LmdbStore
from tailrace.features.stores.lmdb_writer import LmdbWriter
from tailrace.features.stores.memory import MemoryStore
from tailrace.features.stores.protocol import OnlineStore
from tailrace.testing import ManualClock


class CountingStore(MemoryStore):
    """A store in memory that counts, and fails when told to."""

    def __init__(self, rows: dict[bytes, bytes], *, network: bool = False) -> None:
        super().__init__(rows)
        self.network = network  # type: ignore[misc]
        self.fetches = 0
        self.failure: Exception | None = None

    async def fetch(self, keys: Sequence[bytes], deadline_ns: int) -> list[bytes | None]:
        """Fail, or fetch."""
        self.fetches += 1
        if self.failure is not None:
            raise self.failure
        return await super().fetch(keys, deadline_ns)


def retrieval_of(store: OnlineStore, clock: ManualClock | None = None) -> Retrieval:
    """Return the retrieval of both sample views."""
    return Retrieval([RowCodec(Profile.spec), RowCodec(Address.spec)], store, clock or ManualClock(wall_ns=WALL_NS))


def test_retrieval_reads_all_views_in_one_fetch() -> None:
    """However many entities and views, the store is asked once a batch."""
    store = CountingStore(profile_rows([1, 2, 3]) | address_rows(["x", "y"]))
    profile, address = run_now(retrieval_of(store).read([[3, 9, 1], ["y"]], 0))
    assert store.fetches == 1
    assert profile.column("count").tolist() == [2, -1, 0]
    assert profile.provenance.tolist() == [Provenance.FRESH, Provenance.DEFAULT, Provenance.FRESH]
    assert address.column("country").tolist() == ["country of y"]


def test_retrieval_of_two_views_of_one_entity_keeps_them_apart() -> None:
    """The same list of ids for two views gives each its own rows."""
    rows = profile_rows([1, 2])
    retrieval = Retrieval([RowCodec(Profile.spec)] * 2, CountingStore(rows), ManualClock(wall_ns=WALL_NS))
    ids = [2, 1]
    one, other = run_now(retrieval.read([ids, ids], 0))
    assert one.column("count").tolist() == other.column("count").tolist() == [1, 0]


def test_retrieval_on_lmdb_never_suspends(tmp_path: Path) -> None:
    """The embedded store's path has no await that waits."""
    writer = LmdbWriter(tmp_path / "store")
    writer.exchange(profile_rows([1]).items(), ())
    writer.close()
    clock = ManualClock(wall_ns=WALL_NS)
    store = LmdbStore(tmp_path / "store", clock)
    run_now(store.open())
    profile, _ = run_now(retrieval_of(store, clock).read([[1], ["unknown"]], 0))
    store.close()
    assert profile.column("amount").tolist() == [0.5]


@pytest.mark.parametrize(
    ("failure", "why"),
    [
        (TimeoutError("late"), Degraded.STORE_TIMEOUT),
        (ConnectionError("gone"), Degraded.STORE_ERROR),
        (StoreError("broken"), Degraded.STORE_ERROR),
    ],
)
def test_retrieval_without_a_store_answers_defaults(failure: Exception, why: Degraded) -> None:
    """Late or gone, the store's rows are defaults that say so; the failure is kept for the log."""
    store = CountingStore(profile_rows([1]))
    store.failure = failure
    retrieval = retrieval_of(store)
    profile, address = run_now(retrieval.read([[1, 2], ["x"]], 0))
    assert profile.column("amount").tolist() == [1.5, 1.5]
    assert address.column("country").tolist() == ["??"]
    for rows in (profile, address):
        assert np.all(rows.provenance == Provenance.TIMEOUT)
        assert rows.degraded is not None
        assert np.all(rows.degraded == why)
    assert retrieval.failure is failure


def test_retrieval_leaves_a_failing_network_store_alone() -> None:
    """After three failures the store is only probed; its first answer brings the values back."""
    clock = ManualClock(wall_ns=WALL_NS)
    store = CountingStore(profile_rows([1]), network=True)
    store.failure = ConnectionError("gone")
    retrieval = retrieval_of(store, clock)
    for _ in range(10):
        profile, _ = run_now(retrieval.read([[1], []], 0))
        assert profile.provenance.tolist() == [Provenance.TIMEOUT]
    assert store.fetches == 3
    store.failure = None
    clock.advance(300)
    profile, _ = run_now(retrieval.read([[1], []], 0))
    assert profile.provenance.tolist() == [Provenance.FRESH]
    assert retrieval.breaker is not None
    assert not retrieval.breaker.is_open


def test_retrieval_has_no_breaker_for_an_embedded_store() -> None:
    """An embedded store's failure costs no time, and its return is seen at once."""
    store = CountingStore(profile_rows([1]))
    store.failure = StoreError("gone")
    retrieval = retrieval_of(store)
    for _ in range(10):
        run_now(retrieval.read([[1], []], 0))
    assert store.fetches == 10
    assert retrieval.breaker is None


def test_retrieval_does_not_blame_the_store_for_a_caller_in_a_hurry() -> None:
    """Calls with too little time for any store get their defaults, and leave the breaker shut for all others."""
    clock = ManualClock(wall_ns=WALL_NS)
    store = CountingStore(profile_rows([1]), network=True)
    codecs = [RowCodec(Profile.spec), RowCodec(Address.spec)]
    retrieval = Retrieval(codecs, store, clock, fair_ns=5_000_000)
    assert retrieval.breaker is not None
    store.failure = TimeoutError("no time left")
    for _ in range(10):
        run_now(retrieval.read([[1], ["x"]], clock.now_ns() + 4_000_000))
    assert not retrieval.breaker.is_open
    for _ in range(3):
        run_now(retrieval.read([[1], ["x"]], clock.now_ns() + 5_000_000))
    assert retrieval.breaker.is_open


def test_retrieval_of_no_ids_asks_nothing_and_proves_nothing() -> None:
    """An empty batch is answered, and is no sign that a failing store is well again."""
    clock = ManualClock(wall_ns=WALL_NS)
    store = CountingStore(profile_rows([1]), network=True)
    store.failure = ConnectionError("gone")
    retrieval = retrieval_of(store, clock)
    for _ in range(3):
        run_now(retrieval.read([[1], []], 0))
    clock.advance(1_000)
    profile, address = run_now(retrieval.read([[], []], 0))
    assert (len(profile), len(address), store.fetches) == (0, 0, 3)
    assert retrieval.breaker is not None
    assert retrieval.breaker.is_open


class SetClock(ManualClock):
    """A clock whose wall time is set by hand, apart from the monotonic one."""

    off_s: float = 0.0

    def wall_ns(self) -> int:
        """Return nanoseconds since the epoch."""
        return super().wall_ns() + int(self.off_s * 10**9)


def test_retrieval_serves_the_same_values_by_a_clock_that_jumps() -> None:
    """An hour ahead, rows that are nearly too old are called stale; behind, even rows of its future are served."""
    clock = SetClock(wall_ns=WALL_NS)
    old, new = profile_rows([1, 2], WALL_NS - int(23.5 * 3_600 * 10**9)), profile_rows([3, 4], WALL_NS)
    store = CountingStore(old | new, network=True)
    retrieval = retrieval_of(store, clock)
    for off_s, is_stale in ((0, False), (3_600, True), (-3_600, False), (0, False)):
        clock.off_s = off_s
        profile, _ = run_now(retrieval.read([[1, 2, 3, 4], []], 0))
        assert profile.column("count").tolist() == [0, 1, 0, 1]
        assert (profile.provenance == Provenance.STALE).tolist() == [is_stale, is_stale, False, False]
    assert store.fetches == 4
    assert retrieval.breaker is not None
    assert not retrieval.breaker.is_open
