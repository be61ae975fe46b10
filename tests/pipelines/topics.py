"""A classifier with named inputs of five types, two of them text."""

from datetime import datetime
from typing import Literal

import numpy as np

import tailrace as tr


class Story(tr.Request):
    country: Literal["DE", "FR", "IT", "other"]
    amount: float
    count: int
    vip: bool
    time: datetime


class Topic(tr.Response):
    decision: Literal["news", "sport", "other"]
    score: float
    probabilities: list[float]
    day_kind: str


@tr.on_demand
def day_kind(request: Story) -> np.ndarray:
    """Return a text: weekday or weekend."""
    day = request.time.astype("datetime64[D]").astype(np.int64)
    return np.where((day + 3) % 7 >= 5, "weekend", "weekday")


topics = tr.Pipeline(
    name="topics",
    request=Story,
    response=Topic,
    features=[Story.country, day_kind, Story.amount, Story.count, Story.vip],
    model=tr.Model("topics", fallback=tr.Model("topics", fallback=tr.Constant("other"))),
    decision=tr.labels("news", "sport", "other"),
    budget=tr.Budget("50ms"),
)
