from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from tailrace.batch import Batch
from tailrace.inference.composition.together import ask_together
from tailrace.inference.scored import Scored


class Member:
    """A stage that waits for a number of turns, and notes its beginning and end; or raises."""

    def __init__(self, events: list[str], name: str, turns: int, error: Exception | None = None) -> None:
        self.rows_inline_max = 0 if turns else 100
        self._events, self._name, self._turns, self._error = events, name, turns, error

    async def score(self, batch: Batch, picked: Any, deadline_ns: int) -> Scored:
        """Return the number of its turns as a score."""
        self._events.append(f"{self._name} begins")
        try:
            for _ in range(self._turns):
                await asyncio.sleep(0)
        finally:
            self._events.append(f"{self._name} ends")
        if self._error is not None:
            raise self._error
        return Scored(np.full(batch.rows, float(self._turns)))


def ask(members: list[Any], *, suspends: bool = True) -> list[float]:
    """Return what members say of a batch of one row."""
    batch = Batch([], 0, 0, suspends, rows=1)
    found = asyncio.run(ask_together(batch, [(member, None) for member in members], 0))
    return [float(scored.scores[0]) for scored in found]


def test_members_that_wait_are_begun_first_and_side_by_side() -> None:
    """The light one runs meanwhile; what they say comes in their order."""
    events: list[str] = []
    members = [Member(events, "light", 0), Member(events, "slow", 9), Member(events, "slower", 12)]
    assert ask(members) == [0.0, 9.0, 12.0]
    assert events == ["slow begins", "slower begins", "light begins", "light ends", "slow ends", "slower ends"]


def test_batch_that_does_not_suspend_asks_one_after_the_other() -> None:
    """Without a task, to the end, as an engine drives it."""
    events: list[str] = []
    members = [Member(events, "one", 0), Member(events, "other", 0)]
    batch = Batch([], 0, 0, suspends=False, rows=1)
    with pytest.raises(StopIteration):
        ask_together(batch, [(member, None) for member in members], 0).send(None)  # type: ignore[misc]
    assert events == ["one begins", "one ends", "other begins", "other ends"]


@pytest.mark.filterwarnings("error")
def test_member_that_raises_does_not_strand_the_others() -> None:
    """Those that wait are waited for; the first error is the caller's, and none is left behind."""
    events: list[str] = []
    members = [
        Member(events, "slow", 9), Member(events, "broken", 3, ValueError("one")),
        Member(events, "other", 5, ValueError("two")),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="one"):
        ask(members)
    assert events.count("slow ends") == 1
    light = Member(events, "light", 0, ValueError("light"))
    with pytest.raises(ValueError, match="light"):
        ask([Member(events, "second", 9), light])
    assert events[-1] == "second ends"
