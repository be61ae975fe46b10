from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.batch import Batch
from tailrace.postprocess.bands import Bands, bands, labels
from tailrace.postprocess.rules import Rule
from tailrace.postprocess.step import PostprocessStep
from tailrace.readers import ReadDecision, ReadScore

BANDS = bands("score", allow=0.0, review=0.6, block=0.9)


def batch_of(*scores: Any) -> Batch:
    """Return a batch as it stands after the model."""
    batch = Batch([], 0, 0)
    batch.rows = len(scores)
    batch.scores = np.array(scores, np.float64)
    return batch


def labels_of(batch: Batch, labels: Sequence[str] = BANDS.labels) -> list[str]:
    """Return the decision of each row, as it is told."""
    return list(ReadDecision(labels).read(batch))


def decided(step: PostprocessStep, *scores: Any, labels: Sequence[str] = BANDS.labels) -> list[str]:
    """Return the decisions for scores. labels: of the step."""
    batch = batch_of(*scores)
    step.run(batch)
    return labels_of(batch, labels)


def told(batch: Batch) -> list[list[str]]:
    """Return the reasons of each row."""
    return [list(reasons) for reasons in batch.reasons or []]


def test_band_begins_at_its_edge() -> None:
    """An edge belongs to the band that begins there; the first band reaches down without end."""
    step = PostprocessStep(BANDS, BANDS.labels, [])
    below = math.nextafter(0.9, 0)
    assert decided(step, -1e300, 0.0, 0.6, math.nextafter(0.6, 0), 0.9, below, 1e300) == [
        "allow", "allow", "review", "allow", "block", "review", "block",
    ]  # fmt: skip


def test_band_edge_holds_for_scores_of_a_model() -> None:
    """A float32 score is compared as the number that is told: 0.9f is below 0.9, 0.6f above 0.6."""
    batch = batch_of(0.0)
    batch.scores = np.array([0.9, 0.6], np.float32)
    PostprocessStep(BANDS, BANDS.labels, []).run(batch)
    assert batch.decisions is not None
    expected = [sum(float(score) >= edge for edge in (0.6, 0.9)) for score in batch.scores]
    assert batch.decisions.tolist() == expected == [1, 1]


@given(
    st.lists(st.floats(-10, 10), min_size=1, max_size=5, unique=True).map(sorted),
    st.lists(st.floats(-12, 12), max_size=20),
)
def test_bands_are_the_last_start_not_above(edges: list[float], scores: list[float]) -> None:
    """The sorted look-up gives what its definition says, at the edges too."""
    declared = bands("score", **{f"label{index}": edge for index, edge in enumerate(edges)})
    assert not declared.problems
    expected = [
        max([index for index, edge in enumerate(edges) if score >= edge], default=0) for score in scores + edges
    ]
    step = PostprocessStep(declared, declared.labels, [])
    found = decided(step, *scores, *edges, labels=declared.labels)
    assert found == [f"label{index}" for index in expected]


def test_nan_score_is_decided_without_an_error() -> None:
    """A row without a score is answered with an error later; its neighbours are not disturbed."""
    found = decided(PostprocessStep(BANDS, BANDS.labels, []), 0.1, math.nan, 0.95)
    assert (found[0], found[2]) == ("allow", "block")
    assert found[1] in BANDS.labels


@pytest.mark.parametrize(
    "starts", [{"a": 0.2, "b": 0.1}, {"a": 0.1, "b": 0.1}, {}, {"a": math.nan}, {"a": "0"}, {"a": True}]
)
def test_bands_with_a_mistake_keep_it(starts: dict[str, Any]) -> None:
    """Declaring never raises; the compiler tells."""
    declared = bands("score", **starts)
    assert isinstance(declared, Bands)
    assert len(declared.problems) == 1


def test_labels_of_many_classes_are_the_likeliest() -> None:
    """The probabilities stay for the response, and the score is the likeliest class's own."""
    batch = batch_of(0.0, 0.0)
    batch.scores = np.array([[0.2, 0.5, 0.3], [0.4, 0.3, 0.3]], np.float32)
    step = PostprocessStep(labels(), ("x", "y", "z"), [])
    step.run(batch)
    assert labels_of(batch, ("x", "y", "z")) == ["y", "x"]
    assert batch.scores.tolist() == pytest.approx([0.5, 0.4])
    assert batch.probabilities is not None
    assert batch.probabilities.shape == (2, 3)


def test_labels_of_two_classes_split_in_the_middle() -> None:
    """A classifier of two classes gives the second one's probability."""
    step = PostprocessStep(labels(), ("no", "yes"), [])
    assert decided(step, 0.49, 0.5, 1.0, labels=("no", "yes")) == ["no", "yes", "yes"]


def rules(*given: tuple[Any, str, int]) -> PostprocessStep:
    """Return a step with rules on the score: (threshold, then, priority), named r0, r1, and so on."""
    made = [
        (Rule(f"r{index}", lambda score, threshold=threshold: score > threshold, then, priority), [ReadScore()])
        for index, (threshold, then, priority) in enumerate(given)
    ]
    return PostprocessStep(BANDS, BANDS.labels, made)


def test_rule_holds_whatever_the_score() -> None:
    """Only the rows it holds for are changed, and they say why."""
    batch = batch_of(0.95, 0.05)
    step = rules((0.5, "allow", 0))
    step.run(batch)
    assert labels_of(batch) == ["allow", "allow"]
    assert told(batch) == [["r0"], []]


@pytest.mark.parametrize(
    ("given", "decision", "reasons"),
    [
        ([(0.1, "review", 0), (0.1, "block", 0)], "review", ["r0", "r1"]),
        ([(0.1, "review", 0), (0.1, "block", 5)], "block", ["r1", "r0"]),
        ([(0.1, "review", 1), (0.1, "block", -5), (0.1, "allow", 1)], "review", ["r0", "r2", "r1"]),
        ([(0.9, "review", 9), (0.1, "block", 0)], "block", ["r1"]),
    ],
)
def test_strongest_rule_wins_and_is_told_first(given: list[Any], decision: str, reasons: list[str]) -> None:
    """By priority, then in the order declared; the reasons stand in the same order."""
    batch = batch_of(0.5)
    step = rules(*given)
    step.run(batch)
    assert labels_of(batch) == [decision]
    assert told(batch) == [reasons]


def test_rule_of_one_truth_holds_for_all_rows() -> None:
    """A condition may be one bool: a switch."""
    switch = Rule("closed", lambda: True, "block", reason="OUT_OF_HOURS")
    batch = batch_of(0.1, 0.2)
    step = PostprocessStep(BANDS, BANDS.labels, [(switch, [])])
    step.run(batch)
    assert labels_of(batch) == ["block", "block"]
    assert told(batch) == [["OUT_OF_HOURS"]] * 2


def test_rows_without_a_held_rule_have_no_reasons() -> None:
    """Nothing is allocated where no rule speaks."""
    batch = batch_of(0.1)
    rules((0.5, "allow", 0)).run(batch)
    assert not batch.reasons
