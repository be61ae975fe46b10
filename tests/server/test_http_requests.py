"""What a well-formed request is answered: routes, methods, versions, and the headers a caller may send."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Callable
from dataclasses import replace

import pytest
from http_server import Answer, RawClient, RunningServer, assert_serves, chunked, head_of, payment_of, post

import tailrace as tr
from tailrace.deadline import LAYERS
from tailrace.pipeline import Pipeline

PREDICT = "/v1/pipelines/log/predict"


def test_connection_kept_alive_serves_many_requests(client: RawClient) -> None:
    """One connection carries request after request, and its answers say nothing of closing."""
    for number in range(20):
        answer = client.ask(post(payment_of(1.0 + number, str(number))))
        assert (answer.version, answer.status) == ("HTTP/1.1", 200)
        assert answer.json["label"] == str(number)
        assert answer.headers["content-type"] == "application/json"
        assert "connection" not in answer.headers
        assert answer.headers["date"].endswith("GMT")


def test_connection_close_is_answered_and_closed(client: RawClient) -> None:
    """`Connection: close` gets its answer, told as the last one."""
    answer = client.ask(post(payment_of(), "Connection: close"))
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    client.assert_closed()


@pytest.mark.parametrize("request_bytes", [head_of("GET", "/livez", "Connection: close"), head_of("GET", "/no")])
def test_answer_without_engine_closes_only_when_asked(client: RawClient, request_bytes: bytes) -> None:
    """Health checks and errors keep to what the client said of the connection."""
    answer = client.ask(request_bytes)
    if answer.status == 200:
        assert answer.headers["connection"] == "close"
        client.assert_closed()
    else:
        assert client.ask(head_of()).status == 200


def test_http_1_0_closes_unless_kept_alive(http_server: RunningServer) -> None:
    """HTTP/1.0 closes after the answer, and stays with `Connection: keep-alive`, which the answer repeats."""
    with http_server.connect() as client:
        answer = client.ask(post(payment_of(), version="1.0"))
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        client.assert_closed()
    with http_server.connect() as client:
        for _ in range(3):
            answer = client.ask(post(payment_of(), "Connection: keep-alive", version="1.0"))
            assert (answer.status, answer.headers["connection"]) == (200, "keep-alive")


@pytest.mark.parametrize("line", [b"GET /livez HTTP/2.0", b"GET /livez HTTP/0.9", b"GET /livez"])
def test_other_versions_are_refused(client: RawClient, line: bytes) -> None:
    """What is not HTTP/1.1 or 1.0 is told so, and the connection ends."""
    answer = client.ask(line + b"\r\n\r\n")
    assert answer.status == 400
    assert "HTTP/1.1" in answer.problem()["next"]
    client.assert_closed()


def test_head_on_get_route_sends_no_body(client: RawClient) -> None:
    """HEAD gives the headers of GET, its length too, and the next answer follows at once."""
    full = client.ask(head_of("GET"))
    bare = client.ask(head_of("HEAD"), head=True)
    assert bare.headers | {"date": ""} == full.headers | {"date": ""}
    assert bare.headers["content-length"] == str(len(full.body))
    assert client.ask(post(payment_of())).status == 200


def test_head_on_unknown_path_sends_no_body(client: RawClient) -> None:
    """An error that answers HEAD has no body either."""
    assert client.ask(head_of("HEAD", "/no"), head=True).status == 404
    assert client.ask(head_of()).body == b"live\n"


def test_unknown_path_is_not_found(client: RawClient) -> None:
    """404 names the paths there are, after the body has been passed over."""
    answer = client.ask(post("x" * 100, path="/v1/pipelines/other/predict"))
    assert answer.status == 404
    assert PREDICT in answer.problem()["next"]
    assert client.ask(post(payment_of())).status == 200


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("GET", PREDICT, "POST"), ("HEAD", PREDICT, "POST"), ("DELETE", PREDICT, "POST"), ("POST", "/livez", "GET, HEAD")],
)
def test_wrong_method_is_told_the_allowed_ones(client: RawClient, method: str, path: str, allow: str) -> None:
    """405 carries `Allow`, and the connection goes on."""
    answer = client.ask(head_of(method, path), head=method == "HEAD")
    assert (answer.status, answer.headers["allow"]) == (405, allow)
    if method != "HEAD":
        assert answer.problem().get("pointer", "") == ""
    assert client.ask(head_of()).status == 200


@pytest.mark.parametrize("target", [PREDICT + "?a=b&c", f"http://a{PREDICT}", f"HTTPS://a:80{PREDICT}?x=%20/y"])
def test_target_in_absolute_form_or_with_query_is_served(client: RawClient, target: str) -> None:
    """A proxy's absolute form and a query string name the same path (RFC 9112 §3.2.2)."""
    for _ in range(2):
        assert client.ask(post(payment_of(label="q"), path=target)).json["label"] == "q"


