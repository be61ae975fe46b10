"""Draw docs/img/model-costs.svg: what a model's call costs by its trees, by its features, and by the rows of a request.

python bench/draw_models.py    from build/bench.json, which `make bench ONLY=inference` writes
"""

from __future__ import annotations

import sys
from typing import Any, Final

from figures import Figures
from panel import Curve, Named, draw_panel, read_curve
from picture import BLUE, OCHRE, TEAL, frame, text, write_picture

WIDTH, HEIGHT = 1240, 400
PANELS: Final = ((74, 390), (480, 796), (886, 1202))
SHOWN: Final = (("64", TEAL), ("16", BLUE), ("1", OCHRE))
"""Rows of a call, the dearest first."""


def draw(inference: Figures) -> str:
    """Return the picture, as SVG. Raises BenchError where a curve is missing, or has fewer than two points."""
    trees, features = (curves(inference, key) for key in ("cost_trees_us", "cost_features_us"))
    rows = [Named(read_curve(inference, "cost_rows_us", "inference"), TEAL, "200 trees")]
    parts = [
        text(24, 38, "What a model's call costs", "h"),
        text(24, 58, "µs of one core, boosted trees of 31 leaves, by the backend that was chosen; medians", "s"),
        *draw_panel(PANELS[0], "by trees, of 24 features", "trees", trees),
        *draw_panel(PANELS[1], "by features, of 200 trees", "features", features),
        *draw_panel(PANELS[2], "by the rows of a request", "rows", rows),
    ]
    return frame(WIDTH, HEIGHT, "What a model's call costs", describe(trees, features, rows), parts)


def curves(inference: Figures, key: str) -> list[Named]:
    """Return the curves of a panel, one for each number of rows. Raises BenchError where one is missing."""
    found: dict[str, Any] = inference.get(key, {})
    return [
        Named(read_curve(found, rows, "inference"), colour, f"{rows} row{'s' * (rows != '1')}")
        for rows, colour in SHOWN
    ]


def describe(trees: list[Named], features: list[Named], rows: list[Named]) -> str:
    """Return the picture in words."""
    parts = [
        f"{named.name}: {ends(named.curve)} {what}" for what, each in (("trees", trees), ("features", features))
        for named in each
    ]  # fmt: skip
    return f"{'; '.join(parts)}. A request of {ends(rows[0].curve)} rows."


def ends(curve: Curve) -> str:
    """Return the first and the last point of a curve in words."""
    return " to ".join(f"{cost_us:.0f} µs at {number:g}" for number, cost_us in (curve[0], curve[-1]))


if __name__ == "__main__":
    sys.exit(write_picture(__doc__, "inference", draw, "model-costs.svg"))
