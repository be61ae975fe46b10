"""What a watch has learned, as bytes: an observer that is killed does not begin to learn anew."""

from __future__ import annotations

import zlib
from typing import Final

import msgspec
import numpy as np

from tailrace.monitor.drift.watch import DriftWatch

FORMAT_VERSION: Final = 1


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    """series, slots: whose it is, and of how many baselines. arrays: one after another; digest: of them."""

    format: int
    series: tuple[tuple[str, str, int], ...]
    slots: int
    digest: int
    arrays: bytes


def keep(watch: DriftWatch) -> bytes:
    """Return the baselines of a watch."""
    arrays = b"".join(each.tobytes() for baseline in watch.baselines for each in baseline.arrays)
    kept = _Kept(FORMAT_VERSION, _shape(watch), len(watch.baselines), zlib.crc32(arrays), zlib.compress(arrays, 1))
    return msgspec.msgpack.encode(kept)


def recall(watch: DriftWatch, data: bytes) -> bool:
    """Give a watch the baselines that were kept; return whether it has them.

    It has not, and learns anew, where they are of other series, of another format, or cut short.
    """
    held = [each for baseline in watch.baselines for each in baseline.arrays]
    try:
        kept = msgspec.msgpack.decode(data, type=_Kept)
        if kept.format != FORMAT_VERSION or kept.series != _shape(watch) or kept.slots != len(watch.baselines):
            return False
        unpacker = zlib.decompressobj()
        arrays = unpacker.decompress(kept.arrays, sum(each.nbytes for each in held) + 1)
    except (msgspec.DecodeError, zlib.error):
        return False
    if len(arrays) != sum(each.nbytes for each in held) or zlib.crc32(arrays) != kept.digest:
        return False
    values = np.frombuffer(arrays, np.float64)
    start = 0
    for each in held:
        each[...] = values[start : start + each.size].reshape(each.shape)
        start += each.size
    return True


def _shape(watch: DriftWatch) -> tuple[tuple[str, str, int], ...]:
    """Return what baselines must agree in to be of one meaning: each series, and the digest of its cells."""
    return tuple((each.name, each.kind, zlib.crc32(repr(each.labels).encode())) for each in watch.series)
