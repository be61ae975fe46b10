"""Stages that do not depend on each other, asked side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch
from tailrace.inference.composition.composed import rows_of
from tailrace.inference.scored import Scored
from tailrace.inference.stage import Stage

Ask = tuple[Stage, NDArray[np.intp] | None]
"""A stage, and the rows that it is asked for; None for all of the batch."""


async def ask_together(batch: Batch, asks: Sequence[Ask], deadline_ns: int) -> list[Scored]:
    """Return what each stage says. Waits only in a batch that suspends.

    In such a batch those that wait for a thread or a server are begun first, and the others run meanwhile, with a turn
    of the loop before each. Raises what one of them raises, once all have ended; who cancels it cancels all.
    """
    if not batch.suspends or len(asks) == 1:
        return [await stage.score(batch, picked, deadline_ns) for stage, picked in asks]
    waited = {
        place: asyncio.ensure_future(stage.score(batch, picked, deadline_ns))
        for place, (stage, picked) in enumerate(asks)
        if rows_of(batch, picked) > stage.rows_inline_max
    }
    try:
        found: dict[int, Scored] = {}
        for place, (stage, picked) in enumerate(asks):
            if place not in waited:
                await asyncio.sleep(0)
                found[place] = await stage.score(batch, picked, deadline_ns)
        if waited:
            await asyncio.wait(waited.values())
    finally:
        for task in waited.values():
            task.cancel()
    errors = [error for task in waited.values() if (error := task.exception()) is not None]
    if errors:
        raise errors[0]
    return [found[place] if place in found else waited[place].result() for place in range(len(asks))]
