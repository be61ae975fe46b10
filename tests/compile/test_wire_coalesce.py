"""Requests may be compared only by all that their answers depend on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tailrace as tr
from tailrace.compile.compiler import compile_plan
from tailrace.errors import CompileError
from tailrace.features.stores.memory import MemoryStore


class Ask(tr.Request):
    user_id: int
    item_ids: list[int]
    price: float = 0.0
    channel: str = "web"
    limit: int = 10
    explain: int = 0
    time: float = 0.0
    trace: str = ""


class Told(tr.Response):
    score: list[float]
    trace: str


class User(tr.BatchFeatureView):
    entity = tr.Entity("user", key="user_id")
    source = tr.Parquet("users.parquet")
    age: float = 30.0


class Item(tr.BatchFeatureView):
    entity = tr.Entity("item", key="item_ids")
    source = tr.Parquet("items.parquet")
    price: float = 1.0


class Summed:
    """Scores the sum of the features."""

    def predict(self, feeds: Any) -> np.ndarray:
        """Return the sums."""
        return feeds["features"].sum(axis=1)


@tr.on_demand
def price_share(request: Ask, item: Item) -> np.ndarray:
    """Read the price."""
    return item.price / (1.0 + request.price)


SUMMED = tr.PythonModel("summed", Summed)
ITEMS = (Ask.user_id, Ask.item_ids)


def problems_of(*on: Any, ttl: str | None = None, **more: Any) -> list[str]:
    """Return what is wrong with coalescing on some fields."""
    declared: dict[str, Any] = {
        "name": "ranking", "request": Ask, "response": Told, "features": [User, Item], "model": SUMMED,
        "budget": tr.Budget("50ms"), "coalesce": tr.Coalesce(on=list(on) or None, ttl=ttl),
    }  # fmt: skip
    try:
        compile_plan(tr.Pipeline(**(declared | more)), MemoryStore()).close()
    except CompileError as error:
        return [str(problem) for problem in error.problems]
    return []


def test_fields_that_are_only_sent_back_may_be_left_out() -> None:
    """All that an answer depends on is enough, and all fields are."""
    assert problems_of(*ITEMS) == []
    assert problems_of() == []
    assert problems_of(*ITEMS, Ask.price, features=[User, Item, price_share]) == []


@pytest.mark.parametrize(
    ("on", "more", "told"),
    [
        ([Ask.user_id], {}, "the key of Item reads 'item_ids'"),
        (ITEMS, {"features": [User, Item, Ask.price]}, "the feature price reads 'price'"),
        (ITEMS, {"top": Ask.limit}, "top reads 'limit'"),
        (ITEMS, {"time": "time"}, "time reads 'time'"),
        (ITEMS, {"features": [User, Item, price_share]}, "there is no field 'price' among those"),
        (ITEMS, {"model": tr.Route("way", {"web": SUMMED}, by=Ask.channel, default=SUMMED)}, "the stage way reads"),
        (ITEMS, {"model": tr.Split("ab", {"a": SUMMED}, by=Ask.channel, shares={"a": 1.0})}, "the stage ab reads"),
        (
            ITEMS,
            {
                "decision": tr.bands("score", low=0.0, high=1.0),
                "rules": [tr.Rule("web", when=lambda request: request.channel == "web", then="low")],
            },
            "there is no field 'channel' among those",
        ),
        ([User.age], {}, "is no field of a request"),
    ],
    ids=["key", "feature", "top", "time", "function", "route", "split", "rule", "column"],
)
def test_field_that_an_answer_depends_on_is_compared(on: Any, more: dict[str, Any], told: str) -> None:
    """Whatever reads a field that is left out is named."""
    try:
        problems = problems_of(*on, **more)
    except ValueError as error:
        problems = [str(error)]
    assert any(told in problem for problem in problems), problems


def test_field_of_another_request_is_told() -> None:
    """A field that the request has not got cannot be compared."""

    class Other(tr.Request):
        user_id: int

    assert any("Other.user_id is not of this request" in problem for problem in problems_of(Other.user_id))


class Payment(tr.Request):
    transaction_id: int
    customer_id: int
    amount: float
    time: float
    note: str = ""


class Activity(tr.StreamFeatureView):
    entity = tr.Entity("customer", key="customer_id")
    stream = tr.Stream("payments", schema=Payment, time="time", id="transaction_id")
    spent_1h: float = tr.sum("amount", window="1h", include_current=True)


class Scored(tr.Response):
    score: float


def test_requests_that_are_events_are_shared_only_in_flight() -> None:
    """A kept answer would not see what the requests before it have counted; and the events' fields are compared."""
    told: dict[str, Any] = {
        "request": Payment, "response": Scored, "features": [Activity], "time": "time", "record_requests": True,
    }  # fmt: skip
    assert problems_of(**told) == []
    assert any("each request is an event" in problem for problem in problems_of(ttl="1s", **told))
    missing = problems_of(Payment.customer_id, **told)
    for name in ("transaction_id", "amount", "time"):
        assert any(f"reads {name!r}" in problem for problem in missing), missing
    assert not any("note" in problem for problem in missing)


@pytest.mark.parametrize(
    "arguments",
    [{"on": []}, {"on": "user_id"}, {"on": ["user_id"]}, {"ttl": "0s"}, {"ttl": "2h"}, {"ttl": "soon"},
     {"answers_max": 0}, {"bytes_max": -1}, {"answers_max": True}],
    ids=str,
)  # fmt: skip
def test_declaration_refuses_what_it_cannot_be(arguments: dict[str, Any]) -> None:
    """It says so where it is written."""
    with pytest.raises(ValueError, match=r"Coalesce|duration"):
        tr.Coalesce(**arguments)


def test_pipeline_refuses_another_kind() -> None:
    """A ttl alone is no declaration."""
    (problem,) = problems_of(coalesce="1s")
    assert "write coalesce=tr.Coalesce()" in problem
