"""Events from a Redis stream, by a consumer group: several consumers share its events, and what one left is taken over.

An entry has one field, `event`, that holds the event as JSON; or the event's fields as the entry's own.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from tailrace.errors import SourceError
from tailrace.features.stores.redis_address import RedisAddress
from tailrace.ingest.consumer import Arrived

ENTRIES_MAX: Final = 512
"""Read at once, and so counted in one update: for as long an ingester may wait that writes the same store."""
IDLE_MS: Final = 10_000
"""Entries that their consumer has had for so long, and not acknowledged, are taken over."""
_EVENT: Final = b"event"


class RedisStreamConsumer:
    """Reads the stream `key` for a group. consumer: this one's name; its unfinished entries come first."""

    def __init__(self, url: str, key: str, *, group: str = "tailrace", consumer: str | None = None) -> None:
        import redis

        self.where = f"{RedisAddress.parse(url).url} stream {key}"
        self._key = key
        self._group = group
        self._consumer = consumer or f"{socket.gethostname()}-{os.getpid()}"
        self._errors = redis.RedisError
        self._client: Any = redis.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=30)
        self._own_pending = True
        self._claim_from: Any = "0-0"
        try:
            self._client.xgroup_create(key, group, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise self._fault(error) from None
        except self._errors as error:
            raise self._fault(error) from None

    @property
    def partitions(self) -> Mapping[str, bool]:
        """Nothing: a group's consumers read one stream, in its order."""
        return {}

    def poll(self, wait_s: float) -> Sequence[Arrived]:
        """Return unfinished entries of this consumer, then those that others left, then new ones."""
        try:
            entries = self._pending() or self._left() or self._new(wait_s)
        except self._errors as error:
            raise self._fault(error) from None
        if not entries:
            return ()
        numbers = [number for number, _ in entries]
        events = [_event(fields) for _, fields in entries]
        return (Arrived(self._key, events, [number.decode() for number in numbers], numbers),)

    def commit(self, arrived: Sequence[Arrived]) -> None:
        """Acknowledge entries."""
        try:
            for each in arrived:
                self._client.xack(self._key, self._group, *each.token)
        except self._errors as error:
            raise self._fault(error) from None

    def lag(self) -> int | None:
        """Return how many entries the group has not read, or not acknowledged: a consumer that died left some."""
        with contextlib.suppress(*(self._errors, KeyError)):
            for group in self._client.xinfo_groups(self._key):
                if group["name"] == self._group.encode():
                    unread = group.get("lag")
                    if unread is None:  # of Redis 6; of later ones, where entries were deleted
                        unread = self._unread(group["last-delivered-id"])
                    return None if unread is None else int(unread) + int(group["pending"])
        return None

    def close(self) -> None:
        """Let go of the connection."""
        with contextlib.suppress(self._errors):
            self._client.close()

    def _unread(self, last: bytes) -> int | None:
        """Return 0 where the stream has no entry behind the last that was delivered, else None: it is not counted."""
        return None if self._client.xrange(self._key, min=b"(" + last, count=1) else 0

    def _pending(self) -> list[Any]:
        """Return this consumer's own entries that were given and not acknowledged, as long as there are some."""
        if not self._own_pending:
            return []
        found = self._read("0", block_ms=None)
        self._own_pending = bool(found)
        return found

    def _left(self) -> list[Any]:
        """Return entries that another consumer has had for too long."""
        self._claim_from, entries, *_ = self._client.xautoclaim(
            self._key, self._group, self._consumer, min_idle_time=IDLE_MS, start_id=self._claim_from,
            count=ENTRIES_MAX,
        )  # fmt: skip
        return [entry for entry in entries if entry[1] is not None]

    def _new(self, wait_s: float) -> list[Any]:
        return self._read(">", block_ms=max(1, int(wait_s * 1_000)))

    def _read(self, begin: str, *, block_ms: int | None) -> list[Any]:
        found = self._client.xreadgroup(
            self._group, self._consumer, {self._key: begin}, count=ENTRIES_MAX, block=block_ms
        )
        if not found:
            return []
        entries = found[0][1] if isinstance(found, list) else next(iter(found.values()))[0]
        return [entry for entry in entries if entry[1]]

    def _fault(self, error: Exception) -> SourceError:
        return SourceError(
            f"cannot be read: {error}", where=self.where, next="see that Redis is up and is 5.0 or later"
        )


def _event(fields: Mapping[bytes, bytes]) -> bytes:
    """Return the JSON of an entry's event."""
    if (event := fields.get(_EVENT)) is not None:
        return event
    texts = {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in fields.items()}
    return msgspec.json.encode(texts)