@pytest.mark.parametrize(("sent", "told"), [("a-1", "a-1"), ("x" * 128, "x" * 128), ("y" * 4_000, "y" * 128)])
def test_request_id_is_echoed_with_a_bound(client: RawClient, sent: str, told: str) -> None:
    """`X-Request-Id` comes back on answers and errors, at most 128 bytes of it, and never on another's."""
    assert client.ask(post(payment_of(), f"X-Request-Id: {sent}")).headers["x-request-id"] == told
    assert client.ask(post("{", f"X-Request-Id: {sent}")).headers["x-request-id"] == told
    assert "x-request-id" not in client.ask(post(payment_of())).headers
    refused = client.ask(head_of("POST", PREDICT, "Content-Length: 9999999", f"X-Request-Id: {sent}"))
    assert (refused.status, refused.headers["x-request-id"]) == (413, told)


def test_trace_gives_the_time_of_five_layers(client: RawClient) -> None:
    """`X-Trace: 1` brings `Server-Timing` with every layer; without it there is none."""
    answer = client.ask(post(payment_of(), "X-Trace: 1"))
    entries = dict(entry.split(";", 1) for entry in answer.headers["server-timing"].split(", "))
    assert [name for name in entries if name != "queue"] == list(LAYERS)
    assert all(value.startswith("dur=") and float(value[4:]) >= 0 for value in entries.values())
    for headers in ((), ("X-Trace: 0",)):
        assert "server-timing" not in client.ask(post(payment_of(), *headers)).headers


def test_trace_tells_why_an_answer_is_degraded(client: RawClient) -> None:
    """A fallback's answer carries its reason where tracing is asked for, and only there."""
    path = "/v1/pipelines/log_with_fallback/predict"
    answer = client.ask(post(payment_of(-1.0), "X-Trace: 1", path=path))
    assert (answer.status, answer.json["score"]) == (200, 0.5)
    assert 'degraded;desc="model_error"' in answer.headers["server-timing"]
    assert "degraded" not in client.ask(post(payment_of(1.0), "X-Trace: 1", path=path)).headers["server-timing"]


def layers_told(answer: Answer) -> list[str]:
    """Return the layers that an answer's `Server-Timing` tells of."""
    names = [entry.partition(";")[0] for entry in answer.headers["server-timing"].split(", ")]
    return [name for name in names if name in LAYERS]


def test_trace_gives_the_time_of_a_call_that_failed(client: RawClient) -> None:
    """A 500 of a batch has the timing of the layers it came through; what came into none has no timing."""
    failed = client.ask(post(payment_of(-1.0), "X-Trace: 1"))
    assert (failed.status, layers_told(failed)) == (500, list(LAYERS))
    assert "server-timing" not in client.ask(post(payment_of(-1.0))).headers
    payment = {"transaction_id": "t", "customer_id": 1, "terminal_id": "a", "time": "2025-06-15T12:00:00"}
    request = post(json.dumps(payment | {"amount": 6666.0}), "X-Trace: 1", path="/v1/pipelines/payment/predict")
    raised = client.ask(request)
    assert (raised.status, layers_told(raised)) == (500, ["request"])
    for headers, body in ((("X-Trace: 1",), "{"), (("X-Trace: 1", "X-Budget-Ms: 0.0001"), payment_of())):
        assert "server-timing" not in client.ask(post(body, *headers)).headers


