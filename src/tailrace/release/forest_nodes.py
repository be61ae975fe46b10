"""The nodes of a tree ensemble in an ONNX graph, in the order of the forest kernel: tree by tree, level by level."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.inference.backends.forest_tables import DEPTH_MAX, NODES_MAX
from tailrace.release.tree_graph import NoTablesError

PAIRS_PER_LINE: Final = 4
"""Pairs of nodes in a cache line of 64 bytes. With lines so filled deep trees take a tenth less than level by level, a
seventh for a few rows whose caches are cold."""
_UPWARD: Final = (b"BRANCH_GT", b"BRANCH_GTE")
"""Tests that are true above the threshold: their true side goes right."""
_STRICT: Final = (b"BRANCH_LT", b"BRANCH_GTE")
"""Tests that the threshold itself parts otherwise: `x < t` is `x <=` the float32 before t."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes of all trees, tree after tree, each tree level by level; `x <= threshold` goes left.

    places: of each among the operator's nodes. trees, counts: each one's tree; each tree's nodes. left: where the left
    child stands, 0 for a leaf; the right one follows. features, thresholds, missing_left: of a test.
    """

    places: NDArray[np.intp]
    trees: NDArray[np.intp]
    counts: NDArray[np.intp]
    left: NDArray[np.intp]
    features: NDArray[np.int64]
    thresholds: NDArray[np.float32]
    missing_left: NDArray[np.bool_]

    @property
    def inner(self) -> NDArray[np.bool_]:
        """Where a test is."""
        found: NDArray[np.bool_] = self.left > 0
        return found


def lay_out_nodes(attributes: dict[str, Any]) -> Nodes:
    """Return the nodes in the kernel's order. Raises NoTablesError for what is no tree, or tests what it cannot."""
    modes = np.array(attributes["nodes_modes"])
    trees, ids, true, false = (
        np.array(attributes[f"nodes_{name}"], np.int64)
        for name in ("treeids", "nodeids", "truenodeids", "falsenodeids")
    )
    inner = modes != b"LEAF"
    unknown = set(modes[inner].tolist()) - {b"BRANCH_LEQ", *_UPWARD, *_STRICT}
    if unknown:
        raise NoTablesError(f"a split tests {unknown.pop().decode()}")
    if len(modes) > NODES_MAX:
        raise NoTablesError(f"it has {len(modes)} nodes, more than {NODES_MAX}")
    thresholds = np.array(attributes["nodes_values"], np.float32)
    if (np.isnan(thresholds) | np.isneginf(thresholds))[inner].any():
        raise NoTablesError("a threshold is no number")
    strict = np.isin(modes, _STRICT)
    thresholds[strict] = np.nextafter(thresholds[strict], np.float32(-np.inf))
    upward = np.isin(modes, _UPWARD)
    tracks = np.array(attributes.get("nodes_missing_value_tracks_true") or [0] * len(modes)) > 0
    find = Finder(trees, ids)
    left, right = np.zeros((2, len(modes)), np.intp)
    left[inner] = find(trees[inner], np.where(upward, false, true)[inner])
    right[inner] = find(trees[inner], np.where(upward, true, false)[inner])
    order, first_children = _order_levels(trees, inner, left, right)
    place_of = np.empty(len(order), np.intp)
    place_of[order] = np.arange(len(order))
    return Nodes(
        places=order,
        trees=np.cumsum(np.concatenate([[False], trees[order][1:] != trees[order][:-1]])),
        counts=np.unique(np.sort(_first_seen(trees)), return_counts=True)[1],
        left=np.where(first_children[order] < 0, 0, place_of[first_children[order]]),
        features=np.array(attributes["nodes_featureids"], np.int64)[order],
        thresholds=thresholds[order],
        missing_left=np.where(upward, ~tracks, tracks)[order],
    )


def gather_lines(nodes: Nodes) -> NDArray[np.intp]:
    """Return where each node goes, so that a walk meets few cache lines: children after their parents, in pairs.

    A line holds four pairs of siblings: a pair, and those below it that most nodes stand behind, since most rows come
    by them. The pairs that are left begin lines of their own, the one with most behind it first.
    """
    left = nodes.left.tolist()
    behind = [1] * len(left)
    for node in range(len(left) - 1, -1, -1):
        if left[node]:
            behind[node] += behind[left[node]] + behind[left[node] + 1]
    order: list[int] = []
    for root in (np.cumsum(nodes.counts) - nodes.counts).tolist():
        order.append(root)
        waiting = [left[root]] if left[root] else []
        while waiting:
            line = [(0, waiting.pop())]
            for _ in range(PAIRS_PER_LINE):
                if not line:
                    break
                pair = heappop(line)[1]
                order += (pair, pair + 1)
                for node in (pair, pair + 1):
                    if left[node]:
                        heappush(line, (-behind[node], left[node]))
            waiting += [pair for _, pair in sorted(line, reverse=True)]
    places = np.empty(len(order), np.intp)
    places[order] = np.arange(len(order))
    return places


class Finder:
    """Finds nodes by their tree and number."""

    def __init__(self, trees: NDArray[np.int64], ids: NDArray[np.int64]) -> None:
        self._width = int(ids.max(initial=0)) + 1
        if ids.min(initial=0) < 0 or trees.min(initial=0) < 0 or int(trees.max(initial=0)) * self._width >= 1 << 62:
            raise NoTablesError("the numbers of its nodes are out of bounds")
        keys = trees * self._width + ids
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]
        if (self._keys[1:] == self._keys[:-1]).any():
            raise NoTablesError("two of its nodes have one id")

    def __call__(self, trees: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.intp]:
        """Return the places of some nodes. Raises NoTablesError for one that is not there."""
        wanted = trees * self._width + ids
        found = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        if ((ids < 0) | (ids >= self._width) | (self._keys[found] != wanted)).any():
            raise NoTablesError("a node is not there")
        places: NDArray[np.intp] = self._order[found]
        return places


def _first_seen(trees: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return for each node the rank of its tree, by where the trees begin."""
    _, first, inverse = np.unique(trees, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.intp)
    rank[np.argsort(first)] = np.arange(len(first))
    ranks: NDArray[np.intp] = rank[inverse]
    return ranks


def _order_levels(
    trees: NDArray[np.int64], inner: NDArray[np.bool_], left: NDArray[np.intp], right: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return all nodes by tree and then level by level, siblings side by side; and each one's left child, or -1."""
    ranks = _first_seen(trees)
    child = np.zeros(len(trees), np.bool_)
    child[left[inner]] = child[right[inner]] = True
    level = np.flatnonzero(~child)
    if not np.array_equal(ranks[level], np.arange(ranks.max(initial=-1) + 1)):
        raise NoTablesError("a tree has no root, or several, or trees are mixed")
    levels = []
    for _ in range(DEPTH_MAX + 1):
        levels.append(level)
        parents = level[inner[level]]
        if not len(parents):
            break
        level = np.stack([left[parents], right[parents]], axis=1).ravel()
        if sum(map(len, levels)) + len(level) > len(trees):
            raise NoTablesError("a node is the child of several")
    else:
        raise NoTablesError(f"a tree is more than {DEPTH_MAX} deep")
    order = np.concatenate(levels)
    if len(np.unique(order)) != len(trees) or len(order) != len(trees):
        raise NoTablesError("a node is the child of none, or of several")
    return order[np.argsort(ranks[order], kind="stable")], np.where(inner, left, -1)
