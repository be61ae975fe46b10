"""The console's data: what it shows of the metrics, what it remembers, what it says, and who may listen."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from console_server import Counted, drifted, filled, served
from stand_in_supervisor import fetch, poll
from tls_files import Authority

from tailrace.monitor.observed import Observed
from tailrace.monitor.slowest import SlowRequest
from tailrace.server.admin import CompanionStatus
from tailrace.server.console.console import Console
from tailrace.server.console.feed import LISTENERS_MAX, STUCK_MESSAGES_MAX, Listeners
from tailrace.server.console.figures import HEAT_OCTAVES, HEAT_ROWS_PER_OCTAVE, points_of
from tailrace.server.console.happenings import HAPPENINGS_MAX, VERDICTS_MAX, Timeline
from tailrace.server.console.history import COARSE_S, COARSE_STEPS_MAX, FINE_STEPS_MAX, History
from tailrace.server.console.observation import Observing
from tailrace.server.console.page import page_bytes
from tailrace.server.console.wall import Wall
from tailrace.server.log_lines import LogLine, LogLines
from tailrace.server.tls.certificates import TlsFiles

PAGE_BYTES_MAX = 120_000


def listen(port: int) -> socket.socket:
    """Return a connection that has asked for the feed."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(b"GET /console/events HTTP/1.1\r\nHost: a\r\n\r\n")
    return connection


def read_until(connection: socket.socket, end: bytes) -> bytes:
    """Return what comes, up to and with `end`."""
    held = b""
    while end not in held:
        part = connection.recv(65_536)
        assert part, held
        held += part
    return held


def looked(console: Console, at_s: float = 0.0) -> dict[str, Any]:
    """Look once more; return the state."""
    console.look(at_s)
    state: dict[str, Any] = json.loads(console.whole())["state"]
    return state


def looked_message(console: Console) -> dict[str, Any]:
    """Look once more; return what is told to who listens."""
    console.look(0.0)
    message: dict[str, Any] = json.loads(console.listeners._last.removeprefix(b"data: "))
    return message


# -- figures ----------------------------------------------------------------------------------------------------------


def test_point_counts_one_second() -> None:
    """A point has the rates of its second, the quantiles of it, and every answer in the heatmap's row of its time."""
    counted, history = Counted(), History()
    history.add(counted.merge(), 0.0)
    counted.answer(90, time_ms=5)
    counted.answer(10, time_ms=80)
    counted.shed(20)
    point = history.add(counted.merge(), 1.0)["fraud"]
    assert (point.offered, point.served, point.shed, point.failed, point.batch) == (120, 100, 20, 0, 2)
    assert point.p50 == pytest.approx(5, rel=0.1)
    assert point.p99 == pytest.approx(80, rel=0.1)
    first, *rows = point.heat
    assert sum(rows) == 100

    def upper_ms(row: int) -> float:
        return 50 * 2 ** (HEAT_OCTAVES[0] + (row + 1) / HEAT_ROWS_PER_OCTAVE)

    assert upper_ms(first - 1) <= 5 * 1.08
    assert upper_ms(first) >= 5
    assert upper_ms(first + len(rows) - 1) >= 80
    assert (rows[0], rows[-1]) == (90, 10)


def test_history_is_bounded_and_its_coarse_steps_are_exact() -> None:
    """A day and more is kept in so many points; a coarse p99 is that of all its answers, not a mean of p99s."""
    counted, history = Counted(), History()
    for second in range(FINE_STEPS_MAX + 5):
        counted.answer(100 if second % 2 else 1, 5 if second % 2 else 400)
        history.add(counted.merge(), float(second))
    columns = history.columns()["fraud"]
    assert len(columns["fine"]["at_s"]) == FINE_STEPS_MAX
    assert columns["fine"]["at_s"][-1] == FINE_STEPS_MAX + 4
    assert all(each < 20 for each in columns["coarse"]["p99"])
    assert COARSE_STEPS_MAX * COARSE_S == 24 * 3_600


def test_row_that_is_degraded_twice_is_one_row() -> None:
    """A row may be degraded for several reasons: no more than all rows are; the reason that is named has its share."""
    counted = Counted()
    console = Console(counted)
    looked(console)
    counted.answer(100)
    counted.count("tailrace_degraded_total", "stale_features", by=100)
    counted.count("tailrace_degraded_total", "event_lost", by=90)
    state = looked(console)
    assert state["pipelines"][0]["degraded"] == 1
    assert state["points"]["fraud"]["degraded"] == 100
    assert state["verdict"]["text"] == "Degraded 100%: stale features"


