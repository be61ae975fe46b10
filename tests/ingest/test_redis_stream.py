"""What a consumer of a Redis stream knows of what is yet to come: unread and unacknowledged entries alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import redis
from payments import lines

from features.redis_server import RedisServer
from tailrace.ingest.redis_stream import RedisStreamConsumer

KEY, GROUP = "payments", "tailrace"
ENTRIES = 3


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[Any]:
    """Yield a client of a server whose stream has entries."""
    with closing(redis.Redis.from_url(redis_server.url)) as client:
        for event in lines(range(ENTRIES)):
            client.xadd(KEY, {"event": event})
        yield client


@pytest.fixture
def consumer(redis_server: RedisServer, client: Any) -> Iterator[RedisStreamConsumer]:
    """Yield a consumer that has read nothing yet."""
    with closing(RedisStreamConsumer(redis_server.url, KEY)) as consumer:
        yield consumer


def test_unread_and_unacknowledged_entries_are_to_come(consumer: RedisStreamConsumer, client: Any) -> None:
    """What another consumer was given, and did not acknowledge, is not done."""
    assert consumer.lag() == ENTRIES
    ((_, given),) = client.xreadgroup(GROUP, "another", {KEY: ">"}, count=2)
    assert consumer.lag() == ENTRIES
    client.xack(KEY, GROUP, given[0][0])
    assert consumer.lag() == ENTRIES - 1
    arrived = consumer.poll(0.1)
    consumer.commit(arrived)
    assert consumer.lag() == 1
    client.xack(KEY, GROUP, given[1][0])
    assert consumer.lag() == 0


def test_unread_entries_that_redis_cannot_count_are_not_none(consumer: RedisStreamConsumer, client: Any) -> None:
    """Where one in the middle was deleted, what is to come is not known until all is read."""
    first, second = (number for number, _ in client.xrange(KEY, count=2))
    client.xgroup_setid(KEY, GROUP, first)
    client.xdel(KEY, second)
    (group,) = client.xinfo_groups(KEY)
    assert group["lag"] is None
    assert consumer.lag() is None
    consumer.commit(consumer.poll(0.1))
    assert consumer.lag() == 0


def test_nothing_is_to_come_where_what_was_unread_is_deleted(consumer: RedisStreamConsumer, client: Any) -> None:
    """Or `--until-idle` never ended."""
    first, *others = (number for number, _ in client.xrange(KEY))
    client.xgroup_setid(KEY, GROUP, first)
    client.xdel(KEY, *others)
    assert consumer.lag() == 0
