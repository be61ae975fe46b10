from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.batch import Degraded
from tailrace.inference.declaration import Constant
from tailrace.inference.scorer import CALLS_MAX, FAILURE_CHARACTERS_MAX, Scorer


class Doubler:
    """A model that doubles its input, raises for a batch that holds -1, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def predict(self, feeds: Any) -> Any:
        """Return twice the first column."""
        self.calls += 1
        values = feeds["x"][:, 0]
        if (values == -1).any():
            raise RuntimeError("bad index")
        return values * 2


def feeds_of(*values: float) -> dict[str, Any]:
    """Return one column of values."""
    return {"x": np.array(values, np.float32).reshape(-1, 1)}


def test_scores_of_a_good_batch_are_the_models_own() -> None:
    """Nothing is degraded and the model is asked once."""
    model = Doubler()
    scored = Scorer(model, Constant(9.0)).score(feeds_of(1, 2, 3), 3)
    assert scored.scores.tolist() == [2, 4, 6]
    assert scored.degraded is None
    assert scored.failed is None
    assert model.calls == 1


@given(st.lists(st.sampled_from([-1.0, 1.0, 2.0, float("nan"), float("inf")]), min_size=1, max_size=40))
def test_failing_rows_never_fail_their_neighbours(values: list[float]) -> None:
    """Exactly the rows that raise or score NaN or infinity take the constant; every other keeps its own score."""
    scored = Scorer(Doubler(), Constant(9.0)).score(feeds_of(*values), len(values))
    bad = [value == -1 or not np.isfinite(value) for value in values]
    assert scored.failed is None
    assert scored.scores.tolist() == [9.0 if is_bad else value * 2 for value, is_bad in zip(values, bad, strict=True)]
    degraded = [0] * len(values) if scored.degraded is None else scored.degraded.tolist()
    assert degraded == [int(Degraded.MODEL_ERROR) if is_bad else 0 for is_bad in bad]


def test_isolating_one_row_takes_few_calls() -> None:
    """One bad row of 256 is found by halving."""
    model = Doubler()
    values = [1.0] * 256
    values[100] = -1
    scored = Scorer(model, Constant(0.0)).score(feeds_of(*values), 256)
    assert scored.degraded is not None
    assert np.flatnonzero(scored.degraded).tolist() == [100]
    assert model.calls == 17


def test_isolating_many_rows_is_bounded() -> None:
    """A batch of nothing but bad rows costs a bounded number of calls, and every row its fallback."""
    model = Doubler()
    scored = Scorer(model, Constant(0.25)).score(feeds_of(*[-1.0] * 2000), 2000)
    assert model.calls <= CALLS_MAX
    assert (scored.scores == 0.25).all()
    assert scored.degraded is not None
    assert scored.degraded.all()


def test_isolating_stops_at_the_deadline() -> None:
    """No call is begun after the deadline; rows not reached are told as timed out."""

    class Late:
        def now_ns(self) -> int:
            """Return a time behind any deadline."""
            return 10

        wall_ns = now_ns

    model = Doubler()
    scored = Scorer(model, Constant(0.5), clock=Late()).score(feeds_of(1, -1), 2, deadline_ns=10)
    assert model.calls == 1
    assert scored.scores.tolist() == [0.5, 0.5]
    assert scored.degraded is not None
    assert scored.degraded.tolist() == [int(Degraded.MODEL_TIMEOUT)] * 2


def test_failing_row_without_fallback_is_marked_failed() -> None:
    """Without a fallback the row has no score, and says so."""
    scored = Scorer(Doubler()).score(feeds_of(1, -1, float("nan"), 4), 4)
    assert scored.failed is not None
    assert scored.failed.tolist() == [False, True, True, False]
    assert scored.scores[[0, 3]].tolist() == [2, 8]
    assert np.isnan(scored.scores[[1, 2]]).all()


def test_second_model_scores_only_the_failing_rows() -> None:
    """A fallback model takes the rows that failed; what fails there too takes its own constant."""

    class Half:
        def predict(self, feeds: Any) -> Any:
            """Return half of the second column."""
            return feeds["y"][:, 0] / 2

    feeds = feeds_of(1, -1, -1) | {"y": np.array([[8.0], [10.0], [np.nan]])}
    plain = Scorer(Doubler(), Half()).score(feeds, 3)
    assert plain.scores[:2].tolist() == [2, 5]
    assert plain.failed is not None
    assert plain.failed.tolist() == [False, False, True]
    chained = Scorer(Doubler(), Scorer(Half(), Constant(0.5))).score(feeds, 3)
    assert chained.scores.tolist() == [2, 5, 0.5]
    assert chained.failed is None


def test_rows_of_a_matrix_of_classes_fail_whole() -> None:
    """A NaN in one class degrades its row alone."""

    class Classes:
        def predict(self, feeds: Any) -> Any:
            """Return two classes a row."""
            return np.column_stack([feeds["x"][:, 0], np.log(feeds["x"][:, 0])])

    with np.errstate(invalid="ignore"):
        scored = Scorer(Classes(), Constant([0.25, 0.75]), classes=2).score(feeds_of(1, -2), 2)
    assert scored.scores.tolist() == [[1, 0], [0.25, 0.75]]


class ThreeClasses(Doubler):
    """Gives x, 2x and 3x; raises for a batch that holds -1."""

    def predict(self, feeds: Any) -> Any:
        """Return three classes a row."""
        return super().predict(feeds)[:, np.newaxis] * [0.5, 1.0, 1.5]


ROW = [0.25, 0.125, 0.5]


def test_constant_row_of_classes_stands_in_each_failing_row() -> None:
    """As many failing rows as classes: each still gets the row, and its neighbours their own."""
    values = [-1.0, 1.0, -1.0, float("nan"), 2.0]
    scored = Scorer(ThreeClasses(), Constant(ROW), classes=3).score(feeds_of(*values), 5)
    assert scored.scores.tolist() == [ROW, [1, 2, 3], ROW, ROW, [2, 4, 6]]
    assert scored.failed is None
    assert scored.degraded is not None
    assert scored.degraded.tolist() == [int(Degraded.MODEL_ERROR) if value != abs(value) else 0 for value in values]


@pytest.mark.parametrize("rows", [1, 3, 4])
@pytest.mark.parametrize("reason", [Degraded.MODEL_TIMEOUT, Degraded.MODEL_ERROR])
def test_whole_batch_of_classes_can_fall_back(reason: Degraded, rows: int) -> None:
    """Every row is the constant's, by itself or behind a second model that fails too."""
    feeds = feeds_of(*[-1.0] * rows)
    second = Scorer(ThreeClasses(), Constant(ROW), classes=3)
    for fallback in (Constant(ROW), second):
        scored = Scorer(ThreeClasses(), fallback, classes=3).fall_back(feeds, rows, reason)
        assert scored.scores.tolist() == [ROW] * rows
        assert scored.failed is None
        assert scored.degraded is not None
        assert scored.degraded.tolist() == [int(reason)] * rows


