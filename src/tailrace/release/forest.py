"""The forest in an ONNX graph as tables for the forest kernel: trees of any size, of one output or several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.inference.backends.forest_tables import (
    DEPTH_OBLIVIOUS_MAX,
    FOREST_LAYOUT,
    NEXT_BITS,
    NODE,
    ForestTables,
    Link,
    NodeTables,
    ObliviousTables,
    slot_bits,
)
from tailrace.inference.signature import Signature
from tailrace.release.forest_nodes import Finder, Nodes, gather_lines, lay_out_nodes
from tailrace.release.tree_graph import NoTablesError

_LINKS: Final[dict[str, Link]] = {"Sigmoid": "sigmoid", "Softmax": "softmax", "Exp": "exp"}
_TRANSFORMS: Final[dict[bytes, Link]] = {b"NONE": "", b"SOFTMAX": "softmax", b"LOGISTIC": "sigmoid"}

FEATURES_BITS_MAX: Final = 64
"""Features that trees ask for beyond which walks are faster than bit vectors on any processor: at 24 they are equal, at
100 twice as fast with AVX-512 (docs/performance.md)."""


@dataclass(frozen=True, slots=True)
class _TreeOperator:
    """A tree operator: its attributes, and the link behind it. outputs: scores of a row; column: the one of them."""

    attributes: dict[str, Any]
    kind: str
    link: Link
    outputs: int
    column: int | None


def lay_out_forest(graph: bytes, signature: Signature) -> ForestTables:
    """Return the tables of an ONNX graph that is one tree ensemble behind a link or none; oblivious ones where it is.

    Raises NoTablesError for any other graph. That the scores are the graph's is for the caller to check.
    """
    operator, nodes = _read_graph(graph, signature)
    features = len(signature.inputs[0].features)
    tested = nodes.features[nodes.inner]
    if ((tested < 0) | (tested >= features)).any():
        raise NoTablesError("a split is on a feature that the input has not")
    targets, values = _leaf_values(operator, nodes)
    slots, slot_of = _assign_slots(nodes)
    width = 1 if operator.column is not None else operator.outputs
    common = {
        "layout": FOREST_LAYOUT,
        "features": features,
        "outputs": width,
        "link": operator.link,
        "scale": _scale(operator, len(nodes.counts)),
        "base": _base(operator, width),
        "columns": (slots >> 1).astype("<i4").tobytes(),
        "missing_left": (slots & 1).astype("u1").tobytes(),
    }
    levels = _oblivious_levels(nodes, slot_of)
    if levels is not None:
        return _oblivious_tables(common, nodes, slot_of, levels, _as_vectors(nodes, targets, values, width))
    return _node_tables(common, nodes, slot_of, targets, values, len(slots))


def suits_forest(graph: bytes, signature: Signature) -> bool:
    """Return whether the forest kernel computes a graph faster than bit vectors do, where both fit.

    Oblivious trees are tables to it, and it never looks at a feature that no walk asks for; bit vectors look every one
    of them up. False for what has no tables.
    """
    try:
        _, nodes = _read_graph(graph, signature)
    except (NoTablesError, LookupError):
        return False
    if len(np.unique(nodes.features[nodes.inner])) > FEATURES_BITS_MAX:
        return True
    return _oblivious_levels(nodes, _assign_slots(nodes)[1]) is not None


def _read_graph(graph: bytes, signature: Signature) -> tuple[_TreeOperator, Nodes]:
    import onnx

    specs = signature.inputs
    if len(specs) != 1 or specs[0].dtype != "float32":
        raise NoTablesError("its input is not one float32 matrix")
    operator = _read_operator(onnx.load_from_string(graph), signature)
    return operator, lay_out_nodes(operator.attributes)


def _assign_slots(nodes: Nodes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the slots, twice the feature and 1 where NaN goes left, one at least; and the slot of each node."""
    keys = (nodes.features * 2 + nodes.missing_left)[nodes.inner]
    slots, tests = np.unique(keys, return_inverse=True)
    slot_of = np.zeros(len(nodes.left), np.int64)
    slot_of[nodes.inner] = tests
    return (slots if len(slots) else np.zeros(1, np.int64)), slot_of