def test_queue_and_capacity_are_told_of_all_workers() -> None:
    """How many rows are taken now, and how many could be answered, of both workers together."""
    counted = Counted()
    console = Console(counted)
    successor = counted.roll_out("r2")
    looked(console)
    for worker, rows in ((counted, 3), (successor, 4)):
        worker.answer(10)
        worker.count("tailrace_queue_rows", by=rows)
        worker.count("tailrace_capacity_rows_per_second", by=2_500)
    (pipeline,) = looked(console)["pipelines"]
    assert (pipeline["waiting"], pipeline["capacity"]) == (7, 5_000)


def test_point_of_no_traffic_says_nothing() -> None:
    """A second without calls has no quantiles, which is not a latency of 0."""
    counted = Counted()
    first = counted.merge()
    point = points_of(counted.merge().since(first), 1.0)["fraud"]
    assert (point.offered, point.p50, point.p99, point.batch, point.heat) == (0, None, None, None, [])


# -- the verdict and the timeline -------------------------------------------------------------------------------------


def test_verdict_names_the_cause() -> None:
    """It says what is wrong and of what: shedding with the wait, over budget with the layer, no worker."""
    counted = Counted()
    console = Console(counted)

    def verdict() -> tuple[str, str]:
        for _ in range(12):
            found = looked(console)["verdict"]
        return found["level"], found["text"]

    assert verdict() == ("idle", "No requests in the last seconds")
    counted.answer(1_000)
    state = looked(console)["verdict"]
    assert (state["level"], state["text"].startswith("Within budget: p99 5")) == ("good", True)
    counted.shed(30)
    state = looked(console)["verdict"]
    assert state["text"].startswith("Shedding 2.9%: no time left to answer, queue wait 0.5")
    verdict()
    counted.answer(100, time_ms=90)
    state = looked(console)["verdict"]
    assert state["level"] == "bad"
    assert "> 50 ms; features 4" in state["text"]
    counted.ready = False
    assert verdict() == ("bad", "Not ready: no worker is ready to serve")


def test_alert_that_fires_is_told_where_all_is_well_just_now() -> None:
    """It stays until it is over; what is worse just now is said in its place."""
    counted = Counted()
    console = Console(counted)
    looked(console)
    counted.answer(1_000)
    counted.fire("p99 is 130 ms")
    state = looked(console)["verdict"]
    assert (state["level"], state["pipeline"]) == ("warn", counted.name)
    assert state["text"].startswith("Within budget: p99 5")
    assert state["text"].endswith(" · alert latency: p99 is 130 ms")
    counted.shed(30)
    assert looked(console)["verdict"]["level"] == "bad"
    assert "alert" not in looked(console)["verdict"]["text"]


def test_timeline_tells_what_differs() -> None:
    """A process that was replaced, a new release and a breaker that opens and closes are entries of their own."""
    counted = Counted()
    console = Console(counted)
    looked(console)
    counted.restarts = 1
    looked(console)
    counted.release = "r2"
    looked(console)
    counted.count("tailrace_store_breaker_open")
    looked(console)
    counted.count("tailrace_store_breaker_open", by=-1)
    looked(console)
    counted.fire()
    assert looked(console)["alerts"][0]["alert"] == "latency"
    counted.firing = []
    state = looked(console)
    happenings = state["happenings"]
    assert [(each["kind"], each["text"]) for each in happenings if each["kind"] != "verdict"] == [
        ("process", "worker 0 has died and is started anew"),
        ("release", "release r2 is served"),
        ("breaker", "fraud: the breaker of the store has opened"),
        ("breaker", "fraud: the breaker of the store has closed"),
        ("alert", "fraud: latency fires: p99 is 130 ms"),
        ("alert", "fraud: latency is over"),
    ]


def test_timeline_is_bounded() -> None:
    """Of more happenings the oldest are forgotten."""
    timeline = Timeline()
    for number in range(HAPPENINGS_MAX + 5):
        timeline.tell("alert", str(number), float(number))
    assert len(timeline.happenings) == HAPPENINGS_MAX
    assert timeline.happenings[0].text == "5"


def test_versions_stand_side_by_side() -> None:
    """While a release is rolled out each has its rate, its share, its failures, and its own model's time."""
    counted = Counted()
    console = Console(counted)
    successor = counted.roll_out("r2")
    looked(console)
    counted.answer(300, time_ms=10)
    successor.answer(80, time_ms=100)
    successor.shed(20)
    state = looked(console)
    (pipeline,) = state["pipelines"]
    told = [(each["release"], each["rate"], each["share"], each["failed"]) for each in pipeline["versions"]]
    assert told == [("r1", 300, 0.75, 0), ("r2", 100, 0.25, 0.2)]
    assert [each["p50"] for each in pipeline["versions"]] == [pytest.approx(4, rel=0.05), pytest.approx(40, rel=0.05)]
    assert [each["id"] for each in state["releases"]] == ["r1", "r2"]


