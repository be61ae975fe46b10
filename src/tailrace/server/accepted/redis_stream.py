"""Results to a Redis stream: one entry each, with its signature as fields beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

from tailrace.deadline import NS_PER_S, parse_duration
from tailrace.features.stores.redis_address import without_password
from tailrace.response.destinations import RedisStream
from tailrace.server.accepted.sending import SendError

LANES: Final = 2
"""Threads that send. A blocking client drops a connection that was late, so no reply is taken for another's."""


class RedisStreamSender:
    """Adds to one stream. See `Sender`. Raises SetupError for a URL that the client does not take."""

    def __init__(self, stream: RedisStream) -> None:
        import redis

        timeout_s = parse_duration(stream.timeout) / NS_PER_S
        self._client: Any = redis.Redis.from_url(
            stream.url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, max_connections=LANES
        )
        self._errors = redis.RedisError
        self._stream = stream
        self._threads = ThreadPoolExecutor(LANES, thread_name_prefix="results")
        self.where = f"{without_password(stream.url)} stream {stream.key}"

    async def send(self, headers: Mapping[str, str], body: bytes) -> None:
        """Add one entry. Raises SendError."""
        fields = {"id": headers["webhook-id"], "result": body, **headers}
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._add, fields)
        except (OSError, self._errors) as error:
            raise SendError(f"{type(error).__name__}: {error}") from None

    def _add(self, fields: Mapping[str, Any]) -> None:
        self._client.xadd(self._stream.key, fields, maxlen=self._stream.entries_max, approximate=True)

    def close(self) -> None:
        """Let go of the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with suppress(self._errors, OSError):
            self._client.close()
