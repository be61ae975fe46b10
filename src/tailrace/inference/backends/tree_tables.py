"""A tree ensemble as tables for the bit-vector kernel: the file `trees.msgpack` of a model directory.

bitvector.c says how they are used. The file holds the splits alone; the checkpoints, which are larger, are worked out
when it is loaded. Everything that the kernel takes for granted is checked here, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.inference.backends.packed_arrays import as_array, require, unpack

TABLES_LAYOUT: Final = 1
"""Of the file. A reader refuses another."""
LEAVES_MAX: Final = 64
"""Leaves of one tree: the bits of the longest word."""
TREES_MAX: Final = 1 << 16
FEATURES_MAX: Final = 1 << 16
SPLITS_MAX: Final = 1 << 24
MISSING_BYTES_MAX: Final = 16 << 20
CHECKPOINTS_BYTES_MAX: Final = 16 << 20
CHECKPOINTS_BYTES_BEST: Final = 512 << 10
"""A quarter to a half of the second-level cache. A table beyond it costs more than the splits it saves: at 500 trees of
64 leaves over 100 features 16 rows take 380 µs with 8 MB of checkpoints, 150 with 0.4."""
SHIFT_MIN: Final = 3
"""A checkpoint every 8 splits: on 200 trees of 31 leaves 4 and 16 are as fast, with twice and half the memory."""
SHIFT_BEST_MAX: Final = 8
"""Beyond 256 splits to a checkpoint the single splits cost more than the cache does."""
SHIFT_MAX: Final = 24


class TreeTables(msgspec.Struct, frozen=True):
    """The splits and leaves of an ensemble with one score; the arrays are little-endian bytes.

    score = link(sum of one leaf a tree + base), in float32. leaves: bits of a mask, 32 or 64.
    counts: int32 (features), the splits of each. Then (splits), a feature's together, thresholds ascending in it:
    thresholds: float32, `x <= threshold` goes left; split_trees: int32; split_masks: uint32 or uint64, the leaves a row
    may still fall into when it goes right; missing_right: uint8, 1 where NaN goes right.
    values: float32 (trees, leaves), from a tree's leftmost leaf to its last, then zeros.
    """

    layout: int
    features: int
    trees: int
    leaves: Literal[32, 64]
    link: Literal["", "sigmoid"]
    base: float
    counts: bytes
    thresholds: bytes
    split_trees: bytes
    split_masks: bytes
    missing_right: bytes
    values: bytes


@dataclass(frozen=True, slots=True)
class TreeArrays:
    """The tables as the kernel takes them, checked.

    used: features with a split. columns: int32 (used); offsets: int32 (used + 1); first_rows: int32 (used).
    checkpoints: words (rows, trees); for each used feature first what a NaN clears, then what its first 2^shift,
    2 · 2^shift, … splits clear.
    """

    features: int
    trees: int
    leaves: int
    link: str
    base: float
    shift: int
    columns: NDArray[np.int32]
    offsets: NDArray[np.int32]
    first_rows: NDArray[np.int32]
    thresholds: NDArray[np.float32]
    split_trees: NDArray[np.int32]
    split_masks: NDArray[Any]
    checkpoints: NDArray[Any]
    values: NDArray[np.float32]

    @property
    def size_bytes(self) -> int:
        """The memory that the tables take."""
        arrays = (self.columns, self.offsets, self.first_rows, self.thresholds, self.split_trees, self.split_masks,
                  self.checkpoints, self.values)  # fmt: skip
        return sum(array.nbytes for array in arrays)

    def conditions(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the feature and the threshold of every split."""
        return np.repeat(self.columns, np.diff(self.offsets)), self.thresholds


def encode_tables(tables: TreeTables) -> bytes:
    """Return the content of the file."""
    return msgspec.msgpack.encode(tables)


def decode_tables(content: bytes) -> TreeTables:
    """Return the tables in a file's content. Raises ValueError when it holds none, or of another layout."""
    tables: TreeTables = unpack(content, TreeTables, TABLES_LAYOUT)
    return tables


