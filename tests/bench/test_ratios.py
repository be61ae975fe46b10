"""Pairs of figures: who is first alternates, and the bounds are those of the median."""

from __future__ import annotations

from part import Session
from ratios import bounds, measure_pairs


def test_bounds_of_twenty_are_the_sixth_and_the_fifteenth() -> None:
    """The order of the values is of no matter; of few values the bounds are the least and the greatest."""
    assert bounds([float(value) for value in (*range(11, 21), *range(1, 11))]) == (6, 15)
    assert bounds([3.0, 1.0]) == (1, 3)
    assert bounds([2.0]) == (2, 2)


def test_pairs_alternate_who_is_first() -> None:
    """Each value stands on its own side, whoever was asked first."""
    order: list[str] = []
    told: list[str] = []

    def run(name: str) -> float:
        order.append(name)
        return float(len(order))

    pairs = measure_pairs(Session(tell=told.append), "two", 2, lambda: run("one"), lambda: run("other"))
    assert order == ["other", "one", "one", "other"]
    assert pairs == [(2, 1), (3, 4)]
    assert told == ["two, pair 1 of 2", "two, pair 2 of 2"]
