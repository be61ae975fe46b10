from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace.inference.composition.shares import edges_of, positions, seed_of

IDS = np.arange(-2_000, 20_000)
SEED = seed_of("fraud")
SHOWN = "import numpy as np; from tailrace.inference.composition.shares import *;" \
        "print(positions(np.array([4021]), seed_of('fraud'))[0], " \
        "positions(np.array(['4021'], object), seed_of('fraud'))[0])"  # fmt: skip


def drawn(*shares: float, ids: np.ndarray = IDS) -> np.ndarray:
    """Return the variant of each id."""
    return edges_of(shares).searchsorted(positions(ids, SEED), side="right")


def test_positions_never_change() -> None:
    """A release, a machine or a Python that hashed otherwise would move every caller."""
    texts = np.array(["4021", "", "é" * 1_000], object)
    assert positions(np.array([0, 4021, -1, 2**63 - 1]), SEED).tolist() == [
        4134157680726237,
        3245411803830700,
        8292697750909250,
        7079896166288944,
    ]
    assert positions(texts, SEED).tolist() == [6135785248854862, 3299667878545570, 5164772294076361]


def test_positions_are_the_same_in_another_process() -> None:
    """Python's own hash of a text is another in each."""
    found = subprocess.run([sys.executable, "-c", SHOWN], capture_output=True, text=True, check=True, timeout=60)
    own = positions(np.array([4021]), SEED)[0], positions(np.array(["4021"], object), SEED)[0]
    assert found.stdout.split() == [str(each) for each in own]


@given(st.integers(-(2**63), 2**63 - 1), st.text(max_size=300))
def test_row_has_the_same_position_alone_and_beside_others(number: int, text: str) -> None:
    """What a text's rest is, behind its first 256 characters, is not looked at."""
    assert positions(np.array([1, number]), SEED)[1] == positions(np.array([number]), SEED)[0]
    one, other = positions(np.array([text[:256], text], object), SEED)
    assert one == other


@settings(max_examples=40)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_growing_share_takes_from_its_neighbour_once(parts: list[float]) -> None:
    """However b grows, step by step, an id moves from a to b at most once, and never back; no id moves elsewhere."""
    before = drawn(1.0, 0.0)
    moves = np.zeros(len(IDS), int)
    for share in sorted(parts):
        now = drawn(1 - share, share)
        assert (now >= before).all()
        moves += now != before
        before = now
    assert moves.max() <= 1


@settings(max_examples=40)
@given(st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 0.25), st.floats(0, 0.25))
def test_share_in_the_middle_gives_to_both_sides_alone(b: float, c: float, more_b: float, more_c: float) -> None:
    """Of three variants those that grow take from the one between them alone, and as few as can be."""
    if b + c + more_b + more_c > 1:
        more_b = more_c = 0.0
    before = drawn(b, 1 - b - c, c)
    after = drawn(b + more_b, 1 - b - c - more_b - more_c, c + more_c)
    moved = before != after
    assert set(before[moved].tolist()) <= {1}
    assert abs(moved.mean() - more_b - more_c) < 0.02


@pytest.mark.parametrize("ids", [IDS, IDS * 1_000, np.array([f"customer-{each}" for each in IDS], object)])
def test_shares_are_drawn_evenly(ids: np.ndarray) -> None:
    """By ids in a row, with gaps, and texts, each hundredth is near its size; another salt is another draw."""
    counts = np.bincount(positions(ids, SEED) * np.uint64(100) >> np.uint64(53), minlength=100)
    assert ((counts - 220) ** 2 / 220).sum() < 160  # the 0.9999 quantile of chi squared of 99 degrees
    one, other = drawn(0.5, 0.5, ids=ids), edges_of([0.5, 0.5]).searchsorted(positions(ids, seed_of("price")))
    assert abs((one == other).mean() - 0.5) < 0.02


def test_share_of_nothing_gets_nobody() -> None:
    """A variant with share 0 is asked for no row, at either end."""
    assert set(drawn(0.0, 1.0)) == {1}
    assert set(drawn(1.0, 0.0)) == {0}
    assert set(drawn(0.5, 0.0, 0.5)) == {0, 2}
