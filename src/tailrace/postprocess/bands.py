"""Bands: a score to a decision by a sorted look-up. Labels: class probabilities to the likeliest class."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isnan

from tailrace.errors import Problem


@dataclass(frozen=True, slots=True)
class Bands:
    """Labels with the score at which each begins, ascending. The first reaches down to minus infinity."""

    on: str
    labels: tuple[str, ...]
    edges: tuple[float, ...]
    problems: tuple[Problem, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Labels:
    """The likeliest class of a classifier, by its model's class names or by `names`, in the model's class order."""

    names: tuple[str, ...] = ()


def bands(on: str = "score", /, **starts: float) -> Bands:
    """Declare bands over a score: `bands("score", allow=0.0, review=0.6, block=0.9)`.

    A score s gets the last label whose start is <= s. Mistakes are kept for the compiler to report.
    """
    problems = []
    edges = tuple(starts.values())
    for label, start in starts.items():
        if isinstance(start, bool) or not isinstance(start, int | float) or isnan(start):
            problems.append(Problem(f"{label} starts at {start!r}, which is no number", "decision", "give a score"))
    if on != "score":
        problems.append(Problem(f"bands look at 'score', not {on!r}", "decision", 'write bands("score", …)'))
    if not starts:
        problems.append(Problem("bands without a label", "decision", "name at least one: allow=0.0"))
    if not problems and list(edges) != sorted(set(edges)):
        problems.append(
            Problem(f"the starts {edges} do not ascend", "decision", "order the bands from the lowest score up")
        )
    return Bands(on, tuple(starts), edges, tuple(problems))


def labels(*names: str) -> Labels:
    """Declare that the decision is the likeliest class; names replace the model's own class names."""
    return Labels(names)
