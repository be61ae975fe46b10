"""Models beyond the hot path's: larger, heavier, several in a worker, remote, made smaller, and loaded meanwhile."""

from __future__ import annotations

from typing import Final

from batching import MIXED_PAIRS, measure_batching
from big_trees import measure_big_trees
from figures import Figures
from forests import measure_forests
from loading import PAIRS as LOADING_PAIRS
from loading import measure_loading
from machine import BenchError
from memory import measure_memory
from model_costs import measure_model_costs
from optimising import lines_of_optimising, measure_optimising
from part import Line, Part, Session
from rate_search import P99_MS
from remote_model import measure_remote, remote_lines

STEPS: Final = 210
GROUPS: Final = (
    measure_big_trees, measure_batching, measure_loading, measure_remote, measure_optimising, measure_forests,
    measure_memory, measure_model_costs,
)  # fmt: skip


def measure(session: Session) -> Figures:
    """Return all figures, under one key; without those of a group that could not be taken, and a note of why."""
    figures: Figures = {}
    for group in GROUPS:
        try:
            figures |= group(session)
        except BenchError as error:  # on a shared machine one of them fails now and then, after minutes of the others
            session.notes.append(f"[red]{error}[/]")
    return {"inference": figures}


def lines(figures: Figures) -> list[Line]:
    """Return the lines of the table."""
    found = figures["inference"]
    get = found.get
    return [
        Line("500 trees beside 200, capacity", get("trees500_ratio_200"), 0.7, 0.85, more_is_better=True),
        Line("  p99 at 5,000/s", get("trees500_p99_ms"), 5, 2, " ms"),
        Line("a network of 20 MFLOP a row, requests/s in time", get("heavy_rps")),
        Line(f"  against mosec's best, p99 {P99_MS} ms", get("heavy_ratio_mosec"), 1.5, 2.0, "×", more_is_better=True),
        Line("  one at a time, against mosec", get("heavy_idle_ratio_unbatched"), 0.95, 1.0, more_is_better=True),
        Line("  p99 it adds to a light one beside it, at most", get("mixed_p99_added_ms"), 2, 1, " ms"),
        Line(
            "a forest of deep trees, 64 rows: ONNX Runtime ÷ ours",
            get("forest_ratio_ort"),
            2,
            4,
            "×",
            more_is_better=True,
        ),
        *remote_lines(found),
        *lines_of_optimising(found),
        Line("p99 that a loading version adds, at most", get("load_p99_added_ms"), 0.5, 0.2, " ms"),
        Line("memory over a million predictions", get("rss_slope_mb_per_million"), 1, 0, " MB"),
    ]


PART: Final = Part(
    name="inference",
    about="models beyond the hot path's: larger, heavier, several, loaded meanwhile",
    caveats=(
        "inference: the network's server and its load have a core each; its rate is the highest tried of which 99% "
        f"are answered well within {P99_MS} ms, at random times; mosec's is that of the best of its batchers.",
        f"inference: what a neighbour or a loading version adds is the upper bound of {MIXED_PAIRS} and "
        f"{LOADING_PAIRS} pairs' median.",
    ),
    steps=lambda session: session.pick(STEPS, 70),
    measure=measure,
    lines=lines,
)
