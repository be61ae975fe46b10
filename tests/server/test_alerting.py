"""Alerts of a running server: shown on the admin port, logged, told, and over once their cause is."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from serving import fetch, serving, wait_for
from stand_in_supervisor import SupervisorProcess
from stand_in_supervisor import fetch as ask_admin
from structlog.testing import CapturingLogger
from visits import TRACE, fill

from features.redis_server import RedisServer
from monitor.alerts.alert_receiver import Receiver
from monitor.alerts.counted_pipeline import Counted
from tailrace.alerting import Alerts
from tailrace.deadline import NS_PER_S
from tailrace.errors import SetupError
from tailrace.monitor.alerts.rules import RULES
from tailrace.monitor.merged import MergedMetrics
from tailrace.monitor.merging import merge_blocks
from tailrace.server.alerting import UNTOLD_S, Alerting, sinks_of
from tailrace.server.channel import SupervisorChannel
from tailrace.server.control import PipelineReady, Ready
from tailrace.server.options import ServeOptions
from tailrace.server.runbooks import runbooks_url

RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"


class KeptSink:
    """A sink that keeps what it is told."""

    name = "webhook"

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter(sent=3)
        self.told: list[Any] = []
        self.closed = False

    def put(self, alert: Any) -> None:
        """Keep it."""
        self.told.append(alert)

    def close(self) -> None:
        """Note it."""
        self.closed = True


def test_alert_is_logged_told_and_counted() -> None:
    """An alert that fires is a warning in the log with its cause, goes to the sinks, and is a gauge; so is its end."""
    counted, log, sink = Counted(), CapturingLogger(), KeptSink()

    def read() -> MergedMetrics:
        counted.at_s += 1
        return merge_blocks([counted.block], at_ns=int(counted.at_s * NS_PER_S))

    alerting = Alerting(read, dict, [sink], log)
    counted.add("tailrace_store_breaker_open")
    for _ in range(7):
        alerting.look()
    [call] = log.calls
    assert (call.method_name, call.args) == ("warning", ("alert firing",))
    assert call.kwargs["cause"] == "1 worker leaves the online store alone"
    values = alerting.values()
    assert values["tailrace_alert_firing", ("fraud", "breaker", "page")] == 1
    assert values["tailrace_alert_notifications_total", ("webhook", "sent")] == 3
    assert [alert.alert for alert in alerting.active()] == [alert.alert for alert in sink.told] == ["breaker"]
    counted.add("tailrace_store_breaker_open", count=-1)
    for _ in range(32):
        alerting.look()
    assert [call.args[0] for call in log.calls] == ["alert firing", "alert resolved"]
    assert ("tailrace_alert_firing", ("fraud", "breaker", "page")) not in alerting.values()


def test_sink_that_cannot_be_told_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alerts that were given up are in the log, and not in a counter alone: every five minutes at most."""
    log, sink, now_s = CapturingLogger(), KeptSink(), 1_000.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    alerting = Alerting(lambda: merge_blocks([Counted().block], at_ns=NS_PER_S), dict, [sink], log)
    alerting.look()
    assert not log.calls
    sink.outcomes["failed"] += 2
    for _ in range(3):
        alerting.look()
        sink.outcomes["dropped"] += 1
    now_s += UNTOLD_S
    alerting.look()
    told = [(call.method_name, call.args, call.kwargs) for call in log.calls]
    assert told == [("warning", ("alerts are not told",), {"sink": "webhook", "count": count}) for count in (2, 3)]


