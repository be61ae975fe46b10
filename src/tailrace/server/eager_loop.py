"""A loop for engines whose batches may find all they need in memory: what does not wait is not made a task.

Whether a batch suspends is asked before it runs, and a batch of a network store may. So it is begun at once, in the
tick: if it ends there, nothing was waited for and no task is made; else a task takes it on from where it waits. (Python
has eager tasks since 3.12; this does the same on 3.11.)

Until a batch waits for the first time it runs in no task: what it calls up to there must await futures, and not ask for
the current task, as `asyncio.timeout` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final


class EagerLoop:
    """What an engine needs of a loop, on asyncio's."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def call_soon(self, callback: Callable[[], None], /) -> object:
        """Run a callback in the loop's next turn."""
        return self._loop.call_soon(callback)

    def call_later(self, delay: float, callback: Callable[[], None], /) -> object:
        """Run a callback after some seconds."""
        return self._loop.call_later(delay, callback)

    def create_task(self, coroutine: Coroutine[Any, Any, None], /) -> Any:
        """Run a coroutine until it waits; return the task that goes on with it, or one that has ended."""
        try:
            awaited = coroutine.send(None)
        except StopIteration:
            return ENDED
        return self._loop.create_task(_go_on(_Begun(coroutine, awaited)))


class _Ended:
    """A task that was over before it was made."""

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call it at once."""
        callback(self)


ENDED: Final = _Ended()


class _Begun:
    """A coroutine that waits for something already, to be awaited by a task. awaited: what it waits for."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], awaited: Any) -> None:
        self._coroutine = coroutine
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, None]:
        """Hand on what the coroutine waits for, and to it what comes of that, until it ends."""
        coroutine, awaited = self._coroutine, self._awaited
        try:
            while True:
                try:
                    yield awaited
                except BaseException as error:  # cancelled, say: what the coroutine makes of that is its own
                    awaited = coroutine.throw(error)
                else:
                    awaited = coroutine.send(None)
        except StopIteration:
            return


async def _go_on(begun: _Begun) -> None:
    await begun
