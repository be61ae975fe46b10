"""The network store on DynamoDB: 100 keys a call, the calls of a batch side by side on a bounded pool of threads.

boto3 waits for its answers, so it may not be asked on the loop. A thread cannot be stopped: a batch that runs out of
time leaves its calls to end by themselves, which they do within a second, and calls that have yet to begin are dropped.

    batch ──100 keys a call──> threads ──BatchGetItem──> values
                                  ^   │ UnprocessedKeys, or too many requests
                                  └───┘ after a short pause, until the deadline
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from tailrace.deadline import NS_PER_S, Clock
from tailrace.errors import StoreError
from tailrace.features.stores.dynamodb_table import BUSY, NEXT, DynamoTable, code_of, names_of

KEYS_PER_CALL: Final = 100
"""What a BatchGetItem takes."""

THREADS_MAX: Final = 16
CALLS_MAX: Final = 256
"""Waiting for an answer, or for a thread; more are refused."""

PAUSE_S_MIN: Final = 0.002
PAUSE_S_MAX: Final = 0.05
CONNECT_S_MAX: Final = 0.5
ANSWER_S_MAX: Final = 1.0


class _Batch:
    """What the calls of one batch have found; the future is done with the last, or the first that fails."""

    def __init__(self, calls: int, future: asyncio.Future[None], deadline_ns: int) -> None:
        self.found: dict[bytes, bytes] = {}
        self.future = future
        self.deadline_ns = deadline_ns
        self._left = calls

    def take(self, found: dict[bytes, bytes], error: Exception | None) -> None:
        """Take what a call has found, on the loop."""
        self.found |= found
        self._left -= 1
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        elif not self._left:
            self.future.set_result(None)


class _Pool:
    """The threads of an open store, and its client. calls: that wait for an answer or a thread."""

    def __init__(self, table: DynamoTable, client: Any, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        from botocore import exceptions

        self.calls = 0
        self.batches: set[_Batch] = set()
        self._table = table
        self._client = client
        self._now_ns = clock.now_ns
        self._loop = loop
        self._errors: Any = exceptions
        self._threads = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="dynamodb")

    def ask(self, keys: Sequence[bytes], batch: _Batch) -> None:
        """Have a thread ask for some keys."""
        self.calls += 1
        self._threads.submit(self._run, keys, batch)

    def close(self) -> None:
        """Begin no call any more; what waits fails."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for batch in self.batches:
            if not batch.future.done():
                batch.future.set_exception(ConnectionError(f"{self._table.where}: the store is closed"))

    def _run(self, keys: Sequence[bytes], batch: _Batch) -> None:
        """Ask for some keys, on a thread, and tell the loop."""
        found: dict[bytes, bytes] = {}
        error: Exception | None = None
        try:
            if not batch.future.done():  # else it has given up, and nobody waits for this
                self._read(keys, batch.deadline_ns, found)
        except Exception as raised:  # whatever it is, the batch must hear of it
            error = self._told(raised)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._take, batch, found, error)

    def _take(self, batch: _Batch, found: dict[bytes, bytes], error: Exception | None) -> None:
        self.calls -= 1
        batch.take(found, error)

    def _read(self, keys: Sequence[bytes], deadline_ns: int, found: dict[bytes, bytes]) -> None:
        """Get some keys; ask again for those that were left out, until the deadline. Raises as boto3 does."""
        left, pause_s = names_of(keys), PAUSE_S_MIN
        while True:
            try:
                left = self._table.get_batch(self._client, left, found)
            except self._errors.ClientError as error:
                if code_of(error) not in BUSY:
                    raise
            if not left:
                return
            wait_s = pause_s * (0.5 + random.random())
            if self._now_ns() + wait_s * NS_PER_S >= deadline_ns:
                raise TimeoutError(f"{self._table.where}: {len(left)} keys were put off until the deadline")
            time.sleep(wait_s)
            pause_s = min(2 * pause_s, PAUSE_S_MAX)

    def _told(self, error: Exception) -> Exception:
        """Return what a batch is told of an error."""
        errors, where = self._errors, self._table.where
        if isinstance(error, TimeoutError):
            return error
        if isinstance(error, errors.ReadTimeoutError | errors.ConnectTimeoutError):
            return TimeoutError(f"{where}: {error}")
        if isinstance(error, errors.HTTPClientError | errors.EndpointConnectionError | errors.ConnectionError):
            return ConnectionError(f"{where}: {error}")
        return StoreError(f"DynamoDB refused BatchGetItem: {error}", where=where, next=NEXT)


class DynamoStore:
    """Reads one table of DynamoDB."""

    network: Final = True

    def __init__(self, url: str, clock: Clock) -> None:
        self._table = DynamoTable.parse(url)
        self._clock = clock
        self._now_ns = clock.now_ns
        self._client: Any = None
        self._pool: _Pool | None = None

    async def open(self) -> None:
        """Load boto3 and start the threads; nothing is asked yet. Raises StoreError without boto3 or a region."""
        if self._pool is not None:
            return
        loop = asyncio.get_running_loop()
        if self._client is None:
            self._client = self._table.client(
                connections=THREADS_MAX, attempts=1, connect_s=CONNECT_S_MAX, answer_s=ANSWER_S_MAX
            )
        self._pool = _Pool(self._table, self._client, self._clock, loop)

    def close(self) -> None:
        """Let go of the threads; what waits fails."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    async def fetch(self, keys: Sequence[bytes], deadline_ns: int) -> list[bytes | None]:
        """Return the value of each key, in order.

        Raises TimeoutError at the deadline, ConnectionError where DynamoDB cannot be reached or too many calls wait,
        StoreError where it refuses.
        """
        if not keys:
            return []
        pool, now_ns = self._pool, self._now_ns()
        if pool is None:
            raise ConnectionError(f"{self._table.where}: the store is not open")
        if now_ns >= deadline_ns:
            raise TimeoutError("no time left to ask DynamoDB")
        names = list(dict.fromkeys(keys))  # BatchGetItem takes no key twice
        parts = [names[begin : begin + KEYS_PER_CALL] for begin in range(0, len(names), KEYS_PER_CALL)]
        if pool.calls and pool.calls + len(parts) > CALLS_MAX:
            raise ConnectionError(f"{self._table.where}: {pool.calls} calls wait for an answer already")
        batch = _Batch(len(parts), asyncio.get_running_loop().create_future(), deadline_ns)
        pool.batches.add(batch)
        for part in parts:
            pool.ask(part, batch)
        try:
            async with asyncio.timeout((deadline_ns - now_ns) / NS_PER_S):
                await batch.future
        except TimeoutError as error:
            raise TimeoutError(str(error) or "DynamoDB did not answer in time") from None
        finally:
            pool.batches.discard(batch)
        return list(map(batch.found.get, keys))
