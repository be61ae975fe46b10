"""Whether a store holds a plan's views whole is asked before traffic: refused at a start, told in a successor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from tailrace.compile.compiler import compile_plan
from tailrace.compile.materialised import CheckedViews, check_views
from tailrace.deadline import MonotonicClock
from tailrace.errors import StoreError
from tailrace.features.catalogue import SchemaRecord, ViewRecord, catalogue_key, old_progress_key, schema_name
from tailrace.features.stores.memory import MemoryStore
from tailrace.pipeline import Pipeline
from tailrace.plan import Plan

SPEND, RANK = "CustomerSpend", "ShopRank"


@pytest.fixture(scope="module")
def rows() -> dict[bytes, bytes]:
    """Return the rows of the plan's store."""
    return {}


@pytest.fixture
def plan(compiled: Plan, rows: dict[bytes, bytes]) -> Plan:
    """Return a plan whose store knows both of its views, whole."""
    rows.clear()
    for codec in compiled.features.retrieval.codecs:
        schema = SchemaRecord(entity=codec.spec.entity.name, text="declared", is_whole=True)
        note(rows, codec.spec.name, **{schema_name(codec.schema_id): schema})
    return compiled


@pytest.fixture(scope="module")
def compiled(pipeline_of: Callable[[str], Pipeline], rows: dict[bytes, bytes]) -> Plan:
    """Return the plan of the pipeline of two views."""
    return compile_plan(pipeline_of("faulted"), MemoryStore(rows))


def note(rows: dict[bytes, bytes], view: str, pipeline: str = "faulted", **schemas: SchemaRecord) -> None:
    """Write a view's row of the catalogue."""
    record = ViewRecord(source="", place="", pipelines=(pipeline,), schemas=schemas)
    rows[catalogue_key(view)] = msgspec.json.encode(record)


def checked(plan: Plan, *, refuse: bool) -> CheckedViews:
    """Ask the plan's store."""
    return asyncio.run(check_views(plan, MonotonicClock(), refuse=refuse))


@pytest.mark.parametrize("refuse", [True, False])
def test_views_that_are_whole_are_fit(plan: Plan, refuse: bool) -> None:
    """There is nothing to tell."""
    assert checked(plan, refuse=refuse) == CheckedViews()


@pytest.mark.parametrize("refuse", [True, False])
def test_view_that_the_store_does_not_know_is_told(plan: Plan, rows: dict[bytes, bytes], refuse: bool) -> None:
    """An emptied store keeps no server from starting."""
    del rows[catalogue_key(RANK)]
    assert checked(plan, refuse=refuse) == CheckedViews(unknown=(RANK,))


def of_the_layout_before(rows: dict[bytes, bytes]) -> None:
    """Leave what an earlier version wrote."""
    del rows[catalogue_key(SPEND)]
    rows[old_progress_key(SPEND)] = b"{}"


def of_another_version(rows: dict[bytes, bytes]) -> None:
    """Leave a row that cannot be read."""
    rows[catalogue_key(SPEND)] = b'{"source": 1}'


def of_another_pipeline(rows: dict[bytes, bytes]) -> None:
    """Leave another owner."""
    note(rows, SPEND, "other")


def of_another_schema(rows: dict[bytes, bytes]) -> None:
    """Leave a schema that the plan does not read."""
    note(rows, SPEND, **{"0badcafe": SchemaRecord(entity="customer", text="another", is_whole=True)})


def taken_over_in_part(rows: dict[bytes, bytes]) -> None:
    """Leave a whole schema whose rows are of two sources."""
    record = msgspec.json.decode(rows[catalogue_key(SPEND)], type=ViewRecord)
    ((name, schema),) = record.schemas.items()
    note(rows, SPEND, **{name: msgspec.structs.replace(schema, is_mixed=True)})


def written_in_part(rows: dict[bytes, bytes]) -> None:
    """Leave a schema of which no run has reached its end."""
    record = msgspec.json.decode(rows[catalogue_key(SPEND)], type=ViewRecord)
    (name,) = record.schemas
    note(rows, SPEND, **{name: SchemaRecord(entity="customer")})


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (of_the_layout_before, "layout of an earlier version"),
        (of_another_version, "cannot be read"),
        (of_another_pipeline, "is of pipeline 'other', not of 'faulted'"),
        (of_another_schema, "has not been materialised; whole is another"),
        (written_in_part, "has only been materialised in part"),
        (taken_over_in_part, "rows of two sources"),
    ],
)
def test_unfit_view_is_refused_at_a_start_and_told_in_a_successor(
    plan: Plan, rows: dict[bytes, bytes], spoil: Callable[[dict[bytes, bytes]], None], told: str
) -> None:
    """The successor's siblings serve on, so that it must come up; all that is wrong is told with what to do."""
    spoil(rows)
    with pytest.raises(StoreError, match=told):
        checked(plan, refuse=True)
    found = checked(plan, refuse=False)
    assert not found.unknown
    (text,) = found.unfit
    assert told in text
    assert "next: " in text


def test_other_schema_that_is_not_fit_is_not_told_as_whole(plan: Plan, rows: dict[bytes, bytes]) -> None:
    """A take-over has left it with rows of two sources: nobody should go back to it."""
    mixed = SchemaRecord(entity="customer", text="another", is_whole=True, is_mixed=True)
    note(rows, SPEND, **{"0badcafe": mixed})
    (text,) = checked(plan, refuse=False).unfit
    assert "has not been materialised" in text
    assert "another" not in text


def test_fit_schema_is_served_beside_one_that_is_not(plan: Plan, rows: dict[bytes, bytes]) -> None:
    """Only the schema that the plan reads counts."""
    record = msgspec.json.decode(rows[catalogue_key(SPEND)], type=ViewRecord)
    mixed = SchemaRecord(entity="customer", text="another", is_whole=True, is_mixed=True)
    note(rows, SPEND, **record.schemas, **{"0badcafe": mixed})
    assert checked(plan, refuse=True) == CheckedViews()


def test_every_unfit_view_is_told(plan: Plan, rows: dict[bytes, bytes]) -> None:
    """One does not hide the other."""
    note(rows, SPEND, "other")
    note(rows, RANK, "other")
    spend, rank = checked(plan, refuse=False).unfit
    assert SPEND in spend
    assert RANK in rank
