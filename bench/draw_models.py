"""Draw docs/img/model-costs.svg: what a model's call costs by its trees, by its features, and by the rows of a request.

python bench/draw_models.py    from build/bench.json, which `make bench ONLY=inference` writes
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

from figures import Figures
from panel import BOTTOM, TOP, Curve, Named, draw_powers, read_curve
from picture import BLUE, GREY, OCHRE, PURPLE, TEAL, Scale, frame, text, write_picture

WIDTH, HEIGHT = 1240, 400
PANELS: Final = ((74, 316), (482, 724), (890, 1132))
"""Where the curves of each begin and end; their names stand to the right of them."""
ROOM: Final = 1.2
"""What an axis leaves beyond the first and the last number, as a factor."""
ROOM_UP: Final = 1.8
"""What the axis of costs, the same in all panels, leaves below the least and above the highest."""
ROWS: Final = (("64", TEAL), ("16", BLUE), ("1", OCHRE))
"""Of a call, the dearest first."""
TREES: Final = (("2000", PURPLE), ("200", TEAL))


def draw(inference: Figures) -> str:
    """Return the picture, as SVG. Raises BenchError where a curve is missing, or has fewer than two points."""
    trees, features = (
        curves_of(inference, key, ROWS, lambda rows: "1 row" if rows == "1" else f"{rows} rows")
        for key in ("cost_trees_us", "cost_features_us")
    )
    rows = curves_of(inference, "cost_rows_us", TREES, lambda each: f"{int(each):,} trees")
    costs_us = [cost_us for each in (*trees, *features, *rows) for _, cost_us in each.curve]
    up = Scale(min(costs_us) / ROOM_UP, max(costs_us) * ROOM_UP, BOTTOM, TOP, is_log=True)
    by_trees, by_features, by_rows = (
        scale_of(sides, panel[0].curve) for sides, panel in zip(PANELS, (trees, features, rows), strict=True)
    )
    parts = [
        text(24, 38, "What a model's call costs", "h"),
        text(24, 58, "one core, boosted trees of 31 leaves; medians; all axes are logarithmic", "s"),
        *draw_powers(by_trees, up, "by trees, of 24 features", "trees", trees),
        *draw_backends(by_trees, inference.get("cost_trees_backends", [])),
        *draw_powers(by_features, up, "by features, of 200 trees", "features", features),
        *draw_backends(by_features, inference.get("cost_features_backends", [])),
        *draw_powers(by_rows, up, "by rows, of 24 features", "rows a call", rows),
    ]
    return frame(WIDTH, HEIGHT, "What a model's call costs", describe(trees, features, rows), parts)


def curves_of(
    inference: Figures, key: str, shown: Sequence[tuple[str, str]], name: Callable[[str], str]
) -> list[Named]:
    """Return the curves of a panel, with their names. Raises BenchError where one is missing."""
    found: dict[str, Any] = inference.get(key, {})
    return [Named(read_curve(found, each, "inference"), colour, name(each)) for each, colour in shown]


def scale_of(sides: tuple[int, int], curve: Curve) -> Scale:
    """Return the scale of a panel's numbers."""
    return Scale(curve[0][0] / ROOM, curve[-1][0] * ROOM, *sides, is_log=True)


def draw_backends(across: Scale, backends: Sequence[tuple[int, str]]) -> Iterator[str]:
    """Return a mark wherever another backend computes the model than that of the number before, with both names."""
    for (left, before), (right, after) in pairwise(backends):
        if before != after:
            place = (across.at(left) + across.at(right)) / 2
            yield f'<path class="dash" stroke="{GREY}" d="M{place:g} {TOP}V{BOTTOM}"/>'
            yield text(place - 8, TOP + 18, before, "s e halo")
            yield text(place + 8, TOP + 18, after, "s halo")


def describe(trees: list[Named], features: list[Named], rows: list[Named]) -> str:
    """Return the picture in words."""
    parts = [
        f"{named.name}: {ends(named.curve)} {what}"
        for what, panel in (("trees", trees), ("features", features), ("rows", rows))
        for named in panel
    ]
    return f"{'; '.join(parts)}."


def ends(curve: Curve) -> str:
    """Return the first and the last point of a curve in words."""
    return " to ".join(f"{cost_us:,.0f} µs at {number:,g}" for number, cost_us in (curve[0], curve[-1]))


if __name__ == "__main__":
    sys.exit(write_picture(__doc__, "inference", draw, "model-costs.svg"))
