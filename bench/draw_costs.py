"""Draw docs/img/costs.svg: what a request costs against the number of its windows, and of its entities.

python bench/draw_costs.py    from build/bench.json, which `make bench ONLY=features` writes
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from figures import Figures, read_figures
from machine import BenchError
from peers import ROOT
from picture import BLUE, TEAL, Scale, draw_line, frame, text

WIDTH, HEIGHT = 920, 400
TOP, BOTTOM = 104, 330
PANELS: Final = ((74, 438), (520, 884))
"""Where the two begin and end."""
LINES: Final = 5
ROOM: Final = 1.12
"""What an axis of costs leaves above the highest, as a factor."""
NAME_WIDTH: Final = 90
STREAM, BATCH = TEAL, BLUE
KEYS: Final = ("cost_windows", "cost_windows_batch", "cost_entities", "cost_entities_batch")

Curve = Sequence[Sequence[float]]
"""Pairs of a number and the µs that a request takes."""


class Named(NamedTuple):
    """A curve of a panel. above: whether its name stands above its end, or below."""

    curve: Curve
    colour: str
    name: str
    above: bool = True


def draw(features: Figures) -> str:
    """Return the picture, as SVG. Raises BenchError where a curve is missing, or has fewer than two points."""
    windows, columns, entities, looked_up = (read_curve(features, key) for key in KEYS)
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


def read_curve(figures: Figures, key: str, part: str = "features") -> Curve:
    """Return a curve that a part measures. Raises BenchError where there is none, or one of fewer than two points."""
    curve: Curve = figures.get(key, [])
    if len(curve) < 2:
        raise BenchError(f"there are no two points of {key}: make bench ONLY={part}")
    return curve


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


def draw_panel(sides: tuple[int, int], title: str, below: str, curves: Sequence[Named]) -> list[str]:
    """Return one panel: its curves, from no cost at all."""
    left, right = sides
    numbers = [point[0] for point in curves[0].curve]
    across = Scale(0, numbers[-1], left, right)
    up = Scale(0, max(cost_us for each in curves for _, cost_us in each.curve) * ROOM, BOTTOM, TOP)
    step = round_step(up.high / LINES)
    costs_us = [step * count for count in range(math.floor(up.high / step) + 1)]
    return [
        f'<rect x="{left}" y="{TOP}" width="{right - left}" height="{BOTTOM - TOP}" fill="#ffffff"/>',
        *(f'<path class="grid" d="M{left} {up.at(each)}H{right}"/>' for each in costs_us),
        f'<path class="axis" d="M{left} {BOTTOM}H{right}"/>',
        *(text(left - 10, up.at(each) + 4, f"{each:g}", "s e") for each in costs_us),
        *(text(across.at(each), BOTTOM + 20, f"{each:g}", "s m") for each in spaced(numbers, across)),
        text(left, TOP - 12, f"µs, {title}", "n"),
        text((left + right) / 2, BOTTOM + 44, below, "s m"),
        *(part for each in curves for part in draw_curve(across, up, each)),
    ]


def spaced(numbers: Sequence[float], across: Scale, least: float = 22) -> list[float]:
    """Return the numbers that have room below an axis, the last among them."""
    kept: list[float] = []
    for number in reversed(numbers):
        if not kept or across.at(kept[-1]) - across.at(number) >= least:
            kept.append(number)
    return kept


def draw_curve(across: Scale, up: Scale, drawn: Named) -> list[str]:
    """Return a curve with its points, and its name above or below its end."""
    curve, colour, name, above = drawn
    places = [(across.at(number), up.at(cost_us)) for number, cost_us in curve]
    heights = [height_at(places, places[-1][0] - NAME_WIDTH * share) for share in (0, 0.5, 1)]
    named = min(heights) - 14 if above else max(heights) + 22
    return [
        draw_line(places, colour),
        *(f'<circle cx="{place:g}" cy="{height:g}" r="3.2" fill="{colour}"/>' for place, height in places),
        text(places[-1][0] - 4, named, name, "n e halo", colour),
    ]


def height_at(places: Sequence[tuple[float, float]], across: float) -> float:
    """Return where a line through places, from left to right, is at one."""
    for (left, begin), (right, end) in pairwise(places):
        if left <= across <= right:
            return begin + (end - begin) * (across - left) / (right - left)
    return places[0][1]


def round_step(least: float) -> float:
    """Return the least step of 1, 2 or 5 times a power of ten that is no smaller."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(each * power for each in (1, 2, 5, 10) if each * power >= least)


def main() -> int:
    """Read, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="?", type=Path, default=ROOT / "build" / "bench.json")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "img" / "costs.svg")
    options = parser.parse_args()
    try:
        picture = draw(read_figures(options.figures).get("features", {}))
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    options.out.write_text(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
