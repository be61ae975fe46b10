"""Several servers, repetitions and hedging: what is asked, how often, and what that may cost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from client.script_server import PATIENCE_S, Visit, refused_url, scripted
from tailrace.client.answer import Answer
from tailrace.client.endpoints import ATTEMPTS_MAX, LOOK_ROUND, Course, Endpoints, seconds_of
from tailrace.client.failure import ExchangeError
from tailrace.client.options import Options
from tailrace.client.shares import EVERY, Share, UsualTime
from tailrace.deadline import NS_PER_S
from tailrace.errors import ServingError, SetupError, ShedError, UnavailableError
from tailrace.testing import ManualClock

SHED = b'{"status":503,"title":"Shed","detail":"full","type":"urn:tailrace:shed"}'
PROBLEM = "Content-Type: application/problem+json\r\n"
URLS = ["http://a:1", "http://b:1", "http://c:1"]


def shed(visit: Visit, retry_after: str) -> None:
    """Answer 503 to whatever comes."""
    while visit.read()[0]:
        visit.answer(
            SHED, "503 Service Unavailable", f"{PROBLEM}Retry-After: {retry_after}\r\n" if retry_after else PROBLEM
        )


def asked(endpoints: Endpoints, calls: int, took_ms: dict[str, int], clock: ManualClock) -> list[str]:
    """Call so often, each server taking its time; return who was asked."""
    found = []
    for _ in range(calls):
        endpoint, began_ns = endpoints.choose(), clock.now_ns()
        clock.advance(took_ms[endpoint.address.url])
        endpoints.note(endpoint, began_ns, is_failure=False)
        found.append(endpoint.address.url)
    return found


def test_nearest_is_asked_and_the_others_are_looked_at() -> None:
    """Most calls go to whom answers soonest; when another becomes the quicker one, that is found out."""
    clock = ManualClock()
    endpoints = Endpoints(URLS, Options(), clock)
    took = dict(zip(URLS, (9, 2, 5), strict=True))
    assert asked(endpoints, 3 * LOOK_ROUND, took, clock).count(URLS[1]) > 2.5 * LOOK_ROUND
    took[URLS[0]] = 1
    assert set(asked(endpoints, 40 * LOOK_ROUND, took, clock)[-LOOK_ROUND // 2 : -1]) <= {URLS[0], *URLS[1:]}
    assert asked(endpoints, 4 * LOOK_ROUND, took, clock).count(URLS[0]) > 3 * LOOK_ROUND


def test_turns_are_taken() -> None:
    """By turns each server has its share, whatever it takes."""
    clock = ManualClock()
    found = asked(Endpoints(URLS, Options(choose="turns"), clock), 30, dict(zip(URLS, (9, 2, 5), strict=True)), clock)
    assert [found.count(url) for url in URLS] == [10, 10, 10]


def test_one_that_is_gone_is_not_missed(connect: Callable[..., Any]) -> None:
    """A server that refuses connections costs no call, and after a few it is left alone."""
    with scripted(Visit.answer_all) as server:
        client = connect([refused_url(), server.url], choose="turns")
        assert [client.predict("log", {}) for _ in range(60)] == [{"n": 1}] * 60


def test_one_that_sheds_hands_over(connect: Callable[..., Any]) -> None:
    """A 503 with Retry-After sends the call on to another server at once, and its sender is left to rest."""
    with ExitStack() as stack:
        full = stack.enter_context(scripted(lambda visit: shed(visit, "5")))
        free = stack.enter_context(scripted(Visit.answer_all))
        client = connect([full.url, free.url])
        assert [client.predict("log", {}) for _ in range(40)] == [{"n": 1}] * 40


@pytest.mark.parametrize(
    ("retry_after", "budget"), [("", "5s"), ("1", "200ms"), ("Fri, 31 Dec 1999 23:59:59 GMT", "5s")]
)
def test_shed_call_is_told_at_once(connect: Callable[..., Any], retry_after: str, budget: str) -> None:
    """Without Retry-After, or where that is beyond the budget, the server is asked once."""
    asks: list[int] = []

    def act(visit: Visit) -> None:
        while visit.read()[0]:
            asks.append(1)
            visit.answer(SHED, "503 Busy", f"{PROBLEM}Retry-After: {retry_after}\r\n" if retry_after else PROBLEM)

    with scripted(act) as server, pytest.raises(ShedError, match="full"):
        connect(server.url).predict("log", {}, budget=budget)
    assert len(asks) == 1


def test_shed_call_is_repeated_within_its_budget(connect: Callable[..., Any]) -> None:
    """With a Retry-After that the budget has room for, the server is asked again."""

    def act(visit: Visit) -> None:
        visit.read()
        visit.answer(SHED, "503 Busy", f"{PROBLEM}Retry-After: 0\r\n")
        visit.read()
        visit.answer()

    with scripted(act) as server:
        assert connect(server.url).predict("log", {}) == {"n": 1}


def test_attempts_of_a_call_are_bounded() -> None:
    """A call is tried so often and no more, and calls of a time no more often than their share allows."""
    clock = ManualClock()
    endpoints = Endpoints(URLS[0], Options(retry_share=0.1), clock)
    again = Answer(503, True, b"0", b"")

    def attempts() -> int:
        course = Course(endpoints, NS_PER_S, is_repeatable=False)
        for attempt in range(1, 100):
            if course.answered(course.choose(), clock.now_ns(), again) is None:
                return attempt
        raise AssertionError

    assert attempts() == ATTEMPTS_MAX
    assert sum(attempts() for _ in range(1_000)) <= 1_000 + 0.1 * 1_001 + 10


def test_call_that_may_have_been_computed_is_not_repeated() -> None:
    """Only what was not sent is repeated, unless calls may be computed twice; what is late never is."""
    clock = ManualClock()
    error = UnavailableError("gone")
    for is_repeatable, failure, goes_on in (
        (False, ExchangeError(error, is_unsent=True), True),
        (False, ExchangeError(error), False),
        (True, ExchangeError(error), True),
        (True, ExchangeError(error, is_late=True), False),
    ):
        course = Course(Endpoints(URLS, Options(), clock), NS_PER_S, is_repeatable=is_repeatable)
        endpoint = course.choose()
        if goes_on:
            assert course.failed(endpoint, 0, failure) == 0.0
            assert course.choose() is not endpoint
        else:
            with pytest.raises(ExchangeError):
                course.failed(endpoint, 0, failure)


def test_server_that_fails_is_left_alone(connect: Callable[..., Any]) -> None:
    """After three failures the breaker opens: calls are refused here, and nobody is asked."""

    def act(visit: Visit) -> None:
        visit.read()
        visit.reset()

    with scripted(act) as server:
        client = connect(server.url)
        said: list[str] = []
        for _ in range(10):
            with pytest.raises(ServingError) as caught:
                client.predict("log", {})
            said.append(caught.value.what)
        assert any("too many of the last calls failed" in each for each in said)
        assert len(server.visits) < 10


def test_share_is_of_the_calls() -> None:
    """In the long run one call in twenty is repeated; what is saved up has an end."""
    share = Share(0.05, saved=0.0)
    taken = 0
    for _ in range(2_000):
        share.earn()
        taken += share.take()
    assert taken in {99, 100}
    for _ in range(10_000):
        share.earn()
    assert sum(share.take() for _ in range(100)) == 10


def test_p95_is_of_the_last_calls() -> None:
    """The usual time is known after 64 calls, and forgets those of long ago."""
    usual = UsualTime()
    for at in range(EVERY - 1):
        usual.note(at)
    assert usual.p95_ns is None
    usual.note(63)
    assert usual.p95_ns == 60
    for _ in range(10 * EVERY):
        usual.note(7)
    assert usual.p95_ns == 7


def test_hedged_call_takes_the_quicker_answer(connect: Callable[..., Any]) -> None:
    """A call that waits longer than usual goes to a second server, and the first one's answer is not waited for."""
    stuck = threading.Event()

    def act(visit: Visit) -> None:
        while visit.read()[0]:
            if stuck.is_set():
                visit.ended.wait(PATIENCE_S)
            visit.answer(b'{"n":1}')

    with ExitStack() as stack:
        slow = stack.enter_context(scripted(act))
        quick = stack.enter_context(scripted(lambda visit: visit.answer_all(b'{"n":2}')))
        client = connect([slow.url, quick.url], hedge=True, repeatable=True, choose="turns", budget="5s")
        for _ in range(2 * EVERY):
            client.predict("log", {})
        stuck.set()
        assert [client.predict("log", {}) for _ in range(4)] == [{"n": 2}] * 4


