"""A panel of curves: what something costs, by a number. draw_costs.py and draw_models.py are made of panels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from figures import Figures
from machine import BenchError
from picture import Scale, draw_line, text

TOP, BOTTOM = 104, 330
LINES: Final = 5
ROOM: Final = 1.12
"""What an axis of costs leaves above the highest, as a factor."""
NAME_WIDTH: Final = 90

Curve = Sequence[Sequence[float]]
"""Pairs of a number and the µs that it costs."""


class Named(NamedTuple):
    """A curve of a panel. above: whether its name stands above its end, or below."""

    curve: Curve
    colour: str
    name: str
    above: bool = True


def read_curve(figures: Figures, key: str, part: str) -> Curve:
    """Return a curve that a part measures. Raises BenchError where there is none, or one of fewer than two points."""
    curve: Curve = figures.get(key, [])
    if len(curve) < 2:
        raise BenchError(f"there are no two points of {key}: make bench ONLY={part}")
    return curve


def draw_panel(sides: tuple[int, int], title: str, below: str, curves: Sequence[Named]) -> list[str]:
    """Return one panel: its curves, from no cost at all."""
    left, right = sides
    numbers = [point[0] for point in curves[0].curve]
    across = Scale(0, numbers[-1], left, right)
    up = Scale(0, max(cost_us for each in curves for _, cost_us in each.curve) * ROOM, BOTTOM, TOP)
    step = round_step(up.high / LINES)
    costs_us = [step * count for count in range(math.floor(up.high / step) + 1)]
    return [
        *draw_ground(sides, up, costs_us),
        *draw_words(across, f"µs, {title}", below, numbers),
        *(part for each in curves for part in draw_curve(across, up, each)),
    ]


def draw_powers(across: Scale, up: Scale, title: str, below: str, curves: Sequence[Named]) -> list[str]:
    """Return one panel whose axes are logarithmic, with the names of its curves behind their ends."""
    places = [places_of(across, up, each.curve) for each in curves]
    return [
        *draw_ground((across.begin, across.end + NAME_WIDTH), up, round_between(up.low, up.high), write_us),
        *draw_words(across, title, below, [point[0] for point in curves[0].curve]),
        *(part for each, line in zip(curves, places, strict=True) for part in draw_points(line, each.colour)),
        *(
            text(line[-1][0] + 10, line[-1][1] + 4, each.name, "n halo", each.colour)
            for each, line in zip(curves, places, strict=True)
        ),
    ]


def draw_ground(
    sides: tuple[float, float], up: Scale, costs_us: Sequence[float], write: Callable[[float], str] = "{:g}".format
) -> list[str]:
    """Return a panel's field, and its lines of costs with what is written beside them."""
    left, right = sides
    return [
        f'<rect x="{left}" y="{TOP}" width="{right - left}" height="{BOTTOM - TOP}" fill="#ffffff"/>',
        *(f'<path class="grid" d="M{left} {up.at(each)}H{right}"/>' for each in costs_us),
        f'<path class="axis" d="M{left} {BOTTOM}H{right}"/>',
        *(text(left - 10, up.at(each) + 4, write(each), "s e") for each in costs_us),
    ]


def draw_words(across: Scale, title: str, below: str, numbers: Sequence[float]) -> list[str]:
    """Return what stands around a panel: the numbers below it, its title, and what the numbers are."""
    return [
        *(text(across.at(each), BOTTOM + 20, f"{each:,g}", "s m") for each in spaced(numbers, across)),
        text(across.begin, TOP - 12, title, "n"),
        text((across.begin + across.end) / 2, BOTTOM + 44, below, "s m"),
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
    places = places_of(across, up, curve)
    heights = [height_at(places, places[-1][0] - NAME_WIDTH * share) for share in (0, 0.5, 1)]
    named = min(heights) - 14 if above else max(heights) + 22
    return [
        *draw_points(places, colour),
        text(places[-1][0] - 4, named, name, "n e halo", colour),
    ]


def draw_points(places: Sequence[tuple[float, float]], colour: str) -> list[str]:
    """Return a line through places, each of which is marked."""
    return [
        draw_line(places, colour),
        *(f'<circle cx="{place:g}" cy="{height:g}" r="3.2" fill="{colour}"/>' for place, height in places),
    ]


def places_of(across: Scale, up: Scale, curve: Curve) -> list[tuple[float, float]]:
    """Return where the points of a curve lie."""
    return [(across.at(number), up.at(cost_us)) for number, cost_us in curve]


def height_at(places: Sequence[tuple[float, float]], across: float) -> float:
    """Return where a line through places, from left to right, is at one."""
    for (left, begin), (right, end) in pairwise(places):
        if left <= across <= right:
            return begin + (end - begin) * (across - left) / (right - left)
    return places[0][1]


def round_between(low: float, high: float) -> list[float]:
    """Return all numbers from one to another that are 1, 2 or 5 times a power of ten."""
    powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    return [each * 10.0**power for power in powers for each in (1, 2, 5) if low <= each * 10.0**power <= high]


def write_us(cost_us: float) -> str:
    """Return a cost with its unit."""
    return f"{cost_us:g} µs" if cost_us < 1_000 else f"{cost_us / 1_000:g} ms"


def round_step(least: float) -> float:
    """Return the least step of 1, 2 or 5 times a power of ten that is no smaller."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(each * power for each in (1, 2, 5, 10) if each * power >= least)
