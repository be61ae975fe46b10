"""What a watch has learned and seen, as bytes: an observer that is killed does not begin anew."""

from __future__ import annotations

import zlib
from typing import Final, NamedTuple

import msgspec
import numpy as np

from tailrace.monitor.drift.watch import DriftWatch

FORMAT_VERSION: Final = 2


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    """series, slots: whose it is, and of how many baselines. arrays: one after another; digest: of them."""

    format: int
    series: tuple[tuple[str, str, int], ...]
    slots: int
    digest: int
    arrays: bytes


class Copied(NamedTuple):
    """What a watch has to keep, copied at one moment: to pack it takes longer than whoever adds to it may wait."""

    series: tuple[tuple[str, str, int], ...]
    slots: int
    arrays: bytes


def copy(watch: DriftWatch) -> Copied:
    """Copy what a watch has to keep."""
    return Copied(_shape(watch), len(watch.baselines), b"".join(each.tobytes() for each in watch.kept))


def pack(copied: Copied) -> bytes:
    """Return as bytes what was copied."""
    digest = zlib.crc32(copied.arrays)
    kept = _Kept(FORMAT_VERSION, copied.series, copied.slots, digest, zlib.compress(copied.arrays, 1))
    return msgspec.msgpack.encode(kept)


def keep(watch: DriftWatch) -> bytes:
    """Return what a watch has to keep."""
    return pack(copy(watch))


def recall(watch: DriftWatch, data: bytes) -> bool:
    """Give a watch what was kept; return whether it has it.

    It has not, and begins anew, where that is of other series, of other windows, of another format, or cut short.
    """
    held = watch.kept
    size = sum(each.nbytes for each in held)
    try:
        kept = msgspec.msgpack.decode(data, type=_Kept)
        if kept.format != FORMAT_VERSION or kept.series != _shape(watch) or kept.slots != len(watch.baselines):
            return False
        unpacker = zlib.decompressobj()
        arrays = unpacker.decompress(kept.arrays, size + 1)
    except (msgspec.DecodeError, zlib.error):
        return False
    if len(arrays) != size or zlib.crc32(arrays) != kept.digest:
        return False
    start = 0
    for each in held:
        each[...] = np.frombuffer(arrays, each.dtype, each.size, start).reshape(each.shape)
        start += each.nbytes
    return True


def _shape(watch: DriftWatch) -> tuple[tuple[str, str, int], ...]:
    """Return what must agree for arrays to be of one meaning: the windows, and each series with its cells."""
    windows = "windows", watch.declared.season or "", watch.declared.window_ns
    return windows, *((each.name, each.kind, zlib.crc32(repr(each.labels).encode())) for each in watch.series)
