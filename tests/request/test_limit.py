"""What a limit says, and what is none."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace.request.limit import Limit
from tailrace.request.priority import QUEUE_WEIGHTS, Priority


@pytest.mark.parametrize(
    ("rate", "interval_ns", "tokens"),
    [("100/s", 10_000_000, 100), ("6000/m", 10_000_000, 6_000), ("10/h", 360 * 10**9, 10), ("5/d", 17_280 * 10**9, 5)],
)
def test_rate_is_requests_over_time(rate: str, interval_ns: int, tokens: int) -> None:
    """A rate says after which time there is one more, and, where no burst is named, how many may come at once."""
    limit = Limit(rate=rate)
    assert (limit.interval_ns, limit.tokens_max) == (interval_ns, tokens)
    assert Limit(rate=rate, burst=3).tokens_max == 3


def test_limit_of_calls_in_flight_alone_has_no_rate() -> None:
    """Calls in flight are counted without tokens; a limit of nothing lets all pass."""
    assert not Limit(concurrent=4).is_any
    assert Limit(concurrent=4).interval_ns == 0
    assert Limit().is_any


@pytest.mark.parametrize(
    "given",
    [{"rate": "100"}, {"rate": "0/s"}, {"rate": "-1/s"}, {"rate": "1.5/s"}, {"rate": "100/w"}, {"rate": "100/s "},
     {"rate": 100}, {"rate": "2000000/s"}, {"burst": 5}, {"rate": "1/s", "burst": 0}, {"rate": "1/s", "burst": True},
     {"concurrent": 0}, {"concurrent": 1.5}],
)  # fmt: skip
def test_what_is_no_limit_is_refused(given: dict[str, Any]) -> None:
    """What cannot be kept to is an error where it is declared."""
    with pytest.raises(ValueError, match=r"rate|range|million"):
        Limit(**given)


def test_ranks_of_other_protocols_are_levels() -> None:
    """1 goes first, 0 is the usual one; the lower a level, the more each row that waits counts for."""
    assert [Priority.of_rank(rank) for rank in (0, 1, 2, 3, 99, -1)] == [
        Priority.NORMAL, Priority.HIGH, Priority.NORMAL, Priority.LOW, Priority.LOW, Priority.LOW,
    ]  # fmt: skip
    assert QUEUE_WEIGHTS[Priority.HIGH] < QUEUE_WEIGHTS[Priority.NORMAL] == 1 < QUEUE_WEIGHTS[Priority.LOW]
