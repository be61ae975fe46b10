"""Models that are classes of the user's: what they do wrong costs a row its score, a batch its time, and no more."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

import tailrace as tr
from tailrace.errors import CompileError, InferenceError
from tailrace.testing import TestClient


class Amounts(tr.Request):
    """A request of one row, or of several."""

    amount: float
    country: str = "DE"


class Score(tr.Response):
    """What it scores."""

    score: float


class Halved:
    """Scores the half of an amount; of some amounts it does what a model should not."""

    def predict(self, feeds: Mapping[str, Any]) -> Any:
        """Return half of each amount."""
        amounts = feeds["features"][:, 0]
        if (amounts == 13).any():
            raise ValueError("no luck")
        if (amounts == 17).any():
            return amounts[:-1]
        if (amounts == 19).any():
            return np.stack([amounts, amounts], 1)
        if (amounts == 23).any():
            return np.array(["much"] * len(amounts))
        return np.where(amounts == 7, np.nan, amounts / 2)


def pipeline_of(model: Any, *, budget: str = "1s", inputs: Any = None, fallback: Any = None) -> tr.Pipeline:
    """Return a pipeline of one Python model."""
    features = [Amounts.amount] if inputs is None else [Amounts.amount, Amounts.country]
    return tr.Pipeline(
        name="amounts", request=Amounts, response=Score, features=features,
        model=tr.PythonModel("halved", model, inputs=inputs, fallback=fallback), budget=tr.Budget(budget),
    )  # fmt: skip


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """Return a client of a pipeline that falls back to 99."""
    with TestClient(pipeline_of(Halved, fallback=tr.Constant(99.0))) as client:
        yield client


def scores_of(client: TestClient, amounts: list[float]) -> list[float]:
    """Return the scores of rows that are one batch."""
    return [answer["score"] for answer in client.predict([{"amount": amount} for amount in amounts])]


def test_class_scores_a_batch(client: TestClient) -> None:
    """An instance is made of the class, and fed with all features as one matrix."""
    assert scores_of(client, [1.0, 2.0, 3.0]) == [0.5, 1.0, 1.5]


@pytest.mark.parametrize("amount", [13.0, 7.0, 17.0, 19.0, 23.0], ids=["raises", "NaN", "a row less", "wide", "texts"])
def test_row_that_it_fails_for_falls_back_alone(amount: float, client: TestClient) -> None:
    """A raise, NaN, too few scores, too many columns and what is no number: the neighbours have their own scores."""
    assert scores_of(client, [1.0, amount, 3.0]) == [0.5, 99.0, 1.5]


def test_row_that_it_fails_for_is_an_error_without_a_fallback() -> None:
    """As with any model."""
    with TestClient(pipeline_of(Halved())) as client:
        assert client.predict({"amount": 4.0})["score"] == 2.0
        with pytest.raises(InferenceError):
            client.predict({"amount": 13.0})


class Stuck:
    """Waits until it is let go, once it is told to."""

    blocks = True

    def __init__(self) -> None:
        self.is_stuck = False
        self.go = threading.Event()

    def predict(self, feeds: Mapping[str, Any]) -> Any:
        """Return half of each amount, at last."""
        if self.is_stuck and len(feeds["features"]) == 3:
            self.go.wait(30)
        return feeds["features"][:, 0] / 2


def test_model_that_hangs_at_one_size_is_answered_by_the_fallback() -> None:
    """It says that it blocks, so even one row runs on the thread; three rows hang, and are answered in time."""
    model = Stuck()
    with TestClient(pipeline_of(model, budget="300ms", fallback=tr.Constant(99.0))) as client:
        assert client.plan.inference.stage.rows_inline_max == 0
        assert scores_of(client, [1.0, 2.0]) == [0.5, 1.0]
        model.is_stuck = True
        assert scores_of(client, [1.0, 2.0, 3.0]) == [99.0] * 3
        model.go.set()


class Priced:
    """Scores by amount and country, each an input of its own."""

    def predict(self, feeds: Mapping[str, Any]) -> Any:
        """Return the amount, doubled in France."""
        return feeds["amount"][:, 0] * np.where(feeds["country"][:, 0] == "FR", 2.0, 1.0)


def test_inputs_of_several_types_are_fed_by_name() -> None:
    """A text is an array of objects; a number is of the type that the input declares."""
    inputs = [tr.TensorSpec("amount", "float64", ("amount",)), tr.TensorSpec("country", "string", ("country",))]
    with TestClient(pipeline_of(Priced, inputs=inputs)) as client:
        assert client.predict({"amount": 4.0, "country": "FR"})["score"] == 8.0
        assert client.predict({"amount": 4.0})["score"] == 4.0


class Wide:
    """Gives two scores a row."""

    def predict(self, feeds: Mapping[str, Any]) -> Any:
        """Return the matrix twice."""
        return np.repeat(feeds["features"][:, :1], 2, axis=1)


class Raising:
    """Raises always."""

    def predict(self, feeds: Mapping[str, Any]) -> Any:
        """Raise."""
        raise RuntimeError("not trained")


@pytest.mark.parametrize(("model", "words"), [(Wide, r"of shape \(3, 2\)"), (Raising, "not trained")])
def test_model_that_cannot_score_does_not_compile(model: Any, words: str) -> None:
    """What it does wrong with any rows is told before traffic, with what to do."""
    with pytest.raises(CompileError, match=words) as caught:
        TestClient(pipeline_of(model))
    assert "examples" in str(caught.value)


class Choosy:
    """Takes only what it gives as examples."""

    def predict(self, feeds: Mapping[str, Any]) -> Any:
        """Return the amounts, which must be 1."""
        if (feeds["features"] != 1).any():
            raise ValueError("another amount")
        return feeds["features"][:, 0]

    def examples(self, rows: int) -> Mapping[str, Any]:
        """Return rows of ones."""
        return {"features": np.ones((rows, 1), np.float32)}


def test_examples_take_the_place_of_random_numbers() -> None:
    """A model that most numbers are none of its own is measured on its own examples."""
    with TestClient(pipeline_of(Choosy)) as client:
        assert client.predict({"amount": 1.0})["score"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": object()}, "no `predict"),
        ({"model": Halved, "inputs": []}, "an input needs a type"),
        ({"model": Halved, "inputs": [tr.TensorSpec("x", "float8", ("a",))]}, "an input needs a type"),
        ({"model": Halved, "classes": ["a"]}, "one class"),
        ({"model": Halved, "fallback": 0.5}, r"write tr.Constant\(0.5\)"),
    ],
)
def test_declaration_that_cannot_be_is_told(arguments: dict[str, Any], words: str) -> None:
    """Each mistake by its own words."""
    with pytest.raises(ValueError, match=words):
        tr.PythonModel("halved", **arguments)
