"""Pairs of figures: who is first alternates."""

from __future__ import annotations

from part import Session
from ratios import measure_pairs


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
