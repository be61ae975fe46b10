"""The scores of tree tables in NumPy: slow, but it needs no compiler. Packaging checks tables with it without one."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.inference.backends.forest_tables import ForestArrays
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


def score_forest(arrays: ForestArrays, matrix: NDArray[Any]) -> NDArray[np.float32]:
    """Return the scores of a float32 matrix, (rows, features), as (rows,), or (rows, outputs) where there are several.

    arrays: such as `expand_forest` returns.
    """
    block = max(1, CELLS_MAX // (arrays.trees * arrays.outputs))
    parts = [_forest_block(arrays, matrix[start : start + block]) for start in range(0, len(matrix), block)]
    scores = np.concatenate(parts) if parts else np.zeros((0, arrays.outputs), np.float32)
    return scores[:, 0] if arrays.outputs == 1 else scores


def _forest_block(arrays: ForestArrays, rows: NDArray[Any]) -> NDArray[np.float32]:
    values = rows[:, arrays.columns]
    values = np.where(np.isnan(values), arrays.missing, values)
    leaves = _oblivious_leaves(arrays, values) if arrays.oblivious else _node_leaves(arrays, values)
    with np.errstate(over="ignore"):
        sums = np.cumsum(leaves, axis=1, dtype=np.float32)[:, -1] * np.float32(arrays.scale) + arrays.base
        if arrays.link == "sigmoid":
            sums = np.float32(1) / (np.float32(1) + np.exp(-sums))
        elif arrays.link == "softmax":
            sums = np.exp(sums - sums.max(axis=1, keepdims=True))
            sums /= sums.sum(axis=1, keepdims=True)
        elif arrays.link == "exp":
            sums = np.exp(sums)
    found: NDArray[np.float32] = sums.astype(np.float32)
    return found


def _node_leaves(arrays: ForestArrays, values: NDArray[Any]) -> NDArray[np.float32]:
    """Return what every tree adds: (rows, trees, outputs)."""
    at = np.broadcast_to(arrays.starts, (len(values), arrays.trees)).copy()
    mask = (1 << arrays.slot_bits) - 1
    while True:
        ahead = (arrays.nodes["next"][at] >> arrays.slot_bits).astype(at.dtype)
        if not ahead.any():
            break
        x = np.take_along_axis(values, (arrays.nodes["next"][at] & mask).astype(np.intp), axis=1)
        at += np.where(ahead > 0, ahead + ~(x <= arrays.nodes["value"][at]), 0)
    found = arrays.nodes["value"][at]
    if not len(arrays.targets):
        vectors: NDArray[np.float32] = arrays.vectors.reshape(-1, arrays.outputs)[found.view(np.uint32)]
        return vectors
    leaves = np.zeros((*found.shape, arrays.outputs), np.float32)
    leaves[:, np.arange(arrays.trees), arrays.targets] = found
    return leaves


def _oblivious_leaves(arrays: ForestArrays, values: NDArray[Any]) -> NDArray[np.float32]:
    right = ~(values[:, arrays.tests] <= arrays.thresholds)
    levels = np.arange(len(arrays.tests)) - np.repeat(np.cumsum(arrays.depths) - arrays.depths, arrays.depths)
    bits = right.astype(np.int64) << (np.repeat(arrays.depths, arrays.depths) - 1 - levels)
    index = np.zeros((len(values), arrays.trees), np.int64)
    for tree, start in enumerate(np.cumsum(arrays.depths) - arrays.depths):
        index[:, tree] = bits[:, start : start + arrays.depths[tree]].sum(axis=1)
    leaves: NDArray[np.float32] = arrays.vectors.reshape(-1, arrays.outputs)[index + arrays.starts]
    return leaves


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
