from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from math import isnan
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tailrace as tr
from tailrace.errors import CompileError
from tailrace.pipeline import Pipeline
from tailrace.response.best_rows import best_places
from tailrace.testing import TestClient

PipelineOf = Callable[[str], Pipeline]
SCORES = st.lists(st.sampled_from([0.0, -0.0, 0.25, 0.5, 1.0, -3.0, float("nan"), float("inf")]), max_size=40)


class Limited(tr.Request):
    user_id: int
    item_ids: Annotated[list[int], tr.Field(max_length=500)]
    budget: float = 100.0
    limit: int = 2


class Cut(tr.Response):
    item_ids: list[int]
    score: list[float]
    reasons: list[list[str]]
    user_id: int
    limit: int


@given(SCORES, st.integers(-1, 45))
def test_best_places_are_those_of_a_stable_sort(scores: list[float], top: int) -> None:
    """The highest first, equal ones in their order, no number behind all."""
    numbers = [place for place, score in enumerate(scores) if not isnan(score)]
    order = sorted(numbers, key=lambda place: -scores[place])
    order += [place for place, score in enumerate(scores) if isnan(score)]
    assert best_places(np.array(scores), top).tolist() == order[: max(top, 0)]


def client_of(ranking: Pipeline, top: Any) -> TestClient:
    """Return the client of a ranking that is cut; item 10 · n + 9 is sold out, and an item's popularity is its id."""
    features = [each if each is not ranking.request.budget else Limited.budget for each in ranking.features[:3]]
    view = ranking.features[1]
    client = TestClient(replace(ranking, request=Limited, response=Cut, top=top, features=[*features, PRICE_FIT]))
    for item in range(1, 40):
        client.put(view, item, popularity=item / 100, price=10.0)
    return client


@tr.on_demand
def price_fit(request: Limited) -> np.ndarray:
    """Return what the model of the ranking wants here."""
    return request.budget > 0


PRICE_FIT = price_fit


def test_lists_are_cut_to_the_best_in_order(pipeline_of: PipelineOf) -> None:
    """All lists of a row alike; a field of the request is as it was sent; of few items all come."""
    with client_of(pipeline_of("ranking"), 3) as client:
        answer = client.predict({"user_id": 7, "item_ids": [3, 39, 12, 20, 5]})
        assert answer["item_ids"] == [39, 20, 12]
        assert answer["score"] == sorted(answer["score"], reverse=True)
        assert answer["reasons"] == [["sold_out"], [], []]
        assert (answer["user_id"], answer["limit"]) == (7, 2)
        one, none = client.predict([{"user_id": 7, "item_ids": [4]}, {"user_id": 7, "item_ids": []}])
        assert (one["item_ids"], none["item_ids"], none["score"]) == ([4], [], [])
        assert client.predict([]) == []


def test_request_says_how_many_it_wants(pipeline_of: PipelineOf) -> None:
    """Each of a batch for itself; none, and fewer, are none."""
    with client_of(pipeline_of("ranking"), Limited.limit) as client:
        requests = [{"user_id": 1, "item_ids": [1, 2, 3], "limit": limit} for limit in (1, 0, -1, 9)]
        batch = client.run([json.dumps(request).encode() for request in requests])
        items = [json.loads(body)["item_ids"] for body in batch.bodies]
    assert items == [[3], [], [], [3, 2, 1]]


@pytest.mark.parametrize(
    ("name", "top", "said"),
    [
        ("payment", 3, "a request is one row"),
        ("ranking", 0, "0 rows are no answer"),
        ("ranking", Limited.limit, "is no field of this request"),
        ("ranking", "limit", "top=20, or top=Ranking.limit"),
    ],
)
def test_top_that_cuts_nothing_is_told(pipeline_of: PipelineOf, name: str, top: Any, said: str) -> None:
    """When the pipeline is compiled, beside all other mistakes."""
    with pytest.raises(CompileError, match=said):
        TestClient(replace(pipeline_of(name), top=top))
