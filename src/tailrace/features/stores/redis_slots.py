"""The slots of a Redis Cluster: which one a key lies in, which node has it, and what a node says of one it has not.

Source: the Redis Cluster specification, "Key distribution model" and "Redirection and resharding".
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Sequence
from functools import cache
from typing import Any, Final, NamedTuple

from tailrace.errors import StoreError
from tailrace.features.stores.redis_address import Node

SLOTS: Final = 16_384
_MASK: Final = SLOTS - 1


def slot_of(key: bytes) -> int:
    """Return the slot of a key: by the CRC-16 of what stands between its first braces, else of all of it."""
    begin = key.find(b"{") + 1
    if begin:
        end = key.find(b"}", begin)
        if end > begin:
            return crc_hqx(key[begin:end], 0) & _MASK
    return crc_hqx(key, 0) & _MASK


@cache
def slot_tags() -> tuple[bytes, ...]:
    """Return for each slot a number, as text, that lies in it: the least one."""
    tags: dict[int, bytes] = {}
    number = 0
    while len(tags) < SLOTS:
        tag = b"%d" % number
        tags.setdefault(slot_of(tag), tag)
        number += 1
    return tuple(tags[slot] for slot in range(SLOTS))


class SlotMap:
    """Which node has each slot."""

    def __init__(self, owners: Sequence[Node | None] = (None,) * SLOTS) -> None:
        self._owners = list(owners)

    @staticmethod
    def parse(reply: Any, asked: Node) -> SlotMap:
        """Return the map in the answer to CLUSTER SLOTS of a node. Raises StoreError where it is none.

        A node that does not know its own address leaves it out: it is that by which it was asked.
        """
        owners: list[Node | None] = [None] * SLOTS
        try:
            for first, last, (host, port, *_), *_ in reply:
                node = (host.decode() if host else asked[0], int(port))
                owners[first : last + 1] = [node] * (last + 1 - first)
        except (TypeError, ValueError, AttributeError):
            raise StoreError(f"it does not say who has the slots: {str(reply)[:100]}",
                             where=f"{asked[0]}:{asked[1]}", next="name a cluster's nodes") from None  # fmt: skip
        if len(owners) != SLOTS or not any(owners):
            raise StoreError("it knows of no node that has a slot", where=f"{asked[0]}:{asked[1]}",
                             next="see: redis-cli cluster info")  # fmt: skip
        return SlotMap(owners)

    def owner(self, slot: int) -> Node | None:
        """Return the node that has a slot; None where nobody is known to."""
        return self._owners[slot]

    def move(self, slot: int, node: Node) -> None:
        """Note that a node has a slot."""
        self._owners[slot] = node

    @property
    def nodes(self) -> list[Node]:
        """The nodes that have slots, in the order of their slots."""
        return list(dict.fromkeys(node for node in self._owners if node is not None))


class Redirect(NamedTuple):
    """Where a node sends a command. is_moved: for good (MOVED), else this once (ASK): the slot is on its way."""

    is_moved: bool
    slot: int
    node: Node


def parse_redirect(error: str, asked: Node) -> Redirect | None:
    """Return where an error of a node sends to, None for another error. asked: the node; its host may be left out."""
    kind, _, rest = error.partition(" ")
    if kind not in {"MOVED", "ASK"}:
        return None
    slot, _, place = rest.partition(" ")
    host, _, port = place.rpartition(":")
    try:
        number, node = int(slot), (host or asked[0], int(port))
    except ValueError:
        return None
    return Redirect(kind == "MOVED", number, node) if 0 <= number < SLOTS else None