def expand_tables(tables: TreeTables) -> TreeArrays:
    """Return the tables with their checkpoints.

    Raises ValueError, saying what is wrong, for tables that could lead the kernel outside of them.
    """
    require(1 <= tables.features <= FEATURES_MAX, f"{tables.features} features, not 1 to {FEATURES_MAX}")
    require(1 <= tables.trees <= TREES_MAX, f"{tables.trees} trees, not 1 to {TREES_MAX}")
    word = f"<u{tables.leaves // 8}"
    counts = as_array(tables.counts, "<i4", "counts", tables.features)
    require(bool((counts >= 0).all()), "a feature with fewer than no splits")
    splits = int(counts.sum(dtype=np.int64))
    require(splits <= SPLITS_MAX, f"{splits} splits, more than {SPLITS_MAX}")
    thresholds = as_array(tables.thresholds, "<f4", "thresholds", splits)
    split_trees = as_array(tables.split_trees, "<i4", "split_trees", splits)
    split_masks = as_array(tables.split_masks, word, "split_masks", splits)
    missing_right = as_array(tables.missing_right, "u1", "missing_right", splits)
    values = as_array(tables.values, "<f4", "values", tables.trees * tables.leaves)
    require(bool(((split_trees >= 0) & (split_trees < tables.trees)).all()), "a split of a tree that is not there")
    require(bool((split_masks >> np.array(tables.leaves - 1, word)).all()), "a split that clears the last leaf")
    columns = np.flatnonzero(counts).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(counts[columns])]).astype(np.int32)
    descents = np.flatnonzero(~(thresholds[1:] >= thresholds[:-1])) + 1
    require(bool(np.isin(descents, offsets).all()), "thresholds that do not ascend")
    require(not np.isnan(thresholds).any(), "a threshold that is no number")
    word_bytes = tables.leaves // 8
    require(
        len(columns) * tables.trees * word_bytes <= MISSING_BYTES_MAX,
        f"{len(columns)} used features × {tables.trees} trees, more than fit in {MISSING_BYTES_MAX >> 20} MiB",
    )
    shift = _choose_shift(counts[columns], tables.trees * word_bytes)
    checkpoints, first_rows = _checkpoints(tables, shift, offsets, split_trees, split_masks, missing_right)
    return TreeArrays(
        tables.features, tables.trees, tables.leaves, tables.link, tables.base, shift, columns, offsets, first_rows,
        thresholds, split_trees, split_masks, checkpoints, values.reshape(tables.trees, tables.leaves),
    )  # fmt: skip


def _choose_shift(counts: NDArray[np.int32], row_bytes: int) -> int:
    """Return how far apart checkpoints are, as a power of two: 8 splits, or more where they would take too much."""
    shift = SHIFT_MIN
    while shift < SHIFT_MAX:
        size_bytes = int((counts >> shift).sum(dtype=np.int64)) * row_bytes
        if size_bytes <= (CHECKPOINTS_BYTES_BEST if shift < SHIFT_BEST_MAX else CHECKPOINTS_BYTES_MAX):
            break
        shift += 1
    return shift


def _checkpoints(
    tables: TreeTables,
    shift: int,
    offsets: NDArray[np.int32],
    split_trees: NDArray[np.int32],
    split_masks: NDArray[Any],
    missing_right: NDArray[np.uint8],
) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Return the checkpoints of all used features, and where each one's begin."""
    counts = np.diff(offsets)
    first_rows = np.concatenate([[0], np.cumsum((counts >> shift) + 1)]).astype(np.int32)
    checkpoints = np.full(
        (max(int(first_rows[-1]), 1), tables.trees), np.iinfo(split_masks.dtype).max, split_masks.dtype
    )
    for used, first in enumerate(first_rows[:-1]):
        start, end = int(offsets[used]), int(offsets[used + 1])
        right = start + np.flatnonzero(missing_right[start:end])
        np.bitwise_and.at(checkpoints[first], split_trees[right], split_masks[right])
        for step in range(1, ((end - start) >> shift) + 1):
            row = checkpoints[first + step]
            if step > 1:
                row[:] = checkpoints[first + step - 1]
            part = slice(start + ((step - 1) << shift), start + (step << shift))
            np.bitwise_and.at(row, split_trees[part], split_masks[part])
    return checkpoints, first_rows[:-1]