def test_hedging_adds_its_share_and_no_more(connect: Callable[..., Any]) -> None:
    """A server that is slow for every call is asked 5% more often at most."""
    asks: list[int] = []

    def act(visit: Visit) -> None:
        while visit.read()[0]:
            asks.append(1)
            visit.ended.wait(0.01 if len(asks) > 130 else 0.0)
            visit.answer()

    with scripted(act) as server:
        client = connect(server.url, hedge=True, repeatable=True, budget="5s")
        for _ in range(150):
            client.predict("log", {})
    assert 150 < len(asks) <= 150 * 1.05 + 1


@pytest.mark.parametrize("status", ["404 Not Found", "500 Fault", "503 Busy", "502 Bad Gateway"])
def test_quick_errors_make_no_server_the_nearest(connect: Callable[..., Any], status: str) -> None:
    """A server that answers every call with an error at once does not draw the calls to it."""

    def slow(visit: Visit) -> None:
        while visit.read()[0]:
            visit.ended.wait(0.001)
            visit.answer()

    def broken(visit: Visit) -> None:
        while visit.read()[0]:
            visit.answer(b"no", status)

    failed = 0
    with ExitStack() as stack:
        urls = [stack.enter_context(scripted(act)).url for act in (slow, broken)]
        client = connect(urls)
        for _ in range(100):
            try:
                client.predict("log", {})
            except ServingError:
                failed += 1
    assert failed <= 5


