"""The picture of a replay: scores of A against those of B with the flips, what the flips are worth, and why."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from textwrap import fill
from typing import Any, Final

import numpy as np

from tailrace.offline.whatif.report import DOWN, UP, Flip, WhatIf

TEAL, OCHRE, GREY, PALE, INK, GROUND, MUTED = (
    "#2f8f83", "#b5782a", "#4b5b6b", "#e4e8ec", "#1f2a37", "#fbfaf7", "#7c8b9a",
)  # fmt: skip
SHADES: Final = ("#dbe4ec", "#bccddd", "#8fa9c4", "#3f6fa3", "#1f3f63")
"""Of the density, from few requests to many."""
POINTS_MAX: Final = 4_000
"""Flips of a kind that are drawn; more would hide the others."""
BARS_MAX: Final = 6
CELLS: Final = 100
TAIL: Final = 0.02
"""Of scores that are no probabilities: this part at either end may be left out."""
BARS_ROOM: Final = 4
"""Bars are no wider than if there were so many."""
LINE: Final = 62
"""Characters of a line in place of a chart."""
NAME_MAX: Final = 36
WHOLE_MIN: Final = 100
"""Money from there on is told without what is behind the point."""
"""Of the density, along each axis."""
NARROW: Final = 0.07
"""Of an axis: a band that is narrower has no room for its name."""


def draw_picture(found: WhatIf, path: Path) -> None:
    """Write the picture as PNG or SVG, by the file's name. Raises ImportError where Matplotlib is not installed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.0, 7.1), dpi=150, facecolor=GROUND, layout="constrained")
    FigureCanvasAgg(figure)
    layout: Any = figure.get_layout_engine()
    layout.set(w_pad=0.14, h_pad=0.12, wspace=0.03)
    grid = figure.add_gridspec(2, 2, width_ratios=(1.06, 1.0))
    _draw_scores(figure.add_subplot(grid[:, 0]), found)
    _draw_worth(figure.add_subplot(grid[0, 1]), found)
    _draw_why(figure.add_subplot(grid[1, 1]), found)
    _title(figure, found)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Title": f"{found.names[0]} against {found.names[1]}"})


def _title(figure: Any, found: WhatIf) -> None:
    one, other = map(_short, found.names)
    share = f"{found.flipped / found.rows:.2%}"
    figure.suptitle(
        f"{found.flipped:,} of {found.rows:,} decisions flip ({share}) from {one} to {other}",
        x=0.011, ha="left", fontsize=15, fontweight="bold", color=INK,
    )  # fmt: skip


def _short(name: str) -> str:
    """Return the end of a long name, such as a directory's."""
    return name if len(name) <= NAME_MAX else f"…{name[1 - NAME_MAX :]}"


def _colour(flip: Flip) -> str:
    return {UP: OCHRE, DOWN: TEAL}.get(flip.direction, GREY)


def _frame(axes: Any, title: str) -> None:
    axes.set_facecolor("#ffffff")
    axes.set_title(title, loc="left", fontsize=11.5, color=INK, pad=10)
    axes.tick_params(which="both", colors=GREY, labelsize=9.5, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)


def _draw_scores(axes: Any, found: WhatIf) -> None:
    """Draw the density of all scores, the edges of both sides' bands, and the flips as points."""
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    pairs = found.scores.pairs
    low, high = _range(found)
    beyond = int(((pairs < low) | (pairs > high)).any(axis=1).sum())
    more = f"; {beyond:,} are beyond" if beyond else ""
    _frame(axes, f"score of each request; coloured: its decision flips{more}")
    cells = np.linspace(low, high, CELLS + 1)
    counts, _, _ = np.histogram2d(pairs[:, 0], pairs[:, 1], bins=(cells, cells))
    shades = LinearSegmentedColormap.from_list("density", SHADES)
    axes.pcolormesh(
        cells, cells, np.ma.masked_equal(counts.T, 0), cmap=shades, norm=LogNorm(1, max(counts.max(), 2)), zorder=1,
        rasterized=True,
    )  # fmt: skip
    axes.plot([low, high], [low, high], color=MUTED, lw=0.9, zorder=2)
    for flip in found.flips.values():
        points = flip.changes.pairs[:POINTS_MAX]
        axes.scatter(points[:, 0], points[:, 1], s=11, color=_colour(flip), alpha=0.75, lw=0, zorder=4, rasterized=True)
    _draw_edges(axes, found, low, high)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_box_aspect(1)
    axes.set_anchor("NW")
    axes.set_xlabel(f"score by {_short(found.names[0])}", color=GREY, fontsize=10.5)
    axes.set_ylabel(f"score by {_short(found.names[1])}", color=GREY, fontsize=10.5)


def _range(found: WhatIf) -> tuple[float, float]:
    """Return what both axes show: 0 to 1 for probabilities; else most scores, and all edges and flips."""
    pairs = found.scores.pairs
    if pairs.min() >= 0 and pairs.max() <= 1:
        return 0.0, 1.0
    flips = [value for flip in found.flips.values() for value in flip.changes.pairs[:POINTS_MAX].ravel()]
    edges = [edge for side in found.edges for edge in list(side.values())[1:] if np.isfinite(edge)]
    values = [*np.quantile(pairs, (TAIL, 1 - TAIL)), *flips, *edges]
    low, high = float(np.min(values)), float(np.max(values))
    room = (high - low or 1.0) * 0.05
    return low - room, high + room


