"""Limits at a server: of a key, of a pipeline, of calls in flight; whoever goes beyond is told when to come again."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from http_server import Answer, RawClient, RunningServer, ample, payment_of, post
from msgspec.structs import replace

import tailrace as tr
from tailrace.batch import Batch, Call
from tailrace.deadline import MonotonicClock
from tailrace.errors import RateLimitedError, ServingError
from tailrace.ingest.link import EventLink
from tailrace.monitor.counts.limit import LimitCounts
from tailrace.pipeline import Pipeline
from tailrace.request.limit import Limit
from tailrace.request.priority import Priority
from tailrace.server.endpoint import CallEndpoint
from tailrace.server.events import stream_endpoints
from tailrace.server.http.forms import HeadMemory
from tailrace.server.key_file import Key, changing, make_key
from tailrace.server.keys import Caller, Keys
from tailrace.server.limiting.limited import Limited
from tailrace.server.limiting.limiter import Declared, Limiter
from tailrace.server.routing import model_routes, pipeline_routes
from tailrace.testing import ManualClock, TestCall

OTHER = "/v1/pipelines/log_with_fallback/predict"


@dataclass
class Door:
    """A server with limits, on a clock moved by hand. declare: says what pipelines let callers have."""

    server: RunningServer
    file: Path
    clock: ManualClock
    keys: Keys
    limiter: Limiter

    def make(self, limit: Limit, priority: Priority = Priority.NORMAL) -> tuple[str, str]:
        """Put a new key into the file, and have the server look; return it and its id."""
        secret, key = make_key("caller", ["pipelines/*"], limit=limit, priority=priority)
        with changing(self.file) as known:
            known.append(key)
        self.look()
        return secret, key.id

    def change(self, number: str, **members: object) -> None:
        """Change what the file says of a key, and have the server look."""
        with changing(self.file) as known:
            known[:] = [replace(key, **members) if key.id == number else key for key in known]
        self.look()

    def look(self) -> None:
        """Let the server do what it does once a second."""
        self.server.on_loop(self.keys.look)
        self.server.on_loop(self.limiter.look)

    def limited(self, pipeline: str = "log") -> dict[str, int]:
        """Return how many calls of a pipeline limits have refused so far, by reason."""
        return self.server.counts("tailrace_rate_limited_total", pipeline)


Open = Callable[..., Door]


@pytest.fixture
def open_door(http_server: RunningServer, tmp_path: Path) -> Iterator[Open]:
    """Return what gives the server limits, with keys if they are asked for; all is taken away again."""
    shared, file, clock = http_server.http.shared, tmp_path / "keys.json", ManualClock(now_ns=10**15)
    routes = shared.routes

    def begin(keys: Keys | None, limiter: Limiter | None) -> None:
        shared.keys, shared.heads = keys, HeadMemory(shared.limits.body_bytes_max)
        entrances = [each if limiter is None else each.within(limiter) for each in http_server.entrances]
        own = pipeline_routes(entrances) | model_routes(entrances, http_server.readiness)
        shared.routes = {**routes, **own}

    def open_it(with_keys: bool = True, holds: bool = False, **declared: Declared) -> Door:
        with changing(file, create=True) as known:
            known.append(make_key("nobody", ["pipelines/*"])[1])
        limits = {f"pipelines/{name}": each for name, each in declared.items()}
        loop = http_server.loop if holds else None
        limiter = Limiter(limits, clock, LimitCounts(http_server.block), loop=loop)
        keys = Keys(file, shared.count_failure, limiter)
        http_server.on_loop(begin, keys if with_keys else None, limiter)
        return Door(http_server, file, clock, keys, limiter)

    yield open_it
    http_server.on_loop(begin, None, None)
    for series in http_server.block.layout.series:
        if series.name == "tailrace_rate_limited_total":
            http_server.block.cells[series.offset] = 0


@pytest.fixture
def client(http_server: RunningServer) -> Iterator[RawClient]:
    """Return a client."""
    with http_server.connect() as client:
        yield client


def ask(client: RawClient, secret: str = "", *headers: str, body: str = "", path: str = "") -> Answer:
    """Return the answer that a caller gets, with a key if it has one."""
    fields = [f"X-API-Key: {secret}", *headers] if secret else headers
    return client.ask(post(body or payment_of(), *fields, path=path or "/v1/pipelines/log/predict"))


def statuses(client: RawClient, count: int, secret: str = "", **more: str) -> list[int]:
    """Return the statuses of some calls, one after the other."""
    return [ask(client, secret, **more).status for _ in range(count)]


def _ask_and_leave(client: RawClient, request: bytes) -> None:
    client.send(request).sock.close()


def test_key_gets_its_burst_and_then_its_rate(open_door: Open, client: RawClient) -> None:
    """Beyond its bucket a key is answered 429, and 200 again as time passes; other keys do not feel it."""
    door = open_door()
    secret, _ = door.make(Limit(rate="10/s", burst=3))
    other, _ = door.make(Limit(rate="10/s", burst=3))
    assert statuses(client, 5, secret) == [200, 200, 200, 429, 429]
    assert statuses(client, 1, other) == [200]
    door.clock.advance(100)
    assert statuses(client, 2, secret) == [200, 429]
    assert door.limited() == {"key_rate": 3}
    assert door.server.count("tailrace_requests_total", "log", "429", "") >= 3


def test_refusal_says_when_to_come_again(open_door: Open, client: RawClient) -> None:
    """429 carries Retry-After and the RateLimit fields of draft-10, and says whose limit it was; others have none."""
    door = open_door()
    secret, _ = door.make(Limit(rate="30/m", burst=1, concurrent=7))
    first, second = ask(client, secret), ask(client, secret)
    assert "ratelimit" not in first.headers
    assert second.headers["retry-after"] == "2"
    assert second.headers["ratelimit-policy"] == '"key";q=1;w=2, "key-concurrent";q=7;qu="concurrent-requests"'
    assert second.headers["ratelimit"] == '"key";r=0;t=2'
    problem = second.problem()
    assert problem["type"] == "urn:tailrace:rate-limited"
    assert problem["detail"] == "the key may ask 30/m, 1 at once"
    assert problem["next"] == "ask again in 2 s"
    door.clock.advance(1_500)
    assert ask(client, secret).headers["retry-after"] == "1"


def test_who_asks_is_told_what_is_left(open_door: Open, client: RawClient) -> None:
    """With X-Trace an answer carries the RateLimit fields of all limits that the call passed; without, none."""
    door = open_door(log=Declared(Limit(rate="100/s"), Limit(rate="60/m", burst=30)))
    secret, number = door.make(Limit(rate="10/s", burst=5, concurrent=4))
    assert "ratelimit" not in ask(client, secret).headers
    headers = ask(client, secret, "X-Trace: 1").headers
    policies = ['"key";q=10;w=1', '"key-concurrent";q=4;qu="concurrent-requests"', '"key-pipeline";q=30;w=30',
                '"pipeline";q=100;w=1']  # fmt: skip
    lefts = ['"key";r=3;t=1', '"key-concurrent";r=4', '"key-pipeline";r=28;t=1', '"pipeline";r=98;t=1']
    assert headers["ratelimit-policy"] == ", ".join(policies)
    assert headers["ratelimit"] == ", ".join(lefts)
    door.change(number, rate=None, burst=None, concurrent=None)
    assert ask(client, secret, "X-Trace: 1").headers["ratelimit"] == '"key-pipeline";r=27;t=1, "pipeline";r=97;t=1'
    assert "ratelimit" not in ask(client, secret, "X-Trace: 1", path=OTHER).headers


@pytest.mark.parametrize(
    ("limit", "policy"),
    [(Limit(rate="100/s"), '"key";q=100;w=1'), (Limit(rate="100/s", burst=20), '"key";q=100;w=1'),
     (Limit(rate="100/s", burst=250), '"key";q=300;w=3'), (Limit(rate="5/h"), '"key";q=5;w=3600'),
     (Limit(rate="7/s", burst=1), '"key";q=7;w=1')],
)  # fmt: skip
def test_policy_is_the_rate_over_whole_seconds(open_door: Open, client: RawClient, limit: Limit, policy: str) -> None:
    """What the policy says over its window is what the rate allows, whatever the burst."""
    door = open_door()
    secret, _ = door.make(limit)
    statuses(client, limit.tokens_max, secret)
    assert ask(client, secret).headers["ratelimit-policy"] == policy


def test_array_takes_a_token_a_request(open_door: Open, client: RawClient) -> None:
    """An array is taken where there is one token, and what it has beyond is owed."""
    door = open_door()
    secret, _ = door.make(Limit(rate="10/s", burst=4))
    many = f"[{','.join([payment_of()] * 6)}]"
    assert statuses(client, 1, secret, body=many) == [200]
    door.clock.advance(299)
    assert statuses(client, 1, secret) == [429]
    door.clock.advance(1)
    assert statuses(client, 2, secret) == [200, 429]


def test_array_without_requests_takes_a_token(open_door: Open, client: RawClient) -> None:
    """It is read and answered as any other, so who sends them all day is limited too."""
    secret, _ = open_door().make(Limit(rate="10/s", burst=2))
    assert statuses(client, 4, secret, body="[]")[2:] == [429, 429]


def test_key_has_one_bucket_for_all_it_opens(open_door: Open, client: RawClient) -> None:
    """The rate of a key is of all pipelines together, whatever codec and connection it comes in."""
    door = open_door()
    secret, _ = door.make(Limit(rate="10/s", burst=3))
    with door.server.connect() as second:
        found = [ask(client, secret).status, ask(second, secret, path=OTHER).status,
                 ask(second, secret, "Accept: application/msgpack").status]  # fmt: skip
    assert found == [200] * 3
    assert statuses(client, 1, secret, path=OTHER) == [429]
    assert door.limited("log_with_fallback") == {"key_rate": 1}


def test_pipeline_limits_each_key_and_all_together(open_door: Open, client: RawClient) -> None:
    """Each key has its part of a pipeline, and all keys no more than the whole; another pipeline is not concerned."""
    door = open_door(log=Declared(Limit(rate="10/s", burst=5), Limit(rate="1/s", burst=3)))
    (one, _), (two, _) = door.make(Limit()), door.make(Limit())
    assert statuses(client, 4, one) == [200, 200, 200, 429]
    assert statuses(client, 4, two) == [200, 200, 429, 429]
    assert statuses(client, 4, two, path=OTHER) == [200] * 4
    assert door.limited() == {"key_rate": 1, "pipeline_rate": 2}
    door.clock.advance(100)  # one more for all together; what the pipeline refused has taken nothing of the key's
    assert statuses(client, 2, two) == [200, 429]


def test_caller_without_key_is_within_the_pipelines_limit_alone(open_door: Open, client: RawClient) -> None:
    """Where no key is asked for, all callers are one."""
    door = open_door(with_keys=False, log=Declared(Limit(rate="10/s", burst=2), Limit(rate="1/s", burst=1)))
    with door.server.connect() as second:
        assert statuses(client, 1) + statuses(second, 2) == [200, 200, 429]
    assert ask(client).headers["ratelimit"] == '"pipeline";r=0;t=1'
    assert statuses(client, 1, path=OTHER) == [200]


def test_probes_are_not_limited(open_door: Open, client: RawClient) -> None:
    """A balancer asks as often as it likes."""
    open_door(with_keys=False, log=Declared(Limit(rate="1/d", burst=1)))
    assert {client.ask(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").status for _ in range(5)} == {200}


def test_limit_that_is_changed_counts_within_a_look(open_door: Open, client: RawClient) -> None:
    """A key's rate is made larger, smaller, and taken away, on a connection that goes on."""
    door = open_door()
    secret, number = door.make(Limit(rate="1/s", burst=1))
    assert statuses(client, 2, secret) == [200, 429]
    door.change(number, burst=3)
    assert statuses(client, 4, secret) == [200, 200, 200, 429]
    door.change(number, rate=None, burst=None)
    assert statuses(client, 6, secret) == [200] * 6
    door.change(number, rate="1/s")
    assert statuses(client, 2, secret) == [200, 429]
    door.change(number, rate="1/s", concurrent=1)  # what has been taken stays taken
    assert statuses(client, 1, secret) == [429]


