"""The Pareto picture: what a call takes against how good the scores are, the file's size as area."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any, Final

from tailrace.deadline import format_duration
from tailrace.offline.optimize.journal import Trial
from tailrace.offline.optimize.labels import Label, write_labels
from tailrace.offline.optimize.metric import LESS_IS_BETTER
from tailrace.offline.optimize.optimizer import Optimised
from tailrace.offline.optimize.verdict import Standing

TEAL, BLUE, OCHRE, GREY, PALE, INK, GROUND, UNFIT = (
    "#2f8f83", "#3f6fa3", "#b5782a", "#4b5b6b", "#c9d6e2", "#1f2a37", "#fbfaf7", "#9aa7b4",
)  # fmt: skip
AREA_MAX: Final = 2_600.0
AREA_MIN: Final = 30.0
"""Of a mark, in points²: of the largest file, and of the smallest that is still seen."""
MARKS: Final = {"o": "round", "s": "square", "D": "diamond", "^": "triangle", "h": "hexagon"}
"""The shapes of marks, and what they are called."""
NAMED_MAX: Final = 5
"""Marks on the front that are named beside the winner and the baseline."""
LOSSES_SHOWN: Final = 3.0
SLOWER_SHOWN: Final = 2.5
"""Candidates that lost more than so many tolerances, or take so many times the baseline's time, are left out and
counted: they would squeeze the others."""


def draw_picture(found: Optimised, path: Path) -> None:
    """Write the picture as PNG. Raises ImportError where Matplotlib is not installed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown, left_out = _shown(found)
    figure = Figure(figsize=(10.5, 6.4), dpi=150, facecolor=GROUND, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    _frame(axes, found, shown)
    _draw_limits(axes, found)
    fits = [each for each in shown if _standing(found, each) in {"fits", "wins", "baseline"}]
    front = front_of(fits, less=found.metric.name in LESS_IS_BETTER)
    axes.step(
        [_ms(found, each) for each in front], [each.metric for each in front], where="post", color=PALE, lw=3, zorder=2
    )
    ends = (found.verdict.baseline, found.verdict.winner)
    for place, trial in enumerate(sorted(shown, key=lambda each: (each is ends[1], -each.size_bytes))):
        axes.scatter(
            _ms(found, trial), trial.metric, s=_area(trial, shown), color=_colour(found, trial), zorder=3 + place / 1e3,
            alpha=0.85 if trial in ends else 0.5, lw=1.2, ec="white", marker=_marks(shown)[trial.backend],
        )  # fmt: skip
    _title(axes, found, left_out, _marks(shown))
    figure.canvas.draw()  # lays the axes out
    named = [each for each in reversed(ends) if each in shown]
    named += [each for each in front if each not in ends][:NAMED_MAX]
    write_labels(
        axes,
        [Label(_ms(found, each), each.metric, _area(each, shown), _words(found, each), _ink(found, each), each in ends)
         for each in named],
        [(_ms(found, each), each.metric, _area(each, shown)) for each in shown],
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Title": found.verdict.why})


def front_of(trials: Sequence[Trial], *, less: bool) -> list[Trial]:
    """Return the trials that no other beats in both latency and metric, the fastest first. less: it is a loss."""
    front: list[Trial] = []
    for trial in sorted(trials, key=lambda each: (-each.timings[0].speedup, each.metric if less else -each.metric)):
        if not front or (trial.metric < front[-1].metric if less else trial.metric > front[-1].metric):
            front.append(trial)
    return front


def _shown(found: Optimised) -> tuple[list[Trial], int]:
    """Return what is drawn, and how many that were measured are not: far too bad or far too slow."""
    measured = [each for each in found.trials if each.status == "measured"]
    baseline, tolerance = found.verdict.baseline, found.asked.tolerance
    shown = [
        each
        for each in measured
        if found.metric.loss(baseline.metric, each.metric) <= LOSSES_SHOWN * tolerance
        and each.timings[0].speedup * SLOWER_SHOWN >= 1
    ]
    return shown, len(measured) - len(shown)


def _ms(found: Optimised, trial: Trial) -> float:
    """Return what a call takes in a moment as quiet as the middle one: the baseline's, by how much faster it is."""
    base_ns = median(each.timings[0].base_p50_ns for each in found.trials if each.status == "measured")
    return base_ns / (1.0 if trial is found.verdict.baseline else trial.timings[0].speedup) / 1e6


def _marks(shown: Sequence[Trial]) -> dict[str, str]:
    """Return the shape of each backend's marks."""
    return dict(zip(dict.fromkeys(each.backend for each in shown), cycle(MARKS), strict=False))


def _area(trial: Trial, shown: Sequence[Trial]) -> float:
    return max(AREA_MIN, AREA_MAX * trial.size_bytes / max(each.size_bytes for each in shown))


def _colour(found: Optimised, trial: Trial) -> str:
    if trial is found.verdict.winner:
        return TEAL
    if trial is found.verdict.baseline:
        return OCHRE
    return BLUE if _standing(found, trial) == "fits" else UNFIT


def _standing(found: Optimised, trial: Trial) -> Standing:
    return found.verdict.standings[found.trials.index(trial)]


def _ink(found: Optimised, trial: Trial) -> str:
    return _colour(found, trial) if trial in {found.verdict.winner, found.verdict.baseline} else GREY


def _frame(axes: Any, found: Optimised, shown: Sequence[Trial]) -> None:
    """Set the axes: latency in powers, the metric with room for the names."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    times, metrics = [_ms(found, each) for each in shown], [each.metric for each in shown]
    wide = max(1.3, (max(times) / min(times)) ** 0.16)
    axes.set_facecolor("#ffffff")
    axes.set_xscale("log")
    axes.set_xlim(min(times) / wide, max(times) * wide)
    before, tolerance = found.verdict.baseline.metric, found.asked.tolerance
    low, high = min(*metrics, before - tolerance), max(*metrics, before + tolerance * 0.4)
    room = (high - low or abs(high) or 1.0) * 0.14
    axes.set_ylim(low - room, high + room)
    if found.metric.name in LESS_IS_BETTER:
        axes.invert_yaxis()
    subs = (1.0, 2.0, 5.0) if max(times) > 8 * min(times) else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="both", colors=GREY, labelsize=9.5, length=0)
    axes.grid(color="#e4e8ec", lw=0.9, zorder=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#7c8b9a")
    rows = found.asked.batches[0]
    several = "s" if rows > 1 else ""
    axes.set_xlabel(
        f"a call of {rows} row{several}, the baseline's ÷ times as fast; further left is faster",
        color=GREY,
        fontsize=10.5,
    )
    axes.set_ylabel(f"{found.metric.name} on held-back rows; higher up is better", color=GREY, fontsize=10.5)


def _draw_limits(axes: Any, found: Optimised) -> None:
    """Draw where the tolerance ends, and the budget where it is in sight."""
    before, tolerance = found.verdict.baseline.metric, found.asked.tolerance
    end = before + tolerance if found.metric.name in LESS_IS_BETTER else before - tolerance
    axes.axhspan(end, axes.get_ylim()[0], color=OCHRE, alpha=0.07, lw=0, zorder=0)
    axes.axhline(end, color=OCHRE, lw=1.2, ls=(0, (5, 4)), zorder=1)
    axes.annotate(
        f"{tolerance:g} worse: the tolerance", (1, end), xycoords=("axes fraction", "data"), xytext=(-8, -11),
        textcoords="offset points", ha="right", fontsize=9.5, color=OCHRE,
    )  # fmt: skip
    budget_ms = found.asked.budget_ns / 1e6
    if budget_ms < axes.get_xlim()[1]:
        axes.axvline(budget_ms, color=GREY, lw=1.2, ls=(0, (5, 4)), zorder=1)


def _title(axes: Any, found: Optimised, left_out: int, marks: Mapping[str, str]) -> None:
    winner = found.verdict.winner
    if winner is None:
        said = "nothing is faster within the tolerance"
    else:
        size = winner.size_bytes / found.verdict.baseline.size_bytes
        said = f"{winner.timings[0].speedup:.1f} times as fast, {size:.2f} of the size"
    axes.set_title(f"{found.asked.model.stem}: {said}", loc="left", fontsize=14, fontweight="bold", color=INK, pad=30)
    words = "blue fits what was asked, grey does not; area: size on disk"
    if len(marks) > 1:
        words += "; " + ", ".join(f"{MARKS[mark]}: {backend}" for backend, mark in marks.items())
    if left_out:
        words += f"; {left_out} far worse or slower ones are not drawn"
    axes.annotate(
        words, (0, 1), xycoords="axes fraction", xytext=(0, 12), textcoords="offset points", fontsize=10, color=GREY
    )


def _words(found: Optimised, trial: Trial) -> str:
    figures = f"{format_duration(round(_ms(found, trial) * 1e6))}, {_size(trial.size_bytes)}"
    words = f"{trial.recipe.name}\n{trial.backend}, {figures}"
    if trial is found.verdict.winner:
        return f"winner: {words}"
    return f"baseline: {words}" if trial is found.verdict.baseline else words


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:,.0f} kB"


def _tick(value_ms: float) -> str:
    """Return a time of the axis, without zeros behind the point."""
    for unit, of_ms in (("s", 1e3), ("ms", 1.0), ("µs", 1e-3)):
        if value_ms >= of_ms * 0.9999:
            return f"{value_ms / of_ms:.3g} {unit}"
    return f"{value_ms * 1e6:.3g} ns"
