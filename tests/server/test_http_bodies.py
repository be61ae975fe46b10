"""Bodies that are no request: each gets a clear error with the place of the fault, and the connection goes on."""

from __future__ import annotations

import json
from typing import Final

import pytest
from http_server import RawClient, RunningServer, chunked, payment_of, post

DEEP: Final = 10_000
WELL: Final = '{"amount": 1.5}'

MALFORMED: Final = {
    "empty": "",
    "spaces": "   ",
    "cut short": '{"amount": 1.',
    "cut in a string": '{"amount": 1.0, "label": "a',
    "cut in an escape": '{"amount": 1.0, "label": "\\u12',
    "no value": '{"amount": }',
    "comma at the end": '{"amount": 1.0,}',
    "single quotes": "{'amount': 1.0}",
    "two values": f"{WELL}{WELL}",
    "NaN": '{"amount": NaN}',
    "Infinity": '{"amount": Infinity}',
    "minus Infinity": '{"amount": -Infinity}',
    "1e400": '{"amount": 1e400}',
    "leading zero": '{"amount": 01.5}',
    "hex": '{"amount": 0x10}',
    "bare NUL": '{"amount": 1.0}\0',
    "control in a string": '{"amount": 1.0, "label": "a\nb"}',
    "bad escape": '{"amount": 1.0, "label": "\\q"}',
    "lone surrogate": '{"amount": 1.0, "label": "\\ud800"}',
    "duplicate key": '{"amount": 1.0, "amount": 2.0}',
    "duplicate key, escaped": '{"amount": 1.0, "am\\u006funt": 2.0}',
    "deep arrays": "[" * DEEP,
    "deep closed arrays": "[" * DEEP + "]" * DEEP,
    "deep objects": '{"amount":' * DEEP + "1" + "}" * DEEP,
    "deep in a field": '{"amount": 1.0, "label": ' + "[" * DEEP + "]" * DEEP + "}",
    "binary": "\x89PNG\r\n\x1a\n",
}
INVALID: Final = {
    "missing field": ("{}", "$"),
    "wrong type": ('{"amount": "1.0"}', "$.amount"),
    "null": ('{"amount": null}', "$.amount"),
    "array in a field": ('{"amount": [1.0]}', "$.amount"),
    "bool for a number": ('{"amount": true}', "$.amount"),
    "number for a text": ('{"amount": 1.0, "label": 5}', "$.label"),
    "unknown field": ('{"amount": 1.0, "other": 1}', "$"),
    "a number": ("5", "$"),
    "null alone": ("null", "$"),
    "a text": ('"a"', "$"),
    "in an array": (f'[{WELL}, {{"amount": "no"}}]', "$[1].amount"),
    "array in an array": (f"[[{WELL}]]", "$[0]"),
    "too many requests": ("[" + ",".join([WELL] * 1_001) + "]", "$"),
    "huge integer": ('{"amount": 1.0, "label": ' + "9" * 5_000 + "}", "$.label"),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_body_that_is_no_json_is_refused(client: RawClient, body: str) -> None:
    """Malformed, truncated, deep or ambiguous JSON is a 400 that names the place; neighbours are served."""
    client.send(post(payment_of(label="before")) + post(body) + post(payment_of(label="after")))
    assert client.read().json["label"] == "before"
    answer = client.read()
    assert answer.status in (400, 422)  # what is read up to a wrong type is told as that
    assert answer.problem()["pointer"].startswith("$")
    assert len(answer.body) < 1_000
    assert client.read().json["label"] == "after"


@pytest.mark.parametrize(("body", "pointer"), INVALID.values(), ids=INVALID.keys())
def test_body_that_is_no_request_is_refused_with_its_path(client: RawClient, body: str, pointer: str) -> None:
    """JSON that is no valid request is a 422 that carries the path of the fault; neighbours are served."""
    client.send(post(payment_of(label="before")) + post(body) + post(payment_of(label="after")))
    assert client.read().json["label"] == "before"
    answer = client.read()
    assert answer.status == 422
    assert answer.problem()["pointer"] == pointer
    assert client.read().json["label"] == "after"


@pytest.mark.parametrize(
    "body", [b'{"amount": 1.0, "label": "\xff\xfe"}', b"\xff\xfe{\0}\0", b"\x1f\x8b\x08\0\0\0", b"\0" * 64]
)
def test_body_that_is_no_utf_8_is_refused(client: RawClient, body: bytes) -> None:
    """Bytes that are not UTF-8 (a gzipped body, UTF-16) are a 400."""
    answer = client.ask(post(body))
    assert answer.status == 400
    assert answer.problem()["pointer"] == "$"
    assert client.ask(post(payment_of())).status == 200


@pytest.mark.parametrize("body", ['{"amount": NaN}', '{"amount": 1e400}', "[" * DEEP, '{"amount": 1, "amount": 2}', ""])
def test_bad_body_in_chunks_is_refused_alike(client: RawClient, body: str) -> None:
    """How a body is framed changes nothing about what it is."""
    whole = client.ask(post(body))
    answer = client.ask(chunked(*([body.encode()] if body else [])))
    assert (answer.status, answer.body) == (whole.status, whole.body)


def test_body_of_the_wrong_content_type_is_judged_by_itself(client: RawClient) -> None:
    """What the body is decides, not what its header claims."""
    assert client.ask(post(payment_of(), "Content-Type: text/plain")).status == 200


def test_body_as_large_as_the_limit_is_read(client: RawClient, http_server: RunningServer) -> None:
    """Exactly the limit is a body still; it is refused for what it says, not for its size."""
    limit = http_server.options.body_bytes_max
    body = payment_of(label="x" * (limit - len(payment_of())))
    assert len(body) == limit
    answer = client.ask(post(body))
    assert (answer.status, len(answer.json["label"])) == (200, limit - len(payment_of()))


@pytest.mark.parametrize("count", [1, 2, 999, 1_000])
def test_array_is_answered_as_an_array(client: RawClient, count: int) -> None:
    """Up to 1,000 requests in one call come back as as many answers, in order."""
    body = json.dumps([{"amount": 1.0 + number, "label": str(number)} for number in range(count)])
    answer = client.ask(post(body))
    assert [each["label"] for each in answer.json] == [str(number) for number in range(count)]


def test_score_that_is_no_number_fails_its_own_call_only(client: RawClient) -> None:
    """The model's NaN is a 500 for its caller, and the calls of the same batch have their answers."""
    amounts = [1.0, -1.0, 2.0, -2.0, 3.0]
    client.send(b"".join(post(payment_of(amount, str(amount))) for amount in amounts))
    answers = [client.read() for _ in amounts]
    assert [answer.status for answer in answers] == [200, 500, 200, 500, 200]
    assert answers[1].problem()["title"] == "Inference failed"
    assert [answer.json["label"] for answer in answers[::2]] == ["1.0", "2.0", "3.0"]


def test_function_that_raises_fails_its_own_call_only(client: RawClient) -> None:
    """A user's function that raises for one call's values leaves its neighbours their answers."""
    path = "/v1/pipelines/payment/predict"
    payment = {"transaction_id": "t", "customer_id": 1, "terminal_id": "a", "time": "2025-06-15T12:00:00"}
    amounts = [20.0, 6666.0, 30.0, 40.0]
    client.send(b"".join(post(json.dumps({**payment, "amount": amount}), path=path) for amount in amounts))
    answers = [client.read() for _ in amounts]
    assert [answer.status for answer in answers] == [200, 500, 200, 200]
    assert "ValueError" in answers[1].problem()["detail"]
    assert "Traceback" not in answers[1].body.decode()
