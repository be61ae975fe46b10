"""Keys that are columns of views: which hop each view is read in, and what is told of a key that cannot be one."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

import tailrace as tr
from tailrace.batch import Provenance
from tailrace.compile.compiler import compile_plan
from tailrace.compile.hop_costs import hop_costs
from tailrace.compile.resolve import wire
from tailrace.compile.samples import Samples
from tailrace.compile.warm_up import warm_up
from tailrace.deadline import NS_PER_S, MonotonicClock
from tailrace.engine import answer
from tailrace.errors import Problem
from tailrace.features.hop_order import HOPS_MAX, hop_of, in_hop_order, key_views
from tailrace.features.stores.memory import MemoryStore
from tailrace.pipeline import Pipeline


class Ask(tr.Request):
    item_id: int
    customer_id: int
    amount: float
    time: datetime
    items: list[int] = msgspec.field(default_factory=list)


class Answer(tr.Response):
    score: float


class Event(tr.Request):
    event_id: int
    customer_id: int
    category_id: int
    time: datetime


class Item(tr.BatchFeatureView):
    entity = tr.Entity("item", key="item_id")
    source = tr.CSV("items.csv")
    category_id: int = 0
    small_id: np.uint8 = np.uint8(0)
    huge_id: np.uint64 = np.uint64(0)
    weight: float = 0.0
    is_new: bool = False
    brand: str = ""


class Activity(tr.StreamFeatureView):
    entity = tr.Entity("customer", key="customer_id")
    stream = tr.Stream("events", schema=Event, time="time", id="event_id")
    count_1d: int = tr.count(window="1d")


def view(name: str, *key: Any, stream: tr.Stream | None = None, **columns: Any) -> Any:
    """Return a view over an entity of that key, with columns given by their defaults; a batch view without a stream."""
    body: dict[str, Any] = {"entity": tr.Entity(f"entity_of_{name}", key=key if len(key) > 1 else key[0])}
    body |= {"source": tr.CSV(f"{name}.csv")} if stream is None else {"stream": stream}
    body["__annotations__"] = dict.fromkeys(columns, int)
    return type(name, (tr.BatchFeatureView if stream is None else tr.StreamFeatureView,), body | columns)


@pytest.fixture(scope="module")
def base(pipelines_dir: Path) -> Pipeline:
    """Return a pipeline without a mistake: one float into the model `log`, whose input is `amount`."""
    return Pipeline(
        name="base", request=Ask, response=Answer, features=[Ask.amount], model=tr.Model("log"),
        budget=tr.Budget("50ms"), base_dir=pipelines_dir,
    )  # fmt: skip


def problems_of(base: Pipeline, *features: Any) -> list[Problem]:
    """Return the mistakes of a pipeline with some views more."""
    return wire(replace(base, features=[Ask.amount, *features])).problems


@pytest.mark.parametrize("column", ["weight", "is_new", "huge_id"])
def test_column_that_holds_no_ids_is_told(base: Pipeline, column: str) -> None:
    """A fraction, a truth, and a whole number that 64 bits with a sign do not hold."""
    (problem,) = problems_of(base, view("V", getattr(Item, column), x=0))
    assert f"a column in a key is int or str, but Item.{column} is " in problem.what
    assert (problem.where, problem.next) == ("features.V.entity", f"annotate it as `{column}: int` in Item")


@pytest.mark.parametrize("column", ["category_id", "small_id", "brand"])
def test_column_of_ids_is_a_key(base: Pipeline, column: str) -> None:
    """Whole numbers of any size that fits, and texts; alone, and beside a field of the request."""
    given = getattr(Item, column)
    assert problems_of(base, view("V", given, x=0), view("W", "customer_id", given, y=0)) == []


def test_column_of_a_stream_view_is_no_key(base: Pipeline) -> None:
    """What it counts names nobody."""
    (problem,) = problems_of(base, view("V", Activity.count_1d, x=0))
    assert "Activity.count_1d is a column of a stream view" in problem.what
    assert (problem.where, problem.next) == ("features.V.entity", "name a column of a batch view")


def test_column_that_no_view_has_is_told(base: Pipeline) -> None:
    """One that was made by hand, say."""
    wrong = view("V", replace(Item.category_id), x=0)  # type: ignore[type-var]
    (problem,) = problems_of(base, wrong)
    assert problem.what == "the entity's key Item.category_id has a column that no view has"


def test_name_that_stands_twice_in_a_key_is_told(base: Pipeline) -> None:
    """A source and an event could not have both under one name."""
    (problem,) = problems_of(base, view("V", "category_id", Item.category_id, x=0))
    assert problem.what == "the entity's key ('category_id', Item.category_id) names a field twice"


def test_key_that_is_known_too_late_is_told(base: Pipeline) -> None:
    """As many hops as are read are taken; one more is not."""
    chain = [Item]
    given: Any = Item.category_id
    for number in range(HOPS_MAX):
        chain.append(view(f"V{number}", given, **{f"next_{number}": 0}))
        given = getattr(chain[-1], f"next_{number}")
    assert problems_of(base, chain[-2]) == []
    (problem,) = problems_of(base, chain[-1])
    assert problem.what == "its key is known after 4 reads, one after the other: at most 4 hops are read"
    assert problem.where == "features.V3.entity"


@pytest.mark.parametrize(("annotation", "told"), [(str, "str"), (int | None, "int | None")])
def test_event_that_has_the_key_of_another_type_is_told(base: Pipeline, annotation: Any, told: str) -> None:
    """As for a key of the request: no event would be found."""
    schema = msgspec.defstruct(
        "Sent", [("event_id", int), ("category_id", annotation), ("time", datetime)], bases=(tr.Request,)
    )
    stream = tr.Stream("sent", schema=schema, time="time", id="event_id")
    asked = view("V", Item.category_id, stream=stream, x=tr.count(window="1d"))
    (problem,) = problems_of(base, asked)
    assert f"have 'category_id' as {told}, the view Item as int: no event would be found" in problem.what


def test_event_without_the_field_of_a_key_is_told(base: Pipeline) -> None:
    """The column's name is the field that the events must have."""
    stream = Activity.spec.stream
    asked = view("V", Item.brand, stream=stream, x=tr.count(window="1d"))
    (problem,) = problems_of(base, asked)
    assert "have no field 'brand', the key of entity 'entity_of_V'" in problem.what


