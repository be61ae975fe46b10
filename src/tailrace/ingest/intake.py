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
from tailrace.ingest.applier import Applier
from tailrace.ingest.decoded import DecodedEvents

EVENTS_MAX: Final = 4_096
"""Written together at most, but for a frame of more."""


class Route(NamedTuple):
    """What events of one kind go through. decode: to the stream's schema. appliers: of all streams that they are of."""

    decode: Callable[[Any], list[Any]]
    appliers: tuple[Applier, ...]


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
        self._columns = {
            applier: DecodedEvents(applier.stream) for route in routes.values() for applier in route.appliers
        }
        self._waiting: list[Waiting] = []
        self._came = asyncio.Event()
        self._is_counting = False
        self._works = 0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="events")

    @property
    def waiting(self) -> int:
        """How many frames wait."""
        return len(self._waiting)

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
        while self._waiting or self._is_counting or self._works:
            await asyncio.sleep(0.01)

    def close(self) -> None:
        """Let go of the thread, which may be held by a store's lock for ever."""
        self._writer.shutdown(wait=False, cancel_futures=True)

    # -- on the writer's thread ---------------------------------------------------------------------------------------

    def _count_all(self, group: Sequence[Waiting]) -> list[tuple[bytes | None, str]]:
        """Return the answer to each of a group, in order."""
        answers: list[tuple[bytes | None, str]] = [(None, "")] * len(group)
        by_route: dict[tuple[Applier, ...], list[tuple[int, list[Any]]]] = {}
        for place, waiting in enumerate(group):
            route = self._routes.get(waiting.route)
            try:
                if route is None:
                    raise ValueError(f"nothing takes events of {waiting.route!r}")
                by_route.setdefault(route.appliers, []).append((place, route.decode(waiting.events)))
            except (msgspec.MsgspecError, ValueError) as error:
                answers[place] = None, str(error)
        for appliers, decoded in by_route.items():
            for part in _parts(decoded):
                for place, answer in self._count_part(appliers, part):
                    answers[place] = answer
        return answers

    def _count_part(
        self, appliers: Sequence[Applier], part: Sequence[tuple[int, list[Any]]]
    ) -> list[tuple[int, tuple[bytes | None, str]]]:
        """Count some frames together; where that raises, each alone, so that one takes no other along."""
        try:
            fates = self._count(appliers, [event for _, events in part for event in events])
        except TailraceError as error:
            return [(place, (None, str(error))) for place, _ in part]
        except Exception as error:  # of an expression, on what one event holds
            if len(part) == 1:
                return [(part[0][0], (None, f"{type(error).__name__}: {error}"))]
            return [answer for each in part for answer in self._count_part(appliers, [each])]
        ends = np.cumsum([len(events) for _, events in part])[:-1]
        return [(place, (own.tobytes(), "")) for (place, _), own in zip(part, np.split(fates, ends), strict=True)]

    def _count(self, appliers: Sequence[Applier], events: list[Any]) -> NDArray[np.uint8]:
        """Count events in every stream that they are of; return the worst fate of each."""
        worst = np.zeros(len(events), np.uint8)
        for applier in appliers if events else ():
            fates = applier.apply(self._columns[applier].columns(events))
            worst = np.maximum(worst, fates)
            if self._on_counted is not None:
                self._on_counted(applier.stream.name, fates)
        return worst


def _parts(decoded: Sequence[tuple[int, list[Any]]]) -> list[list[tuple[int, list[Any]]]]:
    """Return frames in parts of at most `EVENTS_MAX` events, or of one frame."""
    parts: list[list[tuple[int, list[Any]]]] = []
    size = EVENTS_MAX
    for each in decoded:
        if size + len(each[1]) > EVENTS_MAX:
            parts.append([])
            size = 0
        parts[-1].append(each)
        size += len(each[1])
    return parts
