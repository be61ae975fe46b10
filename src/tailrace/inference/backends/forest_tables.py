"""A forest as tables for the forest kernel: the file `forest.msgpack` of a model directory.

forest.c says how they are used. Everything that the kernel takes for granted is checked here, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.inference.backends.packed_arrays import as_array, require, unpack

FOREST_LAYOUT: Final = 1
"""Of the file. A reader refuses another."""
FEATURES_MAX: Final = 1 << 16
TREES_MAX: Final = 1 << 16
OUTPUTS_MAX: Final = 1 << 10
NODES_MAX: Final = 1 << 24
"""Nodes, and leaves of oblivious trees; numbers in vectors too."""
DEPTH_MAX: Final = 4096
DEPTH_OBLIVIOUS_MAX: Final = 16
NEXT_BITS: Final = 32
"""Of a node's `next`: slot and distance to the left child share them."""
LINKS: Final = ("", "sigmoid", "softmax", "exp")
"""As forest.c numbers them."""
NODE: Final = np.dtype([("value", "<f4"), ("next", "<u4")])
"""A node. next: how far ahead its left child is, times the slots' power of two, plus the slot; 0: a leaf."""

Link = Literal["", "sigmoid", "softmax", "exp"]


class Slots(msgspec.Struct, frozen=True):
    """What every forest has; the arrays are little-endian bytes.

    score = link(sum of one leaf a tree × scale + base), in float32, for each of `outputs`.
    columns: int32 (slots), the feature of each slot; missing_left: uint8 (slots), 1 where NaN passes its tests.
    """

    layout: int
    features: int
    outputs: int
    link: Link
    scale: float
    base: tuple[float, ...]
    columns: bytes
    missing_left: bytes


class NodeTables(Slots, frozen=True, tag="nodes"):
    """Trees of any form, node by node from the root down; `x <= value` goes left.

    counts: int32 (trees), the nodes of each. nodes: `NODE`, tree after tree, every child after its parent and a right
    child behind the left one. targets: int32 (trees), the output that a tree's leaves are added to; empty where the
    value of a leaf is the place, as uint32, of a vector. vectors: float32 (vectors, outputs).
    """

    counts: bytes
    nodes: bytes
    targets: bytes = b""
    vectors: bytes = b""


class ObliviousTables(Slots, frozen=True, tag="oblivious"):
    """Trees that ask the same at every node of a level.

    depths: int32 (trees). Then for each level, tree after tree from the root down: tests: int32, its slot; thresholds:
    float32, `x <= threshold` goes left. vectors: float32 (leaves, outputs), a tree's 2^depth from left to right.
    """

    depths: bytes
    tests: bytes
    thresholds: bytes
    vectors: bytes


ForestTables = NodeTables | ObliviousTables


