"""A ranking by vectors: a user's own and the one that the request brings, against that of each item."""

from typing import Annotated

import numpy as np

import tailrace as tr

WIDTH = 8

Vector = Annotated[list[float], tr.Field(min_length=WIDTH, max_length=WIDTH)]
Half = Annotated[list[np.float16], tr.Field(min_length=WIDTH, max_length=WIDTH)]


class Query(tr.Request):
    user_id: int
    item_ids: Annotated[list[int], tr.Field(max_length=50)]
    words: Vector


class Ranked(tr.Response):
    item_ids: list[int]
    score: list[float]


class UserVector(tr.BatchFeatureView):
    entity = tr.Entity("user", key="user_id")
    source = tr.Parquet("users.parquet")
    taste: Vector = [0.0] * WIDTH
    boost: float = 1.0


class ItemVector(tr.BatchFeatureView):
    entity = tr.Entity("item", key="item_ids")
    source = tr.Parquet("items.parquet")
    title: str = ""
    meaning: Half = [0.0] * WIDTH


@tr.on_demand
def likeness(request: Query, item: ItemVector) -> np.ndarray:
    """How near an item is to the words of the request."""
    return (request.words * item.meaning).sum(axis=1)


vectors = tr.Pipeline(
    name="vectors",
    request=Query,
    response=Ranked,
    features=[UserVector, ItemVector.meaning, Query.words, likeness],
    model=tr.Model("vectors"),
    budget=tr.Budget("50ms"),
    rows_max=50,
)