def _draw_edges(axes: Any, found: WhatIf, low: float, high: float) -> None:
    """Draw where each band begins, and its name where there is room."""
    for side, line, across in ((found.edges[0], axes.axvline, True), (found.edges[1], axes.axhline, False)):
        names, starts = list(side), [max(edge, low) for edge in side.values()]
        for place, (name, start) in enumerate(zip(names, starts, strict=True)):
            end = starts[place + 1] if place + 1 < len(starts) else high
            if place and low < start < high:
                line(start, color=INK, lw=1.0, ls=(0, (5, 4)), zorder=3)
            if end - start < NARROW * (high - low):
                continue
            at = ((start + end) / 2, 1.0) if across else (1.0, (start + end) / 2)
            axes.annotate(
                name, at, xycoords=("data", "axes fraction") if across else ("axes fraction", "data"),
                xytext=(0, -4) if across else (-4, 0), textcoords="offset points", fontsize=9.5, color=INK, zorder=5,
                ha="center" if across else "right", va="top" if across else "center", rotation=0 if across else 270,
            )  # fmt: skip


def _draw_worth(axes: Any, found: WhatIf) -> None:
    """Draw a bar for each flip: its money, or its rows where there is none."""
    flips = found.ordered[:BARS_MAX]
    more = len(found.flips) - len(flips)
    what = "how many requests flip" if found.amount is None else _worth_of_all(found)
    _frame(axes, what + (f"; {more} smaller flips are not drawn" if more else ""))
    if not flips:
        _say(axes, "nothing flips")
        return
    values = [float(flip.rows if found.amount is None else flip.money) for flip in flips]
    axes.barh(range(len(flips)), values, color=[_colour(flip) for flip in flips], height=0.62, zorder=2)
    axes.set_yticks(range(len(flips)), [f"{flip.before} → {flip.after}" for flip in flips], fontsize=10.5, color=INK)
    _label(axes, values, [_worth(found, flip) for flip in flips])


def _worth_of_all(found: WhatIf) -> str:
    share = f", {found.money_flipped / found.money:.2%} of all" if found.money > 0 else ""
    return f"{found.amount} that flips: {_money(found.money_flipped)}{share}"


def _money(money: Decimal) -> str:
    return f"{money:,.0f}" if abs(money) >= WHOLE_MIN else f"{money:,.2f}"


def _worth(found: WhatIf, flip: Flip) -> str:
    words = [f"{flip.rows:,} request{'s' if flip.rows != 1 else ''}"]
    if found.amount is not None:
        words.insert(0, _money(flip.money))
    if found.outcomes and flip.right + flip.wrong:
        words.append(f"{flip.right:,} right, {flip.wrong:,} wrong")
    return "\n".join((", ".join(words[:2]), *words[2:])) if found.amount is not None else "\n".join(words)


def _draw_why(axes: Any, found: WhatIf) -> None:
    """Draw which features' contributions move most over the flips, up and down apart."""
    _frame(axes, "why: what a feature adds, B less A, mean")
    if found.unexplained or not found.flips:
        _say(axes, found.unexplained.replace("; ", "\n") if found.flips else "nothing flips")
        return
    flips = [flip for flip in found.flips.values() if flip.explained]
    moved: dict[str, float] = {}
    for flip in flips:
        for name, reason in flip.reasons.items():
            moved[name] = moved.get(name, 0.0) + reason.moved
    names = sorted(moved, key=lambda name: -moved[name])[:BARS_MAX]
    kinds = [kind for kind in (UP, DOWN, "") if any(flip.direction == kind for flip in flips)]
    height = 0.7 / len(kinds)
    for place, kind in enumerate(kinds):
        own = [flip for flip in flips if flip.direction == kind]
        rows = sum(flip.explained for flip in own)
        means = [sum(f.reasons[name].signed for f in own if name in f.reasons) / rows for name in names]
        at = np.arange(len(names)) + (place - (len(kinds) - 1) / 2) * height
        words = {UP: "flips to a higher band", DOWN: "flips to a lower band"}.get(kind, "all flips")
        axes.barh(at, means, color=_colour(own[0]), height=height * 0.9, label=words, zorder=2)
    axes.axvline(0, color=MUTED, lw=1, zorder=3)
    axes.set_yticks(range(len(names)), names, fontsize=10.5, color=INK)
    axes.invert_yaxis()
    axes.grid(axis="x", color=PALE, lw=0.9, zorder=0)
    axes.margins(x=0.08)
    axes.legend(frameon=False, fontsize=9.5, labelcolor=GREY, loc="best")


def _label(axes: Any, values: Sequence[float], words: Sequence[str]) -> None:
    """Write beside each bar what it is, with room for it."""
    axes.set_ylim(max(len(values), BARS_ROOM) - 0.5, -0.5)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.axvline(0, color=MUTED, lw=1, zorder=3)
    low, high = min(0.0, *values), max(0.0, *values)
    axes.set_xlim(low * 1.05, high + (high - low or 1.0) * 0.5)
    for place, (value, text) in enumerate(zip(values, words, strict=True)):
        axes.annotate(
            text, (max(value, 0.0), place), xytext=(6, 0), textcoords="offset points", va="center", fontsize=9.5,
            color=GREY,
        )  # fmt: skip


def _say(axes: Any, words: str) -> None:
    """Write a sentence in place of a chart."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines["bottom"].set_visible(False)
    text = "\n".join(fill(line, LINE) for line in words.splitlines())
    axes.annotate(text, (0.02, 0.94), xycoords="axes fraction", ha="left", va="top", fontsize=10, color=GREY)