def test_verdicts_that_come_and_go_push_no_release_out() -> None:
    """A server at its limit changes its verdict every few seconds, for hours; what was released is told still."""
    timeline = Timeline()
    timeline.tell("release", "r2", 0.0)
    for number in range(10 * HAPPENINGS_MAX):
        timeline.tell("verdict", str(number), float(number))
    assert len(timeline.happenings) == VERDICTS_MAX + 1
    assert [timeline.happenings[0].text, timeline.happenings[-1].text] == ["r2", str(10 * HAPPENINGS_MAX - 1)]


# -- a clock that is set -----------------------------------------------------------------------------------------------


def test_clock_that_is_set_is_told_from_one_that_goes_on() -> None:
    """A suspended machine's clock was not set, nor is one that is slewed; one that jumps was, by so much."""
    wall_s, steady_s = [1_000.0], [5.0]
    wall = Wall(lambda: wall_s[0], lambda: steady_s[0])
    wall_s[0], steady_s[0] = 1_001.2, 6.0
    assert wall.look() == (1_001.2, 0.0)
    wall_s[0], steady_s[0] = 9_001.2, 8_006.0
    assert wall.look() == (9_001.2, 0.0)
    wall_s[0], steady_s[0] = 5_402.2, 8_007.0
    assert wall.look()[1] == pytest.approx(-3_600)
    assert wall.look() == (5_402.2, 0.0)


def test_clock_that_is_set_leaves_what_is_remembered_in_order() -> None:
    """Points and happenings go along: a chart of times that go back could not be drawn, and would show nothing new."""
    counted = Counted()
    console = Console(counted)
    for second in range(5):
        counted.answer(10)
        console.look(10_000.0 + second)
    console.move(-3_600.0, 6_405.0)
    counted.answer(10)
    console.look(6_405.0)
    whole = json.loads(console.whole())
    assert whole["history"]["fraud"]["fine"]["at_s"] == [6_401, 6_402, 6_403, 6_404, 6_405]
    told = [(each["kind"], each["at_s"]) for each in whole["state"]["happenings"]]
    assert told == [("verdict", 6_401), ("clock", 6_405)]


# -- what the observer says, and the log -------------------------------------------------------------------------------


def test_observation_says_whether_there_is_an_observer() -> None:
    """No figure of an observer that is silent is shown as one of now; none is made up where nobody observes."""
    request = SlowRequest(id="a", at_s=1, whole=2, wait=0, layers=(), release="r")
    slow: dict[str, tuple[SlowRequest, ...]] = {"fraud": (request,)}
    observing = Observing()
    companions = [CompanionStatus("observer", 1, "ready", 0, 0)]
    counted = Counted()
    counted.lose(3, "unwritten")
    metrics = counted.merge()
    assert observing.look(None, [], metrics).observer == "off"
    assert observing.look(Observed(at_s=1, slow=slow), companions, metrics).slow == slow
    silent = observing.look(None, companions, metrics)
    assert (silent.observer, silent.slow, observing.whole.drift) == ("silent", {}, {})
    assert silent.lost == {"unwritten": 3}


def test_drift_is_told_when_it_changes_and_to_who_opens_a_page() -> None:
    """Its windows are long to tell: a message has them once, the whole state always."""
    counted = Counted()
    console = Console(counted)
    assert looked(console)["observed"]["drift"] == {}
    counted.said = Observed(at_s=1, drift={"fraud": drifted(ended_s=900.0)})
    messages = [looked_message(console) for _ in range(3)]
    counted.said = Observed(at_s=2, drift={"fraud": drifted(ended_s=1_800.0)})
    messages.append(looked_message(console))
    observed = [message["observed"] for message in messages]
    assert [each["drift"] is not None for each in observed] == [True, False, False, True]
    assert [each["drift_at_s"] for each in observed] == [900, 900, 900, 1_800]
    assert looked(console)["observed"]["drift"]["fraud"]["ended_s"] == 1_800


def test_lines_of_the_log_are_told_once_and_kept_for_who_opens_a_page() -> None:
    """A message has those that are new; the whole state those of ten minutes."""
    lines = LogLines()
    console = Console(Counted(), lines)
    lines.hear([LogLine(1.0, "info", "worker 0", "first")])
    assert [each["text"] for each in looked_message(console)["lines"]] == ["first"]
    lines.hear([LogLine(2.0, "error", "", "second")])
    assert [each["text"] for each in looked_message(console)["lines"]] == ["second"]
    assert looked_message(console)["lines"] == []
    whole = json.loads(console.whole())
    assert [each["text"] for each in whole["lines"]] == ["first", "second"]
    assert whole["state"]["lines"] == []


# -- the pages --------------------------------------------------------------------------------------------------------


