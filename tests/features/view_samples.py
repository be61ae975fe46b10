"""Views that several tests use, and how to run what never suspends."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from tailrace.features.batch_views import BatchFeatureView
from tailrace.features.rows import RowCodec
from tailrace.features.sources import Parquet
from tailrace.features.view_spec import Entity

Answer = TypeVar("Answer")
DAY_NS = 86_400 * 10**9
WALL_NS = 1_750_000_000 * 10**9


class Profile(BatchFeatureView):
    """Numbers only: what the fast path reads."""

    entity = Entity("customer", key="customer_id")
    source = Parquet("profile.parquet")
    max_staleness = "1d"
    amount: float = 1.5
    count: int = -1
    known: bool = True


class Address(BatchFeatureView):
    """Numbers and texts."""

    entity = Entity("terminal", key="terminal_id")
    source = Parquet("address.parquet")
    risk: float = 0.25
    country: str = "??"
    city: str = ""


def run_now(coroutine: Coroutine[Any, Any, Answer]) -> Answer:
    """Return what a coroutine that must not suspend returns."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    coroutine.close()
    raise AssertionError("it suspended")


def profile_rows(ids: list[Any], event_ns: int = WALL_NS) -> dict[bytes, bytes]:
    """Return packed rows of `Profile` whose values tell whose they are."""
    codec = RowCodec(Profile.spec)
    numbers = list(range(len(ids)))
    columns = {"amount": [each + 0.5 for each in numbers], "count": numbers, "known": [False] * len(ids)}
    return dict(zip(codec.keys(ids), codec.pack(ids, columns, event_ns, event_ns), strict=True))


def address_rows(ids: list[Any], event_ns: int = WALL_NS) -> dict[bytes, bytes]:
    """Return packed rows of `Address` whose values tell whose they are."""
    codec = RowCodec(Address.spec)
    columns = {
        "risk": [float(index) for index in range(len(ids))],
        "country": [f"country of {each}" for each in ids],
        "city": [f"cité of {each}" for each in ids],
    }
    return dict(zip(codec.keys(ids), codec.pack(ids, columns, event_ns, event_ns), strict=True))
