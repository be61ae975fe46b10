"""The rows of one engine batch that wait for a model's thread, and the slices of them that make up its batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tailrace.inference.predictor import Feeds, slice_feeds
from tailrace.inference.scored import Scored, joined
from tailrace.inference.thread import settle


class Work:
    """The rows of one engine batch; the earlier its deadline, the less it is.

    number: of two with the same deadline the lower one is less. tell_scored: is told of rows that are scored before all
    are. begun: how many were handed to an instance.
    """

    __slots__ = (
        "_done",
        "_parts",
        "arrival_ns",
        "begun",
        "deadline_ns",
        "feeds",
        "future",
        "number",
        "rows",
        "tell_scored",
    )

    def __init__(
        self,
        feeds: Feeds,
        rows: int,
        deadline_ns: int,
        number: int,
        arrival_ns: int,
        future: asyncio.Future[Scored],
        tell_scored: Callable[[int], None] | None,
    ) -> None:
        self.feeds = feeds
        self.rows = rows
        self.deadline_ns = deadline_ns
        self.number = number
        self.arrival_ns = arrival_ns
        self.future = future
        self.tell_scored = tell_scored
        self.begun = self._done = 0
        self._parts: list[tuple[int, Scored]] = []

    def __lt__(self, other: Work) -> bool:
        return (self.deadline_ns, self.number) < (other.deadline_ns, other.number)

    def take(self, start: int, scored: Scored, rows: int) -> None:
        """Take in the scores of some rows; with the last of them the waiter has all."""
        self._parts.append((start, scored))
        self._done += rows
        if self._done == self.rows:
            settle(self.future, joined([part for _, part in sorted(self._parts, key=_first_row)]), None)
        elif self.tell_scored is not None and not self.future.done():
            self.tell_scored(rows)


class Slice(NamedTuple):
    """Some rows of a work."""

    work: Work
    start: int
    end: int


def merged_feeds(batch: Sequence[Slice]) -> Feeds:
    """Return the feeds of a batch: without a copy where it is one work's."""
    if len(batch) == 1:
        work, start, end = batch[0]
        return work.feeds if end - start == work.rows else slice_feeds(work.feeds, start, end)
    return {
        name: np.concatenate([each.work.feeds[name][each.start : each.end] for each in batch])
        for name in batch[0].work.feeds
    }


def _first_row(part: tuple[int, Scored]) -> int:
    return part[0]
