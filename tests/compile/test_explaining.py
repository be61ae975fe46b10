"""Why a model is not explained: each says so itself, to those who check a pipeline and to those who call it."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

import tailrace as tr
from tailrace.compile.checking import check_pipeline
from tailrace.deadline import MonotonicClock
from tailrace.testing import TestClient

FAR = tr.RemoteModel(
    "far", url="http://localhost:9/v2/models/far", inputs=[tr.RemoteInput("x")], output="score",
    fallback=tr.Constant(0.5),
)  # fmt: skip


class Row(tr.Request):
    a: float
    channel: str = "web"


class Told(tr.Response):
    score: float
    explanation: dict[str, float] | None
    unexplained: str


class Halved:
    """Scores the half."""

    def predict(self, feeds: Any) -> np.ndarray:
        """Return half of each number."""
        return feeds["features"][:, 0] / 2


OWN = tr.PythonModel("own", Halved)


def pipeline_of(model: Any) -> tr.Pipeline:
    """Return a pipeline whose scores are explained where they can be."""
    return tr.Pipeline(
        name="told", request=Row, response=Told, features=[Row.a], model=model, budget=tr.Budget("1s"), explain=3
    )


@pytest.mark.parametrize(("model", "why"), [(OWN, "a Python class computes it"), (FAR, "it is computed elsewhere")])
def test_model_says_why_it_is_not_explained(model: Any, why: str) -> None:
    """A class of the user's is not computed elsewhere; `check` warns of each model that is asked."""
    pipeline = pipeline_of(tr.Route("route", {"web": model}, by=Row.channel, default=OWN if model is FAR else FAR))
    checked = asyncio.run(check_pipeline(pipeline, None, MonotonicClock()))
    checked.plan.close()
    warnings = [each for each in checked.warnings if each.startswith("explain")]
    assert sum(f"the model {model.name!r} cannot be explained: {why}" in each for each in warnings) == 1
    assert len(warnings) == 2
    with TestClient(pipeline_of(OWN)) as client:
        told = client.predict({"a": 3.0})
    assert told == {"score": 1.5, "explanation": None,
                    "unexplained": "this model cannot be explained: a Python class computes it"}  # fmt: skip
