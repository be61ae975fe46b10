"""Stages that send each row to one of their members: splits, routes, cold starts."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from typing import Literal

import msgspec
import numpy as np
import pytest

import tailrace as tr
from inference.composition.members import Decision, Payment, run_array
from tailrace.batch import Batch, Degraded
from tailrace.inference.composition.shares import edges_of, positions, seed_of
from tailrace.testing import TestClient

Members = Callable[..., tr.Model]
ClientOf = Callable[..., TestClient]


class Profile(tr.BatchFeatureView):
    entity = tr.Entity("customer", key="customer_id")
    source = tr.Parquet("profiles.parquet")
    segment: str = "none"
    level: int = 0


class Channel(Enum):
    WEB = "w"
    SHOP = "s"


class Listed(tr.Request):
    amount: float
    channel: Literal["web", "shop"]
    kind: Channel = Channel.WEB


class Ranking(tr.Request):
    user_id: int
    amount: float
    item_ids: list[int]


class Ranked(tr.Response):
    score: list[float]


class Item(tr.BatchFeatureView):
    entity = tr.Entity("item", key="item_ids")
    source = tr.Parquet("items.parquet")
    price: float = 1.0


class User(tr.BatchFeatureView):
    entity = tr.Entity("user", key="user_id")
    source = tr.Parquet("users.parquet")
    level: int = 0


def run(client: TestClient, *requests: dict[str, object]) -> Batch:
    """Answer requests in one batch."""
    return client.run([msgspec.json.encode(request) for request in requests])


def branches(batch: Batch, name: str) -> list[int]:
    """Return which way each row went."""
    assert batch.branches is not None
    return batch.branches[name].tolist()


@pytest.mark.parametrize("is_text", [False, True])
def test_split_sends_each_id_its_way(members: Members, client_of_stage: ClientOf, is_text: bool) -> None:
    """By its hash, beside others as alone; each variant scores its own rows."""
    by, key = (Payment.channel, "channel") if is_text else (Payment.customer_id, "customer_id")
    stages = {"a": members("low"), "b": members("high")}
    stage = tr.Split("test", stages, by=by, shares={"a": 0.7, "b": 0.3}, salt="first")
    client = client_of_stage(stage)
    ids = [f"c{each}" if is_text else each for each in range(50)]
    found = positions(np.array(ids, object if is_text else np.int64), seed_of("first"))
    wanted = edges_of([0.7, 0.3]).searchsorted(found, side="right")
    batch = run(client, *({"amount": 10, key: each} for each in ids))
    assert branches(batch, "test") == wanted.tolist()
    np.testing.assert_allclose(batch.scores, np.where(wanted == 1, 0.6, 0.1), atol=1e-6)
    for each, own in zip(ids[:5], wanted.tolist(), strict=False):
        assert client.predict({"amount": 10, key: each})["score"] == pytest.approx(0.6 if own else 0.1)


def test_unknown_entities_have_a_model_of_their_own(members: Members, client_of_stage: ClientOf) -> None:
    """Those that the view does not know; a view that is no feature is read all the same."""
    client = client_of_stage(tr.ColdStart("cold", known=members("low"), unknown=members("high"), view=Profile))
    client.put(Profile, 7, level=3)
    batch = run(client, *({"amount": 10, "customer_id": each} for each in (7, 8)))
    assert batch.scores.tolist() == pytest.approx([0.1, 0.6])
    assert branches(batch, "cold") == [0, 1]


def test_entity_that_was_not_read_in_time_is_not_unknown(members: Members, client_of_stage: ClientOf) -> None:
    """Its customer may have been here for years: the defaults are degraded, and go to the model of the known."""
    client = client_of_stage(tr.ColdStart("cold", known=members("low"), unknown=members("high"), view=Profile))
    batch = run(client, {"amount": 10})
    batch.view_rows[0].mark_late(0)
    assert client.plan.inference.stage._branches(batch, None).tolist() == [0]  # type: ignore[attr-defined]


def test_cold_start_follows_each_item_or_the_whole_request(members: Members, client_of_stage: ClientOf) -> None:
    """Of a request that makes many rows an item may be unknown, or the user, for all of them."""
    low, high = members("low"), members("high")
    for view, wanted in ((Item, [0.1, 0.6, 0.1]), (User, [0.6, 0.6, 0.6])):
        stage = tr.ColdStart("cold", known=low, unknown=high, view=view)
        client = client_of_stage(stage, request=Ranking, response=Ranked, features=[Ranking.amount, Item, User],
                                 rules=[tr.Rule("one", lambda item, user: item.price > 9, "all")],
                                 decision=tr.bands("score", all=0.0))  # fmt: skip
        for item in (1, 3):
            client.put(Item, item, price=1.0)
        answer = client.predict({"user_id": 1, "amount": 10, "item_ids": [1, 2, 3]})
        assert answer["score"] == pytest.approx(wanted)


def test_route_goes_by_values(members: Members, client_of_stage: ClientOf) -> None:
    """Of a text with a default, of a Literal or an Enum without one, of a view's column."""
    low, high, third = members("low"), members("high"), tr.Model("third", path=members("low").path)
    stage = tr.Route("way", {"web": low, "shop": high}, by=Payment.channel, default=third)
    batch = run(client_of_stage(stage), *({"amount": 10, "channel": each} for each in ("shop", "web", "tv")))
    assert branches(batch, "way") == [1, 0, 2]
    assert batch.scores.tolist() == pytest.approx([0.6, 0.1, 0.1])
    routes = {Listed.channel: ("web", "shop"), Listed.kind: ("w", "s")}
    for by, (first, second) in routes.items():
        stage = tr.Route("way", {first: low, second: high}, by=by)
        client = client_of_stage(stage, request=Listed, features=[Listed.amount])
        request = {"amount": 10, "channel": "shop", "kind": "s"}
        assert client.predict(request)["score"] == pytest.approx(0.6)
    client = client_of_stage(tr.Route("way", {2: low}, by=Profile.level, default=high))
    client.put(Profile, 7, level=2)
    batch = run(client, *({"amount": 10, "customer_id": each} for each in (7, 8)))
    assert batch.scores.tolist() == pytest.approx([0.1, 0.6])


