"""The role of a child: what the supervisor has to know to keep one. It is data: a new kind of child is a new role."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackOff:
    """How long a successor waits: `first_s`, then twice as long each time, at most `max_s`.

    short_life_s: a process that was ready for so long has its successor wait `first_s` again.
    """

    first_s: float = 0.1
    max_s: float = 5.0
    short_life_s: float = 5.0

    def next_s(self, last_s: float, served_s: float) -> float:
        """Return the wait after one of `last_s` (0 for none), for a process that was ready for `served_s`."""
        if served_s >= self.short_life_s:
            return self.first_s
        return min(max(2 * last_s, self.first_s), self.max_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildRole:
    """How a child is started, watched, replaced and drained.

    name: one word; the log says "worker died". command: what is run, with the descriptor of its control channel as one
    more argument.

    The start policy. is_awaited: the server is not ready before this child was ready once. ends_server: a first start
    that fails ends the server with the child's error; otherwise the child is started again, as after any death.

    loads: whether it may take long to be ready, and leaves the core to others until then.

    The watch. start_s: how long a process may be silent before it is ready. heartbeat_s: how often it is looked at, and
    sends a sign of life. frozen_s: once ready, it is killed and replaced when it was silent for so long.

    The drain. drain_s: how long a process may take to finish. drain_order: children of a lower one are gone before
    this one is asked to drain, and while they drain it is replaced when it dies.
    """

    name: str
    command: tuple[str, ...]
    is_awaited: bool
    ends_server: bool
    start_s: float
    heartbeat_s: float
    frozen_s: float
    drain_s: float
    drain_order: int
    loads: bool = False
    back_off: BackOff = BackOff()
