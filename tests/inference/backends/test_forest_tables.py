from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from inference.forest_models import FORESTS
from tailrace.inference.backends.forest_tables import (
    DEPTH_MAX,
    FOREST_LAYOUT,
    NODE,
    ForestTables,
    NodeTables,
    ObliviousTables,
    decode_forest,
    encode_forest,
    expand_forest,
)
from tailrace.release.forest import lay_out_forest
from tailrace.release.table_scores import score_forest

BITS = 2  # of three slots


def node(value: float, ahead: int, slot: int = 0) -> tuple[float, int]:
    """Return a node; a leaf is ahead of itself by nothing."""
    return value, ahead << BITS | slot


def table(*nodes: tuple[float, int]) -> bytes:
    """Return nodes as the file has them."""
    return np.array([*nodes], NODE).tobytes()


def ints(*values: int) -> bytes:
    """Return int32 as the file has them."""
    return np.array(values, "<i4").tobytes()


def floats(*values: float) -> bytes:
    """Return float32 as the file has them."""
    return np.array(values, "<f4").tobytes()


def two_trees(**changes: Any) -> NodeTables:
    """Return a tree of three leaves and one of one leaf, over three slots of four features."""
    tables = NodeTables(
        layout=FOREST_LAYOUT,
        features=4,
        outputs=2,
        link="",
        scale=1.0,
        base=(0.0, 0.5),
        columns=ints(0, 3, 3),
        missing_left=bytes([0, 0, 1]),
        counts=ints(5, 1),
        nodes=table(node(1.5, 1, 2), node(0.5, 2, 1), node(7, 0), node(8, 0), node(9, 0), node(3, 0)),
        targets=ints(0, 1),
    )
    return msgspec.structs.replace(tables, **changes)


def two_tables(**changes: Any) -> ObliviousTables:
    """Return an oblivious tree of two levels and one of none."""
    tables = ObliviousTables(
        layout=FOREST_LAYOUT,
        features=4,
        outputs=1,
        link="sigmoid",
        scale=1.0,
        base=(0.0,),
        columns=ints(0, 3, 3),
        missing_left=bytes([0, 0, 1]),
        depths=ints(2, 0),
        tests=ints(0, 2),
        thresholds=floats(1, 2),
        vectors=floats(1, 2, 3, 4, 5),
    )
    return msgspec.structs.replace(tables, **changes)


@pytest.mark.parametrize("tables", [two_trees(), two_tables()], ids=["nodes", "oblivious"])
def test_tables_survive_the_file(tables: ForestTables) -> None:
    """What is written is read back the same, and fits."""
    assert decode_forest(encode_forest(tables)) == tables
    assert expand_forest(tables).trees == 2