def test_hedge_that_is_shed_leaves_the_first_to_answer(connect: Callable[..., Any]) -> None:
    """A server that refuses the second copy does not fail a call whose first copy is under way."""
    stuck = threading.Event()

    def slow(visit: Visit) -> None:
        while visit.read()[0]:
            visit.ended.wait(0.03 if stuck.is_set() else 0.0)
            visit.answer()

    def full(visit: Visit) -> None:
        while visit.read()[0]:
            if stuck.is_set():
                asks.append(1)
                visit.answer(SHED, "503 Busy", PROBLEM)
            else:
                visit.answer()

    asks: list[int] = []
    with ExitStack() as stack:
        urls = [stack.enter_context(scripted(act)).url for act in (slow, full)]
        client = connect(urls, hedge=True, repeatable=True, choose="turns", budget="5s")
        for _ in range(2 * EVERY + 1):
            client.predict("log", {})
        stuck.set()
        found: list[Any] = []
        for _ in range(4):
            try:
                found.append(client.predict("log", {}))
            except ShedError:
                found.append("shed")
    assert asks
    assert found.count("shed") < len(asks)
    assert {"n": 1} in found


def test_retry_after_in_seconds_is_read() -> None:
    """A number is read; a date and nonsense are no number."""
    found = [seconds_of(each) for each in (b"2", b"", b"-1", b"1.5", b"Fri", b"9" * 500)]
    assert found == [2.0, None, None, None, None, 3_600.0]


@pytest.mark.parametrize(
    "urls",
    [[], "ftp://a", "a:80", "http://", "http://a/path", "http://u:p@a", "http://a:99999", "http://a\r\nb", "unix:"],
)
def test_address_that_cannot_be_meant(urls: Any) -> None:
    """An address says what is wrong with it before any call; a password in it is not repeated."""
    with pytest.raises(SetupError) as caught:
        Endpoints(urls, Options())
    assert ":p@" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"budget": "soon"}, {"budget": "0ms"}, {"budget": "2h"}, {"codec": "xml"}, {"choose": "any"}, {"hedge": True},
     {"retry_share": 2}, {"hedge_share": 0.06}, {"connections_max": 0}, {"headers": {"X": "secret\r\nY: 1"}},
     {"headers": {"content-length": "secret"}}, {"headers": {"a b": "secret"}}],
)  # fmt: skip
def test_option_that_cannot_be_meant(options: Any) -> None:
    """So does an option; a header's value is not told."""
    with pytest.raises(SetupError) as caught:
        Options(**options)
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(Options(headers={"X": "secret"}))


def test_clock_is_of_the_machine() -> None:
    """The breaker's open time passes on the clock that calls are timed with."""
    clock = ManualClock()
    endpoints = Endpoints(URLS[0], Options(), clock)
    for _ in range(3):
        endpoints.note(endpoints.choose(), clock.now_ns(), is_failure=True)
    with pytest.raises(ExchangeError):
        endpoints.choose()
    clock.advance(400)
    assert endpoints.choose() is endpoints.all[0]
