"""Derived keys while serving: a column of one view is the key of the next; whoever has no key has defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pytest

from tailrace.batch import Batch, Provenance
from tailrace.features.derived_ids import KeyedRows
from tailrace.features.hops import FeaturesInHops
from tailrace.features.step import FeaturesStep
from tailrace.pipeline import Pipeline
from tailrace.testing import TestClient

START = datetime(2018, 4, 1, tzinfo=UTC)
DEFAULT, TIMEOUT, FRESH = Provenance.DEFAULT, Provenance.TIMEOUT, Provenance.FRESH
NOTHING = {"margin": -1.0, "heads": -2.0, "count_1d": 0, "own_1d": 0, "spent_1d": -1.0}


@pytest.fixture
def client(pipeline_of: Callable[[str], Pipeline]) -> Iterator[TestClient]:
    """Yield a client of the purchases, with an empty store."""
    with TestClient(pipeline_of("derived")) as client:
        yield client


@pytest.fixture
def ranked(pipeline_of: Callable[[str], Pipeline]) -> Iterator[TestClient]:
    """Yield a client of the ranking, with an empty store."""
    with TestClient(pipeline_of("derived_ranked")) as client:
        yield client


def view_of(client: TestClient, name: str) -> Any:
    """Return a view of a client's pipeline."""
    return next(view for view in client.plan.pipeline.views if view.__name__ == name)


def put(client: TestClient, view: str, rows: dict[Any, dict[str, Any]]) -> None:
    """Write rows of a view by their ids."""
    for entity_id, columns in rows.items():
        client.put(view_of(client, view), entity_id, **columns)


def purchase(item_id: int, customer_id: int = 1, minutes: int = 60) -> dict[str, Any]:
    """Return a purchase, so long after the start."""
    return {
        "purchase_id": 10_000, "customer_id": customer_id, "item_id": item_id, "amount": 1.0,
        "time": (START + timedelta(minutes=minutes)).isoformat(),
    }  # fmt: skip


def provenances(client: TestClient, batch: Batch) -> dict[str, list[int]]:
    """Return the provenance of each row of each view."""
    views = client.plan.pipeline.views
    return {
        view.__name__: rows.provenance.tolist() for view, rows in zip(views, batch.view_rows, strict=True)
    }  # fmt: skip


def part_of(answer: dict[str, Any]) -> dict[str, Any]:
    """Return what the views have given to an answer."""
    return {name: answer[name] for name in NOTHING}


def test_views_are_read_in_the_order_in_which_their_keys_are_known(client: TestClient) -> None:
    """A view that gives a key is read though it is no feature, and before those that it gives keys to."""
    assert [view.__name__ for view in client.plan.pipeline.views] == [
        "Item", "CustomerCategory", "Category", "Department",
    ]  # fmt: skip
    assert isinstance(client.plan.features, FeaturesInHops)
    read = [[codec.spec.name for codec in each.codecs] for each in client.plan.features.retrievals]
    assert read == [["Item"], ["CustomerCategory", "Category"], ["Department"]]


def test_pipeline_without_derived_keys_has_the_plain_step(client_of: Callable[[str], TestClient]) -> None:
    """It pays nothing for hops: not a branch."""
    assert {type(client_of(name).plan.features) for name in ("payment", "pairs", "ranking")} == {FeaturesStep}


