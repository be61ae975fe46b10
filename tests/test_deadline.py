from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.deadline import LAYERS, NS_PER_MS, Budget, MonotonicClock, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "duration_ns"),
    [
        ("5ns", 5),
        ("7us", 7_000),
        ("7µs", 7_000),
        ("50ms", 50_000_000),
        ("1.5s", 1_500_000_000),
        (" 2 m ", 120 * 10**9),
        ("1h", 3_600 * 10**9),
        ("90d", 90 * 86_400 * 10**9),
        ("0ms", 0),
        ("0.5ms", 500_000),
    ],
)
def test_duration_is_read(text: str, duration_ns: int) -> None:
    """Every unit, fractions, and space around."""
    assert parse_duration(text) == duration_ns


@pytest.mark.parametrize("text", ["", "ms", "5", "-5ms", "5 minutes", "5ms5", "1e3ms", "five ms", "5 MS"])
def test_text_that_is_no_duration_is_refused(text: str) -> None:
    """The error names the text and the units."""
    with pytest.raises(ValueError, match="ns, us, ms, s, m, h, d"):
        parse_duration(text)


@given(st.integers(1, 10**6), st.sampled_from(["ns", "us", "ms", "s", "m", "h", "d"]))
def test_duration_is_exact(count: int, unit: str) -> None:
    """A whole number of a unit is that many nanoseconds."""
    assert parse_duration(f"{count}{unit}") == count * parse_duration(f"1{unit}")


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [
        (0, "0 ns"),
        (999, "999 ns"),
        (1_240_000, "1.24 ms"),
        (85_000, "85.0 µs"),
        (850_000, "850 µs"),
        (2 * 10**9, "2.00 s"),
        (-3_000_000, "-3.00 ms"),
    ],
)
def test_duration_is_told_in_three_digits(duration_ns: int, text: str) -> None:
    """In the largest unit that gives at least one."""
    assert format_duration(duration_ns) == text


def test_budget_leaves_a_buffer() -> None:
    """What the layers do not take; each layer owes what stands behind it."""
    budget = Budget("50ms", request="2ms", features="15ms", inference="20ms", postprocess="3ms", response="2ms")
    assert budget.buffer_ns == 8 * NS_PER_MS
    assert [budget.owed_after_ns(layer) // NS_PER_MS for layer in range(len(LAYERS))] == [40, 25, 5, 2, 0]
    assert sum(budget.layers_ns) + budget.buffer_ns == budget.total_ns


def test_budget_over_its_total_has_a_negative_buffer() -> None:
    """It can be declared; the compiler refuses it."""
    assert Budget("10ms", features="8ms", inference="4ms").buffer_ns == -2 * NS_PER_MS


def test_budget_of_no_duration_is_refused() -> None:
    """A mistake in a text is told where it is written."""
    with pytest.raises(ValueError, match="'fast' is not a duration"):
        Budget("50ms", features="fast")


def test_monotonic_clock_goes_forward() -> None:
    """Two clocks: one for deadlines, one for the age of features."""
    clock = MonotonicClock()
    first = clock.now_ns()
    assert clock.now_ns() >= first
    assert clock.wall_ns() > 1_600_000_000 * 10**9
