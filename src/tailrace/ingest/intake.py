"""The ingester's intake: what workers bring is gathered, and counted in together.

While one group of events is written, the next one gathers, as calls do in a loop's tick: so a store's transaction costs
the more events the less the more there are. A thread writes; the loop goes on reading, and says that it lives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.errors import TailraceError
from tailrace.features.updates import joined_fates
from tailrace.ingest.counting import StreamCounter, count_apart

EVENTS_MAX: Final = 4_096
"""Written together at most, but for a frame of more."""
Frame = tuple[int, list[Any]]
"""What one sender sent at once, decoded: its place in the group, and its events."""


class Route(NamedTuple):
    """What events of one kind go through. decode: to the stream's schema. counters: of all streams that they are of."""

    decode: Callable[[Any], list[Any]]
    counters: tuple[StreamCounter, ...]


class Waiting(NamedTuple):
    """Events that wait to be counted. events: still encoded. answer: is called with the fates, or None and why not."""

    route: str
    events: msgspec.Raw
    answer: Callable[[bytes | None, str], None]


class EventIntake:
    """Counts events in, group by group. on_counted: is called with a stream's name and the fates of its events."""

    def __init__(
        self, routes: Mapping[str, Route], on_counted: Callable[[str, NDArray[np.uint8]], None] | None = None
    ) -> None:
        self._routes = routes
        self._on_counted = on_counted
        self._waiting: list[Waiting] = []
        self._came = asyncio.Event()
        self._is_counting = False
        self._works = 0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="events")

    @property
    def waiting(self) -> int:
        """How many frames wait."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits, and no work is under way."""
        return not (self._waiting or self._is_counting or self._works)

    def take(self, waiting: Waiting) -> None:
        """Take events; they are answered when they are counted."""
        self._waiting.append(waiting)
        self._came.set()

    async def run(self) -> None:
        """Count until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._came.wait()
            group, self._waiting = self._waiting, []
            self._came.clear()
            self._is_counting = True
            answers = await loop.run_in_executor(self._writer, self._count_all, group)
            for waiting, (fates, why) in zip(group, answers, strict=True):
                waiting.answer(fates, why)
            self._is_counting = bool(self._waiting)

    async def between(self, work: Callable[[], None]) -> None:
        """Do some other work with the stores, between two groups. Raises what it raises."""
        self._works += 1
        try:
            await asyncio.get_running_loop().run_in_executor(self._writer, work)
        finally:
            self._works -= 1

    async def drain(self) -> None:
        """Wait until nothing waits, and no work is under way; `run` must go on meanwhile."""
        while not self.is_idle:
            await asyncio.sleep(0.01)

    def close(self) -> None:
        """Let go of the thread, which may be held by a store's lock for ever."""
        self._writer.shutdown(wait=False, cancel_futures=True)

    # -- on the writer's thread ---------------------------------------------------------------------------------------

    def _count_all(self, group: Sequence[Waiting]) -> list[tuple[bytes | None, str]]:
        """Return the answer to each of a group, in order."""
        answers: list[tuple[bytes | None, str]] = [(None, "")] * len(group)
        by_route: dict[tuple[StreamCounter, ...], list[Frame]] = {}
        for place, waiting in enumerate(group):
            route = self._routes.get(waiting.route)
            try:
                if route is None:
                    raise ValueError(f"nothing takes events of {waiting.route!r}")
                by_route.setdefault(route.counters, []).append((place, route.decode(waiting.events)))
            except (msgspec.MsgspecError, ValueError) as error:
                answers[place] = None, str(error)
        for counters, decoded in by_route.items():
            for part in _parts(decoded):
                for place, answer in self._count_part(counters, part):
                    answers[place] = answer
        return answers

    def _count_part(
        self, counters: Sequence[StreamCounter], part: Sequence[Frame]
    ) -> list[tuple[int, tuple[bytes | None, str]]]:
        """Count some frames together, and one that cannot be counted alone, so that it takes no other along."""
        try:
            counted = [self._count(counter, part) for counter in counters]
        except TailraceError as error:
            return [(place, (None, str(error))) for place, _ in part]
        except Exception as error:  # of a fault of ours: senders are told, and the next group is counted
            return [(place, (None, f"{type(error).__name__}: {error}")) for place, _ in part]
        sizes = [len(events) for _, events in part]
        joined = joined_fates([fates for fates, _ in counted]) if counted else np.zeros(sum(sizes), np.uint8)
        answers: list[tuple[int, tuple[bytes | None, str]]] = []
        for (place, _), own in zip(part, np.split(joined, np.cumsum(sizes)[:-1]), strict=True):
            fault = next((faults[place] for _, faults in counted if place in faults), None)
            answer = (own.tobytes(), "") if fault is None else (None, f"{type(fault).__name__}: {fault}")
            answers.append((place, answer))
        return answers

    def _count(self, counter: StreamCounter, part: Sequence[Frame]) -> tuple[NDArray[np.uint8], dict[int, Exception]]:
        """Count the events of some frames in one stream; return their fates, and what some frames raised, by place.

        The fates of a frame that raised say nothing. Each stream looks for its own poison: frames that one stream
        counts again because of a poison in another would be recorded as duplicates.
        """

        def count(frames: Sequence[Frame]) -> NDArray[np.uint8]:
            events = [event for _, events in frames for event in events]
            if not events:
                return np.zeros(0, np.uint8)
            fates = counter.count_decoded(events)
            if self._on_counted is not None:
                self._on_counted(counter.stream.name, fates)
            return fates

        parts: list[NDArray[np.uint8]] = []
        faults: dict[int, Exception] = {}
        for frames, outcome in count_apart(part, count):
            if isinstance(outcome, Exception):
                ((place, events),) = frames
                faults[place] = outcome
                parts.append(np.zeros(len(events), np.uint8))
            else:
                parts.append(outcome)
        return np.concatenate(parts), faults


def _parts(decoded: Sequence[Frame]) -> list[list[Frame]]:
    """Return frames in parts of at most `EVENTS_MAX` events, or of one frame."""
    parts: list[list[Frame]] = []
    size = EVENTS_MAX
    for each in decoded:
        if size + len(each[1]) > EVENTS_MAX:
            parts.append([])
            size = 0
        parts[-1].append(each)
        size += len(each[1])
    return parts
