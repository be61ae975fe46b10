"""Entities of several fields while serving: rows put, events counted, requests that make many rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pytest

from tailrace.features.updates import Fate
from tailrace.pipeline import Pipeline
from tailrace.testing import TestClient

START = datetime(2018, 4, 1, tzinfo=UTC)
PAIRS = [(1, "2"), (12, ""), (1, "2,3"), (1, '2","3'), (2, "1"), (3, "a|b"), (3, "a"), (-1, "é")]


@pytest.fixture
def client(pipeline_of: Callable[[str], Pipeline]) -> Iterator[TestClient]:
    """Yield a client of the payments, with an empty store."""
    with TestClient(pipeline_of("pairs")) as client:
        yield client


@pytest.fixture
def ranked(pipeline_of: Callable[[str], Pipeline]) -> Iterator[TestClient]:
    """Yield a client of the ranking, with an empty store."""
    with TestClient(pipeline_of("pairs_ranked")) as client:
        yield client


def payment(number: int, pair: tuple[int, str], amount: float = 0.1, minutes: int | None = None) -> dict[str, Any]:
    """Return a payment; each is a minute after the one before, unless it is said when it is."""
    moment = START + timedelta(minutes=number if minutes is None else minutes)
    return {
        "transaction_id": number, "customer_id": pair[0], "terminal_id": pair[1], "amount": amount,
        "time": moment.isoformat(),
    }  # fmt: skip


def view_of(client: TestClient, name: str) -> Any:
    """Return a view of a client's pipeline."""
    return next(view for view in client.plan.pipeline.views if view.__name__ == name)


def test_row_of_a_pair_answers_for_that_pair_only(client: TestClient) -> None:
    """Each gets its own of eight pairs that are alike; another pair gets the defaults."""
    view = view_of(client, "PairProfile")
    for place, pair in enumerate(PAIRS):
        client.put(view, pair, usual=float(place), note=f"{place}")
    answers = client.predict([payment(number, pair) for number, pair in enumerate(PAIRS)])
    assert [(each["usual"], each["note"]) for each in answers] == [(float(n), f"{n}") for n in range(len(PAIRS))]
    assert client.predict(payment(99, (1, "3")))["usual"] == -1.0


def test_put_of_a_pair_takes_a_tuple_only(client: TestClient, ranked: TestClient) -> None:
    """Of as many values as the key has fields; a view of one field takes none."""
    for wrong in ((1,), (1, "2", "3"), '1,"2"', 1, (1.5, "2")):
        with pytest.raises(TypeError):
            client.put(view_of(client, "PairProfile"), wrong, usual=1.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        ranked.put(view_of(ranked, "Item"), (1, 2), price=1.0)


def test_replay_counts_each_pair_by_itself(client: TestClient) -> None:
    """Requests replayed one by one, each an event itself, see what a plain count of the past says; its terminal too."""
    random = np.random.default_rng(5)
    past: list[tuple[tuple[int, str], float]] = []
    for number in range(300):
        pair, amount = PAIRS[random.integers(len(PAIRS))], round(float(random.random()), 2)
        answer = client.predict(payment(number, pair, amount))
        own = [each for known, each in past if known == pair]
        assert answer["count_1d"] == len(own)
        assert answer["spent_1d"] == round(sum(own), 2)
        assert answer["seen_1d"] == sum(known[1] == pair[1] for known, _ in past)
        past.append((pair, amount))


def test_pushed_events_of_many_pairs_are_counted_once_each(client: TestClient) -> None:
    """A batch of events in any order gives what single ones give; one that comes again is told."""
    random = np.random.default_rng(6)
    chosen = [PAIRS[place] for place in random.integers(len(PAIRS), size=200)]
    events = [payment(number, pair, minutes=number % 10) for number, pair in enumerate(chosen)]
    (stream,) = {view.spec.stream for view in client.plan.pipeline.views if hasattr(view.spec, "stream")}
    assert set(client.push(stream, *events)) == {Fate.COUNTED}
    assert set(client.push(stream, *events[:50])) == {Fate.DUPLICATE}
    asked = [payment(1_000 + place, pair, minutes=120) for place, pair in enumerate(PAIRS)]
    answers = client.predict(asked)
    assert [each["count_1d"] for each in answers] == [chosen.count(pair) for pair in PAIRS]


def test_list_among_the_fields_of_a_key_makes_rows(ranked: TestClient) -> None:
    """Each item has the row of its user and itself; the other fields are repeated, across requests of one batch."""
    likings = {("ann", 1): 0.125, ("ann", 3): 0.25, ("bob", 1): 0.375, ('a","1', 3): 1.0}
    for pair, liking in likings.items():
        ranked.put(view_of(ranked, "UserItem"), pair, liking=liking)
    ranked.put(view_of(ranked, "UserRegion"), (7, "ann"), local=4.0)
    ranked.put(view_of(ranked, "UserRegion"), (8, "bob"), local=8.0)
    requests = [
        {"user_id": user, "item_ids": items, "region": region}
        for user, items, region in (("ann", [1, 2, 3], 7), ("bob", [], 8), ("bob", [3, 1], 8), ("ann", [3], 8))
    ]
    answers = ranked.predict(requests)
    assert [each["liking"] for each in answers] == [[0.125, 0.5, 0.25], [], [0.5, 0.375], [0.25]]
    assert [each["local"] for each in answers] == [[4.0] * 3, [], [8.0] * 2, [0.0]]
    assert [ranked.predict(each) for each in requests] == answers


def test_views_of_one_key_share_its_ids(client: TestClient) -> None:
    """The ids of a pair are made once a batch, whatever views are of it."""
    batch = client.run([msgspec.json.encode(payment(1, (4, "t")))])
    profile, activity, terminal = client.plan.features.ids(batch)
    assert profile is activity
    assert (profile, terminal) == (['4,"t"'], ["t"])