def test_views_stand_in_the_order_of_their_hops() -> None:
    """Those that give a key are added, once each; those that need none stay as they came."""
    late = view("Late", Item.category_id, last_id=0)
    last = view("Last", late.last_id, Item.brand, x=0)
    assert key_views(last) == (late, Item)
    assert [hop_of(each) for each in (Item, late, last)] == [0, 1, 2]
    assert in_hop_order([last, Activity, late]) == (Activity, Item, late, last)
    assert in_hop_order([Activity, Item]) == (Activity, Item)


def test_column_holds_its_view(base: Pipeline) -> None:
    """A file that is loaded again takes the place of its views before, which a pipeline still reads."""

    def declare() -> Any:
        giver = view("Giver", "item_id", group_id=0)
        return view("Taker", giver.group_id, x=0).x

    pipeline = replace(base, features=[Ask.amount, declare()])
    gc.collect()
    assert [each.__name__ for each in pipeline.views] == ["Giver", "Taker"]


def test_view_that_extends_another_gives_its_own_column() -> None:
    """Its columns are its own, though the other declared them."""
    other = type("Other", (Item,), {})
    asked = view("V", other.category_id, x=0)  # type: ignore[attr-defined]
    assert key_views(asked) == (other,)


class FailingStore(MemoryStore):
    """A store that is gone."""

    async def fetch(self, keys: Any, deadline_ns: int) -> Any:
        """Fail."""
        raise ConnectionError("gone")


class NotingStore(MemoryStore):
    """A store that notes what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[bytes]] = []

    async def fetch(self, keys: Any, deadline_ns: int) -> Any:
        """Note the keys."""
        self.asked.append(list(keys))
        return await super().fetch(keys, deadline_ns)


@pytest.mark.parametrize("store", [None, FailingStore()], ids=["none", "failing"])
def test_costs_of_hops_are_counted_without_a_store(
    store: MemoryStore | None, pipeline_of: Callable[[str], Pipeline]
) -> None:
    """How many keys each hop reads a request and a row, and by what; nothing is measured."""
    plan = compile_plan(pipeline_of("derived_ranked"), MemoryStore())
    first, second = asyncio.run(hop_costs(plan, store, MonotonicClock()))
    assert (first.views, first.keys) == (("RankedItem", "User"), ("item_ids", "user_id"))
    assert (first.keys_a_request, first.keys_a_row, first.p50_ns, first.p99_ns) == (1, 1, None, None)
    assert second.views == ("UserCategory", "RankedCategory", "Region", "RegionCategory")
    assert second.keys[-1] == "User.region, RankedItem.category_id"
    assert (second.keys_a_request, second.keys_a_row, second.p50_ns) == (1, 3, None)


def test_costs_of_hops_are_measured_for_rows_that_all_have_keys(pipeline_of: Callable[[str], Pipeline]) -> None:
    """A fetch asks for as many keys as a request of 64 items may need, each once."""
    plan = compile_plan(pipeline_of("derived_ranked"), MemoryStore())
    store = NotingStore()
    first, second = asyncio.run(hop_costs(plan, store, MonotonicClock()))
    assert {len(set(keys)) for keys in store.asked} == {1 + 64, 1 + 3 * 64}
    for each in (first, second):
        assert each.p50_ns is not None
        assert each.p99_ns is not None
        assert each.p99_ns >= each.p50_ns > 0


def count_of(kind: bytes, keys: list[bytes]) -> int:
    """Return how many keys are of entities of a kind."""
    return sum(key.startswith(b"{%b:" % kind) for key in keys)


def test_warm_up_reads_as_many_keys_as_rows_can_have(pipeline_of: Callable[[str], Pipeline]) -> None:
    """What a call is said to cost has all its round trips and keys in it, though the store knows no sample's entity."""
    store, clock = NotingStore(), MonotonicClock()
    plan = compile_plan(pipeline_of("derived_ranked"), store, clock=clock)
    plan, _ = asyncio.run(warm_up(plan, clock))
    firsts, seconds = store.asked[::2], store.asked[1::2]
    assert len(firsts) == len(seconds)
    for first, second in zip(firsts, seconds, strict=True):
        calls, rows = count_of(b"user", first), count_of(b"item", first)
        assert rows == 64 * calls
        assert len(set(second)) == len(second) == calls + 3 * rows
        assert count_of(b"region", second) == calls
        assert count_of(b"user_category", second) == count_of(b"category", second) == rows


