"""Draw docs/img/load.svg: latency, and what becomes of the calls, against offered load.

python bench/draw_load.py    from build/bench.json, which `make bench ONLY=load_curve` writes
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from figures import Figures
from machine import BenchError
from panel import round_step
from picture import BLUE, GREY, OCHRE, PALE, TEAL, Scale, draw_line, frame, path_of, text, write_picture

WIDTH, HEIGHT = 920, 560
LEFT, RIGHT = 74, 884
LATENCY_TOP, LATENCY_BOTTOM = 96, 292
CALLS_TOP, CALLS_BOTTOM = 344, 500
SHARE_STEP: Final = 0.5
ROOM: Final = 2.6
"""What the axis of latencies leaves above the highest and below the lowest, as a factor."""
CALLS_LINES: Final = 5
NAMED: Final = 0.7
"""Of the capacity: up to there the lines lie apart, and are named."""
P50, P99, BUDGET, GOODPUT, REFUSED = TEAL, BLUE, OCHRE, TEAL, PALE


@dataclass(frozen=True, slots=True)
class Point:
    """One load: its share of the capacity, what was offered and answered in time, and the latencies of the accepted."""

    share: float
    offered_rps: float
    goodput_rps: float
    refused_share: float
    p50_ms: float
    p99_ms: float


def read_points(curve: Figures) -> list[Point]:
    """Return the loads at which calls were accepted. Raises BenchError where none was measured, or fewer than two."""
    if not curve:
        raise BenchError("there is no load curve: make bench ONLY=load_curve")
    names = ("share", "offered_rps", "goodput_rps", "refused_share", "p50_ms", "p99_ms")
    points = [Point(*(point[name] for name in names)) for point in curve["points"] if point["p50_ms"] is not None]
    if len(points) < 2:
        raise BenchError("fewer than two loads were answered: nothing to draw")
    return points


def draw(curve: Figures) -> str:
    """Return the picture of a curve, as SVG."""
    points = read_points(curve)
    highest = math.ceil(points[-1].share / SHARE_STEP) * SHARE_STEP
    across = Scale(0, highest, LEFT, RIGHT)
    shares = [SHARE_STEP * step for step in range(round(highest / SHARE_STEP) + 1)]
    capacity_rps, budget_ms = curve["capacity_rps"], curve["budget_ms"]
    best = max(point.goodput_rps for point in points)
    subtitle = (
        f"one core, a model of {1e3 / capacity_rps:.2f} ms a row, a budget of {budget_ms:g} ms; "
        "open loop, calls arrive at random"
    )
    parts = [
        text(24, 38, "What happens when more is asked than can be answered", "h"),
        text(24, 58, subtitle, "s"),
        *draw_latency(points, budget_ms, across, shares),
        *draw_calls(points, capacity_rps, across, shares),
        *(text(across.at(share), CALLS_BOTTOM + 20, f"{share:.0%}", "s m") for share in shares),
        text((LEFT + RIGHT) / 2, CALLS_BOTTOM + 42, f"offered load; 100% is the capacity, {capacity_rps:,}/s", "s m"),
    ]
    title = "Latency and goodput against offered load"
    return frame(WIDTH, HEIGHT, title, describe(points, budget_ms, best), parts)


def describe(points: Sequence[Point], budget_ms: float, best_rps: float) -> str:
    """Return the picture in words."""
    first, last = points[0], points[-1]
    return (
        f"At {first.share:.0%} of the capacity the p99 of accepted calls is {first.p99_ms:.1f} ms, at {last.share:.0%} "
        f"{last.p99_ms:.0f} ms, with a budget of {budget_ms:g} ms. At {last.share:.0%} {last.goodput_rps:,.0f} calls a "
        f"second are answered in time, {last.goodput_rps / best_rps:.0%} of the most; {last.refused_share:.0%} are "
        "refused at once."
    )


def draw_latency(points: Sequence[Point], budget_ms: float, across: Scale, shares: Sequence[float]) -> list[str]:
    """Return the upper panel: p50 and p99 of accepted calls on a logarithmic axis, and the budget."""
    low = min(point.p50_ms for point in points) / ROOM
    high = max(budget_ms, *(point.p99_ms for point in points)) * ROOM
    up = Scale(low, high, LATENCY_BOTTOM, LATENCY_TOP, is_log=True)
    decades = [10.0**power for power in range(math.ceil(math.log10(low)), math.ceil(math.log10(high)))]
    budget = up.at(budget_ms)
    widest = max((point for point in points if point.share <= NAMED), key=gap_of, default=points[0])
    p99 = [(across.at(point.share), up.at(point.p99_ms)) for point in points]
    p50 = [(across.at(point.share), up.at(point.p50_ms)) for point in points]
    return [
        *draw_grid(across, shares, LATENCY_TOP, LATENCY_BOTTOM, [up.at(each) for each in decades]),
        *(text(LEFT - 10, up.at(each) + 4, f"{each:g} ms", "s e") for each in decades),
        text(LEFT, LATENCY_TOP - 10, "latency of accepted calls", "n"),
        f'<path class="dash" stroke="{BUDGET}" d="M{LEFT} {budget}H{RIGHT}"/>',
        text(LEFT + 8, budget - 7, f"budget {budget_ms:g} ms", "n", BUDGET),
        text(across.at(1) + 7, LATENCY_BOTTOM - 9, "capacity", "s"),
        draw_line(p50, P50),
        draw_line(p99, P99),
        text(across.at(widest.share), highest_near(p99, across.at(widest.share)) - 12, "p99", "n m halo", P99),
        text(across.at(widest.share), lowest_near(p50, across.at(widest.share)) + 21, "p50", "n m halo", P50),
    ]


def gap_of(point: Point) -> float:
    """Return how far apart the two lines lie: the most where there is room for their names."""
    return point.p99_ms / point.p50_ms


def highest_near(places: Sequence[tuple[float, float]], across: float, reach: float = 24) -> float:
    """Return the highest place of a line around one, so that a name above it crosses nothing."""
    return min(up for here, up in places if abs(here - across) <= reach)


def lowest_near(places: Sequence[tuple[float, float]], across: float, reach: float = 24) -> float:
    """Return the lowest place of a line around one."""
    return max(up for here, up in places if abs(here - across) <= reach)


def draw_calls(points: Sequence[Point], capacity_rps: float, across: Scale, shares: Sequence[float]) -> list[str]:
    """Return the lower panel: of the calls offered, those answered in time, and on top of them the others."""
    up = Scale(0, shares[-1] * capacity_rps, CALLS_BOTTOM, CALLS_TOP)
    good = [(LEFT, CALLS_BOTTOM), *((across.at(point.share), up.at(point.goodput_rps)) for point in points)]
    offered = [(LEFT, CALLS_BOTTOM), *((across.at(point.share), up.at(point.offered_rps)) for point in points)]
    step = round_step(up.high / CALLS_LINES)
    steps = [step * count for count in range(1, math.floor(up.high / step) + 1)]
    last = points[-1]
    right = across.at(last.share)
    middle = (up.at(last.offered_rps) + up.at(last.goodput_rps)) / 2
    return [
        *draw_grid(across, shares, CALLS_TOP, CALLS_BOTTOM, [up.at(each) for each in steps]),
        *(text(LEFT - 10, up.at(each) + 4, f"{each:,.0f}", "s e") for each in (0, *steps)),
        text(LEFT, CALLS_TOP - 10, "calls a second", "n"),
        f'<path fill="{REFUSED}" fill-opacity="0.55" d="{path_of([*offered, *reversed(good)])}Z"/>',
        f'<path fill="{GOODPUT}" fill-opacity="0.18" d="{path_of(good)}V{CALLS_BOTTOM}Z"/>',
        draw_line(good, GOODPUT),
        f'<path class="dash" stroke="#7c8b9a" d="{path_of(offered)}"/>',
        text(right - 196, up.at(last.offered_rps * 0.84) - 8, "offered", "s e"),
        text(right - 12, middle + 5, f"refused at once, {last.refused_share:.0%}", "n e", GREY),
        text(right - 12, up.at(last.goodput_rps) + 24, f"answered in time, {last.goodput_rps:,.0f}/s", "n e", GOODPUT),
    ]


def draw_grid(across: Scale, shares: Sequence[float], top: float, bottom: float, lines: Sequence[float]) -> list[str]:
    """Return a panel's ground: its field, its lines, and the mark at the capacity."""
    capacity = across.at(1)
    return [
        f'<rect x="{LEFT}" y="{top}" width="{RIGHT - LEFT}" height="{bottom - top}" fill="#ffffff"/>',
        *(f'<path class="grid" d="M{LEFT} {line}H{RIGHT}"/>' for line in lines),
        *(f'<path class="grid" d="M{across.at(share)} {top}V{bottom}"/>' for share in shares),
        f'<path class="axis" d="M{capacity} {top}V{bottom}" stroke-opacity="0.7"/>',
        f'<path class="axis" d="M{LEFT} {bottom}H{RIGHT}"/>',
    ]


if __name__ == "__main__":
    sys.exit(write_picture(__doc__, "load_curve", draw, "load.svg"))
