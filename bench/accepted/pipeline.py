"""A light pipeline whose requests may be accepted; its results go to where the benchmark listens."""

import os
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

import tailrace as tr


class Order(tr.Request):
    """What is asked."""

    amount: float


class Score(tr.Response):
    """What is answered."""

    score: float


class Mean:
    """Scores the mean of what is known of a row."""

    def predict(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the means."""
        means: NDArray[Any] = feeds["features"].mean(axis=1)
        return means


order = tr.Pipeline(
    name="order",
    request=Order,
    response=Score,
    features=[Order.amount],
    model=tr.PythonModel("mean", Mean),
    budget=tr.Budget("50ms"),
    store="memory:",
    results=tr.Webhook(os.environ.get("BENCH_RESULTS_URL", "http://127.0.0.1:1/"), secret_env="BENCH_RESULTS_SECRET"),
)