def test_second_model_of_classes_scores_before_its_constant() -> None:
    """What the second model can score is its own; what it cannot is the constant's row."""

    class Second:
        def predict(self, feeds: Any) -> Any:
            """Return the second column for each class."""
            return np.repeat(feeds["y"], 3, axis=1)

    feeds = feeds_of(1, -1, -1) | {"y": np.array([[8.0], [10.0], [np.nan]])}
    second = Scorer(Second(), Constant(ROW), classes=3)
    scored = Scorer(ThreeClasses(), second, classes=3).score(feeds, 3)
    assert scored.scores.tolist() == [[1, 2, 3], [10, 10, 10], ROW]
    assert scored.failed is None


def test_model_that_drops_rows_is_not_believed() -> None:
    """Scores that are not one a row cannot be matched to rows: all take the fallback."""

    class Short:
        def predict(self, feeds: Any) -> Any:
            """Return one score too few."""
            return feeds["x"][1:, 0]

    scored = Scorer(Short(), Constant(0.5)).score(feeds_of(1, 2, 3), 3)
    assert scored.scores.tolist() == [0.5] * 3


def test_one_score_for_a_part_is_not_given_to_all_its_rows() -> None:
    """A part of the isolated batch is held to its rows too: one score is never stretched over neighbours."""

    class OneForMany(Doubler):
        def predict(self, feeds: Any) -> Any:
            """Return the first score alone."""
            return super().predict(feeds)[:1]

    scored = Scorer(OneForMany(), Constant(0.5)).score(feeds_of(3, 4, -1, 5), 4)
    assert scored.scores.tolist() == [0.5, 0.5, 0.5, 10]


@pytest.mark.parametrize("reason", [Degraded.MODEL_TIMEOUT, Degraded.MODEL_ERROR])
def test_whole_batch_can_fall_back(reason: Degraded) -> None:
    """A batch whose model call came too late is answered by the fallback, with the reason."""
    scored = Scorer(Doubler(), Constant(0.5)).fall_back(feeds_of(1, 2), 2, reason)
    assert scored.scores.tolist() == [0.5, 0.5]
    assert scored.degraded is not None
    assert scored.degraded.tolist() == [int(reason)] * 2


# NumPy tells of the overflow once a process; the row by row check behind it is what decides.
@pytest.mark.filterwarnings("ignore:overflow encountered in dot:RuntimeWarning")
def test_large_finite_scores_are_not_degraded() -> None:
    """A sum that overflows is no reason to drop scores that are finite, nor to ask again."""
    model = Doubler()
    scored = Scorer(model, Constant(0.5)).score(feeds_of(1e38, 1e38, 1e38), 3)
    assert scored.degraded is None
    assert model.calls == 1
    assert scored.scores[0] == np.float32(2e38)


def test_scorer_keeps_why_its_model_failed_last() -> None:
    """What it raised, in a line of bounded length, and that it gave no number: a batch counts once, a good one not."""

    class Failing:
        def predict(self, feeds: Any) -> Any:
            """Raise for 1 and for 2, give NaN for 3."""
            if (feeds["x"] == 1).any():
                raise ValueError("no\nluck " + "!" * 10_000)
            if (feeds["x"] == 2).any():
                raise SilentError
            return np.where(feeds["x"][:, 0] == 3, np.nan, feeds["x"][:, 0])

    class SilentError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    scorer = Scorer(Failing(), Constant(0.5))
    scorer.score(feeds_of(5), 1)
    assert (scorer.failures, scorer.failure) == (0, "")
    scorer.score(feeds_of(1, 1, 5, 5), 4)
    assert scorer.failures == 1
    assert scorer.failure.startswith("ValueError: no luck !!!")
    assert len(scorer.failure) <= FAILURE_CHARACTERS_MAX
    scorer.score(feeds_of(2), 1)
    assert (scorer.failures, scorer.failure) == (2, "SilentError:")
    scorer.score(feeds_of(3, 5), 2)
    assert scorer.failures == 3
    assert "no finite numbers" in scorer.failure
