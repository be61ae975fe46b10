"""Vectors in a view's rows: packed at their own width, given back as they were, and never those of another length."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from msgspec import Meta

from tailrace.batch import Provenance
from tailrace.features.batch_views import BatchFeatureView
from tailrace.features.feast.declaration import FeastView
from tailrace.features.row_layout import schema_text
from tailrace.features.rows import RowCodec
from tailrace.features.sources import Parquet
from tailrace.features.view_spec import Entity

WALL_NS = 1_750_000_000 * 10**9
Three = Annotated[list[float], Meta(min_length=3, max_length=3)]
Five = Annotated[list[np.float16], Meta(min_length=5, max_length=5)]
Wide = Annotated[list[np.float64], Meta(min_length=2, max_length=2)]
_ELEMENTS: dict[str, Any] = {"f4": st.floats(width=32), "f2": st.floats(width=16), "f8": st.floats()}


class Mixed(BatchFeatureView):
    """Vectors of each type between numbers and texts."""

    entity = Entity("thing", key="thing_id")
    source = Parquet("x")
    flag: bool = True
    f2: Five = [0.5] * 5
    text: str = "default"
    f4: Three = (1.0, 2.0, 3.0)  # type: ignore[assignment]
    count: int = 3
    f8: Wide = (0.0, -1.0)  # type: ignore[assignment]


class Plain(BatchFeatureView):
    """No vectors."""

    entity = Entity("thing", key="thing_id")
    source = Parquet("x")
    amount: float = 0.0
    city: str = ""


@given(
    data=st.data(),
    rows=st.integers(1, 5),
    nulls=st.sets(st.sampled_from(["f2", "f4", "f8"])),
)
@settings(deadline=None, max_examples=40)
def test_vectors_come_back_as_they_were_packed(data: Any, rows: int, nulls: set[str]) -> None:
    """Every number comes back bit by bit, NaN and infinities too; a null vector comes back as its default."""
    codec = RowCodec(Mixed.spec)
    widths = {"f2": 5, "f4": 3, "f8": 2}
    given_ = {name: data.draw(arrays(name, (rows, width), elements=_ELEMENTS[name])) for name, width in widths.items()}
    columns: dict[str, Any] = {
        "flag": [True] * rows, "text": ["ä"] * rows, "count": list(range(rows)),
        **{name: [None] * rows if name in nulls else vectors for name, vectors in given_.items()},
    }  # fmt: skip
    ids = list(range(rows))
    found = codec.unpack(ids, codec.pack(ids, columns, WALL_NS, WALL_NS), WALL_NS)
    assert (found.errors, found.provenance.tolist()) == (0, [Provenance.FRESH] * rows)
    defaults = {column.name: column.default for column in Mixed.spec.columns}
    for name, vectors in given_.items():
        expected = np.tile(np.array(defaults[name], name), (rows, 1)) if name in nulls else vectors
        np.testing.assert_array_equal(found.column(name), expected)
    assert (found.column("count").tolist(), found.column("text").tolist()) == (ids, ["ä"] * rows)


def test_rows_that_are_not_right_have_the_default_vector() -> None:
    """A row that is cut short, another entity's, or missing costs its neighbours nothing."""
    codec = RowCodec(Mixed.spec)
    columns = {"flag": [True] * 3, "text": ["a"] * 3, "count": [1, 2, 3], "f2": np.ones((3, 5)), "f4": np.ones((3, 3)),
               "f8": np.ones((3, 2))}  # fmt: skip
    packed: list[Any] = codec.pack([1, 2, 3], columns, WALL_NS, WALL_NS)
    found = codec.unpack([1, 2, 9, 4], [packed[0], packed[1][:-1], packed[2], None], WALL_NS)
    assert found.errors == 2
    assert found.column("f4").tolist() == [[1.0, 1.0, 1.0]] + [[1.0, 2.0, 3.0]] * 3
    assert codec.defaults(2, Provenance.TIMEOUT).column("f8").tolist() == [[0.0, -1.0]] * 2


def test_vector_is_a_block_on_its_own_boundary() -> None:
    """Each vector stands in the row where its type may be read, without a copy."""
    codec = RowCodec(Mixed.spec)
    for name, width in {"f2": 5, "f4": 3, "f8": 2}.items():
        dtype, offset = codec.dtype.fields[name][:2]  # type: ignore[index]
        assert dtype.shape == (width,)
        assert offset % dtype.base.itemsize == 0
        assert next(block for block in codec.blocks if block.field == name).columns == (name,)


def test_schema_of_other_views_is_what_it_was() -> None:
    """The width is part of the schema's id, and a view without vectors keeps the rows that it has in the store."""
    assert "f4:<f4[3]" in schema_text(Mixed.spec)
    assert schema_text(Plain.spec) == "thing.Plain(amount:<f8,city:|O)"


@pytest.mark.parametrize(
    ("values", "told"),
    [([[1.0, 2.0]], "a vector has 3 numbers"), (np.ones((1, 4)), "a vector has 3 numbers"), ([[1e39] * 3], "1e+39"),
     ([["a"] * 3], "could not convert")],
)  # fmt: skip
def test_vector_that_the_column_does_not_hold_is_refused(values: Any, told: str) -> None:
    """Another length, a number beyond the type, and what is no number are refused when a row is written."""
    columns = {"flag": [True], "text": [""], "count": [1], "f2": [None], "f4": values, "f8": [None]}
    with pytest.raises(ValueError, match=told.replace("+", r"\+")):
        RowCodec(Mixed.spec).pack([1], columns, WALL_NS, WALL_NS)


@pytest.mark.parametrize(
    ("annotation", "default", "told"),
    [(Three, [0.0] * 4, "no vector of that length"), (Three, 0.0, "no vector of that length"),
     (Three, ["a"] * 3, "other than numbers"), (list[float], [0.0], "not a type"),
     (Annotated[list[float], Meta(max_length=3)], [0.0], "not a type"),
     (Annotated[list[str], Meta(min_length=3, max_length=3)], ["a"] * 3, "not a type"),
     (Annotated[list[float], Meta(min_length=9_999, max_length=9_999)], [0.0] * 9_999, "not a type")],
)  # fmt: skip
def test_mistakes_in_a_vector_are_told(annotation: Any, default: Any, told: str) -> None:
    """A vector has one length, numbers, and a default of that length."""
    made = {"__annotations__": {"taste": annotation}, "taste": default, "entity": Mixed.entity, "source": Parquet("x")}
    view: Any = type("Wrong", (BatchFeatureView,), made)
    assert any(told in problem.what for problem in view.spec.problems)


def test_view_of_feast_has_no_vectors() -> None:
    """What Feast keeps in its own store is read number by number."""
    feast = FeastView("mixed", join_key="thing_id")
    view: Any = type("Mixed", (Mixed,), {"feast": feast})
    assert any("no vectors" in problem.what for problem in view.spec.problems)
