"""The pictures of windows are drawn from what a server would read, and are those of today."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree import ElementTree

import numpy as np
import pytest

from draw_window import CARD, NOON_S, PAYMENTS, PICTURES, clock_s, serve, told
from features.read_rule import NS_PER_S, Asked, Happened, answer
from peers import ROOT

COLUMNS = {
    "count_5m": Asked("count", 300),
    "count_5m_own": Asked("count", 300, include_current=True),
    "count_5m_2m_ago": Asked("count", 300, delay_s=120),
    "count_5m_30m_ago": Asked("count", 300, delay_s=1_800),
    "count_1h": Asked("count", 3_600),
    "mean_1h": Asked("mean", 3_600),
}


@pytest.mark.parametrize(("name", "draw"), PICTURES.items(), ids=list(PICTURES))
def test_picture_is_what_the_code_serves(name: str, draw: Callable[[], str]) -> None:
    """A picture of the documentation is the one that is drawn today; it is XML, and says in words what it shows."""
    drawn = draw()
    assert (ROOT / "docs" / "img" / name).read_text() == drawn, "run `python bench/draw_window.py`"
    root = ElementTree.fromstring(drawn)
    assert root.attrib["aria-labelledby"] == "t d"
    assert len("".join(root[1].itertext())) > 200


def test_lines_follow_the_read_rule() -> None:
    """What is drawn at a moment is what the rule by brute force says, and nothing is left an hour after the last."""
    events = [Happened((NOON_S + clock_s(at)) * NS_PER_S, number, CARD, round(100 * amount), "")
              for number, (at, amount) in enumerate(PAYMENTS)]  # fmt: skip
    seconds = np.random.default_rng(5).integers(0, 105 * 60, 150).astype(float)
    served = serve(seconds)
    for place, second in enumerate(seconds):
        now = Happened((NOON_S + int(second)) * NS_PER_S, None, CARD, 100, "")
        for column, asked in COLUMNS.items():
            assert served[column][place] == pytest.approx(answer(asked, events, now) or 0), (column, told(second))
    assert serve(np.array([clock_s("13:32:00")], float))["count_1h"].tolist() == [0]


def test_times_are_told_with_the_seconds_they_have() -> None:
    """A whole minute is told without seconds, unless they are asked for."""
    assert [told(0), told(4_205), told(3_600)] == ["12:00", "13:10:05", "13:00"]
    assert told(360, seconds_too=True) == "12:06:00"
    assert clock_s("13:10:05") == 4_205