def test_column_of_a_view_is_the_key_of_the_next(client: TestClient) -> None:
    """Over three hops, each purchase gets the values of its own item's category, and of that one's department."""
    put(client, "Item", {item: {"price": 2.0, "category_id": 100 + item % 3} for item in range(6)})
    put(client, "Category", {100 + n: {"margin": float(n), "department": f"d{n % 2}"} for n in range(3)})
    put(client, "Department", {f"d{n}": {"heads": 10.0 + n} for n in range(2)})
    client.push(
        view_of(client, "CustomerCategory").spec.stream,
        *({"purchase_id": n, "customer_id": n % 2, "category_id": 100 + n % 3, "amount": 0.25, "time": START}
          for n in range(30)),
    )  # fmt: skip
    answers = client.predict([purchase(item, customer_id=item % 2) for item in range(6)])
    for item, answer in enumerate(answers):
        kind = item % 3
        own = [n for n in range(30) if n % 2 == item % 2 and n % 3 == kind]
        assert part_of(answer) == {
            "margin": float(kind), "heads": 10.0 + kind % 2, "count_1d": len(own), "own_1d": len(own) + 1,
            "spent_1d": 0.25 * len(own),
        }  # fmt: skip
        assert client.predict(purchase(item, customer_id=item % 2)) == answer


def test_row_without_a_key_has_defaults_and_reads_no_entity(client: TestClient) -> None:
    """An unknown item, one whose category is null, a category whose department is: entity 0, or "", is not theirs."""
    wrong = {"margin": 99.0, "department": "wrong"}
    put(client, "Category", {0: wrong, 7: {"margin": 7.0}, 8: {"margin": 8.0, "department": "d8"}})
    put(client, "Department", {"": {"heads": 99.0}, "wrong": {"heads": 99.0}, "d8": {"heads": 80.0}})
    put(client, "Item", {1: {"price": 2.0}, 2: {"category_id": 7}, 3: {"category_id": 8}, 5: {"category_id": 0}})
    stream = view_of(client, "CustomerCategory").spec.stream
    client.push(stream, {"purchase_id": 1, "customer_id": 1, "category_id": 0, "amount": 5.0, "time": START})
    batch = client.run([msgspec.json.encode(purchase(item)) for item in (4, 1, 2, 3, 5)])
    answers = [msgspec.json.decode(body) for body in batch.bodies]
    assert list(map(part_of, answers[:2])) == [NOTHING, NOTHING]
    assert [answer["margin"] for answer in answers[2:]] == [7.0, 8.0, 99.0]  # a stored 0 is a category
    assert [answer["heads"] for answer in answers[2:]] == [-2.0, 80.0, 99.0]
    assert [answer["own_1d"] for answer in answers] == [0, 0, 1, 1, 2]
    assert provenances(client, batch) == {
        "Item": [DEFAULT, FRESH, FRESH, FRESH, FRESH],
        "CustomerCategory": [DEFAULT, DEFAULT, DEFAULT, DEFAULT, FRESH],
        "Category": [DEFAULT, DEFAULT, FRESH, FRESH, FRESH],
        "Department": [DEFAULT, DEFAULT, DEFAULT, FRESH, FRESH],
    }
    assert batch.degraded is None
    assert [client.predict(purchase(item)) for item in (4, 1, 2, 3, 5)] == answers


def test_batch_in_which_no_row_has_a_key_reads_no_later_hop(client: TestClient) -> None:
    """Nothing is fetched for it, and all is the default."""
    fetched: list[int] = []
    for each in client.plan.features.retrievals:
        each.observe_fetch = lambda took_ns, is_late: fetched.append(took_ns)
    assert part_of(client.predict(purchase(1))) == NOTHING
    assert len(fetched) == 1