@dataclass(frozen=True, slots=True)
class ForestArrays:
    """The tables as the kernel takes them, checked. Arrays that the form of the trees has no use for are empty.

    missing: float32 (slots), what NaN becomes; starts: int32 (trees), a tree's root, or the first of its vectors.
    """

    features: int
    trees: int
    outputs: int
    link: Link
    scale: float
    oblivious: bool
    columns: NDArray[np.int32]
    missing: NDArray[np.float32]
    starts: NDArray[np.int32]
    vectors: NDArray[np.float32]
    base: NDArray[np.float32]
    nodes: NDArray[Any]
    targets: NDArray[np.int32]
    depths: NDArray[np.int32]
    tests: NDArray[np.int32]
    thresholds: NDArray[np.float32]

    @property
    def slot_bits(self) -> int:
        """The bits of a slot in a node."""
        return slot_bits(len(self.columns))

    @property
    def size_bytes(self) -> int:
        """The memory that the tables take."""
        arrays = (self.columns, self.missing, self.starts, self.vectors, self.base, self.nodes, self.targets,
                  self.depths, self.tests, self.thresholds)  # fmt: skip
        return sum(array.nbytes for array in arrays)

    def conditions(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the feature and the threshold of every test."""
        if self.oblivious:
            return self.columns[self.tests], self.thresholds
        inner = self.nodes[self.nodes["next"] >> self.slot_bits > 0]
        return self.columns[inner["next"] & ((1 << self.slot_bits) - 1)], inner["value"]


def slot_bits(slots: int) -> int:
    """Return how many bits of a node's `next` hold its slot."""
    return max(1, (slots - 1).bit_length())


def encode_forest(tables: ForestTables) -> bytes:
    """Return the content of the file."""
    return msgspec.msgpack.encode(tables)


def decode_forest(content: bytes) -> ForestTables:
    """Return the tables in a file's content. Raises ValueError when it holds none, or of another layout."""
    tables: ForestTables = unpack(content, ForestTables, FOREST_LAYOUT)
    return tables


def expand_forest(tables: ForestTables) -> ForestArrays:
    """Return the tables as the kernel takes them.

    Raises ValueError, saying what is wrong, for tables that could lead the kernel outside of them.
    """
    require(1 <= tables.features <= FEATURES_MAX, f"{tables.features} features, not 1 to {FEATURES_MAX}")
    require(1 <= tables.outputs <= OUTPUTS_MAX, f"{tables.outputs} outputs, not 1 to {OUTPUTS_MAX}")
    require(len(tables.base) == tables.outputs, f"{len(tables.base)} base values for {tables.outputs} outputs")
    columns = as_array(tables.columns, "<i4", "columns")
    require(1 <= len(columns) <= 2 * tables.features, f"{len(columns)} slots of {tables.features} features")
    require(_within(columns, tables.features), "a slot of a feature that is not there")
    missing_left = as_array(tables.missing_left, "u1", "missing_left", len(columns))
    vectors = as_array(tables.vectors, "<f4", "vectors")
    require(len(vectors) <= NODES_MAX, f"{len(vectors)} numbers in vectors, more than {NODES_MAX}")
    require(len(vectors) % tables.outputs == 0, f"{len(vectors)} numbers in vectors of {tables.outputs}")
    expand = _expand_nodes if isinstance(tables, NodeTables) else _expand_oblivious
    return ForestArrays(
        features=tables.features,
        outputs=tables.outputs,
        link=tables.link,
        scale=tables.scale,
        oblivious=isinstance(tables, ObliviousTables),
        columns=columns,
        missing=np.where(missing_left > 0, -np.inf, np.nan).astype(np.float32),
        vectors=vectors,
        base=np.array(tables.base, np.float32),
        **expand(tables, len(columns), len(vectors) // tables.outputs),  # type: ignore[arg-type]
    )


def _expand_nodes(tables: NodeTables, slots: int, vectors: int) -> dict[str, Any]:
    """Return the arrays of trees of nodes, found to be trees: each node but the roots is the child of one before it."""
    counts = as_array(tables.counts, "<i4", "counts")
    require(1 <= len(counts) <= TREES_MAX, f"{len(counts)} trees, not 1 to {TREES_MAX}")
    require(bool((counts > 0).all()), "a tree without nodes")
    nodes = as_array(tables.nodes, NODE, "nodes", int(counts.sum(dtype=np.int64)))
    require(len(nodes) <= NODES_MAX, f"{len(nodes)} nodes, more than {NODES_MAX}")
    ends = np.cumsum(counts, dtype=np.int64)
    ahead = (nodes["next"] >> slot_bits(slots)).astype(np.int64)
    inner = np.flatnonzero(ahead)
    left = inner + ahead[inner]
    require(bool((left + 1 < np.repeat(ends, counts)[inner]).all()), "a node whose children are outside its tree")
    children = np.concatenate([left, left + 1, ends - counts])
    parents = np.bincount(children, minlength=len(nodes))
    require(bool((parents == 1).all()), "a node that is not the child of one other")
    # Of leaves too: a walk that has arrived looks at its leaf's slot until the others of its vector have.
    require(bool(((nodes["next"] & ((1 << slot_bits(slots)) - 1)) < slots).all()), "a test of no slot")
    require(not np.isnan(nodes["value"][inner]).any(), "a threshold that is no number")
    _check_depth(ahead, ends - counts)
    targets = as_array(tables.targets, "<i4", "targets")
    if len(targets):
        require(len(targets) == len(counts), f"{len(targets)} targets of {len(counts)} trees")
        require(_within(targets, tables.outputs), "a target that is not there")
    else:
        places = np.ascontiguousarray(nodes["value"][ahead == 0]).view(np.uint32)
        require(bool((places < vectors).all()), "a leaf whose vector is not there")
    none = np.zeros(0, np.int32)
    return {"trees": len(counts), "starts": (ends - counts).astype(np.int32), "nodes": nodes, "targets": targets,
            "depths": none, "tests": none, "thresholds": np.zeros(0, np.float32)}  # fmt: skip


def _check_depth(ahead: NDArray[np.int64], roots: NDArray[np.int64]) -> None:
    """Raise ValueError for trees that are deeper than any that was trained: each step of a walk takes time."""
    level = roots
    for _ in range(DEPTH_MAX + 1):
        level = level[ahead[level] > 0]
        if not len(level):
            return
        left = level + ahead[level]
        level = np.concatenate([left, left + 1])
    raise ValueError(f"it holds a tree that is more than {DEPTH_MAX} deep")


def _expand_oblivious(tables: ObliviousTables, slots: int, vectors: int) -> dict[str, Any]:
    """Return the arrays of oblivious trees."""
    depths = as_array(tables.depths, "<i4", "depths")
    require(1 <= len(depths) <= TREES_MAX, f"{len(depths)} trees, not 1 to {TREES_MAX}")
    require(_within(depths, DEPTH_OBLIVIOUS_MAX + 1), f"a depth that is not 0 to {DEPTH_OBLIVIOUS_MAX}")
    leaves = 1 << depths.astype(np.int64)
    require(int(leaves.sum()) == vectors, f"{vectors} leaves, not {int(leaves.sum())}")
    levels = int(depths.sum(dtype=np.int64))
    tests = as_array(tables.tests, "<i4", "tests", levels)
    thresholds = as_array(tables.thresholds, "<f4", "thresholds", levels)
    require(_within(tests, slots), "a test of no slot")
    require(not np.isnan(thresholds).any(), "a threshold that is no number")
    starts = (np.cumsum(leaves) - leaves).astype(np.int32)
    return {"trees": len(depths), "starts": starts, "depths": depths, "tests": tests, "thresholds": thresholds,
            "nodes": np.zeros(0, NODE.newbyteorder("=")), "targets": np.zeros(0, np.int32)}  # fmt: skip


def _within(values: NDArray[np.int32], end: int) -> bool:
    return bool(((values >= 0) & (values < end)).all())