def test_fault_of_one_variant_stays_with_its_rows(members: Members, client_of_stage: ClientOf) -> None:
    """One that fails fails its own, one that falls back degrades its own."""
    routes = {"a": members("log"), "b": members("low"), "c": members("picky", fallback=tr.Constant(0.5))}
    batch = run(
        client_of_stage(tr.Route("way", routes, by=Payment.channel, default=members("high"))),
        *({"amount": amount, "channel": each} for amount, each in ((-1, "a"), (1, "b"), (20, "c"), (1, "a"), (1, "d"))),
    )
    np.testing.assert_allclose(batch.scores, [np.nan, 0.01, 0.5, 0.0, 0.51], atol=1e-6)
    assert list(batch.errors) == [0]
    assert batch.degraded is not None
    assert batch.degraded.tolist() == [Degraded.MODEL_ERROR, 0, Degraded.MODEL_ERROR, 0, 0]


def test_members_on_threads_run_side_by_side(members: Members, client_of_stage: ClientOf) -> None:
    """Each on its own thread: a variant that hangs is late alone, and the others' rows have their scores."""
    slow = members("slow")
    stages = {"a": slow, "b": tr.Model("slow2", path=slow.path), "c": members("low")}
    stage = tr.Route("way", stages, by=Payment.channel, default=members("high"))
    client = client_of_stage(stage, features=[Payment.amount, Payment.work])
    began = time.monotonic()
    batch = run_array(client, *({"amount": 10, "channel": each, "work": 200_000 * (each == "a")} for each in "abcd"))
    assert time.monotonic() - began < 0.35
    assert batch.scores[1:].tolist() == pytest.approx([0.9, 0.1, 0.6])
    assert batch.failed is not None
    assert batch.failed.tolist() == [True, False, False, False]


def test_light_batch_does_not_suspend(members: Members, client_of_stage: ClientOf) -> None:
    """As long as all members together take no longer than a model alone may; then one batch at once is enough."""
    stage = tr.Ensemble("two", [members("low"), members("high")])
    inference = client_of_stage(stage, response=Decision).plan.inference
    assert not inference.suspends(1)
    assert inference.in_flight_max == 1
    one, other = inference.stage.members
    rows = inference.stage.rows_inline_max
    assert rows <= min(one.rows_inline_max, other.rows_inline_max)
    assert one.cost_ns(rows) + other.cost_ns(rows) <= 10**6
    assert inference.rows_best >= 16
