"""Pipelines that differ in one number: how many windows a request asks for, or of how many entities.

Beside each with windows stands one that looks the same number of columns up, which a batch view has. A constant is the
model, so that the difference between two is their features'. `bench/cost_curves.py` makes what is under BUILD.
"""

from datetime import datetime
from typing import Any

import tailrace as tr

BUILD = "../../build/bench/curved"
WINDOWS = (1, 5, 10, 20, 50)
WINDOWS_OF_MANY = 5
SHORTEST_S, LONGEST_S = 300, 30 * 86_400
BUDGET = tr.Budget("1s")


class Payment(tr.Request):
    """A card payment: an event."""

    number: int
    customer: int
    amount: float
    time: datetime


class One(tr.Request):
    """A question of one customer."""

    customer: int
    time: datetime


class Many(tr.Request):
    """A question of some customers, each of whom is a row."""

    customer: list[int]
    time: datetime


class OneTold(tr.Response):
    """Its answer."""

    score: float


class ManyTold(tr.Response):
    """Their answers."""

    score: list[float]


customer = tr.Entity("customer", key="customer")
payments = tr.Stream("payments", schema=Payment, time="time", id="number")


def lengths_s(count: int) -> list[int]:
    """Return so many lengths of windows, each longer by the same factor: a single one is the longest."""
    return [round(LONGEST_S * (SHORTEST_S / LONGEST_S) ** (place / max(count - 1, 1))) for place in range(count)]


def windows(count: int) -> type[tr.StreamFeatureView]:
    """Return a view of so many windows."""
    columns: dict[str, Any] = {f"count_{length_s}s": tr.count(window=f"{length_s}s") for length_s in lengths_s(count)}
    body = {"entity": customer, "stream": payments, "__annotations__": dict.fromkeys(columns, int)}
    return type(f"Windows{count}", (tr.StreamFeatureView,), {**body, **columns, "__module__": __name__})


def columns(count: int) -> type[tr.BatchFeatureView]:
    """Return a view of so many finished columns."""
    names = {f"count_{place}": 0 for place in range(count)}
    body = {"entity": customer, "source": tr.Parquet(f"{BUILD}/customers.parquet")}
    body |= {"__annotations__": dict.fromkeys(names, int), "__module__": __name__}
    return type(f"Columns{count}", (tr.BatchFeatureView,), {**body, **names})


def pipeline(name: str, view: Any, *, many: bool = False) -> tr.Pipeline:
    """Return a pipeline of one view."""
    return tr.Pipeline(
        name=name, request=Many if many else One, response=ManyTold if many else OneTold, features=[view],
        model=tr.Model("constant", path=f"{BUILD}/{view.__name__}"), budget=BUDGET, store=f"lmdb:{BUILD}/store",
        time="time",
    )  # fmt: skip


VIEWS = {count: (windows(count), columns(count)) for count in WINDOWS}

(stream_1, stream_5, stream_10, stream_20, stream_50) = (
    pipeline(f"stream_{count}", VIEWS[count][0]) for count in WINDOWS
)
(batch_1, batch_5, batch_10, batch_20, batch_50) = (pipeline(f"batch_{count}", VIEWS[count][1]) for count in WINDOWS)
stream_many, batch_many = (
    pipeline(f"{kind}_many", view, many=True)
    for kind, view in zip(("stream", "batch"), VIEWS[WINDOWS_OF_MANY], strict=True)
)
