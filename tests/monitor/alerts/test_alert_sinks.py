"""Who is told of alerts is told, also after a fault of theirs, and is never waited for."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from monitor.alerts.alert_receiver import Receiver, wait_for
from programs import find_program
from server.tls_files import Authority
from tailrace.errors import SetupError
from tailrace.monitor.alerts.posting import post
from tailrace.monitor.alerts.sinks import (
    LASTS_S,
    QUEUE_MAX,
    TRIES_MAX,
    AlertmanagerSink,
    WebhookSink,
    alertmanager_alert,
    alertname,
    check_address,
    slack_message,
)
from tailrace.monitor.alerts.watch import Alert

FIRING = Alert(
    alert="latency", pipeline="fraud", severity="page", state="firing", since_s=0.0, value=0.112, threshold=0.1,
    summary="answers take too long", cause="p99 112 ms > 2 × 50.0 ms", runbook="docs/runbooks/latency.md",
)  # fmt: skip
RESOLVED = msgspec.structs.replace(FIRING, state="resolved", since_s=90.0)
NOW = datetime(2026, 3, 29, 2, tzinfo=UTC)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Whoever is told."""
    found = Receiver()
    yield found
    found.close()


@pytest.fixture
def sinks() -> Iterator[list[Any]]:
    """Sinks to be closed after the test, whose threads have then ended."""
    found: list[Any] = []
    yield found
    for sink in found:
        sink.close()
        if sink._thread is not None:
            sink._thread.join(10)
            assert not sink._thread.is_alive()


def test_webhook_is_told_as_slack_has_it(receiver: Receiver, sinks: list[Any]) -> None:
    """What fires and what is over come as messages with a text, a colour and the cause."""
    sinks.append(sink := WebhookSink(receiver.url))
    sink.put(FIRING)
    sink.put(RESOLVED)
    wait_for(lambda: len(receiver.taken) == 2)
    (path, first), (_, second) = receiver.taken
    assert path == "/hook"
    assert first["text"] == "PAGE fraud: answers take too long — p99 112 ms &gt; 2 × 50.0 ms"
    assert second["text"].startswith("RESOLVED fraud")
    assert first["attachments"][0]["color"] != second["attachments"][0]["color"]
    wait_for(lambda: sink.outcomes["sent"] == 2)


def test_name_in_a_message_is_no_link() -> None:
    """A pipeline whose name is one of Slack's commands is shown as text."""
    message = slack_message(msgspec.structs.replace(FIRING, pipeline="<!channel> & <http://x|y>"))
    assert "<" not in message["text"]


def test_webhook_that_fails_is_tried_again(receiver: Receiver, sinks: list[Any]) -> None:
    """A 500, a 429 and a 503 are no end: the alert comes through, once."""
    receiver.statuses = [500, 429, 503]
    sinks.append(sink := WebhookSink(receiver.url, back_off_s=0.01))
    sink.put(FIRING)
    wait_for(lambda: sink.outcomes["sent"] == 1)
    assert (receiver.asked, len(receiver.taken), sink.outcomes["failed"]) == (4, 1, 0)


def test_webhook_that_is_gone_is_given_up_and_counted(receiver: Receiver, sinks: list[Any]) -> None:
    """After its tries an alert is counted as failed, and the next one comes through; one refused fails at once."""
    receiver.statuses = [500] * TRIES_MAX + [404]
    sinks.append(sink := WebhookSink(receiver.url, back_off_s=0.001))
    for _ in range(3):
        sink.put(FIRING)
    wait_for(lambda: sink.outcomes["sent"] == 1)
    assert (receiver.asked, sink.outcomes["failed"]) == (TRIES_MAX + 2, 2)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    sinks.append(lonely := WebhookSink(f"http://127.0.0.1:{port}/", back_off_s=0.001))
    lonely.put(FIRING)
    wait_for(lambda: lonely.outcomes["failed"] == 1)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_webhook_that_has_moved_has_not_been_told(receiver: Receiver, sinks: list[Any], status: int) -> None:
    """A redirection, to a page to log in say, is a failure: to follow it would be to ask there, and call it sent."""
    receiver.statuses = [status]
    sinks.append(sink := WebhookSink(receiver.url))
    sink.put(FIRING)
    wait_for(lambda: sink.outcomes["failed"] == 1)
    assert (receiver.asked, receiver.taken, sink.outcomes["sent"]) == (1, [], 0)


