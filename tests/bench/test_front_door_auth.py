"""The figures of keys and limits: what is made of the rounds."""

from __future__ import annotations

from front_door_auth import CALLERS, lines, summarize


def test_what_is_added_is_that_of_the_pairs() -> None:
    """A round that was slow for all moves no figure; the line that must hold is the key with its own limits."""
    costs = {name: [8.0 + place, 80.0 + place, 9.0 + place] for place, name in enumerate(CALLERS)}
    figures = summarize(costs)
    assert figures.pop("auth_table_us") == 5.0
    assert figures == {"auth_us": 3.0, "auth_key_us": 1.0, "auth_rate_us": 2.0, "auth_all_us": 4.0, "auth_bare_us": 9.0}
    first, *_ = lines({"front_door": figures | {"auth_table_us": 5.0}})
    assert (first.must, first.aim, first.value) == (2, 1, 3.0)
