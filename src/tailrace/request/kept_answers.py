"""Answers that are kept for the requests that ask the same a moment later. Bounded in time, number and bytes."""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import Any, Final, NamedTuple

import msgspec

ENTRY_BYTES: Final = 300
"""What an answer takes beside its key and its values: places in two tables, the objects that hold them."""


_PLAIN: Final = {bool, int, float, str, bytes, type(None)}
"""Types whose values hold no others."""
_FLOAT_BYTES: Final = sys.getsizeof(0.0)


class KeptAnswer(NamedTuple):
    """What a call was answered: a response, or a list of them. until_ns: when it is too old; bytes: that it takes."""

    value: Any
    until_ns: int
    bytes: int


class KeptAnswers:
    """The answers of one worker, by the keys of their requests, the oldest first.

    ttl_ns: of each. answers_max, bytes_max: of all. bytes: that they take.
    """

    def __init__(self, ttl_ns: int, answers_max: int, bytes_max: int) -> None:
        self.bytes = 0
        self._ttl_ns = ttl_ns
        self._answers_max = answers_max
        self._bytes_max = bytes_max
        self._answers: dict[bytes, KeptAnswer] = {}

    def __len__(self) -> int:
        return len(self._answers)

    def find(self, key: bytes, now_ns: int) -> KeptAnswer | None:
        """Return the answer to a key, None where there is none that is young enough."""
        kept = self._answers.get(key)
        return kept if kept is not None and now_ns < kept.until_ns else None

    def keep(self, key: bytes, value: Any, began_ns: int) -> None:
        """Keep an answer, in place of the one before; the oldest go for it. began_ns: when its batch did."""
        self._drop(key)
        size = ENTRY_BYTES + sys.getsizeof(key) + size_of(value)
        if size > self._bytes_max:
            return
        self._answers[key] = KeptAnswer(value, began_ns + self._ttl_ns, size)
        self.bytes += size
        while len(self._answers) > self._answers_max or self.bytes > self._bytes_max:
            self._drop(next(iter(self._answers)))

    def forget(self, now_ns: int) -> None:
        """Let go of what is too old."""
        while self._answers and next(iter(self._answers.values())).until_ns <= now_ns:
            self._drop(next(iter(self._answers)))

    def _drop(self, key: bytes) -> None:
        dropped = self._answers.pop(key, None)
        if dropped is not None:
            self.bytes -= dropped.bytes


def size_of(value: Any) -> int:
    """Return the bytes that a value takes, with what it holds; what it holds twice is counted twice."""
    size = sys.getsizeof(value)
    if isinstance(value, msgspec.Struct):
        return size + _size_of_all(msgspec.structs.astuple(value))
    if isinstance(value, dict):
        return size + _size_of_all(value) + _size_of_all(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return size + _size_of_all(value)
    return size


def _size_of_all(values: Collection[Any]) -> int:
    """Return the bytes that some values take; of those that hold no others without a call of ours for each."""
    kinds = set(map(type, values))
    if kinds == {float}:
        return len(values) * _FLOAT_BYTES
    return sum(map(sys.getsizeof if kinds <= _PLAIN else size_of, values))
