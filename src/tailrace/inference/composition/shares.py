"""Where an id lies between 0 and 1, the same in every process, on every machine, in every version of Python.

An int (64 bits, of two's complement) is mixed as SplitMix64 mixes its counter (Steele, Lea, Flood, "Fast splittable
pseudorandom number generators", 2014), joined with the salt's seed by exclusive or, and mixed again. A text, the first
256 characters of it, becomes such an int by BLAKE2b of its UTF-8 bytes, 8 bytes long, little-endian; so does the salt.
The upper 53 bits are the position, in parts of 2^53.

    position("4021", salt) = mix(mix(blake2b("4021")) ^ blake2b(salt)) >> 11

Shares lie beside each other from 0 on, so that a row moves only when an edge passes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import accumulate
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

TEXT_MAX: Final = 256
"""Characters of a text that are looked at: a caller must not decide what a hash costs."""
POSITION_BITS: Final = 53
"""As many as a float has, so that an edge is as exact as its share."""

_SHIFT: Final = np.uint64(64 - POSITION_BITS)
_GAMMA: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)


def seed_of(salt: str) -> np.uint64:
    """Return what a salt adds to the hashes of ids."""
    return np.uint64(_digests([salt])[0])


def positions(ids: NDArray[Any], seed: np.uint64) -> NDArray[np.uint64]:
    """Return where ids lie, from 0 to 2^53. ids: whole numbers of any size up to 64 bits, or texts, (rows,)."""
    numbers = _digests(ids.tolist()) if ids.dtype.kind == "O" else ids.astype(np.int64).view(np.uint64)
    return _mix(_mix(numbers) ^ seed) >> _SHIFT


def edges_of(shares: Sequence[float]) -> NDArray[np.uint64]:
    """Return the positions at which a share ends and the next one begins; one fewer than shares."""
    ends = list(accumulate(shares))[:-1]
    return np.array([round(min(end, 1.0) * 2**POSITION_BITS) for end in ends], np.uint64)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return 64 bits of which each depends on all of the value's."""
    mixed = values + _GAMMA  # wraps, as all that follows
    mixed = (mixed ^ (mixed >> _30)) * _FIRST
    mixed = (mixed ^ (mixed >> _27)) * _SECOND
    return mixed ^ (mixed >> _31)


def _digests(texts: Iterable[Any]) -> NDArray[np.uint64]:
    parts = (blake2b(str(text)[:TEXT_MAX].encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(parts), "<u8").astype(np.uint64)
