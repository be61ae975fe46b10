"""The end of the children: each finishes what it has begun, those that feed others before those that are fed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from tailrace.server.child import Child
from tailrace.server.slots import turn_away

_KILLED_S: Final = 5.0
"""How long a killed process may take to be gone."""

Keepers = Mapping[Child, asyncio.Task[None]]
"""The task that keeps each child; it ends once the child is to stop and its process is gone."""


async def drain(keepers: Keepers) -> None:
    """Let all children finish, one drain order after the other, and wait until they are gone."""
    for order in sorted({child.role.drain_order for child in keepers}):
        await _drain_together([child for child in keepers if child.role.drain_order == order], keepers)


async def _drain_together(children: Sequence[Child], keepers: Keepers) -> None:
    """Let these accept what is pending and finish, kill those that do not, and wait until they are gone."""
    drain_s = max(child.role.drain_s for child in children)
    end_s = time.monotonic() + drain_s
    slots = {child.slot for child in children if child.slot is not None}
    for slot in slots:
        turn_away(slot.listener)
    for child in children:
        child.stop()
    with suppress(TimeoutError):
        async with asyncio.timeout(drain_s):
            for child in children:
                await child.wait_closed()
    for slot in slots:
        slot.shut()
    running = [keepers[child] for child in children]
    _, late = await asyncio.wait(running, timeout=max(end_s - time.monotonic(), 0))
    if late:
        for child in children:
            child.kill("drain time is over")
        await asyncio.wait(late, timeout=_KILLED_S)
