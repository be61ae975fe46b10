"""Draw docs/img/costs.svg: what a request costs against the number of its windows, and of its entities.

python bench/draw_costs.py    from build/bench.json, which `make bench ONLY=features` writes
"""

from __future__ import annotations

import sys
from typing import Final

from figures import Figures
from panel import Curve, Named, draw_panel, read_curve
from picture import BLUE, TEAL, frame, text, write_picture

WIDTH, HEIGHT = 920, 400
PANELS: Final = ((74, 438), (520, 884))
"""Where the two begin and end."""
STREAM, BATCH = TEAL, BLUE
KEYS: Final = ("cost_windows", "cost_windows_batch", "cost_entities", "cost_entities_batch")


def draw(features: Figures) -> str:
    """Return the picture, as SVG. Raises BenchError where a curve is missing, or has fewer than two points."""
    windows, columns, entities, looked_up = (read_curve(features, key, "features") for key in KEYS)
    parts = [
        text(24, 38, "What a request costs, by what it asks for", "h"),
        text(24, 58, "µs of one full core, LMDB, the model a constant; the whole request, HTTP and JSON too", "s"),
        *draw_panel(PANELS[0], "by windows, of one entity", "windows, or columns", named(windows, columns)),
        *draw_panel(PANELS[1], "by entities, of five windows each", "entities a request", named(entities, looked_up)),
    ]
    return frame(WIDTH, HEIGHT, "What a request costs", describe(windows, columns, entities, looked_up), parts)


def named(stream: Curve, batch: Curve) -> list[Named]:
    """Return the curves of one panel with their colours and names."""
    return [Named(stream, STREAM, "stream views"), Named(batch, BATCH, "batch views", above=False)]


def describe(windows: Curve, columns: Curve, entities: Curve, looked_up: Curve) -> str:
    """Return the picture in words."""
    return (
        f"A request with {ends(windows, 'window')}; with {ends(columns, 'finished column')} of a batch view. With five "
        f"windows an entity, one with {ends(entities, 'entity')}; with {ends(looked_up, 'entity')} of a batch view."
    )


def ends(curve: Curve, what: str) -> str:
    """Return the first and the last point of a curve in words."""
    (first, first_us), (last, last_us) = curve[0], curve[-1]
    many = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{first:g} {what} takes {first_us:.0f} µs, with {last:g} {many} {last_us:.0f} µs"


if __name__ == "__main__":
    sys.exit(write_picture(__doc__, "features", draw, "costs.svg"))
