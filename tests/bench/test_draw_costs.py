"""The picture of what a request costs is drawn from figures, and from nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from draw_costs import BATCH, PANELS, STREAM, draw
from machine import BenchError
from panel import BOTTOM, TOP
from picture import write_picture

FEATURES: dict[str, Any] = {
    "cost_windows": [[1, 14.0], [10, 15.0], [50, 17.0]],
    "cost_windows_batch": [[1, 12.0], [10, 12.5], [50, 13.0]],
    "cost_entities": [[1, 18.0], [50, 110.0], [200, 500.0]],
    "cost_entities_batch": [[1, 16.0], [50, 90.0], [200, 360.0]],
}


def places_of(picture: str, colour: str) -> list[list[tuple[float, float]]]:
    """Return the places of all lines of a colour."""
    found = re.findall(rf'class="line" stroke="{colour}" d="M([^"]+)"', picture)
    return [[(float(across), float(up)) for across, up in (each.split() for each in line.split("L"))] for line in found]


def test_picture_is_well_formed_and_described() -> None:
    """It is XML, names both kinds of views, and says in words what it shows."""
    root = ElementTree.fromstring(draw(FEATURES))
    told = ["".join(each.itertext()) for each in root]
    assert "A request with 1 window takes 14 µs, with 50 windows 17 µs" in told[1]
    assert "1 entity takes 18 µs, with 200 entities 500 µs" in told[1]
    assert {"stream views", "batch views", "entities a request", "200", "50"} <= set(told)


def test_lines_go_through_the_figures() -> None:
    """In each panel stream views cost more than batch views, from left to right, and no cost at all is the bottom."""
    picture = draw(FEATURES)
    for (left, right), stream, batch in zip(PANELS, places_of(picture, STREAM), places_of(picture, BATCH), strict=True):
        assert len(stream) == len(batch) == 3
        for (across, high), (_, low) in zip(stream, batch, strict=True):
            assert left < across <= right
            assert TOP < high < low < BOTTOM
        assert stream == sorted(stream)


@pytest.mark.parametrize("missing", [{}, {**FEATURES, "cost_entities": [[1, 18.0]]}])
def test_figures_without_a_curve_are_refused(
    missing: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without two points of each curve nothing is written, and what measures them is said."""
    with pytest.raises(BenchError, match="cost_"):
        draw(missing)
    figures, out = tmp_path / "bench.json", tmp_path / "costs.svg"
    figures.write_text(json.dumps({"features": missing}))
    monkeypatch.setattr("sys.argv", ["draw_costs.py", str(figures), "--out", str(out)])
    assert write_picture(None, "features", draw, "costs.svg") == 1
    assert "make bench ONLY=features" in capsys.readouterr().err
    assert not out.exists()