def test_trace_gives_the_time_of_a_call_that_is_late(pipeline_of: Callable[[str], Pipeline]) -> None:
    """A 504 says where the time went, and why."""
    late = replace(pipeline_of("heavy"), model=tr.Model("heavy"), budget=tr.Budget("10s", inference="1ms"))
    with RunningServer([late]) as server, server.connect() as client:
        answer = client.ask(post('{"work": 20000}', "X-Trace: 1", path="/v1/pipelines/heavy/predict"))
    assert (answer.status, layers_told(answer)) == (504, list(LAYERS))
    assert 'degraded;desc="model_timeout"' in answer.headers["server-timing"]


@pytest.mark.parametrize("value", ["25000", "15000.5", "19999"])
def test_budget_of_the_caller_is_taken(client: RawClient, value: str) -> None:
    """A valid `X-Budget-Ms` changes nothing while there is time."""
    assert client.ask(post(payment_of(), f"X-Budget-Ms: {value}")).status == 200


@pytest.mark.parametrize("value", ["0.000001", "0.0000000001"])
def test_budget_that_cannot_be_met_is_refused_at_once(client: RawClient, value: str) -> None:
    """A budget of a nanosecond, or less, is shed: 503, when to come again, and the connection goes on."""
    answer = client.ask(post(payment_of(), f"X-Budget-Ms: {value}"))
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert answer.problem()["title"] == "Shed"
    assert client.ask(post(payment_of())).status == 200


@pytest.mark.parametrize("value", ["", "0", "-5", "nan", "inf", "fast", "1e400", "25ms", "3600001"])
def test_budget_that_is_no_number_of_milliseconds_is_refused(client: RawClient, value: str) -> None:
    """A wrong `X-Budget-Ms` is the caller's mistake: told with the header's name, the connection goes on."""
    answer = client.ask(post(payment_of(), f"X-Budget-Ms: {value}"))
    assert answer.status == 400
    assert answer.problem()["pointer"] == "X-Budget-Ms"
    assert client.ask(post(payment_of())).status == 200


def test_budget_of_the_caller_never_lengthens_the_pipelines(http_server: RunningServer) -> None:
    """An hour asked for is still the pipeline's own budget."""
    with http_server.connect() as client:
        client.ask(post(payment_of(), "X-Budget-Ms: 3600000", "X-Other: 1"))
    heads = [form.head for form in http_server.http.shared.heads if b"X-Other: 1" in b"".join(form.stays)]
    assert [head.budget_ns for head in heads] == [http_server.engines["log"].budget_ns]


LARGE = json.dumps([{"amount": 1.0 + number, "label": "x" * 20} for number in range(40)])


@pytest.mark.parametrize("accepts", ["gzip", "deflate, GZIP;q=0.5", "*", "br;q=1.0, *;q=0.1", "*;q=0, gzip"])
def test_large_answer_is_compressed_where_accepted(client: RawClient, accepts: str) -> None:
    """Over 1 KiB and accepted: gzip, which holds the same body."""
    plain = client.ask(post(LARGE))
    assert len(plain.body) > 1_024
    assert "content-encoding" not in plain.headers
    answer = client.ask(post(LARGE, f"Accept-Encoding: {accepts}"))
    assert (answer.headers["content-encoding"], answer.headers["vary"]) == ("gzip", "Accept-Encoding")
    assert len(answer.body) < len(plain.body)
    assert gzip.decompress(answer.body) == plain.body


@pytest.mark.parametrize(
    "accepts", ["gzip;q=0", "gzip; q=0.000", "br", "identity", "", "*;q=0", "gzip;q=0, *", "xgzip"]
)
def test_large_answer_stays_plain_where_gzip_is_refused(client: RawClient, accepts: str) -> None:
    """A weight of 0 refuses gzip, and what is not named is not sent."""
    answer = client.ask(post(LARGE, f"Accept-Encoding: {accepts}"))
    assert "content-encoding" not in answer.headers
    assert len(answer.json) == 40


