"""`tailrace serve --traces`: what a server has answered is where traces are kept, and nothing of it costs an answer."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from serving import serving, wait_for

from tailrace.errors import SetupError
from tailrace.server import companions
from tailrace.server.companions import open_rings
from tailrace.server.options import ServeOptions

pytest.importorskip("opentelemetry.proto")

from otlp_receiver import OtlpReceiver, receiving
from tailrace.monitor.tracing.ids import trace_id_of
from tailrace.server.observing.traces import Resources, read_attributes

FILE = """
import numpy as np

import tailrace as tr


class Ask(tr.Request):
    amount: float


class Answer(tr.Response):
    score: float


class Share:
    def predict(self, feeds):
        return feeds["features"][:, 0].astype(float) / 100


ask = tr.Pipeline(
    name="ask",
    request=Ask,
    response=Answer,
    features=[Ask.amount],
    model={model},
    budget=tr.Budget("5s"),
)
"""
OWN = 'tr.PythonModel("share", Share)'
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
ASKED = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "tracestate": "shop=1"}
ROUTE = "POST /v1/pipelines/ask/predict"
LIMIT_S = 20.0


def file_of(folder: Path, model: str = OWN) -> Path:
    """Return a file with a pipeline of a model."""
    folder.mkdir(exist_ok=True)
    path = folder / "ask.py"
    path.write_text(FILE.replace("{model}", model))
    return path


def asked(receiver: OtlpReceiver, request_id: str) -> list[dict[str, Any]]:
    """Return the spans of a request, its own first."""
    own = [span for span in receiver.spans if span.get("tailrace.request_id") == request_id]
    return own + [span for span in receiver.spans if own and span["parent"] == own[0]["span"]]


def test_traces_without_what_they_are_sent_in_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is started, with what to install; also where there is no part of the library at all."""

    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    options = ServeOptions(files=("ask.py",), traces="http://127.0.0.1:4318")
    for find in (lambda name: None, missing):
        monkeypatch.setattr(companions, "find_spec", find)
        with pytest.raises(SetupError, match=r"tailrace\[tracing\]"), open_rings(options):
            pass


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"traces": "collector:4318"}, "traces"),
        ({"traces": "http://collector:4318", "traces_headers": "token"}, "traces_headers"),
        ({"trace_sample": 1.5}, "trace_sample"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], where: str) -> None:
    """With which of them it is."""
    with pytest.raises(SetupError, match=where):
        ServeOptions(files=("ask.py",), **settings)


def test_releases_side_by_side_are_two_versions_of_one_service() -> None:
    """And each worker is an instance; what the environment says of the service is there too."""
    environment = {"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=prod,service.name=shop, bad"}
    resources = Resources(environment)
    blue, green = resources.of("r1", 0), resources.of("r2", 1)
    assert blue is resources.of("r1", 0)
    assert (blue["service.version"], green["service.version"]) == ("r1", "r2")
    assert blue["service.instance.id"] != green["service.instance.id"]
    assert (blue["service.name"], green["deployment.environment.name"]) == ("shop", "prod")
    assert Resources({"OTEL_SERVICE_NAME": "fraud"} | environment).of("r1", 0)["service.name"] == "fraud"
    assert Resources({}).of("r1", 0)["service.name"] == "tailrace"
    assert read_attributes("a=x%20y,=1,b") == {"a": "x y"}


@pytest.mark.slow
def test_answers_are_traced_whatever_becomes_of_the_endpoint(tmp_path: Path) -> None:
    """As the caller says, with their layers; an endpoint that fails for a while and an observer that dies cost none."""
    with receiving() as receiver:
        options = ("--traces", receiver.url, "--trace-sample", "0")
        with serving(tmp_path / "out", file_of(tmp_path / "a"), *options) as server:
            assert server.ask("ask", {"amount": 1}, ASKED | {"X-Request-Id": "r1"}).status == 200
            assert server.ask("ask", {"amount": 1}, {"X-Request-Id": "r2"}).status == 200
            wait_for(lambda: len(asked(receiver, "r1")) == 7, LIMIT_S)
            own, *parts = asked(receiver, "r1")
            assert (own["name"], own["trace"], own["parent"]) == (ROUTE, TRACE, "00f067aa0ba902b7")
            assert (own["state"], own["tailrace.kept"]) == ("shop=1", ["caller"])
            assert own["resource"]["service.version"] == server.workers()[0]["release"]
            assert sum(part["end"] - part["start"] for part in parts) <= own["end"] - own["start"]
            receiver.answers = [(503, {})]
            assert server.ask("ask", {"amount": 1}, ASKED | {"X-Request-Id": "r3"}).status == 200
            wait_for(lambda: asked(receiver, "r3"), LIMIT_S)
            (pid,) = (each["pid"] for each in server.companions() if each["name"] == "observer")
            os.kill(pid, signal.SIGKILL)
            for place in range(20):
                assert server.ask("ask", {"amount": 1}, ASKED | {"X-Request-Id": f"k{place}"}).status == 200
            wait_for(lambda: all(asked(receiver, f"k{place}") for place in range(20)), LIMIT_S)
            wait_for(lambda: server.metric("tailrace_spans_total", 'outcome="exported"') >= 21 * 7, LIMIT_S)
            assert not asked(receiver, "r2")


