"""A panel's axes have round numbers with room between them, and a name of a curve lies beside it."""

from __future__ import annotations

from panel import height_at, round_between, round_step, spaced, write_us
from picture import Scale


def test_step_is_round_and_no_smaller() -> None:
    """A step is 1, 2 or 5 times a power of ten."""
    assert [round_step(least) for least in (1.0, 1_926.0, 4_300.0, 7.0)] == [1.0, 2_000.0, 5_000.0, 10.0]


def test_numbers_of_a_logarithmic_axis_are_round() -> None:
    """Between its ends stand all of 1, 2 and 5 times a power of ten, with the unit that suits."""
    assert round_between(2, 110) == [2, 5, 10, 20, 50, 100]
    assert [write_us(cost_us) for cost_us in (5, 500, 2_000)] == ["5 µs", "500 µs", "2 ms"]


def test_numbers_without_room_are_left_out() -> None:
    """The last number stands below its axis, and of the others those that are not too near."""
    assert spaced([1, 4, 16, 64, 128, 256, 500], Scale(0, 500, 0, 250)) == [500, 256, 128, 64, 16]


def test_height_of_a_line_is_between_its_points() -> None:
    """Between two points a line is straight; left of all it is as high as the first."""
    places = [(0.0, 10.0), (10.0, 20.0), (20.0, 0.0)]
    assert [height_at(places, across) for across in (5, 15, -3)] == [15, 10, 10]