def test_calls_in_flight_are_limited(open_door: Open, client: RawClient) -> None:
    """While as many are in flight as may be, more are refused; once they are answered there is room again."""
    door = open_door(log=Declared(each_key=Limit(concurrent=3)))
    (secret, _), (other, _) = door.make(Limit(concurrent=2)), door.make(Limit())
    request, more = (post(payment_of(), f"X-API-Key: {each}") for each in (secret, other))
    for _ in range(3):
        door.server.hold(lambda: client.send(request * 5))
        assert sorted(client.read().status for _ in range(5)) == [200, 200, 429, 429, 429]
    door.server.hold(lambda: client.send(more * 4))
    assert sorted(client.read().status for _ in range(4)) == [200, 200, 200, 429]
    assert door.limited() == {"key_concurrent": 10}
    assert len(door.limiter._in_flight) == 0
    door.server.hold(lambda: client.send(request * 3))
    refused = next(answer for answer in [client.read() for _ in range(3)] if answer.status == 429)
    assert refused.headers["ratelimit"] == '"key-concurrent";r=0'
    assert refused.headers["retry-after"] == "1"


def test_place_is_free_again_whatever_becomes_of_a_call(open_door: Open, client: RawClient) -> None:
    """Not valid, failed in the model, shed, its client gone, its answer lost: a call that is over holds no place."""
    door = open_door(log=Declared(Limit(concurrent=2)))
    secret, _ = door.make(Limit(concurrent=1))
    assert statuses(client, 3, secret, body='{"amount": "x"}') == [422] * 3
    assert statuses(client, 3, secret, body=payment_of(-1.0)) == [500] * 3
    late = [ask(client, secret, "X-Budget-Ms: 0.0001").status for _ in range(3)]
    assert set(late) <= {503, 504}
    for _ in range(3):
        with door.server.connect() as leaving:
            request = post(payment_of(), f"X-API-Key: {secret}")
            door.server.hold(partial(_ask_and_leave, leaving, request))
    door.server.settle()
    assert statuses(client, 3, secret) == [200] * 3
    assert len(door.limiter._in_flight) == 0