def test_page_runs_only_what_stands_in_it() -> None:
    """The policy names each script and style by its hash, and no other source; no address stands in the page."""
    page, policy = page_bytes()
    assert len(page) < PAGE_BYTES_MAX
    assert b"unsafe" not in policy
    assert policy.count(b"'sha256-") == 4
    outside = page.replace(b"https://github.com/leeoniya/uPlot", b"")
    assert b"http://" not in outside
    assert b"https://" not in outside


def test_port_itself_leads_to_the_console() -> None:
    """Who opens the address that the log names comes to the page."""
    counted = Counted()
    with served(counted, filled(counted, 1)) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Location"]) == (302, "/console")
        connection.close()


def test_pages_are_compressed_for_who_takes_that() -> None:
    """The page and the state come in half of their bytes, or less, where gzip is accepted."""
    counted = Counted()
    with served(counted, filled(counted, 60)) as port:
        for path in ("/console", "/console/state"):
            plain = fetch(port, path)[1]
            packed = fetch(port, path, headers={"Accept-Encoding": "gzip"})[1]
            assert gzip.decompress(packed) == plain
            assert len(packed) < len(plain) / 2


def test_figures_ask_for_the_token_and_the_page_does_not() -> None:
    """With an admin token the state and the feed want it; the page, which holds no figure, asks the reader for it."""
    counted = Counted("secret-name")
    with served(counted, filled(counted, 3), token="t") as port:
        assert fetch(port, "/console/state")[0] == 401
        assert fetch(port, "/console/events")[0] == 401
        status, page = fetch(port, "/console")
        assert (status, b"secret-name" in page) == (200, False)
        status, state = fetch(port, "/console/state", headers={"Authorization": "Bearer t"})
        assert (status, json.loads(state)["state"]["pipelines"][0]["name"]) == (200, "secret-name")


def test_feed_tells_each_second_what_the_state_is() -> None:
    """Of a real server: the first message comes at once, the next within some seconds, each a whole state."""
    counted = Counted()
    console = filled(counted, 3)
    with served(counted, console) as port, listen(port) as connection:
        first = read_until(connection, b"\n\n")
        assert b"Content-Type: text/event-stream" in first
        if b"data: " not in first:
            first = read_until(connection, b"\n\n")
        state = json.loads(first.split(b"data: ")[1])
        assert state["points"]["fraud"]["offered"] == 204


def test_thousand_consoles_leave_the_port_open() -> None:
    """So many may listen; all others are refused and counted; probes, scrapes, the state are answered as before."""
    counted = Counted()
    console = filled(counted, 3)
    with served(counted, console) as port:
        open_ones = []
        statuses = []
        try:
            for _ in range(1_000):
                connection = listen(port)
                open_ones.append(connection)
                statuses.append(int(connection.recv(12)[9:12]))
            assert statuses.count(200) == LISTENERS_MAX == len(console.listeners)
            assert statuses.count(503) == 1_000 - LISTENERS_MAX
            assert console.listeners.refused == 1_000 - LISTENERS_MAX
            assert [fetch(port, path)[0] for path in ("/livez", "/metrics", "/console/state")] == [200, 200, 200]
        finally:
            for connection in open_ones:
                connection.close()
        poll(lambda: len(console.listeners) == 0)
        assert fetch(port, "/console/state")[0] == 200


def test_listener_that_does_not_read_is_dropped() -> None:
    """It costs a bounded buffer and some messages; who reads beside it misses none."""

    async def tell() -> tuple[int, int]:
        loop, listeners = asyncio.get_running_loop(), Listeners()
        pairs = [socket.socketpair() for _ in range(2)]
        for ours, _ in pairs:
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
            transport.set_protocol(listeners.enter(transport))
        reader, writer = await asyncio.open_connection(sock=pairs[1][1], limit=1 << 24)
        told = STUCK_MESSAGES_MAX + 5
        for number in range(told):
            listeners.tell(b'"%d%s"' % (number, b"x" * 500_000))
            await reader.readuntil(b"\n\n") if number else await reader.readuntil(b'x"\n\n')
        left = len(listeners)
        listeners.close()
        writer.close()
        pairs[0][1].close()
        await asyncio.sleep(0)
        return told, left

    assert asyncio.run(tell())[1] == 1


def test_feed_comes_over_tls(tmp_path: Path) -> None:
    """Where the admin port is secret, so is the feed."""
    authority = Authority(tmp_path)
    signed = authority.server()
    counted = Counted()
    tls = TlsFiles(str(signed.cert), str(signed.key))
    with served(counted, filled(counted, 3), tls=tls) as port:
        context = ssl.create_default_context(cafile=str(authority.file))
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=10)
        connection.request("GET", "/console/events")
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.readline().startswith(b'data: {"at_s"')
        connection.close()