def _read_operator(model: Any, signature: Signature) -> _TreeOperator:
    """Return the tree operator that reads the graph's input and gives the signature's output."""
    from onnx import helper

    node, output, link = _find_operator(model, signature.output)
    found = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    if "nodes_values" not in found:
        raise NoTablesError("its tree ensemble is of doubles")
    if node.input[0] != model.graph.input[0].name:
        raise NoTablesError("its features are changed before they come to the trees")
    transform = found.get("post_transform", b"NONE")
    if transform not in _TRANSFORMS or (link and transform != b"NONE"):
        raise NoTablesError(f"its link is {transform.decode()}")
    link = link or _TRANSFORMS[transform]
    if node.op_type == "TreeEnsembleRegressor":
        outputs = int(found.get("n_targets", 1))
        operator = _TreeOperator(found, "target", link, outputs, 0 if outputs == 1 else signature.column)
    elif output != node.output[1]:
        raise NoTablesError("its output is the class")
    else:
        operator = _read_classifier(found, link, signature.column)
    if link == "softmax" and operator.column is not None and operator.outputs > 1:
        raise NoTablesError("its one score depends on all")
    return operator


def _find_operator(model: Any, output: str) -> tuple[Any, str, Link]:
    """Return the tree operator behind an output, its own output, and the link between them."""
    producers = {name: node for node in model.graph.node for name in node.output}
    link: Link = ""
    while output in producers and producers[output].op_type in {"Identity", *_LINKS}:
        node = producers[output]
        if node.op_type in _LINKS:
            if link:
                raise NoTablesError("it has two links")
            link = _LINKS[node.op_type]
        output = node.input[0]
    if output not in producers:
        raise NoTablesError("it is no tree ensemble")
    node = producers[output]
    if node.op_type not in {"TreeEnsembleRegressor", "TreeEnsembleClassifier"}:
        raise NoTablesError(f"it is no tree operator, or one behind {node.op_type}")
    return node, output, link


def _read_classifier(found: dict[str, Any], link: Link, column: int | None) -> _TreeOperator:
    """Return the operator of a `TreeEnsembleClassifier`."""
    labels = found.get("classlabels_int64s") or found.get("classlabels_strings") or ()
    if len(labels) == 2 and len(set(found["class_ids"])) == 1:
        # Such a classifier has one score; it is the second column's, and the first one is what is left to 1.
        if column != 1:
            raise NoTablesError("its two scores are made of one")
        return _TreeOperator(found, "class", link, 1, 0)
    return _TreeOperator(found, "class", link, len(labels), column)


def _scale(operator: _TreeOperator, trees: int) -> float:
    kind = operator.attributes.get("aggregate_function", b"SUM")
    if kind not in {b"SUM", b"AVERAGE"}:
        raise NoTablesError(f"its trees are put together by {kind.decode()}")
    return 1.0 / trees if kind == b"AVERAGE" else 1.0


def _base(operator: _TreeOperator, width: int) -> tuple[float, ...]:
    base = [float(value) for value in operator.attributes.get("base_values") or ()] or [0.0] * operator.outputs
    if operator.column is not None and len(base) > 1:
        base = base[operator.column : operator.column + 1]
    if len(base) != width:
        raise NoTablesError(f"it has {len(base)} base values for {width} scores")
    return tuple(base)


