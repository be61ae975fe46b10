"""Stream views that several tests use, and a store of their states that is asked as serving asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from read_rule import EXACT, Asked, Happened, answer

from tailrace.features import aggregates
from tailrace.features.events import Events
from tailrace.features.stores.memory import MemoryWriter
from tailrace.features.streams import Stream, StreamFeatureView
from tailrace.features.updates import Fate
from tailrace.features.view_rows import ViewRows
from tailrace.features.view_spec import Entity
from tailrace.ingest.applier import Applier
from tailrace.ingest.decoded import DecodedEvents
from tailrace.request.schema import Request
from tailrace.testing import ManualClock

DAY_S = 86_400
S = 10**9
BASE_NS = 1_533_081_600 * S
"""2018-08-01."""


class Payment(Request):
    payment_id: int
    customer_id: int
    amount: float
    channel: str
    time: float


class TextPayment(Request):
    payment_id: str
    customer_id: str
    amount: float
    channel: str
    time: float


customer = Entity("customer", key="customer_id")
KINDS = ("count", "sum", "mean", "min", "max", "stddev", "last", "first", "since_last", "distinct")
WINDOWS = {"1s": 1, "90s": 90, "5m": 300, "1h": 3_600, "30d": 30 * DAY_S, "365d": 365 * DAY_S, "lifetime": None}
WHERE = "amount > 3 and channel != 'b'"


def is_chosen(event: Happened) -> bool:
    """Say what `WHERE` says."""
    return event.cents > 300 and event.channel != "b"


def columns() -> dict[str, tuple[Any, Asked]]:
    """Return columns of every kind of aggregate and window, each as it is declared and as the read rule has it."""
    found = {}
    for number, (kind, window) in enumerate((kind, window) for kind in KINDS for window in WINDOWS):
        delay_s = (0, 0, 30)[number % 3]
        has_where = number % 4 == 1
        has_current = number % 5 == 2 and kind != "since_last" and not delay_s
        of_channel = kind == "distinct" and number % 2 == 0
        options: dict[str, Any] = {"window": window, "where": WHERE if has_where else None}
        options["delay"] = f"{delay_s}s" if delay_s else None
        if kind != "since_last":
            options["include_current"] = has_current
        if kind in ("sum", "mean"):
            options["decimals"] = 2
        value = () if kind in ("count", "since_last") else ("channel" if of_channel else "amount",)
        declare = getattr(aggregates, f"{kind}_" if kind in ("sum", "min", "max") else kind)
        asked = Asked(kind, WINDOWS[window], delay_s, is_chosen if has_where else None, has_current, of_channel)
        found[f"{kind}_{window}"] = (declare(*value, **options), asked)
    return found


COLUMNS = columns()


def payments(lateness: str, *, text: bool = False) -> Stream:
    """Return a stream of payments."""
    schema = TextPayment if text else Payment
    return Stream("payments", schema=schema, time="time", id="payment_id", lateness=lateness)


def view_of(stream: Stream, name: str = "Activity", **declared: Any) -> type[StreamFeatureView]:
    """Return a view of a stream; its columns are those given, else all of `COLUMNS`."""
    found = declared or {column: each[0] for column, each in COLUMNS.items()}
    kinds = {column: int if each.kind in ("count", "distinct") else float for column, each in found.items()}
    view = type(name, (StreamFeatureView,), {"entity": customer, "stream": stream, "__annotations__": kinds, **found})
    assert not view.spec.problems, view.spec.problems  # type: ignore[attr-defined]
    return view


class Store:
    """The states of one view, counted in as ingest does, and asked as serving does."""

    def __init__(self, view: type[StreamFeatureView]) -> None:
        self.view = view
        self.stream = view.spec.stream
        self.rows: dict[bytes, bytes] = {}
        self.codec = view.spec.codec()
        self.applier = Applier(
            self.stream, [view.spec], MemoryWriter(self.rows), ManualClock(wall_ns=6_000_000_000 * S)
        )
        self._decoded = DecodedEvents(self.stream)

    def events(self, happened: Sequence[Happened]) -> Events:
        """Return events as columns."""
        return self._decoded.columns([
            self.stream.schema(
                payment_id=each.event_id, customer_id=each.entity, amount=each.cents / 100, channel=each.channel,
                time=each.at_ns / S,
            )
            for each in happened
        ])  # fmt: skip

    def rows_of(self, *entities: int | str) -> list[bytes | None]:
        """Return what is stored of some entities."""
        return [self.rows.get(key) for key in self.codec.keys(entities)]

    def push(self, *happened: Happened) -> list[Fate]:
        """Count events in; return what became of each."""
        return list(map(Fate, self.applier.apply(self.events(happened)).tolist()))

    def ask(self, *asked: Happened) -> ViewRows:
        """Return the view's rows for some requests, each asked for its own entity at its own time."""
        ids = [each.entity for each in asked]
        return self.codec.unpack(ids, self.rows_of(*ids), 0, None, self.events(asked))

    def check(self, come: Sequence[Happened], *asked: Happened) -> None:
        """See that every column of each request is what the read rule makes of the events that have come."""
        rows = self.ask(*asked)
        for column in self.view.spec.aggregates:
            declared, rule = COLUMNS[column]
            expected = [answer(rule, come, now) for now in asked]
            values = [declared.default if each is None else each for each in expected]
            found = rows.column(column).tolist()
            if rule.kind not in EXACT:
                values = [pytest.approx(each, rel=1e-9, abs=1e-9) for each in values]
            assert found == values, column


def horizon_ns(store: Store) -> int:
    """Return from when on the store takes events."""
    return store.applier.watermark.at_ns - store.stream.lateness_ns


def random_events(
    seed: int, count: int, spacing_s: float, *, text: bool = False, begin_ns: int = BASE_NS, entities: int = 2
) -> list[Happened]:
    """Return events in order, some of them of one time, with ids in another order. Times are whole microseconds."""
    random = np.random.default_rng(seed)
    steps = random.exponential(spacing_s, count) * (random.random(count) > 0.25)
    times = begin_ns + np.rint(np.cumsum(steps) * 1e6).astype(np.int64) * 1_000
    numbers = random.permutation(10 * count)[:count].tolist()
    found = [
        Happened(
            at_ns=at_ns,
            event_id=f"p{number}é" if text else number - 5 * count,
            entity=f"c-{entity}" if text else entity,
            cents=cents,
            channel=channel,
        )
        for at_ns, number, entity, cents, channel in zip(
            times.tolist(),
            numbers,
            random.integers(entities, size=count).tolist(),
            random.integers(-200, 1_000, count).tolist(),
            random.choice(["a", "b", "c", ""], count).tolist(),
            strict=True,
        )
    ]
    return sorted(found, key=lambda event: event.order)
