"""Consumers: where events are brought from, other than over HTTP. Each delivers at least once; counted once they are.

A consumer gives events in groups, and is told when a group is counted. What it gave and was not told of comes again
after a restart, of this process or another one; an event that comes again is counted once, by its id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol


class Arrived(NamedTuple):
    """Some events of one source, in its order, encoded as JSON.

    source: a partition of the stream, by which its progress is known. offsets: of each event, what the broker finds it
    by in its source. token: what `commit` takes.
    """

    source: str
    events: Sequence[bytes]
    offsets: Sequence[str]
    token: Any


class Consumer(Protocol):
    """Brings the events of one stream. One thread at a time. Raises SourceError for what cannot be reached or read."""

    @property
    def where(self) -> str:
        """The address, without a password."""
        ...

    @property
    def partitions(self) -> Mapping[str, bool]:
        """Of each partition that is read now, by its source, whether more is known to come of it."""
        ...

    def poll(self, wait_s: float) -> Sequence[Arrived]:
        """Return what has come; nothing where nothing comes for so long."""
        ...

    def commit(self, arrived: Sequence[Arrived]) -> None:
        """Note that these events are counted."""
        ...

    def lag(self) -> int | None:
        """Return how many events are yet to come, None where that is not known."""
        ...

    def close(self) -> None:
        """Let go."""
        ...
