"""Names beside the marks of a picture, each where it covers least of what is drawn already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Label(NamedTuple):
    """A name. x, y, area: of its mark, in data and points². is_kept: it is written though it covers something."""

    x: float
    y: float
    area: float
    words: str
    colour: str
    is_kept: bool


def write_labels(axes: Any, labels: Sequence[Label], marks: Sequence[tuple[float, float, float]]) -> None:
    """Write names on axes that were laid out. marks: all that are drawn, as (x, y, area)."""
    points = axes.figure.dpi / 72
    taken = [_box_of(axes, x, y, _radius(area) * points) for x, y, area in marks]
    for label in labels:
        notes = [_note(axes, label, place) for place in _places(_radius(label.area))]
        boxes = [note.get_window_extent(axes.figure.canvas.get_renderer()) for note in notes]
        covered = [_covered(box, axes.get_window_extent(), taken) for box in boxes]
        best = min(range(len(notes)), key=covered.__getitem__)
        is_written = label.is_kept or not covered[best]
        for place, note in enumerate(notes):
            if place != best or not is_written:
                note.remove()
        if is_written:
            taken.append(boxes[best])


def _note(axes: Any, label: Label, place: tuple[float, float, str]) -> Any:
    from matplotlib.patheffects import withStroke

    across, up, align = place
    return axes.annotate(
        label.words, (label.x, label.y), xytext=(across, up), textcoords="offset points", ha=align, va="center",
        fontsize=10.5 if label.is_kept else 9, color=label.colour, zorder=5,
        fontweight="bold" if label.is_kept else "normal", path_effects=[withStroke(linewidth=3, foreground="w")],
    )  # fmt: skip


def _radius(area: float) -> float:
    """Return a mark's radius, in points."""
    return float((area / 3.1416) ** 0.5)


def _box_of(axes: Any, x: float, y: float, radius: float) -> Any:
    """Return the square that a mark fills, in pixels."""
    from matplotlib.transforms import Bbox

    across, up = axes.transData.transform((x, y))
    side = radius * 0.85
    return Bbox([[across - side, up - side], [across + side, up + side]])


def _covered(box: Any, frame: Any, taken: Sequence[Any]) -> int:
    """Return how many pixels a name would cover of what is there; those outside the frame count ten times."""
    from matplotlib.transforms import Bbox

    inside = Bbox.intersection(box, frame)
    outside = box.width * box.height - (inside.width * inside.height if inside else 0.0)
    common = [found for other in taken if (found := Bbox.intersection(box, other))]
    return int(outside) * 10 + int(sum(each.width * each.height for each in common))


def _places(radius: float) -> list[tuple[float, float, str]]:
    """Return where a name may stand beside a mark: right, left, below, above, and further off."""
    side = radius + 6
    return [
        (side, 0, "left"), (-side, 0, "right"), (0, -side - 10, "center"), (0, side + 10, "center"),
        (side, -22, "left"), (side, 22, "left"), (-side, -22, "right"), (-side, 22, "right"),
        (side, -44, "left"), (side, 44, "left"), (0, -side - 38, "center"), (0, side + 38, "center"),
    ]  # fmt: skip
