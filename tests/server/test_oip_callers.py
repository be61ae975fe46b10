"""Who calls by the Open Inference Protocol: keys, priorities, and answers shared with callers of other kinds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from http_server import RawClient, RunningServer, ample, head_of, payment_of, post

import tailrace as tr
from tailrace.pipeline import Pipeline
from tailrace.request.priority import Priority
from tailrace.server.key_file import changing, make_key
from tailrace.server.keys import Keys

LOG = "/v2/models/log/infer"


def infer(amount: float = 1.0, *headers: str, path: str = LOG, **more: Any) -> bytes:
    """Return a call of one row."""
    inputs = [{"name": "amount", "datatype": "FP64", "shape": [1], "data": [amount]}]
    return post(json.dumps({"inputs": inputs} | more), *headers, path=path)


@pytest.fixture
def locked(serve: Callable[..., RunningServer], tmp_path: Path) -> Iterator[tuple[RawClient, dict[str, str]]]:
    """Return a client of a server that wants keys, and the headers of keys by what they are for."""
    file, headers = tmp_path / "keys.json", {}
    with changing(file, create=True) as known:
        for scope in ("pipelines/log", "pipelines/other"):
            secret, key = make_key("caller", (scope,))
            known.append(key)
            headers[scope] = f"X-API-Key: {secret}"
    server = serve("log", keys=str(file))
    server.http.shared.keys = Keys(file, server.recorder.record_failure)
    with server.connect() as client:
        yield client, headers


def test_key_opens_a_model_as_it_does_its_pipeline(locked: tuple[RawClient, dict[str, str]]) -> None:
    """Who has no key, or one for something else, is refused in the words of the protocol."""
    client, headers = locked
    answers = [client.ask(infer(1.0, *shown)) for shown in ((), (headers["pipelines/other"],))]
    assert [(each.status, list(each.json)) for each in answers] == [(401, ["error"]), (403, ["error"])]
    assert answers[0].headers["www-authenticate"] == "Bearer"
    assert client.ask(infer(1.0, headers["pipelines/log"])).status == 200


def test_models_are_told_to_who_has_a_key(locked: tuple[RawClient, dict[str, str]]) -> None:
    """Health and the server are open, what models there are is not; nor which are not there."""
    client, headers = locked
    assert [client.ask(head_of(path=path)).status for path in ("/v2", "/v2/health/live", "/v2/health/ready")] == [
        200
    ] * 3
    for path in ("/v2/models/log", "/v2/models/log/ready", "/v2/models/absent"):
        assert client.ask(head_of("GET", path)).status == 401
    assert client.ask(head_of("GET", "/v2/models/log", headers["pipelines/log"])).json["name"] == "log"
    assert client.ask(head_of("GET", "/v2/models/absent", headers["pipelines/log"])).status == 404


def test_priority_is_read_up_to_what_a_caller_may_have(serve: Callable[..., RunningServer]) -> None:
    """Every rank is taken, whatever the head says beside it; nothing is refused while nothing waits."""
    with serve("log", priority_header=True).connect() as client:
        for rank in (0, 1, 2, 3, 2**31 - 1):
            for head in ((), ("X-Priority: low",), ("X-Priority: high",)):
                assert client.ask(infer(1.0, *head, parameters={"priority": rank})).status == 200


def test_call_shares_the_answer_of_another_kind_of_call(pipeline_of: Callable[[str], Pipeline]) -> None:
    """The same request by the usual path and in tensors is computed once, and each is answered in its own way."""
    pipeline = replace(ample(pipeline_of("log")), coalesce=tr.Coalesce(ttl="1h"))
    with RunningServer([pipeline]) as server, server.connect() as client:
        told = client.ask(post(payment_of(4.0, ""))).json
        answer = client.ask(infer(4.0, id="7")).json
        server.settle()
        assert server.batches("log") == 1
    assert (answer["id"], answer["model_name"]) == ("7", "log")
    assert {each["name"]: each["data"] for each in answer["outputs"]} == {name: [told[name]] for name in told}


def test_level_and_coding_go_together(serve: Callable[..., RunningServer]) -> None:
    """Who sends compressed tensors keeps its level, whichever of the two is known first."""
    (entrance,) = serve("log", priority_header=True).entrances
    low = entrance.tensors.at_priority(Priority.LOW)
    assert low.speaking(b"", b"", b"gzip") is entrance.tensors.speaking(b"", b"", b"gzip").at_priority(Priority.LOW)
    assert low.speaking(b"", b"", b"gzip") is not low
    assert low.speaking(b"", b"", b"identity") is low


def test_unknown_coding_of_tensors_is_told_the_known_ones(serve: Callable[..., RunningServer]) -> None:
    """A body in a coding that is not known is refused, with those that are: of tensors the same as of JSON."""
    with serve("log").connect() as client:
        told = client.ask(infer(1.0, "Content-Encoding: br")).json["error"]
        problem = client.ask(post("{}", "Content-Encoding: br")).json
    assert told == f"{problem['pointer']}: {problem['detail']}; {problem['next']}"
