"""Vectors in a source: lists of one length reach the store, and any other row is left out and told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec import Meta

from tailrace.errors import SourceError
from tailrace.features.batch_views import BatchFeatureView
from tailrace.features.rows import RowCodec
from tailrace.features.sources import SQL, Parquet
from tailrace.features.stores.memory import MemoryWriter
from tailrace.features.view_spec import Entity
from tailrace.offline.materialize import materialize

# Ibis 12 calls what DuckDB 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

WALL_NS = 1_750_000_000 * 10**9


class Item(BatchFeatureView):
    """An item with its vector, of float16."""

    entity = Entity("item", key="item_id")
    source = Parquet("items.parquet")
    meaning: Annotated[list[np.float16], Meta(min_length=4, max_length=4)] = [0.0] * 4  # type: ignore[list-item]
    price: float = 0.0


def read_back(rows: dict[bytes, bytes], ids: list[int]) -> Any:
    """Return the vectors of some items."""
    codec = RowCodec(Item.spec)
    return codec.unpack(ids, [rows.get(codec.key(each)) for each in ids], WALL_NS).column("meaning")


@pytest.mark.parametrize("kind", ["fixed", "float32", "float64"])
def test_vectors_reach_the_store(kind: str, tmp_path: Path) -> None:
    """Arrow's lists of a fixed size and of any are vectors, of whichever float."""
    vectors = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float16)
    if kind == "fixed":
        column: Any = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel().astype(np.float32)), 4)
    else:
        column = pa.array(vectors.astype(kind).tolist(), pa.list_(pa.from_numpy_dtype(np.dtype(kind))))
    table = pa.table({"item_id": np.arange(50), "meaning": column, "price": np.arange(50.0)})
    pq.write_table(table, tmp_path / "items.parquet")
    rows: dict[bytes, bytes] = {}
    report = materialize(Item.spec, tmp_path, MemoryWriter(rows))
    assert (report.written, report.bad) == (50, 0)
    np.testing.assert_array_equal(read_back(rows, list(range(50))), vectors)


def test_row_without_a_whole_vector_is_left_out(tmp_path: Path) -> None:
    """A vector that is too short or too long, holds a null or NaN, or a number beyond float16 makes its row bad."""
    vectors = [
        [1.0] * 4,
        [1.0] * 3,
        [1.0] * 5,
        [1.0, None, 1.0, 1.0],
        [1.0, float("nan"), 1.0, 1.0],
        [1e6] * 4,
        None,
        [],
    ]
    table = pa.table({
        "item_id": range(8), "meaning": pa.array(vectors, pa.list_(pa.float64())), "price": [1.0] * 8,
    })  # fmt: skip
    pq.write_table(table, tmp_path / "items.parquet")
    rows: dict[bytes, bytes] = {}
    report = materialize(Item.spec, tmp_path, MemoryWriter(rows))
    assert (report.written, report.bad) == (2, 6)
    assert "no vector of 4 numbers of float16" in report.examples[0].why
    assert read_back(rows, [0, 1, 6]).tolist() == [[1.0] * 4, [0.0] * 4, [0.0] * 4]


def test_column_that_is_no_list_is_refused(tmp_path: Path) -> None:
    """Numbers are no vectors."""
    pq.write_table(pa.table({"item_id": [1], "meaning": [1.0], "price": [1.0]}), tmp_path / "items.parquet")
    with pytest.raises(SourceError, match="cannot be a vector"):
        materialize(Item.spec, tmp_path, MemoryWriter({}))


def test_vectors_come_from_a_query(tmp_path: Path) -> None:
    """DuckDB's own lists and arrays are vectors too."""
    (tmp_path / "items.sql").write_text("SELECT 7 AS item_id, [1, 2, 3, 4]::FLOAT[4] AS meaning, 2.0 AS price")
    view: Any = type("Item", (Item,), {"source": SQL("items.sql")})
    rows: dict[bytes, bytes] = {}
    assert materialize(view.spec, tmp_path, MemoryWriter(rows)).written == 1
    assert read_back(rows, [7]).tolist() == [[1.0, 2.0, 3.0, 4.0]]