def test_look_that_fails_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in the alerts is logged, and again while it lasts; the server goes on, and so do the looks."""
    monkeypatch.setattr("tailrace.server.alerting.LOOK_S", 0.001)
    log, sink, looks = CapturingLogger(), KeptSink(), 0

    def read() -> MergedMetrics:
        nonlocal looks
        looks += 1
        raise OSError("gone")

    async def run() -> None:
        keeping = asyncio.create_task(Alerting(read, dict, [sink], log).keep())
        while looks < 5:
            await asyncio.sleep(0.001)
        assert not keeping.done()
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    asyncio.run(run())
    assert len(log.calls) == 1
    monkeypatch.setattr("tailrace.server.alerting.UNTOLD_S", 0.0)
    looks = 0
    asyncio.run(run())
    assert len(log.calls) > 4
    assert sink.closed


def test_thresholds_come_with_a_worker_that_is_ready() -> None:
    """What a pipeline declares crosses the control channel as it is, None too."""
    ours, theirs = socket.socketpair()
    channel = SupervisorChannel(ours)
    declared = [Alerts(p99_over=3.0, drift=False), None]
    sent = Ready(1, pipelines=tuple(PipelineReady("fraud", alerts=alerts) for alerts in declared))
    try:
        SupervisorChannel(theirs).send(sent)
        received = channel.receive_blocking(5)
    finally:
        ours.close()
        theirs.close()
    assert [pipeline.alerts for pipeline in received.pipelines] == declared


def test_admin_port_lists_alerts(tmp_path: Path) -> None:
    """/alerts and /status list them, and /metrics counts what was told, from the start."""
    process = SupervisorProcess(tmp_path, workers=1, alertmanager="http://127.0.0.1:9")
    try:
        process.wait_ready()
        assert ask_admin(process.admin_port, "/alerts") == (200, b"[]")
        status = process.status()
        assert status["alerts"] == []
        assert status["warm_up"][0]["alerts"]["p99_over"] == 2.0
        for rule in RULES:
            shown = ask_admin(process.admin_port, f"/runbooks/{rule.runbook}")
            assert shown == (200, (RUNBOOKS / rule.runbook).read_bytes())
        assert ask_admin(process.admin_port, "/runbooks/../pyproject.toml")[0] == 404
        page = ask_admin(process.admin_port, "/metrics")[1].decode()
        assert 'tailrace_alert_notifications_total{outcome="sent",sink="alertmanager"} 0.0' in page
    finally:
        process.end()


def test_runbooks_are_where_a_reader_can_open_them() -> None:
    """At the admin port, by a name that others know where it listens on all addresses; or where the options say."""
    options = ServeOptions(files=("a.py",))
    assert runbooks_url(options, ("127.0.0.1", 8081)) == "http://127.0.0.1:8081/runbooks"
    assert runbooks_url(options, ("::1", 8081)) == "http://[::1]:8081/runbooks"
    assert runbooks_url(options, ("0.0.0.0", 8081)) == f"http://{socket.gethostname()}:8081/runbooks"
    own = ServeOptions(files=("a.py",), runbooks="https://wiki/books/")
    assert runbooks_url(own, ("127.0.0.1", 8081)) == "https://wiki/books"
    with pytest.raises(SetupError, match="no address of pages"):
        ServeOptions(files=("a.py",), runbooks="docs/runbooks")


def test_sinks_are_those_of_the_options() -> None:
    """Without an address nobody is told but the log; a wrong one ends the start."""
    assert sinks_of(ServeOptions(files=("a.py",))) == []
    both = ServeOptions(files=("a.py",), alert_webhook="https://a/b", alertmanager="http://a:9093")
    assert [sink.name for sink in sinks_of(both)] == ["webhook", "alertmanager"]
    with pytest.raises(SetupError, match="alertmanager"):
        ServeOptions(files=("a.py",), alertmanager="a:9093")


@pytest.mark.slow
def test_store_that_is_gone_is_told_and_so_is_its_return(tmp_path: Path, pipelines_dir: Path) -> None:
    """Redis stopped, the breaker's alert is told, shown and logged while answers go on; back, it is over."""
    file, redis, receiver = pipelines_dir / "faulted.py", RedisServer(tmp_path), Receiver()
    redis.start()
    try:
        fill(redis.url, file)
        with serving(tmp_path / "log", file, "--store", redis.url, "--alert-webhook", receiver.url) as server:

            def ask() -> bool:
                return server.ask("faulted", {"customer_id": 7, "shop_id": "shop-7"}, dict([TRACE])).status == 200

            assert ask()
            redis.pause()
            try:
                wait_for(lambda: ask() and receiver.taken, 30)
                shown = json.loads(fetch(f"{server.admin}/alerts")[2])
                assert [(alert["alert"], alert["state"]) for alert in shown] == [("breaker", "firing")]
                assert server.metric("tailrace_alert_firing", 'alert="breaker"') == 1
            finally:
                redis.resume()
            wait_for(lambda: ask() and len(receiver.taken) > 1, 60)
            assert "leaves the online store alone" in receiver.taken[0][1]["text"]
            assert receiver.taken[1][1]["text"].startswith("RESOLVED faulted")
            [event] = server.events("alert firing")
            assert event["runbook"] == f"{server.admin}/runbooks/breaker.md"
            assert "## What it means" in fetch(event["runbook"])[2].decode()
    finally:
        redis.kill()
        receiver.close()
