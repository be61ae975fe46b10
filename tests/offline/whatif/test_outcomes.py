"""Outcomes as people write them; a fair sample of score changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailrace.errors import SourceError
from tailrace.offline.whatif.changes import Changes
from tailrace.offline.whatif.outcomes import is_right, outcome_text, read_outcomes

LABELS = ("allow", "review", "block")


@pytest.mark.parametrize(
    ("value", "text"), [(True, "1"), (1.0, "1"), (0, "0"), (0.5, "0.5"), (" block ", "block"), (None, None), ("", None)]
)
def test_one_outcome_is_one_text(value: Any, text: str | None) -> None:
    """True, 1 and 1.0 are the same, as JSON, CSV and Parquet have them; NaN is none."""
    assert outcome_text(value) == text
    assert outcome_text(float("nan")) is None


@pytest.mark.parametrize(
    ("before", "after", "outcome", "right"),
    [
        (0, 2, "1", True), (0, 2, "0", False), (2, 1, "no", True), (2, 1, "yes", False), (0, 2, "block", True),
        (2, 0, "block", False), (0, 1, "block", None), (0, 1, None, None), (0, 1, "perhaps", None),
    ],
)  # fmt: skip
def test_flip_is_right_where_it_meets_the_outcome(before: int, after: int, outcome: str, right: bool | None) -> None:
    """Higher for a positive outcome, lower for a negative one, or the label that the outcome is."""
    assert is_right(before, after, LABELS, outcome) is right


@pytest.mark.parametrize(
    ("text", "label", "what"),
    [
        ("key,fraud\n1,1\n", None, "no column 'id'"),
        ("id,fraud,late\n1,1,0\n", None, "which of 2 columns is the outcome is not clear"),
        ("id,fraud\n1,1\n", "loss", "no column 'loss'"),
    ],
)
def test_file_without_its_columns_is_refused(tmp_path: Path, text: str, label: str | None, what: str) -> None:
    """It says which columns there are."""
    path = tmp_path / "outcomes.csv"
    path.write_text(text)
    with pytest.raises(SourceError, match=what):
        read_outcomes(path, "id", label)


def test_kept_changes_are_a_fair_sample() -> None:
    """All are kept while there is room; later each row has the same chance, early or late."""
    few, many = Changes(1_000), Changes(1_000)
    few.add(np.arange(600.0), np.arange(600.0) + 1)
    few.add(np.arange(400.0), np.arange(400.0) + 1)
    assert (len(few.pairs), few.seen, few.quantiles()) == (1_000, 1_000, (1.0, 1.0, 1.0))
    for begin in range(0, 100_000, 700):
        rows = np.arange(begin, min(begin + 700, 100_000), dtype=float)
        many.add(rows, rows)
    assert (len(many.pairs), many.seen) == (1_000, 100_000)
    assert many.pairs[:, 0].mean() == pytest.approx(50_000, abs=4_000)
    assert len(np.unique(many.pairs[:, 0])) == 1_000
