"""The scores of tree tables in NumPy: slow, but it needs no compiler. Packaging checks tables with it without one."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.inference.backends.tree_tables import TreeTables

CELLS_MAX: Final = 1 << 20
"""Rows × splits looked at together."""


def score_tables(tables: TreeTables, matrix: NDArray[Any]) -> NDArray[np.float32]:
    """Return the scores of a float32 matrix, (rows, features), as (rows,).

    tables: such as `expand_tables` accepts.
    """
    splits = _Splits(tables)
    block = max(1, CELLS_MAX // max(1, len(splits.thresholds)))
    parts = [splits.score(matrix[start : start + block]) for start in range(0, len(matrix), block)]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


class _Splits:
    """The splits of all trees, tree by tree."""

    def __init__(self, tables: TreeTables) -> None:
        split_trees = np.frombuffer(tables.split_trees, "<i4")
        counts = np.frombuffer(tables.counts, "<i4")
        order = np.argsort(split_trees, kind="stable")
        self.tables = tables
        self.features = np.repeat(np.arange(tables.features), counts)[order]
        self.thresholds = np.frombuffer(tables.thresholds, "<f4")[order]
        self.masks = np.frombuffer(tables.split_masks, f"<u{tables.leaves // 8}")[order].astype(np.uint64)
        self.missing_right = np.frombuffer(tables.missing_right, "u1")[order].astype(np.bool_)
        self.values = np.frombuffer(tables.values, "<f4").reshape(tables.trees, tables.leaves)
        self.trees, self.firsts = np.unique(split_trees[order], return_index=True)  # those that have a split

    def score(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Return the scores of a few rows."""
        words = np.full((len(rows), self.tables.trees), (1 << self.tables.leaves) - 1, np.uint64)
        if len(self.trees):
            values = rows[:, self.features]
            goes_right = (values > self.thresholds) | (np.isnan(values) & self.missing_right)
            left = np.where(goes_right, self.masks, ~np.uint64(0))
            words[:, self.trees] &= np.bitwise_and.reduceat(left, self.firsts, axis=1)
        lowest = words & (~words + np.uint64(1))
        leaves = np.frexp(lowest.astype(np.float64))[1] - 1  # a power of two: its exponent
        weights = self.values[np.arange(self.tables.trees), leaves]
        with np.errstate(over="ignore"):
            scores = np.cumsum(weights, axis=1, dtype=np.float32)[:, -1] + np.float32(self.tables.base)
            return scores if not self.tables.link else np.float32(1) / (np.float32(1) + np.exp(-scores))
