"""Slots of a Redis Cluster: what a key's is, who has it, and what an error sends to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis_cluster import RedisCluster

from tailrace.errors import StoreError
from tailrace.features.keys import KeyFormat
from tailrace.features.stores.redis_slots import SLOTS, Redirect, SlotMap, parse_redirect, slot_of, slot_tags

ASKED = ("here", 1)
KEYS = [b"", b"foo",
        b"123456789", b"{user}.a", b"{}a", b"a{}b{c}", b"{{a}}b", b"a{b}{c}", b"{a", b"}a{b}", b"\xff{\0\xff}",
        b"{customer:4021}Profile:1a2b3c4d", b'{c:"x}y"}V:1']  # fmt: skip


def test_slot_is_the_one_that_redis_computes(redis_cluster: RedisCluster) -> None:
    """For keys with and without braces, empty ones, and any bytes."""
    keys = [*KEYS, *(b"key %d" % number for number in range(200))]
    with_redis = [redis_cluster.nodes[0].ask("CLUSTER", "KEYSLOT", key) for key in keys]
    assert [slot_of(key) for key in keys] == with_redis


@given(st.integers(-(2**63), 2**63 - 1) | st.text())
def test_rows_and_tombstone_of_an_entity_lie_in_one_slot(entity_id: int | str) -> None:
    """Whatever the id, braces in it too."""
    rows = ["Profile:1a2b3c4d", "Address:00000000", ":forgotten"]
    assert len({slot_of(KeyFormat("customer", each).key(entity_id)) for each in rows}) == 1


def test_every_slot_has_a_tag_that_lies_in_it() -> None:
    """Alone, and between braces in a key."""
    tags = slot_tags()
    assert [slot_of(tag) for tag in tags] == list(range(SLOTS))
    assert [slot_of(b"tailrace:run:View:{%b}" % tag) for tag in tags] == list(range(SLOTS))


def test_map_has_the_owner_of_each_slot() -> None:
    """The first node of a range is its master; one without a host is the node that was asked."""
    reply = [
        [0, 99, [b"a", 7000, b"id", []], [b"replica", 7003, b"id", []]],
        [100, 16_383, [b"", 7001, b"id", []]],
        [200, 299, [None, 7002, b"id"]],
    ]
    slots = SlotMap.parse(reply, ASKED)
    owners = [slots.owner(slot) for slot in (0, 99, 100, 199, 200, 16_383)]
    assert owners == [("a", 7000), ("a", 7000), ("here", 7001), ("here", 7001), ("here", 7002), ("here", 7001)]
    assert slots.nodes == [("a", 7000), ("here", 7001), ("here", 7002)]
    slots.move(99, ("b", 1))
    assert (slots.owner(98), slots.owner(99)) == (("a", 7000), ("b", 1))


@pytest.mark.parametrize(
    "reply",
    [None, [], b"OK", 3, [[0, 5]], [[0, 5, 3]], [[0, 16_384, [b"a", 1]]], [[b"x", 1, [b"a", 1]]], ValueError("x")],
)
def test_map_that_is_none_is_an_error(reply: Any) -> None:
    """A server that is no cluster's, or has no slots yet, is told."""
    with pytest.raises(StoreError, match="here:1"):
        SlotMap.parse(reply, ASKED)


@pytest.mark.parametrize(
    ("error", "redirect"),
    [
        ("MOVED 3999 127.0.0.1:6381", Redirect(True, 3999, ("127.0.0.1", 6381))),
        ("ASK 3999 ::1:6381", Redirect(False, 3999, ("::1", 6381))),
        ("MOVED 5 :6381", Redirect(True, 5, ("here", 6381))),
        ("MOVED 16384 a:1", None), ("MOVED x a:1", None), ("MOVED 5", None), ("CLUSTERDOWN x", None), ("", None),
    ],
)  # fmt: skip
def test_error_sends_to_where_it_says(error: str, redirect: Redirect | None) -> None:
    """MOVED for good, ASK this once; anything else sends nowhere."""
    assert parse_redirect(error, ASKED) == redirect
