"""The picture of latency and goodput is drawn from figures, and from nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from draw_load import LATENCY_BOTTOM, LATENCY_TOP, LEFT, P50, P99, RIGHT, draw
from machine import BenchError
from picture import write_picture

SHARES = (0.1, 0.5, 0.8, 1.0, 2.0, 3.0)


def curve_of(p50s_ms: tuple[float | None, ...] = (0.5, 0.6, 0.8, 60.0, 95.0, 100.0)) -> dict[str, Any]:
    """Return the figures of a server that answers 2,000 calls a second, and 1,800 when it is asked for thrice."""
    points = [
        {"share": share, "offered_rps": 2_000 * share, "goodput_rps": min(2_000 * share, 2_000 - 100 * (share // 1.5)),
         "refused_share": 0.0, "p50_ms": p50_ms, "p99_ms": None if p50_ms is None else 1.3 * p50_ms}
        for share, p50_ms in zip(SHARES, p50s_ms, strict=True)
    ]  # fmt: skip
    return {"capacity_rps": 2_000, "budget_ms": 200, "points": points}


def places_of(picture: str, colour: str) -> list[tuple[float, float]]:
    """Return the places of the first line of a colour."""
    found = re.search(rf'class="line" stroke="{colour}" d="M([^"]+)"', picture)
    assert found
    return [(float(across), float(up)) for across, up in (each.split() for each in found[1].split("L"))]


def test_picture_is_well_formed_and_described() -> None:
    """It is XML, names itself, and says in words what it shows."""
    root = ElementTree.fromstring(draw(curve_of()))
    told = ["".join(each.itertext()) for each in root]
    assert root.attrib["aria-labelledby"] == "t d"
    assert "At 10% of the capacity the p99 of accepted calls is 0.7 ms, at 300% 130 ms" in told[1]
    assert {"budget 200 ms", "p50", "p99", "capacity", "offered", "100%", "300%"} <= set(told)


def test_lines_go_through_the_figures() -> None:
    """Each load has its place, from left to right, p50 below p99, both inside the panel."""
    picture = draw(curve_of())
    p50, p99 = places_of(picture, P50), places_of(picture, P99)
    assert len(p50) == len(p99) == len(SHARES)
    for (share, low), (_, high) in zip(p50, p99, strict=True):
        assert LEFT < share <= RIGHT
        assert LATENCY_TOP < high < low < LATENCY_BOTTOM
    assert p50 == sorted(p50, key=lambda place: (place[0], -place[1]))


def test_load_without_an_answer_is_left_out() -> None:
    """A load at which nothing was accepted has no latency to draw; without two others there is no curve."""
    assert len(places_of(draw(curve_of((0.5, 0.6, 0.8, 60.0, 95.0, None))), P50)) == len(SHARES) - 1
    with pytest.raises(BenchError, match="nothing to draw"):
        draw(curve_of((0.5, None, None, None, None, None)))


def test_figures_without_a_curve_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a curve nothing is written, and what measures one is said."""
    out = tmp_path / "load.svg"
    monkeypatch.setattr("sys.argv", ["draw_load.py", str(tmp_path / "none.json"), "--out", str(out)])
    assert write_picture(None, "load_curve", draw, "load.svg") == 1
    assert "make bench ONLY=load_curve" in capsys.readouterr().err
    assert not out.exists()
