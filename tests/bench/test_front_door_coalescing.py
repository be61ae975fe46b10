"""The figures of shared answers: what a load's repetition gives, and how its part is asked for."""

from __future__ import annotations

import json

import numpy as np
import pytest

import run
from front_door_coalescing import TTL_NS, body_of, draw_users, lines, predict_shared


def test_prediction_counts_what_comes_within_the_ttl_of_a_computation() -> None:
    """A shared answer renews nothing: the time runs from what was computed."""
    due_ns = np.array([0, TTL_NS // 2, TTL_NS - 1, TTL_NS, TTL_NS + 1, 3 * TTL_NS], np.int64)
    assert predict_shared([1] * 6, due_ns) == 3
    assert predict_shared([1, 2, 1, 2, 1, 2], due_ns) == 2


def test_load_repeats_as_zipf_says() -> None:
    """The first user asks twice as often as the second; requests of one are the same but for their page."""
    users = draw_users(50_000, 1)
    assert users.count(0) / users.count(1) == pytest.approx(2, rel=0.1)
    one, other = (json.loads(body_of(7, number)) for number in (1, 2))
    assert one | {"page_id": "p2"} == other


def test_group_of_parts_is_chosen_by_how_they_begin() -> None:
    """`front_door` stands for all its parts, and each can be asked for alone."""
    names = [part.name for part in run.choose_parts("front_door")]
    assert {"front_door", "front_door_coalescing"} <= set(names)
    assert all(name.startswith("front_door") for name in names)
    assert [part.name for part in run.choose_parts("front_door_coalescing")] == ["front_door_coalescing"]


def test_lines_hold_the_share_to_its_bounds() -> None:
    """A fifth must share, and it may be off what was predicted by 2%."""
    figures = {"coalesced_share": 0.39, "coalesced_predicted": 0.39, "coalesced_off": 0.0013, "coalesced_scored": 0.61}
    share, _, off, _ = lines({"front_door": figures})
    assert share.must is not None
    assert off.aim is not None
    assert share.reaches(share.must)
    assert off.reaches(off.aim)
    assert not off.reaches(0.1)
