"""Vectors in training sets: as a server would have fed them, from the history of views and from the requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import tailrace as tr
from tailrace.compile.loading import load_pipelines
from tailrace.errors import SourceError
from tailrace.offline.consistency import _gap, _is_same

# Ibis 12 calls what DuckDB 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

PIPELINE = """
from datetime import datetime
from typing import Annotated

import numpy as np
import tailrace as tr

Vector = Annotated[list[float], tr.Field(min_length=3, max_length=3)]


class Query(tr.Request):
    user_id: int
    item_ids: list[int]
    words: Vector
    time: datetime
    more: Vector | None = None


class Ranked(tr.Response):
    score: list[float]


class User(tr.BatchFeatureView):
    entity = tr.Entity("user", key="user_id")
    source = tr.Parquet("users.parquet", time="as_of")
    taste: Annotated[list[np.float16], tr.Field(min_length=3, max_length=3)] = [0.5] * 3


class Item(tr.BatchFeatureView):
    entity = tr.Entity("item", key="item_ids")
    source = tr.Parquet("items.parquet")
    meaning: Vector = [0.0] * 3
    price: float = -1.0


@tr.on_demand
def likeness(request: Query, item: Item) -> np.ndarray:
    return (request.words * item.meaning).sum(axis=1)


pipeline = tr.Pipeline(
    name="ranking", request=Query, response=Ranked, features=[User, Item, Query.words, Query.more, likeness],
    model=tr.Model("ranking"), budget=tr.Budget("50ms"), time="time",
)
"""


def time_of(day: int) -> Any:
    """Return a day of June 2025."""
    return np.datetime64(f"2025-06-{day:02}T00:00:00", "us")


@pytest.fixture
def pipeline(tmp_path: Path) -> Any:
    """Return the pipeline beside its sources: a user's taste changes, and is null once."""
    users = {
        "user_id": [1, 1, 1, 2], "as_of": [time_of(day) for day in (1, 5, 9, 1)],
        "taste": pa.array([[1.0, 0, 0], [0, 1.0, 0], None, [2.0, 2.0, 2.0]], pa.list_(pa.float64())),
    }  # fmt: skip
    items = {"item_ids": [7, 8], "meaning": pa.array([[1.0, 2, 3], [4, 5, 6]], pa.list_(pa.float32(), 3)),
             "price": [1.0, 2.0]}  # fmt: skip
    parquet.write_table(pa.table(users), tmp_path / "users.parquet")
    parquet.write_table(pa.table(items), tmp_path / "items.parquet")
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    return load_pipelines(tmp_path / "pipeline.py")[0]


@pytest.mark.filterwarnings("ignore:.*has no time column")
def test_vectors_are_as_of_the_request(pipeline: Any) -> None:
    """Each request has the vector of its own day, the default where there is none, and a row for each of its items.

    A vector of the request goes along with its items, though it is as long as their list.
    """
    requests = pa.table({
        "user_id": [1, 1, 1, 3], "time": [time_of(day) for day in (2, 6, 10, 6)], "item_ids": [[7, 8, 9]] * 4,
        "words": [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 1.0, 1.0]],
        "more": [None, [1.0, 2, 3], None, [4.0, 5, 6]],
    })  # fmt: skip
    table = tr.dataset(pipeline, requests)
    found = {name: np.array(table[name].to_pylist()) for name in ("User.taste", "Item.meaning", "words")}
    assert {values.shape for values in found.values()} == {(12, 3)}
    assert found["User.taste"][::3].tolist() == [[1, 0, 0], [0, 1, 0], [0.5] * 3, [0.5] * 3]
    assert found["Item.meaning"][:3].tolist() == [[1, 2, 3], [4, 5, 6], [0, 0, 0]]
    assert found["words"][3:6].tolist() == [[0, 1, 0]] * 3
    assert table["more"].to_pylist() == [each for each in requests["more"].to_pylist() for _ in range(3)]
    assert table["likeness"].to_pylist()[:3] == [1.0, 4.0, 0.0]


@pytest.mark.filterwarnings("ignore:.*has no time column")
def test_request_with_a_vector_of_another_length_is_refused(pipeline: Any) -> None:
    """What could not have been a request is no row of a training set."""
    requests = pa.table({
        "user_id": [1], "time": [time_of(2)], "item_ids": [[7]], "words": [[1.0, 0]], "more": [None],
    })  # fmt: skip
    with pytest.raises(SourceError, match="words"):
        tr.dataset(pipeline, requests)


@pytest.mark.parametrize(
    ("one", "other", "same", "gap"),
    [([1.0, None], [1.0, float("nan")], True, None), ([1.0, 2.0], [1.0, 2.5], False, 0.5),
     ([1.0], [1.0, 2.0], False, None), ([1.0, None], [1.0, 2.0], False, None), (1.0, [1.0], False, 0.0)],
)  # fmt: skip
def test_vectors_are_compared_number_by_number(one: Any, other: Any, same: bool, gap: float | None) -> None:
    """A sample's vector is the computed one where each of its numbers is; else it is as far as the furthest is."""
    assert _is_same(one, other) is same
    if not same:
        assert _gap(one, other)[0] == gap
