from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tailrace.inference.backends.tree_tables import (
    CHECKPOINTS_BYTES_MAX,
    TABLES_LAYOUT,
    TreeTables,
    decode_tables,
    encode_tables,
    expand_tables,
)


def two_stumps(**changes: object) -> TreeTables:
    """Return two stumps on the second of three features: x <= 1 and x <= 2; NaN goes right in the first."""
    tables = TreeTables(
        layout=TABLES_LAYOUT,
        features=3,
        trees=2,
        leaves=32,
        link="",
        base=0.0,
        counts=np.array([0, 2, 0], "<i4").tobytes(),
        thresholds=np.array([1, 2], "<f4").tobytes(),
        split_trees=np.array([0, 1], "<i4").tobytes(),
        split_masks=np.array([0xFFFFFFFE, 0xFFFFFFFE], "<u4").tobytes(),
        missing_right=np.array([1, 0], "u1").tobytes(),
        values=np.arange(64, dtype="<f4").tobytes(),
    )
    return msgspec.structs.replace(tables, **changes)


def test_tables_survive_the_file() -> None:
    """What is written is read back the same."""
    assert decode_tables(encode_tables(two_stumps())) == two_stumps()


@pytest.mark.parametrize("part", [0.0, 0.3, 0.99])
def test_content_cut_short_is_refused(part: float) -> None:
    """A file that lost its end holds no tables."""
    content = encode_tables(two_stumps())
    with pytest.raises(ValueError, match="it holds no tables"):
        decode_tables(content[: int(len(content) * part)])


def test_another_layout_is_refused() -> None:
    """Tables of another layout are not guessed at."""
    with pytest.raises(ValueError, match="layout 2; this Tailrace reads layout 1"):
        decode_tables(encode_tables(two_stumps(layout=2)))


def test_only_used_features_are_kept() -> None:
    """A feature without a split costs nothing: one is used, and its NaN clears the first tree's left leaf alone."""
    arrays = expand_tables(two_stumps())
    assert arrays.columns.tolist() == [1]
    assert arrays.offsets.tolist() == [0, 2]
    assert arrays.checkpoints.tolist() == [[0xFFFFFFFE, 0xFFFFFFFF]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": 0}, "0 features"),
        ({"trees": 1 << 20}, "1048576 trees"),
        ({"features": 4}, "counts of 12 bytes, not 16"),
        ({"counts": np.array([-1, 3, 0], "<i4").tobytes()}, "fewer than no splits"),
        ({"counts": np.array([2**31 - 1, 2, 0], "<i4").tobytes()}, "more than 16777216"),
        ({"counts": np.array([0, 3, 0], "<i4").tobytes()}, "thresholds of 8 bytes, not 12"),
        ({"thresholds": np.array([2, 1], "<f4").tobytes()}, "do not ascend"),
        ({"thresholds": np.array([1, np.nan], "<f4").tobytes()}, "do not ascend"),
        ({"thresholds": np.array([np.nan, 1], "<f4").tobytes()}, "do not ascend"),
        ({"split_trees": np.array([0, 2], "<i4").tobytes()}, "a tree that is not there"),
        ({"split_trees": np.array([-1, 0], "<i4").tobytes()}, "a tree that is not there"),
        ({"split_masks": np.array([0x7FFFFFFF, 1 << 31], "<u4").tobytes()}, "clears the last leaf"),
        ({"leaves": 64}, "split_masks of 8 bytes, not 16"),
        ({"missing_right": b""}, "missing_right of 0 bytes"),
        ({"values": b"1234"}, "values of 4 bytes, not 256"),
        ({"trees": 3}, "values of 256 bytes, not 384"),
    ],
)
def test_tables_that_lead_outside_are_refused(changes: dict[str, object], message: str) -> None:
    """Nothing reaches the kernel that would have it read or write outside of the tables."""
    with pytest.raises(ValueError, match=message):
        expand_tables(two_stumps(**changes))


def test_lone_threshold_that_is_nan_is_refused() -> None:
    """NaN is found also where there is no neighbour to be out of order with."""
    one = {"counts": np.array([0, 1, 0], "<i4").tobytes(), "thresholds": np.array([np.nan], "<f4").tobytes()}
    cut = {"split_trees": bytes(4), "split_masks": two_stumps().split_masks[:4], "missing_right": b"\0"}
    with pytest.raises(ValueError, match="no number"):
        expand_tables(two_stumps(**one, **cut))


@pytest.mark.parametrize(("trees", "splits", "shift"), [(200, 6_000, 4), (1_000, 30_000, 8), (30_000, 300_000, 12)])
def test_checkpoints_stay_within_their_memory(trees: int, splits: int, shift: int) -> None:
    """A larger ensemble has its checkpoints further apart: at best within the cache, in any case within 16 MiB."""
    rng = np.random.default_rng(0)
    arrays = expand_tables(
        two_stumps(
            trees=trees,
            counts=np.array([splits, 0, 0], "<i4").tobytes(),
            thresholds=np.sort(rng.random(splits)).astype("<f4").tobytes(),
            split_trees=rng.integers(0, trees, splits).astype("<i4").tobytes(),
            split_masks=np.full(splits, 0xFFFFFFFE, "<u4").tobytes(),
            missing_right=bytes(splits),
            values=bytes(trees * 32 * 4),
        )
    )
    assert arrays.shift == shift
    assert arrays.checkpoints.nbytes <= CHECKPOINTS_BYTES_MAX + trees * 4
