"""A picture's scales, and the command that writes one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from picture import Scale, write_picture


def test_scale_is_linear_or_in_powers() -> None:
    """Half way lies the mean of a linear axis, and the geometric mean of a logarithmic one."""
    assert Scale(0, 10, 100, 200).at(5) == 150
    assert Scale(1, 100, 100, 200, is_log=True).at(10) == 150


def test_picture_is_drawn_from_its_key_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A drawing gets what its part measured, and nothing of others; what it returns is the file."""
    figures, out = tmp_path / "bench.json", tmp_path / "picture.svg"
    figures.write_text(json.dumps({"one": {"value": 1}, "two": {"value": 2}}))
    monkeypatch.setattr("sys.argv", ["draw.py", str(figures), "--out", str(out)])
    assert write_picture("Draw.", "two", lambda found: f"<svg>{found}</svg>", "unused.svg") == 0
    assert out.read_text() == "<svg>{'value': 2}</svg>"
