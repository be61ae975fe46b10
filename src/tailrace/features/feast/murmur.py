"""MurmurHash3, x86, 32 bits (Austin Appleby; public domain): Feast names a hash's fields by it. Used at start alone."""

from __future__ import annotations

from typing import Final

_FIRST: Final = 0xCC9E2D51
_SECOND: Final = 0x1B873593
_BITS: Final = 0xFFFF_FFFF


def murmur3(data: bytes) -> int:
    """Return the hash of some bytes with the seed 0, unsigned."""
    whole = len(data) - len(data) % 4
    state = 0
    for begin in range(0, whole, 4):
        state ^= _mixed(int.from_bytes(data[begin : begin + 4], "little"))
        state = (_rotated(state, 13) * 5 + 0xE6546B64) & _BITS
    if whole < len(data):
        state ^= _mixed(int.from_bytes(data[whole:], "little"))
    state ^= len(data)
    state = ((state ^ state >> 16) * 0x85EBCA6B) & _BITS
    state = ((state ^ state >> 13) * 0xC2B2AE35) & _BITS
    return state ^ state >> 16


def _mixed(block: int) -> int:
    return _rotated(block * _FIRST & _BITS, 15) * _SECOND & _BITS


def _rotated(word: int, by: int) -> int:
    return (word << by | word >> 32 - by) & _BITS
