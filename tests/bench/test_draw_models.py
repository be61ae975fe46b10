"""The picture of what a model's call costs is drawn from figures, and from nothing else."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from draw_models import ROWS, TREES, draw
from machine import BenchError

CURVE = [[100, 10.0], [500, 40.0], [2_000, 170.0]]
INFERENCE: dict[str, Any] = {
    "cost_trees_us": {rows: [[x, y * int(rows)] for x, y in CURVE] for rows, _ in ROWS},
    "cost_features_us": {rows: [[10, 12.0 * int(rows)], [500, 30.0 * int(rows)]] for rows, _ in ROWS},
    "cost_rows_us": {"200": [[1, 12.0], [500, 700.0]], "2000": [[1, 90.0], [500, 7_000.0]]},
    "cost_trees_backends": [[100, "bit vectors"], [2_000, "bit vectors"]],
    "cost_features_backends": [[10, "bit vectors"], [500, "forest kernel"]],
}


def test_picture_is_well_formed_and_described() -> None:
    """It is XML, has a line for each number of rows in two panels and of trees in the third, and says what it shows."""
    picture = draw(INFERENCE)
    told = ["".join(each.itertext()) for each in ElementTree.fromstring(picture)]
    assert "1 row: 10 µs at 100 to 170 µs at 2,000 trees" in told[1]
    assert "200 trees: 12 µs at 1 to 700 µs at 500 rows." in told[1]
    assert picture.count('class="line"') == 2 * len(ROWS) + len(TREES)
    assert {"64 rows", "1 row", "2,000 trees", "1 ms", "50 µs", "features"} <= set(told)


def test_other_backend_is_marked() -> None:
    """Where another backend computes the model than that of the number before there is a mark with both names."""
    picture = draw(INFERENCE)
    assert picture.count('class="dash"') == 1
    assert picture.index("bit vectors") < picture.index("forest kernel")
    assert 'class="dash"' not in draw({**INFERENCE, "cost_features_backends": []})


@pytest.mark.parametrize(
    "missing", [{}, {**INFERENCE, "cost_features_us": {"1": CURVE}}, {**INFERENCE, "cost_rows_us": {}}]
)
def test_figures_without_a_curve_are_refused(missing: dict[str, Any]) -> None:
    """What is not measured is not drawn, and what measures it is said."""
    with pytest.raises(BenchError, match="ONLY=inference"):
        draw(missing)
