"""A ranking: one request names many items, and each of them is a row."""

from typing import Annotated, Literal

import numpy as np

import tailrace as tr


class Ranking(tr.Request):
    user_id: int
    item_ids: Annotated[list[int], tr.Field(max_length=500)]
    budget: float = 100.0


class Ranked(tr.Response):
    user_id: int
    item_ids: list[int]
    score: list[float]
    decision: list[Literal["hide", "show"]]
    popularity: list[float]
    affinity: list[float]
    reasons: list[list[str]]


class UserProfile(tr.BatchFeatureView):
    entity = tr.Entity("user", key="user_id")
    source = tr.Parquet("users.parquet")
    affinity: float = 0.5


class ItemProfile(tr.BatchFeatureView):
    entity = tr.Entity("item", key="item_ids")
    source = tr.Parquet("items.parquet")
    popularity: float = 0.0
    price: float = 10.0


@tr.on_demand
def price_fit(request: Ranking, item: ItemProfile) -> np.ndarray:
    """Whether the user can pay for it."""
    return item.price <= request.budget


ranking = tr.Pipeline(
    name="ranking",
    request=Ranking,
    response=Ranked,
    features=[UserProfile, ItemProfile, Ranking.budget, price_fit],
    model=tr.Model("ranking"),
    decision=tr.bands("score", hide=0.0, show=0.5),
    rules=[tr.Rule("sold_out", when=lambda request: request.item_ids % 10 == 9, then="hide")],
    budget=tr.Budget("50ms"),
    rows_max=300,
)