def test_small_answer_is_never_compressed(client: RawClient) -> None:
    """Under 1 KiB compression costs more than it saves."""
    answer = client.ask(post(payment_of(), "Accept-Encoding: gzip"))
    assert "content-encoding" not in answer.headers
    assert answer.json["score"] == 0.0


@pytest.mark.parametrize(
    "offer",
    [
        ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"),
        ("Connection: upgrade", "Upgrade: websocket"),
    ],
)
def test_offer_of_another_protocol_is_answered_in_this_one(http_server: RunningServer, offer: tuple[str, ...]) -> None:
    """`Upgrade` is not taken up: the request is served as if it were not there, its body too, every time the same."""
    with http_server.connect() as client:
        for number in range(3):
            answer = client.ask(post(payment_of(label=str(number)), *offer))
            assert (answer.status, answer.json["label"]) == (200, str(number))
            assert client.ask(head_of("GET", "/livez", *offer)).body == b"live\n"
        assert client.ask(chunked(payment_of(label="c").encode(), headers="\r\n".join([*offer, ""]))).status == 200
        answer = client.ask(post(payment_of(), *offer).replace(b"Connection: ", b"Connection: close, "))
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        client.assert_closed()


def test_offers_of_another_protocol_in_one_piece_are_bounded(http_server: RunningServer) -> None:
    """Thousands of offers at once are not all read again: some are answered, then the connection is refused."""
    with http_server.connect() as client:
        client.send(head_of("GET", "/livez", "Connection: Upgrade", "Upgrade: h2c") * 1_000)
        statuses = []
        while not statuses or statuses[-1] == 200:
            statuses.append(client.read().status)
        assert statuses[-1] == 400
        assert len(statuses) > 1
    assert_serves(http_server)


@pytest.mark.parametrize(
    "request_bytes",
    [head_of("CONNECT", "a:443"), head_of("CONNECT", "a:443") + b"\x16\x03\x01" * 50, head_of("OPTIONS", "*")],
)
def test_connect_and_asterisk_do_not_hang(http_server: RunningServer, request_bytes: bytes) -> None:
    """What a proxy or a prober asks for is told that there is no such thing."""
    with http_server.connect() as client:
        answer = client.ask(request_bytes)
        assert answer.status == 404
        answer.problem()
        if request_bytes.startswith(b"CONNECT"):
            assert answer.headers["connection"] == "close"
            client.assert_closed()
            client.send(b"\x16\x03\x01")  # one that takes its tunnel for granted is not reset
            http_server.settle()
            client.sock.shutdown(socket.SHUT_WR)
    assert_serves(http_server)


@pytest.mark.parametrize(
    ("version", "hosts", "status"), [("1.1", 0, 400), ("1.1", 2, 400), ("1.0", 0, 200), ("1.0", 2, 400)]
)
def test_head_names_one_host(client: RawClient, version: str, hosts: int, status: int) -> None:
    """RFC 9112 §3.2: HTTP/1.1 without a Host, or with two, is refused; so no two servers read two meanings of it."""
    lines = [f"GET /livez HTTP/{version}", *["Host: a"] * hosts, "Connection: keep-alive", "", ""]
    answer = client.ask("\r\n".join(lines).encode())
    assert answer.status == status
    if status == 400:
        assert answer.problem()["pointer"] == "Host"
        client.assert_closed()
    else:
        assert client.ask(head_of()).status == 200


def test_refusal_of_an_unclear_head_keeps_to_what_it_asks(http_server: RunningServer) -> None:
    """Refused for its hosts, a head still has its id back and none of another fault's headers; HEAD has no body."""
    for method, path in (("GET", PREDICT), ("HEAD", "/livez")):
        with http_server.connect() as client:
            request = head_of(method, path, "Host: b", "X-Request-Id: r-9")
            answer = client.ask(request, head=method == "HEAD")
            assert (answer.status, answer.headers["x-request-id"]) == (400, "r-9")
            assert "allow" not in answer.headers
            client.assert_closed()


def test_http_2_preface_is_refused(client: RawClient) -> None:
    """HTTP/2 without an offer is not spoken: an answer in HTTP/1.1, and the end."""
    answer = client.ask(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert answer.status == 400
    answer.problem()
    client.assert_closed()