def test_call_whose_answer_is_lost_gives_its_place_back(
    open_door: Open, client: RawClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours that answers nobody holds a place until the call's time is long over, and not for ever."""
    door = open_door()
    secret, _ = door.make(Limit(concurrent=1))
    engine = door.server.engines["log"]
    monkeypatch.setattr(engine, "_finish", lambda batch: None)
    client.send(post(payment_of(), f"X-API-Key: {secret}"))
    door.server.settle()
    monkeypatch.undo()
    with door.server.connect() as second:
        assert ask(second, secret).status == 429
        door.clock.advance((engine.clock.now_ns() - door.clock.now_ns()) / 1e6 + 10_000)
        door.look()
        assert ask(second, secret).status == 429
        door.clock.advance(30_000)  # past its deadline
        door.look()
        assert ask(second, secret).status == 200
        lost = [each for each in door.server.http.connections if each.calls]
        door.server.on_loop(lambda: [each.drop() for each in lost])  # no sweep of the shared server answers them


def test_held_refusals_keep_their_order_and_hold_no_place(open_door: Open, client: RawClient) -> None:
    """Calls of one connection are answered in turn, whichever are refused; one whose client leaves harms nobody."""
    door = open_door(holds=True, log=Declared(Limit(concurrent=4)))
    secret, _ = door.make(Limit(rate="10/s", burst=2, concurrent=3))
    (other, _), request = door.make(Limit()), post(payment_of(), f"X-API-Key: {secret}")
    client.send(request * 2 + post(payment_of(7.0, "last"), f"X-API-Key: {other}", "X-Request-Id: z") + request * 2)
    answers = [client.read() for _ in range(5)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
    assert (answers[2].json["label"], answers[2].headers["x-request-id"]) == ("last", "z")
    assert answers[4].headers["retry-after"] == "1"
    with door.server.connect() as leaving:
        leaving.send(request)
    assert statuses(client, 50, secret) == [429] * 50
    assert statuses(client, 5, other) == [200] * 5
    assert len(door.limiter._in_flight) == 0
    assert door.limited()["key_rate"] >= 52


def test_refused_calls_cost_a_bounded_amount(open_door: Open, client: RawClient) -> None:
    """Ten thousand calls beyond a limit are ten thousand 429s; nothing is kept of them."""
    door = open_door()
    secret, _ = door.make(Limit(rate="1/h", burst=1))
    request = post(payment_of(), f"X-API-Key: {secret}")
    assert client.ask(request).status == 200
    for _ in range(100):
        client.send(request * 100)
        assert {client.read().status for _ in range(100)} == {429}
    assert door.limited() == {"key_rate": 10_000}
    assert len(door.limiter._meters) == 1


def test_wrong_key_takes_nothing_of_anybodys(open_door: Open, client: RawClient) -> None:
    """Who guesses keys uses up no bucket, and makes none."""
    door = open_door(log=Declared(Limit(rate="1/h", burst=2)))
    secret, number = door.make(Limit(rate="1/h", burst=2))
    wrong = [post("{}", f"X-API-Key: tr_{number}_{n:043d}") for n in range(200)]
    client.send(b"".join(wrong))
    assert {client.read().status for _ in wrong} == {401}
    assert statuses(client, 3, secret) == [200, 200, 429]
    assert len(door.limiter._meters) == 2


def test_priority_is_the_keys_or_less(open_door: Open, client: RawClient) -> None:
    """The head may ask for less than the key has, never more; without the setting it is not read; nonsense is 400."""
    door = open_door()
    secret, _ = door.make(Limit(), Priority.NORMAL)
    shared = door.server.http.shared
    limits = shared.limits

    def levels() -> set[Priority]:
        within = [each.within for caller in door.keys._callers.values() for each in caller._admitted.values()]
        return {each._priority for each in within}  # type: ignore[attr-defined]

    assert ask(client, secret, "X-Priority: low").status == 200
    assert levels() == {Priority.NORMAL}
    shared.limits = replace(limits, priority_header=True)
    try:
        shared.heads = HeadMemory(limits.body_bytes_max)
        with door.server.connect() as fresh:
            assert ask(fresh, secret, "X-Priority: high").status == 200
            assert levels() == {Priority.NORMAL}
            assert ask(fresh, secret, "X-Priority: Low").status == 200
            assert levels() == {Priority.NORMAL, Priority.LOW}
            assert ask(fresh, secret, "X-Priority: urgent").problem()["pointer"] == "X-Priority"
    finally:
        shared.limits = limits


def test_key_of_another_priority_counts_within_a_look(open_door: Open, client: RawClient) -> None:
    """What was remembered of a key goes by its priority as the file has it now."""
    door = open_door()
    secret, number = door.make(Limit(), Priority.LOW)
    assert ask(client, secret).status == 200
    (admitted,) = door.keys.caller([(b"x-api-key", secret.encode())])._admitted.values()
    levels = [admitted.within._priority]  # type: ignore[attr-defined]
    door.change(number, priority="high")
    levels.append(admitted.within._priority)  # type: ignore[attr-defined]
    assert levels == [Priority.LOW, Priority.HIGH]
    assert ask(client, secret).status == 200


def test_file_of_keys_keeps_no_limit_that_is_none(tmp_path: Path) -> None:
    """A rate that cannot be kept to makes the file unreadable, as any other mistake in it does."""
    file = tmp_path / "keys.json"
    with changing(file, create=True) as known:
        known.append(make_key("a", ["pipelines/*"], limit=Limit(rate="5/s", burst=7, concurrent=2))[1])
    with changing(file) as known:
        assert known[0].limit == Limit(rate="5/s", burst=7, concurrent=2)
    assert {"rate", "burst", "concurrent", "priority"} <= set(Key.__struct_fields__)
    kept = file.read_text()
    for wrong in (kept.replace('"5/s"', '"5/w"'), kept.replace('"5/s"', "null"), kept.replace("normal", "urgent")):
        file.write_text(wrong)
        with pytest.raises(Exception, match="no file of keys"):
            Keys(file, lambda kind: None)


def test_key_that_ends_ends_for_calls_whose_budget_varies(open_door: Open, client: RawClient) -> None:
    """A head whose X-Budget-Ms is read with each call leads to its key as it is now: revoked, or with another limit."""
    door = open_door()
    secret, number = door.make(Limit())
    budgets = iter(range(10_001, 10_100))

    def hurried() -> int:
        return ask(client, secret, f"X-Budget-Ms: {next(budgets)}").status

    assert [hurried() for _ in range(5)] == [200] * 5
    assert any(form.told for form in door.server.http.shared.heads)
    door.change(number, rate="1/h", burst=1)
    assert [hurried() for _ in range(2)] == [200, 429]
    door.change(number, revoked=datetime.now(UTC))
    assert hurried() == 401


def infer(client: RawClient, secret: str, parameters: str = "{}") -> Answer:
    """Return the answer that a caller of the Open Inference Protocol gets."""
    tensor = '{"name": "amount", "datatype": "FP64", "shape": [1], "data": [1.0]}'
    body = f'{{"inputs": [{tensor}], "parameters": {parameters}}}'
    return ask(client, secret, body=body, path="/v2/models/log/infer")


def test_tensors_come_within_the_same_limits(open_door: Open, client: RawClient) -> None:
    """A call of the Open Inference Protocol takes of the same buckets, and is told so as that protocol has it."""
    door = open_door(log=Declared(Limit(rate="1/h", burst=3), Limit(rate="1/h", burst=2)))
    secret, _ = door.make(Limit())
    found = [infer(client, secret).status, ask(client, secret).status]
    assert found == [200, 200]
    refused = infer(client, secret)
    assert refused.status == 429
    assert refused.json == {"error": "the key may ask 1/h, 2 at once; ask again in 3600 s"}
    assert refused.headers["ratelimit"] == '"key-pipeline";r=0;t=3600'


def test_priority_of_a_tensor_call_is_the_keys_or_less(
    open_door: Open, client: RawClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its parameters ask for counts up to the key's level: 1 is high, 2 and 0 are the usual one, the rest low."""
    door = open_door()
    weights: list[float] = []
    engine = door.server.engines["log"]
    monkeypatch.setattr(engine, "refuses", lambda left_ns, now_ns, rows=1, weight=1.0: weights.append(weight))

    def last(secret: str, rank: int) -> float:
        weights.clear()
        assert infer(client, secret, f'{{"priority": {rank}, "timeout": 9000000}}').status == 200
        return weights[-1]

    (high, _), (usual, _), (low, _) = (door.make(Limit(), level) for level in sorted(Priority, reverse=True))
    assert [last(high, rank) for rank in (0, 1, 2, 3)] == [0.6, 0.6, 1.0, 2.0]
    assert [last(usual, rank) for rank in (0, 1, 2, 3)] == [1.0, 1.0, 1.0, 2.0]
    assert [last(low, rank) for rank in (0, 1, 2, 3)] == [2.0] * 4


def test_event_is_a_token(open_door: Open) -> None:
    """A call of a stream takes a token for each of its events; what it is refused is counted to no pipeline."""

    class Event(tr.Request):
        event_id: str
        at: float

    door = open_door()
    stream = tr.Stream("clicks", schema=Event, time="at", id="event_id")
    clock = MonotonicClock()

    async def send() -> list[object]:
        link = EventLink(clock)
        (endpoint,) = stream_endpoints([stream], link, clock, 10, door.server.recorder.record_failure).values()
        _, key = make_key("caller", ["streams/*"], limit=Limit(rate="1/h", burst=4))
        within = Caller(key, lambda kind: None, door.limiter).admitted(endpoint)
        events = [b'{"event_id": "1", "at": 1}', b'[{"event_id": "2", "at": 1}, {"event_id": "3", "at": 1}]']
        found: list[object] = []
        for body in (*events, events[0], events[0]):
            call = TestCall(Mute(), None, None, 0, 0, 1)
            found.append(within.accept(call, body, within.budget_ns))
        await asyncio.gather(*endpoint._tasks)
        return found

    *taken, refused = asyncio.run(send())
    assert taken == [None] * 3
    assert isinstance(refused, RateLimitedError)
    assert door.limited("") == {"key_rate": 1}


class Mute:
    """A transport that says nothing."""

    def deliver(self, batch: Batch, places: Sequence[int]) -> None:
        """Pass it over."""

    def refuse(self, call: Call, error: ServingError) -> None:
        """Pass it over."""


class Lent:
    """Lends five tokens at once. asked: how often it was asked what is left; returned: tokens that came back."""

    asked = returned = 0

    def __init__(self, name: str, limit: Limit) -> None:
        """Whatever the limit is."""

    def lend(self) -> int:
        """Lend five."""
        return 5

    def owe(self, tokens: int) -> None:
        """Count what comes back."""
        Lent.returned -= tokens

    def left(self) -> tuple[int, int]:
        """Say that all are there."""
        Lent.asked += 1
        return 100, 0


def test_very_many_keys_hold_nobody_up(http_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new key makes room for itself by two others at most, and what is not used is given back by and by."""
    monkeypatch.setattr("tailrace.server.limiting.limiter.METERS_MAX", 50)
    monkeypatch.setattr("tailrace.server.limiting.limiter.LOOKED_MAX", 20)
    monkeypatch.setattr(Lent, "asked", 0)
    monkeypatch.setattr(Lent, "returned", 0)
    limiter = Limiter({}, ManualClock(), LimitCounts(http_server.block), Lent)
    endpoint = http_server.http.shared.routes[b"/v1/pipelines/log/predict"][b"POST"]
    assert isinstance(endpoint, CallEndpoint)
    for number in range(200):
        before = Lent.asked
        (meter,) = cast(Limited, limiter.of_key(endpoint, str(number), Limit(rate="100/s"))).meters
        meter.in_flight = int(number < 10)  # in use, and so kept
        assert Lent.asked - before <= 2
        assert len(limiter._meters) <= 50 + 10
    assert {f"keys/{number}" for number in range(10)} <= limiter._meters.keys()
    for meter in limiter._meters.values():
        assert meter.bucket is not None
        assert meter.bucket.take()
    for _ in range(12):
        before = Lent.returned
        limiter.look()
        assert Lent.returned - before <= 20 * 4
    assert Lent.returned == 4 * len(limiter._meters)


def test_call_that_shares_an_answer_gives_its_place_back(
    pipeline_of: Callable[[str], Pipeline], tmp_path: Path
) -> None:
    """Of calls that wait for one computation each holds a place of its own key, until it has its answer."""
    shared = dataclasses.replace(ample(pipeline_of("log")), coalesce=tr.Coalesce(ttl="10s"))
    with RunningServer([shared]) as server, server.connect() as client:
        limiter = Limiter({}, MonotonicClock(), LimitCounts(server.block), loop=server.loop)
        file = tmp_path / "keys.json"
        secret, key = make_key("caller", ["pipelines/*"], limit=Limit(rate="1000/s", concurrent=4))
        with changing(file, create=True) as known:
            known.append(key)
        server.http.shared.keys = Keys(file, lambda kind: None, limiter)
        request = post(payment_of(), f"X-API-Key: {secret}")
        server.hold(lambda: client.send(request * 6))
        assert sorted(client.read().status for _ in range(6)) == [200] * 4 + [429] * 2
        assert server.batches("log") <= 1
        for _ in range(3):
            assert [client.ask(request).status for _ in range(6)] == [200] * 6
        assert len(limiter._in_flight) == 0