def _leaf_values(operator: _TreeOperator, nodes: Nodes) -> tuple[NDArray[np.int64] | None, NDArray[np.float32]]:
    """Return every tree's output and its leaves' values (nodes,); or None and vectors, (nodes, outputs)."""
    attributes, kind = operator.attributes, operator.kind
    trees, ids, outputs = (np.array(attributes[f"{kind}_{name}"], np.int64) for name in ("treeids", "nodeids", "ids"))
    weights = np.array(attributes[f"{kind}_weights"], np.float32)
    find = Finder(*(np.array(attributes[f"nodes_{name}"], np.int64) for name in ("treeids", "nodeids")))
    place_of = np.empty(len(nodes.places), np.intp)
    place_of[nodes.places] = np.arange(len(nodes.places))
    at = place_of[find(trees, ids)]
    if operator.outputs == 1:
        outputs = np.zeros_like(outputs)
    if ((outputs < 0) | (outputs >= operator.outputs)).any():
        raise NoTablesError("a leaf is of an output that is not there")
    if operator.column is not None:
        kept = outputs == operator.column if operator.outputs > 1 else np.ones(len(outputs), np.bool_)
        at, weights, outputs = at[kept], weights[kept], np.zeros(int(kept.sum()), np.int64)
    if len(np.unique(at * operator.outputs + outputs)) != len(at):
        raise NoTablesError("a leaf has two weights")
    targets = np.zeros(len(nodes.counts), np.int64)
    targets[nodes.trees[at]] = outputs
    if (targets[nodes.trees[at]] == outputs).all():
        values = np.zeros(len(nodes.places), np.float32)
        values[at] = weights
        return targets, values
    vectors = np.zeros((len(nodes.places), operator.outputs), np.float32)
    vectors[at, outputs] = weights
    return None, vectors


def _as_vectors(
    nodes: Nodes, targets: NDArray[np.int64] | None, values: NDArray[np.float32], width: int
) -> NDArray[np.float32]:
    """Return a vector for every node."""
    if targets is None:
        return values
    vectors = np.zeros((len(values), width), np.float32)
    vectors[np.arange(len(values)), targets[nodes.trees]] = values
    return vectors


def _oblivious_levels(nodes: Nodes, slot_of: NDArray[np.int64]) -> list[list[int]] | None:
    """Return for each tree the first node of each of its levels of tests; None unless all trees are oblivious."""
    levels = []
    start = 0
    for count in nodes.counts.tolist():
        depth = (count + 1).bit_length() - 2
        if count + 1 != 2 << depth or depth > DEPTH_OBLIVIOUS_MAX:
            return None
        firsts = [start + (1 << level) - 1 for level in range(depth)]
        for level, first in enumerate(firsts):
            part = slice(first, first + (1 << level))
            same = (slot_of[part] == slot_of[first]) & (nodes.thresholds[part] == nodes.thresholds[first])
            if not (same & nodes.inner[part]).all():
                return None
        levels.append(firsts)
        start += count
    return levels


def _oblivious_tables(
    common: dict[str, Any],
    nodes: Nodes,
    slot_of: NDArray[np.int64],
    levels: list[list[int]],
    vectors: NDArray[np.float32],
) -> ObliviousTables:
    tests = np.array([first for firsts in levels for first in firsts], np.intp)
    return ObliviousTables(
        **common,
        depths=np.array([len(firsts) for firsts in levels], "<i4").tobytes(),
        tests=slot_of[tests].astype("<i4").tobytes(),
        thresholds=nodes.thresholds[tests].astype("<f4").tobytes(),
        vectors=vectors[~nodes.inner].astype("<f4").tobytes(),
    )


def _node_tables(
    common: dict[str, Any],
    nodes: Nodes,
    slot_of: NDArray[np.int64],
    targets: NDArray[np.int64] | None,
    values: NDArray[np.float32],
    slots: int,
) -> NodeTables:
    bits = slot_bits(slots)
    to = gather_lines(nodes)
    ahead = np.where(nodes.inner, to[nodes.left] - to, 0)
    if int(ahead.max(initial=0)) >= 1 << (NEXT_BITS - bits):
        raise NoTablesError(f"a tree has more nodes than {NEXT_BITS - bits} bits can number")
    table = np.zeros(len(ahead), NODE)
    table["next"] = (ahead << bits) | slot_of
    table["value"] = nodes.thresholds
    vectors = b""
    if targets is not None:
        table["value"][~nodes.inner] = values[~nodes.inner]
    else:
        distinct, places = np.unique(values[~nodes.inner], axis=0, return_inverse=True)
        table["value"][~nodes.inner] = places.astype("<u4").view("<f4")
        vectors = distinct.astype("<f4").tobytes()
    gathered = np.empty_like(table)
    gathered[to] = table
    return NodeTables(
        **common,
        counts=nodes.counts.astype("<i4").tobytes(),
        nodes=gathered.tobytes(),
        targets=b"" if targets is None else targets.astype("<i4").tobytes(),
        vectors=vectors,
    )