def test_webhook_by_tls_is_told_if_it_is_who_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An alert goes to a receiver whose certificate is trusted, and to no other."""
    authority = Authority(tmp_path)
    signed, secret = authority.server(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    secret.load_cert_chain(signed.cert, signed.key)
    receiver = Receiver(secret)
    try:
        assert post(receiver.url, b"1", 5.0) is None
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        assert post(receiver.url, b"2", 5.0) is True
        assert [body for _, body in receiver.taken] == [2]
    finally:
        receiver.close()


def test_webhook_that_hangs_is_not_waited_for(receiver: Receiver, sinks: list[Any]) -> None:
    """To hand over thousands of alerts takes no time while nobody answers; the oldest are dropped and counted."""
    receiver.hold.clear()
    sinks.append(sink := WebhookSink(receiver.url))
    sink.put(FIRING)
    wait_for(lambda: receiver.asked == 1)
    started_s = time.monotonic()
    for _ in range(QUEUE_MAX + 1_000):
        sink.put(FIRING)
    assert time.monotonic() - started_s < 1
    assert sink.outcomes["dropped"] == 1_000
    receiver.hold.set()
    wait_for(lambda: sink.outcomes["sent"] == QUEUE_MAX + 1)


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n"])
def test_webhook_that_answers_a_byte_at_a_time_is_given_up(receiver: Receiver, sinks: list[Any], head: bytes) -> None:
    """One that never ends its answer holds up the next alert for some seconds, not for hours."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        drops = threading.Event()

        def drip() -> None:
            while not drops.is_set():
                connection, _ = server.accept()
                with connection, suppress(OSError):
                    connection.sendall(head)
                    while not drops.wait(0.01):
                        connection.sendall(b"x")

        thread = threading.Thread(target=drip)
        thread.start()
        sinks.append(
            sink := WebhookSink(f"http://127.0.0.1:{server.getsockname()[1]}/", timeout_s=0.03, back_off_s=0.001)
        )
        try:
            sink.put(FIRING)
            wait_for(lambda: sum(sink.outcomes.values()) == 1, 5)
        finally:
            drops.set()
            with suppress(OSError):
                socket.create_connection(server.getsockname()).close()
            thread.join()


def test_alertmanager_is_told_after_it_was_away(receiver: Receiver, sinks: list[Any]) -> None:
    """What fires is told in its form; it hears the last of what changed while it was away."""
    receiver.statuses = [503] * 3
    sinks.append(sink := AlertmanagerSink(receiver.url + "/", back_off_s=0.05))
    sink.put(FIRING)
    sink.put(msgspec.structs.replace(FIRING, alert="burn_fast"))
    wait_for(lambda: receiver.asked)
    sink.put(RESOLVED)
    wait_for(lambda: receiver.taken and len(receiver.taken[-1][1]) == 2)
    path, alerts = receiver.taken[-1]
    assert path == "/hook/api/v2/alerts"
    latency, burn = alerts
    assert latency["labels"] == {
        "alertname": "TailraceLatency", "pipeline": "fraud", "severity": "page", "service": "tailrace",
    }  # fmt: skip
    assert latency["startsAt"] < latency["endsAt"] <= datetime.now(UTC).isoformat() < burn["endsAt"]
    wait_for(lambda: set(sink._known) == {("burn_fast", "fraud")})


def test_alertmanager_is_told_again_of_what_fires(
    receiver: Receiver, sinks: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has begun anew hears of what fires within the time that it is told again."""
    monkeypatch.setattr("tailrace.monitor.alerts.sinks.RESEND_S", 0.02)
    sinks.append(sink := AlertmanagerSink(receiver.url))
    sink.put(FIRING)
    wait_for(lambda: len(receiver.taken) >= 3)
    assert len({alerts[0]["startsAt"][:16] for _, alerts in receiver.taken}) <= 2


@pytest.mark.parametrize("jump", [timedelta(days=-400), timedelta(hours=5), timedelta()])
def test_clock_that_jumps_ends_no_alert_before_it_began(jump: timedelta) -> None:
    """Wherever the clock on the wall stands, an alert began before it ended, and lasted as the monotonic clock says."""
    told = alertmanager_alert(RESOLVED, NOW + jump, ago_s=5)
    began, ended = (datetime.fromisoformat(told[name]) for name in ("startsAt", "endsAt"))
    assert ended - began == timedelta(seconds=90)
    firing = alertmanager_alert(FIRING, NOW + jump, ago_s=5)
    assert datetime.fromisoformat(firing["endsAt"]) == NOW + jump + timedelta(seconds=LASTS_S)


@pytest.mark.parametrize("before", ["slack", "ftp://host", "https://", "http://host:0", "http://ho st", "http://[::1"])
def test_address_that_is_none_is_refused_and_not_shown(before: str) -> None:
    """What cannot be posted to is an error at the start, which does not show the secret in it."""
    with pytest.raises(SetupError, match="no address to post to") as caught:
        check_address("alert_webhook", f"{before}/secret")
    assert "secret" not in str(caught.value)


@pytest.mark.slow
def test_real_alertmanager_takes_what_it_is_told(tmp_path: Path, sinks: list[Any]) -> None:
    """Debian's Alertmanager shows what fires as active, with its annotations, and no more of it once it is over."""
    program = find_program("prometheus-alertmanager", "prometheus-alertmanager")
    config = tmp_path / "config.yml"
    config.write_text("route: {receiver: none}\nreceivers: [{name: none}]\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, f"--config.file={config}", f"--storage.path={tmp_path / 'data'}", "--cluster.listen-address=",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdout=log, stderr=log,
        )  # fmt: skip

    def active() -> list[Any]:
        with urllib.request.urlopen(f"{url}/api/v2/alerts?active=true", timeout=5) as response:
            return msgspec.json.decode(response.read(), type=list[Any])

    try:
        sinks.append(sink := AlertmanagerSink(url, back_off_s=0.1))
        sink.put(FIRING)
        wait_for(lambda: sink.outcomes["sent"], 30)
        [shown] = wait_for(active)
        assert shown["labels"]["alertname"] == alertname("latency")
        assert shown["annotations"]["description"] == FIRING.cause
        sink.put(RESOLVED)
        wait_for(lambda: not active())
        assert sink.outcomes["failed"] == 0
    finally:
        process.terminate()
        process.wait(10)
