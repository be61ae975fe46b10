"""Which of a model's numbers is the score."""

from __future__ import annotations

import pytest

from tailrace.inference.signature import Signature, TensorSpec

INPUTS = (TensorSpec("features", "float32", ("amount",)),)


@pytest.mark.parametrize(
    ("classes", "scores", "columns"), [((), 0, 0), (("no", "yes"), 0, 1), (("a", "b", "c"), None, None)]
)
def test_score_of_two_classes_is_the_second_ones(
    classes: tuple[str, ...], scores: int | None, columns: int | None
) -> None:
    """Where an output has a column a class; where it has the scores alone there is one for two classes."""
    assert Signature.of_scores(INPUTS, "score", classes).column == scores
    found = Signature.of_classes(INPUTS, "score", classes)
    assert (found.column, found.scores_width) == (columns, max(len(classes), 1) if columns is None else 1)
