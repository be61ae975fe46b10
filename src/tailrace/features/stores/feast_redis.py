"""Feast's online store on Redis, read as Feast has written it: one HMGET a view and entity, all in one round trip.

    key    the entity's key in Feast's serialisation, then the project
    hash   murmur3("view:feature"), 4 bytes little-endian → a Value        "_ts:view" → a Timestamp

From Feast's `infra/online_stores/redis.py`. Nothing is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import hiredis

from tailrace.deadline import NS_PER_S, Clock
from tailrace.errors import StoreError
from tailrace.features.feast.codec import FeastCodec
from tailrace.features.feast.frames import Frames
from tailrace.features.feast.keys import NUMBER_BYTES
from tailrace.features.feast.murmur import murmur3
from tailrace.features.feast.values import read_time
from tailrace.features.stores.feast_address import FeastAddress, FeastFields, FeastViews
from tailrace.features.stores.redis import give_up
from tailrace.features.stores.redis_address import NEXT
from tailrace.features.stores.redis_link import OUTSTANDING_MAX, RedisLink
from tailrace.features.stores.redis_replies import Replies
from tailrace.features.stores.redis_sentinel import find_place
from tailrace.features.view_spec import ViewSpec

_NO_FRAME: Final = b""
"""In place of a frame that would be broken: the codec refuses it, and counts it."""


class _Question(NamedTuple):
    """What Redis is asked of an entity of one view: what comes before the key and behind it, packed.

    replies: how many values the answer has. pack: makes a frame of them.
    """

    begin: bytes
    end: bytes
    replies: int
    pack: Callable[[bytes, int | None, Sequence[bytes | None]], bytes]


class FeastRedisStore:
    """Reads one Redis that Feast fills. Down, it fails at once and keeps trying to connect."""

    network: Final = True

    def __init__(self, url: str, clock: Clock) -> None:
        self._address = FeastAddress.parse(url)
        place, _ = find_place(self._address.place, clock)
        self._link = RedisLink(place, self._address.shown, clock, outstanding_max=OUTSTANDING_MAX * 64)
        self._views = FeastViews(self._address)
        self._questions: list[_Question] = []
        self._project = self._address.project.encode()
        self._now_ns = clock.now_ns
        self._loop: Any = None

    def codec(self, spec: ViewSpec) -> FeastCodec:
        """Return the codec of a view; see `ForeignStore`."""
        codec = self._views.codec(spec)
        self._questions += map(_question, self._views.fields[len(self._questions) :])
        return codec

    async def open(self) -> None:
        """Connect, or go on trying in the background. To open what is open changes nothing."""
        self._loop = asyncio.get_running_loop()
        await self._link.open()

    def close(self) -> None:
        """Let go of the connection; what waits for it fails."""
        self._link.close()

    async def fetch(self, keys: Sequence[bytes], deadline_ns: int) -> list[bytes | None]:
        """Return the frame of each key, in order.

        Raises TimeoutError at the deadline, ConnectionError without a connection, StoreError for any other reply.
        """
        if not keys:
            return []
        questions = [self._questions[self._views.number(key)] for key in keys]
        commands = [self._command(question, key) for question, key in zip(questions, keys, strict=True)]
        connection, now_ns = self._link.usable_connection(), self._now_ns()
        if now_ns >= deadline_ns:
            raise TimeoutError("no time left to ask Redis")
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        connection.send_packed(commands, [Replies(len(keys), future)] * len(keys), now_ns)
        timer = self._loop.call_later((deadline_ns - now_ns) / NS_PER_S, give_up, future)
        try:
            replies = await future
        finally:
            timer.cancel()
        return [self._frame(*each) for each in zip(questions, keys, replies, strict=True)]

    def _command(self, question: _Question, key: bytes) -> bytes:
        """Return the packed HMGET for a key: hiredis would pack the view's fields anew each time."""
        name = key[NUMBER_BYTES:] + self._project
        return b"%b$%d\r\n%b\r\n%b" % (question.begin, len(name), name, question.end)

    def _frame(self, question: _Question, key: bytes, reply: Any) -> bytes | None:
        """Return the frame of what Redis answers for a key; None where Feast has written nothing of the entity."""
        if type(reply) is not list or len(reply) != question.replies:
            if isinstance(reply, ConnectionError):
                raise reply
            if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("WRONGTYPE"):
                return _NO_FRAME
            raise StoreError(f"Redis answered {str(reply)[:100]!r}", where=self._link.url, next=NEXT)
        if reply.count(None) == len(reply):
            return None
        try:
            event_ns = read_time(reply[-1] or b"")
        except ValueError:
            return _NO_FRAME
        return question.pack(key, event_ns, reply[:-1])


def _question(fields: FeastFields) -> _Question:
    """Return how Redis is asked for a view; the time comes last."""
    names = [murmur3(f"{fields.view}:{feature}".encode()).to_bytes(4, "little") for feature in fields.features]
    names.append(f"_ts:{fields.view}".encode())
    packed = b"".join(b"$%d\r\n%b\r\n" % (len(name), name) for name in names)
    begin = b"*%d\r\n$5\r\nHMGET\r\n" % (len(names) + 2)
    return _Question(begin, packed, len(names), Frames(len(fields.features)).pack)
