"""A real server, scraped: by Prometheus, every 100 ms under load, and after an attack on its labels."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from serving import Server, fetch, load, serving, wait_for
from test_observer import FILE

from programs import find_program

PROMETHEUS = """
global: {{ scrape_interval: 200ms, scrape_timeout: 200ms }}
scrape_configs:
  - job_name: tailrace
    static_configs: [{{ targets: ["{target}"] }}]
"""
TRACE = "0af7651916cd43dd8448eb211c80319c"
LIMIT_S = 30.0

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that is observed."""
    folder = tmp_path_factory.mktemp("scraped")
    (folder / "ask.py").write_text(FILE)
    with serving(folder / "out", folder / "ask.py", "--observe", "--workers", "2") as server:
        yield server


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def prometheus(server: Server, tmp_path: Path) -> Iterator[str]:
    """A real Prometheus that scrapes the server and keeps exemplars; its address."""
    program = find_program("prometheus", "prometheus")
    (tmp_path / "prometheus.yml").write_text(PROMETHEUS.format(target=urlsplit(server.admin).netloc))
    address = f"127.0.0.1:{free_port()}"
    command = [
        program, "--config.file=prometheus.yml", f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address={address}", "--enable-feature=exemplar-storage", "--log.level=warn",
    ]  # fmt: skip
    with (tmp_path / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
        try:
            wait_for(lambda: fetch(f"http://{address}/-/ready")[0] == 200, LIMIT_S)
            yield f"http://{address}"
        finally:
            process.terminate()
            process.wait(LIMIT_S)


def test_prometheus_keeps_an_exemplar_with_the_callers_trace(server: Server, prometheus: str) -> None:
    """Scraped as OpenMetrics, without a warning; the bucket of a traced call names its trace."""
    for _ in range(20):
        server.ask("ask", {"amount": 1}, {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
    query = "/api/v1/query_exemplars?query=tailrace_request_seconds_bucket&start=0&end=9999999999"

    def found() -> list[dict[str, object]]:
        data = json.loads(fetch(prometheus + query)[2])["data"]
        return [exemplar for series in data for exemplar in series["exemplars"]]

    exemplars = wait_for(found, LIMIT_S)
    assert {json.dumps(exemplar["labels"]) for exemplar in exemplars} == {json.dumps({"trace_id": TRACE})}
    [target] = json.loads(fetch(f"{prometheus}/api/v1/targets")[2])["data"]["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    types = json.loads(fetch(f"{prometheus}/api/v1/metadata?metric=tailrace_request_seconds")[2])["data"]
    assert types["tailrace_request_seconds"][0]["type"] == "histogram"


def test_attack_on_labels_adds_no_series(server: Server) -> None:
    """Paths, methods, pipelines, streams, models, versions, releases, keys and tenants that callers make up."""
    server.ask("ask", {"amount": 1})
    before = set(server.metrics())
    for number in range(150):
        odd = f"n{number}"
        server.ask(odd, {"amount": 1}, {"X-Api-Key": odd, "X-Release": odd, "X-Request-Id": odd, "X-Tenant": odd})
        server.ask("ask", {"amount": odd, odd: 1})
        fetch(f"{server.url}/{odd}/{odd}?{odd}={odd}")
        fetch(f"{server.url}/v1/streams/{odd}/events", b"{}")
        fetch(f"{server.url}/v2/models/{odd}/versions/{odd}/infer", b"{}")
        fetch(f"{server.url}/v2/models/ask/infer", json.dumps({"inputs": [{"name": odd}]}).encode())
        fetch(f"{server.admin}/{odd}")
        address = urlsplit(server.url)
        with socket.create_connection((address.hostname or "", address.port or 0), 10) as connection:
            connection.sendall(f"M{number} /v1/pipelines/ask/predict HTTP/1.1\r\nHost: {odd}\r\n\r\n".encode())
            connection.settimeout(10)
            connection.recv(4_096)
    assert set(server.metrics()) == before


def test_scrape_every_100_ms_costs_no_answer_its_time(server: Server) -> None:
    """Of 3 s of load all are answered in time while both forms are scraped ten times a second."""
    stop = threading.Event()
    scrapes: list[int] = []

    def scrape() -> None:
        while not stop.wait(0.1):
            forms = ("application/openmetrics-text", "text/plain")
            scrapes.extend(fetch(f"{server.admin}/metrics", headers={"Accept": form})[0] for form in forms)

    scraping = threading.Thread(target=scrape)
    scraping.start()
    try:
        began_s = time.monotonic()
        with load(server.predict_url("ask"), [b'{"amount":3}'], rate=300, duration_s=3, budget_ms=500) as report:
            found = report.result()
        assert time.monotonic() - began_s < LIMIT_S
    finally:
        stop.set()
        scraping.join()
    assert set(scrapes) == {200}
    assert len(scrapes) > 20
    assert found.statuses == {200: found.sent}


def test_exemplars_name_traces_that_were_sent(tmp_path: Path) -> None:
    """Where spans are sent, a bucket names a call that has some: a caller's or one of our own, and no other."""
    pytest.importorskip("opentelemetry.proto")
    from otlp_receiver import receiving

    (tmp_path / "ask.py").write_text(FILE)
    untraced = "1" * 32
    with receiving() as receiver:
        options = ("--traces", receiver.url, "--trace-sample", "1")
        with serving(tmp_path / "out", tmp_path / "ask.py", *options) as server:
            for number in range(10):
                server.ask("ask", {"amount": 1}, {"X-Request-Id": f"own{number}"})
            server.ask("ask", {"amount": 1}, {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
            server.ask("ask", {"amount": 1}, {"traceparent": f"00-{untraced}-b7ad6b7169203331-00"})

            def named() -> set[str]:
                page = fetch(f"{server.admin}/metrics", headers={"Accept": "application/openmetrics-text"})[2].decode()
                return set(re.findall(r'trace_id="(\w+)"', page))

            wait_for(named, LIMIT_S)
            wait_for(lambda: named() <= {span["trace"] for span in receiver.spans}, LIMIT_S)
            assert untraced not in named()