def test_derived_key_of_a_row_is_of_that_row(ranked: TestClient) -> None:
    """Items that a list names have a category each; what is of the request is repeated, also within a key."""
    put(ranked, "User", {"ann": {"region": "n"}, "bob": {"region": 's","1'}, "eve": {}})
    put(ranked, "RankedItem", {1: {"category_id": 10}, 2: {"category_id": 20}, 3: {}, 4: {"category_id": 10}})
    put(ranked, "RankedCategory", {10: {"margin": 1.0}, 20: {"margin": 2.0}, 0: {"margin": 99.0}})
    likings = {("ann", 10): 0.25, ("ann", 20): 0.75, ("bob", 10): 0.125, ("bob", 0): 99.0}
    put(ranked, "UserCategory", {pair: {"liking": value} for pair, value in likings.items()})
    put(ranked, "Region", {"n": {"tax": 3.0}, 's","1': {"tax": 4.0}, "": {"tax": 99.0}})
    put(ranked, "RegionCategory", {("n", 10): {"local": 1.5}, ('s","1', 20): {"local": 2.5}, ("", 10): {"local": 99.0}})
    requests = [
        {"user_id": user, "item_ids": items}
        for user, items in (("ann", [1, 2, 3, 4, 9]), ("bob", []), ("bob", [2, 1]), ("eve", [1]), ("nobody", [3, 1]))
    ]
    answers = ranked.predict(requests)
    assert [each["liking"] for each in answers] == [[0.25, 0.75, 0.5, 0.25, 0.5], [], [0.5, 0.125], [0.5], [0.5, 0.5]]
    assert [each["margin"] for each in answers] == [[1, 2, -1, 1, -1], [], [2, 1], [1], [-1, 1]]
    assert [each["tax"] for each in answers] == [[3.0] * 5, [], [4.0] * 2, [0.0], [0.0] * 2]
    assert [each["local"] for each in answers] == [[1.5, -3, -3, 1.5, -3], [], [2.5, -3], [-3], [-3, -3]]
    assert [ranked.predict(each) for each in requests] == answers


def test_forgotten_entity_gives_no_key(client: TestClient) -> None:
    """A row that is gone is an unknown item's; a category that is gone is an unknown category."""
    put(client, "Item", {1: {"category_id": 7}})
    put(client, "Category", {7: {"margin": 7.0, "department": "d"}})
    put(client, "Department", {"d": {"heads": 70.0}})
    assert part_of(client.predict(purchase(1))) == NOTHING | {"margin": 7.0, "heads": 70.0, "own_1d": 1}
    del client._rows[view_of(client, "Category").spec.codec().key(7)]
    assert part_of(client.predict(purchase(1)))["heads"] == -2.0
    del client._rows[view_of(client, "Item").spec.codec().key(1)]
    assert part_of(client.predict(purchase(1))) == NOTHING


def test_row_of_a_refused_value_gives_no_key(client: TestClient) -> None:
    """What stands under an item's key and is not its row is counted as an error, and is no category."""
    put(client, "Item", {1: {"category_id": 7}, 2: {"category_id": 7}})
    put(client, "Category", {7: {"margin": 7.0}})
    codec = view_of(client, "Item").spec.codec()
    client._rows[codec.key(2)] = client._rows[codec.key(1)]
    batch = client.run([msgspec.json.encode(purchase(item)) for item in (1, 2)])
    assert [msgspec.json.decode(body)["margin"] for body in batch.bodies] == [7.0, -1.0]
    assert batch.degraded is not None
    assert batch.degraded.tolist()[0] == 0
    assert batch.degraded.tolist()[1] != 0


def test_rows_with_a_key_are_spread_among_those_without(client: TestClient) -> None:
    """Values, texts, nulls and provenance stay with their rows."""
    codec = view_of(client, "Category").spec.codec()
    rows = codec.pack([7, 8], {"margin": [7.0, None], "department": ["seven", "eight"]}, 0, 0)
    found = codec.unpack([7, 8, 9], [*rows, None], 0)
    lack = np.array([DEFAULT, 0, TIMEOUT, 0, 0], np.uint8)
    whole = KeyedRows([7, 8, 9], np.array([1, 3, 4]), lack).spread(found, codec)
    assert whole.column("margin").tolist() == [-1.0, 7.0, -1.0, -1.0, -1.0]
    assert whole.column("department").tolist() == ["", "seven", "", "eight", ""]
    assert whole.provenance.tolist() == [DEFAULT, FRESH, TIMEOUT, FRESH, DEFAULT]
    assert whole.nulls is not None
    assert whole.nulls[:, 0].tolist() == [False, False, False, True, False]
