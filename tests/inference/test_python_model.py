"""The guard around a class of the user's: its scores are of their own rows, whatever it keeps or raises."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import tailrace as tr
from tailrace.deadline import NS_PER_S, MonotonicClock
from tailrace.inference.batching import Batcher
from tailrace.inference.curve import CostCurve
from tailrace.inference.python_model import GuardedModel
from tailrace.inference.scorer import Scorer
from tailrace.inference.signature import Signature, TensorSpec
from tailrace.testing import TestClient

SIGNATURE = Signature((TensorSpec("x", "float32", ("a",)),), "scores", 0)


class Buffered:
    """Writes the scores of each batch over those of the one before."""

    def __init__(self) -> None:
        self.buffer = np.zeros(64)

    def predict(self, feeds: Mapping[str, Any]) -> Any:
        """Return a view of the buffer with the first column."""
        column = feeds["x"][:, 0]
        self.buffer[: len(column)] = column
        return self.buffer[: len(column)]


class SlowRows:
    """Costs that let a slice have one row."""

    curve = CostCurve((1, 2), (2_000_000, 4_000_000), (2_000_000, 4_000_000))


def test_buffer_that_is_used_again_does_not_change_scores() -> None:
    """One call in slices of a row, and two calls one after the other, each have their own rows' scores."""
    clock = MonotonicClock()

    async def scores() -> list[list[float]]:
        score = Scorer(GuardedModel(Buffered(), SIGNATURE)).score
        batcher = Batcher(score, SlowRows(), clock, slice_ns=2_500_000)
        due_ns = clock.now_ns() + 10 * NS_PER_S
        calls = ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0], [7.0])
        try:
            found = await asyncio.gather(
                *(batcher.score({"x": np.array(rows, np.float32)[:, None]}, len(rows), due_ns) for rows in calls)
            )
        finally:
            batcher.close()
        return [each.scores.tolist() for each in found]

    assert asyncio.run(scores()) == [[1, 2, 3, 4], [5, 6], [7]]


def test_feeds_that_are_handed_back_are_copied() -> None:
    """A model that returns a column of its input gives scores that the next batch's input is not written over."""
    feeds = {"x": np.ones((3, 1), np.float32)}

    class Same:
        """Gives back what it gets."""

        def predict(self, feeds: Mapping[str, Any]) -> Any:
            """Return the first column."""
            return feeds["x"][:, 0]

    assert not np.shares_memory(GuardedModel(Same(), SIGNATURE).predict(feeds), feeds["x"])


class PanicError(BaseException):
    """What a library in Rust raises, as far as Python knows."""


class Panicking:
    """Scores amounts; of one it panics, of another it exits."""

    blocks = False

    def predict(self, feeds: Mapping[str, Any]) -> Any:
        """Return the amounts."""
        amounts = feeds["features"][:, 0]
        if (amounts == 13).any():
            raise PanicError("called `Option::unwrap()` on a `None` value")
        if (amounts == 17).any():
            raise SystemExit(3)
        return amounts


class PanickingOnThread(Panicking):
    """The same, on the inference thread."""

    blocks = True


class Amount(tr.Request):
    """A request."""

    amount: float


class Score(tr.Response):
    """Its score."""

    score: float


@pytest.mark.parametrize("model", [Panicking, PanickingOnThread])
@pytest.mark.parametrize("amount", [13.0, 17.0], ids=["panic", "exit"])
def test_row_that_a_model_panics_for_is_alone(amount: float, model: Any) -> None:
    """One of eight rows takes the fallback, on the loop and on the thread, and the next batch is answered."""
    pipeline = tr.Pipeline(
        name="amounts", request=Amount, response=Score, features=[Amount.amount],
        model=tr.PythonModel("m", model, fallback=tr.Constant(-1.0)), budget=tr.Budget("2s"),
    )  # fmt: skip
    with TestClient(pipeline) as client:
        amounts = [1.0, 2.0, 3.0, amount, 5.0, 6.0, 7.0, 8.0]
        scores = [each["score"] for each in client.predict([{"amount": each} for each in amounts])]
        assert scores == [1.0, 2.0, 3.0, -1.0, 5.0, 6.0, 7.0, 8.0]
        assert client.predict({"amount": 9.0})["score"] == 9.0


def test_exit_is_an_error_of_the_model() -> None:
    """It is told as what any model does wrong, when a pipeline is compiled too; the process goes on."""

    class Exiting:
        """Exits always."""

        def predict(self, feeds: Mapping[str, Any]) -> Any:
            """Exit."""
            raise SystemExit(3)

    with pytest.raises(RuntimeError, match="SystemExit: 3"):
        GuardedModel(Exiting(), SIGNATURE).predict({"x": np.ones((1, 1), np.float32)})


def test_interrupt_is_no_error_of_a_row() -> None:
    """Whoever stops the process by hand stops it."""

    class Interrupted:
        """Is interrupted."""

        def predict(self, feeds: Mapping[str, Any]) -> Any:
            """Raise."""
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Scorer(GuardedModel(Interrupted(), SIGNATURE)).score({"x": np.ones((2, 1), np.float32)}, 2)