def test_serving_reads_only_what_has_a_key_once_warmed_up(pipeline_of: Callable[[str], Pipeline]) -> None:
    """A default is nobody's id: where no entity is known, no later hop asks for any."""
    store, clock = NotingStore(), MonotonicClock()
    plan, _ = asyncio.run(warm_up(compile_plan(pipeline_of("derived_ranked"), store, clock=clock), clock))
    store.asked.clear()
    samples = Samples(plan)
    batch = samples.batch([samples.request(1)], 0, clock.now_ns() + NS_PER_S)
    asyncio.run(answer(plan, batch, clock.now_ns))
    assert len(store.asked) == 1


def test_step_for_samples_leaves_what_was_found(pipeline_of: Callable[[str], Pipeline]) -> None:
    """Keys are made up, and values are not: a function of the user's is given the defaults that it is promised."""
    clock = MonotonicClock()
    plan = compile_plan(pipeline_of("derived_ranked"), MemoryStore(), clock=clock)
    samples = Samples(plan)
    batch = samples.batch([samples.request(1)], 0, clock.now_ns() + NS_PER_S)
    asyncio.run(answer(replace(plan, features=plan.features.for_samples()), batch, clock.now_ns))
    rows = dict(zip((view.__name__ for view in plan.pipeline.views), batch.view_rows, strict=True))
    assert rows["RankedItem"].column("category_id").tolist() == [0] * 64
    assert rows["User"].column("region").tolist() == [""]
    assert all((each.provenance == Provenance.DEFAULT).all() for each in rows.values())


def test_step_without_hops_is_its_own_for_samples(pipeline_of: Callable[[str], Pipeline]) -> None:
    """Every batch of it reads all views."""
    step = compile_plan(pipeline_of("payment"), MemoryStore()).features
    assert step.for_samples() is step


class SpelledStore(NotingStore):
    """A store with keys of its own spelling, as one that another system fills."""

    def codec(self, spec: Any) -> Any:
        """Return Tailrace's codec with other keys."""
        own = spec.codec()
        return SimpleNamespace(keys=lambda ids: [b"spelled:" + key for key in own.keys(ids)])


def test_costs_of_hops_are_measured_by_the_keys_of_the_store(pipeline_of: Callable[[str], Pipeline]) -> None:
    """The plan is compiled for another store, which spells them otherwise."""
    plan = compile_plan(pipeline_of("derived_ranked"), MemoryStore())
    store = SpelledStore()
    costs = asyncio.run(hop_costs(plan, store, MonotonicClock()))
    assert all(each.p50_ns for each in costs)
    assert all(key.startswith(b"spelled:{") for keys in store.asked for key in keys)


def test_failure_of_the_store_is_told_with_the_costs(pipeline_of: Callable[[str], Pipeline]) -> None:
    """A store that fails is another thing than one that is not there."""
    plan = compile_plan(pipeline_of("derived_ranked"), MemoryStore())
    failing = asyncio.run(hop_costs(plan, FailingStore(), MonotonicClock()))
    assert [each.failure for each in failing] == ["gone", "gone"]
    absent = asyncio.run(hop_costs(plan, None, MonotonicClock()))
    assert [each.failure for each in absent] == ["", ""]
