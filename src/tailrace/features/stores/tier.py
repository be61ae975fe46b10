"""Two stores as one: a hot one before a slower one, which has everything.

The hot store holds copies of values, nothing else: what is not in it is asked of the slower one, and what is found
there is put into the hot one, off the path:

    keys ──> hot ──missing──> slower ──found──> answered
                                        └─ later: put, then read the slower one once more;
                                           what differs there by then is removed from the hot one

A writer writes the slower one first, then removes the hot one's copies (tier_writer.py). A value that is put and then
changed is removed by whoever comes second, the writer or the look after the put. So a reader may see an old copy while
a writer is between its two steps, or for some milliseconds while a value that was just changed is put and looked at.
It stays only where a process ends, or the hot store fails, between two steps, until the value is next written.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from tailrace.deadline import NS_PER_MS, NS_PER_S, Clock
from tailrace.errors import StoreError
from tailrace.features.late import LateError
from tailrace.features.stores.protocol import OnlineStore, StoreWriter

FILL_KEYS_MAX: Final = 10_000
"""Waiting to be put into the hot store; more are left to the next who asks for them."""

FILL_PART_MAX: Final = 500
LOOK_NS_MAX: Final = 2 * NS_PER_S
AGE_NS_MAX: Final = 100 * NS_PER_MS
"""Of what is put: the older it is, the likelier that another has been written since."""
HOT_SHARE: Final = 2
"""The hot store has half of the time that is left: the slower one needs some, too, where it does not answer."""

_FAILURES: Final = (TimeoutError, ConnectionError, StoreError)


class TierStore:
    """Reads a hot store, and a slower one for what is missing. open_hot: opens the hot one's writer, on a thread."""

    def __init__(
        self, hot: OnlineStore, slower: OnlineStore, open_hot: Callable[[], StoreWriter], clock: Clock
    ) -> None:
        self.network: Final = hot.network or slower.network
        self._hot = hot
        self._slower = slower
        self._open_hot = open_hot
        self._now_ns = clock.now_ns
        self._missing: dict[bytes, tuple[bytes, int]] = {}
        self._in_doubt: list[bytes] = []
        self._filling: asyncio.Task[None] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._writer: StoreWriter | None = None

    async def open(self) -> None:
        """Open both."""
        await self._hot.open()
        await self._slower.open()

    def close(self) -> None:
        """Let go of both; what waits to be put into the hot one is left out."""
        if self._filling is not None:
            self._filling.cancel()
            self._filling = None
        self._missing.clear()
        if self._thread is not None:
            if self._in_doubt:
                self._thread.submit(self._write, partial(_remove_copies, self._in_doubt))
                self._in_doubt = []
            self._thread.submit(self._close_writer)
            self._thread.shutdown(wait=False)
            self._thread = None
        self._hot.close()
        self._slower.close()

    async def fetch(self, keys: Sequence[bytes], deadline_ns: int) -> list[bytes | None]:
        """Return the value of each key, in order; a hot store that fails is passed over. Raises as the slower one."""
        if not keys:
            return []
        now_ns = self._now_ns()
        try:
            found = await self._hot.fetch(keys, now_ns + (deadline_ns - now_ns) // HOT_SHARE)
            is_hot_well = True
        except _FAILURES:
            found, is_hot_well = [None] * len(keys), False
        missing = [place for place, value in enumerate(found) if value is None]
        if not missing:
            return found
        try:
            values = await self._slower.fetch([keys[place] for place in missing], deadline_ns)
        except LateError as error:
            raise _late(error, found, missing) from None
        for place, value in zip(missing, values, strict=True):
            found[place] = value
            if is_hot_well and value is not None and len(self._missing) < FILL_KEYS_MAX:
                self._missing[keys[place]] = (value, now_ns)
        if self._missing and self._filling is None:
            self._filling = asyncio.get_running_loop().create_task(self._fill())
        return found

    async def _fill(self) -> None:
        """Put what was missing into the hot store, until nothing is left."""
        try:
            while self._missing:
                taken = [(key, *self._missing.pop(key)) for key in list(self._missing)[:FILL_PART_MAX]]
                oldest_ns = self._now_ns() - AGE_NS_MAX
                part = {key: value for key, value, read_ns in taken if read_ns >= oldest_ns}
                if part:  # else the next who asks for them brings them again
                    await self._copy(part)
        finally:
            self._filling = None

    async def _copy(self, part: dict[bytes, bytes]) -> None:
        """Put some values, and remove again what the slower store has otherwise by then."""
        keys = self._in_doubt = list(part)
        try:
            await self._on_thread(partial(_put_copies, part))
            values = await self._slower.fetch(keys, self._now_ns() + LOOK_NS_MAX)
            differing = [key for key, value in zip(keys, values, strict=True) if value != part[key]]
        except _FAILURES:
            differing = keys
        if differing:
            with contextlib.suppress(*_FAILURES):
                await self._on_thread(partial(_remove_copies, differing))
        self._in_doubt = []

    async def _on_thread(self, work: Callable[[StoreWriter], Any]) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="tier")
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write, work)

    def _write(self, work: Callable[[StoreWriter], Any]) -> None:
        if self._writer is None:
            self._writer = self._open_hot()
        work(self._writer)

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


def _late(error: LateError, found: list[bytes | None], missing: Sequence[int]) -> LateError:
    """Return a late slower store's error for all keys: its rows are those of the first keys that were missing."""
    for place, value in zip(missing, error.rows, strict=False):
        found[place] = value
    return LateError(str(error), found[: missing[len(error.rows)]], is_cold=error.is_cold)


def _put_copies(part: dict[bytes, bytes], writer: StoreWriter) -> None:
    writer.exchange(part.items(), ())


def _remove_copies(keys: Sequence[bytes], writer: StoreWriter) -> None:
    writer.exchange((), keys)