@pytest.mark.parametrize("part", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("tables", [two_trees(), two_tables()], ids=["nodes", "oblivious"])
def test_content_cut_short_is_refused(tables: ForestTables, part: float) -> None:
    """A file that lost its end holds no tables."""
    content = encode_forest(tables)
    with pytest.raises(ValueError, match="it holds no tables"):
        decode_forest(content[: int(len(content) * part)])


def test_content_that_promises_more_than_it_has_is_refused() -> None:
    """A header of 4 GB of nodes in a file of 300 bytes: nothing is made ready for them."""
    content = encode_forest(two_trees())
    at = content.index(two_trees().nodes)
    promised = content[: at - 2] + b"\xc6\xff\xff\xff\xff" + content[at:]
    with pytest.raises(ValueError, match="it holds no tables"):
        decode_forest(promised)


def test_another_layout_is_refused() -> None:
    """Tables of another layout are not guessed at."""
    with pytest.raises(ValueError, match="layout 2; this Tailrace reads layout 1"):
        decode_forest(encode_forest(two_trees(layout=2)))


LEAVES = (node(7, 0), node(8, 0), node(9, 0), node(3, 0))

FAULTS: dict[str, ForestTables] = {
    "no feature": two_trees(features=0),
    "no slot": two_trees(columns=b"", missing_left=b""),
    "a slot of another feature": two_trees(columns=ints(0, 4, 3)),
    "a negative feature": two_trees(columns=ints(0, -1, 3)),
    "half a slot": two_trees(columns=ints(0, 3, 3)[:-1]),
    "missing for fewer slots": two_trees(missing_left=b"\0\0"),
    "a thousand million outputs": two_trees(outputs=1_000_000_000, base=(0.0,)),
    "another number of base values": two_trees(base=(0.0,)),
    "no trees": two_trees(counts=b"", nodes=b"", targets=b""),
    "a tree without nodes": two_trees(counts=ints(6, 0)),
    "a negative count": two_trees(counts=ints(7, -1)),
    "two thousand million nodes": two_trees(counts=ints(2**31 - 1, 2**31 - 1)),
    "nodes for fewer trees": two_trees(counts=ints(5, 2)),
    "a child beyond its tree": two_trees(nodes=table(node(1.5, 1, 2), node(0.5, 4, 1), *LEAVES)),
    "a child far beyond all": two_trees(nodes=table(node(1.5, 1, 2), node(0.5, (1 << 30) - 1, 1), *LEAVES)),
    "a child of two nodes": two_trees(nodes=table(node(1.5, 1, 2), node(0.5, 1, 1), *LEAVES)),
    "a node that is no child": two_trees(nodes=table(node(1.5, 1, 2), node(0.5, 0), *LEAVES)),
    "a test of no slot": two_trees(nodes=table(node(1.5, 1, 3), node(0.5, 2, 1), *LEAVES)),
    "a leaf of no slot": two_trees(nodes=table(node(1.5, 1, 2), node(0.5, 2, 1), *LEAVES[:3], node(3, 0, 3))),
    "a threshold of NaN": two_trees(nodes=table(node(np.nan, 1, 2), node(0.5, 2, 1), *LEAVES)),
    "fewer targets than trees": two_trees(targets=ints(0)),
    "a target that is not there": two_trees(targets=ints(0, 2)),
    "a vector that is not there": two_trees(targets=b"", vectors=floats(1, 2)),
    "a vector with half its numbers": two_trees(targets=b"", vectors=floats(1)),
    "oblivious without a tree": two_tables(depths=b"", tests=b"", thresholds=b"", vectors=b""),
    "a depth of thirty": two_tables(depths=ints(30, 0)),
    "a negative depth": two_tables(depths=ints(2, -1)),
    "too few leaves": two_tables(vectors=floats(1, 2, 3, 4)),
    "too few tests": two_tables(tests=ints(0)),
    "an oblivious test of no slot": two_tables(tests=ints(0, 3)),
    "an oblivious threshold of NaN": two_tables(thresholds=floats(1, np.nan)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_tables_that_lead_outside_are_refused(fault: str) -> None:
    """Nothing that the kernel takes for granted is believed, whoever wrote the file."""
    with pytest.raises(ValueError, match="it holds"):
        expand_forest(decode_forest(encode_forest(FAULTS[fault])))


def test_tree_without_end_is_refused() -> None:
    """A chain that is deeper than any tree that was trained would hold up every row."""
    nodes = [node(0.0, 1 - place % 2) for place in range(2 * DEPTH_MAX + 2)]
    chain = two_trees(counts=ints(len(nodes) + 1), nodes=table(*nodes, node(0.0, 0)), targets=ints(0))
    with pytest.raises(ValueError, match=f"more than {DEPTH_MAX} deep"):
        expand_forest(chain)


@pytest.mark.parametrize("name", FORESTS)
def test_random_damage_is_refused_or_harmless(name: str) -> None:
    """Bytes changed anywhere: the tables are refused, or every index in them is within its range."""
    many = FORESTS[name]
    content = bytearray(encode_forest(lay_out_forest(many.graph(), many.signature)))
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 3):
            damaged[place] = int(rng.integers(256))
        try:
            arrays = expand_forest(decode_forest(bytes(damaged)))
        except ValueError:
            continue
        with np.errstate(all="ignore"):
            scores = score_forest(arrays, rng.normal(size=(4, arrays.features)).astype(np.float32))
        assert len(scores) == 4