@pytest.mark.slow
def test_endpoint_that_is_gone_is_told_of_and_answers_go_on(tmp_path: Path) -> None:
    """What is lost is counted, with the cause in the log."""
    options = ("--traces", "http://127.0.0.1:9", "--trace-sample", "1")
    with serving(tmp_path / "out", file_of(tmp_path / "a"), *options) as server:
        for place in range(30):
            assert server.ask("ask", {"amount": 1}, {"X-Request-Id": f"r{place}"}).status == 200
        wait_for(lambda: server.metric("tailrace_spans_total", 'outcome="failed"') == 30 * 7, 2 * LIMIT_S)
        (line,) = server.events("spans are lost")
        assert "refused" in line["cause"]
        assert server.ask("ask", {"amount": 1}).status == 200


@pytest.mark.slow
def test_endpoint_that_never_answers_holds_nothing_up(tmp_path: Path) -> None:
    """Neither answers, nor what else is observed, nor the end of the server."""
    log = tmp_path / "log"
    with receiving() as receiver:
        receiver.delay_s = 60.0
        options = ("--traces", receiver.url, "--trace-sample", "1", "--log", str(log))
        with serving(tmp_path / "out", file_of(tmp_path / "a"), *options) as server:
            assert server.ask("ask", {"amount": 1}, {"X-Request-Id": "r0"}).status == 200
            wait_for(lambda: receiver.paths, LIMIT_S)
            for place in range(50):
                assert server.ask("ask", {"amount": 1}, {"X-Request-Id": f"r{place}"}).status == 200
            wait_for(lambda: server.metric("tailrace_predictions_logged_total") == 51, LIMIT_S)
            assert server.metric("tailrace_spans_total") == 0
            began_s = time.monotonic()
            assert server.end() == 0
            assert time.monotonic() - began_s < LIMIT_S / 2


@pytest.mark.slow
def test_model_of_another_server_is_part_of_the_trace(tmp_path: Path) -> None:
    """The second's span is below the first's inference, which is exported; also where nobody gave the call an id."""
    with receiving() as receiver:
        options = ("--traces", receiver.url, "--trace-sample")
        with serving(tmp_path / "far", file_of(tmp_path / "b"), *options, "0") as far:
            remote = f'tr.RemoteModel("far", url="{far.url}/v2/models/ask", output="score")'
            with serving(tmp_path / "near", file_of(tmp_path / "a", remote), *options, "1") as near:
                given = ""
                for headers in (ASKED | {"X-Request-Id": "told"}, {"X-Request-Id": "own"}, {}):
                    answer = near.ask("ask", {"amount": 50}, headers)
                    assert answer.body["score"] == 0.5
                    given = answer.headers["x-request-id"]
                wait_for(lambda: len(far_spans(receiver)) == 3 and asked(receiver, given), LIMIT_S)
                for request_id, trace in [("told", TRACE), *((own, trace_id_of(own).hex()) for own in ("own", given))]:
                    inference = next(each for each in asked(receiver, request_id) if each["name"] == "inference")
                    (found,) = (each for each in far_spans(receiver) if each["trace"] == trace)
                    (remote,) = (each for each in receiver.spans if each["parent"] == inference["span"])
                    assert (remote["name"], found["parent"]) == ("infer far", remote["span"])
                    assert inference["start"] <= remote["start"] <= remote["end"] <= inference["end"]
                    assert found["resource"]["service.instance.id"] != inference["resource"]["service.instance.id"]
                    assert found["state"] == ("shop=1" if trace == TRACE else "")


def far_spans(receiver: OtlpReceiver) -> list[dict[str, Any]]:
    """Return the spans of calls of the second server."""
    return [span for span in receiver.spans if span.get("url.path") == "/v2/models/ask/infer"]
