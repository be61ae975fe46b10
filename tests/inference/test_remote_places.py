from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tailrace.deadline import NS_PER_MS, MonotonicClock
from tailrace.inference.remote.places import CallPlaces

CLOCK = MonotonicClock()


def in_ms(left_ms: float) -> int:
    """Return a deadline."""
    return CLOCK.now_ns() + int(left_ms * NS_PER_MS)


def run(work: Callable[[CallPlaces], Coroutine[Any, Any, None]], places_max: int = 2) -> None:
    """Run something with places."""
    asyncio.run(work(CallPlaces(places_max, CLOCK)))


def test_first_parts_go_before_later_ones_then_the_earliest_deadline() -> None:
    """A large batch that waits for its third place lets a small one pass, though its own deadline is sooner."""

    async def three_wait(places: CallPlaces) -> None:
        order: list[str] = []

        async def take(name: str, left_ms: float, taken: int = 0) -> None:
            assert await places.take(in_ms(left_ms), taken)
            order.append(name)

        await take("large 1", 1_000)
        await take("large 2", 1_000, 1)
        waiting = [
            asyncio.create_task(each)
            for each in (take("large 3", 1_000, 2), take("small, late", 3_000), take("small, soon", 2_000))
        ]
        await asyncio.sleep(0)
        assert len(order) == 2
        for _ in waiting:
            places.give_back()
        await asyncio.gather(*waiting)
        assert order[2:] == ["small, soon", "small, late", "large 3"]

    run(three_wait)


def test_who_waits_is_told_at_the_deadline() -> None:
    """No place is kept for who has given up; one without time gets none."""

    async def late_then_free(places: CallPlaces) -> None:
        assert await places.take(in_ms(1_000))
        assert not await places.take(in_ms(5))
        assert not await places.take(in_ms(-1))
        places.give_back()
        assert not await places.take(in_ms(-1))
        assert await places.take(in_ms(1_000))

    run(late_then_free, 1)


def test_place_of_who_is_cancelled_goes_on() -> None:
    """Cancelled while it waits, or when it has just been given a place: the next one gets it."""

    async def cancelled(places: CallPlaces) -> None:
        assert await places.take(in_ms(1_000))
        first, second, third = (asyncio.create_task(places.take(in_ms(1_000 + after))) for after in range(3))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        places.give_back()
        second.cancel()
        assert await third
        for task in (first, second):
            with pytest.raises(asyncio.CancelledError):
                await task

    run(cancelled, 1)
